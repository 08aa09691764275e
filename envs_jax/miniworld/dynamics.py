"""How an agent moves, picks up and drops in MiniWorld: circles against wall segments and against each other.

* A move that would end in a collision is rejected as a whole: no sliding along walls. So is a move or a turn after
  which the thing that is carried would collide.
* Only the end of a move is tested, and only walls that stand on the ground collide (not lintels).
* A pickup tests a circle before the agent. A wall in it forbids the pickup; of several things in it MiniWorld
  takes the first of its list, which need not be the nearest.
* Behaviour and constants are those of miniworld/miniworld.py and params.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from envs_jax.miniworld.entities import Entities, movable, radii
from envs_jax.render.scene import Walls

# MiniWorld's actions; the action sets of all its tasks are their first few.
ACTIONS = ("turn_left", "turn_right", "move_forward", "move_back", "pickup", "drop", "toggle", "done")
TURN_LEFT, TURN_RIGHT, MOVE_FORWARD, MOVE_BACK, PICKUP, DROP = range(6)  # toggle and done have no effect
NOTHING = -1  # State.carried of empty hands

AGENT_RADIUS = 0.4  # metres
FORWARD_STEP = 0.15  # metres
TURN_DEGREES = 15.0
# The top of the range that forward_step is drawn from under domain randomisation, [.12, .17]. MiniWorld's `near`
# reads it even without; a step that a task sets itself, as the Fast ones do, has no range beyond its value.
MAX_FORWARD_STEP = 0.17


@struct.dataclass
class Agent:
    """Who looks and moves.

    Attributes:
      position: float32[3], metres, of its base; y is 0.
      yaw: float32[], radians in [-pi, pi], to the left; 0 looks along +x.
    """

    position: Float[Array, "3"]
    yaw: Float[Array, ""]


@struct.dataclass
class Motion:
    """What one action does this time.

    Attributes:
      forward: metres of a move.
      drift: metres to the right of every move, ahead or back.
      turn: radians of a turn.
    """

    forward: Float[Array, ""] | float
    drift: Float[Array, ""] | float
    turn: Float[Array, ""] | float


@dataclass(frozen=True)
class Body:
    """What of the agent does not change.

    Attributes:
      radius: metres.
      reach: the longest step forward, metres; part of `near` and of the distance at which things are carried.
      nearest: whether a pickup takes the nearest thing, not the first of the list.
    """

    radius: float = AGENT_RADIUS
    reach: float = MAX_FORWARD_STEP
    nearest: bool = True


def wrap(angle: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """The same angle in [-pi, pi], radians."""
    return angle - 2 * math.pi * jnp.round(angle / (2 * math.pi))


def direction(yaw: Float[Array, "*n"]) -> Float[Array, "*n 3"]:
    """Unit vector that a yaw looks along."""
    return jnp.stack([jnp.cos(yaw), jnp.zeros_like(yaw), -jnp.sin(yaw)], axis=-1)


def right(yaw: Float[Array, "*n"]) -> Float[Array, "*n 3"]:
    """Unit vector to the right of a yaw."""
    return jnp.stack([jnp.sin(yaw), jnp.zeros_like(yaw), jnp.cos(yaw)], axis=-1)


def bearing(agent: Agent, position: Float[Array, "3"]) -> Float[Array, ""]:
    """Angle by which the agent would have to turn left to face a position, radians in [-pi, pi]."""
    x, _, z = position - agent.position
    return wrap(jnp.arctan2(-z, x) - agent.yaw)


def distance(a: Float[Array, "*#n 3"], b: Float[Array, "*#n 3"]) -> Float[Array, "..."]:
    """Metres, in three dimensions; of many, or of many to one."""
    return jnp.sqrt(jnp.sum((a - b) ** 2, axis=-1))


def wall_clearance(
    position: Float[Array, "3"], radius: Float[Array, ""] | float, walls: Walls
) -> Float[Array, ""]:
    """Metres between a circle on the ground and the nearest wall that stands there; less than 0 is a collision."""
    point = jnp.stack([position[0], position[2]])
    along = walls.end - walls.start  # [N, 2]
    share = jnp.sum((point - walls.start) * along, axis=-1) / jnp.maximum(jnp.sum(along**2, axis=-1), 1e-12)
    foot = walls.start + jnp.clip(share, 0.0, 1.0)[:, None] * along
    squared = jnp.sum((foot - point) ** 2, axis=-1)
    solid = walls.exists & (walls.low == 0)
    return jnp.sqrt(jnp.min(jnp.where(solid, squared, jnp.inf), initial=jnp.inf)) - radius


def entity_gaps(
    position: Float[Array, "3"], radius: Float[Array, ""] | float, entities: Entities
) -> Float[Array, " n"]:
    """Metres between a circle on the ground and each entity's; infinite for those that do not exist."""
    point = jnp.stack([position[0], position[2]])
    centres = jnp.stack([entities.position[:, 0], entities.position[:, 2]], axis=-1)
    gaps = jnp.sqrt(jnp.sum((centres - point) ** 2, axis=-1)) - (radius + radii(entities))
    return jnp.where(entities.exists, gaps, jnp.inf)


def clearance(
    position: Float[Array, "3"], radius: Float[Array, ""] | float, walls: Walls, entities: Entities
) -> Float[Array, ""]:
    """Metres between a circle on the ground and what is nearest to it; less than 0 is a collision."""
    nearest = jnp.min(entity_gaps(position, radius, entities), initial=jnp.inf)
    return jnp.minimum(wall_clearance(position, radius, walls), nearest)


def carry_position(
    agent: Agent,
    radius: Float[Array, ""] | float,
    height: Float[Array, ""] | float,
    body: Body,
    camera_height: Float[Array, ""] | float,
) -> Float[Array, "3"]:
    """Where a thing of a radius and a height is while the agent carries it: before it, low in the picture."""
    ahead = 1.05 * (body.radius + radius + body.reach)
    up = jnp.maximum(camera_height - height - 0.3, 0.0)
    return agent.position + ahead * direction(agent.yaw) + up * jnp.array([0.0, 1.0, 0.0], jnp.float32)


def without(entities: Entities, row: Int[Array, ""]) -> Entities:
    """The others: entity `row` does not exist among them; a negative row leaves all."""
    return entities.replace(exists=entities.exists & (jnp.arange(len(entities.size)) != row))


def attempt(agent: Agent, action: Int[Array, ""], motion: Motion) -> Agent:
    """Where a turn or a move would take the agent, collisions aside; any other action leaves it as it is."""
    left = jnp.where(action == TURN_LEFT, 1.0, jnp.where(action == TURN_RIGHT, -1.0, 0.0))
    ahead = jnp.where(action == MOVE_FORWARD, 1.0, jnp.where(action == MOVE_BACK, -1.0, 0.0))
    step = ahead * motion.forward * direction(agent.yaw)
    if not (isinstance(motion.drift, float) and motion.drift == 0.0):
        step = step + jnp.abs(ahead) * motion.drift * right(agent.yaw)
    return Agent(position=agent.position + step, yaw=wrap(agent.yaw + left * motion.turn))


def fits(
    after: Agent,
    before: Agent,
    walls: Walls,
    entities: Entities,
    body: Body,
    carried: Int[Array, ""] | None = None,
    camera_height: Float[Array, ""] | float = 0.0,
) -> Bool[Array, ""]:
    """Whether the agent may go from `before` to `after`, and with it what it carries.

    Args:
      after, before: a move and a turn are not made at once. Without a move the agent itself is not tested.
      carried: row of what is carried, negative for nothing; None if this task has nothing to carry.
    """
    moves = jnp.any(after.position != before.position)
    free = ~moves | (clearance(after.position, body.radius, walls, entities) >= 0)
    if carried is None:
        return free
    row = jnp.maximum(carried, 0)
    radius = radii(entities)[row]
    position = carry_position(after, radius, entities.size[row], body, camera_height)
    flat = position * jnp.array([1.0, 0.0, 1.0], jnp.float32)
    # MiniWorld tests it against the agent where that still is.
    gap = jnp.minimum(
        clearance(position, radius, walls, without(entities, carried)),
        distance(flat, before.position) - (radius + body.radius),
    )
    changes = moves | (after.yaw != before.yaw)
    return free & ((carried < 0) | ~changes | (gap >= 0))


def turned(agent: Agent, radians: Float[Array, ""] | float) -> Agent:
    """The agent after a turn to the left."""
    return agent.replace(yaw=wrap(agent.yaw + radians))


def moved(
    agent: Agent,
    metres: Float[Array, ""] | float,
    walls: Walls,
    entities: Entities,
    radius: float = AGENT_RADIUS,
) -> tuple[Agent, Bool[Array, ""]]:
    """The agent after a move ahead (back if metres < 0), and whether it moved: it stays if it would collide.

    `entities` are the others: what the agent carries is not among them.
    """
    position = agent.position + metres * direction(agent.yaw)
    free = clearance(position, radius, walls, entities) >= 0
    return agent.replace(position=jnp.where(free, position, agent.position)), free


def in_reach(agent: Agent, walls: Walls, entities: Entities, body: Body) -> Int[Array, ""]:
    """Row of the thing that a pickup would take with empty hands, NOTHING if none."""
    position = agent.position + 1.5 * body.radius * direction(agent.yaw)
    gaps = entity_gaps(position, 1.2 * body.radius, entities)
    touched = gaps < 0
    if body.nearest:
        hits = touched & movable(entities)
        row = jnp.argmin(jnp.where(hits, gaps, jnp.inf))
    else:
        row = jnp.argmax(touched)
        hits = touched & movable(entities)[row]  # upstream looks no further than at the first
    blocked = wall_clearance(position, 1.2 * body.radius, walls) < 0
    return jnp.where(jnp.any(hits) & ~blocked, row, NOTHING).astype(jnp.int32)


def act(
    agent: Agent, action: Int[Array, ""], motion: Motion, walls: Walls, entities: Entities, body: Body = Body()
) -> Agent:
    """The agent after a turn or a move, where nothing is ever carried; any other action leaves it as it is."""
    after = attempt(agent, action, motion)
    free = fits(after, agent, walls, entities, body)
    return Agent(position=jnp.where(free, after.position, agent.position), yaw=after.yaw)


def act_with_hands(
    agent: Agent,
    carried: Int[Array, ""],
    action: Int[Array, ""],
    motion: Motion,
    walls: Walls,
    entities: Entities,
    body: Body,
    camera_height: Float[Array, ""] | float,
) -> tuple[Agent, Int[Array, ""], Entities]:
    """The agent, the row of what it carries and all things after one of ACTIONS; other ids change nothing."""
    after = attempt(agent, action, motion)
    free = fits(after, agent, walls, entities, body, carried, camera_height)
    agent = Agent(
        position=jnp.where(free, after.position, agent.position), yaw=jnp.where(free, after.yaw, agent.yaw)
    )
    picks = (action == PICKUP) & (carried < 0)
    drops = (action == DROP) & (carried >= 0)
    dropped = (jnp.arange(len(entities.size)) == carried) & drops
    on_floor = entities.position * jnp.array([1.0, 0.0, 1.0], jnp.float32)
    entities = entities.replace(position=jnp.where(dropped[:, None], on_floor, entities.position))
    carried = jnp.where(picks, in_reach(agent, walls, entities, body), jnp.where(drops, NOTHING, carried))
    row = jnp.maximum(carried, 0)
    held = (jnp.arange(len(entities.size)) == carried)[:, None]
    place = carry_position(agent, radii(entities)[row], entities.size[row], body, camera_height)
    entities = entities.replace(
        position=jnp.where(held, place, entities.position),
        yaw=jnp.where(held[:, 0], agent.yaw, entities.yaw),
    )
    return agent, carried.astype(jnp.int32), entities


def near(
    a: Float[Array, "3"],
    radius_a: Float[Array, ""] | float,
    b: Float[Array, "3"],
    radius_b: Float[Array, ""] | float,
    max_forward_step: float,
) -> Bool[Array, ""]:
    """Whether two things are near each other, which is when most tasks are solved."""
    return distance(a, b) < radius_a + radius_b + 1.1 * max_forward_step


def success_reward(steps: Int[Array, ""], max_steps: int) -> Float[Array, ""]:
    """Reward of solving a task in its step number `steps` (1 is the first): 1 at once, .8 at the last moment."""
    return 1.0 - 0.2 * (steps.astype(jnp.float32) / max_steps)
