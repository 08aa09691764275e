"""Weights out: what a run has learnt, as files that `transformers`, `peft` and `vldac` load.

    adapter/   adapter_config.json, adapter_model.safetensors            LoRA, for `peft.PeftModel.from_pretrained`
    model/     config.json, safetensors, tokenizer, preprocessing        merged, for `transformers`
    value_head.safetensors, value_head.json                              the critic, which no other library has

* Tensors are made and written one after another, an adapter is added to a layer's weights on the device while
  they are on their way: there is never a second copy of the model. safetensors' own writer takes all tensors of
  a file at once; that is why its format, a JSON header and the bytes, is written here.
* A folder appears under its name by one rename when all of it is on the disk (`whole`).
* What belongs to a base checkpoint (its config, tokenizer, preprocessing) is copied from it as it is. For a
  model that was drawn afresh it is written from our own configuration.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, DTypeLike, Float, Int
from safetensors.numpy import load_file

from vldac.disk import demand_room, sync
from vldac.models import hf
from vldac.models.families import VLMConfig, model_class
from vldac.models.lora import LoRAConfig
from vldac.models.qwen2_vl import Qwen2VLConfig
from vldac.models.value_head import ValueHead
from vldac.models.weights import CONFIG_FILE, INDEX_FILE, PREPROCESSOR_FILE, SMALL_FILES, WEIGHTS_FILE

SHARD_BYTES = 5 * 10**9  # of a file of weights, as the hub likes them
GENERATION_FILE = "generation_config.json"
ADAPTER_CONFIG_FILE, ADAPTER_FILE = "adapter_config.json", "adapter_model.safetensors"
VALUE_HEAD_FILE, VALUE_HEAD_CONFIG_FILE = "value_head.safetensors", "value_head.json"

_DTYPES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}  # safetensors' names


@dataclass(frozen=True, eq=False)
class PendingTensor:
    """A tensor that is yet to be made.

    Attributes:
      name: in the file.
      shape: of it.
      dtype: of it.
      make: makes it, on the host.
    """

    name: str
    shape: tuple[int, ...]
    dtype: jnp.dtype
    make: Callable[[], np.ndarray]

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape)) * self.dtype.itemsize


@contextlib.contextmanager
def whole(target: Path) -> Iterator[Path]:
    """A folder to write to that becomes `target` at the end, if nothing was raised. Nothing is left otherwise.

    Raises:
      ValueError: `target` holds something already.
      OSError: it can not be written.
    """
    target = target.absolute()
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise ValueError(f"{target} exists already; accepted: a folder that does not, or an empty one")
    partial = target.with_name(f".{target.name}.partial")
    if target.parent.exists() and not target.parent.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(target.parent))
    target.parent.mkdir(parents=True, exist_ok=True)
    if partial.exists():  # left over from a kill
        shutil.rmtree(partial)
    try:
        partial.mkdir()
        yield partial
        for path in [*partial.rglob("*"), partial]:
            sync(path)
        os.rename(partial, target)
        sync(target.parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)  # a full disk needs the room
        raise


def save_model(
    folder: Path,
    config: VLMConfig,
    params: nnx.State,
    *,
    adapter: nnx.State | None = None,
    scale: float = 1.0,
    dtype: DTypeLike = jnp.bfloat16,
    base: Path | None = None,
    tokenizer: Any = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Writes a checkpoint that `transformers` loads, an adapter merged into it.

    Args:
      folder: made; must not exist.
      config: of the model.
      params: of the model, without the adapter.
      adapter: LoRA's parameters; None = none.
      scale: of the adapter, `LoRAConfig.scale`.
      dtype: what is written: float32, bfloat16 or float16. Sums are made in float32 before.
      base: the checkpoint that the model came from: all its small files are copied. None writes configurations
        of our own.
      tokenizer: written where there is no base.
      shard_bytes: of a file, unless one tensor has more.

    Raises:
      ValueError: another `dtype`, or there is neither a base nor a configuration to write for this family.
      OSError: the disk is full, or the folder can not be written.
    """
    dtype = jnp.dtype(dtype)
    if dtype.name not in _DTYPES:
        raise ValueError(f"dtype is {dtype.name}; accepted: {', '.join(_DTYPES)}")
    files = _own_files(config, tokenizer) if base is None else _base_config(base)
    tensors = model_tensors(config, params, adapter, scale, dtype)
    size = sum(tensor.nbytes for tensor in tensors)
    demand_room(folder.parent, size)

    folder.mkdir()
    _set_dtype(files[CONFIG_FILE], dtype.name)
    for name, content in files.items():
        _write_json(folder / name, content)
    if base is not None:
        for path in _small_files(base):
            shutil.copyfile(path, folder / path.name)
    elif tokenizer is not None:
        tokenizer.save_pretrained(str(folder))

    shards = _pack(tensors, shard_bytes)
    if len(shards) == 1:
        write_safetensors(folder / WEIGHTS_FILE, shards[0])
        return
    weight_map = {}
    for number, shard in enumerate(shards, 1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        write_safetensors(folder / name, shard)
        weight_map |= {tensor.name: name for tensor in shard}
    _write_json(folder / INDEX_FILE, {"metadata": {"total_size": size}, "weight_map": weight_map})


def model_tensors(
    config: VLMConfig, params: nnx.State, adapter: nnx.State | None, scale: float, dtype: jnp.dtype
) -> list[PendingTensor]:
    """All tensors of a checkpoint under the names of published files, W + scale B A where there is an adapter."""
    model = model_class(config)
    adapters = {} if adapter is None else dict(nnx.to_flat_state(adapter))
    tensors = []
    for path, variable in nnx.to_flat_state(params):
        low = None
        if path[-1] == "weight" and (*path[:-1], "lora_A") in adapters:
            low = tuple(adapters[*path[:-1], name][...] for name in ("lora_A", "lora_B"))
        stacked = hf.is_stacked(model, path)
        for layer, name in enumerate(hf.tensor_names(model, path, variable)):
            shape = tuple(variable.shape[1:] if stacked else variable.shape)
            make = _Make(variable[...], low, layer if stacked else None, scale, dtype)
            tensors.append(PendingTensor(hf.published_name(model, name), shape, dtype, make))
    return tensors


def save_adapter(folder: Path, config: VLMConfig, adapter: nnx.State, lora: LoRAConfig, base: str) -> None:
    """Writes LoRA's parameters for `peft`, in float32.

    Args:
      folder: made; must not exist.
      config: of the model.
      adapter: LoRA's parameters.
      lora: their configuration.
      base: where `peft` finds the model that the adapter belongs on: a hub id or a folder.

    Raises:
      OSError: the disk is full, or the folder can not be written.
    """
    model = model_class(config)
    tensors, modules = {}, {}
    for path, variable in nnx.to_flat_state(adapter):
        value = np.asarray(variable[...], np.float32)
        parts = value if hf.is_stacked(model, path) else value[None]
        for part, name in zip(parts, hf.tensor_names(model, path, variable), strict=True):
            tensors[f"base_model.model.{name}.weight"] = part
            modules[name.rpartition(".")[0]] = None
    demand_room(folder.parent, sum(tensor.nbytes for tensor in tensors.values()))
    folder.mkdir()
    write_safetensors(folder / ADAPTER_FILE, _made(tensors))
    _write_json(
        folder / ADAPTER_CONFIG_FILE,
        {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": base,
            "r": lora.rank,
            "lora_alpha": int(lora.alpha) if lora.alpha == int(lora.alpha) else lora.alpha,
            "lora_dropout": lora.dropout,
            # Last names would not do: the vision towers of some families have modules of the same names.
            "target_modules": module_pattern(list(modules)),
            "bias": "none",
            "fan_in_fan_out": False,
            "init_lora_weights": True,
            "inference_mode": True,
            "modules_to_save": None,
            "use_dora": False,
            "use_rslora": False,
        },
    )


def module_pattern(modules: Sequence[str]) -> str:
    r"""A regular expression that matches exactly these module names, whatever number a layer has.

    Worked example: a.layers.0.q_proj, a.layers.1.q_proj, a.layers.0.v_proj -> a\.layers\.\d+\.(q_proj|v_proj)
    """
    parents: dict[str, list[str]] = {}
    for module in modules:
        parent, _, name = re.sub(r"\\\.\d+(?=\\\.)", r"\\.\\d+", re.escape(module)).rpartition(r"\.")
        known = parents.setdefault(parent, [])
        if name not in known:
            known.append(name)
    return "|".join(rf"{parent}\.({'|'.join(sorted(names))})" for parent, names in sorted(parents.items()))


def save_value_head(folder: Path, params: nnx.State) -> None:
    """Writes the critic, its matrices [out, in] as torch keeps them, in float32.

    Raises:
      OSError: the disk is full, or the folder can not be written.
    """
    tensors = {}
    for path, variable in nnx.to_flat_state(params):
        *layer, name = map(str, path)
        value = np.asarray(variable[...], np.float32)
        tensors[".".join([*layer, _TORCH_NAMES[name]])] = value.T
    widths = [tensors[f"layers.{number}.weight"].shape[0] for number in range(len(tensors) // 2 - 1)]
    first = tensors["layers.0.weight" if widths else "out.weight"]
    write_safetensors(folder / VALUE_HEAD_FILE, _made(tensors))
    _write_json(
        folder / VALUE_HEAD_CONFIG_FILE,
        {
            "input": "the last prompt token's hidden state after the decoder's final norm",
            "in_features": first.shape[1],
            "hidden_sizes": widths,
            "layers": [f"layers.{number}" for number in range(len(widths))] + ["out"],
            "activation": "relu, after every layer but the last",
            "dtype": "float32",
            "output": "the discounted return that the policy expects from here",
        },
    )


def load_value_head(folder: Path) -> nnx.State:
    """Reads what `save_value_head` wrote: the state of `ValueHead(in_features, hidden_sizes)`."""
    config = json.loads((folder / VALUE_HEAD_CONFIG_FILE).read_text(encoding="utf-8"))
    tensors = load_file(folder / VALUE_HEAD_FILE)
    head = nnx.eval_shape(
        lambda: ValueHead(config["in_features"], tuple(config["hidden_sizes"]), rngs=nnx.Rngs(0))
    )
    leaves = []
    for path, variable in nnx.to_flat_state(nnx.state(head)):
        *layer, name = map(str, path)
        value = tensors[".".join([*layer, _TORCH_NAMES[name]])].T
        leaves.append((path, variable.replace(jnp.asarray(value))))
    return nnx.from_flat_state(leaves)


_TORCH_NAMES = {"kernel": "weight", "bias": "bias"}


def hf_configs(config: VLMConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """The contents of `config.json` and `preprocessor_config.json` of a model that is not from any checkpoint.

    Raises:
      ValueError: another family than Qwen2-VL, or sizes that Hugging Face's configuration can not say.
    """
    if type(config) is not Qwen2VLConfig:
        raise ValueError(
            f"config is a {type(config).__name__}; accepted: a Qwen2VLConfig (models of other families come from "
            "a checkpoint, whose own files are kept)"
        )
    text, vision, image = config.text, config.vision, config.image
    if vision.mlp_dim % vision.embed_dim:
        raise ValueError(f"mlp_dim is {vision.mlp_dim}; accepted: a multiple of embed_dim = {vision.embed_dim}")
    model = {
        "architectures": ["Qwen2VLForConditionalGeneration"],
        "model_type": "qwen2_vl",
        "image_token_id": config.image_token_id,
        "video_token_id": config.video_token_id,
        "vision_start_token_id": config.vision_start_token_id,
        "vision_end_token_id": config.vision_end_token_id,
        "tie_word_embeddings": text.tie_word_embeddings,
        "text_config": {
            "model_type": "qwen2_vl_text",
            "vocab_size": text.vocab_size,
            "hidden_size": text.hidden_size,
            "intermediate_size": text.intermediate_size,
            "num_hidden_layers": text.num_hidden_layers,
            "num_attention_heads": text.num_attention_heads,
            "num_key_value_heads": text.num_key_value_heads,
            "hidden_act": "silu",
            "initializer_range": text.initializer_range,
            "rms_norm_eps": text.rms_norm_eps,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": text.rope_theta,
                "mrope_section": list(text.mrope_section),
            },
            "use_sliding_window": False,
            "bos_token_id": None,  # the defaults are those of the published vocabulary
            "eos_token_id": None,
            "pad_token_id": None,
        },
        "vision_config": {
            "model_type": "qwen2_vl_vision",
            "depth": vision.depth,
            "embed_dim": vision.embed_dim,
            "hidden_size": text.hidden_size,
            "hidden_act": "quick_gelu",
            "mlp_ratio": vision.mlp_dim // vision.embed_dim,
            "num_heads": vision.num_heads,
            "in_channels": vision.in_channels,
            "patch_size": vision.patch_size,
            "spatial_merge_size": vision.spatial_merge_size,
            "temporal_patch_size": vision.temporal_patch_size,
            "initializer_range": vision.initializer_range,
            "rope_parameters": {"rope_type": "axial", "rope_theta": vision.rope_theta},
        },
    }
    preprocessor = {
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": "Qwen2VLProcessor",
        "size": {"shortest_edge": image.min_pixels, "longest_edge": image.max_pixels},
        "min_pixels": image.min_pixels,
        "max_pixels": image.max_pixels,
        "image_mean": list(image.mean),
        "image_std": list(image.std),
        "patch_size": vision.patch_size,
        "merge_size": vision.spatial_merge_size,
        "temporal_patch_size": vision.temporal_patch_size,
        "resample": 3,
        "rescale_factor": 1 / 255,
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "do_convert_rgb": True,
    }
    return model, preprocessor


def write_safetensors(path: Path, tensors: Sequence[PendingTensor]) -> None:
    """A safetensors file, its tensors made and written one after another.

    The format: 8 bytes with the header's length, the header (JSON: type, shape and place of every tensor, padded
    with spaces so that the data begin at a multiple of 8), the data.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in tensors:
        begin, end = end, end + tensor.nbytes
        header[tensor.name] = {
            "dtype": _DTYPES[tensor.dtype.name],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors:
            value = np.ascontiguousarray(tensor.make())
            file.write(value.reshape(-1).view(np.uint8).data)


def _made(tensors: Mapping[str, np.ndarray]) -> list[PendingTensor]:
    """Small tensors that are there already."""
    return [
        PendingTensor(name, value.shape, jnp.dtype(value.dtype), lambda value=value: value)
        for name, value in tensors.items()
    ]


@dataclass(frozen=True, eq=False)
class _Make:
    """Makes one tensor of a checkpoint: a parameter or a layer of it, with what an adapter adds to it."""

    value: Array
    low: tuple[Array, Array] | None
    layer: int | None
    scale: float
    dtype: jnp.dtype

    def __call__(self) -> np.ndarray:
        low = None if self.low is None else (*self.low, self.scale)
        layer = None if self.layer is None else jnp.int32(self.layer)
        return np.asarray(_part(self.value, low, layer, self.dtype))


@jax.jit(static_argnames="dtype")
def _part(
    value: Float[Array, "*s"],
    low: tuple[Float[Array, "*a"], Float[Array, "*b"], Float[Array, ""]] | None,
    layer: Int[Array, ""] | None,
    dtype: jnp.dtype,
) -> Float[Array, "*p"]:
    """`value`, or one layer of it, plus scale B A."""

    def one(x):
        return x if layer is None else jax.lax.dynamic_index_in_dim(x, layer, keepdims=False)

    value = one(value)
    if low is not None:
        a, b, scale = one(low[0]), one(low[1]), low[2]
        # "highest": GPUs and TPUs would round the factors otherwise.
        value = value.astype(jnp.float32) + scale * jnp.matmul(b, a, precision="highest")
    return value.astype(dtype)


def _own_files(config: VLMConfig, tokenizer: Any) -> dict[str, dict[str, Any]]:
    model, preprocessor = hf_configs(config)
    files = {CONFIG_FILE: model, PREPROCESSOR_FILE: preprocessor}
    if tokenizer is not None:
        ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
        model["text_config"] |= {"eos_token_id": tokenizer.eos_token_id}
        files[GENERATION_FILE] = {name: token for name, token in ends.items() if token is not None}
    return files


def _base_config(base: Path) -> dict[str, dict[str, Any]]:
    return {CONFIG_FILE: json.loads((base / CONFIG_FILE).read_text(encoding="utf-8"))}


def _set_dtype(config: dict[str, Any], dtype: str) -> None:
    """Says which type the weights have, in whichever of its two spellings the config has it."""
    known = [name for name in ("torch_dtype", "dtype") if name in config]
    config |= dict.fromkeys(known or ["dtype"], dtype)
    for part in config.values():
        if isinstance(part, dict):
            part |= {name: dtype for name in ("torch_dtype", "dtype") if name in part}


def _small_files(base: Path) -> list[Path]:
    """What goes with a base checkpoint's weights: tokenizer, preprocessing, generation; not its config or card."""
    found = {path for pattern in SMALL_FILES for path in base.glob(pattern) if path.is_file()}
    return sorted(path for path in found if path.name not in (CONFIG_FILE, INDEX_FILE, "README.md"))


def _pack(tensors: Sequence[PendingTensor], limit: int) -> list[list[PendingTensor]]:
    """Tensors as files of at most `limit` bytes, in their order; a larger tensor gets a file of its own."""
    shards: list[list[PendingTensor]] = [[]]
    size = 0
    for tensor in tensors:
        if shards[-1] and size + tensor.nbytes > limit:
            shards.append([])
            size = 0
        shards[-1].append(tensor)
        size += tensor.nbytes
    return shards


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
