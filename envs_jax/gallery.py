"""Every registered world on one page: `python -m envs_jax.gallery [--out FILE] [WORLD ...]`.

    python -m envs_jax.gallery                                     gallery.html, all worlds
    python -m envs_jax.gallery --out mazes.html 'miniworld/*maze*'

* The page holds its pictures itself and needs no network: views of a few fresh episodes, large where the world can
  draw them large, and one episode of the expert, in the frames that an agent gets.
* Whatever is registered is shown; nothing here knows a particular world.

Exit codes: 0 done; 2 a world or a file that can not be; 1 anything else.
"""

from __future__ import annotations

import argparse
import base64
import html
import inspect
import io
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, PRNGKeyArray, UInt8

import envs_jax
from envs_jax.world import State, World, names_like, options, slots_of, spoken

PROGRAM = "python -m envs_jax.gallery"
VIEWS = 4  # fresh episodes that are shown of each world
LARGE = 240  # pixels that these are high, where a world takes `image_shape`
LONGEST = 400  # steps of the expert that are shown at most
FRAMES = 80  # of them, evenly spaced
SPOKEN = 12  # actions of the expert that are written out
MILLISECONDS = 110  # that each stays


@dataclass(frozen=True)
class Card:
    """What is shown of one world.

    Attributes:
      world: as it was made, without options.
      options: names and what they are by default.
      views: uint8[VIEWS, H, W, 3], first observations.
      frames: uint8[F, h, w, 3], of the expert's episode.
      steps: of that episode.
      solved: whether its last step was a success; False where it was cut off.
      ended: whether it ended within `LONGEST` steps.
      reward: all it was given.
      thoughts: what the expert would say at first, "" = nothing.
      spoken: the first actions of its episode in a world with slots, "" in others.
    """

    world: World
    options: dict[str, Any]
    views: np.ndarray
    frames: np.ndarray
    steps: int
    solved: bool
    ended: bool
    reward: float
    thoughts: str
    spoken: str


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns its exit code."""
    parser = argparse.ArgumentParser(prog=PROGRAM, description="Show worlds on one HTML page.")
    parser.add_argument("worlds", nargs="*", metavar="WORLD", help="names or patterns (default: all)")
    parser.add_argument(
        "--out", default="gallery.html", metavar="FILE", help="page to write (default: gallery.html)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the episodes shown (default: 0)")
    asked = parser.parse_args(arguments)
    try:
        names = names_like(asked.worlds or ["*"])
        path = _path(asked.out)
        for name in names:  # what can not be made is told before minutes are spent on the others
            envs_jax.make(name)
        cards = []
        for name in names:
            started = time.perf_counter()
            cards.append(look(name, jax.random.key(asked.seed)))
            print(f"gallery: {name}: {time.perf_counter() - started:.1f} s", file=sys.stderr, flush=True)
        path.write_text(page(cards), encoding="utf-8")
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {path} can not be written: {error.strerror}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("aborted: nothing was written", file=sys.stderr)
        return 1
    many = "1 world" if len(cards) == 1 else f"{len(cards)} worlds"
    print(f"{many}: {path} ({path.stat().st_size / 1e6:.2f} MB)")
    return 0


def look(name: str, key: PRNGKeyArray) -> Card:
    """Makes a world, looks at a few of its episodes and lets its expert play one."""
    world, known = envs_jax.make(name), options(name.partition(":")[0])
    views_key, episode_key = jax.random.split(key)
    fresh = jax.jit(jax.vmap(world.reset))(jax.random.split(views_key, VIEWS))
    height, width, _ = world.image_shape
    shape = (LARGE, round(LARGE * width / height), 3)
    large = envs_jax.make(name, image_shape=shape) if "image_shape" in known else world
    views = jax.jit(jax.vmap(large.render))(fresh)

    states, going, success, reward, actions = jax.jit(lambda key: episode(world, key))(episode_key)
    steps = int(np.sum(going))
    # Frames after steps 0, 1, ..., steps; fewer of a long episode, the first and the last always.
    shown = np.unique(np.linspace(0, steps, min(steps + 1, FRAMES)).astype(int))
    padded = np.concatenate([shown, np.full(FRAMES - len(shown), shown[-1])])  # one shape, whatever the length
    frames = jax.jit(jax.vmap(world.render))(jax.tree.map(lambda leaf: leaf[padded], states))
    said = np.asarray(jax.jit(world.explain)(jax.tree.map(lambda leaf: leaf[0], states)))
    return Card(
        world=world,
        # None is said where the task decides: then what it has decided.
        options={name: getattr(world, name, None) if value is None else value for name, value in known.items()},
        views=np.asarray(views),
        frames=np.asarray(frames)[: len(shown)],
        steps=steps,
        solved=bool(success[max(steps - 1, 0)]),
        ended=steps < len(going) or world.max_steps <= LONGEST,
        reward=float(np.sum(np.where(going, reward, 0.0))),
        thoughts=" ".join(world.phrases[phrase] for phrase in said if phrase >= 0),
        spoken="; ".join(str(spoken(world, action)) for action in actions[: min(steps, SPOKEN)])
        if slots_of(world)
        else "",
    )


def episode(world: World, key: PRNGKeyArray) -> tuple[State, Bool[Array, " t"], Bool[Array, " t"], Array, Array]:
    """The expert's way from a fresh state.

    Returns:
      The states before and after each of T steps, [T + 1, ...]; bool[T], which steps belong to the episode;
      bool[T], which were a success; float32[T], rewards; the actions, [T, ...].
    """
    reset_key, key = jax.random.split(key)
    first = world.reset(reset_key)

    def one(carry, key):
        state, going = carry
        action = world.expert(state, key)
        after, step = world.step(state, action)
        seen = after, going, step.success, step.reward, action
        return (after, going & ~(step.terminated | step.truncated)), seen

    keys = jax.random.split(key, min(world.max_steps, LONGEST))
    _, (later, going, success, reward, actions) = jax.lax.scan(one, (first, jnp.bool_(True)), keys)
    states = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), first, later)
    return states, going, success, reward, actions


def page(cards: Sequence[Card]) -> str:
    """The whole page."""
    families: dict[str, list[Card]] = {}
    for card in cards:
        families.setdefault(card.world.name.split("/")[0], []).append(card)
    parts = [_HEAD]
    links = "".join(f'<a href="#{_id(card)}">{html.escape(card.world.name)}</a>' for card in cards)
    parts.append(f"<header><h1>{len(cards)} worlds</h1><nav>{links}</nav></header><main>")
    for family, members in families.items():
        parts.append(f"<h2>{html.escape(family)}</h2>")
        parts += [_section(card) for card in members]
    return "\n".join([*parts, "</main></body></html>", ""])


def _section(card: Card) -> str:
    world = card.world
    height, width, _ = world.image_shape
    views = "".join(
        f'<img src="{_still(view)}" alt="view {number} of {html.escape(world.name)}">'
        for number, view in enumerate(card.views, 1)
    )
    end = "solved" if card.solved else "ended" if card.ended else f"the first {LONGEST} steps"
    told = f"The expert: {card.steps} steps, {end}, reward {card.reward:.2f}"
    facts = {
        "actions": ", ".join(world.actions),
        "words": ", ".join(f"{name}: {len(slot.words)}" for name, slot in slots_of(world).items()),
        "the expert did": card.spoken,
        "frames": f"{height} x {width}",
        "steps": f"at most {world.max_steps:,}",
        "thinks": card.thoughts,
        "options": ", ".join(_option(name, default) for name, default in card.options.items()),
    }
    rows = "".join(f"<dt>{name}</dt><dd>{html.escape(value)}</dd>" for name, value in facts.items() if value)
    return (
        f'<section id="{_id(card)}"><h3>{html.escape(world.name)}</h3>'
        f"<p class=task>{html.escape(world.instruction)}</p>"
        f'<div class=pictures><figure class=film><img src="{_film(card.frames)}" alt="an episode of the expert">'
        f"<figcaption>{html.escape(told)}</figcaption></figure><div class=views>{views}</div></div>"
        f"<dl>{rows}</dl></section>"
    )


def _option(name: str, default: Any) -> str:
    return name if default is inspect.Parameter.empty else f"{name} = {default!r}"


def _id(card: Card) -> str:
    return re.sub(r"[^\w.]+", "-", card.world.name)


def _still(picture: UInt8[np.ndarray, "h w 3"]) -> str:
    """A picture as a data URI."""
    return _encoded([picture])


def _film(frames: UInt8[np.ndarray, "f h w 3"]) -> str:
    """An endless animation, which rests on its last frame."""
    return _encoded(list(frames))


def _encoded(pictures: list[np.ndarray]) -> str:
    from PIL import Image  # the one place that makes files of pictures

    first, *others = [Image.fromarray(picture) for picture in pictures]
    buffer = io.BytesIO()
    moving = {"save_all": True, "append_images": others, "loop": 0} if others else {}
    if others:
        moving["duration"] = [MILLISECONDS] * len(others) + [10 * MILLISECONDS]
    first.save(buffer, "WEBP", lossless=max(pictures[0].shape) <= 128, quality=82, method=4, **moving)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _path(name: str) -> Path:
    """Where to write.

    Raises:
      ValueError: there is no such folder, or it is a folder itself.
    """
    path = Path(name)
    if not path.absolute().parent.is_dir() or path.is_dir():
        raise ValueError(f"out is {name!r}; accepted: a file in a folder that is there")
    return path


_HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Worlds</title><style>
:root { color-scheme: light dark; --ink: #1d2429; --soft: #5d6b75; --line: #dde3e7; --paper: #f6f8f9;
  --card: #fff }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6ebee; --soft: #9aa8b2; --line: #2b343a; --paper: #12171a; --card: #1a2125 }
}
* { box-sizing: border-box }
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, sans-serif }
header, main { max-width: 1180px; margin: auto; padding: 24px }
header { padding-bottom: 0 }
h1 { margin: 0 0 12px; font-size: 26px } h2 { margin: 8px 0 16px; color: var(--soft); font-weight: 500 }
h3 { margin: 0; font: 600 17px ui-monospace, monospace } .task { margin: 4px 0 14px }
nav { display: flex; flex-wrap: wrap; gap: 6px }
nav a { padding: 2px 9px; border: 1px solid var(--line); border-radius: 99px; color: inherit; font-size: 13px;
  text-decoration: none; background: var(--card) }
section { margin: 0 0 22px; padding: 20px; background: var(--card); border: 1px solid var(--line);
  border-radius: 10px }
.pictures { display: grid; grid-template-columns: 1fr 1fr; gap: 16px; align-items: start }
.views { display: grid; grid-template-columns: 1fr 1fr; gap: 8px }
img { display: block; width: 100%; border-radius: 5px; background: var(--line); border: 1px solid var(--line) }
.film img { image-rendering: pixelated }
figure { margin: 0 } figcaption { margin-top: 8px; color: var(--soft); font-size: 13px }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 3px 14px; margin: 16px 0 0; font-size: 13px }
dt { color: var(--soft) } dd { margin: 0; overflow-wrap: anywhere }
@media (max-width: 760px) { .pictures { grid-template-columns: 1fr } }
</style></head><body>"""


if __name__ == "__main__":
    sys.exit(main())
