"""Rows read from many worlds' tables as one are those of each world's own."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType

from envs_jax.render.lookup import kept, rows_at

TABLES = np.random.default_rng(0).normal(size=(3, 2, 5, 4)).astype(np.float32)  # 3 x 2 worlds, 5 rows of 4
NUMBERS = np.random.default_rng(1).integers(0, 5, (3, 2, 6, 7)).astype(np.int32)


def test_one_world_reads_its_rows():
    np.testing.assert_array_equal(rows_at(TABLES[0, 0], NUMBERS[0, 0]), TABLES[0, 0][NUMBERS[0, 0]])


@pytest.mark.parametrize("axes", ((0, 0), (0, None), (None, 0)))
def test_many_worlds_read_each_its_own(axes):
    table, number = (x[:, 0] if axis == 0 else x[0, 0] for x, axis in zip((TABLES, NUMBERS), axes, strict=True))
    got = jax.jit(jax.vmap(rows_at, in_axes=axes))(table, number)
    for world in range(3):
        mine = [x[world] if axis == 0 else x for x, axis in zip((table, number), axes, strict=True)]
        np.testing.assert_array_equal(got[world], mine[0][mine[1]])


def test_worlds_within_worlds_and_tables_of_plain_numbers():
    got = jax.vmap(jax.vmap(rows_at))(TABLES, NUMBERS)
    plain = jax.vmap(jax.vmap(rows_at))(TABLES[..., 0], NUMBERS)
    for i, j in np.ndindex(3, 2):
        np.testing.assert_array_equal(got[i, j], TABLES[i, j][NUMBERS[i, j]])
        np.testing.assert_array_equal(plain[i, j], TABLES[i, j, :, 0][NUMBERS[i, j]])


def test_tables_are_laid_end_to_end_on_one_device_but_not_across_devices():
    """Across devices every one would be sent the tables of all."""
    both = jnp.asarray(TABLES[:, 0]), jnp.asarray(NUMBERS[:, 0])
    read = lambda table, number: jax.vmap(rows_at)(table, number)  # noqa: E731
    for devices, apart in ((1, False), (4, True)):
        with jax.sharding.use_abstract_mesh(AbstractMesh((devices,), ("data",), axis_types=(AxisType.Auto,))):
            program = str(jax.make_jaxpr(read)(*both))
        assert ("operand_batching_dims=(0,)" in program) == apart
        assert ("reshape" in program) != apart


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="elsewhere the compiler keeps tables by itself")
def test_a_table_that_is_kept_is_not_computed_again_by_whatever_reads_it():
    """Of the parts of the compiled program, the one that reads rows computes none of the table's sines."""

    def read(keep):
        def rows(table, number):
            table = jnp.sin(table)
            return rows_at(kept(table) if keep else table, number)

        look = jax.jit(jax.vmap(rows))
        table, number = jnp.asarray(TABLES[:, 0]), jnp.asarray(NUMBERS[:, 0])
        want = [np.sin(of)[at] for of, at in zip(TABLES[:, 0], NUMBERS[:, 0], strict=True)]
        np.testing.assert_allclose(look(table, number), want, rtol=1e-5)
        parts = look.lower(table, number).compile().as_text().split("\n\n")
        return [" sine(" in part for part in parts if " gather(" in part]

    assert read(keep=False) == [True]  # the reason
    assert read(keep=True) == [False]
