"""What a purchase is worth: WebShop's reward (web_agent_site/engine/goal.py, get_reward).

    r_type * (n_attr + n_opt + [price <= limit]) / (|attributes asked| + |options asked| + 1)

* n_attr: attributes asked for that are the product's, or stand in its title, features or description.
* n_opt: chosen values that are one of the asked ones, a shade of a colour counting as the colour.
* r_type: 1; 0.5 if not (same query, or two categories shared, or more than 0.2 of the goal's title nouns shared);
  0.1 if less than 0.1 of the nouns is shared, which titles of at most five nouns rule out; 0 if none is. The last
  two override: a wrong title is worth 0 even where the category is the same.

Where it differs: words are compared as ids; upstream compares texts fuzzily (token_set_ratio > 85) and asks spaCy
for the nouns of a title, which are known here. Upstream also counts a chosen value that nobody asked for if the
product's own text holds it, which the catalogue's words rule out. Options of a goal are values; some versions of
upstream take (name, value) pairs out of synthetic goals, which match nothing.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from envs_jax.shop.catalogue import Catalogue
from envs_jax.shop.state import State


def score(goods: Catalogue, state: State, product: Int[Array, ""], chosen: Int[Array, " 3"]) -> Float[Array, ""]:
    """float32[], 0..1: what buying a product with the chosen values is worth to this episode's goal.

    Args:
      goods: the catalogue.
      state: for the goal.
      product: a product's number, >= 0.
      chosen: words, -1 = none.
    """

    def of(table, row):
        return jnp.asarray(table)[row].astype(jnp.int32)

    shared = _members(of(goods.nouns, state.goal), of(goods.nouns, product)).sum()
    nouns = (of(goods.nouns, state.goal) >= 0).sum()
    categories = (of(goods.category, state.goal) == of(goods.category, product)).sum()
    same = of(goods.query, state.goal) == of(goods.query, product)
    match = same | (categories >= 2) | (shared * 5 > nouns)  # shared / nouns > 0.2
    kind = jnp.where(match, 1.0, 0.5)
    kind = jnp.where(shared * 10 < nouns, 0.1, kind)
    kind = jnp.where(shared == 0, 0.0, kind)

    asked = of(goods.asked, state.goal)
    told = jnp.concatenate([of(goods.attributes, product), of(goods.described, product)])
    met = _members(asked, told).sum()
    options = wanted(goods, chosen, state.wanted).sum()
    price = of(goods.price, product) <= 2 * state.limit
    most = (asked >= 0).sum() + (state.wanted >= 0).sum() + 1
    return (kind * (met + options + price) / most).astype(jnp.float32)


def wanted(goods: Catalogue, values: Int[Array, "..."], asked: Int[Array, " 3"]) -> Bool[Array, "..."]:
    """Which values count as one of those asked for: bool, as `values`."""
    base = jnp.asarray(goods.base).astype(jnp.int32)

    def plain(ids):
        return jnp.where(ids >= 0, base[ids], -1)

    return _members(plain(values), plain(asked))


def _members(ids: Int[Array, "..."], among: Int[Array, " n"]) -> Bool[Array, "..."]:
    """Which of the ids that are words are among others."""
    return (ids >= 0) & (ids[..., None] == among).any(axis=-1)
