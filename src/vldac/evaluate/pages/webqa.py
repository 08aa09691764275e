"""webqa's questions: each about one kind of page, with the answers that are right.

A function gives None where its page has no such question.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from vldac.evaluate.pages.reading import Card, cards, goods, groups
from vldac.evaluate.pages.visits import Page

_GOAL = 2  # places of the task's three lines, from this one on
_PLAIN_COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "gray", "white")

Words = tuple[str, list[str]]  # a question, and the answers that are right


def _card(page: Page, rng: np.random.Generator) -> Card:
    found = cards(page)
    return found[rng.integers(len(found))]


def _price_of_item(page: Page, rng: np.random.Generator) -> Words | None:
    card = _card(page, rng)
    return f"How much does {card.link.text} cost?", [card.price, card.price[1:]]


def _item_of_price(page: Page, rng: np.random.Generator) -> Words | None:
    card = _card(page, rng)
    if [other.price for other in cards(page)].count(card.price) > 1:
        return None
    number = card.link.text.removeprefix("item ")
    return f"What is the number of the item that costs {card.price}?", [number, card.link.text]


def _cheapest(page: Page, rng: np.random.Generator) -> Words | None:
    prices = sorted(cards(page), key=lambda card: float(card.price[1:]))
    if len(prices) < 2 or prices[0].price == prices[1].price:
        return None
    number = prices[0].link.text.removeprefix("item ")
    return "What is the number of the cheapest item on this page?", [number, prices[0].link.text]


def _color_of_item(page: Page, rng: np.random.Generator) -> Words | None:
    card = _card(page, rng)
    if card.tint not in _PLAIN_COLORS:
        return None
    return f"What color is the product in the picture of {card.link.text}?", [card.tint]


def _use_of_item(page: Page, rng: np.random.Generator) -> Words | None:
    card = _card(page, rng)
    return f"What is {card.link.text} for?", [card.title.partition(" for ")[2]]


def _stars(page: Page, rng: np.random.Generator) -> Words | None:
    stars = goods(page)[3].text.removeprefix("rating: ")
    return "How many of 5 stars does this product have?", [stars.partition(" ")[0], stars]


def _price(page: Page, rng: np.random.Generator) -> Words | None:
    price = goods(page)[2].text.removeprefix("price: ")
    return "What is the price of this product?", [price, price[1:]]


def _last_value(page: Page, rng: np.random.Generator) -> Words | None:
    some = groups(page)
    if not some:
        return None
    name, values = some[rng.integers(len(some))]
    return f"Which {name} is the last one that is offered?", [values[-1].text]


def _chosen(page: Page, rng: np.random.Generator) -> Words | None:
    some = [(name, value.text) for name, values in groups(page) for value in values if value.chosen]
    if not some:
        return None
    name, value = some[rng.integers(len(some))]
    return f"Which {name} is selected?", [value]


def _limit(page: Page, rng: np.random.Generator) -> Words | None:
    limit = page.at(_GOAL + 2).text.removeprefix("price lower than ")
    number = limit.partition(" ")[0]
    return "Which price must the product asked for be lower than?", [limit, number, f"${number}"]


def _made_for(page: Page, rng: np.random.Generator) -> Words | None:
    return "What is this product made for?", [page.at(11).text.removeprefix("made for ")]


def _first_feature(page: Page, rng: np.random.Generator) -> Words | None:
    return "What is the first feature of this product?", [page.at(9).text]


def _count_features(page: Page, rng: np.random.Generator) -> Words | None:
    count = sum(element.place >= 9 for element in page.elements)
    return "How many features are listed?", [str(count)]


def _first_review(page: Page, rng: np.random.Generator) -> Words | None:
    return "What does the first buyer say?", [page.at(10).text]


QUESTIONS: tuple[tuple[str, Callable[[Page, np.random.Generator], Words | None]], ...] = (
    ("results", _price_of_item),
    ("results", _item_of_price),
    ("results", _cheapest),
    ("results", _color_of_item),
    ("results", _use_of_item),
    ("item", _stars),
    ("item", _price),
    ("item", _last_value),
    ("item", _chosen),
    ("search", _limit),
    ("description", _made_for),
    ("features", _first_feature),
    ("features", _count_features),
    ("reviews", _first_review),
)
"""The kind of page that each is asked of, `layout.PAGES`, and the question."""
