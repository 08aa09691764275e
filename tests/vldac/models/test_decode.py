"""Prefill and decode against one pass over everything, with and without a shared prefix."""

from __future__ import annotations

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vldac.models import Inputs, KVCache, layers
from vldac.models.kv_cache import write_slots

B, P, C, N = 3, 5, 15, 4  # lanes, prefix, context and answer slots
IMAGE, SIZE = 4, (15, 31)  # the first context slot of an image, and its pixels
TIGHT = {"atol": 2e-5, "rtol": 0}  # logits spread over 5


@functools.cache
def make_sequence(pair):
    """(prefix ids[P], images[B, h, w, 3], ids[B, C + N], positions[B, 3, C + N], valid[B, C + N]).

    In each lane other slots are absent, in one of them the whole image.
    """
    rng = np.random.default_rng(5)
    tokens = pair.config.image_span(*SIZE).tokens
    valid = np.ones((B, C + N), bool)
    valid[0, 2:4] = valid[1, 0] = valid[1, IMAGE : IMAGE + tokens] = valid[2, [1, 13]] = False
    at = P + np.cumsum(valid, axis=1) - valid
    positions = np.stack([at, at + rng.integers(0, 4, at.shape), at + rng.integers(0, 4, at.shape)], axis=1)
    ids = rng.integers(0, 90, (B, C + N)).astype(np.int32)
    prefix = rng.integers(0, 90, P).astype(np.int32)
    images = rng.integers(0, 256, (B, *SIZE, 3), np.uint8)
    return tuple(jnp.asarray(x) for x in (prefix, images, ids, positions.astype(np.int32), valid))


@pytest.fixture(scope="module")
def sequence(tied):
    return make_sequence(tied)


def make_prefix(model, ids) -> KVCache:
    positions = jnp.broadcast_to(jnp.arange(P), (1, 3, P))
    return model.forward(Inputs(model.embed(ids)[None], positions, jnp.ones((1, P), bool)))[1]


def lay_out(model, images, ids, positions, valid, start=0) -> Inputs:
    """Token embeddings, and each lane's image in its slots; images = None leaves it at text."""
    inputs = Inputs(model.embed(ids), positions, valid)
    if images is None:
        return inputs
    visual = model.encode_images(images)
    slots = start + IMAGE + np.arange(visual.features.shape[1])
    return inputs.place(visual, slots, np.zeros_like(slots))


def copied_prefix_hidden(model, prefix_ids, images, ids, positions, valid):
    """Every lane with a prefix of its own: the slow way. [B, C + N, d]"""
    whole = jnp.concatenate([jnp.broadcast_to(prefix_ids, (B, P)), ids], axis=1)
    at = jnp.concatenate([jnp.broadcast_to(jnp.arange(P), (B, 3, P)), positions], axis=2)
    seen = jnp.concatenate([jnp.ones((B, P), bool), valid], axis=1)
    return model.forward(lay_out(model, images, whole, at, seen, P))[0][:, P:]


@functools.partial(jax.jit, static_argnums=(0, 2))
def stepwise(graphdef, params, with_prefix, prefix_ids, images, ids, positions, valid):
    """Logits of the last context token and of every answer token, one `decode_step` at a time. [B, N + 1, V]"""
    model = nnx.merge(graphdef, params)
    prefix = make_prefix(model, prefix_ids) if with_prefix else None
    context = lay_out(model, images, ids[:, :C], positions[..., :C], valid[:, :C])
    hidden, cache = model.forward(context, prefix)
    layers = model.decode_layers()

    def step(cache, number):
        index = C + number
        token = jax.lax.dynamic_index_in_dim(ids, index, axis=1, keepdims=False)
        at = jax.lax.dynamic_index_in_dim(positions, index, axis=2, keepdims=False)
        seen = valid & (jnp.arange(C + N) <= index)
        out, cache = model.decode_step(layers, model.embed(token), at, cache, index, seen, prefix)
        return cache, out

    _, outs = jax.lax.scan(step, cache.grow(N), jnp.arange(N))
    return model.logits(jnp.concatenate([hidden[:, -1:], outs.swapaxes(0, 1)], axis=1))


@functools.partial(jax.jit, static_argnums=(0, 2))
def at_once(graphdef, params, how, prefix_ids, images, ids, positions, valid):
    """Logits [B, C + N, V] from one pass; how = "shared" or "copied" prefix, or "none"."""
    model = nnx.merge(graphdef, params)
    if how == "copied":
        return model.logits(copied_prefix_hidden(model, prefix_ids, images, ids, positions, valid))
    prefix = make_prefix(model, prefix_ids) if how == "shared" else None
    return model.logits(model.forward(lay_out(model, images, ids, positions, valid), prefix)[0])


@pytest.mark.parametrize("with_prefix", [False, True])
def test_prefill_and_decode_equal_one_pass(family, with_prefix):
    sequence = make_sequence(family)
    whole = at_once(family.graphdef, family.params, "copied" if with_prefix else "none", *sequence)
    steps = stepwise(family.graphdef, family.params, with_prefix, *sequence)
    np.testing.assert_allclose(steps, whole[:, C - 1 :], **TIGHT)


def test_a_shared_prefix_equals_a_copy_in_every_lane(tied, sequence):
    valid = sequence[-1]
    shared, copied, none = (
        np.asarray(at_once(tied.graphdef, tied.params, how, *sequence))[valid]
        for how in ("shared", "copied", "none")
    )
    np.testing.assert_allclose(shared, copied, **TIGHT)
    assert np.abs(shared - none).mean() > 0.1  # the prefix does matter


def test_what_lies_in_an_absent_slot_does_not_matter(tied, sequence):
    prefix, images, ids, positions, valid = sequence
    images = images.at[1].set(255 - images[1])  # absent in that lane
    changed = jnp.where(valid, ids, (ids + 17) % 90), jnp.where(valid[:, None], positions, positions + 40)
    before = at_once(tied.graphdef, tied.params, "shared", *sequence)
    after = at_once(tied.graphdef, tied.params, "shared", prefix, images, *changed, valid)
    np.testing.assert_array_equal(before[valid], after[valid])
    assert (np.asarray(before)[~valid] != np.asarray(after)[~valid]).any()


def loss(params, graphdef, how, remat, sequence):
    prefix_ids, _, ids, positions, valid = sequence
    model = nnx.merge(graphdef, params)
    if how == "copied":
        hidden = copied_prefix_hidden(model, prefix_ids, None, ids, positions, valid)
    else:
        prefix = make_prefix(model, prefix_ids)
        hidden, _ = model.forward(Inputs(model.embed(ids), positions, valid), prefix, remat)
    log_probs = jax.nn.log_softmax(model.logits(hidden[:, :-1]))
    chosen = jnp.take_along_axis(log_probs, ids[:, 1:, None], axis=-1)[..., 0]
    return -jnp.where(valid[:, :-1] & valid[:, 1:], chosen, 0).mean()


@pytest.fixture(scope="module")
def gradients(tied, sequence):
    def of(how, remat):
        gradient = jax.jit(jax.grad(lambda params: loss(params, tied.graphdef, how, remat, sequence)))
        return gradient(tied.params)

    return functools.lru_cache(of)


def assert_gradients_equal(ours, wanted, bound, least=1e-7):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, atol=bound * np.abs(b).max() + least, rtol=0)


def test_the_gradient_through_a_shared_prefix_is_the_sum_over_copies(gradients):
    assert_gradients_equal(gradients("shared", "none"), gradients("copied", "none"), 2e-5)


@pytest.mark.parametrize("remat", ["dots", "full"])
def test_recomputing_does_not_change_gradients(gradients, remat):
    assert_gradients_equal(gradients("shared", remat), gradients("shared", "none"), 1e-5)


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen3_vl", "gemma3"])  # Qwen2.5-VL's loop is Qwen2-VL's
def test_recomputing_the_vision_tower_does_not_change_gradients(tiny_pair, rng, name):
    family = tiny_pair(name)
    images = jnp.asarray(rng.integers(0, 256, (2, 16, 24, 3), np.uint8))
    target = jnp.asarray(rng.normal(size=(2, family.config.image_span(16, 24).tokens, 48)), jnp.float32)

    def gradient(remat):
        def total(params):
            visual = nnx.merge(family.graphdef, params).encode_images(images, remat)
            return sum((x * target).sum() for x in jax.tree.leaves(visual))

        return jax.jit(jax.grad(total))(family.params)

    wanted = gradient("none")
    patches = [x for path, x in jax.tree.leaves_with_path(wanted) if "patch_embed" in jax.tree_util.keystr(path)]
    assert min(np.abs(x).max() for x in patches) > 0.1
    assert_gradients_equal(gradient("full"), wanted, 1e-5, least=2e-6)  # SigLIP's key biases have none but noise


def generate(graphdef, params, cache, token, length):
    """Greedy answers in a while_loop that ends when every lane has written token 0 or the slots are full."""
    model = nnx.merge(graphdef, params)
    layers = model.decode_layers()
    slots = jnp.arange(cache.slots)

    def going_on(carry):
        _, _, done, number, _ = carry
        return (number < N) & ~done.all()

    def step(carry):
        cache, token, done, number, written = carry
        index = length + number
        positions = jnp.broadcast_to(index, (token.shape[0], 3))
        seen = jnp.broadcast_to(slots <= index, (token.shape[0], cache.slots))
        hidden, cache = model.decode_step(layers, model.embed(token), positions, cache, index, seen)
        token = model.logits(hidden).argmax(-1).astype(jnp.int32)
        return cache, token, done | (token == 0), number + 1, written.at[:, number].set(token)

    start = cache, token, jnp.zeros(token.shape, bool), jnp.int32(0), jnp.full((token.shape[0], N), -1, jnp.int32)
    cache, _, _, _, written = jax.lax.while_loop(going_on, step, start)
    return written, cache


def test_generation_in_a_while_loop_with_a_donated_cache_equals_whole_passes(tied, rng):
    ids = jnp.asarray(rng.integers(0, 90, (B, C)), jnp.int32)

    @functools.partial(jax.jit, static_argnums=2)
    def forward(params, ids, slots):
        model = nnx.merge(tied.graphdef, params)
        slots = jnp.arange(slots)
        valid = jnp.broadcast_to(slots < C + N, (B, len(slots)))
        positions = jnp.broadcast_to(slots, (B, 3, len(slots)))
        hidden, cache = model.forward(Inputs(model.embed(ids), positions, valid))
        return model.logits(hidden).argmax(-1).astype(jnp.int32), cache

    _, cache = forward(tied.params, ids[:, :-1], C - 1)
    cache = cache.grow(N)
    arguments = tied.params, cache, ids[:, -1], jnp.int32(C - 1)
    run = jax.jit(generate, static_argnums=0, donate_argnums=2).lower(tied.graphdef, *arguments).compile()
    shape = ",".join(map(str, cache.k[0].shape))
    assert not re.findall(rf"f32\[{shape}\]\S* copy\(.*", run.as_text()), "a layer's cache is copied"
    written, after = run(*arguments)
    assert all(x.is_deleted() for x in jax.tree.leaves(cache))
    assert not any(x.is_deleted() for x in jax.tree.leaves((after, tied.params)))
    for number in range(N):  # causal: what lies after a token does not matter
        wanted = forward(tied.params, jnp.pad(ids, ((0, 0), (0, N + C - ids.shape[1]))), N + C)[0][
            :, C + number - 1
        ]
        running = written[:, number] >= 0
        np.testing.assert_array_equal(written[running, number], wanted[running])
        ids = jnp.concatenate([ids, written[:, number, None]], axis=1)
    assert (written >= 0).any()


def test_decode_in_bfloat16_from_float32_parameters_stays_near_float32(tied, sequence):
    layers = jax.eval_shape(lambda params: nnx.merge(tied.half, params).decode_layers(), tied.params)
    assert {x.dtype for x in jax.tree.leaves(layers)} == {jnp.dtype(jnp.bfloat16)}
    exact = np.asarray(stepwise(tied.graphdef, tied.params, True, *sequence))
    rounded = np.asarray(stepwise(tied.half, tied.params, True, *sequence))
    assert rounded.dtype == np.float32
    assert 0 < np.abs(rounded - exact).mean() < 0.015 * exact.std()


def test_cache_grows_stacks_and_knows_its_size(rng):
    cache = KVCache.zeros(3, 2, 4, 5, 6, jnp.float32)
    assert (cache.batch, cache.slots, len(cache.k), len(cache.v)) == (2, 5, 3, 3)
    assert len({x.unsafe_buffer_pointer() for x in jax.tree.leaves(cache)}) == 7  # none is another's buffer
    k, v = (jnp.asarray(rng.normal(size=(3, 2, 4, 5, 6))) for _ in range(2))
    cache = KVCache.from_stacked(k, v, jnp.arange(10).reshape(2, 5))
    for array, again in zip((k, v), cache.stacked(), strict=True):
        np.testing.assert_array_equal(array, again)
    grown = cache.grow(2)
    assert grown.slots == 7
    np.testing.assert_array_equal(grown.k[1][:, :, :5], k[1])
    assert not grown.v[2][:, :, 5:].any()
    np.testing.assert_array_equal(grown.positions[:, :5], cache.positions)


@pytest.mark.parametrize("index", [2, [4, 0, 3]], ids=["one slot", "a slot of each lane"])
def test_slots_are_written_where_they_should_be(index):
    rng = np.random.default_rng(0)
    cache, new = (rng.normal(size=(3, 2, slots, 4)).astype(np.float32) for slots in (5, 1))
    wanted = cache.copy()
    for lane, slot in enumerate(np.broadcast_to(index, 3)):
        wanted[lane, :, slot] = new[lane, :, 0]
    written = jax.jit(write_slots)(cache, new, jnp.asarray(index, jnp.int32))
    np.testing.assert_array_equal(written, wanted)


@pytest.mark.parametrize("remat", ["none", "dots"])
def test_scanned_and_unrolled_layers_give_the_same(tied, sequence, monkeypatch, remat):
    """With gradients, and whether all slots are asked for or only the later ones."""
    prefix_ids, _, ids, positions, valid = sequence
    weights = jax.random.normal(jax.random.key(8), (ids.shape[1], 1))

    def gradient(unrolled, first):
        monkeypatch.setattr(layers, "UNROLLED", unrolled)

        def loss(params):
            model = nnx.merge(tied.graphdef, params)
            inputs = Inputs(model.embed(ids), positions, valid)
            hidden, cache = model.forward(inputs, make_prefix(model, prefix_ids), remat, first=first)
            total = (hidden * weights[first:] * valid[:, first:, None]).sum()
            return total + sum(jnp.sin(x * valid[:, None, :, None]).sum() for x in cache.k + cache.v), hidden

        grads, hidden = jax.jit(jax.grad(loss, has_aux=True))(tied.params)
        return grads, hidden

    scanned, whole = gradient(0, 0)
    scanned_part, part = gradient(0, C)
    for first, wanted, wanted_hidden in ((0, scanned, whole), (C, scanned_part, whole[:, C:])):
        grads, hidden = gradient(100, first)
        np.testing.assert_allclose(hidden, wanted_hidden, **TIGHT)
        assert_gradients_equal(grads, wanted, 2e-5, least=1e-5)
    np.testing.assert_allclose(part, whole[:, C:], **TIGHT)
