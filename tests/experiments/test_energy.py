"""Energy beside time: of which GPUs, and when it is worth telling. NVML is played by a counter of 100 W a GPU."""

from __future__ import annotations

import io
import sys
import time
from types import SimpleNamespace

import jax
import pytest
from rich.console import Console

from experiments.bench import ceilings, energy, measure, table, work
from experiments.bench.ceilings import Ceilings
from experiments.bench.measure import Timing, timed
from experiments.bench.table import Row


class Nvml(SimpleNamespace):
    """Four GPUs, number n drawing 100 (n + 1) W for `now` seconds and nothing for `idle` ones."""

    class NVMLError(Exception):
        pass

    def __init__(self, supported: bool = True):
        super().__init__(now=0.0, idle=0.0, supported=supported)

    def nvmlInit(self):
        pass

    def nvmlDeviceGetHandleByIndex(self, number):
        assert isinstance(number, int)
        if number > 3:
            raise self.NVMLError("no such GPU")
        return number

    def nvmlDeviceGetHandleByUUID(self, name):
        return {"GPU-a": 0, "GPU-d": 3}[name]

    def nvmlDeviceGetTotalEnergyConsumption(self, handle):
        if not self.supported:
            raise self.NVMLError("not supported")
        return round(self.now * 100e3 * (handle + 1))  # millijoules


@pytest.fixture
def nvml(monkeypatch):
    found = Nvml()
    monkeypatch.setitem(sys.modules, "pynvml", found)
    monkeypatch.setattr(time, "perf_counter", lambda: found.now + found.idle)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return found


def spend(nvml, seconds, devices):
    with energy.metered(devices) as spent:
        nvml.now += seconds
    return spent


def test_joules_are_those_of_the_gpus_that_were_used(nvml, monkeypatch):
    spent = spend(nvml, 10.0, [1])
    assert spent.joules == 2000 and spent.watts == 200 and spent.seconds == 10
    assert spend(nvml, 10.0, [0, 1]).joules == 3000
    # Only two of the host's are visible to CUDA, which numbers them anew.
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, 0")
    assert [spend(nvml, 10.0, [number]).joules for number in (0, 1)] == [3000, 1000]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-d,GPU-a")
    assert [spend(nvml, 10.0, [number]).joules for number in (0, 1)] == [4000, 1000]


def test_what_can_not_be_metered_is_left_out_and_does_no_harm(nvml, monkeypatch):
    assert spend(nvml, 0.1, [0]).watts is None  # counters go on in steps
    assert spend(nvml, 10.0, [7]).joules is None and not energy.available([7])
    assert spend(nvml, 10.0, []).joules is None
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-1")
    nvml.nvmlDeviceGetHandleByUUID = lambda name: (_ for _ in ()).throw(Nvml.NVMLError(name))
    assert spend(nvml, 10.0, [0]).joules is None
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    nvml.supported = False
    assert spend(nvml, 10.0, [0]).joules is None
    monkeypatch.setitem(sys.modules, "pynvml", None)  # not installed
    assert spend(nvml, 10.0, [0]).joules is None


def test_short_calls_go_on_until_their_energy_is_known(nvml):
    calls = []

    def call():
        calls.append(nvml.now)
        nvml.now += 0.25

    timing = timed(call, 3, gpus=[0])
    assert timing.seconds == (0.25,) * 3 and len(calls) == 1 + energy.LEAST / 0.25
    assert timing.joules == pytest.approx(25)
    calls.clear()
    assert timed(call, 3, gpus=[]) == Timing((0.25,) * 3) and len(calls) == 1 + 3
    calls.clear()
    assert timed(call, 12, gpus=[0]).joules == pytest.approx(25) and len(calls) == 1 + 12


def test_timings_are_added_and_taken_apart_with_their_energy():
    whole, part = Timing((5.0, 3.0), 40.0), Timing((1.0, 2.0), 10.0)
    assert whole.less(part) == Timing((2.0, 3.0), 30.0)
    assert whole.plus(part.times(2.0)) == Timing((5.0, 9.0), 60.0)
    assert whole.less(Timing((1.0, 2.0))) == Timing((2.0, 3.0))


def test_ceilings_say_what_one_device_draws_at_them_and_not_while_they_are_compiled(nvml, monkeypatch):
    def steady(function, *args, seconds):
        function(*args)
        nvml.now += 4.0
        return 0.5

    def jit(function):
        compiled = []

        def call(*args):
            if not compiled:
                nvml.idle += 30.0
            compiled.append(None)
            return function(*args)

        return call

    monkeypatch.setattr(ceilings, "steady", steady)
    monkeypatch.setattr(ceilings.jax, "jit", jit)
    monkeypatch.setattr(energy, "gpus", lambda: [1, 2])
    found = ceilings.measure("cpu")
    assert found.watts == {"bfloat16": 200, "float32": 200, "copy": 200}
    assert found.times(2).watts == {"bfloat16": 400, "float32": 400, "copy": 400}
    monkeypatch.setattr(energy, "gpus", list)
    assert ceilings.measure("cpu").watts == {}


@pytest.mark.parametrize("metered", [True, False])
def test_the_table_shows_joules_and_watts_where_there_are_any(metered):
    found = Ceilings({"float32": 1e12}, 1e9, {"float32": 687.4, "copy": 623.0} if metered else {})
    timing = Timing((2.0, 2.0), 1234.0 if metered else None)
    row = Row("decode", "answer", {"lanes": 4}, timing, {"loop_tokens": 8}, [work.Stage("a", flops=1e12)])
    result = {
        "command": "bench",
        "hardware": {"device": "gpu"},
        "model": "m",
        "ceilings": {"matmul": found.matmul, "bandwidth": found.bandwidth, "watts": found.watts},
        "rows": [row.record(found)],
        "ratios": [],
        "peak_bytes_in_use": None,
    }
    console = Console(file=io.StringIO(), width=200)
    table.show(result, console)
    text = console.file.getvalue()
    assert ("1,234" in text and "617" in text) == metered
    assert ("at 687 W, copy 1 GB/s at 623 W" in text) == metered


def test_here_there_is_no_gpu_to_meter():
    assert jax.default_backend() != "cpu" or energy.gpus() == []
    assert measure.timed(lambda: None, 2, gpus=[]).joules is None
