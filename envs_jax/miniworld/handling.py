"""How experts handle things in one rectangular room: choose one, come into reach of it, carry it.

A pickup tests a circle before the agent and fails where a wall is in that circle (`dynamics.in_reach`). So a thing by
a wall is taken from the room's side: while facing it would put a wall into the circle, a place off the wall is gone to.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from envs_jax.miniworld import dynamics, expert
from envs_jax.miniworld.entities import radii

_WITHIN = 0.08  # metres that a thing must be nearer than a pickup reaches before it is faced
_OFF_WALLS = 1.2  # metres from the walls from which any thing can be faced


def may_go(world: Any, state: Any) -> Bool[Array, " headings"]:
    """For each of `expert.headings`, whether the agent can turn to it, step by step, and then go one step ahead."""
    agent = state.agent
    yaws = expert.headings(agent, world.turn_degrees)
    middle = len(yaws) // 2  # the present heading

    def turns_to(yaw):
        carried = state.carried
        row = jnp.maximum(carried, 0)
        radius = radii(state.things)[row]
        there = agent.replace(yaw=yaw)
        place = dynamics.carry_position(
            there, radius, state.things.size[row], world.body, world.camera_height(state)
        )
        others = dynamics.without(state.things, carried)
        return (carried < 0) | (dynamics.clearance(place, radius, world.walls(state), others) >= 0)

    fits = jax.vmap(turns_to)(yaws).astype(jnp.int32)
    left = jnp.cumprod(fits[middle + 1 :])
    right = jnp.cumprod(fits[:middle][::-1])[::-1]
    reached = jnp.concatenate([right, jnp.ones(1, jnp.int32), left]) > 0
    steps = jax.vmap(lambda yaw: world.may_from(state, agent.replace(yaw=yaw), dynamics.MOVE_FORWARD))(yaws)
    return reached & steps


def nearest(world: Any, state: Any, wanted: Bool[Array, " n"]) -> Int[Array, ""]:
    """Row of the wanted thing that takes the fewest actions to reach, things by the walls last; 0 if none."""
    things, agent = state.things, state.agent
    metres = dynamics.distance(things.position, agent.position)
    turns = jnp.abs(jax.vmap(lambda place: dynamics.bearing(agent, place))(things.position))
    off_walls = jax.vmap(lambda place: dynamics.wall_clearance(place, 0.0, world.walls(state)))(things.position)
    cost = metres / world.forward_step + turns / world.usual_motion.turn + 8.0 * (off_walls < 0.6)
    return jnp.argmin(jnp.where(wanted, cost, jnp.inf)).astype(jnp.int32)


def fetch(world: Any, state: Any, row: Int[Array, ""], any_of: Bool[Array, " n"]) -> Int[Array, ""]:
    """The next action on the way to picking up thing `row`, or another of `any_of` that is in reach before.

    Args:
      world, state: an episode with empty hands.
      row: of the thing that is gone to.
      any_of: bool[N], what may be picked up, `row` among them.
    """
    agent, body, walls = state.agent, world.body, world.walls(state)
    target = state.things.position[row]
    size = radii(state.things)
    reach = world.in_reach(state)
    take = (reach >= 0) & any_of[jnp.maximum(reach, 0)]

    metres = dynamics.distance(agent.position, target)
    towards = (target - agent.position) / jnp.maximum(metres, 1e-6)
    circle = dynamics.wall_clearance(agent.position + 1.5 * body.radius * towards, 1.2 * body.radius, walls)
    within = metres <= 2.7 * body.radius + size[row] - _WITHIN
    turn, ahead = expert.face(agent, target, world.turn_degrees)
    # Something else is taken in its place: step back, or closer.
    closer = jnp.where(world.may(state, dynamics.MOVE_FORWARD), dynamics.MOVE_FORWARD, dynamics.MOVE_BACK)
    face = jnp.where(ahead, closer, turn)

    low, high = (jnp.asarray(corner, jnp.float32) for corner in world.task.plan.rooms[0].bounds)
    margin = max(_OFF_WALLS, body.radius)
    off = jnp.clip(target[jnp.array([0, 2])], low + margin, high - margin)
    aim = jnp.where(within, jnp.stack([off[0], jnp.float32(0.0), off[1]]), target)
    others = jnp.where(state.things.exists & (jnp.arange(len(size)) != row), size, -1.0)
    go = expert.go_round(
        agent,
        aim,
        world.forward_step,
        world.turn_degrees,
        walls,
        state.things.position,
        others,
        may_go(world, state),
        radius=body.radius,
    )
    go = jnp.where(within & (circle > 0.01), face, go)
    return jnp.where(take, dynamics.PICKUP, go).astype(jnp.int32)


def bring(world: Any, state: Any, row: Int[Array, ""] | int, to: Float[Array, "3"], aside: Bool[Array, " n"]):
    """The next action on the way of the carried thing `row` to a place.

    Args:
      world, state: an episode with `row` in hand.
      row: of what is carried.
      to: metres, where to.
      aside: bool[N], things that are not in the way: what is carried, and what is gone to.
    """
    size = radii(state.things)
    ahead = 1.05 * (world.body.radius + size[row] + world.body.reach)
    free = may_go(world, state)
    go = expert.go_round(
        state.agent,
        to,
        world.forward_step,
        world.turn_degrees,
        world.walls(state),
        state.things.position,
        jnp.where(state.things.exists & ~aside, size, -1.0),
        free,
        ahead=ahead,
        radius=jnp.maximum(size[row], world.body.radius),
    )
    back = world.may(state, dynamics.MOVE_BACK)
    return jnp.where(jnp.any(free) | ~back, go, dynamics.MOVE_BACK).astype(jnp.int32)
