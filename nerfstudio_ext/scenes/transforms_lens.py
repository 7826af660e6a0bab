"""Intrinsics and lens of a `transforms.json`: many keys, two units, three tools' habits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ..errors import UserError
from ..lenses import Lens
from ..strict_json import as_number, as_numbers, as_text
from .posed_capture import Intrinsics

PERSPECTIVE_MODELS = ("PINHOLE", "SIMPLE_PINHOLE")
RADIAL_MODELS = ("SIMPLE_RADIAL", "RADIAL", "OPENCV", "FULL_OPENCV")
FISHEYE_MODELS = ("OPENCV_FISHEYE",)
SPHERE_MODELS = ("EQUIRECTANGULAR",)
SUPPORTED_MODELS = (*PERSPECTIVE_MODELS, *RADIAL_MODELS, *FISHEYE_MODELS, *SPHERE_MODELS)
MAX_PERSPECTIVE_FOV_DEG = 170.0
"""A flat picture wider than this does not occur; a focal length in millimetres looks like one."""

_RADIAL_KEYS = ("k1", "k2", "p1", "p2", "k3", "k4")
_FISHEYE_KEYS = ("k1", "k2", "k3", "k4")


class _Lookup:
    """Keys of a frame, else of the whole file, with the place for messages."""

    def __init__(self, top: Mapping[str, Any], frame: Mapping[str, Any], file: str, frame_place: str) -> None:
        self._top, self._frame, self._file, self._frame_place = top, frame, file, frame_place

    def place(self, key: str) -> str:
        return f"{self._file}: {self._frame_place}.{key}" if key in self._frame else f"{self._file}: {key}"

    def raw(self, key: str) -> Any:
        return self._frame.get(key, self._top.get(key))

    def number(self, key: str) -> float | None:
        value = self.raw(key)
        return None if value is None else as_number(value, self.place(key))

    def pixels(self, key: str) -> int | None:
        number = self.number(key)
        if number is None:
            return None
        if number < 1 or number != round(number):
            raise UserError(
                f"expected a whole number of pixels, found {number:g}", where=self.place(key), fix="Correct the value"
            )
        return int(number)

    def flag(self, key: str) -> bool:
        value = self.raw(key)
        if value is None or isinstance(value, (bool, int)):
            return bool(value)
        raise UserError("expected true or false", where=self.place(key), fix="Correct the value")


def read_intrinsics(top: Mapping[str, Any], frame: Mapping[str, Any], file: str, frame_place: str) -> Intrinsics:
    """Intrinsics of one frame: its own keys first, then the file's.

    Args:
        top: The file's object.
        frame: The frame's object.
        file: Name of the file, for messages.
        frame_place: Place of the frame in it, such as `frames[3]`.
    Raises:
        UserError: naming the key, if a value is impossible, nothing gives a focal length, or the lens is unknown.
    """
    find = _Lookup(top, frame, file, frame_place)
    lens = _read_lens(find)
    width, height = find.pixels("w"), find.pixels("h")
    focal, fov = _read_focal(find)
    if focal is None and fov is None and lens.kind != "equirectangular":
        raise UserError("no focal length", where=f"{file}: {frame_place}", fix="Give fl_x (pixels) or camera_angle_x")
    if focal is not None and width is not None and lens.kind in ("perspective", "opencv"):
        fov_deg = math.degrees(2 * math.atan(0.5 * width / focal[0]))
        if fov_deg > MAX_PERSPECTIVE_FOV_DEG:
            raise UserError(
                f"{focal[0]:g} makes a field of view of {fov_deg:.0f} degrees over {width} pixels",
                where=find.place("fl_x"), fix="Give the focal length in pixels, not in millimetres",
            )  # fmt: skip
    return Intrinsics(width, height, focal, fov, _read_centre(find, width, height), lens, _read_circle(find, lens))


def _read_focal(
    find: _Lookup,
) -> tuple[tuple[float, float] | None, tuple[float | None, float | None] | None]:
    fl_x, fl_y = find.number("fl_x"), find.number("fl_y")
    for key, value in (("fl_x", fl_x), ("fl_y", fl_y)):
        if value is not None and value <= 0:
            raise UserError(f"the focal length is {value:g}", where=find.place(key), fix="Give it in pixels, above 0")
    if fl_x is not None or fl_y is not None:
        either = fl_x if fl_x is not None else fl_y
        assert either is not None
        return (fl_x if fl_x is not None else either, fl_y if fl_y is not None else either), None
    fov_x = _read_angle(find, "camera_angle_x", "x_fov")
    fov_y = _read_angle(find, "camera_angle_y", "y_fov")
    return None, (None if fov_x is None and fov_y is None else (fov_x, fov_y))


def _read_angle(find: _Lookup, radians_key: str, degrees_key: str) -> float | None:
    radians, degrees = find.number(radians_key), find.number(degrees_key)
    if radians is None and degrees is None:
        return None
    key = radians_key if radians is not None else degrees_key
    angle = radians if radians is not None else math.radians(degrees or 0.0)
    if not 0 < angle < math.pi:
        unit = "radians, between 0 and 3.14" if radians is not None else "degrees, between 0 and 180"
        raise UserError(f"impossible field of view {find.number(key):g}", where=find.place(key), fix=f"Give {unit}")
    return angle


def _read_centre(find: _Lookup, width: int | None, height: int | None) -> tuple[float | None, float | None]:
    centre = find.number("cx"), find.number("cy")
    for key, value, size in (("cx", centre[0], width), ("cy", centre[1], height)):
        if value is not None and size is not None and not 0 < value < size:
            raise UserError(
                f"the principal point {value:g} lies outside the picture of {size} pixels", where=find.place(key),
                fix="Give it in pixels",
            )  # fmt: skip
    return centre


def _read_circle(find: _Lookup, lens: Lens) -> float | None:
    radius = find.number("fisheye_crop_radius")
    if radius is not None and radius <= 0:
        raise UserError(f"the radius is {radius:g}", where=find.place("fisheye_crop_radius"), fix="Give pixels above 0")
    return radius if lens.kind == "fisheye" else None


def _read_lens(find: _Lookup) -> Lens:
    unsupported = [k for k in ("orthographic", "ftheta_p0") if find.raw(k) not in (None, False)]
    model = _model_name(find)
    if unsupported or (model and model not in SUPPORTED_MODELS):
        key = unsupported[0] if unsupported else "camera_model"
        name = unsupported[0].split("_")[0] if unsupported else model
        raise UserError(
            f"the lens model '{name}' is not supported", where=find.place(key),
            fix=f"Supported: {', '.join(SUPPORTED_MODELS)}",
        )  # fmt: skip
    if model in SPHERE_MODELS:
        return Lens("equirectangular")
    if model in FISHEYE_MODELS:
        return Lens("fisheye", _coefficients(find, _FISHEYE_KEYS))
    if model in PERSPECTIVE_MODELS:
        return Lens()
    values = _coefficients(find, _RADIAL_KEYS)
    return Lens("opencv", values) if any(values) else Lens()


def _model_name(find: _Lookup) -> str:
    """The lens model in COLMAP's spelling; empty when the file does not say."""
    model = find.raw("camera_model")
    if model is not None:
        name = as_text(model, find.place("camera_model")).upper()
        return {"EQUIRECT": "EQUIRECTANGULAR", "FISHEYE": "OPENCV_FISHEYE", "PERSPECTIVE": "OPENCV"}.get(name, name)
    if find.flag("latlong") or find.flag("equirectangular"):
        return "EQUIRECTANGULAR"
    return "OPENCV_FISHEYE" if find.flag("is_fisheye") else ""


def _coefficients(find: _Lookup, keys: tuple[str, ...]) -> tuple[float, ...]:
    explicit = find.raw("distortion_params")
    if explicit is None:
        return tuple(find.number(key) or 0.0 for key in keys)
    place = find.place("distortion_params")
    values = as_numbers(explicit, place)
    # nerfstudio's order is k1 k2 k3 k4 p1 p2 for every lens; the fisheye uses the first four.
    if len(values) == 6 or (len(values) == 4 and keys == _FISHEYE_KEYS):
        named = dict(zip(("k1", "k2", "k3", "k4", "p1", "p2"), values, strict=False))
        return tuple(named[key] for key in keys)
    raise UserError(
        f"expected 6 numbers (k1 k2 k3 k4 p1 p2), found {len(values)}",
        where=place,
        fix="Write all six, 0 where there is none",
    )
