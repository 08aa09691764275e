"""Where the elements of each page lie: fixed tables, from which pages are drawn and asked about.

A page is a list of places. What stands in a place depends on the State (`page.elements`); where it lies, of which
kind it is and in which font it is written do not: a program holds for every pixel the number of its element.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from envs_jax.shop.catalogue import MOST_ATTRIBUTES, MOST_GROUPS, MOST_VALUES, SHOWN

SIDE = 336  # pixels of a square page at scale 1
PAGES = ("search", "results", "item", "description", "features", "reviews", "done")
SEARCH, RESULTS, ITEM, DESCRIPTION, FEATURES, REVIEWS, DONE = range(len(PAGES))

KINDS = ("text", "link", "button", "buy", "radio", "input", "image", "card", "bar", "panel")
TEXT, LINK, BUTTON, BUY, RADIO, INPUT, IMAGE, CARD, BAR, PANEL = range(len(KINDS))
FILLED = (BUTTON, BUY, RADIO, INPUT, CARD, BAR, PANEL)  # kinds with a ground of their own

# (font size in pixels at scale 1, bold)
FONTS = ((8, False), (8, True), (12, True))
PLAIN, BOLD, LARGE = range(len(FONTS))
LINE = 11  # pixels between lines of the small fonts

SMALL_IMAGE, LARGE_IMAGE = 28, 64  # pixels


@dataclass(frozen=True)
class Place:
    """A place of a page.

    Attributes:
      kind: of `KINDS`.
      box: left, top, right, bottom, pixels at scale 1.
      font: of `FONTS`.
      pad: pixels from the left of the box to its text.
    """

    kind: int
    box: tuple[int, int, int, int]
    font: int = PLAIN
    pad: int = 0


def _line(left: int, top: int, right: int = 330, kind: int = TEXT, font: int = PLAIN) -> Place:
    return Place(kind, (left, top, right, top + LINE), font)


_HEADER = (
    Place(BAR, (0, 0, SIDE, 15), BOLD, 6),
    Place(PANEL, (4, 18, SIDE - 4, 55)),
    _line(8, 20, font=BOLD),
    _line(8, 31, font=BOLD),
    _line(8, 42, font=BOLD),
)
_QUERY = _line(8, 57)
_BACK, _PREV, _NEXT = (
    Place(BUTTON, (left, 70, right, 84), PLAIN, 4) for left, right in ((8, 80), (84, 122), (126, 164))
)
_CARD_LEFTS, _CARD_TOP, _CARD_PITCH = (4, 170), 87, 49


def _card(number: int) -> tuple[Place, ...]:
    """Ground, picture, link, price, three lines of title."""
    x, y = _CARD_LEFTS[number % 2], _CARD_TOP + number // 2 * _CARD_PITCH
    return (
        Place(CARD, (x, y, x + 162, y + 47)),
        Place(IMAGE, (x + 3, y + 9, x + 3 + SMALL_IMAGE, y + 9 + SMALL_IMAGE)),
        Place(LINK, (x + 35, y + 2, x + 85, y + 2 + LINE), BOLD),
        _line(x + 112, y + 2, x + 160, font=BOLD),
        _line(x + 35, y + 13, x + 160),
        _line(x + 35, y + 24, x + 160),
        _line(x + 35, y + 35, x + 160),
    )


def _group(number: int) -> tuple[Place, ...]:
    """Name, then its values."""
    y = 168 + number * 44
    return (
        _line(8, y, font=BOLD),
        *(Place(RADIO, (8 + 54 * i, y + 13, 59 + 54 * i, y + 28), PLAIN, 3) for i in range(MOST_VALUES)),
    )


def _sub(lines: int) -> tuple[Place, ...]:
    return (
        *_HEADER,
        _QUERY,
        _BACK,
        _PREV,
        Place(TEXT, (8, 92, 330, 108), LARGE),
        *(_line(12, 114 + 14 * i) for i in range(lines)),
    )


PLACES: tuple[tuple[Place, ...], ...] = (
    (  # search
        *_HEADER,
        Place(TEXT, (40, 122, 300, 138), LARGE),
        Place(INPUT, (40, 144, 240, 162), PLAIN, 5),
        Place(BUTTON, (246, 144, 296, 162), BOLD, 9),
    ),
    (  # results
        *_HEADER,
        _QUERY,
        _BACK,
        _PREV,
        _NEXT,
        _line(176, 72),
        *(place for number in range(SHOWN) for place in _card(number)),
    ),
    (  # item
        *_HEADER,
        _QUERY,
        _BACK,
        _PREV,
        Place(IMAGE, (8, 92, 8 + LARGE_IMAGE, 92 + LARGE_IMAGE)),
        _line(80, 90, font=BOLD),
        _line(80, 102),
        _line(80, 115, 250, font=BOLD),
        _line(80, 127, 250),
        Place(BUTTON, (80, 142, 144, 156), PLAIN, 5),
        Place(BUTTON, (148, 142, 198, 156), PLAIN, 5),
        Place(BUTTON, (202, 142, 250, 156), PLAIN, 5),
        Place(BUY, (264, 124, 328, 150), BOLD, 12),
        *(place for number in range(MOST_GROUPS) for place in _group(number)),
    ),
    _sub(3),  # description
    _sub(MOST_ATTRIBUTES),  # features
    _sub(3),  # reviews
    (  # done
        *_HEADER,
        Place(TEXT, (40, 122, 330, 138), LARGE),
        _line(40, 144),
    ),
)
MOST = max(map(len, PLACES))  # E, elements of a page


@dataclass(frozen=True, eq=False)
class Tables:
    """`PLACES` at a scale, as arrays; -1 where a page has no such place.

    Attributes:
      kind: int32[pages, E].
      box: int32[pages, E, 4], pixels.
      font: int32[pages, E].
      text: int32[pages, E, 2], where the text begins, left and top.
      ground: int8[pages, H, W], the number of the filled or pictured element that is seen there, -1 = the page.
      line: int8[pages, H, W], the number of the element whose text may be there, -1 = none.
    """

    kind: np.ndarray
    box: np.ndarray
    font: np.ndarray
    text: np.ndarray
    ground: np.ndarray
    line: np.ndarray


@cache
def tables(scale: int) -> Tables:
    """The tables of pages of SIDE * scale pixels."""
    shape, side = (len(PAGES), MOST), SIDE * scale
    kind, font = np.full(shape, -1, np.int32), np.zeros(shape, np.int32)
    box, text = np.zeros((*shape, 4), np.int32), np.zeros((*shape, 2), np.int32)
    ground, line = (np.full((len(PAGES), side, side), -1, np.int8) for _ in range(2))
    for page, places in enumerate(PLACES):
        for number, place in enumerate(places):
            left, top, right, bottom = (at * scale for at in place.box)
            kind[page, number], font[page, number] = place.kind, place.font
            box[page, number] = left, top, right, bottom
            # A line of text is centred in its box; its cells are 1.3 font sizes high.
            height = round(1.3 * FONTS[place.font][0] * scale)
            start = top + max(0, (bottom - top - height) // 2)
            text[page, number] = left + place.pad * scale, start
            if place.kind in FILLED or place.kind == IMAGE:
                ground[page, top:bottom, left:right] = number
            if place.kind not in (IMAGE, CARD, PANEL):
                line[page, start : min(bottom, start + height + scale), left + place.pad * scale : right] = number
    return Tables(kind, box, font, text, ground, line)
