"""Perfect mazes of square rooms, another in every episode, drawn inside jit.

* MiniWorld's maze is a depth-first walk from the first room that visits the neighbours of each in random order.
  That is the same as going, at every step, to a random neighbour not yet visited, or back where there is none:
  2 R C - 2 steps, whatever the maze.
* An episode's maze is one bool a pair of adjacent rooms: is there a passage? Each pair owns two rows of walls:
  without a passage the two rooms' walls that face each other, with one the passage's two sides. So every maze has
  exactly 4 R C walls and all rows are always in use.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from envs_jax.miniworld.layout import WALL_HEIGHT, Room, rectangle
from envs_jax.render.scene import Walls

NEAR = 1.7  # metres: more than a step, or a look of 1 metre ahead, and the agent's radius

# (column, row) of the neighbours in the order of a room's edges: east, north, west, south.
_STEPS = ((1, 0), (0, -1), (-1, 0), (0, 1))


@dataclass(frozen=True)
class MazePlan:
    """R x C rooms on a grid; room r C + c is in row r (along z) and column c (along x).

    Attributes:
      rows, columns: R and C.
      side: of a room, metres.
      gap: between two rooms, metres, the length of a passage.
    """

    rows: int
    columns: int
    side: float = 3.0
    gap: float = 0.25

    materials = ("plain", "floor_tiles_bw", "brick_wall", "concrete_tiles")
    wall, floor, ceiling = "brick_wall", "floor_tiles_bw", "concrete_tiles"

    @property
    def count(self) -> int:
        """Number of rooms."""
        return self.rows * self.columns

    @property
    def pitch(self) -> float:
        """Metres from a room to the next."""
        return self.side + self.gap

    @cached_property
    def pairs(self) -> np.ndarray:
        """int[P, 3]: the rooms on both sides of each possible passage, the second to the east or to the south of
        the first, and the axis that it runs along, 0 = x, 1 = z."""
        pairs = []
        for row in range(self.rows):
            for column in range(self.columns):
                room = row * self.columns + column
                if column + 1 < self.columns:
                    pairs.append((room, room + 1, 0))
                if row + 1 < self.rows:
                    pairs.append((room, room + self.columns, 1))
        return np.array(pairs, np.int32).reshape(-1, 3)

    @cached_property
    def neighbours(self) -> tuple[np.ndarray, np.ndarray]:
        """(int[RC, 4], int[RC, 4]): the room beyond each edge of a room, and the pair that both are; -1 = none."""
        rooms = np.full((self.count, 4), -1, np.int32)
        pairs = np.full((self.count, 4), -1, np.int32)
        number = {(int(a), int(b)): p for p, (a, b, _) in enumerate(self.pairs)}
        for room in range(self.count):
            row, column = divmod(room, self.columns)
            for edge, (dx, dz) in enumerate(_STEPS):
                if 0 <= column + dx < self.columns and 0 <= row + dz < self.rows:
                    other = (row + dz) * self.columns + column + dx
                    rooms[room, edge] = other
                    pairs[room, edge] = number[min(room, other), max(room, other)]
        return rooms, pairs

    @cached_property
    def corners(self) -> np.ndarray:
        """float64[RC, 2]: the lowest (x, z) of every room."""
        row, column = np.divmod(np.arange(self.count), self.columns)
        return np.stack([column, row], axis=1) * self.pitch

    @cached_property
    def passages(self) -> tuple[np.ndarray, np.ndarray]:
        """(float64[P, 2], float64[P, 2]): corners of every possible passage's floor."""
        first, axis = self.corners[self.pairs[:, 0]], self.pairs[:, 2]
        along = np.eye(2)[axis]
        low = first + self.side * along
        return low, low + self.gap * along + self.side * (1 - along)

    def draw(self, key: PRNGKeyArray) -> Bool[Array, " p"]:
        """Which of the possible passages there are, in a random perfect maze."""
        rooms, pairs = (jnp.asarray(table) for table in self.neighbours)
        length = max(2 * self.count - 2, 1)
        order = jax.random.uniform(key, (length, 4), jnp.float32)

        def walk(state, chances):
            here, came_from, visited, passages = state
            free = (rooms[here] >= 0) & ~visited[rooms[here]]
            edge = jnp.argmax(jnp.where(free, chances, -1.0))
            on, ahead = jnp.any(free), rooms[here, edge]
            # Where there is no way on, `ahead` is anything: a room beyond the last, so that nothing is written.
            nowhere = jnp.int32(self.count)
            passages = passages.at[jnp.where(on, pairs[here, edge], len(self.pairs))].set(True, mode="drop")
            came_from = came_from.at[jnp.where(on, ahead, nowhere)].set(here, mode="drop")
            visited = visited.at[jnp.where(on, ahead, nowhere)].set(True, mode="drop")
            return (jnp.where(on, ahead, came_from[here]), came_from, visited, passages), None

        start = (
            jnp.int32(0),
            jnp.zeros(self.count, jnp.int32),
            jnp.zeros(self.count, bool).at[0].set(True),
            jnp.zeros(len(self.pairs), bool),
        )
        return jax.lax.scan(walk, start, order)[0][3]

    @cached_property
    def _rows(self) -> tuple[np.ndarray, np.ndarray]:
        """Walls (x0, z0, x1, z1): float32[P, 2, 4] without and float32[P, 2, 4] with a passage."""
        low, high = self.passages
        across = self.pairs[:, 2] == 0  # the passage runs along x
        (x0, z0), (x1, z1) = low.T, high.T
        # East wall of the western room and west wall of the eastern; south of the northern, north of the southern.
        shut_x = np.stack([np.stack([x0, z1, x0, z0], 1), np.stack([x1, z0, x1, z1], 1)], 1)
        shut_z = np.stack([np.stack([x0, z0, x1, z0], 1), np.stack([x1, z1, x0, z1], 1)], 1)
        sides_x = np.stack([np.stack([x1, z0, x0, z0], 1), np.stack([x0, z1, x1, z1], 1)], 1)
        sides_z = np.stack([np.stack([x0, z0, x0, z1], 1), np.stack([x1, z1, x1, z0], 1)], 1)
        pick = across[:, None, None]
        return (
            np.where(pick, shut_x, shut_z).astype(np.float32),
            np.where(pick, sides_x, sides_z).astype(np.float32),
        )

    @cached_property
    def _border(self) -> np.ndarray:
        """float32[2 R + 2 C, 4]: the rooms' walls that nothing is behind."""
        walls = []
        for room, edges in enumerate(self.neighbours[0]):
            low = self.corners[room]
            outline = rectangle(tuple(low), tuple(low + self.side))
            walls += [(*outline[e], *outline[(e + 1) % 4]) for e in range(4) if edges[e] < 0]
        return np.array(walls, np.float32)

    def walls(self, passages: Bool[Array, " p"]) -> Walls:
        """The 4 R C walls of one maze."""
        return self._as_walls(passages, np.arange(4 * self.count))

    def walls_near(self, passages: Bool[Array, " p"], position: Float[Array, "3"]) -> Walls:
        """Those walls that are within NEAR metres of a position, and some more: a seventh of an 8 x 8 maze's."""
        return self._as_walls(passages, jnp.asarray(self._near)[self.cell(position)])

    @cached_property
    def _near(self) -> np.ndarray:
        """int32[RC, K]: rows of `walls` within NEAR metres of any place in a room or its half of the gaps around;
        the last is given several times where there are fewer."""
        inner = np.concatenate([rows.reshape(-1, 4) for rows in self._rows])
        both = np.concatenate([inner, self._border]).reshape(-1, 2, 2)
        low, high = self.corners - self.gap / 2, self.corners + self.side + self.gap / 2
        # Walls are along the axes, so their bounds are themselves.
        apart = np.maximum(low[:, None] - both.max(axis=1), both.min(axis=1) - high[:, None])
        close = np.linalg.norm(np.maximum(apart, 0.0), axis=-1) <= NEAR  # [RC, 2 x 2P + border]
        half = len(inner) // 2
        close = np.concatenate([close[:, :half] | close[:, half : 2 * half], close[:, 2 * half :]], axis=1)
        rows = [np.flatnonzero(row) for row in close]
        most = max(map(len, rows))
        return np.array([np.pad(row, (0, most - len(row)), mode="edge") for row in rows], np.int32)

    def _as_walls(self, passages: Bool[Array, " p"], numbers: Int[Array, " n"] | np.ndarray) -> Walls:
        """The walls of these rows."""
        shut, sides = (np.concatenate([part.reshape(-1, 4), self._border]) for part in self._rows)
        pairs = np.concatenate([np.repeat(np.arange(len(self.pairs)), 2), np.full(len(self._border), -1)])
        pair = jnp.asarray(pairs)[numbers]
        through = (pair >= 0) & passages[jnp.maximum(pair, 0)] if len(self.pairs) else pair >= 0
        rows = jnp.where(through[:, None], jnp.asarray(sides)[numbers], jnp.asarray(shut)[numbers])
        count = len(rows)
        return Walls(
            start=rows[:, :2],
            end=rows[:, 2:],
            low=jnp.zeros(count, jnp.float32),
            high=jnp.full(count, WALL_HEIGHT, jnp.float32),
            offset=jnp.zeros(count, jnp.float32),
            texture=jnp.full(count, self.materials.index(self.wall), jnp.int32),
            exists=jnp.ones(count, bool),
        )

    @cached_property
    def all_rooms(self) -> tuple[Room, ...]:
        """The rooms, then every passage that there may be."""
        lows, highs = self.corners, self.corners + self.side
        bounds = [*zip(lows, highs, strict=True), *zip(*self.passages, strict=True)]
        return tuple(
            Room(rectangle(tuple(low), tuple(high)), self.wall, self.floor, self.ceiling) for low, high in bounds
        )

    def cell(self, position: Float[Array, "3"]) -> Int[Array, ""]:
        """The room that a position is in or nearest to."""
        xz = jnp.stack([position[0], position[2]])
        # The borders between rooms run through the middles of the gaps.
        place = jnp.floor((xz + self.gap / 2) / self.pitch).astype(jnp.int32)
        column, row = jnp.clip(place[0], 0, self.columns - 1), jnp.clip(place[1], 0, self.rows - 1)
        return row * self.columns + column

    def steps_to(self, goal: Int[Array, ""], passages: Bool[Array, " p"]) -> Int[Array, " r"]:
        """Number of passages from every room to room `goal`: R C - 1 sweeps reach any room of any maze."""
        rooms, pairs = self.neighbours
        open_edges = jnp.asarray(rooms >= 0) & passages[np.maximum(pairs, 0)]  # [RC, 4]
        far = jnp.int32(self.count)
        start = jnp.full(self.count, far).at[goal].set(0)

        def sweep(_, steps):
            beyond = jnp.where(open_edges, steps[np.maximum(rooms, 0)], far)
            return jnp.minimum(steps, jnp.minimum(jnp.min(beyond, axis=1) + 1, far))

        return jax.lax.fori_loop(0, max(self.count - 1, 1), sweep, start)
