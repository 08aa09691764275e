"""Visits to a shop that nobody trains in: pages as data, from a seed.

Held out by construction, twice:

* The task in the yellow panel, which is on every page, is one of the shop's split="test" (a fixed hash of its
  words, whatever the shop's seed), so that no world of split="train" can show any of these pages.
* The goods are those of a seed of their own (`SHOP`): prices, titles, options and results differ from those of any
  world that is not given this very seed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray, UInt8

from envs_jax.shop import expert, layout, picture
from envs_jax.shop.catalogue import SHOWN, goal_words
from envs_jax.shop.page import Elements
from envs_jax.shop.phrases import BUY_NOW, FIRST_ITEM, FIRST_VALUE, NEXT, TO_DESCRIPTION
from envs_jax.shop.state import State
from envs_jax.shop.web_shop import WebShop

SHOP = {"products": 2000, "seed": 1_702_061_943, "split": "test"}
SCALE = 2  # pages of 672 x 672 pixels
_BATCH = 32  # visits drawn at once

Box = tuple[int, int, int, int]  # left, top, right, bottom, pixels


@dataclass(frozen=True)
class Element:
    """One element that is shown.

    Attributes:
      place: of the page's places, `layout.PLACES`.
      kind: of `layout.KINDS`, by name.
      box: of it.
      ink: the box of its text alone; its own box where it has none.
      text: what is written.
      link: what a click on it says, "" if it can not be clicked.
      chosen: whether it is an option that is chosen.
      tint: the word of the colour of a picture, "" if none.
    """

    place: int
    kind: str
    box: Box
    ink: Box
    text: str
    link: str
    chosen: bool
    tint: str


@dataclass(frozen=True, eq=False)
class Page:
    """A page of a visit.

    Attributes:
      visit: its number.
      name: of `layout.PAGES`.
      state: of the shop, leaves NumPy.
      elements: what it shows, in reading order.
    """

    visit: int
    name: str
    state: State
    elements: tuple[Element, ...]

    def at(self, place: int) -> Element | None:
        """The element at a place, None if it is not shown."""
        return next((element for element in self.elements if element.place == place), None)

    def of(self, *kinds: str) -> list[Element]:
        """All elements of these kinds."""
        return [element for element in self.elements if element.kind in kinds]


@cache
def shop() -> WebShop:
    """The shop that the pages are of."""
    return WebShop(name="shop/held_out", scale=SCALE, **SHOP)


@lru_cache(maxsize=64)
def visit(seed: int, number: int) -> dict[str, Page]:
    """The pages of one visit by name: a search, some of its results, one of them and all that belongs to it."""
    batch, row = divmod(number, _BATCH)
    states, found = _visits(seed, batch)
    pages = {}
    for page, name in enumerate(layout.PAGES):
        state, elements = (jax.tree.map(lambda leaf: leaf[row, page], tree) for tree in (states, found))  # noqa: B023
        pages[name] = _page(number, state, elements)
    return pages


def after(page: Page, link: str) -> Page:
    """The page that a click leads to."""
    number = shop().book.links.index(link)
    state, found = jax.device_get(_clicked(page.state, jnp.int32(number)))
    return _page(page.visit, state, found)


def draw(page: Page) -> UInt8[np.ndarray, "h w 3"]:
    """Its picture."""
    return np.array(_draw(page.state))


@jax.jit
def _draw(state: State) -> Array:
    return shop().render(state)


@jax.jit
def _clicked(state: State, link: Array) -> tuple[State, Elements]:
    moved = _step(state, expert.click(link))
    return moved, shop().elements(moved)


@jax.jit  # traced once, however often a visit steps
def _step(state: State, action: Array) -> State:
    return shop().step(state, action)[0]


@partial(jax.jit, static_argnums=1)
def _walk(key: PRNGKeyArray, count: int) -> tuple[State, Elements]:
    """States and elements of `count` visits, leaves [count, pages, ...]."""
    world = shop()

    def one(key: PRNGKeyArray) -> tuple[State, Elements]:
        reset_key, word_key, shelf_key, item_key, *option_keys = jax.random.split(key, 6)

        search = world.reset(reset_key)
        words = jnp.asarray(_searches())[search.goal, jax.random.bernoulli(word_key).astype(jnp.int32)]
        results = _step(search, expert.search(words))
        shelves = jax.random.randint(shelf_key, (), 0, 3)
        for turned in range(2):
            results = jax.tree.map(
                partial(jnp.where, turned < shelves), _step(results, expert.click(NEXT)), results
            )
        there = jnp.minimum((results.results >= 0).sum() - results.shelf * SHOWN, SHOWN)
        item = _step(results, expert.click(FIRST_ITEM + jax.random.randint(item_key, (), 0, there)))
        for option_key in option_keys:
            may = world.commands(item) & (jnp.arange(len(world.book.links)) >= FIRST_VALUE)
            some = jax.random.categorical(option_key, jnp.where(may, 0.0, -1e9))
            item = jax.tree.map(partial(jnp.where, may.any()), _step(item, expert.click(some)), item)
        states = [search, results, item]
        states += [_step(item, expert.click(TO_DESCRIPTION + k)) for k in range(3)]
        states.append(_step(item, expert.click(BUY_NOW)))
        states = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
        return states, jax.vmap(world.elements)(states)

    return jax.vmap(one)(jax.random.split(key, count))


@cache
def _searches() -> np.ndarray:
    """int32[P, 2, 6], what is searched for with a product as the goal: its kind, or its attributes, too."""
    goods = shop().goods
    asked, nouns = goods.asked.astype(np.int32), goods.nouns.astype(np.int32)
    return np.stack([goal_words(np.full_like(asked, -1), nouns), goal_words(asked, nouns)], axis=1)


@cache
def _visits(seed: int, batch: int) -> tuple[State, Elements]:
    key = jax.random.fold_in(jax.random.key(seed), batch)
    # Raw keys, so that all leaves are plain arrays.
    states, found = _walk(key, _BATCH)
    return jax.device_get((states.replace(key=jax.random.key_data(states.key)), found))


def _page(number: int, state: State, found: Elements) -> Page:
    page, phrases = int(state.page), shop().phrases
    tables, letters = layout.tables(SCALE), picture.letters(phrases, SCALE)
    elements = []
    for place in np.flatnonzero(found.shown).tolist():
        ids = [i for i in found.text[place].tolist() if i >= 0]
        box = tuple(found.box[place].tolist())
        ink = box
        font = int(tables.font[page, place])
        if ids:
            left, top = tables.text[page, place].tolist()
            wide = int(letters.width[font, ids].sum()) + (len(ids) - 1) * int(letters.space[font])
            ink = (left, top, left + wide, top + round(1.3 * layout.FONTS[font][0] * SCALE))
        link, tint = int(found.link[place]), int(found.tint[place])
        elements.append(
            Element(
                place=place,
                kind=layout.KINDS[int(found.kind[place])],
                box=box,
                ink=ink,
                text=" ".join(phrases[i] for i in ids),
                link=shop().book.links[link] if link >= 0 else "",
                chosen=bool(found.chosen[place]),
                tint=phrases[tint] if tint >= 0 else "",
            )
        )
    return Page(number, layout.PAGES[page], state, tuple(elements))
