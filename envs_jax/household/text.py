"""The engine's sentences (ALFWorld's alfred.twl2) as ids of phrases, composed on the device."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from envs_jax.household import expert, rules
from envs_jax.household import tables as t
from envs_jax.household.rules import State

_WORDS = t.RECEPTACLE_WORDS + t.OBJECT_WORDS
_OBJECT = len(t.RECEPTACLE_WORDS)  # where the objects' words begin


def _a(word: str) -> str:
    return ("an " if word[0] in "aeiou" else "a ") + word


_FORMS = ("{}", "{}.", "{},", "a {},", "and a {}.", "a {}.")
PLAIN, ENDS, COMMA, ITEM, LAST_ITEM, ONLY_ITEM = range(len(_FORMS))
_PHRASES = [form.replace("a {}", "{}").format(_a(w) if "a {}" in form else w) for form in _FORMS for w in _WORDS]
_FIXED = (
    *t.RECEPTACLES,
    *(f"{name}." for name in t.RECEPTACLES),
    *t.OBJECTS,
    *(f"{name}." for name in t.OBJECTS),
    "Your task is to: put some",
    "Your task is to: look at",
    "Your task is to: put a clean",
    "Your task is to: put a hot",
    "Your task is to: put a cool",
    "Your task is to: put two",
    *("in", "under the", "You are in the middle of a room. Looking quickly around you, you see", "nothing."),
    *("Nothing happens.", "You arrive at", "You open the", "You close the", "You pick up the", "from the"),
    *("You move the", "to the", "You heat the", "You cool the", "You clean the", "using the", "You turn on the"),
    *("You sliced the", "with the", "On the", "you see", "The", "is closed.", "is open. In it, you see"),
    *("You are facing the", "Next to it, you see nothing.", "You are carrying:", "You are not carrying anything."),
    *("This is a", "hot", "cool", "cold", "clean", "hot and clean", "cool and clean", "sliced", "This", "is on."),
    *("is off.", "There's nothing special about"),
    "Available commands: look, inventory, go to (receptacle), open (receptacle), close (receptacle), take "
    "(object) from "
    "(receptacle), move (object) to (receptacle), examine (something), use (object), heat (object) with "
    "(receptacle), "
    "clean (object) with (receptacle), cool (object) with (receptacle), slice (object) with (object)",
    *(
        "want",
        "want clean",
        "want hot",
        "want cool",
        "want two",
        "want light on",
        "holding",
        "is at",
        "bring it to",
    ),
    *("I stand at", "put it away at", "use it at"),
)
PHRASES = tuple(_PHRASES) + _FIXED


def fixed(text: str) -> int:
    """The id of a phrase with no words in it."""
    return len(_PHRASES) + _FIXED.index(text)


def _rows(*texts: str) -> Array:
    return jnp.array([fixed(text) for text in texts], jnp.int32)


def receptacle(word: Int[Array, "*n"], form: int) -> Int[Array, "*n"]:
    """Phrase ids of receptacles' words, -1 for none."""
    return jnp.where(word >= 0, form * len(_WORDS) + word, -1).astype(jnp.int32)


def thing(word: Int[Array, "*n"], form: int) -> Int[Array, "*n"]:
    """Phrase ids of objects' words, -1 for none."""
    return jnp.where(word >= 0, form * len(_WORDS) + _OBJECT + word, -1).astype(jnp.int32)


def _list(write, words: Int[Array, " n"], shown: Bool[Array, " n"]) -> Int[Array, " m"]:
    """ "a mug 1, and a cup 2.", "a mug 1." or "nothing.": an id for each word, then one more."""
    count, last = jnp.sum(shown), len(shown) - 1 - jnp.argmax(shown[::-1])
    ends = jnp.arange(len(shown)) == last
    ids = jnp.where(
        ends, jnp.where(count > 1, write(words, LAST_ITEM), write(words, ONLY_ITEM)), write(words, ITEM)
    )
    nothing = jnp.where(count == 0, fixed("nothing."), -1)
    return jnp.append(jnp.where(shown, ids, -1), nothing).astype(jnp.int32)


def task(state: State) -> Int[Array, "4"]:
    """ "Your task is to: put a clean" "mug" "in" "cabinet."."""
    begins = _rows(*(text for text in _FIXED if text.startswith("Your task")))[state.task]
    lit = state.task == t.LIGHT
    end = jnp.where(
        lit,
        fixed(f"{t.OBJECTS[0]}.") + state.lamp,
        fixed(f"{t.RECEPTACLES[0]}.") + state.goal,
    )
    joint = jnp.where(lit, fixed("under the"), fixed("in"))
    return jnp.stack([begins, fixed(t.OBJECTS[0]) + state.target, joint, end]).astype(jnp.int32)


def _quality(state: State, index: Int[Array, ""]) -> Int[Array, "6"]:
    """What is said of an object that is examined: "This is a" "hot and clean" "sliced" "mug 1."."""
    clean, hot, cool, sliced = (x[index] for x in (state.clean, state.hot, state.cool, state.sliced))
    word = state.objects[index]
    lamp = jnp.asarray(t.LAMP)[rules.object_types(state)[index]]
    cold = jnp.where(sliced, fixed("cool"), fixed("cold"))
    alone = jnp.where(clean, fixed("clean"), -1)
    heat = jnp.where(hot, fixed("hot"), jnp.where(cool, cold, -1))
    both = jnp.where(hot, fixed("hot and clean"), jnp.where(cool, fixed("cool and clean"), alone))
    mark = jnp.where(clean, both, heat)
    special = (mark >= 0) | sliced
    begin = jnp.where(
        lamp, fixed("This"), jnp.where(special, fixed("This is a"), fixed("There's nothing special about"))
    )
    slices = jnp.where(sliced, fixed("sliced"), -1)
    name = jnp.where(lamp, thing(word, PLAIN), thing(word, ENDS))
    lit = jnp.where(lamp, jnp.where(state.on[index], fixed("is on."), fixed("is off.")), -1)
    return jnp.stack([begin, jnp.where(lamp, -1, mark), slices, name, lit, jnp.int32(-1)]).astype(jnp.int32)


def feedback(state: State) -> Int[Array, " n"]:
    """The engine's answer to the last command, 6 + max(R, O) + 1 ids."""
    action, first, second = state.last
    o_index = jnp.argmax(state.objects == first)
    place = jnp.where(state.here >= 0, state.receptacles[state.here], -1)
    kind = rules.receptacle_types(state)[state.here]
    openable = jnp.asarray(t.OPENABLE)[kind] & (state.here >= 0)
    closed = openable & ~state.is_open[state.here]
    none = jnp.int32(-1)
    held = state.at == rules.HELD

    def line(*ids):
        ids = [jnp.asarray(i, jnp.int32) for i in ids]
        return jnp.stack(ids + [none] * (6 - len(ids)))

    def content():  # "On the" "desk 1," "you see" / "The" "fridge 1" "is open. In it, you see" / ... "is closed."
        begin = jnp.where(openable, fixed("The"), fixed("On the"))
        name = jnp.where(openable, receptacle(place, PLAIN), receptacle(place, COMMA))
        end = jnp.where(closed, fixed("is closed."), fixed("is open. In it, you see"))
        return begin, name, jnp.where(openable, end, fixed("you see"))

    def pair(verb, joint, both=receptacle):
        return line(fixed(verb), thing(first, PLAIN), fixed(joint), both(second, ENDS))

    middle = state.here < 0
    room = fixed("You are in the middle of a room. Looking quickly around you, you see")
    carries = jnp.where(held.any(), fixed("You are carrying:"), fixed("You are not carrying anything."))
    hand = jnp.max(jnp.where(held, state.objects, -1))
    lines = {
        rules.GO: line(fixed("You arrive at"), receptacle(first, ENDS), *content()),
        rules.OPEN: line(fixed("You open the"), receptacle(first, ENDS), *content()),
        rules.CLOSE: line(fixed("You close the"), receptacle(first, ENDS)),
        rules.TAKE: pair("You pick up the", "from the"),
        rules.MOVE: pair("You move the", "to the"),
        rules.HEAT: pair("You heat the", "using the"),
        rules.COOL: pair("You cool the", "using the"),
        rules.CLEAN: pair("You clean the", "using the"),
        rules.USE: line(fixed("You turn on the"), thing(first, ENDS)),
        rules.SLICE: pair("You sliced the", "with the", thing),
        rules.EXAMINE_OBJECT: _quality(state, o_index),
        rules.EXAMINE_RECEPTACLE: line(*content()),
        rules.LOOK: jnp.where(
            middle,
            line(room),
            line(fixed("You are facing the"), receptacle(place, ENDS), fixed("Next to it, you see nothing.")),
        ),
        rules.INVENTORY: line(carries, thing(hand, ONLY_ITEM)),
        rules.HELP: line(fixed(next(text for text in _FIXED if text.startswith("Available")))),
    }
    table = jnp.stack([lines[i] for i in range(len(rules.ACTIONS))] + [line(fixed("Nothing happens."))])
    said = table[jnp.where(action >= 0, action, len(rules.ACTIONS))]
    size = max(len(state.objects), len(state.receptacles)) + 1
    lies = (state.at == state.here) & (state.objects >= 0)
    things = _padded(_list(thing, state.objects, lies), size)
    around = _padded(_list(receptacle, state.receptacles, state.receptacles >= 0), size)
    shows = jnp.isin(action, jnp.array([rules.GO, rules.OPEN, rules.EXAMINE_RECEPTACLE])) & ~closed
    tail = jnp.where(shows, things, jnp.where((action == rules.LOOK) & middle, around, -1))
    return jnp.concatenate([said, tail]).astype(jnp.int32)


def _padded(ids: Int[Array, " n"], size: int) -> Int[Array, " m"]:
    return jnp.pad(ids, (0, size - len(ids)), constant_values=-1)


def thought(state: State) -> Int[Array, "6"]:
    """ "want clean" "mug" "mug 1" "is at" "shelf 2" or "want clean" "mug" "holding" "mug 1" "bring it to"
    "sinkbasin 1"."""
    aim = expert.plan(state)
    wants = _rows("want", "want light on", "want clean", "want hot", "want cool", "want two")[state.task]
    item = state.objects[aim.item]
    place = receptacle(state.receptacles[aim.place], PLAIN)
    hand = jnp.max(jnp.where(state.at == rules.HELD, state.objects, -1))
    right = (jnp.asarray(t.OBJECT_TYPE)[hand] == state.target) & (hand >= 0)
    goes = jnp.where(right, fixed("bring it to"), fixed("put it away at"))
    kind = fixed(t.OBJECTS[0]) + state.target
    holding = jnp.stack([wants, kind, jnp.int32(fixed("holding")), thing(hand, PLAIN), goes, place])
    fetching = jnp.stack([wants, kind, thing(item, PLAIN), jnp.int32(fixed("is at")), place, jnp.int32(-1)])
    return jnp.where(aim.holding, holding, fetching).astype(jnp.int32)


def sentence(ids: Int[Array, " n"] | Int[np.ndarray, " n"]) -> str:
    """Phrase ids as text, on the host."""
    return " ".join(PHRASES[i] for i in np.asarray(ids) if i >= 0)
