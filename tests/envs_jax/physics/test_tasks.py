"""The worlds of the table: their rules against slow Python, invariants under random actions, splits, pictures."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs_jax
from envs_jax.physics import route, table, tasks, world
from envs_jax.physics.words import ACTIONS, GOALS, LATTICE, NAMES, PHRASES, RGB, SHAPES
from envs_jax.physics.world import TOLERANCE
from envs_jax.render import glyphs, raster

WORLDS = ("push", pytest.param("sort", marks=pytest.mark.slow), "reach")
COUNTS = {"push": 1, "sort": 2, "reach": 0}
EPISODES, STEPS = 16, 24


@functools.lru_cache
def world_of(name):
    return envs_jax.make(f"physics/{name}", progress=2.0)


@functools.lru_cache
def walk(name):
    """States before and after, and Steps, of random actions (every fourth invalid or long), leaves [T, B, ...]."""
    world = world_of(name)
    key, action_key = jax.random.split(jax.random.key(1))
    actions = jax.random.randint(action_key, (STEPS, EPISODES), -2, len(ACTIONS) + 1, jnp.int32)

    def one(states, actions):
        after, step = jax.vmap(world.step)(states, actions)
        return after, (states, after, step, jax.vmap(world.admissible)(states))

    states = jax.vmap(world.reset)(jax.random.split(key, EPISODES))
    _, trace = jax.jit(lambda s: jax.lax.scan(one, s, actions))(states)
    before, after, step, admissible = trace
    bare = [jax.tree.map(np.asarray, states.replace(key=jnp.zeros(()))) for states in (before, after)]
    return np.asarray(actions), (*bare, jax.tree.map(np.asarray, step), np.asarray(admissible))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["push", "reach", "sort", "push:progress=2.0,split=test,max_steps=90"])
def test_the_contract_is_kept_and_the_expert_succeeds(name):
    report = envs_jax.check(envs_jax.make(f"physics/{name}"), episodes=64)
    assert report.expert_success >= 0.98


@pytest.mark.parametrize("name", WORLDS)
def test_rewards_and_ends_are_what_the_places_say(name):
    _, (before, after, step, _) = walk(name)
    limit = world_of(name).max_steps
    for t in range(STEPS):
        for b in range(EPISODES):
            ways, home = [], []
            for q in (before.q[t, b], after.q[t, b]):
                places = [tuple(q[i : i + 2]) for i in range(0, len(q), 2)]
                count = COUNTS[name]
                movers = places[:count] if count else places[-1:]
                offsets = [np.subtract(pad, at) for pad, at in zip(after.episode.pads[t, b], movers, strict=False)]
                ways.append(sum(np.hypot(*offset) for offset in offsets))
                home.append(all(max(abs(offset)) <= TOLERANCE for offset in offsets))
            assert step.success[t, b] == step.terminated[t, b] == home[1]
            assert step.reward[t, b] == pytest.approx(home[1] + 2 * (ways[0] - ways[1]), abs=1e-4)
            assert step.truncated[t, b] == (after.steps[t, b] >= limit and not home[1])


@pytest.mark.parametrize("name", WORLDS)
def test_an_invalid_action_moves_nothing_and_what_is_not_admissible_hardly_more(name):
    actions, (before, after, _, admissible) = walk(name)
    moved = np.abs(after.q - before.q)
    invalid = (actions < 0) | (actions >= len(ACTIONS))
    assert invalid.any() and not moved[invalid].any()
    valid = ~invalid
    barred = valid.copy()
    barred[valid] = ~np.take_along_axis(admissible[valid], actions[valid][:, None], axis=1)[:, 0]
    assert np.max(moved[barred][:, -2:]) < 1.5 * LATTICE


@pytest.mark.parametrize("name", WORLDS)
def test_bodies_stay_on_the_table_and_out_of_each_other(name):
    _, (_, after, _, _) = walk(name)
    q = after.q
    assert np.isfinite(q).all() and np.isfinite(after.qd).all()
    assert np.abs(q[..., -2:]).max() < table.PUSHER_LIMIT + 0.01
    pucks = q[..., :-2].reshape(*q.shape[:2], -1, 2)
    if pucks.shape[2]:
        assert np.abs(pucks).max() < table.PUCK_LIMIT + 0.03
        for i in range(pucks.shape[2]):
            for j in range(i):
                gap = np.linalg.norm(pucks[:, :, i] - pucks[:, :, j], axis=-1) - 2 * table.PUCK_RADIUS
                assert gap.min() > -0.012
        for corner in ((-1, -1), (-1, 1), (1, -1), (1, 1)):
            finger = q[:, :, None, -2:] + table.FINGER_OFFSET * np.array(corner)
            gap = np.linalg.norm(pucks - finger, axis=-1) - table.PUCK_RADIUS - table.FINGER_RADIUS
            assert gap.min() > -0.012


def test_no_one_gets_through_a_wall():
    """Between two states the pusher's way crosses a wall only where the gap is."""
    _, (before, after, _, _) = walk("reach")
    crossings = 0
    for t in range(STEPS):
        for b in range(EPISODES):
            (x0, y0), (x1, y1) = before.q[t, b, -2:], after.q[t, b, -2:]
            for y in (-tasks.WALL_PLACE, tasks.WALL_PLACE):
                if (y0 - y) * (y1 - y) >= 0:
                    continue
                crossings += 1
                x = x0 + (x1 - x0) * (y - y0) / (y1 - y0)
                ends = [(w[0] - 0.5, w[0] + 0.5) for w in after.episode.walls[t, b] if abs(w[1] - y) < 1e-6]
                assert not any(low - table.PUSHER_HALF < x < high + table.FINGER_OFFSET for low, high in ends)
    assert crossings


@pytest.mark.parametrize("name", WORLDS)
def test_test_and_train_share_no_instance_and_make_up_all(name):
    def goals(split):
        world = envs_jax.make(f"physics/{name}:split={split}")
        told = jax.jit(jax.vmap(lambda key: world.describe(world.reset(key))))(
            jax.random.split(jax.random.key(2), 1500)
        )
        # The order in which `sort` names its two colours is no part of the instance.
        return {tuple(sorted(row)) if name == "sort" else tuple(row) for row in np.asarray(told).tolist()}

    every, train, test = goals("all"), goals("train"), goals("test")
    assert not train & test and train | test == every
    assert len(every) == {"push": 36, "sort": 15, "reach": 18}[name]
    assert 0.15 < len(test) / len(every) < 0.25


@pytest.mark.parametrize("name", WORLDS)
def test_a_fresh_episode_is_solvable_and_not_solved(name):
    world = world_of(name)
    states = jax.jit(jax.vmap(world.reset))(jax.random.split(jax.random.key(3), 200))
    q, episode = np.asarray(states.q), jax.tree.map(np.asarray, states.episode)
    movers = q[:, :2] if COUNTS[name] else q[:, -2:]
    assert np.abs(movers - episode.pads[:, 0]).max(axis=1).min() > TOLERANCE
    pucks = q[:, :-2].reshape(len(q), -1, 2)
    if pucks.shape[1]:
        assert np.abs(pucks).max() <= table.PUCK_LIMIT
        on = jax.vmap(route.on_puck)(states.q[:, -2:], jnp.asarray(pucks))
        assert not np.asarray(on).any()
    walled = jax.vmap(route.in_wall)(states.q[:, -2:], states.episode.walls)
    assert not np.asarray(walled).any()
    # No two look alike; `reach` has decoys of the same colour or shape, never of both.
    looks = episode.pad_colours * len(SHAPES) + episode.pad_shapes
    assert all(len(set(row)) == len(row) for row in looks.tolist())
    assert all(len(set(row)) == len(row) for row in episode.puck_colours.tolist())


@pytest.mark.parametrize("name", WORLDS)
def test_goal_colours_are_in_the_picture_and_thoughts_are_true(name):
    world = world_of(name)
    states = jax.jit(jax.vmap(world.reset))(jax.random.split(jax.random.key(4), 6))
    pictures = np.asarray(jax.jit(jax.vmap(world.render))(states)).astype(int)
    thoughts = np.asarray(jax.jit(jax.vmap(world.explain))(states))
    told = np.asarray(jax.vmap(world.describe)(states))
    for i in range(6):
        for word in (PHRASES[p] for p in told[i] if p >= 0):
            if word in NAMES:
                away = np.abs(pictures[i] - RGB[NAMES.index(word)]).max(axis=-1)
                assert (away < 24).sum() >= 20, (word, i)
        said = [PHRASES[p] for p in thoughts[i] if p >= 0]
        assert 2 <= len(said) <= 4
        colours = [NAMES.index(word) for word in said if word in NAMES]
        puck = np.asarray(states.episode.puck_colours[i]).tolist().index(colours[0]) if colours else -1
        at = np.asarray(states.q[i]).reshape(-1, 2)[puck]
        offset = np.asarray(states.episode.pads[i][max(puck, 0)]) - at
        x = "right" if offset[0] > 0 else "left"
        y = "forward" if offset[1] > 0 else "back"
        assert f"goal {x if abs(offset[0]) >= abs(offset[1]) else y}" in said
        assert ("far" in said) == (max(abs(offset)) > 0.25)


@pytest.mark.parametrize("side", [64, 112, 128, 160, 224])
def test_every_goal_is_written_whole_above_the_picture(side):
    """On paper that is wider by half, no ink lies where the picture has ended."""
    size, left = world._caption(side // 8, side)
    assert size > 0.6 * side // 8  # as large as it can be: the band is an eighth of the picture
    lines = np.full((len(GOALS), max(map(len, GOALS))), -1, np.int32)
    for line, goal in zip(lines, GOALS, strict=True):
        line[: len(goal)] = glyphs.encode(goal)

    @jax.jit
    def ink(lines):
        paper = raster.canvas(side // 8, side + side // 2)
        write = lambda ids: raster.text(paper, ids, left, (side // 8 - size) / 2, size)  # noqa: E731
        return (jax.vmap(write)(lines) < 250).any(axis=(0, 1, 3))

    columns = np.flatnonzero(np.asarray(ink(jnp.asarray(lines))))
    assert 0 <= columns[0] < 0.05 * side and 0.75 * side < columns[-1] < side


@pytest.mark.parametrize(
    "option, value, message",
    [
        ("image_shape", (32, 112, 3), "image_shape is"),
        ("max_steps", 0, "max_steps is 0"),
        ("progress", -1.0, "progress is -1.0"),
        ("progress", float("nan"), "progress is nan"),
    ],
)
def test_options_that_can_not_be_are_refused(option, value, message):
    with pytest.raises(ValueError, match=message):
        envs_jax.make("physics/push", **{option: value})
