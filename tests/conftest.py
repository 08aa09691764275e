"""What every test runs under: the CPU, checked array annotations, and examples that do not depend on luck.

* The jaxtyping annotations of the packages' functions are checked at run time, shapes and dtypes, by beartype.
  Those of flax structs are not: JAX rebuilds a struct with batched, abstract or placeholder leaves.
* Programs are compiled once a session, by whichever test or subprocess comes first, and hardly optimised: most of
  the time goes there. Tracing them leaves millions of objects, which the garbage collector looks at less often.
* Files that take long come first; a worker takes a whole file at a time.
* hypothesis is derandomised, so that a run on two machines tests the same examples.
"""

from __future__ import annotations

import atexit
import functools
import gc
import os
import shutil
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))  # for what several folders of tests share: `tests.chores`
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# A quarter of the time to compile, on a CPU: nothing is optimised, no program is cut into parts for threads (each
# core has its worker), and loops are fused the old, plainer way. Later versions have only the new way, and end the
# process at a flag that they do not know.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
    + (" --xla_cpu_use_fusion_emitters=false" if version("jaxlib").startswith("0.10.") else ""),
)
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="vldac-tests-")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.5"  # to keep one takes a fifth as long

import hypothesis
import jax
import pytest
from flax import struct
from jaxtyping import install_import_hook

hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None, print_blob=True)
hypothesis.settings.load_profile("repeatable")

gc.set_threshold(50_000, 20, 10)  # a tenth of the time, if each 700 new objects are followed by a look at them
_MOST_RESIDENT = 3 * 2**30  # bytes of a worker; there are two
_LONGEST = (  # files that take most, so that no worker is left with one of them at the end
    "experiments/test_run.py",
    "vldac/test_mesh.py",
    "vldac/test_lora.py",
    "vldac/test_slots.py",
    "vldac/models/test_decode.py",
    "experiments/test_checkpoints.py",
    "vldac/test_train.py",
    "vldac/models/test_export.py",
    "vldac/models/test_parity.py",
    "envs_jax/render/test_original_pictures.py",
    "experiments/test_export.py",  # of the run that the first file has made by then
)
_dataclass = struct.dataclass


def _unchecked_dataclass(cls=None, **options):
    """flax.struct.dataclass, marked so that jaxtyping leaves its constructor alone."""
    if cls is None:
        return functools.partial(_unchecked_dataclass, **options)
    made = _dataclass(cls, **options)
    made.__no_type_check__ = True
    return made


struct.dataclass = _unchecked_dataclass
install_import_hook(["vldac", "envs_jax", "experiments"], "beartype.beartype")


def pytest_collection_modifyitems(items):
    """The longest files first, each as it was; workers take whole files in this order."""
    ranks = {Path(__file__).parent / name: rank for rank, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path, len(ranks)))


def pytest_collection_finish():
    """What has been imported stays: the garbage collector need not look at it again."""
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def _room():
    """Forgets compiled programs where they have grown large: a worker keeps all that its files ever compiled."""
    yield
    if _resident_bytes() > _MOST_RESIDENT:
        jax.clear_caches()
        gc.collect()


def _resident_bytes() -> int:
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:  # no Linux: nobody knows, and nothing is forgotten
        return 0
