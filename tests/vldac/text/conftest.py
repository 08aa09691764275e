"""Two tokenizers for every test of text: the bundled bytes, and a BPE trained here on answers.

The trained one has tokens that span the borders of the answer format, its tokens may end within a character, and
it is loaded from a folder that looks like a Qwen2-VL checkpoint's.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from vldac.text.tokenizer import Vocabulary, load_tokenizer, vocabulary

SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
WORDS = (
    *("the", "box", "is", "left", "right", "ahead", "wall", "near", "far", "3,1", "turn_left", "go"),
    *("↑", "naïve", "我看", "é🚪", "\\u00e9", "\\n", '\\"'),
)


@dataclass(frozen=True, eq=False)
class Text:
    """A tokenizer, its vocabulary (padded, as a model's is), and ways to cut bytes into its tokens."""

    tokenizer: Any
    vocabulary: Vocabulary
    ids: dict[bytes, int]

    def cut(self, text: bytes, rng: np.random.Generator) -> list[int]:
        """A random way to cut `text` into tokens: a retokenisation."""
        longest, tokens, at = max(map(len, self.ids)), [], 0
        while at < len(text):
            fitting = [n for n in range(1, longest + 1) if at + n <= len(text) and text[at : at + n] in self.ids]
            length = int(rng.choice(fitting))
            tokens.append(self.ids[text[at : at + length]])
            at += length
        return tokens

    def spell(self, tokens) -> bytes:
        return b"".join(self.vocabulary.bytes_of[int(i)] or b"" for i in tokens)


def save_tokenizer(folder: Path, tokenizer: Tokenizer, **config: Any) -> Path:
    """Adds Qwen's special tokens, as a checkpoint of Qwen2-VL has them, and writes its two files."""
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": "<|endoftext|>",
        "eos_token": "<|im_end|>",
        **config,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def train_bpe() -> Tokenizer:
    """Byte-level BPE whose words are whole answers, so that merges run across quotes, commas and braces."""
    rng = np.random.default_rng(0)
    answers = [
        f'{{"thoughts": "{" ".join(rng.choice(WORDS, 4))}", "action": "{action}"}}'
        for action in ("turn_left", "turn_right", "move_forward", "+", "go to fridge 1")
        for _ in range(40)
    ]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        answers, trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet, show_progress=False)
    )
    return tokenizer


@pytest.fixture(scope="session")
def save(tmp_path_factory):
    """(tokenizer, **tokenizer_config) -> a fresh folder that `load_tokenizer` reads."""

    def save_to_fresh_folder(tokenizer: Tokenizer, **config: Any) -> Path:
        return save_tokenizer(tmp_path_factory.mktemp("tokenizer"), tokenizer, **config)

    return save_to_fresh_folder


@pytest.fixture(scope="session")
def bpe() -> Tokenizer:
    return train_bpe()


@pytest.fixture(scope="session", params=["bytes", "bpe"])
def text(request, save, bpe) -> Text:
    """Of the bundled tokenizer and of a trained one, in turn."""
    tokenizer = load_tokenizer(None if request.param == "bytes" else save(bpe))
    table = vocabulary(tokenizer, max(tokenizer.get_vocab().values()) + 10)
    return Text(tokenizer, table, {token: i for i, token in enumerate(table.bytes_of) if token is not None})
