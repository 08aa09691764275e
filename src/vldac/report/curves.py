"""Learning curves as inline SVG, drawn by matplotlib, coloured by the page.

* Colours become CSS variables and texts stay texts, so that one drawing is readable in light and in dark,
  in the page's own font.
* matplotlib's `Figure` is used directly, never pyplot: no global state, no display, safe in a thread.
* Any numeric key of `metrics.jsonl` is drawn; those with an entry in `_ABOUT` are explained.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator, PercentFormatter

from vldac.report.numbers import known
from vldac.report.success import WorldResult

# Stand-ins that matplotlib draws with, and the CSS variable that takes the place of each.
_INK = {
    "#010101": "var(--ink)",
    "#020202": "var(--muted)",
    "#030303": "var(--line)",
    "#040404": "var(--after)",
    "#050505": "var(--before)",
    "#060606": "var(--expert)",
    "#070707": "var(--random)",
    "#080808": "var(--other)",
}
INK, MUTED, LINE, AFTER, BEFORE, EXPERT, RANDOM, OTHER = _INK
_POINTS = 300  # drawn of one curve; longer ones are averaged in blocks

# key: (title, what it is and what is good, kind of axis)
_ABOUT: dict[str, tuple[str, str, str]] = {
    "rollout/success_rate": (
        "Success",
        "Share of episodes that reach the goal. Line: episodes that ended while gathering experience, "
        "which favours short ones; marks: whole evaluation episodes.",
        "rate",
    ),
    "rollout/episode_return": ("Return", "Sum of rewards of an episode. Higher is better.", ""),
    "rollout/episode_length": ("Episode length", "Steps until an episode ends, by success or by time.", "zero"),
    "rollout/parse_failure_rate": (
        "Invalid answers",
        "Share of answers that name no action; nothing moves then. Should go towards 0.",
        "share",
    ),
    "train/kl_reference": (
        "Distance from the start",
        "KL divergence of the model from the one before RL, nats a token. Should stay small.",
        "zero",
    ),
    "train/explained_variance": (
        "Critic",
        "Share of the variance of returns that the value head explains: 1 is perfect, 0 as a constant.",
        "explained",
    ),
    "train/value_loss": ("Value loss", "Squared error of the value head, halved.", "zero"),
    "train/policy_loss": ("Policy loss", "The clipped objective. Its level means little by itself.", ""),
    "train/loss": ("Total loss", "Policy, KL and value terms with their coefficients.", ""),
    "train/clip_fraction": (
        "Clipped tokens",
        "Share of tokens whose probability moved beyond the clip range in one update. "
        "Above a third or so, updates are too large.",
        "share",
    ),
    "train/kl_old": ("Size of an update", "KL divergence from the model that gathered the experience.", "zero"),
    "train/entropy": (
        "Entropy",
        "Uncertainty of the next token, nats. At 0 nothing is explored any more.",
        "zero",
    ),
    "train/logprob_mismatch": (
        "Sampler against trainer",
        "Mean difference of log-probabilities between generation and update, which score the same tokens. "
        "Should be rounding error.",
        "zero",
    ),
    "train/grad_norm": ("Gradient norm", "Before clipping.", "zero"),
    "train/learning_rate": ("Learning rate", "As scheduled.", "zero"),
    "rollout/episodes": ("Episodes", "That ended in the iteration.", "zero"),
    "rollout/reward": ("Reward", "Mean of a step.", ""),
    "rollout/value": ("Value", "What the value head expects, mean over the steps.", ""),
    "train/ratio_mean": (
        "Importance ratio",
        "New probability over old, mean over the tokens. Should stay near 1.",
        "",
    ),
    "train/advantage_std": ("Spread of advantages", "Standard deviation before normalisation.", "zero"),
    "rollout/answer_tokens": ("Answer length", "Tokens in an answer.", "zero"),
    "rollout/lane_use": ("Use of lanes", "Share of the decoder's turns that wrote a token.", "share"),
    "rollout/tokens_per_second": ("Generation speed", "Tokens a second.", "zero"),
    "rollout/env_steps_per_second": ("World speed", "Environment steps a second.", "zero"),
}
_MAIN = (
    "rollout/success_rate",
    "rollout/episode_return",
    "rollout/episode_length",
    "rollout/parse_failure_rate",
    "train/kl_reference",
    "train/explained_variance",
    "train/entropy",
)
_WIDE = {"rollout/success_rate"}
_NO_CURVE = {"iteration", "env_steps", "seconds", "rollout/env_steps", "rollout/tokens"}


@dataclass(frozen=True)
class Chart:
    """One drawing for the page.

    Attributes:
      key: name in `metrics.jsonl`.
      title, caption: what it shows, in words.
      svg: an `<svg>` element; only numbers of the run went into it.
      legend: (CSS colour variable, "line" | "dash" | "dot", text).
      main: belongs to what everybody should see.
      wide: has a row of its own.
    """

    key: str
    title: str
    caption: str
    svg: str
    legend: list[tuple[str, str, str]] = field(default_factory=list)
    main: bool = False
    wide: bool = False


def charts(metrics: Sequence[Mapping[str, Any]], result: WorldResult | None = None) -> list[Chart]:
    """Draws every numeric key that holds a finite number, the important ones first.

    Args:
      metrics: lines of `metrics.jsonl`.
      result: evaluation of the world trained on, drawn beside the success curve.
    """
    keys = list(dict.fromkeys(key for record in metrics for key in record))
    order = [*_MAIN, *_ABOUT, *sorted(keys)]
    drawn = []
    for key in dict.fromkeys(key for key in order if key in keys and key not in _NO_CURVE):
        if key == "rollout/success_rate" or not key.startswith("eval/"):
            x, y = series(metrics, key)
            marks = _evaluations(metrics) if key == "rollout/success_rate" else {}
            if y.size or marks:
                drawn.append(_chart(key, x, y, marks, result, len(drawn)))
    return drawn


def series(metrics: Sequence[Mapping[str, Any]], key: str) -> tuple[np.ndarray, np.ndarray]:
    """float64[n] environment steps (or iterations, where steps were not logged) and float64[n] finite values."""
    axis = x_axis(metrics)
    pairs = [(record[axis], record.get(key)) for record in metrics if _is_number(record.get(axis))]
    pairs = [(x, y) for x, y in pairs if _is_number(y)]
    x, y = np.array(pairs, dtype=np.float64).reshape(-1, 2).T
    return x, y


def x_axis(metrics: Sequence[Mapping[str, Any]]) -> str:
    """What the curves run over: "env_steps", or "iteration" where those were not logged."""
    return (
        "env_steps" if metrics and all(_is_number(record.get("env_steps")) for record in metrics) else "iteration"
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _evaluations(metrics: Sequence[Mapping[str, Any]]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """{world: points} of `eval/<world>/success_rate`."""
    pattern = re.compile(r"eval/(.+)/success_rate")
    keys = dict.fromkeys(key for record in metrics for key in record if pattern.fullmatch(key))
    points = {pattern.fullmatch(key)[1]: series(metrics, key) for key in keys}
    return {world: xy for world, xy in points.items() if xy[0].size}


def _chart(
    key: str,
    x: np.ndarray,
    y: np.ndarray,
    marks: Mapping[str, tuple[np.ndarray, np.ndarray]],
    result: WorldResult | None,
    number: int,
) -> Chart:
    title, caption, kind = _ABOUT.get(key, (key, "", ""))
    figure = Figure(figsize=(5.4, 2.7) if key in _WIDE else (4.0, 2.3))
    axes = figure.add_axes((0.09, 0.11, 0.88, 0.84) if key in _WIDE else (0.135, 0.13, 0.835, 0.82))
    legend: list[tuple[str, str, str]] = []
    if y.size:
        _curve(axes, x, y)
    if key == "rollout/success_rate":
        legend = _success_marks(axes, x, marks, result)
    notes = [caption] if caption else []
    if kind in ("rate", "share"):
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None, symbol=" %"))
    if kind == "rate":
        axes.set_ylim(-0.03, 1.03)
    elif kind == "explained" and y.size and y.max() > -1:
        axes.set_ylim(max(-1.0, min(-0.05, y.min() - 0.05)), 1.0)
        if y.min() < -1:
            notes.append("Cut off at −1.")
    elif kind and y.size and y.min() > 0 and y.max() / np.median(y) > 50:
        axes.set_yscale("log")
        notes.append("Logarithmic.")
    elif kind and y.size and y.min() >= 0:
        axes.set_ylim(0, float(y.max()) * 1.08 or 1.0)
    elif y.size and np.ptp(y) <= 1e-6 * abs(y).max():  # a constant would be magnified to its rounding error
        axes.set_ylim(y[0] - (abs(y[0]) or 1.0), y[0] + (abs(y[0]) or 1.0))
    _style(axes, logarithmic=axes.get_yscale() == "log", percent=kind in ("rate", "share"))
    return Chart(key, title, " ".join(notes), _svg(figure, f"c{number}"), legend, key in _MAIN, key in _WIDE)


def _curve(axes: Axes, x: np.ndarray, y: np.ndarray) -> None:
    if y.size > _POINTS:
        edges = np.linspace(0, y.size, _POINTS + 1).astype(int)[:-1]
        counts = np.diff([*edges, y.size])
        x, y = (np.add.reduceat(values, edges) / counts for values in (x, y))
    noisy = y.size >= 12
    axes.plot(
        x,
        y,
        color=AFTER,
        alpha=0.35 if noisy else 1.0,
        linewidth=1.0 if noisy else 1.8,
        marker="o" if y.size < 12 else None,
        markersize=3.5,
    )
    if noisy:
        axes.plot(x, _smooth(y, width=max(3, y.size // 12)), color=AFTER, linewidth=2.0)


def _smooth(y: np.ndarray, width: int) -> np.ndarray:
    """Centred running mean over about `width` points; shorter at the ends, so that nothing is made up."""
    total = np.concatenate([[0.0], np.cumsum(y)])
    index = np.arange(y.size)
    half = np.minimum(width // 2, np.minimum(index, y.size - 1 - index))
    return (total[index + half + 1] - total[index - half]) / (2 * half + 1)


def _success_marks(
    axes: Axes, x: np.ndarray, marks: Mapping[str, tuple[np.ndarray, np.ndarray]], result: WorldResult | None
) -> list[tuple[str, str, str]]:
    """Draws evaluations into the success chart; returns its legend."""
    legend = [("--after", "line", "while gathering experience")] if x.size else []
    colours = {result.world if result else next(iter(marks), None): AFTER}
    for world, (steps, rates) in marks.items():
        colour = colours.setdefault(world, OTHER)
        axes.plot(steps, rates, color=colour, linestyle="none", marker="D", markersize=5)
        legend.append((_INK[colour][4:-1], "dot", f"evaluation on {world}"))
    if result is None:
        return legend
    for policy, colour, dashes in (("expert", EXPERT, (5, 3)), ("random", RANDOM, (2, 2))):
        if known(rate := result.row(policy).success):
            axes.axhline(rate.estimate, color=colour, linewidth=1.4, dashes=dashes)
            legend.append((f"--{policy}", "dash", result.row(policy).label))
    last = max([*x, *(step for steps, _ in marks.values() for step in steps)], default=0.0)
    for policy, colour, where in (("before", BEFORE, 0.0), ("after", AFTER, last)):
        if known(rate := result.row(policy).success):
            error = np.nan_to_num([[rate.estimate - rate.low], [rate.high - rate.estimate]], posinf=0)
            axes.errorbar(
                where, rate.estimate, error, color=colour, marker="o", markersize=6, capsize=4, elinewidth=1.8
            )
            legend.append((f"--{policy}", "dot", f"{result.row(policy).label}, with 95 % interval"))
    return legend


def _style(axes: Axes, logarithmic: bool, percent: bool) -> None:
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(LINE)
    axes.grid(axis="y", color=LINE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=MUTED, length=0, labelsize=9.5, pad=4)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
    if logarithmic:
        axes.yaxis.set_major_locator(LogLocator(numticks=6))
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    if not percent:
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))


def _short(value: float) -> str:
    """A tick in few characters: 12000 -> 12k, 0.00001 -> 1e-05."""
    for limit, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.4g}{suffix}"
    return f"{value:.3g}".replace("-", "−")


def _svg(figure: Figure, prefix: str) -> str:
    """The figure as an element to put into a page that holds others."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "vldac"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    # Its <style> would hold for the whole page; report.css says the same of `.charts svg`.
    svg = re.sub(
        r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->|<defs>\s*</defs>", "", svg, flags=re.DOTALL
    )
    svg = (
        re.sub(r' (xmlns(:\w+)?|version|width|height)="[^"]*"', "", svg[: svg.index(">")]) + svg[svg.index(">") :]
    )
    # ids are unique in a file, not among the drawings of a page
    svg = re.sub(r' id="(figure|axes|patch|line2d|matplotlib\.axis|[xy]tick|text|LineCollection)_\d+"', "", svg)
    svg = re.sub(r'( id="|url\(#|xlink:href="#)', rf"\g<1>{prefix}-", svg).replace("xlink:href", "href")
    svg = re.sub("|".join(_INK), lambda match: _INK[match[0]], svg)
    return re.sub(r"\n\s*", "\n", svg).replace("<svg", '<svg role="img" aria-hidden="true"', 1)
