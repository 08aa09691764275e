"""Weights in: a checkpoint's folder, local or from the Hugging Face hub, as a configuration and parameters.

* Only `config.json`, `preprocessor_config.json` and safetensors files are read: nothing that is code or could
  hold any (no pickled weights, no `trust_remote_code`), and no PyTorch.
* The headers of all files are read first. Whatever is wrong with them is told in one error, before a byte is
  allocated.
* Tensors are read from mapped files one after another, each device's slice alone (see `hf.from_hf`): loading
  takes the memory of the parameters and of about one tensor.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import DTypeLike
from safetensors import SafetensorError, safe_open

from vldac.models import hf
from vldac.models.families import VLMConfig, config_from_hf

CONFIG_FILE = "config.json"
PREPROCESSOR_FILE, PROCESSOR_FILE = "preprocessor_config.json", "processor_config.json"
WEIGHTS_FILE, INDEX_FILE = "model.safetensors", "model.safetensors.index.json"
SMALL_FILES = ("*.json", "*.txt", "*.jinja", "*.model", "README.md")  # configurations, tokenizer, model card
WEIGHT_FILES = ("model*.safetensors",)

_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}  # safetensors' names
_LFS_POINTER = b"version https://git-lfs"


@dataclass(frozen=True, eq=False)
class StoredTensor:
    """A tensor in a file, read where and when it is indexed.

    Attributes:
      slices: safetensors' handle of it.
      shape: of the tensor.
      dtype: NumPy's name of its type, or safetensors' where weights are never kept so.
    """

    slices: Any
    shape: tuple[int, ...]
    dtype: str

    def __getitem__(self, index: tuple[slice, ...]) -> np.ndarray:
        return self.slices[index]


def find_checkpoint(path_or_hub_id: str) -> Path:
    """The folder of a checkpoint; one of the hub is downloaded into the hub's own cache first.

    Args:
      path_or_hub_id: a local folder, or an id like `Qwen/Qwen2-VL-2B-Instruct`. What exists as a folder is one.

    Raises:
      ValueError: there is no such folder; there is no config.json in it; the hub does not know the id, does not
        let it be read, or can not be reached.
    """
    path = Path(path_or_hub_id).expanduser()
    local = path.exists() or path.is_absolute() or path_or_hub_id.startswith(".") or len(path.parts) != 2
    folder = path if local else _download(path_or_hub_id)
    if not folder.is_dir():
        raise ValueError(f"checkpoint {path_or_hub_id!r}: no such folder")
    if not (folder / CONFIG_FILE).is_file():
        raise ValueError(f"checkpoint {path_or_hub_id!r}: no {CONFIG_FILE} in it")
    return folder


def read_config(folder: Path) -> VLMConfig:
    """The configuration of a checkpoint.

    Args:
      folder: with `config.json`. What its images are made into is read where `transformers` looks: a
        `processor_config.json` that holds it, else `preprocessor_config.json`; where there is neither, it is
        the family's default.

    Raises:
      ValueError: a file can not be read, or asks for what there is not.
    """
    config = _read_json(folder / CONFIG_FILE)
    preprocessor = None
    if (folder / PROCESSOR_FILE).is_file():
        preprocessor = _read_json(folder / PROCESSOR_FILE).get("image_processor")
    if preprocessor is None and (folder / PREPROCESSOR_FILE).is_file():
        preprocessor = _read_json(folder / PREPROCESSOR_FILE)
    try:
        return config_from_hf(config, preprocessor)
    except ValueError as error:
        raise ValueError(f"checkpoint {str(folder)!r}: {error}") from error
    except Exception as error:  # of transformers' own kinds, or what comes of a value of another type
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise ValueError(f"checkpoint {str(folder)!r}: its configuration can not be read ({reason})") from error


def load_params(
    folder: Path,
    config: VLMConfig,
    *,
    param_dtype: DTypeLike = jnp.float32,
    sharding: hf.Place | None = None,
) -> nnx.State:
    """The parameters of a checkpoint.

    Args:
      folder: with `model.safetensors`, or with `model.safetensors.index.json` and the files that it names.
      config: of the checkpoint, from `read_config`.
      param_dtype: what the parameters are kept in; converted on the device, one tensor at a time.
      sharding: (path, shape) of a parameter, whole stacks included -> where it goes, see `hf.from_hf`. Every
        device reads only its own part. None = the default device.

    Returns:
      The state that `nnx.split(models.create(config, ...))` gives.

    Raises:
      ValueError: files are missing or damaged, or hold not exactly the model's tensors; all of it in one message.
    """
    tensors, faults = open_tensors(folder)
    try:
        return hf.from_hf(config, tensors, param_dtype, sharding, faults)
    except ValueError as error:
        raise ValueError(f"checkpoint {str(folder)!r}: {error}") from error


def check_weights(folder: Path, config: VLMConfig) -> None:
    """Finds out from the files' headers alone whether `load_params` can load them.

    Raises:
      ValueError: as `load_params`.
    """
    tensors, faults = open_tensors(folder)
    try:
        hf.match(config, tensors, faults)
    except ValueError as error:
        raise ValueError(f"checkpoint {str(folder)!r}: {error}") from error


def open_tensors(folder: Path) -> tuple[dict[str, StoredTensor], dict[str, list[str]]]:
    """All tensors of a checkpoint, by the names in its files; only headers are read.

    Returns:
      (tensors, faults): what is wrong with the files, kind -> names.

    Raises:
      ValueError: there are no weights, or the index can not be read.
    """
    index = None
    if (folder / WEIGHTS_FILE).is_file():
        files = [WEIGHTS_FILE]
    elif (folder / INDEX_FILE).is_file():
        index = _read_index(folder / INDEX_FILE)
        files = sorted(set(index.values()))
    else:
        pickled = " (pickled weights are not read)" if any(folder.glob("pytorch_model*.bin")) else ""
        raise ValueError(
            f"checkpoint {str(folder)!r}: no weights; accepted: {WEIGHTS_FILE}, or {INDEX_FILE} and what it names"
            + pickled
        )
    tensors: dict[str, StoredTensor] = {}
    absent, damaged, misplaced, unlisted = [], [], [], []
    for name in files:
        try:
            held = _open_file(folder / name)
        except FileNotFoundError:
            absent.append(name)
            continue
        except (OSError, SafetensorError) as error:
            damaged.append(f"{name} ({_one_line(error)})")
            continue
        if index is None:
            tensors |= held
            continue
        listed = {tensor for tensor, file in index.items() if file == name}
        misplaced += [f"{tensor} in {name}" for tensor in listed - set(held)]
        unlisted += [f"{tensor} in {name}" for tensor in set(held) - listed]
        tensors |= {tensor: held[tensor] for tensor in held if tensor in listed}
    faults = {
        "missing files": absent,
        "damaged files": damaged,
        "not where the index says": misplaced,
        "in a file and not in the index": unlisted,
    }
    return tensors, faults


def _open_file(path: Path) -> dict[str, StoredTensor]:
    """The tensors of one file."""
    with open(path, "rb") as file:  # the library maps the file and says little where it can not
        if file.read(len(_LFS_POINTER)) == _LFS_POINTER:
            raise OSError("a Git LFS pointer: the file itself was not fetched")
    opened = safe_open(path, framework="numpy")
    tensors = {}
    for name in opened.keys():  # noqa: SIM118 (no mapping)
        slices = opened.get_slice(name)
        dtype = _DTYPES.get(slices.get_dtype(), slices.get_dtype())
        tensors[name] = StoredTensor(slices, tuple(slices.get_shape()), dtype)
    return tensors


def _read_index(path: Path) -> dict[str, str]:
    """Tensor -> file."""
    index = _read_json(path).get("weight_map")
    if not isinstance(index, dict) or not index:
        raise ValueError(f"{path}: no weight_map in it; accepted: tensor names and the files that hold them")
    for tensor, file in index.items():
        if not isinstance(file, str) or Path(file).name != file:
            raise ValueError(f"{path}: the file of {tensor} is {file!r}; accepted: a name without slashes")
    return index


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path} can not be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # neither UTF-8 nor JSON, or nested too deep
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds a {type(content).__name__}; accepted: an object")
    return dict(content)


def _download(hub_id: str) -> Path:
    """The folder of a hub's checkpoint. What is small comes first: a model that can not be read costs nothing."""
    from huggingface_hub import snapshot_download  # here, because it takes a second that local folders can spare
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    subject = f"checkpoint {hub_id!r}: no such folder, and "
    try:
        folder = Path(snapshot_download(hub_id, allow_patterns=list(SMALL_FILES)))
        if (folder / CONFIG_FILE).is_file():
            read_config(folder)
            snapshot_download(hub_id, allow_patterns=[*SMALL_FILES, *WEIGHT_FILES])
    except GatedRepoError as error:
        raise ValueError(
            f"{subject}on the hub it is gated; accepted: an account that was granted access (`hf auth login`)"
        ) from error
    except RepositoryNotFoundError as error:
        raise ValueError(
            f"{subject}the hub has no model of that id, or only for an account that is logged in"
        ) from error
    except HFValidationError as error:
        raise ValueError(f"{subject}that is no id of the hub either ({_one_line(error)})") from error
    except LocalEntryNotFoundError as error:
        raise ValueError(f"{subject}the hub can not be reached, nor is it in the hub's cache") from error
    except (HfHubHTTPError, OSError) as error:
        raise ValueError(f"{subject}it could not be downloaded ({_one_line(error)})") from error
    return folder


def _one_line(error: BaseException) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return (text.strip().splitlines() or [type(error).__name__])[0]
