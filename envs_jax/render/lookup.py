"""Rows of a small table, one for every pixel, such that many worlds' tables are read as one.

Left to itself, `jax.vmap` turns a read from each world's own table into a read at (world, row), and XLA writes
those pairs to memory first: eight bytes a pixel, a tenth of a simple room's picture. Here the tables are laid end
to end instead.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int


def kept(table: Array) -> Array:
    """The same, computed before any row is read.

    Where a table is read once, XLA computes of it what is read, as often as it is read: on CPU each pixel made its
    own row anew, which took longer than to read it. There no barrier holds, but what a loop carries is kept.
    """
    return jax.lax.platform_dependent(table, cpu=_carried, default=lambda table: table)


def _carried(table: Array) -> Array:
    # Twice: a loop of one turn is none.
    return jax.lax.fori_loop(0, 2, lambda _, __: table, jnp.zeros_like(table))


def _row(table: Array, number: Int[Array, "..."]) -> Array:
    return table.at[number].get(mode="promise_in_bounds", wrap_negative_indices=False)


@jax.custom_batching.custom_vmap
def rows_at(table: Array, number: Int[Array, "..."]) -> Array:
    """table[number]: [F, ...] at numbers [...]; all have to be in 0..F - 1."""
    return _row(table, number)


@rows_at.def_vmap
def _rows_of_many(worlds: int, batched: list[bool], table: Array, number: Int[Array, "..."]) -> tuple[Array, bool]:
    """Worked example, two worlds of three rows: row 1 of the second is row 4 of both."""
    of_each, at_each = batched
    if not of_each:
        return rows_at(table, number), True
    if jax.sharding.get_abstract_mesh().size > 1:
        # Of worlds on several devices each would be sent the tables of all.
        return jax.vmap(_row, in_axes=(0, 0 if at_each else None))(table, number), True
    if not at_each:
        number = jnp.broadcast_to(number, (worlds, *number.shape))
    rows = table.shape[1]
    first = jnp.arange(worlds, dtype=number.dtype) * rows
    number = number + first.reshape(worlds, *(1,) * (number.ndim - 1))
    return rows_at(table.reshape(worlds * rows, *table.shape[2:]), number), True
