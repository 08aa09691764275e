"""MiniWorld's tasks (github.com/Farama-Foundation/Miniworld) as pure functions, seen through a ray caster.

Dynamics and rewards are upstream's; textures are this project's own. `one_room` is a task from beginning to end;
`dynamics`, `layout`, `entities`, `placement`, `view` and `expert` are what every task is made of.
"""

from functools import partial

from envs_jax.miniworld.one_room import OneRoom
from envs_jax.world import register

register("miniworld/one_room", OneRoom)
register("miniworld/one_room_s6", partial(OneRoom, size=6.0, max_steps=100))
register(
    "miniworld/one_room_s6_fast",
    partial(OneRoom, size=6.0, max_steps=50, forward_step=0.7, turn_degrees=45.0),
)

__all__ = ["OneRoom"]
