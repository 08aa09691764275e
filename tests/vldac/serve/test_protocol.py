"""What clients send, sense and nonsense: read as OpenAI means it, or refused in one line that names the field."""

from __future__ import annotations

import base64
import io
import json
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vldac.serve.limits import Limits, RateLimiter
from vldac.serve.protocol import read_request
from vldac.serve.refusal import Refused

LIMITS = Limits(images=2, image_pixels=1000, total_pixels=1500, max_tokens=50)


def as_url(data: bytes, kind: str = "jpeg") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def url(image: Image.Image, kind: str = "PNG", **options) -> str:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return as_url(file.getvalue(), kind.lower())


def shown(*urls) -> list:
    return [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": u}} for u in urls]}]


def read(**fields):
    data = {"model": "m", "messages": [{"role": "user", "content": "hi"}], **fields}
    return read_request(json.dumps(data).encode(), "m", LIMITS)


def refused(**fields) -> Refused:
    with pytest.raises(Refused) as caught:
        read(**fields)
    body = json.loads(json.dumps(caught.value.body()))
    assert set(body) == {"error"} and set(body["error"]) == {"message", "type", "param", "code"}
    assert len(caught.value.message) < 500 and "\n" not in caught.value.message
    return caught.value


def test_a_conversation_of_texts_and_images_is_read():
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
    messages = [
        {"role": "developer", "content": "Be brief."},
        {
            "role": "user",
            "content": [{"type": "text", "text": "a"}, *shown(url(Image.fromarray(pixels)))[0]["content"]],
        },
        {"role": "assistant", "content": None},
        {"role": "user", "content": "b"},
    ]
    found = read(
        messages=messages,
        max_completion_tokens=7,
        temperature=0,
        top_p=0.5,
        seed=-3,
        stop="x",
        stream=True,
        stream_options={"include_usage": True},
        user="someone",
    )
    assert [m.role for m in found.messages] == ["system", "user", "assistant", "user"]
    assert [m.text for m in found.messages] == ["Be brief.", "a", "", "b"]
    np.testing.assert_array_equal(found.messages[1].parts[1], pixels)
    request = found.request(found.max_tokens)
    assert (request.max_tokens, request.temperature, request.top_p, request.seed) == (7, 0.0, 0.5, -3)
    assert request.stop == ("x",) and found.stream and found.include_usage


def test_what_is_not_said_is_openais_default():
    one, other = read(), read()
    assert one.options["temperature"] == one.options["top_p"] == 1.0 and one.options["stop"] == ()
    assert one.max_tokens is None and not one.stream and not one.include_usage
    assert one.options["seed"] != other.options["seed"]
    assert read(top_p=0).options["temperature"] == 0.0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("frequency_penalty", 0.0),
        ("presence_penalty", 0.0),
        ("presence_penalty", 0),
        ("n", 1),
        *((name, None) for name in ("audio", "logprobs", "moderation", "prediction", "prompt_cache_retention")),
        *((name, None) for name in ("reasoning_effort", "tools", "verbosity", "seed", "stop", "temperature")),
    ],
)
def test_a_field_may_be_sent_at_its_default(field, value):
    """Clients send all fields that they know: numbers as OpenAI types them, null for what was not chosen."""
    assert read(**{field: value}).messages[0].text == "hi"


def test_images_of_all_formats_turned_and_transparent():
    red = Image.new("RGB", (5, 3), "red")
    for kind in ("JPEG", "WEBP", "GIF", "BMP"):
        (image,) = read(messages=shown(url(red, kind))).messages[0].parts
        assert image.shape == (3, 5, 3) and np.abs(image.astype(int) - [255, 0, 0]).max() < 12
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned
    (image,) = read(messages=shown(url(red, "JPEG", exif=exif))).messages[0].parts
    assert image.shape == (5, 3, 3)
    (image,) = read(messages=shown(url(Image.new("RGBA", (2, 2), (0, 0, 0, 0))))).messages[0].parts
    assert (image == 255).all()


@pytest.mark.parametrize(
    ("param", "fields"),
    [
        ("model", {"model": "gpt-4o"}),
        ("model", {"model": None}),
        ("messages", {"messages": []}),
        ("messages", {"messages": "hi"}),
        ("messages[0]", {"messages": ["hi"]}),
        ("messages[0].role", {"messages": [{"role": "tool", "content": "x"}]}),
        ("messages[0].role", {"messages": [{"role": [], "content": "x"}]}),
        ("messages[0].content", {"messages": [{"role": "user"}]}),
        ("messages[0].content", {"messages": [{"role": "user", "content": 3}]}),
        ("messages[0].content", {"messages": [{"role": "user", "content": "\ud800"}]}),
        ("messages[0].content[0]", {"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}),
        ("messages[0].content[0]", {"messages": [{"role": "user", "content": [None]}]}),
        ("messages[0]", {"messages": [{"role": "assistant", "content": "x", "tool_calls": [{}]}]}),
        ("max_tokens", {"max_tokens": 0}),
        ("max_tokens", {"max_tokens": 51}),
        ("max_tokens", {"max_tokens": True}),
        ("max_tokens", {"max_tokens": 3.0}),
        ("temperature", {"temperature": 2.1}),
        ("temperature", {"temperature": "hot"}),
        ("top_p", {"top_p": -0.1}),
        ("seed", {"seed": 2**64}),
        ("stop", {"stop": ["a", ""]}),
        ("stop", {"stop": ["a"] * 17}),
        ("stream", {"stream": "yes"}),
        ("stream_options", {"stream_options": {"include_usage": True}}),
        ("n", {"n": 2}),
        ("tools", {"tools": [{"type": "function"}]}),
        ("n", {"n": True}),
        ("frequency_penalty", {"frequency_penalty": 0.1}),
        ("frequency_penalty", {"frequency_penalty": False}),
        ("logprobs", {"logprobs": True}),
        ("logprobs", {"logprobs": 0}),
        ("reasoning_effort", {"reasoning_effort": "high"}),
        ("response_format", {"response_format": {"type": "json_object"}}),
        ("best_of", {"best_of": 3}),
        (None, {"\ud800": 3}),
        (None, {"no name": 3}),
    ],
)
def test_what_can_not_be_done_is_refused_by_name(param, fields):
    assert refused(**fields).param == param


def test_images_that_are_none_or_too_many_or_too_large():
    png = url(Image.new("RGB", (20, 20)))
    assert "nothing is fetched" in refused(messages=shown("http://127.0.0.1/secret.png")).message
    assert "nothing is fetched" in refused(messages=shown("file:///etc/passwd")).message
    assert "not base64" in refused(messages=shown("data:image/png;base64,$$$")).message
    assert "can not be read as an image" in refused(messages=shown(png[:-40])).message
    unknown = refused(messages=shown("data:image/svg+xml;base64,PHN2Zz4=")).message
    assert "can not be read as an image (unknown format); accepted: PNG" in unknown
    assert (
        "has 1600 pixels; accepted: at most 1000" in refused(messages=shown(url(Image.new("L", (40, 40))))).message
    )
    assert "more images than 2" in refused(messages=shown(png, png, png)).message
    large = url(Image.new("RGB", (30, 30)))
    assert "together have 1800 pixels" in refused(messages=shown(large, large)).message
    chunks = struct.pack(">4sIIBBBBB", b"IHDR", 9000, 9000, 8, 2, 0, 0, 0), b"IDAT"  # 243 MB, say 45 bytes
    bomb = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks
    )
    assert "has 81000000 pixels; accepted: at most 1000" in refused(messages=shown(as_url(bomb))).message
    assistant = [{"role": "assistant", "content": shown(png)[0]["content"]}]
    assert refused(messages=assistant).param == "messages[0].content[0]"


def test_very_many_turns_or_parts_are_not_read():
    """A million of them fit into a body, and a template goes through them for a minute."""
    text = {"type": "text", "text": "x"}
    fits = [{"role": "user", "content": [text] * 2000}, {"role": "assistant", "content": None}] * 2
    assert len(read(messages=[*fits, *[{"role": "user", "content": []}] * 94]).messages) == 98
    for more in ([{"role": "user", "content": []}] * 95, [{"role": "user", "content": [text] * 95}]):
        assert "more texts and images than 4096" in refused(messages=[*fits, *more]).message


def progressive(scans: int, comment: bytes = b"") -> bytes:
    """A JPEG file of grey, of six scans and so many more."""
    file = io.BytesIO()
    Image.new("L", (24, 24), 128).save(file, "JPEG", progressive=True, comment=comment)
    data = file.getvalue()
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * scans + data[-2:]


def test_a_jpeg_of_very_many_scans_is_not_decoded():
    """Each goes over all pixels: 24 MB of them over an image of the largest size would take hours."""
    marker = b"\xff\xda"
    only_look_like_it = progressive(0, comment=200 * marker), progressive(0) + 200 * marker
    for data in (progressive(94), *only_look_like_it):
        (part,) = read(messages=shown(as_url(data))).messages[0].parts
        assert part.shape == (24, 24, 3)
    filled = progressive(95).replace(marker, b"\xff" + marker)
    for data in (progressive(95), progressive(95, comment=b"\xff"), filled):
        assert "more than 100 scans" in refused(messages=shown(as_url(data))).message


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b'{"model": NaN}', b"[" * 100_000, b"1" * 10_000])
def test_bodies_that_are_no_json_object(body):
    with pytest.raises(Refused) as caught:
        read_request(body, "m", LIMITS)
    assert caught.value.status == 400 and len(caught.value.message) < 200


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["role", "content", "type", "text", "image_url", "url"]), inner, max_size=4
        )
    ),
    max_leaves=8,
)


@given(
    st.dictionaries(st.sampled_from(["messages", "max_tokens", "temperature", "stop", "stream", "tools"]), JSON)
)
def test_no_json_raises_anything_else(fields):
    try:
        read_request(json.dumps({"model": "m", **fields}).encode(), "m", LIMITS)
    except Refused as error:
        json.dumps(error.body())


def test_a_client_has_so_many_requests_in_a_minute():
    now = [0.0]
    rates = RateLimiter(2, lambda: now[0])
    assert rates.wait("a") == 0 and rates.wait("b") == 0
    now[0] = 30.0
    assert rates.wait("a") == 0 and rates.wait("a") == 30.0 and rates.wait("b") == 0
    now[0] = 60.5
    assert rates.wait("a") == 0
    assert RateLimiter(0).wait("a") == 0


def test_limits_out_of_range_are_refused():
    with pytest.raises(ValueError, match="body_bytes is 0; accepted: 1 or more"):
        Limits(body_bytes=0)
