"""The benchmark: what it counts as needed, and what its table and its file hold. Nothing here looks at a time."""

from __future__ import annotations

import importlib.util
import io
import json
import math
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

import envs_jax
from experiments.bench import __main__ as bench
from experiments.bench import ceilings, model, options, table, work, worlds
from experiments.bench.ceilings import Ceilings
from experiments.bench.kernels import busiest
from experiments.bench.lengths import TimedPolicy
from experiments.bench.measure import Program, Timing
from experiments.bench.options import PIECES, parse, parts_of
from experiments.bench.table import COUNTS, Row, compare
from experiments.config import ConfigError
from experiments.peers import miniworld_gl
from vldac import memory
from vldac.lanes import Observation
from vldac.models import layers
from vldac.models.image import preprocess
from vldac.params import init_params

ROOT = Path(__file__).parents[2]
SMALL = shlex.split(
    "--repeats 1 --numbers 4 --world miniworld/one_room_s6_fast --rollout.worlds 4 --rollout.steps 2 "
    "--optimizer.minibatch 8 --optimizer.microbatch 4 --optimizer.epochs 1 --policy.max-tokens 16 "
    "--model.lora.rank 2"
)
FULL = [*SMALL[:-2], "--model.lora.rank", "0"]


SIDE_BY_SIDE = "prompt and answer", "reference and epochs"
UPDATE = {"env_steps": 8, "useful_tokens": 8 * 16}


def command(*arguments: str) -> options.Command:
    return parse(arguments, "bench")


@pytest.fixture(scope="module", params=["adapter", "full"])
def parts(request):
    return parts_of(command(*(SMALL if request.param == "adapter" else FULL)))


def products(jaxpr, times: int = 1) -> tuple[int, int]:
    """(operations of products with weights, of products among activations) of a program, loop by loop."""
    weights = activations = 0
    for equation in jaxpr.eqns:
        inner = times * equation.params.get("length", 1) if equation.primitive.name == "scan" else times
        for value in equation.params.values():
            for part in value if isinstance(value, tuple | list) else [value]:
                part = getattr(part, "jaxpr", part)
                if hasattr(part, "eqns"):
                    found = products(part, inner)
                    weights, activations = weights + found[0], activations + found[1]
        if equation.primitive.name == "dot_general":
            (contracted, _), (batched, _) = equation.params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            depth = math.prod(shape[axis] for axis in contracted)
            flops = 2 * times * depth * math.prod(equation.outvars[0].aval.shape)
            if batched:
                activations += flops
            else:
                weights += flops
    return weights, activations


def batch(parts, lanes: int):
    """Abstract (parameters, observation, tokens, mask) of so many answers."""
    policy, world = parts.setup.policy, parts.setup.world
    params = init_params_shapes(parts)
    described = jax.eval_shape(lambda key: world.describe(world.reset(key)), jax.random.key(0))
    frames = jax.ShapeDtypeStruct((lanes, policy.config.history, *world.image_shape), jnp.uint8)
    observation = Observation(
        frames=frames,
        frames_seen=jax.ShapeDtypeStruct((lanes,), jnp.int32),
        text=jax.ShapeDtypeStruct((lanes, *described.shape), jnp.int32),
    )
    shape = lanes, policy.config.max_tokens
    return params, observation, jax.ShapeDtypeStruct(shape, jnp.int32), jax.ShapeDtypeStruct(shape, bool)


def init_params_shapes(parts):
    config = parts.config.model
    return jax.eval_shape(
        lambda key: init_params(parts.model_config, key, config.value_head, config.lora), jax.random.key(0)
    )


def flops(stages, *without: str) -> float:
    return work.total([stage for stage in stages if not any(word in stage.name for word in without)])[0]


def pixels(parts, images: int) -> int:
    """Operations of scaling images, which are counted nowhere."""
    config, shape = parts.model_config, (images, *parts.setup.world.image_shape)
    jaxpr = jax.make_jaxpr(lambda x: preprocess(x, config.vision, config.image))(
        jax.ShapeDtypeStruct(shape, jnp.uint8)
    )
    return sum(products(jaxpr.jaxpr))


def test_a_prompt_needs_the_products_that_its_program_has(parts, monkeypatch):
    monkeypatch.setattr(layers, "UNROLLED", 0)  # in a loop the last layer does what the others do, as is counted
    policy, sizes, lanes = parts.setup.policy, work.Sizes.of(parts), 3
    params, observation, *_ = batch(parts, lanes)
    params = {name: value for name, value in params.items() if name != "adapter"}

    def value(params, observation):
        return policy.value(policy.prepare(params), observation)

    images = lanes * policy.config.history
    found, attention = products(jax.make_jaxpr(value)(params, observation).jaxpr)
    found -= pixels(parts, images)
    prefix, context = len(policy.prompt.prefix), policy.prompt.context_slots
    stages = [
        *work.static_text(sizes, prefix),
        *work.frames(sizes, images),
        *work.prompt(sizes, lanes, prefix, context),
    ]
    # Every query meets every slot in the program, masked or not; only those that it sees are needed.
    dense = (lanes * context * (prefix + context) + prefix * prefix) * sizes.pair + images * sizes.tower_pairs
    seen = lanes * sum(prefix + i + 1 for i in range(context)) + sum(i + 1 for i in range(prefix))
    assert attention == dense
    assert flops(stages) == found - 2 * lanes * sizes.critic + seen * sizes.pair + images * sizes.tower_pairs


def test_an_update_needs_the_products_that_its_program_has(parts, monkeypatch):
    monkeypatch.setattr(layers, "UNROLLED", 0)
    policy, sizes, lanes = parts.setup.policy, work.Sizes.of(parts), 3
    params, observation, tokens, mask = batch(parts, lanes)
    learner = "adapter" if "adapter" in params else "model"

    def gradient(params, observation, tokens, mask):
        def loss(trained):
            scores = policy.log_probs({**params, **trained}, observation, tokens, mask)
            return scores.log_probs.sum() + scores.value.sum()

        return jax.grad(loss)({name: params[name] for name in (learner, "value")})

    def scores(params, observation, tokens, mask):
        return policy.log_probs({name: params[name] for name in ("model", "value")}, observation, tokens, mask)

    images, length = policy.config.history, policy.config.max_tokens
    prefix, context = len(policy.prompt.prefix), policy.prompt.context_slots
    stages = work.update(sizes, lanes, lanes * length, prefix, context, images, epochs=1, updates=1)
    if not sizes.in_full:  # no rollout has seen the frames here: reference and update both look at them
        stages += 2 * work.frames(sizes, lanes * images)
    forward = products(jax.make_jaxpr(scores)(params, observation, tokens, mask).jaxpr)[0]
    both = products(jax.make_jaxpr(gradient)(params, observation, tokens, mask).jaxpr)[0]
    found = forward + both - 2 * pixels(parts, lanes * images) - 2 * lanes * sizes.critic
    attention = sum(stage.flops for stage in stages if "attention" in stage.name)
    towers = (1 + (3 if sizes.in_full else 1)) * lanes * images * sizes.tower_pairs
    # Nothing asks for the gradient of pixels, or of what the critic reads; that much less is in the program.
    patches = lanes * images * sizes.patches
    embed = parts.model_config.vision
    unasked = 2 * patches * embed.patch_dim * embed.embed_dim if sizes.in_full else 0
    unasked += 2 * lanes * parts.model_config.hidden_size * parts.config.model.value_head[0]
    # Gate and up meet the zeros beside each other's B, forward and backward: that much more is in the program.
    text, rank = parts.model_config.text, parts.config.model.lora.rank
    joined = sum(rows for rows in (prefix, lanes * (context + length - 1)) if rows >= text.hidden_size)
    zeros = 2 * 2 * (2 * joined * text.num_hidden_layers * text.intermediate_size * rank)
    assert flops(stages) - attention - towers == pytest.approx(found + unasked - zeros, rel=1e-12)


def test_numbers_are_those_of_the_weight_matrices(parts):
    """A count by hand, from the configuration alone."""
    sizes, text, vision = work.Sizes.of(parts), parts.model_config.text, parts.model_config.vision
    kv = text.num_key_value_heads * text.head_dim
    layer = text.hidden_size * (2 * text.hidden_size + 2 * kv + 3 * text.intermediate_size)
    block = vision.embed_dim * (4 * vision.embed_dim + 2 * vision.mlp_dim)
    assert sizes.layers == text.num_hidden_layers * layer
    assert sizes.unembedding == text.vocab_size * text.hidden_size
    assert sizes.tower_patch == vision.depth * block + vision.patch_dim * vision.embed_dim
    assert sizes.tower_token == vision.merged_dim * (vision.merged_dim + text.hidden_size)
    assert sizes.key_value == text.num_hidden_layers * 2 * kv * 4
    rank = parts.config.model.lora.rank
    ends = 3 * (text.hidden_size + text.intermediate_size) + 4 * text.hidden_size + 2 * (text.hidden_size + kv)
    assert sizes.adapter == text.num_hidden_layers * rank * ends
    leaves = jax.tree.leaves({n: v for n, v in parts.abstract_params().items() if n != "model" or not rank})
    assert sizes.trained == sum(math.prod(leaf.shape) for leaf in leaves)


def test_answers_read_weights_once_a_token_and_the_shared_prefix_once(parts):
    sizes, prefix, context = work.Sizes.of(parts), 7, 5
    lengths = [4, 2, 1]  # tokens of three answers
    alive = [sum(length > i for length in lengths) for i in range(4)]
    moved = operations = 0
    for number in range(4):
        moved += sizes.unembedding * 4
        operations += 2 * alive[number] * sizes.unembedding
        if number:  # the first token comes with the prompt
            moved += sizes.layers * 4 + prefix * sizes.key_value
            operations += 2 * alive[number] * sizes.layers
            for length in lengths:
                if length > number:
                    moved += (context + number) * sizes.key_value
                    operations += (prefix + context + number) * sizes.pair
    assert work.total(work.answers(sizes, alive, prefix, context)) == (operations, moved)
    # Equal answers in as many lanes leave nothing to pack.
    one = work.total(work.answers(sizes, [2] * 9, prefix, context))
    packed = work.total(work.packed_answers(sizes, 2, 2, 18, prefix, context))
    np.testing.assert_allclose(packed, one, rtol=1e-9)
    # Lanes that are always busy take as many turns as there are tokens for them.
    busy = work.packed_answers(sizes, 2, 6, 30, prefix, context)
    assert sum(stage.times for stage in busy if stage.name == "unembedding") == 15


def test_the_profiler_names_what_the_device_did():
    @jax.jit
    def work(x):
        return jax.lax.fori_loop(0, 5, lambda i, x: jnp.sort(x @ x / 200, axis=0), x)

    x = jnp.ones((200, 200))
    jax.block_until_ready(work(x))
    found = {kernel.name: kernel for kernel in busiest(lambda: work(x), 50)}
    assert found["sort"].calls == 5 and not [name for name in found if name.startswith("while")]
    seconds = [kernel.seconds for kernel in found.values()]
    assert seconds == sorted(seconds, reverse=True) and seconds[-1] > 0
    assert len(busiest(lambda: work(x), 2)) == 2


def test_a_rate_is_what_a_load_of_seconds_keeps_up(monkeypatch):
    """Not what the first calls reach before the clock comes down, nor one that something else held up."""
    now, calls = [0.0], []
    monkeypatch.setattr(ceilings.time, "perf_counter", lambda: now[0])

    def slower_when_hot():
        calls.append(None)
        now[0] += 9.0 if len(calls) == 12 else 0.1 if len(calls) <= 6 else 0.2

    assert ceilings.steady(slower_when_hot, seconds=15.0) == pytest.approx(0.2)
    calls.clear()
    assert ceilings.steady(slower_when_hot, seconds=0.0) == pytest.approx(0.1)
    assert len(calls) == 5  # two before, and three rows at least


def test_the_slower_of_bytes_and_operations_limits_each_stage():
    found = Ceilings({"float32": 10.0}, bandwidth=2.0)
    stages = [work.Stage("a", flops=30, bytes=2), work.Stage("b", flops=10, bytes=8, times=2), work.Stage("a")]
    assert work.limit(stages, found, "float32") == 3 + 2 * 4
    assert work.limit(stages, found.times(2), "float32") == (3 + 2 * 4) / 2
    row = Row("decode", "answer", {}, Timing((20.0, 22.0, 40.0)), {"useful_tokens": 44}, stages).record(found)
    assert row["of_limit"] == 11 / 22 and row["seconds"]["min"] == 20 and row["useful_tokens_per_second"] == 2
    assert row["stages"]["a"] == {"flops": 30, "bytes": 2, "limit_seconds": 3}
    assert row["flops_per_second"] == 50 / 22 and row["bytes_per_second"] == 18 / 22
    assert row["joules"] is None and row["watts"] is None
    other = Row("decode", "answer", {}, Timing((10.0,)), {"useful_tokens": 5}, runner="transformers").record(found)
    assert other["of_limit"] is None
    (ratio,) = compare([row, other])
    assert ratio["ratio"] == 2 / 0.5


def run(*arguments: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]), "COLUMNS": "200"}
    environment["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # compiles in half the time, and no time is looked at
    return subprocess.run(
        [sys.executable, "-m", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500
    )


@pytest.mark.slow
def test_every_piece_and_the_peer_stand_in_one_table_and_one_file(tmp_path):
    file = tmp_path / "figures.json"
    done = run("experiments.bench", *SMALL, "--peer", "--json", str(file))
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(file.read_text())
    assert result["command"].startswith("python -m experiments.bench --repeats 1 ")
    assert result["config"]["rollout"]["worlds"] == 4 and result["hardware"]["platform"] == "cpu"
    assert {"jax", "torch", "transformers", "peft", "vldac"} <= set(result["versions"])
    assert min(result["ceilings"]["matmul"].values()) > 0 and result["ceilings"]["bandwidth"] > 0
    rows = result["rows"]
    assert {row["piece"] for row in rows} == set(PIECES)
    assert {row["piece"] for row in rows if row["runner"] == "transformers"} == {"decode", "update"}
    for row in rows:
        assert row["seconds"]["median"] >= row["seconds"]["min"] > 0
        assert f"{row['piece']}: {row['what']}"[:20] in done.stdout
        if row["piece"] != "worlds":
            assert row["of_limit"] == pytest.approx(row["limit_seconds"] / row["seconds"]["median"])
            parts = [part["limit_seconds"] for part in row["stages"].values()]
            assert row["limit_seconds"] == pytest.approx(sum(parts)) and row["needed_flops"] > 0
    by_name = {(row["runner"], row["piece"], row["what"]): row for row in rows}
    answers = by_name["vldac", "decode", "prompt and answer"]
    assert 4 <= answers["counts"]["useful_tokens"] <= answers["counts"]["loop_tokens"] <= 4 * 16
    assert by_name["vldac", "rollout", "experience"]["counts"]["env_steps"] <= 8
    assert by_name["vldac", "update", "reference and epochs"]["counts"] == {"env_steps": 8, "useful_tokens": 128}
    assert {(ratio["piece"], ratio["peer"]) for ratio in result["ratios"]} == {
        ("decode", "transformers"),
        ("update", "transformers"),
    }
    assert all(heading in done.stdout for heading in (*COUNTS.values(), "of limit", "x transformers"))


@pytest.fixture
def traced(monkeypatch):
    """Programs are traced and not compiled: what they would give is all ones. The slow test compiles them."""

    def compile_ahead(jitted, *args):
        shapes = jitted.eval_shape(*args)
        return Program(lambda *_: jax.tree.map(ones, shapes), 1.0, 2**20)

    def ones(leaf):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jnp.broadcast_to(jax.random.key(0), leaf.shape)
        return jnp.ones(leaf.shape, leaf.dtype)

    def drawn(parts):
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), parts.abstract_params())

    monkeypatch.setenv("COLUMNS", "300")  # a narrow table cuts its headings
    for module in (model, worlds):
        monkeypatch.setattr(module, "compile_ahead", compile_ahead)
    monkeypatch.setattr(model, "initial_params", drawn)
    monkeypatch.setattr(bench.ceilings, "measure", lambda: Ceilings({"float32": 1e9, "bfloat16": 1e9}, 1e9))


@pytest.mark.slow
def test_a_narrow_terminal_keeps_every_figure_whole_and_no_empty_column():
    row = {**dict.fromkeys(f"{count}_per_second" for count in table.COUNTS), "flops_per_second": 1.25e13}
    row |= {
        "piece": "decode",
        "what": "prompt",
        "runner": "vldac",
        "size": {"lanes": 12345},
        "program_bytes": 2**31,
    }
    row |= {"seconds": {"median": 12.345, "min": 0.1}, "compile_seconds": 678.0, "bytes_per_second": 9.87e12}
    row |= {"limit_seconds": 1.0, "of_limit": 0.123, "notes": []}
    row |= {"joules": None, "watts": None}
    facts = {
        "hardware": {"device": "1 x cpu"},
        "model": "",
        "command": "",
        "peak_bytes_in_use": None,
        "ratios": [],
    }
    facts["ceilings"] = {"matmul": {}, "bandwidth": 1e9}
    with io.StringIO() as file:
        table.show({**facts, "rows": [row]}, Console(file=file, width=40))
        shown = file.getvalue()
    for whole in ("12,345", "100", "678", "12.5", "9,870", "1,000", "0.123", "decode: prompt"):
        assert whole in shown
    assert "…" not in shown and "frames/s" not in shown


@pytest.mark.parametrize(("told", "width"), [("90", 90), ("wide", 180), ("0", 180), ("", 180)])
def test_the_table_is_as_wide_as_columns_says(monkeypatch, capsys, told, width):
    monkeypatch.setenv("COLUMNS", told)
    assert table.console_of().width == width


def test_ours_and_the_peer_stand_side_by_side(tmp_path, traced, monkeypatch, capsys):
    """Each would have a process of its own; here they share this one. The peer computes in earnest."""
    from experiments.peers import hf_torch

    mains = {"experiments.bench": bench.main, "experiments.peers.hf_torch": hf_torch.main}
    asked = []

    def start(command, **options):
        asked.append(command[2])
        return subprocess.CompletedProcess(command, mains[command[2]](command[3:]))

    monkeypatch.setattr(bench, "subprocess", SimpleNamespace(run=start, DEVNULL=subprocess.DEVNULL))
    file = tmp_path / "figures.json"
    assert bench.main(["decode", "update", *SMALL, "--peer", f"--json={file}"]) == 0
    assert asked == list(mains)
    result, shown = json.loads(file.read_text()), capsys.readouterr().out
    assert result["command"].startswith("python -m experiments.bench decode update --repeats 1 ")
    assert {"jax", "torch", "transformers", "peft"} <= set(result["versions"])
    rows = {(row["runner"], row["piece"]): row for row in result["rows"] if row["what"] in SIDE_BY_SIDE}
    assert len(rows) == 4
    for piece, counts in (("decode", {"useful_tokens": 64, "loop_tokens": 64}), ("update", UPDATE)):
        ours, theirs = rows["vldac", piece], rows["transformers", piece]
        assert ours["counts"] == theirs["counts"] == counts
        rate = "env_steps_per_second" if piece == "update" else "useful_tokens_per_second"
        (ratio,) = (ratio["ratio"] for ratio in result["ratios"] if ratio["piece"] == piece)
        assert ratio == ours[rate] / theirs[rate] and f"{ratio:.2f} x transformers" in shown
        assert theirs["of_limit"] > 0
    # The same work, counted once more by the peer.
    assert rows["vldac", "update"]["needed_flops"] == rows["transformers", "update"]["needed_flops"]


def test_every_piece_gives_rows_of_the_work_it_needs(tmp_path, traced, capsys):
    file = tmp_path / "figures.json"
    pieces = "worlds", "rollout", "update", "iteration"
    assert bench.main([*pieces, *SMALL, "--kernels", "2", "--json", str(file)]) == 0
    result, shown = json.loads(file.read_text()), capsys.readouterr().out
    assert result["config"]["rollout"]["worlds"] == 4 and result["hardware"]["platform"] == "cpu"
    assert all(heading in shown for heading in (*COUNTS.values(), "of limit"))
    rows = {(row["piece"], row["what"]): row for row in result["rows"]}
    assert [piece for piece, _ in rows] == ["worlds", "worlds", "worlds", "rollout", "update", "iteration"]
    for (piece, what), row in rows.items():
        assert f"{piece}: {what}"[:20] in shown
        assert row["seconds"]["median"] >= row["seconds"]["min"] > 0
        # While an iteration acts, what its update alone takes is there, too.
        beside = row["program_bytes"] - 2**20
        assert beside > 0 if piece == "iteration" else beside == 0
        assert [kernel["seconds"] > 0 for kernel in row["kernels"]] == [True] * (0 if piece == "worlds" else 2)
        assert all(kernel["name"] in shown for kernel in row["kernels"])
        if piece != "worlds":
            assert row["of_limit"] == pytest.approx(row["limit_seconds"] / row["seconds"]["median"])
            each = [part["limit_seconds"] for part in row["stages"].values()]
            assert row["limit_seconds"] == pytest.approx(sum(each)) and row["needed_flops"] > 0
    world = "miniworld/one_room_s6_fast"
    assert rows["worlds", f"{world}, render"]["counts"] == {"frames": 4}
    assert rows["worlds", f"{world}, step"]["counts"] == {"env_steps": 64}
    assert rows["worlds", f"{world}, step and render"]["counts"] == {"env_steps": 64, "frames": 64}
    experience = rows["rollout", "experience"]["counts"]
    assert (experience["env_steps"], experience["useful_tokens"]) == (8, 8 * 16)
    assert rows["update", "reference and epochs"]["counts"] == UPDATE
    assert set(rows["rollout", "experience"]["stages"]) < set(rows["iteration", "rollout and update"]["stages"])


def test_the_prompt_has_as_many_tokens_as_are_asked_for():
    for wanted in (150, 153):
        prompt = parts_of(command(*SMALL, "--prompt-tokens", str(wanted))).setup.policy.prompt
        assert len(prompt.prefix) == wanted
    with pytest.raises(ConfigError, match="prompt_tokens is 20; accepted: 0, or 42"):
        parts_of(command(*SMALL, "--prompt-tokens", "20"))


def timed(least: int, most: int) -> TimedPolicy:
    """A policy of which nothing is there but when its answers end."""
    policy = object.__new__(TimedPolicy)
    object.__setattr__(policy, "lengths", (least, most))
    return policy


def test_answers_end_where_their_key_says_whatever_is_written():
    keys, written = jax.random.split(jax.random.key(0), 64), jnp.arange(1, 13)

    def ends(policy, token):
        """bool[answers, tokens]"""
        return np.asarray(jax.vmap(lambda n: policy._ends(keys, jnp.full(64, token), n), out_axes=1)(written))

    drawn = ends(timed(3, 12), 0)
    lengths = 12 - drawn.sum(1) + 1
    assert set(lengths) == set(range(3, 13))  # every length, and each answer ends once
    assert (drawn == (written >= lengths[:, None])).all()
    assert (ends(timed(3, 12), 1) == drawn).all()
    assert (ends(timed(5, 5), 0) == (written >= 5)).all()


def test_worlds_are_named_by_patterns_each_once():
    found = command("worlds", "--worlds", "miniworld/one_room_s6*", "miniworld/one_room_s6", "cards/*").worlds
    assert found[:2] == ("miniworld/one_room_s6", "miniworld/one_room_s6_fast")
    assert len(set(found)) == len(found) and all(name.startswith("cards/") for name in found[2:]) and found[2:]
    assert command("worlds").worlds == envs_jax.names()


def test_the_original_stands_beside_our_frames(tmp_path, traced, monkeypatch, capsys):
    """Its process is not started here: tests/envs_jax look at what it draws."""
    asked = []

    def start(words, **options):
        asked.append(words[1:])
        row = {
            "what": f"{words[3]}, step and render",
            "size": {"worlds": 1, "high": 60, "wide": 80, "steps": 10},
            "seconds": [0.5, 0.5],
            "counts": {"env_steps": 10, "frames": 10},
        }
        return subprocess.CompletedProcess(words, 0, json.dumps([row]).encode())

    # Of this module alone: Python itself starts `uname` when it is first asked for the machine.
    monkeypatch.setattr(worlds, "subprocess", SimpleNamespace(run=start, PIPE=subprocess.PIPE))
    file = tmp_path / "figures.json"
    assert bench.main(["worlds", *SMALL, "--original", "--json", str(file)]) == 0
    assert asked == [["-m", "experiments.peers.miniworld_gl", "miniworld/one_room_s6_fast", "--repeats", "1"]]
    (ratio,) = json.loads(file.read_text())["ratios"]
    assert (ratio["rate"], ratio["peer"], ratio["size"]["worlds"]) == ("frames_per_second", "miniworld", 4)
    assert f"{ratio['ratio']:.2f} x miniworld" in capsys.readouterr().out


def test_what_the_original_lacks_is_told_before_anything_of_ours_is_timed(traced, monkeypatch, capsys):
    monkeypatch.setattr(worlds.subprocess, "run", lambda words, **_: subprocess.CompletedProcess(words, 2, b""))
    monkeypatch.setattr(bench, "measure_worlds", lambda *_: pytest.fail("timed"))
    assert bench.main(["worlds", *SMALL, "--original"]) == 2
    assert "original is True; accepted where the line above does not come" in capsys.readouterr().err


def test_the_original_is_asked_for_what_it_has():
    """An option would have to be given to both; what is not MiniWorld's has nothing beside it."""
    if not importlib.util.find_spec("miniworld") or not (shutil.which("Xvfb") or os.environ.get("DISPLAY")):
        pytest.skip("the original is not here, or has no display")
    worlds = ["miniworld/hallway:max_steps=50", "miniworld/nowhere", "cards/number_line"]
    command = [sys.executable, "-m", "experiments.peers.miniworld_gl", *worlds]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert f"error: worlds is {' '.join(worlds)}; accepted: tasks of the original" in done.stderr


def test_our_names_are_the_originals():
    assert miniworld_gl.original_name("miniworld/one_room_s6_fast") == "MiniWorld-OneRoomS6Fast-v0"
    assert miniworld_gl.original_name("miniworld/t_maze_left") == "MiniWorld-TMazeLeft-v0"


def test_a_piece_is_refused_for_nothing_that_it_does_not_use(traced, monkeypatch, tmp_path, capsys):
    """Four worlds of 8 steps are no minibatch of 128, which only learning asks for, as for an update's memory."""
    few = ["--rollout.worlds", "4", "--repeats", "1"]
    for pieces in (["decode"], ["rollout"], ["decode", "rollout"]):
        parts = parts_of(command(*pieces, *few))
        assert parts.setup.rollout.worlds == 4 and parts.config.optimizer.learning_rate == 3e-4
    for pieces in (["update"], ["iteration"], ["decode", "update"], []):
        assert bench.main([*pieces, *few]) == 2
        assert "minibatch is 128; accepted: a divisor of worlds x steps, which is 32" in capsys.readouterr().err

    parts = parts_of(command("update", *SMALL))
    needed = memory.estimate(parts.setup, parts.model_config, parts.abstract_params())
    assert sum(needed.update.values()) > sum(needed.rollout.values())
    monkeypatch.setattr(memory, "device_memory", lambda: needed.peak - 1)
    file = tmp_path / "figures.json"
    assert bench.main(["rollout", *SMALL, "--json", str(file)]) == 0
    assert json.loads(file.read_text())["config"]["optimizer"]["minibatch"] == 8  # as it was asked for
    assert bench.main(["update", *SMALL]) == 2
    assert "the training needs" in capsys.readouterr().err
    monkeypatch.setattr(memory, "device_memory", lambda: 1)
    assert bench.main(["rollout", *SMALL]) == 2
    assert "the rollout needs" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["decod"], "'decod' is no piece and no preset; accepted: worlds, decode"),
        (["decode", "update", "nano", "mini"], "'mini' is one word too many"),
        (["decode", "--repeats", "0"], "repeats is 0; accepted: 1 or more"),
        (["worlds", "--numbers", "0"], "numbers is (0,); accepted"),
        (["decode", "--answer-lengths", "3", "2"], "answer_lengths is (3, 2); accepted: 0 0, or two numbers"),
        (["decode", "--answer-lengths", "0", "5"], "answer_lengths is (0, 5); accepted: 0 0, or two numbers"),
        (["decode", "--answer-lengths", "1", "99"], "policy.max_tokens, which is 12"),
        (["decode", "--json", "/nowhere/at/all.json"], "json is '/nowhere/at/all.json'; accepted"),
        (
            ["worlds", "--worlds", "miniworld/*", "nowhere/*"],
            "worlds: 'nowhere/*' fits no world; accepted: cards/",
        ),
        (["decode", "--json", str(Path(__file__).parent)], "accepted: a file in a folder that is there"),
        (["worlds", "--worlds", "cards/p*:size=3"], "worlds: world 'cards/points24:size=3': got an unexpected"),
        (["worlds", "--image", "0", "80"], "image is (0, 80); accepted"),
        (["worlds", "--world", "miniworld/one_room", "--image", "4", "1"], "image is (4, 1): image_shape"),
        (["worlds", "--peer"], "peer is for decode and update"),
        (["decode", "--world", "nowhere"], "nowhere"),
        (["update", "--optimizer.minibatch", "3", "--optimizer.microbatch", "1"], "minibatch is 3"),
    ],
)
def test_what_can_not_be_is_one_line(arguments, message, capsys):
    assert bench.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1


def test_the_peer_says_what_it_lacks(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    from experiments.peers import hf_torch

    monkeypatch.setitem(sys.modules, "peft", None)
    assert hf_torch.main(["decode", "--device", "cpu"]) == 2
    monkeypatch.delitem(sys.modules, "peft")
    assert "pip install -e '.[peers]'" in capsys.readouterr().err
    for text in ("{}", "[1]", "{"):
        (tmp_path / "figures.json").write_text(text)
        assert hf_torch.main(["decode", "--device", "cpu", "--ceilings", str(tmp_path / "figures.json")]) == 2
        assert "figures.json'; accepted: a file that experiments.bench --json wrote" in capsys.readouterr().err
    assert hf_torch.main(["worlds"]) == 2
    error = capsys.readouterr().err
    assert (
        error
        == "error: 'worlds' is no piece and no preset; accepted: decode, update, " + error.split("update, ")[1]
    )


def test_the_library_never_imports_the_peer():
    for path in (*(ROOT / "src").rglob("*.py"), *(ROOT / "envs_jax").rglob("*.py")):
        text = path.read_text()
        assert "import torch" not in text and "experiments" not in [
            line.split()[1].split(".")[0] for line in text.splitlines() if line.startswith(("import ", "from "))
        ]
