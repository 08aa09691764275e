"""Runs that begin from a checkpoint of transformers: an adapter is trained, saved, gone on with, and refused when
something about the checkpoint, the adapter or the memory is wrong."""

from __future__ import annotations

import json
import shlex
import shutil

import jax
import numpy as np
import pytest
import torch
import transformers

from experiments.build import build
from experiments.config import read_config
from experiments.export import main as export
from experiments.restore import policy_params
from experiments.run import main
from vldac.metrics import read_metrics, read_summary
from vldac.text.tokenizer import BPE_TOKENIZER, load_tokenizer, special_id

SETTINGS = shlex.split(
    "--world cards/number_line --evaluation.unseen --evaluation.episodes 0 --imitation.steps 0 "
    "--policy.decoding grammar --policy.history 2 "
    "--policy.max-tokens 32 --rollout.worlds 8 --rollout.steps 2 --optimizer.minibatch 8 --optimizer.microbatch 4 "
    "--optimizer.learning-rate 1e-2 --algorithm.critic-warmup 0 --model.value-head 8 "
    "--model.lora.rank 2 --model.lora.target-modules q_proj down_proj --checkpoint.every 1"
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A tiny Qwen3-VL as transformers saves it, in bfloat16, with the worlds' tokenizer."""
    folder = tmp_path_factory.mktemp("checkpoint")
    tokenizer = load_tokenizer(BPE_TOKENIZER)
    ids = {
        f"{name}_token_id": special_id(tokenizer, f"<|{token}|>")
        for name, token in (
            ("image", "image_pad"),
            ("video", "video_pad"),
            ("vision_start", "vision_start"),
            ("vision_end", "vision_end"),
        )
    }
    config = transformers.Qwen3VLConfig(
        text_config={
            "vocab_size": 1088,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "rms_norm_eps": 1e-6,
            "initializer_range": 0.2,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 5_000.0,
                "mrope_section": [4, 2, 2],
                "mrope_interleaved": True,
            },
        },
        vision_config={
            "depth": 3,
            "hidden_size": 16,
            "intermediate_size": 32,
            "out_hidden_size": 32,
            "num_heads": 2,
            "patch_size": 16,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "num_position_embeddings": 16,
            "deepstack_visual_indexes": [0, 1],
        },
        tie_word_embeddings=True,
        **ids,
    )
    torch.manual_seed(0)
    model = transformers.Qwen3VLForConditionalGeneration(config).to(torch.bfloat16)
    model.save_pretrained(folder, max_shard_size="40KB")
    for file in BPE_TOKENIZER.iterdir():
        shutil.copy(file, folder)
    preprocessor = {
        "patch_size": 16,
        "merge_size": 2,
        "temporal_patch_size": 2,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "size": {"shortest_edge": 32 * 32, "longest_edge": 64 * 96},
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    assert (folder / "model.safetensors.index.json").is_file()
    return folder


@pytest.fixture(scope="module")
def run_dir(checkpoint, tmp_path_factory):
    """A run of two iterations."""
    folder = tmp_path_factory.mktemp("runs")
    arguments = ["--model.path", str(checkpoint), "--folder", str(folder), "--name", "lora", *SETTINGS]
    assert main([*arguments, "--iterations", "2"]) == 0
    return folder / "lora"


def test_the_run_trains_an_adapter_on_the_checkpoint(run_dir, checkpoint):
    records = read_metrics(run_dir)
    assert [record["iteration"] for record in records] == [1, 2]
    assert all(record["train/logprob_mismatch"] < 1e-4 for record in records), "before and after an update"
    assert all(record["train/kl_reference"] > 1e-3 for record in records), "it has left the reference"
    summary = read_summary(run_dir)
    assert "LoRA of rank 2" in summary["model"] and str(checkpoint) in summary["model"]
    assert summary["device_memory_bytes"]["estimated"] > 0


def test_its_checkpoints_hold_no_weights_of_the_model(run_dir, checkpoint):
    parts = build(read_config(run_dir / "config.json"))
    params = policy_params(parts, run_dir).params
    base = torch_state(checkpoint)
    name = "model.language_model.embed_tokens.weight"
    np.testing.assert_array_equal(params["model"]["language_model"]["embed_tokens"]["weight"][...], base[name])
    assert np.abs(jax.tree.leaves(params["adapter"])[1]).max() > 0
    newest = max((run_dir / "checkpoints").iterdir())
    leaves = json.loads((newest / "meta.json").read_text())["leaves"]
    assert leaves and not [leaf for leaf in leaves if "embed_tokens" in leaf or "frozen" in leaf]


def torch_state(checkpoint):
    model = transformers.AutoModelForImageTextToText.from_pretrained(checkpoint, dtype=torch.float32)
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


def test_going_on_gives_what_was_never_stopped(run_dir, checkpoint, tmp_path):
    """Iteration 2 again, from the checkpoint after iteration 1."""
    before = read_metrics(run_dir)
    again = tmp_path / "again"
    shutil.copytree(run_dir, again)
    shutil.rmtree(max((again / "checkpoints").iterdir()))
    assert main(["--resume", str(again)]) == 0
    timed = ("seconds", "per_second")
    for old, new in zip(before, read_metrics(again), strict=True):
        assert {k: v for k, v in old.items() if not k.endswith(timed)} == {
            k: v for k, v in new.items() if not k.endswith(timed)
        }


def test_an_export_of_it_loads_in_peft_and_transformers(run_dir, checkpoint, tmp_path):
    import peft

    assert export([str(run_dir), "--to", str(tmp_path / "out")]) == 0
    parts = build(read_config(run_dir / "config.json"))
    base = transformers.AutoModelForImageTextToText.from_pretrained(checkpoint, dtype=torch.float32)
    ids = torch.tensor([parts.setup.policy.prompt.prefix.tolist()])
    with torch.no_grad():
        plain = base(input_ids=ids).logits
        adapted = peft.PeftModel.from_pretrained(base, tmp_path / "out" / "adapter")(input_ids=ids).logits
        merged = transformers.AutoModelForImageTextToText.from_pretrained(
            tmp_path / "out" / "model", dtype=torch.float32
        )(input_ids=ids).logits
    assert (adapted - plain).abs().max() > 1e-3
    torch.testing.assert_close(merged, adapted, atol=0.05, rtol=0)  # merged weights are kept in bfloat16


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model.path", "no/such/folder"], "no/such/folder"),
        (["--model.lora.target-modules", "wq"], "target_modules names wq; accepted: down_proj"),
        (["--model.lora.rank", "-1"], "rank is -1"),
        (["--rollout.worlds", "400000000"], r"GiB by estimate, and there are .* what helps: .*rollout.worlds"),
    ],
)
def test_what_can_not_run_is_told_in_one_line_before_anything_is_written(
    arguments, message, checkpoint, tmp_path, capsys
):
    import re

    path = [] if "--model.path" in arguments else ["--model.path", str(checkpoint)]
    try:
        code = main([*SETTINGS, "--folder", str(tmp_path / "runs"), *path, *arguments])
    except SystemExit as stop:  # a flag that is wrong by itself
        code = stop.code
    error = capsys.readouterr().err
    assert code == 2 and re.search(message, " ".join(error.split())), error
    assert "Traceback" not in error and not (tmp_path / "runs").exists()


def test_a_damaged_checkpoint_is_told_before_anything_is_written(checkpoint, tmp_path, capsys):
    broken = tmp_path / "broken"
    shutil.copytree(checkpoint, broken)
    victim = sorted(broken.glob("*.safetensors"))[0]
    victim.write_bytes(victim.read_bytes()[:100])
    code = main([*SETTINGS, "--folder", str(tmp_path / "runs"), "--model.path", str(broken)])
    error = capsys.readouterr().err
    assert code == 2 and victim.name in error and len(error.strip().splitlines()) == 1
    assert not (tmp_path / "runs").exists()
