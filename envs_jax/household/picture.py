"""What the agent sees, as a page of labelled tiles: 18 rows of 12 pixels, from the top

2 goal, 1 place (and whether it is open), 6 contents (two columns), 1 hand, 1 answer to the last command, 7 the
room's receptacles by type ("cabinet 1-11", two columns). Marks before an object: red hot, blue cold, green clean,
yellow on.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, UInt8

from envs_jax.household import rules
from envs_jax.household import tables as t
from envs_jax.household.rules import State
from envs_jax.render import glyphs, raster
from envs_jax.render.labels import Labels

ROW, ROWS, CONTENTS, AROUND = 12, 18, 12, 14
_SIZE = 10  # pixels, the font
_RED, _BLUE, _GREEN, _YELLOW = (220, 40, 30), (40, 90, 230), (30, 160, 70), (240, 190, 0)
_SHEET = ((255, 246, 214), (226, 238, 255), (245, 245, 245), (228, 246, 228), (255, 232, 228), (236, 236, 244))
_TEXTS = (
    *t.RECEPTACLE_WORDS,
    *t.OBJECT_WORDS,
    *t.RECEPTACLES,
    *t.OBJECTS,
    *("put some", "look at", "put a clean", "put a hot", "put a cool", "put two", "in", "under the"),
    *(
        "at",
        "(open)",
        "(closed)",
        "in the middle of the room",
        "holding",
        "nothing",
        "hot",
        "cold",
        "clean",
        "sliced",
    ),
    *(
        "on",
        "Nothing happens.",
        "more below:",
        "ok:",
        "look",
        "go to",
        "open",
        "close",
        "take",
        "move",
        "heat",
        "cool",
    ),
    *("use", "slice", "examine", "inventory", "help", "Goal:", "(empty)", "and more"),
)
_LABELS = Labels.build(_TEXTS)


def _id(text: str) -> int:
    return _TEXTS.index(text)


_R, _O = 0, len(t.RECEPTACLE_WORDS)
_RT = _O + len(t.OBJECT_WORDS)
_OT = _RT + len(t.RECEPTACLES)


def _line(*ids) -> Int[Array, " n"]:
    return _LABELS.line(jnp.stack([jnp.asarray(i, jnp.int32) for i in ids]))


def _strips(ids: Int[Array, "n m"], width: int, colors: np.ndarray, left: int) -> UInt8[Array, "n h w 3"]:
    """Lines of text, each in a strip of its own: one drawing for all of them."""

    def strip(line, color):
        return raster.text(raster.canvas(ROW, width, color), line, left, 0, _SIZE)

    return jax.vmap(strip)(ids, jnp.asarray(colors, jnp.uint8))


def _columns(strips: UInt8[Array, "n h w 3"]) -> UInt8[Array, "H W 3"]:
    """Pairs of strips side by side, row by row."""
    n, height, width, _ = strips.shape
    return (
        strips.reshape(n // 2, 2, height, width, 3).transpose(0, 2, 1, 3, 4).reshape(n // 2 * height, 2 * width, 3)
    )


def draw(state: State, height: int, width: int) -> UInt8[Array, "h w 3"]:
    """The page, uint8[height, width, 3]; at least 216 x 200."""
    half = width // 2
    begins = jnp.array(
        [_id(x) for x in ("put some", "look at", "put a clean", "put a hot", "put a cool", "put two")]
    )
    lit = state.task == t.LIGHT
    held = state.at == rules.HELD
    index = jnp.argmax(held)
    has = held.any()

    def if_(flag, text, other=-1):
        return jnp.where(flag, _id(text), other if isinstance(other, int) else _id(other))

    here = state.here
    kind = rules.receptacle_types(state)[here]
    openable = (here >= 0) & jnp.asarray(t.OPENABLE)[kind]
    opened = state.is_open[here]
    lies = (state.at == here) & (here >= 0) & (state.objects >= 0) & rules.accessible(state)[here]
    verbs = (
        "go to",
        "open",
        "close",
        "take",
        "move",
        "heat",
        "cool",
        "clean",
        "use",
        "slice",
        "examine",
        "examine",
    )
    verbs = jnp.array([_id(x) for x in (*verbs, "look", "inventory", "help")])
    action, first, second = state.last
    of_object = (action >= rules.TAKE) & (action <= rules.EXAMINE_OBJECT)
    one = jnp.where(first >= 0, jnp.where(of_object, _O, _R) + first, -1)
    two = jnp.where(second >= 0, jnp.where(action == rules.SLICE, _O, _R) + second, -1)
    ok = action >= 0
    end = jnp.where(lit, _OT + state.lamp, _RT + state.goal)
    lines = [
        _line(_id("Goal:"), begins[state.task], _OT + state.target),
        _line(if_(lit, "under the", "in"), end),
        _line(
            if_(here >= 0, "at", "in the middle of the room"),
            jnp.where(here >= 0, _R + state.receptacles[here], -1),
            if_(openable & opened, "(open)"),
            if_(openable & ~opened, "(closed)"),
            if_((here >= 0) & (~openable | opened) & ~lies.any(), "(empty)"),
            if_(lies.sum() > CONTENTS, "and more"),
        ),
        _line(
            _id("holding"),
            jnp.where(has, _O + state.objects[index], _id("nothing")),
            *(
                if_(has & mark[index], text)
                for mark, text in (
                    (state.hot, "hot"),
                    (state.cool, "cold"),
                    (state.clean, "clean"),
                    (state.sliced, "sliced"),
                )
            ),
        ),
        _line(if_(ok, "ok:", "Nothing happens."), jnp.where(ok, verbs[action], -1), one, two),
    ]
    longest = max(map(len, lines))
    table = jnp.stack([jnp.pad(x, (0, longest - len(x)), constant_values=-1) for x in lines])
    wide = _strips(table, width, np.array([_SHEET[i] for i in (0, 0, 1, 3, 4)]), 3)

    # Wanted objects come first, so that no crowd can hide them.
    rank = jnp.where(lies, jnp.where(rules.object_types(state) == state.target, 0, 1), 2)
    order = jnp.argsort(rank, stable=True)[:CONTENTS]
    order = jnp.pad(order, (0, CONTENTS - len(order)), constant_values=0)
    shown = jnp.arange(CONTENTS) < lies.sum()
    contents = jax.vmap(_line)(jnp.where(shown, _O + state.objects[order], -1))
    tiles = _strips(contents, half, np.array([_SHEET[2]] * CONTENTS), 20)
    marks = ((state.hot, _RED, 2), (state.cool, _BLUE, 2), (state.clean, _GREEN, 8), (state.on, _YELLOW, 14))
    for mark, color, left in marks:  # never hot and cold at once
        flag = (mark[order] & shown)[:, None, None, None]
        tiles = tiles.at[:, 3:9, left : left + 4].set(
            jnp.where(flag, jnp.array(color, jnp.uint8), tiles[:, 3:9, left : left + 4])
        )

    kinds = rules.receptacle_types(state)
    count = jnp.zeros(len(t.RECEPTACLES), jnp.int32).at[kinds].add(kinds >= 0, mode="drop")
    listed = jnp.argsort(count == 0, stable=True)[:AROUND]
    many = count[listed]
    digits = jax.vmap(lambda n: raster.decimal(n, 2))(many)
    one_glyph, dash = glyphs.encode("1"), glyphs.encode("-")

    def entry(kind, n, digits):
        span = jnp.where(n > 1, jnp.concatenate([jnp.asarray(one_glyph), jnp.asarray(dash), digits]), -1)
        single = jnp.where(n == 1, jnp.pad(jnp.asarray(one_glyph), (0, 3), constant_values=-1), -1)
        name = _LABELS.line(jnp.stack([jnp.where(n > 0, _RT + kind, -1)]))
        return jnp.concatenate([name, jnp.array([glyphs.SPACE]), jnp.where(n > 1, span, single)])

    around = _strips(jax.vmap(entry)(listed, many, digits), half, np.array([_SHEET[5]] * AROUND), 4)
    page = jnp.concatenate([*wide[:3], _columns_to(tiles, width), *wide[3:], _columns_to(around, width)])
    return jnp.pad(page, ((0, height - len(page)), (0, 0), (0, 0)), constant_values=255)


def _columns_to(strips: UInt8[Array, "n h w 3"], width: int) -> UInt8[Array, "H W 3"]:
    page = _columns(strips)
    return jnp.pad(page, ((0, 0), (0, width - page.shape[1]), (0, 0)), constant_values=255)
