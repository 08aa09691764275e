"""Actions with slots as an automaton over their JSON spelling, which tells their words while it reads.

* Every part of an action is a path or a trie. They are run side by side (subset construction), and what is told is
  told as soon as it is certain: behind "cup 1" it may be word "cup 1" or the beginning of "cup 11".
* Two actions that are spoken alike would be one: refused.
* What may be written is all that the grammar needs, and that is far less: `acceptor` forgets the words and merges
  positions with the same future, so that words share their endings and templates their tails.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from envs_jax import Slot
from envs_jax.world import PLACE
from vldac.text.automaton import encoded_actions, json_text

WORD = 2**20  # what is told is a number, place * WORD + id; place 0 is that of the action id
QUOTE = ord('"')

# An item is where one reading is: what is left of its action's parts, the first place of the part it is in, the
# node within that part, and the words before this one in its slot.
_Item = tuple[int, int, int, int]
_Told = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Speech:
    """A deterministic, acyclic automaton over the bytes between the quotes of an action, and its closing quote.

    Attributes:
      edges: position -> byte -> position; 0 is the start. The closing quote leads to `closed`.
      told: (position, byte) -> what is certain now: numbers, see WORD.
      closed: after the closing quote.
      places: n, words of the longest action.
    """

    edges: list[dict[int, int]]
    told: dict[tuple[int, int], _Told]
    closed: int
    places: int

    def acceptor(self) -> tuple[list[dict[int, int]], int, int]:
        """The smallest automaton for the same texts: (edges, start, closed)."""
        order, seen = [], set()  # every position behind all that it leads to
        stack = [(0, iter(self.edges[0].values()))]
        seen.add(0)
        while stack:
            position, targets = stack[-1]
            target = next((t for t in targets if t not in seen), None)
            if target is None:
                order.append(position)
                stack.pop()
            else:
                seen.add(target)
                stack.append((target, iter(self.edges[target].values())))
        merged: dict[tuple, int] = {}
        edges: list[dict[int, int]] = []
        number: dict[int, int] = {}
        for position in order:
            own = {byte: number[target] for byte, target in self.edges[position].items()}
            future = (position == self.closed, *sorted(own.items()))
            number[position] = merged.setdefault(future, len(edges))
            if number[position] == len(edges):
                edges.append(own)
        return edges, number[0], number[self.closed]


def speech(actions: Sequence[str], slots: Mapping[str, Slot]) -> Speech:
    """Compiles the actions of a world with slots.

    Raises:
      ValueError: two actions are spoken alike, an action or a word is not text, or one names an unknown slot.
    """
    encoded_actions(actions)
    parts_of, places = [], 0
    rests: dict[tuple, int] = {}
    for action in actions:
        parts = PLACE.split(action)
        unknown = set(parts[1::2]) - set(slots)
        if unknown:
            raise ValueError(f"action {action!r} has places {sorted(unknown)}; accepted: {', '.join(slots)}")
        parts = tuple((part, i % 2 == 1) for i, part in enumerate(parts) if part or i % 2)
        parts_of.append(parts)
        places = max(places, sum(slots[part].most for part, is_slot in parts if is_slot))
    tries = {name: _trie(slot.words) for name, slot in slots.items()}

    def rest(parts: tuple) -> int:
        return rests.setdefault(parts, len(rests))

    known: dict[_Item, tuple[list[tuple[int, _Item, _Told]], list[_Told]]] = {}

    def moves(item: _Item) -> tuple[list[tuple[int, _Item, _Told]], list[_Told]]:
        """What bytes may follow, where they lead and what they tell; and what is told if the action ends here."""
        if item not in known:
            number, place, node, count = item
            parts = listed[number]
            found, ends = [], []
            if not parts:
                ends.append(())
            elif not parts[0][1]:
                text = json_text(parts[0][0]).encode()
                after = (rest(parts[1:]), place, 0, 0) if node + 1 == len(text) else (number, place, node + 1, 0)
                found.append((text[node], after, ()))
            else:
                slot, (edges, words) = slots[parts[0][0]], tries[parts[0][0]]
                found += [(byte, (number, place, target, count), ()) for byte, target in edges[node].items()]
                if node in words:
                    word = ((1 + place + count) * WORD + words[node],)
                    if count + 1 < slot.most:
                        found.append((ord(" "), (number, place, 0, count + 1), word))
                    following, ended = moves((rest(parts[1:]), place + slot.most, 0, 0))
                    found += [(byte, target, word + told) for byte, target, told in following]
                    ends += [word + told for told in ended]
            known[item] = found, ends
        return known[item]

    listed: list[tuple] = []
    for parts in parts_of:  # every tail of every action
        for i in range(len(parts) + 1):
            if rest(parts[i:]) == len(listed):
                listed.append(parts[i:])

    # A position is the readings that are possible, each with what it has to tell that is not certain yet.
    begin = frozenset(((rest(parts), 0, 0, 0), (action,)) for action, parts in enumerate(parts_of))
    numbers, order = {begin: 0}, [begin]
    edges, told_at, closed = [], {}, -1
    for at, readings in enumerate(order):  # grows while it is walked
        reached: dict[int, dict[_Item, _Told]] = {}
        ends: list[_Told] = []
        for item, pending in readings:
            following, ended = moves(item)
            ends += [pending + told for told in ended]
            for byte, target, told in following:
                here = reached.setdefault(byte, {})
                if target in here:
                    raise _alike(actions, slots, here[target], pending + told)
                here[target] = pending + told
        if len(ends) > 1:
            raise _alike(actions, slots, *ends[:2])
        row: dict[int, int] = {}
        for byte, items in reached.items():
            certain = _common(list(items.values()))
            after = frozenset((item, told[certain:]) for item, told in items.items())
            if certain:
                told_at[at, byte] = next(iter(items.values()))[:certain]
            if after not in numbers:
                numbers[after] = len(order)
                order.append(after)
            row[byte] = numbers[after]
        if ends:
            row[QUOTE] = closed
            told_at[at, QUOTE] = ends[0]
        edges.append(row)
    closed = len(edges)
    edges = [{byte: closed if to < 0 else to for byte, to in row.items()} for row in edges]
    return Speech([*edges, {}], told_at, closed, places)


def _trie(words: Sequence[str]) -> tuple[list[dict[int, int]], dict[int, int]]:
    """(node -> byte -> node, node -> the word that ends there)."""
    edges: list[dict[int, int]] = [{}]
    ends: dict[int, int] = {}
    for word, spelled in enumerate(encoded_actions(words)):
        node = 0
        for byte in spelled:
            if byte not in edges[node]:
                edges[node][byte] = len(edges)
                edges.append({})
            node = edges[node][byte]
        ends[node] = word
    return edges, ends


def _common(told: list[_Told]) -> int:
    """How many numbers all begin with."""
    length = 0
    for column in zip(*told, strict=False):
        if len(set(column)) > 1:
            break
        length += 1
    return length


def _alike(actions: Sequence[str], slots: Mapping[str, Slot], one: _Told, two: _Told) -> ValueError:
    words = [str([number % WORD for number in told]) for told in (one, two)]
    return ValueError(
        f"actions {list(actions)} can be spoken alike, ids {words[0]} and {words[1]} begin with the same text; "
        "accepted: one reading for every text"
    )
