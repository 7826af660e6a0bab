"""Decoding the pictures of a capture into one store, in memory or in a mapped file."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Int32

from ..progress import Progress, SilentProgress
from .images import DamagedImage, ImageStore, read_image
from .picture_memory import MAX_THREADS, default_budget, let_go, mapped_array


@dataclass(frozen=True)
class PictureJob:
    """One picture to decode into a store.

    Attributes:
        path: The file.
        size: (width, height) wanted.
        upright: Whether to apply the EXIF orientation.
        usable: Returns the mask of usable pixels [height,width] bool, or None for all; called after decoding.
    """

    path: Path
    size: tuple[int, int]
    upright: bool = True
    usable: Callable[[], np.ndarray | None] = lambda: None


def load_store(
    jobs: Sequence[PictureJob],
    n_channels: int,
    *,
    memory_budget: int | None = None,
    folder: Path | None = None,
    progress: Progress | None = None,
) -> tuple[ImageStore, dict[int, DamagedImage]]:
    """Decode pictures into one store, two or more at a time.

    Args:
        jobs: The pictures.
        n_channels: 3 or 4.
        memory_budget: Bytes the pixels may take in memory; a larger capture goes to an unnamed temporary file that is
            mapped into memory. None: 40 % of the memory that is free now.
        folder: Where that file goes; None: the system's folder for temporary files.
        progress: Receives one stage.
    Returns:
        A store of the pictures that could be decoded, in order, and the damage of the others by position in `jobs`.
    Raises:
        UserError: if there is room neither in memory nor on the disk.
    """
    progress = progress or SilentProgress()
    budget = memory_budget if memory_budget is not None else default_budget()
    shelf = _Shelf(jobs, n_channels, budget, folder)
    progress.stage("Loading pictures", len(jobs))
    damaged: dict[int, DamagedImage] = {}
    valid: list[np.ndarray | None] = []
    good: list[int] = []
    pool = ThreadPoolExecutor(max_workers=min(MAX_THREADS, os.cpu_count() or 1))
    try:
        for i, result in enumerate(pool.map(shelf.put, range(len(jobs)))):
            if isinstance(result, DamagedImage):
                damaged[i] = result
            else:
                good.append(i)
                valid.append(result)
            progress.advance(i + 1)
    finally:
        pool.shutdown(cancel_futures=True)  # an error or Ctrl+C must not wait for pictures nobody will see
    sizes = torch.tensor([jobs[i].size for i in good], dtype=torch.int64).reshape(len(good), 2)
    return ImageStore(shelf.flat, [shelf.starts[i] for i in good], sizes, valid, folder), damaged


class _Shelf:
    """Where decoded pictures are put, each at its own place, from several threads.

    Positions of usable pixels go to a file where the pixels do: they take more bytes than those.

    Attributes:
        flat: All pixels [N,C].
        starts: Number of the first pixel of each picture, and the number of all.
    """

    def __init__(self, jobs: Sequence[PictureJob], n_channels: int, budget: int, folder: Path | None) -> None:
        self._jobs, self._folder = jobs, folder
        counts = [job.size[0] * job.size[1] for job in jobs]
        self.starts: list[int] = [0, *np.cumsum(counts, dtype=np.int64).tolist()]
        shape = (self.starts[-1], n_channels)
        self._is_mapped = shape[0] * n_channels > budget
        self.flat = mapped_array(shape, np.uint8, folder) if self._is_mapped else np.empty(shape, dtype=np.uint8)
        self._positions: np.ndarray | None = None
        self._lock = threading.Lock()

    def put(self, i: int) -> DamagedImage | Int32[np.ndarray, " n"] | None:
        """Decode picture `i`; what was wrong with it, or the positions of its usable pixels, None for all."""
        job, start, stop = self._jobs[i], self.starts[i], self.starts[i + 1]
        try:
            pixels = read_image(job.path, size=job.size, upright=job.upright)
        except DamagedImage as damage:
            return damage
        n_channels = self.flat.shape[1]
        target = self.flat[start:stop].reshape(job.size[1], job.size[0], n_channels)
        target[..., : pixels.shape[-1]] = pixels
        if pixels.shape[-1] < n_channels:
            target[..., 3] = 255
        let_go(self.flat, start, stop)
        return self._kept(start, job.usable())

    def _kept(self, start: int, mask: Bool[np.ndarray, "H W"] | None) -> Int32[np.ndarray, " n"] | None:
        if mask is None or mask.all():
            return None
        found = np.flatnonzero(mask).astype(np.int32)
        if not self._is_mapped:
            return found
        with self._lock:
            if self._positions is None:
                self._positions = mapped_array((self.starts[-1],), np.int32, self._folder)
        kept: np.ndarray = self._positions[start : start + len(found)]
        kept[:] = found
        let_go(self._positions, start, start + len(found))
        return kept
