"""Pictures of what the stages made, to be judged at a glance."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from PIL import Image

from ...cameras import Camera
from ...colormaps import color_values
from ...errors import UserError
from ...renderer import Renderer
from ...scenes.prepared import PreparedPhoto, camera_around
from .photo import Photo

PICTURE = "prepared.png"
_TILE, _GAP = 256, 8
_CHECKER = (200, 232)
_OUTLINE = (255, 0, 160)
_AROUND = (0.0, 90.0, 180.0, 270.0)


def preparation_picture(
    photo: Photo, mask: Float[np.ndarray, "H W"], prepared: PreparedPhoto
) -> UInt8[np.ndarray, "h w 3"]:
    """Side by side: the photo with the mask's outline, the cut-out on a chequered ground, and depth, bright near."""
    tiles = [_outlined(photo, mask), over_checker(prepared.rgba)]
    if prepared.depth is not None:
        tiles.append(_depth_tile(prepared.depth))
    return row_of(tiles)


def views_picture(renderer: Renderer, prepared: PreparedPhoto, side: int = _TILE) -> UInt8[np.ndarray, "h w 3"]:
    """The photo, and the object from in front, from both sides and from behind, as it is now.

    The front alone proves nothing: it is the one view that is given.
    """
    notes = prepared.notes
    tiles = [over_checker(prepared.rgba, side)]
    for azimuth in _AROUND:
        tiles.append(
            _rendered(renderer, camera_around(azimuth, notes.elevation_deg, notes.distance, notes.fov_y_deg, side))
        )
    return row_of(tiles)


def save_picture(picture: UInt8[np.ndarray, "H W 3"], path: Path) -> None:
    """Write a picture.

    Raises:
        UserError: if that cannot be done.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path)
    except OSError as error:
        raise UserError(f"cannot be written: {error.strerror}", where=path, fix="Free some space") from None


def over_checker(rgba: UInt8[np.ndarray, "H W 4"], side: int = _TILE) -> UInt8[np.ndarray, "side side 3"]:
    """A cut-out on light squares, so that holes and rims show."""
    small = np.asarray(Image.fromarray(rgba).resize((side, side), Image.Resampling.LANCZOS), np.float32)
    squares = np.arange(side) // 16
    ground = np.where((squares[:, None] + squares)[..., None] % 2 == 0, *_CHECKER).astype(np.float32)
    alpha = small[..., 3:] / 255
    mixed: np.ndarray = (small[..., :3] * alpha + ground * (1 - alpha)).round().astype(np.uint8)
    return mixed


def row_of(tiles: Sequence[UInt8[np.ndarray, "S S 3"]]) -> UInt8[np.ndarray, "h w 3"]:
    """Tiles of one size beside each other, with white between."""
    gap = np.full((tiles[0].shape[0], _GAP, 3), 255, np.uint8)
    parts = [part for tile in tiles for part in (tile, gap)]
    return np.concatenate(parts[:-1], 1)


def _outlined(photo: Photo, mask: Float[np.ndarray, "H W"]) -> UInt8[np.ndarray, "S S 3"]:
    scale = _TILE / max(photo.size)
    size = max(1, round(photo.size[0] * scale)), max(1, round(photo.size[1] * scale))
    small = np.array(Image.fromarray(photo.rgb).resize(size, Image.Resampling.BOX))
    inside = np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.BOX)) > 0.5
    small[_rim(inside)] = _OUTLINE
    tile = np.full((_TILE, _TILE, 3), 255, np.uint8)
    top, left = (_TILE - size[1]) // 2, (_TILE - size[0]) // 2
    tile[top : top + size[1], left : left + size[0]] = small
    return tile


def _rim(inside: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    padded = np.pad(inside, 1)
    neighbours = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return inside & ~neighbours


def _depth_tile(depth: Float[np.ndarray, "S S"]) -> UInt8[np.ndarray, "S S 3"]:
    known = np.isfinite(depth)
    low, high = np.quantile(depth[known], (0.01, 0.99)) if known.any() else (0.0, 1.0)
    nearness = np.clip((high - np.where(known, depth, high)) / max(float(high - low), 1e-9), 0, 1)
    color = color_values(torch.from_numpy(nearness.astype(np.float32)), "teal").numpy() * known[..., None]
    tile = Image.fromarray((255 * color).round().astype(np.uint8))
    return np.asarray(tile.resize((_TILE, _TILE), Image.Resampling.NEAREST))


def _rendered(renderer: Renderer, camera: Camera) -> UInt8[np.ndarray, "S S 3"]:
    picture: np.ndarray = (renderer.render(camera).rgb.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
    return picture
