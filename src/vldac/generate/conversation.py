"""A conversation as slots of a model: which token lies where, at which position, and where pictures are seen.

* The words around turns are the tokenizer's own chat template, run on stand-ins: what someone wrote is put in
  afterwards as ordinary text, so that "<|im_end|>" in a message is ten characters and never ends a turn. (A
  template that looks into the text, as some do for tools or thoughts, sees the stand-in.)
* Text between two special tokens is tokenised in one piece, whoever wrote which part of it, as Hugging Face does.
* What the template writes for a picture is replaced by what the family's processor makes of it
  (`config.image_span`, `config.video_spans`). A family without videos is shown a video's frames as pictures.
"""

from __future__ import annotations

import itertools
import math
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vldac.generate.bound import most_bytes
from vldac.generate.request import Message, Video
from vldac.models import ImageSpan, VLMConfig
from vldac.text.chat import render
from vldac.text.tokenizer import Tokenizer, Vocabulary, encode

# Around a text's number: a template that trims what it is given takes \x1f, which is whitespace, off.
_STAND_IN = re.compile("(\x1f?)\x01([0-9]+)\x01(\x1f?)")


@dataclass(frozen=True, eq=False)
class Look:
    """Pictures of one size, and where their visual tokens go.

    Attributes:
      frames: uint8[n, t, H, W, 3], n pictures; t is 1, or the frames that a patch of a video spans.
      slots: int32[n * T], of their visual tokens in order.
    """

    frames: np.ndarray
    slots: np.ndarray


@dataclass(frozen=True, eq=False)
class Encoded:
    """What a model reads before it answers, n slots.

    Attributes:
      tokens: int32[n]; where a visual token's features go, an id that stands for it.
      positions: int32[3, n], (temporal, height, width).
      images: int32[n], the number of the picture that a slot's visual token belongs to, -1 = text.
      next_position: of the answer's first token.
      looks: the pictures.
    """

    tokens: np.ndarray
    positions: np.ndarray
    images: np.ndarray
    next_position: int
    looks: tuple[Look, ...]


class TooLong(ValueError):
    """A conversation and its answer have more tokens than a lane has room for."""


class ConversationEncoder:
    """Encodes conversations for one model; may be used by several threads.

    Args:
      tokenizer: a Hugging Face tokenizer; its chat template is used if it has one.
      vocabulary: of that tokenizer and the model.
      config: the model's.
    """

    def __init__(self, tokenizer: Tokenizer, vocabulary: Vocabulary, config: VLMConfig):
        self._tokenizer, self._vocabulary, self._config = tokenizer, vocabulary, config
        self._lock = threading.Lock()  # encoding sets options of the one Rust tokenizer
        special = [added.content for added in tokenizer.added_tokens_decoder.values() if added.special]
        special.sort(key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, special)) or r"(?!)")
        self._image = _spelled_image(tokenizer)
        self._most_bytes = most_bytes(tokenizer, self._vocabulary)

    def encode(self, messages: Sequence[Message], max_length: int | None = None) -> Encoded:
        """The slots of a conversation and of the opening of its answer.

        Args:
          messages: the conversation.
          max_length: tokens that there is room for. A text that can not fit is refused before it is tokenised;
            what is returned may still be longer.

        Raises:
          TooLong: a text has more tokens than there is room for, however it is cut.
          ValueError: the conversation does not end with a user's turn, its template refuses it (some want user
            and assistant to take turns), or a picture is of a size that the family does not take.
        """
        if messages[-1].role != "user":
            raise ValueError(f"the last message is of role {messages[-1].role!r}; accepted: 'user'")
        texts: list[str] = []
        pictures: list[np.ndarray | Video] = []
        turns = []
        for message in messages:
            content: list[dict[str, Any]] = []
            for part in message.parts or ("",):
                if isinstance(part, str):
                    content.append(_stand_in(len(texts)))
                    texts.append(part)
                else:
                    shown = self._shown(part)
                    content += [{"type": "image", "image": ""}] * len(shown)
                    pictures += shown
            turns.append({"role": message.role, "content": content})
        rendered = render(self._tokenizer, turns, add_generation_prompt=True)  # takes seconds for very many turns
        with self._lock:
            return self._laid_out(rendered, texts, pictures, max_length)

    def _shown(self, part: np.ndarray | Video) -> list[np.ndarray | Video]:
        """One picture, one video, or a video as pictures."""
        if isinstance(part, Video) and not hasattr(self._config, "video_spans"):
            return list(part.frames)
        return [part]

    def _laid_out(
        self, rendered: str, texts: list[str], pictures: list[np.ndarray | Video], max_length: int | None
    ) -> Encoded:
        layout = _Layout(self, max_length)
        shown = iter(pictures)
        left, texts_left = len(pictures), set(range(len(texts)))
        pieces = iter(_STAND_IN.split(rendered))  # template, (kept in front, number, kept behind), template, ...
        for piece in pieces:
            for at, words in enumerate(piece.split(self._image)):
                if at:
                    left -= 1
                    if left < 0:
                        break
                    self._place(layout, next(shown))
                layout.template(words)
            if text := list(itertools.islice(pieces, 3)):
                words = texts[int(text[1])]
                words = words if text[0] else words.lstrip()
                layout.text(words if text[2] else words.rstrip())
                texts_left.discard(int(text[1]))
        if left or texts_left:
            raise ValueError(
                "the tokenizer's chat template does not write every text and picture of the conversation once; "
                f"of {len(pictures)} pictures {left} are left, of {len(texts)} texts {len(texts_left)}"
            )
        return layout.done()

    def _place(self, layout: _Layout, picture: np.ndarray | Video) -> None:
        if isinstance(picture, Video):
            together = self._config.vision.temporal_patch_size
            frames = picture.frames
            if missing := -len(frames) % together:  # the last frame stays
                frames = np.concatenate([frames, np.repeat(frames[-1:], missing, axis=0)])
            spans = self._config.video_spans(len(picture.frames), *frames.shape[1:3], picture.fps)
            layout.picture(frames.reshape(-1, together, *frames.shape[1:]), spans)
        else:
            layout.picture(picture[None, None], [self._config.image_span(*picture.shape[:2])])

    def fewest(self, text: str) -> int:
        """Tokens that ordinary text has at least, without tokenising it."""
        return math.ceil(len(text.encode()) / self._most_bytes)

    def ids(self, text: str) -> list[int]:
        """Ids of ordinary text, whatever it spells."""
        ids = encode(self._tokenizer, text)
        if any(self._vocabulary.bytes_of[token] is None for token in ids):
            # The tokenizer calls a token ordinary that means a picture here (Gemma 3): its spelling is cut.
            ids = []
            added = self._tokenizer.added_tokens_decoder
            meaning = [token.content for i, token in added.items() if self._vocabulary.bytes_of[i] is None]
            for piece in re.split(f"({'|'.join(map(re.escape, meaning))})", text):
                for part in (piece[:1], piece[1:]) if piece in meaning else (piece,):
                    ids += encode(self._tokenizer, part)
        return ids

    def template_ids(self, text: str) -> list[int | str]:
        """The template's own words: ids of its special tokens, and the text between."""
        found: list[int | str] = []
        at = 0
        for match in self._special.finditer(text):
            found += [text[at : match.start()], self._tokenizer.convert_tokens_to_ids(match[0])]
            at = match.end()
        return [*found, text[at:]]


class _Layout:
    """Slots that are being filled from the front."""

    def __init__(self, encoder: ConversationEncoder, max_length: int | None):
        self._encoder, self._max_length = encoder, max_length
        self._words = ""  # not tokenised yet: more may follow
        self._tokens: list[int] = []
        self._positions: list[np.ndarray] = []
        self._images: list[int] = []
        self._next = 0
        self._looks: list[Look] = []
        self._count = 0

    def text(self, words: str) -> None:
        self._words += words

    def template(self, words: str) -> None:
        for piece in self._encoder.template_ids(words):
            if isinstance(piece, str):
                self._words += piece
            else:
                self._flush()
                self._plain([piece])

    def picture(self, frames: np.ndarray, spans: Sequence[ImageSpan]) -> None:
        slots = []
        for span in spans:
            self._words += span.text_before
            self._flush()
            self._plain(span.before)
            slots.append(len(self._tokens) + np.arange(span.tokens))
            self._tokens += [span.token_id] * span.tokens
            self._positions.append(self._next + span.offsets)
            self._images += [self._count] * span.tokens
            self._next += span.extent
            self._count += 1
            self._plain(span.after)
            self._words += span.text_after
        self._looks.append(Look(frames, np.concatenate(slots).astype(np.int32)))

    def done(self) -> Encoded:
        self._flush()
        return Encoded(
            tokens=np.asarray(self._tokens, np.int32),
            positions=np.concatenate(self._positions, axis=1).astype(np.int32),
            images=np.asarray(self._images, np.int32),
            next_position=self._next,
            looks=tuple(self._looks),
        )

    def _flush(self) -> None:
        if self._words:
            most = self._max_length
            if most is not None and len(self._tokens) + self._encoder.fewest(self._words) > most:
                raise TooLong(
                    f"the conversation has more than {most} tokens; accepted: max_length, which is {most}, for it "
                    f"and its answer together"
                )
            self._plain(self._encoder.ids(self._words))
            self._words = ""

    def _plain(self, ids: Sequence[int]) -> None:
        self._tokens += ids
        self._images += [-1] * len(ids)
        self._positions.append(np.broadcast_to(self._next + np.arange(len(ids)), (3, len(ids))))
        self._next += len(ids)


def _stand_in(number: int) -> dict[str, str]:
    return {"type": "text", "text": f"\x1f\x01{number}\x01\x1f"}


def _spelled_image(tokenizer: Tokenizer) -> str:
    """What the template writes for a picture."""
    content = [_stand_in(0), {"type": "image", "image": ""}, _stand_in(1)]
    rendered = render(tokenizer, [{"role": "user", "content": content}], add_generation_prompt=True)
    pieces = _STAND_IN.split(rendered)
    if len(pieces) != 9 or pieces[2] != "0" or pieces[6] != "1" or not pieces[4]:
        raise ValueError(
            "the tokenizer's chat template does not keep a text, a picture and a text of a user's turn in their "
            f"order; accepted: a template that does, as Qwen2-VL's. It writes {rendered!r}"
        )
    return pieces[4]
