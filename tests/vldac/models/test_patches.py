"""Images of any sizes in one program are what each is in its own; videos are what transformers makes of them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from vldac.generate.conversation import Look
from vldac.generate.sight import Sight
from vldac.models import Inputs

SIZES = (24, 40), (8, 90), (100, 100)  # as it is, enlarged, shrunk
SLOTS = 96


def look(frames: np.ndarray, first: int, tokens: int) -> Look:
    return Look(frames, (first + np.arange(len(frames) * tokens)).astype(np.int32))


@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl", "gemma3"])  # Qwen2-VL has no peculiarity of its own
def test_pictures_of_all_sizes_are_seen_as_each_alone(tiny_pair, rng, name):
    family = tiny_pair(name)
    images = [rng.integers(0, 256, (*size, 3)).astype(np.uint8) for size in SIZES]
    tokens = [family.config.image_span(*size).tokens for size in SIZES]
    ends = 3 + np.cumsum(tokens)
    looks = [look(image[None, None], end - n, n) for image, end, n in zip(images, ends, tokens, strict=True)]
    sight = Sight(family.graphdef, family.config, jnp.float32)
    pictures = sight.prepare(looks)
    assert len({picture.arrays["pixels"].shape for picture in pictures}) < len(SIZES), "they share programs"
    levels = np.asarray(sight.levels((family.params,), pictures, SLOTS))
    for image, end, n in zip(images, ends, tokens, strict=True):
        alone = family.encode(image)
        np.testing.assert_allclose(levels[0, end - n : end], alone.features[0], atol=2e-5)
        if alone.deepstack is not None:
            np.testing.assert_allclose(levels[1:, end - n : end], alone.deepstack[:, 0], atol=2e-5)
    assert not levels[:, :3].any() and not levels[:, ends[-1] :].any()


def flat(frames: np.ndarray, patch: int, merge: int, together: int) -> np.ndarray:
    """A video's patches in the video processor's order, one by one."""
    values = (frames / 255 - np.asarray([0.48145466, 0.4578275, 0.40821073])) / np.asarray(
        [0.26862954, 0.26130258, 0.27577711]
    )
    rows = []
    for first in range(0, len(frames), together):
        for down in range(0, frames.shape[1], patch * merge):
            for across in range(0, frames.shape[2], patch * merge):
                for y in range(down, down + patch * merge, patch):
                    for x in range(across, across + patch * merge, patch):
                        cut = values[first : first + together, y : y + patch, x : x + patch]
                        rows.append(cut.transpose(3, 0, 1, 2).reshape(-1))  # colour, time, row, column
    return np.asarray(rows, np.float32)


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_a_video_means_to_a_model_what_it_means_in_torch(tiny_pair, rng, name):
    pair = tiny_pair(name)
    config = pair.config
    if name == "qwen3_vl":  # whose tiny processor has other colours
        vision = config.vision
        mean, std = config.image.mean, config.image.std
    frames = rng.integers(0, 256, (4, 24, 40, 3)).astype(np.uint8)  # nothing to be scaled: 3 x 5 tokens a step
    fps = 3.0
    text = rng.integers(0, 90, (4, 3))
    spans = config.video_spans(4, 24, 40, fps)
    ids, positions, slots, at = [*text[0]], [np.tile(np.arange(3), (3, 1))], [], 3
    for number, span in enumerate(spans):
        said = [*text[1 + number]] if span.text_before else []
        before = [*said, *span.before]
        positions.append(np.tile(at + np.arange(len(before)), (3, 1)))
        at += len(before)
        ids += before
        slots += [*range(len(ids), len(ids) + span.tokens)]
        positions.append(at + span.offsets)
        ids += [span.token_id] * span.tokens
        at += span.extent
        positions.append(np.full((3, 1), at))
        ids += span.after
        at += 1
    positions.append(np.tile(at + np.arange(3), (3, 1)))
    ids = np.asarray([*ids, *text[3]])
    sight = Sight(pair.graphdef, config, jnp.float32)
    pictures = sight.prepare([Look(frames.reshape(2, 2, 24, 40, 3), np.asarray(slots, np.int32))])
    levels = sight.levels((pair.params,), pictures, len(ids))
    seen = np.isin(np.arange(len(ids)), slots)

    @jax.jit
    def forward(params, levels):
        model = nnx.merge(pair.graphdef, params)
        embeddings = jnp.where(seen[:, None], levels[0], model.embed(jnp.asarray(ids)))
        deepstack = levels[1:, None] if len(levels) > 1 else None
        where = jnp.asarray(np.concatenate(positions, axis=1)[None], jnp.int32)
        inputs = Inputs(embeddings[None], where, jnp.ones((1, len(ids)), bool), deepstack=deepstack)
        return model.logits(model.forward(inputs)[0])[0]

    pixels = flat(frames, 4, 2, 2)
    if name == "qwen3_vl":
        shape = len(pixels), 3, -1
        clip = np.asarray([0.48145466, 0.4578275, 0.40821073]), np.asarray([0.26862954, 0.26130258, 0.27577711])
        whole = pixels.reshape(shape) * clip[1][:, None] + clip[0][:, None]
        pixels = ((whole - np.asarray(mean)[:, None]) / np.asarray(std)[:, None]).reshape(len(pixels), -1)
        assert vision.patch_dim == pixels.shape[1]
    options = {"second_per_grid_ts": torch.tensor([2 / fps])} if name == "qwen2_5_vl" else {}
    with torch.no_grad():
        wanted = pair.torch(
            input_ids=torch.tensor(ids[None], dtype=torch.long),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            mm_token_type_ids=torch.tensor(2 * seen[None].astype(np.int32)),
            pixel_values_videos=torch.tensor(pixels, dtype=torch.float32),
            video_grid_thw=torch.tensor([[2, 6, 10]]),
            **options,
        ).logits[0]
    np.testing.assert_allclose(forward(pair.params, levels), wanted.numpy(), atol=1e-4)


def test_a_still_video_is_not_a_photograph(tiny_pair):
    """Time has its positions: a second step of the same frames is elsewhere; a long video moves the text on."""
    config = tiny_pair("qwen2_vl").config
    (span,) = config.video_spans(8, 16, 16, 0.0)
    np.testing.assert_array_equal(span.offsets[0], np.repeat(np.arange(4), 4))
    assert span.extent == 4 and span.tokens == 16
    (span,) = tiny_pair("qwen2_5_vl").config.video_spans(4, 16, 16, 1.5)  # 2 / 1.5 s x 4 = 5.33 positions a step
    np.testing.assert_array_equal(span.offsets[0], np.repeat([0, 5], 4))
    assert span.extent == 6
    spans = tiny_pair("qwen3_vl").config.video_spans(4, 16, 16, 2.0)
    assert [span.text_before for span in spans] == ["<0.2 seconds>", "<1.2 seconds>"]
