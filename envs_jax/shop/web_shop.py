"""WebShop: search a shop, look at goods, choose options, buy what was asked for.

The task of WebShop (Yao et al., arXiv 2207.01206), rules after web_agent_site/envs/web_agent_text_env.py:

* pages: search -> results (10 a page of the best 50) -> item -> description, features, reviews -> done. A search
  is taken on any page, not only where a search box is drawn. "back to search" forgets search and options, a new
  search and "< prev" on an item forget the options, "< prev" on a sub-page leads back to the item.
* "buy now" ends the episode and is worth `score.score`, 0 to 1; all else is worth 0. A click on what is not on the
  page does nothing. The picture of an item takes the colour that is chosen.
* goals: `catalogue`; their price: the greater of two different draws from the next four multiples of 10 dollars
  above the product's.

Where it differs: the goods are made up (`words`, `catalogue`); a product is clicked as "item 1" ... "item 10", its
place on the page, not by its ASIN, because what may be said has to be a fixed list, and a code without meaning
would add nothing but letters to copy; the buttons that one version of upstream's pages names "< Back to Results"
are "< prev" everywhere; there is no "attributes" sub-page (upstream's default, too); once something is bought
nothing changes, upstream lets one go on; upstream has no limit on steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, PRNGKeyArray, UInt8

from envs_jax import heldout
from envs_jax.shop import catalogue, layout, page, picture, words
from envs_jax.shop import expert as script
from envs_jax.shop.catalogue import QUERY, RETURNED, SHOWN, Catalogue
from envs_jax.shop.phrases import (
    BACK,
    BUY_NOW,
    FIRST_ITEM,
    FIRST_VALUE,
    NEXT,
    PREV,
    TO_DESCRIPTION,
    TO_REVIEWS,
    Book,
)
from envs_jax.shop.score import score
from envs_jax.shop.state import State
from envs_jax.world import Slot, Step, invalid_action, is_action

_DESCRIBED = {"page": 144, "goal": 16}  # phrases of `describe` at most


@dataclass(frozen=True)
class WebShop:
    """The worlds `shop/web_shop` and `shop/small`.

    What an instance is, for `split`: a kind of goods with the attributes asked for, "washable cotton tank shirt".

    Args:
      name: registered name.
      products: in the shop, 10..20000.
      kinds: of goods, 2..58; fewer words to know.
      attributes: that a goal names at most, 1..3.
      groups: of options that a product has at most, 0..3.
      seed: of the goods, 0 or more; the shop is the same in all episodes.
      max_steps: of an episode. The longest way of the expert is a search, four further pages, an item, three
        options and the purchase: 10.
      split: goals of which part; "all" draws them as upstream does.
      text: what `describe` gives, all of the page or the task only.
      scale: the picture is 336 * scale pixels high and wide, 1..4.

    Raises:
      ValueError: an option is out of range, or no goal is left.
    """

    name: str = "shop/web_shop"
    products: int = 4000
    kinds: int = len(words.KINDS)
    attributes: int = catalogue.MOST_ASKED
    groups: int = catalogue.MOST_GROUPS
    seed: int = 0
    max_steps: int = 15
    split: heldout.Split = "all"
    text: Literal["page", "goal"] = "page"
    scale: int = 1

    actions = ("search[{word}]", "click[{link}]")
    instruction = (
        "Buy what the page asks for at the top: find a product that fits, click every option asked for, then buy"
        " now. Search with up to six words, or click what the page shows, such as item 1, next > or an option."
    )

    def __post_init__(self):
        for field, low, high in (
            ("products", 10, 20000),
            ("kinds", 2, len(words.KINDS)),
            ("attributes", 1, catalogue.MOST_ASKED),
            ("groups", 0, catalogue.MOST_GROUPS),
            ("seed", 0, 2**31 - 1),
            ("max_steps", 1, 10_000),
            ("scale", 1, 4),
        ):
            value = getattr(self, field)
            if type(value) is not int or not low <= value <= high:
                raise ValueError(f"{field} is {value!r}; accepted: an int from {low} to {high}")
        heldout.check_split(self.split)
        if self.text not in _DESCRIBED:
            raise ValueError(f"text is {self.text!r}; accepted: {', '.join(_DESCRIBED)}")
        if not len(self._goals[0]):
            raise ValueError(
                f"split is {self.split!r}, of which {self.products} products have no goal; accepted: more"
            )

    @cached_property
    def goods(self) -> Catalogue:
        """The catalogue."""
        return catalogue.build(self.products, self.kinds, self.attributes, self.groups, self.seed)

    @cached_property
    def book(self) -> Book:
        """All texts of the pages."""
        return Book(self.goods)

    @cached_property
    def _goals(self) -> tuple[np.ndarray, np.ndarray]:
        """The products that goals are of, int32[G], and the cumulated chances, float32[G], up to 1."""
        part = {"all": True, "train": ~self.goods.part, "test": self.goods.part}[self.split]
        chance = self.goods.weight * part
        numbers = np.flatnonzero(chance).astype(np.int32)
        total = np.cumsum(chance[numbers])
        return numbers, (total / total[-1:]).astype(np.float32)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(336, 336, 3) at scale 1."""
        return (layout.SIDE * self.scale, layout.SIDE * self.scale, 3)

    @cached_property
    def slots(self) -> Mapping[str, Slot]:
        """Words of a search, the text of a click."""
        return {"word": Slot(self.goods.vocabulary, most=QUERY), "link": Slot(self.book.links)}

    @property
    def phrases(self) -> tuple[str, ...]:
        """All texts of the pages; the first are the words of a search."""
        return self.book.phrases

    def reset(self, key: PRNGKeyArray) -> State:
        """A goal drawn with `key`, before the search page."""
        key, goal_key, option_key, limit_key = jax.random.split(key, 4)
        goods, (numbers, total) = self.goods, self._goals
        drawn = jnp.searchsorted(jnp.asarray(total), jax.random.uniform(goal_key), side="right")
        goal = jnp.asarray(numbers)[jnp.minimum(drawn, len(numbers) - 1)]
        values = jnp.asarray(goods.values)[goal].astype(jnp.int32)
        count = (values >= 0).sum(axis=1)
        pick = jax.random.randint(option_key, (catalogue.MOST_GROUPS,), 0, jnp.maximum(count, 1))
        wanted = jnp.take_along_axis(values, pick[:, None], axis=1)[:, 0]
        # The greater of two of four: the second in one case of six, the third in two, the fourth in three.
        further = jnp.array([2, 3, 3, 4, 4, 4])[jax.random.randint(limit_key, (), 0, 6)]
        limit = (jnp.asarray(goods.price)[goal].astype(jnp.int32) // 20 + further) * 10
        return State(
            key=key,
            steps=jnp.int32(0),
            goal=goal,
            wanted=wanted,
            limit=limit.astype(jnp.int32),
            page=jnp.int32(layout.SEARCH),
            query=jnp.full(QUERY, -1, jnp.int32),
            results=jnp.full(RETURNED, -1, jnp.int32),
            shelf=jnp.int32(0),
            item=jnp.int32(-1),
            chosen=jnp.full(catalogue.MOST_GROUPS, -1, jnp.int32),
            score=jnp.float32(0),
        )

    def step(self, state: State, action: Int[Array, " 7"]) -> tuple[State, Step]:
        """A search or a click. After the purchase nothing changes any more but the count of steps.

        Args:
          state: of the episode.
          action: int32[7], template, then words or a link.
        """
        action = jnp.where(is_action(self, action), action, invalid_action(self))
        link = jnp.maximum(action[1], 0)
        click = (action[0] == 1) & self.commands(state)[jnp.minimum(link, len(self.book.links) - 1)]
        going = state.page != layout.DONE
        search = (action[0] == 0) & going

        def clicked(number):
            return click & (link == number)

        back, prev, buy = clicked(BACK), clicked(PREV), clicked(BUY_NOW)
        on_results, on_item = state.page == layout.RESULTS, state.page == layout.ITEM
        sub = click & (link >= TO_DESCRIPTION) & (link <= TO_REVIEWS)
        opened = click & (link >= FIRST_ITEM) & (link < FIRST_VALUE)
        leaves = search | back | (prev & on_item)  # the item, if at one
        shelf = state.shelf + clicked(NEXT) - (prev & on_results)
        to = state.page
        for when, page_ in (
            (search | (prev & on_item), layout.RESULTS),
            (back, layout.SEARCH),
            (opened | (prev & ~on_results & ~on_item), layout.ITEM),
            (sub, layout.DESCRIPTION + link - TO_DESCRIPTION),
            (buy, layout.DONE),
        ):
            to = jnp.where(when, page_, to)

        query = jnp.where(search, action[1:], jnp.where(back, -1, state.query))
        results = jnp.where(search, self._search(action[1:]), jnp.where(back, -1, state.results))
        number = jnp.clip(state.shelf * SHOWN + link - FIRST_ITEM, 0, RETURNED - 1)
        item = jnp.where(opened, state.results[number], jnp.where(leaves, -1, state.item))
        none = len(self.book.values)  # a shop may have no values at all: the last of `values` is for no value
        values = jnp.append(jnp.asarray(self.book.values, jnp.int32), -2)
        value = values[jnp.where(click & (link >= FIRST_VALUE), jnp.minimum(link - FIRST_VALUE, none), none)]
        here = (page.item_row(self.goods, state, self.goods.values) == value).any(axis=1)  # bool[3], which group
        chosen = jnp.where(leaves | opened, -1, jnp.where(here, value, state.chosen))
        reward = jnp.where(buy, score(self.goods, state, jnp.maximum(state.item, 0), state.chosen), 0.0)

        steps = state.steps + 1
        after = state.replace(
            steps=steps,
            page=to.astype(jnp.int32),
            query=query.astype(jnp.int32),
            results=results.astype(jnp.int32),
            shelf=jnp.where(search | back, 0, shelf).astype(jnp.int32),
            item=item.astype(jnp.int32),
            chosen=chosen.astype(jnp.int32),
            score=jnp.where(buy, reward, state.score).astype(jnp.float32),
        )
        ended = buy | ~going
        return after, Step(
            reward=reward.astype(jnp.float32),
            terminated=ended,
            truncated=(steps >= self.max_steps) & ~ended,
            success=buy & (reward >= 1),
        )

    def _search(self, query: Int[Array, " 6"]) -> Int[Array, " 50"]:
        """The products with the greatest scores above 0, those of equal score in the order of the catalogue."""
        rows = jnp.asarray(self.goods.index)[jnp.clip(query, 0, len(self.goods.vocabulary) - 1)]  # [6, P]
        total = jnp.where((query >= 0)[:, None], rows.astype(jnp.int32), 0).sum(axis=0)
        best, numbers = jax.lax.top_k(total, min(RETURNED, self.products))
        found = jnp.where(best > 0, numbers, -1)
        return jnp.pad(found, (0, RETURNED - len(found)), constant_values=-1)

    def elements(self, state: State) -> page.Elements:
        """The page as data: kinds, boxes (pixels of the picture), texts, links."""
        return page.elements(self.goods, self.book, state, self.scale)

    def render(self, state: State) -> UInt8[Array, "h w 3"]:
        """The page."""
        return picture.draw(self.goods, self.phrases, state.page, self.elements(state), self.scale)

    def describe(self, state: State) -> Int[Array, " n"]:
        """What is written on the page from top to bottom, or the task only, as `text` says."""
        if self.text == "goal":
            lines = page.goal_lines(self.goods, self.book, state)
            said = jnp.concatenate([page.line(self.book, *parts) for parts in lines])
        else:
            said = self.elements(state).text.reshape(-1)
        most = _DESCRIBED[self.text]
        order = jnp.argsort(said < 0, stable=True)
        return jnp.pad(said[order], (0, most), constant_values=-1)[:most].astype(jnp.int32)

    def admissible(self, state: State) -> Bool[Array, " a"]:
        """A search always, a click where the page has something to click, nothing after the purchase."""
        return jnp.stack([state.page != layout.DONE, self.commands(state).any()])

    def commands(self, state: State) -> Bool[Array, " l"]:
        """Which texts of the slot "link" the page has."""
        groups = page.item_row(self.goods, state, self.goods.groups)
        return page.links(state, self.book, groups, page.item_row(self.goods, state, self.goods.values))

    def sample(self, state: State, key: PRNGKeyArray) -> Int[Array, " 7"]:
        """Any link of the page with equal chance; on the search page, which has none, one to six random words."""
        word_key, count_key, link_key = jax.random.split(key, 3)
        some = jax.random.randint(word_key, (QUERY,), 0, len(self.goods.vocabulary), jnp.int32)
        some = jnp.where(jnp.arange(QUERY) < jax.random.randint(count_key, (), 1, QUERY + 1), some, -1)
        commands = self.commands(state)
        link = jax.random.categorical(link_key, jnp.where(commands, 0.0, -jnp.inf))
        return jnp.where(commands.any(), script.click(link), script.search(some))

    def expert(self, state: State, key: PRNGKeyArray) -> Int[Array, " 7"]:
        """Searches with the words of the task, opens the first product that fits, chooses, buys."""
        return script.action(self.goods, self.book, state)

    def explain(self, state: State) -> Int[Array, " n"]:
        """What it looks for, where it is, what it still has to choose."""
        return script.thoughts(self.goods, self.book, state)
