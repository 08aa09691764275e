"""The goods of a shop, their goals and their search engine, as arrays.

* Built once on the host with NumPy, from a seed that is an option, not from an episode's key: the index over all
  documents (document frequencies, lengths) needs the whole catalogue, an episode only a row of it. Small integers,
  so that 4,000 products and their index take under 3 MB of a program's constants.
* A product is what one of WebShop's scraped products is, with words in place of prose: a category path, a query, a
  title, features ("bullet points"), a description, attributes, option groups, a price, a rating.
* A goal is a product with some of its attributes, one value of each of its option groups and an upper price, as in
  upstream's synthetic goals (web_agent_site/engine/goal.py, get_synthetic_goals), drawn with the same weights.
* The search engine is BM25 as Lucene has it, with pyserini's k1 and b, over the same fields that upstream indexes:
  title, description, the first feature, option groups and values. A word's weight in a document is stored as
  `round(SCALE * weight)`, so that a score is a sum of integers and a ranking the same on every device.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from envs_jax.heldout import words_are_test
from envs_jax.shop import icons, words

K1, B = 0.9, 0.4  # pyserini's LuceneSearcher
SCALE = 2048  # of a word's weight; the greatest possible, ln(1 + 20000 / 1.5) = 9.5, still is an int16
RETURNED, SHOWN = 50, 10  # results of a search, of a page of them

MOST_ATTRIBUTES = 6  # of a product
MOST_ASKED = 3  # attributes of a goal
MOST_GROUPS, MOST_VALUES = 3, 6
MOST_USES = 3
MOST_NOUNS = 2 + MOST_USES  # of a title
QUERY = 6  # words of a search at most


@dataclass(frozen=True, eq=False)
class Catalogue:
    """P products over a vocabulary of V words.

    Word ids are indices of `vocabulary`, -1 where there is none.

    Attributes:
      vocabulary: all words of documents and all attributes, sorted; what may be searched for.
      category: int8[P, 3], number of department, section and kind; each number is one name.
      query: int16[P], a word: what the product is.
      nouns: int16[P, 5], of the title: the kind's two, then what the product is for.
      attributes: int16[P, 6]; the first of them stand in the title, too, and the last is the first feature.
      titled: int8[P], how many attributes stand in the title.
      described: int16[P, 2], attributes in the description; the second need not be among the product's own.
      groups: int8[P, 3], option groups, indices of `group_names`.
      values: int16[P, 3, 6], words.
      price: int16[P], half dollars.
      rating: int8[P], 1..5 stars.
      icon: int8[P], of `icons.SHAPES`.
      tint: int16[P], the word of the colour that the product is shown in until one is chosen.
      asked: int16[P, 3], the attributes that a goal of this product names.
      weight: float64[P], the chance that a goal is of this product, all parts of the split; sums to 1.
      part: bool[P], whether goals of this product are "test".
      index: int16[V, P], SCALE times a word's BM25 weight in each product's document.
      base: int16[V], the word a word counts as when options are compared: a shade's colour, else itself.
      rgb: uint8[V, 3], what a colour's word looks like; gray for all others.
      group_names: of option groups.
    """

    vocabulary: tuple[str, ...]
    category: np.ndarray
    query: np.ndarray
    nouns: np.ndarray
    attributes: np.ndarray
    titled: np.ndarray
    described: np.ndarray
    groups: np.ndarray
    values: np.ndarray
    price: np.ndarray
    rating: np.ndarray
    icon: np.ndarray
    tint: np.ndarray
    asked: np.ndarray
    weight: np.ndarray
    part: np.ndarray
    index: np.ndarray
    base: np.ndarray
    rgb: np.ndarray
    group_names: tuple[str, ...] = tuple(words.OPTIONS)

    def product(self, number: int) -> dict:
        """One product in words, for people and for tests."""

        def texts(ids):
            return [self.vocabulary[word] for word in np.ravel(ids) if word >= 0]

        return {
            "category": self.category[number].tolist(),
            "query": self.vocabulary[self.query[number]],
            "nouns": texts(self.nouns[number]),
            "attributes": texts(self.attributes[number]),
            "title": texts(self.attributes[number, : self.titled[number]]) + texts(self.nouns[number]),
            "features": texts(self.attributes[number])[::-1],
            "description": texts(self.nouns[number, :2]) + texts(self.described[number]),
            "options": {
                self.group_names[group]: texts(self.values[number, place])
                for place, group in enumerate(self.groups[number])
                if group >= 0
            },
            "price": float(self.price[number]) / 2,
            "rating": int(self.rating[number]),
            "asked": texts(self.asked[number]),
        }


def goal_words(asked: np.ndarray, nouns: np.ndarray) -> np.ndarray:
    """int[..., 6], what the expert searches for: the goal's attributes and the kind's two nouns.

    Worked example: asked [3, 5, -1], nouns [8, 9, 1, 2, -1] -> [3, 5, 8, 9, -1, -1].
    """
    blank = np.full_like(asked[..., :1], -1)
    words = np.concatenate([asked[..., :MOST_ASKED], nouns[..., :2], blank], axis=-1)
    return np.take_along_axis(words, np.argsort(words < 0, axis=-1, kind="stable"), axis=-1)


@cache
def build(products: int, kinds: int, attributes: int, groups: int, seed: int) -> Catalogue:
    """Makes the goods.

    Args:
      products: P.
      kinds: how many of `words.KINDS` there are, the first ones.
      attributes: 1..3, how many a goal names at most.
      groups: 0..3, how many option groups a product has at most.
      seed: of the goods.

    Returns:
      The catalogue. A product that a search for its own goal does not bring up among the first 50 has weight 0: it
      stands in the shop, and nobody is sent for it.
    """
    rng = np.random.default_rng(seed)
    goods = [_product(rng, words.KINDS[i % kinds], attributes, groups) for i in range(products)]
    goods = [goods[i] for i in rng.permutation(products)]
    documents = [_document(item) for item in goods]
    spoken = {word for document in documents for word in document}
    vocabulary = tuple(sorted(spoken.union(*(item["attributes"] for item in goods))))
    number = {word: i for i, word in enumerate(vocabulary)}

    def table(field: str, most: int) -> np.ndarray:
        rows = np.full((products, most), -1, np.int16)
        for row, item in zip(rows, goods, strict=True):
            row[: len(item[field])] = [number[word] for word in item[field]]
        return rows

    values = np.full((products, MOST_GROUPS, MOST_VALUES), -1, np.int16)
    group_ids = np.full((products, MOST_GROUPS), -1, np.int8)
    names = tuple(words.OPTIONS)
    for p, item in enumerate(goods):
        for place, (group, chosen) in enumerate(item["options"].items()):
            group_ids[p, place] = names.index(group)
            values[p, place, : len(chosen)] = [number[value] for value in chosen]

    index = _index(documents, number)
    nouns, asked = table("nouns", MOST_NOUNS), table("asked", MOST_ASKED)
    departments, sections = (
        sorted({kind.department for kind in words.KINDS}),
        sorted({f"{kind.department} {kind.section}" for kind in words.KINDS}),
    )
    category = [
        (
            departments.index(item["kind"].department),
            len(departments) + sections.index(f"{item['kind'].department} {item['kind'].section}"),
            len(departments) + len(sections) + words.KINDS.index(item["kind"]),
        )
        for item in goods
    ]
    rgb = np.full((len(vocabulary), 3), 128, np.uint8)
    base = np.arange(len(vocabulary), dtype=np.int16)
    for word, i in number.items():
        rgb[i] = words.COLORS.get(word, rgb[i])
        base[i] = number.get(words.SHADES.get(word, word), i)
    return Catalogue(
        vocabulary=vocabulary,
        category=np.array(category, np.int8),
        query=np.array([number[item["kind"].nouns[1]] for item in goods], np.int16),
        nouns=nouns,
        attributes=table("attributes", MOST_ATTRIBUTES),
        titled=np.array([item["titled"] for item in goods], np.int8),
        described=table("described", 2),
        groups=group_ids,
        values=values,
        price=np.array([item["price"] for item in goods], np.int16),
        rating=np.array([item["rating"] for item in goods], np.int8),
        icon=np.array([icons.SHAPES.index(item["kind"].icon) for item in goods], np.int8),
        tint=table("tint", 1)[:, 0],
        asked=asked,
        weight=_weights(goods, _found(index, goal_words(asked, nouns))),
        part=np.array([_is_test(item) for item in goods]),
        index=index,
        base=base,
        rgb=rgb,
    )


def _product(rng: np.random.Generator, kind: words.Kind, asked: int, groups: int) -> dict:
    """One product, in words."""
    section = words.SECTIONS[kind.department, kind.section]

    def some(pool, low, high):
        return [str(word) for word in rng.permutation(pool)[: rng.integers(low, high + 1)]]

    own = some(section.attributes, 3, MOST_ATTRIBUTES)
    uses = some([use for use in words.USES[kind.department] if use not in kind.nouns], 1, MOST_USES)
    # Most products have all the groups of their section, some lack one, as upstream's do.
    kept = [group for group in section.groups if rng.random() < 0.85][:groups]
    options = {group: some(words.OPTIONS[group], 2, MOST_VALUES) for group in kept}
    for group, chosen in options.items():  # in the order of their list: "small", "medium", "large"
        chosen.sort(key=words.OPTIONS[group].index)
    boast = str(rng.choice([word for word in section.attributes if word not in own] or own))
    low, high = kind.price
    return {
        "kind": kind,
        "nouns": [*kind.nouns, *uses],
        "attributes": own,
        "titled": int(rng.integers(1, 3)),
        "described": [str(rng.choice(own)), boast],
        "options": options,
        "price": int(rng.integers(2 * low, 2 * high + 1)),
        "rating": int(rng.integers(1, 6)),
        "tint": options["color"][:1] if "color" in options else [],
        "asked": some(own, 1, asked),
    }


def _document(item: dict) -> list[str]:
    """What the search engine reads: title, description, first feature, groups and their values."""
    return [
        *item["attributes"][: item["titled"]],
        *item["nouns"],
        *item["kind"].nouns,
        *item["described"],
        item["attributes"][-1],
        *(word for group, chosen in item["options"].items() for word in (group, *chosen)),
    ]


def _index(documents: list[list[str]], number: dict[str, int]) -> np.ndarray:
    """int16[V, P], the quantised weights.

    weight(w, d) = ln(1 + (P - df + 0.5) / (df + 0.5)) * tf / (tf + k1 (1 - b + b |d| / mean |d|)), Lucene's BM25.
    Upstream's Lucene rounds |d| to one byte, which these short documents do not need.
    """
    count = np.zeros((len(number), len(documents)), np.int32)
    for p, document in enumerate(documents):
        for word in document:
            count[number[word], p] += 1
    length = count.sum(axis=0)
    frequency = (count > 0).sum(axis=1)[:, None]
    rarity = np.log(1 + (len(documents) - frequency + 0.5) / (frequency + 0.5))
    weight = rarity * count / (count + K1 * (1 - B + B * length / length.mean()))
    return np.round(SCALE * weight).astype(np.int16)


def _found(index: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """bool[P], whether product p is among the first results of query p, int[P, 6]."""
    found = np.zeros(len(queries), bool)
    for p, query in enumerate(queries):
        score = index[query[query >= 0]].sum(axis=0, dtype=np.int32)
        ahead = (score > score[p]).sum() + (score[:p] == score[p]).sum()
        found[p] = ahead < RETURNED
    return found


def _weights(goods: list[dict], found: np.ndarray) -> np.ndarray:
    """float64[P], a goal's chance: upstream gives each combination of options the mean of 1 / (goals that ask for
    an attribute) over its attributes, so that rare attributes are asked for as often as common ones."""
    combinations = [int(np.prod([len(chosen) for chosen in item["options"].values()])) for item in goods]
    asking: dict[str, int] = {}
    for item, goals, ok in zip(goods, combinations, found, strict=True):
        for word in item["asked"] if ok else ():
            asking[word] = asking.get(word, 0) + goals
    weight = np.array(
        [
            goals * np.mean([1 / asking[word] for word in item["asked"]]) if ok else 0.0
            for item, goals, ok in zip(goods, combinations, found, strict=True)
        ]
    )
    return weight / weight.sum()


def _is_test(item: dict) -> bool:
    """Whether goals of this kind with these attributes are held out: one in five, by a hash of the words alone."""
    text = " ".join([*item["kind"].nouns, *sorted(item["asked"])])
    return words_are_test(text)
