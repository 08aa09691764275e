"""The original MiniWorld's rooms as scenes of ours."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def original(display):
    """The module `original_scene`."""
    pytest.importorskip("miniworld", reason="the original MiniWorld is not installed (the extra `test` has it)")
    path = Path(__file__).with_name("original_scene.py")
    spec = importlib.util.spec_from_file_location("original_scene", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["original_scene"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module
