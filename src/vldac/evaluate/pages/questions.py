"""VisualWebBench's seven tasks on a page of the shop, answered from the page as data.

What is as there: the prompts' columns, red rectangles and labelled boxes, eight candidates, texts and letters as
answers. What cannot be, and is the nearest honest thing:

* web_caption: the shop's pages have no description by an author. The answer is a line made of what the page shows
  (what the goods are, for what, price and rating): the score tells how many of these facts a caption names, and
  the order of a good one is not the only good one.
* heading_ocr: five pages have a heading (the large print), which says what the page is: five different answers.
* action_prediction: real pages are described by their titles. Here a description says what the page shows.

A function gives None where its page has no such question.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from envs_jax.shop import layout
from envs_jax.shop.catalogue import MOST_GROUPS, MOST_VALUES, SHOWN
from vldac.evaluate.pages import marks, visits
from vldac.evaluate.pages.marks import LETTERS
from vldac.evaluate.pages.visits import SCALE, Box, Element, Page

SIDE = layout.SIDE * SCALE
_GOAL = 2  # places of the task's three lines, from this one on
_HEADER = 5  # places of the header
_QUERY = 5
HEADED = ("search", "description", "features", "reviews", "done")
_PLAIN_COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "gray", "white")


@dataclass(frozen=True, eq=False)
class Asked:
    """A question without its picture.

    Attributes:
      page: that is shown.
      row: what its prompt is filled in with: VisualWebBench's columns.
      truth: text, texts, or the place of the right option.
      outline: a red rectangle, or None.
      boxes, tags: rectangles with letters.
    """

    page: Page
    row: Mapping[str, Any]
    truth: Any
    outline: Box | None = None
    boxes: tuple[Box, ...] = ()
    tags: tuple[Box, ...] = field(default=())


Pages = Mapping[str, Page]  # of a visit, by name
Task = Callable[[Pages, int, np.random.Generator], Asked | None]


def web_caption(pages: Pages, wanted: int, rng: np.random.Generator) -> Asked | None:
    """A line on the goods, their description, or the results."""
    page = pages[("item", "results", "description")[wanted]]
    if page.name == "item":
        name, uses, price, rating = (element.text for element in goods(page))
        text = f"{name} {uses}, {price.removeprefix('price: ')}, {rating.removeprefix('rating: ')}"
    elif page.name == "results":
        first, last = (cards(page)[i].title for i in (0, -1))
        text = f"{page.at(9).text} for {query(page)}: {first} to {last}"
    else:
        text = " ".join(page.at(place).text for place in (9, 10, 11))
    return Asked(page, {}, text)


def heading_ocr(pages: Pages, wanted: int, rng: np.random.Generator) -> Asked | None:
    """The large print."""
    page = pages[HEADED[wanted]]
    return Asked(page, {}, heading(page).text)


def webqa(pages: Pages, wanted: int, rng: np.random.Generator) -> Asked | None:
    """One of `WEBQA`, each equally often."""
    name, ask = WEBQA[wanted]
    made = ask(pages[name], rng)
    if made is None:
        return None
    question, answers = made
    return Asked(pages[name], {"question": question}, answers)


def element_ocr(pages: Pages, wanted: int, rng: np.random.Generator) -> Asked | None:
    """The text of an element of two words or more, of any page; none with a colon, at which the scorer cuts."""
    page = pages[layout.PAGES[wanted]]
    some = [
        element for element in page.elements if element.place and " " in element.text and ":" not in element.text
    ]
    element = some[rng.integers(len(some))]
    box = marks.around(element.ink)
    return Asked(page, {"bbox": ratio(box)}, element.text, outline=box)


def element_ground(pages: Pages, wanted: int, rng: np.random.Generator) -> Asked | None:
    """Which of eight elements is described."""
    page = pages[("results", "item")[int(rng.integers(2))]]
    known = {element: words for element in page.elements if (words := described(page, element))}
    often = Counter(known.values())
    # Of what is written twice neither can be told from the other.
    known = {element: words for element, words in known.items() if often[words] == 1}
    if len(known) < len(LETTERS):
        return None
    chosen = [list(known)[i] for i in rng.choice(len(known), len(LETTERS), replace=False)]
    return _labelled(page, {"elem_desc": known[chosen[wanted]]}, chosen, wanted)


def action_ground(pages: Pages, wanted: int, rng: np.random.Generator) -> Asked | None:
    """Which of eight elements to click for a purpose."""
    page = pages[("results", "item")[int(rng.integers(2))]]
    purposes = {element: told for element in clickable(page) if (told := purpose(page, element, rng))}
    if len(clickable(page)) < len(LETTERS) or not purposes:
        return None
    right = _of_any_role(purposes, rng)
    others = [element for element in clickable(page) if element is not right]
    chosen = [others[i] for i in rng.choice(len(others), len(LETTERS) - 1, replace=False)]
    chosen.insert(wanted, right)
    return _labelled(page, {"instruction": purposes[right]}, chosen, wanted)


def action_prediction(pages: Pages, wanted: int, rng: np.random.Generator) -> Asked | None:
    """Which of eight pages a click leads to, all of them pages that this one leads to."""
    page = pages[("results", "item")[int(rng.integers(2))]]
    here = title(page)
    leads = {element: title(visits.after(page, element.link)) for element in clickable(page)}
    often = Counter(leads.values())
    leads = {element: told for element, told in leads.items() if often[told] == 1 and told != here}
    if len(leads) < len(LETTERS):
        return None
    # Any of those offered is as likely: no page is a better guess than another.
    chosen = [list(leads)[i] for i in rng.choice(len(leads), len(LETTERS), replace=False)]
    options = [f"{letter}. {leads[element]}" for letter, element in zip(LETTERS, chosen, strict=True)]
    box = marks.around(chosen[wanted].box)
    return Asked(page, {"bbox": ratio(box), "options": options}, wanted, outline=box)


def _labelled(page: Page, row: Mapping[str, Any], chosen: list[Element], wanted: int) -> Asked | None:
    boxes = [element.box if element.kind in ("image", "input") else element.ink for element in chosen]
    filled = ("button", "buy", "radio")
    boxes = [
        element.box if element.kind in filled else marks.around(box)
        for element, box in zip(chosen, boxes, strict=True)
    ]
    # Pictures as a whole may not be covered, of the other elements the text.
    covered = [element.ink for element in page.elements if element.text or element.kind == "image"]
    tags = marks.place_tags(boxes, covered, SIDE)
    if tags is None:
        return None
    row = {**row, "options": [ratio(box) for box in boxes]}
    return Asked(page, row, wanted, boxes=tuple(boxes), tags=tuple(tags))


def _of_any_role(known: Mapping[Element, str], rng: np.random.Generator) -> Element:
    """One of the elements: a result or an option, of which there are many, as often as anything else."""
    many = [element for element in known if element.kind in ("link", "radio")]
    few = [element for element in known if element.kind not in ("link", "radio")]
    some = many if many and (not few or rng.random() < 0.5) else few
    return some[rng.integers(len(some))]


# ---------------------------------------------------------------- what a page says


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


def ratio(box: Box) -> list[float]:
    """A box in shares of the page."""
    return [round(at / SIDE, 3) for at in box]


# ---------------------------------------------------------------- questions in words

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


WEBQA: tuple[tuple[str, Callable[[Page, np.random.Generator], Words | None]], ...] = (
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

# In the data set's order; of each task how many kinds or right letters there are, to be had equally often.
KINDS: dict[str, tuple[Task, int]] = {
    "web_caption": (web_caption, 3),
    "heading_ocr": (heading_ocr, len(HEADED)),
    "webqa": (webqa, len(WEBQA)),
    "element_ocr": (element_ocr, len(layout.PAGES)),
    "element_ground": (element_ground, len(LETTERS)),
    "action_prediction": (action_prediction, len(LETTERS)),
    "action_ground": (action_ground, len(LETTERS)),
}
