"""LoRA (Hu et al., arXiv 2106.09685): small trained matrices beside frozen ones.

    y = x W^T + (alpha / rank) (x A^T) B^T        A [rank, in], B [out, rank], B = 0 at first

* Which layers are adapted, and by which names, is as in `peft`, so that an adapter can be handed over.
* The adapter is a state of its own: without it the same weights are the model that it began from, which is the
  reference policy of the KL, at no memory at all.
* Adapter weights are float32 whatever the model computes in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import PRNGKeyArray

from vldac.models.layers import Linear, LoRAKey, LoRAParam
from vldac.models.vlm import VLM


@dataclass(frozen=True)
class LoRAConfig:
    """Which layers get an adapter, and how large it is.

    The published runs have rank 16 and dropout 0.1; with dropout the policy that is updated is not the one that
    acted, so it is off here."""

    rank: int = 0
    """Rows of A and columns of B; 0 = no adapter, the whole model is trained."""
    alpha: float = 32.0
    """The adapter's output is multiplied by alpha / rank."""
    dropout: float = 0.0
    """Share of an adapter's inputs that is dropped while an update is computed."""
    target_modules: tuple[str, ...] = (
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    )
    """Last names of the linear layers that are adapted, as `peft` spells them."""
    vision: bool = False
    """Also in the vision tower (whose layers have other names in some families: qkv, proj, fc1, ...)."""

    def __post_init__(self):
        if self.rank < 0:
            raise ValueError(f"rank is {self.rank}; accepted: 0 (no adapter) or more")
        if not 0 < self.alpha < math.inf:
            raise ValueError(f"alpha is {self.alpha}; accepted: above 0")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}; accepted: 0 to 1, 1 excluded")
        if not self.target_modules:
            raise ValueError("target_modules is empty; accepted: at least one name")

    @property
    def scale(self) -> float:
        """What the adapter's output is multiplied by."""
        return self.alpha / self.rank


def adapted_layers(model: VLM, config: LoRAConfig) -> dict[tuple[str, ...], Linear]:
    """Path -> layer, of every linear layer that `config` names.

    Raises:
      ValueError: a target that no layer is named.
    """
    found: dict[tuple[str, ...], Linear] = {}
    names: set[str] = set()
    for path, module in nnx.iter_modules(model):
        if not isinstance(module, Linear) or not (config.vision or path[0] == "language_model"):
            continue
        path = tuple(map(str, path))
        # "mlp_0" is the first member of a torch Sequential called "mlp": its last name is "0"
        name = model.RENAMED.get(path[-1], path[-1]).split(".")[-1]
        names.add(name)
        if name in config.target_modules:
            found[path] = module
    if missing := sorted(set(config.target_modules) - names):
        raise ValueError(
            f"target_modules names {', '.join(missing)}; accepted: {', '.join(sorted(names))}"
            + ("" if config.vision else " (and more in the vision tower, with vision on)")
        )
    return found


def attach(model: VLM, config: LoRAConfig, rngs: nnx.Rngs) -> None:
    """Gives every layer that `config` names an adapter that changes nothing yet.

    Args:
      model: changed in place.
      config: rank above 0.
      rngs: A is uniform within 1 / sqrt(in) (`peft`'s default), B is zero.

    Raises:
      ValueError: see `adapted_layers`.
    """
    for _, layer in sorted(adapted_layers(model, config).items()):
        *stacked, out_features, in_features = layer.weight.shape
        bound = in_features**-0.5
        shape = (*stacked, config.rank, in_features)
        layer.lora_A = LoRAParam(jax.random.uniform(rngs.params(), shape, jnp.float32, -bound, bound))
        layer.lora_B = LoRAParam(jnp.zeros((*stacked, out_features, config.rank), jnp.float32))
        layer.lora_scale = config.scale
        layer.lora_dropout = config.dropout


def attach_keys(model: VLM, key: PRNGKeyArray) -> None:
    """Gives every adapter a random key: with one, its inputs are dropped out. Changes `model` in place."""
    layers = [(path, m) for path, m in nnx.iter_modules(model) if isinstance(m, Linear) and m.lora_A is not None]
    for number, (_, layer) in enumerate(sorted(layers, key=lambda item: tuple(map(str, item[0])))):
        stacked = layer.weight.shape[:-2]
        layer.lora_key = LoRAKey(jax.random.split(jax.random.fold_in(key, number), stacked))


def trains_vision(params: Any) -> bool:
    """Whether anything but the decoder is trained: everything without an adapter, else what has one.

    Args:
      params: a dictionary of states; "adapter", if it is there, is LoRA's.
    """
    return not params or "adapter" not in params or any(name != "language_model" for name in params["adapter"])


def split(model: VLM) -> tuple[nnx.GraphDef, Any, Any]:
    """(definition, adapter, base): the parameters of the adapters apart from all others."""
    return nnx.split(model, LoRAParam, ...)
