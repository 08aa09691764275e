"""The command line of the benchmark: what is measured, of which run, how often."""

from __future__ import annotations

import argparse
import copy
import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

import envs_jax
from envs_jax.world import names_like, slots_of
from experiments import flags
from experiments.bench.lengths import TimedPolicy
from experiments.build import Parts, build, policy_in
from experiments.config import ConfigError, EvaluationConfig, RunConfig
from experiments.presets import PRESETS
from vldac.text.prompt import task_text
from vldac.text.tokenizer import encode

PIECES = {
    "worlds": "steps and frames of the worlds, without a model",
    "decode": "observations to answers: the prompt, the answer, both",
    "rollout": "worlds and model together, one iteration's experience",
    "update": "learning from one iteration's experience, the reference pass included",
    "iteration": "rollout and update, as a run repeats them",
}
LEARNING = {"update", "iteration"}


@dataclass(frozen=True)
class Options:
    """What is measured.

    Attributes:
      run: the configuration whose work is timed.
    """

    run: Annotated[RunConfig, tyro.conf.arg(name="")]
    json: str = ""
    """File to write all figures to; "" = only the table."""
    repeats: int = 5
    """Times that each program is timed, after one that is not."""
    prompt_tokens: int = 0
    """Tokens of the static text: the task is made longer until it has them. 0 = as the world has it."""
    answer_lengths: tuple[int, int] = (0, 0)
    """Tokens of an answer, at least and at most: drawn, whatever the model writes. 0 0 = the model ends them."""
    numbers: tuple[int, ...] = ()
    """Worlds side by side, for `worlds`; none = 64 256 on a CPU, 256 1024 4096 elsewhere."""
    worlds: tuple[str, ...] = ()
    """Names for `worlds`, also patterns as in miniworld/maze*; none = --world, or all there are."""
    image: tuple[int, int] = (0, 0)
    """Height and width of the frames that `worlds` are timed with; 0 0 = each world's own."""
    original: bool = False
    """Time the original MiniWorld, which draws on the CPU or with OpenGL, on the same `worlds`, too."""
    kernels: int = 0
    """So many kernels that take longest in one answer, rollout, update or iteration are listed; 0 = none."""
    peer: bool = False
    """Time torch, transformers and peft on the same decode and update, too."""

    def check(self) -> None:
        """Raises ConfigError for a value that can not be."""
        if self.repeats < 1:
            raise ConfigError(f"repeats is {self.repeats}; accepted: 1 or more")
        if self.kernels < 0:
            raise ConfigError(f"kernels is {self.kernels}; accepted: 0 or more")
        if self.prompt_tokens < 0:
            raise ConfigError(f"prompt_tokens is {self.prompt_tokens}; accepted: 0 or more")
        least, most = self.answer_lengths
        if any(self.answer_lengths) and not 1 <= least <= most <= self.run.policy.max_tokens:
            raise ConfigError(
                f"answer_lengths is {self.answer_lengths}; accepted: 0 0, or two numbers that rise, from 1 to "
                f"policy.max_tokens, which is {self.run.policy.max_tokens}"
            )
        if any(number < 1 for number in self.numbers):
            raise ConfigError(f"numbers is {self.numbers}; accepted: numbers of worlds, 1 or more")
        if any(side < 0 for side in self.image) or (0 in self.image and any(self.image)):
            raise ConfigError(f"image is {self.image}; accepted: two numbers of pixels, 1 or more, or 0 0")
        path = Path(self.json).absolute()
        if self.json and (path.is_dir() or not path.parent.is_dir()):
            raise ConfigError(f"json is {self.json!r}; accepted: a file in a folder that is there")


@dataclass(frozen=True)
class Command:
    """What the command line asked for.

    Attributes:
      pieces: of `PIECES`, in their order.
      worlds: names of the worlds for the piece "worlds".
      options: everything else.
    """

    pieces: tuple[str, ...]
    worlds: tuple[str, ...]
    options: Any

    @property
    def learns(self) -> bool:
        """Whether any piece learns from experience."""
        return not LEARNING.isdisjoint(self.pieces)


def parse(
    arguments: Sequence[str], program: str, kind: type = Options, pieces: Sequence[str] = (*PIECES,)
) -> Command:
    """Reads `[PIECE ...] [PRESET] [flags]`.

    Args:
      arguments: of the command line.
      program: as it was called, for messages.
      kind: `Options` or what adds flags to it.
      pieces: those that may be asked for; all of them without a name.

    Raises:
      ConfigError: what it asks for can not be.
      SystemExit: `--help` (code 0), or a flag that is wrong by itself (code 2, told on standard error).
    """
    rest = list(arguments)
    words = [rest.pop(0) for _ in itertools.takewhile(lambda word: not word.startswith("-"), arguments)]
    asked = set()
    while words and words[0] in pieces:
        asked.add(words.pop(0))
    preset = words.pop(0) if words else "nano"
    if preset not in PRESETS:
        raise ConfigError(f"{preset!r} is no piece and no preset; accepted: {', '.join((*pieces, *PRESETS))}")
    if words:
        raise ConfigError(f"{words[0]!r} is one word too many; accepted: pieces, then one preset")
    base = PRESETS[preset]()
    base = dataclasses.replace(base, evaluation=EvaluationConfig(unseen=()))  # nothing is evaluated
    options = flags.read(kind, f"{program} [PIECE ...] [PRESET]", rest, _help(pieces), kind(run=base))
    options.check()
    chosen = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    chosen.add_argument("--world")
    named = chosen.parse_known_args(rest)[0].world is not None
    asked = tuple(piece for piece in pieces if piece in (asked or pieces))
    return Command(asked, _worlds(options, named), options)


def _worlds(options: Options, named: bool) -> tuple[str, ...]:
    """The worlds to be timed, each once.

    Raises:
      ConfigError: a pattern fits none.
    """
    if not options.worlds:
        return (options.run.world,) if named else envs_jax.names()
    try:
        return tuple(names_like(options.worlds))
    except ValueError as error:
        raise ConfigError(f"worlds: {error}") from error


def _help(pieces: Sequence[str]) -> str:
    return flags.description(
        "Measure speed beside what this device could do at best.",
        "",
        "PIECE (default: all) is of:",
        *(f"  {name}: {what}" for name, what in PIECES.items() if name in pieces),
        "",
        "PRESET (default nano) is one of:",
        f"  {', '.join(PRESETS)}",
    )


def parts_of(command: Command) -> Parts:
    """What is to be timed, its prompt and its answers as long as was asked for.

    Raises:
      ConfigError: parts that do not fit each other, or a prompt that is longer already.
    """
    options = command.options
    parts = build(options.run if command.learns else _without_learning(options.run))
    setup = parts.setup
    if options.prompt_tokens:
        world = _told(setup.world, _longer(parts, options.prompt_tokens))
        policy = policy_in(world, parts.config, parts.tokenizer, parts.model_config)
        setup = dataclasses.replace(setup, world=world, policy=policy)
    if any(options.answer_lengths):
        setup = dataclasses.replace(setup, policy=TimedPolicy.of(setup.policy, options.answer_lengths))
    return dataclasses.replace(parts, setup=setup)


def _without_learning(config: RunConfig) -> RunConfig:
    """The same for pieces that do not learn: how it would be learnt is such that nothing is refused for it."""
    experience = config.rollout.worlds * config.rollout.steps
    optimizer = dataclasses.replace(config.optimizer, minibatch=experience, microbatch=0)
    imitation = dataclasses.replace(config.imitation, steps=0)
    return dataclasses.replace(config, optimizer=optimizer, imitation=imitation)


def _told(world: envs_jax.World, instruction: str) -> envs_jax.World:
    """The same world with other words for its task."""
    told = copy.copy(world)  # ours alone, though worlds are frozen
    kind = type(type(world).__name__, (type(world),), {"instruction": instruction})  # in place of a property, too
    object.__setattr__(told, "__class__", kind)
    return told


def _longer(parts: Parts, wanted: int) -> str:
    """The world's instruction with more words, so that the prompt's static text has `wanted` tokens."""
    world, have = parts.setup.world, len(parts.setup.policy.prompt.prefix)

    def added(instruction: str) -> int:
        told = [
            encode(parts.tokenizer, task_text(text, world.actions, slots_of(world)))
            for text in (world.instruction, instruction)
        ]
        return have + len(told[1]) - len(told[0])

    if wanted < have:
        raise ConfigError(f"prompt_tokens is {wanted}; accepted: 0, or {have} (the world's own text) or more")
    text = world.instruction
    while added(longer := f"{text} and") <= wanted:
        text = longer
    for letters in ("", "?", "?x", "?x!", "?x!y", "?x!y;"):  # less than a word's tokens are missing
        if added(text + letters) == wanted:
            return text + letters
    raise ConfigError(f"prompt_tokens is {wanted}, which this tokenizer does not hit; accepted: {added(text)}")
