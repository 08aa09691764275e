"""What tracing alone proves: attributes, shapes and dtypes, and that nothing leaks or goes through the host."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from envs_jax.check.errors import WorldError, require
from envs_jax.world import PLACE, Slot, Step, World, action_shape

LARGEST_STATE = 2**24  # bytes; there is one for every world, and hundreds of them in `check` itself


def check_attributes(world: Any) -> None:
    """All that the contract names is there, and well-formed."""
    needed = (*World.__annotations__, *(name for name in methods_of(world) if name != "sample"))
    missing = [name for name in needed if not hasattr(world, name)]
    require(not missing, f"{type(world).__name__} lacks {', '.join(missing)} of envs_jax.World")

    def texts(field: str, least: int) -> None:
        value = getattr(world, field)
        ok = isinstance(value, tuple) and all(isinstance(item, str) and item for item in value)
        require(
            ok and len(value) >= least and len(set(value)) == len(value),
            f"{field} is {value!r}; accepted: a tuple of at least {least} different non-empty texts",
        )

    texts("actions", 1)
    texts("phrases", 0)
    for field in ("name", "instruction"):
        value = getattr(world, field)
        require(isinstance(value, str) and value, f"{field} is {value!r}; accepted: a non-empty text")
    shape = world.image_shape
    ok = isinstance(shape, tuple) and len(shape) == 3 and all(isinstance(n, int) and n > 0 for n in shape)
    require(ok and shape[2] == 3, f"image_shape is {shape!r}; accepted: (height, width, 3)")
    steps = world.max_steps
    require(isinstance(steps, int) and steps > 0, f"max_steps is {steps!r}; accepted: a positive int")
    slots = getattr(world, "slots", {})
    if not slots:
        return
    require(
        isinstance(slots, Mapping) and all(isinstance(slot, Slot) for slot in slots.values()),
        f"slots is {slots!r}; accepted: a mapping from names to Slots",
    )
    used = {name for action in world.actions for name in PLACE.findall(action)}
    require(
        used == set(slots), f"actions have places {sorted(used)}, slots are {sorted(slots)}; accepted: the same"
    )
    require(hasattr(world, "sample"), f"{type(world).__name__} has slots and lacks sample; see envs_jax.World")


def methods_of(world: Any) -> dict[str, Callable]:
    """Every method as a function of (state, action, key)."""
    own = {"sample": lambda state, action, key: world.sample(state, key)} if getattr(world, "slots", None) else {}
    return own | {
        "reset": lambda state, action, key: world.reset(key),
        "step": lambda state, action, key: world.step(state, action),
        "render": lambda state, action, key: world.render(state),
        "describe": lambda state, action, key: world.describe(state),
        "admissible": lambda state, action, key: world.admissible(state),
        "expert": lambda state, action, key: world.expert(state, key),
        "explain": lambda state, action, key: world.explain(state),
    }


def _spec(leaf: Any) -> tuple:
    return leaf.shape, str(leaf.dtype), bool(getattr(leaf, "weak_type", False))


def _same_structure(one: Any, two: Any) -> str | None:
    """None if two pytrees agree in structure, shapes and dtypes; else where they differ."""
    if jax.tree.structure(one) != jax.tree.structure(two):
        return "the tree structure"
    for (path, a), (_, b) in zip(
        jax.tree_util.tree_leaves_with_path(one), jax.tree_util.tree_leaves_with_path(two), strict=True
    ):
        if _spec(a) != _spec(b):
            return f"{jax.tree_util.keystr(path)}: {_spec(a)} against {_spec(b)} (shape, dtype, weak)"
    return None


def check_signatures(world: World, key: jax.Array) -> None:
    """Shapes and dtypes of everything, by tracing alone."""
    state = _traced(world, "reset", lambda: jax.eval_shape(world.reset, key))
    for field, kind in (("key", "a random key"), ("steps", "int32[]")):
        require(hasattr(state, field), f"reset: State has no {field!r}; accepted: {kind}")
    _due("reset: State.steps", state.steps, (), "int32")
    is_key = jnp.issubdtype(state.key.dtype, jax.dtypes.prng_key) and state.key.shape == ()
    is_raw = _spec(state.key)[:2] == ((2,), "uint32")
    require(is_key or is_raw, f"reset: State.key is {_spec(state.key)}; accepted: one random key")
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    require(size <= LARGEST_STATE, f"reset: State has {size} bytes; accepted: at most {LARGEST_STATE}")

    action = jax.ShapeDtypeStruct(action_shape(world), jnp.int32)
    results = {"reset": state}
    for name, method in methods_of(world).items():
        if name != "reset":
            results[name] = _traced(world, name, lambda m=method: jax.eval_shape(m, state, action, key))
    for name, result in results.items():
        for path, leaf in jax.tree_util.tree_leaves_with_path(result):
            where = name + jax.tree_util.keystr(path)
            require(not _spec(leaf)[2], f"{where} is weakly typed; accepted: an array, such as jnp.int32(0)")

    pair = results["step"]
    require(isinstance(pair, tuple) and len(pair) == 2, "step does not return (state, Step)")
    difference = _same_structure(state, pair[0])
    require(difference is None, f"step returns another kind of State than reset: they differ in {difference}")
    step = pair[1]
    require(isinstance(step, Step), f"step returns a {type(step).__name__} where a Step is due")
    _due("step: Step.reward", step.reward, (), "float32")
    for field in ("terminated", "truncated", "success"):
        _due(f"step: Step.{field}", getattr(step, field), (), "bool")
    _due("render", results["render"], world.image_shape, "uint8")
    _due("admissible", results["admissible"], (len(world.actions),), "bool")
    for name in ("expert", "sample"):
        if name in results:
            _due(name, results[name], action_shape(world), "int32")
    _due("describe", results["describe"], None, "int32")
    _due("explain", results["explain"], None, "int32")


def _due(what: str, result: Any, shape: tuple | None, dtype: str) -> None:
    """Requires one array of a shape (None: any with one axis) and a dtype."""
    accepted = f"{dtype}{list(shape) if shape is not None else ['n']}"
    require(hasattr(result, "dtype"), f"{what} is a {type(result).__name__}; accepted: {accepted}")
    fits = str(result.dtype) == dtype and (result.shape == shape if shape is not None else result.ndim == 1)
    require(fits, f"{what} is {result.dtype}{list(result.shape)}; accepted: {accepted}")


def _traced(world: World, name: str, call: Callable[[], Any]) -> Any:
    before = dict(getattr(world, "__dict__", {}))
    try:
        with jax.checking_leaks():
            result = call()
    except Exception as error:
        raise WorldError(f"{name} cannot be traced: {type(error).__name__}: {error}") from error
    # A new attribute may be a cached property; one that is bound anew is state outside the State.
    changed = [field for field, value in before.items() if getattr(world, "__dict__", {}).get(field) is not value]
    require(not changed, f"{name} is not pure: it changes the world's attribute {', '.join(changed)}")
    return result


def equations(jaxpr: Any) -> Iterator[Any]:
    """All equations of a jaxpr and of the jaxprs within it."""
    for equation in jaxpr.eqns:
        yield equation
        for value in jax.tree.leaves(equation.params, is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from equations(inner)


def check_no_callbacks(world: World, key: jax.Array) -> None:
    """No method has side effects or calls the host."""
    state = jax.eval_shape(world.reset, key)
    for name, method in methods_of(world).items():
        jaxpr = jax.make_jaxpr(method)(state, jax.ShapeDtypeStruct(action_shape(world), jnp.int32), key)
        for equation in equations(jaxpr.jaxpr):
            primitive = equation.primitive.name
            host = any(word in primitive for word in ("callback", "debug_print", "infeed", "outfeed"))
            require(not host, f"{name} goes through the host: its jaxpr holds {primitive}")
        require(not jaxpr.effects, f"{name} has side effects: {sorted(map(str, jaxpr.effects))}")
