"""The configuration of a run: frozen dataclasses, to and from JSON, checked before anything is compiled.

* Every field is a flag (`--rollout.worlds 64`) and its docstring is the flag's help.
* Each section checks its own fields. What concerns several is checked where they meet, in `experiments.build`.
"""

from __future__ import annotations

import dataclasses
import json
import re
import sys
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import envs_jax
from envs_jax.check.traces import check_attributes
from vldac.algorithms.vl_dac import VLDACConfig
from vldac.imitation import ImitationConfig
from vldac.mesh import MeshConfig
from vldac.models.lora import LoRAConfig
from vldac.policy import PolicyConfig
from vldac.rollout import RolloutConfig
from vldac.state import OptimizerConfig

CONFIG_FILE = "config.json"  # in a run's folder


class ConfigError(ValueError):
    """Can not be run. `str()` is one line that names the field, the value and what is accepted."""


@dataclass(frozen=True)
class ModelConfig:
    """Which vision-language model is trained, and what of it."""

    path: str = ""
    """A checkpoint: a folder as Hugging Face keeps it, or an id on its hub. "" = drawn afresh, see `preset`."""
    preset: Literal["nano", "mini", "qwen2_vl_2b", "qwen2_vl_7b"] = "nano"
    """Size of a model that is drawn afresh, of the Qwen2-VL architecture: "nano", a million parameters;
    "mini", 32 million; or a published size, to measure speed and memory. The tokenizer is of the worlds' text."""
    max_pixels: int = 0
    """Of a frame, for a model that is drawn afresh: larger ones are scaled down. 0 = seen as they are."""
    initializer_range: float = 0.0
    """Standard deviation of a model's weights that is drawn afresh. 0 = the published 0.02, made for widths of
    thousands: at nano's 128 attention then begins flat, and what few tokens tell an observation from another is
    lost in the mean. About one over the root of the width lets it look."""
    lora: LoRAConfig = field(default_factory=LoRAConfig)
    value_head: tuple[int, ...] = (128, 128)
    """Widths of the critic's hidden layers."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What the model computes in; norms, softmax and log-probabilities are float32 all the same, and so are the
    weights that are trained."""

    def __post_init__(self):
        if any(width < 1 for width in self.value_head):
            raise ConfigError(f"value_head is {self.value_head}; accepted: widths of 1 or more")
        if self.max_pixels < 0 or (self.max_pixels and self.path):
            accepted = "0 with a checkpoint, which has its own rule" if self.path else "0 or more"
            raise ConfigError(f"max_pixels is {self.max_pixels}; accepted: {accepted}")
        if not 0 <= self.initializer_range < 1 or (self.initializer_range and self.path):
            accepted = "0 with a checkpoint, which has its weights" if self.path else "0 to below 1"
            raise ConfigError(f"initializer_range is {self.initializer_range}; accepted: {accepted}")


@dataclass(frozen=True)
class EvaluationConfig:
    """How the policy is judged, before and after training."""

    episodes: int = 256
    """Fresh episodes of each world, the same ones before and after; 0 = no evaluation."""
    lanes: int = 64
    """Episodes played side by side."""
    unseen: tuple[str, ...] = ("miniworld/one_room_s6",)
    """Worlds that are never trained on."""
    every: int = 0
    """Also evaluate on the trained world every so many iterations; 0 = only before and after."""
    record: int = 8
    """Episodes of the trained world to show in the report, before and after."""

    def __post_init__(self):
        for name, least in (("episodes", 0), ("lanes", 1), ("every", 0), ("record", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} is {getattr(self, name)}; accepted: {least} or more")
        for world in self.unseen:
            known_world("unseen", world)


@dataclass(frozen=True)
class CheckpointConfig:
    """What is kept to go on from."""

    every: int = 5
    """Iterations between checkpoints; there is always one before the first and after the last."""
    keep: int = 3
    """Newest checkpoints that are kept."""

    def __post_init__(self):
        for name in ("every", "keep"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; accepted: 1 or more")


@dataclass(frozen=True)
class RunConfig:
    """A run: a world, a model that learns to act in it, and how."""

    name: str = ""
    """Folder of the run under `folder`; "" = of the world, the time and the seed."""
    folder: str = "runs"
    """Where runs are kept."""
    world: str = "miniworld/one_room_s6_fast"
    """What is trained on: one of `envs_jax.names()`, with options behind a colon or without: name:split=train."""
    seed: int = 0
    """Of everything: weights, worlds, sampling. The same seed on the same hardware gives the same run."""
    iterations: int = 40
    """Rollouts and updates from them."""
    model: ModelConfig = field(default_factory=ModelConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    imitation: ImitationConfig = field(default_factory=ImitationConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    algorithm: VLDACConfig = field(default_factory=VLDACConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)

    def __post_init__(self):
        trained = known_world("world", self.world)
        for unseen in self.evaluation.unseen:
            if shares_episodes(trained, known_world("evaluation.unseen", unseen)):
                raise ConfigError(
                    f"evaluation.unseen holds {unseen!r}, which is trained on, whole or in part, where world is "
                    f"{self.world!r}; accepted: other worlds, or its split=test where world has split=train"
                )
        if not 0 <= self.seed < 2**32:
            raise ConfigError(f"seed is {self.seed}; accepted: 0 to 2**32 - 1")
        if self.name in (".", "..") or (self.name and Path(self.name).name != self.name):
            raise ConfigError(f"name is {self.name!r}; accepted: a folder name without slashes")
        for name in ("name", "folder"):
            if re.search(r"[\x00-\x1f\x7f]", text := getattr(self, name)):  # no file system takes all of them
                raise ConfigError(f"{name} is {text!r}; accepted: a text without control characters")


def known_world(field_name: str, world: str) -> envs_jax.World:
    """The world of this name, its methods not looked into.

    Raises:
      ConfigError: there is none, with the nearest names; or it lacks something, or says what can not be.
    """
    try:
        known = envs_jax.make(world)
        check_attributes(known)
    except ValueError as error:
        raise ConfigError(f"{field_name}: {error}") from error
    except envs_jax.WorldError as error:
        raise ConfigError(f"{field_name} is {world!r}, which breaks the contract: {error}") from error
    return known


def shares_episodes(a: envs_jax.World, b: envs_jax.World) -> bool:
    """Whether two worlds are one, however its options are written, in splits that have instances in common.

    Worked example: split=test shares episodes with "all", the default, and none with split=train.
    """
    if a.name == b.name:
        return True
    splits = {getattr(world, "split", "all") for world in (a, b)}
    if len(splits) == 2 and "all" not in splits:
        return False
    try:  # the built worlds are compared: there an option that was left out is what it comes to
        as_a = {own: getattr(a, own) for own in ("name", "split") if hasattr(a, own)}
        return dataclasses.replace(b, **as_a) == a
    except (TypeError, ValueError):  # no dataclass, or one with other fields or limits than a's
        return False


def to_json(config: RunConfig) -> str:
    """The whole configuration, defaults included."""
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"


def from_json(text: str) -> RunConfig:
    """Reads what `to_json` wrote; absent fields take their defaults.

    Raises:
      ConfigError: no JSON, an unknown field, a value of another type, or one that is not accepted.
    """
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:  # the latter of what is nested too deep
        raise ConfigError(f"not JSON: {error}") from error
    return _build(RunConfig, data, "")


def read_config(path: Path) -> RunConfig:
    """A run's configuration from its file.

    Raises:
      ConfigError: it is not there, or not a configuration; the path is named.
    """
    try:
        return from_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} can not be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8: {error.reason}") from error
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def _build(cls: type, data: Any, path: str) -> Any:
    """A dataclass from a JSON object, field by field."""
    if not isinstance(data, dict):
        raise ConfigError(f"{path.rstrip('.') or 'the configuration'} is {data!r}; accepted: an object")
    kinds = typing.get_type_hints(cls)
    unknown = sorted(set(data) - set(kinds))
    if unknown:
        raise ConfigError(f"unknown field {path}{unknown[0]}; accepted: {', '.join(kinds)}")
    values = {name: _value(kinds[name], value, f"{path}{name}") for name, value in data.items()}
    try:
        return cls(**values)
    except ValueError as error:  # a section names its field, and not itself
        raise ConfigError(f"{path}{error}") from error


def _value(kind: Any, value: Any, path: str) -> Any:
    """A JSON value as a field's type."""
    if dataclasses.is_dataclass(kind):
        return _build(kind, value, f"{path}.")
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        ok, accepted = value in arguments, ", ".join(map(repr, arguments))
    elif origin is tuple:
        if isinstance(value, list):
            return tuple(_value(arguments[0], item, path) for item in value)
        ok, accepted = False, "a list"
    elif origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        return _value(next(a for a in arguments if a is not type(None)), value, path)
    else:
        accepted = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}[kind]
        ok = isinstance(value, (int, float) if kind is float else kind)
        ok = ok and (kind is bool or not isinstance(value, bool))
        ok = ok and not (kind is float and isinstance(value, int) and abs(value) > sys.float_info.max)
    if not ok:
        raise ConfigError(f"{path} is {value!r}; accepted: {accepted}")
    return float(value) if kind is float else value
