"""Domain randomisation: which of MiniWorld's parameters vary, over which range, and one draw of them.

* Parameters and default ranges are those of miniworld/params.py, under the same names. `bot_radius` is not among
  them: MiniWorld lists it and never uses it.
* `forward_step`, `forward_drift` and `turn_step` are drawn anew in every step, all others once an episode.
* `obj_color_bias` is added to the colour of each box, one draw a box, and to nothing else, as upstream.
* `tex_rand` draws the variant of each room's wall texture, see `variants`; its range are whole numbers, 0 is the
  usual one. MiniWorld has no range for it: it draws from all variants whenever it randomises.
* The tasks that set their own step and turn (the Fast ones, Sign) have no range for these upstream, nor for
  anything else; here `True` leaves their motion fixed and varies their looks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int, PRNGKeyArray

from envs_jax.miniworld import variants
from envs_jax.miniworld.layout import FixedPlan
from envs_jax.miniworld.maze import MazePlan

Triple = tuple[float, float, float]

# Name: (value without randomisation, low, high); metres, degrees, and colours in 0..1.
PARAMETERS: dict[str, tuple[float | Triple, float | Triple, float | Triple]] = {
    "sky_color": ((0.25, 0.82, 1.0), (0.1, 0.1, 0.1), (1.0, 1.0, 1.0)),
    "light_pos": ((0.0, 2.5, 0.0), (-40.0, 2.5, -40.0), (40.0, 5.0, 40.0)),
    "light_color": ((0.7, 0.7, 0.7), (0.45, 0.45, 0.45), (0.8, 0.8, 0.8)),
    "light_ambient": ((0.45, 0.45, 0.45), (0.35, 0.35, 0.35), (0.55, 0.55, 0.55)),
    "obj_color_bias": ((0.0, 0.0, 0.0), (-0.2, -0.2, -0.2), (0.2, 0.2, 0.2)),
    "forward_step": (0.15, 0.12, 0.17),
    "forward_drift": (0.0, -0.05, 0.05),
    "turn_step": (15.0, 10.0, 20.0),
    "cam_pitch": (0.0, -5.0, 5.0),
    "cam_fov_y": (60.0, 55.0, 65.0),
    "cam_height": (1.5, 1.45, 1.55),
    "cam_fwd_disp": (0.0, -0.05, 0.10),
    "tex_rand": (0.0, 0.0, 3.0),
}
MOTION = ("forward_step", "forward_drift", "turn_step")
# Outside of these a range makes no sense: a longer step jumps through walls, a camera must see something.
_LIMITS = {
    "sky_color": (0.0, 1.0),
    "light_pos": (-1000.0, 1000.0),
    "light_color": (0.0, 1.0),
    "light_ambient": (0.0, 1.0),
    "obj_color_bias": (-1.0, 1.0),
    "forward_step": (0.01, 0.75),
    "forward_drift": (-0.3, 0.3),
    "turn_step": (1.0, 90.0),
    "cam_pitch": (-60.0, 60.0),
    "cam_fov_y": (10.0, 120.0),
    "cam_height": (0.1, 2.5),
    "cam_fwd_disp": (-0.3, 0.3),
    "tex_rand": (0.0, 3.0),
}
_WHOLE = ("tex_rand",)  # ranges of whole numbers

Ranges = tuple[tuple[str, tuple[Any, Any]], ...]  # (name, (low, high)), sorted by name: hashable


@struct.dataclass
class Look:
    """What an episode of one world looks like, as drawn once.

    Attributes:
      sky: float32[3], in 0..1.
      light_from, light, ambient: float32[3], MiniWorld's light_pos (metres), light_color and light_ambient (0..1).
      colour_bias: float32[N, 3], added to the colour of each entity that is a box.
      pitch, fov_y: float32[], the camera's, radians.
      height, ahead: float32[], the camera's place above and before the agent's base, metres.
      papers: int32[R], the variant of each room's wall texture, passages included; None where none differs.
    """

    sky: Float[Array, "3"]
    light_from: Float[Array, "3"]
    light: Float[Array, "3"]
    ambient: Float[Array, "3"]
    colour_bias: Float[Array, "n 3"]
    pitch: Float[Array, ""]
    fov_y: Float[Array, ""]
    height: Float[Array, ""]
    ahead: Float[Array, ""]
    papers: Int[Array, " r"] | None = None


def ranges(randomise: Any, own_motion: bool = False) -> Ranges:
    """Which parameters vary, from what a user may write.

    Args:
      randomise: False (nothing), True (all), names of parameters for their default ranges, or a mapping from names
        to (low, high), numbers or three of them.
      own_motion: whether the task sets its step and turn itself, so that they have no default ranges.

    Raises:
      ValueError: an unknown name, a range that is none, or one beyond what makes sense.
    """
    if randomise is False or randomise is None:
        return ()
    known = [name for name in PARAMETERS if not (own_motion and name in MOTION)]
    if randomise is True:
        chosen = {name: PARAMETERS[name][1:] for name in known}
    elif isinstance(randomise, Mapping):
        chosen = dict(randomise)
    elif isinstance(randomise, list | tuple | set | frozenset):
        # A world's own normal form is accepted, too: (name, (low, high)) pairs.
        pairs = [item for item in randomise if isinstance(item, tuple)]
        chosen = {name: None for name in randomise if not isinstance(name, tuple)} | dict(pairs)
    else:
        raise ValueError(
            f"randomise is {randomise!r}; accepted: True, False, parameter names, "
            "or a mapping of names to (low, high)"
        )
    result = []
    for name, given in chosen.items():
        if name not in PARAMETERS:
            raise ValueError(f"randomise names {name!r}; accepted: {', '.join(PARAMETERS)}")
        if given is None:
            if name not in known:
                raise ValueError(
                    f"randomise names {name!r}, which has no default range in a task with steps of its own; "
                    f"accepted: a mapping that gives its (low, high)"
                )
            given = PARAMETERS[name][1:]
        result.append((name, _range(name, given)))
    return tuple(sorted(result))


def _range(name: str, given: Any) -> tuple[Any, Any]:
    wide = isinstance(PARAMETERS[name][0], tuple)
    low_limit, high_limit = _LIMITS[name]
    what = "three numbers" if wide else "whole numbers" if name in _WHOLE else "numbers"

    def value(one):
        if wide and isinstance(one, int | float) and not isinstance(one, bool):
            one = (one, one, one)
        numbers = tuple(one) if wide and isinstance(one, tuple | list) else (one,)
        ok = all(isinstance(n, int | float) and not isinstance(n, bool) and math.isfinite(n) for n in numbers)
        whole = name not in _WHOLE or all(ok and n == round(n) for n in numbers)
        if not ok or not whole or len(numbers) != (3 if wide else 1):
            raise ValueError
        return tuple(map(float, numbers))

    try:
        low, high = given
        low, high = value(low), value(high)
    except (TypeError, ValueError):
        low = high = None
    if low is None or not all(low_limit <= a <= b <= high_limit for a, b in zip(low, high, strict=True)):
        raise ValueError(
            f"randomise[{name!r}] is {given!r}; accepted: (low, high), {what} from {low_limit:g} to {high_limit:g}"
        )
    return (low, high) if wide else (low[0], high[0])


def sample(key: PRNGKeyArray, among: Ranges, name: str, shape: tuple[int, ...] = ()) -> Float[Array, "..."]:
    """One draw of a parameter: float32[*shape] or float32[*shape, 3]; its default if it does not vary."""
    default = PARAMETERS[name][0]
    extra = (3,) if isinstance(default, tuple) else ()
    for varied, (low, high) in among:
        if varied == name:
            low, high = jnp.asarray(low, jnp.float32), jnp.asarray(high, jnp.float32)
            return jax.random.uniform(key, (*shape, *extra), jnp.float32, low, high)
    return jnp.broadcast_to(jnp.asarray(default, jnp.float32), (*shape, *extra))


def draw_look(key: PRNGKeyArray, among: Ranges, count: int, plan: FixedPlan | MazePlan) -> Look:
    """An episode's look for `count` entities in the rooms of a plan."""
    keys = dict(zip(PARAMETERS, jax.random.split(key, len(PARAMETERS)), strict=True))

    def one(name, shape=()):
        return sample(keys[name], among, name, shape)

    return Look(
        sky=one("sky_color"),
        light_from=one("light_pos"),
        light=one("light_color"),
        ambient=one("light_ambient"),
        colour_bias=one("obj_color_bias", (count,)),
        pitch=jnp.deg2rad(one("cam_pitch")),
        fov_y=jnp.deg2rad(one("cam_fov_y")),
        height=one("cam_height"),
        ahead=one("cam_fwd_disp"),
        papers=variants.draw(keys["tex_rand"], dict(among)["tex_rand"], plan) if papered(among, plan) else None,
    )


def papered(among: Ranges, plan: FixedPlan | MazePlan) -> bool:
    """Whether wall textures differ from episode to episode."""
    return "tex_rand" in dict(among) and variants.most(plan) > 1
