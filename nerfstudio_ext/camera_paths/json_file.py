"""nerfstudio's camera_path.json, and the choice between it and instant-ngp's file.

In the file: OpenGL camera axes, angles in degrees, vertical field of view. A matrix is a list of 16 numbers, row by
row; old files and the Blender add-on store key frames as a *string* of 16 numbers, column by column.
Poses are in the training frame ("normalized") unless the top-level entry `frame_of_reference` says "source". Our
files also carry `source_to_training`, so that a path made for one run fits the next one of the same capture.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..cameras import Camera, Cameras
from ..errors import UserError
from ..lenses import LENS_KINDS, N_LENS_PARAMS, Lens, LensKind
from ..strict_json import as_number, as_numbers, as_text, parse_json, read_json
from .curves import KeyCurve
from .entries import field, fov_deg, integer, items, pose, rotation_zyx
from .generate import sample_curve
from .ngp_file import DEFAULT_NGP_FRAME, NgpFrame, path_from_ngp
from .path import CameraPath, CropBox, KeyView, Similarity, check_size, frame_count

MAX_FILE_BYTES = 256 * 2**20
LENS_OF_TYPE: dict[str, LensKind] = {"fisheye": "fisheye", "equirectangular": "equirectangular"}
UNSUPPORTED_TYPES = ("omnidirectional", "vr180")
READ_KEYS = frozenset(
    {"camera_type", "render_height", "render_width", "fps", "seconds", "is_cycle", "keyframes", "camera_path", "crop"}
    | {"frame_of_reference", "source_to_training"}
)
KEY_ENTRIES = frozenset({"matrix", "fov", "aspect", "override_transition_enabled", "override_transition_sec"})
DEFAULT_SIZE = (1920, 1080)


def read_camera_path(
    path: Path,
    frame: Similarity | None = None,
    *,
    size: tuple[int, int] | None = None,
    ngp_frame: NgpFrame = DEFAULT_NGP_FRAME,
) -> CameraPath:
    """Read a camera path of nerfstudio or instant-ngp.

    Args:
        path: The JSON file.
        frame: From the source frame to the training frame of the scene the path is for; needed for files in the
            source frame and for instant-ngp's.
        size: (width, height) of the output, overrides the file's.
        ngp_frame: Scale and offset that instant-ngp used, for its files.
    Returns:
        The path in the training frame. `notes` tells when it was moved there.
    Raises:
        UserError: naming the entry that cannot be used.
    """
    path = Path(path)
    document = read_json(path, max_bytes=MAX_FILE_BYTES)
    return _path_from_any(document, frame, size, ngp_frame, path.name)


def camera_path_from_bytes(
    content: bytes,
    frame: Similarity | None = None,
    *,
    size: tuple[int, int] | None = None,
    ngp_frame: NgpFrame = DEFAULT_NGP_FRAME,
    where: str = "camera path",
) -> CameraPath:
    """The content of a file that `read_camera_path` would read, such as an upload."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError("not a JSON file", where=where, fix="Give a camera_path.json") from error
    return _path_from_any(parse_json(text, where=where), frame, size, ngp_frame, where)


def _path_from_any(
    document: Mapping[str, object],
    frame: Similarity | None,
    size: tuple[int, int] | None,
    ngp_frame: NgpFrame,
    where: str,
) -> CameraPath:
    try:
        if "path" in document and "camera_path" not in document:
            return path_from_ngp(document, frame, ngp_frame, size or DEFAULT_SIZE, where=where)
        return camera_path_from_json(document, frame, size=size, where=where)
    except UserError as error:
        if error.where:
            raise
        raise UserError(error.what, where=where, fix=error.fix) from None  # sizes and rates know no file


def camera_path_from_json(
    document: Mapping[str, object],
    frame: Similarity | None = None,
    *,
    size: tuple[int, int] | None = None,
    where: str = "camera path",
) -> CameraPath:
    """The content of a nerfstudio camera_path.json as a path in the training frame; see `read_camera_path`."""
    if "camera_path" not in document and "keyframes" not in document:
        raise UserError(
            "neither 'camera_path' nor 'keyframes' is in the file", where=where, fix="Give a camera_path.json"
        )
    kind = str(document.get("camera_type", "perspective")).lower()
    if kind in UNSUPPORTED_TYPES:
        raise UserError(
            f"camera type '{kind}' cannot be rendered", where=where, fix="Use perspective or equirectangular"
        )
    lens = Lens(LENS_OF_TYPE.get(kind, "perspective"))
    if size is None:
        size = (
            integer(document.get("render_width", DEFAULT_SIZE[0]), f"{where}: render_width"),
            integer(document.get("render_height", DEFAULT_SIZE[1]), f"{where}: render_height"),
        )
    check_size(*size)
    is_loop = bool(document.get("is_cycle", False))
    listed = items(document.get("keyframes") or [], f"{where}: keyframes")
    keys = tuple(_key(entry, f"{where}: keyframes[{i}]") for i, entry in enumerate(listed))
    entries = items(document.get("camera_path") or [], f"{where}: camera_path")
    if entries:
        cameras = [_camera(entry, lens, size, f"{where}: camera_path[{i}]") for i, entry in enumerate(entries)]
        fps = _fps(document, len(cameras), where)
    else:
        cameras, fps = _between_keys(keys, document, lens, size, is_loop, where)
    crop = document.get("crop")
    read = CameraPath(
        Cameras(cameras),
        fps,
        "camera path file",
        is_loop=is_loop,
        keys=keys,
        crop=_crop(crop, f"{where}: crop") if crop is not None else None,
        extra={k: v for k, v in document.items() if k not in READ_KEYS},
    )
    return _to_training(read, document, frame, where)


def similarity_close(a: Similarity, rotation: Tensor, translation: Tensor, scale: float) -> bool:
    """Whether a similarity equals the given one to about single precision."""
    return (
        torch.allclose(a.rotation, rotation, atol=1e-6)
        and torch.allclose(a.translation, translation, atol=1e-6)
        and math.isclose(a.scale, scale, rel_tol=1e-6)
    )


def _to_training(path: CameraPath, document: Mapping[str, object], frame: Similarity | None, where: str) -> CameraPath:
    name = document.get("frame_of_reference", "normalized")
    if name not in ("normalized", "source"):
        raise UserError(f"frame_of_reference is '{name}'", where=where, fix="Write 'normalized' or 'source'")
    if name == "source":
        if frame is None:
            raise UserError("the path is in the source frame of a capture", where=where, fix="Give the run it is for")
        return path.transformed(frame.rotation, frame.translation, frame.scale)
    stored = document.get("source_to_training")
    if stored is None or frame is None:
        return path
    place = f"{where}: source_to_training"
    rows = items(field(stored, "transform", place), place)
    transform = np.array([as_numbers(row, f"{place}.transform", 4) for row in rows])
    scale = as_number(field(stored, "scale", place), f"{place}.scale")
    if transform.shape != (3, 4) or scale <= 0:
        raise UserError("expected a 3x4 transform and a scale above 0", where=place, fix="Remove the entry")
    rotation, translation = torch.from_numpy(transform[:, :3].copy()), torch.from_numpy(scale * transform[:, 3])
    orthonormal = torch.allclose(rotation @ rotation.T, torch.eye(3, dtype=torch.float64), atol=1e-4)
    if not orthonormal or float(torch.linalg.det(rotation)) < 0:
        raise UserError("the transform is not a rotation and a translation", where=place, fix="Remove the entry")
    if similarity_close(frame, rotation, translation, scale):
        return path
    in_source = path.transformed(rotation.T, -(rotation.T @ translation) / scale, 1 / scale)
    moved = in_source.transformed(frame.rotation, frame.translation, frame.scale)
    note = "the path was made for another run of this capture; moved to this run's frame"
    return dataclasses.replace(moved, notes=(*moved.notes, note))


def _fps(document: Mapping[str, object], n_frames: int, where: str) -> float:
    """Frames divided by seconds, as nerfstudio does; the entry `fps` decides when `seconds` is missing."""
    if "seconds" in document:
        seconds = as_number(document["seconds"], f"{where}: seconds")
        if seconds <= 0:
            raise UserError(f"seconds is {seconds:g}", where=where, fix="Write a time above 0")
        return n_frames / seconds
    return as_number(document.get("fps", 24.0), f"{where}: fps")


def _between_keys(
    keys: tuple[KeyView, ...],
    document: Mapping[str, object],
    lens: Lens,
    size: tuple[int, int],
    is_loop: bool,
    where: str,
) -> tuple[list[Camera], float]:
    """The frames of a file that holds key frames only, each key at its own time."""
    if len(keys) < 2:
        raise UserError(f"{len(keys)} key frame(s) and no frames", where=where, fix="Set at least two key frames")
    default = as_number(document.get("default_transition_sec", 2.0), f"{where}: default_transition_sec")
    times = [default if key.transition_s is None else key.transition_s for key in keys]
    if min(times) <= 0:
        raise UserError(f"a transition of {min(times):g} seconds", where=where, fix="Use transitions above 0 seconds")
    knots = np.concatenate([[0.0], np.cumsum(times if is_loop else times[:-1])])
    fps = as_number(document.get("fps", 24.0), f"{where}: fps")
    n = frame_count(float(knots[-1]), fps)
    c2w = torch.stack([key.c2w for key in keys]).numpy()
    shorter = min(size) / size[1]
    focals = [0.5 / math.tan(math.radians(key.fov_y_deg) / 2) / shorter for key in keys]
    curve = KeyCurve(c2w[:, :, 3], c2w[:, :, :3], np.log(focals), is_loop=is_loop, knots=knots)
    template = dataclasses.replace(Camera.perspective(*size, 60.0, keys[0].c2w), lens=lens)
    return sample_curve(curve, np.linspace(0, knots[-1], n, endpoint=not is_loop), template), fps


def _camera(entry: object, lens: Lens, size: tuple[int, int], where: str) -> Camera:
    c2w = pose(field(entry, "camera_to_world", where), f"{where}.camera_to_world")
    fov = 90.0 if lens.kind == "equirectangular" else fov_deg(field(entry, "fov", where), f"{where}.fov")
    camera = dataclasses.replace(Camera.perspective(*size, fov, c2w), lens=lens)
    extra = entry.get("nsx") if isinstance(entry, Mapping) else None
    if extra is None:
        return camera
    where = f"{where}.nsx"
    fx, fy, cx, cy = as_numbers(field(extra, "intrinsics", where), f"{where}.intrinsics", 4)
    K = torch.tensor([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], dtype=torch.float64)
    width, height = (int(v) for v in as_numbers(field(extra, "size", where), f"{where}.size", 2))
    check_size(width, height)
    params = as_numbers(field(extra, "lens_params", where), f"{where}.lens_params")
    kind = as_text(field(extra, "lens", where), f"{where}.lens")
    if kind not in LENS_KINDS or len(params) > N_LENS_PARAMS or min(fx, fy) <= 0:
        raise UserError("unknown lens", where=where, fix="Remove the entry 'nsx'")
    whole = Camera(width, height, K, c2w, Lens(kind, tuple(params)))
    return whole if (width, height) == size else CameraPath(Cameras([whole])).with_size(*size).cameras[0]


def _key(entry: object, where: str) -> KeyView:
    c2w = pose(field(entry, "matrix", where), f"{where}.matrix")
    fov = fov_deg(field(entry, "fov", where), f"{where}.fov")
    assert isinstance(entry, Mapping)  # `field` refused anything else
    transition = None
    if entry.get("override_transition_enabled") and entry.get("override_transition_sec") is not None:
        transition = as_number(entry["override_transition_sec"], f"{where}.override_transition_sec")
    aspect = as_number(entry.get("aspect", 1.0), f"{where}.aspect")
    return KeyView(c2w, fov, aspect, transition, {k: v for k, v in entry.items() if k not in KEY_ENTRIES})


def _crop(value: object, where: str) -> CropBox:
    center = as_numbers(field(value, "crop_center", where), f"{where}.crop_center", 3)
    size = as_numbers(field(value, "crop_scale", where), f"{where}.crop_scale", 3)
    assert isinstance(value, Mapping)  # `field` refused anything else
    roll, pitch, yaw = as_numbers(value.get("crop_rot") or [0.0, 0.0, 0.0], f"{where}.crop_rot", 3)
    color = value.get("crop_bg_color") or {"r": 255, "g": 255, "b": 255}
    place = f"{where}.crop_bg_color"
    r, g, b = (min(max(as_number(field(color, c, place), f"{place}.{c}") / 255, 0.0), 1.0) for c in "rgb")
    f64 = torch.float64
    return CropBox(
        torch.tensor(center, dtype=f64), torch.tensor(size, dtype=f64), rotation_zyx(roll, pitch, yaw), (r, g, b)
    )
