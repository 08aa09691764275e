"""What the presets of the small model rest on."""

import dataclasses

import jax
import numpy as np
import pytest

from experiments.build import build
from experiments.presets import PRESETS
from experiments.restore import IMITATION, initial_params, stage_key
from vldac import imitation


@pytest.mark.parametrize("preset", ["number_line", "household", "shop", "physics"])
def test_a_familys_preset_trains_on_one_part_of_the_instances_and_is_judged_on_the_other_too(preset):
    config = PRESETS[preset]()
    assert config.world.endswith("split=train")
    assert config.evaluation.unseen == (config.world.removesuffix("train") + "test",)
    assert config.model.preset == "nano"
    assert config.optimizer.warmup == 16, "their first steps are too long without it, MiniWorld's are not"
    build(config)  # the parts fit each other


def test_the_spread_of_a_fresh_models_weights_is_the_one_that_was_asked_for():
    def weights(spread):
        config = PRESETS["number_line"]()
        model = dataclasses.replace(config.model, initializer_range=spread)
        params = jax.tree.leaves(initial_params(build(dataclasses.replace(config, model=model)))["model"])
        return [np.asarray(leaf) for leaf in params if leaf.size > 10_000]  # products and embeddings

    usual, wide = weights(0.0), weights(0.08)
    assert len(usual) == len(wide) > 3
    for narrow, broad in zip(usual, wide, strict=True):
        assert narrow.std() == pytest.approx(0.02, rel=0.05)
        np.testing.assert_allclose(broad, 4 * narrow, rtol=1e-5)


@pytest.mark.slow
def test_the_nano_model_reads_two_numbers_off_a_picture_within_two_hundred_updates():
    """An answer of the right form with guessed numbers costs 0.53 nats a token, one that is read 0.08."""
    config = PRESETS["number_line"]()
    parts = build(dataclasses.replace(config, imitation=dataclasses.replace(config.imitation, steps=200)))
    state = imitation.init(parts.imitation, initial_params(parts), stage_key(parts, IMITATION))
    for _ in range(10):
        state, metrics = imitation.jit_run(parts.imitation, 20, state)
    assert 0 < float(metrics["loss"]) < 0.2
