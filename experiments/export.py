"""Hands over what a run has learnt: `python -m experiments.export runs/NAME [--to FOLDER]`.

    README.md          a model card: what it is, how well it does, how to load it
    adapter/           LoRA, for peft (of runs that trained one)
    model/             the whole model, an adapter merged into it, for transformers; `--no-merged` leaves it out
    base/              what the adapter sits on, where the run drew it afresh
    value_head.*       the critic
    config.json        the run's configuration

From the run's newest whole checkpoint, so also from a run that has not ended; a newer one that is damaged is told.
Exit codes: 0 done; 2 it can not be (nothing was written); 1 anything else.
"""

from __future__ import annotations

import dataclasses
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import jax.numpy as jnp
import tyro

from experiments import flags
from experiments.build import Parts, build
from experiments.config import CONFIG_FILE, read_config
from experiments.model_card import model_card
from experiments.program import run_as_program
from experiments.restore import Learnt, policy_params, tell
from vldac.disk import whole
from vldac.mesh import MeshConfig
from vldac.metrics import RunFileError, read_summary
from vldac.models.export import SHARD_BYTES, save_adapter, save_model, save_value_head
from vldac.report.success import without
from vldac.text.chat import CHAT_TEMPLATE

PROGRAM = "python -m experiments.export"
CARD_FILE = "README.md"


@dataclass(frozen=True)
class Export:
    """Write what a run has learnt as files that peft, transformers and vldac load."""

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of the run."""
    to: Path | None = None
    """Where to; must not exist yet, or be empty. None = `export` in the run's folder."""
    merged: bool = True
    """Write the whole model, too; a run without LoRA has nothing else."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """What the whole model is written in; None = what the run computed in."""
    shard_gigabytes: float = SHARD_BYTES / 1e9
    """Size of a file of weights at most."""

    @property
    def target(self) -> Path:
        return self.to if self.to is not None else self.run / "export"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns its exit code."""
    command = flags.read(Export, PROGRAM, sys.argv[1:] if arguments is None else arguments)
    try:
        contents = export(command)
    except RunFileError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"error: cannot export to {command.target}: {error.strerror or error}", file=sys.stderr)
        return 1
    except ValueError as error:  # ConfigError is one
        print(f"error: {error}", file=sys.stderr)
        return 2
    for name, what in contents.items():
        print(f"{command.target / name}  {what}")
    return 0


def export(command: Export) -> dict[str, str]:
    """Writes the export, whole or not at all.

    Returns:
      File or folder -> what it is.

    Raises:
      ValueError: the run's configuration or its base model can not be read, or there is an export already.
      OSError: the run's checkpoint can not be read, or the target not be written.
    """
    if command.shard_gigabytes <= 0:
        raise ValueError(f"shard_gigabytes is {command.shard_gigabytes:g}; accepted: above 0")
    config = read_config(command.run / CONFIG_FILE)
    if not (command.merged or config.model.lora.rank):
        raise ValueError("--no-merged of a run without LoRA leaves nothing; accepted: leave it out")
    with whole(command.target) as folder:
        # On one device, whatever the run had: its checkpoints fit every mesh.
        parts = build(dataclasses.replace(config, mesh=MeshConfig()))
        learnt = policy_params(parts, command.run)
        tell(learnt.notes)
        contents = {CARD_FILE: "this card", **_write(folder, command, parts, learnt.params)}
        summary = summary_of(learnt, read_summary(command.run), config.iterations)
        (folder / CARD_FILE).write_text(model_card(parts, summary, contents), encoding="utf-8")
    return contents


def summary_of(learnt: Learnt, summary: Mapping[str, Any], iterations: int) -> dict[str, Any]:
    """A run's summary, as far as it is about these parameters: they may be of before the run's end.

    Args:
      learnt: what is exported.
      summary: of the run.
      iterations: of the whole run; what it says of the model after RL was measured after the last.
    """
    ended = learnt.iteration == iterations
    if not ended:
        summary = without(summary, "after") | {"seconds": learnt.seconds}
    done = {"iterations": learnt.iteration, "env_steps": learnt.env_steps, "interrupted": not ended}
    return {"seconds": learnt.seconds} | summary | done


def _write(folder: Path, command: Export, parts: Parts, params: Mapping[str, Any]) -> dict[str, str]:
    lora = parts.config.model.lora
    adapter = params.get("adapter")
    tokenizer = parts.tokenizer
    if not tokenizer.chat_template:
        tokenizer.chat_template = CHAT_TEMPLATE  # the one that it was trained with
    options = {
        "dtype": jnp.dtype(command.dtype or parts.config.model.dtype),
        "base": parts.checkpoint,
        "tokenizer": tokenizer,
        "shard_bytes": int(command.shard_gigabytes * 1e9),
    }
    contents = {}
    if adapter is not None:
        base = parts.config.model.path or "base"
        save_adapter(folder / "adapter", parts.model_config, adapter, lora, base)
        contents["adapter/"] = "the LoRA adapter, as peft keeps it"
        if parts.checkpoint is None:
            save_model(folder / "base", parts.model_config, params["model"], **options)
            contents["base/"] = "the model that the adapter belongs on, as it was drawn"
    if command.merged:
        if adapter is not None:
            options |= {"adapter": adapter, "scale": lora.scale}
        save_model(folder / "model", parts.model_config, params["model"], **options)
        what = "the whole model, the adapter merged into it" if adapter is not None else "the whole model"
        contents["model/"] = f"{what}, as transformers keeps it"
    save_value_head(folder, params["value"])
    contents["value_head.safetensors"] = "the critic"
    contents["value_head.json"] = "its sizes, and how it is applied"
    shutil.copyfile(command.run / CONFIG_FILE, folder / CONFIG_FILE)
    contents[CONFIG_FILE] = "the run's configuration: `python -m experiments.run --config config.json`"
    return contents


if __name__ == "__main__":
    run_as_program(main)
