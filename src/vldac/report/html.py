"""The files of a run folder -> `report.html`.

* Whatever a model wrote is data: the template escapes everything, and the page's own security policy forbids
  any script but the one player, by its hash, and any address but data URIs.
* A file that is missing or broken costs its section, not the report.
* Without JavaScript the episodes are strips of frames with the words below; with it they play.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from vldac.evaluate.statistics import Interval
from vldac.metrics import RunFileError, read_json, read_metrics, read_summary, write_atomically
from vldac.report import success
from vldac.report.benchmarks import load_benchmarks
from vldac.report.curves import charts, x_axis
from vldac.report.episodes import Episode, load_episodes
from vldac.report.filmstrip import data_uris
from vldac.report.numbers import duration, known, number_with_interval, percent, rate_with_interval
from vldac.report.template import script_hash, source, templates

REPORT_FILE = "report.html"
CONFIG_FILE = "config.json"

_PROGRAM = "python -m experiments.run"
_LABELS = {"random": "Random actions", "before": "Before RL", "after": "After RL", "expert": "Scripted expert"}
_EPISODES_SHOWN = 4  # of one label on one world
_FRAMES_SHOWN = 60  # of one episode
_ANSWER_SHOWN = 2000  # characters
_STAGES = {
    "compile": "compile",
    "imitation": "warm start",
    "rollout": "rollout (the model acts)",
    "update": "update (the model learns)",
    "evaluation": "evaluation",
}
_T = TypeVar("_T")


def write_report(run_dir: str | Path) -> Path:
    """Writes the report of a run, finished or not, from `config.json`, `metrics.jsonl`, `summary.json` and
    `episodes/` of its folder.

    Returns:
      The file, `<run_dir>/report.html`.

    Raises:
      RunFileError: the folder does not exist, or the file cannot be written.
    """
    run_dir = Path(run_dir)
    if not run_dir.is_dir():
        raise RunFileError("read", run_dir, "there is no such run folder")
    path = run_dir / REPORT_FILE
    # A model may write half of a surrogate pair, which is no UTF-8.
    write_atomically(path, _render(run_dir).encode("utf-8", errors="replace"))
    return path


def _render(run_dir: Path) -> str:
    problems: list[str] = []
    config = _try(lambda: read_json(run_dir / CONFIG_FILE), {}, problems)
    summary = _try(lambda: read_summary(run_dir), {}, problems)
    metrics = _try(lambda: read_metrics(run_dir), [], problems)
    worlds = _try(lambda: success.results(summary), [], problems, f"cannot read {run_dir / 'summary.json'}: ")
    benchmarks = _try(lambda: load_benchmarks(run_dir), [], problems)
    episodes = load_episodes(run_dir, on_error=lambda error: problems.append(str(error)))

    trained = worlds[0].world if worlds else _find(config, "world", str) or _first_world(episodes)
    planned = _find(config, "iterations", int)
    asked = _find(config, "episodes", int) != 0  # whether the run is to be evaluated
    folder = run_dir.as_posix() if not run_dir.is_absolute() else f"{run_dir.parent.name}/{run_dir.name}"
    again = f"{run_dir.resolve().name}-again"  # a run never writes over another
    main = worlds[0] if worlds else None
    drawn = charts(metrics, main)

    environment = templates("vldac.report")
    environment.filters |= {
        "percent": percent,
        "rate": rate_with_interval,
        "figure": number_with_interval,
        "duration": duration,
        "known": known,
    }
    script = source(environment, "player.js")
    return environment.get_template("report.html").render(
        name=run_dir.resolve().name,
        headline=success.headline(main) if main else _unmeasured(trained, metrics, planned, asked),
        findings=[*(success.details(main) if main else []), *map(_unseen, worlds[1:])],
        missing=_missing(config, summary, metrics, worlds, episodes, planned, asked),
        problems=problems,
        trained=trained,
        tasks={
            world: task for world, task in _mapping(summary.get("worlds")).items() if isinstance(task, Mapping)
        },
        model=summary.get("model") or _find(config, "preset", str) or "",
        summary=summary,
        worlds=worlds,
        bar=_interval_bar,
        charts=drawn,
        axis={"env_steps": "environment steps", "iteration": "iterations"}[x_axis(metrics)],
        last=metrics[-1] if metrics else {},
        iterations=len(metrics),
        films=_films(episodes),
        benchmarks=benchmarks,
        time=_time(_mapping(summary.get("seconds"))),
        config=list(_flatten(config)),
        versions=_mapping(summary.get("versions")),
        rerun=f"{_PROGRAM} --config {shlex.quote(f'{folder}/{CONFIG_FILE}')} --name {shlex.quote(again)}",
        resume=f"{_PROGRAM} --resume {shlex.quote(folder)}",
        css=source(environment, "report.css"),
        script=script,
        script_hash=script_hash(script),
    )


# --- what is said ------------------------------------------------------------------------------------------


def _unmeasured(world: str | None, metrics: Sequence[Mapping[str, Any]], planned: int | None, asked: bool) -> str:
    """The headline of a run without a success rate; `asked`: one was to be measured."""
    where = f" on {world}" if world else ""
    of = f" of {planned}" if planned else ""
    if not metrics:
        return f"A run{where} that has logged nothing yet"
    if not asked:
        return f"A run{where} without evaluation: {len(metrics)}{of} iterations"
    return f"An unfinished run{where}: {len(metrics)}{of} iterations, not evaluated yet"


def _unseen(result: success.WorldResult) -> str:
    sentence = success.headline(result)
    return f"Never trained on: {sentence[0].lower()}{sentence[1:]}. {success.steps_sentence(result)}"


def _missing(
    config: Mapping,
    summary: Mapping,
    metrics: Sequence,
    worlds: Sequence,
    episodes: Mapping,
    planned: int | None,
    asked: bool,
) -> list[str]:
    """What a whole run has and this one has not, in sentences."""
    found = []
    if summary.get("interrupted") is True:
        found.append("The run was interrupted; it can be continued from its last checkpoint (see below).")
    if planned and len(metrics) < planned:
        found.append(f"{len(metrics)} of {planned} iterations have been logged.")
    elif not metrics:
        found.append("No iteration has been logged, so there are no learning curves.")
    if not asked:
        found.append("The run was started without evaluation (evaluation.episodes is 0).")
    elif not worlds:
        found.append("No policy has been evaluated on whole episodes, so there is no success table.")
    else:
        lacking = [f"no {success.POLICIES[p]}" for p in success.POLICIES if not known(worlds[0].row(p).success)]
        if lacking:
            found.append(f"The evaluation on {worlds[0].world} is not complete: {', '.join(lacking)}.")
    for label in ("before", "after") if asked else ():
        if not episodes.get(label):
            found.append(f"No episodes from {label} RL were saved.")
    if not config:
        found.append("There is no config.json: the run cannot be repeated from this folder.")
    return found


# --- episodes ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Step:
    """One frame with what was said and done; `left_out` counts the steps that are not shown before it."""

    number: int
    image: str
    answer: str
    thoughts: str
    action: str | None
    reward: float
    left_out: int


@dataclass(frozen=True)
class _Film:
    label: str
    episode: Episode
    steps: list[_Step]
    pixelated: bool


def _films(episodes: Mapping[str, Sequence[Episode]]) -> list[tuple[str, list[list[_Film]], str]]:
    """(world, rows, note) for each world; a row holds the n-th episode of every label, side by side."""
    chosen: dict[str, dict[str, list[Episode]]] = {}
    for label, all_episodes in episodes.items():
        for episode in all_episodes:
            chosen.setdefault(episode.world, {}).setdefault(label, []).append(episode)
    shown = [
        (world, index, label, episode, _shown(episode.steps))
        for world, labels in chosen.items()
        for label, of_label in labels.items()
        for index, episode in enumerate(of_label[:_EPISODES_SHOWN])
    ]
    uris = data_uris([episode.frames[steps] for *_, episode, steps in shown])
    rows: dict[str, dict[int, list[_Film]]] = {}
    for (world, index, label, episode, steps), images in zip(shown, uris, strict=True):
        film = _Film(
            _LABELS.get(label, label.replace("_", " ")),
            episode,
            [
                _Step(
                    number=t + 1,
                    image=image,
                    answer=_shortened(episode.answers[t]),
                    thoughts=_shortened(episode.thoughts[t]),
                    action=episode.actions[t],
                    reward=float(episode.rewards[t]),
                    left_out=t - previous - 1,
                )
                for t, previous, image in zip(steps, [-1, *steps[:-1]], images, strict=True)
            ],
            pixelated=episode.frames.shape[2] <= 160,
        )
        rows.setdefault(world, {}).setdefault(index, []).append(film)
    return [(world, list(by_index.values()), _hidden_note(chosen[world])) for world, by_index in rows.items()]


def _shown(steps: int) -> list[int]:
    """All steps; of a long episode the first two thirds of what fits, and the last."""
    if steps <= _FRAMES_SHOWN:
        return list(range(steps))
    first = 2 * _FRAMES_SHOWN // 3
    return [*range(first), *range(steps - (_FRAMES_SHOWN - first), steps)]


def _hidden_note(labels: Mapping[str, Sequence[Episode]]) -> str:
    hidden = sum(max(0, len(episodes) - _EPISODES_SHOWN) for episodes in labels.values())
    return f"{hidden} more are in the folder episodes/." if hidden else ""


def _shortened(text: str) -> str:
    rest = len(text) - _ANSWER_SHOWN
    return text if rest <= 0 else f"{text[:_ANSWER_SHOWN]} … {rest} more characters"


# --- numbers -----------------------------------------------------------------------------------------------


def _interval_bar(rate: Interval) -> dict[str, float]:
    """Where to draw an interval in a bar from 0 to 1, in percent of its width."""
    low, high = max(0.0, rate.low), min(1.0, rate.high)
    return {"low": 100 * low, "width": 100 * (high - low), "estimate": 100 * rate.estimate}


def _time(seconds: Mapping[str, Any]) -> dict[str, Any] | None:
    """The stages of a run and their share of the total; what no stage accounts for is "other"."""
    stages = [(key, _STAGES.get(key, key), value) for key, value in seconds.items() if key != "total"]
    stages = [(key, label, float(value)) for key, label, value in stages if _is_number(value) and value > 0]
    stages.sort(key=lambda stage: list(_STAGES).index(stage[0]) if stage[0] in _STAGES else len(_STAGES))
    accounted = sum(value for *_, value in stages)
    total = float(seconds["total"]) if _is_number(seconds.get("total")) else accounted
    if total - accounted > 0.005 * total:
        stages.append(("other", "other", total - accounted))
    whole = max(total, accounted)
    if not whole:
        return None
    return {
        "total": total,
        "stages": [{"key": k, "label": lb, "seconds": v, "percent": 100 * v / whole} for k, lb, v in stages],
    }


def _flatten(config: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """[("section.field", value as text)], the names being those of the command line."""
    rows = []
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            rows += _flatten(value, f"{prefix}{key}.")
        else:
            rows.append((f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value)))
    return rows


def _find(config: Mapping[str, Any], key: str, kind: type[_T]) -> _T | None:
    """The first value of a type under a key, or under its "name", the outermost first."""
    level: list[Any] = [config]
    while level:
        for section in level:
            value = section.get(key)
            value = value.get("name") if isinstance(value, Mapping) and kind is str else value
            if isinstance(value, kind):
                return value
        level = [value for section in level for value in section.values() if isinstance(value, Mapping)]
    return None


def _first_world(episodes: Mapping[str, Sequence[Episode]]) -> str | None:
    return next((episode.world for of_label in episodes.values() for episode in of_label), None)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _try(read: Callable[[], _T], otherwise: _T, problems: list[str], prefix: str = "") -> _T:
    try:
        return read()
    except (RunFileError, ValueError) as error:
        problems.append(f"{prefix}{error}")
        return otherwise
