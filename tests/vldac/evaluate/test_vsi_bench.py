"""VSI-Bench's scores by hand, and against a slow version written from the published rules."""

from __future__ import annotations

import math
import random
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vldac.evaluate.vsi_bench import CHOICE, NUMBER, aggregate, score, score_lmms_eval

COUNT, ROUTE = "object_counting", "route_planning"


@pytest.mark.parametrize(
    ("prediction", "want"),
    [
        ("A", 1),
        ("a", 1),
        ("A.", 1),
        ("A...", 1),
        ("A. Left", 1),
        ("A \n", 1),
        ("A\n", 1),
        ("\nA", 1),
        (" A", 0),  # nothing stands before the first space
        ("A.\n", 0),  # the full stop is not at the end when full stops are taken off
        ("A\nbecause", 0),
        ("A) left", 0),
        ("(A)", 0),
        ("**A**", 0),
        ("Answer: A", 0),
        ("B", 0),
        ("", 0),
    ],
)
def test_a_choice_is_what_stands_before_the_first_space(prediction, want):
    assert score(prediction, "A", ROUTE) == want
    assert score_lmms_eval(prediction, "A", ROUTE) == want


@pytest.mark.parametrize(
    ("prediction", "truth", "want"),
    [
        ("4", "4", 1.0),
        ("4.0", "4", 1.0),
        ("4.", "4", 1.0),
        ("4.\n", "4", 1.0),
        ("4 chairs", "4", 1.0),
        ("4. There are", "4", 1.0),
        ("\t4", "4", 1.0),
        ("0_4", "4", 1.0),
        ("4e0", "4", 1.0),
        ("\u0664", "4", 1.0),  # an Arabic four
        ("4m", "4", 0.0),
        ("4\nchairs", "4", 0.0),
        ("~4", "4", 0.0),
        ("four", "4", 0.0),
        ("There are 4", "4", 0.0),
        ("", "4", 0.0),
        ("nan", "4", 0.0),
        ("inf", "4", 0.0),
        ("-inf", "4", 0.0),
        ("1e999", "4", 0.0),
        ("-4", "4", 0.0),
        ("3", "4", 0.6),  # error .25: within 50, 45, 40, 35, 30 and 25 %
        ("5", "4", 0.6),
        ("2", "4", 0.1),  # error .5: within the widest alone
        ("6", "4", 0.1),
        ("7", "4", 0.0),
        ("3.9", "4", 1.0),  # error .025: within all ten
        ("3", "5", 0.3),  # error .4
    ],
)
def test_a_number_keeps_so_many_of_ten_tolerances(prediction, truth, want):
    assert score(prediction, truth, COUNT) == want


def test_a_boundary_is_decided_by_the_official_floats():
    # The tolerances of 10 and 5 % lie just above, that of 20 % just below.
    assert score("9", "10", COUNT) == 0.9
    assert score("19", "20", COUNT) == 1.0
    assert score("12", "10", COUNT) == 0.6  # an error of 0.2; exact arithmetic gives 0.7
    assert score("1.2", "1", COUNT) == 0.7  # an error of 0.19999999999999996, which is that tolerance


def slow_number(answer: str, truth: str) -> float:
    """The paper's formula, one tolerance at a time, on the floats that the official code compares."""
    try:
        error = abs(float(answer) - float(truth)) / float(truth)
    except ValueError:
        return 0.0
    kept = sum(1 for theta in np.linspace(0.5, 0.95, 10).tolist() if error <= 1 - theta)
    return kept / 10


@given(st.integers(1, 400), st.integers(1, 400), st.sampled_from([1, 10, 100]))
@settings(max_examples=300)
def test_numbers_agree_with_the_slow_version(number, truth, scale):
    answer, target = str(number / scale), str(truth / scale)
    assert score(answer, target, "object_abs_distance") == slow_number(answer, target)
    # Off the boundaries exact arithmetic says the same: the floats decide boundaries and nothing else.
    error = abs(Fraction(number) - truth) / truth
    exact = [Fraction(100 - 5 * k, 100) for k in range(10, 20)]
    if all(abs(error - tolerance) > Fraction(1, 10**9) for tolerance in exact):
        assert score(answer, target, COUNT) == sum(error <= tolerance for tolerance in exact) / 10


@given(st.text(), st.sampled_from(CHOICE + NUMBER))
@settings(max_examples=200)
def test_any_text_has_a_score(prediction, question_type):
    truth = "B" if question_type in CHOICE else "3"
    for scorer in (score, score_lmms_eval):
        got = scorer(prediction, truth, question_type)
        assert type(got) is float and got in {k / 10 for k in range(11)}


@given(st.text(alphabet="0123456789.-+e _infa\n", max_size=6))
@settings(max_examples=200)
def test_what_python_reads_as_a_float_is_a_number(text):
    word = text.split(" ")[0].rstrip(".").strip()
    assert score(text, "3", COUNT) == slow_number(word, "3")


@pytest.mark.parametrize(
    ("prediction", "number"),
    [
        ("There are 3 boxes", 3),
        ("three boxes.", 3),
        ("Twenty-one", 21),
        ("three hundred and twenty-one", 321),
        ("two thousand five hundred", 2500),
        ("hundred", 100),
        ("a thousand and one", 1001),
        ("one apple, room 2", 1),
        ("room 2, one apple", 2),
        ("about 3.5m", 3.5),
        ("from -2", -2),
        ("two and a half", 2),
        ("one 7 two", 3),
        ("someone has 4", 4),  # "one" inside a word is none
        ("band and five", 5),
        ("zero", 0),
    ],
)
def test_lmms_eval_reads_the_first_number(prediction, number):
    truths = [2.0, 3.0, 3.5, 21.0, 100.0, 321.0, 1001.0, 2500.0]
    for truth in truths:
        assert score_lmms_eval(prediction, str(truth), COUNT) == slow_number(str(number), str(truth))


def test_lmms_eval_finds_no_number_where_there_is_none():
    assert score_lmms_eval("several chairs and tables", "3", COUNT) == 0.0
    assert score_lmms_eval("", "3", COUNT) == 0.0


def test_the_figure_is_the_mean_over_tasks_with_one_for_direction():
    results = [("object_counting", 1.0)] * 3 + [("object_counting", 0.0)]
    results += [("route_planning", 1.0), ("route_planning", 0.0)]
    results += [("object_rel_direction_easy", 1.0)] * 9
    results += [("object_rel_direction_medium", 0.0), ("object_rel_direction_hard", 1.0)]
    got = aggregate(results)
    assert got.keys() == {
        "object_counting_MRA:.5:.95:.05",
        "route_planning_accuracy",
        "object_rel_direction_accuracy",
        "overall",
    }
    assert got["object_counting_MRA:.5:.95:.05"] == 75
    assert got["route_planning_accuracy"] == 50
    assert got["object_rel_direction_accuracy"] == pytest.approx(200 / 3)  # not 10 of 11
    assert got["overall"] == pytest.approx((75 + 50 + 200 / 3) / 3)  # not the mean of 17 questions


def test_without_easy_questions_the_other_difficulties_are_tasks_of_their_own():
    got = aggregate([("object_rel_direction_medium", 0.0), ("object_rel_direction_hard", 1.0)])
    assert got == {
        "object_rel_direction_hard_accuracy": 100,
        "object_rel_direction_medium_accuracy": 0,
        "overall": 50,
    }
    with pytest.raises(ValueError, match="object_rel_direction_medium, object_rel_direction_hard"):
        aggregate([("object_rel_direction_easy", 1.0)])


@given(st.integers(0, 2**32), st.integers(10, 60))
@settings(max_examples=60)
def test_the_aggregate_agrees_with_exact_arithmetic_and_knows_no_order(seed, n):
    rng = random.Random(seed)
    kinds = list(CHOICE + NUMBER) + [rng.choice(CHOICE + NUMBER) for _ in range(n)]
    results = [(kind, rng.randint(0, 10) / 10) for kind in kinds]
    got = aggregate(results)

    def mean(values):
        return sum(values, Fraction(0)) / len(values)

    by_kind = {kind: mean([Fraction(s) for k, s in results if k == kind]) for kind in CHOICE + NUMBER}
    direction = mean([by_kind.pop(f"object_rel_direction_{level}") for level in ("easy", "medium", "hard")])
    assert len(got) == 9
    assert math.isclose(got["object_rel_direction_accuracy"], 100 * direction, abs_tol=1e-9)
    assert math.isclose(got["overall"], 100 * mean([*by_kind.values(), direction]), abs_tol=1e-9)
    rng.shuffle(results)
    assert aggregate(results) == pytest.approx(got, abs=1e-9)


@pytest.mark.parametrize("scorer", [score, score_lmms_eval])
def test_what_is_unknown_is_named(scorer):
    with pytest.raises(ValueError, match=r"question_type is 'object_count'; accepted: .*object_counting"):
        scorer("3", "3", "object_count")
    for truth in ("0", "-1", "nan", "inf", "three", ""):
        with pytest.raises(ValueError, match=r"ground_truth is .*; accepted: a positive number"):
            scorer("3", truth, COUNT)
        with pytest.raises(ValueError, match="ground_truth"):
            scorer("no number", truth, COUNT)


def test_an_aggregate_of_nothing_or_of_the_unknown_is_refused():
    with pytest.raises(ValueError, match="results is empty"):
        aggregate([])
    with pytest.raises(ValueError, match="question_type is 'x'"):
        aggregate([("x", 1.0)])
