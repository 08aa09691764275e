"""Every task against the original MiniWorld, step by step, wall by wall, and in distribution.

* Replay: the original plays episodes, with and without domain randomisation; its layout and pose are copied into
  our state and the same actions with the same step lengths are played by ours, in one scan over a task's episodes.
* Half of the episodes start near what the task is about and are steered there, so that they reach collisions,
  pickups, drops, rewards and ends; a third start shortly before their step limit.
* Ours computes in float32, theirs in float64. Where the original decided by less than EDGE metres ours may decide
  otherwise: such a step is not compared. After it, and every RESYNC steps, the original's state is copied again.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import envs_jax
from envs_jax.miniworld.dynamics import Motion
from envs_jax.miniworld.entities import COLOUR_NAMES, movable, radii
from envs_jax.miniworld.maze import MazePlan
from tests.envs_jax.miniworld.copied import entities_of, passages_of, rows_of, state_of, walls_of

NAMES = [name.removeprefix("miniworld/") for name in envs_jax.names() if name.startswith("miniworld/")]
EDGE, RESYNC = 3e-5, 32
EPISODES, LENGTH = 12, 112  # of one batch, and steps of each at most
BATCHES = 17  # of the long replay: 204 episodes a task
ENDLESS = {"room_objects"}  # upstream has no step limit
PICKS = {"pickup_objects", "put_next", "collect_health", "room_objects"}


@pytest.fixture(scope="module", params=NAMES)
def pair(request, original):
    """(our name, our world with all of upstream's faults, the original)."""
    name = request.param
    env = original.make(name)
    yield name, envs_jax.make(f"miniworld/{name}", faithful=True, randomise=True), env
    env.close()


# ---------------------------------------------------------------- what stands where


def test_walls_lintels_and_what_is_on_them_are_the_originals(pair):
    _, world, env = pair
    plan = world.task.plan
    for seed in range(3):
        env.reset(seed=seed)
        theirs = walls_of(env)
        if isinstance(plan, MazePlan):
            ours = rows_of(plan.walls(jnp.asarray(passages_of(plan, env))))
            order = [np.lexsort(np.round(rows, 3).T) for rows in (ours, theirs)]
            ours, theirs = ours[order[0]], theirs[order[1]]
        else:
            ours = rows_of(plan.walls_array)
        np.testing.assert_allclose(ours, theirs, atol=2e-5)
        if seed == 0:
            solid = rows_of(plan.walls_array)[:, 4] == 0 if not isinstance(plan, MazePlan) else np.ones(len(ours))
            assert solid.sum() == len(env.wall_segs)
            materials = {"walls": "wall_tex", "floors": "floor_tex", "ceilings": "ceil_tex"}
            for ours_of, theirs_of in zip(("wall", "floor", "ceiling"), materials.values(), strict=True):
                for room, their_room in zip(plan.all_rooms, env.rooms, strict=False):
                    expected = getattr(their_room, theirs_of).name
                    if theirs_of == "ceil_tex" and their_room.no_ceiling:
                        expected = None
                    assert getattr(room, ours_of) == expected, (ours_of, room)


def test_actions_limits_and_things_are_the_originals(pair, original):
    name, world, env = pair
    assert len(world.actions) == env.action_space.n
    assert name in ENDLESS or world.max_steps == env.max_episode_steps
    assert (world.forward_step, world.turn_degrees) == (
        env.params.params["forward_step"].default,
        env.params.params["turn_step"].default,
    )
    assert world.body.reach == pytest.approx(env.params.get_max("forward_step"))
    assert world.body.radius == env.agent.radius
    things = original.things(env)
    assert len(things) == len(world.task.things)
    for ours, theirs in zip(world.task.things, things, strict=True):
        kind = original.kind(theirs)
        assert any(kind == k and low - 1e-6 <= theirs.height <= high + 1e-6 for k, low, high in ours.kinds)
        assert (original.colour(theirs) or ours.colours[0]) in ours.colours
    got = entities_of(original, things, things)
    np.testing.assert_allclose(radii(got), [e.radius for e in things], rtol=1e-6)
    np.testing.assert_array_equal(movable(got), [not e.is_static for e in things])


# ---------------------------------------------------------------- step by step


def target_of(original, name, env, random):
    """What a steered agent goes to."""
    things = original.things(env)
    if name == "put_next":
        return env.yellow_box if env.agent.carrying else env.red_box
    if name == "sign":
        # The right one or another, for the whole episode.
        return things[env.errand] if env.errand < len(things) else things[0]
    if name in PICKS and things:
        return min(
            (e for e in things if e is not env.agent.carrying), key=lambda e: math.dist(e.pos, env.agent.pos)
        )
    return getattr(env, "box", things[0])


def bearing(env, place):
    angle = math.atan2(-(place[2] - env.agent.pos[2]), place[0] - env.agent.pos[0]) - env.agent.dir
    return math.remainder(angle, 2 * math.pi)


def steered(original, name, env, random):
    """A short-sighted action towards the target."""
    target = target_of(original, name, env, random)
    turn = math.radians(env.params.params["turn_step"].default)
    angle, metres = bearing(env, target.pos), math.dist(target.pos, env.agent.pos)
    if abs(angle) > 0.6 * turn:
        return 0 if angle > 0 else 1
    if name == "put_next" and env.agent.carrying:
        apart = math.dist(env.red_box.pos[[0, 2]], env.yellow_box.pos[[0, 2]])
        return 5 if apart < env.red_box.radius + env.yellow_box.radius + 0.18 else 2
    if name in PICKS and metres < 2.7 * env.agent.radius + target.radius - 0.1:
        return 5 if env.agent.carrying else 4
    return 2


def beside(env, target, random):
    """Puts the agent into some free place beside a thing, looking its way more or less."""
    for _ in range(200):
        angle, gap = random.uniform(-math.pi, math.pi), random.uniform(0.1, 2.5)
        away = env.agent.radius + target.radius + gap
        place = np.array(target.pos) * [1, 0, 1] + away * np.array([math.cos(angle), 0, -math.sin(angle)])
        inside = any(room.point_inside(place) for room in env.rooms)
        if inside and env.intersect(env.agent, place, env.agent.radius) is None:
            env.agent.pos = place
            env.agent.dir = angle + math.pi + random.uniform(-1, 1)
            return


def record(original, name, world, env, number):
    """One episode of the original: (start, [what each step was and left]), states as ours."""
    random = np.random.default_rng(1000 + number)
    env.domain_rand = number % 3 == 2
    if name == "sign":
        env.set_color_index(number % 3)
        env._goal = number // 3 % 2
    env.reset(seed=number)
    env.errand = (
        int(random.integers(6)) if number % 4 else env._goal * 3 + env._color_index if name == "sign" else 0
    )
    if number % 3 == 1 and name not in ENDLESS:
        env.step_count = env.max_episode_steps - int(random.integers(5, min(env.max_episode_steps, 60)))
    wise = number % 2 == 0
    if wise:
        beside(env, target_of(original, name, env, random), random)
    things = original.things(env)
    start = state_of(original, name, world, env, things)
    chances = np.array([0.15, 0.15, 0.6, 0.1, 0.15, 0.1, 0.02, 0.02])[: len(world.actions)]
    steps = []
    resync = RESYNC // 4 if name == "maze" else RESYNC  # 26 m wide: float32 rounds by up to 1e-6 m a step
    for t in range(LENGTH):
        action = int(random.choice(len(world.actions), p=chances / chances.sum()))
        if wise and random.random() < 0.85:
            action = steered(original, name, env, random)
        env.watch.clear()
        _, reward, terminated, truncated, _ = env.step(action)
        drawn = env.watch.drawn
        if name == "collect_health":
            respawned = env.health == 100
            things = original.things(env)
        else:
            respawned = False
        margin = env.watch.margin
        if name == "sidewalk":
            margin = min(margin, abs(env.agent.pos[0]))
        doubtful = margin < EDGE
        steps.append(
            {
                "action": np.int32(action),
                "motion": Motion(
                    np.float32(drawn["forward_step"]),
                    np.float32(drawn["forward_drift"]),
                    np.float32(math.radians(drawn["turn_step"])),
                ),
                "after": state_of(original, name, world, env, things),
                "reward": np.float32(reward),
                "terminated": np.bool_(terminated),
                "truncated": np.bool_(truncated),
                "doubtful": np.bool_(doubtful),
                "respawned": np.bool_(respawned),
                "copied": np.bool_(doubtful or respawned or t % resync == resync - 1),
            }
        )
        if terminated or truncated or not original.things(env):
            break
    live = len(steps)
    steps += [{**steps[-1], "copied": np.bool_(True), "action": np.int32(-1)}] * (LENGTH - live)
    return start, steps, live


def stacked(trees):
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def replay(world, start, steps):
    """Ours: (states, Steps), leaves [T, B, ...]."""

    def one(state, item):
        after = world.moved(state, item["action"], item["motion"])
        return world.task.rule.judge(world, state, item["action"], after.replace(steps=state.steps + 1))

    def body(state, item):
        after, step = jax.vmap(one)(state, item)
        copied = item["copied"]

        def choose(theirs, ours):
            return jnp.where(copied.reshape(-1, *[1] * (ours.ndim - 1)), theirs, ours)

        keys = jax.vmap(lambda key: jax.random.split(key)[0])(state.key)
        return jax.tree.map(choose, item["after"], after).replace(key=keys), (after, step)

    return jax.lax.scan(body, start, steps)[1]


@pytest.mark.parametrize(
    "batches", [1, pytest.param(BATCHES, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])]
)
def test_every_step_is_the_originals(pair, original, batches):
    name, world, env = pair
    play = jax.jit(lambda start, steps: replay(world, start, steps))  # compiled once for all batches
    reached = [compared(original, name, world, env, play, number) for number in range(batches)]
    missing = [what for what in EXPECTED[name] if not any(what in batch for batch in reached)]
    assert not missing, f"{name}: no episode had {missing}"


def compared(original, name, world, env, play, batch):
    """Plays one batch of episodes in both, compares every step, and says what happened in them."""
    episodes = [record(original, name, world, env, batch * EPISODES + number) for number in range(EPISODES)]
    start = stacked([episode[0] for episode in episodes])
    steps = stacked([stacked(list(row)) for row in zip(*(episode[1] for episode in episodes), strict=True)])
    after, step = jax.tree.map(np.asarray, play(start, steps))
    live = np.arange(LENGTH)[:, None] < np.array([episode[2] for episode in episodes])
    sure = live & ~steps["doubtful"]
    theirs = steps["after"]

    def same(ours, want, what, where=sure, atol=1e-5):
        off = np.abs(np.asarray(ours, np.float64) - np.asarray(want, np.float64))
        off = off.reshape(*off.shape[:2], -1).max(axis=2, initial=0.0)
        assert not (off > atol)[where].any(), f"{name}: {what} differs by {off[where].max()}"

    same(after.agent.position, theirs.agent.position, "the agent's position")
    same(np.exp(1j * after.agent.yaw).real, np.exp(1j * theirs.agent.yaw).real, "its yaw")
    same(np.exp(1j * after.agent.yaw).imag, np.exp(1j * theirs.agent.yaw).imag, "its yaw")
    same(after.carried, theirs.carried, "what is carried")
    same(after.things.exists, theirs.things.exists, "what is left")
    there = theirs.things.exists
    # A kit that is put elsewhere is drawn anew by both: the last of the list.
    there = there & ~(steps["respawned"][..., None] & (np.arange(there.shape[-1]) == there.shape[-1] - 1))
    for field in ("position", "yaw", "kind", "size"):
        ours, want = getattr(after.things, field), getattr(theirs.things, field)
        if field == "yaw":
            ours, want = np.cos(ours), np.cos(want)
        mask = there[..., None] if field == "position" else there
        same(np.where(mask, ours, 0), np.where(mask, want, 0), f"a thing's {field}")
    if name == "collect_health":
        same(after.memory, theirs.memory, "health")
    same(step.reward, steps["reward"], "the reward", atol=1e-4 if name == "collect_health" else 1e-6)
    same(step.terminated, steps["terminated"], "terminated")
    if name not in ENDLESS:
        same(step.truncated, steps["truncated"], "truncated")

    assert live.sum() > 0.97 * sure.sum() and sure.sum() > 0.97 * live.sum()
    before = np.concatenate([start.agent.position[None], theirs.agent.position[:-1]])
    stays = (theirs.agent.position == before).all(axis=-1)
    happened = {
        "a blocked step": (steps["action"] == 2) & stays,
        "a reward": steps["reward"] != 0,
        "an end": steps["terminated"],
        "the last step": steps["truncated"],
        "a carried thing": theirs.carried >= 0,
        "a drop": np.concatenate([np.zeros((1, EPISODES), bool), theirs.carried[:-1] >= 0]) & (theirs.carried < 0),
    }
    return {what for what, where in happened.items() if (where & live).any()}


# What the episodes of each task are to reach, so that it is compared.
_ALWAYS = ("a blocked step", "a reward", "an end", "the last step")
EXPECTED = {
    **{name: _ALWAYS for name in NAMES},
    "sign": _ALWAYS[1:],
    "three_rooms": ("a blocked step", "the last step"),  # upstream rewards nothing
    "room_objects": ("a blocked step", "a carried thing", "a drop"),  # nor here, and it has no limit
    "put_next": (*_ALWAYS, "a carried thing", "a drop"),
}


# ---------------------------------------------------------------- where episodes start

# Not in every run: variants whose starts are drawn like another's, and those whose many resets of the original
# take longest and whose rules another one has, too.
_LATER = {"one_room_s6_fast", "maze_s3_fast", "t_maze_right", "y_maze_right"} | {
    "maze",
    "maze_s2",
    "pickup_objects",
    "collect_health",
    "three_rooms",
}
# All of them once more with as many resets of the original.
_MANY = {name: 150 if name == "maze" else 600 for name in NAMES}
_STARTS = [(name, 160) for name in NAMES if name not in _LATER]
_STARTS += [pytest.param(name, count, marks=pytest.mark.slow) for name, count in _MANY.items()]


@pytest.mark.parametrize(("name", "count"), _STARTS)
def test_starts_are_distributed_as_the_originals(name, count, original):
    """Places and yaws of the agent and of what the task is about, by Kolmogorov and Smirnov; what things there
    are, their colours, which passages of a maze are open, and which textures are drawn, by shares."""
    env, world = original.make(name), envs_jax.make(f"miniworld/{name}", faithful=True, randomise=("tex_rand",))
    env.domain_rand = True
    # What else it would draw leaves places as they are.
    row = {"sidewalk": 6, "put_next": COLOUR_NAMES.index("red")}.get(name, 0)
    theirs = []
    for seed in range(count):
        env.reset(seed=seed)
        theirs.append(state_of(original, name, world, env, original.things(env)))
    env.close()
    theirs = stacked(theirs)
    reset = jax.jit(jax.vmap(world.reset))(jax.random.split(jax.random.key(5), 2048))
    ours = jax.tree.map(np.asarray, reset.replace(key=None))

    def columns(state):
        agent, things = state.agent, state.things
        apart = np.linalg.norm(agent.position - things.position[:, row], axis=1)
        numbers = (agent.position[:, ::2], things.position[:, row, ::2], agent.yaw, np.cos(things.yaw[:, row]))
        rows = np.column_stack([*numbers, things.size[:, row], apart])
        return np.round(rows.astype(float), 6).T  # sizes are a few

    for one, two in zip(columns(ours), columns(theirs), strict=True):
        if np.ptp(two) < 1e-6:  # always there, or always so large
            np.testing.assert_allclose(one, two[0], atol=1e-6)
        else:
            assert stats.ks_2samp(one, two).pvalue > 1e-3

    counted = [(ours.things.kind, theirs.things.kind), (ours.things.colour, theirs.things.colour)]
    counted += [(ours.passages.astype(int), theirs.passages.astype(int))] if theirs.passages is not None else []
    counted += [(ours.look.papers, theirs.look.papers)] if theirs.look.papers is not None else []
    for one, two in counted:
        values = int(max(one.max(), two.max())) + 1
        shares = [np.stack([np.mean(x == value, axis=0) for value in range(values)]) for x in (one, two)]
        spread = math.sqrt(0.25 / len(one) + 0.25 / len(two))  # of the difference of two shares, at most
        np.testing.assert_allclose(*shares, atol=4.5 * spread)
        np.testing.assert_array_equal(shares[0] == 0, shares[1] == 0)  # nothing that never is, or always
