"""One real run for all tests that look at one."""

from __future__ import annotations

import json

import pytest
from filelock import FileLock

from tests.runs import SMALL, run


@pytest.fixture(scope="session")
def whole(tmp_path_factory, worker_id):
    """(folder, output) of a run that nobody disturbed: to look at and to copy, not to write into.

    Made once for all of pytest's workers: who comes second waits for the first.
    """
    folder = tmp_path_factory.getbasetemp()
    if worker_id != "master":
        folder = folder.parent
    told = folder / "whole.json"
    with FileLock(folder / "whole.lock"):
        if not told.exists():
            told.write_text(json.dumps(run("--folder", folder, "--name", "whole", *SMALL)))
    code, output = json.loads(told.read_text())
    assert code == 0, output
    return folder / "whole", output
