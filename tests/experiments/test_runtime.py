"""Compiled programs are kept where it is written that they are, unless the environment says otherwise."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = """
import jax, jax.numpy as jnp
from experiments import runtime
runtime.prepare()
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.jit(lambda x: jnp.sin(x) @ x.T)(jnp.ones((4, 4))).block_until_ready()
"""


@pytest.mark.parametrize("named", [False, True])
def test_programs_are_kept_between_processes(named, tmp_path):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("JAX_COMPILATION")}
    environment |= {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]), "XDG_CACHE_HOME": str(tmp_path)}
    folder = tmp_path / "vldac" / "compilation"
    if named:
        folder = tmp_path / "elsewhere"
        environment["JAX_COMPILATION_CACHE_DIR"] = str(folder)
    subprocess.run([sys.executable, "-c", PROGRAM], env=environment, check=True, timeout=120)
    assert any(folder.iterdir())
    assert (tmp_path / "vldac").exists() is not named
