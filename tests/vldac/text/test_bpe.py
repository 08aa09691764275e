"""The tokenizer trained on the worlds' own text."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

import envs_jax
from vldac.text.bpe import corpus, train_tokenizer
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
    assert {" far", " left", "action", "thoughts", "move", "forward"} <= set(pieces)
    assert len(pieces) < len(ANSWER) / 3


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
    assert len(json.loads((tmp_path / "a/tokenizer.json").read_text())["model"]["vocab"]) == 300
    trained = load_tokenizer(tmp_path / "a")
    grammar = ActionGrammar.build(("move_forward", "turn_left"), vocabulary(trained), "grammar")
    assert int(grammar.distance[grammar.start]) < 30
    with pytest.raises(ValueError, match="vocab_size is 100; accepted: 263 or more"):
        train_tokenizer(texts, 100, tmp_path / "c")
