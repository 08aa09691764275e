"""The export command on runs: what it writes opens in torch and says what the policy says."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shlex
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import peft
import pytest
import torch
import transformers
from flax import nnx
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from experiments import export
from experiments.build import build
from experiments.config import ModelConfig, from_json, to_json
from experiments.presets import PRESETS
from experiments.restore import initial_params, policy_params, saved_part
from experiments.run import parse
from tests.runs import damage
from vldac import train
from vldac.checkpoint import Checkpointer
from vldac.metrics import read_metrics, read_summary
from vldac.models import Inputs, ValueHead
from vldac.models.export import load_value_head
from vldac.models.lora import LoRAConfig
from vldac.text.prompt import task_text

WORLD = "miniworld/one_room_s6_fast"


@pytest.fixture(scope="module")
def full(whole, tmp_path_factory):
    """A real run of the nano model, exported."""
    folder = shutil.copytree(whole[0], tmp_path_factory.mktemp("runs") / "full")
    assert export.main([str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def adapted(full, tmp_path_factory):
    """A run with LoRA on the model of that export: stopped at its start, its adapter is whatever it may be."""
    base = Path(shutil.copytree(full / "export" / "model", tmp_path_factory.mktemp("base") / "some-base"))
    (base / "README.md").write_text("---\nlicense: other\nlicense_name: free\nlicense_link: LICENSE\n---\nA base.")
    config = from_json((full / "config.json").read_text())
    model = ModelConfig(path=str(base), lora=LoRAConfig(rank=2, alpha=3.0))
    run_dir = tmp_path_factory.mktemp("runs") / "adapted"
    run_dir.mkdir()
    config = dataclasses.replace(config, name="adapted", model=model)
    (run_dir / "config.json").write_text(to_json(config))
    parts = build(config)
    params = initial_params(parts)
    leaves, structure = jax.tree.flatten(params["adapter"])
    keys = jax.random.split(jax.random.key(1), len(leaves))
    leaves = [0.1 * jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)]
    params["adapter"] = jax.tree.unflatten(structure, leaves)
    state = train.init(parts.setup, params, jax.random.key(2))
    with Checkpointer(run_dir / "checkpoints") as checkpoints:
        checkpoints.save(0, saved_part(state), {"seconds": {}}, blocking=True)
    assert export.main([str(run_dir), "--to", str(run_dir / "out")]) == 0
    return run_dir


@pytest.fixture(scope="module")
def frame():
    return np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)


def parts_of(run_dir):
    return build(from_json((run_dir / "config.json").read_text()))


def prompt_ids(policy):
    slots = policy.prompt.context(jnp.int32(1), jnp.zeros(0, jnp.int32))
    return np.concatenate([policy.prompt.prefix, slots.tokens]), slots.positions


def our_logits(policy, params, frame):
    """float32[n, V], of the prompt with the frame."""
    graphdef = policy.adapted if "adapter" in params else policy.model
    states = [params[name] for name in ("model", "adapter") if name in params]
    ids, positions = prompt_ids(policy)
    begin = len(policy.prompt.prefix)
    positions = np.concatenate([np.broadcast_to(np.arange(begin), (3, begin)), positions], axis=1)

    @jax.jit
    def forward(states, ids, positions, frame):
        model = nnx.merge(graphdef, *states)
        inputs = Inputs(model.embed(ids)[None], positions[None], jnp.ones((1, len(ids)), bool))
        slots = begin + policy.prompt.image_slots
        inputs = inputs.place(model.encode_images(frame[None]), slots, policy.prompt.image_numbers)
        return model.logits(model.forward(inputs)[0])[0]

    return np.asarray(forward(states, jnp.asarray(ids), jnp.asarray(positions, jnp.int32), jnp.asarray(frame)))


def their_logits(model, folder, policy, frame):
    ids = torch.tensor(prompt_ids(policy)[0][None], dtype=torch.long)
    processor = Qwen2VLImageProcessorPil.from_pretrained(folder)
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": (ids == policy.prompt.span.token_id).int(),
        **processor([frame], return_tensors="pt"),
    }
    with torch.no_grad():
        return model.eval()(**inputs).logits[0].float().numpy()


def load_torch(folder):
    model, info = transformers.AutoModelForImageTextToText.from_pretrained(folder, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    return model


def test_transformers_says_what_a_fresh_model_says(full, frame):
    parts, folder = parts_of(full), full / "export" / "model"
    policy, params = parts.policies[WORLD], policy_params(parts, full).params
    theirs = their_logits(load_torch(folder), folder, policy, frame)
    np.testing.assert_allclose(our_logits(policy, params, frame), theirs, atol=1e-4, rtol=0)


def test_tokenizer_and_template_in_the_export_write_the_policys_prompt(full):
    parts, folder = parts_of(full), full / "export" / "model"
    policy, world = parts.policies[WORLD], parts.worlds[WORLD]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    task = {"type": "text", "text": task_text(world.instruction, world.actions)}
    messages = [{"role": "user", "content": [task, {"type": "image"}]}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    visual = tokenizer.decode([policy.prompt.span.token_id])
    ids = tokenizer(text.replace(visual, visual * policy.prompt.span.tokens)).input_ids
    np.testing.assert_array_equal(ids, prompt_ids(policy)[0])
    assert f"```text\n{text}\n```" in (full / "export" / "README.md").read_text()
    generation = transformers.GenerationConfig.from_pretrained(folder)
    assert generation.eos_token_id == policy.vocabulary.eos_id


def test_the_critic_goes_with_it(full):
    parts = parts_of(full)
    saved, loaded = policy_params(parts, full).params["value"], load_value_head(full / "export")
    jax.tree.map(np.testing.assert_array_equal, saved, loaded)
    head = ValueHead(parts.model_config.hidden_size, parts.config.model.value_head, rngs=nnx.Rngs(0))
    assert jax.tree.structure(nnx.state(head)) == jax.tree.structure(loaded)


def test_peft_and_transformers_say_what_a_policy_with_an_adapter_says(adapted, frame):
    parts, out = parts_of(adapted), adapted / "out"
    policy, params = parts.policies[WORLD], policy_params(parts, adapted).params
    ours = our_logits(policy, params, frame)
    assert sorted(path.name for path in out.iterdir()) == [
        "README.md",
        "adapter",
        "config.json",
        "model",
        "value_head.json",
        "value_head.safetensors",
    ]
    merged = their_logits(load_torch(out / "model"), out / "model", policy, frame)
    np.testing.assert_allclose(ours, merged, atol=1e-4, rtol=0)
    base = json.loads((out / "adapter" / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert base == parts.config.model.path
    model = peft.PeftModel.from_pretrained(load_torch(base), out / "adapter")
    np.testing.assert_allclose(ours, their_logits(model, base, policy, frame), atol=1e-4, rtol=0)
    with model.disable_adapter():
        plain = their_logits(model, base, policy, frame)
    assert np.abs(ours - plain).mean() > 0.05
    reference = our_logits(policy, {name: params[name] for name in ("model", "value")}, frame)
    np.testing.assert_allclose(reference, plain, atol=1e-4, rtol=0)


def test_the_card_holds_the_runs_numbers_and_no_others(full):
    card, summary = (full / "export" / "README.md").read_text(), read_summary(full)
    front, body = re.fullmatch(r"---\n(.*?)\n---\n(.*)", card, re.DOTALL).groups()
    assert "library_name: transformers" in front and "pipeline_tag: image-text-to-text" in front
    assert "base_model" not in front and "license" not in front
    for world, policies in summary["success_rate"].items():
        for rate, low, high in policies.values():
            assert f"{100 * rate:.0f} % [{100 * low:.0f}, {100 * high:.0f}]" in body, world
    for fact in (WORLD, "arxiv.org/abs/2508.04280", "Environment steps: ", summary["versions"]["jax"], "in full"):
        assert fact in body
    assert "Measured" not in body and str(full) not in card


def test_the_card_is_about_the_checkpoint_that_is_exported(full, tmp_path, capsys):
    """The newest of six iterations is damaged: what was measured and counted after them is not the fourth's."""
    run = shutil.copytree(full, tmp_path / "run", ignore=shutil.ignore_patterns("export"))
    newest = damage(run)
    assert export.main([str(run), "--to", str(tmp_path / "out")]) == 0
    assert f"warning: {newest}: " in (told := capsys.readouterr().err) and "passed over" in told
    learnt = policy_params(parts_of(run), run)
    assert learnt.iteration == 4
    jax.tree.map(np.testing.assert_array_equal, learnt.params["value"], load_value_head(tmp_path / "out"))
    card = (tmp_path / "out" / "README.md").read_text()
    assert "- Iterations: 4 (stopped before its end)\n" in card
    assert f"- Environment steps: {read_metrics(run)[3]['env_steps']:,}\n" in card
    assert "it has not been measured after it" in card and "| model before RL |" in card
    assert "| model after RL |" not in card
    whole = (full / "export" / "README.md").read_text()
    assert "- Iterations: 6\n" in whole and "| model after RL |" in whole


def test_the_card_of_a_run_without_numbers_has_none(adapted):
    card = (adapted / "out" / "README.md").read_text()
    assert "The run has not been evaluated." in card and "- Iterations: 0 (stopped before its end)\n" in card
    assert "- Environment steps: 0\n" in card and "- Time: " not in card
    assert "some-base, trained with LoRA (rank 2, alpha 3, on q_proj, " in card
    assert "library_name: peft" in card and "- lora" in card and "base_model" not in card  # a folder is no id
    for line in ("license: other", "license_name: free", "That of the base model: free (LICENSE)."):
        assert line in card
    assert "%" not in card.split("## How well it does")[1].split("##")[0]


@pytest.mark.parametrize("preset", ["nano", "number_line"])
def test_the_cards_command_trains_on_in_the_runs_own_world(full, tmp_path, monkeypatch, preset):
    config = dataclasses.replace(PRESETS[preset](), name="a run")
    (tmp_path / "config.json").write_text(to_json(config))
    shutil.copytree(full / "export" / "model", tmp_path / "model")
    card = export.model_card(build(config), {}, {"model/": "the whole model"})
    (command,) = re.findall(r"train on from here: `python -m experiments.run (.*?)`", card)
    monkeypatch.chdir(tmp_path)
    on = build(parse(shlex.split(command)).config)
    assert on.config.world == config.world and on.checkpoint == Path("model")
    assert on.config.rollout == config.rollout and on.config.imitation.steps == 0


def test_a_hub_id_is_the_cards_base_model(adapted):
    from experiments.model_card import front_matter

    parts = parts_of(adapted)
    config = dataclasses.replace(parts.config, model=dataclasses.replace(parts.config.model, path="Some/Model-2B"))
    assert front_matter(dataclasses.replace(parts, config=config)).to_dict()["base_model"] == "Some/Model-2B"


def test_options(full, tmp_path):
    arguments = [str(full), "--to", str(tmp_path / "out"), "--dtype", "bfloat16", "--shard-gigabytes", "0.001"]
    assert export.main(arguments) == 0
    folder = tmp_path / "out" / "model"
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    assert load_torch(folder).dtype == torch.bfloat16


def refused(capsys, code: int, *arguments) -> str:
    capsys.readouterr()
    assert export.main([str(argument) for argument in arguments]) == code
    told = capsys.readouterr().err
    assert told.startswith("error: ") and told.count("\n") == 1
    return told


def test_what_can_not_be_exported_is_told_and_nothing_written(full, tmp_path, capsys):
    before = sorted(full.rglob("*"))
    assert "exists already; accepted: " in refused(capsys, 2, full)
    assert "accepted: leave it out" in refused(capsys, 2, full, "--no-merged", "--to", tmp_path / "x")
    assert "shard_gigabytes is 0" in refused(capsys, 2, full, "--shard-gigabytes", "0", "--to", tmp_path / "x")
    assert "can not be read: No such file" in refused(capsys, 2, tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    told = refused(capsys, 1, full, "--to", tmp_path / "file" / "x")
    assert f"cannot export to {tmp_path}/file/x: Not a directory" in told
    started = tmp_path / "started"
    started.mkdir()
    shutil.copy(full / "config.json", started)
    assert "checkpoints: there is no checkpoint yet" in refused(capsys, 1, started)
    assert [path.name for path in started.iterdir()] == ["config.json"]
    assert sorted(full.rglob("*")) == before and not (tmp_path / "x").exists()


def test_a_full_disk_is_told(full, tmp_path, capsys, monkeypatch):
    usage = type("Usage", (), {"free": 10_000})
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    told = refused(capsys, 1, full, "--to", tmp_path / "x")
    assert f"cannot export to {tmp_path / 'x'}: {os.strerror(28)} (" in told
    assert list(tmp_path.iterdir()) == []
