"""Parameters to and from Hugging Face tensors: names and shapes, nothing about files.

* Shapes agree already (see `layers.Linear`); what differs is that a stack of layers is one array here and one
  tensor a layer there.
* Two sets of names are read: those of `state_dict()` in transformers 5 (`model.language_model.layers.0...`,
  `model.visual...`) and those in published files (`model.layers.0...`, `visual...`); the families' classes say
  which.
* What is missing, unknown or of another shape is named in one error, before anything is converted.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import DTypeLike

from vldac.models.families import VLMConfig, create, model_class
from vldac.models.vlm import VLM

SHOWN = 8  # names of a kind in an error

Path = tuple[str, ...]


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
    config: VLMConfig, tensors: Mapping[str, np.ndarray], param_dtype: DTypeLike = jnp.float32
) -> nnx.State:
    """Parameters from tensors under Hugging Face names.

    Args:
      config: of the model that the tensors belong to.
      tensors: name -> array, read one after another, so that a lazy mapping holds one at a time.
      param_dtype: what they are converted to.

    Returns:
      The state that `nnx.split(create(config, ...))` gives.

    Raises:
      ValueError: tensors are missing, unknown, given under both kinds of name, or of another shape.
    """
    model = nnx.eval_shape(lambda: create(config, rngs=nnx.Rngs(0), param_dtype=param_dtype))
    kind = model_class(config)
    abstract = nnx.to_flat_state(nnx.state(model))
    wanted: dict[str, tuple[int, ...]] = {}
    for path, variable in abstract:
        stacked = is_stacked(kind, path)
        wanted |= {
            name: variable.shape[1:] if stacked else variable.shape for name in tensor_names(kind, path, variable)
        }
    source = _match(kind, wanted, tensors, {"lm_head.weight"} if config.text.tie_word_embeddings else set())

    def load(path: Path, variable: nnx.Variable) -> np.ndarray:
        value = np.empty(variable.shape, param_dtype)
        parts = tuple(value) if is_stacked(kind, path) else (value,)
        for part, name in zip(parts, tensor_names(kind, path, variable), strict=True):
            part[...] = tensors[source[name]]
        return value

    leaves = [(path, variable.replace(jnp.asarray(load(path, variable)))) for path, variable in abstract]
    return nnx.from_flat_state(leaves)


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


def _match(
    model: type[VLM],
    wanted: Mapping[str, tuple[int, ...]],
    tensors: Mapping[str, np.ndarray],
    ignored: set[str],
) -> dict[str, str]:
    """Canonical name -> name in `tensors`, if they are exactly those wanted."""
    source: dict[str, str] = {}
    twice, unknown, misshapen = [], [], []
    for name in tensors:
        canonical = canonical_name(model, name)
        if canonical in ignored:
            continue
        if canonical in source:
            twice.append(f"{source[canonical]} = {name}")
        elif canonical not in wanted:
            unknown.append(name)
        elif tuple(tensors[name].shape) != tuple(wanted[canonical]):
            misshapen.append(f"{name} {tuple(tensors[name].shape)}, accepted: {tuple(wanted[canonical])}")
        source[canonical] = name
    missing = [name for name in wanted if name not in source]
    faults = []
    kinds = (
        ("missing", missing),
        ("unknown", unknown),
        ("given twice", twice),
        ("of another shape", misshapen),
    )
    for kind, found in kinds:
        if found:
            more = f"; and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
            faults.append(f"{len(found)} {kind}: {'; '.join(sorted(found)[:SHOWN])}{more}")
    if faults:
        raise ValueError("tensors do not fit the config. " + ". ".join(faults))
    return source
