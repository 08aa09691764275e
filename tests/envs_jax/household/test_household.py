"""The household worlds: solvable tasks, and the engine's rules against a slow engine of words."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import envs_jax
from envs_jax.household import rules, text
from envs_jax.household import tables as t
from envs_jax.world import spoken
from tests.envs_jax.household.engine import Engine

WORLD = envs_jax.make("household/any:receptacles=10,objects=16")


@cache
def _jitted(name):
    return jax.jit(getattr(WORLD, name))


def _engine(s):
    rs = [t.RECEPTACLE_WORDS[i] for i in s.receptacles if i >= 0]
    places = {t.OBJECT_WORDS[o]: rs[a] for o, a in zip(s.objects, s.at, strict=True) if o >= 0}
    lamp = t.OBJECTS[s.lamp] if s.lamp >= 0 else None
    goal = t.RECEPTACLES[s.goal] if s.goal >= 0 else None
    return Engine(rs, places, t.HOLDS, t.TASKS[s.task], t.OBJECTS[s.target], goal, lamp)


def _agree(s, engine):
    rs = [t.RECEPTACLE_WORDS[i] for i in s.receptacles if i >= 0]
    assert engine.here == (rs[s.here] if s.here >= 0 else None)
    assert engine.opened == {r for r, is_open in zip(rs, s.is_open, strict=False) if is_open}
    for i, o in enumerate(s.objects):
        if o >= 0:
            name = t.OBJECT_WORDS[o]
            assert engine.places[name] == ("hand" if s.at[i] == -2 else rs[s.at[i]])
            marks = {"clean": s.clean, "heat": s.hot, "cool": s.cool, "slice": s.sliced, "on": s.on}
            assert engine.marks[name] == {mark for mark, has in marks.items() if has[i]}


def _play(seed, choose, steps):
    state = _jitted("reset")(jax.random.key(seed))
    engine = _engine(jax.device_get(state))
    for i in range(steps):
        record = choose(state, i)
        command = spoken(WORLD, record)
        state, result = _jitted("step")(state, jnp.asarray(record, jnp.int32))
        s = jax.device_get(state)
        answer = engine.say(command)
        said = text.sentence(_jitted("describe")(state)).split(" Your task is to: ")[0]
        assert said == answer or (answer == "help" and said.startswith("Available commands")), command
        _agree(s, engine)
        assert bool(result.success) == engine.won() == bool(result.reward)
        assert int(state.steps) == i + 1


@pytest.mark.parametrize("seed", range(12))
def test_admissible_commands_do_what_the_engine_does(seed):
    keys = jax.random.split(jax.random.key(seed + 100), 40)

    def choose(state, i):
        wise = (seed + i) % 3 == 0
        return np.asarray(_jitted("expert")(state, keys[i]) if wise else _jitted("sample")(state, keys[i]))

    _play(seed, choose, 40)


_ID = st.one_of(st.integers(-3, 250), st.sampled_from([-(2**31), 2**31 - 1]))


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 2**31 - 1),
    st.lists(st.one_of(st.none(), st.tuples(st.integers(-2, 17), _ID, _ID)), min_size=1, max_size=12),
)
def test_any_record_does_what_the_engine_does(seed, records):
    """None stands for a sampled action, so that records meet open doors and full hands; nonsense is counted."""
    key = jax.random.key(seed)
    _play(
        seed,
        lambda state, i: records[i] or np.asarray(_jitted("sample")(state, jax.random.fold_in(key, i))),
        len(records),
    )


def _experts_episodes(world):
    """keys [n] -> (progress at first, whether it was solved within 15 steps, the first states), leaves [n]."""

    def play(key):
        first = world.reset(key)

        def body(state, _):
            state, result = world.step(state, world.expert(state, key))
            return state, result.success

        return world.progress(first), jax.lax.scan(body, first, length=15)[1].any(), first

    return jax.jit(jax.vmap(play))


@pytest.mark.parametrize("options", ["", ":receptacles=6,objects=4"])
def test_the_expert_solves_every_task(options):
    play = _experts_episodes(envs_jax.make("household/any" + options))
    begin, solved, first = play(jax.random.split(jax.random.key(1), 2000))
    assert solved.all() and (begin == 0).all()
    assert (np.bincount(first.task, minlength=6) > 200).all()


@pytest.mark.slow
def test_every_instance_there_is_comes_up_and_is_solved():
    """1,058 of them, in 40,000 rooms: the rarest is to be expected fourteen times."""
    play = _experts_episodes(envs_jax.make("household/any"))
    seen = set()
    for keys in jax.random.split(jax.random.key(5), (20, 2000)):
        _, solved, first = play(keys)
        assert solved.all()
        seen |= set(
            zip(*(np.asarray(x).tolist() for x in (first.task, first.target, first.goal, first.lamp)), strict=True)
        )
    every = {(task, *row[1:]) for task in range(6) for row in t.instances(task, "all").tolist()}
    assert seen == every and len(every) == 1058


def test_samples_have_an_effect_and_admissible_says_so():
    def walk(key):
        def body(state, key):
            record = WORLD.sample(state, key)
            allowed = WORLD.admissible(state)[record[0]]
            state, _ = WORLD.step(state, record)
            return state, allowed & (state.last == record).all()

        return jax.lax.scan(body, WORLD.reset(key), jax.random.split(key, 50))[1]

    assert jax.jit(jax.vmap(walk))(jax.random.split(jax.random.key(2), 64)).all()


@pytest.mark.parametrize("task", range(6))
def test_train_and_test_instances_are_apart_and_make_up_all(task):
    def triples(split):
        return {tuple(row[1:]) for row in t.instances(task, split).tolist()}

    train, test = triples("train"), triples("test")
    assert not train & test and train | test == triples("all")
    assert 0.08 < len(test) / (len(test) + len(train)) < 0.35


def test_progress_as_reward_adds_up_to_one():
    world = envs_jax.make("household/pick_two:reward=progress,receptacles=8,objects=8")

    def play(key):
        def body(state, _):
            state, result = world.step(state, world.expert(state, key))
            return state, (result.reward, result.success)

        return jax.lax.scan(body, world.reset(key), length=15)[1]

    reward, success = jax.jit(jax.vmap(play))(jax.random.split(jax.random.key(3), 16))
    for rewards, won in zip(np.asarray(reward), np.asarray(success), strict=True):
        end = won.argmax() + 1
        assert won.any() and rewards[:end].sum() == 1 and 0.5 in rewards[:end]


@pytest.mark.parametrize(
    "field, value", [("receptacles", 5), ("objects", 41), ("task", "cook"), ("reward", "dense")]
)
def test_bad_options_are_named(field, value):
    with pytest.raises(ValueError, match=f"{field} is {value!r}; accepted"):
        envs_jax.make("household/any", **{field: value})


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "household/pick_and_place:receptacles=6,objects=4",
        "household/any",
        "household/any:reward=progress,split=test,receptacles=8,objects=8",
        "household/clean_and_place",
        "household/cool_and_place:split=test",
        "household/heat_and_place",
        "household/look_in_light:split=train",
        "household/pick_two:reward=progress",
    ],
)
def test_it_keeps_the_contract(name):
    envs_jax.check(envs_jax.make(name), episodes=32, states=3)


def test_a_lamp_that_is_used_again_stays_on_and_is_said_to_be_turned_on_again():
    world = envs_jax.make("household/look_in_light:receptacles=10,objects=16")
    state = jax.jit(world.reset)(jax.random.key(0))
    lamp = int(np.flatnonzero(np.isin(np.asarray(rules.object_types(state)), np.flatnonzero(t.LAMP)))[0])
    state, word = state.replace(here=state.at[lamp]), int(state.objects[lamp])
    step, use = jax.jit(world.step), jnp.array([rules.USE, word, -1], jnp.int32)
    for _ in range(3):
        state, _ = step(state, use)
        assert bool(state.on[lamp])
        assert text.sentence(world.describe(state)).startswith(f"You turn on the {t.OBJECT_WORDS[word]}.")
    state, _ = step(state, jnp.array([rules.EXAMINE_OBJECT, word, -1], jnp.int32))
    assert text.sentence(world.describe(state)).startswith(f"This {t.OBJECT_WORDS[word]} is on.")
