"""Many devices train as one does: the same numbers from every mesh, and on each device only its part."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from vldac import mesh
from vldac.mesh import MeshConfig, kept_whole, param_spec
from vldac.models.lora import LoRAConfig
from vldac.params import init_params

WORKER = Path(__file__).with_name("mesh_worker.py")
ROOT = Path(__file__).parents[2]
SIZES = {"data": 2, "fsdp": 4, "tensor": 8}
LAYER = "model/language_model/layers"
MESHES = {"data": (8, 1), "all": (4, 4), "tensor": (2, 4)}  # ways of the batch, of a weight


def start(*arguments):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT), str(WORKER.parent)])}
    return subprocess.Popen(
        [sys.executable, WORKER, *map(str, arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("mesh")


@pytest.fixture(scope="module")
def trained(folder):
    """What a process with 8 devices measured on one mesh after another."""
    process = start("shapes", folder)
    output, _ = process.communicate(timeout=900)
    assert process.returncode == 0, output[-4000:]
    return json.loads((folder / "shapes.json").read_text())


def assert_close(got, want):
    assert got.keys() == want.keys()
    for name, value in want.items():
        if name == "rollout/lane_use":  # lanes that work off a queue are used better, and that is all
            assert got[name] >= value
        elif math.isnan(value):
            assert math.isnan(got[name]), name
        else:  # sums in another order
            assert got[name] == pytest.approx(value, rel=1e-4, abs=2e-6), name


@pytest.mark.parametrize("shape", MESHES)
def test_every_mesh_gives_the_numbers_of_one_device(trained, shape):
    assert_close(trained[shape]["metrics"][0], trained["one"]["metrics"][0])


ADAPTED = "q_proj/lora_B", "q_proj/lora_A", "down_proj/lora_A", "q_proj/weight"


@pytest.mark.parametrize(("shape", "ways"), [("all", (2, 2, 2, 4)), ("tensor", (4, 1, 4, 4))])
def test_adapters_train_alike_on_every_mesh(trained, shape, ways):
    """On meshes that cut every layer, in step and in lanes, and going on from what one device has saved."""
    for got, want in zip(trained["adapter"][shape], trained["adapter"]["one"], strict=True):
        assert_close(got, want)
    parts = trained["adapter"]["parts"][shape]
    for name, cut in zip(ADAPTED, ways, strict=True):
        found = [parts[path] for path in parts if path.endswith(name)]
        assert found and all(math.prod(whole) == cut * math.prod(part) for whole, part in found), name


def test_a_layer_costs_a_token_two_sums_over_the_devices(trained):
    """One behind the attention and one behind the MLP, adapters included: what a third layer adds to two."""
    two, three = trained["collectives"]
    assert {kind: three[kind] - two.get(kind, 0) for kind in three if three[kind] != two.get(kind)} == {
        "all-reduce": 2
    }
    assert two.keys() == three.keys()


def test_gathered_layers_leave_nothing_to_send_for_a_token(trained):
    gathered, cut = trained["collectives along fsdp"]
    assert gathered == {}
    assert sum(cut.values()) > 8


@pytest.mark.parametrize(
    ("case", "lanes"),
    [
        ("common slot", 1),
        ("own slots", 1),
        ("two", 4),
        ("undivided", 6),  # by eight devices: all lanes on each
        ("gathered", 1),
        ("fsdp", None),  # no device has whole layers: the ordinary path
        ("tensor", None),
    ],
)
def test_kernels_write_a_token_on_each_device_for_its_own_lanes(trained, case, lanes):
    told = trained["kernels"][case]
    assert told["lanes of a call"] == lanes
    assert told["apart"] < 2e-5  # from what one device writes without them


def test_kernels_over_a_prefix_take_each_devices_own_lanes_and_sum_its_derivatives(trained):
    each, whole = trained["over a prefix"]
    assert each["lanes of a call"] == [1] and whole["lanes of a call"] == [3]  # eight devices do not divide 3
    assert each["apart"] < 2e-5 and whole["apart"] < 2e-5


def test_no_step_leaves_the_device_of_its_world(trained):
    """Frames are bytes, and nothing else is. Between devices go sums, and what the metrics compare."""
    assert "f32" in trained["data"]["sent"] and not {"u8", "s8"} & set(trained["data"]["sent"])


@pytest.mark.parametrize("shape", MESHES)
def test_each_device_holds_only_its_part(trained, shape):
    ways, cut = MESHES[shape]
    parts = trained[shape]["parts"]
    weights = [name for name in parts if re.search(r"(q_proj|down_proj|embed_tokens)/weight$", name)]
    assert {name.split("/")[0] for name in weights} == {"params", "opt_state", "frozen"}
    for name in weights:
        whole, part = parts[name]
        assert math.prod(whole) == cut * math.prod(part), name
    lanes = [name for name in parts if name.startswith("lanes/")]
    assert lanes and all(parts[name][0][0] == ways * parts[name][1][0] for name in lanes)
    norms = [name for name in parts if name.endswith("norm/weight")]
    assert norms and all(parts[name][0] == parts[name][1] for name in norms)


@pytest.mark.parametrize("shape", ["data", "one"])
def test_a_checkpoint_goes_on_on_another_mesh(trained, shape):
    assert_close(trained[shape]["metrics restored"], trained["one"]["metrics"][1])
    assert trained[shape]["parts restored"] == trained[shape]["parts"]


def free_port():
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


def run_processes(folder, count, shape, *killed):
    """(exit codes, outputs) of processes that go on from the newest checkpoint and train on one mesh."""
    port = free_port()
    processes = [start("process", folder, port, count, number, shape, *killed) for number in range(count)]
    outputs = [process.communicate(timeout=600)[0] for process in processes]
    for number in range(count):
        assert (folder / f"{shape}{number}.json").exists(), outputs[number][-4000:]
    return [process.returncode for process in processes], outputs


def assert_went_on(trained, folder, count, shape, iteration):
    for number in range(count):
        told = json.loads((folder / f"{shape}{number}.json").read_text())
        assert_close(told["metrics restored"], trained["one"]["metrics"][iteration])


@pytest.mark.slow  # minutes; test_processes.py kills one of two
def test_four_processes_stop_when_one_is_killed_and_two_go_on(trained, folder):
    """From the checkpoint of one process to four; from that of the four to two, on another mesh."""
    codes, outputs = run_processes(folder, 4, "all", 2)
    assert_went_on(trained, folder, 4, "all", 1)
    assert codes.pop(2) == -signal.SIGKILL
    for code, output in zip(codes, [*outputs[:2], outputs[3]], strict=True):
        # It meets the end of a connection, or waits, until JAX misses the other's heartbeat and aborts it.
        assert code == 3 or (code == -signal.SIGABRT and "another task died" in output), output[-4000:]
    assert (folder / "checkpoints/00000002/SHA256SUMS").exists()
    codes, outputs = run_processes(folder, 2, "others")
    assert codes == [0, 0], outputs
    assert_went_on(trained, folder, 2, "others", 2)
    assert (folder / "checkpoints/00000003/SHA256SUMS").exists()


@pytest.mark.parametrize(
    ("name", "shape", "spec"),
    [
        (f"{LAYER}/self_attn/q_proj/weight", (2, 64, 32), P(None, "tensor", "fsdp")),
        (f"{LAYER}/self_attn/q_proj/bias", (2, 64), P(None, "tensor")),
        (f"{LAYER}/self_attn/o_proj/weight", (2, 32, 64), P(None, "fsdp", "tensor")),
        (f"{LAYER}/mlp/gate_proj/lora_A", (2, 16, 32), P(None, None, "fsdp")),
        (f"{LAYER}/mlp/gate_proj/lora_B", (2, 64, 16), P(None, "tensor", None)),
        (f"{LAYER}/mlp/down_proj/lora_A", (2, 16, 64), P(None, None, "tensor")),
        (f"{LAYER}/mlp/down_proj/lora_B", (2, 32, 16), P(None, "fsdp", None)),
        (f"{LAYER}/input_layernorm/weight", (2, 32), P(None, None)),
        ("model/language_model/embed_tokens/weight", (512, 32), P("tensor", "fsdp")),
        ("model/lm_head/weight", (512, 32), P("tensor", "fsdp")),
        ("model/visual/blocks/attn/qkv/weight", (1, 48, 16), P(None, None, "fsdp")),
        ("model/visual/blocks/attn/proj/weight", (1, 16, 16), P(None, "fsdp", "tensor")),
        ("model/visual/patch_embed/proj/weight", (16, 3, 2, 4, 4), P(None, None, None, None, None)),
        ("value/layers/0/kernel", (32, 8), P("fsdp", None)),
        ("inner_states/model/inner_state/1/0/mu/language_model/layers/mlp/up_proj/weight", (2, 64, 32),
         P(None, "tensor", "fsdp")),
        ("inner_states/model/inner_state/1/0/count", (), P()),
        # 12 = 4 x 3 is nothing that 8 devices divide: that axis is whole, the other one is cut all the same
        (f"{LAYER}/self_attn/k_proj/weight", (2, 12, 32), P(None, None, "fsdp")),
    ],
)  # fmt: skip
def test_parameters_are_cut_by_their_names(name, shape, spec):
    assert param_spec(name, shape, SIZES) == spec


def test_what_does_not_divide_is_told_by_name(tiny):
    params = jax.eval_shape(lambda key: init_params(tiny, key, (8,), LoRAConfig(rank=4)), jax.random.key(0))
    assert kept_whole(params, {"data": 8, "fsdp": 1, "tensor": 1}) == []
    told = kept_whole(params, {"data": 1, "fsdp": 1, "tensor": 32})  # keys and values have 2 x 8 rows
    assert {"k_proj/weight by tensor", "v_proj/bias by tensor", "k_proj/lora_B by tensor"} <= set(told)
    assert "q_proj/weight by tensor" not in told and not [name for name in told if "norm" in name]


def test_all_linear_layers_of_the_decoder_have_a_rule(tiny):
    params = jax.eval_shape(lambda key: init_params(tiny, key, (8,), LoRAConfig(rank=4)), jax.random.key(0))
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if "language_model" in name and "norm" not in name:
            assert any(param_spec(name.removesuffix("/value"), leaf.shape, dict.fromkeys(mesh.AXES, 1))), name


@pytest.mark.parametrize("config", [MeshConfig(data=2), MeshConfig(tensor=3), MeshConfig(data=0, fsdp=7)])
def test_a_mesh_that_does_not_match_the_devices_is_refused(config):
    with pytest.raises(ValueError, match=r"mesh is data .* accepted: sizes whose product is \d"):
        config.build()


def test_sizes_below_one_are_refused():
    with pytest.raises(ValueError, match="fsdp is 0; accepted: 1 or more"):
        MeshConfig(fsdp=0)
    with pytest.raises(ValueError, match="data is -1; accepted: 0 or more"):
        MeshConfig(data=-1)


def test_without_a_mesh_nothing_is_done():
    assert MeshConfig().build() is None and mesh.placement(None) is None
    tree = {"a": jnp.ones(3)}
    with mesh.use(None):
        assert mesh.shard_params(tree) is tree and mesh.shard_batch(tree) is tree and mesh.gather(tree) is tree
        assert mesh.by_rows(lambda whole, rows: (whole, rows), tree, 2) == (tree, 2) and not mesh.cuts_weights()
