"""A real server on a loopback port, a real engine behind it, OpenAI's client in front: plain, hostile, gone."""

from __future__ import annotations

import asyncio
import base64
import concurrent.futures
import contextlib
import http.client
import io
import json
import re
import socket
import threading
import time
import weakref
from typing import Any, NamedTuple

import numpy as np
import openai
import pytest
import uvicorn
from PIL import Image

from vldac.generate import Engine, Message, Request
from vldac.models import create
from vldac.serve import app
from vldac.serve.app import READERS, _EventStream, create_app
from vldac.serve.ending import Server
from vldac.serve.limits import Limits

nnx = pytest.importorskip("flax.nnx")
LANES = 3
LIMITS = Limits(
    body_bytes=200_000,
    images=4,
    image_pixels=10_000,
    total_pixels=20_000,
    max_tokens=400,
    queue=6,
    stall_seconds=3.0,
)
KEY = "a key"


@contextlib.contextmanager
def served(engine: Engine, limits: Limits = LIMITS, key: str | None = KEY, hosts: tuple[str, ...] = ("*",)):
    """The address of a server, which runs in a thread."""
    listening = socket.create_server(("127.0.0.1", 0))
    application = create_app(engine, "tiny", limits, key, hosts)
    config = uvicorn.Config(application, lifespan="off", log_level="critical", timeout_graceful_shutdown=2)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def engine(tiny, tokenizer):
    graphdef, params = nnx.split(create(tiny, rngs=nnx.Rngs(0)))
    with Engine(graphdef, (params,), tokenizer, tiny, lanes=LANES, max_length=512, tokens_at_once=4) as engine:
        yield engine


@pytest.fixture(scope="module")
def address(engine):
    with served(engine) as address:
        yield address


@pytest.fixture(scope="module")
def client(address):
    with openai.OpenAI(base_url=f"{address}/v1", api_key=KEY, max_retries=0, timeout=60) as client:
        yield client


@pytest.fixture(autouse=True)
def still_answers(request):
    """After every test the server is idle again, and answers."""
    yield
    if "address" not in request.fixturenames:
        return
    engine, address = request.getfixturevalue("engine"), request.getfixturevalue("address")
    until(lambda: engine.active == engine.waiting == 0)
    assert call(address, "GET", "/health").json == {"status": "ok", "active": 0, "waiting": 0}
    client = request.getfixturevalue("client")
    assert client.chat.completions.create(**ask("hi", max_tokens=2)).usage.completion_tokens <= 2


def until(condition, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.02)


def ask(text: str, *images: np.ndarray, **options):
    content = [{"type": "text", "text": text}] + [
        {"type": "image_url", "image_url": {"url": data_url(image)}} for image in images
    ]
    return {"model": "tiny", "messages": [{"role": "user", "content": content}], "temperature": 0, **options}


def data_url(image: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def picture(seed: int, side: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)


LONG = {"temperature": 2.0, "seed": 3}


class Answer(NamedTuple):
    status: int
    headers: Any
    json: Any


def call(address: str, method: str, path: str, body: Any = None, **headers: str | bytes) -> Answer:
    """One request, by the standard library; a body of pieces is sent without its length."""
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=60)
    with contextlib.closing(connection):
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        return Answer(response.status, response.headers, json.loads(response.read()))


def post(address: str, body: Any, **headers: str) -> Answer:
    headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json", **headers}
    return call(address, "POST", "/v1/chat/completions", body, **headers)


def test_an_answer_is_the_engines(client, engine):
    image = picture(0)
    found = client.chat.completions.create(**ask("Look:", image, max_tokens=9))
    reply = engine.answer([Request((Message("user", ("Look:", image)),), max_tokens=9)])[0]
    assert found.choices[0].message.content == reply.text and found.choices[0].message.role == "assistant"
    assert found.choices[0].finish_reason == reply.finish_reason
    assert found.usage.prompt_tokens == reply.prompt_tokens
    assert found.usage.total_tokens == reply.prompt_tokens + reply.answer_tokens
    assert found.model == "tiny" and found.object == "chat.completion"


def test_a_streamed_answer_is_the_whole_one(client):
    asked = ask("Tell", max_tokens=60, **{**LONG, "seed": 11})
    whole = client.chat.completions.create(**asked)
    chunks = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    pieces = [
        chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content
    ]
    assert "".join(pieces) == whole.choices[0].message.content and len(pieces) > 3
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == whole.choices[0].finish_reason
    assert chunks[-1].choices == [] and chunks[-1].usage == whole.usage
    assert all(chunk.usage is None for chunk in chunks[:-1])
    plain = list(client.chat.completions.create(**asked, stream=True))
    assert all(chunk.choices and chunk.usage is None for chunk in plain)


def test_more_clients_than_lanes_are_answered_as_if_alone(client):
    asked = [ask(f"Number {n}", *[picture(n)] * (n % 2), max_tokens=5 + n) for n in range(LANES + 6)]
    with concurrent.futures.ThreadPoolExecutor(len(asked)) as pool:
        found = list(pool.map(lambda a: client.chat.completions.create(**a), asked))
    for answer, alone in zip(found, asked, strict=True):
        assert (
            answer.choices[0].message.content == client.chat.completions.create(**alone).choices[0].message.content
        )


def test_a_full_queue_is_said_so(client, engine, monkeypatch):
    monkeypatch.setattr(engine, "_write", slowly(engine._write))  # or they might be answered before all are there
    asked = [
        ask("Tell", max_tokens=400, stream=True, temperature=2.0, seed=n) for n in range(LANES + LIMITS.queue)
    ]
    with contextlib.ExitStack() as stack:
        for one in asked:
            stack.enter_context(client.chat.completions.create(**one))
        with pytest.raises(openai.RateLimitError) as caught:
            client.chat.completions.create(**asked[0])
        assert caught.value.code == "queue_full" and caught.value.response.headers["retry-after"]


def test_who_goes_away_while_waiting_leaves_room_in_the_queue(client, address, engine, monkeypatch):
    monkeypatch.setattr(engine, "_write", slowly(engine._write))
    with contextlib.ExitStack() as stack:
        for n in range(LANES):
            lane = ask("Tell", max_tokens=400, stream=True, temperature=2.0, seed=n)
            stack.enter_context(client.chat.completions.create(**lane))
        until(lambda: (engine.active, engine.waiting) == (LANES, 0))
        with contextlib.ExitStack() as impatient:
            for _ in range(LIMITS.queue):
                impatient.enter_context(connected(address)).sendall(raw(json.dumps(ask("x")).encode()))
            until(lambda: engine.waiting == LIMITS.queue)
            assert post(address, json.dumps(ask("x"))).status == 429
        until(lambda: engine.waiting == 0)
        assert engine.active == LANES, "a lane was free"
        stack.enter_context(client.chat.completions.create(**ask("x", max_tokens=2, stream=True)))


def test_pictures_of_few_requests_are_in_memory_however_many_wait(client, address, engine, monkeypatch):
    read, submit = app.read_request, engine.submit
    pictures, ahead = [], [0]

    def reading(*arguments):
        wanted = read(*arguments)
        pictures.append(weakref.ref(wanted.messages[0].parts[1]))
        ahead.append(ahead[-1] + 1)
        time.sleep(0.1)  # others want to be read, too
        return wanted

    def submitting(*arguments):
        ahead.append(ahead[-1] - 1)
        return submit(*arguments)

    monkeypatch.setattr(app, "read_request", reading)
    monkeypatch.setattr(engine, "submit", submitting)
    monkeypatch.setattr(engine, "_write", slowly(engine._write))
    body = json.dumps(ask("Look:", picture(0, 40), max_tokens=60)).encode()
    with contextlib.ExitStack() as stack:
        for _ in range(LANES + LIMITS.queue):
            stack.enter_context(connected(address)).sendall(raw(body))
        until(lambda: engine.active == LANES and engine.waiting == LIMITS.queue)
        assert len(pictures) == LANES + LIMITS.queue and max(ahead) <= READERS
        until(lambda: all(shown() is None for shown in pictures), seconds=2.0)
        assert engine.waiting == LIMITS.queue, "they are gone because they are answered"


def slowly(function):
    def slow(*arguments, **options):
        time.sleep(0.2)
        return function(*arguments, **options)

    return slow


def test_a_reader_who_goes_away_frees_the_lane(client, engine):
    done = engine.answer([Request((Message("user", ("Tell",)),), max_tokens=400, temperature=2.0, seed=3)])[0]
    assert done.answer_tokens > 100, "too short to be left"
    before = len(engine_log(engine))
    stream = client.chat.completions.create(**ask("Tell", max_tokens=400, stream=True, **LONG))
    assert any(chunk.choices[0].delta.content for chunk in stream)  # up to the first piece of text
    stream.close()
    until(lambda: engine.active == 0 and len(engine_log(engine)) > before)
    assert engine_log(engine)[-1] < done.answer_tokens, "it was written to its end"


def test_who_goes_away_without_a_stream_frees_the_lane_too(address, engine):
    before = len(engine_log(engine))
    body = json.dumps(ask("Tell", max_tokens=400, **LONG)).encode()
    with connected(address) as connection:
        connection.sendall(raw(body))
        until(lambda: engine.active == 1)
    until(lambda: engine.active == 0 and len(engine_log(engine)) > before)
    assert engine_log(engine)[-1] < 400


def engine_log(engine) -> list[int]:
    """Lengths of the answers so far, as the engine ended them."""
    if not hasattr(engine, "log"):
        engine.log, end = [], engine._end

        def logged(lane, reason):
            engine.log.append(engine._streams[lane]._tokens)
            end(lane, reason)

        engine._end = logged
    return engine.log


def raw(body: bytes, length: int | None = None) -> bytes:
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body) if length is None else length}\r\n\r\n"
    )
    return head.encode() + body


@contextlib.contextmanager
def connected(address: str, receive_buffer: int | None = None):
    host, port = address.removeprefix("http://").split(":")
    with socket.socket() as connection:
        if receive_buffer:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        connection.settimeout(30)
        connection.connect((host, int(port)))
        yield connection


def test_a_slow_reader_holds_up_nobody(address, client, engine):
    body = json.dumps(ask("Tell", max_tokens=400, stream=True, **LONG)).encode()
    with connected(address, receive_buffer=1024) as slow:
        slow.sendall(raw(body))
        assert slow.recv(20).startswith(b"HTTP/1.1 200")
        for n in range(2 * LANES):
            assert client.chat.completions.create(**ask(f"{n}", max_tokens=4)).choices
        until(lambda: engine.active == 0)  # and its lane is free although it has not read
        rest = b""
        while b"[DONE]" not in rest:
            piece = slow.recv(300)
            assert piece, "it was cut off"
            rest += piece


def test_a_reader_who_stops_reading_is_given_up():
    gone = []

    async def stream():
        async def events():
            for number in range(9):
                yield {"number": number}

        async def send(message):
            if message["type"] == "http.response.body":
                await asyncio.sleep(3600)

        async def receive():
            await asyncio.sleep(3600)

        await _EventStream(events(), lambda: gone.append(True), stall_seconds=0.05)({}, receive, send)

    asyncio.run(asyncio.wait_for(stream(), 10))
    assert gone == [True]


def test_a_body_that_never_comes_is_given_up(address):
    with connected(address) as connection:
        connection.sendall(raw(b'{"model"', length=100))
        assert connection.recv(200).startswith(b"HTTP/1.1 408")


def test_bodies_too_large_are_refused_before_they_are_read(address):
    with connected(address) as connection:
        connection.sendall(raw(b"{", length=10**12))
        assert connection.recv(200).startswith(b"HTTP/1.1 413")
    pieces = (b" " * 50_000 for _ in range(100))  # its length is not said
    with contextlib.suppress(ConnectionError):  # it may be told while it still sends
        assert post(address, pieces).status == 413


@pytest.mark.parametrize(
    ("content", "status", "param"),
    [
        (b"{", 400, None),
        (b"\xff\xfe", 400, None),
        (b"[1]", 400, None),
        (json.dumps({"model": "other", "messages": [{"role": "user", "content": "x"}]}), 404, "model"),
        (json.dumps({"model": "tiny", "messages": []}), 400, "messages"),
        (json.dumps(ask("x", temperature=-1)), 400, "temperature"),
        (json.dumps(ask("x", max_tokens=401)), 400, "max_tokens"),
        (json.dumps(ask("x", frequency_penalty=1)), 400, "frequency_penalty"),
        (json.dumps({"model": "tiny", "messages": [{"role": "assistant", "content": "x"}]}), 400, "messages"),
        (json.dumps(ask("x", picture(0, 101))), 400, "messages[0].content[1].image_url"),
        (json.dumps(ask("x", *[picture(0)] * 5)), 400, "messages[0].content[5].image_url"),
    ],
)
def test_nonsense_is_refused_in_openais_format(address, content, status, param):
    answer = post(address, content)
    error = answer.json["error"]
    assert (answer.status, error["param"]) == (status, param)
    assert set(error) == {"message", "type", "param", "code"} and error["type"] == "invalid_request_error"


def test_the_client_raises_its_own_errors(client, address):
    with pytest.raises(openai.BadRequestError, match="accepted: max_length, which is 512") as caught:
        client.chat.completions.create(**ask("x" * 600, max_tokens=5))
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError, match="accepted: max_length, which is 512"):
        client.chat.completions.create(**ask("x" * 600))
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-4o")
    assert [model.id for model in client.models.list()] == ["tiny"] and client.models.retrieve("tiny").id == "tiny"
    assert call(address, "GET", "/v2").json["error"]["message"] == "Not Found"
    assert call(address, "GET", "/v1/chat/completions").status == 405
    assert post(address, b"{}", **{"content-type": "text/plain"}).status == 415


def test_a_conversation_is_tokenised_once(client, engine, monkeypatch):
    encode, encoded = engine._encoder.encode, []
    monkeypatch.setattr(engine._encoder, "encode", lambda *args: encoded.append(args[0]) or encode(*args))
    client.chat.completions.create(**ask("x" * 480))
    assert len(encoded) == 1


def test_an_answer_without_max_tokens_may_take_what_is_left(client):
    text = "x" * 480
    found = client.chat.completions.create(**ask(text))
    assert found.usage.completion_tokens <= 512 - found.usage.prompt_tokens


@pytest.mark.parametrize("key", [None, "Bearer wrong", "Bearer", "Basic a key", "bearer k\xe9y"])
def test_who_has_no_key_gets_nothing(address, key):
    headers = {} if key is None else {"authorization": key}
    for answer in (
        call(address, "GET", "/v1/models", **headers),
        call(address, "POST", "/v1/chat/completions", json.dumps(ask("x")), **headers),
    ):
        assert answer.status == 401 and answer.json["error"]["code"] == "invalid_api_key"


def test_a_key_may_be_of_any_script(engine):
    with served(engine, key=" voilà\n") as address:  # its last byte, alone, is a blank in Latin-1
        for key, status in (("voilà".encode(), 200), ("voilà".encode("latin-1"), 401), (b"voil", 401)):
            assert call(address, "GET", "/v1/models", authorization=b"Bearer " + key).status == status
    with pytest.raises(ValueError, match="api_key is blank"):
        create_app(engine, "tiny", api_key=" ")


def test_who_calls_the_server_by_another_name_is_refused(engine):
    """As a web page does whose name has been given this machine's address; whatever it asks for, key or not."""
    own = "localhost", "LOCALHOST:8000", "localhost.:1", "127.0.0.1", "[::1]:80", "[0:0::1]", "gpu-1.lan:"
    hostile = "evil.example", "evil.example:80", "localhost.evil.example", "127.0.0.1.evil.example", "127.0.0.2"
    malformed = "", ":8000", "*", "::1", "[::1", "evil@localhost", "localhost:80:80"
    accepted = "accepted: 127.0.0.1, ::1, gpu-1.lan, localhost, or what the server is told to allow"
    with served(engine, hosts=("127.0.0.1", "::1", "LocalHost", "gpu-1.lan")) as address:
        for host in own:
            assert call(address, "GET", "/health", host=host).status == 200, host
        for host in (*hostile, *malformed):
            answer = call(address, "GET", "/health", host=host)
            assert (answer.status, answer.json["error"]["code"]) == (403, "host_not_allowed"), host
            assert answer.json["error"]["message"] == f"the Host header is {host!r}; {accepted}"
        assert post(address, json.dumps(ask("x", max_tokens=1)), host="evil.example").status == 403
        options = {"max_retries": 0, "default_headers": {"host": "evil.example"}}
        with (
            openai.OpenAI(base_url=f"{address}/v1", api_key=KEY, **options) as client,
            pytest.raises(openai.PermissionDeniedError, match=re.escape(accepted)),
        ):
            client.models.list()
        with connected(address) as connection:  # HTTP/1.0, which may leave it out
            connection.sendall(b"GET /health HTTP/1.0\r\n\r\n")
            assert connection.recv(200).startswith(b"HTTP/1.1 403")
    with served(engine, hosts=("localhost", "*")) as address:
        assert call(address, "GET", "/health", host="evil.example").status == 200


@pytest.mark.parametrize("name", ["", "http://localhost", "localhost:8000", "a/b", "[::1", "*.lan", "a..b", "é"])
def test_a_host_is_a_name_or_an_address_and_nothing_else(engine, name):
    with pytest.raises(ValueError, match="names no host; accepted: names and addresses, no scheme, no port"):
        create_app(engine, "tiny", hosts=("localhost", name))


def test_requests_a_minute_are_limited(engine):
    with served(engine, Limits(requests_per_minute=2), key=None) as address:
        found = [post(address, json.dumps(ask("x", max_tokens=1))) for _ in range(3)]
    assert [answer.status for answer in found] == [200, 200, 429]
    assert found[2].json["error"]["code"] == "rate_limit" and 0 < int(found[2].headers["retry-after"]) <= 61


def test_what_goes_wrong_on_the_device_is_told_without_details(client, engine, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("a secret path")

    monkeypatch.setattr(engine, "_write", broken)
    with pytest.raises(openai.InternalServerError) as caught:
        client.chat.completions.create(**ask("x", max_tokens=9))
    assert "secret" not in str(caught.value)
    with pytest.raises(openai.APIError, match="could not answer"):
        list(client.chat.completions.create(**ask("x", max_tokens=9, stream=True)))


@pytest.mark.parametrize("at_once", [False, True])
def test_who_waits_when_the_server_ends_is_told_so(tiny, tokenizer, caplog, at_once):
    """Also who is being streamed to; and who sends a body for ever, or reads nothing, holds up nobody."""
    graphdef, params = nnx.split(create(tiny, rngs=nnx.Rngs(0)))
    engine = Engine(graphdef, (params,), tokenizer, tiny, lanes=2, max_length=512, tokens_at_once=1)
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(create_app(engine, "tiny", LIMITS), lifespan="off", log_level="warning")
    server = Server(config, engine, grace_seconds=60.0 if at_once else 0.3)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    address = f"http://127.0.0.1:{listening.getsockname()[1]}"
    endless = ask("one", max_tokens=400, **LONG)
    with engine, openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=60) as client:
        thread.start()
        slow = engine._write
        engine._write = lambda *args, **options: (time.sleep(0.1), slow(*args, **options))[1]
        with concurrent.futures.ThreadPoolExecutor() as pool, connected(address) as silent:
            silent.sendall(raw(b"{", length=100))
            whole = [pool.submit(client.chat.completions.create, **endless) for _ in range(3)]
            streamed = pool.submit(lambda: list(client.chat.completions.create(**endless, stream=True)))
            until(lambda: engine.active == engine.waiting == 2, 60.0)
            began = time.monotonic()
            server.should_exit, server.force_exit = True, at_once
            for request in whole:
                error = request.exception()
                assert isinstance(error, openai.InternalServerError) and error.status_code == 503, error
                assert error.code == "shutting_down"
            assert isinstance(streamed.exception(), openai.APIError)
            assert "shutting down" in str(streamed.exception())
            thread.join()
        assert time.monotonic() - began < 30
    assert not caplog.records
