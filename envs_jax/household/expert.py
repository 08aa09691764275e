"""A scripted player that knows where everything is: fetch, treat, bring."""

from __future__ import annotations

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Int

from envs_jax.household import rules
from envs_jax.household import tables as t
from envs_jax.household.rules import State


@struct.dataclass
class Plan:
    """What to do next. `item` is an index of an object (-1: none), `place` one of a receptacle, `action` what
    is done there once it is reached and, if it `enters`, open."""

    item: Int[Array, ""]
    place: Int[Array, ""]
    action: Int[Array, ""]
    enters: Bool[Array, ""]
    holding: Bool[Array, ""]


def plan(state: State) -> Plan:
    """The next aim in any state."""
    r_kind, o_kind = rules.receptacle_types(state), rules.object_types(state)
    exists = r_kind >= 0
    wanted = o_kind == state.target
    held = (state.at == rules.HELD) & (o_kind >= 0)
    holding, hand = held.any(), jnp.argmax(held)
    right = (held & wanted).any()
    lying = wanted & (state.at >= 0)

    # Two go where most of them are already.
    goals = exists & (r_kind == state.goal)
    brought = jnp.zeros(len(exists), jnp.int32).at[state.at].add(lying, mode="drop")
    goal = jnp.argmax(jnp.where(goals, brought, -1))
    item = jnp.argmax(lying & ~((state.task == t.TWO) & (state.at == goal)))

    ready = rules.treated(state)[hand]
    chosen = jnp.clip(state.task - t.CLEAN, 0, 2)
    tool = jnp.argmax(exists & (r_kind == jnp.asarray(t.TOOLS)[chosen]))
    treat = jnp.array([rules.CLEAN, rules.HEAT, rules.COOL])[chosen]
    lamp = jnp.argmax((o_kind == state.lamp) & (state.at >= 0))
    fits = exists & jnp.asarray(t.CAN_HOLD)[r_kind, o_kind[hand]]
    spare = jnp.where(fits & (jnp.arange(len(exists)) == state.here), 2, fits).argmax()  # for what is not wanted

    light = right & (state.task == t.LIGHT)
    treats = right & ~light & ~ready
    place = jnp.where(light, state.at[lamp], jnp.where(treats, tool, jnp.where(right, goal, spare)))
    action = jnp.where(light, rules.USE, jnp.where(treats, treat, rules.MOVE))
    return Plan(
        item=jnp.where(light, lamp, jnp.where(holding, hand, item)).astype(jnp.int32),
        place=jnp.where(holding, place, state.at[item]).astype(jnp.int32),
        action=jnp.where(holding, action, rules.TAKE).astype(jnp.int32),
        enters=~treats,
        holding=holding,
    )


def act(state: State) -> Int[Array, "3"]:
    """The plan's next command as a record."""
    aim = plan(state)
    word = state.receptacles[aim.place]
    item = state.objects[aim.item]
    away = state.here != aim.place
    closed = aim.enters & ~rules.accessible(state)[aim.place]
    uses = aim.action == rules.USE
    there = jnp.stack([aim.action, item, jnp.where(uses, -1, word)])
    step = jnp.stack([jnp.where(away, rules.GO, rules.OPEN), word, -1])
    return jnp.where(away | closed, step, there).astype(jnp.int32)
