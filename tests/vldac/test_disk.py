"""A folder that is written is there whole or not at all."""

from __future__ import annotations

import pytest

from vldac import disk


def test_a_folder_is_there_whole_or_not_at_all(tmp_path):
    target = tmp_path / "runs" / "export"
    with pytest.raises(RuntimeError), disk.whole(target) as folder:
        (folder / "half").write_text("x")
        raise RuntimeError
    assert list(target.parent.iterdir()) == []
    (target.parent / ".export.partial").mkdir()  # as a kill leaves it
    (target.parent / ".export.partial" / "old").write_text("x")
    with disk.whole(target) as folder:
        (folder / "file").write_text("x")
        assert not target.exists()
    assert [path.name for path in target.parent.iterdir()] == ["export"]
    assert [path.name for path in target.iterdir()] == ["file"]
    with pytest.raises(ValueError, match="exists already; accepted: "), disk.whole(target):
        pytest.fail("nothing may be written")
    assert [path.name for path in target.iterdir()] == ["file"]
