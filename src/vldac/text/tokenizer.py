"""Hugging Face tokenizers on the host: loaded once, then read as a table of bytes.

* The bundled ones are real `tokenizer.json`s and are loaded like those of any checkpoint. The default has 256
  bytes (the id of byte b is b), Qwen's special tokens, and the three pieces that frame every answer, which make
  an answer half as long as its bytes. The other is a BPE trained on the worlds' own text (`vldac.text.bpe`).
* What a token *is* on the device is its bytes: they decide what an answer says, however it is cut into tokens.
* A world's own text can not smuggle special tokens in: their spelling is encoded as ordinary text.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Array

from vldac.text.chat import end_of_answer

Tokenizer = Any  # transformers.PreTrainedTokenizerFast; not imported by name, since that alone takes seconds

BYTE_TOKENIZER = Path(__file__).with_name("byte_tokenizer")
BPE_TOKENIZER = Path(__file__).with_name("bpe_tokenizer")
VISION_START, VISION_END = "<|vision_start|>", "<|vision_end|>"
IMAGE, VIDEO = "<|image_pad|>", "<|video_pad|>"


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """What the tokens of a model are, as far as the device needs to know.

    Attributes:
      bytes_of: id -> the bytes that the token adds to a text; None for special tokens and for the
        ids between the tokenizer's vocabulary and the model's. Ids without bytes are never sampled, except EOS.
      eos_id: ends an answer, see `chat.end_of_answer`.
      pad_id: fills the slots after the end; `eos_id` if the tokenizer names none.
      size: of the model's vocabulary, padding included.
    """

    bytes_of: tuple[bytes | None, ...] = field(repr=False)
    eos_id: int
    pad_id: int
    size: int


def load_tokenizer(path: str | Path | None = None) -> Tokenizer:
    """Loads a tokenizer.

    Args:
      path: a folder with `tokenizer.json`, or the id of a model on the Hugging Face hub; None is the bundled
        byte-level tokenizer. Only a hub id can reach for the network.

    Raises:
      ValueError: nothing is there, it can not be read, or it is not a tokenizer of the `tokenizers` library.
    """
    from transformers import AutoTokenizer  # takes seconds, and most of the project can do without

    where = Path(BYTE_TOKENIZER if path is None else path)
    local = where.exists() or isinstance(path, Path) or where.is_absolute() or len(where.parts) > 2
    if local and not (where / "tokenizer.json").is_file():
        raise ValueError(f"tokenizer {str(path)!r}: no such folder, or no tokenizer.json in it")
    try:
        # Left unsaid, transformers would ask on the terminal whether to run the code that a folder may bring.
        tokenizer = AutoTokenizer.from_pretrained(
            str(where if local else path), local_files_only=local, trust_remote_code=False
        )
    except Exception as error:  # the Rust library raises bare Exceptions
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        wanted = "a folder with a tokenizer.json" + (
            "" if local else ", or a model id that the hub can be asked for"
        )
        raise ValueError(f"tokenizer {str(path)!r} can not be loaded ({reason}); accepted: {wanted}") from error
    if not getattr(tokenizer, "is_fast", False):
        raise ValueError(f"tokenizer {str(path)!r} is not one of the `tokenizers` library (tokenizer.json)")
    return tokenizer


def special_id(tokenizer: Tokenizer, token: str) -> int:
    """The id of a special token, by its spelling.

    Raises:
      ValueError: the tokenizer has no such special token.
    """
    for token_id, added in tokenizer.added_tokens_decoder.items():
        if added.content == token and added.special:
            return token_id
    raise ValueError(
        f"the tokenizer has no special token {token!r}; it has {', '.join(tokenizer.all_special_tokens)}"
    )


def encode(tokenizer: Tokenizer, text: str) -> list[int]:
    """Ids of ordinary text: nothing is added around it, and spelled-out special tokens stay text.

    Raises:
      ValueError: the tokenizer can not keep special tokens out.
    """
    token_ids = list(tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids)
    special = [i for i, added in tokenizer.added_tokens_decoder.items() if added.special]
    found = sorted(set(token_ids).intersection(special))
    if found:
        raise ValueError(f"text {text!r} was encoded to special tokens {found}")
    return token_ids


def vocabulary(
    tokenizer: Tokenizer, model_vocab_size: int | None = None, reserved: Collection[int] = ()
) -> Vocabulary:
    """Reads the bytes of every token out of a tokenizer.

    Byte-level BPE (GPT-2, Qwen, Llama 3) spells bytes in an alphabet of printable characters; SentencePiece
    (Llama 2, Gemma) spells a space as U+2581 and single bytes as <0x41>.

    Args:
      tokenizer: as `load_tokenizer` gives it.
      model_vocab_size: rows of the model's embedding, at least the tokenizer's; None = as many.
      reserved: ids that are never text, whatever the tokenizer says of them: those of images.

    Raises:
      ValueError: another kind of tokenizer, nothing that ends an answer, a vocabulary larger than the model's, a
        reserved id that is text or that ends an answer.
    """
    vocab = tokenizer.get_vocab()
    used = max(vocab.values()) + 1
    size = used if model_vocab_size is None else model_vocab_size
    if size < used:
        raise ValueError(f"model_vocab_size is {size}; accepted: {used} or more, the tokenizer's ids")
    eos_id = end_of_answer(tokenizer)
    added = tokenizer.added_tokens_decoder

    spell, spell_added = _spelling(tokenizer)
    bytes_of: list[bytes | None] = [None] * size
    for token, token_id in vocab.items():
        if token_id not in added:
            bytes_of[token_id] = spell(token) or None  # a token that adds nothing could be sampled for ever
        elif not added[token_id].special:  # text that is never cut
            bytes_of[token_id] = spell_added(added[token_id].content)
    bytes_of[eos_id] = None
    if eos_id in reserved:
        raise ValueError(f"id {eos_id} ends an answer in the tokenizer and belongs to images in the model")
    for token_id in reserved:
        if token_id >= size or (bytes_of[token_id] is not None and token_id not in added):
            raise ValueError(
                f"id {token_id} belongs to images in the model, and the tokenizer "
                f"{'has no such id' if token_id >= size else f'spells {bytes_of[token_id]!r} with it'}: "
                "they do not belong together"
            )
        bytes_of[token_id] = None
    return Vocabulary(
        bytes_of=tuple(bytes_of),
        eos_id=eos_id,
        pad_id=eos_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id,
        size=size,
    )


def decode_answer(vocabulary: Vocabulary, token_ids: Sequence[int] | np.ndarray | Array) -> str:
    """The text of an answer, for people: tokens without bytes are left out, broken UTF-8 becomes U+FFFD."""
    return b"".join(vocabulary.bytes_of[int(i)] or b"" for i in token_ids).decode("utf-8", errors="replace")


def byte_alphabet() -> dict[str, int]:
    """The characters by which byte-level BPE spells bytes: character -> byte.

    Printable bytes stand for themselves, the others for U+0100 onwards in their order (`bytes_to_unicode` of
    GPT-2's encoder.py).
    """
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


def _spelling(tokenizer: Tokenizer) -> tuple[Callable[[str], bytes | None], Callable[[str], bytes]]:
    """How this tokenizer spells bytes: of its tokens, None if one has none, and of text added as a whole."""
    decoder = json.dumps(json.loads(tokenizer.backend_tokenizer.to_str())["decoder"])
    if '"ByteLevel"' in decoder:
        alphabet = byte_alphabet()

        def byte_level(token: str) -> bytes | None:
            return bytes(alphabet[c] for c in token) if all(c in alphabet for c in token) else None

        return byte_level, str.encode  # text is added as it reads, not in the alphabet
    if '"ByteFallback"' in decoder or '"Metaspace"' in decoder:

        def sentencepiece(token: str) -> bytes:
            if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
                return bytes.fromhex(token[3:5])
            return token.replace("\u2581", " ").encode("utf-8")

        return sentencepiece, sentencepiece  # Gemma adds runs of spaces, spelled as U+2581
    raise ValueError(f"the tokenizer's decoder is neither byte-level nor SentencePiece: {decoder}")
