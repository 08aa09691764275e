"""Proves that a world keeps the contract of `envs_jax.World`, or says what is broken.

    report = envs_jax.check(world)      # raises WorldError, naming the method and what it did
    report.expert_success, report.random_success

What is proven, on random states reached by random actions:

* attributes are well-formed, and every method has static shapes and the declared dtypes;
* methods are pure: two fresh traces give the same program's results, nothing leaks, no jaxpr holds a callback;
* `jax.vmap` gives what a Python loop gives;
* any int32 is a legal action: unknown ids do what INVALID does, every number stays finite;
* every episode ends within `max_steps`, and the state counts its steps and carries its key;
* the scripted expert beats uniformly random actions beyond chance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from envs_jax.world import INVALID, Step, World

_EXTREMES = (INVALID, -2, np.iinfo(np.int32).min, np.iinfo(np.int32).max)
# vmap may order float operations differently; a ray that just grazes an edge may then see the other side of it.
_FLOAT_TOLERANCE = 1e-4
_PIXEL_TOLERANCE, _PIXEL_SHARE = 2, 0.002


class WorldError(AssertionError):
    """A world breaks its contract; the message says where and how."""


@dataclass(frozen=True)
class Report:
    """What `check` measured over `episodes` fresh episodes each.

    Attributes:
      expert_success, random_success: share of episodes with a successful step, 0..1.
      expert_steps, random_steps: mean length of an episode, failures counted with the steps they took.
    """

    name: str
    episodes: int
    expert_success: float
    random_success: float
    expert_steps: float
    random_steps: float


def check(world: World, seed: int = 0, episodes: int = 128, states: int = 6) -> Report:
    """Proves the contract on examples; takes a few compilations of each method.

    Args:
      world: the world to check.
      seed: of all randomness here.
      episodes: how many the expert and the random policy play each; too few may not tell them apart.
      states: how many reached states each property is examined on.

    Raises:
      WorldError: naming what is broken.
    """
    _attributes(world)
    key = jax.random.key(seed)
    shapes = _signatures(world, key)
    _no_callbacks(world, key)
    reached, actions = _reached_states(world, jax.random.fold_in(key, 1), states)
    _pure_and_vectorised(world, key, reached, actions)
    _values(world, reached, shapes)
    _total(world, reached)
    return _episodes(world, jax.random.fold_in(key, 2), episodes)


def _require(condition: Any, message: str) -> None:
    if not condition:
        raise WorldError(message)


def _attributes(world: World) -> None:
    _require(isinstance(world, World), f"{type(world).__name__} lacks an attribute or method of envs_jax.World")

    def texts(field: str, least: int) -> None:
        value = getattr(world, field)
        ok = isinstance(value, tuple) and all(isinstance(item, str) and item for item in value)
        _require(
            ok and len(value) >= least and len(set(value)) == len(value),
            f"{field} is {value!r}; accepted: a tuple of at least {least} different non-empty texts",
        )

    texts("actions", 1)
    texts("phrases", 0)
    for field in ("name", "instruction"):
        value = getattr(world, field)
        _require(isinstance(value, str) and value, f"{field} is {value!r}; accepted: a non-empty text")
    shape = world.image_shape
    ok = isinstance(shape, tuple) and len(shape) == 3 and all(isinstance(n, int) and n > 0 for n in shape)
    _require(ok and shape[2] == 3, f"image_shape is {shape!r}; accepted: (height, width, 3)")
    steps = world.max_steps
    _require(isinstance(steps, int) and steps > 0, f"max_steps is {steps!r}; accepted: a positive int")


def _methods(world: World) -> dict[str, Callable]:
    """Every method as a function of (state, action, key), made anew: jit never finds an old trace."""
    return {
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


def _signatures(world: World, key: jax.Array) -> dict[str, Any]:
    """Shapes and dtypes of everything, by tracing alone: {method: its abstract result}."""
    state = _traced("reset", lambda: jax.eval_shape(world.reset, key))
    for field, kind in (("key", "a random key"), ("steps", "int32[]")):
        _require(hasattr(state, field), f"State has no {field!r}; accepted: {kind}")
    _require(_spec(state.steps)[:2] == ((), "int32"), f"State.steps is {_spec(state.steps)}; accepted: int32[]")
    is_key = jnp.issubdtype(state.key.dtype, jax.dtypes.prng_key) and state.key.shape == ()
    is_raw = _spec(state.key)[:2] == ((2,), "uint32")
    _require(is_key or is_raw, f"State.key is {_spec(state.key)}; accepted: one random key")

    action = jax.ShapeDtypeStruct((), jnp.int32)
    results = {"reset": state}
    for name, method in _methods(world).items():
        if name != "reset":
            results[name] = _traced(name, lambda m=method: jax.eval_shape(m, state, action, key))

    _require(
        isinstance(results["step"], tuple) and len(results["step"]) == 2, "step does not return (state, Step)"
    )
    difference = _same_structure(state, results["step"][0])
    _require(difference is None, f"step returns another kind of State than reset: they differ in {difference}")
    step = results["step"][1]
    _require(isinstance(step, Step), f"step returns a {type(step).__name__} where a Step is due")
    for field, dtype in {
        "reward": "float32",
        "terminated": "bool",
        "truncated": "bool",
        "success": "bool",
    }.items():
        spec = _spec(getattr(step, field))
        _require(spec[:2] == ((), dtype), f"Step.{field} is {spec}; accepted: {dtype}[]")

    def due(name: str, shape: tuple | None, dtype: str) -> None:
        spec = _spec(results[name])
        fits = spec[1] == dtype and (spec[0] == shape if shape is not None else len(spec[0]) == 1)
        _require(fits, f"{name} returns {spec[1]}{list(spec[0])}; accepted: {dtype}{list(shape or ('n',))}")

    due("render", world.image_shape, "uint8")
    due("admissible", (len(world.actions),), "bool")
    _require(
        _spec(results["expert"])[:2] == ((), "int32"),
        f"expert returns {_spec(results['expert'])}, not int32[]",
    )
    due("describe", None, "int32")
    due("explain", None, "int32")
    return results


def _traced(name: str, call: Callable[[], Any]) -> Any:
    try:
        with jax.checking_leaks():
            return call()
    except Exception as error:
        raise WorldError(f"{name} cannot be traced: {type(error).__name__}: {error}") from error


def _equations(jaxpr: Any) -> Iterator[Any]:
    """All equations of a jaxpr and of the jaxprs within it."""
    for equation in jaxpr.eqns:
        yield equation
        for value in jax.tree.leaves(equation.params, is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from _equations(inner)


def _no_callbacks(world: World, key: jax.Array) -> None:
    state = jax.eval_shape(world.reset, key)
    for name, method in _methods(world).items():
        jaxpr = jax.make_jaxpr(method)(state, jax.ShapeDtypeStruct((), jnp.int32), key)
        for equation in _equations(jaxpr.jaxpr):
            primitive = equation.primitive.name
            host = any(word in primitive for word in ("callback", "debug_print", "infeed", "outfeed"))
            _require(not host, f"{name} goes through the host: its jaxpr holds {primitive}")
        _require(not jaxpr.effects, f"{name} has side effects: {sorted(map(str, jaxpr.effects))}")


def _reached_states(world: World, key: jax.Array, count: int) -> tuple[Any, jax.Array]:
    """States after 0, 1, 2, ... random actions, and an action for each: leaves [count, ...]."""
    reset_key, action_key = jax.random.split(key)
    actions = jax.random.randint(action_key, (count, count), 0, len(world.actions), jnp.int32)

    def walk(key, actions, length):
        def body(state, item):
            action, now = item
            moved, _ = world.step(state, action)
            return jax.tree.map(lambda a, b: jnp.where(now, a, b), moved, state), None

        return jax.lax.scan(body, world.reset(key), (actions, jnp.arange(count) < length))[0]

    walked = jax.jit(jax.vmap(walk))(jax.random.split(reset_key, count), actions, jnp.arange(count))
    return walked, actions[:, -1]


def _pure_and_vectorised(world: World, key: jax.Array, states: Any, actions: jax.Array) -> None:
    """Two fresh traces agree to the bit; vmap agrees with a Python loop up to rounding."""
    count = len(actions)
    keys = jax.random.split(jax.random.fold_in(key, 3), count)
    each = [jax.tree.map(lambda x, i=i: x[i], (states, actions, keys)) for i in range(count)]
    for (name, once), again in zip(_methods(world).items(), _methods(world).values(), strict=True):
        first, second = jax.jit(once), jax.jit(again)
        loop = [first(*arguments) for arguments in each]
        repeated = [second(*arguments) for arguments in each]
        _require(
            all(_worst(a, b) is None for a, b in zip(loop, repeated, strict=True)),
            f"{name} is not pure: traced a second time it gives other results for the same arguments",
        )
        vectorised = jax.jit(jax.vmap(again))(states, actions, keys)
        for i, result in enumerate(loop):
            worst = _worst(result, jax.tree.map(lambda x, i=i: x[i], vectorised), name == "render")
            _require(worst is None, f"{name} under vmap differs from a Python loop over single worlds: {worst}")


def _worst(one: Any, two: Any, image: bool = False) -> str | None:
    """None if two results agree (images and floats up to rounding), else where they do not."""
    for (path, a), (_, b) in zip(
        jax.tree_util.tree_leaves_with_path(one), jax.tree_util.tree_leaves_with_path(two), strict=True
    ):
        a, b = _array(a), _array(b)
        if image:
            share = np.mean(np.abs(a.astype(int) - b.astype(int)) > _PIXEL_TOLERANCE)
            agree = share <= _PIXEL_SHARE
        elif np.issubdtype(a.dtype, np.floating):
            agree = np.allclose(a, b, rtol=_FLOAT_TOLERANCE, atol=_FLOAT_TOLERANCE, equal_nan=True)
        else:
            agree = np.array_equal(a, b)
        if not agree:
            return f"{jax.tree_util.keystr(path) or 'the result'} is {a} against {b}"
    return None


def _array(leaf: Any) -> np.ndarray:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return np.asarray(leaf)


def _values(world: World, states: Any, shapes: dict[str, Any]) -> None:
    """Ids within range, counters right, nothing NaN, on states [n, ...]."""
    keys = jax.random.split(jax.random.key(0), len(states.steps))
    for name in ("describe", "explain"):
        ids = np.asarray(jax.jit(jax.vmap(getattr(world, name)))(states))
        ok = np.all((ids >= -1) & (ids < len(world.phrases)))
        _require(ok, f"{name} gives phrase id {ids.min()}..{ids.max()}; accepted: -1..{len(world.phrases) - 1}")
    actions = np.asarray(jax.jit(jax.vmap(world.expert))(states, keys))
    _require(
        np.all((actions >= 0) & (actions < len(world.actions))),
        f"expert gives action {actions.min()}..{actions.max()}; accepted: 0..{len(world.actions) - 1}",
    )
    resets = jax.jit(jax.vmap(world.reset))(jax.random.split(jax.random.key(1), 4))
    _require(np.all(np.asarray(resets.steps) == 0), "State.steps is not 0 after reset")
    carried = _array(resets.key)
    _require(
        len({row.tobytes() for row in carried}) == len(carried),
        "State.key is the same after different resets",
    )


def _total(world: World, states: Any) -> None:
    """Any int32 is a legal action in states [n, ...]: finite, counted, and unknown ids equal INVALID."""
    unknown = jnp.array([*_EXTREMES, len(world.actions)], jnp.int32)
    known = jnp.arange(len(world.actions), dtype=jnp.int32)
    actions = jnp.concatenate([unknown, known])
    step = jax.jit(jax.vmap(jax.vmap(world.step, (None, 0)), (0, None)))
    after, result = step(states, actions)  # [n, actions]
    for name, tree in (("State", after), ("Step", result)):
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            if jnp.issubdtype(leaf.dtype, jnp.floating):
                bad = ~np.isfinite(np.asarray(leaf)).reshape(*leaf.shape[:2], -1).all(axis=(0, 2))
                where = f"{name}{jax.tree_util.keystr(path)}"
                _require(not bad.any(), f"step with action {np.asarray(actions)[bad]} makes {where} not finite")
    _require(
        np.array_equal(np.asarray(after.steps), np.asarray(states.steps)[:, None] + np.ones(len(actions), int)),
        "State.steps does not grow by 1 in every step (invalid actions cost a step too)",
    )
    for i in range(1, len(unknown)):
        worst = _worst(
            jax.tree.map(lambda x: x[:, 0], (after, result)),
            jax.tree.map(lambda x, i=i: x[:, i], (after, result)),
        )
        _require(worst is None, f"action id {int(unknown[i])} does not do what INVALID does: {worst}")


def _play(world: World, policy: Callable, key: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """One episode: (succeeded bool[], ended bool[], length int32[]); `policy(state, key) -> action`."""
    reset_key, key = jax.random.split(key)

    def body(carry, key):
        state, succeeded, ended, length = carry
        state, step = world.step(state, policy(state, key))
        length = length + jnp.where(ended, 0, 1)
        succeeded = succeeded | (step.success & ~ended)
        return (state, succeeded, ended | step.terminated | step.truncated, length), None

    start = (world.reset(reset_key), jnp.bool_(False), jnp.bool_(False), jnp.int32(0))
    (_, succeeded, ended, length), _ = jax.lax.scan(body, start, jax.random.split(key, world.max_steps))
    return succeeded, ended, length


def _episodes(world: World, key: jax.Array, episodes: int) -> Report:
    """Plays whole episodes with the expert and with random actions, and compares them."""

    def uniform(state, key):
        return jax.random.randint(key, (), 0, len(world.actions), jnp.int32)

    outcome = {}
    for number, (name, policy) in enumerate((("expert", world.expert), ("random", uniform))):
        keys = jax.random.split(jax.random.fold_in(key, number), episodes)
        success, ended, length = map(np.asarray, jax.jit(jax.vmap(partial(_play, world, policy)))(keys))
        _require(
            ended.all(), f"{np.sum(~ended)} of {episodes} episodes run on after max_steps = {world.max_steps}"
        )
        outcome[name] = success.astype(float), length.astype(float)
    (expert, expert_steps), (chance, chance_steps) = outcome["expert"], outcome["random"]
    report = Report(
        name=world.name,
        episodes=episodes,
        expert_success=float(expert.mean()),
        random_success=float(chance.mean()),
        expert_steps=float(expert_steps.mean()),
        random_steps=float(chance_steps.mean()),
    )
    # Where chance alone nearly always succeeds in the end, the expert must at least be quicker.
    better = _beyond_chance(expert, chance)
    quicker = expert.mean() >= chance.mean() and _beyond_chance(-expert_steps, -chance_steps)
    _require(
        better or quicker,
        f"the expert does not beat random actions: success {report.expert_success:.2f} against "
        f"{report.random_success:.2f}, {report.expert_steps:.1f} against {report.random_steps:.1f} steps "
        f"in {episodes} episodes each",
    )
    return report


def _beyond_chance(ours: np.ndarray, theirs: np.ndarray) -> bool:
    """True if the mean of `ours` is greater by three standard errors of the difference (Welch)."""
    # Half an episode of doubt, so that a rate of exactly 0 or 1 does not claim to be certain.
    doubt = 0.5 * (np.ptp(np.concatenate([ours, theirs])) / len(ours)) ** 2
    error = np.sqrt(ours.var() / len(ours) + theirs.var() / len(theirs) + doubt)
    return bool(ours.mean() - theirs.mean() > 3 * error)
