"""The prompt of a world as static slots: which token lies where, which slots are absent, and their positions.

    <|im_start|>user\\n task, actions, format | frame ... frame text <|im_end|>\\n<|im_start|>assistant\\n | answer
    --------------- prefix --------------- | ------------------------ context ---------------------- |

* What never changes comes first: the keys and values of the prefix are the same for every lane and step, so a
  policy computes them once.
* The words around a turn are the tokenizer's own chat template. A world's text is encoded apart from it, so that
  text can not open or close a turn.
* Text that a family writes around an image (Gemma 3: blank lines) is tokenised as it meets: what stands between
  two frames is one text. At least one frame is always seen, and the last is the last: the text before the first
  is part of the prefix, the text behind the last has slots that are never absent.
* Slots are static. Frames not seen yet and unused text are absent: masked, and taking no position. Nothing is
  packed, so the last context slot, which gives the value and the first token, is the same in every lane.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Int

from envs_jax import World
from envs_jax.world import Slot, slots_of
from vldac.models import ImageSpan
from vldac.text.chat import user_turn
from vldac.text.fragments import FragmentTable
from vldac.text.tokenizer import Vocabulary, encode


@struct.dataclass
class Slots:
    """The context slots of one observation (leading axes for many).

    Attributes:
      tokens: int32[C]; the image token where a visual token's features go.
      valid: bool[C], false where a slot is absent.
        Worked example, 2 frames of 2 tokens of which the first is not seen yet, no text, a suffix of 2:
        start img img end | start img img end | s s -> [0 0 0 0 | 1 1 1 1 | 1 1].
      positions: int32[3, C], (temporal, height, width); anything where absent.
      next_position: int32[], of the first answer token.
    """

    tokens: Int[Array, "*b c"]
    valid: Bool[Array, "*b c"]
    positions: Int[Array, "*b 3 c"]
    next_position: Int[Array, "*b"]


@dataclass(frozen=True, eq=False)
class Prompt:
    """How observations of one world become slots.

    Attributes:
      prefix: int32[P], the static text, and what stands before the first frame.
      suffix: int32[S], what closes the user's turn and opens the answer.
      frame: int32[F], the slots of one frame: what stands before an image, visual tokens, what stands behind.
      between: int32[G], what stands between two frames.
      behind: int32[E], what stands behind the last frame.
      span: how the frame's image stands in a prompt.
      before: slots of a frame before its visual tokens.
      history: frames of an observation.
      phrases: the world's phrases, pre-tokenised, each with a space before it.
      text_slots: slots for dynamic text; 0 = the policy is not shown any.
    """

    prefix: np.ndarray
    suffix: np.ndarray
    frame: np.ndarray
    between: np.ndarray
    behind: np.ndarray
    span: ImageSpan
    before: int
    history: int
    phrases: FragmentTable
    text_slots: int

    @classmethod
    def build(
        cls,
        world: World,
        tokenizer: Any,
        vocabulary: Vocabulary,
        span: ImageSpan,
        history: int,
        text_observation: bool,
        text_tokens: int = 0,
    ) -> Prompt:
        """Tokenises, on the host and once, all that an observation of `world` can need.

        Args:
          world: gives instruction, actions and phrases.
          tokenizer: a Hugging Face tokenizer; its chat template is used if it has one.
          vocabulary: of that tokenizer.
          span: how a frame stands in a prompt (`model_config.image_span`).
          history: frames of an observation.
          text_observation: whether `describe` goes into the prompt.
          text_tokens: slots for it at most; 0 = as many as it can ever fill.

        Raises:
          ValueError: the chat template does not keep the parts of a turn in their order, or the tokenizer reads
            a world's text as tokens that are not text.
        """
        turn = user_turn(tokenizer, history)

        def words(text: str) -> list[int]:
            tokens = encode(tokenizer, text)
            if strange := sorted({token for token in tokens if vocabulary.bytes_of[token] is None}):
                raise ValueError(f"text {text!r} was encoded to tokens that are not text: {strange}")
            return tokens

        task = task_text(world.instruction, world.actions, slots_of(world))
        phrases = [words(f" {phrase}") for phrase in world.phrases]
        text_slots = 0
        if text_observation:
            described = jax.eval_shape(lambda key: world.describe(world.reset(key)), jax.random.key(0))
            text_slots = described.shape[0] * max((len(tokens) for tokens in phrases), default=0)
            text_slots = min(text_slots, text_tokens or text_slots)
        return cls(
            prefix=_array(turn.opening, words(task.strip() if turn.trims else task), words(span.text_before)),
            suffix=_array(turn.closing),
            frame=_array(span.before, [span.token_id] * span.tokens, span.after),
            between=_array(words(span.text_after + span.text_before)),
            behind=_array(words(span.text_after)),
            span=span,
            before=len(span.before),
            history=history,
            phrases=FragmentTable.build(phrases, pad_id=vocabulary.pad_id),
            text_slots=text_slots,
        )

    @property
    def context_slots(self) -> int:
        """C, slots of everything between prefix and answer."""
        return self._frame_slots + len(self.behind) + self.text_slots + len(self.suffix)

    @property
    def image_slots(self) -> np.ndarray:
        """int[history * tokens], the context slots that visual tokens lie in, frame by frame."""
        frames = np.arange(self.history)[:, None] * (len(self.frame) + len(self.between))
        return (frames + self.before + np.arange(self.span.tokens)).reshape(-1)

    @property
    def _frame_slots(self) -> int:
        """Slots of the frames and of what stands between them."""
        return self.history * (len(self.frame) + len(self.between)) - len(self.between)

    @property
    def image_numbers(self) -> np.ndarray:
        """int[history * tokens], the frame that the visual token in each of `image_slots` belongs to."""
        return np.repeat(np.arange(self.history), self.span.tokens)

    def context(self, frames_seen: Int[Array, ""], text: Int[Array, " n"]) -> Slots:
        """The slots of one observation.

        Args:
          frames_seen: how many of the last frames are real, at least 1.
          text: phrase ids, -1 = nothing.
        """
        # Positions within a frame: what stands before, the image's own three, what stands behind the largest and
        # between this frame and the next.
        block = np.concatenate([self.frame, self.between])
        rest = len(block) - self.before - self.span.tokens
        leading = np.broadcast_to(np.arange(self.before), (3, self.before))
        trailing = np.broadcast_to(self.before + self.span.extent + np.arange(rest), (3, rest))
        within = np.concatenate([leading, self.before + self.span.offsets, trailing], axis=1)  # [3, F + G]
        step = self.before + self.span.extent + rest  # how far a frame moves the next frame's positions on
        number = jnp.arange(self.history) - (self.history - frames_seen)  # 0 = first frame shown, < 0 = absent
        frames = (step * jnp.maximum(number, 0))[None, :, None] + within[:, None, :]  # [3, h, F + G]

        if self.text_slots:
            words, word_valid, length = self.phrases.pack(text, self.text_slots)
        else:
            words, word_valid, length = jnp.zeros(0, jnp.int32), jnp.zeros(0, bool), jnp.int32(0)
        behind, suffix = jnp.asarray(self.behind), jnp.asarray(self.suffix)
        behind_start = step * frames_seen - len(self.between)
        text_start = behind_start + len(behind)
        suffix_start = text_start + length
        plain = jnp.concatenate(
            [
                behind_start + jnp.arange(len(behind)),
                text_start + jnp.arange(self.text_slots),
                suffix_start + jnp.arange(len(suffix)),
            ]
        )
        slots = self._frame_slots  # the last frame has nothing between it and a next
        positions = [frames.reshape(3, -1)[:, :slots], jnp.broadcast_to(plain, (3, len(plain)))]
        valid = [
            jnp.repeat(number >= 0, len(block))[:slots],
            jnp.ones(len(behind), bool),
            word_valid,
            jnp.ones(len(suffix), bool),
        ]
        return Slots(
            tokens=jnp.concatenate([jnp.tile(jnp.asarray(block), self.history)[:slots], behind, words, suffix]),
            valid=jnp.concatenate(valid),
            positions=(len(self.prefix) + jnp.concatenate(positions, axis=1)).astype(jnp.int32),
            next_position=(len(self.prefix) + suffix_start + len(suffix)).astype(jnp.int32),
        )


def task_text(instruction: str, actions: tuple[str, ...], slots: Mapping[str, Slot] = MappingProxyType({})) -> str:
    """What the model is told once: the task, what it may say, and how.

    Args:
      instruction, actions: the world's.
      slots: the world's, if its actions have places, as in "search[{word}]": a line says what to put there.
    """
    return (
        f"{instruction}\n"
        f"Actions: {', '.join(actions)}\n"
        f"{_filling(slots)}"
        'Think, then act: {"thoughts": "what you see", "action": "one of the actions"}\n'
    )


def _filling(slots: Mapping[str, Slot]) -> str:
    """'In place of {word} say 1 to 6 words, such as "king"; of {link} say one, such as "item 1".', a line."""
    parts = []
    for name, slot in slots.items():
        many = f"1 to {slot.most} words" if slot.most > 1 else "one"
        parts.append(f'of {{{name}}} say {many}, such as "{slot.words[len(slot.words) // 2]}"')
    return f"In place {'; '.join(parts)}.\n" if parts else ""


def _array(*parts: Sequence[int]) -> np.ndarray:
    return np.array([token for part in parts for token in part], np.int32)
