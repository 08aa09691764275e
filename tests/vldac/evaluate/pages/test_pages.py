"""Page understanding: truths against the catalogue in words, marks against the picture."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest

from envs_jax.shop import layout
from envs_jax.shop.web_shop import WebShop
from vldac.evaluate import visualwebbench
from vldac.evaluate.benchmark import Question
from vldac.evaluate.pages import TASKS, Pages, marks, visits
from vldac.evaluate.pages.questions import HEADED, action_prediction
from vldac.evaluate.pages.reading import cards
from vldac.evaluate.pages.webqa import QUESTIONS
from vldac.evaluate.results import summarise
from vldac.evaluate.samples import SampleLog, digest
from vldac.generate.request import Reply, Request, images_of

EACH = 8


@pytest.fixture(scope="module")
def benchmark():
    return Pages(EACH, seed=3)


@pytest.fixture(scope="module")
def asked(benchmark):
    return {task: list(benchmark.planned(task)) for task in TASKS}


@pytest.fixture(scope="module")
def rows(asked):
    class Planned(Pages):
        """What is planned already is not planned again."""

        def planned(self, task):
            return iter(asked[task])

    return list(Planned(EACH, seed=3).questions())


def product(page):
    """What is looked at, in words, from the catalogue."""
    return visits.shop().goods.product(int(page.state.item))


def listed(page):
    """The products on a page of results, in words, by the catalogue and the state."""
    start = 10 * int(page.state.shelf)
    numbers = [number for number in page.state.results[start : start + 10].tolist() if number >= 0]
    return [visits.shop().goods.product(number) for number in numbers]


def named(item):
    """A product as a page writes it: attributes and the kind's two nouns, then what it is for."""
    nouns = item["nouns"]
    attributes = [word for word in item["title"][: -len(nouns)]]
    return f"{' '.join([*attributes, *nouns[:2]])} for {' '.join(nouns[2:])}"


def dollars(item):
    return f"${item['price']:.2f}"


def element_at(page, box):
    """The text of the smallest element around the middle of a box given in shares of the page."""
    x, y = (336 * 2 * (box[i] + box[i + 2]) / 2 for i in (0, 1))
    around = [
        element
        for element in page.elements
        if element.box[0] <= x < element.box[2] and element.box[1] <= y < element.box[3]
        if element.kind not in ("card", "panel", "bar")
    ]
    return min(around, key=lambda e: (e.box[2] - e.box[0]) * (e.box[3] - e.box[1]))


# ---------------------------------------------------------------- truths


def test_texts_of_a_page_are_where_it_says(asked):
    """Of a line of text: its ink fills its box from side to side, and nothing is beside it."""
    seen = 0
    for page in {one.page.name: one.page for one in asked["element_ocr"]}.values():
        image = visits.draw(page).astype(int)
        for element in page.elements:
            if element.kind not in ("text", "link") or element.place < 5 or not element.text:
                continue
            left, top, right, bottom = element.ink
            ground = image[top, element.box[2] - 1]
            dark = (np.abs(image[top:bottom, left : element.box[2] - 2] - ground) > 60).any(axis=2)
            assert not dark[:, right - left + 1 :].any()
            assert (
                dark[:, : 4 * visits.SCALE].any() and dark[:, right - left - 4 * visits.SCALE : right - left].any()
            )
            seen += 1
    assert seen > 30


def test_results_are_the_catalogues(asked):
    for one in asked["action_ground"]:
        page = one.page
        if page.name == "results":
            assert [(card.title, card.price) for card in cards(page)] == [
                (named(item), dollars(item)) for item in listed(page)
            ]


def test_ocr_and_headings_are_texts_of_the_page(asked):
    headings = Counter()
    for one in asked["heading_ocr"]:
        expected = {"search": "search the shop", "done": "thank you for shopping with us"}
        assert one.truth == expected.get(one.page.name, one.page.name)
        headings[one.page.name] += 1
    assert set(headings) == set(HEADED) and max(headings.values()) - min(headings.values()) <= 1
    for one in asked["element_ocr"]:
        assert element_at(one.page, one.row["bbox"]).text == one.truth
        assert len(one.truth.split()) > 1 and ":" not in one.truth


def test_captions_name_what_the_catalogue_says(asked):
    for one in asked["web_caption"]:
        if one.page.name == "item":
            item = product(one.page)
            assert one.truth == f"{named(item)}, {dollars(item)}, {item['rating']} of 5 stars"
        elif one.page.name == "results":
            first, *_, last = map(named, listed(one.page))
            assert one.truth.endswith(f": {first} to {last}")
        else:
            item = product(one.page)
            *nouns, first, second = item["description"]
            uses = " ".join(item["nouns"][2:])
            assert one.truth == f"this {' '.join(nouns)} is {first} and {second} made for {uses}"


def answer_to(question, page):
    """From the catalogue and the state."""
    words = visits.shop().goods.vocabulary
    if match := re.fullmatch(r"How much does item (\d+) cost\?", question):
        return dollars(listed(page)[int(match[1]) - 1])
    if match := re.fullmatch(r"What is the number of the item that costs (.+)\?", question):
        places = [i for i, item in enumerate(listed(page), 1) if dollars(item) == match[1]]
        return str(places[0]) if len(places) == 1 else None
    if question.startswith("What is the number of the cheapest"):
        prices = [item["price"] for item in listed(page)]
        return str(prices.index(min(prices)) + 1) if prices.count(min(prices)) == 1 else None
    if match := re.fullmatch(r"What color is the product in the picture of item (\d+)\?", question):
        return listed(page)[int(match[1]) - 1]["options"]["color"][0]
    if match := re.fullmatch(r"What is item (\d+) for\?", question):
        return " ".join(listed(page)[int(match[1]) - 1]["nouns"][2:])
    if match := re.fullmatch(r"Which (.+) is the last one that is offered\?", question):
        return product(page)["options"][match[1]][-1]
    if match := re.fullmatch(r"Which (.+) is selected\?", question):
        chosen = [words[i] for i in page.state.chosen.tolist() if i >= 0]
        (value,) = [value for value in product(page)["options"][match[1]] if value in chosen]
        return value
    if question.startswith("Which price must"):
        return f"{int(page.state.limit)}.00 dollars"
    item = product(page)
    return {
        "How many of 5 stars does this product have?": str(item["rating"]),
        "What is the price of this product?": dollars(item),
        "What is this product made for?": " ".join(item["nouns"][2:]),
        "What is the first feature of this product?": item["features"][0],
        "How many features are listed?": str(len(item["features"])),
        "What does the first buyer say?": ("broke after a day", "worse than it looks", "fair for the price")[
            item["rating"] - 1
        ]
        if item["rating"] < 4
        else ("good value", "I would buy it again")[item["rating"] - 4],
    }[question]


def test_answers_are_the_catalogues():
    kinds = Counter()
    for one in Pages(len(QUESTIONS), seed=3, tasks=["webqa"]).planned("webqa"):
        assert one.truth[0] == answer_to(one.row["question"], one.page)
        kinds[re.sub(r"\d+|\$\S+", "", one.row["question"])] += 1
    assert len(kinds) == len(QUESTIONS)


def test_the_described_element_is_the_right_one_and_no_other(asked):
    for one in asked["element_ground"]:
        description, right = one.row["elem_desc"], []
        for letter, box in enumerate(one.row["options"]):
            element = element_at(one.page, box)
            item = re.search(r"item (\d+)$", description)
            if item:
                x, y = ((int(item[1]) - 1) % 2, (int(item[1]) - 1) // 2)
                here = element.box[0] // 340 == x and (element.box[1] - 174) // 98 == y
                kind = "image" if "picture" in description else "text"
                fits = here and element.kind == kind and (kind == "image" or element.text.startswith("$"))
            elif description == "the picture of the product":
                fits = element.kind == "image"
            else:
                fits = description.endswith(f'"{element.text}"')
            right += [letter] * fits
        assert right == [one.truth]


def test_the_purpose_is_served_by_one_candidate(asked):
    links = {
        "Start again": "back to search",
        "See further": "next >",
        "Read the text": "description",
        "See the list": "features",
        "Read what": "reviews",
        "Order": "buy now",
        "Return": "< prev",
    }
    for one in asked["action_ground"]:
        told, right = one.row["instruction"], []
        wanted = next((link for start, link in links.items() if told.startswith(start)), None)
        if match := re.fullmatch(r"Choose (\S+) as the (\S+)\.", told):
            assert match[1] in product(one.page)["options"][match[2]]
            wanted = match[1]
        if match := re.fullmatch(r"Open the (.+)\.", told):
            about = match[1].removeprefix("product that costs ")
            fits = [about in (named(item), dollars(item)) for item in listed(one.page)]
            assert sum(fits) == 1
            wanted = f"item {fits.index(True) + 1}"
        right = [i for i, box in enumerate(one.row["options"]) if element_at(one.page, box).text == wanted]
        assert right == [one.truth]


def test_predictions_are_of_the_page_that_the_click_leads_to(asked):
    # Of the same visits with every letter, so that every kind of link is asked about.
    others = [
        action_prediction(visits.visit(3, one.page.visit), letter, np.random.default_rng([one.page.visit, letter]))
        for one in asked["action_prediction"]
        for letter in range(8)
    ]
    links = set()
    for one in [*asked["action_prediction"], *filter(None, others)]:
        link, page = element_at(one.page, one.row["bbox"]).text, one.page
        links.add(link)
        assert len(set(one.row["options"])) == 8
        assert [option[:3] for option in one.row["options"]] == [f"{letter}. " for letter in "ABCDEFGH"]
        told = one.row["options"][one.truth][3:]
        shelf = int(page.state.shelf)
        if link.startswith("item "):
            item = listed(page)[int(link.removeprefix("item ")) - 1]
            assert told == f"{named(item)}, price: {dollars(item)}"
        elif link in ("next >", "< prev"):
            shelf += {"next >": 1, "< prev": -1}[link] if page.name == "results" else 0
            assert told.startswith("results for ") and told.endswith(
                f", page {shelf + 1} ({10 * shelf + 1}-{10 * shelf + 10})"
            )
        elif link in ("description", "features", "reviews"):
            assert told == f"the {link} of a product"
        elif link == "back to search":
            assert told == "the search page of the web shop"
        elif link == "buy now":
            assert told == "thank you for shopping with us"
        else:
            assert told.startswith(f"{named(product(page))}, price: {dollars(product(page))}, ") and link in told
    fixed = {"next >", "< prev", "description", "features", "reviews", "back to search", "buy now"}
    assert fixed < links and {"item 1", "item 10"} < links


# ---------------------------------------------------------------- pictures


def test_marks_are_seen_and_cover_no_text(rows, asked):
    for task in ("element_ground", "action_ground"):
        drawn = [row for row in rows if row.task == task]
        for one, row in zip(asked[task], drawn, strict=True):
            image, plain = row.request.messages[0].parts[0], visits.draw(one.page)
            changed = (image != plain).any(axis=2)
            assert len(one.boxes) == len(one.tags) == 8
            texts = [element.ink for element in one.page.elements if element.text]
            for box, (left, top, right, bottom) in zip(one.boxes, one.tags, strict=True):
                tag = image[top:bottom, left:right]
                assert 0.3 < (tag == marks.RED).all(axis=2).mean() < 0.95  # the rest is the letter
                assert not any(marks.overlap((left, top, right, bottom), text) for text in texts)
                assert (image[box[1], box[0] : box[2] - 20] == marks.RED).all()
            for left, top, right, bottom in texts:
                inner = changed[top + 2 : bottom - 2, left + 2 : right - 2]
                assert inner.mean() < 0.02
    letters = [image.tobytes() for image in marks._letters()]
    assert len(set(letters)) == 8


def test_red_rectangles_are_around_what_is_asked(rows):
    for row in rows:
        if row.task in ("element_ocr", "action_prediction"):
            image = row.request.messages[0].parts[0]
            left, top, right, bottom = (round(672 * share) for share in row.data["bbox"])
            red = (image == marks.RED).all(axis=2)
            ys, xs = np.nonzero(red)
            np.testing.assert_allclose(
                [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1], [left, top, right, bottom]
            )


# ---------------------------------------------------------------- the benchmark


def reply(text):
    return Reply(text, "stop", 1, 1)


def said(row):
    """What someone writes who knows, in the form that is asked for."""
    if row.task == "web_caption":
        return f'<meta name="description" content="{row.truth}">'
    if row.task == "element_ocr":
        return f"The text content within the red bounding box is: {row.truth}"
    if row.task == "webqa":
        return row.truth[0]
    return "ABCDEFGH"[row.truth] if row.task in visualwebbench.CHOICE else row.truth


def test_questions_are_screenshots_with_their_prompts(benchmark, rows):
    assert len(rows) == len(benchmark) == 7 * EACH
    assert Counter(row.task for row in rows) == dict.fromkeys(TASKS, EACH)
    assert len({row.id for row in rows}) == len(rows)
    for row in rows:
        image, text = row.request.messages[0].parts
        assert image.shape == (672, 672, 3) and row.request.max_tokens == 512
        for column in ("question", "elem_desc", "instruction"):
            assert str(row.data.get(column, "")) in text
        if row.task == "action_prediction":
            assert repr(row.data["options"]) in text and repr(row.data["bbox"]) in text


def test_whoever_knows_scores_100_and_a_constant_letter_is_at_chance(benchmark, rows):
    figures = benchmark.summary([benchmark.judge(row, reply(said(row))) for row in rows])
    assert {"overall", "webqa_f1", "element_ocr_rouge_l", "action_ground_accuracy"} <= set(figures)
    assert all(value == pytest.approx(100, abs=0.01) for name, value in figures.items() if "rouge_2" not in name)
    for letter in "AH":
        samples = [benchmark.judge(row, reply(letter)) for row in rows]
        figures = benchmark.summary(samples)
        assert all(figures[f"{task}_accuracy"] == 12.5 for task in visualwebbench.CHOICE)
        assert all(s.extracted == letter for s in samples if s.task in visualwebbench.CHOICE)
    assert benchmark.summary([]) == {}


def test_no_constant_text_comes_far(benchmark, asked):
    limits = {"web_caption": 45, "heading_ocr": 30, "webqa": 35, "element_ocr": 40}
    for task, limit in limits.items():
        truths = [one.truth for one in asked[task]]
        guesses = {guess for truth in truths for guess in ([truth] if isinstance(truth, str) else truth)}
        metric = "f1" if task == "webqa" else "rouge_l"
        best = max(visualwebbench.score(task, [guess] * EACH, truths)[metric] for guess in guesses)
        assert best <= limit


def test_no_page_is_drawn_for_questions_that_are_saved(rows, monkeypatch):
    draw, drawn = visits.draw, []
    monkeypatch.setattr(visits, "draw", lambda page: drawn.append(page) or draw(page))
    again, kept = Pages(2, seed=3, tasks=["webqa"]), {row.id: row for row in rows}
    saved, left = again.questions(["3/webqa/0"])
    assert digest(saved) == digest(kept[saved.id]) and digest(left) == digest(kept[left.id])
    assert [len(images_of(one.request.messages)) for one in (saved, left)] == [0, 1] and len(drawn) == 1


def test_the_same_numbers_give_the_same_questions(rows):
    again = Pages(2, seed=3, tasks=["action_ground", "webqa"])
    kept = {row.id: row for row in rows}
    for row in again.questions():
        other = kept[row.id]
        assert (row.truth, row.data) == (other.truth, other.data)
        np.testing.assert_array_equal(row.request.messages[0].parts[0], other.request.messages[0].parts[0])
    assert [one.row for one in Pages(2, seed=4).planned("webqa")] != [
        one.row for one in Pages(2, seed=3).planned("webqa")
    ]


def test_no_training_world_has_such_a_page(asked):
    """The task on every page is of the test split, which depends on its words alone, and the goods are others."""
    shop = visits.shop()
    for ones in asked.values():
        for one in ones:
            assert shop.goods.part[int(one.page.state.goal)]
            panel = " ".join(one.page.at(place).text for place in (2, 3, 4) if one.page.at(place))
            assert "find me: " in panel
    train = WebShop(products=shop.products, seed=shop.seed, split="train")
    assert not train.goods.part[train._goals[0]].any()
    assert WebShop.seed != shop.seed
    usual = WebShop(products=200).goods
    same = sum(usual.product(i)["title"] == shop.goods.product(i)["title"] for i in range(200))
    assert same < 5


def test_judging_never_raises(benchmark, rows):
    for row in rows[::EACH]:
        for text in ("", " ", ".", "A)", "é" * 50, '<meta name="description" content="">'):
            worth = next(iter(benchmark.judge(row, reply(text)).scores.values()))
            assert 0 <= worth <= 100 or (row.task == "webqa" and text == ".")
    row = Question("x", "webqa", Request(rows[0].request.messages), ["1"])
    assert "cut off" in benchmark.judge(row, Reply("1", "length", 1, 512)).notes


def test_what_the_official_mean_leaves_out_is_left_out_of_the_interval_too(benchmark, rows, tmp_path):
    """A mean of 0 for it would differ from the official one, and the figure would lose its interval."""
    asked = [row for row in rows if row.task == "webqa"]
    samples = [benchmark.judge(row, reply(said(row) if i else ".")) for i, row in enumerate(asked)]
    assert np.isnan(samples[0].scores["f1"]) and "left out of the official mean" in samples[0].notes
    with SampleLog(tmp_path) as log:
        for sample in samples:
            log.add(sample)
        found = summarise("pages", log.records, benchmark.summary(samples), model={}, configuration={})
    assert found["scores"]["overall"]["estimate"] == pytest.approx(100)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"questions_per_task": 0}, "questions_per_task is 0; accepted: an int from 1"),
        ({"seed": -1}, "seed is -1; accepted"),
        ({"tasks": ["ocr"]}, "tasks is ocr; accepted: web_caption"),
        ({"tasks": []}, "tasks is empty; accepted"),
    ],
)
def test_bad_options_are_named(options, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        Pages(**options)


def test_pages_are_where_their_tables_say():
    """The places that questions are read from, by the layout itself."""
    kinds = [[place.kind for place in places] for places in layout.PLACES]
    assert kinds[layout.RESULTS][10:17] == [layout.CARD, layout.IMAGE, layout.LINK, *[layout.TEXT] * 4]
    assert kinds[layout.ITEM][8] == layout.IMAGE and kinds[layout.ITEM][16] == layout.BUY
