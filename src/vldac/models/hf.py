"""Parameters to and from Hugging Face tensors: names, shapes and places, nothing about files.

* Shapes agree already (see `layers.Linear`); what differs is that a stack of layers is one array here and one
  tensor a layer there.
* Two sets of names are read: those of `state_dict()` in transformers 5 (`model.language_model.layers.0...`,
  `model.visual...`) and those in published files (`model.layers.0...`, `visual...`); the families' classes say
  which.
* What is missing, unknown, of another shape or type is named in one error, before anything is allocated.
* Tensors are read one after another and go straight to their devices, each device's part alone: a stack is
  made there once and written layer by layer in place, so that the host never holds more than one tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding
from jaxtyping import Array, DTypeLike, Float, Int

from vldac.models.families import VLMConfig, create, model_class
from vldac.models.vlm import VLM

SHOWN = 8  # names of a kind in an error
EMBEDDING = "model.language_model.embed_tokens.weight"
FLOATS = ("float32", "bfloat16", "float16")  # what weights may be stored as

Path = tuple[str, ...]
Place = Callable[[Path, tuple[int, ...]], Sharding]


@runtime_checkable
class Tensor(Protocol):
    """An array, or something that is read when it is indexed, as a tuple of slices asks."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> Any: ...

    def __getitem__(self, index: tuple[slice, ...]) -> np.ndarray: ...


def to_hf(model: type[VLM], params: nnx.State) -> dict[str, np.ndarray]:
    """All parameters under the names of `state_dict()` of the transformers class that loads such checkpoints.

    A tied unembedding is left out, as in published files.
    """
    tensors = {}
    for path, variable in nnx.to_flat_state(params):
        value = np.asarray(variable[...])
        parts = value if is_stacked(model, path) else value[None]
        tensors |= dict(zip(tensor_names(model, path, variable), parts, strict=True))
    return tensors


def from_hf(
    config: VLMConfig,
    tensors: Mapping[str, Tensor],
    param_dtype: DTypeLike = jnp.float32,
    sharding: Place | None = None,
    faults: Mapping[str, list[str]] | None = None,
) -> nnx.State:
    """Parameters from tensors under Hugging Face names.

    Args:
      config: of the model that the tensors belong to.
      tensors: name -> tensor, float32, bfloat16 or float16; indexed one after another, so that lazy ones are in
        memory one at a time.
      param_dtype: what they are converted to, on the device.
      sharding: (path, shape) of a parameter, whole stacks included -> where it goes: a `NamedSharding` or a
        `SingleDeviceSharding`. None puts everything on the default device.
      faults: what was wrong with the tensors' source, kind -> names; told together with what is found here.

    Returns:
      The state that `nnx.split(create(config, ...))` gives.

    Raises:
      ValueError: there are faults, or tensors are missing, unknown, given under both kinds of name, of another
        shape, or not of a floating type.
    """
    kind = model_class(config)
    source = match(config, tensors, faults)
    leaves = []
    for path, variable in nnx.to_flat_state(abstract_params(config, param_dtype)):
        shape = tuple(variable.shape)
        where = None if sharding is None else sharding(path, shape)
        parts = [tensors[source[name]] for name in tensor_names(kind, path, variable)]
        if is_stacked(kind, path):
            value = _stack(parts, shape, jnp.dtype(variable.dtype), where)
        else:
            value = _convert(parts[0], jnp.dtype(variable.dtype), where)
        leaves.append((path, variable.replace(value)))
    return nnx.from_flat_state(leaves)


def abstract_params(config: VLMConfig, param_dtype: DTypeLike = jnp.float32) -> nnx.State:
    """Paths, shapes and dtypes of a model's parameters."""
    return nnx.state(nnx.eval_shape(lambda: create(config, rngs=nnx.Rngs(0), param_dtype=param_dtype)))


def is_stacked(model: type[VLM], path: Path) -> bool:
    """Whether a parameter has a leading layer axis."""
    return any(path[: len(stack)] == stack for stack in model.STACKS)


def tensor_name(model: type[VLM], path: Path, layer: int | None = None) -> str:
    """The Hugging Face name of a parameter, of one layer of it where it is stacked.

    Worked example: ("visual", "blocks", "mlp", "fc1", "bias"), layer 3 -> "model.visual.blocks.3.mlp.fc1.bias".
    """
    parts = list(path)
    if layer is not None:
        parts.insert(next(len(stack) for stack in model.STACKS if path[: len(stack)] == stack), str(layer))
    parts = [model.RENAMED.get(part, part) for part in parts]
    return ".".join(parts if parts[0] == "lm_head" else ["model", *parts])


def tensor_names(model: type[VLM], path: Path, variable: nnx.Variable) -> list[str]:
    """The Hugging Face tensors that make up a parameter: one a layer where it is stacked, else one."""
    if not is_stacked(model, path):
        return [tensor_name(model, path)]
    return [tensor_name(model, path, layer) for layer in range(variable.shape[0])]


def canonical_name(model: type[VLM], name: str) -> str:
    """A published file's name for a tensor -> that of `state_dict()`; the latter stays as it is."""
    for published, ours in model.PUBLISHED:
        if name.startswith(published):
            return ours + name.removeprefix(published)
    return name


def published_name(model: type[VLM], name: str) -> str:
    """The name of `state_dict()` for a tensor -> that in published files, under which all tools know it."""
    for published, ours in model.PUBLISHED:
        if name.startswith(ours):
            return published + name.removeprefix(ours)
    return name


def match(
    config: VLMConfig, tensors: Mapping[str, Tensor], faults: Mapping[str, list[str]] | None = None
) -> dict[str, str]:
    """The name of `state_dict()` of every tensor that the model has -> its name in `tensors`.

    Args:
      config: of the model.
      tensors: what there is; nothing is read but shapes and types, and an unembedding that is stored though the
        config ties it to the embedding: it must be the embedding's copy.
      faults: told together with what is found here.

    Raises:
      ValueError: they are not exactly the model's, or there are other faults. All are named, the first few of
        each kind.
    """
    model = model_class(config)
    wanted: dict[str, tuple[int, ...]] = {}
    for path, variable in nnx.to_flat_state(abstract_params(config)):
        shape = tuple(variable.shape[1:] if is_stacked(model, path) else variable.shape)
        wanted |= dict.fromkeys(tensor_names(model, path, variable), shape)
    source: dict[str, str] = {}
    twice, unknown, misshapen, mistyped, copies = [], [], [], [], []
    for name, tensor in tensors.items():
        canonical = canonical_name(model, name)
        if canonical == "lm_head.weight" and config.text.tie_word_embeddings:
            copies.append(name)
            continue
        if canonical in source:
            twice.append(f"{source[canonical]} = {name}")
        elif canonical not in wanted:
            unknown.append(name)
        else:
            if tuple(tensor.shape) != wanted[canonical]:
                misshapen.append(f"{name} {tuple(tensor.shape)}, accepted: {wanted[canonical]}")
            if str(tensor.dtype) not in FLOATS:
                mistyped.append(f"{name} {tensor.dtype}, accepted: {', '.join(FLOATS)}")
        source[canonical] = name
    embedding = source.get(EMBEDDING)
    found = {
        **(faults or {}),
        "not the embedding, though tie_word_embeddings is true": [
            name for name in copies if embedding is not None and not _equal(tensors[name], tensors[embedding])
        ],
        "missing": [name for name in wanted if name not in source],
        "unknown": unknown,
        "given twice": twice,
        "of another shape": misshapen,
        "of another type": mistyped,
    }
    told = []
    for kind, names in found.items():
        if names:
            more = f"; and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            told.append(f"{len(names)} {kind}: {'; '.join(sorted(names)[:SHOWN])}{more}")
    if told:
        raise ValueError("tensors do not fit the config. " + ". ".join(told))
    return source


def _equal(a: Tensor, b: Tensor) -> bool:
    """Whether two matrices hold the same numbers, whatever their types; read a few rows at a time."""
    if tuple(a.shape) != tuple(b.shape):
        return False
    rows, step = a.shape[0], max(1, 2**24 // a.shape[1])
    parts = ((slice(row, min(row + step, rows)), slice(None)) for row in range(0, rows, step))
    return all(np.array_equal(*(np.asarray(x[part]).astype(np.float32) for x in (a, b))) for part in parts)


def _stack(parts: list[Tensor], shape: tuple[int, ...], dtype: jnp.dtype, where: Sharding | None) -> Array:
    """Tensors [...] as one array [L, ...], written on the devices one after another."""
    write = jax.jit(_write, donate_argnums=0, out_shardings=where)
    stack = jnp.zeros(shape, dtype, device=where)
    for layer, part in enumerate(parts):
        # Waited for, or the host would run ahead and hold many tensors that are not copied yet.
        stack = jax.block_until_ready(write(stack, _put(part, _of_a_layer(where)), layer))
    return stack


def _convert(tensor: Tensor, dtype: jnp.dtype, where: Sharding | None) -> Array:
    convert = jax.jit(_copy, static_argnums=1, out_shardings=where)
    return jax.block_until_ready(convert(_put(tensor, where), dtype))


def _write(stack: Float[Array, "l *s"], part: Float[Array, "*s"], layer: Int[Array, ""]) -> Float[Array, "l *s"]:
    return jax.lax.dynamic_update_index_in_dim(stack, part.astype(stack.dtype), layer, axis=0)


def _copy(tensor: Float[Array, "*s"], dtype: jnp.dtype) -> Float[Array, "*s"]:
    # A copy even where the type stays: on the CPU the device's array may be the host's own memory.
    return jnp.copy(tensor).astype(dtype)


def _put(tensor: Tensor, where: Sharding | None) -> Array:
    """A tensor on its devices, of which each reads its own part; parts that several share are read once."""
    if where is None:
        return jnp.asarray(tensor[(slice(None),) * len(tensor.shape)])
    read: dict[tuple, np.ndarray] = {}

    def part(index: tuple[slice, ...]) -> np.ndarray:
        key = tuple((axis.start, axis.stop) for axis in index)
        if key not in read:
            read[key] = np.asarray(tensor[index])
        return read[key]

    return jax.make_array_from_callback(tuple(tensor.shape), where, part)


def _of_a_layer(stack: Sharding | None) -> Sharding | None:
    """Where one layer of a stack goes, so that writing it moves nothing between devices."""
    if stack is None or isinstance(stack, SingleDeviceSharding):
        return stack
    if isinstance(stack, NamedSharding):
        return NamedSharding(stack.mesh, PartitionSpec(*stack.spec[1:]), memory_kind=stack.memory_kind)
    raise ValueError(f"sharding is {stack!r}; accepted: a NamedSharding or a SingleDeviceSharding")
