"""Pieces of an answer: whole characters, nothing of what ends it, and nothing lost."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from vldac.generate.writing import Writing
from vldac.text.tokenizer import load_tokenizer, vocabulary

VOCABULARY = vocabulary(load_tokenizer())  # the id of a byte is the byte


def written(data: bytes, stop=()) -> tuple[list[str], Writing]:
    writing = Writing(VOCABULARY, stop)
    pieces = []
    for token in data:
        pieces.append(writing.add(token))
        if writing.stopped:
            break
    return [*pieces, writing.end()], writing


@given(st.binary(max_size=30))
@example("é🚪".encode()[:-1])
def test_bytes_come_out_as_they_decode_together(data):
    pieces, writing = written(data)
    assert "".join(pieces) == writing.text == data.decode("utf-8", errors="replace")


@given(st.text(max_size=12))
def test_a_character_comes_whole(text):
    pieces, _ = written(text.encode())
    assert [piece for piece in pieces if piece] == list(text)


@given(st.text("ab", max_size=14), st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3))
def test_an_answer_ends_before_the_first_text_of_stop_that_is_complete(text, stops):
    pieces, writing = written(text.encode(), stops)
    ends = [n for n in range(len(text) + 1) if any(stop in text[:n] for stop in stops)]
    if not ends:
        assert "".join(pieces) == text and not writing.stopped
        return
    seen = text[: ends[0]]
    wanted = seen[: min(seen.index(stop) for stop in stops if stop in seen)]
    assert "".join(pieces) == writing.text == wanted and writing.stopped


def test_what_could_become_a_stop_is_kept_back():
    writing = Writing(VOCABULARY, ("<end>",))
    assert [writing.add(token) for token in b"a<en<e"] == ["a", "", "", "", "<en", ""]
    assert writing.end() == "<e" and writing.text == "a<en<e"


def test_tokens_without_bytes_are_left_out():
    writing = Writing(VOCABULARY)
    assert writing.add(VOCABULARY.eos_id) == "" and writing.end() == ""
