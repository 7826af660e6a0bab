"""Small photos for tests: noise pictures with texture, as JPEG files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image


def noise_picture(width: int, height: int, seed: int) -> Image.Image:
    """A picture with detail at several scales, different for each seed."""
    rng = np.random.default_rng(seed)
    total = np.zeros((height, width, 3))
    for cells in (4, 16, 48):
        coarse = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        total += np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))
    return Image.fromarray((total / 3).astype(np.uint8))


def write_photos(folder: Path, names: Sequence[str], width: int = 160, height: int = 120) -> list[str]:
    """Write one different photo per name; returns the names."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        seed = sum(ord(c) * 31**i for i, c in enumerate(name)) % 2**31
        noise_picture(width, height, seed).save(folder / name, quality=92)
    return list(names)
