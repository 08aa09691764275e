"""The leaves of a state: their names and kinds in a checkpoint, whole on the host, and back where they were."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import PyTree


def named_leaves(tree: PyTree) -> dict[str, Any]:
    """Leaves by path, `.params['head']['kernel']`, in the tree's order; None is no leaf."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    named = {jax.tree_util.keystr(path) or ".": leaf for path, leaf in leaves}
    if len(named) < len(leaves):
        raise ValueError("state has two leaves of one path; accepted: nodes that tell their children apart")
    return named


def is_key(leaf: Any) -> bool:
    """Whether it is a typed random key, or some."""
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def kind_of(name: str, leaf: Any) -> str:
    """What two leaves must have in common: "float32[3,4]", "key<fry>[8]", "int"."""
    if isinstance(leaf, bool | int | float) and not isinstance(leaf, np.generic):
        return type(leaf).__name__
    if not hasattr(leaf, "dtype") or (not is_key(leaf) and np.dtype(leaf.dtype).kind in "OSUMm"):
        what = getattr(leaf, "dtype", type(leaf).__name__)
        raise ValueError(
            f"state{name} is of type {what}; accepted: arrays of numbers, random keys, bool, int, float"
        )
    return f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"


def impl_of(name: str, key: Any) -> str:
    """The generator of a random key, "fry"."""
    impl = jax.random.key_impl(key)
    if not isinstance(impl, str):
        raise ValueError(f"state{name} is a key of the unregistered generator {impl}; accepted: JAX's own")
    return impl


def whole(leaf: Any) -> Any:
    """A leaf without its random key's type, and whole in this process, of which other processes may hold parts."""
    if is_key(leaf):
        leaf = jax.random.key_data(leaf)
    if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable:
        return leaf
    if not leaf.is_fully_replicated:
        leaf = jax.jit(lambda x: x, out_shardings=NamedSharding(leaf.sharding.mesh, PartitionSpec()))(leaf)
    return leaf.addressable_data(0)


def copy_to_host(leaves: Sequence[Any]) -> list[np.ndarray]:
    """Copies that stay as they are, whatever becomes of the leaves."""

    def own(leaf, host):
        # From an accelerator `device_get` is a copy. On the CPU it may be a view of the device's own buffer,
        # which a donation would then have to copy, or which (NumPy) the caller may write to.
        copied = isinstance(leaf, jax.Array) and all(device.platform != "cpu" for device in leaf.devices())
        return host if copied else np.array(host, order="C")

    return [own(leaf, host) for leaf, host in zip(leaves, jax.device_get(leaves), strict=True)]


def blank(meta: Mapping[str, Any], name: str, leaf: Any) -> np.ndarray:
    """An array of the shape and dtype in which the leaf is stored, without memory of its own."""
    if is_key(leaf):
        stored = jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0, impl=meta["key_impls"][name])))
        shape, dtype = (*leaf.shape, *stored.shape), stored.dtype
    elif hasattr(leaf, "dtype"):
        shape, dtype = leaf.shape, leaf.dtype
    else:
        shape, dtype = (), np.asarray(leaf).dtype
    return np.broadcast_to(np.zeros((), dtype), shape)


def restored_like(array: np.ndarray, like: Any, key_impl: str | None) -> Any:
    """The restored array as the kind of leaf, and in the place, that `like` is."""
    if isinstance(like, np.ndarray):
        return np.array(array)
    if not hasattr(like, "dtype") or isinstance(like, np.generic):
        return type(like)(array[()])
    sharding = getattr(like, "sharding", None)
    if isinstance(sharding, NamedSharding) and not getattr(like, "weak_type", False):
        return _on_mesh(array, sharding, key_impl)
    placed = jax.device_put(np.array(array))
    if key_impl is not None:
        placed = jax.random.wrap_key_data(placed, impl=key_impl)
    elif getattr(like, "weak_type", False):
        # A dtype that gives way in promotions is part of the program; only an update in place keeps it.
        placed = jnp.zeros_like(like).at[...].set(placed)
    committed = getattr(like, "committed", True) and sharding is not None
    return jax.device_put(placed, sharding) if committed else placed


def _on_mesh(array: np.ndarray, sharding: NamedSharding, key_impl: str | None) -> jax.Array:
    """The restored array, each device's part alone on it."""
    array = np.array(array)  # of its own: on a CPU the device's array may be the host's memory
    spec = (*sharding.spec, *[None] * (array.ndim - len(sharding.spec)))  # a key's data has one axis more
    parts = NamedSharding(sharding.mesh, PartitionSpec(*spec))
    placed = jax.make_array_from_callback(array.shape, parts, lambda index: array[index])
    return placed if key_impl is None else jax.random.wrap_key_data(placed, impl=key_impl)


def first_difference(saved: Mapping[str, str], wanted: Mapping[str, str]) -> str | None:
    """Where the kinds of leaves differ, None if they do not."""
    for name, kind in wanted.items():
        if name not in saved:
            return f"state{name} is {kind} here and not in the checkpoint"
        if saved[name] != kind:
            return f"state{name} is {kind} here and {saved[name]} in the checkpoint"
    for name, kind in saved.items():
        if name not in wanted:
            return f"state{name} is {kind} in the checkpoint and not here"
    return None
