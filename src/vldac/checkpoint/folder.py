"""The files of one checkpoint: their sums, and what is wrong with them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

META_FILE = "meta.json"
SUMS_FILE = "SHA256SUMS"


def files(folder: Path) -> list[str]:
    """Paths of all files below, relative, without the list of sums itself."""
    below = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())
    return sorted(name for name in below if name != SUMS_FILE)


def sha256(path: Path) -> str:
    """Of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fault_of(path: Path) -> str | None:
    """What is wrong with a checkpoint, or None if every byte is as it was written."""
    try:
        lines = (path / SUMS_FILE).read_text(encoding="utf-8").splitlines()
        sums = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
        present = files(path)
        for name in sorted({META_FILE, *sums, *present}):
            if name not in present:
                return f"{name} is missing"
            if name not in sums:
                return f"{name} is not listed in {SUMS_FILE}"
            if sha256(path / name) != sums[name]:
                return f"{name} is damaged"
        written = json.loads((path / META_FILE).read_text(encoding="utf-8"))["iteration"]
        if int(path.name.partition("-")[0]) != written:
            return f"it was written as that of iteration {written}"
    except FileNotFoundError as error:
        return f"{Path(error.filename).relative_to(path)} is missing"
    except OSError as error:
        return error.strerror or str(error)
    except UnicodeDecodeError:
        return f"{SUMS_FILE} is damaged"
    return None
