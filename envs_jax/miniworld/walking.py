"""The rule of most tasks, go to a thing, and the rooms that it is asked in.

Hallway, OneRoom, TMaze, YMaze, Maze, FourRooms, WallGap, Sidewalk and ThreeRooms, sizes and chances as in
miniworld/envs. Where the original has a fault, `faithful=True` keeps it:

* Sidewalk: a step into the street ends the episode without reward, but upstream still adds the reward where the
  box is near in that step. Here the street comes first.
* ThreeRooms has no reward and no end but its step limit. Here it asks for the red box and rewards it like the
  other tasks. With `faithful` the reward is 0 and only time ends an episode; `success` still tells of the red box.

TMazeLeft and the other three with a given goal: upstream widens also a given place by the box's radius, so the box
is anywhere within 0.57 m of it along x and z. So it is here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, PRNGKeyArray

from envs_jax import options
from envs_jax.miniworld import dynamics, expert, route, thoughts
from envs_jax.miniworld.entities import radii
from envs_jax.miniworld.layout import FixedPlan, Opening, Room, rectangle
from envs_jax.miniworld.maze import MazePlan
from envs_jax.miniworld.placement import Where
from envs_jax.miniworld.task import Picture, Task, box, shape
from envs_jax.render.scene import Walls
from envs_jax.world import Step

_TO_THE_BOX = "Go to the red box."
_AHEAD = (-math.pi / 4, math.pi / 4)  # range of the yaw along +x
FAST_STEP, FAST_TURN = 0.7, 45.0  # metres and degrees of the Fast tasks and of Sign
_STREET_SHY = 0.05  # metres that the expert keeps from the street


@dataclass(frozen=True)
class GoTo:
    """Solved, and ended, when the agent is near one of the things.

    Attributes:
      target: its row.
      way: whether there are several rooms, so that thoughts tell where the way goes.
      around: whether other things stand in the way.
      street: entering x > 0 ends the episode, as in Sidewalk.
      rewarded: whether there is a reward and an end.
      faithful: see this module's docstring.
    """

    target: int = 0
    way: bool = False
    around: bool = False
    street: bool = False
    rewarded: bool = True
    faithful: bool = False

    draws = False

    @property
    def phrases(self) -> tuple[str, ...]:
        """What `explain` may say."""
        return thoughts.phrases("box", way=self.way)

    def memory(self, world: Any, state: Any, key: PRNGKeyArray | None) -> Int[Array, " r"] | None:
        """In a maze, int32[R C]: how many passages each room is away from the target, which stays where it is."""
        plan = world.task.plan
        if not isinstance(plan, MazePlan):
            return None
        return plan.steps_to(plan.cell(state.things.position[self.target]), state.passages)

    def judge(self, world: Any, before: Any, action: Int[Array, ""], after: Any) -> tuple[Any, Step]:
        """The reward is that of every task solved; see `MiniWorld.solved`."""
        reached = world.near(after, self.target)
        if not self.rewarded:
            return after, world.outcome(after, jnp.float32(0.0), jnp.bool_(False), reached)
        if not self.street:
            return after, world.solved(after, reached)
        entered = self._in_street(after.agent)
        step = world.solved(after, reached if self.faithful else reached & ~entered)
        return after, step.replace(terminated=step.terminated | entered)

    def expert(self, world: Any, state: Any, key: PRNGKeyArray) -> Int[Array, ""]:
        """Turns the short way towards the thing, or to the next doorway on the way there, and goes."""
        target, walls = state.things.position[self.target], world.walls(state)
        if self.street:
            walls = _with_kerb(walls)
        if not self.around:
            point = world.waypoint(state, target, state.memory)
            return expert.go_to(
                state.agent, point, world.forward_step, world.turn_degrees, walls, state.things, world.body.radius
            )
        others = jnp.where(jnp.arange(len(state.things.size)) == self.target, -1.0, radii(state.things))
        point = expert.detour(
            state.agent.position,
            target,
            walls,
            state.things.position,
            others,
            world.body.radius,
            route.jambs(world.task.plan),
        )
        agents = jax.vmap(lambda yaw: state.agent.replace(yaw=yaw))(
            expert.headings(state.agent, world.turn_degrees)
        )
        may_go = jax.vmap(lambda agent: world.may_from(state, agent, dynamics.MOVE_FORWARD))(agents)
        return expert.follow(state.agent, point, world.turn_degrees, may_go)

    def describe(self, world: Any, state: Any) -> Int[Array, " n"]:
        """Nothing: all is to be seen."""
        return jnp.full(1, -1, jnp.int32)

    def explain(self, world: Any, state: Any) -> Int[Array, " n"]:
        """Where the box is in the present picture, or that it is not and where the way goes."""
        target = state.things.position[self.target]
        point = world.waypoint(state, target, state.memory)
        way = dynamics.bearing(state.agent, point) if self.way else None
        return thoughts.think(
            1,
            0,
            world.shares(state)[self.target] >= thoughts.SEEN_FROM,
            dynamics.bearing(state.agent, target),
            dynamics.distance(state.agent.position, target),
            way,
        )

    def _in_street(self, agent: dynamics.Agent) -> Bool[Array, ""]:
        """Whether a position is inside of the street, 0 < x < 6, -80 < z < 80."""
        x, _, z = agent.position
        return (x > 0) & (x < _STREET[1][0]) & (jnp.abs(z) < _STREET[1][1])


def _with_kerb(walls: Walls) -> Walls:
    """With one more wall, in the street, that keeps an agent of the usual radius out of it."""
    x, end = dynamics.AGENT_RADIUS - _STREET_SHY, _STREET[1][1]
    more = Walls(
        start=jnp.array([[x, end]], jnp.float32),
        end=jnp.array([[x, -end]], jnp.float32),
        low=jnp.zeros(1, jnp.float32),
        high=jnp.ones(1, jnp.float32),
        offset=jnp.zeros(1, jnp.float32),
        texture=jnp.zeros(1, jnp.int32),
        exists=jnp.ones(1, bool),
    )
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), walls, more)


# ---------------------------------------------------------------- one room


def hallway(faithful: bool = False, length: float | int = 12.0) -> Task:
    """A corridor 4 m wide, the box in its last 2 m. `length`: 4 to 50 metres."""
    options.check_number("length", length, 4, 50, "metres")
    end = float(length) - 1.0
    return Task(
        instruction=_TO_THE_BOX,
        plan=FixedPlan((Room(rectangle((-1.0, -2.0), (end, 2.0))),)),
        rule=GoTo(),
        max_steps=250,
        things=(box("red", where=(Where(x=(end - 2.0, None)),)),),
        agent=Where(x=(None, end - 2.0), yaw=_AHEAD),
    )


def _one_room(size: float | int, max_steps: int, **motion: Any) -> Task:
    options.check_number("size", size, 3, 50, "metres")
    return Task(
        instruction=_TO_THE_BOX,
        plan=FixedPlan((Room(rectangle((0.0, 0.0), (float(size), float(size)))),)),
        rule=GoTo(),
        max_steps=max_steps,
        things=(box("red"),),
        **motion,
    )


def one_room(faithful: bool = False, size: float | int = 10.0) -> Task:
    """A square room. `size`: of its side, 3 to 50 metres."""
    return _one_room(size, 180)


def one_room_s6(faithful: bool = False, size: float | int = 6.0) -> Task:
    """A smaller one."""
    return _one_room(size, 100)


def one_room_s6_fast(faithful: bool = False, size: float | int = 6.0) -> Task:
    """The smaller one with longer steps and turns."""
    return _one_room(size, 50, forward_step=FAST_STEP, turn_degrees=FAST_TURN, own_motion=True)


# ---------------------------------------------------------------- several rooms


def _junction(plan: FixedPlan, goal: tuple[Where, ...]) -> Task:
    return Task(
        instruction=_TO_THE_BOX,
        plan=plan,
        rule=GoTo(way=True),
        max_steps=280,
        things=(box("red", where=goal),),
        agent=Where(room=0, yaw=_AHEAD),
    )


_T_PLAN = FixedPlan(
    (Room(rectangle((-1.0, -2.0), (8.0, 2.0))), Room(rectangle((8.0, -8.0), (12.0, 8.0)))),
    (Opening(0, 1, z=(-2.0, 2.0)),),
)
_T_LEFT, _T_RIGHT = (Where(room=1, x=(10.0, 10.0), z=(z, z)) for z in (-6.0, 6.0))


def t_maze(faithful: bool = False) -> Task:
    """A corridor that ends across another; the box is at one of that one's ends."""
    return _junction(_T_PLAN, (Where(room=1, z=(None, -6.0)), Where(room=1, z=(6.0, None))))


def t_maze_left(faithful: bool = False) -> Task:
    """The box is at the left end."""
    return _junction(_T_PLAN, (_T_LEFT,))


def t_maze_right(faithful: bool = False) -> Task:
    """The box is at the right end."""
    return _junction(_T_PLAN, (_T_RIGHT,))


def _y_plan() -> FixedPlan:
    """An arm along x, a triangle at its end, and the arm turned by a third of a circle both ways."""
    arm = np.array([[-9.15, -2.0], [-9.15, 2.0], [-1.15, 2.0], [-1.15, -2.0]])
    rooms = [arm, np.array([[-1.15, -2.0], [-1.15, 2.0], [2.31, 0.0]])]
    for degrees in (120.0, -120.0):
        c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        rooms.append(arm @ np.array([[c, s], [-s, c]]))
    return FixedPlan(
        tuple(Room(tuple(map(tuple, outline.tolist()))) for outline in rooms),
        (Opening(0, 1, z=(-2.0, 2.0)), Opening(2, 1, z=(-1.995, 0.0)), Opening(3, 1, z=(0.0, 1.995))),
    )


_Y_PLAN = _y_plan()
_Y_END = float(_Y_PLAN.rooms[3].bounds[1][1]) - 2.5  # metres, where the last part of both arms begins, in |z|
_Y_LEFT, _Y_RIGHT = (Where(room=room, x=(3.9, 3.9), z=(z, z)) for room, z in ((2, -7.0), (3, 7.0)))


def y_maze(faithful: bool = False) -> Task:
    """Three corridors that meet; the box is at the end of one of the other two."""
    return _junction(_Y_PLAN, (Where(room=2, z=(None, -_Y_END)), Where(room=3, z=(_Y_END, None))))


def y_maze_left(faithful: bool = False) -> Task:
    """The box is at the end of the left one."""
    return _junction(_Y_PLAN, (_Y_LEFT,))


def y_maze_right(faithful: bool = False) -> Task:
    """The box is at the end of the right one."""
    return _junction(_Y_PLAN, (_Y_RIGHT,))


def _maze(rows: int, columns: int, max_steps: int | None = None, **motion: Any) -> Task:
    return Task(
        instruction=_TO_THE_BOX,
        plan=MazePlan(rows, columns),
        rule=GoTo(way=True),
        max_steps=max_steps or rows * columns * 24,
        things=(box("red"),),
        **motion,
    )


def maze(faithful: bool = False) -> Task:
    """A maze of 8 x 8 rooms, another in every episode."""
    return _maze(8, 8)


def maze_s2(faithful: bool = False) -> Task:
    """A maze of 2 x 2 rooms."""
    return _maze(2, 2)


def maze_s3(faithful: bool = False) -> Task:
    """A maze of 3 x 3 rooms."""
    return _maze(3, 3)


def maze_s3_fast(faithful: bool = False) -> Task:
    """A maze of 3 x 3 rooms with longer steps and turns."""
    return _maze(3, 3, 300, forward_step=FAST_STEP, turn_degrees=FAST_TURN, own_motion=True)


def four_rooms(faithful: bool = False) -> Task:
    """Four rooms in a ring, doorways 2.2 m high between them."""
    corners = ((-7.0, 1.0), (1.0, 1.0), (1.0, -7.0), (-7.0, -7.0))
    return Task(
        instruction=_TO_THE_BOX,
        plan=FixedPlan(
            tuple(Room(rectangle((x, z), (x + 6.0, z + 6.0))) for x, z in corners),
            (
                Opening(0, 1, z=(3.0, 5.0), top=2.2),
                Opening(1, 2, x=(3.0, 5.0), top=2.2),
                Opening(2, 3, z=(-5.0, -3.0), top=2.2),
                Opening(3, 0, x=(-5.0, -3.0), top=2.2),
            ),
        ),
        rule=GoTo(way=True),
        max_steps=250,
        things=(box("red"),),
    )


def three_rooms(faithful: bool = False) -> Task:
    """A large room before two smaller ones, five different things in them."""
    return Task(
        instruction=_TO_THE_BOX,
        plan=FixedPlan(
            (
                Room(rectangle((-7.0, 0.5), (7.0, 7.0))),
                Room(rectangle((-7.0, -7.0), (-1.0, -0.5))),
                Room(rectangle((1.0, -7.0), (7.0, -0.5))),
            ),
            (Opening(0, 1, x=(-5.25, -2.75)), Opening(0, 2, x=(2.75, 5.25))),
        ),
        rule=GoTo(way=True, around=True, rewarded=not faithful),
        max_steps=400,
        things=(
            box("red"),
            box("green", size=0.6),
            shape("duckie", 0.25),
            shape("key", 0.35, "blue"),
            shape("ball", 0.6, "green"),
        ),
        pictures=(Picture((0.0, 1.35, 7.0), math.pi / 2, 1.8, 0.896484375),),
    )


# ---------------------------------------------------------------- under the open sky

_BUILDING = shape("building", 30.0, where=(Where(at=(30.0, 30.0), yaw=(-math.pi, -math.pi)),))


def wall_gap(faithful: bool = False) -> Task:
    """Two yards with a gap in the wall between; the agent is in one, the box in the other."""
    yard = {"wall": "brick_wall", "floor": "asphalt", "ceiling": None}
    return Task(
        instruction=_TO_THE_BOX,
        plan=FixedPlan(
            (
                Room(rectangle((-7.0, 0.5), (7.0, 8.0)), **yard),
                Room(rectangle((-7.0, -8.0), (7.0, -0.5)), **yard),
            ),
            (Opening(0, 1, x=(-1.5, 1.5)),),
        ),
        rule=GoTo(way=True),
        max_steps=300,
        things=(box("red", where=(Where(room=1),)), _BUILDING),
        agent=Where(room=0),
    )


_STREET = ((0.0, -80.0), (6.0, 80.0))


def sidewalk(faithful: bool = False) -> Task:
    """Along a pavement to the box at its end, beside a street that must not be entered."""
    cones = [shape("cone", 0.75, where=(Where(at=(1.0, 2.0 * n)),)) for n in range(1, 6)]
    return Task(
        instruction="Go to the red box. Do not walk into the street.",
        plan=FixedPlan(
            (
                Room(rectangle((-3.0, 0.0), (0.0, 12.0)), "brick_wall", "concrete_tiles", None),
                Room(rectangle(*_STREET), "concrete", "asphalt", None),
            ),
            (Opening(0, 1, z=(0.0, 12.0)),),
        ),
        rule=GoTo(target=6, street=True, faithful=faithful),
        max_steps=150,
        things=(_BUILDING, *cones, box("red", where=(Where(room=0, z=(10.0, 12.0)),))),
        agent=Where(room=0, z=(0.0, 1.5)),
    )
