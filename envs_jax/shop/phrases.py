"""The texts of the shop's pages by number: every word of the vocabulary, then everything else a page says."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from envs_jax.shop import words
from envs_jax.shop.catalogue import RETURNED, SHOWN, Catalogue

MOST_PRICE = 300  # half dollars
MOST_LIMIT = 20  # tens of dollars
LINKS = ("back to search", "< prev", "next >", "description", "features", "reviews", "buy now")
BACK, PREV, NEXT, TO_DESCRIPTION, TO_FEATURES, TO_REVIEWS, BUY_NOW = range(len(LINKS))
FIRST_ITEM = len(LINKS)  # the link "item 1"
FIRST_VALUE = FIRST_ITEM + SHOWN  # the link of the first option value

_FIXED = (
    *("web shop", "find me:", "with", "price lower than", "query:", "for", "price:", "rating:", "of"),
    *("search the shop", "search[words]", "search", "this", "is", "and", "made for", "thank you"),
    *("for shopping", "with us", "your score", "(0 to 1):", "buyers say"),
    # What the expert thinks.
    *("look for", "fits", "none here fits", "next page", "back a page", "nothing fits", "start again"),
    *("wrong item", "go back", "choose", "all is chosen", "done"),
)


@dataclass(frozen=True, eq=False)
class Book:
    """All phrases of a shop, and where those begin that are counted through.

    Attributes:
      catalogue: whose vocabulary comes first: a word's id is its phrase id.
    """

    catalogue: Catalogue

    @cached_property
    def phrases(self) -> tuple[str, ...]:
        """Every phrase once."""
        return tuple(self._ids)

    @cached_property
    def _ids(self) -> dict[str, int]:
        runs = (
            self.catalogue.vocabulary,
            [f"${half / 2:.2f}" for half in range(MOST_PRICE + 1)],
            [f"{ten * 10}.00 dollars" for ten in range(MOST_LIMIT + 1)],
            [f"{hundredth / 100:.2f}" for hundredth in range(101)],
            [f"{count} results" for count in range(RETURNED + 1)],
            [f"page {p + 1} ({p * SHOWN + 1}-{p * SHOWN + SHOWN})" for p in range(RETURNED // SHOWN)],
            [f"item {number + 1}" for number in range(SHOWN)],
            [f"{stars} of 5 stars" for stars in range(1, 6)],
            [text for pair in words.REVIEWS for text in pair],
            [f"{group}:" for group in self.catalogue.group_names],
            LINKS,
            _FIXED,
        )
        ids: dict[str, int] = {}
        for phrase in (phrase for run in runs for phrase in run):
            ids.setdefault(phrase, len(ids))
        return ids

    def id(self, phrase: str) -> int:
        """A phrase's number; those of a run, such as "item 1", "item 2", follow one another."""
        return self._ids[phrase]

    @cached_property
    def values(self) -> tuple[int, ...]:
        """Words that are an option's value, in the order of their links."""
        known = {value for values in words.OPTIONS.values() for value in values}
        return tuple(i for i, word in enumerate(self.catalogue.vocabulary) if word in known)

    @cached_property
    def links(self) -> tuple[str, ...]:
        """All texts that may be clicked."""
        items = tuple(f"item {number + 1}" for number in range(SHOWN))
        return (*LINKS, *items, *(self.catalogue.vocabulary[word] for word in self.values))
