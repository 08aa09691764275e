"""BALROG for `experiments.evaluate`: what can be played here, and the games that are not played yet."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from experiments.benchmarks import Options, balrog_environments
from vldac.evaluate.aggregates import LAYOUTS, OVERALL
from vldac.evaluate.benchmark import BenchmarkError
from vldac.evaluate.samples import Record, SampleLog
from vldac.generate.request import Answerer


def plan(options: Options) -> tuple[dict[str, list[str]], dict[str, str]]:
    """The tasks that can be played, by environment, and what can not be, with the reason.

    Raises:
      BenchmarkError: nothing of what was asked for can be played.
    """
    from vldac.evaluate.balrog.tasks import TASKS, unavailable

    given, playable, not_run = options.balrog, {}, {}
    for environment in balrog_environments(options):
        reasons = {
            task: unavailable(
                environment,
                task,
                images=given.images > 0,
                textworld_games=given.textworld_games,
                boxoban_dir=given.boxoban_dir,
            )
            for task in TASKS[environment]
        }
        playable[environment] = [task for task, reason in reasons.items() if reason is None]
        lacking = {task: reason for task, reason in reasons.items() if reason is not None}
        if not playable[environment]:
            del playable[environment]
            not_run[environment] = next(iter(lacking.values()))
        else:
            not_run |= {f"{environment}/{task}": reason for task, reason in lacking.items()}
    if not playable:
        said = "; ".join(f"{name}: {reason}" for name, reason in not_run.items())
        raise BenchmarkError(f"nothing of balrog can be played here: {said}")
    return playable, not_run


def planned_episodes(options: Options) -> int:
    """How many episodes `play` will have saved in the end, if none is lost."""
    return sum(len(ids) for tasks in _ids(options).values() for ids in tasks.values())


def play(
    options: Options, answerer: Answerer | None, log: SampleLog, on_episode: Callable[[Record], None]
) -> tuple[dict[str, str], list[str]]:
    """Plays and saves what is not saved yet.

    Args:
      options: of the evaluation.
      answerer: the model; None where all is saved.
      log: where episodes go.
      on_episode: called with each that is saved, those from before first.

    Returns:
      Episodes that were lost, by id with the reason, and what a reader should know.

    Raises:
      BenchmarkError, ValueError: it can not be played.
      RunFileError: an episode can not be written.
    """
    from vldac.evaluate.balrog import run as balrog

    given = options.balrog
    for record in log.records.values():
        on_episode(record)
    before = set(log.records)
    wanted = _ids(options)
    if all(name in before for tasks in wanted.values() for ids in tasks.values() for name in ids):
        return {}, []

    def save(episode: Any) -> None:
        on_episode(log.add(episode.sample()))

    played = balrog.run(
        answerer,
        environments=tuple(wanted),
        tasks={environment: list(tasks) for environment, tasks in wanted.items()},
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
    # What is absent or lost would be of this session alone; it is told of all of them by `evaluate`.
    absent = ("the average is over", " lacks ", "are not counted")
    return dict(played.failed), [note for note in played.notes if not any(words in note for words in absent)]


def summary(records: dict[str, Record]) -> dict[str, float]:
    """The leaderboard's figures of the saved episodes, in percent; {} of none."""
    from vldac.evaluate.balrog import ENVIRONMENTS, aggregate

    stratum = LAYOUTS["balrog"].stratum
    scores: dict[str, list[float]] = {}
    for record in records.values():
        scores.setdefault(stratum(record.task), []).append(record.score)
    if not scores:
        return {}
    official = aggregate({name: scores[name] for name in ENVIRONMENTS if name in scores})
    found = {OVERALL: official["average_progress"], f"{OVERALL} standard_error": official["standard_error"]}
    for name, figures in official["environments"].items():
        found[name] = figures["progression_percentage"]
        found[f"{name} standard_error"] = figures["standard_error"]
    return found


def _ids(options: Options) -> dict[str, dict[str, list[str]]]:
    """{environment: {task: ids of its episodes}} of all that can be played."""
    from vldac.evaluate.balrog.tasks import EPISODES

    return {
        environment: {
            task: [
                f"{environment}/{task}/{number}"
                for number in range(options.balrog.episodes or EPISODES[environment])
            ]
            for task in tasks
        }
        for environment, tasks in plan(options)[0].items()
    }
