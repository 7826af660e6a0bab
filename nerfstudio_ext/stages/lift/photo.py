"""The photo itself: upright pixels, what its EXIF block says of the lens, and the kinds of thing that are no photo."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from ...errors import UserError
from ...scenes.exif import read_exif
from ...scenes.images import HEIC_SUFFIXES, IMAGE_SUFFIXES, probe_image, read_image

MIN_SIDE = 32
"""Of a photo, pixels: below this an object is a handful of dots."""
MAX_SIDE = 2048
"""Larger photos are reduced before anything looks at them: the object ends up at 512 pixels or fewer."""


@dataclass(frozen=True)
class Photo:
    """An upright photo.

    Attributes:
        rgb: Straight colours.
        alpha: Its opacity 0..1, or None when it is opaque everywhere.
        focal_px: Focal length in pixels of this picture, None when the photo does not say.
        path: Where it came from.
    """

    rgb: UInt8[np.ndarray, "H W 3"]
    alpha: Float[np.ndarray, "H W"] | None
    focal_px: float | None
    path: Path

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.rgb.shape[1], self.rgb.shape[0]


def one_photo(paths: Sequence[Path]) -> Path:
    """The one photo that is meant.

    Args:
        paths: What the user gave: a picture, or a folder that holds just one.
    Raises:
        UserError: for none, for two, and for what is no picture.
    """
    if len(paths) != 1:
        names = " and ".join(f"'{path}'" for path in paths)
        raise UserError(
            f"lifting takes one photo, {len(paths)} were given ({names})" if paths else "no photo was given",
            where="nsx train lift",
            fix="Give one photo; several photos of one thing go to `nsx train FOLDER`",
        )
    (path,) = paths
    if not path.is_dir():
        return path
    found = sorted(p for p in path.iterdir() if p.suffix.lower() in (*IMAGE_SUFFIXES, *HEIC_SUFFIXES))
    if len(found) == 1:
        return found[0]
    what = f"the folder holds {len(found)} photos; lifting takes one" if found else "the folder holds no photo"
    raise UserError(
        what, where=path, fix="Name the photo; several photos of one thing are trained with `nsx train FOLDER`"
    )


def read_photo(path: Path, max_side: int = MAX_SIDE) -> Photo:
    """Read a photo upright, at most `max_side` pixels wide and high.

    Raises:
        UserError: if it is no picture, is damaged, or is too small to show anything.
    """
    info = probe_image(path)
    if min(info.width, info.height) < MIN_SIDE:
        raise UserError(
            f"{info.width}x{info.height} pixels are too few", where=path, fix=f"Use a photo of {MIN_SIDE} or more"
        )
    scale = min(1.0, max_side / max(info.width, info.height))
    size = max(1, round(info.width * scale)), max(1, round(info.height * scale))
    pixels = read_image(path, size=None if scale == 1 else size)
    alpha = pixels[..., 3].astype(np.float32) / 255 if pixels.shape[2] == 4 else None
    if alpha is not None and float(alpha.min()) >= 1:
        alpha = None
    with Image.open(path) as picture:
        focal = read_exif(picture).focal_diagonals
    focal_px = None if focal is None else focal * math.hypot(pixels.shape[1], pixels.shape[0])
    return Photo(np.ascontiguousarray(pixels[..., :3]), alpha, focal_px, path)
