"""How an agent moves in MiniWorld: circles against wall segments and against each other.

* A move that would end in a collision is rejected as a whole: no sliding along walls.
* Only the end of a move is tested, and only walls that stand on the ground collide (not lintels).
* Behaviour and constants are those of miniworld/miniworld.py and params.py without domain randomisation.
"""

from __future__ import annotations

import math

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from envs_jax.miniworld.entities import Entities, radii
from envs_jax.render.scene import Walls

ACTIONS = ("turn_left", "turn_right", "move_forward")  # ids 0, 1, 2
TURN_LEFT, TURN_RIGHT, MOVE_FORWARD = range(3)

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


def wrap(angle: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """The same angle in [-pi, pi], radians."""
    return angle - 2 * math.pi * jnp.round(angle / (2 * math.pi))


def direction(yaw: Float[Array, "*n"]) -> Float[Array, "*n 3"]:
    """Unit vector that a yaw looks along."""
    return jnp.stack([jnp.cos(yaw), jnp.zeros_like(yaw), -jnp.sin(yaw)], axis=-1)


def bearing(agent: Agent, position: Float[Array, "3"]) -> Float[Array, ""]:
    """Angle by which the agent would have to turn left to face a position, radians in [-pi, pi]."""
    x, _, z = position - agent.position
    return wrap(jnp.arctan2(-z, x) - agent.yaw)


def distance(a: Float[Array, "3"], b: Float[Array, "3"]) -> Float[Array, ""]:
    """Metres, in three dimensions."""
    return jnp.sqrt(jnp.sum((a - b) ** 2))


def clearance(
    position: Float[Array, "3"], radius: Float[Array, ""] | float, walls: Walls, entities: Entities
) -> Float[Array, ""]:
    """Metres between a circle on the ground and what is nearest to it; less than 0 is a collision."""
    point = jnp.stack([position[0], position[2]])
    along = walls.end - walls.start  # [N, 2]
    share = jnp.sum((point - walls.start) * along, axis=-1) / jnp.maximum(jnp.sum(along**2, axis=-1), 1e-12)
    foot = walls.start + jnp.clip(share, 0.0, 1.0)[:, None] * along
    to_walls = jnp.sqrt(jnp.sum((foot - point) ** 2, axis=-1)) - radius
    solid = walls.exists & (walls.low == 0)

    centres = jnp.stack([entities.position[:, 0], entities.position[:, 2]], axis=-1)
    to_entities = jnp.sqrt(jnp.sum((centres - point) ** 2, axis=-1)) - (radius + radii(entities.size))
    return jnp.minimum(
        jnp.min(jnp.where(solid, to_walls, jnp.inf), initial=jnp.inf),
        jnp.min(jnp.where(entities.exists, to_entities, jnp.inf), initial=jnp.inf),
    )


def turned(agent: Agent, radians: Float[Array, ""] | float) -> Agent:
    """The agent after a turn to the left."""
    return agent.replace(yaw=wrap(agent.yaw + radians))


def moved(
    agent: Agent, metres: Float[Array, ""] | float, walls: Walls, entities: Entities
) -> tuple[Agent, Bool[Array, ""]]:
    """The agent after a move ahead (back if metres < 0), and whether it moved: it stays if it would collide.

    `entities` are the others: what the agent carries is not among them.
    """
    position = agent.position + metres * direction(agent.yaw)
    free = clearance(position, AGENT_RADIUS, walls, entities) >= 0
    return agent.replace(position=jnp.where(free, position, agent.position)), free


def act(
    agent: Agent,
    action: Int[Array, ""],
    forward_step: Float[Array, ""] | float,
    turn: Float[Array, ""] | float,
    walls: Walls,
    entities: Entities,
) -> Agent:
    """The agent after one of ACTIONS; any other id leaves it as it is.

    Args:
      forward_step: metres of a move_forward.
      turn: radians of a turn.
    """
    left = jnp.where(action == TURN_LEFT, 1.0, jnp.where(action == TURN_RIGHT, -1.0, 0.0))
    after, _ = moved(
        turned(agent, left * turn), jnp.where(action == MOVE_FORWARD, forward_step, 0.0), walls, entities
    )
    return after


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
