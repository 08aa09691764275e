"""Spatial questions: truths against slow computations, what is shown against the renderer's surfaces."""

from __future__ import annotations

import cmath
import math
import re
from collections import Counter
from itertools import pairwise

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import envs_jax
from envs_jax.miniworld.maze import MazePlan
from envs_jax.render import shapes
from vldac.evaluate import vsi_bench
from vldac.evaluate.benchmark import Question
from vldac.evaluate.samples import digest
from vldac.evaluate.spatial import TASKS, Spatial, geometry, questions, scenes
from vldac.evaluate.spatial.film import film, surfaces
from vldac.generate.request import Message, Reply, Request, Video, images_of

IMAGE = (96, 96)
EACH = 12
FILMED = 6  # scenes whose pictures are looked at


@pytest.fixture(scope="module")
def benchmark():
    return Spatial(EACH, seed=5, image_shape=IMAGE)


@pytest.fixture(scope="module")
def shares(benchmark):
    """Scene number -> float[frames, N], what share of each frame each thing covers in the picture itself."""
    known = {}

    def of(number):
        if number not in known:
            scene = benchmark.scene(number)
            seen = surfaces(scene, IMAGE)
            known[number] = np.stack(
                [(seen == thing).mean(axis=(1, 2)) for thing in range(len(scene.kind))], axis=1
            )
        return known[number]

    return of


def asked(benchmark, *tasks):
    return [(benchmark.scene(number), task, one) for number, task, _, one in benchmark.plan if task in tasks]


# ---------------------------------------------------------------- the plane


def outline(print_, count):
    """Points along a footprint's edge, [count, 2]."""
    if print_.radius:
        angle = np.linspace(0, 2 * np.pi, count, endpoint=False)
        return print_.corners + print_.radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    corners = np.concatenate([print_.corners, print_.corners[:1]])
    share = np.linspace(0, 1, count // 4)[:, None]
    return np.concatenate([a + share * (b - a) for a, b in pairwise(corners)])


things = st.tuples(
    st.sampled_from(sorted(geometry.DRAWN)), st.floats(0.2, 1.4), st.floats(-math.pi, math.pi), st.floats(0, 6.3)
)


@settings(max_examples=40, deadline=None)
@given(things, things, st.floats(3.0, 9.0))
def test_distance_is_that_of_the_nearest_points_of_two_outlines(a, b, apart):
    first = geometry.footprint(a[0], a[1], np.array([1.0, 2.0]), a[2])
    place = np.array([1.0, 2.0]) + apart * np.array([math.cos(b[3]), math.sin(b[3])])
    second = geometry.footprint(b[0], b[1], place, b[2])
    points = outline(first, 400)[:, None] - outline(second, 400)[None]
    assert geometry.distance(first, second) == pytest.approx(np.hypot(*points.T).min(), abs=0.02)


@settings(max_examples=60, deadline=None)
@given(*[st.floats(-9, 9)] * 2, *[st.floats(0.5, 9)] * 2, *[st.floats(-3.1, 3.1)] * 2)
def test_bearing_is_the_turn_to_the_left_seen_from_above(x, z, near, far, heading, turn):
    # z points down the page, so a plane with y up is its mirror image.
    at = np.array([x, z])
    facing = at + near * np.array([math.cos(heading), -math.sin(heading)])
    target = at + far * np.array([math.cos(heading + turn), -math.sin(heading + turn)])
    assert geometry.bearing(at, facing, target) == pytest.approx(math.degrees(turn), abs=1e-6)


@pytest.mark.parametrize("kind", sorted(geometry.DRAWN))
def test_footprints_are_of_what_is_drawn(kind):
    make = {"box": shapes.box, "ball": shapes.ball, "key": shapes.key}.get(kind)
    origin, white = jnp.zeros(3), jnp.ones(3)
    if kind == "box":
        made = make(origin, 0.0, white, white, True)
    elif make:
        made = make(origin, 0.0, 1.0, white, True)
    else:
        made = getattr(shapes, kind)(origin, 0.0, 1.0, True)
    boxes, balls, cones, panels = made.boxes, made.balls, made.cones, made.panels
    wide = np.maximum(cones.low_radius, cones.high_radius)
    flat = np.stack([wide, 0 * wide, wide], axis=1)
    up = np.array([0.0, 1.0, 0.0])
    lows = [boxes.centre - boxes.size / 2, balls.centre - balls.radii, cones.base - flat, panels.centre]
    highs = [boxes.centre + boxes.size / 2, balls.centre + balls.radii, cones.base + flat, panels.centre]
    highs[2] = highs[2] + np.asarray(cones.height)[:, None] * up
    low, high = np.concatenate(lows).min(axis=0), np.concatenate(highs).max(axis=0)
    np.testing.assert_allclose([low, high], geometry.DRAWN[kind], atol=2e-3)


# ---------------------------------------------------------------- what is shown


def test_what_is_clear_covers_its_share_and_what_is_not_maybe_seen_covers_nothing(benchmark, shares):
    checked = 0
    for number in range(FILMED):
        scene, share = benchmark.scene(number), shares(number)
        assert (share[scene.clear] >= 0.0015).all()
        assert not share[~scene.maybe].any()
        assert scene.clear.any(axis=0).all()
        checked += scene.clear.sum()
    assert checked > 60


def test_the_camera_never_stands_in_a_thing_or_outside_of_the_rooms(benchmark):
    for number in range(10):
        scene = benchmark.scene(number)
        gap = np.linalg.norm(scene.path[:, None, :2] - scene.position, axis=2)
        assert (gap >= scene.radius + 0.5).all()
        inside = [
            ((room.bounds[0] < scene.path[:, :2]) & (scene.path[:, :2] < room.bounds[1])).all(axis=1)
            for room in scene.plan.rooms
        ]
        assert np.any(inside, axis=0).mean() >= 1 - 1 / len(scene.path)  # one frame may be in the doorway


def test_order_of_appearance_is_that_of_the_pictures(benchmark, shares):
    for number, one in [(row[0], row[3]) for row in benchmark.plan if row[1] == "obj_appearance_order"][:6]:
        scene, share = benchmark.scene(number), shares(number)
        option = one.options["ABCD".index(one.truth)].partition(". ")[2]
        rows = [scene.names.index(name) for name in option.split(", ")]
        well, at_all = (share >= 0.0015).argmax(axis=0), (share > 0).argmax(axis=0)
        # Whoever takes a thing for seen at its first pixel, or not before it is well seen, says the same.
        for earlier, later in pairwise(rows):
            assert at_all[earlier] < at_all[later] and well[earlier] < at_all[later]


def test_a_film_is_of_the_walk(benchmark):
    scene = benchmark.scene(0)
    frames = film(scene, IMAGE)
    assert frames.shape == (16, *IMAGE, 3) and frames.dtype == np.uint8
    assert len({frame.tobytes() for frame in frames}) == 16


# ---------------------------------------------------------------- truths


def place_of(scene, name):
    assert scene.names.count(name) == 1, name
    return complex(scene.position[scene.names.index(name)] @ [1, -1j])  # seen from above with y up


def degrees_left(at, facing, target):
    return math.degrees(cmath.phase((target - at) / (facing - at)))


def slow_distance(scene, a, b):
    prints = [scene.footprints[scene.names.index(name)] for name in (a, b)]
    points = outline(prints[0], 400)[:, None] - outline(prints[1], 400)[None]
    return np.hypot(*points.T).min()


def test_numbers_are_those_of_the_plan(benchmark):
    for scene, task, one in asked(benchmark, *vsi_bench.NUMBER):
        truth = float(one.truth)
        if task == "object_counting":
            name = re.fullmatch(r"How many (.+)\(s\) are in this room\?", one.text)[1]
            assert truth == sum(other == name for other in scene.names) >= 2
        elif task == "object_abs_distance":
            a, b = re.search(r"between the (.+) and the (.+) \(in meters\)", one.text).groups()
            assert truth == pytest.approx(slow_distance(scene, a, b), abs=0.03)
        elif task == "object_size_estimation":
            row = scene.names.index(re.search(r"of the ([^,]+), measured in centimeters", one.text)[1])
            low, high = np.array(geometry.DRAWN[scene.kind[row]])
            assert truth == pytest.approx(100 * scene.height[row] * (high - low).max(), rel=0.03, abs=0.5)
        else:
            made = scenes.walls(scene.plan)
            # The shoelace formula over all walls; the doorway's two gaps cancel.
            (x0, z0), (x1, z1) = made[:, 0].T, made[:, 1].T
            assert truth == pytest.approx(abs((x0 * z1 - x1 * z0).sum()) / 2, rel=0.15)
            sides = [room.bounds[1] - room.bounds[0] for room in scene.plan.rooms]
            assert truth == pytest.approx(sum(x * z for x, z in sides), abs=0.05)


def test_the_nearest_is_the_nearest_by_far(benchmark):
    for scene, _, one in asked(benchmark, "object_rel_distance"):
        names, to = re.search(r"objects \((.+)\) is the closest to the (.+)\?", one.text).groups()
        names = names.split(", ")
        assert [option.partition(". ")[2] for option in one.options] == names
        metres = [slow_distance(scene, name, to) for name in names]
        assert int(np.argmin(metres)) == "ABCD".index(one.truth)
        assert sorted(metres)[1] - min(metres) >= questions.NEARER - 0.05


def test_directions_are_clear_and_the_same_all_around(benchmark):
    seen = Counter()
    for scene, task, one in asked(benchmark, *vsi_bench.DIRECTIONS):
        pattern = r"standing by the (.+) and facing the (.+), is the (.+?) to (?:the|my)"
        a, b, c = (place_of(scene, name) for name in re.search(pattern, one.text).groups())
        row = scene.names.index(re.search(pattern, one.text)[1])
        answer = one.options["ABCD".index(one.truth)].partition(". ")[2]
        spots = [a] + [a + scene.radius[row] * cmath.rect(1, t) for t in np.linspace(0, 6, 12)]
        for spot in spots:
            turn = degrees_left(spot, b, c)
            if task.endswith("easy"):
                here = "left" if turn > 0 else "right"
            elif task.endswith("medium"):
                here = "back" if abs(turn) >= 135 else "left" if turn > 0 else "right"
            else:
                here = ("front" if abs(turn) < 90 else "back") + ("-left" if turn > 0 else "-right")
            assert here == answer
        seen[task, answer] += 1
    assert all(seen[vsi_bench.DIRECTIONS[0], answer] == EACH // 2 for answer in questions.SIDES)
    assert all(seen[vsi_bench.DIRECTIONS[1], answer] == EACH // 3 for answer in questions.SECTORS)
    assert all(seen[vsi_bench.DIRECTIONS[2], answer] == EACH // 4 for answer in questions.QUADRANTS)


def test_routes_lead_to_the_destination_with_the_right_turns_and_no_other(benchmark):
    for scene, _, one in asked(benchmark, "route_planning"):
        start, facing, goal = re.search(
            r"beginning at the (.+) facing the (.+)\. You want to navigate to the (.+?)\.", one.text
        ).groups()
        steps = [
            step.strip(" .") for step in re.split(r"\d\. ", one.text.partition("): ")[2].partition(". You")[0])
        ]
        at = place_of(scene, start)
        for option in one.options:
            turns = iter(option.partition(". ")[2].split(", "))
            here, heading, walked = at, place_of(scene, facing) - at, True
            for step in filter(None, steps):
                if step == "[please fill in]":
                    heading *= {"Turn Left": 1j, "Turn Right": -1j, "Turn Back": -1}[next(turns)]
                    continue
                way = place_of(scene, step.removeprefix("Go forward until the ")) - here
                # Within 37 degrees of straight on is what one would walk.
                walked &= abs(math.degrees(cmath.phase(way / heading))) <= 37
                here, heading = here + way, way
            assert here == pytest.approx(place_of(scene, goal))
            assert walked == (option[0] == one.truth)


def test_asked_things_have_names_of_their_own_and_are_seen(benchmark, shares):
    for number, task, _, one in benchmark.plan:
        scene = benchmark.scene(number)
        if number < FILMED:
            assert all(shares(number).max(axis=0)[row] >= 0.0015 for row in one.about)
        if task != "object_counting":
            assert all(scene.names.count(scene.names[row]) == 1 for row in one.about)


# ---------------------------------------------------------------- the benchmark


def reply(text, finish_reason="stop"):
    return Reply(text, finish_reason, 1, 1)


@pytest.fixture(scope="module")
def few():
    """One question a task with its film."""
    benchmark = Spatial(1, seed=1, image_shape=IMAGE)
    return benchmark, list(benchmark.questions())


def test_questions_are_videos_with_the_prompt_of_vsi_bench(few):
    benchmark, rows = few
    assert len(rows) == len(benchmark) == 10
    assert Counter(row.task for row in rows) == dict.fromkeys(TASKS, 1)
    assert len({row.id for row in rows}) == 10
    for row in rows:
        (message,) = row.request.messages
        video, text = message.parts
        assert isinstance(video, Video) and video.frames.shape == (16, *IMAGE, 3)
        lines = text.split("\n")
        assert lines[0] == "These are frames of a video." and lines[1] == row.data["question"]
        if row.task in vsi_bench.CHOICE:
            assert lines[2] == "Options:" and lines[3:-1] == row.data["options"]
            assert lines[-1] == "Answer with the option's letter from the given choices directly."
        else:
            assert lines[2:] == ["Please answer the question using a single word or phrase."]
        assert row.request.max_tokens == 16


def test_no_film_is_rendered_for_questions_that_are_saved(few, monkeypatch):
    first, rows = few
    rendered = []
    monkeypatch.setattr(
        "vldac.evaluate.spatial.benchmark.film",
        lambda scene, shape: rendered.append(scene) or np.zeros((16, *shape, 3), np.uint8),
    )
    left = rows[-1]
    for one, other in zip(rows, first.questions({row.id for row in rows} - {left.id}), strict=True):
        assert digest(one) == digest(other)
        assert len(images_of(other.request.messages)) == (16 if other.id == left.id else 0)
    assert rendered == [first.scene(left.data["scene"])]


def test_the_same_numbers_give_the_same_questions(few, benchmark):
    first, rows = few
    again = Spatial(1, seed=1, image_shape=IMAGE)
    assert again.plan == first.plan
    for one, other in zip(rows[:2], again.questions(), strict=False):
        assert (one.id, one.truth, one.data) == (other.id, other.truth, other.data)
        video, same = (row.request.messages[0].parts[0] for row in (one, other))
        np.testing.assert_array_equal(video.frames, same.frames)
    fewer = Spatial(3, seed=5, image_shape=IMAGE, tasks=["route_planning", "object_counting"])
    kept = {(task, place): (number, one) for number, task, place, one in benchmark.plan}
    assert all(kept[task, place] == (number, one) for number, task, place, one in fewer.plan)
    assert first.plan[0] not in benchmark.plan  # another seed


def samples(benchmark, answer):
    """All questions of a plan answered, without their films."""
    made = []
    for number, task, place, one in benchmark.plan:
        request = Request((Message("user", ("?",)),))
        row = Question(f"{number}/{task}/{place}", task, request, one.truth)
        made.append(benchmark.judge(row, reply(answer(task, one))))
    return made


def test_whoever_knows_scores_100_and_a_constant_letter_is_at_chance(benchmark):
    figures = benchmark.summary(samples(benchmark, lambda task, one: one.truth))
    assert len(figures) == 9 and all(value == pytest.approx(100) for value in figures.values())
    for letter in "AB":
        figures = benchmark.summary(samples(benchmark, lambda task, one, letter=letter: letter))
        assert figures["object_rel_direction_accuracy"] == pytest.approx(100 * (1 / 2 + 1 / 3 + 1 / 4) / 3)
        for task in ("object_rel_distance", "route_planning", "obj_appearance_order"):
            assert figures[f"{task}_accuracy"] == pytest.approx(25)
        assert figures["object_counting_MRA:.5:.95:.05"] == 0


def test_no_constant_number_comes_far(benchmark):
    many = Spatial(30, seed=5, image_shape=IMAGE, tasks=vsi_bench.NUMBER)
    many._scenes = benchmark._scenes  # most are drawn already
    for task in vsi_bench.NUMBER:
        truths = [one.truth for _, _, one in asked(many, task)]
        best = max(
            np.mean([vsi_bench.score(f"{guess:.3g}", truth, task) for truth in truths])
            for guess in np.exp(np.linspace(math.log(0.5), math.log(200), 150))
        )
        assert best < 0.6  # of 96 each: 0.26 to 0.47


def test_replies_are_judged_as_vsi_bench_does(few):
    benchmark, rows = few
    row = next(row for row in rows if row.task == "object_counting")
    sample = benchmark.judge(row, reply(f" {row.truth} boxes"))
    assert sample.scores == {"official": 1.0, "lmms_eval": 1.0} and sample.extracted == row.truth
    sample = benchmark.judge(row, reply(f"There are {row.truth}", "length"))
    assert sample.scores == {"official": 0.0, "lmms_eval": 1.0} and "cut off" in sample.notes
    assert benchmark.judge(row, reply("")).extracted is None
    easy = [one for one in samples(benchmark, lambda *_: "A") if one.task == vsi_bench.DIRECTIONS[0]]
    assert set(benchmark.summary(easy)) == {"object_rel_direction_easy_accuracy", "overall"}
    assert benchmark.summary([]) == {}


def test_no_training_world_has_such_a_scene(benchmark):
    """Sides of rooms are none of MiniWorld's, and only there are so many things of several kinds."""
    for number in range(10):
        scene = benchmark.scene(number)
        for room in scene.plan.rooms:
            quarters = (room.bounds[1] - room.bounds[0]) / 0.25
            assert (np.abs(quarters - np.round(quarters)) > 0.1).all()
        assert len(scene.kind) >= 8 and len(set(scene.kind)) > 1
    for name in envs_jax.names():
        if name.startswith("miniworld/"):
            task = envs_jax.make(name).task
            sizes = [np.subtract(*room.bounds[::-1]) for room in task.plan.all_rooms if room.rectangular]
            assert isinstance(task.plan, MazePlan) or sizes
            np.testing.assert_allclose(np.array(sizes) * 4, np.round(np.array(sizes) * 4), atol=1e-6)
            kinds = {kind for thing in task.things for kind, _, _ in thing.kinds}
            assert len(task.things) < 8 or len(kinds) == 1


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"questions_per_task": 0}, "questions_per_task is 0; accepted: an int from 1"),
        ({"seed": -1}, "seed is -1; accepted"),
        ({"frames": 8}, "frames is 8; accepted: an int from 12"),
        ({"image_shape": (224, 224, 3)}, "image_shape is"),
        ({"image_shape": (224, 96)}, "accepted: a width of 3/4 to 2 heights"),
        ({"tasks": ["colour"]}, "tasks is colour; accepted: object_counting"),
        ({"tasks": []}, "tasks is empty; accepted"),
    ],
)
def test_bad_options_are_named(options, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        Spatial(**options)
