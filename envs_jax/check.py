"""Proves that a world keeps the contract of `envs_jax.World`, or says what is broken.

    report = envs_jax.check(world)      # raises WorldError, naming the method and what it did
    report.expert_success, report.random_success

What is proven, on a few states reached by random actions and in many whole episodes:

* attributes are well-formed, and every method has static shapes and the declared dtypes, none of them weak;
* methods are pure: two fresh traces give the same results, nothing leaks, the world's own attributes stay, no
  jaxpr holds a callback;
* `jax.vmap` gives what a Python loop gives;
* any int32 is a legal action: unknown ids do what INVALID does, every number stays finite; of a record, any
  int32 in any place, and what is not exactly an action (`is_action`) does what INVALID does;
* what a world with slots samples, and its expert does, are actions, and what it samples is admissible;
* every episode ends within `max_steps`, the state counts its steps and carries its key, ids stay in range;
* the scripted expert beats uniformly random actions beyond chance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from envs_jax.world import (
    INVALID,
    PLACE,
    Slot,
    Step,
    World,
    action_shape,
    invalid_action,
    is_action,
    random_action,
    slots_of,
)

_LEAST, _GREATEST = np.iinfo(np.int32).min, np.iinfo(np.int32).max
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
    """Proves the contract on examples; takes half a dozen compilations.

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
    _signatures(world, key)
    _no_callbacks(world, key)
    reached, actions = _reached_states(world, jax.random.fold_in(key, 1), states)
    _pure_and_vectorised(world, jax.random.fold_in(key, 3), reached, actions)
    _total(world, reached)
    return _episodes(world, jax.random.fold_in(key, 2), episodes)


def _require(condition: Any, message: str) -> None:
    if not condition:
        raise WorldError(message)


def _attributes(world: Any) -> None:
    needed = (*World.__annotations__, *(name for name in _methods(world) if name != "sample"))
    missing = [name for name in needed if not hasattr(world, name)]
    _require(not missing, f"{type(world).__name__} lacks {', '.join(missing)} of envs_jax.World")

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
    slots = getattr(world, "slots", {})
    if not slots:
        return
    _require(
        isinstance(slots, Mapping) and all(isinstance(slot, Slot) for slot in slots.values()),
        f"slots is {slots!r}; accepted: a mapping from names to Slots",
    )
    used = {name for action in world.actions for name in PLACE.findall(action)}
    _require(
        used == set(slots), f"actions have places {sorted(used)}, slots are {sorted(slots)}; accepted: the same"
    )
    _require(hasattr(world, "sample"), f"{type(world).__name__} has slots and lacks sample; see envs_jax.World")


def _methods(world: Any) -> dict[str, Callable]:
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


def _everything(world: World) -> Callable:
    """All methods in one function of (state, action, key), made anew: jit never finds an old trace."""
    return lambda state, action, key: {name: call(state, action, key) for name, call in _methods(world).items()}


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


def _signatures(world: World, key: jax.Array) -> None:
    """Shapes and dtypes of everything, by tracing alone."""
    state = _traced(world, "reset", lambda: jax.eval_shape(world.reset, key))
    for field, kind in (("key", "a random key"), ("steps", "int32[]")):
        _require(hasattr(state, field), f"reset: State has no {field!r}; accepted: {kind}")
    _due("reset: State.steps", state.steps, (), "int32")
    is_key = jnp.issubdtype(state.key.dtype, jax.dtypes.prng_key) and state.key.shape == ()
    is_raw = _spec(state.key)[:2] == ((2,), "uint32")
    _require(is_key or is_raw, f"reset: State.key is {_spec(state.key)}; accepted: one random key")

    action = jax.ShapeDtypeStruct(action_shape(world), jnp.int32)
    results = {"reset": state}
    for name, method in _methods(world).items():
        if name != "reset":
            results[name] = _traced(world, name, lambda m=method: jax.eval_shape(m, state, action, key))
    for name, result in results.items():
        for path, leaf in jax.tree_util.tree_leaves_with_path(result):
            where = name + jax.tree_util.keystr(path)
            _require(not _spec(leaf)[2], f"{where} is weakly typed; accepted: an array, such as jnp.int32(0)")

    pair = results["step"]
    _require(isinstance(pair, tuple) and len(pair) == 2, "step does not return (state, Step)")
    difference = _same_structure(state, pair[0])
    _require(difference is None, f"step returns another kind of State than reset: they differ in {difference}")
    step = pair[1]
    _require(isinstance(step, Step), f"step returns a {type(step).__name__} where a Step is due")
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
    _require(hasattr(result, "dtype"), f"{what} is a {type(result).__name__}; accepted: {accepted}")
    fits = str(result.dtype) == dtype and (result.shape == shape if shape is not None else result.ndim == 1)
    _require(fits, f"{what} is {result.dtype}{list(result.shape)}; accepted: {accepted}")


def _traced(world: World, name: str, call: Callable[[], Any]) -> Any:
    before = dict(getattr(world, "__dict__", {}))
    try:
        with jax.checking_leaks():
            result = call()
    except Exception as error:
        raise WorldError(f"{name} cannot be traced: {type(error).__name__}: {error}") from error
    # A new attribute may be a cached property; one that is bound anew is state outside the State.
    changed = [field for field, value in before.items() if getattr(world, "__dict__", {}).get(field) is not value]
    _require(not changed, f"{name} is not pure: it changes the world's attribute {', '.join(changed)}")
    return result


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
        jaxpr = jax.make_jaxpr(method)(state, jax.ShapeDtypeStruct(action_shape(world), jnp.int32), key)
        for equation in _equations(jaxpr.jaxpr):
            primitive = equation.primitive.name
            host = any(word in primitive for word in ("callback", "debug_print", "infeed", "outfeed"))
            _require(not host, f"{name} goes through the host: its jaxpr holds {primitive}")
        _require(not jaxpr.effects, f"{name} has side effects: {sorted(map(str, jaxpr.effects))}")


def _reached_states(world: World, key: jax.Array, count: int) -> tuple[Any, jax.Array]:
    """States after 0, 1, 2, ... random actions, and an action for each: leaves [count, ...]."""
    reset_key, action_key = jax.random.split(key)
    actions = _drawn(world, action_key, (count, count))

    def walk(key, drawn, length):
        def body(state, item):
            drawn, now = item
            action = _action(world, state, drawn)
            moved, _ = world.step(state, action)
            return jax.tree.map(lambda a, b: jnp.where(now, a, b), moved, state), action

        state, taken = jax.lax.scan(body, world.reset(key), (drawn, jnp.arange(count) < length))
        return state, taken[-1]

    return jax.jit(jax.vmap(walk))(jax.random.split(reset_key, count), actions, jnp.arange(count))


def _drawn(world: World, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """What random play draws beforehand: actions, or keys where only the state tells which there are."""
    if slots_of(world):
        return jax.random.split(key, shape)
    return jax.random.randint(key, shape, 0, len(world.actions), jnp.int32)


def _action(world: World, state: Any, drawn: jax.Array) -> jax.Array:
    """The action that came of one of `_drawn`."""
    return random_action(world, state, drawn) if slots_of(world) else drawn


def _pure_and_vectorised(world: World, key: jax.Array, states: Any, actions: jax.Array) -> None:
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
            _require(
                worst is None,
                f"{name} is not pure: traced again it gives another result for the same arguments: {worst}",
            )
            worst = _worst(result, lane[name], image=name == "render")
            _require(worst is None, f"{name} under vmap differs from a Python loop over single worlds: {worst}")
    started = vectorised["reset"]
    _require(not _array(started.steps).any(), "reset: State.steps is not 0")
    _require(
        len({row.tobytes() for row in _array(started.key)}) == len(keys),
        "reset: State.key is the same after resets with different keys",
    )


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


def _total(world: World, states: Any) -> None:
    """Any int32 is a legal action in states [n, ...]: finite, counted, and unknown ids equal INVALID."""
    actions, unknown = (_any_records if slots_of(world) else _any_ids)(world, states)
    step = jax.jit(jax.vmap(jax.vmap(world.step, (None, 0)), (0, None)))
    after, result = step(states, jnp.asarray(actions))  # [n, actions]
    for name, tree in (("State", after), ("Step", result)):
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            if jnp.issubdtype(leaf.dtype, jnp.floating):
                bad = ~np.isfinite(np.asarray(leaf)).reshape(*leaf.shape[:2], -1).all(axis=(0, 2))
                where = f"{name}{jax.tree_util.keystr(path)}"
                _require(not bad.any(), f"step with action {actions[bad].tolist()} makes {where} not finite")
    counted = (np.asarray(after.steps) == np.asarray(states.steps)[:, None] + 1).all(axis=0)
    _require(
        counted.all(),
        f"step with action {actions[~counted].tolist()} does not add 1 to State.steps (invalid ones count, too)",
    )
    for i in range(1, unknown):
        worst = _worst(
            jax.tree.map(lambda x: x[:, 0], (after, result)),
            jax.tree.map(lambda x, i=i: x[:, i], (after, result)),
        )
        said = actions[i].tolist()
        _require(worst is None, f"step with action {said} does not do what INVALID does: {worst}")


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


def _finite(tree: Any) -> jax.Array:
    """bool[], whether every float in a pytree is finite."""
    floats = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return jnp.all(jnp.array([jnp.isfinite(leaf).all() for leaf in floats], bool))


def _play(world: World, wise: jax.Array, reset_key: jax.Array, keys: jax.Array, actions: jax.Array) -> dict:
    """One episode, with the expert (`wise` bool[]) or the given actions; stepped on after its end.

    Args:
      world: the world.
      wise: bool[].
      reset_key: of the episode.
      keys: for the expert, one a step: [max_steps].
      actions: what random play draws beforehand, [max_steps].

    Returns:
      succeeded bool[], ended bool[], length int32[], what was seen: least and greatest id (int32[2]) of describe,
      explain and expert, whether steps were `counted` up to the end and all numbers `finite`; of a world with
      slots, whether all that the expert did and the world sampled were `spoken` actions, the latter `admissible`.
    """

    def reach(record, name, ids):
        ids = jnp.append(ids.reshape(-1), record[name])
        return jnp.stack([ids.min(), ids.max()])

    def fitting(record, state, expert, sampled):
        may = world.admissible(state)[jnp.clip(sampled[0], 0, len(world.actions) - 1)]
        running = ~record["ended"]
        return {
            "spoken expert": record["spoken expert"] & is_action(world, expert),
            "spoken sample": record["spoken sample"] & is_action(world, sampled),
            "admissible sample": record["admissible sample"] & (may | ~running),
        }

    def body(carry, item):
        state, record = carry
        key, drawn = item
        expert, action = world.expert(state, key), _action(world, state, drawn)
        after, step = world.step(state, jnp.where(wise, expert, action))
        running = ~record["ended"]
        record = {
            "succeeded": record["succeeded"] | (step.success & running),
            "ended": record["ended"] | step.terminated | step.truncated,
            "length": record["length"] + running,
            "describe": reach(record, "describe", world.describe(state)),
            "explain": reach(record, "explain", world.explain(state)),
            "expert": reach(record, "expert", expert[0] if slots_of(world) else expert),
            "counted": record["counted"] & (~running | (after.steps == state.steps + 1)),
            "finite": record["finite"] & _finite((state, step)),
        } | (fitting(record, state, expert, action) if slots_of(world) else {})
        return (after, record), None

    nothing = jnp.full(2, -1, jnp.int32)
    record = {
        "succeeded": jnp.bool_(False),
        "ended": jnp.bool_(False),
        "length": jnp.int32(0),
        "describe": nothing,
        "explain": nothing,
        "expert": jnp.zeros(2, jnp.int32),
        "counted": jnp.bool_(True),
        "finite": jnp.bool_(True),
    }
    if slots_of(world):
        record |= dict.fromkeys(("spoken expert", "spoken sample", "admissible sample"), jnp.bool_(True))
    start = world.reset(reset_key), record
    return jax.lax.scan(body, start, (keys, actions))[0][1]


def _episodes(world: World, key: jax.Array, episodes: int) -> Report:
    """Plays whole episodes with the expert and with random actions, and compares them."""
    wise = np.repeat([True, False], episodes)
    shape = 2 * episodes, world.max_steps
    reset_key, expert_key, action_key = jax.random.split(key, 3)
    keys = jax.random.split(reset_key, shape[0]), jax.random.split(expert_key, shape)
    actions = _drawn(world, action_key, shape)
    seen = jax.tree.map(np.asarray, jax.jit(jax.vmap(partial(_play, world)))(jnp.asarray(wise), *keys, actions))

    for name, least, count in (
        ("describe", -1, len(world.phrases)),
        ("explain", -1, len(world.phrases)),
        ("expert", 0, len(world.actions)),
    ):
        low, high = seen[name].min(), seen[name].max()
        kind = "action" if name == "expert" else "phrase id"
        _require(
            least <= low and high < count, f"{name} gives {kind} {low}..{high}; accepted: {least}..{count - 1}"
        )
    for method in ("expert", "sample") if slots_of(world) else ():
        right = seen[f"spoken {method}"].all()
        _require(right, f"{method} gives a record that is no action; see envs_jax.is_action")
    if slots_of(world):
        _require(seen["admissible sample"].all(), "sample gives an action whose id `admissible` does not allow")
    _require(seen["finite"].all(), "step: a State or a Step holds a number that is not finite in some episode")
    _require(seen["counted"].all(), "step does not add 1 to State.steps everywhere in an episode")
    endless = np.sum(~seen["ended"])
    _require(
        not endless,
        f"step: {endless} of {2 * episodes} episodes run on after max_steps = {world.max_steps}",
    )
    expert, chance = (seen["succeeded"][lanes].astype(float) for lanes in (wise, ~wise))
    expert_steps, chance_steps = (seen["length"][lanes].astype(float) for lanes in (wise, ~wise))
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
    quicker = expert.mean() >= max(chance.mean(), 0.5) and _beyond_chance(-expert_steps, -chance_steps)
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
