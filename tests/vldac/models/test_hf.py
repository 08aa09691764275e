"""Tensors to and from Hugging Face names."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vldac.models import Qwen2VL, create, hf


@pytest.fixture
def tensors(pair):
    return hf.to_hf(pair.kind, pair.params)


def published(pair, name: str) -> str:
    """The name in the files on the hub."""
    prefixes = (*pair.tiny.published, ("", ""))
    ours, theirs = next(prefix for prefix in prefixes if name.startswith(prefix[0]))
    return theirs + name.removeprefix(ours)


def assert_equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_names_and_shapes_are_those_of_transformers(pair, tensors):
    theirs = {name: tuple(x.shape) for name, x in pair.torch.state_dict().items()}
    if pair.config.text.tie_word_embeddings:
        theirs.pop("lm_head.weight")  # the embedding's own tensor
    assert {name: x.shape for name, x in tensors.items()} == theirs
    for name, tensor in pair.torch.state_dict().items():
        if name in tensors:
            np.testing.assert_array_equal(tensors[name], tensor)


def test_there_and_back(pair, tensors):
    assert_equal(hf.from_hf(pair.config, tensors), pair.params)


def test_published_names_load(pair, tensors):
    renamed = {published(pair, name): tensor for name, tensor in tensors.items()}
    if pair.tiny.published:
        assert not set(renamed) & set(tensors) - {"lm_head.weight"}
    assert_equal(hf.from_hf(pair.config, renamed), pair.params)


def test_files_written_by_transformers_load(pair, tmp_path):
    import safetensors.numpy

    pair.torch.save_pretrained(tmp_path)
    tensors = safetensors.numpy.load_file(tmp_path / "model.safetensors")
    assert_equal(hf.from_hf(pair.config, tensors), pair.params)


def test_a_tied_checkpoint_may_bring_its_copy_of_the_embedding(tied):
    tensors = hf.to_hf(Qwen2VL, tied.params)
    tensors["lm_head.weight"] = tensors["model.language_model.embed_tokens.weight"]
    assert_equal(hf.from_hf(tied.config, tensors), tied.params)


def test_parameters_take_the_asked_dtype(tied):
    tensors = hf.to_hf(Qwen2VL, tied.params)
    params = hf.from_hf(tied.config, tensors, param_dtype=jnp.bfloat16)
    assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype(jnp.bfloat16)}
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b.astype(jnp.bfloat16)), params, tied.params)
    halves = {name: x.astype(jnp.bfloat16) for name, x in tensors.items()}  # as published files are
    assert_equal(hf.from_hf(tied.config, halves, param_dtype=jnp.bfloat16), params)


def test_loaded_parameters_have_the_structure_of_drawn_ones(pair):
    drawn = nnx.state(nnx.eval_shape(lambda: create(pair.config, rngs=nnx.Rngs(0))))
    assert jax.tree.structure(drawn) == jax.tree.structure(pair.params)
    shapes = (jax.tree.map(lambda x: (x.shape, x.dtype), params) for params in (drawn, pair.params))
    assert next(shapes) == next(shapes)


def test_missing_unknown_and_misshapen_tensors_are_named_together(pair, tensors):
    del tensors["model.language_model.layers.1.mlp.up_proj.weight"]
    tensors["model.language_model.layers.7.mlp.up_proj.weight"] = np.zeros(32, np.float32)
    tensors["model.language_model.norm.weight"] = np.zeros(47, np.float32)
    twin = published(pair, "model.language_model.norm.weight")
    if twin == "model.language_model.norm.weight":
        pytest.skip("published under one name only")
    tensors[twin] = np.zeros(48, np.float32)
    with pytest.raises(ValueError) as error:
        hf.from_hf(pair.config, tensors)
    for part in (
        "1 missing: model.language_model.layers.1.mlp.up_proj.weight",
        "1 unknown: model.language_model.layers.7.mlp.up_proj.weight",
        f"1 given twice: model.language_model.norm.weight = {twin}",
        "1 of another shape: model.language_model.norm.weight (47,), accepted: (48,)",
    ):
        assert part in str(error.value)


def test_a_long_list_of_missing_tensors_is_cut(pair):
    with pytest.raises(ValueError, match=r"\d\d missing: .*; and \d\d more"):
        hf.from_hf(pair.config, {})


def test_an_untied_config_wants_its_unembedding(tied):
    text = dataclasses.replace(tied.config.text, tie_word_embeddings=False)
    with pytest.raises(ValueError, match=r"1 missing: lm_head\.weight"):
        hf.from_hf(dataclasses.replace(tied.config, text=text), hf.to_hf(Qwen2VL, tied.params))
