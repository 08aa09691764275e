"""The conversation so far: the instruction, past observations and actions, the present observation.

Source, whose behaviour is reproduced: balrog-ai/BALROG, prompt_builder/history.py.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np

from vldac.evaluate.balrog.observation import Observation
from vldac.generate.request import Message


@dataclass(eq=False)
class _Seen:
    """An observation of the past or present; `past` keeps its messages, so that prompts share them."""

    observation: Observation
    past: dict[tuple[bool, bool], Message] = field(default_factory=dict)

    def message(self, text: bool, image: bool) -> Message:
        if (text, image) not in self.past:
            parts = ["Observation:"] + [self.observation.long_term] * text + [_PICTURE] * image
            self.past[text, image] = _user("\n".join(parts), self.observation.image if image else None)
        return self.past[text, image]


@dataclass(frozen=True)
class _Done:
    action: str
    reasoning: str | None


_PICTURE = "Image observation provided."


class History:
    """Builds prompts from what was seen and done.

    * The instruction is the first message, of the user.
    * The last 2 * max(max_text_history, max_image_history) events are kept, observations and actions alike, so a
      long conversation begins with an action. Of the observations, the last `max_text_history` keep their text
      and the last `max_image_history` their picture; of the actions, the last `max_cot_history` are replaced by
      the reasoning that led to them.
    * Past observations lack the short-term text.
    * An empty action is no event: two observations then follow one another.

    Args:
      instruction: what the game says of itself.
      max_text_history, max_image_history, max_cot_history: how many of each are told; the present counts.
    """

    def __init__(
        self, instruction: str, max_text_history: int = 16, max_image_history: int = 0, max_cot_history: int = 1
    ):
        self._instruction = _user(instruction)
        self._texts, self._images, self._reasonings = max_text_history, max_image_history, max_cot_history
        self._events: deque[_Seen | _Done] = deque(maxlen=2 * max(max_text_history, max_image_history))

    def observe(self, observation: Observation) -> None:
        self._events.append(_Seen(observation))

    def act(self, action: str, reasoning: str | None = None) -> None:
        if action:
            self._events.append(_Done(action, reasoning))

    def messages(self, request: str) -> tuple[Message, ...]:
        """The prompt after an observation.

        Args:
          request: what the agent is asked for, at the end of the last message's text.

        Returns:
          Messages of the user and the assistant; pictures follow the text of their message.
        """
        texts, images, reasonings = self._texts, self._images, self._reasonings
        backwards: list[Message] = []
        for event in reversed(self._events):
            if isinstance(event, _Seen):
                text = texts > 0
                image = images > 0 and event.observation.image is not None
                texts, images = texts - text, images - image
                present = not backwards
                backwards.append(_present(event, text, image, request) if present else event.message(text, image))
            elif event.reasoning is not None and reasonings > 0:
                reasonings -= 1
                backwards.append(Message("assistant", (f"Previous plan:\n{event.reasoning}",)))
            else:
                backwards.append(Message("assistant", (event.action,)))
        return (self._instruction, *reversed(backwards))


def _present(event: _Seen, text: bool, image: bool, request: str) -> Message:
    seen = event.observation
    parts = ["Current Observation:"]
    parts += [seen.short_term] if seen.short_term else []
    parts += [seen.long_term] * text + [_PICTURE] * image
    return _user("\n".join(parts) + "\n\n" + request, seen.image if image else None)


def _user(text: str, image: np.ndarray | None = None) -> Message:
    return Message("user", (text,) if image is None else (text, image))


def alternate_roles(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """Messages of one role that follow one another become one, for models that want to be spoken to in turns.

    Their texts are set apart by a line break; without it, as the official client sends them, some chat templates
    would run them together.
    """
    merged: list[Message] = []
    for message in messages:
        if merged and merged[-1].role == message.role:
            merged[-1] = Message(message.role, (*merged[-1].parts, "\n", *message.parts))
        else:
            merged.append(message)
    return tuple(merged)
