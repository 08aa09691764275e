"""OneRoom: one square room, one red box, go to the box. MiniWorld's OneRoom, OneRoomS6 and OneRoomS6Fast.

* The box is placed first, then the agent, each uniformly where it fits, with a uniform yaw.
* Solved, and ended, when the agent is near the box: reward 1 - 0.2 * steps / max_steps, the step itself counted.
  In the last step an episode may end both ways, terminated and truncated, as upstream.
* Differs from upstream: textures are this project's own; a heading is kept in [-pi, pi]; an invalid action moves
  nothing and is counted as a step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, UInt8

from envs_jax.miniworld import dynamics, entities, expert, layout, options, placement, view
from envs_jax.render.raycast import render, trace
from envs_jax.render.scene import Scene, Walls, miniworld_light, no_patches
from envs_jax.render.texture import build_atlas
from envs_jax.world import Step

_TEXTURES = ("plain", "floor_tiles_bw", "concrete", "concrete_tiles")
_PLAIN, _FLOOR, _WALL, _CEILING = range(4)

_PHRASES = ("no box", "box far left", "box left", "box ahead", "box right", "box far right", "near", "far")
_NO_BOX, _FAR_LEFT, _LEFT, _AHEAD, _RIGHT, _FAR_RIGHT, _NEAR, _FAR = range(len(_PHRASES))
# The same words for the same picture in every variant. At the borders the experts begin to turn, 15 degrees at a
# time or 45.
_AHEAD_WITHIN, _SIDE_WITHIN = (math.radians(expert.KEEP * degrees) for degrees in (15, 45))
_NEAR_WITHIN = 2.5  # metres, to the box's middle
_SEEN_FROM = 1 / 2000  # share of the picture: 2.4 pixels of 80 x 60


@struct.dataclass
class State:
    """One episode.

    Attributes:
      key: what an episode would draw from; the steps of this world draw nothing.
      steps: int32[], taken so far.
      agent: where the agent stands and looks.
      boxes: the one red box, N = 1.
    """

    key: PRNGKeyArray
    steps: Int[Array, ""]
    agent: dynamics.Agent
    boxes: entities.Entities


@dataclass(frozen=True)
class OneRoom:
    """The worlds `miniworld/one_room`, `one_room_s6` and `one_room_s6_fast`.

    Args:
      name: registered name.
      size: side of the room, 3 to 50 metres.
      forward_step: metres, up to 0.75 (a longer one could jump through a wall).
      turn_degrees: a divisor of 360, 1 to 90.
      max_steps: steps after which an episode is truncated.
      image_shape: (height, width, 3) of the picture; the vertical field of view is 60 degrees for all.

    Raises:
      ValueError: an option is out of range.
    """

    name: str = "miniworld/one_room"
    size: float | int = 10.0
    forward_step: float | int = dynamics.FORWARD_STEP
    turn_degrees: float | int = dynamics.TURN_DEGREES
    max_steps: int = 180
    image_shape: tuple[int, int, int] = view.IMAGE_SHAPE

    actions = dynamics.ACTIONS
    instruction = "Go to the red box."
    phrases = _PHRASES

    def __post_init__(self):
        options.check_number("size", self.size, 3, 50, "metres")
        options.check_number("forward_step", self.forward_step, 0.01, 0.75, "metres")
        options.check_turn(self.turn_degrees)
        options.check_max_steps(self.max_steps)
        options.check_image_shape(self.image_shape)

    def reset(self, key: PRNGKeyArray) -> State:
        """Box and agent somewhere in the room, not touching."""
        key, box_key, agent_key = jax.random.split(key, 3)
        walls, boxes = self._walls(), entities.boxes(("red",))
        boxes = entities.put(boxes, 0, *self._place(box_key, self._box_radius, walls, boxes))
        position, yaw = self._place(agent_key, dynamics.AGENT_RADIUS, walls, boxes)
        return State(key=key, steps=jnp.int32(0), agent=dynamics.Agent(position, yaw), boxes=boxes)

    def step(self, state: State, action: Int[Array, ""]) -> tuple[State, Step]:
        """One turn or one move; done when the agent is near the box."""
        steps = state.steps + 1
        turn = math.radians(self.turn_degrees)
        agent = dynamics.act(state.agent, action, self.forward_step, turn, self._walls(), state.boxes)
        # MiniWorld's range of the default step ends above it; see MAX_FORWARD_STEP.
        default = self.forward_step == dynamics.FORWARD_STEP
        reach = dynamics.MAX_FORWARD_STEP if default else self.forward_step
        target, radius = state.boxes.position[0], entities.radii(state.boxes.size[0])
        reached = dynamics.near(agent.position, dynamics.AGENT_RADIUS, target, radius, reach)
        reward = jnp.where(reached, dynamics.success_reward(steps, self.max_steps), 0.0)
        truncated = steps >= self.max_steps
        return state.replace(steps=steps, agent=agent), Step(
            reward=reward.astype(jnp.float32), terminated=reached, truncated=truncated, success=reached
        )

    def render(self, state: State) -> UInt8[Array, "h w 3"]:
        """The room through the agent's camera."""
        return render(self._scene(state), view.camera(state.agent), build_atlas(_TEXTURES), self.image_shape[:2])

    def describe(self, state: State) -> Int[Array, " n"]:
        """Nothing: all is to be seen."""
        return jnp.full(1, -1, jnp.int32)

    def admissible(self, state: State) -> Bool[Array, " a"]:
        """Turns always, move_forward where nothing is in the way."""
        _, free = dynamics.moved(state.agent, self.forward_step, self._walls(), state.boxes)
        return jnp.stack([jnp.bool_(True), jnp.bool_(True), free])

    def expert(self, state: State, key: PRNGKeyArray) -> Int[Array, ""]:
        """Turns towards the box the short way, seen or not, and goes there."""
        return expert.go_to(
            state.agent, state.boxes.position[0], self.forward_step, self.turn_degrees, self._walls(), state.boxes
        )

    def explain(self, state: State) -> Int[Array, " n"]:
        """Where the box is in the present picture, "box far left" or "box ahead near"; "no box" if it is not.

        The pixels decide whether it is seen. Its distance is said only of a box ahead, where it will soon matter.
        """
        hit = trace(self._scene(state), view.camera(state.agent), self.image_shape[:2])
        seen = view.shares(hit, 1)[0] >= _SEEN_FROM
        angle = dynamics.bearing(state.agent, state.boxes.position[0])
        off = jnp.abs(angle)
        left = jnp.where(off <= _SIDE_WITHIN, _LEFT, _FAR_LEFT)
        right = jnp.where(off <= _SIDE_WITHIN, _RIGHT, _FAR_RIGHT)
        ahead = off <= _AHEAD_WITHIN
        side = jnp.where(ahead, _AHEAD, jnp.where(angle > 0, left, right))
        close = dynamics.distance(state.agent.position, state.boxes.position[0]) <= _NEAR_WITHIN
        how_far = jnp.where(ahead, jnp.where(close, _NEAR, _FAR), -1)
        thought = jnp.where(seen, jnp.stack([side, how_far]), jnp.array([_NO_BOX, -1]))
        return thought.astype(jnp.int32)

    @property
    def _box_radius(self) -> float:
        return math.hypot(entities.BOX_SIZE, entities.BOX_SIZE) / 2

    def _walls(self) -> Walls:
        side = float(self.size)
        return layout.walls_around(layout.rectangle((0.0, 0.0), (side, side)), _WALL)

    def _place(self, key, radius, walls, boxes) -> tuple[Float[Array, "3"], Float[Array, ""]]:
        margin, far = radius, self.size - radius
        return placement.place(key, (margin, margin), (far, far), radius, walls, boxes)

    def _scene(self, state: State) -> Scene:
        return Scene(
            walls=self._walls(),
            patches=no_patches(),
            boxes=entities.as_boxes(state.boxes, _PLAIN),
            floor_texture=jnp.int32(_FLOOR),
            ceiling_texture=jnp.int32(_CEILING),
            ceiling_height=jnp.float32(layout.WALL_HEIGHT),
            sky=jnp.array(view.SKY, jnp.float32),
            light=miniworld_light(),
        )
