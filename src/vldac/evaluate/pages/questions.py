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
from dataclasses import dataclass
from typing import Any

import numpy as np

from envs_jax.shop import layout
from vldac.evaluate.pages import marks, visits
from vldac.evaluate.pages.marks import LETTERS
from vldac.evaluate.pages.reading import cards, clickable, described, goods, heading, purpose, query, title
from vldac.evaluate.pages.visits import SCALE, Box, Element, Page
from vldac.evaluate.pages.webqa import QUESTIONS

SIDE = layout.SIDE * SCALE
HEADED = ("search", "description", "features", "reviews", "done")


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
    tags: tuple[Box, ...] = ()


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
    """One of `webqa.QUESTIONS`, each equally often."""
    name, ask = QUESTIONS[wanted]
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


def ratio(box: Box) -> list[float]:
    """A box in shares of the page."""
    return [round(at / SIDE, 3) for at in box]


KINDS: dict[str, tuple[Task, int]] = {
    "web_caption": (web_caption, 3),
    "heading_ocr": (heading_ocr, len(HEADED)),
    "webqa": (webqa, len(QUESTIONS)),
    "element_ocr": (element_ocr, len(layout.PAGES)),
    "element_ground": (element_ground, len(LETTERS)),
    "action_prediction": (action_prediction, len(LETTERS)),
    "action_ground": (action_ground, len(LETTERS)),
}
"""In the data set's order; of each task how many kinds or right letters there are, to be had equally often."""
