"""A byte-level BPE tokenizer trained on the worlds' own text, for models that are trained from scratch.

The same kind as Qwen's (bytes, merges, special tokens, a `tokenizer.json`), learnt from what the worlds say and
what is answered in them, and with the three pieces that frame an answer as tokens of their own: an answer is ten
tokens instead of fifty bytes. Any other text still encodes, byte by byte where need be. The bundled one is

    train_tokenizer(corpus(map(envs_jax.make, envs_jax.names())), 1024, BPE_TOKENIZER)
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from envs_jax import World
from envs_jax.world import slots_of
from vldac.text.automaton import json_text
from vldac.text.prompt import task_text
from vldac.text.tokenizer import BYTE_TOKENIZER, byte_alphabet

CONFIG_FILE = "tokenizer_config.json"
FRAME = ('{"thoughts": "', '", "action": "', '"}')  # of an answer; text, though each is one token


def corpus(worlds: Iterable[World]) -> list[str]:
    """All that is written in these worlds: tasks, actions, phrases and slots' words (first, and behind others)."""
    texts = []
    for world in worlds:
        texts.append(task_text(world.instruction, world.actions))
        for phrase in map(json_text, world.phrases):
            texts += [phrase, f" {phrase}"]
        texts += map(json_text, world.actions)
        for slot in slots_of(world).values():
            for word in map(json_text, slot.words):
                texts += [word, f" {word}"]
    return texts


def train_tokenizer(texts: Iterable[str], vocab_size: int, folder: Path) -> None:
    """Trains a tokenizer and writes it.

    Args:
      texts: what it is trained on.
      vocab_size: tokens at most, bytes and special tokens included.
      folder: gets `tokenizer.json` and `tokenizer_config.json`; made if it is new.

    Raises:
      ValueError: the vocabulary has no room for the bytes.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    config = json.loads((BYTE_TOKENIZER / CONFIG_FILE).read_text(encoding="utf-8"))
    special = [config["pad_token"], config["eos_token"], *config["additional_special_tokens"]]
    least = 256 + len(special) + len(FRAME)
    if vocab_size < least:
        raise ValueError(
            f"vocab_size is {vocab_size}; accepted: {least} or more, bytes, special tokens and an answer's frame"
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(FRAME),
        special_tokens=special,
        initial_alphabet=list(byte_alphabet()),
        min_frequency=2,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens([AddedToken(piece, normalized=False) for piece in FRAME])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=True)
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
