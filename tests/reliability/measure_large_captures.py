"""How long looking at many photos takes, and how much memory loading and training on them holds.

python -m tests.reliability.measure_large_captures check FOLDER
python -m tests.reliability.measure_large_captures load CAPTURE --image-memory 0.5 [--max-side 1600] [--batches 50]
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from nerfstudio_ext.progress import SilentProgress


class PeakMemory:
    """The largest memory of this process that cannot be taken back by the system (anonymous), and all of it.

    Pages of a mapped file count as resident but are given up when somebody needs the room, so both are told.
    """

    def __init__(self) -> None:
        self.anonymous_mb = self.resident_mb = 0.0
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def __str__(self) -> str:
        return f"{self.anonymous_mb:.0f} MB anonymous, {self.resident_mb:.0f} MB resident"

    def _watch(self) -> None:
        while not self._is_over.wait(0.05):
            anonymous, resident = own_mb(), own_mb("VmRSS")
            self.anonymous_mb = max(self.anonymous_mb, anonymous)
            self.resident_mb = max(self.resident_mb, resident)


def own_mb(field: str = "RssAnon") -> float:
    """Memory of this process that lies in RAM."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field + ":"))


class Stopwatch:
    """Wall time and processor time of a block."""

    def __enter__(self) -> Stopwatch:
        self._wall, self._processor = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self._wall, self._processor = time.perf_counter() - self._wall, time.process_time() - self._processor

    def __str__(self) -> str:
        return f"{self._wall:.1f} s ({self._processor:.1f} s of processor time)"


def check(folder: Path) -> None:
    """Time the look at every photo, as `nsx process` does it first."""
    from nerfstudio_ext.scenes.photo_check import check_photos, list_photos

    progress = SilentProgress()
    with tempfile.TemporaryDirectory() as work, PeakMemory() as memory, Stopwatch() as watch:
        paths, skipped = list_photos(folder)
        found = check_photos(paths, folder, Path(work), 0.5e6, progress, skipped=skipped)
    print(f"{len(paths)} photos looked at in {watch}: {len(found.photos)} usable, {len(found.skipped)} left out")
    print(f"peak {memory}")
    for line in progress.warnings:
        print(f"  {line}")


def load(capture: Path, gigabytes: float | None, max_side: int, n_batches: int) -> None:
    """Time loading a posed capture and drawing batches from it."""
    from nerfstudio_ext.scenes.loading import load_scene
    from nerfstudio_ext.scenes.pixel_sampler import PixelSampler

    budget = None if gigabytes is None else int(gigabytes * 1e9)
    with PeakMemory() as memory:
        with Stopwatch() as watch:
            scene = load_scene(capture, max_side=max_side, memory_budget=budget, scratch=capture.parent)
        where = "in a file" if scene.images.is_mapped else "in memory"
        print(f"{len(scene.images)} pictures {where}, loaded in {watch}; peak {memory}")
        sampler = PixelSampler(scene, scene.meta.split.train, 0)
        with Stopwatch() as watch:
            for _ in range(n_batches):
                sampler.next(4096)
    print(f"{n_batches} batches of 4096 pixels in {watch}; peak {memory}")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("what", choices=("check", "load"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--image-memory", type=float, default=None)
    parser.add_argument("--max-side", type=int, default=1600)
    parser.add_argument("--batches", type=int, default=50)
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    if options.what == "check":
        check(options.folder)
    else:
        load(options.folder, options.image_memory, options.max_side, options.batches)
    return 0


if __name__ == "__main__":
    sys.exit(main())
