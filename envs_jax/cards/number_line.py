"""NumberLine: two numbers in a picture, to be made equal by adding and taking away one.

The task of RL4VLM's gym-cards (gym_cards/envs/numberline.py), kept to the letter where it matters for comparison:

* start and goal are uniform on 0..max_position; if they are equal, goal becomes (goal + 1) % max_position. The
  modulus is upstream's: max_position itself is a rarer goal, it never comes out of this correction.
* reward +1 at the goal (terminated), -1 if the distance did not shrink, else 0; truncated after
  2 * max_position steps unless the last one reached the goal.
* picture: black bold text of 36 px on 300 x 300 white, "Target: g" at (30, 60), "Current: p" at (30, 180).

In a small picture upstream's layout leaves digits of five to eight pixels, cut by the borders of a model's
patches. With `layout="large"` the same stands there in the same order, the words small and the numbers as high
as a quarter of the picture, each at a place of its own: at 64 x 80 in one square of 16 x 16, one visual token of
a small model.

Where it differs: upstream corrects an equal goal only in the first step after a reset, once the first picture has
been shown with the wrong goal; here the correction is part of the reset. An invalid action, which upstream
replaces by a random one, moves nothing, costs a step, and is rewarded like any step that does not come nearer: -1.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Int, PRNGKeyArray, UInt8

from envs_jax import heldout, options
from envs_jax.render import glyphs, raster
from envs_jax.world import Step

_SIDE = 300  # pixels, upstream's picture, which the layout below is given in
_LEFT, _TARGET_TOP, _CURRENT_TOP, _FONT_SIZE = 30, 60, 180, 36
_LEAST_SIDE = 48  # pixels; below this the digits cannot be told apart

Layout = Literal["upstream", "large"]


@struct.dataclass
class State:
    """One episode.

    Attributes:
      key: what an episode would draw from; the steps of this world draw nothing.
      steps: int32[], taken so far.
      position: int32[], 0..max_position.
      goal: int32[], 0..max_position.
    """

    key: PRNGKeyArray
    steps: Int[Array, ""]
    position: Int[Array, ""]
    goal: Int[Array, ""]


@dataclass(frozen=True)
class NumberLine:
    """The world `cards/number_line`.

    Args:
      name: registered name.
      max_position: greatest number, 2..99.
      image_shape: (height, width, 3) of the picture, at least 48 x 48; the layout is scaled to it and the letters
        keep their proportions.
      layout: "upstream", or "large": see the module.
      split: of episodes. An instance is the pair of start and goal; about one in five is "test", by a fixed hash.

    Raises:
      ValueError: an option is out of range.
    """

    name: str = "cards/number_line"
    max_position: int = 5
    image_shape: tuple[int, int, int] = (_SIDE, _SIDE, 3)
    layout: Layout = "upstream"
    split: heldout.Split = "all"

    actions = ("-", "+")
    instruction = "Make Current equal to Target. The action + adds one to Current, the action - takes one away."

    def __post_init__(self):
        if type(self.max_position) is not int or not 2 <= self.max_position <= 99:
            raise ValueError(f"max_position is {self.max_position!r}; accepted: an int from 2 to 99")
        options.check_image_shape(self.image_shape, (_LEAST_SIDE, _LEAST_SIDE), None)
        if self.layout not in ("upstream", "large"):
            raise ValueError(f"layout is {self.layout!r}; accepted: upstream, large")
        heldout.check_split(self.split)
        if not len(_pairs(self.max_position, self.split)):
            raise ValueError(
                f"split is {self.split!r}; accepted with max_position {self.max_position}: 'all', 'train'"
            )

    @property
    def phrases(self) -> tuple[str, ...]:
        """Numbers, whose id is the number itself, then "to"."""
        return (*map(str, range(self.max_position + 1)), "to")

    @property
    def max_steps(self) -> int:
        """Steps after which an episode is truncated."""
        return 2 * self.max_position

    def reset(self, key: PRNGKeyArray) -> State:
        """Start and goal, drawn with `key`; never equal."""
        key, start_key, goal_key = jax.random.split(key, 3)
        if self.split != "all":
            pairs = _pairs(self.max_position, self.split)
            pair = jnp.asarray(pairs)[jax.random.randint(start_key, (), 0, len(pairs), jnp.int32)]
            return State(key=key, steps=jnp.int32(0), position=pair[0], goal=pair[1])
        start = jax.random.randint(start_key, (), 0, self.max_position + 1, jnp.int32)
        goal = jax.random.randint(goal_key, (), 0, self.max_position + 1, jnp.int32)
        goal = jnp.where(start == goal, (goal + 1) % self.max_position, goal)
        return State(key=key, steps=jnp.int32(0), position=start, goal=goal)

    def step(self, state: State, action: Int[Array, ""]) -> tuple[State, Step]:
        """Adds one, takes one away, or, at the ends of the line and for any other action, stays."""
        change = jnp.where(action == 1, 1, jnp.where(action == 0, -1, 0))
        position = jnp.clip(state.position + change, 0, self.max_position).astype(jnp.int32)
        steps = state.steps + 1
        before, after = jnp.abs(state.position - state.goal), jnp.abs(position - state.goal)
        reached = after == 0
        reward = jnp.where(reached, 1.0, jnp.where(after >= before, -1.0, 0.0)).astype(jnp.float32)
        truncated = (steps >= self.max_steps) & ~reached
        moved = state.replace(steps=steps, position=position)
        return moved, Step(reward=reward, terminated=reached, truncated=truncated, success=reached)

    def render(self, state: State) -> UInt8[Array, "h w 3"]:
        """Both numbers in black on white."""
        height, width, _ = self.image_shape
        image = raster.canvas(height, width)
        draw = self._large if self.layout == "large" else self._scaled
        return draw(draw(image, "Target:", state.goal, 0), "Current:", state.position, 1)

    def _scaled(self, image: raster.Image, label: str, number: Int[Array, ""], line: int) -> raster.Image:
        """One of the two lines where upstream has it."""
        height, width, _ = self.image_shape
        down, right = height / _SIDE, width / _SIDE
        ids = jnp.concatenate([glyphs.encode(f"{label} "), self._digits(number)])
        top = (_TARGET_TOP, _CURRENT_TOP)[line] * down
        return raster.text(image, ids, _LEFT * right, top, _FONT_SIZE * min(down, right), bold=True)

    def _large(self, image: raster.Image, label: str, number: Int[Array, ""], line: int) -> raster.Image:
        """One of the two lines in its half: the word in the upper part, the number below it on the right."""
        height, width, _ = self.image_shape
        digits = self._digits(number)
        row, top = height / 4, line * height / 2
        # A capital is 0.73 of the font size high, a digit's cell 0.6 wide: both fill what there is.
        size = min(1.125 * row, 0.4 * width / (0.6 * len(digits)))
        baseline = top + 1.875 * row
        image = raster.text(image, glyphs.encode(label), width / 40, top, min(0.625 * row, width / 8), bold=True)
        return raster.text(image, digits, 0.62 * width, baseline - glyphs.RISE * size, size, bold=True)

    def _digits(self, number: Int[Array, ""]) -> Int[Array, " n"]:
        return raster.decimal(number, len(str(self.max_position)))

    def describe(self, state: State) -> Int[Array, " n"]:
        """Nothing: the numbers are to be read from the picture."""
        return jnp.full(1, -1, jnp.int32)

    def admissible(self, state: State) -> Bool[Array, " a"]:
        """No "-" at 0, no "+" at the other end."""
        return jnp.stack([state.position > 0, state.position < self.max_position])

    def expert(self, state: State, key: PRNGKeyArray) -> Int[Array, ""]:
        """One step nearer."""
        return (state.position < state.goal).astype(jnp.int32)

    def explain(self, state: State) -> Int[Array, " n"]:
        """What is read from the picture, "3 to 5": Current is 3, Target is 5."""
        return jnp.stack([state.position, jnp.int32(self.max_position + 1), state.goal])


@cache
def _pairs(max_position: int, split: heldout.Split) -> np.ndarray:
    """Starts and goals of a split as often as upstream draws them, int32[n, 2], equally likely."""
    start, goal = np.divmod(np.arange((max_position + 1) ** 2, dtype=np.int32), max_position + 1)
    goal = np.where(start == goal, (goal + 1) % max_position, goal)
    test = heldout.numbers_are_test(start * 100 + goal)
    return np.stack([start, goal], axis=1)[heldout.part(test, split)].astype(np.int32)
