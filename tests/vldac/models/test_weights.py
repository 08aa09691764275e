"""Checkpoints from files: what is read, what is refused, where it goes and how much memory that takes."""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import huggingface_hub
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx
from jax.sharding import SingleDeviceSharding

from vldac.models import ImageConfig, config_from_hf, hf, weights

ROOT = Path(__file__).parents[3]
INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="module")
def saved(untied, preprocessor, tmp_path_factory):
    """A checkpoint of several files as transformers writes it."""
    folder = tmp_path_factory.mktemp("saved")
    untied.torch.save_pretrained(folder, max_shard_size="80KB")
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    return folder


@pytest.fixture
def checkpoint(saved, tmp_path):
    """A copy that may be damaged."""
    return Path(shutil.copytree(saved, tmp_path / "copy"))


def assert_equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def refusal(folder: Path) -> str:
    with pytest.raises(ValueError) as error:
        weights.load_params(folder, weights.read_config(folder))
    assert "\n" not in str(error.value) and str(folder) in str(error.value)
    return str(error.value)


def test_a_checkpoint_of_several_files_is_what_it_was_saved_from(saved, untied):
    assert len(list(saved.glob("*.safetensors"))) > 3 and (saved / INDEX).exists()
    folder = weights.find_checkpoint(str(saved))
    config = weights.read_config(folder)
    assert config == untied.config
    assert_equal(weights.load_params(folder, config), untied.params)


def test_one_file_with_a_tied_embedding_is_what_it_was_saved_from(tied, tmp_path):
    tied.torch.save_pretrained(tmp_path)
    assert_equal(weights.load_params(tmp_path, weights.read_config(tmp_path)), tied.params)


def test_an_unembedding_of_its_own_is_not_taken_for_the_embedding(tied, tmp_path):
    """transformers does not tie what the file holds apart, whatever the config says: it must not be dropped."""
    tied.torch.config.save_pretrained(tmp_path)
    tensors = hf.to_hf(type(tied.model), tied.params)
    tensors["lm_head.weight"] = tensors[hf.EMBEDDING].copy()
    safetensors.numpy.save_file(tensors, tmp_path / "model.safetensors")
    assert_equal(weights.load_params(tmp_path, tied.config), tied.params)
    tensors["lm_head.weight"][-1, -1] += 1
    safetensors.numpy.save_file(tensors, tmp_path / "model.safetensors")
    for load in weights.load_params, weights.check_weights:
        with pytest.raises(
            ValueError, match=r"1 not the embedding, though tie_word_embeddings is true: lm_head\."
        ):
            load(tmp_path, tied.config)


def test_bfloat16_files_load_as_they_are_and_wider(tied, tmp_path):
    tensors = {name: x.astype(ml_dtypes.bfloat16) for name, x in hf.to_hf(type(tied.model), tied.params).items()}
    safetensors.numpy.save_file(tensors, tmp_path / "model.safetensors")
    for dtype in (jnp.bfloat16, jnp.float32):
        params = weights.load_params(tmp_path, tied.config, param_dtype=dtype)
        assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype(dtype)}
        rounded = jax.tree.map(lambda x: x.astype(jnp.bfloat16), tied.params)
        jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b.astype(a.dtype)), params, rounded)


def test_where_parameters_go_is_asked_for_every_one_of_them(saved, untied):
    asked = {}

    def sharding(path, shape):
        asked[path] = shape
        return SingleDeviceSharding(jax.devices()[0])

    params = weights.load_params(saved, untied.config, sharding=sharding)
    assert asked == {path: tuple(leaf.shape) for path, leaf in nnx.to_flat_state(untied.params)}
    assert_equal(params, untied.params)


def test_preprocessing_is_read_where_transformers_reads_it(checkpoint, preprocessor):
    ours, other = dict(preprocessor), {**preprocessor, "size": {"shortest_edge": 64, "longest_edge": 128}}
    assert weights.read_config(checkpoint).image.max_pixels == 40 * 40
    processor = checkpoint / "processor_config.json"
    processor.write_text(json.dumps({"processor_class": "Qwen2VLProcessor"}))  # of older saves: says nothing
    assert weights.read_config(checkpoint).image.max_pixels == 40 * 40
    processor.write_text(json.dumps({"image_processor": other}))
    assert weights.read_config(checkpoint).image.max_pixels == 128
    processor.write_text(json.dumps({"image_processor": ours}))
    (checkpoint / "preprocessor_config.json").unlink()
    assert weights.read_config(checkpoint).image.max_pixels == 40 * 40
    processor.unlink()
    assert weights.read_config(checkpoint).image == ImageConfig()


def test_all_that_is_wrong_with_the_files_is_told_at_once(checkpoint):
    index = json.loads((checkpoint / INDEX).read_text())
    files = sorted(set(index["weight_map"].values()))
    (checkpoint / files[0]).unlink()
    cut = checkpoint / files[1]
    cut.write_bytes(cut.read_bytes()[:-1])
    tensors = safetensors.numpy.load_file(checkpoint / files[2])
    first, *_ = sorted(tensors)
    tensors["strange"] = tensors.pop(first)
    safetensors.numpy.save_file(tensors, checkpoint / files[2])
    tensors = safetensors.numpy.load_file(checkpoint / files[3])
    second, *_ = sorted(tensors)
    shape = tensors[second].shape
    tensors[second] = np.zeros((*shape, 2), np.int8)
    safetensors.numpy.save_file(tensors, checkpoint / files[3])
    told = refusal(checkpoint)
    for part in (
        f"1 missing files: {files[0]}",
        f"1 damaged files: {files[1]} (",
        f"1 not where the index says: {first} in {files[2]}",
        f"1 in a file and not in the index: strange in {files[2]}",
        f"1 of another shape: {second} {(*shape, 2)}, accepted: {shape}",
        f"1 of another type: {second} I8, accepted: float32, bfloat16, float16",
        " missing: ",
    ):
        assert part in told


@pytest.mark.parametrize(
    "content", [b"", b"short", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", b"\xff" * 200]
)
def test_a_file_that_is_none_is_told(tied, tmp_path, content):
    tied.torch.config.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(content)
    told = refusal(tmp_path)
    assert "1 damaged files: model.safetensors (" in told
    assert ("Git LFS pointer" in told) == (b"git-lfs" in content)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (INDEX, "{}", "no weight_map in it"),
        (INDEX, '{"weight_map": {"a": "../other/model.safetensors"}}', "accepted: a name without slashes"),
        (INDEX, "{", "is not JSON"),
        (INDEX, "[" * 100_000, "is not JSON"),
        ("config.json", "\udcff", "is not JSON"),
        ("config.json", "[]", "holds a list; accepted: an object"),
        ("config.json", '{"model_type": "llama"}', "model_type is 'llama'; accepted:"),
        ("config.json", '{"model_type": ["qwen2_vl"]}', "its configuration can not be read (TypeError: "),
        ("config.json", '{"model_type": "qwen2_vl", "text_config": 5}', "can not be read (StrictDataclass"),
        ("preprocessor_config.json", '{"patch_size": 5}', "preprocessor patch_size is 5; accepted: 4"),
        ("preprocessor_config.json", '{"size": 7}', "its configuration can not be read (AttributeError: "),
        ("preprocessor_config.json", '{"image_mean": [0.5, NaN, 0.5]}', "image_mean is [0.5, nan, 0.5]; accepted"),
        ("preprocessor_config.json", '{"image_std": [0.5, 0.0, 0.5]}', "accepted: three numbers above 0"),
    ],
)
def test_configurations_that_can_not_be_read_are_told(checkpoint, file, content, message):
    (checkpoint / file).write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=re.escape(message)):
        weights.load_params(checkpoint, weights.read_config(checkpoint))


def test_a_folder_without_weights_is_told(tied, tmp_path):
    tied.torch.config.save_pretrained(tmp_path)
    assert "no weights; accepted: model.safetensors, or model.safetensors.index.json" in refusal(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    assert "pickled weights are not read" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("{}/nowhere", "no such folder"),
        ("./nowhere/at-all", "no such folder"),
        ("nowhere", "no such folder"),
        ("{}", "no config.json in it"),
        ("no/--id", "no such folder, and that is no id of the hub either"),
    ],
)
def test_no_checkpoint_there(tmp_path, where, message):
    with pytest.raises(ValueError, match=message) as error:
        weights.find_checkpoint(where.format(tmp_path))
    assert "\n" not in str(error.value)


def test_an_unreachable_hub_is_told(monkeypatch, tmp_path):
    """Port 9 of this machine: the real client, and nobody who answers."""
    client = functools.partial(
        huggingface_hub.snapshot_download, endpoint="http://127.0.0.1:9", cache_dir=tmp_path, etag_timeout=1
    )
    monkeypatch.setattr(huggingface_hub, "snapshot_download", client)
    with pytest.raises(ValueError, match="no such folder, and the hub can not be reached") as error:
        weights.find_checkpoint("some/model")
    assert "\n" not in str(error.value)


def hub_error(kind: str) -> Exception:
    """One of the client's own errors, without the response that its constructor wants."""
    error = getattr(huggingface_hub.errors, kind).__new__(getattr(huggingface_hub.errors, kind))
    error.args = ("many\nwords",)
    return error


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("GatedRepoError", "on the hub it is gated; accepted: an account that was granted access"),
        ("RepositoryNotFoundError", "the hub has no model of that id"),
        ("HfHubHTTPError", "it could not be downloaded"),
    ],
)
def test_what_the_hub_refuses_is_told(monkeypatch, kind, message):
    def refuse(*args, **kwargs):
        raise hub_error(kind)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(ValueError, match=message) as error:
        weights.find_checkpoint("some/model")
    assert "\n" not in str(error.value)


def test_from_the_hub_comes_only_what_is_read(monkeypatch, saved, tmp_path):
    """Small files first; weights only of a model that can be read."""
    published = Path(shutil.copytree(saved, tmp_path / "hub"))
    for name in ("pytorch_model.bin", "modeling_own.py", "chat_template.jinja", "original.safetensors"):
        (published / name).write_text("")
    cache = tmp_path / "cache"
    cache.mkdir()

    def download(hub_id, allow_patterns):
        assert hub_id == "some/model"
        for pattern in allow_patterns:
            for file in published.glob(pattern):
                shutil.copy(file, cache)
        return str(cache)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert weights.find_checkpoint("some/model") == cache
    expected = {path.name for path in saved.iterdir()} | {"chat_template.jinja"}
    assert {path.name for path in cache.iterdir()} == expected

    shutil.rmtree(cache)
    cache.mkdir()
    (published / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ValueError, match="model_type is 'llama'"):
        weights.find_checkpoint("some/model")
    assert not list(cache.glob("*.safetensors"))


LARGE = {
    "model_type": "qwen2_vl",
    "tie_word_embeddings": True,
    "image_token_id": 5,
    "video_token_id": 6,
    "vision_start_token_id": 7,
    "vision_end_token_id": 8,
    "text_config": {
        "vocab_size": 8192,
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "num_key_value_heads": 12,
        "bos_token_id": None,
        "eos_token_id": None,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [8, 12, 12]},
    },
    "vision_config": {"depth": 1, "embed_dim": 32, "hidden_size": 768, "num_heads": 2, "mlp_ratio": 2},
}
# Loads twice, first for the compiler's sake, and watches the process's own memory (mapped files apart).
MEASURE = """
    import json, sys, threading, time
    from pathlib import Path
    import jax, jax.numpy as jnp
    from jax.sharding import NamedSharding, PartitionSpec
    from vldac.models import weights

    folder, mesh = Path(sys.argv[1]), jax.make_mesh((8,), ("fsdp",))
    config = weights.read_config(folder)

    def memory():
        status = Path("/proc/self/status").read_text()
        return 1024 * int(next(line for line in status.splitlines() if line.startswith("RssAnon")).split()[1])

    def watch():
        while not done:
            peaks.append(memory())
            time.sleep(0.0005)

    def over_devices(path, shape):  # the last axis that eight devices can share
        axis = max((i for i, size in enumerate(shape) if size % 8 == 0), default=None)
        return NamedSharding(mesh, PartitionSpec(*("fsdp" if i == axis else None for i in range(len(shape)))))

    result = {}
    for name, sharding in (("one", None), ("eight", over_devices)):
        for attempt in range(2):
            params = None
            before, peaks, done = memory(), [], False
            thread = threading.Thread(target=watch)
            thread.start()
            params = weights.load_params(folder, config, param_dtype=jnp.bfloat16, sharding=sharding)
            done = True
            thread.join()
        leaves = jax.tree.leaves(params)
        split = sum(leaf.addressable_shards[0].data.nbytes for leaf in leaves)
        total = sum(float(jnp.sum(leaf, dtype=jnp.float32)) for leaf in leaves)
        result[name] = {"peak": max(peaks) - before, "bytes": sum(leaf.nbytes for leaf in leaves),
                        "first_device": split, "sum": total, "samples": len(peaks)}
    print(json.dumps(result))
"""


def write_large(folder: Path) -> tuple[int, int, float]:
    """240 MB in files of 60 MB: (bytes, bytes of the largest tensor, sum of all numbers)."""
    config = config_from_hf(LARGE)
    kind, rng = hf.model_class(config), np.random.default_rng(0)
    (folder / "config.json").write_text(json.dumps(LARGE))
    files, sizes, total = [{}], [], 0.0
    for path, variable in nnx.to_flat_state(hf.abstract_params(config)):
        shape = variable.shape[1:] if hf.is_stacked(kind, path) else variable.shape
        for name in hf.tensor_names(kind, path, variable):
            tensor = np.broadcast_to(rng.random(shape[-1], np.float32), shape).astype(ml_dtypes.bfloat16)
            total += float(tensor.reshape(-1, shape[-1])[0].astype(np.float64).sum() * (tensor.size / shape[-1]))
            sizes.append(tensor.nbytes)
            if sum(x.nbytes for x in files[-1].values()) > 60e6:
                files.append({})
            files[-1][name] = tensor
    weight_map = {}
    for number, tensors in enumerate(files):
        safetensors.numpy.save_file(tensors, folder / f"model-{number}.safetensors")
        weight_map |= dict.fromkeys(tensors, f"model-{number}.safetensors")
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    return sum(sizes), max(sizes), total


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_loading_takes_the_parameters_and_little_more(tmp_path):
    """On the CPU, where the devices' memory is the host's: a second copy of anything large would show.

    The largest stack has 57 MB, a file 60 MB, the whole 240 MB; allowed are two tensors of 13 MB.
    """
    size, largest, total = write_large(tmp_path)
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT / "src"),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "MALLOC_MMAP_THRESHOLD_": "65536",  # what is freed goes back at once, and is not taken for in use
        "MALLOC_TRIM_THRESHOLD_": "65536",
    }
    command = [sys.executable, "-c", textwrap.dedent(MEASURE), str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    for name, devices in (("one", 1), ("eight", 8)):
        figures = result[name]
        assert figures["bytes"] == size and figures["samples"] > 20
        assert figures["sum"] == pytest.approx(total, rel=1e-3)
        assert size <= figures["peak"] + largest and figures["peak"] < size + 2 * largest, result
        assert figures["first_device"] < size / devices * 1.01
