"""BALROG for `experiments.evaluate`: what can be played here, and the games that are not played yet."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from experiments.benchmarks import Options, balrog_environments
from vldac.evaluate import balrog
from vldac.evaluate.aggregates import LAYOUTS
from vldac.evaluate.balrog import run as runner
from vldac.evaluate.balrog import scoring, tasks
from vldac.evaluate.samples import Record, SampleLog
from vldac.generate.request import Answerer


def plan(options: Options) -> tuple[dict[str, list[str]], dict[str, str]]:
    """The tasks that can be played, by environment, and what can not be, with the reason.

    Raises:
      BenchmarkError: nothing of what was asked for can be played.
    """
    given = options.balrog
    return runner.playable(
        {environment: tasks.TASKS[environment] for environment in balrog_environments(options)},
        images=given.images > 0,
        textworld_games=given.textworld_games,
        boxoban_dir=given.boxoban_dir,
    )


def planned_episodes(options: Options) -> int:
    """How many episodes `play` will have saved in the end, if none is lost."""
    return len(_ids(options))


def play(
    options: Options, answerer: Answerer | None, log: SampleLog, on_episode: Callable[[Record], None]
) -> dict[str, str]:
    """Plays and saves what is not saved yet.

    Args:
      options: of the evaluation.
      answerer: the model; None where all is saved.
      log: where episodes go.
      on_episode: called with each that is saved, those from before first.

    Returns:
      Episodes that were lost, by id with the reason.

    Raises:
      BenchmarkError, ValueError: it can not be played.
      RunFileError: an episode can not be written.
    """
    given = options.balrog
    for record in log.records.values():
        on_episode(record)
    before = set(log.records)
    if before.issuperset(_ids(options)):
        return {}

    def save(episode: Any) -> None:
        on_episode(log.add(episode.sample()))

    here, _ = plan(options)
    played = runner.run(
        answerer,
        environments=tuple(here),
        tasks=here,
        episodes=given.episodes,
        agent=given.agent,
        seed=options.seed,
        processes=given.processes,
        max_text_history=given.texts,
        max_image_history=given.images,
        alternating_roles=given.alternating_roles,
        temperature=given.temperature,
        max_tokens=given.max_tokens,
        max_steps=given.max_steps,
        textworld_games=given.textworld_games,
        boxoban_dir=given.boxoban_dir,
        skip=before,
        on_episode=save,
    )
    return dict(played.failed)


def deviations(records: Mapping[str, Record]) -> list[str]:
    """How the saved episodes, of whichever session, differ from the official runs, in sentences."""
    return runner.deviations(_progressions(records)) if records else []


def summary(records: Mapping[str, Record]) -> dict[str, float]:
    """The leaderboard's figures of the saved episodes, in percent; {} of none."""
    scores = _progressions(records)
    return scoring.in_one_level(scoring.aggregate(scores)) if scores else {}


def _progressions(records: Mapping[str, Record]) -> dict[str, list[float]]:
    """Of each environment that was played, its episodes' in 0..1; in the official order."""
    scores: dict[str, list[float]] = {}
    for record in records.values():
        scores.setdefault(LAYOUTS["balrog"].stratum(record.task), []).append(record.score)
    return {name: scores[name] for name in balrog.ENVIRONMENTS if name in scores}


def _ids(options: Options) -> list[str]:
    """Of all episodes that can be played."""
    return [
        tasks.episode_id(environment, task, number)
        for environment, of_environment in plan(options)[0].items()
        for task in of_environment
        for number in range(options.balrog.episodes or tasks.EPISODES[environment])
    ]
