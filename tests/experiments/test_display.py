"""What a run shows: the right numbers, in a terminal and in a log, whatever is missing."""

from __future__ import annotations

import io
import math

import pytest
from rich.console import Console

from experiments.display import Display, show_results, success_table

METRICS = {
    "iteration": 1,
    "env_steps": 256,
    "rollout/success_rate": 0.25,
    "rollout/episode_return": -0.125,
    "rollout/parse_failure_rate": 0.034,
    "train/kl_reference": 0.00123,
    "rollout/tokens_per_second": 9876.5,
    "rollout/env_steps_per_second": 61.8,
}
SUMMARY = {
    "success_rate": {
        "family/one": {
            "random": [0.25, 0.2, 0.31],
            "before": [0.4, 0.34, 0.46],
            "after": [0.996, 0.978, 0.999],
            "expert": [1.0, 0.985, 1.0],
        },
        "family/two": {"before": [0.5, 0.4, 0.6], "after": [0.55, 0.45, 0.65]},
    },
    "steps_to_goal": {"family/one": {"after": [9.52, 9.01, 10.03], "expert": [7.5, 7.2, 7.8], "before": None}},
}


class Clock:
    """Time that passes when it is told to."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def log(width: int = 200) -> Console:
    return Console(file=io.StringIO(), record=True, width=width, force_terminal=False)


def terminal(width: int = 80) -> Console:
    return Console(
        file=io.StringIO(), width=width, force_terminal=True, legacy_windows=False, _environ={"TERM": "xterm"}
    )


def test_a_log_gets_a_line_every_few_iterations_with_all_numbers():
    console, clock = log(), Clock()
    with Display(6, console, every=4, clock=clock) as display:
        display.stage("training", total=6)
        for i in range(6):
            clock.now += 30.0 if i == 0 else 2.0  # the first compiles
            display.advance({**METRICS, "iteration": i + 1})
    lines = console.export_text().splitlines()
    numbers = "success 25 %  reward -0.125  invalid answers 3 %  KL 0.00123  tokens/s 9,876  env steps/s 61.8"
    assert lines == [
        "training, 6 steps",
        f"training 4/6  {numbers}  elapsed 36.0 s  left 4.0 s",
        f"training 6/6  {numbers}  elapsed 40.0 s",
    ]


def test_a_log_has_no_control_characters():
    console = log()
    with Display(3, console) as display:
        display.stage("training", total=3)
        display.advance(METRICS)
    assert "\x1b" not in console.file.getvalue() and "\r" not in console.file.getvalue()


@pytest.mark.parametrize(
    "metrics", [None, {}, dict.fromkeys(METRICS, math.nan), dict.fromkeys(METRICS), {"a": "b"}]
)
@pytest.mark.parametrize("console", [log, terminal])
def test_missing_and_unfinite_numbers_are_left_out(metrics, console):
    console = console()
    with Display(2, console, every=1) as display:
        display.stage("training", total=2)
        display.advance(metrics)
        display.stage("evaluation")
    assert "training" in console.file.getvalue() and "nan" not in console.file.getvalue().lower()


def test_a_number_that_is_missing_for_once_stays_as_it_was():
    console = log()
    with Display(2, console, every=1) as display:
        display.stage("training", total=2)
        display.advance(METRICS)
        display.advance({**METRICS, "rollout/success_rate": math.nan, "train/kl_reference": 0.5})
    assert "2/2  success 25 %  reward -0.125  invalid answers 3 %  KL 0.500" in console.export_text()


def test_every_stage_says_that_it_began_and_how_it_ended():
    console, clock = log(), Clock()
    with Display(5, console, every=10, clock=clock) as display:
        display.stage("warm start", total=30)
        clock.now += 1
        display.advance({"imitation/loss": 2.5}, 10)
        display.stage("evaluation")
        clock.now += 65
        display.stage("training", completed=3)
        clock.now += 8
        display.advance(METRICS)
        display.note("saved [bold] of 5")
    assert [line.split("  ")[0] for line in console.export_text().splitlines()] == [
        "warm start, 30 steps",
        "warm start 10/30",
        "evaluation",
        "evaluation took 1 min 05 s",
        "training, 5 steps, 3 of them done before",
        "saved [bold] of 5",
        "training 4/5",
    ]


def test_time_left_follows_the_pace_and_not_the_compilation():
    clock = Clock()
    display = Display(100, log(), clock=clock)
    assert display.seconds_left() is None
    display.stage("training", completed=40)
    assert display.seconds_left() is None
    clock.now += 60
    display.advance(METRICS)
    assert display.seconds_left() == pytest.approx(59 * 60)  # nothing better is known yet
    for _ in range(9):
        clock.now += 2
        display.advance(METRICS)
    assert display.seconds_left() == pytest.approx(50 * 2)
    clock.now += 1.5
    assert display.seconds_left() == pytest.approx(98.5)
    clock.now += 500
    assert display.seconds_left() == 0
    display.advance(METRICS, steps=50)
    assert display.seconds_left() == 0


def test_a_terminal_shows_stage_count_and_numbers_within_80_columns():
    console, clock = terminal(), Clock()
    with Display(40, console, clock=clock) as display:
        display.stage("training", total=40)
        clock.now += 3661
        display.advance(METRICS)
        clock.now += 3661
        display.advance(METRICS)
        shown = Console(file=io.StringIO(), width=80, record=True)
        shown.print(display._render())
        lines = shown.export_text().splitlines()
    assert len(lines) == 7 and all(line[-1] in "╮│╯" for line in lines)  # nothing was wrapped or cut
    text = " ".join(lines)
    for piece in ("training", "2/40", "elapsed 2 h 02 min", "left in this stage 38 h 38 min", "25 %", "-0.125"):
        assert piece in text
    for piece in ("3 %", "0.00123", "9,876", "61.8", "tokens/s", "KL", "invalid answers"):
        assert piece in text
    written = console.file.getvalue()
    assert "\x1b[?25l" in written and written.rstrip("\n").endswith("\x1b[?25h")  # the cursor came back
    assert "training took 2 h 02 min" in written


def test_the_terminal_is_given_back_after_an_error():
    console = terminal()
    with pytest.raises(ZeroDivisionError), Display(2, console) as display:
        display.stage("training")
        raise ZeroDivisionError
    assert console.file.getvalue().rstrip("\n").endswith("\x1b[?25h")


def test_success_table_has_every_rate_and_steps_with_intervals():
    console = log(width=80)
    console.print(success_table(SUMMARY))
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in console.export_text().splitlines()]
    assert [row for row in rows if row] == [
        ["family/one", "trained on", ""],
        ["random actions", "25 % [20, 31]", "–"],
        ["model before RL", "40 % [34, 46]", "–"],
        ["model after RL", "99.6 % [98, 100]", "9.5 [9.0, 10.0]"],
        ["scripted expert", "100 % [98, 100]", "7.5 [7.2, 7.8]"],
        ["family/two", "unseen", ""],
        ["model before RL", "50 % [40, 60]", "–"],
        ["model after RL", "55 % [45, 65]", "–"],
    ]


def test_results_end_with_the_whole_path_of_the_report():
    console = log(width=40)
    path = "runs/a-name-that-is-longer-than-the-terminal-is-wide-[0]/report.html"
    show_results(console, SUMMARY, path)
    lines = console.export_text().splitlines()
    assert lines[-1] == f"Report: {path}"
    words = " ".join(" ".join(lines).split())
    assert "Success on family/one rose from 40 % [34, 46] to 99.6 % [98, 100]." in words
    assert "the model needs 27 % more steps than the expert." in words


def test_nothing_evaluated_is_said():
    console = log()
    show_results(console, {}, "report.html")
    assert "nothing was evaluated" in console.export_text()
