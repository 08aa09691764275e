"""Plays BALROG: every game in a process of its own, all that wait for an answer answered together.

    from vldac.evaluate.balrog.run import run
    results = run(engine, environments=("babyai",), episodes=2, agent="robust_cot", seed=0, processes=16)
    results.summary["average_progress"], results.samples, results.not_run, results.failed, results.notes

What differs from the official runs is said in `Results.notes`, and by `deviations`.
Source, whose behaviour is reproduced: balrog-ai/BALROG, evaluator.py and client.py.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Container, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from vldac.evaluate.balrog.agents import REQUESTS
from vldac.evaluate.balrog.environments import Spec
from vldac.evaluate.balrog.episode import Episode
from vldac.evaluate.balrog.player import Manner, Player
from vldac.evaluate.balrog.scoring import ENVIRONMENTS, aggregate, in_one_level
from vldac.evaluate.balrog.tasks import EPISODES, TASKS, episode_id, unavailable
from vldac.evaluate.benchmark import BenchmarkError, Sample
from vldac.generate.request import Answerer

_DEVIATIONS = {
    "": "an episode's seed is the seed given plus the episode's number; the official default takes the time, and "
    "a fixed official seed plays one and the same game in all episodes of a task",
    "babyai": "minigrid's own package instead of BALROG's fork; the levels of MixedTrainLocal and the text are "
    "made here, with the same rules but other dice",
    "crafter": "the seed goes to crafter itself, and its creatures are kept in order: without that, which the "
    "official runs are, one seed gives several games",
    "minihack": "nle 1.3 and minihack 1.0 instead of BALROG's forks of older ones; the text is made here; the "
    "dice are seeded once, and never by the time",
    "nle": "nle 1.3 instead of BALROG's fork of an older one; the text is made here; the dice are seeded once, "
    "and never by the time; an action of two digits is typed, where the official code stops with an error",
    "textworld": "an episode plays the game of its seed, modulo their number; the official runs count within each "
    "process",
}


@dataclass(frozen=True, eq=False)
class Results:
    """What came of a run.

    Attributes:
      episodes: those that were played, in the order of the environments asked for and of the official tasks.
      summary: `scoring.aggregate` of them, in percent: `average_progress`, `standard_error`, and `environments`
        with `progression_percentage`, `standard_error` and `episodes_played` of each. {} if none was played. An
        environment that was not played is neither in it nor in the average.
      not_run: what could not be played, as "babaisai" or "minihack/MiniHack-Boxoban-Hard-v0" -> why.
      failed: episodes that were begun and lost, as "nle/NetHackChallenge-v0/3" -> why: a crash, a hang, a prompt
        that does not fit the model. As in the official code, they are not counted.
      notes: what a reader of the figures must know, deviations from the official runs above all.
    """

    episodes: tuple[Episode, ...]
    summary: dict[str, Any]
    not_run: dict[str, str]
    failed: dict[str, str]
    notes: tuple[str, ...]

    @property
    def samples(self) -> list[Sample]:
        """One an episode, for the page of all benchmarks; the score is "progression", 0..1."""
        return [episode.sample() for episode in self.episodes]

    @property
    def scores(self) -> dict[str, float]:
        """The summary in one level, percent: "overall", "babyai", ..., each with its "... standard_error"."""
        return in_one_level(self.summary) if self.summary else {}


def playable(
    wanted: Mapping[str, Sequence[str]],
    *,
    images: bool = False,
    textworld_games: Path | None = None,
    boxoban_dir: Path | None = None,
) -> tuple[dict[str, list[str]], dict[str, str]]:
    """What of the wanted tasks can be played here, and why the others can not.

    Args:
      wanted: tasks by environment.
      images, textworld_games, boxoban_dir: see `tasks.unavailable`.

    Returns:
      Tasks by environment, none without any; and reasons, by environment ("babaisai") where all of its tasks lack
      the same, else by task ("minihack/MiniHack-Boxoban-Hard-v0").

    Raises:
      BenchmarkError: nothing can be.
    """
    here: dict[str, list[str]] = {}
    not_run: dict[str, str] = {}
    for environment, tasks in wanted.items():
        reasons = {
            task: unavailable(
                environment, task, images=images, textworld_games=textworld_games, boxoban_dir=boxoban_dir
            )
            for task in tasks
        }
        if possible := [task for task, reason in reasons.items() if reason is None]:
            here[environment] = possible
        elif len(set(reasons.values())) == 1:
            not_run[environment] = reasons[tasks[0]]
            continue
        not_run |= {f"{environment}/{task}": reason for task, reason in reasons.items() if reason is not None}
    if not here:
        said = "; ".join(f"{name}: {reason}" for name, reason in not_run.items())
        raise BenchmarkError(f"nothing of BALROG can be played here: {said}")
    return here, not_run


def deviations(played: Collection[str]) -> list[str]:
    """How playing these environments here differs from the official runs, in sentences."""
    return [
        text if not name else f"{name}: {text}" for name, text in _DEVIATIONS.items() if not name or name in played
    ]


def run(
    answerer: Answerer,
    *,
    environments: Sequence[str] = ENVIRONMENTS,
    episodes: int | Mapping[str, int] | None = None,
    tasks: Mapping[str, Sequence[str]] | None = None,
    agent: str = "naive",
    seed: int = 0,
    processes: int = 16,
    max_text_history: int = 16,
    max_image_history: int = 0,
    max_cot_history: int = 1,
    feedback_on_invalid_action: bool = True,
    alternating_roles: bool = False,
    temperature: float = 1.0,
    max_tokens: int = 8192,
    max_steps: int | None = None,
    textworld_games: Path | None = None,
    boxoban_dir: Path | None = None,
    start_seconds: float = 300.0,
    step_seconds: float = 60.0,
    linger_seconds: float = 0.25,
    recorded_turns: int = 32,
    skip: Container[str] = (),
    on_episode: Callable[[Episode], None] | None = None,
) -> Results:
    """Plays and scores. The defaults are the official ones, but for the seed.

    Args:
      answerer: the model.
      environments: which of `scoring.ENVIRONMENTS`.
      episodes: of each task, one number for all environments or one for each; None is the official number.
      tasks: of an environment, other tasks than `tasks.TASKS`, or some of them. For babyai also any level that
        minigrid registers, such as "BabyAI-GoToLocal-v0".
      agent: one of `agents.REQUESTS`: naive, cot, robust_naive, robust_cot.
      seed: an episode's is this plus its number, so one seed is one set of games; answers depend on it, too.
      processes: games at a time, and so requests at a time at most.
      max_text_history, max_image_history, max_cot_history: see `history.History`. At least one picture makes it a
        run of a vision-language model: games then draw themselves, and NetHack leaves out its map of characters.
        With 16 observations a prompt of NetHack has up to 40,000 characters with the map and 11,000 without; of
        Crafter 8,000; of BabyAI 3,000.
      feedback_on_invalid_action: whether the next observation says so.
      alternating_roles: see `history.alternate_roles`; for models such as Gemma.
      temperature, max_tokens: of the answers. The published runs of 2024 had 0 and 1024.
      max_steps: of every episode; None is the game's own limit.
      textworld_games, boxoban_dir: see `tasks.unavailable`.
      start_seconds, step_seconds: after which a game's process is held to hang.
      linger_seconds: how long games that wait for an answer wait for others, to be answered together.
      recorded_turns: of an episode's steps, how many are kept for its transcript, half of them from the start.
        A prompt with a picture of NetHack takes 1.3 MB.
      skip: ids of episodes that need not be played, as they are known from before; nor are they in the results.
      on_episode: is called with each episode as it ends.

    Raises:
      ValueError: a bad option, named with what is accepted.
      BenchmarkError: nothing of what was asked for can be played here.
    """
    _check_environments(environments, tasks or {})
    manner = Manner(
        agent=agent,
        seed=seed,
        max_text_history=max_text_history,
        max_image_history=max_image_history,
        max_cot_history=max_cot_history,
        feedback_on_invalid_action=feedback_on_invalid_action,
        alternating_roles=alternating_roles,
        temperature=temperature,
        max_tokens=max_tokens,
        max_steps=max_steps,
        start_seconds=start_seconds,
        step_seconds=step_seconds,
        recorded_turns=recorded_turns,
    )
    asked = episodes if isinstance(episodes, Mapping) else dict.fromkeys(environments, episodes)
    counts = {name: EPISODES[name] if asked.get(name) is None else asked[name] for name in environments}
    _check(manner, counts, processes)

    images = max_image_history > 0
    folders = {"textworld_games": textworld_games, "boxoban_dir": boxoban_dir}
    wanted = {name: (tasks or {}).get(name, TASKS[name]) for name in environments}
    here, not_run = playable(wanted, images=images, **folders)
    plan = [
        (episode_id(name, task, number), Spec(name, task, seed + number, images, **folders), number)
        for name, of_name in here.items()
        for task in of_name
        for number in range(counts[name])
    ]
    plan = [item for item in plan if item[0] not in skip]
    played, failed = _play(answerer, plan, manner, processes, linger_seconds, on_episode)
    done = tuple(played[name] for name, _, _ in plan if name in played)
    progressions: dict[str, list[float]] = {}
    for episode in done:
        progressions.setdefault(episode.environment, []).append(episode.progression)
    return Results(
        episodes=done,
        summary=aggregate(progressions) if progressions else {},
        not_run=not_run,
        failed={name: failed[name] for name, _, _ in plan if name in failed},
        notes=_notes(progressions, not_run, failed),
    )


def _play(
    answerer: Answerer,
    plan: Sequence[tuple[str, Spec, int]],
    manner: Manner,
    processes: int,
    linger: float,
    on_episode: Callable[[Episode], None] | None,
) -> tuple[dict[str, Episode], dict[str, str]]:
    """(episodes, why others were lost), each by its id."""
    # The longest games first, so that they do not play alone at the end.
    length = {"nle": 0, "crafter": 1}
    queue = deque(sorted(plan, key=lambda item: length.get(item[1].environment, 2)))
    players: list[Player] = []
    played: dict[str, Episode] = {}
    failed: dict[str, str] = {}
    try:
        while queue or players:
            while queue and len(players) < processes:
                _, spec, number = queue.popleft()
                players.append(Player(spec, number, manner))
            _gather(players, linger)
            _answer(answerer, [player for player in players if player.prompt is not None])
            for player in [player for player in players if player.over]:
                players.remove(player)
                player.worker.close()
                if player.failure is not None:
                    failed[player.id] = player.failure
                    continue
                played[player.id] = player.episode()
                if on_episode is not None:
                    on_episode(played[player.id])
    finally:
        for player in players:
            player.worker.close()
    return played, failed


def _gather(players: Sequence[Player], linger: float) -> None:
    """Waits until some game wants an answer, and a little longer for the others; or until an episode is over."""
    until = float("inf")
    while True:
        busy = {player.worker.connection: player for player in players if player.prompt is None}
        if not busy:
            return
        if len(busy) < len(players) and until == float("inf"):
            until = time.monotonic() + linger
        due = min(until, *(player.worker.deadline for player in busy.values()))
        for connection in wait(list(busy), max(0.0, due - time.monotonic())):
            busy.pop(connection).receive()
        now = time.monotonic()
        for player in busy.values():
            if now >= player.worker.deadline:
                player.fail(player.worker.overdue())
        if now >= until or any(player.over for player in players):
            return


def _answer(answerer: Answerer, players: Sequence[Player]) -> None:
    """Answers all at once; where that can not be, one by one, so that a prompt too long costs one episode."""
    if not players:
        return
    try:
        replies = answerer.answer([player.request() for player in players])
    except ValueError as error:
        if len(players) == 1:
            players[0].fail(f"its prompt was not answered: {error}")
            return
        for player in players:
            _answer(answerer, [player])
        return
    for player, reply in zip(players, replies, strict=True):
        player.take(reply)


def _check_environments(environments: Sequence[str], tasks: Mapping[str, Sequence[str]]) -> None:
    if not environments or len(set(environments)) < len(environments):
        raise ValueError(f"environments is {list(environments)}; accepted: at least one, each once")
    for field, names in (("environments", environments), ("tasks", tasks)):
        for name in names:
            if name not in ENVIRONMENTS:
                raise ValueError(f"{field} has {name!r}; accepted: {', '.join(ENVIRONMENTS)}")
    for name, chosen in tasks.items():
        # Levels of BabyAI are known to minigrid alone, which need not be here.
        unknown = [task for task in chosen if name != "babyai" and task not in TASKS[name]]
        if unknown or not chosen:
            raise ValueError(f"tasks of {name} are {list(chosen)}; accepted: some of {', '.join(TASKS[name])}")


def _check(manner: Manner, counts: Mapping[str, int], processes: int) -> None:
    if manner.agent not in REQUESTS:
        raise ValueError(f"agent is {manner.agent!r}; accepted: {', '.join(REQUESTS)}")
    texts, images = manner.max_text_history, manner.max_image_history
    if min(texts, images) < 0 or max(texts, images) < 1:
        raise ValueError(
            f"max_text_history is {texts} and max_image_history {images}; accepted: 0 or more, one at least 1"
        )
    least = [(f"episodes of {name}", count, 1) for name, count in counts.items()]
    least += [("processes", processes, 1), ("recorded_turns", manner.recorded_turns, 2)]
    least += [("max_cot_history", manner.max_cot_history, 0)]
    if manner.max_steps is not None:
        least.append(("max_steps", manner.max_steps, 1))
    for name, value, smallest in least:
        if value < smallest:
            raise ValueError(f"{name} is {value}; accepted: {smallest} or more")


def _notes(played: Mapping[str, Any], not_run: Mapping[str, str], failed: Mapping[str, str]) -> tuple[str, ...]:
    notes = deviations(played)
    absent = [name for name in ENVIRONMENTS if name not in played]
    if absent:
        notes.append(f"the average is over {len(played)} environments, without {', '.join(absent)}")
    for name in played:
        missing = [task for task in not_run if task.startswith(f"{name}/")]
        if missing:
            notes.append(f"{name} lacks {len(missing)} of its tasks: {', '.join(missing)}")
    if failed:
        notes.append(f"{len(failed)} episodes were lost and are not counted")
    return tuple(notes)
