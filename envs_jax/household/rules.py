"""The text engine's rules: what a command needs and what it does (ALFWorld's alfred.pddl, as TextWorld plays it).

* Every receptacle is a place of its own; going where one is already does nothing.
* A lamp, once on, stays on, as often as it is used. Upstream (alfworld/data/alfred.pddl, ToggleObject) a use flips
  `isOn`, which no action needs, and sets `isToggled`, which no action unsets; the goal asks for `isToggled`. Its
  text (alfred.twl2) goes by `isToggled`, too: every use is answered by "You turn on the desklamp 1.".
"""

from __future__ import annotations

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from envs_jax.household import tables as t

ACTIONS = (
    "go to {receptacle}",
    "open {receptacle}",
    "close {receptacle}",
    "take {object} from {receptacle}",
    "move {object} to {receptacle}",
    "heat {object} with {receptacle}",
    "cool {object} with {receptacle}",
    "clean {object} with {receptacle}",
    "use {object}",
    "slice {object} with {object}",
    "examine {object}",
    "examine {receptacle}",
    "look",
    "inventory",
    "help",
)
(
    GO,
    OPEN,
    CLOSE,
    TAKE,
    MOVE,
    HEAT,
    COOL,
    CLEAN,
    USE,
    SLICE,
    EXAMINE_OBJECT,
    EXAMINE_RECEPTACLE,
    LOOK,
    INVENTORY,
    HELP,
) = range(len(ACTIONS))
NOWHERE = -1  # the middle of the room, for an agent; no object, for an object
HELD = -2  # in the agent's hand


@struct.dataclass
class State:
    """One episode. R receptacles and O objects at most; a word is an index into the tables' words, -1 past the
    last.

    Attributes:
      key: what an episode would draw from; the steps of this world draw nothing.
      steps: int32[], taken so far.
      task: int32[], index into `tables.TASKS`.
      room: int32[], index into `tables.ROOMS`.
      target: int32[], type of the object that is wanted.
      goal: int32[], type of the receptacle it goes to, -1 for none.
      lamp: int32[], type of the lamp it is looked at under, -1 for none.
      receptacles: int32[R], words in ascending order.
      is_open: bool[R], always False for what cannot be opened.
      objects: int32[O], words in ascending order.
      at: int32[O], the place of an object: index of a receptacle, HELD, or NOWHERE past the last object.
      clean, hot, cool, sliced, on: bool[O].
      here: int32[], index of the receptacle the agent is at, NOWHERE at first.
      last: int32[3], the record of the last command if it had an effect, -1s if nothing happened.
    """

    key: PRNGKeyArray
    steps: Int[Array, ""]
    task: Int[Array, ""]
    room: Int[Array, ""]
    target: Int[Array, ""]
    goal: Int[Array, ""]
    lamp: Int[Array, ""]
    receptacles: Int[Array, " r"]
    is_open: Bool[Array, " r"]
    objects: Int[Array, " o"]
    at: Int[Array, " o"]
    clean: Bool[Array, " o"]
    hot: Bool[Array, " o"]
    cool: Bool[Array, " o"]
    sliced: Bool[Array, " o"]
    on: Bool[Array, " o"]
    here: Int[Array, ""]
    last: Int[Array, "3"]


def receptacle_types(state: State) -> Int[Array, " r"]:
    """Types of the room's receptacles, -1 past the last."""
    words = state.receptacles
    return jnp.where(words >= 0, jnp.asarray(t.RECEPTACLE_TYPE)[words], -1)


def object_types(state: State) -> Int[Array, " o"]:
    """Types of the room's objects, -1 past the last."""
    return jnp.where(state.objects >= 0, jnp.asarray(t.OBJECT_TYPE)[state.objects], -1)


def accessible(state: State) -> Bool[Array, " r"]:
    """Receptacles that objects can be taken from and put into.

    Worked example: [closed drawer, open drawer, desk, -] -> [0, 1, 1, 0].
    """
    kinds = receptacle_types(state)
    return (kinds >= 0) & (~jnp.asarray(t.OPENABLE)[kinds] | state.is_open)


def possible(state: State) -> tuple[Bool[Array, "15 o"], Bool[Array, "15 r"], Bool[Array, " o"]]:
    """What may stand in each command: objects [action, O], receptacles [action, R], knives bool[O] for "slice".

    The command of an action with several places is possible for every combination of its words.

    Worked example: at an open fridge 1 with an egg 1 and an apple 1 in it, nothing in hand -> row TAKE: both of
    the objects, and fridge 1 alone of the receptacles.
    """
    r_kind, o_kind = receptacle_types(state), object_types(state)
    exists, thing = r_kind >= 0, o_kind >= 0
    here = exists & (jnp.arange(len(exists)) == state.here)
    reach = here & accessible(state)
    openable = jnp.asarray(t.OPENABLE)[r_kind]
    held = thing & (state.at == HELD)
    empty = ~held.any()
    lamp = jnp.asarray(t.LAMP)[o_kind]
    seen = thing & (state.at >= 0) & reach[state.at]
    held_kind = jnp.max(jnp.where(held, o_kind, -1))
    fits = jnp.asarray(t.CAN_HOLD)[r_kind, held_kind] & ~empty
    no_object, no_receptacle = jnp.zeros_like(thing), jnp.zeros_like(exists)
    tool = [here & (r_kind == int(kind)) for kind in t.TOOLS]  # to clean, to heat, to cool
    able = [held & jnp.asarray(mask)[o_kind] for mask in t.TREATABLE]
    knife = held & jnp.asarray(t.KNIFE)[o_kind]
    rows = {
        GO: (no_object, exists & ~here),
        OPEN: (no_object, here & openable & ~state.is_open),
        CLOSE: (no_object, here & openable & state.is_open),
        TAKE: (seen & ~lamp & empty, reach),
        MOVE: (held, reach & fits),
        HEAT: (able[1], tool[1]),
        COOL: (able[2], tool[2]),
        CLEAN: (able[0], tool[0]),
        USE: (seen & lamp, no_receptacle),
        SLICE: (seen & jnp.asarray(t.SLICEABLE)[o_kind] & ~state.sliced, no_receptacle),
        EXAMINE_OBJECT: (seen | held, no_receptacle),
        EXAMINE_RECEPTACLE: (no_object, here),
    }
    nothing = no_object, no_receptacle
    objects, receptacles = zip(*(rows.get(action, nothing) for action in range(len(ACTIONS))), strict=True)
    return jnp.stack(objects), jnp.stack(receptacles), knife


def apply(state: State, record: Int[Array, "3"]) -> State:
    """The state after a command; a command that is not possible changes nothing but `last`. Counts no step."""
    action, first, second = record[0], record[1], record[2]
    objects, receptacles, knives = possible(state)
    with_object = (action >= TAKE) & (action <= EXAMINE_OBJECT)
    two = ((action >= TAKE) & (action <= CLEAN)) | (action == SLICE)
    bare = (action >= LOOK) & (action <= HELP)
    row = jnp.clip(action, 0, len(ACTIONS) - 1)
    word = jnp.where(with_object, second, first)  # of the receptacle
    thing = (state.objects == first) & (first >= 0) & objects[row]
    place = (state.receptacles == word) & (word >= 0) & receptacles[row]
    blade = (state.objects == second) & (second >= 0) & knives
    needs_place = (
        (action >= GO)
        & (action <= EXAMINE_RECEPTACLE)
        & ~jnp.isin(action, jnp.array([USE, SLICE, EXAMINE_OBJECT]))
    )
    fits = (
        (thing.any() | ~with_object)
        & (place.any() | ~needs_place)
        & (blade.any() | (action != SLICE))
        & (two | (second == -1))
        & (~bare | (first == -1))
        & (action >= 0)
        & (action < len(ACTIONS))
    )
    thing, place = thing & fits & with_object, place & fits & needs_place
    index = jnp.argmax(place).astype(jnp.int32)

    def does(number):
        return fits & (action == number)

    at = jnp.where(thing & does(TAKE), HELD, jnp.where(thing & does(MOVE), index, state.at))
    return state.replace(
        here=jnp.where(does(GO), index, state.here),
        is_open=jnp.where(place & does(OPEN), True, state.is_open & ~(place & does(CLOSE))),
        at=at.astype(jnp.int32),
        clean=state.clean | (thing & does(CLEAN)),
        hot=(state.hot | (thing & does(HEAT))) & ~(thing & does(COOL)),
        cool=(state.cool | (thing & does(COOL))) & ~(thing & does(HEAT)),
        sliced=state.sliced | (thing & does(SLICE)),
        on=state.on | (thing & does(USE)),
        last=jnp.where(fits, record, -1).astype(jnp.int32),
    )


def treated(state: State) -> Bool[Array, " o"]:
    """Whether an object is clean, hot or cool, as the task wants it to be; true of all where it wants nothing."""
    ways = jnp.stack([state.clean, state.hot, state.cool])
    wants = (state.task >= t.CLEAN) & (state.task <= t.COOL)
    return jnp.where(wants, ways[jnp.clip(state.task - t.CLEAN, 0, 2)], True)


def progress(state: State) -> Float[Array, ""]:
    """The share of the goal's conditions that hold, float32[], 1 exactly if the task is solved.

    A place: the wanted object is there. Clean, hot, cool: one half each for the state and the place, of one
    object. Two: one half for each in the same receptacle. Light: one half for a wanted object in hand, one for the
    lamp that is on where the agent is.
    """
    wanted = object_types(state) == state.target
    inside = (state.at >= 0) & (receptacle_types(state)[state.at] == state.goal) & (state.goal >= 0)
    ready = treated(state)
    wants = (state.task >= t.CLEAN) & (state.task <= t.COOL)
    one = jnp.max(jnp.where(wanted, jnp.where(wants, 0.5 * ready + 0.5 * inside, 1.0 * inside), 0.0))
    same = jnp.zeros(len(state.receptacles), jnp.int32).at[state.at].add(wanted & inside, mode="drop")
    two = jnp.minimum(same.max(), 2) / 2
    lit = (state.on & (object_types(state) == state.lamp) & (state.at == state.here) & (state.at >= 0)).any()
    light = 0.5 * (wanted & (state.at == HELD)).any() + 0.5 * lit
    share = jnp.where(state.task == t.TWO, two, jnp.where(state.task == t.LIGHT, light, one))
    return share.astype(jnp.float32)
