"""The page that shows every world: it holds its pictures itself, and what can not be is one line."""

from __future__ import annotations

import base64
import html
import io
import re

import jax
import numpy as np
import pytest
from PIL import Image

import envs_jax
from envs_jax import gallery

NAME = "miniworld/one_room_s6_fast"


@pytest.fixture(scope="module")
def card():
    return gallery.look(NAME, jax.random.key(3))


def pictures(page: str) -> list[Image.Image]:
    found = re.findall(r'src="data:image/webp;base64,([^"]*)"', page)
    return [Image.open(io.BytesIO(base64.b64decode(data))) for data in found]


def test_a_card_shows_fresh_views_and_the_experts_episode(card):
    assert card.views.shape == (gallery.VIEWS, 240, 320, 3) and card.frames.shape[1:] == (60, 80, 3)
    assert card.solved and 0 < card.steps < card.world.max_steps
    assert len(card.frames) == min(card.steps + 1, gallery.FRAMES)
    assert card.reward == pytest.approx(1 - 0.2 * card.steps / card.world.max_steps)
    # Views are of different episodes, frames of one that moves on.
    assert len({view.tobytes() for view in card.views}) == gallery.VIEWS
    assert all(np.any(a != b) for a, b in zip(card.frames[:-1], card.frames[1:], strict=True))


def test_the_page_needs_nothing_else_and_says_what_a_world_is(card):
    page = gallery.page([card])
    assert not re.search(r"https?://|<script|<link", page) and page.count("src=") == 1 + gallery.VIEWS
    film, *views = pictures(page)
    assert film.n_frames == len(card.frames) and film.size == (80, 60)
    assert [view.size for view in views] == [(320, 240)] * gallery.VIEWS
    np.testing.assert_array_equal(np.asarray(film.convert("RGB")), card.frames[0])
    for text in (
        NAME,
        card.world.instruction,
        "turn_left, turn_right",
        f"{card.steps} steps, solved",
        "size = 6.0",
    ):
        assert html.escape(text) in page


def test_it_writes_the_worlds_that_are_asked_for(tmp_path, capsys):
    file = tmp_path / "page.html"
    assert gallery.main(["cards/number*", "--out", str(file)]) == 0
    assert "cards/number_line" in file.read_text() and NAME not in file.read_text()
    assert str(file) in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--out", "/nowhere/at/all.html"], "out is '/nowhere/at/all.html'; accepted: a file in a folder"),
        (["--out", "/"], "out is '/'; accepted: a file in a folder"),
        (["nowhere*"], "'nowhere*' fits no world; accepted: cards/"),
        (["miniworld/*", "cards/blackjack:nowhere=1"], "nowhere"),
    ],
)
def test_what_can_not_be_is_one_line_before_any_world_is_looked_at(arguments, message, capsys, monkeypatch):
    monkeypatch.setattr(gallery, "look", lambda *_: pytest.fail("it was looked at"))
    assert gallery.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (OSError(28, "No space left on device"), "can not be written: No space left"),
        (KeyboardInterrupt(), "aborted"),
    ],
)
def test_what_ends_it_is_one_line(tmp_path, capsys, monkeypatch, wrong, told):
    def page(_):
        raise wrong

    monkeypatch.setattr(gallery, "look", lambda *_: None)
    monkeypatch.setattr(gallery, "page", page)
    assert gallery.main(["cards/number*", "--out", str(tmp_path / "page.html")]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert told in error and not (tmp_path / "page.html").exists()


def test_options_are_those_that_make_takes():
    known = envs_jax.world.options("miniworld/one_room")
    assert known["image_shape"] == (60, 80, 3) and "name" not in known
    envs_jax.make("miniworld/one_room", **known)
