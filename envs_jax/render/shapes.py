"""Things to stand in a room, composed of the renderer's primitives: boxes, balls, keys, med kits, signs.

* A function makes ONE thing, at the centre of its base, standing or carried; `jax.vmap` it for several and `join`
  the groups into what a `Scene` takes. How many primitives a thing has is static, `exists` switches all of them: a
  slot that may hold any of three kinds is three things of which one exists.
* Sizes follow the meshes of MiniWorld, so that silhouettes agree; the shapes and their colours are the project's
  own. Lengths below are shares of a thing's height.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from envs_jax.render.facets import BALL, BOX, CONE, PANEL
from envs_jax.render.raycast import Hit
from envs_jax.render.scene import Balls, Boxes, Cones, Panels, no_balls, no_boxes, no_cones, no_panels

Scalar = Float[Array, ""] | float
Flag = Bool[Array, ""] | bool
Texture = Int[Array, ""] | int
Vector = Float[Array, "3"]

# Height of MiniWorld's meshes in their own units: drawn `height` metres high, they are lit mesh / height times as
# strongly, see `scene`.
_BALL_MESH, _KEY_MESH, _MED_KIT_MESH = 2.5644, 2.0, 51.065
_DUCKIE_MESH, _CONE_MESH, _BUILDING_MESH = 1.5184, 31.523, 3.45
_FRAME_DEPTH = 0.05  # metres, of signs and pictures
_BLACK = (0.0, 0.0, 0.0)
_NEAR_BLACK = 4e-3  # metres by which a sign's front stands before its black sides


@struct.dataclass
class Shapes:
    """Primitives of one thing (leaves [rows, ...]), of several alike ([things, rows, ...]) or of all."""

    boxes: Boxes
    balls: Balls
    cones: Cones
    panels: Panels


def join(*groups: Shapes) -> Shapes:
    """All things as one row of primitives of each kind, in the order given."""
    kinds = {}
    for kind, empty in (("boxes", no_boxes), ("balls", no_balls), ("cones", no_cones), ("panels", no_panels)):
        parts = [_flat(getattr(group, kind)) for group in groups]
        none = empty().replace(gain=jnp.zeros(0, jnp.float32), painted=jnp.zeros(0, bool))
        kinds[kind] = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), none, *parts)
    return Shapes(**kinds)


def things_seen(hit: Hit, *groups: Shapes) -> Int[Array, "h w"]:
    """Number of the thing that each pixel shows, -1 where it shows none.

    Things are counted through the groups: after a group of 3, the first of the next is number 3.

    Args:
      hit: traced in a scene that holds exactly `join(*groups)`.
      groups: the same.
    """
    things = jnp.full(hit.kind.shape, -1, jnp.int32)
    for kind, name in ((BOX, "boxes"), (BALL, "balls"), (CONE, "cones"), (PANEL, "panels")):
        first, owner = 0, []
        for group in groups:
            exists = getattr(group, name).exists
            count, rows = exists.shape if exists.ndim == 2 else (1, len(exists))
            owner.append(first + np.repeat(np.arange(count), rows))
            first += count
        table = np.concatenate([*owner, np.full(1, -1)]).astype(np.int32)
        index = jnp.clip(hit.index, 0, len(table) - 1)
        things = jnp.where(hit.kind == kind, jnp.asarray(table)[index], things)
    return things


def shares(hit: Hit, *groups: Shapes) -> Float[Array, " things"]:
    """Share of the picture that each thing covers, in 0..1, hidden parts left out; see `things_seen`."""
    count = sum(group.boxes.exists.shape[0] if group.boxes.exists.ndim == 2 else 1 for group in groups)
    seen = things_seen(hit, *groups)[..., None] == jnp.arange(count, dtype=jnp.int32)
    return jnp.mean(seen.astype(jnp.float32), axis=(0, 1))


def box(position: Vector, yaw: Scalar, size: Float[Array, "3"], colour: Vector, exists: Flag) -> Shapes:
    """A box of full extents `size` along its own axes, metres."""
    centre = jnp.stack([jnp.zeros(()), size[1] / 2, jnp.zeros(())])
    return _thing(position, yaw, exists, boxes=[(centre, size, colour)])


def ball(position: Vector, yaw: Scalar, height: Scalar, colour: Vector, exists: Flag) -> Shapes:
    """A ball, its diameter is `height` metres."""
    half = jnp.full(3, 0.5 * height, jnp.float32)
    return _thing(
        position, yaw, exists, balls=[(half * jnp.array([0.0, 1, 0]), half, colour)], gain=_BALL_MESH / height
    )


def key(position: Vector, yaw: Scalar, height: Scalar, colour: Vector, exists: Flag) -> Shapes:
    """A key on its edge: a square ring behind, a bit with two teeth ahead along z; `height` metres."""
    rows = [  # low corner, high corner, in heights
        ((-0.2, 0.83, -1.15), (0.2, 1.0, -0.27)),  # the ring
        ((-0.2, 0.0, -1.15), (0.2, 0.17, -0.27)),
        ((-0.2, 0.06, -1.209), (0.2, 0.94, -1.035)),
        ((-0.2, 0.06, -0.384), (0.2, 0.94, -0.209)),
        ((-0.12, 0.38, -0.312), (0.12, 0.62, 1.209)),  # the bit
        ((-0.06, 0.093, 0.561), (0.06, 0.5, 0.781)),  # its teeth
        ((-0.06, 0.023, 0.898), (0.06, 0.5, 1.123)),
    ]
    return _blocks(position, yaw, height, exists, [(*row, colour) for row in rows], _KEY_MESH)


def med_kit(position: Vector, yaw: Scalar, height: Scalar, exists: Flag) -> Shapes:
    """A red case with a white cross on one broad side, which faces along its z axis; `height` metres."""
    red, white = (0.60, 0.14, 0.15), (0.80, 0.78, 0.78)
    rows = [
        ((-0.545, 0.0, -0.30), (0.545, 0.76, 0.268), red),
        ((-0.30, 0.89, -0.08), (0.30, 1.0, 0.045), red),  # the handle
        ((-0.30, 0.75, -0.08), (-0.19, 0.95, 0.045), red),
        ((0.19, 0.75, -0.08), (0.30, 0.95, 0.045), red),
        ((-0.075, 0.20, 0.2), (0.075, 0.58, 0.30), white),  # the cross
        ((-0.21, 0.33, 0.2), (0.21, 0.455, 0.30), white),
    ]
    return _blocks(position, yaw, height, exists, rows, _MED_KIT_MESH, painted=True)


def duckie(position: Vector, yaw: Scalar, height: Scalar, exists: Flag) -> Shapes:
    """A yellow bath duck that looks along its own x axis; `height` metres."""
    yellow, orange, black = (1.0, 0.84, 0.0), (1.0, 0.55, 0.02), (0.06, 0.06, 0.06)
    rows = [  # centre, radii, in heights
        ((-0.03, 0.26, 0.0), (0.5, 0.28, 0.36), yellow),
        ((0.1, 0.76, 0.0), (0.27, 0.24, 0.26), yellow),
        ((-0.40, 0.42, 0.0), (0.13, 0.15, 0.17), yellow),
        ((0.42, 0.68, 0.0), (0.125, 0.07, 0.12), orange),
        ((0.29, 0.83, 0.15), (0.06, 0.07, 0.055), black),
        ((0.29, 0.83, -0.15), (0.06, 0.07, 0.055), black),
    ]
    balls = [tuple(jnp.asarray(value, jnp.float32) for value in row) for row in rows]
    balls = [(height * centre, height * radii, colour) for centre, radii, colour in balls]
    return _thing(position, yaw, exists, balls=balls, gain=_DUCKIE_MESH / height, painted=True)


def cone(position: Vector, yaw: Scalar, height: Scalar, exists: Flag) -> Shapes:
    """A traffic cone, orange with a white band on a black foot; `height` metres."""
    orange, white, black = (0.89, 0.46, 0.06), (0.92, 0.95, 0.98), (0.18, 0.18, 0.18)
    rows = [  # from, to, radii there, in heights
        (0.0, 0.045, 0.34, 0.335, black),
        (0.045, 0.06, 0.335, 0.183, black),
        (0.06, 0.285, 0.183, 0.146, orange),
        (0.285, 0.69, 0.146, 0.074, white),
        (0.69, 1.0, 0.074, 0.012, orange),
    ]
    cones = [(*(height * number for number in row[:4]), row[4]) for row in rows]
    return _thing(position, yaw, exists, cones=cones, gain=_CONE_MESH / height, painted=True)


def building(
    position: Vector, yaw: Scalar, height: Scalar, exists: Flag, wall: Texture = 0, windows: Texture = 0
) -> Shapes:
    """A block of flats with a recess in one corner and windows on five fronts; `height` metres.

    Args:
      wall, windows: rows of the atlas, of the bare sides and of the fronts with windows; 0 = bare grey.
    """
    grey = jnp.where(jnp.asarray(wall) > 0, 1.0, jnp.array([0.69, 0.68, 0.67], jnp.float32))
    rows = [
        ((-0.533, 0.0, -0.354), (0.533, 1.0, 0.001), grey),
        ((0.182, 0.0, 0.0), (0.533, 1.0, 0.354), grey),
    ]
    shapes = _blocks(position, yaw, height, exists, rows, _BUILDING_MESH, painted=True)
    fronts = [  # x and z of the middle, turn, width, low, high
        (0.535, 0.0, 0.0, 0.63, 0.19, 0.97),
        (-0.535, -0.175, np.pi, 0.28, 0.19, 0.86),
        (0.180, 0.178, np.pi, 0.28, 0.19, 0.86),
        (-0.175, 0.003, -np.pi / 2, 0.64, 0.01, 0.93),
        (0.358, 0.356, -np.pi / 2, 0.32, 0.01, 0.97),
    ]
    panels = []
    for x, z, turn, width, low, high in fronts:
        centre = jnp.array([x, (low + high) / 2, z], jnp.float32) * height
        size = jnp.array([width, high - low], jnp.float32) * height
        panels.append((centre, size, (1.0, 1.0, 1.0), windows, jnp.asarray(windows) > 0, turn))
    glazed = _thing(position, yaw, exists, panels=panels, gain=_BUILDING_MESH / height, painted=True)
    textured = shapes.boxes.replace(texture=jnp.full_like(shapes.boxes.texture, wall))
    return shapes.replace(boxes=textured, panels=glazed.panels)


def picture_frame(
    position: Vector, yaw: Scalar, width: Scalar, height: Scalar, texture: Texture, exists: Flag
) -> Shapes:
    """A picture on a wall in a black frame; `position` is its middle, on the wall.

    Args:
      yaw: it faces along (cos yaw, 0, -sin yaw).
      width, height: metres.
      texture: row of the atlas.
    """
    front = jnp.stack([jnp.float32(_FRAME_DEPTH), jnp.float32(0.0), jnp.float32(0.0)])
    size = jnp.stack([jnp.float32(width), jnp.float32(height)])
    return _framed(position, yaw, width, height, exists, [(front, size, (1.0, 1.0, 1.0), texture, True, 0.0)])


def text_sign(position: Vector, yaw: Scalar, height: Scalar, glyphs: Int[Array, " n"], exists: Flag) -> Shapes:
    """A line of characters on a wall, each `height` x `height` metres; `position` is its middle, on the wall.

    Args:
      yaw: it faces along (cos yaw, 0, -sin yaw).
      glyphs: int32[n], rows of the atlas from left to right, -1 = a white blank.
    """
    count = len(glyphs)
    size = jnp.full(2, height, jnp.float32)
    panels = []
    for place in range(count):
        # Seen from the front, +z of the sign's own axes is to the left.
        middle = jnp.stack(
            [jnp.float32(_FRAME_DEPTH), jnp.float32(0.0), (count / 2 - place - 0.5) * jnp.float32(height)]
        )
        panels.append((middle, size, (1.0, 1.0, 1.0), jnp.maximum(glyphs[place], 0), True, 0.0))
    return _framed(position, yaw, count * jnp.float32(height), height, exists, panels)


def _framed(position, yaw, width, height, exists, panels) -> Shapes:
    """Panels before a black box that is a little less deep than they stand off."""
    deep = _FRAME_DEPTH - _NEAR_BLACK
    size = jnp.stack([jnp.float32(deep), jnp.float32(height), jnp.float32(width)])
    middle = jnp.array([deep / 2, 0.0, 0.0], jnp.float32)
    return _thing(position, yaw, exists, boxes=[(middle, size, _BLACK)], panels=panels)


def _blocks(position, yaw, height, exists, rows, mesh: float, painted: bool = False) -> Shapes:
    """Boxes of low corner, high corner (in heights) and colour."""
    boxes = []
    for low, high, colour in rows:
        low, high = np.array(low, np.float32), np.array(high, np.float32)
        boxes.append((height * jnp.asarray((low + high) / 2), height * jnp.asarray(high - low), colour))
    return _thing(position, yaw, exists, boxes=boxes, gain=mesh / height, painted=painted)


def _thing(position, yaw, exists, boxes=(), balls=(), cones=(), panels=(), gain=1.0, painted=False) -> Shapes:
    """Primitives given about the thing's own origin and axes, moved to where it stands."""
    position = jnp.asarray(position, jnp.float32)
    yaw = jnp.asarray(yaw, jnp.float32)
    cos, sin = jnp.cos(yaw), jnp.sin(yaw)

    def placed(rows):
        centre = jnp.stack([jnp.asarray(row[0], jnp.float32) for row in rows])
        x, y, z = centre[:, 0], centre[:, 1], centre[:, 2]
        return position + jnp.stack([cos * x + sin * z, y, cos * z - sin * x], axis=1)

    def column(rows, place):
        return jnp.stack([jnp.asarray(row[place], jnp.float32) for row in rows])

    def same(rows, value, dtype=jnp.float32):
        return jnp.full(len(rows), value, dtype)

    shapes = Shapes(
        boxes=no_boxes().replace(gain=jnp.zeros(0, jnp.float32), painted=jnp.zeros(0, bool)),
        balls=no_balls(),
        cones=no_cones(),
        panels=no_panels(),
    )
    if boxes:
        shapes = shapes.replace(
            boxes=Boxes(
                centre=placed(boxes),
                size=column(boxes, 1),
                yaw=same(boxes, yaw),
                colour=column(boxes, 2),
                texture=same(boxes, 0, jnp.int32),
                exists=same(boxes, exists, bool),
                gain=same(boxes, gain),
                painted=same(boxes, painted, bool),
            )
        )
    if balls:
        shapes = shapes.replace(
            balls=Balls(
                centre=placed(balls),
                radii=column(balls, 1),
                yaw=same(balls, yaw),
                colour=column(balls, 2),
                gain=same(balls, gain),
                painted=same(balls, painted, bool),
                exists=same(balls, exists, bool),
            )
        )
    if cones:
        low, high = column(cones, 0), column(cones, 1)
        upwards = jnp.array([0.0, 1.0, 0.0], jnp.float32)
        shapes = shapes.replace(
            cones=Cones(
                base=position + low[:, None] * upwards,
                low_radius=column(cones, 2),
                high_radius=column(cones, 3),
                height=high - low,
                colour=column(cones, 4),
                gain=same(cones, gain),
                painted=same(cones, painted, bool),
                exists=same(cones, exists, bool),
            )
        )
    if panels:
        shapes = shapes.replace(
            panels=Panels(
                centre=placed(panels),
                size=column(panels, 1),
                yaw=yaw + column(panels, 5),
                colour=column(panels, 2),
                texture=jnp.stack([jnp.asarray(row[3], jnp.int32) for row in panels]),
                gain=same(panels, gain),
                painted=same(panels, painted, bool),
                exists=same(panels, exists, bool) & jnp.stack([jnp.asarray(row[4], bool) for row in panels]),
            )
        )
    return shapes


def _flat(rows):
    """[things, rows, ...] -> [things * rows, ...]; a single thing as it is."""
    if rows.exists.ndim == 1:
        return rows
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), rows)
