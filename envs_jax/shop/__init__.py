"""A web shop after WebShop (github.com/princeton-nlp/WebShop), its goods made up.

* Goods: `words`, `catalogue`. Pages as data: `layout`, `phrases`, `page`; drawn by `picture`, `icons`. Rules:
  `web_shop`, `score`. A scripted buyer: `expert`.
* `shop/small` is the same shop with 60 products of ten kinds, one attribute asked for, at most one option group.
"""

from functools import partial

from envs_jax.shop.web_shop import WebShop
from envs_jax.world import register

register("shop/web_shop", WebShop)
register("shop/small", partial(WebShop, products=60, kinds=10, attributes=1, groups=1, max_steps=10))

__all__ = ["WebShop"]
