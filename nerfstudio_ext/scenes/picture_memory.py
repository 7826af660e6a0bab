"""Where the pixels of a capture go: into memory as far as the budget reaches, else into a file mapped into memory."""

from __future__ import annotations

import math
import mmap
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import UserError

SHARE_OF_FREE = 0.4
"""Of the memory that is free now: weights, optimiser, viewer and evaluation want the rest."""
LEAST_BUDGET = 512 * 2**20
NOTE_BYTES = 256 * 2**20
"""Smaller captures load in moments; nobody waits for an estimate of them."""
PIXELS_PER_S = 80e6
"""Pixels of JPEG files that one thread decodes and reduces in a second; measured on 12 MP photos."""
MAX_THREADS = 4
PAGE = mmap.PAGESIZE


@dataclass(frozen=True)
class PictureLoad:
    """What loading a capture will take.

    Attributes:
        n_pictures: How many.
        n_file_pixels: Pixels to decode.
        n_bytes: Bytes of all pixels at the size they are kept.
        budget: Bytes that may stay in memory.
        folder: Where the file goes when that is not enough.
    """

    n_pictures: int
    n_file_pixels: int
    n_bytes: int
    budget: int
    folder: Path

    @property
    def is_mapped(self) -> bool:
        """Whether the pixels go to a file."""
        return self.n_bytes > self.budget

    @property
    def seconds(self) -> float:
        """About how long decoding takes."""
        return self.n_file_pixels / PIXELS_PER_S / min(MAX_THREADS, os.cpu_count() or 1)

    @property
    def line(self) -> str:
        """One line for people: pictures, pixels, memory, disk, time."""
        head = (
            f"{self.n_pictures} pictures of {self.n_file_pixels / 1e6:.0f} million pixels in their files: "
            f"{_gb(self.n_bytes)} GB as they are used"
        )
        time = duration(self.seconds)
        if not self.is_mapped:
            return f"{head}, in memory ({_gb(self.budget)} GB may be used: --image-memory); reading takes {time}"
        return (
            f"{head}, more than the {_gb(self.budget)} GB of memory they may take (--image-memory): they go to a file "
            f"in {self.folder} ({_gb(free_disk(self.folder))} GB free); reading takes {time}"
        )


def duration(seconds: float) -> str:
    """`about 40 s`, `about 12 min`, `about 3.0 h`."""
    if seconds < 90:
        return f"about {max(1, round(seconds))} s"
    return f"about {seconds / 60:.0f} min" if seconds < 5400 else f"about {seconds / 3600:.1f} h"


def plan_load(
    file_pixels: Sequence[int], kept_pixels: Sequence[int], n_channels: int, budget: int | None, folder: Path | None
) -> PictureLoad:
    """What loading will take, before anything is decoded.

    Args:
        file_pixels: Pixels of each picture as it lies on disk.
        kept_pixels: Pixels of each as it will be used.
        n_channels: Bytes per pixel.
        budget: Bytes that may stay in memory; None: a share of what is free.
        folder: Where a file may go; None: the system's folder for temporary files.
    Raises:
        UserError: if they fit neither in memory nor on the disk.
    """
    where = folder if folder is not None else _temporary_folder()
    n_bytes = n_channels * sum(kept_pixels)
    load = PictureLoad(
        len(kept_pixels), sum(file_pixels), n_bytes, default_budget() if budget is None else budget, where
    )
    if load.is_mapped and free_disk(where) < n_bytes:
        raise UserError(
            f"{_gb(n_bytes)} GB of pixels fit neither into the {_gb(load.budget)} GB of memory they may take nor on "
            f"the disk ({_gb(free_disk(where))} GB free)", where=where,
            fix="Use smaller pictures (--max-side or --downscale-factor), or an --output-dir on a larger disk",
        )  # fmt: skip
    return load


def mapped_array(shape: tuple[int, ...], dtype: type[np.generic], folder: Path | None) -> np.ndarray:
    """An array of zeros in a file without a name, which is gone when nobody uses it any more, even after a crash.

    Raises:
        UserError: if there is no room.
    """
    n_bytes = math.prod(shape) * np.dtype(dtype).itemsize
    where = folder if folder is not None else _temporary_folder()
    try:
        where.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(prefix=".nsx-pixels-", dir=where) as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, max(1, n_bytes))  # a full disk is met here, not as a bus error
            else:
                file.truncate(max(1, n_bytes))
            return np.memmap(file, dtype=dtype, mode="r+", shape=shape)
    except OSError as error:
        raise UserError(
            f"no room for {_gb(n_bytes)} GB of pixels: {error.strerror}", where=where,
            fix="Use smaller pictures (--max-side), or an --output-dir on a larger disk",
        ) from None  # fmt: skip


def let_go(array: np.ndarray, start: int, stop: int) -> None:
    """Tell the system that rows `start` to `stop` of a mapped array are not needed in memory for now."""
    mapped = _map_of(array)
    if mapped is None or not hasattr(mmap, "MADV_DONTNEED"):
        return
    row = array.strides[0]
    # Pages that hold other rows as well stay as they are.
    first, last = -(-start * row // PAGE) * PAGE, stop * row // PAGE * PAGE
    if last > first:
        mapped.madvise(mmap.MADV_DONTNEED, first, last - first)


def fetch_rows(array: np.ndarray, rows: np.ndarray) -> None:
    """Have the pages of these rows of a mapped array read all at once, rather than one after the other when touched.

    A disk answers a thousand requests that wait together some twelve times as fast as one by one. The map as a whole
    keeps the usual advice: whole pictures are read forty times as fast with their neighbours read ahead.
    """
    mapped = _map_of(array)
    if mapped is None or not hasattr(mmap, "MADV_WILLNEED"):
        return
    for page in np.unique(rows * array.strides[0] // PAGE).tolist():
        mapped.madvise(mmap.MADV_WILLNEED, page * PAGE, PAGE)


def default_budget() -> int:
    """Bytes of pixels that may stay in memory where nobody said how many."""
    return max(LEAST_BUDGET, int(SHARE_OF_FREE * free_memory()))


def free_memory() -> int:
    """Bytes that can be had without driving anything out: what the system reports, or less where a container ends."""
    found = [value for value in (_meminfo_available(), *_container_left()) if value is not None]
    if found:
        return max(0, min(found))
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):  # not every system tells
        return 4 * 2**30


def free_disk(folder: Path) -> int:
    """Bytes free on the disk of a folder that may not exist yet."""
    existing = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    return shutil.disk_usage(existing).free


def _meminfo_available() -> int | None:
    """Linux's own estimate; free pages alone leave out what it only caches."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, StopIteration):
        return None


def _container_left() -> list[int]:
    """Bytes left below the limits of the control groups of either version that this process is in."""
    left = []
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        try:
            left.append(int(Path(limit).read_text()) - int(Path(used).read_text()))
        except (OSError, ValueError):  # no such group, or "max": no limit
            continue
    return left


def _map_of(array: np.ndarray) -> mmap.mmap | None:
    found = getattr(array, "_mmap", None)
    return found if isinstance(found, mmap.mmap) else None


def _temporary_folder() -> Path:
    try:
        return Path(tempfile.gettempdir())
    except FileNotFoundError:
        raise UserError(
            "no folder for temporary files can be written", where="TMPDIR", fix="Set TMPDIR to one that can"
        ) from None


def _gb(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.1f}" if n_bytes >= 1e8 else f"{n_bytes / 1e9:.2g}"
