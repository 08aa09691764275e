"""The whole model against transformers' torch implementation: positions, logits, gradients.

Ours is fed as the policy feeds it: images of one size at a time through `encode_images`, features and token
embeddings laid into static slots, positions from the public helpers. Theirs gets `input_ids`, the image
processor's `pixel_values` and the grids.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from vldac.models import Qwen2VL, image_grid, image_position_extent, image_position_offsets

SLOTS = 72
SIZES = ((24, 16), (15, 31), (40, 40))  # 3x2, 2x4 and 5x5 tokens

PROMPTS = {  # what stands in a prompt: numbers of text tokens, sizes of images
    "no image": (9,),
    "one image": (3, (15, 31), 5),
    "an image first and last": ((24, 16), 2, (24, 16)),
    "several images of different sizes": (2, (24, 16), 1, (40, 40), 4, (15, 31), (24, 16), 3),
}


@pytest.fixture(scope="module")
def prompts():
    """Every prompt as a list of parts: arrays int[n] of text or uint8[h, w, 3]."""
    rng = np.random.default_rng(1)
    return {
        name: [
            rng.integers(0, 90, part) if isinstance(part, int) else rng.integers(0, 256, (*part, 3), np.uint8)
            for part in parts
        ]
        for name, parts in PROMPTS.items()
    }


def is_image(part) -> bool:
    return part.ndim == 3


def torch_inputs(pair, parts):
    """Keyword arguments of the torch model: one prompt, packed."""
    ids = []
    for part in parts:
        if is_image(part):
            tokens = int(np.prod(image_grid(pair.config, *part.shape[:2])))
            ids += [92, *[pair.config.image_token_id] * tokens, 93]
        else:
            ids += part.tolist()
    ids = torch.tensor([ids])
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": (ids == pair.config.image_token_id).int(),
    }
    images = [part for part in parts if is_image(part)]
    if images:
        inputs |= pair.processor(images, return_tensors="pt")
    return inputs


def our_slots(pair, parts, encode):
    """(embeddings[n, d], positions[3, n]) of one prompt, packed."""
    embed = pair.model.embed
    rows, positions, next_position = [], [], 0

    def text(ids):
        nonlocal next_position
        rows.append(embed(jnp.asarray(ids, jnp.int32)))
        positions.append(np.broadcast_to(next_position + np.arange(len(ids)), (3, len(ids))))
        next_position += len(ids)

    for part in parts:
        if not is_image(part):
            text(part)
            continue
        text([pair.config.vision_start_token_id])
        grid = image_grid(pair.config, *part.shape[:2])
        rows.append(encode(pair.params, part[None])[0])
        positions.append(next_position + image_position_offsets(*grid))
        next_position += image_position_extent(*grid)
        text([pair.config.vision_end_token_id])
    return np.concatenate(rows), np.concatenate(positions, axis=1)


def encoder(pair, dtype=jnp.float32):
    graphdef = nnx.graphdef(nnx.eval_shape(lambda: Qwen2VL(pair.config, rngs=nnx.Rngs(0), dtype=dtype)))
    return jax.jit(lambda params, images: nnx.merge(graphdef, params).encode_images(images))


def ragged(slots: list, rng):
    """Prompts of different lengths in one batch, absent slots at random places and filled with rubbish.

    Worked example, two slots in four: [x, first, x, second] with valid [0, 1, 0, 1].
    """
    batch, width = len(slots), slots[0][0].shape[1]
    embeddings = rng.normal(0, 3, (batch, SLOTS, width)).astype(np.float32)
    positions = rng.integers(0, 50, (batch, 3, SLOTS)).astype(np.int32)
    valid = np.zeros((batch, SLOTS), bool)
    for row, (embedded, at) in enumerate(slots):
        places = np.sort(rng.choice(SLOTS, len(embedded), replace=False))
        embeddings[row, places], valid[row, places] = embedded, True
        positions[row][:, places] = at
    return jnp.asarray(embeddings), jnp.asarray(positions), jnp.asarray(valid)


def all_logits(graphdef):
    @jax.jit
    def run(params, embeddings, positions, valid):
        model = nnx.merge(graphdef, params)
        hidden, _ = model.forward(embeddings, positions, valid)
        return model.logits(hidden)

    return run


def test_positions_equal_get_rope_index(tied, prompts):
    encode = lambda params, images: jnp.zeros((1, int(np.prod(image_grid(tied.config, *images.shape[1:3]))), 48))  # noqa: E731
    for parts in prompts.values():
        inputs = torch_inputs(tied, parts)
        _, ours = our_slots(tied, parts, encode)
        if "image_grid_thw" in inputs:
            theirs, _ = tied.torch.model.get_rope_index(
                **{name: x for name, x in inputs.items() if name != "pixel_values"}
            )
            np.testing.assert_array_equal(ours, theirs[:, 0])
        else:
            np.testing.assert_array_equal(ours, np.broadcast_to(np.arange(9), (3, 9)))


def test_logits_equal_torch_for_a_ragged_batch_of_prompts_with_and_without_images(pair, prompts, rng):
    encode = encoder(pair)
    slots = [our_slots(pair, parts, encode) for parts in prompts.values()]
    embeddings, positions, valid = ragged(slots, rng)
    ours = np.asarray(all_logits(pair.graphdef)(pair.params, embeddings, positions, valid))
    assert ours.dtype == np.float32 and np.isfinite(ours).all()
    for row, (name, parts) in enumerate(prompts.items()):
        with torch.no_grad():
            theirs = pair.torch(**torch_inputs(pair, parts)).logits[0].numpy()
        assert theirs.std() > 0.3, "logits too flat for the bound to mean anything"
        np.testing.assert_allclose(ours[row][np.asarray(valid[row])], theirs, atol=2e-5, rtol=0, err_msg=name)
