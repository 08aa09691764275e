"""Weights out: what a run has learnt, as files that `transformers`, `peft` and `vldac` load.

    adapter/   adapter_config.json, adapter_model.safetensors            LoRA, for `peft.PeftModel.from_pretrained`
    model/     config.json, safetensors, tokenizer, preprocessing        merged, for `transformers`
    value_head.safetensors, value_head.json                              the critic, which no other library has

* Tensors are made and written one after another, an adapter is added to a layer's weights on the device while
  they are on their way: there is never a second copy of the model.
* What belongs to a base checkpoint (its config, tokenizer, preprocessing) is copied from it as it is. For a
  model that was drawn afresh it is written from our own configuration.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, DTypeLike, Float, Int
from safetensors.numpy import load_file

from vldac.disk import demand_room
from vldac.models import hf
from vldac.models.families import VLMConfig, model_class
from vldac.models.hf_config import hf_configs
from vldac.models.lora import LoRAConfig
from vldac.models.safetensors_file import STORED, PendingTensor, made, pack, write_safetensors
from vldac.models.value_head import ValueHead
from vldac.models.weights import CONFIG_FILE, INDEX_FILE, PREPROCESSOR_FILE, SMALL_FILES, WEIGHTS_FILE

SHARD_BYTES = 5 * 10**9  # of a file of weights, as the hub likes them
GENERATION_FILE = "generation_config.json"
ADAPTER_CONFIG_FILE, ADAPTER_FILE = "adapter_config.json", "adapter_model.safetensors"
VALUE_HEAD_FILE, VALUE_HEAD_CONFIG_FILE = "value_head.safetensors", "value_head.json"


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
    if dtype.name not in STORED:
        raise ValueError(f"dtype is {dtype.name}; accepted: {', '.join(STORED)}")
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

    shards = pack(tensors, shard_bytes)
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
    write_safetensors(folder / ADAPTER_FILE, made(tensors))
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
    write_safetensors(folder / VALUE_HEAD_FILE, made(tensors))
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


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
