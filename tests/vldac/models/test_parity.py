"""The whole model against transformers' torch implementation: positions, logits, gradients; for every family.

Ours is fed as the policy feeds it: images of one size at a time through `encode_images`, features and token
embeddings laid into static slots, positions from the configuration's `image_span`. Theirs gets `input_ids`, the
image processor's `pixel_values` and the grids.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from vldac.models import Inputs, create, hf

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


@functools.partial(jax.jit, static_argnums=0)
def all_logits(graphdef, params, inputs):
    model = nnx.merge(graphdef, params)
    return model.logits(model.forward(inputs)[0])


def ragged(prompts: list[Inputs], rng) -> Inputs:
    """Prompts of different lengths in one batch, absent slots at random places and filled with rubbish.

    Worked example, two slots in four: [x, first, x, second] with valid [0, 1, 0, 1].
    """
    batch, width = len(prompts), prompts[0].embeddings.shape[2]
    embeddings = rng.normal(0, 3, (batch, SLOTS, width)).astype(np.float32)
    positions = rng.integers(0, 50, (batch, 3, SLOTS)).astype(np.int32)
    valid = np.zeros((batch, SLOTS), bool)
    images = np.full((batch, SLOTS), -1, np.int32)
    levels = max(0 if prompt.deepstack is None else len(prompt.deepstack) for prompt in prompts)
    deepstack = rng.normal(0, 3, (levels, batch, SLOTS, width)).astype(np.float32)
    for row, prompt in enumerate(prompts):
        places = np.sort(rng.choice(SLOTS, prompt.valid.shape[1], replace=False))
        embeddings[row, places], valid[row, places] = prompt.embeddings[0], True
        positions[row][:, places] = prompt.positions[0]
        images[row, places] = prompt.images[0]
        deepstack[:, row, places] = 0 if prompt.deepstack is None else prompt.deepstack[:, 0]
    inputs = Inputs(embeddings, positions, valid, images, deepstack if levels else None)
    return jax.tree.map(jnp.asarray, inputs)


def test_positions_equal_transformers(family, prompts):
    for parts in prompts.values():
        inputs = family.torch_inputs(parts)
        ours = family.positions(parts)
        if "image_grid_thw" in inputs:
            inputs.pop("pixel_values")
            theirs, _ = family.torch.model.get_rope_index(**inputs)
            np.testing.assert_array_equal(ours, theirs[:, 0])
        else:
            np.testing.assert_array_equal(ours, np.broadcast_to(np.arange(ours.shape[1]), ours.shape))


def test_logits_equal_torch_for_a_ragged_batch_of_prompts_with_and_without_images(pair, prompts, rng):
    inputs = ragged([pair.inputs(parts) for parts in prompts.values()], rng)
    ours = np.asarray(all_logits(pair.graphdef, pair.params, inputs))
    assert ours.dtype == np.float32 and np.isfinite(ours).all()
    for row, (name, parts) in enumerate(prompts.items()):
        theirs = pair.torch_logits(parts)
        assert theirs.std() > 0.3, "logits too flat for the bound to mean anything"
        valid = np.asarray(inputs.valid[row])
        np.testing.assert_allclose(ours[row][valid], theirs, atol=5e-5, rtol=0, err_msg=name)


def test_weights_drawn_here_give_the_same_logits_in_torch(tied, rng):
    drawn = jax.jit(lambda: nnx.state(create(tied.config, rngs=nnx.Rngs(7))))()
    # Biases are drawn as 0: make them count.
    params = nnx.from_flat_state(
        (path, x.replace(x[...] + 0.3) if path[-1] == "bias" else x) for path, x in nnx.to_flat_state(drawn)
    )
    theirs = tied.tiny.torch(tied.torch.config).eval()
    tensors = {name: torch.tensor(x) for name, x in hf.to_hf(tied.kind, params).items()}
    missing, unknown = theirs.load_state_dict(tensors, strict=False)
    assert missing == ["lm_head.weight"] and not unknown  # the embedding's own
    parts = [rng.integers(0, 90, 6), rng.integers(0, 256, (15, 31, 3), np.uint8), rng.integers(0, 90, 2)]
    drawn = tied.replace(torch=theirs, params=params)
    ours = all_logits(drawn.graphdef, params, jax.tree.map(jnp.asarray, drawn.inputs(parts)))
    np.testing.assert_allclose(ours[0], drawn.torch_logits(parts), atol=1e-5, rtol=0)


def test_gradients_of_a_loss_equal_torch_for_every_parameter(family, prompts):
    parts = prompts["an image first and last"]
    images = jnp.asarray([parts[0], parts[2]])
    tokens = jnp.asarray(family.ids(parts))
    slots = np.flatnonzero(tokens == family.config.image_token_id)
    numbers = np.repeat([0, 1], len(slots) // 2)
    positions = jnp.asarray(family.positions(parts))[None]
    targets = np.array(tokens[1:])
    targets[targets >= 90] = 1  # any text token: image tokens are not predicted

    @jax.jit
    @jax.grad
    def gradient(params):
        model = nnx.merge(family.graphdef, params)
        inputs = Inputs(model.embed(tokens[None]), positions, jnp.ones((1, len(tokens)), bool))
        hidden, _ = model.forward(inputs.place(model.encode_images(images), slots, numbers))
        log_probs = jax.nn.log_softmax(model.logits(hidden[:, :-1]))[0]
        return -jnp.take_along_axis(log_probs, targets[:, None], axis=1).mean()

    ours = hf.to_hf(family.kind, gradient(family.params))
    family.torch.zero_grad()
    logits = family.torch(**family.torch_inputs(parts)).logits[0, :-1]
    torch.nn.functional.cross_entropy(logits, torch.tensor(targets, dtype=torch.long)).backward()
    theirs = {name: p.grad.numpy() for name, p in family.torch.named_parameters() if p.grad is not None}
    family.torch.zero_grad()
    assert set(ours) == set(theirs)
    for name, gradient in theirs.items():
        if name.endswith("k_proj.bias") and "vision_tower" in name:
            # Without rotation a key's bias adds the same to all scores of a query, and cancels.
            assert max(np.abs(gradient).max(), np.abs(ours[name]).max()) < 1e-6, name
            continue
        assert np.abs(gradient).max() > 1e-5, name
        atol = 2e-5 * np.abs(gradient).max() + 1e-7
        np.testing.assert_allclose(ours[name], gradient, rtol=0, atol=atol, err_msg=name)


def test_bfloat16_logits_stay_near_float32(family, prompts, rng):
    inputs = ragged([family.inputs(parts) for parts in prompts.values()], rng)
    wanted = np.asarray(all_logits(family.graphdef, family.params, inputs))
    ours = all_logits(family.half, family.params, inputs)
    assert ours.dtype == jnp.float32  # logits are never rounded to bfloat16
    difference = np.abs(np.asarray(ours) - wanted)[np.asarray(inputs.valid)]
    spread = wanted.std()
    assert 0 < difference.mean() < 0.015 * spread and difference.max() < 0.15 * spread


def test_bfloat16_visual_tokens_stay_near_float32(family, prompts):
    image = prompts["one image"][1]
    exact, rounded = jax.tree.leaves(family.encode(image)), jax.tree.leaves(family.encode(image, half=True))
    for a, b in zip(exact, rounded, strict=True):
        assert b.dtype == jnp.bfloat16
        np.testing.assert_allclose(np.asarray(b, np.float32), a, atol=0.06 * np.std(a), rtol=0)
