"""OneRoom against a plain Python step written from MiniWorld's rules, and against its own pictures."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import envs_jax
from envs_jax.miniworld import dynamics

# name: (room side, forward step, the range's top that `near` uses, degrees of a turn, max_steps)
WORLDS = {
    "miniworld/one_room": (10.0, 0.15, 0.17, 15.0, 180),
    "miniworld/one_room_s6": (6.0, 0.15, 0.17, 15.0, 100),
    "miniworld/one_room_s6_fast": (6.0, 0.7, 0.7, 45.0, 50),
}
BOX_RADIUS = math.sqrt(0.8**2 + 0.8**2) / 2
SEED = jax.random.key(7)
EDGE = 1e-5  # metres around a threshold where float32 may decide otherwise than the reference


@functools.cache
def resets(world, count):
    """key -> `count` fresh states, compiled once."""
    return jax.jit(lambda key: jax.vmap(world.reset)(jax.random.split(key, count)))


def states(world, count, seed=SEED):
    return resets(world, count)(seed)


def state_of(world):
    return jax.tree.map(lambda leaf: leaf[0], states(world, 256))


def numpy(tree):
    return jax.tree.map(np.asarray, tree.replace(key=jax.random.key_data(tree.key)))


# ---------------------------------------------------------------- step


def slow_step(rules, position, yaw, box, steps, action):
    """(x, z), yaw, box (x, z), steps before -> the same after, reward, terminated, truncated, doubtful."""
    size, forward, top, degrees, max_steps = rules
    steps += 1
    doubtful = False
    if action == 0:
        yaw += math.radians(degrees)
    elif action == 1:
        yaw -= math.radians(degrees)
    elif action == 2:
        x, z = position[0] + forward * math.cos(yaw), position[1] - forward * math.sin(yaw)
        gaps = [x - 0.4, size - x - 0.4, z - 0.4, size - z - 0.4, math.dist((x, z), box) - 0.4 - BOX_RADIUS]
        doubtful = any(abs(gap) < EDGE for gap in gaps)
        if all(gap >= 0 for gap in gaps):
            position = (x, z)
    gap = math.dist(position, box) - (0.4 + BOX_RADIUS + 1.1 * top)
    near, truncated = gap < 0, steps >= max_steps
    reward = 1 - 0.2 * steps / max_steps if near else 0.0
    return position, yaw, steps, reward, near, truncated, doubtful or abs(gap) < EDGE


@pytest.mark.parametrize("name", WORLDS)
def test_step_is_miniworlds(name):
    """Random actions, invalid ones among them, beyond success and beyond the end."""
    world, rules, count = envs_jax.make(name), WORLDS[name], 48
    length = 60
    random = np.random.default_rng(0)
    actions = random.choice([0, 1, 2, -1, 3, 2**31 - 1], (length, count), p=[0.12, 0.12, 0.7, 0.02, 0.02, 0.02])

    def body(state, action):
        after, step = jax.vmap(world.step)(state, action)
        return after, (state, after, step)

    start = states(world, count)
    # Half of the agents stand before the box and face it.
    angle = jnp.asarray(random.uniform(-3, 3, count), jnp.float32)
    beside = start.things.position[:, 0] - random.uniform(1.1, 2.0, (count, 1)) * dynamics.direction(angle)
    inside = jnp.clip(beside, 0.41, rules[0] - 0.41).at[:, 1].set(0.0)
    facing = jnp.arange(count) % 2 == 0
    start = start.replace(
        agent=dynamics.Agent(
            jnp.where(facing[:, None], inside, start.agent.position), jnp.where(facing, angle, start.agent.yaw)
        )
    )
    start = start.replace(steps=start.steps + jnp.arange(count) % 3 * (rules[-1] // 3))  # some near their end
    _, (before, after, step) = jax.jit(lambda s, a: jax.lax.scan(body, s, a))(
        start, jnp.asarray(actions, jnp.int32)
    )
    before, after, step = numpy(before), numpy(after), jax.tree.map(np.asarray, step)
    seen = {"blocked": 0, "near": 0, "truncated": 0, "both": 0}
    for t in range(length):
        for b in range(count):
            position = tuple(map(float, before.agent.position[t, b, ::2]))
            box = tuple(map(float, before.things.position[t, b, 0, ::2]))
            want = slow_step(
                rules, position, float(before.agent.yaw[t, b]), box, before.steps[t, b], actions[t, b]
            )
            if want[-1]:
                continue
            place, yaw, steps, reward, near, truncated, _ = want
            np.testing.assert_allclose(after.agent.position[t, b], [place[0], 0, place[1]], atol=1e-5)
            assert abs(np.exp(1j * after.agent.yaw[t, b]) - np.exp(1j * yaw)) < 1e-5
            assert after.steps[t, b] == steps
            assert step.reward[t, b] == pytest.approx(reward, abs=1e-6)
            assert (step.terminated[t, b], step.success[t, b], step.truncated[t, b]) == (near, near, truncated)
            seen["blocked"] += actions[t, b] == 2 and place == position
            seen["near"] += near
            seen["truncated"] += truncated
            seen["both"] += near and truncated
    assert min(seen.values()) > 5, seen
    for field in ("position", "yaw", "size", "colour", "exists"):  # the box stays as it is
        np.testing.assert_array_equal(getattr(after.things, field), getattr(before.things, field))
    np.testing.assert_array_equal(after.key, before.key)


def test_success_in_the_last_step_is_rewarded_and_ends_both_ways():
    world = envs_jax.make("miniworld/one_room_s6")
    state = state_of(world)
    beside = state.things.position[0] + jnp.array([0.9 + 0.1, 0.0, 0.0])
    state = state.replace(steps=jnp.int32(99), agent=state.agent.replace(position=beside))
    _, step = jax.jit(world.step)(state, jnp.int32(envs_jax.INVALID))
    assert bool(step.terminated) and bool(step.truncated) and bool(step.success)
    assert float(step.reward) == pytest.approx(0.8)


# ---------------------------------------------------------------- reset


@pytest.mark.parametrize("name", ("miniworld/one_room", "miniworld/one_room_s6_fast"))
def test_resets_are_those_of_rejection_sampling(name):
    world, size = envs_jax.make(name), WORLDS[name][0]
    reset = numpy(states(world, 2000))
    agent, box = reset.agent.position[:, ::2], reset.things.position[:, 0, ::2]
    assert agent.min() >= 0.4 and agent.max() <= size - 0.4
    assert box.min() >= BOX_RADIUS - 1e-6 and box.max() <= size - BOX_RADIUS + 1e-6
    distance = np.linalg.norm(agent - box, axis=-1)
    assert distance.min() >= 0.4 + BOX_RADIUS - 1e-6
    random = np.random.default_rng(1)
    boxes = random.uniform(BOX_RADIUS, size - BOX_RADIUS, (4000, 2))
    agents = random.uniform(0.4, size - 0.4, (4000, 200, 2))
    free = np.linalg.norm(agents - boxes[:, None], axis=-1) >= 0.4 + BOX_RADIUS
    agents = agents[np.arange(4000), free.argmax(axis=1)]
    for ours, theirs in (
        (agent[:, 0], agents[:, 0]),
        (agent[:, 1], agents[:, 1]),
        (box[:, 0], boxes[:, 0]),
        (box[:, 1], boxes[:, 1]),
        (distance, np.linalg.norm(agents - boxes, axis=-1)),
    ):
        assert stats.ks_2samp(ours, theirs).pvalue > 1e-3
    for yaw in (reset.agent.yaw, reset.things.yaw[:, 0]):
        assert stats.kstest(yaw, stats.uniform(-math.pi, 2 * math.pi).cdf).pvalue > 1e-3
    numbers = np.column_stack([agent, box, reset.agent.yaw, reset.things.yaw[:, 0]])
    assert np.abs(np.corrcoef(numbers, rowvar=False) - np.eye(6)).max() < 0.15  # drawn with keys of their own
    assert len(np.unique(numbers, axis=0)) == len(numbers) and len(np.unique(reset.key, axis=0)) == len(numbers)


def test_the_same_key_gives_the_same_episode():
    world = envs_jax.make("miniworld/one_room_s6")
    one, two, other = (numpy(states(world, 256, jax.random.key(seed))) for seed in (1, 1, 2))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(one.agent.position, other.agent.position)


# ---------------------------------------------------------------- what is seen and said


@pytest.fixture(scope="module")
def looks():
    """600 places in the small room: states, pictures, thoughts as texts, bearings in degrees to the left."""
    world = envs_jax.make("miniworld/one_room_s6_fast")
    reset = states(world, 600)
    pictures = np.asarray(jax.jit(jax.vmap(world.render))(reset))
    ids = np.asarray(jax.jit(jax.vmap(world.explain))(reset))
    thoughts = [" ".join(world.phrases[i] for i in row if i >= 0) for row in ids]
    angles = jax.vmap(lambda s: dynamics.bearing(s.agent, s.things.position[0]))(reset)
    return numpy(reset), pictures, np.array(thoughts), np.degrees(angles)


def red(pictures):
    """Which pixels show the box: nothing else has a colour."""
    return (pictures[..., 0] > 60) & (pictures[..., 1] < 10) & (pictures[..., 2] < 10)


def test_thoughts_claim_what_the_picture_shows(looks):
    """The box is named if, slivers apart, and only if its pixels are there, and on the side where they are."""
    _, pictures, thoughts, _ = looks
    pixels = red(pictures).sum(axis=(1, 2))
    named = np.array([thought != "no box" for thought in thoughts])
    assert named[pixels > 4].all() and not named[pixels < 2].any()
    assert 100 < named.sum() < 400
    column = np.arange(80) + 0.5 - 40  # pixels right of the middle
    middle = (red(pictures) * column).sum(axis=(1, 2)) / np.maximum(pixels, 1)
    bounds = {  # where the middle of the box's pixels may lie; a box at the border is cut off
        "box far left": (-40, -15),
        "box left": (-28, -3),
        "box ahead near": (-10, 10),
        "box ahead far": (-10, 10),
        "box right": (3, 28),
        "box far right": (15, 40),
    }
    assert set(thoughts) == {"no box", *bounds}
    for thought, (low, high) in bounds.items():
        at = middle[thoughts == thought]
        assert len(at) >= 5 and low <= at.min() and at.max() <= high, (thought, at.min(), at.max())


def test_thoughts_follow_the_angle_and_the_distance(looks):
    reset, _, thoughts, angles = looks
    distance = np.linalg.norm(reset.agent.position - reset.things.position[:, 0], axis=-1)
    for thought, angle, metres in zip(thoughts, angles, distance, strict=True):
        if thought == "no box":
            assert abs(angle) > 75.2 / 2 - 1e-3
            continue
        off, side = abs(angle), "left" if angle > 0 else "right"
        want = "ahead" if off <= 9 else side if off <= 27 else f"far {side}"
        want += (" near" if metres <= 2.5 else " far") if off <= 9 else ""
        assert thought == f"box {want}"


def test_thoughts_are_short():
    world = envs_jax.make("miniworld/one_room")
    assert max(len(p) for p in world.phrases) + len(" near") <= 18
    assert world.instruction == "Go to the red box."


def test_pictures_show_the_box_where_it_is(looks):
    """Its pixels grow as it comes nearer (nearer than 2 m its foot is below the picture), the same every time."""
    reset, pictures, _, angles = looks
    assert pictures.shape[1:] == (60, 80, 3) and pictures.dtype == np.uint8
    distance = np.linalg.norm(reset.agent.position - reset.things.position[:, 0], axis=-1)
    whole = (np.abs(angles) < 20) & (distance > 2)
    distance = distance[whole]
    pixels = red(pictures)[whole].sum(axis=(1, 2))
    assert stats.spearmanr(distance, pixels).statistic < -0.9
    again = jax.jit(envs_jax.make("miniworld/one_room_s6_fast").render)(states_at(looks, 0))
    assert np.abs(np.asarray(again).astype(int) - pictures[0]).max() <= 1


def states_at(looks, row):
    """One of the states of `looks`, with a key again."""
    one = jax.tree.map(lambda leaf: jnp.asarray(leaf[row]), looks[0])
    return one.replace(key=jax.random.wrap_key_data(one.key))


# ---------------------------------------------------------------- the expert


def play(world, start):
    """Actions of the expert [T, B], ended [T, B] (before the action), success [B], for given states."""

    def body(carry, _):
        state, ended, success = carry
        action = jax.vmap(world.expert)(state, state.key)
        allowed = jax.vmap(world.admissible)(state)
        after, step = jax.vmap(world.step)(state, action)
        out = (action, ended, jnp.take_along_axis(allowed, action[:, None], axis=1)[:, 0])
        return (after, ended | step.terminated | step.truncated, success | (step.success & ~ended)), out

    none = jnp.zeros(len(start.steps), bool)
    scan = jax.jit(lambda s: jax.lax.scan(body, (s, none, none), None, length=world.max_steps))
    (_, _, success), out = scan(start)
    return *map(np.asarray, out), np.asarray(success)


@pytest.mark.parametrize(("name", "steps"), [(n, s) for n, s in zip(WORLDS, (37, 21, 4.8), strict=True)])
def test_the_expert_always_arrives_by_a_short_way(name, steps):
    """Half of the agents start in the corners and along the walls, their boxes close to walls, too."""
    world, (size, forward, top, degrees, _) = envs_jax.make(name), WORLDS[name]
    start, count = states(world, 256), 256
    random = np.random.default_rng(3)

    def hug(margin):
        wall = np.where(random.random((count, 2)) < 0.5, margin, size - margin)
        anywhere = random.uniform(margin, size - margin, (count, 2))
        return np.where(random.random((count, 2)) < 0.6, wall, anywhere)

    agent, box = hug(0.4001), hug(BOX_RADIUS + 1e-4)
    apart = np.linalg.norm(agent - box, axis=-1) > 0.4 + BOX_RADIUS + 1e-3
    swap = (np.arange(count) % 2 == 0) & apart
    flat = lambda xz: np.insert(xz, 1, 0.0, axis=1).astype(np.float32)  # noqa: E731
    agent_at = jnp.where(swap[:, None], flat(agent), start.agent.position)
    box_at = jnp.where(swap[:, None, None], flat(box)[:, None], start.things.position)
    start = start.replace(
        agent=start.agent.replace(position=agent_at), things=start.things.replace(position=box_at)
    )
    actions, ended, allowed, success = play(world, start)
    assert success.all()
    length = (~ended).sum(axis=0)
    assert length[~swap].mean() < steps
    way = np.linalg.norm(np.asarray(agent_at - box_at[:, 0]), axis=-1) - (0.4 + BOX_RADIUS + 1.1 * top)
    assert (length <= 180 / degrees + np.maximum(way, 0) / forward + 12).all()
    live = ~ended
    assert allowed[live].all()  # it never walks into anything
    for now, later in ((0, 1), (1, 0)):  # nor turns back at once
        assert not ((actions[:-1] == now) & (actions[1:] == later) & live[1:]).any()


def test_blocked_all_around_the_expert_still_answers():
    world = envs_jax.make("miniworld/one_room_s6")
    state = state_of(world)
    expert, admissible = jax.jit(world.expert), jax.jit(world.admissible)
    stuck = state.replace(agent=state.agent.replace(position=jnp.array([-50.0, 0.0, 0.0])))
    inside = state.replace(agent=state.agent.replace(position=state.things.position[0]))
    for odd in (stuck, inside):
        assert 0 <= int(expert(odd, SEED)) < 3
        assert np.asarray(admissible(odd))[:2].all()
    np.testing.assert_array_equal(admissible(inside), [True, True, False])


# ---------------------------------------------------------------- the contract and the options


@pytest.mark.parametrize(
    "name",
    [
        "miniworld/one_room_s6_fast",
        # The same code with other numbers, and half a minute each.
        pytest.param("miniworld/one_room", marks=pytest.mark.slow),
        pytest.param("miniworld/one_room_s6", marks=pytest.mark.slow),
    ],
)
def test_the_contract(name):
    report = envs_jax.check(envs_jax.make(name, image_shape=(24, 32, 3)), episodes=96)
    assert report.expert_success == 1.0 and report.random_success < 0.8


def test_registered_worlds_are_miniworlds():
    for name, (size, forward, _, degrees, max_steps) in WORLDS.items():
        world = envs_jax.make(name)
        assert (world.name, world.forward_step) == (name, forward)
        assert world.task.plan.rooms[0].outline[0] == (size, size)
        assert (world.turn_degrees, world.max_steps, world.image_shape) == (degrees, max_steps, (60, 80, 3))
        assert world.actions == ("turn_left", "turn_right", "move_forward")
    assert hash(envs_jax.make(name)) == hash(
        envs_jax.make(name)
    )  # worlds are static arguments of jitted functions


def test_options():
    world = envs_jax.make("miniworld/one_room", image_shape=(16, 24, 3), max_steps=7)
    state, step = jax.jit(world.reset)(SEED), jax.jit(world.step)
    assert jax.eval_shape(world.render, state).shape == (16, 24, 3)
    for n in range(1, 8):
        state, result = step(state, jnp.int32(0))
        assert bool(result.truncated) == (n == 7)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"size": 2.0}, r"size is 2.0; accepted: from 3 to 50 metres"),
        ({"size": math.nan}, r"size is nan; accepted: a number from 3"),
        ({"forward_step": 0.9}, r"forward_step is 0.9; accepted: from 0.01 to 0.75"),
        ({"turn_degrees": 50.0}, r"turn_degrees is 50.0; accepted: a divisor of 360"),
        ({"turn_degrees": 180.0}, r"turn_degrees is 180.0; accepted: from 1 to 90"),
        ({"max_steps": 0}, r"max_steps is 0; accepted: a positive int"),
        ({"max_steps": True}, r"max_steps is True; accepted: a positive int"),
        ({"image_shape": (60, 80, 1)}, r"image_shape is \(60, 80, 1\); accepted: \(height, width, 3\)"),
        ({"image_shape": (4, 80, 3)}, r"image_shape is \(4, 80, 3\)"),
        ({"colour": "blue"}, r"colour"),
    ],
)
def test_bad_options_are_refused_by_name(option, message):
    with pytest.raises(ValueError, match=message):
        envs_jax.make("miniworld/one_room", **option)
