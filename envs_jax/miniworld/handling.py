"""How experts handle things in one rectangular room: choose one, come into reach of it, carry it.

A pickup tests a circle before the agent and fails where a wall is in that circle (`dynamics.in_reach`). So a thing
by a wall is taken from the room's side: while facing it would put a wall into the circle, a place off the wall is
gone to.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from envs_jax.miniworld import dynamics, expert
from envs_jax.miniworld.entities import radii

_WITHIN = 0.08  # metres that a thing must be nearer than a pickup reaches before it is faced
_BY_WALL = 8.0  # actions more that a thing by a wall takes
_OFF_WALLS = 1.2  # metres from the walls from which any thing can be faced


def may_go(world: Any, state: Any) -> Bool[Array, " headings"]:
    """For each of `expert.headings`, whether the agent can turn to it step by step and then go ahead."""
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
    cost = actions_to(world, state, state.agent)
    return jnp.argmin(jnp.where(wanted, cost, jnp.inf)).astype(jnp.int32)


def actions_to(world: Any, state: Any, agent: dynamics.Agent) -> Float[Array, " n"]:
    """About how many turns and steps it takes an agent to come to each thing; more to those by the walls."""
    things = state.things
    metres = dynamics.distance(things.position, agent.position)
    turns = jnp.abs(jax.vmap(lambda place: dynamics.bearing(agent, place))(things.position))
    off_walls = jax.vmap(lambda place: dynamics.wall_clearance(place, 0.0, world.walls(state)))(things.position)
    return metres / world.forward_step + turns / world.usual_motion.turn + _BY_WALL * (off_walls < 0.6)


def fetch(
    world: Any, state: Any, row: Int[Array, ""], any_of: Bool[Array, " n"], past: bool = True
) -> Int[Array, ""]:
    """The next action on the way to picking up thing `row`, or another of `any_of` that is in reach before.

    Args:
      world, state: an episode with empty hands.
      row: of the thing that is gone to.
      any_of: bool[N], what may be picked up, `row` among them.
      past: whether ways past other things are planned; not needed where those are as good.
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
    bend = aim
    if past:
        bend = expert.detour(agent.position, aim, walls, state.things.position, others, body.radius)
    go = expert.follow(agent, bend, world.turn_degrees, may_go(world, state))
    go = jnp.where(within & (circle > 0.01), face, go)
    return jnp.where(take, dynamics.PICKUP, go).astype(jnp.int32)


def bring(
    world: Any,
    state: Any,
    row: Int[Array, ""] | int,
    to: Int[Array, ""] | int,
    key: PRNGKeyArray,
) -> Int[Array, ""]:
    """The next action on the way of the carried thing `row` to thing `to`.

    What is carried sticks out a metre and more and forbids turns, so an agent may be caught: where the heading
    that it wants is not to be had, it moves at random every third time.
    """
    size, agent = radii(state.things), state.agent
    rows = jnp.arange(len(size))
    others = jnp.where(state.things.exists & (rows != row) & (rows != to), size, -1.0)
    ahead = 1.05 * (world.body.radius + size[row] + world.body.reach)
    target = state.things.position[to]
    wide = jnp.maximum(size[row], world.body.radius)
    bend = expert.detour(agent.position, target, world.walls(state), state.things.position, others, wide)
    # Too close to turn round with it: first away, past the thing's other side.
    metres = dynamics.distance(agent.position, target)
    turned_away = jnp.abs(dynamics.bearing(agent, target)) > math.radians(45)
    close = (metres < ahead + size[row] + size[to] + 0.05) & turned_away
    aim = jnp.where(close, 2 * agent.position - target, bend)
    free = may_go(world, state)
    go = expert.follow(agent, aim, world.turn_degrees, free)
    wanted = expert.follow(agent, aim, world.turn_degrees, jnp.ones_like(free))
    chance_key, move_key = jax.random.split(key)
    able = jnp.stack([world.may(state, action) for action in range(4)])
    stray = jax.random.categorical(move_key, jnp.where(able, 0.0, -jnp.inf))
    caught = ((go != wanted) | ~jnp.any(free)) & jnp.any(able)
    strays = caught & (jax.random.uniform(chance_key) < 1 / 3)
    back = jnp.where(~jnp.any(free) & able[dynamics.MOVE_BACK], dynamics.MOVE_BACK, go)
    return jnp.where(strays, stray, back).astype(jnp.int32)
