"""Many devices as one mesh: which part of what lies where.

* Three axes. `data`: other worlds on each device. `fsdp`: other worlds as well, and each device keeps a part of
  every weight, gathered while it is used: for an update layer by layer, for writing answers once. `tensor`: the
  same worlds, each device computes a part of every layer (Shoeybi et al., arXiv 1909.08053): heads and MLP are
  cut, one sum behind each.
* The program is that of one device. Where parameters and lanes come from, and where a batch is made, a
  constraint says how they lie; the compiler does the rest. Without a mesh every function here is the identity.
* The mesh is the ambient one (`jax.set_mesh`, see `use`), so nothing has to be handed through.
* How a parameter is cut is told by its name, in `RULES`, and nowhere else.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXES = "data", "fsdp", "tensor"
BATCH = "data", "fsdp"  # what worlds, and rows of a batch, are cut over

_COLUMN = r"(q_proj|k_proj|v_proj|gate_proj|up_proj|(linear_)?fc1|mlp_0)"  # out of these come heads, or MLP units
_ROW = r"(o_proj|down_proj|out_proj|attn/proj|(linear_)?fc2|mlp_2)"  # and into these they go

# Name of a parameter -> how its last axes are cut; the first rule that matches. Linear weights are [out, in]. What
# no rule names is whole everywhere: norms, a tower's patches and positions, biases that are added once.
RULES: tuple[tuple[str, tuple[str | None, ...]], ...] = (
    (r"(embed_tokens|lm_head)/weight", ("tensor", "fsdp")),  # rows of the vocabulary
    (rf"{_COLUMN}/weight", ("tensor", "fsdp")),
    (rf"{_COLUMN}/bias", ("tensor",)),
    (rf"{_COLUMN}/lora_A", (None, "fsdp")),
    (rf"{_COLUMN}/lora_B", ("tensor", None)),
    (rf"{_ROW}/weight", ("fsdp", "tensor")),
    (rf"{_ROW}/lora_A", (None, "tensor")),
    (rf"{_ROW}/lora_B", ("fsdp", None)),
    (r"qkv/(weight|lora_A)", (None, "fsdp")),  # q, k and v in one: a cut over tensor would go across them
    (r"(kernel|mm_input_projection_weight)", ("fsdp", None)),  # [in, out]: the critic's, and Gemma 3's projector
)
_RULES = tuple((re.compile(rf"(^|/){pattern}(/|$)"), axes) for pattern, axes in RULES)


@dataclass(frozen=True)
class MeshConfig:
    """How many devices do what. The product is the number of devices; 1 x 1 x 1 is the first device alone."""

    data: int = 1
    """Ways that the worlds are shared out, each with a whole model; 0 = as many as there are devices for."""
    fsdp: int = 1
    """Ways that the worlds are shared out and the weights as well: a model too large for one device."""
    tensor: int = 1
    """Ways that every layer is shared out; best within one host."""
    gather: bool = True
    """Gather the decoder's layers over fsdp to write answers, once an iteration; no, where they do not fit."""

    def __post_init__(self):
        for name, least in (("data", 0), ("fsdp", 1), ("tensor", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; accepted: {least} or more")

    def build(self, devices: Sequence[jax.Device] | None = None) -> Mesh | None:
        """The mesh, laid out as the devices are connected; None for one device.

        Args:
          devices: of all processes; None = all that JAX has.

        Raises:
          ValueError: the sizes do not come to the number of devices.
        """
        count = len(jax.devices() if devices is None else devices)
        fixed = self.fsdp * self.tensor
        data = self.data or max(1, count // fixed)
        if data * fixed == 1 and jax.process_count() == 1:
            return None
        if data * fixed != count:
            raise ValueError(
                f"mesh is data {self.data}, fsdp {self.fsdp}, tensor {self.tensor}; accepted: sizes whose product "
                f"is {count}, as there are so many devices (data 0 takes what is left)"
            )
        sizes = data, self.fsdp, self.tensor
        return jax.make_mesh(sizes, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)


@contextlib.contextmanager
def use(mesh: Mesh | None) -> Iterator[None]:
    """Everything within is on the mesh: new arrays, too, which every device then has whole."""
    if mesh is None:
        yield
        return
    with jax.set_mesh(mesh):
        yield


def batch_ways(sizes: Mapping[str, int] | None = None) -> int:
    """Parts that a batch is cut into on a mesh of these sizes; None = on the ambient one."""
    sizes = _sizes() if sizes is None else sizes
    return math.prod(sizes.get(axis, 1) for axis in BATCH)


def cut_ways(axis: str, size: int) -> int:
    """Parts that an axis of the ambient mesh cuts `size` things into: as many as it has devices, or 1."""
    ways = _sizes().get(axis, 1)
    return ways if size % ways == 0 else 1


def param_spec(name: str, shape: tuple[int, ...], sizes: Mapping[str, int]) -> PartitionSpec:
    """How one parameter is cut.

    Args:
      name: its path, "model/language_model/layers/self_attn/q_proj/weight". An optimizer's moments have the
        names of their parameters behind their own, and are cut alike.
      shape: of it, a stack's leading axis included.
      sizes: of the mesh's axes.

    Returns:
      A name or None for each axis of the shape. An axis that the mesh does not divide stays whole.
    """
    axes = _wanted(name, shape)
    return PartitionSpec(
        *(axis if axis and size % sizes[axis] == 0 else None for axis, size in zip(axes, shape, strict=True))
    )


def param_specs(params: Any) -> Any:
    """`param_spec` of every leaf, on the ambient mesh; of an optimizer's state as well."""
    sizes = _sizes()
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: param_spec(_name(path), leaf.shape, sizes) if sizes else PartitionSpec(), params
    )


def batch_specs(tree: Any, axis: int = 0) -> Any:
    """Every leaf cut over the data axes of the ambient mesh, along one axis; whole where that does not divide."""
    sizes = _sizes()
    ways = batch_ways(sizes)

    def spec(leaf):
        return PartitionSpec(*[None] * axis, BATCH) if sizes and leaf.shape[axis] % ways == 0 else PartitionSpec()

    return jax.tree.map(spec, tree)


def whole_specs(tree: Any) -> Any:
    """Every leaf whole on every device."""
    return jax.tree.map(lambda _: PartitionSpec(), tree)


def constrain(tree: Any, specs: Any) -> Any:
    """The tree, lying as the specs say; the tree itself without a mesh."""
    if not _sizes():
        return tree
    return jax.tree.map(jax.lax.with_sharding_constraint, tree, specs)


def shard_params(params: Any) -> Any:
    """Parameters, or an optimizer's state, cut by `RULES`."""
    return constrain(params, param_specs(params))


def shard_batch(tree: Any, axis: int = 0) -> Any:
    """Lanes, or rows of a batch, cut over the data axes."""
    return constrain(tree, batch_specs(tree, axis))


def gather(tree: Any) -> Any:
    """Whole on every device: what the host reads."""
    return constrain(tree, whole_specs(tree))


def gather_fsdp(params: Any, pattern: str = "") -> Any:
    """Parameters as `shard_params` has them lie, but whole along fsdp where `pattern` is found in their name."""
    sizes = _sizes()

    def spec(path, leaf):
        name = _name(path)
        cut = param_spec(name, leaf.shape, sizes)
        if not re.search(pattern, name):
            return cut
        return PartitionSpec(*(None if axis == "fsdp" else axis for axis in cut))

    if sizes.get("fsdp", 1) == 1:
        return params
    return constrain(params, jax.tree_util.tree_map_with_path(spec, params))


def cuts_weights(gathered: bool = False) -> bool:
    """Whether a device of the ambient mesh may have but a part of a weight, or of one `gathered` over fsdp."""
    kept = ("data", "fsdp") if gathered else ("data",)
    return any(ways > 1 for axis, ways in _sizes().items() if axis not in kept)


def by_rows(function: Callable[[Any, Any], Any], whole: Any, rows: Any) -> Any:
    """function(whole, rows), called on every device with its own rows of a batch.

    For what the compiler can not cut by itself, as a kernel of ours: left alone it would gather all rows on every
    device. Worked example, 8 lanes on 4 devices: each calls it with 2. Without a mesh it is called as it is.

    Args:
      function: gives leaves [B, ...], each row made from the same row of `rows`.
      whole: what every device has all of, gathered where it does not.
      rows: leaves [B, ...], or [] for what all rows have in common. Where the mesh does not divide B, every device
        computes all rows.

    Returns:
      What `function` gives, cut as `rows` are.
    """
    ways = batch_ways()
    if ways == 1:
        return function(whole, rows)
    batch = next(len(leaf) for leaf in jax.tree.leaves(rows) if leaf.ndim)
    cut = PartitionSpec(BATCH) if batch % ways == 0 else PartitionSpec()
    specs = PartitionSpec(), jax.tree.map(lambda leaf: cut if leaf.ndim else PartitionSpec(), rows)
    # check_vma: a kernel's results do not say what they vary over.
    return jax.shard_map(function, in_specs=specs, out_specs=cut, check_vma=False)(whole, rows)


def placed(shapes: Any, specs: Any, mesh: Mesh | None) -> Any:
    """`jax.ShapeDtypeStruct`s that say where their arrays go; as they are without a mesh."""
    if mesh is None:
        return shapes
    return jax.tree.map(
        lambda leaf, spec: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, spec), weak_type=leaf.weak_type
        ),
        shapes,
        specs,
    )


def placement(mesh: Mesh | None) -> Any:
    """(path, shape) of a model's parameter -> its sharding, for `hf.from_hf`; None without a mesh."""
    if mesh is None:
        return None
    return lambda path, shape: NamedSharding(mesh, param_spec("/".join(map(str, path)), shape, mesh.shape))


def kept_whole(params: Any, sizes: Mapping[str, int]) -> list[str]:
    """Parameters that a rule would cut and the mesh does not divide, and along what: "q_proj/bias by tensor"."""
    found: dict[str, None] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        name = _name(path)
        for axis, size in zip(_wanted(name, leaf.shape), leaf.shape, strict=True):
            if axis and size % sizes[axis]:
                found["/".join(name.split("/")[-2:]) + f" by {axis}"] = None
    return list(found)


def _wanted(name: str, shape: tuple[int, ...]) -> tuple[str | None, ...]:
    """The mesh's axis for each axis of a parameter, whether it divides or not."""
    axes = next((axes for pattern, axes in _RULES if pattern.search(name)), ())
    if len(axes) > len(shape):  # what an optimizer keeps of a parameter without its shape
        axes = ()
    return (None,) * (len(shape) - len(axes)) + axes


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/").removesuffix("/value")


def _sizes() -> dict[str, int]:
    """Of the ambient mesh's axes; empty without one."""
    return dict(jax.sharding.get_abstract_mesh().shape)
