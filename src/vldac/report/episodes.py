"""Episodes worth looking at: what the model saw, said and did, in `episodes/<label>.npz` of the run.

* The arrays are NumPy's own, the texts are JSON bytes beside them: nothing is ever unpickled.
* A file holds all episodes of one label ("before", "after", ...) and is written whole or not at all.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vldac.metrics import RunFileError, write_atomically

EPISODES_FOLDER = "episodes"
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_ORDER = ("random", "before", "after", "expert")  # other labels follow, sorted


@dataclass(frozen=True)
class Episode:
    """One episode of T >= 1 steps, from the first observation to the last answer.

    Attributes:
      frames: uint8[T, H, W, 3], what the model saw before each answer.
      answers: T texts, all that the model wrote, as it wrote it.
      thoughts: T texts, the thoughts in the answers; "" where there are none.
      actions: T names of the actions in the answers; None where an answer names none.
      rewards: float32[T].
      success: the goal was reached, in the last step.
      world: registered name of the world.
      title: what the reader should know of the episode ("evaluation episode 3"); may be empty. Episodes of
        two labels stand side by side in the order in which they were saved.

    Raises:
      ValueError: a shape, dtype or length is another.
    """

    frames: np.ndarray
    answers: list[str]
    thoughts: list[str]
    actions: list[str | None]
    rewards: np.ndarray
    success: bool
    world: str
    title: str = ""

    def __post_init__(self):
        shape = self.frames.shape
        if self.frames.dtype != np.uint8 or len(shape) != 4 or shape[3] != 3 or 0 in shape:
            raise ValueError(
                f"frames is {self.frames.dtype}{list(shape)}; accepted: uint8[T, H, W, 3], none of them 0"
            )
        for field in ("answers", "thoughts", "actions", "rewards"):
            if len(getattr(self, field)) != shape[0]:
                raise ValueError(f"{field} has {len(getattr(self, field))} entries for {shape[0]} frames")
        if self.rewards.ndim != 1 or self.rewards.dtype != np.float32:
            raise ValueError(f"rewards is {self.rewards.dtype}{list(self.rewards.shape)}; accepted: float32[T]")
        texts = [
            *self.answers,
            *self.thoughts,
            *(a for a in self.actions if a is not None),
            self.world,
            self.title,
        ]
        if wrong := [text for text in texts if not isinstance(text, str)]:
            raise ValueError(f"{wrong[0]!r} where a text was expected")

    @property
    def steps(self) -> int:
        return len(self.frames)


def save_episodes(run_dir: str | Path, label: str, episodes: Sequence[Episode]) -> Path:
    """Writes the episodes of one label, in place of those that had it before.

    Args:
      run_dir: folder of the run.
      label: what they show; the report knows "random", "before", "after" and "expert", and takes any.
      episodes: in the order in which they are shown.

    Returns:
      The file, `<run_dir>/episodes/<label>.npz`.

    Raises:
      ValueError: the label is not made of letters, digits, "-" and "_".
      RunFileError: the file cannot be written; one of before stays.
    """
    if not _LABEL.fullmatch(label):
        raise ValueError(f'label is {label!r}; accepted: letters, digits, "-" and "_"')
    texts = [
        {
            "answers": episode.answers,
            "thoughts": episode.thoughts,
            "actions": episode.actions,
            "success": bool(episode.success),
            "world": episode.world,
            "title": episode.title,
        }
        for episode in episodes
    ]
    # Bytes, not a NumPy string: those lose trailing NULs, which a model may well write.
    arrays = {"texts": np.frombuffer(json.dumps(texts).encode(), dtype=np.uint8)}
    for i, episode in enumerate(episodes):
        arrays[f"frames_{i}"] = episode.frames
        arrays[f"rewards_{i}"] = episode.rewards
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    path = Path(run_dir) / EPISODES_FOLDER / f"{label}.npz"
    write_atomically(path, buffer.getvalue())
    return path


def load_episodes(
    run_dir: str | Path, on_error: Callable[[RunFileError], None] | None = None
) -> dict[str, list[Episode]]:
    """All saved episodes by label: random, before, after, expert, then any others in alphabetical order.

    Args:
      run_dir: folder of the run.
      on_error: told of each file that cannot be read, which is then left out; None raises instead.

    Raises:
      RunFileError: a file cannot be read, or holds something else.
    """
    labels = {path.stem: path for path in (Path(run_dir) / EPISODES_FOLDER).glob("*.npz") if path.stem[0] != "."}
    found = {}
    for label in sorted(labels, key=lambda name: (_ORDER.index(name) if name in _ORDER else len(_ORDER), name)):
        try:
            found[label] = _read(labels[label])
        except RunFileError as error:
            if on_error is None:
                raise
            on_error(error)
    return found


def _read(path: Path) -> list[Episode]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            texts = json.loads(arrays["texts"].tobytes())
            return [
                Episode(frames=arrays[f"frames_{i}"], rewards=arrays[f"rewards_{i}"], **text)
                for i, text in enumerate(texts)
            ]
    except Exception as error:  # zip, zlib, NumPy's header, JSON and the record each have their own
        reason = error if isinstance(error, OSError) else f"not a file of episodes ({type(error).__name__})"
        raise RunFileError("read", path, reason) from error
