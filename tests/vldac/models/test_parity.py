"""The whole model against transformers' torch implementation: positions, logits, gradients.

Ours is fed as the policy feeds it: images of one size at a time through `encode_images`, features and token
embeddings laid into static slots, positions from the public helpers. Theirs gets `input_ids`, the image
processor's `pixel_values` and the grids.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from flax import nnx

from vldac.models import Inputs, Qwen2VL, hf, image_grid, image_position_extent, image_position_offsets

SLOTS = 72
PROMPTS = {  # what stands in a prompt: numbers of text tokens; sizes of images, of 3x2, 2x4 and 5x5 tokens
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


@functools.partial(jax.jit, static_argnums=0)
def encode_images(graphdef, params, images):
    return nnx.merge(graphdef, params).encode_images(images).features


@functools.partial(jax.jit, static_argnums=0)
def all_logits(graphdef, params, embeddings, positions, valid):
    model = nnx.merge(graphdef, params)
    return model.logits(model.forward(Inputs(embeddings, positions, valid))[0])


def our_slots(pair, parts, encode=encode_images):
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
        rows.append(encode(pair.graphdef, pair.params, part[None])[0])
        positions.append(next_position + image_position_offsets(*grid))
        next_position += image_position_extent(*grid)
        text([pair.config.vision_end_token_id])
    return np.concatenate(rows), np.concatenate(positions, axis=1)


@pytest.fixture(scope="module")
def half(tied):
    """The tied model computing in bfloat16, its graphdef."""
    return nnx.graphdef(nnx.eval_shape(lambda: Qwen2VL(tied.config, rngs=nnx.Rngs(0), dtype=jnp.bfloat16)))


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


def test_positions_equal_get_rope_index(tied, prompts):
    def encode(graphdef, params, images):  # the features do not matter here
        return jnp.zeros((1, int(np.prod(image_grid(tied.config, *images.shape[1:3]))), tied.config.hidden_size))

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
    slots = [our_slots(pair, parts) for parts in prompts.values()]
    embeddings, positions, valid = ragged(slots, rng)
    ours = np.asarray(all_logits(pair.graphdef, pair.params, embeddings, positions, valid))
    assert ours.dtype == np.float32 and np.isfinite(ours).all()
    for row, (name, parts) in enumerate(prompts.items()):
        with torch.no_grad():
            theirs = pair.torch(**torch_inputs(pair, parts)).logits[0].numpy()
        assert theirs.std() > 0.3, "logits too flat for the bound to mean anything"
        np.testing.assert_allclose(ours[row][np.asarray(valid[row])], theirs, atol=2e-5, rtol=0, err_msg=name)


def test_weights_drawn_here_give_the_same_logits_in_torch(untied, make_torch_config, rng):
    @jax.jit
    def draw():
        model = Qwen2VL(untied.config, rngs=nnx.Rngs(7))
        model.language_model.layers.self_attn.q_proj.bias[...] += 0.3  # biases are drawn as 0: make them count
        return nnx.state(model)

    model = nnx.merge(untied.graphdef, draw())
    theirs = transformers.Qwen2VLForConditionalGeneration(make_torch_config(tied=False)).eval()
    tensors = {name: torch.tensor(x) for name, x in hf.to_hf(Qwen2VL, nnx.state(model)).items()}
    theirs.load_state_dict(tensors, strict=True)
    ids = rng.integers(0, 90, (1, 12))
    positions = jnp.broadcast_to(jnp.arange(12), (1, 3, 12))
    embeddings, valid = model.embed(jnp.asarray(ids)), jnp.ones((1, 12), bool)
    ours = all_logits(untied.graphdef, nnx.state(model), embeddings, positions, valid)
    with torch.no_grad():
        wanted = theirs(input_ids=torch.tensor(ids)).logits.numpy()
    np.testing.assert_allclose(ours, wanted, atol=1e-5, rtol=0)


def test_gradients_of_a_loss_equal_torch_for_every_parameter(tied, prompts):
    parts = prompts["one image"]
    inputs = torch_inputs(tied, parts)
    images = jnp.asarray(next(part for part in parts if is_image(part))[None])
    tokens = jnp.asarray(inputs["input_ids"].numpy(), jnp.int32)
    _, positions = our_slots(tied, parts)
    start = int(np.argmax(np.asarray(tokens[0]) == tied.config.image_token_id))
    targets = np.array(tokens[0, 1:])
    targets[targets >= 90] = 1  # any text token: image tokens are not predicted

    @jax.jit
    @jax.grad
    def gradient(params):
        model = nnx.merge(tied.graphdef, params)
        inputs = Inputs(model.embed(tokens), jnp.asarray(positions)[None], jnp.ones(tokens.shape, bool))
        visual = model.encode_images(images)
        slots = start + np.arange(visual.features.shape[1])
        hidden, _ = model.forward(inputs.place(visual, slots, np.zeros_like(slots)))
        log_probs = jax.nn.log_softmax(model.logits(hidden[:, :-1]))[0]
        return -jnp.take_along_axis(log_probs, targets[:, None], axis=1).mean()

    ours = hf.to_hf(Qwen2VL, gradient(tied.params))
    tied.torch.zero_grad()
    logits = tied.torch(**inputs).logits[0, :-1]
    torch.nn.functional.cross_entropy(logits, torch.tensor(targets, dtype=torch.long)).backward()
    theirs = {name: p.grad.numpy() for name, p in tied.torch.named_parameters() if p.grad is not None}
    tied.torch.zero_grad()
    assert set(ours) == set(theirs)
    for name, gradient in theirs.items():
        assert np.abs(gradient).max() > 1e-5, name
        atol = 2e-5 * np.abs(gradient).max() + 1e-7
        np.testing.assert_allclose(ours[name], gradient, rtol=0, atol=atol, err_msg=name)


def test_bfloat16_logits_stay_near_float32(tied, half, prompts, rng):
    exact = [our_slots(tied, parts) for parts in prompts.values()]
    embeddings, positions, valid = ragged(exact, rng)
    wanted = np.asarray(all_logits(tied.graphdef, tied.params, embeddings, positions, valid))
    ours = all_logits(half, tied.params, embeddings, positions, valid)
    assert ours.dtype == jnp.float32  # logits are never rounded to bfloat16
    difference = np.abs(np.asarray(ours) - wanted)[np.asarray(valid)]
    spread = wanted.std()
    assert 0 < difference.mean() < 0.015 * spread and difference.max() < 0.15 * spread
    image = next(part for part in prompts["one image"] if is_image(part))[None]
    features = np.asarray(encode_images(tied.graphdef, tied.params, image))
    rounded = encode_images(half, tied.params, image)
    assert rounded.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(rounded, np.float32), features, atol=0.06 * features.std(), rtol=0)
