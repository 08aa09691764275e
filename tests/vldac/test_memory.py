"""Memory: the estimate against the compiler's own count, and refusals that say what helps."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest

from vldac import memory, train
from vldac.algorithms.vl_dac import VLDACConfig
from vldac.models.lora import LoRAConfig
from vldac.params import init_params
from vldac.policy import Policy, PolicyConfig
from vldac.rollout import RolloutConfig
from vldac.state import OptimizerConfig, Setup

HEAD = (8,)


@pytest.fixture(scope="module")
def wide(tiny):
    """Large enough that what counts is not lost in the small things."""
    text = replace(
        tiny.text,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=4,
        head_dim=32,
        mrope_section=(4, 6, 6),
    )
    return replace(tiny, text=text)


@pytest.fixture(scope="module")
def make(signal, tokenizer, wide):
    def build(adapter=None, dtype=jnp.float32, microbatch=0, lanes=0, **policy):
        config = PolicyConfig(max_tokens=24, decoding="grammar", **policy)
        setup = Setup(
            signal,
            Policy.build(signal, tokenizer, wide, config, HEAD, dtype, adapter),
            10,
            RolloutConfig(worlds=32, steps=2, lanes=lanes),
            VLDACConfig(),
            OptimizerConfig(minibatch=64, microbatch=microbatch),
        )
        params = jax.eval_shape(lambda key: init_params(wide, key, HEAD, adapter, dtype), jax.random.key(0))
        return setup, params

    return build


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="in full", marks=pytest.mark.slow),
        pytest.param(
            {"remat": "full", "adapter": LoRAConfig(rank=4), "dtype": jnp.bfloat16}, id="LoRA, recomputing"
        ),
    ],
)
def test_the_estimate_is_near_the_compilers_count(make, wide, options):
    setup, params = make(**options)
    like = jax.eval_shape(lambda p, key: train.init(setup, p, key), params, jax.random.key(0))
    counted = memory.program_bytes(train.jit_iteration.lower(setup, like).compile())
    assert 0.6 < memory.estimate(setup, wide, params).peak / counted < 1.8


def test_adapters_that_are_not_joined_are_counted(make, wide):
    """With dropout an adapter's product is a result of its own, gate's and up's as well, which are the widest."""

    def update(dropout):
        adapter = LoRAConfig(rank=4, dropout=dropout)
        return memory.estimate(*(lambda s, p: (s, wide, p))(*make(remat="dots", adapter=adapter))).update

    text = wide.text
    wider = 2 * text.intermediate_size  # gate and up; q widens nothing, and k and v narrow
    joined, apart = update(0.0)["activations"], update(0.1)["activations"]
    tokens = (apart - joined) / (4 * text.num_hidden_layers * wider)
    assert tokens == int(tokens) > 64  # of a minibatch's steps, and the static text


def test_what_the_advice_names_makes_it_smaller(make, wide):
    def peak(**options):
        return memory.estimate(*(lambda s, p: (s, wide, p))(*make(**options))).peak

    whole = peak()
    assert peak(microbatch=8) < whole / 2
    assert peak(remat="full") < peak(remat="dots") < whole
    assert peak(dtype=jnp.bfloat16) < whole
    assert peak(adapter=LoRAConfig(rank=2)) < whole
    assert peak(history=3) > whole


def test_keys_and_values_are_those_of_the_lanes(make, wide):
    def rollout(**options):
        return memory.estimate(*(lambda s, p: (s, wide, p))(*make(**options))).rollout

    in_step, few = rollout(), rollout(lanes=8)
    for name in ("keys and values", "activations of the prompt", "logits"):
        assert few[name] < in_step[name] / 2, name
    assert few["visual tokens"] == in_step["visual tokens"]


@pytest.mark.parametrize("sizes", [{"data": 2, "fsdp": 4, "tensor": 1}, {"fsdp": 2, "tensor": 2}])
def test_layers_that_are_gathered_for_answers_are_counted_whole(make, wide, sizes):
    setup, params = make()
    cut, gathered = (
        memory.estimate(replace(setup, policy=replace(setup.policy, gather=gather)), wide, params, sizes).rollout
        for gather in (False, True)
    )
    language = params["model"]["language_model"]
    assert gathered["decoder layers apart"] == sizes["fsdp"] * cut["decoder layers apart"]
    assert cut["decoder layers apart"] == memory.size_of(language["layers"]) // (sizes["fsdp"] * sizes["tensor"])
    ends = [language["embed_tokens"], params["model"].get("lm_head", {})]
    assert gathered.pop("embeddings gathered") == memory.size_of(ends) // sizes["tensor"]
    assert {**gathered, "decoder layers apart": 0} == {**cut, "decoder layers apart": 0}
    assert "--mesh.no-gather" in memory.advice(replace(setup, policy=replace(setup.policy, gather=True)))


def test_what_does_not_fit_is_refused_with_advice(make, wide):
    setup, params = make()
    needed = memory.estimate(setup, wide, params).peak
    memory.check(setup, needed, needed, "estimate")
    memory.check(setup, needed, None, "estimate")
    with pytest.raises(memory.DoesNotFit) as error:
        memory.check(setup, needed, needed - 1, "estimate")
    for part in (
        "MiB by estimate",
        "optimizer.microbatch than 64",
        "policy.remat full",
        "rollout.worlds",
        "lora.rank",
    ):
        assert part in str(error.value)
    assert "\n" not in str(error.value)


def test_a_rollout_is_advised_of_what_helps_a_rollout(make, wide):
    setup, params = make()
    needed = memory.estimate(setup, wide, params)
    with pytest.raises(memory.DoesNotFit, match=r"^the rollout needs .*rollout\.worlds") as error:
        memory.check(setup, needed.peak, needed.peak - 1, "estimate", learns=False)
    assert "microbatch" not in str(error.value) and "remat" not in str(error.value)


def test_the_lines_hold_every_kind(make, wide):
    setup, params = make(adapter=LoRAConfig(rank=4))
    text = "\n".join(memory.estimate(setup, wide, params).lines())
    for kind in ("weights", "optimizer", "keys and values", "activations", "logits", "gradients", "at the worst"):
        assert kind in text


def test_the_devices_memory_is_known_here():
    assert memory.device_memory() > 2**30
