"""What `test_mesh.py` runs in processes of its own: a training on many simulated devices. Prints nothing.

    python mesh_worker.py shapes FOLDER                          one process, 8 devices, mesh after mesh
    python mesh_worker.py process FOLDER PORT N I MESH [KILLED]  one of N processes, 8 devices in all

Both leave what they measured in FOLDER as JSON, and checkpoints in FOLDER/checkpoints.
"""

from __future__ import annotations

import dataclasses
import functools
import gc
import json
import math
import os
import re
import signal
import sys
import threading
import time
from pathlib import Path

DEVICES = 8
STOPPED = 3  # exit code of a process that was told that another one is gone
HEAD = (8,)
COLLECTIVE = r"all-\w+|collective-\w+|reduce-scatter"  # an instruction of the compiled program
RANK = 4
# Ways of data, fsdp, tensor, and lanes of the decoder: 0 = all worlds in step, else they work off a queue.
SHAPES = {
    "one": ((1, 1, 1), 0),
    "data": ((8, 1, 1), 0),
    "all": ((2, 2, 2), 0),
    "tensor": ((2, 1, 4), 4),
    "others": ((1, 4, 2), 0),
}
# For a token that the kernels of decoding write: ways of data, fsdp, tensor; lanes; whether each has its own slot;
# whether layers are gathered over fsdp.
KERNELS = {
    "common slot": ((8, 1, 1), 8, False, False),
    "own slots": ((8, 1, 1), 8, True, False),
    "two": ((2, 1, 1), 8, True, False),
    "undivided": ((8, 1, 1), 6, False, False),
    "gathered": ((2, 4, 1), 8, True, True),
    "fsdp": ((4, 2, 1), 8, True, False),
    "tensor": ((2, 2, 2), 8, True, True),
}


def make_setup(lanes=0, rank=0, layers=1, gather=True):
    """A training of the toy world, with sizes that 8 devices divide: (model, adapter, setup)."""
    from conftest import Signal, tiny_qwen2_vl

    from vldac import train
    from vldac.algorithms.vl_dac import VLDACConfig
    from vldac.models.lora import LoRAConfig
    from vldac.policy import Policy, PolicyConfig
    from vldac.rollout import RolloutConfig
    from vldac.text.tokenizer import load_tokenizer

    tokenizer, world, adapter = load_tokenizer(), Signal(), LoRAConfig(rank=rank)
    model = tiny_qwen2_vl(tokenizer)
    text = dataclasses.replace(
        model.text, num_hidden_layers=layers, num_attention_heads=8, num_key_value_heads=8, intermediate_size=64
    )
    model = dataclasses.replace(model, text=text)
    config = PolicyConfig(max_tokens=24, decoding="grammar")
    policy = Policy.build(world, tokenizer, model, config, HEAD, adapter=adapter, gather=gather)
    setup = train.Setup(
        world,
        policy,
        iterations=10,
        rollout=RolloutConfig(worlds=8, steps=2, lanes=lanes, refill=lanes // 2),
        algorithm=VLDACConfig(critic_warmup=0),
        optimizer=train.OptimizerConfig(minibatch=16, microbatch=8, epochs=2, learning_rate=1e-3),
    )
    return model, adapter, setup


class Training:
    """A state on a mesh, and its compiled iteration."""

    def __init__(self, name, rank=0):
        import jax

        from vldac import mesh, train
        from vldac.params import init_params

        shape, lanes = SHAPES[name]
        model, adapter, self.setup = make_setup(lanes, rank)
        self.mesh = mesh.MeshConfig(*shape).build()
        self.use = lambda: mesh.use(self.mesh)
        with self.use():
            params = init_params(model, jax.random.key(0), HEAD, adapter)
            self.state = train.init(self.setup, params, jax.random.key(1))
            step = jax.jit(train.iteration, static_argnums=0)
            self.program = step.lower(self.setup, self.state).compile()

    def step(self):
        """One iteration; its metrics."""
        import jax

        with self.use():
            self.state, metrics = self.program(self.state)
            return {name: float(value) for name, value in jax.device_get(metrics).items()}

    def restore(self, folder):
        """Goes on from the newest checkpoint, as a new process would: from shapes alone."""
        import jax

        from vldac import mesh
        from vldac.checkpoint import Checkpointer

        with self.use(), Checkpointer(folder) as checkpoints:
            shapes = jax.eval_shape(lambda state: state, self.state)
            shapes = mesh.placed(shapes, shapes.specs(), self.mesh)
            self.state = checkpoints.restore(shapes).state

    def save(self, folder):
        from vldac.checkpoint import Checkpointer

        with self.use(), Checkpointer(folder) as checkpoints:
            checkpoints.save(int(self.state.iteration), self.state, blocking=True)

    def parts(self):
        """Path of a parameter, or of what belongs to it -> [whole shape, shape on each device]."""
        import jax

        from vldac import mesh

        found = {}
        trained = {"params": self.state.params, "opt_state": self.state.opt_state, "frozen": self.state.frozen}
        for path, leaf in jax.tree_util.tree_leaves_with_path({**trained, "lanes": self.state.lanes}):
            here = {part.data.shape for part in leaf.addressable_shards}
            assert len(here) == 1
            name = jax.tree_util.keystr(path, simple=True, separator="/").removesuffix("/value")
            found[name] = [leaf.shape, here.pop()]
        return found | {"kept whole": mesh.kept_whole(trained, dict(self.mesh.shape)) if self.mesh else []}

    def sent(self):
        """Element types of what devices send each other in an iteration, sorted: ["f32", "pred", ...]."""
        calls = rf"= (.*?) (?:{COLLECTIVE})(?:-start)?\("
        return sorted(
            {kind for call in re.findall(calls, self.program.as_text()) for kind in re.findall(r"\w+(?=\[)", call)}
        )


def collectives(shape, layers, gather):
    """What devices send each other in writing a token with adapters: kind -> how often."""
    import jax

    from vldac import mesh
    from vldac.lanes import begin
    from vldac.params import init_params

    model, adapter, setup = make_setup(rank=RANK, layers=layers, gather=gather)
    policy, mesh_ = setup.policy, mesh.MeshConfig(*shape).build()

    def first(params, lanes):
        prepared = policy.prepare(params)
        return prepared, policy.begin(prepared, lanes.observation, jax.random.split(jax.random.key(2), 8))

    with mesh.use(mesh_):
        params = init_params(model, jax.random.key(0), HEAD, adapter)
        lanes = jax.jit(lambda key: begin(setup.world, jax.random.split(key, 8), 1))(jax.random.key(1))
        program = jax.jit(policy.go_on).lower(*jax.jit(first)(params, lanes)).compile().as_text()
    kinds = re.findall(rf" ({COLLECTIVE})(?:-start)?\(", program)
    return {kind: kinds.count(kind) for kind in set(kinds)}


@functools.cache  # several meshes are compared with it
def on_one_device(batch, own, gather):
    """(what is given, the function that writes a token after it, what that gives), see `by_kernels`."""
    import jax
    import jax.numpy as jnp

    from vldac import mesh
    from vldac.lanes import begin
    from vldac.params import init_params

    model, adapter, setup = make_setup(rank=RANK, layers=2, gather=gather)
    policy = setup.policy

    @jax.jit
    def first(key):
        lanes = begin(setup.world, jax.random.split(key, batch), 1)
        prepared = policy.prepare(init_params(model, key, HEAD, adapter))
        answers = policy.begin(prepared, lanes.observation, jax.random.split(key, batch))
        # Worked example, own slots: the lanes with an odd number are a token further, which nobody has written.
        index = answers.index + jnp.arange(batch) % 2 if own else answers.index
        return prepared, answers.replace(index=index)

    def second(prepared, answers):
        index = answers.index
        answers = mesh.shard_batch(answers.replace(index=answers.token)).replace(index=index)
        return policy.go_on(prepared, answers)

    given = first(jax.random.key(3))
    return given, second, jax.jit(second)(*given)


def by_kernels(shape, batch, own, gather):
    """A token of `batch` lanes, all in one slot or each in its `own`: by the kernels on a mesh, and without them
    on one device. How far caches and log-probabilities are apart at most, and lanes of a call of the kernels.
    """
    from unittest import mock

    import jax
    from jax.sharding import NamedSharding, PartitionSpec

    from vldac import mesh
    from vldac.models.decoder import Decoder, decode_kernels

    given, second, want = on_one_device(batch, own, gather)
    ordinary, taken = Decoder._step_by_kernels, []

    def interpreted(self, *args):
        taken.append(args)
        return ordinary(self, *args, interpret=True)

    mesh_ = mesh.MeshConfig(*shape).build(jax.devices()[: math.prod(shape)])
    with (
        mesh.use(mesh_),
        mock.patch.object(decode_kernels, "takes", lambda *_: True),
        mock.patch.object(Decoder, "_step_by_kernels", interpreted),
    ):
        given = jax.device_put(given, NamedSharding(mesh_, PartitionSpec()))
        got = jax.jit(lambda *given: second(*given))(*given)  # traced anew, under the patches
    pairs = zip(*(jax.tree.leaves((x.cache.k, x.cache.v, x.log_probs)) for x in (got, want)), strict=True)
    apart = max(float(abs(jax.device_get(a) - jax.device_get(b)).max()) for a, b in pairs)
    return {"apart": apart, "lanes of a call": len(taken[0][1]) if taken else None}


def over_prefix(lanes):
    """Attention over a shared prefix by kernels on all devices: how far its results and derivatives, of which the
    prefix's are sums over all lanes, are from one device's without; how many lanes a call of the kernels has."""
    from unittest import mock

    import jax
    import jax.numpy as jnp

    from vldac import mesh
    from vldac.models import attention, prefix_attention

    keys = jax.random.split(jax.random.key(0), 5)
    query = jax.random.normal(keys[0], (lanes, 5, 4, 64))
    key, value = (jax.random.normal(k, (lanes, 2, 5, 64)) for k in keys[1:3])
    prefix = tuple(jax.random.normal(k, (1, 2, 3, 64)) for k in keys[3:])
    mask = attention.causal_mask(jnp.ones((lanes, 5), bool))
    ordinary, taken = prefix_attention.prefix_attend, []

    def interpreted(query, *rest):
        taken.append(len(query))
        return ordinary(query, *rest, interpret=True)

    def run(*arguments):
        def total(query, key, value, prefix):
            out = attention.attend(query, key, value, mask, prefix)
            return (out * jnp.cos(jnp.arange(out.size).reshape(out.shape))).sum(), out

        return jax.grad(total, argnums=(0, 1, 2, 3), has_aux=True)(*arguments)

    want = jax.jit(run)(query, key, value, prefix)
    with (
        mesh.use(mesh.MeshConfig(data=4, fsdp=2).build()),
        mock.patch.object(attention, "has_kernel", lambda *_: True),
        mock.patch.object(prefix_attention, "fits", lambda _: True),
        mock.patch.object(prefix_attention, "prefix_attend", interpreted),
    ):
        got = jax.jit(lambda *arguments: run(*arguments))(query, key, value, prefix)
    pairs = zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True)
    apart = max(float(abs(jax.device_get(a) - jax.device_get(b)).max()) for a, b in pairs)
    return {"apart": apart, "lanes of a call": sorted(set(taken))}


def shapes(folder):
    import jax

    assert jax.config.jax_threefry_partitionable, "what is drawn depends on where it is drawn"
    trainings, told = {}, {}
    for name in ("one", "data", "all", "tensor"):
        training = trainings[name] = Training(name)
        told[name] = {"parts": training.parts(), "metrics": [training.step()], "sent": training.sent()}
        if name == "all":
            training.save(folder / "checkpoints")
    told["one"]["metrics"] += [trainings["one"].step() for _ in range(2)]
    for name in ("data", "one"):  # the mesh that saved had another shape
        trainings[name].restore(folder / "checkpoints")
        told[name]["parts restored"] = trainings[name].parts()
        told[name]["metrics restored"] = trainings[name].step()

    adapted = {name: Training(name, RANK) for name in ("one", "all", "tensor")}
    told["adapter"] = {name: [training.step()] for name, training in adapted.items()}
    adapted["one"].save(folder / "adapter")
    told["adapter"]["one"].append(adapted["one"].step())
    for name in ("all", "tensor"):
        adapted[name].restore(folder / "adapter")
        told["adapter"][name].append(adapted[name].step())
    told["adapter"]["parts"] = {name: training.parts() for name, training in adapted.items()}
    from vldac.models import layers as model_layers

    model_layers.UNROLLED = 0  # a loop over layers has its sums once: what is counted are decoding's
    told["kernels"] = {name: by_kernels(*case) for name, case in KERNELS.items()}
    told["over a prefix"] = [over_prefix(lanes) for lanes in (8, 3)]
    told["collectives"] = [collectives((2, 1, 4), layers, True) for layers in (2, 3)]
    told["collectives along fsdp"] = [collectives((2, 4, 1), 2, gather) for gather in (True, False)]
    (folder / "shapes.json").write_text(json.dumps(told))


def process(folder, port, count, number, name, killed=None):
    import jax

    jax.distributed.initialize(f"localhost:{port}", int(count), int(number), heartbeat_timeout_seconds=15)
    training = Training(name)
    training.restore(folder / "checkpoints")
    told = {"metrics restored": training.step()}
    training.save(folder / "checkpoints")
    (folder / f"{name}{number}.json").write_text(json.dumps(told))
    if killed is None:
        return
    while not (folder / f"{name}0.json").exists():  # the first one writes what all have computed
        time.sleep(0.01)
    if killed == number:  # in the midst of an iteration
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGKILL)).start()
    try:
        while True:
            training.step()
    except jax.errors.JaxRuntimeError:
        os._exit(STOPPED)  # an ordinary exit would wait for the process that is gone


if __name__ == "__main__":
    what, folder, *rest = sys.argv[1:]
    count = DEVICES if what == "shapes" else DEVICES // int(rest[1])
    gc.set_threshold(50_000, 20, 10)  # as in tests/conftest.py
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={count}"
    os.environ["NPROC"] = "64"  # threads: a simulated device that waits for another one takes one for itself
    {"shapes": shapes, "process": process}[what](Path(folder), *rest)
