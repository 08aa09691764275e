"""A policy's parameters before any training: the model's, its adapter's, the critic's."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import DTypeLike, PRNGKeyArray

from vldac.mesh import shard_params
from vldac.models import VLM, ValueHead, VLMConfig, create, lora
from vldac.models.lora import LoRAConfig
from vldac.models.value_head import REFERENCE_SIZES


def init_params(
    model_config: VLMConfig,
    key: PRNGKeyArray,
    value_head: tuple[int, ...] = REFERENCE_SIZES,
    adapter: LoRAConfig | None = None,
    dtype: DTypeLike = jnp.float32,
    model: nnx.State | None = None,
) -> dict[str, nnx.State]:
    """A policy's parameters before any training: {"model": ..., "adapter": ..., "value": ...}.

    Args:
      model_config: sizes of the model.
      key: of everything that is drawn.
      value_head: widths of the critic's hidden layers.
      adapter: LoRA; None or rank 0 = none, and no "adapter" in the result.
      dtype: what the model computes in. Weights that are not trained (those under an adapter) are kept in it, all
        that is trained is float32.
      model: weights of the model, from a checkpoint; None = freshly drawn.
    """
    adapted = adapter is not None and adapter.rank > 0
    model_key, head_key, adapter_key = (jax.random.fold_in(key, number) for number in range(3))

    @jax.jit
    def draw_model():
        param_dtype = dtype if adapted else jnp.float32
        return shard_params(nnx.state(create(model_config, rngs=nnx.Rngs(model_key), param_dtype=param_dtype)))

    @jax.jit
    def draw_rest():
        rest = {"value": nnx.state(ValueHead(model_config.hidden_size, value_head, rngs=nnx.Rngs(head_key)))}
        if adapted:
            # Drawn by way of a whole model, of which nothing else is ever computed.
            rest["adapter"] = lora.split(with_adapter(model_config, adapter, dtype, adapter_key))[1]
        return shard_params(rest)

    return {"model": draw_model() if model is None else model, **draw_rest()}


def with_adapter(
    model_config: VLMConfig, adapter: LoRAConfig, dtype: DTypeLike, key: PRNGKeyArray | None = None
) -> VLM:
    """A freshly drawn model with LoRA's layers."""
    model = create(model_config, rngs=nnx.Rngs(0), dtype=dtype)
    lora.attach(model, adapter, nnx.Rngs(jax.random.key(0) if key is None else key))
    return model
