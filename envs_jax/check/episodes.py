"""What whole episodes prove: they end, ids stay in range, and the expert beats chance."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from envs_jax.check.errors import require
from envs_jax.check.examples import draw, drawn_action
from envs_jax.world import World, is_action, slots_of


@dataclass(frozen=True)
class Report:
    """What `check` measured over `episodes` fresh episodes each.

    Attributes:
      expert_success, random_success: share of episodes with a successful step, 0..1.
      expert_steps, random_steps: mean length of an episode, failures counted with the steps they took.
    """

    name: str
    episodes: int
    expert_success: float
    random_success: float
    expert_steps: float
    random_steps: float


def _finite(tree: Any) -> jax.Array:
    """bool[], whether every float in a pytree is finite."""
    floats = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return jnp.all(jnp.array([jnp.isfinite(leaf).all() for leaf in floats], bool))


def _play(world: World, wise: jax.Array, reset_key: jax.Array, keys: jax.Array, actions: jax.Array) -> dict:
    """One episode, with the expert (`wise` bool[]) or the given actions; stepped on after its end.

    Args:
      world: the world.
      wise: bool[].
      reset_key: of the episode.
      keys: for the expert, one a step: [max_steps].
      actions: what random play draws beforehand, [max_steps].

    Returns:
      succeeded bool[], ended bool[], length int32[], what was seen: least and greatest id (int32[2]) of describe,
      explain and expert, whether steps were `counted` up to the end, all numbers `finite` and every success a
      `closing` one, that ended the episode; of a world with slots, whether all that the expert did and the world
      sampled were `spoken` actions, the latter `admissible`.
    """

    def reach(record, name, ids):
        ids = jnp.append(ids.reshape(-1), record[name])
        return jnp.stack([ids.min(), ids.max()])

    def fitting(record, state, expert, sampled):
        may = world.admissible(state)[jnp.clip(sampled[0], 0, len(world.actions) - 1)]
        running = ~record["ended"]
        return {
            "spoken expert": record["spoken expert"] & is_action(world, expert),
            "spoken sample": record["spoken sample"] & is_action(world, sampled),
            "admissible sample": record["admissible sample"] & (may | ~running),
        }

    def body(carry, item):
        state, record = carry
        key, drawn = item
        expert, action = world.expert(state, key), drawn_action(world, state, drawn)
        after, step = world.step(state, jnp.where(wise, expert, action))
        running, ends = ~record["ended"], step.terminated | step.truncated
        record = {
            "succeeded": record["succeeded"] | (step.success & running),
            "closing": record["closing"] & (~running | ~step.success | ends),
            "ended": record["ended"] | ends,
            "length": record["length"] + running,
            "describe": reach(record, "describe", world.describe(state)),
            "explain": reach(record, "explain", world.explain(state)),
            "expert": reach(record, "expert", expert[0] if slots_of(world) else expert),
            "counted": record["counted"] & (~running | (after.steps == state.steps + 1)),
            "finite": record["finite"] & _finite((state, step)),
        } | (fitting(record, state, expert, action) if slots_of(world) else {})
        return (after, record), None

    nothing = jnp.full(2, -1, jnp.int32)
    record = {
        "succeeded": jnp.bool_(False),
        "closing": jnp.bool_(True),
        "ended": jnp.bool_(False),
        "length": jnp.int32(0),
        "describe": nothing,
        "explain": nothing,
        "expert": jnp.zeros(2, jnp.int32),
        "counted": jnp.bool_(True),
        "finite": jnp.bool_(True),
    }
    if slots_of(world):
        record |= dict.fromkeys(("spoken expert", "spoken sample", "admissible sample"), jnp.bool_(True))
    start = world.reset(reset_key), record
    return jax.lax.scan(body, start, (keys, actions))[0][1]


def check_episodes(world: World, key: jax.Array, episodes: int) -> Report:
    """Plays whole episodes with the expert and with random actions, and compares them."""
    wise = np.repeat([True, False], episodes)
    shape = 2 * episodes, world.max_steps
    reset_key, expert_key, action_key = jax.random.split(key, 3)
    keys = jax.random.split(reset_key, shape[0]), jax.random.split(expert_key, shape)
    actions = draw(world, action_key, shape)
    seen = jax.tree.map(np.asarray, jax.jit(jax.vmap(partial(_play, world)))(jnp.asarray(wise), *keys, actions))

    for name, least, count in (
        ("describe", -1, len(world.phrases)),
        ("explain", -1, len(world.phrases)),
        ("expert", 0, len(world.actions)),
    ):
        low, high = seen[name].min(), seen[name].max()
        kind = "action" if name == "expert" else "phrase id"
        require(
            least <= low and high < count, f"{name} gives {kind} {low}..{high}; accepted: {least}..{count - 1}"
        )
    for method in ("expert", "sample") if slots_of(world) else ():
        right = seen[f"spoken {method}"].all()
        require(right, f"{method} gives a record that is no action; see envs_jax.is_action")
    if slots_of(world):
        require(seen["admissible sample"].all(), "sample gives an action whose id `admissible` does not allow")
    require(seen["finite"].all(), "step: a State or a Step holds a number that is not finite in some episode")
    require(seen["counted"].all(), "step does not add 1 to State.steps everywhere in an episode")
    require(
        seen["closing"].all(),
        "step: Step.success is true in a step that does not end the episode; accepted: in its last step alone",
    )
    endless = np.sum(~seen["ended"])
    require(
        not endless,
        f"step: {endless} of {2 * episodes} episodes run on after max_steps = {world.max_steps}",
    )
    expert, chance = (seen["succeeded"][lanes].astype(float) for lanes in (wise, ~wise))
    expert_steps, chance_steps = (seen["length"][lanes].astype(float) for lanes in (wise, ~wise))
    report = Report(
        name=world.name,
        episodes=episodes,
        expert_success=float(expert.mean()),
        random_success=float(chance.mean()),
        expert_steps=float(expert_steps.mean()),
        random_steps=float(chance_steps.mean()),
    )
    # Where chance alone nearly always succeeds in the end, the expert must at least be quicker.
    better = _beyond_chance(expert, chance)
    quicker = expert.mean() >= max(chance.mean(), 0.5) and _beyond_chance(-expert_steps, -chance_steps)
    require(
        better or quicker,
        f"the expert does not beat random actions: success {report.expert_success:.2f} against "
        f"{report.random_success:.2f}, {report.expert_steps:.1f} against {report.random_steps:.1f} steps "
        f"in {episodes} episodes each",
    )
    return report


def _beyond_chance(ours: np.ndarray, theirs: np.ndarray) -> bool:
    """True if the mean of `ours` is greater by three standard errors of the difference (Welch)."""
    # Half an episode of doubt, so that a rate of exactly 0 or 1 does not claim to be certain.
    doubt = 0.5 * (np.ptp(np.concatenate([ours, theirs])) / len(ours)) ** 2
    error = np.sqrt(ours.var() / len(ours) + theirs.var() / len(theirs) + doubt)
    return bool(ours.mean() - theirs.mean() > 3 * error)
