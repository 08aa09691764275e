"""MiniWorld's tasks (github.com/Farama-Foundation/Miniworld) as pure functions, seen through a ray caster.

* Rooms, chances, dynamics, rewards and ends are upstream's, so that nothing is easier or harder than there. For
  every task the tests prove it against the original: its walls, its episodes replayed step by step, where episodes
  start, and the pictures from the same poses with its own textures (experiments/results/miniworld_original.md).
* Textures are this project's own. Faults of the original are kept with `faithful=True`, see `walking` and the
  other families.
* A task is data, a `task.Task`: rooms (`layout`, `maze`), things (`entities`, `placement`) and a rule that judges.
  One engine, `world.MiniWorld`, makes a world of it: `dynamics`, `randomise`, `view`; `route`, `expert`,
  `thoughts`.
"""

from envs_jax.miniworld import walking
from envs_jax.miniworld.collect_health import collect_health
from envs_jax.miniworld.objects import pickup_objects, room_objects
from envs_jax.miniworld.put_next import put_next
from envs_jax.miniworld.sign import sign
from envs_jax.miniworld.world import MiniWorld, State, register_task

for _make in (
    walking.hallway,
    walking.one_room,
    walking.one_room_s6,
    walking.one_room_s6_fast,
    walking.t_maze,
    walking.t_maze_left,
    walking.t_maze_right,
    walking.y_maze,
    walking.y_maze_left,
    walking.y_maze_right,
    walking.maze,
    walking.maze_s2,
    walking.maze_s3,
    walking.maze_s3_fast,
    walking.four_rooms,
    walking.three_rooms,
    walking.wall_gap,
    walking.sidewalk,
    pickup_objects,
    put_next,
    collect_health,
    room_objects,
    sign,
):
    register_task(_make.__name__, _make)

__all__ = ["MiniWorld", "State"]
