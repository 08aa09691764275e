"""VisualWebBench's scores by hand, against the package that the official code uses, and on any text."""

from __future__ import annotations

import functools
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vldac.evaluate.visualwebbench import CHOICE, TASKS, TEXT, postprocess, score, score_lmms_eval

# Few words, so that texts share some; full stops, blanks and odd blanks wherever they can hurt.
texts = st.lists(
    st.sampled_from(
        ["the", "cat", "The", "sat", "on", "mat", ".", "..", " . ", " ", "\n", "\u00a0", "U.S.", "a,"]
    ),
    max_size=10,
).map(" ".join) | st.text(alphabet="ab. \n", max_size=10)


def has_a_sentence(text):
    return bool(text.strip("."))


def f(precision, recall):
    return 100 * 2 * precision * recall / (precision + recall + 1e-8)


def test_a_perfect_text_scores_just_below_100():
    for task in TEXT:
        got = score(task, ["Buy shoes online now"], ["Buy shoes online now"])
        assert list(got) == ["rouge_1", "rouge_2", "rouge_l"]
        assert all(99.9999 < value < 100 for value in got.values())
    assert 99.9999 < score("webqa", ["42"], [["42", "forty"]])["f1"] < 100


def test_rouge_by_hand():
    # Words {the, cat, sat} and {the, cat, ran, away}; pairs {the cat, cat sat} and {the cat, cat ran, ran away}.
    got = score("heading_ocr", ["the cat sat"], ["the cat ran away"])
    assert got["rouge_1"] == pytest.approx(f(2 / 3, 2 / 4), abs=1e-6)
    assert got["rouge_2"] == pytest.approx(f(1 / 2, 1 / 3), abs=1e-6)
    assert got["rouge_l"] == pytest.approx(f(2 / 3, 2 / 4), abs=1e-6)


def test_case_and_punctuation_count_and_repeats_do_not():
    assert score("heading_ocr", ["Cat"], ["cat"])["rouge_1"] == 0
    assert score("heading_ocr", ["cat,"], ["cat"])["rouge_1"] == 0
    assert score("heading_ocr", ["cat cat cat"], ["cat"])["rouge_1"] == pytest.approx(100, abs=1e-4)


def test_order_counts_for_the_subsequence_alone():
    got = score("heading_ocr", ["b a"], ["a b"])
    assert got["rouge_1"] == pytest.approx(100, abs=1e-4)
    assert got["rouge_2"] == 0
    assert got["rouge_l"] == pytest.approx(50, abs=1e-4)
    # Two sentences may come in any order: each has its own longest common subsequence.
    assert score("heading_ocr", ["c d. a b"], ["a b. c d"])["rouge_l"] == pytest.approx(100, abs=1e-4)
    # Pairs go on across the full stop.
    assert score("heading_ocr", ["a. b"], ["a b"])["rouge_2"] == pytest.approx(100, abs=1e-4)


def test_a_tie_between_subsequences_is_broken_as_the_package_does():
    # "b a" has either "a" or "b" in common with "a b". The package finds "b", which "b c" has too.
    got = score("heading_ocr", ["b a. b c"], ["a b"])
    assert got["rouge_l"] == pytest.approx(f(1 / 3, 1 / 2), abs=1e-5)


def test_a_task_is_scored_by_the_mean_over_its_questions():
    got = score("heading_ocr", ["a b", "c", "x"], ["a b", "d", "x"])
    assert got["rouge_1"] == pytest.approx(200 / 3, abs=1e-4)
    assert got["rouge_2"] == pytest.approx(100 / 3, abs=1e-4)  # one word has no pair: 0 though it is right
    assert score("action_ground", ["A", "B", "C"], [0, 1, 1]) == {"accuracy": 2 / 3 * 100}


def test_an_empty_response_is_one_blank_word():
    for task in TEXT:
        assert score(task, [""], ["a b"]) == {"rouge_1": 0, "rouge_2": 0, "rouge_l": 0}
        # The blank after the last full stop is a word too, and the same one.
        assert score(task, [""], ["a. "])["rouge_1"] == pytest.approx(f(1, 1 / 2), abs=1e-5)
    assert score("webqa", [""], [["a"]]) == {"f1": 0}


def test_one_character_read_off_an_element_is_taken_for_none():
    assert score("element_ocr", ["7"], ["7"])["rouge_1"] == 0
    assert score("heading_ocr", ["7"], ["7"])["rouge_1"] > 99


def test_full_stops_alone_are_an_empty_response_and_in_webqa_no_question():
    for task in TEXT:
        assert score(task, ["...", "b c"], ["a", "b c"]) == score(task, ["", "b c"], ["a", "b c"])
    assert score("webqa", ["...", "b", "c"], [["a"], ["b"], ["x"]])["f1"] == pytest.approx(50, abs=1e-4)
    assert score("webqa", ["a", "b"], [["a", "."], ["b"]]) == score("webqa", ["b"], [["b"]])
    assert score("webqa", ["a", "b"], [[], ["x"]]) == {"f1": 0}
    assert score("webqa", ["..."], [["a"]]) == {"f1": 0}


def test_webqa_takes_the_best_answer():
    got = score("webqa", ["red shoes"], [["blue", "red shoes sale", "red"]])
    assert got == {"f1": pytest.approx(f(2 / 2, 2 / 3), abs=1e-5)}


@pytest.mark.parametrize(
    ("response", "want"),
    [
        ("B", 1),
        ("b", 1),
        ("K", 10),  # a single character is not held to the eight options
        ("B.", 1),
        ("B. because A", 1),
        ("K. because A", 10),
        ("b. because A", 0),  # not a capital: the letters in the text count
        ("B is right", 1),
        ("The answer is B", 1),
        ("The answer is: B!", 1),
        ("'B'", 1),
        ('"B", I think', 1),
        ("A or B", 1),  # the last one
        ("B, not A", 0),
        ("A B A", 0),
        ("A B", 1),  # neighbours share their space
        ("(B) and not A", 1),  # brackets win
        ("(A) or (B)", 1),
        ("so(B)", 1),
        ("(I)", -1),
        ("I", 8),
        ("I think", -1),
        ("B)", -1),
        ("**B**", -1),
        ("Option:B", -1),
        ("B\n", -1),
        ("\nB", -1),
        ("", -1),
        ("?", -1),
        ("\u00df", -1),  # its capital is two letters
        ("none of them", -1),
    ],
)
def test_how_a_choice_is_read(response, want):
    for task in CHOICE:
        assert [score(task, [response], [i])["accuracy"] for i in range(26)] == [
            100.0 if i == want else 0.0 for i in range(26)
        ]


def slow_choice(response):
    """The rules of reading one at a time, by positions."""
    if len(response) == 1:
        return "ABCDEFGHIJKLMNOPQRSTUVWXYZ".find(response.upper())
    if len(response) > 1 and response[0] in "ABCDEFGHIJKLMNOPQRSTUVWXYZ" and response[1] == ".":
        return ord(response[0]) - ord("A")
    text = f" {''.join(c for c in response if c not in ',.!?;:' + chr(39) + chr(34))} "
    for left, right in ("()", "  "):
        last = {i: text.rfind(left + letter + right) for i, letter in enumerate("ABCDEFGH")}
        if max(last.values()) >= 0:
            return max(last, key=last.get)
    return -1


@given(
    st.lists(st.sampled_from(["A", "B", "H", "I", "(A)", "(B)", "b", ".", ",", " ", "'", ":", "\n", "word"])).map(
        "".join
    )
    | st.text()
)
@settings(max_examples=300)
def test_choices_agree_with_the_slow_version(response):
    want = slow_choice(response)
    for i in range(8):
        assert score("element_ground", [response], [i]) == {"accuracy": 100.0 * (i == want)}


def slow_rouge(response, answer):
    """ROUGE's F by counting words, pairs, and a recursion for the subsequence."""

    def sentences(text):
        return [" ".join(part.split()).split(" ") for part in text.split(".") if part]

    @functools.cache
    def common(x, y):
        if not x or not y:
            return ()
        if x[-1] == y[-1]:
            return (*common(x[:-1], y[:-1]), x[-1])
        shorter_x, shorter_y = common(x[:-1], y), common(x, y[:-1])
        return shorter_x if len(shorter_x) > len(shorter_y) else shorter_y

    said, meant = sentences(response or " "), sentences(answer)
    words = [[word for sentence in side for word in sentence] for side in (said, meant)]
    ones = [set(side) for side in words]
    twos = [set(itertools.pairwise(side)) for side in words]
    shared = {word for x in meant for y in said for word in common(tuple(x), tuple(y))}
    counts = [(ones[0] & ones[1], *ones), (twos[0] & twos[1], *twos), (shared, *ones)]
    return [f(len(c) / max(len(a), 1), len(c) / max(len(b), 1)) for c, a, b in counts]


@given(texts.filter(lambda text: not text or has_a_sentence(text)), texts.filter(has_a_sentence))
@settings(max_examples=200)
def test_rouge_agrees_with_the_slow_version(response, answer):
    got = score("heading_ocr", [response], [answer])
    assert list(got.values()) == pytest.approx(slow_rouge(response, answer), abs=1e-9)
    assert score("webqa", [response], [[answer]])["f1"] == pytest.approx(got["rouge_1"])


@given(st.lists(st.tuples(texts.filter(has_a_sentence), texts.filter(has_a_sentence)), min_size=1, max_size=3))
@settings(max_examples=200)
def test_rouge_is_the_packages_to_the_last_bit(pairs):
    rouge = pytest.importorskip("rouge", reason="rouge is in the test extra").Rouge()
    responses, answers = (list(side) for side in zip(*pairs, strict=True))
    want = rouge.get_scores(responses, answers, avg=True)
    got = score("heading_ocr", responses, answers)
    assert got == {name: want[name.replace("_", "-")]["f"] * 100 for name in got}


def test_what_the_package_gave_is_given():
    # rouge 1.0.1 on Python 3.11, so that a machine without it still compares with it.
    responses = ["Shop the U.S. store.  The best, the cheapest. ", "b a. b c", ". x ."]
    answers = ["Shop. The U.S. store, the best", "a b. c. b", "x. "]
    assert score("web_caption", responses, answers) == {
        "rouge_1": 76.38888841001157,
        "rouge_2": 26.666666340000006,
        "rouge_l": 65.27777729890047,
    }


def test_captions_and_elements_are_taken_out_of_what_was_asked_for():
    meta = '<meta name="description" content="A shop">'
    assert postprocess("web_caption", f"Here:\n{meta}\nDone") == "A shop"
    assert (
        postprocess("web_caption", meta + meta.replace("A", "B"))
        == 'A shop"><meta name="description" content="B shop'
    )
    assert postprocess("web_caption", '<meta name="description" content="">') == ""
    assert (
        postprocess("web_caption", "<META name='description' content='A'>")
        == "<META name='description' content='A'>"
    )
    assert postprocess("element_ocr", 'The text is: "Sign: in" ') == "Sign: in"
    assert (
        postprocess("element_ocr", "It says: '\"Sign in\"'") == '"Sign in"'
    )  # double quotes go first, then single
    assert postprocess("element_ocr", ' "Sign in" ') == ' "Sign in" '  # no colon, nothing taken off
    assert postprocess("heading_ocr", "Heading: a") == "Heading: a"
    assert postprocess("webqa", "Answer: a") == "Answer: a"
    assert score("element_ocr", ["Text: Sign in"], ["Sign in"])["rouge_1"] > 99
    # The rule of one character is applied to what is left.
    assert score("element_ocr", ["Text: 7"], ["7"])["rouge_1"] == 0


def test_the_adapters_differ_in_webqa_and_action_prediction():
    assert postprocess("webqa", "Answer: a", "qwen_vl") == "a"
    assert postprocess("action_prediction", "b) open it", "qwen_vl") == "B"
    assert postprocess("action_prediction", "", "qwen_vl") == ""
    assert postprocess("element_ground", "b) it", "qwen_vl") == "b) it"
    assert score("action_prediction", ["b) open it"], [1], "qwen_vl") == {"accuracy": 100}
    assert score("action_prediction", ["b) open it"], [1]) == {"accuracy": 0}
    for task in TASKS:
        assert postprocess(task, "x: y", "none") == "x: y"
    assert score_lmms_eval("element_ocr", ["Text: Sign in"], ["Sign in"])["rouge_1"] == pytest.approx(
        f(2 / 3, 1), abs=1e-5
    )


@given(
    st.sampled_from(TASKS),
    st.lists(texts | st.text(), min_size=1, max_size=3),
    st.sampled_from(["openai", "qwen_vl"]),
)
@settings(max_examples=200)
def test_any_text_has_figures(task, responses, adapter):
    answer = "the cat. sat" if task in TEXT else ["the cat", "sat"] if task == "webqa" else 1
    got = score(task, responses, [answer] * len(responses), adapter)
    assert list(got) == (
        ["rouge_1", "rouge_2", "rouge_l"] if task in TEXT else ["f1"] if task == "webqa" else ["accuracy"]
    )
    assert all(0 <= value <= 100 for value in got.values())


def test_a_long_text_is_no_deeper_than_a_short_one():
    text = " ".join(str(i) for i in range(700))  # the package recurses once a word
    assert score("web_caption", [text], [text])["rouge_l"] > 99


def test_what_is_wrong_is_named():
    with pytest.raises(ValueError, match=r"task is 'caption'; accepted: web_caption"):
        score("caption", ["a"], ["a"])
    with pytest.raises(ValueError, match=r"adapter is 'gpt'; accepted: openai, qwen_vl, none"):
        score("webqa", ["a"], [["a"]], "gpt")
    for responses, answers in (([], []), (["a"], []), (["a"], ["a", "b"])):
        with pytest.raises(ValueError, match=r"responses are \d of \d"):
            score("web_caption", responses, answers)
    for task, answer in (
        ("web_caption", ".."),
        ("web_caption", ["a"]),
        ("webqa", "a"),
        ("webqa", [1]),
        ("action_ground", "B"),
    ):
        with pytest.raises(ValueError, match=rf"answers\[1\] is .*; accepted for {task}"):
            good = "a" if task in TEXT else ["a"] if task == "webqa" else 1
            score(task, ["a", "a"], [good, answer])
