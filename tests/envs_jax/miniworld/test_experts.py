"""What the experts once failed at, each in a small layout of its own."""

from __future__ import annotations

import math
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np

import envs_jax
from envs_jax.miniworld import dynamics, expert, route
from envs_jax.miniworld.entities import radii


def begun(name, places, agent, yaw):
    """A world and its state with all things put at (x, z) and the agent there, looking along a yaw."""
    world = envs_jax.make(f"miniworld/{name}")
    state = jax.jit(world.reset)(jax.random.key(0))
    xz = jnp.asarray(places, jnp.float32)
    position = jnp.stack([xz[:, 0], jnp.zeros(len(xz)), xz[:, 1]], axis=1)
    body = dynamics.Agent(jnp.array([agent[0], 0.0, agent[1]], jnp.float32), jnp.float32(yaw))
    return world, state.replace(things=state.things.replace(position=position), agent=body)


def test_three_rooms_leads_round_what_stands_in_a_doorway_and_close_behind_one():
    """A box in the doorway, and a ball behind it: seen from the other room they were no obstacles."""
    layouts = [
        ([(-6.26, 4.54), (4.30, -0.50), (1.45, 6.01), (3.64, 5.65), (3.81, -6.31)], (4.54, -1.37)),
        ([(1.86, -4.08), (-2.16, -1.95), (0.94, 3.14), (3.84, 1.04), (1.94, 6.11)], (-5.80, 6.39)),
    ]
    world = envs_jax.make("miniworld/three_rooms")
    starts = [begun("three_rooms", places, agent, 0.3)[1] for places, agent in layouts]
    state = jax.tree.map(lambda *leaves: jnp.stack(leaves), *starts)

    @jax.jit
    def play(state):
        def body(carry, key):
            state, reached = carry
            state, step = jax.vmap(world.step)(state, jax.vmap(lambda s: world.expert(s, key))(state))
            return (state, reached | step.success), None

        return jax.lax.scan(body, (state, jnp.zeros(2, bool)), jax.random.split(jax.random.key(1), 200))[0][1]

    assert np.asarray(play(state)).all()


def test_ways_do_not_lead_through_gaps_that_are_too_narrow_nor_through_walls():
    """The ball leaves 0.79 m to the left jamb, less than the agent's 0.8: the way is round its other side."""
    world, state = begun(
        "three_rooms",
        [(1.86, -4.08), (-2.16, -1.95), (0.94, 3.14), (3.84, 1.04), (1.94, 6.11)],
        (2.9, 1.1),
        0.0,
    )
    sizes = jnp.where(jnp.arange(5) == 0, -1.0, radii(state.things))
    walls, jambs = world.walls(state), route.jambs(world.task.plan)
    place = state.agent.position
    seen = [(float(place[0]), float(place[2]))]
    for _ in range(8):
        place = expert.detour(place, state.things.position[0], walls, state.things.position, sizes, 0.4, jambs)
        seen.append((float(place[0]), float(place[2])))
        if math.dist(seen[-1], (1.86, -4.08)) < 1e-3:
            break
    assert math.dist(seen[-1], (1.86, -4.08)) < 1e-3
    assert max(x for x, z in seen if z > 0) > 3.84  # past the ball's far side
    for edge in (0.5, -0.5):  # both ends of the doorway
        (crossing,) = (x + (u - x) * (z - edge) / (z - w) for (x, z), (u, w) in pairwise(seen) if w < edge < z)
        assert 2.75 + 0.4 <= crossing <= 5.25 - 0.4


KITS = [(15.5, 15.5)] * 14  # far away, out of everybody's reach


def test_collect_health_leaves_a_near_kit_that_is_a_dead_end_for_one_with_others_around():
    """One kit alone in a corner 3 m away; three together at 5 m."""
    world, state = begun(
        "collect_health", [(1.0, 1.0), (8.0, 4.0), (9.5, 4.5), (8.5, 6.0), *KITS], (3.0, 3.5), 0.0
    )
    target = jax.jit(lambda s: world.task.rule._target(world, s))
    assert int(target(state)) in (1, 2, 3)
    # With health for no more than the near one, that one.
    assert int(target(state.replace(memory=jnp.int32(40)))) == 0


def test_collect_health_waits_beside_a_kit_until_the_last_health_is_used_up():
    world, state = begun(
        "collect_health", [(4.2, 8.0), (8.0, 9.0), (9.5, 8.5), (8.5, 6.0), *KITS], (3.0, 8.0), 0.0
    )
    act = jax.jit(world.expert)
    wait = dynamics.ACTIONS.index("done")
    assert int(act(state.replace(memory=jnp.int32(4)), jax.random.key(0))) == wait
    last = state.replace(memory=jnp.int32(2))
    assert int(act(last, jax.random.key(0))) == dynamics.PICKUP
    after, step = jax.jit(world.step)(last, jnp.int32(dynamics.PICKUP))
    assert int(after.memory) == 100 and not bool(step.terminated)
