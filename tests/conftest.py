"""What every test runs under: the CPU, checked array annotations, and examples that do not depend on luck.

* The jaxtyping annotations of the packages are checked at run time, shapes and dtypes, by beartype.
* hypothesis is derandomised, so that a run on two machines tests the same examples.
"""

from __future__ import annotations

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import hypothesis
from jaxtyping import install_import_hook

hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None, print_blob=True)
hypothesis.settings.load_profile("repeatable")

install_import_hook(["vldac", "envs_jax", "experiments"], "beartype.beartype")
