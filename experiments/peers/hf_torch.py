"""The same decode and update with torch, transformers and peft: `python -m experiments.peers.hf_torch`.

    python -m experiments.peers.hf_torch decode qwen2_vl_7b --rollout.worlds 256 --json peer.json
    python -m experiments.peers.hf_torch --device cpu                  the nano model, to try it out

* Random weights of the shapes of the same configuration, the same prompt and frames, answers of the same length:
  `generate` on one static batch, then a reference pass and LoRA passes forward and backward, microbatch by
  microbatch, over all tokens of every sample.
* What does not fit the memory is tried again with half as many; the table says with how many it went.
* The update is timed a microbatch at a time and added up to a whole one, its optimizer left out.

Flags are those of `experiments.bench`, with `--device` and `--ceilings`. JAX only counts here, on the CPU.
Exit codes are the same.
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

os.environ["JAX_PLATFORMS"] = "cpu"  # the accelerator's memory is torch's here

import numpy as np

from experiments.bench import work
from experiments.bench.ceilings import SIZES, Ceilings, steady
from experiments.bench.measure import Timing, timed
from experiments.bench.options import Options, parse, parts_of
from experiments.bench.table import Row, console_of, show, write
from experiments.build import Parts
from experiments.config import ConfigError
from vldac.metrics import RunFileError
from vldac.models import Qwen2VLConfig
from vldac.models.hf_config import hf_configs
from vldac.models.image import patch_grid

PROGRAM = "python -m experiments.peers.hf_torch"
NAME = "transformers"
PIECES = ("decode", "update")


@dataclass(frozen=True)
class PeerOptions(Options):
    """What is measured."""

    device: Literal["cuda", "cpu"] = "cuda"
    """Where torch computes."""
    ceilings: str = ""
    """File of `experiments.bench --json` with the device's ceilings; "" = measured here."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns its exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        command = parse(arguments, PROGRAM, PeerOptions, PIECES)
        options = command.options
        torch = import_torch(options.device)
        parts = parts_of(command)
        if type(parts.model_config) is not Qwen2VLConfig:
            raise ConfigError(f"model is a {type(parts.model_config).__name__}; accepted: Qwen2-VL")
        found = read_ceilings(options.ceilings) if options.ceilings else measure_ceilings(torch, options.device)
        peer = Peer(torch, parts, options)
        rows = [row for piece in command.pieces for row in getattr(peer, piece)()]
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    cuda = options.device == "cuda"
    result = {
        "command": shlex.join(["python", "-m", "experiments.peers.hf_torch", *arguments]),
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "hardware": {
            "device": torch.cuda.get_device_name() if cuda else "cpu",
            "platform": options.device,
            "machine": platform.machine(),
        },
        "versions": {name: version(name) for name in ("torch", "transformers", "peft")},
        "model": f"{parts.facts()['model']}, random weights, {parts.config.model.dtype}; {parts.config.world}",
        "config": dataclasses.asdict(options.run),
        "ceilings": dataclasses.asdict(found),
        "rows": [row.record(found) for row in rows],
        "ratios": [],
        "peak_bytes_in_use": torch.cuda.max_memory_allocated() if cuda else None,
    }
    show(result, console_of())
    if options.json:
        try:
            write(result, Path(options.json))
        except RunFileError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
    return 0


def import_torch(device: str) -> Any:
    """torch, once all that is needed is known to be there.

    Raises:
      ConfigError: a package is missing, or the device.
    """
    try:
        import peft  # noqa: F401
        import torch
    except ImportError as error:
        raise ConfigError(f"the peer needs {error.name}; accepted: pip install -e '.[peers]'") from error
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device is cuda, and torch sees no GPU; accepted: --device cpu, for a tiny model")
    return torch


def measure_ceilings(torch: Any, device: str) -> Ceilings:
    """As `experiments.bench.ceilings.measure`, through torch."""
    side, size, seconds = SIZES["gpu" if device == "cuda" else "cpu"]
    rate = partial(steady, seconds=seconds, wait=waiter(torch, device))
    matmul = {}
    for name in ("bfloat16", "float32"):
        x = torch.randn(side, side, device=device, dtype=getattr(torch, name))
        matmul[name] = 2 * side**3 / rate(torch.matmul, x, x)
    x = torch.zeros(size // 4, device=device)
    return Ceilings(matmul, 2 * size / rate(lambda x: x + 1, x))


def read_ceilings(path: str) -> Ceilings:
    """What `experiments.bench` measured on this device.

    Raises:
      ConfigError: the file can not be read, or is another.
    """
    try:
        return Ceilings(**json.loads(Path(path).read_text())["ceilings"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"ceilings is {path!r}; accepted: a file that experiments.bench --json wrote") from error


def waiter(torch: Any, device: str) -> Callable[[Any], None]:
    """Waits until the device has done what it was given."""
    return (lambda _: torch.cuda.synchronize()) if device == "cuda" else (lambda _: None)


class Peer:
    """The peer's model and inputs, of the shapes of `parts`."""

    def __init__(self, torch: Any, parts: Parts, options: PeerOptions):
        self.torch, self.parts, self.device = torch, parts, options.device
        self.repeats = options.repeats
        self.setup, self.sizes = parts.setup, work.Sizes.of(parts)
        self.wait = waiter(torch, options.device)
        self.gpus = [torch.cuda.current_device()] if options.device == "cuda" else []
        self.model = self._draw()

    def decode(self) -> list[Row]:
        """One answer of full length to as many prompts as a rollout has worlds."""
        length = self.setup.policy.config.max_tokens

        def generate(lanes):
            self.model.generate(
                **self._prompts(lanes),
                max_new_tokens=length,
                min_new_tokens=length,
                do_sample=True,
                top_k=0,
                use_cache=True,
                pad_token_id=self.setup.policy.vocabulary.pad_id,
            )

        self.model.eval()
        with self.torch.no_grad():
            lanes, timing = self._fitting(generate, self.setup.rollout.worlds)
        tokens = lanes * length
        prefix, context, history = self._shape
        stages = [
            *work.static_text(self.sizes, prefix),
            *work.frames(self.sizes, lanes * history),
            *work.prompt(self.sizes, lanes, prefix, context),
            *work.answers(self.sizes, [lanes] * length, prefix, context),
        ]
        size = {"lanes": lanes, "answer": length, "static": prefix, "context": context}
        counts = {"useful_tokens": tokens, "loop_tokens": tokens}
        return [self._row("decode", "prompt and answer", size, timing, counts, stages)]

    def update(self) -> list[Row]:
        """A rollout's reference pass and its epochs forward and backward, added up from single microbatches."""
        config, rollout = self.setup.optimizer, self.setup.rollout
        steps, length = rollout.worlds * rollout.steps, self.setup.policy.config.max_tokens
        adapter = "adapter" in self.parts.abstract_params()
        self.model.train()

        def scores(samples):
            out = self.model(**self._prompts(samples, length), use_cache=False, logits_to_keep=length + 1)
            return out.logits[:, :-1].float().log_softmax(-1)[..., 0]

        def learn(samples):
            scores(samples).mean().backward()
            self.model.zero_grad(set_to_none=True)

        def refer(samples):
            with self.torch.no_grad():
                if adapter:
                    with self.model.disable_adapter():
                        scores(samples)
                else:
                    scores(samples)

        samples, learning = self._fitting(learn, config.microbatch or config.minibatch)
        samples, referring = self._fitting(refer, samples)
        timing = learning.times(steps / samples * config.epochs).plus(referring.times(steps / samples))
        prefix, context, history = self._shape
        stages = work.update(
            self.sizes, steps, steps * length, prefix, context, history, config.epochs, self.setup.updates
        )
        size = {"experience": steps, "epochs": config.epochs, "microbatch": samples}
        size |= {"static": prefix, "context": context}
        counts = {"useful_tokens": steps * length, "env_steps": steps}
        note = (
            f"{statistics.median(learning.seconds) * 1e3:.0f} ms forward and backward a microbatch; no optimizer"
        )
        return [self._row("update", "reference and epochs", size, timing, counts, stages, [note])]

    def _row(self, piece, what, size, timing, counts, stages, notes=()) -> Row:
        peak = self.torch.cuda.max_memory_allocated() if self.device == "cuda" else None
        return Row(
            piece,
            what,
            size,
            timing,
            counts,
            stages,
            dtype=self.sizes.dtype,
            device_bytes=peak,
            runner=NAME,
            notes=notes,
        )

    def _draw(self) -> Any:
        """A model of random weights on the device, LoRA on what the run adapts."""
        import transformers
        from peft import LoraConfig, get_peft_model

        config, torch = self.parts.config.model, self.torch
        described, _ = hf_configs(self.parts.model_config)
        described.pop("model_type")
        torch.manual_seed(0)
        before = torch.get_default_dtype()
        torch.set_default_dtype(getattr(torch, config.dtype))
        try:
            with torch.device(self.device):
                model = transformers.Qwen2VLForConditionalGeneration(transformers.Qwen2VLConfig(**described))
        finally:
            torch.set_default_dtype(before)
        model.generation_config.eos_token_id = None
        lora = config.lora
        if not lora.rank:
            return model
        names = "|".join(lora.target_modules)
        inside = r".*" if lora.vision else r".*language_model\..*"
        return get_peft_model(
            model,
            LoraConfig(
                r=lora.rank,
                lora_alpha=lora.alpha,
                lora_dropout=lora.dropout,
                target_modules=rf"{inside}\.({names})",
            ),
        )

    @property
    def _shape(self) -> tuple[int, int, int]:
        """(tokens of the static text, tokens behind it, frames): text that changes is left out."""
        prompt = self.setup.policy.prompt
        return len(prompt.prefix), prompt.context_slots - prompt.text_slots, prompt.history

    def _prompts(self, lanes: int, answer: int = 0) -> dict[str, Any]:
        """Inputs of `lanes` prompts, `answer` tokens behind each."""
        prompt, config, torch = self.setup.policy.prompt, self.parts.model_config, self.torch
        frames = [prompt.frame, *[prompt.between, prompt.frame] * (prompt.history - 1)]
        behind = np.full(answer, prompt.suffix[-1])
        row = np.concatenate([prompt.prefix, *frames, prompt.behind, prompt.suffix, behind])
        ids = torch.tensor(np.tile(row, (lanes, 1)), dtype=torch.long, device=self.device)
        height, width, _ = self.setup.world.image_shape
        grid = patch_grid(height, width, config.vision, config.image)
        images = lanes * prompt.history
        pixels = torch.randn(images * grid[0] * grid[1], config.vision.patch_dim, device=self.device)
        return {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "mm_token_type_ids": (ids == config.image_token_id).int(),
            "pixel_values": pixels.to(getattr(torch, self.parts.config.model.dtype)),
            "image_grid_thw": torch.tensor([[1, *grid]] * images, device=self.device),
        }

    def _fitting(self, function: Callable[[int], Any], number: int) -> tuple[int, Timing]:
        """(how many at a time, their time): half as many again and again until they fit.

        Raises:
          ConfigError: not even one fits.
        """

        def call():
            function(number)
            self.wait(None)

        while True:
            try:
                return number, timed(call, self.repeats, self.gpus)
            except self.torch.OutOfMemoryError as error:
                if number == 1:
                    raise ConfigError("the peer does not fit this device, one at a time") from error
                number //= 2
            self.torch.cuda.empty_cache()


if __name__ == "__main__":
    sys.exit(main())
