"""What a piece of work needs: floating-point operations and bytes, from the model's configuration and shapes.

* Only what the algorithm asks for: recomputation, padding and copies are the implementation's own affair.
* A product of T tokens with a matrix of n numbers is 2 T n operations; attention is 4 D a query head and pair of
  positions that see each other. The backward pass costs the same again towards the inputs, and once more
  towards trained weights: 4 a token and number under LoRA, 6 where everything is trained.
* Work is a list of stages that follow each other: in each, the slower of moving bytes and computing decides.
* Windows of local layers are not looked at: their tokens count as if they saw everything. An adapter costs nothing
  while answers are written: it could be merged into the weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from experiments.bench.ceilings import Ceilings
from experiments.build import Parts
from vldac.models.families import model_class
from vldac.models.hf import is_stacked

Number = int | float


@dataclass(frozen=True)
class Stage:
    """A part of the work that nothing else overlaps.

    Attributes:
      name: equal names are added up when they are shown.
      flops, bytes: of one time.
      times: how often, one after another.
    """

    name: str
    flops: Number = 0.0
    bytes: Number = 0.0
    times: Number = 1.0

    def seconds(self, ceilings: Ceilings, dtype: str) -> Number:
        """At best, on a device with these ceilings."""
        return self.times * max(self.flops / ceilings.matmul[dtype], self.bytes / ceilings.bandwidth)


@dataclass(frozen=True)
class Sizes:
    """What work is counted from. Numbers are those of weight matrices; norms and biases are left out.

    Attributes:
      dtype: what the model computes in.
      layers: numbers of the decoder's layers.
      unembedding: numbers that give a token's logits.
      adapter: numbers of the decoder's adapters, 0 without LoRA.
      tower_adapter: of the vision tower's.
      tower_patch, tower_token: numbers of the tower that every patch, every visual token meets.
      tower_pairs: operations of the attention among one image's patches.
      patches, visual_tokens: of one image.
      pair: operations of a token attending to one position, all layers.
      key_value: bytes of one position's keys and values, all layers.
      critic: numbers of the value head.
      trained: numbers that the optimizer moves.
    """

    dtype: str
    layers: int
    unembedding: int
    adapter: int
    tower_adapter: int
    tower_patch: int
    tower_token: int
    tower_pairs: int
    patches: int
    visual_tokens: int
    pair: int
    key_value: int
    critic: int
    trained: int

    @property
    def width(self) -> int:
        """Bytes of a number."""
        return jnp.dtype(self.dtype).itemsize

    @property
    def in_full(self) -> bool:
        """Whether everything is trained."""
        return not (self.adapter or self.tower_adapter)

    @property
    def passes(self) -> int:
        """Of 2 operations a token and number of the decoder, in an update."""
        return 3 if self.in_full else 2

    @classmethod
    def of(cls, parts: Parts) -> Sizes:
        """Counts what a run is made of."""
        config, params, policy = parts.model_config, parts.abstract_params(), parts.setup.policy
        text = config.text
        kind = model_class(config)
        layers = tower_patch = tower_token = 0
        for path, leaf in nnx.to_flat_state(params["model"]):
            axes = len(leaf.shape) - is_stacked(kind, path)
            if axes < 2 or path[0] == "lm_head" or path[-2] in ("embed_tokens", "pos_embed", "position_embedding"):
                continue
            size = math.prod(leaf.shape)
            if path[0] == "language_model":
                layers += size
            elif any(part in ("blocks", "encoder", "patch_embed", "patch_embedding") for part in path):
                tower_patch += size
            else:
                tower_token += size
        adapters = {True: 0, False: 0}
        for path, leaf in nnx.to_flat_state(params["adapter"]) if "adapter" in params else ():
            adapters[path[0] == "language_model"] += math.prod(leaf.shape)
        work = config.tower_work(*parts.setup.world.image_shape[:2])
        learner = "adapter" if "adapter" in params else "model"
        width = jnp.dtype(policy.dtype).itemsize
        return cls(
            dtype=jnp.dtype(policy.dtype).name,
            layers=layers,
            unembedding=text.vocab_size * text.hidden_size,
            adapter=adapters[True],
            tower_adapter=adapters[False],
            tower_patch=tower_patch,
            tower_token=tower_token,
            tower_pairs=4 * work.scores * work.head_dim * work.depth,
            patches=work.patches,
            visual_tokens=policy.prompt.span.tokens,
            pair=4 * text.num_attention_heads * text.head_dim * text.num_hidden_layers,
            key_value=2 * text.num_key_value_heads * text.head_dim * text.num_hidden_layers * width,
            critic=_matrices(params["value"]),
            trained=sum(
                math.prod(leaf.shape) for name in (learner, "value") for leaf in jax.tree.leaves(params[name])
            ),
        )


def frames(sizes: Sizes, images: Number, times: Number = 1) -> list[Stage]:
    """Frames to visual tokens, `images` at a time."""
    return [_tower(sizes, images, 1, times)]


def prompt(sizes: Sizes, lanes: Number, prefix: Number, context: Number, times: Number = 1) -> list[Stage]:
    """The context of `lanes` observations, its visual tokens there, behind a prefix that is there.

    Args:
      prefix: tokens of the shared static text.
      context: tokens of an observation behind it, on average.
      times: how often.
    """
    tokens = lanes * context
    pairs = lanes * _pairs(prefix, context)
    return [
        Stage("prompt products", 2 * tokens * sizes.layers, sizes.layers * sizes.width, times),
        Stage("prompt attention", pairs * sizes.pair, (prefix + tokens) * sizes.key_value, times),
    ]


def static_text(sizes: Sizes, prefix: Number) -> list[Stage]:
    """The keys and values of the shared prefix, once."""
    flops = 2 * prefix * sizes.layers + _pairs(0, prefix) * sizes.pair
    return [Stage("static text", flops, sizes.layers * sizes.width)]


def answers(sizes: Sizes, lanes: Sequence[Number], prefix: Number, context: Number) -> list[Stage]:
    """Answers behind prompts that are there, token by token in step.

    Args:
      lanes: of every token's number, how many answers have it. Answers of 1 and 3 tokens: [2, 1, 1].
      prefix, context: tokens in front of an answer.
    """
    stages = []
    for number, count in enumerate(lanes):
        stages += _token(sizes, count, prefix, context + number, times=1, first=number == 0)
    return stages


def packed_answers(
    sizes: Sizes, lanes: int, count: Number, tokens: Number, prefix: Number, context: Number
) -> list[Stage]:
    """`count` answers of `tokens` tokens in all, with as many lanes as there are always busy.

    The best that any order of answers can be: none waits for a longer one.
    """
    read = tokens - count  # the first token comes with the prompt
    seen = context + tokens / count / 2
    stages = _token(sizes, lanes, prefix, seen, read / lanes, first=False)
    return stages + _token(sizes, lanes, prefix, seen, count / lanes, first=True)


def update(
    sizes: Sizes,
    steps: Number,
    tokens: Number,
    prefix: Number,
    context: Number,
    images: int,
    epochs: int,
    updates: int,
) -> list[Stage]:
    """The reference pass over a rollout, and `epochs` passes forward and backward in `updates` optimizer updates.

    The shared prefix is computed, forward and backward, once an update: its parameters are the same until then.

    Args:
      steps: environment steps of the rollout.
      tokens: of all their answers.
      prefix, context: tokens in front of an answer.
      images: frames of an observation.
    """
    per_update = epochs * steps / updates
    learnt = _scored(sizes, "update", per_update, tokens / steps, prefix, context, sizes.passes, updates)
    adapted = per_update * (context + tokens / steps - 1) + prefix
    towers = []
    if sizes.in_full or sizes.tower_adapter:  # else frames look as they did in the rollout
        passes = 3 if sizes.in_full else 2
        towers = [_tower(sizes, images * steps, 1, 1), _tower(sizes, images * per_update, passes, updates)]
    return [
        *_scored(sizes, "reference", steps, tokens / steps, prefix, context, 1, 1),
        *learnt,
        *towers,
        Stage("update adapters", 6 * adapted * sizes.adapter, 0, updates),
        Stage("critic", 6 * per_update * sizes.critic, 0, updates),
        # Gradients are read; parameters and both moments are read and written.
        Stage("optimizer", 0, 7 * 4 * sizes.trained, updates),
    ]


def limit(stages: Sequence[Stage], ceilings: Ceilings, dtype: str) -> Number:
    """Seconds at best: the sum over stages of the slower of bytes and operations."""
    return sum(stage.seconds(ceilings, dtype) for stage in stages)


def total(stages: Sequence[Stage]) -> tuple[Number, Number]:
    """(operations, bytes) of all stages."""
    return sum(s.flops * s.times for s in stages), sum(s.bytes * s.times for s in stages)


def _token(sizes: Sizes, lanes: Number, prefix: Number, seen: Number, times: Number, first: bool) -> list[Stage]:
    """One token of every lane. The first of an answer is drawn from the prompt's last hidden state."""
    head = Stage("unembedding", 2 * lanes * sizes.unembedding, sizes.unembedding * sizes.width, times)
    if first:
        return [head]
    return [
        Stage("answer products", 2 * lanes * sizes.layers, sizes.layers * sizes.width, times),
        Stage(
            "answer attention",
            lanes * (prefix + seen) * sizes.pair,
            (prefix + lanes * seen) * sizes.key_value,  # the prefix is read once for all lanes
            times,
        ),
        head,
    ]


def _scored(
    sizes: Sizes,
    name: str,
    steps: Number,
    answer: Number,
    prefix: Number,
    context: Number,
    passes: int,
    times: Number,
) -> list[Stage]:
    """Given answers in one pass forward (passes 1) and, with more, backward."""
    slots = context + answer - 1  # the last token of an answer is predicted but never read
    tokens = steps * slots + prefix
    pairs = steps * _pairs(prefix, slots) + _pairs(0, prefix)
    attention = 1 if passes == 1 else 3  # its backward has four products for the forward's two
    weights = (sizes.layers + sizes.unembedding) * sizes.width
    return [
        Stage(f"{name} products", 2 * passes * tokens * sizes.layers, passes * weights, times),
        Stage(f"{name} attention", attention * pairs * sizes.pair, 0, times),
        Stage(f"{name} unembedding", 2 * passes * steps * answer * sizes.unembedding, 0, times),
    ]


def _tower(sizes: Sizes, images: Number, passes: int, times: Number) -> Stage:
    """The vision tower: `passes` of 2 operations a number and patch; adapters in it are trained with it."""
    numbers = sizes.patches * sizes.tower_patch + sizes.visual_tokens * sizes.tower_token
    pairs = sizes.tower_pairs * (1 if passes == 1 else 3)
    weights = (sizes.tower_patch + sizes.tower_token) * sizes.width
    flops = images * (2 * passes * numbers + pairs)
    if passes > 1:
        flops += images * 6 * sizes.patches * sizes.tower_adapter
    return Stage("vision tower", flops, passes * weights, times)


def _pairs(before: Number, tokens: Number) -> Number:
    """Pairs of positions that see each other, `tokens` of them behind `before`: 2, 3 -> 3 + 4 + 5."""
    return tokens * before + tokens * (tokens + 1) / 2


def _matrices(params: Any) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params) if len(leaf.shape) == 2)
