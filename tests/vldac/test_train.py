"""An iteration: it needs no host, it learns, and it does what its settings say."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs_jax.check.traces import equations
from vldac import learning, train
from vldac.algorithms.vl_dac import VLDACConfig
from vldac.params import init_params
from vldac.policy import Policy, PolicyConfig
from vldac.rollout import RolloutConfig, rollout
from vldac.state import OptimizerConfig, Setup

HEAD = (8,)
WARM_UP = VLDACConfig(critic_warmup=1)


@pytest.fixture(scope="module")
def make(signal, tokenizer, tiny):
    policy = Policy.build(signal, tokenizer, tiny, PolicyConfig(max_tokens=24, decoding="grammar"), HEAD)

    def build(worlds=8, steps=2, algorithm=WARM_UP, iterations=10, **optimizer):
        options = {"learning_rate": 3e-3, "minibatch": 8} | optimizer
        return Setup(
            signal,
            policy,
            iterations,
            RolloutConfig(worlds=worlds, steps=steps),
            algorithm,
            OptimizerConfig(**options),
        )

    return build


@pytest.fixture(scope="module")
def begin(tiny):
    def start(setup, seed=0):
        params = init_params(tiny, jax.random.key(seed), HEAD)
        return train.init(setup, params, jax.random.key(seed + 1))

    return start


@pytest.fixture(scope="module")
def usual(make):
    """A setup and its compiled iteration, which most tests share; what is donated to it is a copy of a state."""
    setup = make()
    return setup, lambda setup, state: train.jit_iteration(setup, jax.tree.map(jnp.copy, state))


def test_nothing_goes_through_the_host(usual, begin):
    setup, iteration = usual
    state = begin(setup)
    jaxpr = jax.make_jaxpr(train.iteration, static_argnums=0)(setup, state)
    names = {equation.primitive.name for equation in equations(jaxpr.jaxpr)}
    assert "scan" in names and "while" in names, "the loops were looked into"
    assert not [n for n in names if "callback" in n or "feed" in n or "debug" in n] and not jaxpr.effects
    _, want = iteration(setup, state)
    # As a run has it: two programs, the second of which is compiled for what the first is known to give.
    collect = train.jit_collect.lower(setup, state.policy_params, state.lanes, state.key).compile()
    learn = train.jit_learn.lower(setup, state, train.experience_like(setup, state, None)).compile()
    done = []
    with jax.transfer_guard("disallow"):
        for _ in range(2):
            lanes, trajectory = collect(state.policy_params, state.lanes, state.key)
            state, metrics = learn(state.replace(lanes=lanes), trajectory)
            done.append(metrics)
        jax.block_until_ready(done)
    assert int(state.iteration) == 2
    assert done[0].keys() == want.keys()
    for name, value in want.items():
        np.testing.assert_allclose(done[0][name], value, rtol=1e-3, atol=1e-4, err_msg=name)


def test_the_program_does_not_grow_with_worlds_or_steps(make, begin):
    def size(worlds, steps):
        setup = make(worlds=worlds, steps=steps)
        like = jax.eval_shape(lambda: begin(setup))
        return len(train.jit_iteration.lower(setup, like).as_text().splitlines())

    small = size(8, 2)
    assert small > 1000
    # Not to the line: a permutation of more rows sorts them in more rounds, each some hundred lines long.
    assert size(512, 2) < 1.05 * small
    assert size(8, 128) < 1.05 * small


def test_the_ratio_is_one_before_the_first_update(usual, begin):
    setup, iteration = usual
    _, metrics = iteration(setup, begin(setup))
    assert 0 <= float(metrics["train/logprob_mismatch"]) < 1e-4
    np.testing.assert_allclose(metrics["train/ratio_mean"], 1.0, atol=1e-4)  # warm-up: the model stays
    assert float(metrics["train/kl_reference"]) < 1e-6


def test_warm_up_trains_the_critic_alone(usual, begin):
    setup, iteration = usual
    start = begin(setup)
    first, _ = iteration(setup, start)
    jax.tree.map(np.testing.assert_array_equal, first.params["model"], start.params["model"])
    assert any(
        np.any(a != b)
        for a, b in zip(*map(jax.tree.leaves, (first.params["value"], start.params["value"])), strict=True)
    )
    second, _ = iteration(setup, first)
    assert any(
        np.any(a != b)
        for a, b in zip(*map(jax.tree.leaves, (second.params["model"], start.params["model"])), strict=True)
    )
    jax.tree.map(np.testing.assert_array_equal, second.frozen, start.frozen)


def test_the_same_key_gives_the_same_run_and_another_key_another(usual, begin):
    setup, iteration = usual
    a, b, c = begin(setup), begin(setup), begin(setup).replace(key=jax.random.key(99))
    for _ in range(2):
        (a, of_a), (b, of_b), (c, of_c) = (iteration(setup, state) for state in (a, b, c))
    jax.tree.map(np.testing.assert_array_equal, of_a, of_b)
    jax.tree.map(np.testing.assert_array_equal, a.params, b.params)
    assert float(of_a["train/loss"]) != float(of_c["train/loss"])


def test_microbatches_give_the_gradient_of_the_minibatch(make, begin):
    """And the static text, gone through once for all of them, that of going through it with every sample."""
    whole = make(minibatch=16, epochs=1, algorithm=VLDACConfig(critic_warmup=0))
    parts = replace(whole, optimizer=replace(whole.optimizer, microbatch=4))
    state = begin(whole)
    gather = jax.jit(lambda s: rollout(whole.policy, whole.world, s.params, s.lanes, s.key, whole.rollout))
    _, trajectory = gather(state)

    def grads_of(setup):
        """The clipped gradient, as the first moment that Adam keeps after one update."""
        update = jax.jit(lambda s, t: learning.update(setup, s, t, jax.random.key(5))[1])
        return [x for x in jax.tree.leaves(update(state, trajectory)) if x.ndim]

    @jax.jit
    def directly(state, trajectory):
        batch, _ = learning.learning_batch(whole, state, trajectory)
        weights = batch.valid / batch.valid.sum()
        grads, _ = jax.grad(lambda p: learning.step_loss(whole, p, batch, weights, jnp.float32(1)), has_aux=True)(
            state.params
        )
        return whole.transformation().update(grads, state.opt_state, state.params)[1]

    wanted = [x for x in jax.tree.leaves(directly(state, trajectory)) if x.ndim]
    for setup in (whole, parts):
        for a, b in zip(grads_of(setup), wanted, strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-6)


@settings(max_examples=20)  # each of its own shape
@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4), st.integers(0, 9))
def test_every_minibatch_has_as_many_steps_of_each_group_and_every_step_one(groups, each, minibatches, seed):
    size, steps = groups * each, groups * each * minibatches
    rows = np.asarray(learning.shuffled(jax.random.key(seed), steps, size, groups))
    assert rows.shape == (minibatches, groups, each)
    for group in range(groups):
        assert sorted(rows[:, group].reshape(-1)) == list(range(steps // groups))


def test_each_group_is_shuffled_by_itself():
    rows = np.asarray(learning.shuffled(jax.random.key(0), 64, 8, 2))
    assert (rows[:, 0] != rows[:, 1]).any() and (np.diff(rows[:, 0].reshape(-1)) != 1).any()


def test_the_learning_rate_falls_along_the_cosine(make):
    at_once = VLDACConfig(critic_warmup=0)
    setup = make(algorithm=at_once, iterations=4, final_learning_rate=1e-5, learning_rate=1e-3)
    updates = setup.iterations * setup.updates
    params = {"model": jnp.ones(3), "value": jnp.ones(3)}
    transformation = setup.transformation()
    state, sizes = transformation.init(params), []
    for _ in range(updates + 1):
        change, state = transformation.update(params, state, params)
        sizes.append((-float(change["model"][0]), -float(change["value"][0])))
    model, value = np.array(sizes).T
    want = 1e-5 + (1e-3 - 1e-5) * (1 + np.cos(np.pi * np.arange(updates + 1) / updates)) / 2
    np.testing.assert_allclose(model, want, rtol=1e-3)
    np.testing.assert_allclose(value, setup.optimizer.critic_learning_rate, rtol=1e-3)
    np.testing.assert_allclose(jax.vmap(setup.schedule)(jnp.arange(updates + 1)), want, rtol=1e-5)


def test_the_learning_rate_rises_once_the_critic_has_warmed_up(make):
    late = VLDACConfig(critic_warmup=3)
    rising, flat = (make(iterations=40, algorithm=late, warmup=updates) for updates in (16, 0))
    first = 3 * rising.updates
    updates = jnp.arange(first + 32)
    shares = jax.vmap(rising.schedule)(updates)[first:] / jax.vmap(flat.schedule)(updates)[first:]
    np.testing.assert_allclose(shares, np.minimum(np.arange(1, 33) / 16, 1.0), rtol=1e-5)
    assert not jax.vmap(rising.schedule)(updates[:first]).any()
    with pytest.raises(ValueError, match="warmup is -1; accepted: 0 or more"):
        OptimizerConfig(warmup=-1)


def test_the_models_first_steps_are_no_longer_for_the_critics_warm_up(make):
    setup = make(iterations=400)
    params = {"model": jnp.zeros(3), "value": jnp.zeros(3)}
    transformation, grads = setup.transformation(), {"model": jnp.full(3, 0.1), "value": jnp.full(3, 0.1)}
    state, update = transformation.init(params), jax.jit(transformation.update)
    for _ in range(200):
        change, state = update(grads | {"model": jnp.zeros(3)}, state, params)
        assert not change["model"].any()
    for number in range(200, 220):
        change, state = update(grads, state, params)
        want = jnp.full(3, -setup.schedule(jnp.int32(number)))
        np.testing.assert_allclose(change["model"], want, rtol=1e-3)


def test_long_gradients_are_clipped_model_and_critic_apart(make):
    setup = make(max_grad_norm=0.5)
    grads = {"model": jnp.full(4, 100.0), "value": jnp.full(4, 1e-3)}
    state = setup.transformation().init(grads)
    _, state = setup.transformation().update(grads, state, grads)
    moments = {name: state.inner_states[name].inner_state[1][0].mu for name in grads}
    norm = float(optax.global_norm(moments["model"])) / 0.1  # Adam's first moment is a tenth of the gradient
    assert norm == pytest.approx(0.5, rel=1e-4)
    assert float(optax.global_norm(moments["value"])) / 0.1 == pytest.approx(2e-3, rel=1e-4)


def test_the_state_is_donated(usual, begin):
    setup, _ = usual
    state = jax.tree.map(jnp.copy, begin(setup))  # as the shared program is compiled for
    old = jax.tree.leaves(state.params["model"])[0]
    train.jit_iteration(setup, state)
    assert old.is_deleted()


def test_settings_that_can_not_be_are_named(make):
    with pytest.raises(ValueError, match="minibatch is 7; accepted: a divisor of worlds x steps, which is 16"):
        make(minibatch=7)
    with pytest.raises(ValueError, match="microbatch is 3; accepted: a divisor of minibatch"):
        make(microbatch=3)
    with pytest.raises(ValueError, match="iterations is 0"):
        make(iterations=0)
    for name, value in (
        ("learning_rate", 0.0),
        ("learning_rate", np.inf),
        ("epochs", 0),
        ("final_learning_rate", 1.0),
    ):
        with pytest.raises(ValueError, match=f"{name} is {value}"):
            make(**{name: value})
