"""Which pixels of a photo are the object: by its transparency, a file, a plain background, or a segmentation model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageDraw

from ...errors import UserError
from ...scenes.images import read_image
from .photo import Photo

_LEAST, _MOST = 0.002, 0.97
"""Shares of the photo between which a mask shows an object; outside it is empty, or everything."""
_CUT = 0.02
"""An object that meets more than this share of one side of the photo goes on beyond it."""
_ASPECT_TOLERANCE = 0.02
_PLAIN_SIDE = 384
_PLAIN_SPREAD = 10.0
"""Typical deviation of the border's colours from their median, of 255, below which a background counts as plain."""
_PLAIN_DISTANCE = (24.0, 5.0)
"""Colours farther from it than the first, and than so many times the spread, are not background."""
SIDES = ("top", "bottom", "left", "right")


def file_mask(path: Path, photo: Photo) -> Float[np.ndarray, "H W"]:
    """A mask file, at the photo's size: bright is the object; of a file with transparency what is opaque.

    Raises:
        UserError: if it is no picture, or of another shape than the photo.
    """
    pixels = read_image(path)
    width, height = photo.size
    wanted, found = width / height, pixels.shape[1] / pixels.shape[0]
    if abs(found / wanted - 1) > _ASPECT_TOLERANCE:
        raise UserError(
            f"the mask is {pixels.shape[1]}x{pixels.shape[0]}, of another shape than the photo ({width}x{height})",
            where=path,
            fix="Make it from this photo, upright and uncropped",
        )
    opacity = pixels[..., 3] if pixels.shape[2] == 4 else None
    values = opacity if opacity is not None and opacity.min() < 255 else pixels[..., :3].max(-1)
    resized = Image.fromarray(values).resize((width, height), Image.Resampling.BOX)
    return np.asarray(resized, np.float32) / 255


def plain_background(rgb: UInt8[np.ndarray, "H W 3"]) -> Float[np.ndarray, "H W"] | None:
    """The object before a plain background: what is not reached from the border through its colour.

    Returns:
        The mask, or None where the border is not of one colour.
    """
    height, width = rgb.shape[:2]
    scale = min(1.0, _PLAIN_SIDE / max(height, width))
    size = max(2, round(width * scale)), max(2, round(height * scale))
    small = np.asarray(Image.fromarray(rgb).resize(size, Image.Resampling.BOX), np.float32)
    border = np.concatenate([small[0], small[-1], small[:, 0], small[:, -1]])
    color = np.median(border, 0)
    away = np.linalg.norm(border - color, axis=1)
    spread = float(np.quantile(away, 0.9))
    if spread > _PLAIN_SPREAD:
        return None
    is_other = np.linalg.norm(small - color, axis=2) > max(_PLAIN_DISTANCE[0], _PLAIN_DISTANCE[1] * spread)
    # A frame of background around the picture makes one flood reach it from every side.
    mask = ~_flooded(np.pad(~is_other, 1, constant_values=True), 0, 0)[1:-1, 1:-1]
    mask = largest_part(mask)
    full = Image.fromarray(np.where(mask, 255, 0).astype(np.uint8)).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(full, np.float32) / 255


def largest_part(mask: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """The largest connected part of a mask, and parts of at least a tenth of it: specks are dust, not object."""
    left = mask.copy()
    parts: list[tuple[int, np.ndarray]] = []
    while left.any():
        row, column = np.unravel_index(int(left.argmax()), left.shape)
        part = _flooded(left, int(row), int(column))
        parts.append((int(part.sum()), part))
        left &= ~part
    if not parts:
        return mask
    largest = max(count for count, _ in parts)
    kept = [part for count, part in parts if 10 * count >= largest]
    return np.logical_or.reduce(kept)


def _flooded(mask: Bool[np.ndarray, "h w"], row: int, column: int) -> Bool[np.ndarray, "h w"]:
    """The pixels of a mask that are connected with one of its pixels."""
    picture = Image.fromarray(np.where(mask, 255, 0).astype(np.uint8)).copy()  # one over an array takes no paint
    ImageDraw.floodfill(picture, (column, row), 128)
    return np.asarray(picture) == 128


def check_mask(mask: Float[np.ndarray, "H W"], where: Path, *, may_be_cut: bool) -> list[str]:
    """Refuse masks that show no whole object.

    Args:
        mask: 0..1.
        where: What it was made from, for messages.
        may_be_cut: Accept an object that goes on beyond the photo.
    Returns:
        The sides at which the object is cut off; empty when it is whole.
    Raises:
        UserError: if the mask is empty, covers everything, or shows a cut-off object.
    """
    inside = mask > 0.5
    share = float(inside.mean())
    if share < _LEAST:
        raise UserError(
            f"the mask is empty: {100 * share:.2f} % of the photo are the object", where=where,
            fix="Give another mask with --mask (bright is the object)",
        )  # fmt: skip
    if share > _MOST:
        raise UserError(
            f"the mask covers the whole photo ({100 * share:.0f} %): no object can be told from its background",
            where=where,
            fix="Give a mask with --mask (bright is the object), or a photo with some space around it",
        )
    cut = cut_sides(inside)
    if cut and len(cut) < len(SIDES) and not may_be_cut:
        raise UserError(
            f"the object is cut off by the frame ({', '.join(cut)})", where=where,
            fix="Use a photo that shows all of it, or lift what there is with --may-be-cut",
        )  # fmt: skip
    return cut


def cut_sides(inside: Bool[np.ndarray, "H W"]) -> list[str]:
    """The sides of the photo that the object meets along more than a few pixels.

    An object that meets all four is one that was cut out along its own bounds: it is whole.
    """
    edges = (inside[0], inside[-1], inside[:, 0], inside[:, -1])
    return [side for side, edge in zip(SIDES, edges, strict=True) if edge.sum() > max(2, _CUT * len(edge))]
