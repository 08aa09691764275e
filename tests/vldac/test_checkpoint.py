"""Checkpoints come back bit for bit or not at all, whatever is done to their files, disk and process."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import nnx, struct

from vldac.checkpoint import Checkpointer, CheckpointError, CheckpointMismatch
from vldac.metrics import RunFileError


@struct.dataclass
class World:
    key: Any
    image: Any
    steps: Any
    task: str = struct.field(pytree_node=False, default="box")


class Model(nnx.Module):
    def __init__(self, rngs):
        self.layers = nnx.List([nnx.Linear(2, 3, rngs=rngs) for _ in range(2)])
        self.dropout = nnx.Dropout(0.1, rngs=rngs)


def bits(leaf) -> tuple:
    """Everything that must come back: what it is, where it is, and every bit."""
    if isinstance(leaf, jax.Array):
        place = (leaf.sharding, leaf.committed, getattr(leaf, "weak_type", None))  # keys have no such thing
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        return place, leaf.dtype, leaf.shape, np.asarray(leaf).tobytes()
    if isinstance(leaf, np.ndarray | np.generic):
        return type(leaf), leaf.dtype, leaf.shape, leaf.tobytes()
    return type(leaf), repr(leaf)


def assert_same(got, want):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for (path, a), (_, b) in zip(*map(jax.tree_util.tree_leaves_with_path, (got, want)), strict=True):
        assert bits(a) == bits(b), jax.tree_util.keystr(path)


def everything():
    """One leaf or node of every kind that a run may hold."""
    params = {"w": jnp.arange(6.0).reshape(2, 3), "b": jnp.ones(3, jnp.bfloat16)}
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(optax.cosine_decay_schedule(1e-3, 10)))
    odd = np.array([0x7FC00001, 0x80000000, 0x00000001, 0x7F800000, 0xFF800000], np.uint32).view(np.float32)
    return {
        "params": params,
        "optimizer": optimizer.init(params),
        "module": nnx.split(Model(nnx.Rngs(0)))[1],
        "worlds": World(
            key=jax.random.split(jax.random.key(1), 3),
            image=jax.random.randint(jax.random.key(2), (3, 6, 8, 3), 0, 256).astype(jnp.uint8),
            steps=jnp.array([0, 2**31 - 1, -(2**31)], jnp.int32),
        ),
        "key": jax.random.key(3),
        "other generator": jax.random.key(4, impl="rbg"),
        "closing": jnp.array([True, False, True]),
        "nothing": None,
        "no elements": jnp.zeros((0, 4)),
        "negative zeros": -jnp.zeros((3, 5)),  # a store that leaves out what equals zero would lose the sign
        "NaN with a payload, -0, a denormal, infinities": jnp.asarray(odd),
        "a/b": {"b": jnp.uint32(2**32 - 1)},
        "a": {"b.c": jnp.float16(1.5), "b": {"c": jnp.float32(2.5)}},
        "weak": jnp.asarray(2.0),
        "weak vector": jnp.broadcast_to(jnp.asarray(2.0), (3,)),
        "committed": jax.device_put(jnp.arange(3), jax.devices()[0]),
        "numpy": np.arange(4, dtype=np.int64) * 2**40,
        "numpy scalar": np.float64(0.1),
        "python": [7, 0.1, True, (False, -1)],
    }


def small(iteration: int) -> dict:
    """A state of two arrays that says which iteration it is of."""
    return {"x": jnp.full((64, 64), iteration, jnp.float32), "n": jnp.int32(iteration)}


def saved(folder: Path, *iterations: int, keep: int = 9) -> Path:
    with Checkpointer(folder, keep) as checkpointer:
        for iteration in iterations:
            checkpointer.save(iteration, small(iteration))
    return folder


def restored(folder: Path, like=None):
    with Checkpointer(folder) as checkpointer:
        return checkpointer.restore(small(0) if like is None else like)


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


# ------------------------------------------------------------------------------------------------ round trip


def test_every_kind_of_leaf_comes_back_bit_for_bit(tmp_path):
    state, extra = everything(), {"env_steps": 2**40, "seconds": {"rollout": 0.1 + 0.2}, "config": ["a", None]}
    with Checkpointer(tmp_path / "run" / "checkpoints") as checkpointer:
        checkpointer.save(12, state, extra)
        got = checkpointer.restore(state)
    assert (got.iteration, got.extra, got.notes) == (12, extra, [])
    assert_same(got.state, state)
    # The generators go on as if nothing had happened.
    for name in ("key", "other generator"):
        assert_same(jax.random.normal(got.state[name], 3), jax.random.normal(state[name], 3))


def test_restores_from_shapes_alone(tmp_path):
    state = {name: leaf for name, leaf in everything().items() if not name.startswith(("python", "numpy"))}
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(1, state)
        got = checkpointer.restore(jax.eval_shape(lambda: state)).state
    assert jax.tree.structure(got) == jax.tree.structure(state)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(state), strict=True):
        assert bits(a)[1:] == bits(b)[1:]


def test_restores_onto_the_devices_of_like(tmp_path):
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    saved(tmp_path, 1)
    got = restored(
        tmp_path, {"x": jax.ShapeDtypeStruct((64, 64), jnp.float32, sharding=device), "n": jnp.int32(0)}
    )
    assert got.state["x"].committed and got.state["x"].sharding == device
    assert not got.state["n"].committed


def test_arrays_are_readable_with_orbax_alone(tmp_path):
    saved(tmp_path, 3)
    arrays = ocp.StandardCheckpointer().restore(tmp_path / "00000003" / "state")
    np.testing.assert_array_equal(arrays["['x']"], np.full((64, 64), 3.0))


def test_sums_are_those_of_sha256sum(tmp_path):
    if not shutil.which("sha256sum"):
        pytest.skip("no sha256sum on this machine")
    folder = saved(tmp_path, 3) / "00000003"
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=folder, check=True, capture_output=True)


def test_nothing_saved_is_none(tmp_path):
    assert restored(tmp_path / "absent") is None
    assert restored(tmp_path) is None
    (tmp_path / ".00000001.partial").mkdir()  # killed in its first save: nothing was ever finished
    assert restored(tmp_path) is None


# ----------------------------------------------------------------------------------------------- asynchronous


@pytest.fixture
def held(tmp_path, monkeypatch):
    """A Checkpointer whose thread does not begin to write before the event is set."""
    go = threading.Event()
    write = Checkpointer._write

    def write_when_told(*args):
        go.wait()
        write(*args)

    monkeypatch.setattr(Checkpointer, "_write", write_when_told)
    with Checkpointer(tmp_path) as checkpointer:
        yield checkpointer, go
        go.set()


def test_the_state_may_be_donated_and_overwritten_as_soon_as_save_returns(held):
    checkpointer, go = held
    state = {"x": jnp.arange(100_000.0), "key": jax.random.key(0), "numpy": np.arange(5)}
    want = jax.tree.map(lambda leaf: leaf.copy(), state)
    checkpointer.save(1, state)

    @jax.jit
    def overwritten(state):
        return {"x": -state["x"] - 1, "key": jax.random.split(state["key"])[0]}

    overwritten = jax.jit(overwritten, donate_argnums=0)
    on_device = overwritten({"x": state["x"], "key": state["key"]})
    assert state["x"].is_deleted()  # the copy kept no view of the buffer: it was free to be donated
    for _ in range(3):
        on_device = overwritten(on_device)
    state["numpy"][:] = -1
    assert not names(checkpointer.folder)
    go.set()
    got = checkpointer.restore(state).state  # whose own arrays are gone: only shapes and places are looked at
    assert_same(got, want)


def test_saves_queue_and_blocking_waits(held):
    checkpointer, go = held
    checkpointer.save(1, small(1))
    threading.Timer(0.05, go.set).start()
    checkpointer.save(2, small(2), blocking=True)
    assert names(checkpointer.folder) == ["00000001", "00000002"]


def test_works_where_transfers_are_disallowed(tmp_path):
    state = everything()
    with jax.transfer_guard("disallow"), Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(1, state)
        got = checkpointer.restore(state)
    assert_same(got.state, state)


# -------------------------------------------------------------------------------------------------- retention


def test_the_newest_are_kept(tmp_path):
    assert names(saved(tmp_path, 1, 2, 3, 5, 8, keep=3)) == ["00000003", "00000005", "00000008"]
    assert names(saved(tmp_path, 13, keep=1)) == ["00000013"]  # also of those that another process wrote


def test_the_same_iteration_saved_again_counts_as_the_newer_one(tmp_path):
    with Checkpointer(tmp_path, keep=2) as checkpointer:
        for value in (1, 2, 3):
            checkpointer.save(7, small(value))
        got = checkpointer.restore(small(0))
    assert (got.iteration, int(got.state["n"])) == (7, 3)
    assert names(tmp_path) == ["00000007-1", "00000007-2"]


def test_damaged_checkpoints_are_neither_deleted_nor_counted(tmp_path):
    saved(tmp_path, 1, 2, 3, 4)
    flip(tmp_path / "00000004" / "meta.json")
    flip(tmp_path / "00000001" / "meta.json")
    saved(tmp_path, 5, keep=2)
    assert names(tmp_path) == ["00000001", "00000003", "00000004", "00000005"]
    saved(tmp_path, 6, keep=1)
    assert names(tmp_path) == ["00000001", "00000004", "00000006"]


def test_a_run_that_fell_back_overtakes_the_damaged_one(tmp_path):
    saved(tmp_path, 1, 2)
    flip(tmp_path / "00000002" / "meta.json")
    saved(tmp_path, 2)
    got = restored(tmp_path)
    assert (got.iteration, got.notes) == (2, [])
    assert names(tmp_path) == ["00000001", "00000002", "00000002-1"]


def test_leftovers_of_a_kill_are_cleared_by_the_next_save(tmp_path):
    saved(tmp_path, 1)
    shutil.copytree(tmp_path / "00000001", tmp_path / ".00000002.partial")
    shutil.copytree(tmp_path / "00000001", tmp_path / ".00000000.old")
    (tmp_path / "notes").mkdir()  # not ours
    assert names(saved(tmp_path, 2)) == ["00000001", "00000002", "notes"]


# ----------------------------------------------------------------------------------------------------- damage


def flip(path: Path, seed: int = 0):
    content = bytearray(path.read_bytes())
    content[np.random.default_rng(seed).integers(len(content))] ^= 1 << seed % 8
    path.write_bytes(content)


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Checkpoints of iterations 1 and 2, to copy and damage."""
    return saved(tmp_path_factory.mktemp("two"), 1, 2)


def falls_back(folder: Path, damaged: Path):
    before = {path: path.read_bytes() for path in files(folder)}
    got = restored(folder)
    assert (got.iteration, int(got.state["n"])) == (1, 1)
    np.testing.assert_array_equal(got.state["x"], np.ones((64, 64)))
    assert len(got.notes) == 1
    assert got.notes[0].startswith(f"{damaged}: ") and "\n" not in got.notes[0]
    assert {path: path.read_bytes() for path in files(folder)} == before  # nothing is deleted or moved
    return got.notes[0]


@pytest.mark.parametrize("damage", ["flip", "truncate", "garbage", "remove", "empty"])
def test_damage_to_any_file_is_noticed(two, tmp_path, damage):
    all_files = [path.relative_to(two) for path in files(two / "00000002")]
    assert len(all_files) >= 5
    for number, name in enumerate(all_files):
        folder = shutil.copytree(two, tmp_path / str(number))
        path, content = folder / name, (folder / name).read_bytes()
        if not content and damage != "remove":  # Orbax marks its own success with an empty file
            continue
        if damage == "flip":
            flip(path, number)
        elif damage == "truncate":
            path.write_bytes(content[: len(content) // 2])
        elif damage == "garbage":
            path.write_bytes(np.random.default_rng(number).bytes(len(content)))
        elif damage == "remove":
            path.unlink()
        else:
            path.write_bytes(b"")
        note = falls_back(folder, folder / "00000002")
        assert damage != "remove" or f"{name.relative_to('00000002')} is missing" in note


def test_other_things_in_place_of_a_checkpoint(two, tmp_path):
    def case(name, make):
        folder = shutil.copytree(two, tmp_path / name)
        newest = folder / "00000002"
        make(folder, newest)
        return falls_back(folder, newest)

    def a_file(folder, newest):
        shutil.rmtree(newest)
        newest.write_bytes(b"\x00\x01")

    def nothing_in_it(folder, newest):
        shutil.rmtree(newest)
        newest.mkdir()

    def without_arrays(folder, newest):
        shutil.rmtree(newest / "state")

    def one_file_more(folder, newest):
        (newest / "state" / "more").write_bytes(b"")

    def another_one(folder, newest):  # whole, but not what its name says
        shutil.rmtree(newest)
        shutil.copytree(folder / "00000001", newest)

    def only_the_list(folder, newest):
        nothing_in_it(folder, newest)
        (newest / "SHA256SUMS").write_bytes(b"")

    assert "Not a directory" in case("file", a_file)
    assert "SHA256SUMS is missing" in case("empty", nothing_in_it)
    assert "is missing" in case("arrays", without_arrays)
    assert "state/more is not listed" in case("more", one_file_more)
    assert "written as that of iteration 1" in case("copy", another_one)
    assert "meta.json is missing" in case("list", only_the_list)


def test_an_interrupted_save_is_told(two, tmp_path):
    folder = shutil.copytree(two, tmp_path / "run")
    os.rename(folder / "00000002", folder / ".00000002.partial")
    assert "interrupted" in falls_back(folder, folder / ".00000002.partial")


def test_damaged_ones_are_told_newest_first_and_none_left_is_an_error(tmp_path):
    saved(tmp_path, 1, 2, 3)
    flip(tmp_path / "00000002" / "meta.json")
    flip(tmp_path / "00000003" / "meta.json")
    got = restored(tmp_path)
    assert got.iteration == 1
    assert [Path(note.partition(":")[0]).name for note in got.notes] == ["00000003", "00000002"]
    flip(tmp_path / "00000001" / "meta.json")
    with pytest.raises(
        CheckpointError, match=r"^cannot restore .*no checkpoint is whole \(.*meta.json is damaged"
    ) as e:
        restored(tmp_path)
    assert "\n" not in str(e.value)


# --------------------------------------------------------------------------------------------------- mismatch


def test_another_configuration_is_named_by_its_first_leaf_and_not_fallen_back_from(tmp_path):
    state = {"params": {"head": jnp.zeros((3, 4)), "key": jax.random.key(0)}, "step": 1}
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(1, small(1))
        checkpointer.save(2, state)

        def message(**changed):
            with pytest.raises(CheckpointMismatch) as e:
                checkpointer.restore({"params": state["params"] | changed, "step": 1})
            assert isinstance(e.value, ValueError) and isinstance(e.value, CheckpointError)
            assert str(tmp_path / "00000002") in str(e.value) and "\n" not in str(e.value)
            return str(e.value)

        shape = message(head=jnp.zeros((3, 5)), key=jax.random.key(0, impl="rbg"))
        assert "state['params']['head'] is float32[3,5] here and float32[3,4] in the checkpoint" in shape
        assert "is bfloat16[3,4] here" in message(head=jnp.zeros((3, 4), jnp.bfloat16))
        assert "is key<rbg>[] here and key<fry>[] in" in message(key=jax.random.key(0, impl="rbg"))
        assert "['key'] is key<fry>[] in the checkpoint and not here" in message(key=None)
        assert "['more'] is float32[1] here and not in the checkpoint" in message(more=jnp.zeros(1))
        with pytest.raises(CheckpointMismatch, match=r"\['step'\] is float here and int in the checkpoint"):
            checkpointer.restore(state | {"step": 1.0})
        with pytest.raises(CheckpointMismatch, match=r"\['step'\] is int in the checkpoint and not here"):
            checkpointer.restore({"params": state["params"]})


def test_another_optimizer_is_a_mismatch(tmp_path):
    params = {"w": jnp.zeros(2)}
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(1, optax.adam(1e-3).init(params))
        with pytest.raises(CheckpointMismatch, match=r"state\[0\].trace\['w'\] is float32\[2\] here"):
            checkpointer.restore(optax.sgd(1e-3, momentum=0.9).init(params))


def test_another_format_is_told(tmp_path):
    saved(tmp_path, 1)
    meta = tmp_path / "00000001" / "meta.json"
    meta.write_text(json.dumps(json.loads(meta.read_text()) | {"format": 2}))
    sums = "".join(
        f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.relative_to(meta.parent)}\n"
        for file in files(meta.parent)
        if file.name != "SHA256SUMS"
    )
    (meta.parent / "SHA256SUMS").write_text(sums)
    with pytest.raises(CheckpointMismatch, match="format is 2; accepted: 1"):
        restored(tmp_path)


# -------------------------------------------------------------------------------------------------- bad input


def test_bad_input_is_refused(tmp_path):
    with pytest.raises(ValueError, match="keep is 0; accepted: 1 or more"):
        Checkpointer(tmp_path, keep=0)
    with Checkpointer(tmp_path / "run") as checkpointer:
        with pytest.raises(ValueError, match="iteration is -1"):
            checkpointer.save(-1, small(1))
        with pytest.raises(ValueError, match=r"state\['name'\] is of type str"):
            checkpointer.save(1, {"name": "text"})
        with pytest.raises(ValueError, match=r"state\['name'\] is of type object"):
            checkpointer.save(1, {"name": np.array([None])})
        with pytest.raises(ValueError, match=r"extra cannot be saved as JSON: .*float32"):
            checkpointer.save(1, small(1), {"reward": np.float32(1)})
    assert not (tmp_path / "run").exists()


# -------------------------------------------------------------------------------------------------- bad disks


def test_a_failing_write_is_raised_in_the_callers_thread_once(tmp_path, monkeypatch):
    saved(tmp_path, 1)
    full = ValueError(
        'RESOURCE_EXHAUSTED: Error writing "x/0.0" in OCDBT database:\n Failed to write 9 bytes: No space left on'
        " device [os_error_code='28']"
    )

    def save(self, folder, args):
        (folder / "half").mkdir(parents=True)
        raise full

    with Checkpointer(tmp_path) as checkpointer:
        with monkeypatch.context() as patch:
            patch.setattr(ocp.Checkpointer, "save", save)
            for call in (
                checkpointer.wait,
                lambda: checkpointer.save(3, small(3)),
                lambda: checkpointer.restore(small(0)),
                lambda: checkpointer.save(3, small(3), blocking=True),
            ):
                checkpointer.save(2, small(2))  # returns: it is the next call that hears of it
                with pytest.raises(CheckpointError) as e:
                    call()
                assert str(e.value) == f"cannot save {tmp_path}/00000002: No space left on device"
                assert isinstance(e.value, OSError) and isinstance(e.value, RunFileError) and e.value.errno == 28
                checkpointer.wait()  # told once
                assert names(tmp_path) == ["00000001"]  # nothing half written takes up the room
        assert checkpointer.restore(small(0)).iteration == 1
        checkpointer.save(2, small(2))  # there is room again
        assert checkpointer.restore(small(0)).iteration == 2


def test_a_full_disk_is_noticed_before_orbax_is_asked(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**6, 10**6 - 100, 100))
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(1, small(1))
        with pytest.raises(CheckpointError, match=r"00000001: No space left on device \([\d.]+ MB are needed\)$"):
            checkpointer.wait()


def test_close_raises_too(tmp_path, monkeypatch):
    monkeypatch.setattr(ocp.Checkpointer, "save", lambda *args, **kwargs: 1 / 0)
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(1, small(1))
    with pytest.raises(CheckpointError, match="00000001: ZeroDivisionError"):
        checkpointer.close()
    checkpointer.close()  # harmless when repeated


def test_a_file_in_place_of_the_folder(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "checkpoints"):
        with Checkpointer(folder) as checkpointer:
            with pytest.raises(CheckpointError, match=rf"^cannot save {folder}: (Not a directory|File exists)$"):
                checkpointer.save(1, small(1))
            with pytest.raises(CheckpointError, match=rf"^cannot read {folder}: Not a directory$"):
                checkpointer.restore(small(1))


@pytest.fixture
def tmpfs(tmp_path):
    """Mounts a small file system of its own; needs the right to."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(*options):
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", folder], capture_output=True
        )
        if done.returncode:
            pytest.skip("may not mount")

    try:
        mount("size=4m")
        yield folder, mount
    except FileNotFoundError:
        pytest.skip("no mount on this machine")
    finally:
        subprocess.run(["umount", folder], capture_output=True)


def test_a_really_full_disk(tmpfs, capfd):
    folder, _ = tmpfs
    noise = {"x": jax.random.normal(jax.random.key(0), (3 * 2**18,))}  # 3 MiB that do not compress
    with Checkpointer(folder / "run") as checkpointer:
        checkpointer.save(1, noise, blocking=True)
        checkpointer.save(2, noise)
        with pytest.raises(CheckpointError, match=r"00000002: No space left on device \([\d.]+ MB are needed\)$"):
            checkpointer.wait()
        got = checkpointer.restore(noise)
        assert got.iteration == 1
        assert_same(got.state, noise)
    assert capfd.readouterr() == ("", "")


def test_an_unwritable_folder(tmpfs):
    folder, mount = tmpfs
    saved(folder, 1)
    mount("remount", "ro")
    with Checkpointer(folder) as checkpointer:
        checkpointer.save(2, small(2))
        with pytest.raises(CheckpointError, match=rf"^cannot save {folder}/00000002: Read-only file system$"):
            checkpointer.wait()
        assert checkpointer.restore(small(0)).iteration == 1  # and reading needs no right to write
    below = Checkpointer(folder / "below")
    with pytest.raises(CheckpointError, match=rf"^cannot save {folder}/below: Read-only file system$"):
        below.save(2, small(2))
    below.close()


# ------------------------------------------------------------------------------------------------------ kills

# Forks one child after another before JAX has made threads; each resumes, checks what it found against
# f(iteration), and saves on until it is killed.
KILLED = """
import json, os, random, shutil, signal, sys, time
from pathlib import Path
import jax, jax.numpy as jnp, numpy as np
from vldac.checkpoint import Checkpointer

folder, how = Path(sys.argv[1]), sys.argv[2]
KEEP = 2

def state(n):
    rng = np.random.default_rng(n)
    return {"n": n, "key": jax.random.fold_in(jax.random.key(0), n), "x": jnp.full((300, 300), n, jnp.float32),
            **{f"w{i}": rng.standard_normal((50, 40)).astype(np.float32) for i in range(20)}}

def resume(checkpointer):
    restored = checkpointer.restore(state(0))
    if restored is None:
        os.write(pipe[1], b"-1")
        return -1
    n = restored.iteration
    assert restored.extra == {"n": n}
    for got, want in zip(*(jax.tree.leaves(s) for s in (restored.state, state(n))), strict=True):
        if hasattr(got, "dtype") and jax.dtypes.issubdtype(got.dtype, jax.dtypes.prng_key):
            got, want = jax.random.key_data(got), jax.random.key_data(want)
        assert np.asarray(got).tobytes() == np.asarray(want).tobytes()
    assert all(".partial: half written" in note for note in restored.notes), restored.notes
    os.write(pipe[1], str(n).encode())
    return n

def forked(child):
    pid = os.fork()
    if pid == 0:
        try:
            child()
            os._exit(0)
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(1)
    return pid

def count(prefix, suffix=""):
    return sum(e.name.startswith(prefix) and e.name.endswith(suffix) for e in folder.iterdir())

pipe = os.pipe()
folder.mkdir(parents=True, exist_ok=True)
result = {"kills": 0, "partial": 0, "newest": -1}

if how == "random":
    random.seed(0)
    def child():
        with Checkpointer(folder, KEEP) as checkpointer:
            n = resume(checkpointer)
            while True:
                n += 1
                checkpointer.save(n, state(n), {"n": n})
    # However slow the machine is: until there were enough kills, of them enough in the middle of a save, and
    # the run got on all the same.
    while result["kills"] < 12 or result["partial"] < 4 or result["newest"] < 4:
        pid = forked(child)
        n = int(os.read(pipe[0], 100))  # what it found
        assert n >= result["newest"]  # never less than was there before the last kill
        result["newest"] = n
        time.sleep(random.uniform(0.0, 0.7))
        os.kill(pid, signal.SIGKILL)
        assert os.waitpid(pid, 0)[1] == signal.SIGKILL
        result["kills"] += 1
        result["partial"] += bool(count(".", ".partial"))
else:
    # Killed just before its k-th change of the disk, for every k that there is. Of the many files that are
    # synced and unlinked in a row, every fifth will do.
    CHANGES = [(os, "rename", 1), (Path, "mkdir", 1), (Path, "write_text", 1), (os, "rmdir", 2),
               (os, "fsync", 5), (os, "unlink", 5)]
    def child():
        with Checkpointer(folder, KEEP) as checkpointer:
            n = resume(checkpointer) + 1
            left = [k]
            for owner, name, every in CHANGES:
                def dies(*args, real=getattr(owner, name), calls=[0], every=every, **kwargs):
                    if calls[0] % every == 0:
                        if left[0] == 0:
                            os.kill(os.getpid(), signal.SIGKILL)
                        left[0] -= 1
                    calls[0] += 1
                    return real(*args, **kwargs)
                setattr(owner, name, dies)
            checkpointer.save(n, state(n), {"n": n})
    def full():  # enough checkpoints that a save also deletes one
        with Checkpointer(folder, KEEP) as checkpointer:
            for n in range(KEEP):
                checkpointer.save(n, state(n), {"n": n})
    assert os.waitpid(forked(full), 0)[1] == 0
    newest, k = KEEP - 1, 0
    while True:
        status = os.waitpid(forked(child), 0)[1]
        n = int(os.read(pipe[0], 100))
        assert n >= newest, (n, newest)
        newest = n
        if status == 0:
            break
        assert status == signal.SIGKILL, status
        result["kills"] += 1
        result["partial"] += bool(count(".", ".partial"))
        k += 1
    result["newest"] = newest
    assert count("0") == KEEP and count(".") == 0, list(folder.iterdir())
print(json.dumps(result))
"""


def killed(folder: Path, *arguments: str) -> dict[str, int]:
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(folder), *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.returncode, done.stderr) == (0, "")  # nor does anything print or warn
    print(done.stdout)
    return json.loads(done.stdout)


def test_killed_at_random_moments_again_and_again(tmp_path):
    result = killed(tmp_path / "run", "random")
    assert result["kills"] >= 12 and result["partial"] >= 4 and result["newest"] >= 4


def test_killed_before_every_single_change_of_the_disk(tmp_path):
    result = killed(tmp_path / "run", "each")
    assert result["kills"] >= 20 and result["partial"] >= 10
