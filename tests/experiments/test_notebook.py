"""The notebook runs from the first cell to the last, and is kept without outputs."""

from __future__ import annotations

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "experiments" / "notebooks" / "quickstart.ipynb"
SMALL = "WARM_START_STEPS = 21\nITERATIONS = 2\nEPISODES = 8\nSEED = 0"


@pytest.fixture
def notebook():
    return nbformat.read(NOTEBOOK, as_version=4)


def test_it_is_kept_without_outputs(notebook):
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None


@pytest.mark.slow
def test_it_runs(notebook, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "src"), str(ROOT)]))
    settings = [cell for cell in notebook.cells if "settings" in cell.metadata.get("tags", [])]
    assert len(settings) == 1, "one cell holds the sizes"
    assert {line.split("=")[0] for line in SMALL.splitlines()} == {
        line.split("=")[0] for line in settings[0].source.splitlines() if "=" in line
    }
    settings[0].source = SMALL
    NotebookClient(notebook, timeout=500, kernel_name="python3").execute()
    printed = "".join(
        output.get("text", "") for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs
    )
    assert "step   20  loss" in printed and "step   21  loss" in printed and "step   22" not in printed
    assert "miniworld/one_room_s6_fast" in printed and "after    success" in printed
