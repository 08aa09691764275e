"""What a run has logged is still there, whole and readable, after whatever can happen to a run."""

from __future__ import annotations

import json
import os
import resource
import signal
import struct
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import masked_crc32c

from vldac.metrics import (
    METRICS_FILE,
    MetricsWriter,
    RunFileError,
    read_metrics,
    read_summary,
    write_atomically,
    write_summary,
)


def iterations(run: Path) -> list[int]:
    return [record["iteration"] for record in read_metrics(run)]


def write_iterations(run: Path, numbers, **options) -> None:
    with MetricsWriter(run, **options) as writer:
        for number in numbers:
            writer.write({"iteration": number, "loss": number / 2})


def events(run: Path) -> list[Event]:
    """All TensorBoard events of a run, checksums verified; a cut-off record at the end of a file is left out."""
    found = []
    for path in sorted((run / "tensorboard").iterdir(), key=lambda path: path.stat().st_mtime_ns):
        data = path.read_bytes()
        while len(data) >= 12:
            (length,) = struct.unpack("Q", data[:8])
            assert struct.unpack("I", data[8:12])[0] == masked_crc32c(data[:8])
            body, checksum = data[12 : 12 + length], data[12 + length : 16 + length]
            if len(checksum) < 4:
                break
            assert struct.unpack("I", checksum)[0] == masked_crc32c(body)
            found.append(Event.FromString(body))
            data = data[16 + length :]
    return found


def scalars(run: Path) -> list[tuple[int, str, float]]:
    return [(event.step, v.tag, v.simple_value) for event in events(run) for v in event.summary.value]


# --- what is written ---------------------------------------------------------------------------------------


def test_array_scalars_become_json_numbers_and_what_is_not_finite_becomes_null(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        writer.write(
            {
                "iteration": jnp.int32(0),
                "jax": jnp.float32(0.5),
                "bfloat16": jnp.bfloat16(1.5),
                "numpy_bfloat16": np.asarray(jnp.bfloat16(2.5)),
                "numpy": np.float32(0.25),
                "count": np.int64(2**40),
                "huge": 10**400,
                "flag": np.bool_(True),
                "text": "ja",
                "nothing": None,
                "nan": jnp.float32(jnp.nan),
                "inf": float("inf"),
                "bfloat16_inf": jnp.bfloat16(-jnp.inf),
                "histogram": jnp.array([1.0, jnp.nan]),
                "eval": {"a": (jnp.float32(1), [float("nan")])},
            }
        )
    (line,) = (tmp_path / METRICS_FILE).read_text().splitlines()
    assert json.loads(line, parse_constant=pytest.fail) == {
        "iteration": 0,
        "jax": 0.5,
        "bfloat16": 1.5,
        "numpy_bfloat16": 2.5,
        "numpy": 0.25,
        "count": 2**40,
        "huge": 10**400,
        "flag": True,
        "text": "ja",
        "nothing": None,
        "nan": None,
        "inf": None,
        "bfloat16_inf": None,
        "histogram": [1.0, None],
        "eval": {"a": [1.0, [None]]},
    }


@given(st.dictionaries(st.text(max_size=8), st.floats() | st.integers() | st.text(max_size=12), max_size=5))
def test_any_names_and_numbers_and_texts_come_back(tmp_path_factory, metrics):
    run = tmp_path_factory.mktemp("run")
    with MetricsWriter(run) as writer:
        writer.write({**metrics, "iteration": 3})
        writer.write({"iteration": 4})  # a line break in a text must not make two lines of one
    want = {k: None if isinstance(v, float) and not np.isfinite(v) else v for k, v in metrics.items()}
    assert read_metrics(run) == [{**want, "iteration": 3}, {"iteration": 4}]


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ({"loss": 1.0}, "no 'iteration'; they have loss"),
        ({"iteration": 1.0}, "iteration is 1.0; accepted: an integer"),
        ({"iteration": True}, "iteration is True"),
        ({"iteration": None}, "iteration is None"),
        ({"iteration": 0, "bad": object()}, "cannot be written as JSON"),
        ({"iteration": 0, "bad": 1j}, "cannot be written as JSON"),
    ],
)
def test_what_cannot_be_logged_is_refused_and_leaves_nothing(tmp_path, metrics, message):
    with MetricsWriter(tmp_path) as writer:
        with pytest.raises(ValueError, match=message):
            writer.write(metrics)
        writer.write({"iteration": 0})
    assert read_metrics(tmp_path) == [{"iteration": 0}]


def test_tensorboard_gets_the_same_numbers(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        for i in range(3):
            writer.write({"iteration": i, "train/loss": jnp.float32(i / 4), "eval/a/b/success_rate": np.nan})
            assert scalars(tmp_path)[-1] == (i, "train/loss", i / 4)  # on disk after each write
    first = events(tmp_path)[0]
    assert first.file_version == "brain.Event:2"
    assert scalars(tmp_path) == [(i, "train/loss", i / 4) for i in range(3)]


# --- resuming ----------------------------------------------------------------------------------------------


def test_resuming_forgets_what_came_after_the_checkpoint_and_a_cut_off_line(tmp_path):
    write_iterations(tmp_path, range(5))
    path = tmp_path / METRICS_FILE
    kept = b"".join(path.read_bytes().splitlines(keepends=True)[:3])
    path.write_bytes(path.read_bytes() + b'{"iteration": 5, "lo')
    assert iterations(tmp_path) == [0, 1, 2, 3, 4]

    write_iterations(tmp_path, [3], resume_from_iteration=2)
    assert path.read_bytes().startswith(kept)
    assert iterations(tmp_path) == [0, 1, 2, 3]
    assert sorted(p.name for p in tmp_path.iterdir()) == [METRICS_FILE, "tensorboard"]

    restart = [e for e in events(tmp_path) if e.session_log.status == SessionLog.START]
    assert [e.step for e in restart] == [3]  # TensorBoard drops what it had from there on
    assert len(list((tmp_path / "tensorboard").iterdir())) == 2


def test_a_cut_off_last_line_alone_is_enough_to_be_forgotten(tmp_path):
    write_iterations(tmp_path, range(2))
    with open(tmp_path / METRICS_FILE, "ab") as file:
        file.write(b'{"iteration": 2}')  # whole, but for the newline: it may have been longer
    write_iterations(tmp_path, [2], resume_from_iteration=7)
    assert [r.get("loss") for r in read_metrics(tmp_path)] == [0.0, 0.5, 1.0]


def test_resuming_where_nothing_was_logged_starts_the_file(tmp_path):
    write_iterations(tmp_path / "new", [0, 1], resume_from_iteration=-1)
    assert iterations(tmp_path / "new") == [0, 1]


def test_a_new_run_does_not_write_over_another(tmp_path):
    write_iterations(tmp_path, [0])
    with pytest.raises(RunFileError, match="holds the metrics of another run; resume it instead"):
        MetricsWriter(tmp_path)
    assert iterations(tmp_path) == [0]


@pytest.mark.parametrize(
    "broken",
    [b"\xff\xfe", b"{", b"[1]", b"{}", b'{"iteration": "1"}', b'{"iteration": true}', b"", b"\x00" * 40],
)
def test_an_unreadable_earlier_line_is_one_message_with_its_number(tmp_path, broken):
    write_iterations(tmp_path, range(3))
    path = tmp_path / METRICS_FILE
    lines = path.read_bytes().splitlines()
    lines[1] = broken
    path.write_bytes(b"\n".join(lines) + b"\n")
    before = path.read_bytes()
    for attempt in (lambda: read_metrics(tmp_path), lambda: MetricsWriter(tmp_path, resume_from_iteration=1)):
        with pytest.raises(RunFileError) as error:
            attempt()
        message = str(error.value)
        assert message.startswith(f"cannot read {path}: line 2: ") and "\n" not in message
    assert path.read_bytes() == before


# --- what can go wrong -------------------------------------------------------------------------------------

KILLED = """
import itertools, sys
from vldac.metrics import MetricsWriter
writer = MetricsWriter(sys.argv[1])
for i in itertools.count():
    writer.write({"iteration": i, "train/loss": i / 2, "padding": "x" * 500})
    print(i, flush=True)
"""


def test_kill_9_loses_no_iteration_that_was_logged(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", KILLED, tmp_path], stdout=subprocess.PIPE, text=True)
    for _ in range(50):
        last = int(process.stdout.readline())
    process.send_signal(signal.SIGKILL)
    logged = [last, *map(int, process.stdout.read().split())][-1]
    assert process.wait() == -signal.SIGKILL

    found = iterations(tmp_path)
    assert found == list(range(len(found))) and logged + 1 <= len(found) <= logged + 2
    losses = [(step, value) for step, tag, value in scalars(tmp_path) if tag == "train/loss"]
    assert losses[: logged + 1] == [(i, i / 2) for i in range(logged + 1)]

    write_iterations(tmp_path, [31], resume_from_iteration=30)
    assert iterations(tmp_path) == list(range(32))


def fill_until_full(run: Path) -> tuple[int, RunFileError]:
    """Logs until the disk is full; how many writes succeeded, and the error."""
    done = 0
    with pytest.raises(RunFileError) as error, MetricsWriter(run) as writer:
        while True:
            writer.write({"iteration": done, "padding": "x" * 300})
            done += 1
    return done, error.value


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 64 KiB."""
    mount = tmp_path / "disk"
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(mount)]
    try:
        result = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no mount here")
    if result.returncode:
        pytest.skip(f"may not mount a file system here: {result.stderr.strip()}")
    try:
        yield mount
    finally:
        subprocess.run(["umount", "-l", str(mount)], check=True)


def test_a_full_disk_ends_the_file_with_a_whole_line(small_disk):
    done, error = fill_until_full(small_disk / "run")
    assert str(error).startswith(f"cannot write {small_disk / 'run'}/")
    assert str(error).endswith(": No space left on device")
    assert 0 < done <= len(iterations(small_disk / "run"))
    assert (small_disk / "run" / METRICS_FILE).read_bytes().endswith(b"}\n")

    summary = small_disk / "run" / "summary.json"
    with pytest.raises(RunFileError, match=r"summary\.json: No space left on device"):
        write_summary(small_disk / "run", {"versions": {"jax": "x" * 70_000}})
    assert not summary.exists()
    assert sorted(p.name for p in summary.parent.iterdir()) == [METRICS_FILE, "tensorboard"]

    (small_disk / "run" / "tensorboard").rename(small_disk / "gone")
    for path in (small_disk / "gone").iterdir():
        path.unlink()  # somebody makes room, and the run goes on
    write_iterations(small_disk / "run", [done], resume_from_iteration=done - 1)
    assert iterations(small_disk / "run") == list(range(done + 1))


def test_a_write_that_ends_in_the_middle_of_a_line_is_taken_back(tmp_path):
    """The same by a limit on file sizes, which needs no mount and cuts `metrics.jsonl` itself."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limits[1]))
    try:
        done, error = fill_until_full(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert str(error) == f"cannot write {tmp_path / METRICS_FILE}: File too large"
    content = (tmp_path / METRICS_FILE).read_bytes()
    assert content.endswith(b"}\n") and len(content) < 5000 and 5000 % (len(content) / done) != 0
    assert iterations(tmp_path) == list(range(done))
    write_iterations(tmp_path, [done], resume_from_iteration=done - 1)
    assert iterations(tmp_path) == list(range(done + 1))


UNWRITABLE = """
import os
from pathlib import Path
from vldac.metrics import MetricsWriter, RunFileError, write_atomically
if os.getuid() == 0:
    os.setgid(65534), os.setuid(65534)
attempts = [(MetricsWriter, "."), (MetricsWriter, "run"), (write_atomically, Path("f"), b"")]
for function, *arguments in attempts:
    try:
        function(*arguments)
    except RunFileError as error:
        print(error)
"""


def test_an_unwritable_folder_is_one_message(tmp_path):
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o555)
    path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path if entry)
    result = subprocess.run(
        [sys.executable, "-c", UNWRITABLE],
        cwd=folder,  # a relative path: the folders above may be closed to the user that it becomes
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert result.stdout.splitlines() == [
        f"cannot write {METRICS_FILE}: Permission denied",
        f"cannot write run/{METRICS_FILE}: Permission denied",
        "cannot write f: Permission denied",
    ], result.stderr


def test_a_file_where_the_folder_should_be_is_one_message(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(RunFileError, match=r"^cannot write .*metrics\.jsonl: (File exists|Not a directory)$"):
        MetricsWriter(tmp_path / "run")


def test_a_disk_that_fails_does_not_hide_the_error_before(tmp_path, monkeypatch):
    with pytest.raises(ZeroDivisionError), MetricsWriter(tmp_path):
        monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(5, "Input/output error")))
        raise ZeroDivisionError
    monkeypatch.undo()
    with pytest.raises(RunFileError, match="tensorboard: Input/output error"), MetricsWriter(tmp_path):  # but says
        monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(5, "Input/output error")))


# --- the summary and other whole files ---------------------------------------------------------------------


def test_summary_comes_back_with_unknown_bounds_as_null(tmp_path):
    assert read_summary(tmp_path) == {}
    summary = {"success_rate": {"a/b": {"after": (np.float32(0.5), -np.inf, np.nan)}}, "note": "größer"}
    write_summary(tmp_path, summary)
    assert read_summary(tmp_path) == {"success_rate": {"a/b": {"after": [0.5, None, None]}}, "note": "größer"}


def test_a_broken_summary_is_one_message(tmp_path):
    for content in (b"[]", b"{", b"\xff", b"[" * 100_000):
        (tmp_path / "summary.json").write_bytes(content)
        with pytest.raises(RunFileError) as error:
            read_summary(tmp_path)
        assert "summary.json: " in str(error.value) and "\n" not in str(error.value)


def test_atomic_writing_keeps_the_old_file_until_the_new_one_is_whole(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "file"
    write_atomically(path, b"old")
    mask = os.umask(0o027)
    try:
        monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            write_atomically(path, b"new")
        assert path.read_bytes() == b"old" and os.listdir(path.parent) == ["file"]
        monkeypatch.undo()
        write_atomically(path, b"new")
    finally:
        os.umask(mask)
    assert path.read_bytes() == b"new" and os.listdir(path.parent) == ["file"]
    assert path.stat().st_mode & 0o777 == 0o640  # as any other file: not private, not the world's
