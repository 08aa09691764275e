"""Which families there are, by the `model_type` of their checkpoints' `config.json`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import nnx
from jaxtyping import DTypeLike

from vldac.models.gemma3 import Gemma3, Gemma3Config
from vldac.models.qwen2_5_vl import Qwen2_5VL, Qwen2_5VLConfig
from vldac.models.qwen2_vl import Qwen2VL, Qwen2VLConfig
from vldac.models.qwen3_vl import Qwen3VL, Qwen3VLConfig
from vldac.models.vlm import VLM

VLMConfig = Qwen2VLConfig | Qwen2_5VLConfig | Qwen3VLConfig | Gemma3Config


class Family(NamedTuple):
    """A configuration that reads `config.json`, and the module that it describes."""

    config: type[VLMConfig]
    model: type[VLM]


FAMILIES = {
    "qwen2_vl": Family(Qwen2VLConfig, Qwen2VL),
    "qwen2_5_vl": Family(Qwen2_5VLConfig, Qwen2_5VL),
    "qwen3_vl": Family(Qwen3VLConfig, Qwen3VL),
    "gemma3": Family(Gemma3Config, Gemma3),
}


def model_class(config: VLMConfig) -> type[VLM]:
    """The module that a configuration describes."""
    return next(family.model for family in FAMILIES.values() if type(config) is family.config)


def create(
    config: VLMConfig,
    *,
    rngs: nnx.Rngs,
    dtype: DTypeLike = jnp.float32,
    param_dtype: DTypeLike = jnp.float32,
) -> VLM:
    """A model with freshly drawn parameters.

    Args:
      config: of one of the families.
      rngs: see `VLM`.
      dtype: what is computed in.
      param_dtype: what the parameters are kept in.
    """
    return model_class(config)(config, rngs=rngs, dtype=dtype, param_dtype=param_dtype)


def config_from_hf(config: Any, preprocessor: Mapping[str, Any] | None = None) -> VLMConfig:
    """Reads a Hugging Face configuration of any family.

    Args:
      config: what `transformers.AutoConfig` loads, or the contents of a `config.json`.
      preprocessor: the contents of a `preprocessor_config.json`; None takes the image processor's defaults.

    Raises:
      ValueError: no family of that `model_type`, or an option that the family does not have here.
    """
    model_type = config.get("model_type") if isinstance(config, Mapping) else config.model_type
    if model_type not in FAMILIES:
        raise ValueError(f"model_type is {model_type!r}; accepted: {', '.join(FAMILIES)}")
    return FAMILIES[model_type].config.from_hf(config, preprocessor)
