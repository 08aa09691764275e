"""What a few reached states prove: methods are pure, vmap is a loop, and any int32 is a legal action."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from envs_jax.check.errors import require
from envs_jax.check.traces import methods_of
from envs_jax.world import INVALID, World, invalid_action, is_action, random_action, slots_of

_LEAST, _GREATEST = np.iinfo(np.int32).min, np.iinfo(np.int32).max
# vmap may order float operations differently; a ray that just grazes an edge may then see the other side of it.
_FLOAT_TOLERANCE = 1e-4
_PIXEL_TOLERANCE, _PIXEL_SHARE = 2, 0.002


def reached_states(world: World, key: jax.Array, count: int) -> tuple[Any, jax.Array]:
    """States after 0, 1, 2, ... random actions, and an action for each: leaves [count, ...]."""
    reset_key, action_key = jax.random.split(key)
    actions = draw(world, action_key, (count, count))

    def walk(key, drawn, length):
        def body(state, item):
            drawn, now = item
            action = drawn_action(world, state, drawn)
            moved, _ = world.step(state, action)
            return jax.tree.map(lambda a, b: jnp.where(now, a, b), moved, state), action

        state, taken = jax.lax.scan(body, world.reset(key), (drawn, jnp.arange(count) < length))
        return state, taken[-1]

    return jax.jit(jax.vmap(walk))(jax.random.split(reset_key, count), actions, jnp.arange(count))


def draw(world: World, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """What random play draws beforehand: actions, or keys where only the state tells which there are."""
    if slots_of(world):
        return jax.random.split(key, shape)
    return jax.random.randint(key, shape, 0, len(world.actions), jnp.int32)


def drawn_action(world: World, state: Any, drawn: jax.Array) -> jax.Array:
    """The action that comes of what `draw` gave."""
    return random_action(world, state, drawn) if slots_of(world) else drawn


def _everything(world: World) -> Callable:
    """All methods in one function of (state, action, key), made anew: jit never finds an old trace."""
    return lambda state, action, key: {name: call(state, action, key) for name, call in methods_of(world).items()}


def check_pure_and_vectorised(world: World, key: jax.Array, states: Any, actions: jax.Array) -> None:
    """Two fresh traces agree, and vmap agrees with a Python loop; floats up to rounding."""
    keys = jax.random.split(key, len(actions))
    each = [jax.tree.map(lambda x, i=i: x[i], (states, actions, keys)) for i in range(len(actions))]
    first, second = jax.jit(_everything(world)), jax.jit(_everything(world))
    loop = [first(*arguments) for arguments in each]
    again = [second(*arguments) for arguments in each]
    vectorised = jax.jit(jax.vmap(_everything(world)))(states, actions, keys)
    for i, single in enumerate(loop):
        lane = jax.tree.map(lambda x, i=i: x[i], vectorised)
        for name, result in single.items():
            worst = _worst(result, again[i][name])
            require(
                worst is None,
                f"{name} is not pure: traced again it gives another result for the same arguments: {worst}",
            )
            worst = _worst(result, lane[name], image=name == "render")
            require(worst is None, f"{name} under vmap differs from a Python loop over single worlds: {worst}")
    started = vectorised["reset"]
    require(not _array(started.steps).any(), "reset: State.steps is not 0")
    for method, state, what in (
        ("reset", started, "resets with different keys"),
        ("step", vectorised["step"][0], "steps in different episodes"),
    ):
        different = {row.tobytes() for row in _array(state.key)}
        require(len(different) == len(keys), f"{method}: State.key is the same after {what}")


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


def check_total(world: World, states: Any) -> None:
    """Any int32 is a legal action in states [n, ...]: finite, counted, and unknown ids equal INVALID."""
    actions, unknown = (_any_records if slots_of(world) else _any_ids)(world, states)
    step = jax.jit(jax.vmap(jax.vmap(world.step, (None, 0)), (0, None)))
    after, result = step(states, jnp.asarray(actions))  # [n, actions]
    for name, tree in (("State", after), ("Step", result)):
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            if jnp.issubdtype(leaf.dtype, jnp.floating):
                bad = ~np.isfinite(np.asarray(leaf)).reshape(*leaf.shape[:2], -1).all(axis=(0, 2))
                where = f"{name}{jax.tree_util.keystr(path)}"
                require(not bad.any(), f"step with action {actions[bad].tolist()} makes {where} not finite")
    counted = (np.asarray(after.steps) == np.asarray(states.steps)[:, None] + 1).all(axis=0)
    require(
        counted.all(),
        f"step with action {actions[~counted].tolist()} does not add 1 to State.steps (invalid ones count, too)",
    )
    for i in range(1, unknown):
        worst = _worst(
            jax.tree.map(lambda x: x[:, 0], (after, result)),
            jax.tree.map(lambda x, i=i: x[:, i], (after, result)),
        )
        said = actions[i].tolist()
        require(worst is None, f"step with action {said} does not do what INVALID does: {worst}")


def _any_ids(world: World, states: Any) -> tuple[np.ndarray, int]:
    """(int32[m], how many of them, at first, are not actions); INVALID comes first."""
    known, near = len(world.actions), np.arange(8)
    anywhere = np.random.default_rng(0).integers(known, _GREATEST, 8)
    unknown = [INVALID, *(-2 - near), *(known + near), *anywhere, *-anywhere, _LEAST, _GREATEST]
    return np.array([*unknown, *range(known)], np.int32), len(unknown)


def _any_records(world: World, states: Any) -> tuple[np.ndarray, int]:
    """Records as `_any_ids` has ids: actions that are admissible, every place of them changed, and any numbers."""
    rng = np.random.default_rng(0)
    count = len(jax.tree.leaves(states)[0])
    keys = jax.random.split(jax.random.key(0), (4, count))
    each = jax.jit(jax.vmap(jax.vmap(world.sample), (None, 0)))
    known = np.asarray(each(states, keys)).reshape(4 * count, -1)
    most = max(len(world.actions), *(len(slot.words) for slot in slots_of(world).values()))
    edges = np.array([INVALID, -2, 0, *range(most - 1, most + 2), _LEAST, _GREATEST])
    one = np.repeat(known, known.shape[1], axis=0)  # every record with every place changed in turn
    places = np.tile(np.arange(known.shape[1]), len(known))
    one[np.arange(len(one)), places] = rng.choice(edges, len(one))
    anything = rng.integers(_LEAST, _GREATEST, (16, known.shape[1]), endpoint=True)
    near = rng.integers(-2, most + 2, (64, known.shape[1]))
    near[:, 0] = rng.integers(-2, len(world.actions) + 2, 64)
    records = np.unique(np.concatenate([known, one, anything, near]).astype(np.int32), axis=0)
    right = np.asarray(jax.vmap(lambda record: is_action(world, record))(jnp.asarray(records)))
    wrong = np.concatenate([invalid_action(world)[None], records[~right]])
    return np.concatenate([wrong, records[right]]), len(wrong)
