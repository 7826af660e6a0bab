"""Depth that somebody else made: a .npy array or a grey picture of 8 or 16 bits."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float
from PIL import Image

from ...array_files import read_array
from ...errors import UserError
from ...scenes.images import probe_image, read_image
from .photo import Photo

DepthMeaning = Literal["distance", "nearness"]
_ASPECT_TOLERANCE = 0.02
_MAX_BYTES = 1 << 30
_MAX_DEPTH = 1e30


def file_depth(path: Path, photo: Photo, meaning: DepthMeaning) -> Float[np.ndarray, "H W"]:
    """Distances at the photo's size, larger is farther, of any scale and offset; NaN where the file has no value.

    Args:
        path: `.npy` with floating-point or whole numbers [h,w], or a grey picture.
        photo: The photo it belongs to.
        meaning: Whether large numbers are far away (`distance`) or near (`nearness`, also called disparity).
    Raises:
        UserError: if the file cannot be read, is of another shape, or holds no numbers.
    """
    values = _read_array(path) if path.suffix.lower() == ".npy" else _read_grey(path)
    width, height = photo.size
    if abs(values.shape[1] / values.shape[0] / (width / height) - 1) > _ASPECT_TOLERANCE:
        raise UserError(
            f"the depth is {values.shape[1]}x{values.shape[0]}, of another shape than the photo ({width}x{height})",
            where=path,
            fix="Make it from this photo, upright and uncropped",
        )
    known = np.isfinite(values)
    if not known.any() or float(values[known].min()) == float(values[known].max()):
        raise UserError("the depth is the same everywhere", where=path, fix="Give another file with --depth")
    weight = _resized(known.astype(np.float32), (width, height))
    resized = _resized(np.where(known, values, 0).astype(np.float32), (width, height)) / np.maximum(weight, 1e-6)
    signed = resized if meaning == "distance" else -resized
    return np.where(weight > 0.5, signed, np.nan).astype(np.float32)


def looks_inverted(depth: Float[np.ndarray, "H W"], inside: Bool[np.ndarray, "H W"]) -> bool:
    """Whether the object lies clearly behind what surrounds it: then near and far were mixed up.

    Compared by medians; the spread between them must be a tenth of the whole range.
    """
    known = np.isfinite(depth)
    if not (known & inside).any() or (known & ~inside).sum() < 0.05 * inside.size:
        return False
    low, high = np.quantile(depth[known], (0.02, 0.98))
    behind = float(np.median(depth[known & inside]) - np.median(depth[known & ~inside]))
    return behind > 0.1 * max(float(high - low), 1e-12)


def _read_array(path: Path) -> np.ndarray:
    fix = "Write it with numpy.save as an array of numbers, height by width"
    values = read_array(path, max_bytes=_MAX_BYTES, noun="array of depths", fix=fix).squeeze()
    if values.ndim != 2 or not values.size:
        raise UserError("expected an array of numbers, height by width", where=path, fix=fix)
    with np.errstate(invalid="ignore"):
        values = values.astype(np.float64)
        # What float32 cannot hold is no distance; resampling would spread it.
        return np.where(np.abs(values) < _MAX_DEPTH, values, np.nan)


def _read_grey(path: Path) -> np.ndarray:
    """A picture's values; all 16 bits where it has them, which colours for the eye need not keep and depth must."""
    probe_image(path)
    with Image.open(path, formats=["PNG", "TIFF", "JPEG", "WEBP", "BMP", "PPM"]) as picture:
        if picture.mode.startswith("I;16") or picture.mode == "I":
            return np.asarray(picture).astype(np.float64)
    pixels = read_image(path)[..., :3].astype(np.float64)
    if np.abs(pixels - pixels[..., :1]).max() > 8:
        raise UserError(
            "the depth picture is coloured: a colour map cannot be turned back", where=path,
            fix="Give the depth as grey values or as .npy",
        )  # fmt: skip
    return pixels[..., 0]


def _resized(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return np.asarray(Image.fromarray(values).resize(size, Image.Resampling.BILINEAR), np.float32)
