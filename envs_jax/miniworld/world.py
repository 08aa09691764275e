"""MiniWorld's engine: one class that makes a world of any task, its state, and what the rules of tasks need.

* Things are placed one after another, each free of those before it, the agent last, as upstream.
* In the last step an episode may end both ways, terminated and truncated, as upstream, where the base class sets
  the reward to 0 in the last step and a task that is solved in it adds its own afterwards.
* `near` reaches as far as the longest step that MiniWorld could take, with domain randomisation or without: what
  is solved, and from how far, is the original's in every task.
* Differs from upstream: a yaw is kept in [-pi, pi]; an invalid action moves nothing and is counted as a step;
  textures are this project's own.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, UInt8

from envs_jax import heldout, options
from envs_jax.miniworld import dynamics, placement, randomise, route, split, variants, view
from envs_jax.miniworld.entities import COLOUR_NAMES, KINDS, Entities, put, radii
from envs_jax.miniworld.layout import Regions
from envs_jax.miniworld.maze import MazePlan
from envs_jax.miniworld.task import Task, Thing
from envs_jax.render.raycast import render, trace
from envs_jax.render.scene import Scene, Walls
from envs_jax.render.texture import build_atlas
from envs_jax.world import Step, register


@struct.dataclass
class State:
    """One episode.

    Attributes:
      key: what the episode draws from; the steps of most tasks draw nothing.
      steps: int32[], taken so far.
      agent: where the agent stands and looks.
      things: all that stands about or is carried, in MiniWorld's order.
      carried: int32[], row of what the agent carries, -1 = nothing.
      passages: bool[P], the doors of a random maze; None where rooms are fixed.
      look: what domain randomisation drew; None without.
      memory: what the task's rule keeps; None for most.
    """

    key: PRNGKeyArray
    steps: Int[Array, ""]
    agent: dynamics.Agent
    things: Entities
    carried: Int[Array, ""]
    passages: Bool[Array, " p"] | None
    look: randomise.Look | None
    memory: Any


@dataclass(frozen=True)
class MiniWorld:
    """A world of one task.

    Args:
      name: registered name.
      task: see there.
      image_shape: (height, width, 3) of the picture; the vertical field of view is 60 degrees for all.
      max_steps: steps after which an episode is truncated; None for the task's own.
      forward_step: metres, up to 0.75 (a longer one could jump through a wall); None for the task's own.
      turn_degrees: a divisor of 360, 1 to 90; None for the task's own.
      randomise: domain randomisation, see `randomise.ranges`: False, True, names of MiniWorld's parameters, or a
        mapping from names to (low, high), as in randomise={"forward_step": (0.1, 0.2), "sky_color": (0, 1)}.
      split: which episodes there are, "all" as in the original, or "train" or "test", which have no instance in
        common; see `split`. A reset then draws again, up to `split.TRIES` times, until it is one of these.
      faithful: whether faults of the original are kept. Here: a pickup takes the first thing of the list that it
        touches and not the nearest. Further ones are told where the task is defined.

    Raises:
      ValueError: an option is out of range.
    """

    name: str
    task: Task
    image_shape: tuple[int, int, int] = view.IMAGE_SHAPE
    max_steps: int | None = None
    forward_step: float | int | None = None
    turn_degrees: float | int | None = None
    randomise: Any = False
    faithful: bool = False
    split: str = "all"

    def __post_init__(self):
        for field in ("max_steps", "forward_step", "turn_degrees"):
            if getattr(self, field) is None:
                object.__setattr__(self, field, getattr(self.task, field))
        options.check_number("forward_step", self.forward_step, 0.01, 0.75, "metres")
        options.check_turn(self.turn_degrees)
        options.check_max_steps(self.max_steps)
        options.check_image_shape(self.image_shape)
        options.check_bool("faithful", self.faithful)
        heldout.check_split(self.split)
        object.__setattr__(self, "randomise", randomise.ranges(self.randomise, self.task.own_motion))

    @property
    def actions(self) -> tuple[str, ...]:
        """What an agent may say."""
        return self.task.actions

    @property
    def instruction(self) -> str:
        """The task in words."""
        return self.task.instruction

    @property
    def phrases(self) -> tuple[str, ...]:
        """What `describe` and `explain` may say."""
        return self.task.rule.phrases

    def reset(self, key: PRNGKeyArray) -> State:
        """A fresh episode."""
        if self.split == "all":
            state, rule_key = self._drawn(key)
            return state.replace(memory=self.task.rule.memory(self, state, rule_key))

        def draw(carry):
            key, tries = carry[0], carry[1]
            key, draw_key = jax.random.split(key)
            return key, tries + 1, *self._drawn(draw_key)

        def wrong(carry):
            held_out = heldout.row_is_test(split.instance(self, carry[2]))
            return (held_out != (self.split == "test")) & (carry[1] < split.TRIES)

        _, _, state, rule_key = jax.lax.while_loop(wrong, draw, draw((key, jnp.int32(0))))
        return state.replace(memory=self.task.rule.memory(self, state, rule_key))

    def step(self, state: State, action: Int[Array, ""]) -> tuple[State, Step]:
        """One action, and what the task's rule says to it."""
        key, motion = state.key, self.usual_motion
        if any(name in randomise.MOTION for name, _ in self.randomise):
            key, motion_key = jax.random.split(key)
            motion = self._motion(motion_key)
        after = self.moved(state.replace(key=key), action, motion)
        return self.task.rule.judge(self, state, action, after.replace(steps=state.steps + 1))

    def moved(self, state: State, action: Int[Array, ""], motion: dynamics.Motion) -> State:
        """The state after an action's motion alone; nothing is counted or judged."""
        known = (action >= 0) & (action < len(self.actions))
        action = jnp.where(known, jnp.asarray(self._base_actions)[jnp.where(known, action, 0)], -1)
        if not self.task.hands:
            agent = dynamics.act(state.agent, action, motion, self.walls(state), state.things, self.body)
            return state.replace(agent=agent)
        agent, carried, things = dynamics.act_with_hands(
            state.agent,
            state.carried,
            action,
            motion,
            self.walls(state),
            state.things,
            self.body,
            self.camera_height(state),
        )
        return state.replace(agent=agent, carried=carried, things=things)

    def render(self, state: State) -> UInt8[Array, "h w 3"]:
        """The world through the agent's camera."""
        atlas = variants.build_atlas(self._materials) if self._papered else build_atlas(self._materials)
        size = self.image_shape[:2]
        return render(self._scene(state), view.camera(state.agent, state.look), atlas, size, self._level)

    def describe(self, state: State) -> Int[Array, " n"]:
        """What is not to be seen: the goal of an episode, one's health."""
        return self.task.rule.describe(self, state)

    def admissible(self, state: State) -> Bool[Array, " a"]:
        """Turns and moves where nothing is in the way, pickup where something is in reach, drop with full hands.

        MiniWorld's `toggle` and `done` never have an effect; ending an episode always has.
        """
        able = {"toggle": jnp.bool_(False), "done": jnp.bool_(False)}
        for action in range(4):
            able[dynamics.ACTIONS[action]] = self.may(state, action)
        if self.task.hands:
            able["pickup"] = (state.carried < 0) & (self.in_reach(state) >= 0)
            able["drop"] = state.carried >= 0
        return jnp.stack([able.get(name, jnp.bool_(True)) for name in self.actions])

    def expert(self, state: State, key: PRNGKeyArray) -> Int[Array, ""]:
        """The action of someone who knows where everything is."""
        return self.task.rule.expert(self, state, key)

    def explain(self, state: State) -> Int[Array, " n"]:
        """What it would think aloud of the present picture."""
        return self.task.rule.explain(self, state)

    # ------------------------------------------------------------ what rules ask for

    @cached_property
    def body(self) -> dynamics.Body:
        """The agent's size and reach."""
        varied = dict(self.randomise)
        if "forward_step" in varied:
            reach = varied["forward_step"][1]
        elif self.forward_step == dynamics.FORWARD_STEP:
            reach = dynamics.MAX_FORWARD_STEP
        else:
            reach = float(self.forward_step)
        return dynamics.Body(radius=self.task.radius, reach=reach, nearest=not self.faithful)

    @property
    def usual_motion(self) -> dynamics.Motion:
        """What an action does without domain randomisation."""
        return dynamics.Motion(forward=self.forward_step, drift=0.0, turn=math.radians(self.turn_degrees))

    def walls(self, state: State) -> Walls:
        """The walls of this episode that the agent could run into in this step; of a maze only those around it."""
        if isinstance(self.task.plan, MazePlan):
            return self.task.plan.walls_near(state.passages, state.agent.position)
        return self._walls(None)

    def camera_height(self, state: State) -> Float[Array, ""] | float:
        """Metres; also decides how high things are carried."""
        return view.CAMERA_HEIGHT if state.look is None else state.look.height

    def near(self, state: State, row: Int[Array, ""] | int) -> Bool[Array, ""]:
        """Whether the agent is near a thing."""
        radius = radii(state.things)[row]
        return dynamics.near(
            state.agent.position, self.body.radius, state.things.position[row], radius, self.body.reach
        )

    def in_reach(self, state: State) -> Int[Array, ""]:
        """Row of what a pickup would take with empty hands, -1 if nothing."""
        return dynamics.in_reach(state.agent, self.walls(state), state.things, self.body)

    def may(self, state: State, action: int) -> Bool[Array, ""]:
        """Whether a turn or a move (its id) would be made, without domain randomisation."""
        return self.may_from(state, state.agent, action)

    def may_from(self, state: State, agent: dynamics.Agent, action: int) -> Bool[Array, ""]:
        """The same for an agent elsewhere."""
        after = dynamics.attempt(agent, jnp.int32(action), self.usual_motion)
        carried = state.carried if self.task.hands else None
        return dynamics.fits(
            after, agent, self.walls(state), state.things, self.body, carried, self.camera_height(state)
        )

    def waypoint(
        self, state: State, target: Float[Array, "3"], steps: Int[Array, " r"] | None = None
    ) -> Float[Array, "3"]:
        """Where to go next on the way to a target: itself, if it is in the same room; `steps` as in `route`."""
        return route.waypoint(self.task.plan, state.passages, state.agent.position, target, steps)

    def shares(self, state: State) -> Float[Array, " n"]:
        """Share of the picture that each thing covers."""
        camera = view.camera(state.agent, state.look)
        hit = trace(self._scene(state), camera, self.image_shape[:2], self._level)
        return view.shares(hit, self.task, state.things, self._written(state))

    def outcome(
        self, state: State, reward: Float[Array, ""], terminated: Bool[Array, ""], success: Bool[Array, ""]
    ) -> Step:
        """A Step; time runs out after max_steps."""
        return Step(
            reward=reward.astype(jnp.float32),
            terminated=terminated,
            truncated=state.steps >= self.max_steps,
            success=success,
        )

    def solved(self, state: State, solved: Bool[Array, ""]) -> Step:
        """The Step of most tasks: an end with 1 to 0.8 when solved, the sooner the more, else 0."""
        reward = jnp.where(solved, dynamics.success_reward(state.steps, self.max_steps), 0.0)
        return self.outcome(state, reward, solved, solved)

    def replaced(self, key: PRNGKeyArray, state: State, row: Int[Array, ""]) -> Entities:
        """All things after a carried one, `row`, has been put somewhere else, free, as the last of the list.

        Worked example, row 1 of four: the rows become 0, 2, 3, 1. All of the task's things must be alike.
        """
        others = dynamics.without(state.things, row)
        thing = len(self.task.things) - 1
        radius = self.task.things[thing].least_radius
        position, yaw = placement.place(
            key,
            self._regions[thing],
            radius,
            self.walls(state),
            others,
            obstacle=(state.agent.position, self.body.radius),
        )
        count = len(self.task.things)
        place = jnp.arange(count)
        order = jnp.where(place == count - 1, row, jnp.where(place >= row, place + 1, place))
        order = jnp.clip(order, 0, count - 1)
        moved = jax.tree.map(lambda leaf: leaf[order], state.things)
        return put(moved, count - 1, position, yaw)

    # ------------------------------------------------------------ private

    def _drawn(self, key: PRNGKeyArray) -> tuple[State, PRNGKeyArray | None]:
        """An episode without the rule's memory, and the key for that."""
        task = self.task
        key, *keys = jax.random.split(key, len(task.things) + 2)
        # Most tasks draw nothing else; then no key is spent on it.
        extra = (None, None, None, None)
        if isinstance(task.plan, MazePlan) or any(t.drawn for t in task.things) or task.rule.draws or self._looks:
            key, extra_key = jax.random.split(key)
            extra = jax.random.split(extra_key, 4)
        maze_key, kinds_key, look_key, rule_key = extra
        passages = task.plan.draw(maze_key) if isinstance(task.plan, MazePlan) else None
        walls = self._walls(passages)
        things = self._things(kinds_key)
        for row, thing in enumerate(task.things):
            place, yaw = self._start(keys[row], row, thing, walls, things, passages)
            things = put(things, row, place, yaw)
        place, yaw = self._place(
            keys[-1], self._regions[-1], task.start_radius, walls, things, passages, task.agent
        )
        state = State(
            key=key,
            steps=jnp.int32(0),
            agent=dynamics.Agent(place, yaw),
            things=things,
            carried=jnp.int32(dynamics.NOTHING),
            passages=passages,
            look=self._look(look_key) if self._looks else None,
            memory=None,
        )
        return state, rule_key

    @cached_property
    def _looks(self) -> bool:
        return any(name not in randomise.MOTION for name, _ in self.randomise)

    def _look(self, key: PRNGKeyArray) -> randomise.Look:
        return randomise.draw_look(key, self.randomise, len(self.task.things), self.task.plan)

    @cached_property
    def _papered(self) -> bool:
        return randomise.papered(self.randomise, self.task.plan)

    @cached_property
    def _materials(self) -> tuple[str, ...]:
        """All that is to be seen; a texture id is the place in this list."""
        names = view.materials(self.task)
        return variants.materials(names) if self._papered else names

    @property
    def _level(self) -> bool:
        """Whether the camera never looks up or down."""
        return "cam_pitch" not in dict(self.randomise)

    @cached_property
    def _base_actions(self) -> np.ndarray:
        """The id in `dynamics.ACTIONS` of every action. A task's own are none of these, but upstream it is their
        number that counts: Sign's `end`, the fourth, steps back before the episode ends."""
        own = [position if self.faithful else -1 for position in range(len(self.actions))]
        ids = [
            dynamics.ACTIONS.index(n) if n in dynamics.ACTIONS else i
            for n, i in zip(self.actions, own, strict=True)
        ]
        return np.array(ids, np.int32)

    @cached_property
    def _regions(self) -> tuple[Regions | None, ...]:
        """Where each thing is drawn from, and the agent; None for an exact place."""
        made = []
        for wheres, radius in [(t.where, t.least_radius) for t in self.task.things] + [
            ((self.task.agent,), self.task.start_radius)
        ]:
            exact = wheres[0].at is not None
            made.append(None if exact else placement.regions(self.task.plan, wheres, radius))
        return tuple(made)

    def _walls(self, passages: Bool[Array, " p"] | None) -> Walls:
        if isinstance(self.task.plan, MazePlan):
            return self.task.plan.walls(passages)
        return jax.tree.map(jnp.asarray, self.task.plan.walls_array)

    def _motion(self, key: PRNGKeyArray) -> dynamics.Motion:
        forward_key, drift_key, turn_key = jax.random.split(key, 3)
        varied, usual = dict(self.randomise), self.usual_motion
        forward, turn = usual.forward, usual.turn
        if "forward_step" in varied:
            forward = randomise.sample(forward_key, self.randomise, "forward_step")
        if "turn_step" in varied:
            turn = jnp.deg2rad(randomise.sample(turn_key, self.randomise, "turn_step"))
        return dynamics.Motion(forward, randomise.sample(drift_key, self.randomise, "forward_drift"), turn)

    def _things(self, key: PRNGKeyArray | None) -> Entities:
        """What things there are in this episode, not placed yet."""
        count = len(self.task.things)
        kind, size, colour = [], [], []
        keys = [None] * count if key is None else list(jax.random.split(key, max(count, 1)))
        for thing, thing_key in zip(self.task.things, keys, strict=False):
            kinds = np.array([KINDS.index(name) for name, _, _ in thing.kinds], np.int32)
            lows, highs = (np.array([row[i] for row in thing.kinds], np.float32) for i in (1, 2))
            colours = np.array([COLOUR_NAMES.index(name) for name in thing.colours], np.int32)
            if not thing.drawn:
                kind.append(jnp.int32(kinds[0]))
                size.append(jnp.float32(lows[0]))
                colour.append(jnp.int32(colours[0]))
                continue
            kind_key, size_key, colour_key = jax.random.split(thing_key, 3)
            which = jax.random.randint(kind_key, (), 0, len(kinds))
            share = jax.random.uniform(size_key, (), jnp.float32)
            kind.append(jnp.asarray(kinds)[which])
            size.append(jnp.asarray(lows)[which] + share * jnp.asarray(highs - lows)[which])
            colour.append(jnp.asarray(colours)[jax.random.randint(colour_key, (), 0, len(colours))])
        return Entities(
            position=jnp.zeros((count, 3), jnp.float32),
            yaw=jnp.zeros(count, jnp.float32),
            kind=jnp.array(kind, jnp.int32),
            size=jnp.array(size, jnp.float32),
            colour=jnp.array(colour, jnp.int32),
            exists=jnp.zeros(count, bool),
        )

    def _start(
        self, key, row: int, thing: Thing, walls, things, passages
    ) -> tuple[Float[Array, "3"], Float[Array, ""]]:
        where = thing.where[0]
        if where.at is not None:
            x, z = where.at
            yaw = jax.random.uniform(key, (), jnp.float32, *where.yaw)
            return jnp.array([x, 0.0, z], jnp.float32), yaw
        radius = radii(things)[row] if thing.drawn else thing.least_radius
        return self._place(key, self._regions[row], radius, walls, things, passages, where)

    def _place(self, key, among, radius, walls, things, passages, where):
        exists = 1.0
        if isinstance(self.task.plan, MazePlan):
            exists = jnp.concatenate([jnp.ones(self.task.plan.count), passages.astype(jnp.float32)])
        return placement.place(key, among, radius, walls, things, where.yaw, exists)

    def _scene(self, state: State) -> Scene:
        walls = self._walls(state.passages)
        if self._papered:
            walls = variants.papered(walls, self.task.plan, state.look.papers, self._materials)
        return view.scene(self.task, walls, state.things, state.look, self._written(state))

    def _written(self, state: State) -> Int[Array, ""] | int:
        has_texts = any(picture.text for picture in self.task.pictures)
        return self.task.rule.written(state) if has_texts else 0


def register_task(name: str, make_task: Callable[..., Task]) -> None:
    """Registers "miniworld/<name>": `make_task(faithful=..., **options)` gives its task.

    The options of the world are those of `MiniWorld` and those of `make_task`.
    """
    theirs = [p for p in inspect.signature(make_task).parameters.values() if p.name != "faithful"]
    ours = [p for p in inspect.signature(MiniWorld).parameters.values() if p.name != "task"]

    def build(name: str, **given: Any) -> MiniWorld:
        faithful = given.get("faithful", False)
        options.check_bool("faithful", faithful)
        for_task = {p.name: given.pop(p.name) for p in theirs if p.name in given}
        return MiniWorld(name=name, task=make_task(faithful=faithful, **for_task), **given)

    named = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in (*ours, *theirs)]
    build.__signature__ = inspect.Signature(named)
    register(f"miniworld/{name}", build)
