"""What a page of the shop says, as its readers would put it: results and goods, what can be clicked and what for.

The places of elements are those of `envs_jax.shop.layout`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from envs_jax.shop import layout
from envs_jax.shop.catalogue import MOST_GROUPS, MOST_VALUES, SHOWN
from vldac.evaluate.pages.visits import Element, Page

_HEADER = 5  # places of the header
_QUERY = 5


@dataclass(frozen=True)
class Card:
    """A result on a page of them: its link, what it is, its price, its picture."""

    link: Element
    title: str
    price: str
    tint: str


def cards(page: Page) -> list[Card]:
    """The results on a page of results."""
    made = []
    for number in range(SHOWN):
        first = 10 + 7 * number
        link = page.at(first + 2)
        if link is not None:
            lines = " ".join(page.at(first + k).text for k in (4, 5, 6))
            made.append(Card(link, lines, page.at(first + 3).text, page.at(first + 1).tint))
    return made


def goods(page: Page) -> tuple[Element, Element, Element, Element]:
    """Title, what for, price and rating on the page of an item."""
    return tuple(page.at(place) for place in (9, 10, 11, 12))


def groups(page: Page) -> list[tuple[str, list[Element]]]:
    """(name, values) of the option groups on the page of an item."""
    first = 17
    made = []
    for number in range(MOST_GROUPS):
        start = first + number * (1 + MOST_VALUES)
        label = page.at(start)
        if label is not None:
            values = [page.at(start + 1 + k) for k in range(MOST_VALUES)]
            made.append((label.text.partition(":")[0], [value for value in values if value is not None]))
    return made


def query(page: Page) -> str:
    """The words searched for."""
    return page.at(_QUERY).text.removeprefix("query: ")


def heading(page: Page) -> Element:
    """The large print of a page that has some."""
    fonts = [place.font for place in layout.PLACES[layout.PAGES.index(page.name)]]
    return page.at(fonts.index(layout.LARGE))


def clickable(page: Page) -> list[Element]:
    """What can be clicked, each link once: a result's link, not its card and picture."""
    return [element for element in page.of("link", "button", "buy", "radio") if element.link]


def described(page: Page, element: Element) -> str | None:
    """An element in words, None for grounds, the task and what has nothing of its own."""
    if element.place < _HEADER or element.kind in ("card", "bar", "panel"):
        return None
    if element.kind == "image":
        if page.name != "results":
            return "the picture of the product"
        return f"the picture of item {(element.place - 10) // 7 + 1}"
    what = {"link": "link", "button": "button", "buy": "button", "radio": "option"}.get(element.kind, "text")
    if page.name == "results" and element.kind == "text" and element.text.startswith("$"):
        return f"the price of item {(element.place - 10) // 7 + 1}"
    return f'the {what} "{element.text}"' if element.text else None


def purpose(page: Page, element: Element, rng: np.random.Generator) -> str | None:
    """What one clicks an element for, None if that could be meant for another one, too."""
    told = {
        "back to search": "Start again with a new search.",
        "next >": "See further results of this search.",
        "description": "Read the text that describes this product.",
        "features": "See the list of what is special about this product.",
        "reviews": "Read what other buyers think of this product.",
        "buy now": "Order this product as it is.",
    }
    if element.link in told:
        return told[element.link]
    if element.link == "< prev":
        return "Return to the list of results." if page.name == "item" else "Return to the results before these."
    if element.kind == "radio":
        group = next(name for name, values in groups(page) if element in values)
        return f"Choose {element.text} as the {group}."
    found = cards(page)
    card = next(card for card in found if card.link == element)
    ways = [f"Open the product that costs {card.price}."] * ([c.price for c in found].count(card.price) == 1)
    ways += [f"Open the {card.title}."] * ([c.title for c in found].count(card.title) == 1)
    return ways[rng.integers(len(ways))] if ways else None


def title(page: Page) -> str:
    """A page in a line: what it shows and nothing else."""
    if page.name == "search":
        return "the search page of the web shop"
    if page.name == "results":
        return f"results for {query(page)}, {page.at(9).text.partition(' of ')[0]}"
    if page.name == "done":
        return "thank you for shopping with us"
    if page.name == "item":
        name, uses, price, _ = (element.text for element in goods(page))
        chosen = [value.text for _, values in groups(page) for value in values if value.chosen]
        return f"{name} {uses}, {price}" + (f", {' and '.join(chosen)} chosen" if chosen else "")
    return f"the {page.name} of a product"
