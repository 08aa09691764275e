"""The tokenizer trained on the worlds' own text."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

import envs_jax
from vldac.text.bpe import FRAME, corpus, train_tokenizer
from vldac.text.grammar import ActionGrammar
from vldac.text.tokenizer import BPE_TOKENIZER, decode_answer, encode, load_tokenizer, special_id, vocabulary

BUNDLED = load_tokenizer(BPE_TOKENIZER)
ANSWER = '{"thoughts": "box far left near", "action": "move_forward"}'


@given(st.text())
def test_any_text_is_encoded_without_loss(text):
    table = vocabulary(BUNDLED)
    assert b"".join(table.bytes_of[i] for i in encode(BUNDLED, text)) == text.encode()


def test_the_worlds_words_are_whole_tokens():
    pieces = [decode_answer(vocabulary(BUNDLED), [i]) for i in encode(BUNDLED, ANSWER)]
    assert pieces == [FRAME[0], "box", " far", " left", " near", FRAME[1], "move", "_", "forward", FRAME[2]]


def test_the_bundled_one_is_of_the_worlds_that_there_are(tmp_path):
    train_tokenizer(corpus(map(envs_jax.make, envs_jax.names())), 1024, tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / name).read_bytes() == (BPE_TOKENIZER / name).read_bytes()


def test_special_tokens_are_qwens_and_are_never_text():
    table = vocabulary(BUNDLED)
    assert table.eos_id == special_id(BUNDLED, "<|im_end|>")
    for token in ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"):
        assert table.bytes_of[special_id(BUNDLED, token)] is None
        assert special_id(BUNDLED, token) not in encode(BUNDLED, f"a {token} b")


def test_training_gives_the_same_file_each_time_and_respects_its_size(tmp_path):
    texts = corpus([envs_jax.make("miniworld/one_room")])
    for folder in ("a", "b"):
        train_tokenizer(texts, 300, tmp_path / folder)
    assert (tmp_path / "a/tokenizer.json").read_bytes() == (tmp_path / "b/tokenizer.json").read_bytes()
    assert len(json.loads((tmp_path / "a/tokenizer.json").read_text())["model"]["vocab"]) == 300 - len(FRAME)
    trained = load_tokenizer(tmp_path / "a")
    grammar = ActionGrammar.build(("move_forward", "turn_left"), vocabulary(trained), "grammar")
    assert int(grammar.distance[grammar.start]) < 30
    with pytest.raises(ValueError, match="vocab_size is 100; accepted: 266 or more"):
        train_tokenizer(texts, 100, tmp_path / "c")
