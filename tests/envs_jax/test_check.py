"""A world that keeps the contract passes `check`; every way of breaking it is caught and the method is named.

Each broken world is the good one with one fault.
"""

import gc
import inspect
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from jax.experimental import io_callback

import envs_jax
from envs_jax import Slot, Step, WorldError, check, is_action
from envs_jax.world import spoken
from tests.chores import THINGS, Chores

GOAL, LIMIT = 4, 7


@struct.dataclass
class Walk:
    key: jax.Array
    steps: jax.Array
    place: jax.Array
    heat: jax.Array


class Good:
    """Places 0..4 in a row, from 0, 1 or 2 to place 4 in at most 7 steps; the tests' own small world."""

    name = "test/walk"
    actions = ("left", "right", "wait")
    instruction = "Walk to the right end."
    phrases = ("at", "left", "middle", "right")
    image_shape = (4, 6, 3)
    max_steps = LIMIT

    def reset(self, key):
        # Straight from the key's bits, which are random already: this world is compiled a few hundred times.
        bits = jax.random.key_data(key)
        place = (bits[0] % 3).astype(jnp.int32)
        return Walk(key=key, steps=jnp.int32(0), place=place, heat=(bits[1] % 100).astype(jnp.float32))

    def step(self, state, action):
        change = jnp.where(action == 0, -1, jnp.where(action == 1, 1, 0))
        state = state.replace(
            steps=state.steps + 1,
            place=jnp.clip(state.place + change, 0, GOAL),
            heat=0.5 * state.heat + 0.1,
        )
        arrived = state.place == GOAL
        return state, Step(
            reward=jnp.where(arrived, 1.0, -0.1).astype(jnp.float32),
            terminated=arrived,
            truncated=(state.steps >= LIMIT) & ~arrived,
            success=arrived,
        )

    def render(self, state):
        column = jnp.arange(6) == state.place
        return jnp.broadcast_to(jnp.where(column[None, :, None], 255, 9), self.image_shape).astype(jnp.uint8)

    def describe(self, state):
        return jnp.stack([jnp.int32(0), jnp.clip(state.place, 1, 3)])

    def admissible(self, state):
        return jnp.stack([state.place > 0, state.place < GOAL, jnp.bool_(True)])

    def expert(self, state, key):
        return jnp.int32(1)

    def explain(self, state):
        return jnp.full(3, -1, jnp.int32)


def broken(**members):
    """The good world with some members replaced; a function gets (good, self, *arguments)."""

    def bind(member):
        if not callable(member):
            return member
        return lambda self, *arguments: member(Good(), self, *arguments)

    return type("Broken", (Good,), {name: bind(member) for name, member in members.items()})()


def caught(world, *patterns, **options):
    with pytest.raises(WorldError) as error:
        check(world, **{"episodes": 64, "states": 5, **options})
    for pattern in patterns:
        assert pattern in str(error.value), str(error.value)


def with_step(**fields):
    """A `step` whose Step has some fields changed: each is a function of (Step, state before, action)."""

    def step(good, self, state, action):
        after, result = good.step(state, action)
        return after, result.replace(**{name: value(result, state, action) for name, value in fields.items()})

    return step


def with_state(**fields):
    """A `step` whose State has some fields changed: each is a function of (State after, state before, action)."""

    def step(good, self, state, action):
        after, result = good.step(state, action)
        return after.replace(**{name: value(after, state, action) for name, value in fields.items()}), result

    return step


# ---- the good world ---------------------------------------------------------------------------------------------


def test_a_good_world_passes_and_is_measured():
    report = check(Good(), episodes=200)
    assert (report.name, report.episodes) == ("test/walk", 200)
    assert report.expert_success == 1.0
    assert 2.5 < report.expert_steps < 3.5  # from 0, 1 or 2 to 4
    assert 0.05 < report.random_success < 0.5 and report.expert_steps + 2 < report.random_steps <= LIMIT
    # Against the same episodes' odds, played by a plain loop.
    random = np.random.default_rng(0)
    arrived = 0
    for _ in range(2000):
        place = random.integers(3)
        for _ in range(LIMIT):
            place = min(max(place + random.choice([-1, 1, 0]), 0), GOAL)
            if place == GOAL:
                arrived += 1
                break
    assert abs(report.random_success - arrived / 2000) < 0.12


def test_a_world_without_any_text_or_with_raw_keys_is_good_too():
    def reset(good, self, key):
        state = good.reset(key)
        return state.replace(key=jax.random.key_data(state.key))

    def step(good, self, state, action):
        after, result = good.step(state.replace(key=jax.random.wrap_key_data(state.key)), action)
        return after.replace(key=jax.random.key_data(after.key)), result

    none = lambda good, self, state: jnp.zeros(0, jnp.int32)  # noqa: E731
    assert check(broken(reset=reset, step=step, describe=none, explain=none, phrases=())).expert_success == 1.0


def test_where_chance_always_arrives_a_quicker_expert_is_enough():
    world = broken(
        max_steps=80,
        step=with_step(truncated=lambda result, state, action: state.steps + 1 >= 80),
    )
    report = check(world, episodes=64)
    assert report.random_success > 0.9 and report.random_steps > report.expert_steps


# ---- attributes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "members, patterns",
    [
        ({"actions": ()}, ["actions is ()"]),
        ({"actions": ["left", "right", "wait"]}, ["actions is", "accepted: a tuple"]),
        ({"actions": ("left", "left", "wait")}, ["actions is"]),
        ({"phrases": ("at", "")}, ["phrases is"]),
        ({"phrases": ("at", 3)}, ["phrases is"]),
        ({"name": ""}, ["name is ''"]),
        ({"instruction": None}, ["instruction is None"]),
        ({"image_shape": (4, 6)}, ["image_shape is (4, 6)"]),
        ({"image_shape": (4, 6, 1)}, ["image_shape is (4, 6, 1)"]),
        ({"image_shape": [4, 6, 3]}, ["image_shape is"]),
        ({"max_steps": 0}, ["max_steps is 0"]),
        ({"max_steps": 7.0}, ["max_steps is 7.0"]),
    ],
)
def test_a_malformed_attribute_is_named(members, patterns):
    caught(broken(**members), *patterns)


def test_a_missing_member_is_named():
    class Bare:
        name, actions, instruction, image_shape, max_steps = "x", ("a",), "y", (1, 1, 3), 3
        reset = step = render = admissible = expert = explain = Good.reset

    # The annotation `world: World`, checked while the tests run, would say less.
    with pytest.raises(WorldError, match=r"Bare lacks phrases, describe of envs_jax\.World"):
        inspect.unwrap(check)(Bare())


# ---- shapes and dtypes ------------------------------------------------------------------------------------------


@struct.dataclass
class Keyless:
    steps: jax.Array


@pytest.mark.parametrize(
    "members, patterns",
    [
        ({"reset": lambda good, self, key: Keyless(steps=jnp.int32(0))}, ["reset", "no 'key'"]),
        ({"reset": lambda good, self, key: {"key": key}}, ["reset", "no 'key'"]),
        ({"reset": lambda good, self, key: object()}, ["reset cannot be traced"]),
        (
            {"reset": lambda good, self, key: good.reset(key).replace(steps=jnp.float32(0))},
            ["reset: State.steps is float32[]; accepted: int32[]"],
        ),
        (
            {"reset": lambda good, self, key: good.reset(key).replace(key=jax.random.split(key, 2))},
            ["reset: State.key", "one random key"],
        ),
        ({"reset": lambda good, self, key: good.reset(key).replace(place=1)}, ["reset.place", "weakly typed"]),
        ({"step": with_state(place=lambda after, state, action: jnp.float32(0))}, ["step", ".place", "float32"]),
        ({"step": with_state(heat=lambda after, state, action: after.heat[None])}, ["step", ".heat", "(1,)"]),
        ({"step": with_state(heat=lambda after, state, action: None)}, ["step", "the tree structure"]),
        ({"step": with_state(place=lambda after, state, action: jnp.where(action == 1, 3, 0))}, ["step", "weak"]),
        (
            {"step": with_step(reward=lambda result, state, action: jnp.where(action == 1, 1.0, 0.0))},
            ["step", "weak"],
        ),
        (
            {"step": with_step(reward=lambda result, state, action: jnp.int32(1))},
            ["step: Step.reward is int32[]; accepted: float32[]"],
        ),
        (
            {"step": with_step(truncated=lambda result, state, action: jnp.float32(0))},
            ["step: Step.truncated is float32[]; accepted: bool[]"],
        ),
        (
            {"step": with_step(success=lambda result, state, action: result.success[None])},
            ["step: Step.success is bool[1]"],
        ),
        ({"step": lambda good, self, state, action: state}, ["step does not return (state, Step)"]),
        (
            {"step": lambda good, self, state, action: (state, {"reward": jnp.float32(0)})},
            ["step returns a dict where a Step is due"],
        ),
        (
            {"render": lambda good, self, state: good.render(state).astype(jnp.float32)},
            ["render is float32[4, 6, 3]; accepted: uint8[4, 6, 3]"],
        ),
        ({"render": lambda good, self, state: good.render(state)[:3]}, ["render is uint8[3, 6, 3]"]),
        ({"describe": lambda good, self, state: jnp.int32(0)}, ["describe is int32[]; accepted: int32['n']"]),
        ({"describe": lambda good, self, state: jnp.zeros(2)}, ["describe is float32[2]"]),
        ({"explain": lambda good, self, state: jnp.zeros((2, 2), jnp.int32)}, ["explain is int32[2, 2]"]),
        ({"explain": lambda good, self, state: (jnp.int32(0),)}, ["explain is a tuple; accepted: int32['n']"]),
        (
            {"admissible": lambda good, self, state: jnp.ones(2, bool)},
            ["admissible is bool[2]; accepted: bool[3]"],
        ),
        ({"admissible": lambda good, self, state: jnp.ones(3, jnp.int32)}, ["admissible is int32[3]"]),
        ({"expert": lambda good, self, state, key: jnp.float32(1)}, ["expert is float32[]; accepted: int32[]"]),
        ({"expert": lambda good, self, state, key: 1}, ["expert", "weakly typed"]),
        # Not a function of arrays: the shape, or the branch, depends on a value.
        ({"explain": lambda good, self, state: jnp.zeros(state.place, jnp.int32)}, ["explain cannot be traced"]),
        (
            {"step": lambda good, self, state, action: good.step(state, 1 if action > 5 else action)},
            ["step cannot be traced"],
        ),
    ],
)
def test_a_wrong_shape_or_dtype_is_named_with_the_method(members, patterns):
    caught(broken(**members), *patterns)


# ---- purity -----------------------------------------------------------------------------------------------------


def test_a_global_counter_read_while_tracing_is_caught():
    count = itertools.count()
    caught(
        broken(step=with_step(reward=lambda result, state, action: result.reward + next(count))),
        "step is not pure",
    )


def test_a_counter_that_another_method_advances_is_caught():
    seen = []

    def expert(good, self, state, key):
        seen.append(1)
        return jnp.int32(1)

    world = broken(expert=expert, describe=lambda good, self, state: jnp.full(1, len(seen) % 2, jnp.int32))
    caught(world, "describe is not pure")


def test_numpy_randomness_is_caught():
    random = np.random.default_rng(0)
    caught(
        broken(reset=lambda good, self, key: good.reset(key).replace(place=jnp.int32(random.integers(1000)))),
        "reset is not pure",
    )


def test_state_kept_on_the_world_object_is_caught():
    class Counting(Good):
        resets = 0

        def __init__(self):
            self.resets = 0

        def reset(self, key):
            self.resets += 1
            return super().reset(key)

    caught(Counting(), "reset is not pure: it changes the world's attribute resets")


def test_a_traced_value_kept_on_the_world_object_is_caught():
    class Leaking(Good):
        def reset(self, key):
            state = super().reset(key)
            self.place = state.place
            return state

    # JAX looks for who holds the value among all that the garbage collector knows: let that be what is made here.
    gc.freeze()
    try:
        caught(Leaking(), "reset cannot be traced", "Leaked")
    finally:
        gc.unfreeze()


def scanned(value, callback):
    """The value, with a callback hidden in a scan in a cond."""

    def body(carry, _):
        callback(carry)
        return carry, None

    return jax.lax.cond(value > 1, lambda x: jax.lax.scan(body, x, None, 2)[0], lambda x: x, value)


def into_numpy(x):
    return jax.pure_callback(np.negative, jax.ShapeDtypeStruct((), jnp.int32), x)


def into_io(x):
    return io_callback(np.negative, jax.ShapeDtypeStruct((), jnp.int32), x)


@pytest.mark.parametrize(
    "callback", [into_numpy, into_io, lambda x: jax.debug.print("{}", x), lambda x: jax.debug.callback(print, x)]
)
@pytest.mark.parametrize("hidden", [False, True])
def test_a_host_callback_is_caught_however_deep(callback, hidden):
    def step(good, self, state, action):
        if hidden:
            state = state.replace(place=scanned(state.place, callback))
        else:
            callback(state.place)
        return good.step(state, action)

    def render(good, self, state):
        callback(state.place)
        return good.render(state)

    caught(broken(step=step), "step goes through the host: its jaxpr holds")
    if not hidden:
        caught(broken(render=render), "render goes through the host")


# ---- vmap -------------------------------------------------------------------------------------------------------


def test_a_method_that_behaves_otherwise_under_vmap_is_caught():
    @jax.custom_batching.custom_vmap
    def odd(x):
        return x

    @odd.def_vmap
    def _(size, batched, x):
        return jnp.roll(x, 1), True

    def render(good, self, state):
        return good.render(state.replace(place=odd(state.place)))

    def expert(good, self, state, key):
        return odd(state.place) % 2

    caught(broken(render=render), "render under vmap differs from a Python loop")
    caught(broken(expert=expert), "expert under vmap differs from a Python loop")


# ---- totality ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("odd", [envs_jax.INVALID, 3, 2, -(2**31), 2**31 - 1])
def test_a_number_that_is_not_finite_after_an_odd_action_is_caught(odd):
    world = broken(
        step=with_step(reward=lambda result, state, action: jnp.where(action == odd, jnp.nan, result.reward))
    )
    caught(world, "step with action", str(odd), "Step.reward not finite")
    world = broken(
        step=with_state(heat=lambda after, state, action: jnp.where(action == odd, jnp.inf, after.heat))
    )
    caught(world, "step with action", str(odd), "State.heat not finite")


def test_a_number_that_is_not_finite_in_a_rare_state_is_caught():
    world = broken(
        step=with_step(reward=lambda result, state, action: jnp.where(state.steps == 6, jnp.nan, result.reward))
    )
    caught(world, "step: a State or a Step holds a number that is not finite", states=2)


@pytest.mark.parametrize("odd", [envs_jax.INVALID, 1, 2**31 - 1])
def test_a_step_that_is_not_counted_is_caught(odd):
    world = broken(
        step=with_state(steps=lambda after, state, action: jnp.where(action == odd, state.steps, after.steps))
    )
    caught(world, f"step with action [{odd}", "does not add 1 to State.steps")


def test_a_step_that_is_not_counted_in_a_rare_state_is_caught():
    world = broken(
        step=with_state(steps=lambda after, state, action: jnp.where(after.steps == 6, 8, after.steps)),
    )
    caught(world, "step does not add 1 to State.steps everywhere in an episode", states=2)


@pytest.mark.parametrize(
    "meaning",
    [
        lambda action: action % 3,
        lambda action: jnp.clip(action, 0, 2),
        lambda action: jnp.where(action == 5, 1, action),
        lambda action: jnp.where(action > 10**6, 1, action),
        jnp.abs,
    ],
)
def test_an_unknown_action_that_means_something_is_caught(meaning):
    world = broken(step=lambda good, self, state, action: good.step(state, meaning(action)))
    caught(world, "step with action", "does not do what INVALID does")


# ---- episodes ---------------------------------------------------------------------------------------------------


def test_an_episode_that_never_ends_is_caught():
    caught(
        broken(step=with_step(truncated=lambda result, state, action: jnp.bool_(False))),
        "step: ",
        "episodes run on after max_steps = 7",
    )
    caught(broken(max_steps=5), "episodes run on after max_steps = 5")


@pytest.mark.parametrize(
    "expert",
    [
        lambda good, self, state, key: jax.random.randint(key, (), 0, 3, jnp.int32),
        lambda good, self, state, key: jnp.int32(0),
        lambda good, self, state, key: jnp.int32(2),
    ],
)
def test_an_expert_that_is_no_better_than_chance_is_caught(expert):
    caught(broken(expert=expert), "the expert does not beat random actions: success 0.")


def test_success_that_is_never_reported_is_caught():
    never = with_step(success=lambda result, state, action: jnp.bool_(False))
    caught(broken(step=never), "the expert does not beat random actions: success 0.00 against 0.00")


def test_a_success_that_does_not_end_the_episode_is_caught():
    goes_on = with_step(terminated=lambda result, state, action: jnp.bool_(False))
    caught(broken(step=goes_on), "step: Step.success is true in a step that does not end the episode")


@pytest.mark.parametrize(
    "members, pattern",
    [
        ({"expert": lambda good, self, state, key: jnp.where(state.place == 3, 3, 1)}, "expert gives action 0..3"),
        (
            {"expert": lambda good, self, state, key: jnp.where(state.place == 3, -1, 1)},
            "expert gives action -1..1",
        ),
        (
            {"describe": lambda good, self, state: jnp.where(state.place == GOAL, 4, 0)[None].astype(jnp.int32)},
            "describe gives phrase id -1..4; accepted: -1..3",
        ),
        (
            {"explain": lambda good, self, state: jnp.stack([jnp.int32(0), -2 + 0 * state.place])},
            "explain gives phrase id -2..0; accepted: -1..3",
        ),
    ],
)
def test_an_id_out_of_range_is_caught_even_if_it_is_rare(members, pattern):
    members = {
        name: (lambda call: lambda *a: call(*a).astype(jnp.int32))(member) for name, member in members.items()
    }
    caught(broken(**members), pattern, states=2)


@pytest.mark.parametrize(
    "reset, pattern",
    [
        (lambda good, self, key: good.reset(jax.random.key(3)), "State.key is the same after resets"),
        (lambda good, self, key: good.reset(key).replace(steps=jnp.int32(1)), "State.steps is not 0"),
    ],
)
def test_a_reset_that_is_not_fresh_is_caught(reset, pattern):
    caught(broken(reset=reset), "reset: ", pattern)


def test_a_step_that_forgets_the_key_is_caught():
    world = broken(step=with_state(key=lambda after, state, action: jax.random.key(0)))
    caught(world, "step: State.key is the same after steps in different episodes")


def test_a_state_too_large_to_be_checked_is_told_before_it_is_made():
    @struct.dataclass
    class Huge(Walk):
        map: jax.Array

    def reset(good, self, key):
        state = good.reset(key)
        return Huge(state.key, state.steps, state.place, state.heat, jnp.zeros((3000, 3000)))

    caught(broken(reset=reset), "reset: State has 36000020 bytes; accepted: at most 16777216")


# ---- worlds with slots ------------------------------------------------------------------------------------------


def with_slots(**members):
    """The good world with slots, with some members replaced; a function gets (good, self, *arguments)."""

    def bind(member):
        return (lambda self, *arguments: member(Chores(), self, *arguments)) if callable(member) else member

    return type("Broken", (Chores,), {name: bind(member) for name, member in members.items()})()


def test_a_good_world_with_slots_passes():
    report = check(Chores(), episodes=64)
    assert report.expert_success == 1.0 and report.random_success < 0.7


def test_is_action_is_what_can_be_spoken():
    """On every record of small numbers: `spoken`, which works on texts, agrees, and no text has two records."""
    world, numbers = Chores(), range(-2, 4)
    records = np.array(list(itertools.product(range(-1, 5), numbers, numbers, numbers)), np.int32)
    is_one = np.asarray(jax.vmap(lambda record: is_action(world, record))(jnp.asarray(records)))
    texts = [spoken(world, record) for record in records]
    assert [text is not None for text in texts] == is_one.tolist()
    said = [text for text in texts if text is not None]
    assert len(said) == len(set(said)) == 1 + 3 * 2 + 3 + (3 + 9 + 27)


def test_slots_that_do_not_fit_the_actions_are_caught():
    caught(with_slots(slots={"thing": Slot(THINGS)}), "places ['label', 'place', 'thing']", "['thing']")
    caught(with_slots(slots={name: words.words for name, words in Chores.slots.items()}), "slots is")


def test_a_record_of_another_length_is_caught():
    caught(with_slots(expert=lambda good, self, state, key: good.expert(state, key)[:2]), "expert is int32[2]")


def test_a_record_that_is_no_action_is_caught():
    stray = lambda good, self, state, key: good.expert(state, key).at[3].set(0)  # noqa: E731
    caught(with_slots(expert=stray), "expert gives a record that is no action")
    caught(with_slots(sample=stray), "sample gives a record that is no action")


def test_a_sample_that_is_not_admissible_is_caught():
    def admissible(good, self, state):
        return good.admissible(state).at[3].set(False)

    caught(with_slots(admissible=admissible), "sample gives an action whose id `admissible` does not allow")


def test_a_record_that_is_nearly_an_action_must_do_nothing():
    """Words behind an action's own make an action only in a world that does not ask."""

    def step(good, self, state, action):
        right = action.at[3].set(-1)  # looks away from the last place
        return good.step(state, jnp.where(right[0] == 1, right, action))

    caught(with_slots(step=step), "does not do what INVALID does")
