"""Episodes come back as they were, and a file that holds something else is one message."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vldac.metrics import RunFileError
from vldac.report.episodes import Episode, load_episodes, save_episodes


def episode(steps=3, height=4, width=6, seed=0, **changes):
    rng = np.random.default_rng(seed)
    return Episode(
        **{
            "frames": rng.integers(0, 256, (steps, height, width, 3), dtype=np.uint8),
            "answers": [f"answer {t}" for t in range(steps)],
            "thoughts": [f"thought {t}" for t in range(steps)],
            "actions": ["go" if t % 2 else None for t in range(steps)],
            "rewards": rng.normal(size=steps).astype(np.float32),
            "success": True,
            "world": "family/task",
            "title": "episode 1",
            **changes,
        }
    )


def same(a: Episode, b: Episode) -> bool:
    return all(
        np.array_equal(getattr(a, name), getattr(b, name))
        and type(getattr(a, name)) is type(getattr(b, name))
        and getattr(getattr(a, name), "dtype", None) == getattr(getattr(b, name), "dtype", None)
        for name in Episode.__dataclass_fields__
    )


# Everything a model can write: NULs, line breaks, half surrogate pairs.
anything = st.text(st.characters(), max_size=20)


@given(st.lists(st.tuples(anything, anything, st.none() | anything), min_size=1, max_size=4), anything)
def test_any_words_come_back(tmp_path_factory, words, title):
    run = tmp_path_factory.mktemp("run")
    answers, thoughts, actions = (list(column) for column in zip(*words, strict=True))
    saved = episode(steps=len(words), answers=answers, thoughts=thoughts, actions=actions, title=title)
    save_episodes(run, "after", [saved])
    (loaded,) = load_episodes(run)["after"]
    assert same(saved, loaded)


def test_episodes_of_different_sizes_and_labels_come_back_in_reading_order(tmp_path):
    saved = [episode(1, 2, 3), episode(5, 8, 4, seed=1, success=False)]
    for label in ("iteration-10", "expert", "after", "before", "empty"):
        path = save_episodes(tmp_path, label, saved if label != "empty" else [])
        assert path == tmp_path / "episodes" / f"{label}.npz"
    loaded = load_episodes(tmp_path)
    assert list(loaded) == ["before", "after", "expert", "empty", "iteration-10"]
    assert loaded["empty"] == []
    for label in ("before", "iteration-10"):
        assert all(same(a, b) for a, b in zip(loaded[label], saved, strict=True))


def test_saving_again_replaces(tmp_path):
    save_episodes(tmp_path, "before", [episode(), episode()])
    save_episodes(tmp_path, "before", [episode(seed=7)])
    assert [e.frames[0, 0, 0, 0] for e in load_episodes(tmp_path)["before"]] == [
        episode(seed=7).frames[0, 0, 0, 0]
    ]
    assert [p.name for p in (tmp_path / "episodes").iterdir()] == ["before.npz"]


def test_no_episodes_are_no_error(tmp_path):
    assert load_episodes(tmp_path) == {}


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("something was unpickled",))


def broken_files(folder):
    good = save_episodes(folder, "good", [episode()]).read_bytes()
    yield b""
    yield b"no zip at all"
    yield good[: len(good) // 2]
    yield good[:60] + bytes(20) + good[80:]
    for arrays in (
        {"other": np.zeros(3)},
        {"texts": np.frombuffer(b"[{}]", np.uint8), "frames_0": np.zeros((1, 1, 1, 3), np.uint8)},
        {"texts": np.frombuffer(b"{", np.uint8)},
        {"texts": np.array([Bomb()], dtype=object)},
    ):
        path = folder / "scratch.npz"
        np.savez(path, **arrays)
        yield path.read_bytes()
    wrong = json.loads(np.load(folder / "episodes" / "good.npz")["texts"].tobytes())
    wrong[0]["answers"] = wrong[0]["answers"][:-1]  # one answer short
    arrays = dict(np.load(folder / "episodes" / "good.npz"))
    np.savez(path, **{**arrays, "texts": np.frombuffer(json.dumps(wrong).encode(), np.uint8)})
    yield path.read_bytes()
    yield pickle.dumps(Bomb())


def test_a_broken_file_is_one_message_and_the_others_are_still_read(tmp_path):
    for number, content in enumerate(broken_files(tmp_path / "source")):
        run = tmp_path / str(number)
        save_episodes(run, "before", [episode()])
        (run / "episodes" / "after.npz").write_bytes(content)
        with pytest.raises(RunFileError) as error:
            load_episodes(run)
        assert "after.npz: not a file of episodes" in str(error.value) and "\n" not in str(error.value)
        told = []
        assert list(load_episodes(run, on_error=told.append)) == ["before"]
        assert [str(e) for e in told] == [str(error.value)]


@pytest.mark.parametrize("label", ["", "..", "a/b", "a b", ".hidden", "ä", "a\n"])
def test_labels_that_are_no_file_names_are_refused(tmp_path, label):
    with pytest.raises(ValueError, match="label is"):
        save_episodes(tmp_path, label, [])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frames": np.zeros((3, 4, 6, 3), np.float32)}, r"frames is float32\[3, 4, 6, 3\]; accepted: uint8"),
        ({"frames": np.zeros((4, 6, 3), np.uint8)}, r"frames is uint8\[4, 6, 3\]"),
        ({"frames": np.zeros((3, 4, 6, 1), np.uint8)}, "frames is"),
        ({"frames": np.zeros((0, 4, 6, 3), np.uint8)}, "frames is"),
        ({"answers": ["a"]}, "answers has 1 entries for 3 frames"),
        ({"actions": [None] * 4}, "actions has 4 entries for 3 frames"),
        ({"rewards": np.zeros(2, np.float32)}, "rewards has 2 entries for 3 frames"),
        ({"rewards": np.zeros(3)}, r"rewards is float64\[3\]"),
    ],
)
def test_a_record_that_does_not_fit_together_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        episode(**changes)
