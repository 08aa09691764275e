"""What there is in a home, and what may be done with it: facts of ALFWorld's games as arrays.

Which object may lie where is upstream's VAL_RECEPTACLE_OBJECTS (alfworld/gen/constants.py, MIT); what may be
heated, cooled, cleaned, sliced and opened is its VAL_ACTION_OBJECTS. How many receptacles of a type a room has
follows its layouts (Openable.json) for the types counted there; the numbers of the rest are this project's choice.

Where it differs: objects that hold objects (box, mug, plate, pot) are only carried, nothing is put into them.
"""

from __future__ import annotations

import numpy as np

from envs_jax.heldout import name_is_test

ROOMS = ("kitchen", "living room", "bedroom", "bathroom")
TASKS = ("pick_and_place", "look_in_light", "clean_and_place", "heat_and_place", "cool_and_place", "pick_two")
PLACE, LIGHT, CLEAN, HEAT, COOL, TWO = range(len(TASKS))

_SURFACE = """alarmclock apple baseballbat basketball book bowl box bread butterknife candle cd cellphone cloth
creditcard
cup dishsponge egg fork glassbottle handtowel kettle keychain knife ladle laptop lettuce mug newspaper pan
papertowel pen
pencil peppershaker plate pot potato remotecontrol saltshaker soapbar soapbottle spatula spoon spraybottle statue
tennisracket tissuebox toiletpaper tomato vase watch wateringcan winebottle"""
_SEAT = "basketball book box cellphone cloth creditcard keychain laptop newspaper pillow remotecontrol"
_OFFICE = """alarmclock basketball book bowl box candle cd cellphone cloth creditcard cup glassbottle keychain
laptop mug
newspaper pen pencil plate remotecontrol spraybottle statue tennisracket tissuebox toiletpaper vase watch
wateringcan
winebottle"""
_LAMPS = " desklamp floorlamp"  # they stand on tables and cannot be carried

HOLDS = {
    "armchair": _SEAT,
    "bathtubbasin": "cloth dishsponge handtowel soapbar",
    "bed": "baseballbat basketball book cellphone laptop newspaper pillow tennisracket",
    "cabinet": """book bowl box candle cd cloth cup dishsponge glassbottle handtowel kettle ladle mug newspaper pan
    peppershaker plate plunger pot saltshaker soapbar soapbottle spraybottle tissuebox toiletpaper vase wateringcan
    winebottle""",
    "coffeemachine": "mug",
    "coffeetable": _SURFACE + _LAMPS,
    "countertop": _SURFACE,
    "desk": _OFFICE + " soapbottle" + _LAMPS,
    "diningtable": _SURFACE + _LAMPS,
    "drawer": """book butterknife candle cd cellphone cloth creditcard dishsponge fork handtowel keychain knife
    ladle
    newspaper pen pencil peppershaker remotecontrol saltshaker soapbar soapbottle spatula spoon spraybottle
    tissuebox
    toiletpaper watch wateringcan""",
    "dresser": _OFFICE + _LAMPS,
    "fridge": "apple bowl bread cup egg glassbottle lettuce mug pan plate pot potato tomato winebottle",
    "garbagecan": """apple bread cd cloth dishsponge egg handtowel lettuce newspaper papertowel pen pencil
    potato soapbar
    soapbottle spraybottle tissuebox toiletpaper tomato winebottle""",
    "handtowelholder": "handtowel",
    "laundryhamper": "cloth",
    "microwave": "apple bowl bread cup egg glassbottle mug plate potato tomato",
    "safe": "cd cellphone creditcard keychain statue vase watch",
    "shelf": """alarmclock book bowl box candle cd cellphone cloth creditcard cup dishsponge glassbottle
    handtowel kettle
    keychain mug newspaper papertowel pen pencil peppershaker plate pot remotecontrol saltshaker soapbar soapbottle
    spraybottle statue tissuebox toiletpaper vase watch wateringcan winebottle""",
    "sidetable": _SURFACE + _LAMPS,
    "sinkbasin": """apple bowl butterknife cloth cup dishsponge egg fork glassbottle handtowel kettle knife
    ladle lettuce
    mug pan plate pot potato soapbar spatula spoon tomato""",
    "sofa": _SEAT,
    "stoveburner": "kettle pan pot",
    "toilet": """candle cloth dishsponge handtowel newspaper papertowel soapbar soapbottle spraybottle tissuebox
    toiletpaper""",
    "toiletpaperhanger": "toiletpaper",
    "towelholder": "towel",
}
RECEPTACLES = tuple(HOLDS)
OBJECTS = tuple(sorted({name for text in HOLDS.values() for name in text.split()}))

# Receptacles of a room: least and most of a type.
COUNTS = (
    {"cabinet": (2, 28), "coffeemachine": (1, 1), "countertop": (1, 4), "diningtable": (0, 1), "drawer": (1, 27)}
    | {"fridge": (1, 1), "garbagecan": (1, 1), "microwave": (1, 1), "shelf": (0, 3), "sinkbasin": (1, 1)}
    | {"stoveburner": (2, 4)},
    {"armchair": (1, 3), "coffeetable": (1, 2), "diningtable": (0, 1), "drawer": (0, 19), "dresser": (0, 1)}
    | {"garbagecan": (1, 1), "safe": (0, 1), "shelf": (0, 14), "sidetable": (1, 5), "sofa": (1, 2)},
    {"armchair": (0, 1), "bed": (1, 2), "desk": (0, 2), "drawer": (1, 14), "dresser": (0, 1), "garbagecan": (1, 1)}
    | {"laundryhamper": (0, 1), "safe": (0, 1), "shelf": (0, 14), "sidetable": (0, 2)},
    {"bathtubbasin": (0, 1), "cabinet": (0, 9), "countertop": (0, 2), "drawer": (0, 8), "garbagecan": (1, 1)}
    | {"handtowelholder": (1, 2), "shelf": (0, 3), "sinkbasin": (1, 2), "toilet": (1, 1)}
    | {"toiletpaperhanger": (1, 1), "towelholder": (1, 1)},
)
# Objects of a room: those that are always there, and those that may be.
ALWAYS = (
    """bowl bread spoon apple egg fork knife plate mug peppershaker lettuce potato dishsponge spatula pot tomato
    soapbottle cup saltshaker pan""",
    "pillow laptop keychain creditcard box remotecontrol floorlamp",
    "pillow pen laptop cellphone alarmclock keychain creditcard cd book pencil desklamp",
    "toiletpaper candle handtowel towel soapbar spraybottle cloth soapbottle plunger",
)
SOMETIMES = (
    "butterknife ladle kettle winebottle vase statue glassbottle papertowel book pencil creditcard",
    "book newspaper watch statue vase tissuebox wateringcan plate bowl cellphone pen pencil candle desklamp",
    "baseballbat basketball tennisracket mug bowl watch cloth statue tissuebox vase laptop floorlamp",
    "dishsponge tissuebox papertowel",
)
MOST_ALIKE = 3  # objects of one type in a room


def _mask(names: tuple[str, ...], text: str) -> np.ndarray:
    return np.isin(names, text.split())


CAN_HOLD = np.array([_mask(OBJECTS, HOLDS[name]) for name in RECEPTACLES])  # bool[receptacle types, object types]
OPENABLE = _mask(RECEPTACLES, "fridge cabinet microwave drawer safe")
LAMP = _mask(OBJECTS, _LAMPS)
KNIFE = _mask(OBJECTS, "knife butterknife")
SLICEABLE = _mask(OBJECTS, "apple bread egg lettuce potato tomato")
HEATABLE = _mask(OBJECTS, "apple bread cup egg mug plate potato tomato")
COOLABLE = _mask(OBJECTS, "apple bowl bread cup egg lettuce mug pan plate pot potato tomato winebottle")
CLEANABLE = _mask(
    OBJECTS,
    """apple bowl butterknife cloth cup dishsponge egg fork kettle knife ladle lettuce mug pan plate pot potato
    soapbar
    spatula spoon tomato""",
)
TREATABLE = np.stack([CLEANABLE, HEATABLE, COOLABLE])  # in the order of the tasks CLEAN, HEAT, COOL
TOOLS = np.array([RECEPTACLES.index(name) for name in ("sinkbasin", "microwave", "fridge")])

LEAST = np.array([[room.get(name, (0, 0))[0] for name in RECEPTACLES] for room in COUNTS])  # [rooms, types]
MOST = np.array([[room.get(name, (0, 0))[1] for name in RECEPTACLES] for room in COUNTS])
ALWAYS_THERE = np.array([_mask(OBJECTS, text) for text in ALWAYS])  # bool[rooms, object types]
MAY_BE_THERE = np.array([_mask(OBJECTS, a + " " + s) for a, s in zip(ALWAYS, SOMETIMES, strict=True)])


def _words(names: tuple[str, ...], most: np.ndarray) -> tuple[tuple[str, ...], np.ndarray, np.ndarray]:
    """Names with numbers, and of each its type and its number from 1: ("bed 1", "bed 2", "desk 1"), [0, 0, 1],
    [1, 2, 1]."""
    pairs = [(i, k + 1) for i, name in enumerate(names) for k in range(most[i])]
    types, numbers = np.array(pairs, np.int32).T
    return tuple(f"{names[i]} {k}" for i, k in pairs), types, numbers


RECEPTACLE_WORDS, RECEPTACLE_TYPE, RECEPTACLE_NUMBER = _words(RECEPTACLES, MOST.max(axis=0))
OBJECT_WORDS, OBJECT_TYPE, OBJECT_NUMBER = _words(OBJECTS, np.full(len(OBJECTS), MOST_ALIKE))


def instances(task: int, split: str) -> np.ndarray:
    """All the tasks of a type, int32[n, 4]: room, object type, goal receptacle type (-1: none), lamp type (-1:
    none).

    An instance of the split is the triple of task type, object type and goal (a receptacle, or a lamp): the same
    triple in another room is the same instance. A hash of the names says that one in five is "test".
    """
    rows = []
    rooms = {LIGHT: (1, 2), CLEAN: (0, 3), HEAT: (0,), COOL: (0,)}.get(task, range(len(ROOMS)))
    for room in rooms:
        here = MOST[room] > 0
        for thing in np.flatnonzero(MAY_BE_THERE[room] & ~LAMP):
            if CLEAN <= task <= COOL and not TREATABLE[task - CLEAN, thing]:
                continue
            homes = np.flatnonzero(CAN_HOLD[:, thing] & here)
            if task == LIGHT:
                rows += [(room, thing, -1, lamp) for lamp in np.flatnonzero(LAMP & MAY_BE_THERE[room])]
            elif len(homes) > 1:  # one to fetch it from, and another to bring it to
                rows += [(room, thing, goal, -1) for goal in homes]
    chosen = [row for row in rows if split == "all" or _is_test(task, *map(int, row[1:])) == (split == "test")]
    return np.array(chosen, np.int32)


def _is_test(task: int, thing: int, goal: int, lamp: int) -> bool:
    text = f"{TASKS[task]} {OBJECTS[thing]} {OBJECTS[lamp] if goal < 0 else RECEPTACLES[goal]}"
    return name_is_test(text)
