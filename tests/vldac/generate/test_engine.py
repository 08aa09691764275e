"""Answers of the engine are those of the slow way, whatever else is being answered; and it survives its users."""

from __future__ import annotations

import dataclasses
import threading
import time
import weakref

import numpy as np
import pytest

from vldac.generate import Message, Request
from vldac.generate.conversation import TooLong
from vldac.generate.engine import Closed
from vldac.generate.lanes import Lanes

from .conftest import make, picture, reply_of


def ask(text: str, **options) -> Request:
    return Request((Message("user", (text,)),), **options)


def test_greedy_answers_are_the_slow_ways(model, engine, requests):
    wanted = [reply_of(model, request, model.slowly(request)) for request in requests]
    assert engine.answer(requests) == wanted
    assert len({reply.text for reply in wanted}) > 4, "they say nothing"


def test_greedy_answers_of_gemma_are_the_slow_ways(gemma, requests):
    """Windows, pictures that see all of themselves, text around pictures, plain positions."""
    some = [requests[n] for n in (0, 2, 5)]
    with gemma.engine() as engine:
        assert engine.answer(some) == [reply_of(gemma, request, gemma.slowly(request)) for request in some]


def test_an_answer_does_not_depend_on_what_else_is_answered(model, engine, requests):
    drawn = [dataclasses.replace(r, temperature=1.3, top_p=0.9, seed=7, max_tokens=12) for r in requests]
    alone = [engine.answer([request])[0] for request in drawn]
    assert engine.answer(drawn) == alone
    assert engine.answer(drawn[::-1]) == alone[::-1]
    with model.engine(lanes=2, tokens_at_once=3) as other:
        assert other.answer(drawn) == alone
    again = engine.answer([dataclasses.replace(request, seed=8 + 2**32) for request in drawn])
    assert sum(a == b for a, b in zip(again, alone, strict=True)) < 2
    halves = [dataclasses.replace(drawn[0], seed=seed) for seed in (5, 5 + 2**32, 5)]
    first, second, third = engine.answer(halves)
    assert first == third != second


def test_pieces_add_up_to_the_reply(engine, requests):
    for request in requests:
        request = dataclasses.replace(request, temperature=1.5, max_tokens=25)
        stream = engine.submit(request)
        pieces = list(stream)
        assert "".join(pieces) == stream.result().text == engine.answer([request])[0].text
        assert "" not in pieces


def test_an_answer_ends_before_a_text_of_stop(engine):
    request = ask("tell", temperature=1.5, seed=3, max_tokens=40)
    whole = engine.answer([request])[0]
    assert len(whole.text) > 12
    stop = whole.text[5:8]
    cut = engine.answer([dataclasses.replace(request, stop=("never written", stop))])[0]
    assert cut.text == whole.text[: whole.text.index(stop)] and cut.finish_reason == "stop"
    assert cut.answer_tokens < whole.answer_tokens


def test_a_freed_lane_is_filled_while_the_others_go_on(model):
    """Two lanes: the second request ends early, and the third is answered before the first."""
    with model.engine(lanes=2) as engine:
        engine.answer([ask("a", max_tokens=2), ask("b", max_tokens=2)])  # compiled
        order = []
        long = ask("tell", temperature=3.0, seed=3, max_tokens=100)
        lengths = [engine.answer([long])[0].answer_tokens]
        assert lengths == [100]
        streams = [
            engine.submit(r, lambda event, n=n: order.append((n, event)))
            for n, r in enumerate([long, ask("b", max_tokens=2), ask("c", max_tokens=2)])
        ]
        while sum(not isinstance(event, str) for _, event in order) < len(streams):
            time.sleep(0.01)
    ends = [n for n, event in order if not isinstance(event, str)]
    assert ends == [1, 2, 0]


def test_what_is_cancelled_gives_its_lane_away(model):
    with model.engine(lanes=1) as engine:
        hopeless = engine.submit(ask("tell", temperature=3.0, seed=3, max_tokens=100))
        waiting = engine.submit(ask("and", max_tokens=50))
        waiting.cancel()
        next(iter(hopeless))
        hopeless.cancel()
        assert engine.submit(ask("b", max_tokens=2)).result() == engine.answer([ask("b", max_tokens=2)])[0]
        assert hopeless.result().answer_tokens < 100
        assert waiting.result().answer_tokens == 0
        assert engine.active == engine.waiting == 0


def test_who_goes_away_while_waiting_makes_room_while_all_lanes_are_busy(model, monkeypatch):
    with model.engine(lanes=1) as engine:
        go_on = held(engine, monkeypatch)
        busy = engine.submit(ask("tell", temperature=3.0, seed=3, max_tokens=100))
        until(lambda: engine.active == 1)
        waiting = [engine.submit(ask(text, max_tokens=2)) for text in "abc"]
        for stream in waiting[:2]:
            stream.cancel()
        go_on.set()  # the lane stays busy
        assert [stream.result().answer_tokens for stream in waiting[:2]] == [0, 0]
        assert (engine.active, engine.waiting) == (1, 1)
        busy.cancel()
        assert waiting[2].result() == engine.answer([ask("c", max_tokens=2)])[0]


def held(engine, monkeypatch, error: Exception | None = None) -> threading.Event:
    """Nothing is written until the event that is returned is set; then slowly, or the error is raised."""
    write, go_on = engine._write, threading.Event()

    def waits(*arguments, **options):
        assert go_on.wait(60)
        if error is not None:
            raise error
        monkeypatch.setattr(engine, "_write", slow)
        return write(*arguments, **options)

    def slow(*arguments, **options):
        time.sleep(0.2)
        return write(*arguments, **options)

    monkeypatch.setattr(engine, "_write", waits)
    return go_on


def until(condition, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.02)


def test_pictures_are_let_go_once_they_are_scaled(model):
    with model.engine(lanes=1) as engine:
        request = Request((Message("user", (picture(0, 40, 40), "what")),), max_tokens=2)
        shown = weakref.ref(request.messages[0].parts[0])
        stream = engine.submit(request)
        del request
        assert shown() is None
        assert stream.result().answer_tokens > 0


def test_several_threads_ask_at_once(engine, requests):
    wanted = engine.answer(requests)
    found = [None] * len(requests)

    def work(n):
        found[n] = engine.submit(requests[n]).result()

    threads = [threading.Thread(target=work, args=(n,)) for n in range(len(requests))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == wanted


def test_a_request_that_does_not_fit_is_refused_before_any_is_answered(engine, requests):
    with pytest.raises(
        ValueError, match=r"has \d+ tokens and max_tokens is 155; accepted: max_length, which is 160"
    ):
        engine.answer([requests[0], ask("x", max_tokens=155)])
    with pytest.raises(ValueError, match="stop holds an empty text"):
        engine.submit(ask("x", stop=("",)))
    with pytest.raises(ValueError, match="last message is of role 'assistant'"):
        engine.submit(Request((Message("assistant", ("x",)),)))
    with pytest.raises(ValueError, match="aspect ratio"):
        engine.submit(Request((Message("user", (np.zeros((1, 300, 3), np.uint8),)),), max_tokens=2))
    assert engine.waiting == engine.active == 0


def test_a_conversation_is_encoded_once(model, engine, requests, monkeypatch):
    encoded = engine.encode(requests[1].messages)
    monkeypatch.setattr(engine, "_encoder", None)
    assert engine.submit(requests[1], encoded=encoded).result().prompt_tokens == len(encoded.tokens)
    with pytest.raises(TooLong, match="max_tokens is 150; accepted: max_length, which is 160"):
        engine.submit(dataclasses.replace(requests[1], max_tokens=150), encoded=encoded)


def test_the_fullest_lane_is_answered(model, engine):
    """Conversation and answer fill all slots."""
    length = len(model.encoder.encode(ask("").messages).tokens)
    request = ask("x" * (160 - length - 30), max_tokens=30, temperature=5.0, seed=1)
    assert engine.answer([request] * 4) == engine.answer([request]) * 4


def test_what_goes_wrong_on_the_device_is_told_and_the_engine_goes_on(model, requests, monkeypatch):
    with model.engine() as engine:
        wanted = engine.answer(requests[:2])
        whole = engine._sight.levels
        monkeypatch.setattr(engine._sight, "levels", lambda *_: 1 / 0)
        fine, broken = engine.submit(requests[0]), engine.submit(requests[1])
        with pytest.raises(ZeroDivisionError):
            broken.result()
        assert fine.result() == wanted[0], "the others are not touched"
        monkeypatch.setattr(engine._sight, "levels", whole)
        write = engine._write
        monkeypatch.setattr(engine, "_write", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            engine.answer(requests[:1])
        monkeypatch.setattr(engine, "_write", write)
        assert engine.answer(requests[:2]) == wanted


def test_without_lanes_all_are_told_and_the_engine_closes(model, monkeypatch):
    """Those that wait as well: nobody would ever answer them."""
    with model.engine(lanes=1) as engine:
        broken, told = RuntimeError("out of memory"), []
        go_on = held(engine, monkeypatch, broken)
        for _ in range(3):
            engine.submit(ask("tell", temperature=3.0, seed=3, max_tokens=100), told.append)
        monkeypatch.setattr(Lanes, "free", lambda *_: 1 / 0)
        go_on.set()
        until(lambda: [event for event in told if not isinstance(event, str)] == [broken] * 3)
        assert engine.closed and engine.active == engine.waiting == 0
        with pytest.raises(Closed) as caught:
            engine.answer([ask("x", max_tokens=2)])
        assert caught.value.__cause__ is broken


def test_closing_tells_those_who_wait(model):
    engine = model.engine(lanes=1)
    streams = [engine.submit(ask("tell", temperature=3.0, seed=3, max_tokens=100)) for _ in range(3)]
    engine.close()
    for stream in streams[1:]:
        with pytest.raises(Closed):
            stream.result()
    with pytest.raises(Closed):
        engine.submit(ask("x", max_tokens=2))


def test_options_out_of_range_are_refused(model):
    with pytest.raises(ValueError, match="lanes is 0; accepted: 1 or more"):
        model.engine(lanes=0)
    with pytest.raises(ValueError, match=r"ends holds \[-1\]; accepted: ids from 0 to"):
        model.engine(ends=(-1, 5))


def test_lanes_that_the_device_has_no_room_for_are_refused_at_once(model):
    """More bytes than a process has addresses."""
    with pytest.raises(ValueError, match=r"lanes, max_length are 4096, 2147483647, whose .* take \d+\.0 GiB"):
        model.engine(lanes=4096, max_length=2**31 - 1)


def test_an_answer_ends_at_whatever_ends_it(model, engine):
    request = ask("tell", temperature=1.5, seed=3, max_tokens=40)
    whole = engine.answer([request])[0]
    letter = whole.text.encode()[4]  # the id of a byte is the byte
    with model.engine(ends=(letter,)) as other:
        cut = other.answer([request])[0]
    assert cut.finish_reason == "stop" and cut.answer_tokens < whole.answer_tokens
    assert whole.text.startswith(cut.text) and letter not in cut.text.encode()


def test_pictures_of_other_sizes_in_one_conversation(model, engine):
    messages = (Message("user", (picture(0), "a", picture(1, 32, 16), "b", picture(2, 16, 40))),)
    request = Request(messages, max_tokens=6)
    assert engine.answer([request]) == [reply_of(model, request, model.slowly(request))]


def test_other_weights_say_something_else(tiny, tokenizer, model, engine, requests):
    """What the tests above compare depends on the model at all."""
    with make(tiny, tokenizer, seed=1).engine() as other:
        assert other.answer(requests[:3]) != engine.answer(requests[:3])
