"""Bytes of text that a token stands for at most: what tells that a text is too long without tokenising it.

A tokenizer takes a second and hundreds of megabytes for each megabyte of text, and is one for all who ask.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

from vldac.text.tokenizer import Tokenizer, Vocabulary

# NFC makes bytes fewer: at most 7 to 2 (U+1FBE U+0308 U+0301 become U+0390).
NFC_SHRINKS = 3.5
_KEEPING = {"Sequence", "Split", "Digits", "Punctuation", "ByteLevel", "Metaspace"}  # pre-tokenizers


def most_bytes(tokenizer: Tokenizer, vocabulary: Vocabulary) -> float:
    """Bytes of UTF-8 that a token of ordinary text stands for at most; inf = nobody knows.

    Nobody knows where a tokenizer may drop text (trims spaces, strips accents, reads all that is unknown as one
    token): then few tokens may stand for any text. Those of Qwen and Gemma keep all of it.
    """
    parts = json.loads(tokenizer.backend_tokenizer.to_str())
    model, cut = parts["model"], json.dumps(parts["pre_tokenizer"])
    unknown_as_one = model.get("fuse_unk") and not model.get("byte_fallback")
    drops = '"Removed"' in cut or set(re.findall(r'"type": "(\w+)"', cut)) - _KEEPING
    added = tokenizer.added_tokens_decoder.values()
    trims = any((token.lstrip or token.rstrip) and not token.special for token in added)
    if unknown_as_one or drops or trims:
        return math.inf
    longest = max(len(text) for text in vocabulary.bytes_of if text is not None)
    # SentencePiece spells a space as U+2581, three bytes, and U+2581 itself alike.
    spaces = 3 if "\u2581" in json.dumps(parts["decoder"], ensure_ascii=False) else 1
    return longest * spaces * _shrinks(parts["normalizer"])


def _shrinks(normalizer: dict[str, Any] | None) -> float:
    """Bytes that go into a normalizer for each that comes out, at most."""
    match normalizer:
        case None | {"type": "Prepend"} | {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}:
            return 1.0
        case {"type": "NFC"}:
            return NFC_SHRINKS
        case {"type": "Sequence", "normalizers": steps}:
            return math.prod(map(_shrinks, steps))
    return math.inf
