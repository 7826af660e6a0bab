"""Small photos of an egg on a table, as files of every kind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 150, 100


def egg_mask(width: int = WIDTH, height: int = HEIGHT, centre=(60.0, 55.0), radii=(22.0, 30.0)) -> np.ndarray:
    """Where the egg is, bool [H,W]."""
    v, u = np.mgrid[:height, :width] + 0.5
    return ((u - centre[0]) / radii[0]) ** 2 + ((v - centre[1]) / radii[1]) ** 2 < 1


def egg_photo(mask: np.ndarray, *, is_plain: bool = False) -> np.ndarray:
    """The egg, redder to the left and darker to the bottom, before noise or a plain grey."""
    height, width = mask.shape
    noise = np.random.default_rng(0).integers(0, 255, (height, width, 3))
    ground = np.full((height, width, 3), 205) if is_plain else noise
    v, u = np.mgrid[:height, :width]
    egg = np.stack([230 - u, 60 + 0 * u, 200 - v], -1)
    return np.where(mask[..., None], egg, ground).clip(0, 255).astype(np.uint8)


def write_rgba(path: Path, mask: np.ndarray | None = None) -> Path:
    """A cut-out PNG."""
    mask = egg_mask() if mask is None else mask
    rgba = np.dstack([egg_photo(mask), np.where(mask, 255, 0)]).astype(np.uint8)
    Image.fromarray(rgba).save(path)
    return path


def write_rgb(path: Path, mask: np.ndarray | None = None, *, is_plain: bool = False, exif: Image.Exif | None = None):
    """An opaque photo."""
    mask = egg_mask() if mask is None else mask
    options = {} if exif is None else {"exif": exif}
    Image.fromarray(egg_photo(mask, is_plain=is_plain)).save(path, **options)
    return path


def write_mask(path: Path, mask: np.ndarray | None = None) -> Path:
    mask = egg_mask() if mask is None else mask
    Image.fromarray(np.where(mask, 255, 0).astype(np.uint8)).save(path)
    return path


def egg_distance(mask: np.ndarray | None = None) -> np.ndarray:
    """Distances: the egg bulges towards the camera, before a wall."""
    mask = egg_mask() if mask is None else mask
    v, u = np.mgrid[: mask.shape[0], : mask.shape[1]] + 0.5
    bulge = np.sqrt(np.clip(1 - ((u - 60) / 22) ** 2 - ((v - 55) / 30) ** 2, 0, 1))
    return np.where(mask, 3 - bulge, 5).astype(np.float32)
