"""The original MiniWorld, driven and read: `original` gives its environments on a display of its own.

Steps and resets are replayed without drawing, which is most of their time; the window still needs a display.
What the original shows is read by `tests.envs_jax.render.original_scene`.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

# Ours: theirs.
CLASSES = {
    "hallway": "Hallway",
    "one_room": "OneRoom",
    "one_room_s6": "OneRoomS6",
    "one_room_s6_fast": "OneRoomS6Fast",
    "t_maze": "TMaze",
    "t_maze_left": "TMazeLeft",
    "t_maze_right": "TMazeRight",
    "y_maze": "YMaze",
    "y_maze_left": "YMazeLeft",
    "y_maze_right": "YMazeRight",
    "maze": "Maze",
    "maze_s2": "MazeS2",
    "maze_s3": "MazeS3",
    "maze_s3_fast": "MazeS3Fast",
    "four_rooms": "FourRooms",
    "three_rooms": "ThreeRooms",
    "wall_gap": "WallGap",
    "sidewalk": "Sidewalk",
    "pickup_objects": "PickupObjects",
    "put_next": "PutNext",
    "collect_health": "CollectHealth",
    "room_objects": "RoomObjects",
    "sign": "Sign",
}
_SHAPES = {"Box": "box", "Ball": "ball", "Key": "key", "BigKey": "key"}
_MESHES = {0.4: "med_kit", 0.25: "duckie", 0.75: "cone", 30: "building"}  # by height


@pytest.fixture(scope="session")
def original(display):
    """The original's environments, see `Original`."""
    return Original()


class Original:
    """MiniWorld's environments by our names."""

    def __init__(self):
        try:
            import miniworld.envs
        except ImportError as error:
            pytest.skip(f"the original MiniWorld cannot be imported (package miniworld, OpenGL): {error}")
        self._module = miniworld.envs

    def make(self, name, draws=False):
        """One environment, already reset, watched by a `Watch`; `draws`: whether it can be looked at."""
        env = getattr(self._module, CLASSES[name])()
        if not draws:
            blank = np.zeros((60, 80, 3), np.uint8)
            env.render_obs = lambda frame_buffer=None: blank
            env._render_static = lambda: None
        env.watch = Watch(env)
        return env

    @staticmethod
    def things(env):
        """The things of an environment in its order, without the agent and without frames on the walls."""
        frames = ("ImageFrame", "TextFrame")
        return [e for e in env.entities if e is not env.agent and type(e).__name__ not in frames]

    @staticmethod
    def colour(entity):
        """Its colour's name, "" of what has colours of its own. That of balls and keys is in their mesh's name."""
        if hasattr(entity, "color"):
            return entity.color
        if _SHAPES.get(type(entity).__name__) is None:
            return ""
        files = {id(mesh): path for path, mesh in type(entity.mesh).cache.items()}
        return Path(files[id(entity.mesh)]).stem.split("_")[1]

    @staticmethod
    def kind(entity):
        """Our name of what an entity is."""
        return _SHAPES.get(type(entity).__name__) or _MESHES[entity.height]


class Watch:
    """Notes what an environment draws in a step, and how close its decisions were.

    Attributes:
      drawn: the last value of each parameter.
      margin: metres by which the closest comparison of distances since `clear` was decided.
    """

    def __init__(self, env):
        self.env, self.drawn, self.margin = env, {}, math.inf
        self._intersect, self._near = env.intersect, env.near
        env.params = env.params.copy()
        self._sample = env.params.sample
        env.params.sample, env.intersect, env.near = self.sample, self.intersect, self.near

    def clear(self):
        self.margin = math.inf

    def sample(self, rng, name):
        value = self._sample(rng, name)
        self.drawn[name] = value
        return value

    def intersect(self, ent, pos, radius):
        segments = self.env.wall_segs[:, :, [0, 2]]
        point = np.array([pos[0], pos[2]])
        along = segments[:, 1] - segments[:, 0]
        share = np.clip(np.sum((point - segments[:, 0]) * along, 1) / np.sum(along**2, 1), 0, 1)
        gaps = np.linalg.norm(segments[:, 0] + share[:, None] * along - point, axis=1) - radius
        others = [e for e in self.env.entities if e is not ent]
        gaps = [*gaps, *(math.dist(point, (e.pos[0], e.pos[2])) - radius - e.radius for e in others)]
        self.margin = min(self.margin, np.abs(gaps).min())
        return self._intersect(ent, pos, radius)

    def near(self, ent0, ent1=None):
        other = self.env.agent if ent1 is None else ent1
        gap = np.linalg.norm(ent0.pos - other.pos) - ent0.radius - other.radius - 1.1 * self.env.max_forward_step
        self.margin = min(self.margin, abs(gap))
        return self._near(ent0, ent1)
