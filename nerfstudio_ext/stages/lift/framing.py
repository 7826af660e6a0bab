"""The object in the middle of a square picture, and the camera that this picture belongs to."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image

from ...scenes.prepared import DISTANCE, FOV_Y_DEG

FILL = 0.75
"""Share of the square's side that the longer side of the object takes."""
GUESSED_ELEVATION = 15.0
"""Where a camera is when it looks at something on a table."""
_FOV_LIMITS = (12.0, 60.0)
"""A guessed field of view outside of this comes from a tiny cut-out or a damaged EXIF block."""
_EDGE = 2
"""Width of the rim, in pixels of the square, where depth mixes object and background."""
_MIN_KEPT = 0.4


@dataclass(frozen=True)
class Frame:
    """A square of the photo; may reach beyond it.

    Attributes:
        left: Column of its left edge.
        top: Row of its top edge.
        edge: Its side in photo pixels.
    """

    left: int
    top: int
    edge: int


def frame_around(mask: Float[np.ndarray, "H W"], fill: float = FILL) -> Frame:
    """The square in whose middle the object's bounding box lies, its longer side `fill` of the square's."""
    rows, columns = np.flatnonzero((mask > 0.5).any(1)), np.flatnonzero((mask > 0.5).any(0))
    height, width = rows[-1] + 1 - rows[0], columns[-1] + 1 - columns[0]
    edge = max(2, round(max(height, width) / fill))
    left = round((columns[0] + columns[-1] + 1 - edge) / 2)
    top = round((rows[0] + rows[-1] + 1 - edge) / 2)
    return Frame(int(left), int(top), int(edge))


def whole_frame(size: tuple[int, int]) -> Frame:
    """The square around the whole photo; its missing parts are empty."""
    edge = max(size)
    return Frame((size[0] - edge) // 2, (size[1] - edge) // 2, edge)


def cut_out(
    rgb: UInt8[np.ndarray, "H W 3"], mask: Float[np.ndarray, "H W"], frame: Frame, side: int
) -> UInt8[np.ndarray, "S S 4"]:
    """The square with straight alpha; colours are averaged by opacity, so that no background bleeds into edges."""
    alpha = _square(mask, frame, 0.0)
    color = np.stack([_square(rgb[..., i].astype(np.float32) * mask, frame, 0.0) for i in range(3)], -1)
    small_alpha = _resized(alpha, side)
    small_color = np.stack([_resized(color[..., i], side) for i in range(3)], -1)
    straight = small_color / np.maximum(small_alpha, 1e-4)[..., None]
    straight[small_alpha < 1e-3] = 0
    rgba = np.concatenate([straight, 255 * small_alpha[..., None]], -1)
    return np.clip(np.round(rgba), 0, 255).astype(np.uint8)


def square_depth(
    depth: Float[np.ndarray, "H W"], frame: Frame, alpha: Float[np.ndarray, "S S"]
) -> Float[np.ndarray, "S S"]:
    """Distances in the square, NaN outside of the object and on its rim, where they mix with the background."""
    side = alpha.shape[0]
    known = np.isfinite(depth)
    values = _resized(_square(np.where(known, depth, 0).astype(np.float32), frame, 0.0), side)
    weight = _resized(_square(known.astype(np.float32), frame, 0.0), side)
    inside = alpha > 0.5
    shrunk = inside
    for _ in range(_EDGE):
        smaller = _eroded(shrunk)
        if smaller.sum() < _MIN_KEPT * inside.sum():
            break  # thin things are nearly all rim
        shrunk = smaller
    is_known = shrunk & (weight > 0.99)
    return np.where(is_known, values / np.maximum(weight, 1e-6), np.nan).astype(np.float32)


def field_of_view(focal_px: float | None, frame: Frame, given: float | None) -> tuple[float, str]:
    """Field of view of the square, degrees, and a line that says where it comes from."""
    if given is not None:
        return given, f"field of view: {given:g} degrees, given"
    if focal_px is not None:
        found = math.degrees(2 * math.atan(frame.edge / 2 / focal_px))
        if _FOV_LIMITS[0] <= found <= _FOV_LIMITS[1]:
            return found, f"field of view: {found:.1f} degrees, from the photo's EXIF block"
    return FOV_Y_DEG, f"field of view: {FOV_Y_DEG:g} degrees, guessed"


def camera_distance(fov_y_deg: float) -> float:
    """The distance at which an object that fills the frame as usual just fits into the scene's cube."""
    return DISTANCE * math.tan(math.radians(FOV_Y_DEG) / 2) / math.tan(math.radians(fov_y_deg) / 2)


def _square(values: Float[np.ndarray, "H W"], frame: Frame, outside: float) -> Float[np.ndarray, "E E"]:
    """The values in the square, `outside` where it reaches beyond the photo."""
    result = np.full((frame.edge, frame.edge), outside, np.float32)
    height, width = values.shape
    top, left = max(frame.top, 0), max(frame.left, 0)
    bottom, right = min(frame.top + frame.edge, height), min(frame.left + frame.edge, width)
    result[top - frame.top : bottom - frame.top, left - frame.left : right - frame.left] = values[
        top:bottom, left:right
    ]
    return result


def _resized(values: Float[np.ndarray, "E E"], side: int) -> Float[np.ndarray, "S S"]:
    kind = Image.Resampling.BOX if values.shape[0] >= side else Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(values).resize((side, side), kind), np.float32)


def _eroded(mask: Bool[np.ndarray, "S S"]) -> Bool[np.ndarray, "S S"]:
    """Without the pixels that touch one outside."""
    padded = np.pad(mask, 1)
    return padded[1:-1, 1:-1] & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
