"""NetHack and MiniHack: their text by hand, their keys, and a few steps of each game."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("nle")

from nle import nethack

from vldac.evaluate.balrog.environments import Spec, begin, nethack_text
from vldac.evaluate.balrog.environments.nethack_game import named
from vldac.evaluate.balrog.scoring import ACTIONS, progression
from vldac.evaluate.balrog.tasks import TASKS

FLOOR, WALL, DOORWAY, STAIRS = (nethack.GLYPH_CMAP_OFF + symbol for symbol in (19, 1, 12, 24))
JACKAL = next(index for index in range(nethack.NUMMONS) if nethack.permonst(index).mname == "jackal")
BLSTATS = np.zeros(27, np.int64)
BLSTATS[:2] = 40, 10


def tell(things):
    """The text of a bare floor with {(east, south): glyph} around the player."""
    glyphs = np.full((21, 79), FLOOR, np.int16)
    for (east, south), glyph in things.items():
        glyphs[10 + south, 40 + east] = glyph
    return nethack_text.surroundings(glyphs, BLSTATS)


def test_distances_and_directions():
    for (east, south), said in {
        (1, 0): "adjacent east",
        (2, -2): "very near northeast",
        (-1, 2): "very near southsouthwest",
        (5, 1): "near eastsoutheast",
        (-6, 0): "far west",
        (19, 0): "far east",
        (20, 0): "very far east",
    }.items():
        assert tell({(east, south): JACKAL}) == f"jackal {said}"


def test_many_of_a_kind_are_told_together():
    assert tell({(1, 0): JACKAL, (-1, 0): JACKAL, (0, 1): JACKAL}) == "jackal adjacent east, south, and west"
    assert tell({(3, 0): JACKAL, (4, 0): JACKAL, (0, 3): JACKAL}) == "jackal near south\njackals near east"
    assert tell({(1, 0): JACKAL, (9, 0): STAIRS}) == "stairs down far east\njackal adjacent east"


def test_walls_are_seen_along_rays_and_end_them():
    assert (
        tell({(2, 0): DOORWAY, (4, 0): WALL, (6, 0): DOORWAY}) == "vertical wall near east\ndoorway very near east"
    )
    assert tell({(2, 1): WALL}) == ""
    assert tell({(10, 0): WALL}) == ""
    assert tell({(2, 1): STAIRS}) == "stairs down very near eastsoutheast"


def test_creatures_and_things_have_names():
    pet, corpse = nethack.GLYPH_PET_OFF + JACKAL, nethack.GLYPH_BODY_OFF + JACKAL
    assert tell({(1, 0): pet, (0, 1): corpse}) == "tame jackal adjacent east\njackal corpse adjacent south"
    afar, near = nethack_text.names()
    assert len(afar) == len(near) == nethack.MAX_GLYPH
    assert not any(one and other for one, other in zip(afar, near, strict=True))
    assert afar[nethack.GLYPH_WARNING_OFF + 5] == "unknown creature causing you dread"


@pytest.mark.parametrize(
    ("name", "several"),
    [
        ("newt", "newts"),
        ("jelly", "jellies"),
        ("key", "keys"),
        ("fox", "foxes"),
        ("ghast", "ghasts"),
        ("arch-lich", "arch-lichs"),
        ("dwarf", "dwarves"),
        ("cutlass", "cutlasses"),
        ("Cerberus", "Cerberuses"),
        ("combat boots", "combat boots"),
        ("lava", "area of lava"),
        ("scroll labeled FOO", "scrolls labeled FOO"),
        ("worthless piece of red glass", "worthless pieces of red glass"),
    ],
)
def test_plurals(name, several):
    assert nethack_text.plural(name) == several


def screen(*lines):
    rows = np.full((24, 80), 32, np.uint8)
    for row, line in enumerate(lines):
        rows[row, : len(line)] = np.frombuffer(line.encode("latin-1"), np.uint8)
    return rows


def test_messages():
    assert nethack_text.message(screen("")) == ""
    assert nethack_text.message(screen("You see here a dagger.", "  ----")) == "You see here a dagger."
    assert nethack_text.message(screen("You die...--More--")) == "You die...--More--"
    menu = screen(" " * 30 + "Weapons", "-----", " " * 30 + "a - a dagger", " " * 30 + "(end)", "rest")
    assert nethack_text.message(menu) == "Weapons\na - a dagger\n(end)"
    assert nethack_text.message(screen("Things", "b", "(1 of 2)", "rest")) == "Things\nb\n(1 of 2)"


def test_the_bottom_line_and_the_inventory():
    blstats = np.arange(27)
    blstats[21], blstats[22], blstats[25], blstats[26] = 2, 1, 0b1_0000_0010_0001, -1
    lines = nethack_text.statistics(blstats).splitlines()
    assert lines[0] == "Strength: 3/2" and lines[13] == "Position: 0|1" and len(lines) == 22
    assert lines[14:17:2] == ["Hunger: Hungry", "Encumbrance: Burdened"]
    assert lines[20:] == ["Alignment: Chaotic", "Condition: Blind Riding Stoned"]
    strings = np.zeros((3, 8), np.uint8)
    strings[0, :3], strings[1, :2] = list(b"axe"), list(b"ya")
    assert nethack_text.inventory(strings, np.array([97, 98, 0], np.uint8)) == "a: axe\nb: ya"


def test_the_cursor():
    glyphs = np.full((21, 79), FLOOR, np.int16)
    glyphs[10, 40] = JACKAL
    glyphs[10, 41] = STAIRS
    assert nethack_text.cursor(glyphs, BLSTATS, np.array([11, 40])) == "Yourself a jackal"
    assert nethack_text.cursor(glyphs, BLSTATS, np.array([11, 41])) == "adjacent east stairs down"
    assert nethack_text.cursor(glyphs, BLSTATS, np.array([22, 40])) == ""


class TestNetHack:
    def test_keys(self):
        game = begin(Spec("nle", "NetHackChallenge-v0", 1))
        assert game.actions == ACTIONS["nle"]
        typed = {action: [int(game._env.actions[key]) for key in game._keys[action]] for action in game.actions}
        few = ("north", "far north", "far southwest", "esc", "more", "turnundead")
        assert {name: typed[name] for name in few} == {
            "north": [ord("k")],
            "far north": [ord("K")],
            "far southwest": [ord("B")],
            "esc": [27],
            "more": [13],
            "turnundead": [ord("t") | 0x80],
        }
        assert typed["a"] == [ord("a")] == typed["apply"]
        assert typed["07"] == [ord("0"), ord("7")]
        assert all(typed[letter] == [ord(letter)] for letter in game.actions if len(letter) == 1)

    def test_a_game(self):
        games = [begin(Spec("nle", "NetHackChallenge-v0", seed)) for seed in (1, 1, 2)]
        begun = [game.observation for game in games]
        assert begun[0].long_term == begun[1].long_term != begun[2].long_term
        names = [line[:-1] for line in begun[0].long_term.splitlines() if line.endswith(":")]
        assert names == ["message", "language observation", "cursor", "map"]
        assert begun[0].short_term.startswith("inventory:\na: ")
        steps = []
        for action in ("east", "inventory", "esc", "far west", "search"):
            observation, step = games[0].step(action)
            steps.append(step)
        assert (step["depth"], step["experience_level"], step["terminated"]) == (1, 1, False)
        assert progression("nle", steps) == 0
        assert "Dlvl:1" in observation.long_term.split("map:")[1]

    def test_pictures_take_the_place_of_the_map(self):
        observation = begin(Spec("nle", "NetHackChallenge-v0", 1, images=True)).observation
        assert observation.image.shape == (336, 1264, 3) and observation.image.any()
        assert "map:" not in observation.long_term
        assert observation.short_term.startswith("statistics:\nStrength: ")


class TestMiniHack:
    @pytest.fixture(autouse=True)
    def installed(self):
        pytest.importorskip("minihack")

    @pytest.mark.parametrize("task", [task for task in TASKS["minihack"] if "Boxoban" not in task])
    def test_each_task_begins_and_steps(self, task):
        game = begin(Spec("minihack", task, 3))
        assert game.max_steps == 100
        assert set(game.actions) <= set(ACTIONS["minihack"])
        assert all(f"\n{action}: " in game.instruction for action in game.actions)
        for _ in range(3):
            observation, told = game.step("north")
        assert set(told) == {"reward", "terminated", "truncated", "depth", "experience_level"}
        assert "language observation:" in observation.long_term

    def test_time_runs_out_after_100_steps(self):
        game = begin(Spec("minihack", "MiniHack-Corridor-R3-v0", 3))
        steps = [game.step("search")[1] for _ in range(100)]
        assert [step["terminated"] or step["truncated"] for step in steps] == [False] * 99 + [True]
        assert progression("minihack", steps) == 0

    def test_boxoban_with_levels_of_ones_own(self, tmp_path):
        (tmp_path / "hard").mkdir()
        wall, space = "#" * 10, "###    ###"
        rows = [wall, wall, space, "### $. ###", "### @  ###", space, wall, wall, wall, wall]
        (tmp_path / "hard" / "000.txt").write_text("\n".join(["; 0", *rows, "", ""]))
        game = begin(Spec("minihack", "MiniHack-Boxoban-Hard-v0", 0, boxoban_dir=tmp_path))
        assert "boulder adjacent north" in game.observation.long_term
        steps = [game.step(action)[1] for action in ("west", "north", "east")]
        assert [step["reward"] for step in steps] == [-0.001, -0.001, 1]
        assert steps[-1]["terminated"] and progression("minihack", steps) == 1


def test_names_of_keys():
    assert list(named([nethack.CompassCardinalDirection.N, nethack.CompassDirectionLonger.SE])) == [
        "north",
        "far southeast",
    ]
