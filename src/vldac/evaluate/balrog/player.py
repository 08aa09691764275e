"""One episode that is being played: it waits for its game, or with a prompt for an answer, or it is over."""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vldac.evaluate.balrog.agents import REMEMBERS, REQUESTS
from vldac.evaluate.balrog.environments import Spec
from vldac.evaluate.balrog.episode import Episode, Turn
from vldac.evaluate.balrog.history import History, alternate_roles
from vldac.evaluate.balrog.observation import Observation
from vldac.evaluate.balrog.scoring import parse_action, progression
from vldac.evaluate.balrog.tasks import episode_id
from vldac.evaluate.balrog.worker import Worker, WorkerError
from vldac.generate.request import Message, Reply, Request


@dataclass(frozen=True)
class Manner:
    """How all episodes of a run are played; see `run.run` for each."""

    agent: str
    seed: int
    max_text_history: int
    max_image_history: int
    max_cot_history: int
    feedback_on_invalid_action: bool
    alternating_roles: bool
    temperature: float
    max_tokens: int
    max_steps: int | None
    start_seconds: float
    step_seconds: float
    recorded_turns: int


@dataclass(frozen=True, eq=False)
class _Answered:
    """What was asked and answered, until the game says what came of it."""

    messages: tuple[Message, ...]
    reply: Reply
    parsed: str
    executed: str


class Player:
    """Attributes:
    id: as an episode's.
    prompt: what waits for an answer, or None.
    over: whether there is nothing more to come.
    failure: why it was lost, or None.
    """

    def __init__(self, spec: Spec, number: int, manner: Manner):
        self.id = episode_id(spec.environment, spec.task, number)
        self.prompt: tuple[Message, ...] | None = None
        self.over = False
        self.failure: str | None = None
        self.worker = Worker(spec, manner.start_seconds)
        self._spec, self._number, self._manner = spec, number, manner
        self._history: History | None = None
        self._actions: Sequence[str] | None = None
        self._max_steps = 0
        self._answered: _Answered | None = None
        self._steps: list[dict[str, Any]] = []
        self._first: list[Turn] = []
        self._last: deque[Turn] = deque(maxlen=manner.recorded_turns - manner.recorded_turns // 2)
        self._invalid = self._prompt_tokens = self._answer_tokens = 0

    def receive(self) -> None:
        """Takes what the game says, and makes the next prompt."""
        try:
            observation, data = self.worker.receive()
        except WorkerError as error:
            self.fail(str(error))
            return
        manner = self._manner
        if self._history is None:
            texts, images, plans = manner.max_text_history, manner.max_image_history, manner.max_cot_history
            self._history = History(data["instruction"], texts, images, plans)
            self._actions = data["actions"]
            self._max_steps = manner.max_steps or data["max_steps"]
        else:
            observation = self._stepped(observation, data)
            if self.over:
                return
        self._history.observe(observation)
        messages = self._history.messages(REQUESTS[manner.agent])
        self.prompt = alternate_roles(messages) if manner.alternating_roles else messages

    def request(self) -> Request:
        """The prompt as a request. Its dice are of this run, episode and step alone."""
        name = f"{self._manner.seed} {self.id} {len(self._steps)}"
        return Request(
            messages=self.prompt,
            max_tokens=self._manner.max_tokens,
            temperature=self._manner.temperature,
            seed=zlib.crc32(name.encode()) & 0x7FFFFFFF,
        )

    def take(self, reply: Reply) -> None:
        """Does what an answer says."""
        said = reply.text.strip()  # as the official clients do
        parsed, executed = parse_action(self._spec.environment, self._manner.agent, said, self._actions)
        self._answered = _Answered(self.prompt, reply, parsed, executed)
        self.prompt = None
        self.worker.act(executed, self._manner.step_seconds)

    def fail(self, reason: str) -> None:
        self.over, self.failure, self.prompt = True, reason, None

    def episode(self) -> Episode:
        """What was played, once it is over."""
        spec, last = self._spec, self._steps[-1]
        return Episode(
            environment=spec.environment,
            task=spec.task,
            number=self._number,
            seed=spec.seed,
            progression=progression(spec.environment, self._steps),
            steps=len(self._steps),
            invalid=self._invalid,
            done=last["terminated"] or last["truncated"],
            turns=(*self._first, *self._last),
            prompt_tokens=self._prompt_tokens,
            answer_tokens=self._answer_tokens,
        )

    def _stepped(self, observation: Observation, data: dict[str, Any]) -> Observation:
        """Books a step; returns the observation as the model is to see it."""
        answered, manner = self._answered, self._manner
        reply, executed = answered.reply, answered.executed
        turn = Turn(
            number=len(self._steps),
            messages=answered.messages,
            completion=reply.text.strip(),
            truncated=reply.finish_reason == "length",
            parsed=answered.parsed,
            executed=executed,
            reward=float(data["reward"]),
            prompt_tokens=reply.prompt_tokens,
            answer_tokens=reply.answer_tokens,
        )
        (self._first if len(self._first) < manner.recorded_turns // 2 else self._last).append(turn)
        self._steps.append(data)
        self._prompt_tokens += reply.prompt_tokens
        self._answer_tokens += reply.answer_tokens
        valid = answered.parsed == executed
        self._invalid += not valid
        self.over = data["terminated"] or data["truncated"] or len(self._steps) >= self._max_steps
        # What was meant, valid or not, stands in the history.
        self._history.act(answered.parsed, turn.completion if manner.agent in REMEMBERS else None)
        if valid or not manner.feedback_on_invalid_action:
            return observation
        feedback = f"Your previous output did not contain a valid action. Defaulted to action: {executed}"
        text = f"\n\n{feedback}\n\nObservation:\n{observation.long_term}"
        return Observation(text, observation.short_term, observation.image)
