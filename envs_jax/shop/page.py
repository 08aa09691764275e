"""A page as data: its elements with their kinds, boxes and texts. Picture and text are made of it."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Int

from envs_jax.shop import layout
from envs_jax.shop.catalogue import MOST_GROUPS, MOST_VALUES, SHOWN, Catalogue
from envs_jax.shop.phrases import FIRST_ITEM, FIRST_VALUE, LINKS, NEXT, PREV, Book
from envs_jax.shop.state import State

WORDS = 8  # T, phrases in an element's text at most


@struct.dataclass
class Elements:
    """What stands on a page, E elements in reading order; an element that is not shown has no text.

    Attributes:
      kind: int32[E], of `layout.KINDS`, -1 = none.
      shown: bool[E].
      box: int32[E, 4], left, top, right, bottom, pixels.
      text: int32[E, 8], phrase ids, -1 = nothing.
      link: int32[E], what a click on it says, an index of `Book.links`; -1 = it can not be clicked.
      chosen: bool[E], options: whether this value is chosen.
      product: int32[E], pictures: whose; -1 = none.
      tint: int32[E], pictures: the word of the colour, -1 = none.
    """

    kind: Int[Array, " e"]
    shown: Bool[Array, " e"]
    box: Int[Array, "e 4"]
    text: Int[Array, "e t"]
    link: Int[Array, " e"]
    chosen: Bool[Array, " e"]
    product: Int[Array, " e"]
    tint: Int[Array, " e"]


class _Page:
    """A page being written, in the order of `layout.PLACES`."""

    def __init__(self, book: Book):
        self.book = book
        self.blocks: list[tuple] = []

    def add(self, *text, **about) -> None:
        """One element; its text is phrases, phrase ids and arrays of phrase ids."""
        self.block(line(self.book, *text)[None], **about)

    def block(self, text, link=-1, shown=True, chosen=False, product=-1, tint=-1) -> None:
        """Elements at once: text int32[..., 8], all else of the same leading axes or for all of them."""
        lead = text.shape[:-1]
        types = (jnp.int32, bool, bool, jnp.int32, jnp.int32)
        rest = [
            jnp.broadcast_to(jnp.asarray(item, kind), lead).reshape(-1)
            for item, kind in zip((link, shown, chosen, product, tint), types, strict=True)
        ]
        self.blocks.append((text.reshape(-1, WORDS), *rest))

    def close(self, count: int) -> tuple[Array, ...]:
        """Columns, filled up to E elements."""
        written = sum(len(block[0]) for block in self.blocks)
        if written != count:
            raise ValueError(f"a page of {count} places was given {written} elements")
        self.block(jnp.full((layout.MOST - count, WORDS), -1, jnp.int32), shown=False)
        return tuple(jnp.concatenate(column) for column in zip(*self.blocks, strict=True))


def line(book: Book, *text) -> Int[Array, " 8"]:
    """Phrases, phrase ids and arrays of phrase ids as the ids of one text, -1 after its end."""
    ids = [jnp.full(1, book.id(part)) if isinstance(part, str) else jnp.ravel(part) for part in text]
    whole = jnp.concatenate([*ids, jnp.full(WORDS, -1)]).astype(jnp.int32)
    if len(whole) > 2 * WORDS:
        raise ValueError(f"a text has {len(whole) - WORDS} phrases; accepted: at most {WORDS}")
    return whole[:WORDS]


def elements(goods: Catalogue, book: Book, state: State, scale: int) -> Elements:
    """The elements of the page that an episode is at.

    Args:
      goods, book: the catalogue and its phrases.
      state: of the episode.
      scale: of the boxes, pixels of the picture per pixel of the layout.
    """
    pages = [_search, _results, _item, _description, _features, _reviews, _done]
    written = []
    for write, places in zip(pages, layout.PLACES, strict=True):
        page = _Page(book)
        _header(page, goods, state)
        write(page, goods, state)
        written.append(page.close(len(places)))
    text, link, shown, chosen, product, tint = (
        jnp.stack(column)[state.page] for column in zip(*written, strict=True)
    )
    tables = layout.tables(scale)
    return Elements(
        kind=jnp.asarray(tables.kind)[state.page],
        shown=shown,
        box=jnp.asarray(tables.box)[state.page],
        text=jnp.where(shown[:, None], text, -1),
        link=jnp.where(shown, link, -1),
        chosen=chosen & shown,
        product=product,
        tint=tint,
    )


def links(state: State, book: Book, groups: Int[Array, " 3"], values: Int[Array, "3 6"]) -> Bool[Array, " l"]:
    """Which links the page has, by `Book.links`: what upstream's get_available_actions lists.

    Args:
      state: of the episode.
      book: for the links.
      groups, values: the option groups of the product looked at and their values.

    Worked example, the second page of 13 results -> "back to search", "< prev", "item 1", "item 2", "item 3".
    """
    page = state.page
    results, item = page == layout.RESULTS, page == layout.ITEM
    sub = (page == layout.DESCRIPTION) | (page == layout.FEATURES) | (page == layout.REVIEWS)
    left = (state.results >= 0).sum() - state.shelf * SHOWN  # results on this page and behind it
    fixed = [results | item | sub, (results & (state.shelf > 0)) | item | sub, results & (left > SHOWN)]
    fixed += [item] * (len(LINKS) - len(fixed))
    items = results & (jnp.arange(SHOWN) < left)
    offered = jnp.where((groups >= 0)[:, None], values, -1)
    options = item & (jnp.asarray(book.values)[:, None] == offered.reshape(-1)).any(axis=1)
    return jnp.concatenate([jnp.stack(fixed), items, options])


def item_row(goods: Catalogue, state: State, table) -> Int[Array, "..."]:
    """The row of the product looked at, -1 where there is none."""
    row = jnp.asarray(table)[jnp.maximum(state.item, 0)].astype(jnp.int32)
    return jnp.where(state.item >= 0, row, -1)


def goal_lines(goods: Catalogue, book: Book, state: State) -> tuple[Sequence, Sequence, Sequence]:
    """The task in three lines, parts as `line` takes them.

    Worked example: "find me: washable cotton tank shirt" / "with color: red size: large" /
    "price lower than 40.00 dollars".
    """
    groups = jnp.asarray(goods.groups)[state.goal].astype(jnp.int32)
    names = jnp.where(groups >= 0, book.id(f"{goods.group_names[0]}:") + groups, -1)
    with_ = jnp.where((groups >= 0).any(), book.id("with"), -1)
    asked = jnp.asarray(goods.asked)[state.goal].astype(jnp.int32)
    nouns = jnp.asarray(goods.nouns)[state.goal, :2].astype(jnp.int32)
    limit = book.id("0.00 dollars") + state.limit // 10
    return (
        ("find me:", asked, nouns),
        (with_, jnp.stack([names, state.wanted], axis=1)),
        ("price lower than", limit),
    )


def _header(page: _Page, goods: Catalogue, state: State) -> None:
    page.add("web shop")
    page.add()
    for line in goal_lines(goods, page.book, state):
        page.add(*line)


def _navigation(page: _Page, state: State) -> None:
    """The query and the two buttons that nearly all pages have."""
    page.add("query:", state.query)
    page.add("back to search", link=0)
    page.add("< prev", link=PREV, shown=(state.page != layout.RESULTS) | (state.shelf > 0))


def _title(goods: Catalogue, book: Book, product) -> tuple[Array, Array, Array]:
    """Attributes [2] and nouns [2] of a title, and what the product is for [4]."""
    row = jnp.maximum(product, 0)
    attributes = jnp.asarray(goods.attributes)[row, :2].astype(jnp.int32)
    attributes = jnp.where(jnp.arange(2) < jnp.asarray(goods.titled)[row], attributes, -1)
    nouns = jnp.asarray(goods.nouns)[row].astype(jnp.int32)
    return attributes, nouns[:2], jnp.concatenate([jnp.full(1, book.id("for")), nouns[2:]])


def _search(page: _Page, goods: Catalogue, state: State) -> None:
    page.add("search the shop")
    page.add("search[words]")
    page.add("search")


def _results(page: _Page, goods: Catalogue, state: State) -> None:
    book = page.book
    _navigation(page, state)
    count = (state.results >= 0).sum()
    page.add("next >", link=NEXT, shown=count > (state.shelf + 1) * SHOWN)
    page.add(book.id("page 1 (1-10)") + state.shelf, "of", book.id("0 results") + count)
    at = state.shelf * SHOWN + jnp.arange(SHOWN)
    products = jnp.where(at < len(state.results), state.results[at], -1)
    number = jnp.arange(SHOWN)

    def card(product, number):
        """Ground, picture, link, price, three lines of title."""
        price = book.id("$0.00") + jnp.asarray(goods.price)[jnp.maximum(product, 0)].astype(jnp.int32)
        texts = (
            (),
            (),
            (book.id("item 1") + number,),
            (price,),
            *((part,) for part in _title(goods, book, product)),
        )
        return jnp.stack([line(book, *text) for text in texts])

    linked = np.array([True, False, True, False, False, False, False])
    pictured = np.arange(len(linked)) == 1
    page.block(
        jax.vmap(card)(products, number),
        link=jnp.where(linked, FIRST_ITEM + number[:, None], -1),
        shown=(products >= 0)[:, None],
        product=jnp.where(pictured, products[:, None], -1),
        tint=jnp.where(pictured, _tint(goods, products)[:, None], -1),
    )


def _tint(goods: Catalogue, product) -> Int[Array, "..."]:
    return jnp.asarray(goods.tint)[jnp.maximum(product, 0)].astype(jnp.int32)


def _item(page: _Page, goods: Catalogue, state: State) -> None:
    book = page.book
    _navigation(page, state)
    groups = item_row(goods, state, goods.groups)
    # The picture shows the colour that is chosen, as upstream's pages do.
    color = groups == goods.group_names.index("color")
    picked = jnp.where(color, state.chosen, -1).max()
    page.add(product=state.item, tint=jnp.where(picked >= 0, picked, _tint(goods, state.item)))
    attributes, nouns, uses = _title(goods, book, state.item)
    page.add(attributes, nouns)
    page.add(uses)
    page.add("price:", book.id("$0.00") + jnp.maximum(item_row(goods, state, goods.price), 0))
    page.add("rating:", book.id("1 of 5 stars") + jnp.maximum(item_row(goods, state, goods.rating), 1) - 1)
    for link in ("description", "features", "reviews", "buy now"):
        page.add(link, link=LINKS.index(link))
    values = item_row(goods, state, goods.values)
    names = book.id(f"{goods.group_names[0]}:") + jnp.maximum(groups, 0)
    number = jnp.searchsorted(jnp.asarray(book.values), values).astype(jnp.int32)
    blank = jnp.full((MOST_GROUPS, MOST_VALUES, WORDS - 1), -1)
    pills = jnp.concatenate([values[..., None], blank], axis=2)
    labels = jax.vmap(lambda *text: line(book, *text))(names, state.chosen)[:, None]

    def row(label, pill):
        """A group's own element, then those of its values."""
        return jnp.concatenate([jnp.full((MOST_GROUPS, 1), label), pill], axis=1)

    page.block(
        jnp.concatenate([labels, pills], axis=1),
        link=row(-1, FIRST_VALUE + number),
        shown=row(True, values >= 0) & (groups >= 0)[:, None],
        chosen=row(False, (values >= 0) & (state.chosen[:, None] == values)),
    )


def _description(page: _Page, goods: Catalogue, state: State) -> None:
    _navigation(page, state)
    page.add("description")
    described = item_row(goods, state, goods.described)
    nouns = item_row(goods, state, goods.nouns)
    page.add("this", nouns[:2])
    page.add("is", described[0], "and", described[1])
    page.add("made for", nouns[2:])


def _features(page: _Page, goods: Catalogue, state: State) -> None:
    _navigation(page, state)
    page.add("features")
    attributes = item_row(goods, state, goods.attributes)
    count = (attributes >= 0).sum()
    place = count - 1 - jnp.arange(len(attributes))  # the last attribute is the first feature
    texts = jax.vmap(lambda word: line(page.book, word))(attributes[jnp.maximum(place, 0)])
    page.block(texts, shown=place >= 0)


def _reviews(page: _Page, goods: Catalogue, state: State) -> None:
    _navigation(page, state)
    page.add("reviews")
    stars = jnp.maximum(item_row(goods, state, goods.rating), 1)
    first = page.book.id("broke after a day") + 2 * (stars - 1)
    page.add("buyers say", page.book.id("1 of 5 stars") + stars - 1)
    page.add(first)
    page.add(first + 1)


def _done(page: _Page, goods: Catalogue, state: State) -> None:
    page.add("thank you", "for shopping", "with us")
    hundredths = jnp.clip(jnp.round(100 * state.score), 0, 100).astype(jnp.int32)
    page.add("your score", "(0 to 1):", page.book.id("0.00") + hundredths)
