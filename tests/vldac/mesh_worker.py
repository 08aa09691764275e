"""What `test_mesh.py` runs in processes of its own: a training on many simulated devices. Prints nothing.

    python mesh_worker.py shapes FOLDER                         one process, 8 devices, mesh after mesh
    python mesh_worker.py process FOLDER PORT N I [die]         one of N processes, 8 devices in all

Both leave what they measured in FOLDER as JSON, and checkpoints in FOLDER/checkpoints.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
import time
from pathlib import Path

DEVICES = 8
STOPPED = 3  # exit code of a process that was told that another one is gone
HEAD = (8,)
SHAPES = {"one": (1, 1, 1), "data": (8, 1, 1), "all": (2, 2, 2), "tensor": (1, 1, 8)}


def make_setup():
    """A training of the toy world, with sizes that 8 devices divide."""
    from conftest import Signal, tiny_qwen2_vl

    from vldac import train
    from vldac.algorithms.vl_dac import VLDACConfig
    from vldac.policy import Policy, PolicyConfig
    from vldac.rollout import RolloutConfig
    from vldac.text.tokenizer import load_tokenizer

    tokenizer, world = load_tokenizer(), Signal()
    model = tiny_qwen2_vl(tokenizer)
    text = dataclasses.replace(
        model.text, num_hidden_layers=1, num_attention_heads=8, num_key_value_heads=8, intermediate_size=64
    )
    model = dataclasses.replace(model, text=text)
    policy = Policy.build(world, tokenizer, model, PolicyConfig(max_tokens=24, decoding="grammar"), HEAD)
    setup = train.Setup(
        world,
        policy,
        iterations=10,
        rollout=RolloutConfig(worlds=8, steps=2),
        algorithm=VLDACConfig(critic_warmup=0),
        optimizer=train.OptimizerConfig(minibatch=16, microbatch=8, epochs=2, learning_rate=1e-3),
    )
    return model, setup


class Training:
    """A state on a mesh, and its compiled iteration."""

    def __init__(self, shape, parts):
        import jax

        from vldac import mesh, train
        from vldac.policy import init_params

        self.model, self.setup = parts
        self.mesh = mesh.MeshConfig(*shape).build()
        self.use = lambda: mesh.use(self.mesh)
        with self.use():
            params = init_params(self.model, jax.random.key(0), HEAD)
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


def shapes(folder):
    import jax

    assert jax.config.jax_threefry_partitionable, "what is drawn depends on where it is drawn"
    setup = make_setup()
    trainings, told = {}, {}
    for name, shape in SHAPES.items():
        training = trainings[name] = Training(shape, setup)
        told[name] = {"parts": training.parts(), "metrics": [training.step()]}
        if name == "all":
            training.save(folder / "checkpoints")
    told["one"]["metrics"].append(trainings["one"].step())
    for name in ("data", "one"):  # the mesh that saved had another shape
        trainings[name].restore(folder / "checkpoints")
        told[name]["parts restored"] = trainings[name].parts()
        told[name]["metrics restored"] = trainings[name].step()
    (folder / "shapes.json").write_text(json.dumps(told))


def process(folder, port, count, number, die=None):
    import jax

    jax.distributed.initialize(f"localhost:{port}", int(count), int(number), heartbeat_timeout_seconds=15)
    training = Training(SHAPES["all"], make_setup())
    training.restore(folder / "checkpoints")
    told = {"metrics restored": training.step()}
    training.save(folder / "checkpoints")
    (folder / f"process{number}.json").write_text(json.dumps(told))
    while not (folder / "process0.json").exists():  # the first one writes what all have computed
        time.sleep(0.01)
    if die == number:
        os.kill(os.getpid(), signal.SIGKILL)
    try:
        training.step()
    except jax.errors.JaxRuntimeError:
        os._exit(STOPPED)  # an ordinary exit would wait for the process that is gone


if __name__ == "__main__":
    what, folder, *rest = sys.argv[1:]
    count = DEVICES if what == "shapes" else DEVICES // int(rest[1])
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={count} --xla_backend_optimization_level=0"
    os.environ["NPROC"] = "64"  # threads: a simulated device that waits for another one takes one for itself
    {"shapes": shapes, "process": process}[what](Path(folder), *rest)
