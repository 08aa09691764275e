"""A run, its export and a freshly drawn model are asked alike."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import export, models
from experiments.build import build
from experiments.config import ImitationConfig, ModelConfig, RunConfig, to_json
from experiments.models import ends_of, load_engine, scales_to_areas
from experiments.restore import initial_params, saved_part
from tests.published import GEMMA_3_4B
from tests.scripted import ScriptedBenchmark
from vldac import train
from vldac.checkpoint import Checkpointer, CheckpointError
from vldac.evaluate.asking import Streaming, ask
from vldac.evaluate.samples import SampleLog
from vldac.generate import Message, Request
from vldac.models import Gemma3Config, nano
from vldac.models.lora import LoRAConfig
from vldac.models.siglip import SiglipConfig

QWEN_IDS = {"image_token_id": 1, "vision_start_token_id": 2, "vision_end_token_id": 3}
SMALL = {"lanes": 2, "max_length": 192}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run with an adapter that has learnt something, whatever it may be; and its export."""
    folder = tmp_path_factory.mktemp("runs") / "adapted"
    folder.mkdir()
    model = ModelConfig(lora=LoRAConfig(rank=2, alpha=3.0))
    config = RunConfig(name="adapted", seed=5, model=model, imitation=ImitationConfig(steps=0))
    (folder / "config.json").write_text(to_json(config))
    parts = build(config)
    params = initial_params(parts)
    leaves, structure = jax.tree.flatten(params["adapter"])
    keys = jax.random.split(jax.random.key(1), len(leaves))
    leaves = [0.3 * jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)]
    params["adapter"] = jax.tree.unflatten(structure, leaves)
    state = train.init(parts.setup, params, jax.random.key(2))
    with Checkpointer(folder / "checkpoints") as checkpoints:
        checkpoints.save(0, saved_part(state), {"seconds": {}}, blocking=True)
    assert export.main([str(folder)]) == 0
    return folder


def request(temperature: float = 1.0, height: int = 60) -> Request:
    frame = np.random.default_rng(0).integers(0, 256, (height, 80, 3), np.uint8)
    messages = (Message("user", ("Where is the box?", frame)),)
    return Request(messages, max_tokens=20, temperature=temperature, seed=3)


def answers(model, **options) -> list[str]:
    with load_engine(str(model), **{**SMALL, **options}) as engine:
        return [reply.text for reply in engine.answer([request(), request(temperature=0.0)])]


@pytest.mark.slow
def test_a_run_says_what_its_export_says(run):
    """With its adapter, which the export has merged into the weights."""
    said = answers(run)
    assert said == answers(run / "export" / "model")
    assert said != answers(run / "export" / "base"), "the adapter is not heard"


@pytest.mark.slow
def test_a_run_can_compute_in_another_type(run):
    with load_engine(str(run), dtype="bfloat16", **SMALL) as engine:
        assert engine.answer([request()])[0].answer_tokens > 0
        assert engine._state.cache.k[0].dtype == jnp.bfloat16


def test_a_drawn_model_depends_on_its_seed():
    assert answers("nano", seed=0) != answers("nano", seed=1)


def test_a_benchmark_is_asked_of_an_engine_and_answered_as_in_one_call(tmp_path):
    benchmark = ScriptedBenchmark(sizes={"route_planning": 7})
    with load_engine("nano", **SMALL) as engine, SampleLog(tmp_path) as log:
        assert isinstance(engine, Streaming)
        requests = [dataclasses.replace(one.request, max_tokens=12) for one in benchmark.questions()]
        questions = [
            dataclasses.replace(one, request=request)
            for one, request in zip(benchmark.questions(), requests, strict=True)
        ]
        assert ask(questions, benchmark.judge, engine, log, 3 * engine.lanes) == {}
        wanted = [reply.text for reply in engine.answer(requests)]
    assert [record.answer for record in log.records.values()] == wanted
    assert list(log.records) == [one.id for one in questions]


def test_images_are_scaled_as_asked():
    def prompt_tokens(**options):
        with load_engine("nano", **SMALL, **options) as engine:
            return engine.submit(request(height=200)).prompt_tokens

    # 200 x 80 pixels are 12 x 5 tokens of 16 x 16; 3200 are 5 x 2, as 80 x 32 is the largest that fits
    assert prompt_tokens() - prompt_tokens(max_pixels=3200) == 12 * 5 - 5 * 2


def test_what_can_not_be_loaded_is_told(run, tmp_path):
    with pytest.raises(ValueError, match="dtype is 'int8'; accepted: float32, bfloat16"):
        load_engine("nano", dtype="int8", **SMALL)
    with pytest.raises(ValueError, match="no such folder"):
        load_engine(str(tmp_path / "nothing"), **SMALL)
    with pytest.raises(ValueError, match="min_pixels, max_pixels are 1024, 5; accepted: 0 < min <= max"):
        load_engine("nano", max_pixels=5, **SMALL)
    started = tmp_path / "started"
    started.mkdir()
    (started / "config.json").write_text((run / "config.json").read_text())
    with pytest.raises(CheckpointError, match="there is no checkpoint yet"):
        load_engine(str(started), **SMALL)
    (started / "config.json").write_text("{")
    with pytest.raises(ValueError, match="not JSON"):
        load_engine(str(started), **SMALL)


def test_a_checkpoint_says_what_else_ends_an_answer(tmp_path):
    assert ends_of(tmp_path) == ()
    for said, wanted in ((7, (7,)), ([7, 9], (7, 9)), (None, ())):
        (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": said}))
        assert ends_of(tmp_path) == wanted
    for wrong in ("{", "[]", '{"eos_token_id": "x"}'):
        (tmp_path / "generation_config.json").write_text(wrong)
        with pytest.raises(ValueError, match="accepted: JSON with an eos_token_id"):
            ends_of(tmp_path)


def gemma() -> Gemma3Config:
    vision = SiglipConfig(
        image_size=16,
        patch_size=4,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
    )
    ids = {"image_token_id": 1, "boi_token_id": 2, "eoi_token_id": 3}
    return Gemma3Config(text=nano(10, **QWEN_IDS).text, vision=vision, tokens_per_image=4, **ids)


def no_weights(*_, **__):
    raise AssertionError("weights are loaded")


def test_pixels_of_a_family_with_one_size_are_refused_before_weights_are_loaded(monkeypatch, tmp_path):
    monkeypatch.setattr(models, "open_model", lambda config: (tmp_path, None, gemma()))
    monkeypatch.setattr(models, "load_params", no_weights)
    for name in ("max_pixels", "min_pixels"):
        with pytest.raises(ValueError, match=f"{name} is 9; accepted: none, as this family scales every image"):
            load_engine("gemma", **{name: 9}, **SMALL)


def test_pixels_that_a_run_can_not_have_are_refused_before_weights_are_loaded(monkeypatch, run):
    monkeypatch.setattr(models, "policy_params", no_weights)
    with pytest.raises(ValueError, match="min_pixels, max_pixels are 1024, 5; accepted: 0 < min <= max"):
        load_engine(str(run), max_pixels=5, **SMALL)


def test_whether_a_model_has_pixels_is_read_off_its_configuration(run, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(GEMMA_3_4B))
    assert not scales_to_areas(str(tmp_path))
    assert scales_to_areas("nano") and scales_to_areas(str(run)) and scales_to_areas(str(run / "export" / "model"))
    config = RunConfig(name="gemma", model=ModelConfig(path=str(tmp_path)))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(to_json(config))
    assert not scales_to_areas(str(tmp_path / "run"))
    with pytest.raises(ValueError, match="no such folder"):
        scales_to_areas(str(tmp_path / "nothing"))
