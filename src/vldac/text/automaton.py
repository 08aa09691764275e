"""Answers as byte automata: `{"thoughts": "...", "action": "..."}`, written strictly or found in any text.

* An answer object is JSON (RFC 8259) in valid UTF-8 with exactly these two keys in this order. The thoughts are
  any JSON string. The action is spelled as `json.dumps(action, ensure_ascii=False)` spells it: one spelling an
  action, so that actions are a trie.
* `writer` accepts nothing but one object without optional whitespace: what is sampled under the grammar mask.
* `finder` reads any bytes, JSON whitespace allowed, and reports every object at the byte that completes it.
* Actions with slots (`Speech`) are all reported as action 0: which one it is, is read when the answer has ended.
* Transitions report the action, positions do not remember it: with A actions that keeps A times fewer of them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from vldac.text.speech import Speech

WHITESPACE = b" \t\n\r"
HEX = b"0123456789abcdefABCDEF"
DEAD = -1  # while building: no transition


@dataclass(frozen=True, eq=False)
class ByteAutomaton:
    """A deterministic automaton over bytes; position 0 is the start.

    Attributes:
      next_position: int32[Q, 256].
      names: int32[Q, 256], the action of the answer that this byte completes, -1 = none.
      complete: bool[Q], a whole answer has been written and nothing may follow; never in a finder.
      dead: the position that no answer can be reached from; -1 in a finder, which has none.
      inside: bool[Q], behind the quote that opens an action, and before the `}` that ends its object.
    """

    next_position: np.ndarray
    names: np.ndarray
    complete: np.ndarray
    dead: int
    inside: np.ndarray

    def run(self, text: bytes) -> tuple[int, int]:
        """Byte by byte, for people and tests: (position, the action of the last answer completed or -1)."""
        position, action = 0, -1
        for byte in text:
            named = self.names[position, byte]
            position, action = int(self.next_position[position, byte]), int(named) if named >= 0 else action
        return position, action


def writer(actions: Sequence[str] | Speech) -> ByteAutomaton:
    """Accepts `{"thoughts": "` STRING `", "action": "` ACTION `"}`, the object that `json.dumps` would write.

    Lone surrogate escapes are left out of STRING, so that the parsed text can be encoded again; so are
    surrogate pairs, whose characters can be written as they are.
    """
    answer = _Object(actions, whitespace=False, surrogates=False)
    positions = len(answer.edges)
    dead = positions
    table = np.full((positions + 1, 256), dead, np.int32)
    for position, edges in enumerate(answer.edges):
        for byte, target in edges.items():
            table[position, byte] = target
    return ByteAutomaton(
        next_position=table,
        names=_names(answer.names, positions + 1),
        complete=np.arange(positions + 1) == answer.done,
        dead=dead,
        inside=np.array([*map(answer.inside, range(positions)), False]),
    )


def finder(actions: Sequence[str] | Speech) -> ByteAutomaton:
    """Finds answer objects anywhere in any bytes.

    Subset construction: a position is the set of places in the object at which a reading begun at some `{` may
    now be; every byte also begins one anew. A reading that meets a byte which it does not allow is dropped, so
    the set holds precisely the readings of substrings that end here and may still become objects, and a byte
    completes a reading if and only if some substring that ends with it is an object. Whoever keeps the last
    action reported has that of the object which ends last.

    A byte can not complete two readings with different actions: both names would end at the same quote, and the
    quote that opens the shorter one, which follows a colon or whitespace, would lie inside the longer one, where
    every quote follows a backslash.
    """
    answer = _Object(actions, whitespace=True, surrogates=True)
    alike: dict[tuple, list[int]] = {}  # bytes that no place tells apart
    for byte in range(256):
        alike.setdefault(tuple(edges.get(byte, DEAD) for edges in answer.edges), []).append(byte)

    numbers: dict[frozenset[int], int] = {frozenset(): 0}
    order, rows, named = [frozenset[int]()], [], {}
    for position, places in enumerate(order):  # grows while it is walked
        row = np.zeros(256, np.int32)
        for members in alike.values():
            byte = members[0]
            reached = {answer.edges[place].get(byte, DEAD) for place in (0, *places)} - {DEAD}
            if answer.done in reached:
                place = next(place for place in places if answer.edges[place].get(byte, DEAD) == answer.done)
                named |= {(position, member): answer.names[place, byte] for member in members}
            after = frozenset(reached - {answer.done})
            if after not in numbers:
                numbers[after] = len(order)
                order.append(after)
            row[members] = numbers[after]
        rows.append(row)
    return ByteAutomaton(
        next_position=np.stack(rows),
        names=_names(named, len(rows)),
        complete=np.zeros(len(rows), bool),
        dead=-1,
        inside=np.array([any(map(answer.inside, places)) for places in order]),
    )


def encoded_actions(actions: Sequence[str]) -> list[bytes]:
    """The actions as they stand between the quotes of an answer.

    Raises:
      ValueError: no actions, an empty one, one twice, or one that is not text.
    """
    if isinstance(actions, str) or not actions:
        raise ValueError(f"actions is {actions!r}; accepted: at least one name")
    encoded = []
    for action in actions:
        if not action:
            raise ValueError(f"action {action!r}; accepted: a string that is not empty")
        try:
            encoded.append(json_text(action).encode())
        except UnicodeEncodeError as error:
            raise ValueError(f"action {action!r} has a lone surrogate, which is not text") from error
    repeated = sorted({action for action in actions if list(actions).count(action) > 1})
    if repeated:
        raise ValueError(f"actions has {repeated} more than once; accepted: every name once")
    return encoded


def json_text(text: str) -> str:
    """What stands between the quotes of a JSON string."""
    return json.dumps(text, ensure_ascii=False)[1:-1]


class _Object:
    """The places in one answer object and the bytes between them; place 0 is before its `{`.

    Attributes:
      edges: place -> byte -> place.
      done: the place after its `}`.
      names: (place, byte) -> the action of the object that this byte completes.
    """

    def __init__(self, actions: Sequence[str] | Speech, whitespace: bool, surrogates: bool):
        self.edges: list[dict[int, int]] = [{}]
        self.whitespace = whitespace
        self.surrogates = surrogates
        place = self.gap(self.literal(0, b"{"))
        place = self.gap(self.literal(place, b'"thoughts"'))
        place = self.gap(self.literal(place, b":"), b" ")
        place = self.gap(self.string(self.literal(place, b'"')))
        place = self.gap(self.literal(place, b","), b" ")
        place = self.gap(self.literal(place, b'"action"'))
        place = self.gap(self.literal(place, b":"), b" ")
        place = self.opened = self.literal(place, b'"')
        self.names: dict[tuple[int, int], int] = {}
        self.done = self.place()
        if not isinstance(actions, Sequence):
            self.graft(place, *actions.acceptor())
            return
        for action, spelled in enumerate(encoded_actions(actions)):
            last = self.gap(self.literal(place, spelled + b'"'))
            self.edges[last][ord("}")] = self.done
            self.names[last, ord("}")] = action

    def inside(self, place: int) -> bool:
        return place >= self.opened and place != self.done

    def graft(self, place: int, edges: list[dict[int, int]], start: int, closed: int) -> None:
        """Lets the texts of an acceptor follow, each with its closing quote."""
        places = [place if i == start else self.place() for i in range(len(edges))]
        for position, row in enumerate(edges):
            self.edges[places[position]] |= {byte: places[target] for byte, target in row.items()}
        last = self.gap(places[closed])
        self.edges[last][ord("}")] = self.done
        self.names[last, ord("}")] = 0

    def place(self) -> int:
        self.edges.append({})
        return len(self.edges) - 1

    def link(self, place: int, allowed: bytes | range, target: int) -> None:
        self.edges[place] |= dict.fromkeys(allowed, target)

    def literal(self, place: int, text: bytes) -> int:
        """The place after `text`; what is there already is shared, which makes a trie of several literals."""
        for byte in text:
            if byte not in self.edges[place]:
                self.edges[place][byte] = self.place()
            place = self.edges[place][byte]
        return place

    def gap(self, place: int, canonical: bytes = b"") -> int:
        """Where JSON allows whitespace: any, or precisely `canonical`."""
        if not self.whitespace:
            return self.literal(place, canonical)
        self.link(place, WHITESPACE, place)
        return place

    def string(self, inside: int) -> int:
        """The contents of a JSON string in UTF-8 (RFC 3629) begun at `inside`, up to its closing quote."""
        self.link(inside, range(0x20, 0x80), inside)
        last, middle, first = self.place(), self.place(), self.place()  # one, two, three more bytes of a character
        self.link(last, range(0x80, 0xC0), inside)
        self.link(middle, range(0x80, 0xC0), last)
        self.link(first, range(0x80, 0xC0), middle)
        self.link(inside, range(0xC2, 0xE0), last)
        self.link(inside, range(0xE1, 0xF0), middle)
        self.link(inside, range(0xF1, 0xF4), first)
        # Second bytes that are restricted: no overlong forms, no surrogates, nothing above U+10FFFF.
        for lead, second, target in (
            (0xE0, range(0xA0, 0xC0), last),
            (0xED, range(0x80, 0xA0), last),
            (0xF0, range(0x90, 0xC0), middle),
            (0xF4, range(0x80, 0x90), middle),
        ):
            self.edges[inside][lead] = self.place()
            self.link(self.edges[inside][lead], second, target)

        escape = self.edges[inside][ord("\\")] = self.place()
        self.link(escape, b'"\\/bfnrt', inside)
        unicode = self.edges[escape][ord("u")] = self.place()
        fourth, third, second = self.place(), self.place(), self.place()
        self.link(unicode, HEX, second)
        self.link(second, HEX, third)
        self.link(third, HEX, fourth)
        self.link(fourth, HEX, inside)
        if not self.surrogates:
            below = self.place()  # after \ud: 0 to 7 only
            self.link(unicode, b"dD", below)
            self.link(below, b"01234567", third)

        self.edges[inside][ord('"')] = self.place()
        return self.edges[inside][ord('"')]


def _names(named: dict[tuple[int, int], int], positions: int) -> np.ndarray:
    table = np.full((positions, 256), -1, np.int32)
    for (position, byte), action in named.items():
        table[position, byte] = action
    return table
