"""The prompt of a world as static slots: which token lies where, which slots are absent, and their positions.

    <|im_start|>user\\n task, actions, format | frame ... frame text <|im_end|>\\n<|im_start|>assistant\\n | answer
    --------------- prefix --------------- | ------------------------ context ---------------------- |

* What never changes comes first: the keys and values of the prefix are the same for every lane and step, so a
  policy computes them once.
* The words around a turn are the tokenizer's own chat template. A world's text is encoded apart from it, so that
  text can not open or close a turn.
* Slots are static. Frames not seen yet and unused text are absent: masked, and taking no position. Nothing is
  packed, so the last context slot, which gives the value and the first token, is the same in every lane.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Int

from envs_jax import World
from vldac.models import ImageSpan
from vldac.text.fragments import FragmentTable
from vldac.text.tokenizer import Vocabulary, encode

# Used where a tokenizer brings no template of its own: Qwen2-VL's, without its default system message.
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
    "<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_STATIC, _DYNAMIC = "\x01static\x01", "\x01dynamic\x01"  # stand in for text that the template must not touch


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
      prefix: int32[P], the static text.
      suffix: int32[S], what closes the user's turn and opens the answer.
      frame: int32[F], the slots of one frame: what stands before an image, visual tokens, what stands behind.
      span: how the frame's image stands in a prompt.
      before: slots of a frame before its visual tokens.
      history: frames of an observation.
      phrases: the world's phrases, pre-tokenised, each with a space before it.
      text_slots: slots for dynamic text; 0 = the policy is not shown any.
    """

    prefix: np.ndarray
    suffix: np.ndarray
    frame: np.ndarray
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
    ) -> Prompt:
        """Tokenises, on the host and once, all that an observation of `world` can need.

        Args:
          world: gives instruction, actions and phrases.
          tokenizer: a Hugging Face tokenizer; its chat template is used if it has one.
          vocabulary: of that tokenizer.
          span: how a frame stands in a prompt (`model_config.image_span`).
          history: frames of an observation.
          text_observation: whether `describe` goes into the prompt.

        Raises:
          ValueError: the chat template does not keep the parts of a turn in their order.
        """
        opening, closing = _turn(tokenizer, history)
        before, after = (_around(tokenizer, part) for part in (span.before, span.after))
        phrases = [encode(tokenizer, f" {phrase}") for phrase in world.phrases]
        text_slots = 0
        if text_observation:
            described = jax.eval_shape(lambda key: world.describe(world.reset(key)), jax.random.key(0))
            text_slots = described.shape[0] * max((len(tokens) for tokens in phrases), default=0)
        return cls(
            prefix=np.array([*opening, *encode(tokenizer, task_text(world.instruction, world.actions))], np.int32),
            suffix=np.array(closing, np.int32),
            frame=np.array([*before, *[span.token_id] * span.tokens, *after], np.int32),
            span=span,
            before=len(before),
            history=history,
            phrases=FragmentTable.build(phrases, pad_id=vocabulary.pad_id),
            text_slots=text_slots,
        )

    @property
    def context_slots(self) -> int:
        """C, slots of everything between prefix and answer."""
        return self.history * len(self.frame) + self.text_slots + len(self.suffix)

    @property
    def image_slots(self) -> np.ndarray:
        """int[history * tokens], the context slots that visual tokens lie in, frame by frame."""
        frames = np.arange(self.history)[:, None] * len(self.frame)
        return (frames + self.before + np.arange(self.span.tokens)).reshape(-1)

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
        # Positions within a frame: what stands before, the image's own three, what stands behind the largest.
        behind = len(self.frame) - self.before - self.span.tokens
        leading = np.broadcast_to(np.arange(self.before), (3, self.before))
        trailing = np.broadcast_to(self.before + self.span.extent + np.arange(behind), (3, behind))
        within = np.concatenate([leading, self.before + self.span.offsets, trailing], axis=1)  # [3, F]
        step = self.before + self.span.extent + behind  # how far a frame moves the next token's position on
        number = jnp.arange(self.history) - (self.history - frames_seen)  # 0 = first frame shown, < 0 = absent
        frames = (step * jnp.maximum(number, 0))[None, :, None] + within[:, None, :]  # [3, h, F]

        if self.text_slots:
            words, word_valid, length = self.phrases.pack(text, self.text_slots)
        else:
            words, word_valid, length = jnp.zeros(0, jnp.int32), jnp.zeros(0, bool), jnp.int32(0)
        text_start = step * frames_seen
        suffix_start = text_start + length
        suffix_slots = len(self.suffix)
        plain = jnp.concatenate(
            [text_start + jnp.arange(self.text_slots), suffix_start + jnp.arange(suffix_slots)]
        )
        positions = jnp.concatenate([frames.reshape(3, -1), jnp.broadcast_to(plain, (3, len(plain)))], axis=1)
        frame_tokens = jnp.tile(jnp.asarray(self.frame), self.history)
        return Slots(
            tokens=jnp.concatenate([frame_tokens, words, jnp.asarray(self.suffix)]),
            valid=jnp.concatenate(
                [jnp.repeat(number >= 0, len(self.frame)), word_valid, jnp.ones(suffix_slots, bool)]
            ),
            positions=(len(self.prefix) + positions).astype(jnp.int32),
            next_position=(len(self.prefix) + suffix_start + suffix_slots).astype(jnp.int32),
        )


def task_text(instruction: str, actions: tuple[str, ...]) -> str:
    """What the model is told once: the task, what it may say, and how."""
    return (
        f"{instruction}\n"
        f"Actions: {', '.join(actions)}\n"
        'Think, then act: {"thoughts": "what you see", "action": "one of the actions"}\n'
    )


def _around(tokenizer: Any, parts: tuple[int | str, ...]) -> list[int]:
    """Ids of what stands before or behind an image."""
    return [i for part in parts for i in ([part] if isinstance(part, int) else encode(tokenizer, part))]


def _turn(tokenizer: Any, history: int) -> tuple[list[int], list[int]]:
    """The chat template's tokens before the static text, and those behind the dynamic one."""
    content = [{"type": "text", "text": _STATIC}]
    content += [{"type": "image"}] * history
    content += [{"type": "text", "text": _DYNAMIC}]
    rendered = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}],
        chat_template=None if tokenizer.chat_template else CHAT_TEMPLATE,
        tokenize=False,
        add_generation_prompt=True,
    )
    before, found, rest = rendered.partition(_STATIC)
    _, found_too, after = rest.partition(_DYNAMIC)
    if not (found and found_too):
        raise ValueError(
            "the tokenizer's chat template does not keep the text, the images and the text of a user's turn in "
            "their order; accepted: a template that does, as Qwen2-VL's"
        )
    # Here, and only here, the text of special tokens means those tokens: it is the template's own.
    return tuple(tokenizer(part, add_special_tokens=False)["input_ids"] for part in (before, after))
