"""The scripted buyer: searches with the task's words, opens the first product that is worth 1, chooses, buys.

It goes on from any page: away from a wrong item, back to the page of results that it needs, to a new search where
the last one found nothing that fits.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from envs_jax.shop import layout
from envs_jax.shop.catalogue import QUERY, SHOWN, Catalogue, goal_words
from envs_jax.shop.page import item_row, line
from envs_jax.shop.phrases import BUY_NOW, FIRST_ITEM, FIRST_VALUE, NEXT, PREV, Book
from envs_jax.shop.score import score, wanted
from envs_jax.shop.state import State


def search(words: Int[Array, " 6"]) -> Int[Array, " 7"]:
    """The record of "search[{word}]"."""
    return jnp.concatenate([jnp.zeros(1, jnp.int32), words.astype(jnp.int32)])


def click(link: Int[Array, ""] | int) -> Int[Array, " 7"]:
    """The record of "click[{link}]"."""
    return jnp.full(1 + QUERY, -1, jnp.int32).at[:2].set(jnp.stack([jnp.int32(1), jnp.asarray(link, jnp.int32)]))


class _Sight(NamedTuple):
    """What the buyer makes of the page.

    Attributes:
      fits: bool[], the product looked at could be worth 1.
      missing: int32[], the next value to choose, a word; -1 = none.
      group: int32[], its place among the product's option groups.
      place: int32[], of the first result that could be worth 1; -1 = none.
    """

    fits: Bool[Array, ""]
    missing: Int[Array, ""]
    group: Int[Array, ""]
    place: Int[Array, ""]


def _best(goods: Catalogue, state: State, product: Int[Array, ""]) -> Int[Array, " 3"]:
    """The values of a product to choose, word ids: in each group the one asked for, or one that counts as it."""
    values = jnp.asarray(goods.values)[product].astype(jnp.int32)
    counts = wanted(goods, values, state.wanted)
    exact = counts & (values[..., None] == state.wanted).any(axis=-1)
    # The first that is exact, else the first that counts.
    first = jnp.argmax(2 * exact + counts, axis=1)
    best = jnp.take_along_axis(values, first[:, None], axis=1)[:, 0]
    return jnp.where(counts.any(axis=1), best, -1)


def _look(goods: Catalogue, state: State) -> _Sight:
    def worthy(product):
        row = jnp.maximum(product, 0)
        return (product >= 0) & (score(goods, state, row, _best(goods, state, row)) >= 1)

    found = jax.vmap(worthy)(state.results)
    best = jnp.where(state.item >= 0, _best(goods, state, jnp.maximum(state.item, 0)), -1)
    # A value that counts need not be changed for the exact one.
    open_ = (best >= 0) & ~wanted(goods, state.chosen, state.wanted)
    group = jnp.argmax(open_).astype(jnp.int32)
    return _Sight(
        fits=worthy(state.item),
        missing=jnp.where(open_.any(), best[group], -1),
        group=group,
        place=jnp.where(found.any(), jnp.argmax(found), -1).astype(jnp.int32),
    )


def action(goods: Catalogue, book: Book, state: State) -> Int[Array, " 7"]:
    """The buyer's next action."""
    sight = _look(goods, state)
    shelf = sight.place // SHOWN
    on_results, on_item = state.page == layout.RESULTS, state.page == layout.ITEM
    value = FIRST_VALUE + jnp.searchsorted(jnp.asarray(book.values), sight.missing)
    through = jnp.where(
        shelf > state.shelf, NEXT, jnp.where(shelf < state.shelf, PREV, FIRST_ITEM + sight.place % SHOWN)
    )
    buying = jnp.where(sight.missing >= 0, value, BUY_NOW)
    link = jnp.where(on_results, through, jnp.where(on_item & sight.fits, buying, PREV))
    words = jnp.asarray(goal_words(goods.asked, goods.nouns))[state.goal]
    lost = jnp.where(on_results, sight.place < 0, (state.page == layout.SEARCH) | (state.page == layout.DONE))
    # A wrong item is left at once for a new search where going back to the results would lead nowhere.
    lost |= ~on_results & ~sight.fits & (sight.place < 0)
    return jnp.where(lost, search(words), click(link))


def thoughts(goods: Catalogue, book: Book, state: State) -> Int[Array, " 6"]:
    """Phrase ids, two to six of them.

    Worked examples: "look for washable tank shirt", "item 3 fits", "none here fits next page",
    "choose color: red", "all is chosen buy now", "wrong item go back".
    """
    sight = _look(goods, state)

    def say(*parts):
        return line(book, *parts)[:6]

    asked = jnp.asarray(goods.asked)[state.goal].astype(jnp.int32)
    nouns = jnp.asarray(goods.nouns)[state.goal, :2].astype(jnp.int32)
    group = book.id(f"{goods.group_names[0]}:") + item_row(goods, state, goods.groups)[sight.group]
    shelf = sight.place // SHOWN
    on_results, on_item = state.page == layout.RESULTS, state.page == layout.ITEM
    sub = (state.page >= layout.DESCRIPTION) & (state.page <= layout.REVIEWS)
    said = say("look for", asked, nouns)
    for when, what in (
        (on_results, say(book.id("item 1") + sight.place % SHOWN, "fits")),
        (on_results & (shelf > state.shelf), say("none here fits", "next page")),
        (on_results & (shelf < state.shelf), say("none here fits", "back a page")),
        (on_results & (sight.place < 0), say("nothing fits", "start again")),
        (on_item, say("all is chosen", "buy now")),
        (on_item & (sight.missing >= 0), say("choose", group, sight.missing)),
        (sub, say("go back")),
        ((on_item | sub) & ~sight.fits, say("wrong item", "go back")),
        ((on_item | sub) & ~sight.fits & (sight.place < 0), say("wrong item", "start again")),
        (state.page == layout.DONE, say("done")),
    ):
        said = jnp.where(when, what, said)
    return said
