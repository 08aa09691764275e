"""Models to be asked: `--model` of `experiments.serve` and `experiments.evaluate`.

runs/NAME                    what a run has learnt, from its newest whole checkpoint
FOLDER, Qwen/Qwen2-VL-2B...  a checkpoint as Hugging Face keeps it, or its id on the hub
nano                         a freshly drawn model, which has learnt nothing: to try things out
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from experiments.build import build, open_model
from experiments.config import CONFIG_FILE, ModelConfig, read_config
from experiments.restore import policy_params, tell
from vldac.generate.engine import Engine
from vldac.generate.lanes import Params
from vldac.mesh import MeshConfig
from vldac.models import VLMConfig, create
from vldac.models.export import GENERATION_FILE
from vldac.models.weights import find_checkpoint, load_params
from vldac.models.weights import read_config as read_checkpoint

NANO = "nano"
DTYPES = ("float32", "bfloat16")
Ends = tuple[int, ...]  # ids that end an answer


def load_engine(
    model: str,
    *,
    lanes: int,
    max_length: int,
    dtype: str | None = None,
    max_pixels: int | None = None,
    min_pixels: int | None = None,
    seed: int = 0,
) -> Engine:
    """Loads a model and makes it ready to answer.

    Args:
      model: see the module.
      lanes: answers that are written at once.
      max_length: tokens of a conversation and its answer together.
      dtype: what is computed in, "float32" or "bfloat16"; None = as the run did, or float32 on a CPU and bfloat16
        elsewhere.
      max_pixels, min_pixels: an image is scaled so that its area lies between them; None = as the model's own
        files say. They are looked at before any weights are loaded.
      seed: of the weights of "nano".

    Raises:
      ValueError: there is no such model, it can not be used, or an option that it does not have.
      RunFileError: a run whose checkpoints can not be read.
    """
    if dtype is not None and dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype!r}; accepted: {', '.join(DTYPES)}")
    pixels = {"max_pixels": max_pixels, "min_pixels": min_pixels}
    pixels = {name: value for name, value in pixels.items() if value is not None}
    graphdef, params, tokenizer, config, computes_in, ends = _open(model, dtype, seed, pixels)
    seeing = nnx.merge(graphdef, *params)
    seeing.config = config
    graphdef = nnx.graphdef(seeing)
    options = {"lanes": lanes, "max_length": max_length, "dtype": computes_in, "ends": ends}
    return Engine(graphdef, params, tokenizer, config, **options)


def is_run(model: str) -> bool:
    """Whether this is a run's folder: Hugging Face keeps a `config.json`, too, of other contents."""
    try:
        config = json.loads((Path(model) / CONFIG_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and "world" in config and "model_type" not in config


def scales_to_areas(model: str) -> bool:
    """Whether images have a `max_pixels`: not in a family that scales them all to one size. No weights are read.

    Raises:
      ValueError: there is no such model, or its configuration can not be read.
    """
    path = "" if model == NANO else model
    if is_run(model):
        path = read_config(Path(model) / CONFIG_FILE).model.path
    return not path or not read_checkpoint(find_checkpoint(path)).one_size  # what is drawn afresh is a Qwen2-VL


def _open(
    model: str, dtype: str | None, seed: int, pixels: dict[str, int]
) -> tuple[nnx.GraphDef, Params, Any, VLMConfig, jnp.dtype, Ends]:
    if is_run(model):
        return *_open_run(Path(model), dtype, pixels), ()
    computes_in = jnp.dtype(dtype or ("float32" if jax.default_backend() == "cpu" else "bfloat16"))
    folder, tokenizer, config = open_model(ModelConfig(path="" if model == NANO else model))
    config = _with_pixels(config, pixels)
    graphdef = nnx.graphdef(nnx.eval_shape(lambda: create(config, rngs=nnx.Rngs(0), dtype=computes_in)))
    if folder is not None:
        params = load_params(folder, config, param_dtype=computes_in)
    else:
        params = jax.jit(lambda key: nnx.state(create(config, rngs=nnx.Rngs(key))))(jax.random.key(seed))
    return graphdef, (params,), tokenizer, config, computes_in, () if folder is None else ends_of(folder)


def ends_of(folder: Path) -> Ends:
    """What ends an answer by a checkpoint's `generation_config.json`: often more than the template's end of turn.

    Raises:
      ValueError: it can not be read.
    """
    path = folder / GENERATION_FILE
    if not path.is_file():
        return ()
    try:
        ends = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id") or []
        return tuple(int(token) for token in (ends if isinstance(ends, list) else [ends]))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} can not be read: {error}; accepted: JSON with an eos_token_id") from error


def _open_run(
    folder: Path, dtype: str | None, pixels: dict[str, int]
) -> tuple[nnx.GraphDef, Params, Any, VLMConfig, jnp.dtype]:
    """A run's policy as a model: the weights, and the adapter if it trained one."""
    run = read_config(folder / CONFIG_FILE)
    run = dataclasses.replace(run, mesh=MeshConfig())  # its checkpoints fit every mesh
    parts = build(run)
    config = _with_pixels(parts.model_config, pixels)
    learnt = policy_params(parts, folder)
    tell(learnt.notes)
    params = learnt.params
    if dtype is not None and dtype != run.model.dtype:
        # Only what is computed in: the weights stay as they were trained.
        parts = build(dataclasses.replace(run, model=dataclasses.replace(run.model, dtype=dtype)))
    policy = parts.setup.policy
    adapted = "adapter" in params
    graphdef = policy.adapted if adapted else policy.model
    states = (params["model"], params["adapter"]) if adapted else (params["model"],)
    return graphdef, states, parts.tokenizer, config, jnp.dtype(policy.dtype)


def _with_pixels(config: VLMConfig, pixels: dict[str, int]) -> VLMConfig:
    """The same model, its images scaled to other areas."""
    if not pixels:
        return config
    if config.one_size:
        name, value = next(iter(pixels.items()))
        raise ValueError(f"{name} is {value}; accepted: none, as this family scales every image to one size")
    return dataclasses.replace(config, image=dataclasses.replace(config.image, **pixels))
