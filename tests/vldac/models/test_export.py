"""Exports as others load them: the adapter by peft, the merged checkpoint by transformers, both in torch."""

from __future__ import annotations

import copy
import dataclasses
import errno
import functools
import json
import re
import shutil
import warnings
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import peft
import pytest
import safetensors.numpy
import torch
import transformers
from flax import nnx

from vldac.models import (
    SIZES,
    Qwen2VLConfig,
    ValueHead,
    create,
    export,
    hf,
    hf_config,
    lora,
    safetensors_file,
    weights,
)

LORA = lora.LoRAConfig(rank=3, alpha=5.0, target_modules=("q_proj", "v_proj", "gate_proj", "down_proj"))


@functools.cache
def adapted(pair, config=LORA):
    """(the pair with an adapter that changes something, the adapter)."""
    model = create(pair.config, rngs=nnx.Rngs(0))
    nnx.update(model, pair.params)
    lora.attach(model, config, nnx.Rngs(1))
    graphdef, adapter, _ = lora.split(model)
    keys = iter(jax.random.split(jax.random.key(2), len(jax.tree.leaves(adapter))))
    adapter = jax.tree.map(lambda x: 0.3 * jax.random.normal(next(keys), x.shape), adapter)
    return pair.replace(graphdef=graphdef, params=nnx.merge_state(adapter, pair.params)), adapter


@functools.partial(jax.jit, static_argnums=0)
def forward(graphdef, params, inputs):
    model = nnx.merge(graphdef, params)
    return model.logits(model.forward(inputs)[0])[0]


def logits(pair, parts):
    return np.asarray(forward(pair.graphdef, pair.params, jax.tree.map(jnp.asarray, pair.inputs(parts))))


@pytest.fixture(scope="module")
def parts():
    """A prompt with two images."""
    rng = np.random.default_rng(3)
    image = rng.integers(0, 256, (2, 24, 16, 3), np.uint8)
    return [rng.integers(0, 90, 3), image[0], rng.integers(0, 90, 2), image[1], rng.integers(0, 90, 4)]


@functools.cache
def base_folder(pair, parent):
    """The family's checkpoint as it lies on the hub, with a few files beside the weights."""
    folder = parent / "base"
    pair.torch.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(pair.tiny.preprocessor))
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    (folder / "README.md").write_text("the base's own card")
    (folder / "modeling_own.py").write_text("raise SystemExit")
    return folder


@pytest.fixture(scope="module")
def base(family, tmp_path_factory):
    return base_folder(family, tmp_path_factory.mktemp("base"))


def load_torch(folder):
    """The checkpoint in torch, every tensor of it, and no other."""
    model, info = transformers.AutoModelForImageTextToText.from_pretrained(folder, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    return model.eval()


def load_peft(model, folder):
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Found missing adapter keys")  # peft only warns
        return peft.PeftModel.from_pretrained(copy.deepcopy(model), folder).eval()


def test_peft_loads_the_adapter_to_our_logits(family, parts, tmp_path):
    ours, adapter = adapted(family)
    export.save_adapter(tmp_path / "adapter", family.config, adapter, LORA, base="some/model")
    theirs = load_peft(family.torch, tmp_path / "adapter")
    expected = logits(ours, parts)
    np.testing.assert_allclose(expected, family.replace(torch=theirs).torch_logits(parts), atol=1e-4, rtol=0)
    plain = family.torch_logits(parts)
    assert np.abs(expected - plain).mean() > 0.05
    with theirs.disable_adapter():
        np.testing.assert_array_equal(family.replace(torch=theirs).torch_logits(parts), plain)


def test_peft_adapts_exactly_our_layers(family, tmp_path):
    """The towers of Qwen2.5-VL and Gemma 3 have a gate_proj, or a q_proj, of their own."""
    _, adapter = adapted(family)
    export.save_adapter(tmp_path / "adapter", family.config, adapter, LORA, base="some/model")
    config = peft.PeftConfig.from_pretrained(tmp_path / "adapter")
    assert (config.r, config.lora_alpha, config.base_model_name_or_path) == (3, 5, "some/model")
    linear = [name for name, x in family.torch.named_modules() if isinstance(x, torch.nn.Linear)]
    found = [name for name in linear if re.fullmatch(config.target_modules, name)]
    layers = family.config.text.num_hidden_layers
    assert len(found) == layers * len(LORA.target_modules)
    assert all(name.startswith("model.language_model.layers.") for name in found)
    tensors = safetensors.numpy.load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert set(tensors) == {f"base_model.model.{name}.lora_{x}.weight" for name in found for x in "AB"}


def test_an_adapter_in_the_vision_tower_too(tied, parts, tmp_path):
    config = lora.LoRAConfig(rank=2, target_modules=("o_proj", "qkv", "fc2", "0"), vision=True)
    ours, adapter = adapted(tied, config)
    expected = logits(ours, parts)
    export.save_adapter(tmp_path / "adapter", tied.config, adapter, config, base="some/model")
    theirs = load_peft(tied.torch, tmp_path / "adapter")
    np.testing.assert_allclose(expected, tied.replace(torch=theirs).torch_logits(parts), atol=2e-4, rtol=0)
    options = {"adapter": adapter, "scale": config.scale, "dtype": jnp.float32}
    base = base_folder(tied, tmp_path)
    export.save_model(tmp_path / "model", tied.config, tied.params, base=base, **options)
    theirs = load_torch(tmp_path / "model")
    np.testing.assert_allclose(expected, tied.replace(torch=theirs).torch_logits(parts), atol=2e-4, rtol=0)


def test_transformers_loads_the_merged_model_to_our_logits(family, base, parts, tmp_path):
    ours, adapter = adapted(family)
    expected = logits(ours, parts)
    save = functools.partial(
        export.save_model, config=family.config, params=family.params, adapter=adapter, scale=LORA.scale, base=base
    )
    save(tmp_path / "float32", dtype=jnp.float32)
    theirs = load_torch(tmp_path / "float32")
    assert theirs.dtype == torch.float32
    np.testing.assert_allclose(expected, family.replace(torch=theirs).torch_logits(parts), atol=1e-4, rtol=0)

    # Every weight is the nearest bfloat16 to the sum: off by 2^-9 of itself at most.
    save(tmp_path / "bfloat16", dtype=jnp.bfloat16)
    full, half = (
        weights.load_params(tmp_path / name, weights.read_config(tmp_path / name))
        for name in ("float32", "bfloat16")
    )
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a.astype(jnp.bfloat16), b), full, half)
    theirs = load_torch(tmp_path / "bfloat16")
    assert theirs.dtype == torch.bfloat16
    off = family.replace(torch=theirs.float()).torch_logits(parts) - expected
    assert np.abs(off).mean() < 0.04 * expected.std() and np.abs(off).max() < 0.4 * expected.std()


def test_what_belongs_to_the_base_comes_with_the_model(family, base, tmp_path):
    export.save_model(tmp_path / "model", family.config, family.params, base=base, dtype=jnp.bfloat16)
    ours, theirs = ({path.name for path in folder.iterdir()} for folder in (tmp_path / "model", base))
    assert ours == theirs - {"README.md", "modeling_own.py"}
    for name in ("preprocessor_config.json", "chat_template.jinja", "generation_config.json"):
        assert (tmp_path / "model" / name).read_bytes() == (base / name).read_bytes()
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config == json.loads((base / "config.json").read_text().replace('"float32"', '"bfloat16"'))
    names = [set(safetensors.numpy.load_file(x / "model.safetensors")) for x in (tmp_path / "model", base)]
    # transformers itself writes Gemma 3's tower without a part of the name that the published files have
    assert {name.replace("vision_tower.vision_model.", "vision_tower.") for name in names[0]} == names[1]


def test_names_in_files_are_read_as_they_are_written(pair):
    names = [
        name
        for path, variable in nnx.to_flat_state(pair.params)
        for name in hf.tensor_names(pair.kind, path, variable)
    ]
    published = [hf.published_name(pair.kind, name) for name in names]
    assert len(set(published)) == len(names)
    assert [hf.canonical_name(pair.kind, name) for name in published] == names


def test_a_large_model_is_written_in_files_of_the_asked_size(untied, parts, tmp_path):
    base = base_folder(untied, tmp_path)
    options = {"base": base, "dtype": jnp.float32, "shard_bytes": 70_000}
    export.save_model(tmp_path / "model", untied.config, untied.params, **options)
    index = json.loads((tmp_path / "model" / "model.safetensors.index.json").read_text())
    files = sorted(path.name for path in (tmp_path / "model").glob("*.safetensors"))
    assert files == [f"model-{n:05d}-of-{len(files):05d}.safetensors" for n in range(1, len(files) + 1)]
    assert len(files) > 3 and set(index["weight_map"].values()) == set(files)
    sizes = [
        sum(x.nbytes for x in safetensors.numpy.load_file(tmp_path / "model" / name).values()) for name in files
    ]
    assert max(sizes) <= 70_000 and sum(sizes) == index["metadata"]["total_size"]
    theirs = load_torch(tmp_path / "model")
    np.testing.assert_array_equal(untied.replace(torch=theirs).torch_logits(parts), untied.torch_logits(parts))


def test_one_tensor_at_a_time_is_held(tied, tmp_path):
    made, most = [], []

    def watched(make):
        value = make()
        made.append(weakref.ref(value))
        most.append(sum(reference() is not None for reference in made))
        return value

    _, adapter = adapted(tied)
    tensors = export.model_tensors(tied.config, tied.params, adapter, LORA.scale, jnp.dtype(jnp.float32))
    tensors = [dataclasses.replace(x, make=functools.partial(watched, x.make)) for x in tensors]
    safetensors_file.write_safetensors(tmp_path / "x.safetensors", tensors)
    assert len(most) == len(tensors) and max(most) <= 2  # the last one is let go when the next is there
    assert set(safetensors.numpy.load_file(tmp_path / "x.safetensors")) == {x.name for x in tensors}


@pytest.mark.parametrize("size", list(SIZES))
def test_configurations_of_our_own_are_read_back_as_they_were(size, tmp_path):
    ids = {"image_token_id": 5, "vision_start_token_id": 6, "vision_end_token_id": 7, "video_token_id": 8}
    config = SIZES[size](300, **ids)
    for name, content in zip(
        ("config.json", "preprocessor_config.json"), hf_config.hf_configs(config), strict=True
    ):
        (tmp_path / name).write_text(json.dumps(content))
    assert weights.read_config(tmp_path) == config
    theirs = transformers.AutoConfig.from_pretrained(tmp_path)
    assert weights.config_from_hf(theirs, hf_config.hf_configs(config)[1]) == config


def test_a_model_without_a_base_loads_in_transformers(tied, parts, tmp_path):
    export.save_model(tmp_path / "model", tied.config, tied.params, dtype=jnp.float32)
    theirs = load_torch(tmp_path / "model")
    processor = tied.tiny.processor.from_pretrained(tmp_path / "model")
    images = [part for part in parts if part.ndim == 3]
    expected = tied.tiny.processor(**tied.tiny.preprocessor)(images, return_tensors="pt")
    torch.testing.assert_close(processor(images, return_tensors="pt")["pixel_values"], expected["pixel_values"])
    ours = tied.replace(torch=theirs).torch_logits(parts)
    np.testing.assert_allclose(ours, tied.torch_logits(parts), atol=1e-5, rtol=0)


def test_a_family_without_a_configuration_of_our_own_wants_its_base(family, tmp_path):
    if type(family.config) is Qwen2VLConfig:
        pytest.skip("it has one")
    with pytest.raises(ValueError, match="accepted: a Qwen2VLConfig"):
        export.save_model(tmp_path / "model", family.config, family.params)
    assert not (tmp_path / "model").exists()


def test_the_value_head_is_a_torch_mlp(tmp_path, rng):
    for sizes in ((), (5,), (7, 3)):
        head = ValueHead(6, sizes, rngs=nnx.Rngs(0))
        head.out.kernel[...] = jnp.asarray(rng.normal(size=head.out.kernel.shape), jnp.float32)
        head.out.bias[...] = jnp.asarray([0.7])
        params = nnx.state(head)
        folder = tmp_path / str(len(sizes))
        folder.mkdir()
        export.save_value_head(folder, params)
        config = json.loads((folder / "value_head.json").read_text())
        assert config["in_features"] == 6 and config["hidden_sizes"] == list(sizes)
        tensors = {
            name: torch.tensor(x)
            for name, x in safetensors.numpy.load_file(folder / "value_head.safetensors").items()
        }
        hidden = rng.normal(size=(4, 6)).astype(np.float32)
        x = torch.tensor(hidden)
        for layer in config["layers"]:
            x = torch.nn.functional.linear(x, tensors[f"{layer}.weight"], tensors[f"{layer}.bias"])
            x = x if layer == config["layers"][-1] else torch.relu(x)
        np.testing.assert_allclose(head(jnp.asarray(hidden)), x[:, 0], atol=1e-5)
        back = export.load_value_head(folder)
        jax.tree.map(np.testing.assert_array_equal, back, params)
        assert jax.tree.structure(back) == jax.tree.structure(params)


def test_a_pattern_names_exactly_its_modules():
    pattern = export.module_pattern(["a.layers.0.x.q", "a.layers.1.x.q", "a.layers.0.x.v", "b.mlp.0"])
    assert pattern == r"a\.layers\.\d+\.x\.(q|v)|b\.mlp\.(0)"
    for name in ("a.layers.12.x.q", "b.mlp.0"):
        assert re.fullmatch(pattern, name)
    for name in ("a.layers.1.x.k", "aXlayers.1.x.q", "c.a.layers.1.x.q", "b.mlp.00", "a.layers.x.x.q"):
        assert not re.fullmatch(pattern, name)


def test_too_little_room_is_noticed_before_anything_is_written(tied, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    _, adapter = adapted(tied)
    for save in (
        lambda: export.save_model(tmp_path / "x", tied.config, tied.params),
        lambda: export.save_adapter(tmp_path / "x", tied.config, adapter, LORA, base=""),
    ):
        with pytest.raises(OSError, match=r"[GM]B are needed") as error:
            save()
        assert error.value.errno == errno.ENOSPC and not (tmp_path / "x").exists()


def test_a_type_that_weights_are_not_kept_in_is_refused(tied, tmp_path):
    with pytest.raises(ValueError, match="dtype is int8; accepted: float32, bfloat16, float16"):
        export.save_model(tmp_path / "x", tied.config, tied.params, dtype=jnp.int8)
