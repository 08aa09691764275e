"""Everything curved in a scene: ellipsoids and upright truncated cones, met by rays exactly.

* In coordinates of its own, p = S R (x - centre) with a turn R and a stretch S, an ellipsoid is |p| = 1, and a
  cone p_x^2 + p_z^2 = p_y^2 where p_y is its radius at that height.
* With o the eye and d the ray there, the ray meets it where c w^2 + 2 b w + a = 0 for w = 1 / depth. The side
  that is turned to the eye is w = (sqrt(b^2 - a c) - b) / c. b is linear in the pixel, and b^2 - a c is a sum of
  squares of linear functions (Lagrange's identity): a difference of large numbers would cost small things their
  outline.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from envs_jax.render.facets import BASE_AMBIENT
from envs_jax.render.lookup import kept, rows_at
from envs_jax.render.scene import Light, Scene


@struct.dataclass
class Rounds:
    """Balls, then cones, as the eye meets them; leaves [R, ...].

    Attributes:
      balls: static, how many of them are balls.
      eye: o, the eye in the coordinates of each.
      stretch: the diagonal of S.
      turn: (cos, sin) of R.
      below, above: metres from the eye up to where it begins and ends (cones).
      reach: metres that it comes away from its axis (cones).
      colour, gain, painted, exists: as in the scene.
    """

    balls: int = struct.field(pytree_node=False)
    eye: Float[Array, "r 3"]
    stretch: Float[Array, "r 3"]
    turn: Float[Array, "r 2"]
    below: Float[Array, " r"]
    above: Float[Array, " r"]
    reach: Float[Array, " r"]
    colour: Float[Array, "r 3"]
    gain: Float[Array, " r"]
    painted: Bool[Array, " r"]
    exists: Bool[Array, " r"]


def rounds_of(scene: Scene, eye: Float[Array, "3"]) -> Rounds:
    """All balls and cones."""
    balls, cones = scene.balls, scene.cones
    turn = jnp.stack([jnp.cos(balls.yaw), jnp.sin(balls.yaw)], axis=1)
    slope = (cones.high_radius - cones.low_radius) / cones.height
    away = eye - cones.base
    one, none = jnp.ones_like(slope), jnp.zeros_like(slope)
    parts = [
        Rounds(
            balls=len(balls.yaw),
            eye=_turned(eye - balls.centre, turn) / balls.radii,
            stretch=1.0 / balls.radii,
            turn=turn,
            below=jnp.zeros_like(balls.yaw),
            above=jnp.zeros_like(balls.yaw),
            reach=jnp.zeros_like(balls.yaw),
            colour=balls.colour,
            gain=balls.gain,
            painted=balls.painted,
            exists=balls.exists,
        ),
        Rounds(
            balls=len(balls.yaw),
            eye=jnp.stack([away[:, 0], cones.low_radius + slope * away[:, 1], away[:, 2]], axis=1),
            stretch=jnp.stack([one, slope, one], axis=1),
            turn=jnp.stack([one, none], axis=1),
            below=-away[:, 1],
            above=cones.height - away[:, 1],
            reach=jnp.maximum(cones.low_radius, cones.high_radius),
            colour=cones.colour,
            gain=cones.gain,
            painted=cones.painted,
            exists=cones.exists,
        ),
    ]
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)


def functions_of(rounds: Rounds, rays: Float[Array, "3 3"]) -> tuple[Float[Array, "r 8 3"], Float[Array, " r"]]:
    """What `meet_ball` and `meet_cone` need of every round, as functions of the pixel.

    Returns:
      [R, (d, o x d, b, height), (constant, column, row)], and 1 / c, which is 0 for those that are never met.
    """
    count = len(rounds.gain)
    world = jnp.broadcast_to(rays, (count, 3, 3))  # [R, (constant, column, row), xyz]
    d = _turned(world, rounds.turn[:, None]) * rounds.stretch[:, None]
    o = jnp.broadcast_to(rounds.eye[:, None], d.shape)
    is_ball = jnp.arange(count) < rounds.balls
    sign = jnp.where(is_ball, 1.0, -1.0)
    form = jnp.stack([jnp.ones(count), sign, jnp.ones(count)], axis=1).astype(jnp.float32)
    b = jnp.sum(form[:, None] * o * d, axis=-1)  # [R, 3]
    c = jnp.sum(form * rounds.eye**2, axis=-1) - is_ball
    # A ball is not seen from within. To a cone's eye on the surface itself any small number does.
    c = jnp.where(jnp.abs(c) < 1e-6, 1e-6, c)
    met = rounds.exists & (~is_ball | (c > 0))
    rows = jnp.concatenate([d, jnp.cross(o, d), b[..., None], world[..., 1:2]], axis=-1)
    return jnp.swapaxes(rows, 1, 2), jnp.where(met, 1.0 / c, 0.0)


def meet_ball(at, inverse_c):
    """w of a ball at the pixels, and whether it is met. `at(i)` is the i-th function there."""
    squares = [at(i) ** 2 for i in range(6)]
    root = squares[0] + squares[1] + squares[2] - (squares[3] + squares[4] + squares[5])
    w = (jnp.sqrt(jnp.maximum(root, 0.0)) - at(6)) * inverse_c
    return w, (root > 0) & (w > 0)


def meet_cone(at, inverse_c, below, above):
    """The same for a cone that reaches from `below` to `above` the eye."""
    root = at(3) ** 2 + at(5) ** 2 - at(4) ** 2
    w = (jnp.sqrt(jnp.maximum(root, 0.0)) - at(6)) * inverse_c
    height = at(7)  # of the ray, a metre along the camera's axis
    return w, (root > 0) & (w > 0) & (height >= below * w) & (height <= above * w)


def seen(
    rounds: Rounds, ray: tuple[Array, Array, Array], number: Int[Array, "h w"]
) -> tuple[Float[Array, "h w"], list[Float[Array, "h w"]]]:
    """Where pixels see the rounds that they show.

    Args:
      ray: x, y and z of each pixel's ray, of length 1 along the camera's axis.
      number: which round; what is said of a pixel that does not show it means nothing.

    Returns:
      Metres along the camera's axis, and x, y and z of the normal, of any length.
    """
    return _seen(_read(rounds, number), ray, number < rounds.balls)


def shine(
    rounds: Rounds, light: Light, ray: tuple[Array, Array, Array], number: Int[Array, "h w"]
) -> list[Float[Array, "h w"]]:
    """Red, green and blue in 0..1 of the rounds that pixels show; arguments as of `seen`."""
    read = _read(rounds, number)
    _, normal = _seen(read, ray, number < rounds.balls)
    gain, most, *colour = read[8:]
    length = jnp.sqrt(sum(part**2 for part in normal))
    towards = sum(part * light.direction[k] for k, part in enumerate(normal)) / jnp.maximum(length, 1e-12)
    towards = jnp.maximum(towards, 0.0) * gain
    bright = [jnp.minimum(BASE_AMBIENT + light.ambient[k] + light.diffuse[k] * towards, most) for k in range(3)]
    return [jnp.clip(colour[k] * bright[k], 0.0, 1.0) for k in range(3)]


def _seen(read: list[Array], ray, is_ball) -> tuple[Array, list[Array]]:
    cos, sin, *more = read
    stretch, o = more[:3], more[3:6]
    own = (cos * ray[0] - sin * ray[2], ray[1], sin * ray[0] + cos * ray[2])
    d = [own[k] * stretch[k] for k in range(3)]
    sign = jnp.where(is_ball, 1.0, -1.0)
    x, y, z = o[1] * d[2] - o[2] * d[1], o[2] * d[0] - o[0] * d[2], o[0] * d[1] - o[1] * d[0]
    length = d[0] ** 2 + d[1] ** 2 + d[2] ** 2
    root = jnp.sqrt(jnp.maximum(jnp.where(is_ball, length, 0.0) - sign * (x**2 + z**2) - y**2, 0.0))
    b = o[0] * d[0] + sign * o[1] * d[1] + o[2] * d[2]
    c = o[0] ** 2 + sign * o[1] ** 2 + o[2] ** 2 - is_ball
    w = root - b  # times c
    depth = c / jnp.where(w == 0, 1.0, w)
    normal = [stretch[k] * (sign if k == 1 else 1.0) * (o[k] + d[k] * depth) for k in range(3)]
    return depth, [cos * normal[0] + sin * normal[2], normal[1], cos * normal[2] - sin * normal[0]]


def _read(rounds: Rounds, number: Int[Array, "h w"]) -> list[Float[Array, "h w"]]:
    """All that a pixel must know of a round: cos and sin of its turn, stretch, eye, gain, the most light, colour.

    Thirteen numbers, one row of a table, so that they are read with one gather.
    """
    most = jnp.where(rounds.painted, 1.0, jnp.inf)
    table = jnp.concatenate(
        [rounds.turn, rounds.stretch, rounds.eye, rounds.gain[:, None], most[:, None], rounds.colour], axis=1
    )
    rows = rows_at(kept(table), number)
    return [rows[..., k] for k in range(table.shape[1])]


def _turned(vectors: Float[Array, "... 3"], turn: Float[Array, "... 2"]) -> Float[Array, "... 3"]:
    """Vectors of the world in the axes of something turned by (cos, sin)."""
    cos, sin = turn[..., 0], turn[..., 1]
    x, y, z = vectors[..., 0], vectors[..., 1], vectors[..., 2]
    return jnp.stack([cos * x - sin * z, y * jnp.ones_like(cos), sin * x + cos * z], axis=-1)
