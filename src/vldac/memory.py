"""What a training needs of the device's memory, estimated from the configuration alone.

* An estimate before anything is loaded or compiled, so that a run that can not fit says so at once, and what would
  make it fit. The compiler's own figures, which are exact, are looked at once there are some (`iteration_bytes`).
* An iteration has two phases, which do not need their temporaries at the same time: the rollout (decoder layers
  apart, keys and values) and the update (gradients, activations, logits). What lives throughout is counted once.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import DTypeLike

from vldac.mesh import batch_ways
from vldac.models import VLMConfig
from vldac.models.attention import has_kernel
from vldac.models.decoder import RESIDUAL
from vldac.models.lora import trains_vision
from vldac.policy import images_at_once
from vldac.scoring import LOGITS_BYTES, logits_rows
from vldac.state import Setup, TrainState

GIB = 2**30
_WORDS = 200  # characters of a device's own words: what it wanted stands in front, then all that it holds
RESIDUAL_BYTES = jnp.dtype(RESIDUAL).itemsize


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes, by what they hold.

    Attributes:
      throughout: what lives as long as the training.
      rollout: temporaries of gathering experience.
      update: temporaries of learning from it.
    """

    throughout: dict[str, int]
    rollout: dict[str, int]
    update: dict[str, int]

    @property
    def peak(self) -> int:
        """Bytes at the worst moment."""
        phases = sum(self.rollout.values()), sum(self.update.values())
        return sum(self.throughout.values()) + max(phases)

    def lines(self) -> list[str]:
        """For people: what lives throughout, what each phase adds, and the worst moment."""
        rows = []
        for title, part in (
            ("throughout", self.throughout),
            ("and in the rollout", self.rollout),
            ("or in the update", self.update),
        ):
            parts = ", ".join(f"{name} {readable(size)}" for name, size in part.items())
            rows.append(f"{title} {readable(sum(part.values()))}: {parts}")
        return [*rows, f"at the worst moment {readable(self.peak)}"]


def estimate(
    setup: Setup, model_config: VLMConfig, params: Any, sizes: Mapping[str, int] | None = None
) -> MemoryEstimate:
    """What a training needs of each device.

    Args:
      setup: of the training.
      model_config: the model's sizes.
      params: the policy's parameters, or their shapes and dtypes.
      sizes: of the mesh's axes; None = one device. Activations count as if tensor parallelism did not cut them.
    """
    sizes = sizes or {}
    ways, cut = batch_ways(sizes), sizes.get("fsdp", 1) * sizes.get("tensor", 1)
    policy, rollout, optimizer = setup.policy, setup.rollout, setup.optimizer
    text, width = model_config.text, jnp.dtype(policy.dtype).itemsize
    prompt = policy.prompt
    prefix, context, answer = len(prompt.prefix), prompt.context_slots, policy.config.max_tokens
    worlds, steps = rollout.worlds // ways, rollout.worlds * rollout.steps
    lanes = -(-rollout.lanes // ways) or worlds  # of the decoder
    together = -(-rollout.refill_size // ways) if rollout.lanes else worlds  # prompts that are read together

    learner = "adapter" if "adapter" in params else "model"
    trained = (size_of(params[learner]) + size_of(params["value"])) // cut
    frozen = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params["model"])) * width // cut
    layers = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params["model"]["language_model"]["layers"]))
    layers //= cut
    frames = policy.config.history
    tower = model_config.tower_work(*setup.world.image_shape[:2])

    visual_bytes = frames * prompt.span.tokens * text.hidden_size * width * tower.levels  # of one observation

    def visual(observations: int, blocks: int = 1) -> int:
        """Of the tower's intermediates in so many blocks, and of the visual tokens."""
        at_once = images_at_once(tower, observations * frames, policy.dtype)
        return at_once * blocks * tower.image_bytes(width) + observations * visual_bytes

    frame_bytes = frames * math.prod(setup.world.image_shape)
    key_value = 2 * text.num_hidden_layers * text.num_key_value_heads * text.head_dim * width
    throughout = {
        f"weights under the {learner}" if learner == "adapter" else "reference weights": frozen,
        "trained weights": trained,
        "optimizer": 2 * trained,
        "experience": steps * (frame_bytes + 4 * 4 * answer + (0 if trains_vision(params) else visual_bytes)),
    }
    if setup.taught and "adapter" in params:
        throughout["reference adapter"] = size_of(params["adapter"]) // cut

    # Rollout: the cache of the context is padded to that of context and answer, so both exist for a moment; those
    # of refilled lanes are then copied to the others.
    gathered = sizes.get("fsdp", 1) if policy.gather else 1
    rollout_part = {
        "decoder layers apart": layers * width * gathered,
        "keys and values": key_value * (prefix + lanes * (context + answer) + together * context),
        "activations of the prompt": together * context * _layer_bytes(text, policy.dtype, context + prefix),
        "visual tokens": visual(worlds),
        "logits": 3 * 4 * lanes * text.vocab_size,
    }

    if gathered > 1:
        embeddings = text.vocab_size * text.hidden_size * (1 if text.tie_word_embeddings else 2)
        rollout_part["embeddings gathered"] = embeddings * width // sizes.get("tensor", 1)
    if rollout.lanes:
        rollout_part["keys and values"] += key_value * together * (context + answer)

    part = (optimizer.microbatch or optimizer.minibatch) // ways
    slots = context + answer - 1
    tokens = part * slots + prefix
    per_layer = _layer_bytes(text, policy.dtype, slots + prefix)
    if policy.config.remat == "none":
        saved = text.num_hidden_layers * per_layer
    elif policy.config.remat == "dots":
        # Where an adapter's product is not the layer's own (`products.times_adapted`), it is a result beside it.
        joined = not policy.dropout and cut == 1
        dots = _dots_bytes(text, width) + _adapted_bytes(params, width, joined)
        saved = text.num_hidden_layers * dots + per_layer
    else:
        saved = text.num_hidden_layers * text.hidden_size * RESIDUAL_BYTES + per_layer
    rows = min(logits_rows(text.vocab_size), part * answer)
    blocks = tower.depth if policy.config.remat == "none" else 1
    update_part = {
        "gradients": 2 * trained,
        "activations": tokens * saved,
        "visual tokens": visual(part, blocks) if trains_vision(params) else part * visual_bytes,
        "logits": min(4 * 4 * rows * text.vocab_size, 4 * LOGITS_BYTES),
    }
    if policy.config.unroll:
        update_part["decoder layers apart"] = layers * width * (2 if policy.unrolls_prefix(params) else 1)
    return MemoryEstimate(throughout, rollout_part, update_part)


def device_memory() -> int | None:
    """Bytes that this process may use of its first device; of the host's memory, on a CPU. None if unknown."""
    device = jax.local_devices()[0]
    limit = (device.memory_stats() or {}).get("bytes_limit")
    if limit is None and device.platform == "cpu":
        try:
            limit = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        except (ValueError, OSError):
            return None
    return limit


def device_peak() -> int | None:
    """Bytes in use on this process's first device at the worst moment so far; None if it does not count them."""
    return (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")


def advice(setup: Setup, learns: bool = True) -> str:
    """What would make a training smaller, or, if nothing `learns`, what gathers experience."""
    policy, optimizer, rollout = setup.policy, setup.optimizer, setup.rollout
    part = optimizer.microbatch or optimizer.minibatch
    ways = []
    if learns and part > 1:
        ways.append(f"a smaller --optimizer.microbatch than {part}")
    if learns and policy.config.remat != "full":
        ways.append(f"--policy.remat full instead of {policy.config.remat}")
    if rollout.worlds > 1:
        ways.append(f"fewer --rollout.worlds than {rollout.worlds} (and more --rollout.steps)")
    if policy.gather:
        ways.append("--mesh.no-gather")
    if policy.adapted is None:
        ways.append("--model.lora.rank 16")
    if jnp.dtype(policy.dtype).itemsize > 2:
        ways.append("--model.dtype bfloat16")
    if policy.config.history > 1:
        ways.append(f"a shorter --policy.history than {policy.config.history}")
    return "; ".join(ways) or "a larger device"


class DoesNotFit(ValueError):
    """The device has less memory than a training needs. `str()` is one line that says what would help."""


def check(setup: Setup, needed: int, limit: int | None, source: str, learns: bool = True) -> None:
    """Refuses what does not fit.

    Args:
      needed: bytes.
      limit: bytes that there are; None = unknown, and everything fits.
      source: who says that they are needed, for the message.
      learns: whether what needs them learns, or gathers experience alone.

    Raises:
      DoesNotFit: more is needed than there is.
    """
    if limit is not None and needed > limit:
        raise DoesNotFit(
            f"the {'training' if learns else 'rollout'} needs {readable(needed)} by {source}, and there are "
            f"{readable(limit)}; what helps: {advice(setup, learns)}"
        )


@contextlib.contextmanager
def fitting(what: str, helps: str) -> Iterator[None]:
    """Around what compiles or runs: neither an estimate nor a compiler foresees everything.

    Args:
      what: "the training".
      helps: what makes it smaller.

    Raises:
      DoesNotFit: the device has run out of memory.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        words = " ".join(str(error).split())
        if "RESOURCE_EXHAUSTED" not in words:
            raise
        raise DoesNotFit(
            f"{what} needs more memory than the device has ({words[:_WORDS]}); what helps: {helps}"
        ) from error


def program_bytes(compiled: Any) -> int | None:
    """Bytes that a compiled program needs at its worst moment, by the compiler; None if it does not say."""
    analysis = compiled.memory_analysis()
    if analysis is None:
        return None
    return (
        analysis.argument_size_in_bytes
        + analysis.output_size_in_bytes
        - analysis.alias_size_in_bytes
        + analysis.temp_size_in_bytes
    )


def iteration_bytes(collect: Any, learn: Any, state: TrainState) -> int | None:
    """As `program_bytes`, of an iteration's two programs: while the first acts, what the second takes is there."""
    acting, learning = program_bytes(collect), program_bytes(learn)
    if acting is None or learning is None:
        return None
    taken = state.policy_params, state.lanes, state.key
    return max(acting + device_bytes(state) - device_bytes(taken), learning)


def device_bytes(tree: Any) -> int:
    """Bytes of arrays on the first device that they are on."""
    return sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(tree))


def readable(size: int) -> str:
    """Bytes for people, in MiB or GiB."""
    return f"{size / 2**20:.1f} MiB" if size < GIB else f"{size / GIB:.1f} GiB"


def size_of(tree: Any) -> int:
    """Bytes of a tree of arrays or of their shapes."""
    return sum(math.prod(leaf.shape) * jnp.dtype(leaf.dtype).itemsize for leaf in jax.tree.leaves(tree))


def _layer_bytes(text: Any, dtype: DTypeLike, seen: int) -> int:
    """Of one token's intermediates in one decoder layer: the residual twice, norms, heads, both gated halves,
    scores of `seen` slots three times in float32 (before and after the mask, and as weights) and once as a factor
    of a product, unless a kernel never writes them."""
    width = jnp.dtype(dtype).itemsize
    heads = (text.num_attention_heads + 2 * text.num_key_value_heads) * text.head_dim
    scores = 0 if has_kernel(dtype, text.head_dim) else text.num_attention_heads * seen * (3 * 4 + width)
    residual = 2 * RESIDUAL_BYTES * text.hidden_size
    return residual + width * (4 * text.hidden_size + 3 * heads + 4 * text.intermediate_size) + scores


def _dots_bytes(text: Any, width: int) -> int:
    """Of one token's results of products with weights in one decoder layer, and of its input."""
    heads = (2 * text.num_attention_heads + 2 * text.num_key_value_heads) * text.head_dim
    residual = RESIDUAL_BYTES * text.hidden_size
    return residual + width * (2 * text.hidden_size + heads + 2 * text.intermediate_size)


def _adapted_bytes(params: Any, width: int, joined: bool) -> int:
    """Of one token's results of the adapters' products in one decoder layer that are added to others.

    Where they are `joined`, these are of the layers alone that do not widen."""
    if "adapter" not in params:
        return 0
    sizes: dict[tuple[Any, ...], dict[str, int]] = {}
    for path, leaf in nnx.to_flat_state(params["adapter"]):
        if path[0] == "language_model":
            sizes.setdefault(path[:-1], {})[path[-1]] = leaf.shape[-1] if path[-1] == "lora_A" else leaf.shape[-2]
    return width * sum(s["lora_B"] for s in sizes.values() if not joined or s["lora_B"] <= s["lora_A"])
