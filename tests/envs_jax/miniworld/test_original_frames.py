"""Our worlds' own pictures of every task beside the original's, from the same pose, with its own texture files.

* The original's rooms, things and pose are copied into a state of ours; `world.render` draws it as always, but
  with the original's files in the place of our textures. They are read where the test dependency is installed and
  shipped nowhere.
* What each pixel shows (sky, floor, ceiling, which wall, which thing) and how far away it is are compared at
  pixels' centres, colours with the original's picture of one sample a pixel. See `original_scene` in
  `tests/envs_jax/render` and `test_original_pictures` there, which compares the renderer without our worlds.
* The meshes with textures (med kit, duckie, cone, building) are shapes and paint of our own: they count in what a
  pixel shows, not in its colour.
"""

from __future__ import annotations

import importlib
import math

import jax
import numpy as np
import pytest

import envs_jax
from envs_jax.miniworld import variants, view
from envs_jax.miniworld import world as engine
from envs_jax.render import raycast, shapes
from envs_jax.render.texture import pack_atlas
from tests.envs_jax.miniworld.copied import rows_of, state_of, walls_of

NAMES = [name.removeprefix("miniworld/") for name in envs_jax.names() if name.startswith("miniworld/")]
PAINTED = ("medkit", "duckie", "cone", "building")
FILES = {"plain": None, "picture": "logo_mila_1", "blocks_of_flats": None, "windows": None}  # None: no such file
STEPS = 4 / (65536 * 0.04)  # of 1 / depth in the original's depth buffer, 1 / metres
# Not in every run: the same rooms as another's, and things that another one has, too.
LATER = ("one_room_s6", "one_room_s6_fast", "t_maze_left", "t_maze_right", "y_maze_left", "y_maze_right")
LATER += ("maze", "maze_s2", "maze_s3_fast", "room_objects", "put_next")
# Randomised in every run, one of each kind: walls that vary and lintels, the open sky.
RANDOMISED_ALWAYS = ("four_rooms", "sidewalk")


@pytest.fixture(scope="module")
def seen_by(display):
    """The module `original_scene`: what the original shows."""
    pytest.importorskip("miniworld", reason="the original MiniWorld is not installed (the extra `test` has it)")
    return importlib.import_module("tests.envs_jax.render.original_scene")


def original_atlas(seen_by, names):
    """The original's files under the names of our materials; white where it has a mesh's own texture instead."""
    from PIL import Image

    side, pictures = 512, []
    for name in names:
        glyph = f"chars/ch_0x{ord(name[-1])}_1" if name.startswith("glyph_") else None
        file = FILES.get(name, glyph or (name if name[-1].isdigit() else f"{name}_1"))
        if file is None:
            pictures.append((name, np.full((side, side, 3), 255.0), 1.0))
            continue
        picture = Image.open(seen_by._FILES / "textures" / f"{file}.png").convert("RGB")
        metres = picture.width / 512
        filtered = Image.Resampling.BOX if picture.width % side == 0 else Image.Resampling.BICUBIC
        pixels = np.asarray(picture.resize((side, side), filtered), np.float64)[::-1]
        pictures.append((name, pixels, metres))
    return pack_atlas(pictures)


def drawn_with(world, seen_by, monkeypatch):
    """state -> (hit, picture) of a world, jitted, with the original's files."""
    for module in (engine, variants):
        monkeypatch.setattr(module, "build_atlas", lambda names: original_atlas(seen_by, names))

    def look(state):
        scene = world._scene(state)
        hit = raycast.trace(scene, view.camera(state.agent, state.look), seen_by.SIZE, world._level)
        groups = view._groups(world.task, state.things, state.look)
        pictures = view._pictures(world.task, world._written(state))
        things = shapes.things_seen(hit, *(made for _, made in groups), *pictures)
        return hit, things, scene.walls, scene.patches.faces_up, world.render(state)

    return jax.jit(look)


def labels(world, env, seen_by, hit, things, walls, faces_up):
    """As `original_scene.Seen.label`: our walls and things by the original's numbers."""
    ours, theirs = (np.round(rows[:, :6].astype(float), 2).tolist() for rows in (rows_of(walls), walls_of(env)))
    number = np.array(
        [theirs.index(row) if row in theirs else -9 for row in ours]
    )  # -9: does not exist, never seen
    kind, index = np.asarray(hit.kind), np.asarray(hit.index)
    surface = [kind == raycast.SKY, kind == raycast.FLOOR, kind == raycast.CEILING]
    found = np.select(surface, [0, 1, 2], 3 + number[np.clip(index, 0, len(number) - 1)])
    if len(faces_up):
        patch = kind == raycast.PATCH
        found = np.where(patch, np.where(faces_up[np.where(patch, index, 0)], 1, 2), found)
    # Our things kind by kind, then what hangs on walls, by the original's list of all.
    rows = [row for rows, _ in view._groups(world.task, env.ours.things, None) for row in rows]
    entities = seen_by.entities_of(env)
    frames = [n for n, e in enumerate(entities) if type(e).__name__ in ("ImageFrame", "TextFrame")]
    places = [entities.index(env.listed[row]) for row in rows]
    places += [frames[0] for picture in world.task.pictures for _ in picture.text or ("",)]
    table = np.array([*places, -1])
    things = np.asarray(things)
    return np.where(things >= 0, -1 - table[things], found)


def poses(seen_by, env, seed, many):
    """Random ones, and before some of the things; yields after the agent has been put there."""
    for position, yaw in seen_by.surroundings(env, seed, many):
        env.agent.pos, env.agent.dir = position, yaw
        yield
    things = [e for e in seen_by.entities_of(env) if seen_by.mesh_name(e) != "building"]
    for number, thing in enumerate(things[:many]):
        seen_by.face(env, thing, 1.1 * number - math.pi + seed, 1.6 + 0.5 * number)
        if seen_by.may_stand(env, env.agent.pos):
            yield


LEVEL = [pytest.param(name, False, 2, id=name) for name in NAMES if name not in LATER]
TILTED = [
    pytest.param(
        name, True, 3, id=f"{name}, randomised", marks=() if name in RANDOMISED_ALWAYS else pytest.mark.slow
    )
    for name in NAMES
]
MORE = [pytest.param(name, False, 25, id=f"{name}, many episodes", marks=pytest.mark.slow) for name in NAMES]


@pytest.mark.parametrize(("name", "randomised", "episodes"), [*LEVEL, *TILTED, *MORE])
def test_pictures_of_every_task_are_the_originals(original, seen_by, monkeypatch, name, randomised, episodes):
    world = envs_jax.make(f"miniworld/{name}", faithful=True, randomise=randomised)
    env = original.make(name, draws=True)
    look, found = drawn_with(world, seen_by, monkeypatch), []
    for seed in range(episodes):
        env.domain_rand = randomised
        if name == "sign":
            env.set_color_index(seed % 3)
        env.reset(seed=seed)
        env.listed = original.things(env)
        for _ in poses(seen_by, env, seed, 5):
            env.ours = state_of(original, name, world, env, env.listed)
            env.ours = env.ours if randomised else env.ours.replace(look=None)
            seen = seen_by.look(env)
            hit, things, walls, faces_up, picture = jax.tree.map(np.asarray, look(env.ours))
            label = labels(world, env, seen_by, hit, things, walls, faces_up)
            painted = [n for n, e in enumerate(seen_by.entities_of(env)) if seen_by.mesh_name(e) in PAINTED]
            paint = np.isin(-1 - label, painted) | np.isin(-1 - seen.label, painted)
            close = (np.abs(1 / hit.depth - seen.w) < STEPS) | (seen.label == 0)
            off = np.abs(picture.astype(int) - seen.colour.astype(int))
            found.append((label == seen.label, close, off, ~paint))
    env.close()
    same, close, off, counts = (np.stack(part) for part in zip(*found, strict=True))
    measured = (same.mean(), close.mean(), off[counts].mean(), np.mean(off[counts].max(axis=-1) > 16))
    print(
        f"{name}, {len(found)} frames: surfaces {measured[0]:.4%}, depths {measured[1]:.4%}, "
        f"mean difference {measured[2]:.2f}, off by more than 16 {measured[3]:.3%}"
    )
    assert measured[0] > 0.995
    assert measured[1] > 0.995
    assert measured[2] < 3
    assert measured[3] < 0.01


@pytest.mark.parametrize("name", variants.VARIANTS["concrete"])
def test_our_textures_of_walls_that_vary_are_like_the_originals(seen_by, name):
    """Mean colour and contrast, of 255, and the size of a tile; nothing else is taken from the files."""
    names = ("plain", name)
    ours, theirs = variants.build_atlas(names), original_atlas(seen_by, names)
    assert ours.metres[1] == theirs.metres[1]

    def texels(atlas):
        side = atlas.side
        finest = atlas.texels[3 * side * side :, 0]
        return np.stack([(finest >> shift) & 255 for shift in (0, 8, 16)], axis=-1).astype(float)

    one, two = texels(ours), texels(theirs)
    np.testing.assert_allclose(one.mean(axis=0), two.mean(axis=0), atol=3)
    assert abs(one.std() - two.std()) < 3
