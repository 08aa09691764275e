"""The original MiniWorld, one environment at a time: `python -m experiments.peers.miniworld_gl`.

    python -m experiments.peers.miniworld_gl miniworld/four_rooms miniworld/maze --repeats 3

Random actions, every step with its frame, episodes that end replaced. Without a display an X server that shows
nothing is started, which draws on the CPU. Prints JSON, one row a world; what it can not name is left out.
Exit codes: 0 done; 2 MiniWorld is not installed, there is neither a display nor Xvfb, or no world is its own.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

PROGRAM = "python -m experiments.peers.miniworld_gl"
FAMILY = "miniworld/"
STEPS = 400  # of one repetition


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns its exit code."""
    parser = argparse.ArgumentParser(prog=PROGRAM)
    parser.add_argument("worlds", nargs="+", help="names of ours, as miniworld/four_rooms")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--image", type=int, nargs=2, default=(60, 80), metavar=("HIGH", "WIDE"))
    asked = parser.parse_args(arguments)
    if importlib.util.find_spec("miniworld") is None:
        print("error: the original is not installed: pip install miniworld==2.1.0", file=sys.stderr)
        return 2
    with contextlib.ExitStack() as stack:
        if not os.environ.get("DISPLAY"):
            if shutil.which("Xvfb") is None:
                print("error: there is no display for the original, and no Xvfb (Debian: xvfb)", file=sys.stderr)
                return 2
            os.environ["DISPLAY"] = stack.enter_context(_display())
        with contextlib.redirect_stdout(sys.stderr):  # it prints what it falls back to
            names = [name for name in asked.worlds if is_original(name)]
            rows = [measure(name, asked.repeats, tuple(asked.image)) for name in names]
    if not rows:
        print(
            f"error: worlds is {' '.join(asked.worlds)}; accepted: tasks of the original, no options",
            file=sys.stderr,
        )
        return 2
    print(json.dumps(rows))
    return 0


def original_name(name: str) -> str:
    """Worked example: miniworld/one_room_s6_fast -> MiniWorld-OneRoomS6Fast-v0."""
    words = name.removeprefix(FAMILY).split("_")
    return f"MiniWorld-{''.join(word.capitalize() for word in words)}-v0"


def is_original(name: str) -> bool:
    """Whether the original has this task as ours is by default. An option would have to be given to both."""
    import gymnasium
    import miniworld  # noqa: F401  registers its tasks

    return name.startswith(FAMILY) and original_name(name) in gymnasium.registry


def measure(name: str, repeats: int, image: tuple[int, int]) -> dict[str, Any]:
    """Seconds of `STEPS` steps, `repeats` times after one that is not counted; the fields of a row."""
    import gymnasium

    height, width = image
    env = gymnasium.make(original_name(name), obs_height=height, obs_width=width)
    env.reset(seed=0)
    draw = random.Random(0)
    seconds = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        for _ in range(STEPS):
            _, _, terminated, truncated, _ = env.step(draw.randrange(int(env.action_space.n)))
            if terminated or truncated:
                env.reset()
        seconds.append(time.perf_counter() - started)
    env.close()
    return {
        "what": f"{name}, step and render",
        "size": {"worlds": 1, "high": height, "wide": width, "steps": STEPS},
        "seconds": seconds[1:],
        "counts": {"env_steps": STEPS, "frames": STEPS},
    }


@contextlib.contextmanager
def _display() -> Iterator[str]:
    """Number of a display that nobody sees."""
    read, write = os.pipe()
    command = ["Xvfb", "-displayfd", str(write), "-screen", "0", "1024x768x24", "-nolisten", "tcp"]
    server = subprocess.Popen(command, pass_fds=(write,), stderr=subprocess.DEVNULL)
    os.close(write)
    try:
        with os.fdopen(read) as pipe:
            yield f":{pipe.readline().strip()}"
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    sys.exit(main())
