"""From the options of `experiments.evaluate` to a benchmark that can be asked, everything checked."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, runtime_checkable

import tyro

from vldac.evaluate.benchmark import Benchmark, BenchmarkError

NEEDS_DATA = ("vsi_bench", "visualwebbench")

MAX_LENGTH = {
    "vsi_bench": 12_288,  # 32 frames of 256 tokens, whether or not a family merges two of them
    "visualwebbench": 18_432,  # a screenshot in full is up to 16,384
    "balrog": 16_384,  # half of it the answer
    "spatial": 8_192,
    "pages": 8_192,
}
"""Tokens of a prompt and its answer that are enough for the benchmark's own settings."""

PER_TASK = 32
"""Questions of a task that is rendered, where nothing is said."""


@dataclass(frozen=True)
class VSIOptions:
    """Only of vsi_bench."""

    subset: Literal["full", "debiased", "pruned"] = "full"
    """Which questions: all, those of VSI-Bench-Debiased, or what that one leaves out."""
    frames: int = 32
    """Of a video, at most."""
    sampling: Literal["uniform", "two_a_second"] = "uniform"
    """Over the whole video as the official code does, or two a second first, as lmms-eval does for Qwen2-VL."""


@dataclass(frozen=True)
class WebOptions:
    """Only of visualwebbench."""

    protocol: Literal["openai", "qwen_vl", "lmms_eval"] = "openai"
    """Whose post-processing of answers counts, and how many tokens they may have."""


@dataclass(frozen=True)
class SpatialOptions:
    """Only of spatial."""

    frames: int = 16
    """Of a film."""


@dataclass(frozen=True)
class BalrogOptions:
    """Only of balrog; its environments are named by --tasks."""

    agent: Literal["naive", "cot", "robust_naive", "robust_cot"] = "naive"
    """How an answer is asked for and read."""
    episodes: int | None = None
    """Of each task; None = the official number."""
    processes: int = 16
    """Games played at a time."""
    images: int = 1
    """Pictures in the history; 0 = text only, as for language models. With pictures TextWorld, which has none, is
    not part of the benchmark."""
    texts: int = 16
    """Observations and actions in the history."""
    alternating_roles: bool = False
    """Join turns of one role that follow one another, for models whose template asks for it, such as Gemma."""
    temperature: float = 1.0
    """Of the answers; the published runs of 2024 had 0."""
    max_tokens: int = 8192
    """Of an answer; the published runs of 2024 had 1024."""
    max_steps: int | None = None
    """Of an episode; None = the game's own limit. Less is not the benchmark any more."""
    textworld_games: Path | None = None
    """The folder of BALROG's tw-games.zip."""
    boxoban_dir: Path | None = None
    """The folder boxoban-levels-master."""


@dataclass(frozen=True)
class Options:
    """What of an evaluation concerns the benchmark."""

    benchmark: Literal["vsi_bench", "visualwebbench", "balrog", "spatial", "pages"] = "spatial"
    """What is asked."""
    data: Path | None = None
    """The folder of the benchmark's files; of vsi_bench and visualwebbench."""
    tasks: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Only this task, or environment of balrog; may be given several times."""
    limit: int | None = None
    """Only so many questions of each task; None = all, or 32 of what is rendered here."""
    max_pixels: int | None = None
    """An image is scaled down to so many; 0 = the model's own rule, None = the benchmark's. Not for families
    that scale every image to one size."""
    min_pixels: int | None = None
    """An image is scaled up to so many; 0 = the model's own rule, None = the benchmark's."""
    seed: int = 0
    """Of the questions that are rendered, of games, of sampled answers, and of the weights of nano."""
    vsi: VSIOptions = field(default_factory=VSIOptions)
    web: WebOptions = field(default_factory=WebOptions)
    spatial: SpatialOptions = field(default_factory=SpatialOptions)
    balrog: BalrogOptions = field(default_factory=BalrogOptions)


@runtime_checkable
class Asked(Benchmark, Protocol):
    """A benchmark of questions as all of ours are: it knows how many it will ask."""

    def __len__(self) -> int: ...


def check(options: Options) -> None:
    """Raises a ValueError for options that do not go together, whatever the data are."""
    groups = {"vsi": "vsi_bench", "web": "visualwebbench", "spatial": "spatial", "balrog": "balrog"}
    for group, benchmark in groups.items():
        given = getattr(options, group)
        for one in dataclasses.fields(given):
            value = getattr(given, one.name)
            if benchmark != options.benchmark and value != one.default:
                raise ValueError(
                    f"{group}.{one.name} is {value!r}; accepted: only with --benchmark {benchmark}, and this is "
                    f"{options.benchmark}"
                )
    if options.benchmark in NEEDS_DATA and options.data is None:
        raise ValueError(f"data is not given; accepted: the folder of {options.benchmark}'s files (--data FOLDER)")
    if options.benchmark not in NEEDS_DATA and options.data is not None:
        raise ValueError(
            f"data is {str(options.data)!r}; accepted: only with --benchmark {' or '.join(NEEDS_DATA)}"
        )
    if options.limit is not None and options.limit < 1:
        raise ValueError(f"limit is {options.limit}; accepted: 1 or more")
    for name in ("max_pixels", "min_pixels"):
        if (getattr(options, name) or 0) < 0:
            raise ValueError(f"{name} is {getattr(options, name)}; accepted: 0 or more")
    if options.max_pixels and options.min_pixels and options.max_pixels < options.min_pixels:
        raise ValueError(
            f"max_pixels is {options.max_pixels}; accepted: at least min_pixels, {options.min_pixels}"
        )
    if options.benchmark == "balrog":
        _check_balrog(options)


def open_benchmark(options: Options) -> Asked:
    """A benchmark of questions; its files are checked here.

    Raises:
      ValueError: an option that it does not accept.
      BenchmarkError: a file that is missing or damaged, or a package that is.
    """
    try:
        return _open(options)
    except ImportError as error:
        raise BenchmarkError(f"{options.benchmark} needs a package that is not installed: {error}") from error


def pixels(options: Options, benchmark: Any = None) -> tuple[dict[str, int | None], dict[str, int]]:
    """`max_pixels` and `min_pixels` of an image for the model.

    Returns:
      Those asked for (0 asks for the model's own, None), and the benchmark's own of those that nothing is said of.
    """
    asked, own = {}, {}
    for name in ("max_pixels", "min_pixels"):
        if (given := getattr(options, name)) is not None:
            asked[name] = given or None
        elif (default := getattr(benchmark, name, None)) is not None:
            own[name] = default
    return asked, own


def balrog_environments(options: Options) -> tuple[str, ...]:
    """Those that are to be played: the ones named, or the official list, which has no TextWorld with pictures."""
    from vldac.evaluate.balrog import ENVIRONMENTS

    with_pictures = options.balrog.images > 0
    every = tuple(name for name in ENVIRONMENTS if not (with_pictures and name == "textworld"))
    return options.tasks or every


def _open(options: Options) -> Asked:
    selected = {"tasks": options.tasks, "limit": options.limit}
    pictures, _ = pixels(options)
    if options.benchmark == "vsi_bench":
        from vldac.evaluate.vsi_bench import VSIBench

        return VSIBench(options.data, **dataclasses.asdict(options.vsi), **selected, **pictures)
    if options.benchmark == "visualwebbench":
        from vldac.evaluate.visualwebbench import VisualWebBench

        return VisualWebBench(options.data, **dataclasses.asdict(options.web), **selected, **pictures)
    rendered = {
        "questions_per_task": options.limit or PER_TASK,
        "seed": options.seed,
        "tasks": options.tasks or None,
    }
    if options.benchmark == "spatial":
        from vldac.evaluate.spatial import Spatial

        return Spatial(**rendered, frames=options.spatial.frames)
    from vldac.evaluate.pages import Pages

    return Pages(**rendered)


def _check_balrog(options: Options) -> None:
    from vldac.evaluate.balrog import ENVIRONMENTS

    given = options.balrog
    if options.limit is not None:
        raise ValueError(f"limit is {options.limit}; accepted: none with balrog, but --balrog.episodes")
    for name in options.tasks:
        if name not in ENVIRONMENTS:
            raise ValueError(f"tasks has {name!r}; accepted: {', '.join(ENVIRONMENTS)}")
    if len(set(options.tasks)) < len(options.tasks):
        raise ValueError(f"tasks is {', '.join(options.tasks)}; accepted: each once")
    for name, least in (
        ("episodes", 1),
        ("processes", 1),
        ("images", 0),
        ("texts", 0),
        ("temperature", 0),
        ("max_tokens", 1),
        ("max_steps", 1),
    ):
        value = getattr(given, name)
        if value is not None and not least <= value < float("inf"):
            raise ValueError(f"balrog.{name} is {value}; accepted: {least} or more")
    if given.images + given.texts == 0:
        raise ValueError("balrog.texts is 0; accepted: 1 or more where balrog.images is 0, too")
    for name in ("textworld_games", "boxoban_dir"):
        folder = getattr(given, name)
        if folder is not None and not folder.is_dir():
            raise ValueError(f"balrog.{name} is {str(folder)!r}; accepted: a folder that exists")
