"""A visit to the shop, all that changes in it."""

from __future__ import annotations

from flax import struct
from jaxtyping import Array, Float, Int, PRNGKeyArray


@struct.dataclass
class State:
    """One episode. Words are ids of the catalogue's vocabulary, -1 = none.

    Attributes:
      key: what an episode would draw from; the steps of this world draw nothing.
      steps: int32[], taken so far.
      goal: int32[], the product that the task was made of.
      wanted: int32[3], the value asked for in each option group of the goal's product.
      limit: int32[], dollars, the price asked for.
      page: int32[], of `layout.PAGES`.
      query: int32[6], words of the last search, those that are none last.
      results: int32[50], the products it found, best first; -1 after the last.
      shelf: int32[], number of the page of results, from 0.
      item: int32[], the product looked at, -1 = none.
      chosen: int32[3], the value chosen in each of its option groups.
      score: float32[], what the purchase was worth; 0 before.
    """

    key: PRNGKeyArray
    steps: Int[Array, ""]
    goal: Int[Array, ""]
    wanted: Int[Array, " 3"]
    limit: Int[Array, ""]
    page: Int[Array, ""]
    query: Int[Array, " 6"]
    results: Int[Array, " 50"]
    shelf: Int[Array, ""]
    item: Int[Array, ""]
    chosen: Int[Array, " 3"]
    score: Float[Array, ""]
