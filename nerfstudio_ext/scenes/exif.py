"""What a photo's EXIF block says about the camera: focal length, exposure, model. Damaged blocks say nothing."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass

from PIL import Image

DIAGONAL_35MM = 43.2666
"""Diagonal of a 36 x 24 mm frame; the "35 mm equivalent" compares diagonals (CIPA DCG-001)."""
MIN_FOCAL, MAX_FOCAL = 0.2, 20.0
"""Focal lengths outside this range, in image diagonals, are no lens but a damaged value."""

_EXIF_IFD, _MODEL, _MAKE = 0x8769, 0x0110, 0x010F
_FOCAL_MM, _FOCAL_35MM = 0x920A, 0xA405
_PLANE_X_RESOLUTION, _PLANE_UNIT, _PIXEL_WIDTH = 0xA20E, 0xA210, 0xA002
_EXPOSURE_S, _F_NUMBER, _ISO = 0x829A, 0x829D, 0x8827
_MM_PER_UNIT = {2: 25.4, 3: 10.0, 4: 1.0, 5: 0.001}
_EXIF_ERRORS = (OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, OverflowError, struct.error)
"""What Pillow raises on EXIF blocks that are cut short or hold impossible offsets."""


@dataclass(frozen=True)
class PhotoExif:
    """The part of EXIF that matters for poses.

    Attributes:
        focal_diagonals: Focal length in image diagonals, or None when unknown. Times the diagonal in pixels it is the
            focal length in pixels.
        model: Maker and model, "" when unknown.
        exposure_ev: log2 of the light let in (time * sensitivity / f-number^2), or None; only differences matter.
        is_damaged: A block is there but cannot be read, or holds an impossible focal length.
    """

    focal_diagonals: float | None = None
    model: str = ""
    exposure_ev: float | None = None
    is_damaged: bool = False


def read_exif(picture: Image.Image) -> PhotoExif:
    """Read the camera data of an opened picture; never raises on damaged data.

    Args:
        picture: As opened by Pillow; its pixels need not be loaded.
    """
    try:
        block = picture.getexif()
        details = block.get_ifd(_EXIF_IFD)
        model = " ".join(_text(block.get(tag)) for tag in (_MAKE, _MODEL)).strip()
        focal, is_damaged = _focal_diagonals(details, picture.size)
        is_damaged = is_damaged or (not block and _announces_tags(picture.info.get("exif")))
        return PhotoExif(focal, model, _exposure_ev(details), is_damaged)
    except _EXIF_ERRORS:
        return PhotoExif(is_damaged=True)


def _announces_tags(raw: object) -> bool:
    """Whether a block of EXIF claims to hold tags: where none could be read, it is damaged (TIFF 6.0, section 2)."""
    data = raw.removeprefix(b"Exif\0\0") if isinstance(raw, bytes) else b""
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None or len(data) < 8:
        return bool(data.strip(b"\0"))
    (start,) = struct.unpack_from(f"{order}I", data, 4)
    return bool(data[start : start + 2].strip(b"\0")) or start >= len(data)


def _focal_diagonals(details: dict[int, object], size: tuple[int, int]) -> tuple[float | None, bool]:
    """(focal length in diagonals or None, whether a value was there but impossible)."""
    equivalent = _number(details.get(_FOCAL_35MM))
    candidates = [equivalent / DIAGONAL_35MM if equivalent else None]
    focal_mm = _number(details.get(_FOCAL_MM))
    resolution = _number(details.get(_PLANE_X_RESOLUTION))
    unit = _MM_PER_UNIT.get(int(_number(details.get(_PLANE_UNIT)) or 2))
    if focal_mm and resolution and unit:
        stored_width = _number(details.get(_PIXEL_WIDTH)) or size[0]
        focal_px = focal_mm * resolution / unit * size[0] / stored_width
        candidates.append(focal_px / math.hypot(*size))
    stated = [c for c in candidates if c is not None]
    good = [c for c in stated if MIN_FOCAL < c < MAX_FOCAL]
    is_odd = (_FOCAL_35MM in details and equivalent is None) or (bool(stated) and not good)
    is_odd = is_odd or _is_nan(details.get(_FOCAL_MM))
    return (good[0] if good else None), is_odd


def _exposure_ev(details: dict[int, object]) -> float | None:
    seconds, f_number = _number(details.get(_EXPOSURE_S)), _number(details.get(_F_NUMBER))
    iso = details.get(_ISO)
    sensitivity = _number(iso[0] if isinstance(iso, tuple) and iso else iso) or 100.0
    if not seconds or not f_number:
        return None
    return math.log2(seconds) + math.log2(sensitivity) - 2 * math.log2(f_number)  # a damaged number may be 1e-200


def _number(value: object) -> float | None:
    """A positive finite number, or None for anything else (0/0 rationals are NaN; 0 means unknown in EXIF)."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        return None
    return number if math.isfinite(number) and number > 0 else None


def _is_nan(value: object) -> bool:
    """Whether a rational is 0/0, which no camera writes for "unknown"."""
    try:
        return math.isnan(float(value))  # type: ignore[arg-type]
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        return False


def _text(value: object) -> str:
    return "".join(c for c in value if c.isprintable()).strip()[:64] if isinstance(value, str) else ""
