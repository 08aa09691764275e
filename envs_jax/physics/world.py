"""One engine for every task on the table: state, steps, pictures, words; a `Task` says what is to be done.

* The eight actions take the pusher one cell (`nudge`, 25 mm) or four (`move`, 100 mm) left, right, forward (away
  from the eye) or back, from the cell it stands nearest to. An action lasts 0.24 s of physics, 24 steps.
* Success, and the end, is when every puck that counts (the pusher itself in `reach`) has its middle within
  `TOLERANCE` of its pad's, along both axes.
* Reward 1 for success, and nothing else, unless `progress` is above 0: then each step also gives `progress` times
  the metres, summed over what counts, by which the way to the pads became shorter.
* The goal of an episode is in `describe`, "push red to blue", and the same words stand above the picture.
* `split`: what an instance is, is said by the task: its goal's colours and shape. About one in five are "test";
  "train" and "test" draw uniformly from disjoint instances, "all" from all. Places are drawn alike in all three.
* An invalid action moves nothing, not even what still slides, and is counted.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, UInt8

from envs_jax import heldout, options
from envs_jax.physics import picture, route, table
from envs_jax.physics.words import ACTIONS, GOALS, ID, LATTICE, LONG, PHRASES, RGB, SHORT, VECTORS
from envs_jax.render import glyphs, raster
from envs_jax.render.labels import Labels
from envs_jax.world import Step

TOLERANCE = 0.05  # metres
PAD = 0.085  # metres, of a pad's edge from its middle
_LEAST_SIDE, _MOST_SIDE = 64, 1024
_LABELS = Labels.build(PHRASES)
_FLAT_FAR = 0.25  # metres, from which a goal is called far


@struct.dataclass
class Episode:
    """What a task draws: P pucks, K pads, W walls; the first pads belong to what counts, in order.

    Attributes:
      pucks, puck_colours: metres; ids of colours.
      pads, pad_colours, pad_shapes: metres; ids of colours and shapes.
      walls: middles, metres.
      pusher: metres.
      told: int32[4], the goal as phrase ids, -1 = nothing.
    """

    pucks: Float[Array, "p 2"]
    puck_colours: Int[Array, " p"]
    pads: Float[Array, "k 2"]
    pad_colours: Int[Array, " k"]
    pad_shapes: Int[Array, " k"]
    walls: Float[Array, "w 2"]
    pusher: Float[Array, "2"]
    told: Int[Array, "4"]


@dataclass(frozen=True)
class Task:
    """What is to be done.

    Attributes:
      instruction: in words.
      pucks, walls: how many.
      counts: how many pucks have to be on their pads; 0: the pusher has to be on the first.
      draw: an episode out of a key and a split.
      max_steps: after which an episode is truncated, by default.
    """

    instruction: str
    pucks: int
    walls: int
    counts: int
    draw: Callable[[PRNGKeyArray, str], Episode]
    max_steps: int


@struct.dataclass
class State:
    """One episode.

    Attributes:
      key: what an episode would draw from; steps draw nothing.
      steps: int32[], taken so far.
      q, qd: (x, y) of the pucks and then the pusher, and their velocities, m and m/s.
      episode: what was drawn and does not move. Pucks and pusher are there where they were at first.
    """

    key: PRNGKeyArray
    steps: Int[Array, ""]
    q: Float[Array, " d"]
    qd: Float[Array, " d"]
    episode: Episode


@dataclass(frozen=True)
class TableTop:
    """A world of `physics/`; see the module.

    Args:
      name: registered name.
      task: what is to be done.
      image_shape: (height, width, 3), 64 to 1024 pixels a side; a caption takes the upper eighth.
      max_steps: steps after which an episode is truncated.
      progress: reward for each metre of the way, 0 to 100.
      split: "all", "train" or "test".

    Raises:
      ValueError: an option is out of range.
    """

    name: str
    task: Task
    image_shape: tuple[int, int, int]
    max_steps: int
    progress: float
    split: str

    actions = ACTIONS
    phrases = PHRASES

    def __post_init__(self):
        options.check_image_shape(self.image_shape, (_LEAST_SIDE, _LEAST_SIDE), _MOST_SIDE)
        options.check_max_steps(self.max_steps)
        number = isinstance(self.progress, int | float) and not isinstance(self.progress, bool)
        if not number or not math.isfinite(self.progress) or not 0 <= self.progress <= 100:
            raise ValueError(f"progress is {self.progress!r}; accepted: a number from 0 to 100, reward per metre")
        heldout.check_split(self.split)

    @property
    def instruction(self) -> str:
        """The task in words."""
        return self.task.instruction

    @property
    def table(self) -> table.Table:
        """Its physics."""
        return table.Table(self.task.pucks, self.task.walls)

    def reset(self, key: PRNGKeyArray) -> State:
        """An episode, drawn with `key`; everything is at rest."""
        key, draw_key = jax.random.split(key)
        episode = self.task.draw(draw_key, self.split)
        q = jnp.concatenate([episode.pucks.reshape(-1), episode.pusher])
        return State(key=key, steps=jnp.int32(0), q=q, qd=jnp.zeros_like(q), episode=episode)

    def step(self, state: State, action: Int[Array, ""]) -> tuple[State, Step]:
        """The pusher moves, and what it meets with it."""
        valid = (action >= 0) & (action < len(ACTIONS))
        q, qd = self.table.move(
            state.q, state.qd, state.episode.walls, _target(state, jnp.where(valid, action, 0))
        )
        # Bodies that a caller has put into each other may be thrown anywhere; then nothing has happened.
        sane = jnp.all(jnp.isfinite(q)) & jnp.all(jnp.isfinite(qd)) & (jnp.max(jnp.abs(q)) < table.HALF)
        q, qd = (jnp.where(valid & sane, new, old) for new, old in ((q, state.q), (qd, state.qd)))
        after = state.replace(steps=state.steps + 1, q=q, qd=qd)
        success = jnp.all(self._home(after))
        shorter = jnp.sum(self._way(state)) - jnp.sum(self._way(after))
        reward = jnp.float32(success) + self.progress * shorter
        truncated = (after.steps >= self.max_steps) & ~success
        return after, Step(reward=reward, terminated=success, truncated=truncated, success=success)

    def render(self, state: State) -> UInt8[Array, "h w 3"]:
        """The table from a slant, and the goal above it."""
        height, width, _ = self.image_shape
        band = height // 8
        pads, things = _scene(state)
        floor = picture.draw(
            pads, things, table.HALF, table.FIELD if self.task.pucks else table.HALF, height - band, width
        )
        image = jnp.concatenate([jnp.full((band, width, 3), 255.0), floor])
        image = jnp.round(jnp.clip(image, 0, 255)).astype(jnp.uint8)
        size, left = _caption(band, width)
        return raster.text(image, _LABELS.line(state.episode.told), left, (band - size) / 2, size)

    def describe(self, state: State) -> Int[Array, " n"]:
        """The goal, "push red to blue"."""
        return state.episode.told

    def admissible(self, state: State) -> Bool[Array, " a"]:
        """All but those into a wall or over the border: they move the pusher by less than a cell and a half."""
        pusher = state.q[-2:]
        cell = jnp.round(pusher / LATTICE)
        # Along the way the next cell, across it where the pusher is: it may lean on a wall and slide along it.
        ways = jnp.asarray(VECTORS)
        nearest = jnp.where(ways != 0, (cell + ways) * LATTICE, pusher)  # [4, 2]
        inside = jnp.max(jnp.abs(cell + ways), axis=1) <= route.REACH
        free = inside & ~route.in_wall(nearest, state.episode.walls, margin=-0.004)
        return jnp.concatenate([free, free])

    def expert(self, state: State, key: PRNGKeyArray) -> Int[Array, ""]:
        """Goes behind the puck, pushes it along one axis, then along the other; see `route`."""
        return self._plan(state)[0]

    def explain(self, state: State) -> Int[Array, " n"]:
        """Where the goal is from the puck that is to be moved (the pusher in `reach`), and what is done now.

        "red goal left far push left": the red puck's pad is far on the left, so push.
        """
        action, pushing, which = self._plan(state)
        mover = self._movers(state)[which]
        offset = state.episode.pads[which] - mover
        axis = jnp.argmax(jnp.abs(offset))
        direction = 2 * axis + jnp.where(axis == 0, offset[0] > 0, offset[1] < 0)
        distance = jnp.max(jnp.abs(offset))
        far = jnp.where(distance > _FLAT_FAR, ID["far"], ID["near"])
        home = jnp.all(self._home(state))
        colour = state.episode.puck_colours[which] if self.task.counts else jnp.int32(-1)
        act = jnp.where(pushing, ID["push left"], ID["go left"]) + action % 4
        words = jnp.stack([colour, ID["goal left"] + direction, far, act]).astype(jnp.int32)
        return jnp.where(home, jnp.array([ID["done"], -1, -1, -1], jnp.int32), words)

    def _movers(self, state: State) -> Float[Array, "m 2"]:
        """Places of what counts: the first pucks, or the pusher."""
        return state.q.reshape(-1, 2)[: self.task.counts] if self.task.counts else state.q[None, -2:]

    def _way(self, state: State) -> Float[Array, " m"]:
        """Metres from each of them to its pad."""
        movers = self._movers(state)
        return jnp.sqrt(jnp.sum((state.episode.pads[: len(movers)] - movers) ** 2, axis=1))

    def _home(self, state: State) -> Bool[Array, " m"]:
        """Whether each of them is on its pad."""
        movers = self._movers(state)
        return jnp.max(jnp.abs(state.episode.pads[: len(movers)] - movers), axis=1) <= TOLERANCE

    def _plan(self, state: State) -> tuple[Int[Array, ""], Bool[Array, ""], Int[Array, ""]]:
        """The expert's action, whether it is a push, and which of what counts it is for."""
        places, episode, count = state.q.reshape(-1, 2), state.episode, self.task.counts
        if not count:
            return *route.reach(places[-1], episode.pads[0], episode.walls), jnp.int32(0)
        which = route.first(places[:-1], episode.pads[:count], self._home(state))
        return *route.push(places[-1], places[:-1], which, episode.pads[which], episode.walls), which


@functools.cache
def _caption(band: int, width: int) -> tuple[float, float]:
    """Font size and left end, pixels: as large as the band allows and the longest goal of all tasks fits.

    Letters are whole pixels wide, so that sizes next to each other can be as wide as each other or far apart.
    """
    size = min(0.78 * band, 0.088 * width)
    while True:
        advances = raster.text_advances(size)
        widest = max(int(advances[np.array(glyphs.encode(goal))].sum()) for goal in GOALS)
        if widest <= width:
            return size, min(0.02 * width, float(width - widest))
        size *= 0.98


def _target(state: State, action: Int[Array, ""]) -> Float[Array, "2"]:
    """Where an action takes the pusher: whole cells from the cell it stands nearest to, never over the border."""
    cells = jnp.where(action < 4, LONG, SHORT) * jnp.asarray(VECTORS)[action % 4]
    return jnp.clip(jnp.round(state.q[-2:] / LATTICE) + cells, -route.REACH, route.REACH) * LATTICE


def _scene(state: State) -> tuple[picture.Pads, picture.Prisms]:
    places, episode = state.q.reshape(-1, 2), state.episode
    colours = jnp.asarray(RGB)
    pads = picture.Pads(
        centre=episode.pads,
        size=jnp.full(len(episode.pads), PAD, jnp.float32),
        colour=colours[episode.pad_colours],
        shape=episode.pad_shapes,
    )
    pucks = picture.prisms(
        places[:-1], table.PUCK_RADIUS, 0, table.PUCK_HEIGHT, colours[episode.puck_colours], round=True
    )
    ends = table.FINGER_OFFSET * np.array([(-1, -1), (-1, 1), (1, -1), (1, 1)], np.float32)
    fingers = picture.prisms(places[-1] + ends, table.FINGER_RADIUS, 0, 0.09, (150, 152, 158), round=True)
    plate = picture.prisms(places[-1:], table.PUSHER_HALF, 0.09, 0.105, (64, 66, 72), round=False)
    reach = np.array([table.WALL_LENGTH / 2, 0], np.float32)
    tips = jnp.concatenate([episode.walls - reach, episode.walls + reach])
    tips = jnp.clip(tips, -table.HALF, table.HALF)
    stone = (142, 110, 84)
    posts = picture.prisms(tips, table.WALL_RADIUS, 0, 0.06, stone, round=True)
    n = len(episode.walls)
    bars = picture.prisms((tips[:n] + tips[n:]) / 2, 0, 0, 0.06, stone, round=False)
    length = (tips[n:, 0] - tips[:n, 0]) / 2
    bars = bars.replace(half=jnp.stack([length, jnp.full(n, table.WALL_RADIUS)], axis=1))
    return pads, picture.join(pucks, fingers, plate, posts, bars)


def codes(count: int, test: Callable[[int], bool], split: str) -> np.ndarray:
    """The instances of a split, as numbers below `count`, of which some are the test's."""
    return np.array([i for i in range(count) if split == "all" or test(i) == (split == "test")], np.int32)


def pick(key: PRNGKeyArray, numbers: np.ndarray) -> Int[Array, ""]:
    """One of them, with equal chance."""
    return jax.random.choice(key, jnp.asarray(numbers))
