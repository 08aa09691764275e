"""Rooms and tasks, drawn so that every task can be solved and none is solved already."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from envs_jax.household import rules
from envs_jax.household import tables as t
from envs_jax.household.rules import State


def _first(score: Float[Array, " n"], size: int) -> Int[Array, " size"]:
    """The words with the least finite scores, in ascending order, -1 past the last.

    Worked example: [2, inf, 1], size 2 -> [0, 2].
    """
    size_here = min(size, len(score))
    lowest, index = jax.lax.top_k(-score, size_here)
    words = jnp.sort(jnp.where(jnp.isfinite(lowest), index, len(score)))
    words = jnp.where(words < len(score), words, -1)
    return jnp.pad(words, (0, size - size_here), constant_values=-1).astype(jnp.int32)


def _pick(key: PRNGKeyArray, mask: Bool[Array, " n"]) -> Int[Array, ""]:
    """An index where the mask is true, all with equal chance."""
    return jax.random.categorical(key, jnp.where(mask, 0.0, -jnp.inf)).astype(jnp.int32)


def generate(
    key: PRNGKeyArray, tasks: tuple[int, ...], instances: tuple[np.ndarray, ...], most: int, most_objects: int
) -> State:
    """A fresh episode.

    The numbers of receptacles of a type lie between the layouts' least and most, nearer to the least. A room
    that is larger than `most` is cut evenly: what it has of each type first, then the second of each, and so on.
    What the task needs (goal, source, tool, lamp) is always kept.

    Args:
      key: what to draw with.
      tasks: types of task, each as likely as the others.
      instances: per type the instances to draw from, `tables.instances`.
      most, most_objects: R and O of the State.
    """
    keys = jax.random.split(key, 11)
    nth = jax.random.randint(keys[1], (), 0, len(tasks), jnp.int32)
    rows = np.concatenate(instances)
    begin = np.cumsum([0, *map(len, instances)])
    lengths = jnp.asarray(np.diff(begin), jnp.int32)[nth]
    at = jnp.asarray(begin, jnp.int32)[nth] + jax.random.randint(keys[2], (), 0, lengths, jnp.int32)
    task = jnp.asarray(tasks, jnp.int32)[nth]
    room, target, goal, lamp = jnp.asarray(rows)[at]

    # Receptacle types without which the task cannot be done.
    possible = jnp.asarray(t.MOST)[room] > 0
    can_hold = jnp.asarray(t.CAN_HOLD)
    kinds = jnp.arange(len(t.RECEPTACLES))
    source = _pick(keys[3], can_hold[:, target] & possible & (kinds != goal))
    stand = jnp.where(lamp >= 0, _pick(keys[4], can_hold[:, jnp.maximum(lamp, 0)] & possible), -1)
    needs_tool = (task >= t.CLEAN) & (task <= t.COOL)
    tool = jnp.where(needs_tool, jnp.asarray(t.TOOLS, jnp.int32)[jnp.clip(task - t.CLEAN, 0, 2)], -1)
    needed = (kinds == source) | (kinds == goal) | (kinds == stand) | (kinds == tool)
    least, greatest = jnp.asarray(t.LEAST)[room], jnp.asarray(t.MOST)[room]
    share = jax.random.uniform(keys[5], (len(t.RECEPTACLES),)) ** 2  # mean 1/3
    count = jnp.minimum(least + jnp.floor(share * (greatest - least + 1)).astype(jnp.int32), greatest)
    count = jnp.maximum(count, needed)
    order = jax.random.uniform(keys[6], (len(t.RECEPTACLES),))
    kind, number = jnp.asarray(t.RECEPTACLE_TYPE), jnp.asarray(t.RECEPTACLE_NUMBER)
    score = jnp.where(needed[kind] & (number == 1), 0.0, number + order[kind])
    receptacles = _first(jnp.where(number <= count[kind], score, jnp.inf), most)
    r_kind = jnp.where(receptacles >= 0, kind[receptacles], -1)

    # Objects that have a place; the wanted ones lie anywhere but where they are to go.
    allowed = can_hold[r_kind] & (r_kind >= 0)[:, None]  # [R, object types]
    allowed &= ~((jnp.arange(len(t.OBJECTS)) == target) & (r_kind == goal)[:, None])
    thing, which = jnp.asarray(t.OBJECT_TYPE), jnp.asarray(t.OBJECT_NUMBER)
    always, maybe = jnp.asarray(t.ALWAYS_THERE)[room], jnp.asarray(t.MAY_BE_THERE)[room]
    present = jnp.where(always, True, jax.random.bernoulli(keys[7], 0.5, always.shape)) & maybe
    amount = present * jax.random.randint(keys[8], always.shape, 1, t.MOST_ALIKE + 1, jnp.int32)
    types = jnp.arange(len(t.OBJECTS))
    amount = jnp.maximum(amount, jnp.where(types == target, jnp.where(task == t.TWO, 2, 1), types == lamp))
    amount = jnp.where(jnp.asarray(t.LAMP), jnp.minimum(amount, 1), amount)
    wanted = ((thing == target) & (which <= jnp.where(task == t.TWO, 2, 1))) | ((thing == lamp) & (which == 1))
    order = jax.random.uniform(keys[9], (len(t.OBJECTS),))
    score = jnp.where(wanted, 0.0, which + order[thing])
    objects = _first(
        jnp.where((which <= amount[thing]) & allowed.any(axis=0)[thing], score, jnp.inf), most_objects
    )
    exists = objects >= 0
    places = allowed[:, jnp.where(exists, thing[objects], 0)].T  # [O, R]
    drawn = jax.vmap(_pick)(jax.random.split(keys[10], most_objects), places | ~exists[:, None])
    nothing = jnp.zeros(most_objects, bool)
    return State(
        key=keys[0],
        steps=jnp.int32(0),
        task=task,
        room=room,
        target=target,
        goal=goal,
        lamp=lamp,
        receptacles=receptacles,
        is_open=jnp.zeros(most, bool),
        objects=objects,
        at=jnp.where(exists, drawn, rules.NOWHERE).astype(jnp.int32),
        clean=nothing,
        hot=nothing,
        cool=nothing,
        sliced=nothing,
        on=nothing,
        here=jnp.int32(rules.NOWHERE),
        last=jnp.array([rules.LOOK, -1, -1], jnp.int32),
    )
