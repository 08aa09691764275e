"""VSI-Bench's videos: found in folders or in the zip files as downloaded, and sampled.

    <root>/{dataset}/{scene}.mp4        after unzipping, or
    <root>/{dataset}.zip                as downloaded, members `{dataset}/{scene}.mp4` or `{scene}.mp4`

* Nothing is unpacked to a place that a file names: a member is copied to a temporary file without a name, in
  memory while it is small, by which its checksum is verified, too.
* A video is decoded from its start, since its key frames lie further apart than the frames that are asked for;
  only those are kept.
"""

from __future__ import annotations

import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from vldac.evaluate.benchmark import BenchmarkError
from vldac.evaluate.tables import damaged, first_line, need
from vldac.generate.request import Video

IN_MEMORY = 64 * 2**20
"""Bytes of a zip's member that are held in memory; longer ones go through a temporary file."""

Choose = Callable[[int, float], np.ndarray]  # (frames, frames a second or 0) -> int[n] indices, ascending


def uniform(frames: int, count: int) -> np.ndarray:
    """int[n]: `count` frames spread over a video of `frames`, its first and last among them; all if it has fewer.

    Source: how lmms-eval reads videos (models/model_utils/load_video.py), on which VSI-Bench's code is built.
    """
    return np.linspace(0, frames - 1, min(count, frames)).astype(int)


def two_a_second(frames: int, fps: float, count: int) -> np.ndarray:
    """int[n]: as lmms-eval gives videos to Qwen2-VL: two frames a second, of which `count` are spread uniformly.

    Source: lmms-eval models/simple/qwen2_vl.py on qwen-vl-utils 0.0.14, vision_process.py: 4 to 768 frames, an
    even number of them.
    """
    if frames < 2 or fps <= 0:
        return uniform(frames, count)
    kept = min(max(frames / fps * 2.0, 4), min(768, frames) // 2 * 2)
    kept = int(kept // 2 * 2)
    # torch.linspace in float32: from the start in the first half, from the end in the second.
    last, at = np.float32(frames - 1), np.arange(kept)
    step = last / np.float32(kept - 1)
    spread = np.where(
        at < kept // 2, step * at.astype(np.float32), last - step * (kept - 1 - at).astype(np.float32)
    )
    first = np.round(spread).astype(int)
    return first[np.unique(np.linspace(0, kept - 1, count).astype(int))]


class Videos:
    """The videos under a folder.

    Args:
      root: holds `{dataset}/` or `{dataset}.zip`.
    """

    def __init__(self, root: Path):
        self.root = root
        self._members: dict[str, dict[str, zipfile.ZipInfo]] = {}

    def check(self, names: Iterable[tuple[str, str]]) -> None:
        """Finds every video, opens those that are not in a zip, and reads no frame.

        Args:
          names: (dataset, scene) of each.

        Raises:
          BenchmarkError: some that are missing, a zip that is damaged, a video that is none, or PyAV is missing.
        """
        need("av")
        missing = []
        for dataset, scene in sorted(set(names)):
            path = self._file(dataset, scene)
            if path.is_file():
                with open(path, "rb") as file, _opened(file, path, "the video"):
                    pass
            elif self._member(dataset, scene) is None:
                missing.append(path)
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            archive = missing[0].parent.with_suffix(".zip")
            raise BenchmarkError(
                f"{missing[0]}{more}: not there, nor in {archive.name}; put {archive.name} of the benchmark into "
                f"{self.root}, unzipped or as it is"
            )

    def read(self, dataset: str, scene: str, choose: Choose) -> Video:
        """The chosen frames of a video.

        Args:
          dataset, scene: its name.
          choose: (frames, frames a second or 0) -> int[n], which frames.

        Raises:
          BenchmarkError: it is missing or damaged.
        """
        path = self._file(dataset, scene)
        if path.is_file():
            with open(path, "rb") as file:
                return read_video(file, path, "the video", choose)
        info = self._member(dataset, scene)
        if info is None:
            raise BenchmarkError(f"{path}: not there any more")
        archive = path.parent.with_suffix(".zip")
        with _extracted(archive, info) as file:
            return read_video(file, archive, info.filename, choose)

    def _file(self, dataset: str, scene: str) -> Path:
        return self.root / dataset / f"{scene}.mp4"

    def _member(self, dataset: str, scene: str) -> zipfile.ZipInfo | None:
        if dataset not in self._members:
            self._members[dataset] = _list(self.root / f"{dataset}.zip")
        members, name = self._members[dataset], f"{scene}.mp4"
        info = members.get(f"{dataset}/{name}") or members.get(name)
        if info is not None:
            _check_member(self.root / f"{dataset}.zip", info)
        return info


def _list(archive: Path) -> dict[str, zipfile.ZipInfo]:
    """The members of a zip by name, its directory alone being read; none if there is no such file."""
    if not archive.is_file():
        return {}
    try:
        with zipfile.ZipFile(archive) as file:
            return {info.filename: info for info in file.infolist()}
    except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError) as error:
        raise damaged(archive, error) from None


def _check_member(archive: Path, info: zipfile.ZipInfo) -> None:
    if info.flag_bits & 1:
        raise BenchmarkError(f"{archive}: {info.filename} is encrypted; download the benchmark's own file")
    if not info.file_size:
        raise damaged(archive, f"{info.filename} is empty")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise BenchmarkError(
            f"{archive}: {info.filename} is neither stored nor deflated; unzip it into {archive.stem}/"
        )


@contextmanager
def _extracted(archive: Path, info: zipfile.ZipInfo) -> Iterator[IO[bytes]]:
    """A member's bytes as a file that can be sought in and is gone afterwards."""
    with tempfile.SpooledTemporaryFile(max_size=IN_MEMORY) as file:
        try:
            with zipfile.ZipFile(archive) as whole, whole.open(info) as member:
                shutil.copyfileobj(member, file, 2**20)
        except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError, OSError) as error:
            raise damaged(archive, f"{info.filename}: {first_line(error)}") from None
        file.seek(0)
        yield file


@contextmanager
def _opened(file: IO[bytes], path: Path, name: str) -> Iterator[tuple[Any, Any]]:
    """PyAV's container and its first video stream; whatever PyAV says is a `BenchmarkError`.

    Only as mp4: a text file of that name could make ffmpeg open others, or addresses.
    """
    av = need("av")
    try:
        with av.open(file, mode="r", format="mp4", metadata_errors="replace") as container:
            if not container.streams.video:
                raise damaged(path, f"{name} holds no picture")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            yield container, stream
    except (av.error.FFmpegError, OSError, ValueError) as error:  # ValueError: names that are no UTF-8
        raise damaged(path, f"{name}: {getattr(error, 'strerror', None) or first_line(error)}") from None


def read_video(file: IO[bytes], path: Path, name: str, choose: Choose) -> Video:
    """The chosen frames of an mp4.

    Args:
      file: its bytes, which are sought in.
      path, name: the file on disk, and what the video is called in errors.
      choose: (frames, frames a second or 0) -> int[n], which frames, ascending.

    Raises:
      BenchmarkError: no mp4, or frames that can not be decoded or are fewer than it says.
    """
    with _opened(file, path, name) as (container, stream):
        said, rate = stream.frames, float(stream.average_rate or 0)
        # Counted rather than believed: edit lists hide frames. No picture is decoded here.
        packets = [packet.is_discard for packet in container.demux(stream) if packet.size]
    total = packets.count(False)
    if len(packets) < said or not total:
        raise damaged(path, f"{name} ends after {len(packets)} of {said} frames")
    wanted = [int(index) for index in choose(total, rate)]
    file.seek(0)
    frames = {}
    with _opened(file, path, name) as (container, stream):
        for index, frame in enumerate(container.decode(stream)):
            if index in wanted:
                if frame.is_corrupt:
                    raise damaged(path, f"frame {index} of {name}")
                frames[index] = frame.to_ndarray(format="rgb24")
            if index == wanted[-1]:
                break
    lacking = [index for index in wanted if index not in frames]
    if lacking:
        raise damaged(path, f"{name}: frame {lacking[0]} of {total} can not be decoded")
    if len({frame.shape for frame in frames.values()}) > 1:
        raise damaged(path, f"{name} changes its size")
    return Video(np.stack([frames[index] for index in wanted]), fps=rate * len(wanted) / total)
