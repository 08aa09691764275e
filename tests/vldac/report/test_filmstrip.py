"""The pixels that a page shows are the pixels that the model saw."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

from vldac.report.filmstrip import MAX_WIDTH, animation, data_uris


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def decode(uri: str) -> np.ndarray:
    head, _, body = uri.partition(",")
    assert head == "data:image/webp;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(body, validate=True))).convert("RGB"))


def test_small_frames_keep_every_pixel():
    films = [noise(3, 6, 8, 3), noise(1, 60, 80, 3)]
    uris = data_uris(films)
    assert [len(film) for film in uris] == [3, 1]
    for film, images in zip(films, uris, strict=True):
        np.testing.assert_array_equal(film, [decode(uri) for uri in images])


def test_large_frames_are_scaled_to_what_a_page_shows():
    frames = np.full((1, 448, 896, 3), 77, np.uint8)
    image = decode(data_uris([frames])[0][0])
    assert image.shape == (MAX_WIDTH // 2, MAX_WIDTH, 3) and (image == 77).all()
    assert decode(data_uris([np.zeros((1, 1, 5000, 3), np.uint8)])[0][0]).shape == (1, MAX_WIDTH, 3)


def test_a_budget_is_kept_by_losing_detail_not_frames():
    film = noise(4, 60, 80, 3)
    full = sum(map(len, data_uris([film])[0]))
    less = data_uris([film], budget=full // 2)[0]
    assert len(less) == 4 and sum(map(len, less)) <= full // 2
    assert abs(decode(less[0]).astype(float) - film[0]).mean() < 60  # still the picture


def test_no_films_are_no_images():
    assert data_uris([]) == []


def test_an_animation_shows_each_frame_enlarged_and_the_last_one_longer():
    frames = noise(3, 5, 8, 3)
    moving = Image.open(io.BytesIO(animation(frames, seconds_per_frame=0.1, width=24)))
    assert moving.n_frames == 3 and moving.info["loop"] == 0
    durations = []
    for i in range(3):
        moving.seek(i)
        moving.load()
        durations.append(moving.info["duration"])
        want = frames[i].repeat(3, axis=0).repeat(3, axis=1)
        np.testing.assert_array_equal(np.asarray(moving.convert("RGB")), want)
    assert durations == [100, 100, 400]
