"""A shop in plain Python, written after WebShop's own files, for ours to be compared with.

Goods are dictionaries of texts (`Catalogue.product`). The search is textbook BM25 over counted words and a sort,
the reward is a walk over lists, a visit goes by texts as in upstream's SimServer. Nothing of our JAX code is used.
"""

from __future__ import annotations

import math
from collections import Counter

K1, B = 0.9, 0.4
SHADES = {"navy": "blue", "teal": "green", "crimson": "red", "olive": "green"}


class Engine:
    """BM25 over the products' documents."""

    def __init__(self, goods: list[dict]):
        self.documents = [Counter(self.contents(item)) for item in goods]
        self.lengths = [sum(document.values()) for document in self.documents]
        self.mean = sum(self.lengths) / len(self.lengths)
        self.frequency = Counter(word for document in self.documents for word in document)

    @staticmethod
    def contents(item: dict) -> list[str]:
        """Title, description, first feature, options, as upstream's convert_product_file_format.py joins them."""
        options = [word for name, values in item["options"].items() for word in (name, *values)]
        return [*item["title"], *item["description"], item["features"][0], *options]

    def weight(self, word: str, product: int) -> float:
        """A word's share of a document's score."""
        count = self.documents[product][word]
        if not count:
            return 0.0
        total, having = len(self.documents), self.frequency[word]
        rarity = math.log(1 + (total - having + 0.5) / (having + 0.5))
        return rarity * count / (count + K1 * (1 - B + B * self.lengths[product] / self.mean))

    def search(self, query: list[str], steps: int = 2048) -> list[int]:
        """The 50 best, equals in the order of the catalogue; weights rounded to 1 / steps, as ours are stored."""
        scores = {}
        for product in range(len(self.documents)):
            score = sum(round(steps * self.weight(word, product)) for word in query)
            if score > 0:
                scores[product] = score
        return sorted(scores, key=lambda product: (-scores[product], product))[:50]


def reward(item: dict, chosen: dict[str, str], goal: dict) -> float:
    """get_reward of web_agent_site/engine/goal.py, with equality in place of fuzzy matching."""
    own, theirs = set(item["nouns"]), goal["item"]["nouns"]
    title_score = len(own & set(theirs)) / len(theirs)
    query_match = item["query"] == goal["item"]["query"]
    category_match = len(set(item["category"]) & set(goal["item"]["category"])) >= 2
    r_type = 1.0
    if not (query_match or category_match or title_score > 0.2):
        r_type = 0.5
    if title_score < 0.1:
        r_type = 0.1
    if title_score == 0.0:
        r_type = 0.0

    text = [*item["title"], *item["features"], *item["description"]]
    attributes = sum(word in item["attributes"] or word in text for word in goal["attributes"])

    wanted = [SHADES.get(value, value) for value in goal["options"].values()]
    options = 0
    for value in chosen.values():
        plain = SHADES.get(value, value)
        options += plain in wanted or plain in text
    price = item["price"] <= goal["limit"]
    return r_type * (attributes + options + price) / (len(goal["attributes"]) + len(goal["options"]) + 1)


class Session:
    """One visit, by spoken actions."""

    def __init__(self, goods: list[dict], engine: Engine, goal: dict):
        self.goods, self.engine, self.goal = goods, engine, goal
        self.done, self.score = False, 0.0
        self._start()

    def _start(self):
        self.page, self.query, self.results, self.shelf = "search", [], [], 1
        self.item, self.options = None, {}

    def clickables(self) -> set[str]:
        """What the page's buttons, links and radios say."""
        if self.page in ("search", "done"):
            return set()
        if self.page == "results":
            found = {"back to search", *(f"item {i + 1}" for i in range(len(self.shown())))}
            if self.shelf > 1:
                found.add("< prev")
            if self.shelf * 10 < len(self.results):
                found.add("next >")
            return found
        found = {"back to search", "< prev"}
        if self.page == "item":
            found |= {"description", "features", "reviews", "buy now"}
            found |= {value for values in self.goods[self.item]["options"].values() for value in values}
        return found

    def shown(self) -> list[int]:
        """The products of this page of results."""
        return self.results[(self.shelf - 1) * 10 : self.shelf * 10]

    def act(self, text: str | None) -> tuple[float, bool]:
        """One action as it is spoken, None = none. Returns (reward, whether the visit is over)."""
        if self.done or text is None:
            return 0.0, self.done
        verb, argument = text.removesuffix("]").split("[", 1)
        if verb == "search":
            self._start()
            self.page, self.query = "results", argument.split(" ")
            self.results = self.engine.search(self.query)
        elif argument in self.clickables():
            return self._click(argument), self.done
        return 0.0, self.done

    def _click(self, name: str) -> float:
        if name == "buy now":
            self.done, self.page = True, "done"
            self.score = reward(self.goods[self.item], self.options, self.goal)
            return self.score
        if name == "back to search":
            self._start()
        elif name == "next >":
            self.shelf += 1
        elif name == "< prev" and self.page == "results":
            self.shelf -= 1
        elif name == "< prev" and self.page == "item":
            self.page, self.item, self.options = "results", None, {}
        elif name == "< prev":
            self.page = "item"
        elif name in ("description", "features", "reviews"):
            self.page = name
        elif self.page == "results":
            self.item, self.page = self.shown()[int(name.split()[1]) - 1], "item"
        else:
            for group, values in self.goods[self.item]["options"].items():
                if name in values:
                    self.options[group] = name
        return 0.0
