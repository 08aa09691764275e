"""Parameters to and from Hugging Face tensors: names and shapes, nothing about files.

* Shapes agree already (see `layers.Linear`); what differs is that a stack of layers is one array here and one
  tensor a layer there.
* Two sets of names are read: those of `state_dict()` in transformers 5 (`model.language_model.layers.0...`,
  `model.visual...`) and those in published files (`model.layers.0...`, `visual...`).
* What is missing, unknown or of another shape is named in one error, before anything is converted.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import DTypeLike

from vldac.models.config import Qwen2VLConfig
from vldac.models.qwen2_vl import Qwen2VL

STACKS = (("language_model", "layers"), ("visual", "blocks"))  # paths whose arrays have a leading layer axis
RENAMED = {"mlp_0": "mlp.0", "mlp_2": "mlp.2"}  # a torch Sequential's members are numbers
SHOWN = 8  # names of a kind in an error

Path = tuple[str, ...]


def to_hf(params: nnx.State) -> dict[str, np.ndarray]:
    """All parameters under the names of transformers' `Qwen2VLForConditionalGeneration.state_dict()`.

    A tied unembedding is left out, as in published files.
    """
    tensors = {}
    for path, variable in nnx.to_flat_state(params):
        value = np.asarray(variable[...])
        if path[:2] in STACKS:
            tensors |= {tensor_name(path, layer): value[layer] for layer in range(len(value))}
        else:
            tensors[tensor_name(path)] = value
    return tensors


def from_hf(
    config: Qwen2VLConfig, tensors: Mapping[str, np.ndarray], param_dtype: DTypeLike = jnp.float32
) -> nnx.State:
    """Parameters from tensors under Hugging Face names.

    Args:
      config: of the model that the tensors belong to.
      tensors: name -> array, read one after another, so that a lazy mapping holds one at a time.
      param_dtype: what they are converted to.

    Returns:
      The state that `nnx.split(Qwen2VL(config, ...))` gives.

    Raises:
      ValueError: tensors are missing, unknown, given under both kinds of name, or of another shape.
    """
    model = nnx.eval_shape(lambda: Qwen2VL(config, rngs=nnx.Rngs(0), param_dtype=param_dtype))
    abstract = nnx.to_flat_state(nnx.state(model))
    wanted: dict[str, tuple[int, ...]] = {}
    for path, variable in abstract:
        wanted |= {
            name: variable.shape[1:] if path[:2] in STACKS else variable.shape
            for name in tensor_names(config, path)
        }
    source = _match(wanted, tensors, ignored={"lm_head.weight"} if config.text.tie_word_embeddings else set())

    def load(path: Path, shape: tuple[int, ...]) -> np.ndarray:
        value = np.empty(shape, param_dtype)
        parts = tuple(value) if path[:2] in STACKS else (value,)
        for part, name in zip(parts, tensor_names(config, path), strict=True):
            part[...] = tensors[source[name]]
        return value

    leaves = [(path, variable.replace(jnp.asarray(load(path, variable.shape)))) for path, variable in abstract]
    return nnx.from_flat_state(leaves)


def tensor_name(path: Path, layer: int | None = None) -> str:
    """The Hugging Face name of a parameter, of one layer of it where it is stacked.

    Worked example: ("visual", "blocks", "mlp", "fc1", "bias"), layer 3 -> "model.visual.blocks.3.mlp.fc1.bias".
    """
    parts = [RENAMED.get(part, part) for part in path]
    if layer is not None:
        parts.insert(2, str(layer))
    return ".".join(parts if parts[0] == "lm_head" else ["model", *parts])


def tensor_names(config: Qwen2VLConfig, path: Path) -> list[str]:
    """The Hugging Face tensors that make up a parameter: one a layer where it is stacked, else one."""
    if path[:2] not in STACKS:
        return [tensor_name(path)]
    depth = config.text.num_hidden_layers if path[0] == "language_model" else config.vision.depth
    return [tensor_name(path, layer) for layer in range(depth)]


def _canonical(name: str) -> str:
    """A published file's name for a tensor -> that of `state_dict()`; the latter stays as it is."""
    if name.startswith("visual."):
        return f"model.{name}"
    if name.startswith(("model.layers.", "model.embed_tokens.", "model.norm.")):
        return f"model.language_model.{name.removeprefix('model.')}"
    return name


def _match(
    wanted: Mapping[str, tuple[int, ...]], tensors: Mapping[str, np.ndarray], ignored: set[str]
) -> dict[str, str]:
    """Canonical name -> name in `tensors`, if they are exactly those wanted."""
    source: dict[str, str] = {}
    twice, unknown, misshapen = [], [], []
    for name in tensors:
        canonical = _canonical(name)
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
