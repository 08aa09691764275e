"""An episode told step by step, and as a sample of the common results page."""

from __future__ import annotations

from dataclasses import dataclass

from vldac.evaluate.balrog.tasks import episode_id
from vldac.evaluate.benchmark import Sample
from vldac.generate.request import Message


@dataclass(frozen=True, eq=False)
class Turn:
    """One step.

    Attributes:
      number: from 0.
      messages: the whole prompt, pictures included.
      completion: what the model wrote, stripped.
      truncated: whether it ran into the limit of tokens.
      parsed, executed: the action that its words are taken for, and the one that was done; they differ where the
        first is not valid.
      reward: what the game gave for it.
      prompt_tokens, answer_tokens: how many there were.
    """

    number: int
    messages: tuple[Message, ...]
    completion: str
    truncated: bool
    parsed: str
    executed: str
    reward: float
    prompt_tokens: int
    answer_tokens: int


@dataclass(frozen=True, eq=False)
class Episode:
    """One game played.

    Attributes:
      environment, task, number, seed: which; numbers count a task's episodes from 0.
      progression: how far it came, 0..1.
      steps: how many.
      invalid: steps whose action was not valid.
      done: whether the game ended it, rather than the limit of steps.
      turns: its steps, or the first and the last of them where there were more than are recorded.
      prompt_tokens, answer_tokens: of all its steps.
    """

    environment: str
    task: str
    number: int
    seed: int
    progression: float
    steps: int
    invalid: int
    done: bool
    turns: tuple[Turn, ...]
    prompt_tokens: int
    answer_tokens: int

    @property
    def id(self) -> str:
        """See `tasks.episode_id`."""
        return episode_id(self.environment, self.task, self.number)

    @property
    def transcript(self) -> str:
        """What was observed, said and done, as text; a gap is named."""
        lines = []
        following = 0
        for turn in self.turns:
            if turn.number > following:
                lines.append(f"[{turn.number - following} steps are not recorded]")
            following = turn.number + 1
            done = (
                turn.executed if turn.executed == turn.parsed else f"{turn.parsed!r} is not valid: {turn.executed}"
            )
            lines.append(
                f"--- step {turn.number} ---\n{turn.messages[-1].text}\n--- answer ---\n{turn.completion}\n"
                f"--- action: {done}; reward {turn.reward:g}"
            )
        return "\n\n".join(lines)

    def sample(self) -> Sample:
        """For the page of all benchmarks: the last prompt, and the transcript for an answer."""
        last = self.turns[-1]
        notes = [
            f"seed {self.seed}",
            f"{self.steps} steps",
            "ended" if self.done else "stopped at the limit of steps",
        ]
        if self.invalid:
            notes.append(f"{self.invalid} actions were not valid")
        return Sample(
            id=self.id,
            task=self.environment,
            messages=last.messages,
            answer=self.transcript,
            extracted=last.executed,
            truth=None,
            scores={"progression": self.progression},
            notes=", ".join(notes),
        )
