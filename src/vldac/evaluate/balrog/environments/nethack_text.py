"""NetHack's screen in words, as "tame little dog adjacent east".

NLE has no such text any more; it is made here after the rules of what BALROG uses, from NLE's tables of names.
Source, whose behaviour is reproduced: ngoodger/nle-language-wrapper (MIT), src/main.cpp, in the version that is in
balrog-nle 0.9.0, oddities included, such as the plural "arch-lichs".
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

import numpy as np
from nle import nethack

WIDTH, HEIGHT = 79, 21  # of the map


def _split(names: str) -> tuple[str, ...]:
    return tuple(names.replace("\n", "").split(","))


_DISTANCES = _split("very far,far,near,very near,adjacent")
_DIRECTIONS = _split("""north,northnortheast,northeast,eastnortheast,east,eastsoutheast,southeast,southsoutheast,
south,southsouthwest,southwest,westsouthwest,west,westnorthwest,northwest,northnorthwest""")
_RAYS = ((1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1))
_REACH = 9  # steps that one looks along a ray

_CORNERS = _split("""top left,top center,top right,middle left,middle center,middle right,bottom left,
bottom center,bottom right""")
_EXPLOSION = tuple(f"explosion {corner}" for corner in _CORNERS)
_SWALLOW = tuple(f"swallow {corner}" for corner in _CORNERS if corner != "middle center")
_ZAP = _split("horizontal zap beam,vertical zap beam,left slant zap beam,right slant zap beam")
_WARNING = tuple(
    f"unknown creature causing you {feeling}"
    for feeling in ("worry", "concern", "anxiety", "disquiet", "alarm", "dread")
)

# NetHack's map symbols in their order.
_MAP = _split("""dark area,vertical wall,horizontal wall,northwest room corner,northeast room corner,
southwest corner,southeast corner,cross wall,t up wall,t down wall,t west wall,t east wall,doorway,
vertical open door,horizontal open door,vertical closed door,horizontal closed door,bars,tree,room floor,
dark room floor,corridor floor,lit corridor floor,stairs up,stairs down,ladder up,ladder down,alter,grave,throne,
sink,fountain,pool,ice,lava,vertical lowered drawbridge,horizontal lowered drawbridge,vertical raised drawbridge,
horizontal raised drawbridge,air floor,cloud floor,water floor,arrow trap,dart trap,falling rock trap,
squeaky board,bear trap,land mine,rolling boulder trap,sleeping gas trap,rust trap,fire trap,pit,spiked pit,hole,
trap door,teleportation trap,level teleporter,magic portal,web,statue trap,magic trap,anti magic trap,
polymorph trap,vibrating square,vertical beam,horizontal beam,left slant beam,right slant beam,dig beam,
flash beam,boom left,boom right,shield 1,shield 2,shield 3,shield 4,poison cloud,valid position""")
_MAP_NAMES = (*_MAP, *_SWALLOW)
_FLOORS = _split("room floor,dark room floor,corridor floor,lit corridor floor")
_SEEN_FROM_AFAR = _split("""horizontal closed door,vertical closed door,bars,tree,stairs up,stairs down,ladder up,
ladder down,alter,grave,throne,sink,fountain,pool,ice,lava,vertical raised drawbridge,
horizontal raised drawbridge""")
_BLOCKS = _MAP[: _MAP.index("doorway")]  # the view along a ray: walls and the dark

_MASSES = ("boots", "shoes", "scales", "lenses", "bars")  # are their own plurals
_PLURALS = {
    "can of grease": "cans of grease",
    "Master of Thieves": "Masters of Thieves",
    "ice": "area of ice",
    "lava": "area of lava",
}
# Words at a name's start that take the plural's s.
_FIRST_WORDS = _split("boom,shield,swallow,scroll,worthless piece,unknown creature")

# By their bits, in the order in which they are told: that of the original's hash table.
_CONDITIONS = {
    11: "Flying",
    10: "Levitating",
    9: "Hallucinating",
    8: "Confused",
    7: "Stunned",
    6: "Deaf",
    5: "Blind",
    4: "Terminally Ill",
    3: "Food Poisoning",
    2: "Strangled",
    1: "Slimed",
    12: "Riding",
    0: "Stoned",
}
_HUNGER = _split("Satiated,Not Hungry,Hungry,Weak,Fainting,Fainted,Starved")
_ENCUMBRANCE = _split("Unencumbered,Burdened,Stressed,Strained,Overtaxed,Overloaded")
_ALIGNMENT = {-128: "None", -1: "Chaotic", 0: "Neutral", 1: "Lawful"}


def surroundings(glyphs: np.ndarray, blstats: np.ndarray) -> str:
    """What is on the map, one kind of thing at one distance a line, the farthest first.

    Creatures, things and some features are seen anywhere; walls, doorways and traps along eight rays.

    Args:
      glyphs: int16[21, 79].
      blstats: int64[27], the bottom line; the first two are the player's column and row.
    """
    x, y = int(blstats[0]), int(blstats[1])
    afar, near = names()
    found = []  # (name, distance, direction)
    for row, column in np.ndindex(HEIGHT, WIDTH):
        name = afar[glyphs[row, column]]
        if name and (column, row) != (x, y):
            found.append((name, *place(column - x, y - row)))
    for dx, dy in _RAYS:
        for step in range(1, _REACH + 1):
            column, row = x + step * dx, y + step * dy
            if not (0 <= column < WIDTH and 0 <= row < HEIGHT):
                break
            name = near[glyphs[row, column]]
            if name:
                found.append((name, *place(column - x, y - row)))
                if name in _BLOCKS:
                    break
    found.sort(key=lambda entry: (_DISTANCES.index(entry[1]), _DIRECTIONS.index(entry[2])))

    together: dict[tuple[str, str], list[str]] = {}
    for name, distance, direction in found:
        together.setdefault((name, distance), []).append(direction)
    lines = []
    for (name, distance), directions in together.items():
        single = [direction for direction in directions if directions.count(direction) == 1]
        several = [direction for direction in dict.fromkeys(directions) if direction not in single]
        if single:
            lines.append(f"{name} {distance} {_listed(single)}")
        if several:
            lines.append(f"{plural(name)} {distance} {_listed(several)}")
    return "\n".join(lines)


def cursor(glyphs: np.ndarray, blstats: np.ndarray, tty_cursor: np.ndarray) -> str:
    """What the cursor is on: "Yourself a samurai", "adjacent east jackal"; "" off the map."""
    x, y = int(blstats[0]), int(blstats[1])
    column, row = int(tty_cursor[1]), int(tty_cursor[0]) - 1
    index = column + row * WIDTH
    if not 0 < index < WIDTH * HEIGHT:
        return ""
    name = names()[0][glyphs.flat[index]]
    if (column, row) == (x, y):
        return f"Yourself a {name}"
    return f"{' '.join(place(column - x, y - row))} {name}"


def message(tty_chars: np.ndarray) -> str:
    """The top line; or the lines of a menu or of a text of several pages, up to what marks its page's end.

    Args:
      tty_chars: uint8[24, 80].
    """
    rows = [bytes(row).decode("latin-1") for row in tty_chars]
    top = _trim(rows[0])
    if not top:
        return ""
    indent = len(rows[0]) - len(rows[0].lstrip(" "))
    lines = []
    for row in rows:
        line = _trim(row[indent:])
        if line:
            lines.append(line)
        of = line.find(" of ")
        page = of >= 2 and line[of - 2] == "(" and line[of + 5 : of + 6] == ")"
        if page or "--More--" in line or "(end)" in line:
            return "\n".join(lines)
    return top


def statistics(blstats: np.ndarray) -> str:
    """The bottom line, spelt out."""
    b = [int(value) for value in blstats]
    conditions = [name for bit, name in _CONDITIONS.items() if b[25] >> bit & 1]
    return (
        f"Strength: {b[3]}/{b[2]}\nDexterity: {b[4]}\nConstitution: {b[5]}\nIntelligence: {b[6]}\nWisdom: {b[7]}\n"
        f"Charisma: {b[8]}\nDepth: {b[12]}\nGold: {b[13]}\nHP: {b[10]}/{b[11]}\nEnergy: {b[14]}/{b[15]}\n"
        f"AC: {b[16]}\nXP: {b[18]}/{b[19]}\nTime: {b[20]}\nPosition: {b[0]}|{b[1]}\nHunger: {_HUNGER[b[21]]}\n"
        f"Monster Level: {b[17]}\nEncumbrance: {_ENCUMBRANCE[b[22]]}\nDungeon Number: {b[23]}\n"
        f"Level Number: {b[24]}\nScore: {b[9]}\nAlignment: {_ALIGNMENT.get(b[26], '')}\n"
        f"Condition: {' '.join(conditions) or 'None'}"
    )


def inventory(inv_strs: np.ndarray, inv_letters: np.ndarray) -> str:
    """ "a: a +0 katana (weapon in hand)", line by line."""
    lines = []
    for letter, text in zip(inv_letters, inv_strs, strict=True):
        if letter == 0:
            break
        words = bytes(text).partition(b"\0")[0].decode("latin-1")
        lines.append(f"{chr(letter)}: {words}")
    return "\n".join(lines)


@functools.cache
def place(east: int, north: int) -> tuple[str, str]:
    """(distance, direction) of an offset, such as ("near", "eastnortheast")."""
    diagonal = min(abs(east), abs(north))
    straight_east, straight_north = abs(east) - diagonal, abs(north) - diagonal
    vertical, horizontal = "north" if north > 0 else "south", "east" if east > 0 else "west"
    direction = vertical * (straight_north > 0) + horizontal * (straight_east > 0)
    direction += (vertical + horizontal) * (diagonal > 0)
    steps = max(abs(east), abs(north))
    if steps == 0 or steps >= 20:
        return "very far", direction
    return ("adjacent", "very near", "near", "near", "near", "far")[min(steps, 6) - 1], direction


def plural(name: str) -> str:
    if name.endswith(_MASSES):
        return name
    if name in _PLURALS:
        return _PLURALS[name]
    for words in _FIRST_WORDS:
        if name.startswith(f"{words} "):
            return f"{words}s{name[len(words) :]}"
    if name[-1] == "y" and name[-2] not in "aeiou":
        return f"{name[:-1]}ies"
    if name[-1] in "zx" or name[-2:] in ("sh", "ss"):
        return f"{name}es"
    if name[-1] == "f":
        return f"{name[:-2] if name[-2] == 'f' else name[:-1]}ves"
    return f"{name}es" if name[-1] == "s" else f"{name}s"


@functools.cache
def names() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(names of what is seen from afar, of what is only seen along a ray), of each glyph, "" for none."""
    afar, near = [""] * nethack.MAX_GLYPH, [""] * nethack.MAX_GLYPH
    creatures = [nethack.permonst(index).mname for index in range(nethack.NUMMONS)]
    n = nethack
    for index, creature in enumerate(creatures):
        afar[n.GLYPH_MON_OFF + index] = creature
        afar[n.GLYPH_PET_OFF + index] = f"tame {creature}"
        afar[n.GLYPH_DETECT_OFF + index] = f"detected {creature}"
        afar[n.GLYPH_BODY_OFF + index] = f"{creature} corpse"
        afar[n.GLYPH_RIDDEN_OFF + index] = f"ridden {creature}"
        afar[n.GLYPH_STATUE_OFF + index] = f"{creature} statue"
    afar[n.GLYPH_INVIS_OFF] = "invisible creature"
    for index in range(n.NUM_OBJECTS):
        afar[n.GLYPH_OBJ_OFF + index] = _thing(index)
    for index in range(n.GLYPH_EXPLODE_OFF - n.GLYPH_CMAP_OFF):
        name = _MAP_NAMES[index]
        if name in _SEEN_FROM_AFAR:
            afar[n.GLYPH_CMAP_OFF + index] = name
        elif name not in _FLOORS:
            near[n.GLYPH_CMAP_OFF + index] = name
    cycles = (
        (n.GLYPH_EXPLODE_OFF, n.GLYPH_ZAP_OFF, _EXPLOSION),
        (n.GLYPH_ZAP_OFF, n.GLYPH_SWALLOW_OFF, _ZAP),
        (n.GLYPH_SWALLOW_OFF, n.GLYPH_WARNING_OFF, _SWALLOW),
        (n.GLYPH_WARNING_OFF, n.GLYPH_STATUE_OFF, _WARNING),
    )
    for start, end, cycle in cycles:
        for glyph in range(start, end):
            afar[glyph] = cycle[(glyph - start) % len(cycle)]
    return tuple(afar), tuple(near)


def _thing(index: int) -> str:
    """An object's name as it looks, before it is identified."""
    described = nethack.objdescr.from_idx(index)
    name, looks = described.oc_name or "", described.oc_descr or ""
    kind = ord(nethack.objclass(index).oc_class)
    suffixes: Mapping[int, str] = {
        nethack.RING_CLASS: "ring",
        nethack.POTION_CLASS: "potion",
        nethack.SPBOOK_CLASS: "spellbook",
        nethack.WAND_CLASS: "wand",
    }
    if kind in suffixes:
        return f"{looks} {suffixes[kind]}"
    if kind in (nethack.ARMOR_CLASS, nethack.TOOL_CLASS):
        return looks or name
    if kind == nethack.AMULET_CLASS:
        return looks if "Amulet" in looks else f"{looks} amulet"
    if kind == nethack.FOOD_CLASS:
        return name + looks
    if kind == nethack.SCROLL_CLASS:
        return f"scroll labeled {looks}"
    if kind == nethack.GEM_CLASS:
        return name if looks in name else f"{looks} {name}"
    return f"splash of {name}" if kind == nethack.VENOM_CLASS else name


def _trim(line: str) -> str:
    """Without blanks around; and "" for a single character in the last column."""
    return "" if len(line) - len(line.lstrip(" \x1a")) == len(line) - 1 else line.strip(" \x1a")


def _listed(directions: list[str]) -> str:
    if len(directions) < 3:
        return " and ".join(directions)
    return f"{', '.join(directions[:-1])}, and {directions[-1]}"
