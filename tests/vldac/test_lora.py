"""Training with an adapter: what is trained, what stays, and that nothing is held twice."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vldac import imitation, learning, scoring, train
from vldac.algorithms.vl_dac import VLDACConfig
from vldac.imitation import Imitation, ImitationConfig
from vldac.models import create, lora
from vldac.models.lora import LoRAConfig
from vldac.params import init_params
from vldac.policy import Policy, PolicyConfig
from vldac.rollout import RolloutConfig, rollout
from vldac.state import OptimizerConfig, Setup
from vldac.text.fragments import AnswerWriter

HEAD = (8,)
RANK4 = LoRAConfig(rank=4, alpha=8.0)


def make_setup(signal, tokenizer, tiny, adapter, dtype=jnp.float32):
    config = PolicyConfig(max_tokens=24, decoding="grammar")
    policy = Policy.build(signal, tokenizer, tiny, config, HEAD, dtype, adapter)
    return Setup(
        signal,
        policy,
        10,
        RolloutConfig(worlds=8, steps=2),
        VLDACConfig(critic_warmup=0),
        OptimizerConfig(learning_rate=1e-2, minibatch=8, microbatch=4),
    )


def begin(setup, tiny, adapter, dtype=jnp.float32):
    params = init_params(tiny, jax.random.key(0), HEAD, adapter, dtype)
    return train.init(setup, params, jax.random.key(1))


@pytest.fixture(scope="module")
def setup(signal, tokenizer, tiny):
    return make_setup(signal, tokenizer, tiny, RANK4)


@pytest.fixture(scope="module")
def iterated(setup, tiny):
    """(state before, state after an iteration, its metrics)"""
    after, metrics = train.jit_iteration(setup, begin(setup, tiny, RANK4))
    return begin(setup, tiny, RANK4), after, metrics  # what the iteration began with was donated to it


def test_only_adapter_and_critic_are_trained(iterated):
    before, after, _ = iterated
    assert set(before.params) == {"adapter", "value"}
    jax.tree.map(np.testing.assert_array_equal, before.frozen, after.frozen)
    for name in ("adapter", "value"):
        changed = jax.tree.map(lambda a, b: bool(np.any(a != b)), before.params[name], after.params[name])
        assert all(jax.tree.leaves(changed)), name  # A too, once the first update has moved B


def test_the_reference_is_the_same_weights_without_the_adapter(setup, iterated):
    before, after, metrics = iterated
    assert float(metrics["train/logprob_mismatch"]) < 1e-4
    reference, acting = after.reference_params, after.policy_params
    assert "adapter" not in reference and reference["model"] is acting["model"] is after.frozen
    observation = before.lanes.observation
    answer = jax.jit(lambda p, k: setup.policy.act(setup.policy.prepare(p), observation, k))
    response = answer(acting, jax.random.key(3))
    tokens, mask = response.tokens, response.mask
    score = jax.jit(setup.policy.log_probs)
    first, now, frozen = (
        score(params, observation, tokens, mask).log_probs for params in (before.policy_params, acting, reference)
    )
    np.testing.assert_allclose(frozen, first, atol=1e-5)  # B was zero
    assert np.abs(now - first).max() > 1e-3
    # What acts has its products joined, adapters and all; what is trained has not.
    np.testing.assert_allclose(response.log_probs, now, atol=1e-4)


@pytest.mark.parametrize("targets", [("q_proj",), ("k_proj", "up_proj", "down_proj"), LoRAConfig().target_modules])
def test_joined_products_equal_the_layers(tiny, targets):
    """Each alone, with and without adapters and biases."""
    model = create(tiny, rngs=nnx.Rngs(0))
    lora.attach(model, LoRAConfig(rank=3, target_modules=targets), nnx.Rngs(1))
    stacked = model.language_model.layers
    graphdef, state = nnx.split(stacked)
    rng = np.random.default_rng(0)
    state = jax.tree.map(lambda x: x[1] + jnp.asarray(rng.normal(0, 0.1, x.shape[1:]), x.dtype), state)
    x = jnp.asarray(rng.normal(size=(5, tiny.hidden_size)), jnp.float32)
    layer, fused = nnx.merge(graphdef, state), nnx.merge(graphdef, state)
    fused.self_attn.fuse()
    fused.mlp.fuse()
    attention = layer.self_attn
    wanted = [attention.q_proj(x), attention.k_proj(x), attention.v_proj(x)]
    for ours, theirs in zip(fused.self_attn.fused(x), wanted, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    np.testing.assert_allclose(fused.mlp(x[None]), layer.mlp(x[None]), atol=1e-5)
    assert not [path for path, _ in nnx.to_flat_state(nnx.state(fused)) if "q_proj" in path or "up_proj" in path]


def test_frames_seen_in_the_rollout_are_not_encoded_again(setup, iterated, tiny, signal, tokenizer):
    before, *_ = iterated

    def gather(setup, state):
        return rollout(setup.policy, setup.world, state.policy_params, state.lanes, state.key, setup.rollout)[1]

    trajectory = jax.jit(gather, static_argnums=0)(setup, before)
    blind = trajectory.replace(sight=None)
    update = jax.jit(lambda t: learning.update(setup, before, t, jax.random.key(3)))
    (params, *_), (wanted, *_) = update(trajectory), update(blind)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), params, wanted)
    # The frames' own bytes are then of no use to the update.
    dark = trajectory.observation.replace(frames=jnp.zeros_like(trajectory.observation.frames))
    same = update(trajectory.replace(observation=dark))[0]
    jax.tree.map(np.testing.assert_array_equal, same, params)
    # Where everything is trained, frames will not look the same.
    full = make_setup(signal, tokenizer, tiny, None)
    assert jax.eval_shape(lambda s: gather(full, s), begin(full, tiny, None)).sight is None
    assert not Policy.keeps_sight({"adapter": {"language_model": 0, "visual": 0}})


def test_no_leaf_of_the_model_is_held_twice(setup, tiny):
    params = init_params(tiny, jax.random.key(0), HEAD, RANK4)
    state = train.init(setup, params, jax.random.key(1))
    pointers = {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(params["model"])}
    assert {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(state.frozen)} == pointers
    shapes = {leaf.shape for leaf in jax.tree.leaves(state.opt_state)}
    embedding = state.frozen["language_model"]["embed_tokens"]["weight"].shape
    assert embedding not in shapes
    after, _ = train.jit_iteration(setup, state)  # donated: the frozen weights are handed through, not copied
    assert {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(after.frozen)} == pointers


def test_computing_in_bfloat16_keeps_what_is_trained_in_float32(signal, tokenizer, tiny):
    for adapter in (RANK4, None):
        setup = make_setup(signal, tokenizer, tiny, adapter, jnp.bfloat16)
        state = jax.eval_shape(lambda s=setup, a=adapter: begin(s, tiny, a, jnp.bfloat16))
        dtypes = {leaf.dtype for leaf in jax.tree.leaves(state.params)}
        assert dtypes == {jnp.dtype(jnp.float32)}
        assert {leaf.dtype for leaf in jax.tree.leaves(state.frozen)} == {jnp.dtype(jnp.bfloat16)}


def test_an_adapted_layer_is_the_formula(tiny):
    model = create(tiny, rngs=nnx.Rngs(0))
    lora.attach(model, RANK4, nnx.Rngs(1))
    graphdef, adapter, base = lora.split(model)
    adapter = jax.tree.map(lambda x: x + 0.1, adapter)
    model = nnx.merge(graphdef, base, adapter)
    stacked = model.language_model.layers.mlp.down_proj
    weight, a, b = (np.asarray(x[...][1]) for x in (stacked.weight, stacked.lora_A, stacked.lora_B))
    definition, state = nnx.split(stacked)
    layer = nnx.merge(definition, jax.tree.map(lambda x: x[1], state))
    x = np.random.default_rng(0).normal(size=(3, weight.shape[1])).astype(np.float32)
    np.testing.assert_allclose(layer(jnp.asarray(x)), x @ weight.T + 2.0 * (x @ a.T) @ b.T, rtol=1e-4, atol=1e-5)


def test_dropout_is_there_only_when_a_key_is(signal, tokenizer, tiny, observations):
    adapter = LoRAConfig(rank=4, dropout=0.5)
    policy = Policy.build(signal, tokenizer, tiny, PolicyConfig(max_tokens=24), HEAD, adapter=adapter)
    params = init_params(tiny, jax.random.key(0), HEAD, adapter)
    params["adapter"] = jax.tree.map(lambda x: x + 0.1, params["adapter"])
    arguments = observations(signal, 4, 1), jnp.full((4, 24), 40, jnp.int32), jnp.ones((4, 24), bool)
    score = jax.jit(policy.log_probs)
    none, again, one, two = (
        np.asarray(score(params, *arguments, key).log_probs)
        for key in (None, None, jax.random.key(0), jax.random.key(1))
    )
    np.testing.assert_array_equal(none, again)
    assert np.abs(one - none).max() > 1e-3 and np.abs(one - two).max() > 1e-3
    assert policy.dropout == 0.5


def test_imitation_teaches_the_adapter(signal, tokenizer, tiny):
    policy = Policy.build(signal, tokenizer, tiny, PolicyConfig(max_tokens=40), HEAD, adapter=RANK4)
    writer = AnswerWriter.build(signal.phrases, signal.actions, tokenizer, policy.vocabulary, 40)
    teacher = Imitation(signal, policy, writer, ImitationConfig(steps=4, worlds=4, learning_rate=1e-2))
    params = init_params(tiny, jax.random.key(0), HEAD, RANK4)
    model = jax.device_get(params["model"])
    adapter = jax.device_get(params["adapter"])
    state, _ = imitation.jit_run(teacher, 4, imitation.init(teacher, params, jax.random.key(1)))
    jax.tree.map(np.testing.assert_array_equal, state.params["model"], model)
    changed = jax.tree.map(lambda a, b: bool(np.any(a != b)), state.params["adapter"], adapter)
    assert all(jax.tree.leaves(changed))


@pytest.mark.parametrize("vision", [False, True])
def test_targets_are_matched_by_their_last_name(tiny, vision):
    model = create(tiny, rngs=nnx.Rngs(0))
    config = LoRAConfig(rank=2, target_modules=("q_proj", "qkv", "0") if vision else ("q_proj",), vision=vision)
    found = {"/".join(path) for path in lora.adapted_layers(model, config)}
    wanted = {"language_model/layers/self_attn/q_proj"}
    assert found == wanted | ({"visual/blocks/attn/qkv", "visual/merger/mlp_0"} if vision else set())


def test_the_reference_of_a_taught_adapter_is_what_it_was_taught(setup, tiny):
    """Else the KL would be that to the model before it was taught, and undo the teaching."""

    def begun(mine):
        """(adapter, state and KL after an iteration)."""
        params = init_params(tiny, jax.random.key(0), HEAD, RANK4)
        params["adapter"] = jax.tree.map(lambda x: x + 0.3, params["adapter"])
        adapter = jax.device_get(params["adapter"])
        state = train.init(mine, params, jax.random.key(1))
        held = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves((state.reference, state.params))]
        assert len(set(held)) == len(held)  # the policy's own is donated
        state, metrics = train.jit_iteration(mine, state)
        return adapter, state, float(metrics["train/kl_reference"])

    # In the first iteration the critic alone learns.
    mine = dataclasses.replace(setup, taught=True, algorithm=VLDACConfig(critic_warmup=1))
    adapter, state, kl = begun(mine)
    after, _ = train.jit_iteration(mine, state)  # the same program: now the policy learns, too
    jax.tree.map(np.testing.assert_array_equal, after.reference, adapter)
    assert np.any(jax.tree.leaves(after.params["adapter"])[0] != jax.tree.leaves(adapter)[0])
    _, drawn, kl_of_drawn = begun(setup)
    assert drawn.reference is None and kl < 1e-6 and kl_of_drawn > 0.1


def test_the_unembeddings_gradient_is_summed_over_chunks_in_float32(
    signal, tokenizer, tiny, observations, monkeypatch
):
    """Summed as what is computed in, bfloat16 here, it would lose a digit over a few dozen chunks."""
    params = init_params(tiny, jax.random.key(0), HEAD)
    observation = observations(signal, 8, 1)
    tokens = jax.random.randint(jax.random.key(1), (8, 24), 0, tiny.vocab_size)

    def gradient(dtype, rows):
        policy = Policy.build(signal, tokenizer, tiny, PolicyConfig(max_tokens=24), HEAD, dtype)
        monkeypatch.setattr(scoring, "LOGITS_BYTES", 4 * tiny.vocab_size * rows)

        def loss(params):
            return policy.log_probs(params, observation, tokens, jnp.ones_like(tokens, bool)).log_probs.sum()

        return np.asarray(jax.jit(jax.grad(loss))(params)["model"]["language_model"]["embed_tokens"]["weight"])

    exact = gradient(jnp.float32, 8 * 24)
    whole, parts = (np.linalg.norm(gradient(jnp.bfloat16, rows) - exact) for rows in (8 * 24, 2))
    assert parts < 1.2 * whole


def test_the_mismatch_is_measured_without_dropout(signal, tokenizer, tiny):
    """Dropout is meant to make acting and learning differ; what else does is not to be hidden behind it."""
    setup = make_setup(signal, tokenizer, tiny, dataclasses.replace(RANK4, dropout=0.5))
    params = init_params(tiny, jax.random.key(0), HEAD, RANK4)
    params["adapter"] = jax.tree.map(lambda x: x + 0.1, params["adapter"])
    _, metrics = train.jit_iteration(setup, train.init(setup, params, jax.random.key(1)))
    assert metrics["train/logprob_mismatch"] < 1e-4 and metrics["train/kl_old"] > 1e-3


def test_wrong_settings_are_refused(tiny):
    for wrong, message in (
        ({"rank": -1}, "rank is -1"),
        ({"alpha": 0.0}, r"alpha is 0\.0"),
        ({"dropout": 1.0}, r"dropout is 1\.0"),
        ({"target_modules": ()}, "target_modules is empty"),
    ):
        with pytest.raises(ValueError, match=message):
            LoRAConfig(**wrong)
    model = create(tiny, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"target_modules names qkv, wq; accepted: down_proj, .*vision on"):
        lora.adapted_layers(model, LoRAConfig(rank=1, target_modules=("wq", "q_proj", "qkv")))


def test_scores_in_chunks_equal_scores_at_once(signal, tokenizer, tiny, observations, monkeypatch):
    """Values and gradients, for a number of rows that the chunk does not divide."""
    policy = Policy.build(signal, tokenizer, tiny, PolicyConfig(max_tokens=24, decoding="grammar"), HEAD)
    params = init_params(tiny, jax.random.key(0), HEAD)
    observation = observations(signal, 5, 1)
    response = jax.jit(lambda p, k: policy.act(policy.prepare(p), observation, k))(params, jax.random.key(2))

    def total(params):
        scores = policy.log_probs(params, observation, response.tokens, response.mask)
        return scores.log_probs.sum(), scores

    (_, whole), whole_grads = jax.jit(jax.value_and_grad(total, has_aux=True))(params)
    monkeypatch.setattr(scoring, "LOGITS_BYTES", 4 * tiny.vocab_size * 32)
    assert scoring.logits_rows(tiny.vocab_size) == 32 and response.tokens.size % 128 > 32
    lowered = jax.jit(jax.value_and_grad(lambda p: total(p), has_aux=True)).lower(params)
    text = lowered.as_text()
    assert f"tensor<{response.tokens.size}x{tiny.vocab_size}xf32>" not in text
    assert f"tensor<5x24x{tiny.vocab_size}xf32>" not in text
    (_, parts), parts_grads = lowered.compile()(params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), parts, whole)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-3, rtol=1e-3), parts_grads, whole_grads)
