"""Lanes of a decoder that work off a queue of worlds, so that answers that end early do not hold the others up.

* W worlds need T steps each; B lanes write answers. A lane whose answer has ended waits until enough others have,
  then their worlds step, and the lanes are refilled together: reading a prompt is a large product only for many.
* The world that is furthest behind comes first, so that none is left to finish alone.
* A world's own steps stay in order, and each writes its row of the trajectory: [T, W], as if all went in step.
* On a mesh lanes and worlds are cut over the data axes. What goes between devices is what a refill hands over: the
  observations of its worlds, the keys and values of their prompts, and the rows of the answers that have ended.
* One program with static shapes: a loop over refills around a loop over tokens. Keys and values are carried
  through both and written in place: a slot of each lane for a token, whole lanes for a refill.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Int

from vldac.answers import Answers, Prepared, Sight
from vldac.lanes import Lanes, ResetPool
from vldac.mesh import shard_batch
from vldac.policy import Policy


@struct.dataclass
class Worlds:
    """W worlds, and what is remembered of them; leaves [W, ...].

    Attributes:
      lanes: the worlds. (A world's lane in `Lanes` is its own; lanes of the decoder are fewer.)
      pool: their fresh episodes.
      sight: their frames, encoded.
    """

    lanes: Lanes
    pool: ResetPool
    sight: Sight

    def part(self, rows: Int[Array, " g"]) -> Worlds:
        """Those of these numbers."""
        lanes, sight = shard_batch(jax.tree.map(lambda leaf: leaf[rows], (self.lanes, self.sight)))
        return Worlds(lanes, self.pool.part(rows), sight)

    def put(self, rows: Int[Array, " g"], part: Worlds) -> Worlds:
        """With these replaced. Numbers of W or more are nobody's."""
        lanes, sight, taken = put(
            (self.lanes, self.sight, self.pool.taken), rows, (part.lanes, part.sight, part.pool.taken)
        )
        return Worlds(lanes, self.pool.replace(taken=taken), sight)


@struct.dataclass
class _Loop:
    """Attributes:
    worlds: W of them.
    step: int32[W], steps that each has taken.
    answered: bool[W], its answer is being written.
    who: int32[B], the world that each lane writes for; W = none.
    answers: of B lanes.
    rows: of the trajectory, leaves [T, W, ...].
    turns: int32[], of the loop over tokens.
    """

    worlds: Worlds
    step: Int[Array, " w"]
    answered: Bool[Array, " w"]
    who: Int[Array, " b"]
    answers: Answers
    rows: dict[str, Any]
    turns: Int[Array, ""]


# (lanes, pool, sight, response, keys) -> (lanes, pool, sight, row)
Settle = Callable[..., tuple[Lanes, ResetPool, Sight, dict[str, Any]]]
# (steps int32[G], worlds int32[G]) -> keys [G, 2], of answers and of what else is drawn
Keys = Callable[[Array, Array], Array]


def pooled(
    policy: Policy,
    prepared: Prepared,
    worlds: Worlds,
    settle: Settle,
    keys: Keys,
    steps: int,
    lanes: int,
    refill: int,
) -> tuple[Worlds, dict[str, Any], Int[Array, ""]]:
    """Takes `steps` steps with every world.

    Args:
      policy: answers.
      prepared: from `policy.prepare`.
      worlds: W of them.
      settle: what comes of answers: moves worlds on, and gives their rows of the trajectory.
      keys: of what is drawn.
      steps: T.
      lanes: B, answers written side by side.
      refill: G, lanes that are refilled together.

    Returns:
      (worlds, rows, lane_tokens): the worlds as they are now; what happened, leaves [T, W, ...]; tokens that could
      have been written.
    """
    count = len(worlds.lanes.closing)
    last = count - 1

    def begin(part: Worlds, steps: Int[Array, " g"], numbers: Int[Array, " g"], silent: Bool[Array, " g"]):
        answers = policy.begin(prepared, part.lanes.observation, keys(steps, numbers)[:, 0], silent, part.sight)
        return answers.replace(index=jnp.broadcast_to(answers.index, silent.shape))

    def answered(part: Worlds, answers: Answers, steps: Int[Array, " g"], numbers: Int[Array, " g"]):
        *after, row = settle(
            part.lanes, part.pool, part.sight, policy.response(answers), keys(steps, numbers)[:, 1]
        )
        return Worlds(*after), row

    def refillable(loop: _Loop) -> Bool[Array, " b"]:
        """Lanes with something to do once their answer has ended: a world to step, or one to take up."""
        waiting = ~loop.answered & (loop.step < steps)
        return (loop.who < count) | waiting.any()

    def write(loop: _Loop) -> _Loop:
        """Tokens, until enough lanes have ended or all have."""
        may = refillable(loop)

        def short(carry):
            answers, _ = carry
            return ~answers.done.all() & ((answers.done & may).sum() < refill)

        def token(carry):
            answers, turns = carry
            return policy.go_on(prepared, answers), turns + 1

        answers, turns = jax.lax.while_loop(short, token, (loop.answers, loop.turns))
        return loop.replace(answers=answers, turns=turns)

    def exchange(loop: _Loop) -> _Loop:
        """The worlds of up to G ended lanes step, and the lanes take up others.

        Worked example, G = 4, lanes 1 and 5 have ended, B = 8: group = [1 5 8 8]; lane 8 is nobody's, and what is
        computed for it is dropped.
        """
        (group,) = jnp.nonzero(loop.answers.done & refillable(loop), size=refill, fill_value=lanes)
        ended = jnp.minimum(group, lanes - 1)
        who = jnp.where(group < lanes, loop.who[ended], count)
        part = loop.worlds.part(jnp.minimum(who, last))
        step = loop.step[jnp.minimum(who, last)]
        part, row = answered(part, _rows(loop.answers, ended), step, who)
        rows = jax.tree.map(lambda all_rows, row: all_rows.at[step, who].set(row, mode="drop"), loop.rows, row)
        worlds = loop.worlds.put(who, part)
        steps_taken = loop.step.at[who].add(1, mode="drop")
        busy = loop.answered.at[who].set(False, mode="drop")

        # The worlds that wait, furthest behind first; as many as there are lanes in the group.
        waiting = ~busy & (steps_taken < steps)
        order = jnp.argsort(jnp.where(waiting, steps_taken, steps))[:refill]
        chosen = waiting[order] & (group < lanes)
        following = jnp.where(chosen, order, count).astype(jnp.int32)
        part = worlds.part(order)
        fresh = begin(part, steps_taken[order], following, part.lanes.closing | ~chosen)
        return loop.replace(
            worlds=worlds,
            step=steps_taken,
            answered=busy.at[following].set(True, mode="drop"),
            who=loop.who.at[group].set(following, mode="drop"),
            answers=put(loop.answers, group, fresh),
            rows=rows,
        )

    some = jnp.minimum(jnp.arange(refill, dtype=jnp.int32), last)
    part = worlds.part(some)
    like = jax.eval_shape(begin, part, some, some, part.lanes.closing)
    _, row = jax.eval_shape(answered, part, like, some, some)
    empty = jax.tree.map(lambda leaf: jnp.zeros((lanes, *leaf.shape[1:]), leaf.dtype), like.replace(keys=None))
    rows = jax.tree.map(lambda leaf: jnp.zeros((steps, count, *leaf.shape[1:]), leaf.dtype), row)
    number = jnp.arange(lanes, dtype=jnp.int32)
    loop = _Loop(
        worlds=worlds,
        step=jnp.zeros(count, jnp.int32),
        answered=jnp.zeros(count, bool),
        who=jnp.full(lanes, count, jnp.int32),
        answers=shard_batch(empty.replace(keys=keys(number, number)[:, 0], done=jnp.ones(lanes, bool))),
        rows=shard_batch(rows, axis=1),
        turns=jnp.int32(0),
    )
    loop = jax.lax.while_loop(lambda loop: (loop.step < steps).any(), lambda loop: exchange(write(loop)), loop)
    return loop.worlds, loop.rows, loop.turns * lanes


def put(tree: Any, rows: Int[Array, " g"], part: Any) -> Any:
    """The tree with the leaves of `part` in these rows; those behind the end are dropped."""
    return jax.tree.map(lambda leaf, new: leaf.at[rows].set(new, mode="drop"), tree, part)


def _rows(answers: Answers, rows: Int[Array, " g"]) -> Answers:
    """Without keys and values, which nobody asks an ended answer for."""
    return jax.tree.map(lambda leaf: leaf[rows], answers.replace(cache=None))
