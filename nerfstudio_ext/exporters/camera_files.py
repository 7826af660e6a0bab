"""Cameras for other programs: transforms.json of nerfstudio and instant-ngp, and COLMAP models in text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ..camera_paths.curves import quaternions_from_matrices
from ..cameras import Camera, Cameras
from ..errors import UserError
from .pictures import write_whole
from .placement import Placement, check_target, write_side_file

_GL = torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64)
"""From OpenCV camera axes to OpenGL's: y and z turn round."""
_KEYS = {"opencv": ("k1", "k2", "p1", "p2", "k3", "k4"), "fisheye": ("k1", "k2", "k3", "k4")}
_MODELS = {
    "perspective": "PINHOLE", "opencv": "OPENCV", "fisheye": "OPENCV_FISHEYE", "equirectangular": "EQUIRECTANGULAR",
}  # fmt: skip
COLMAP_TABLES = ("cameras.txt", "images.txt", "points3D.txt")


def write_transforms_json(
    cameras: Cameras,
    names: Sequence[str],
    target: Path,
    placement: Placement,
    *,
    overwrite: bool = False,
) -> Path:
    """Write cameras as transforms.json: camera to world, OpenGL axes, pixels.

    Args:
        cameras: Training frame.
        names: Path of each picture, as the file shall name it.
        target: The .json file; it appears only when complete.
        placement: Frame of the file.
        overwrite: Replace an existing file.
    Raises:
        UserError: if the file cannot be written, or the cameras are of several kinds.
    """
    check_target(target, (".json",), overwrite=overwrite)
    kinds = {camera.lens.kind for camera in cameras}
    if len(kinds) != 1:
        raise UserError(f"cameras of {len(kinds)} kinds in one file", where=target, fix="Export them as a COLMAP model")
    change = placement.to_file
    frames: list[dict[str, object]] = []
    for camera, name in zip(cameras.transformed(change.rotation, change.translation, change.scale), names, strict=True):
        rows = [*(camera.c2w * _GL).tolist(), [0.0, 0.0, 0.0, 1.0]]
        frames.append({"file_path": name, **_intrinsics(camera), "transform_matrix": rows})
    document: dict[str, object] = {"camera_model": _MODELS[next(iter(kinds))], "frames": frames}
    shared = {k: v for k, v in frames[0].items() if k not in ("file_path", "transform_matrix")}
    if all(all(frame[k] == v for k, v in shared.items()) for frame in frames):
        # What is the same for all cameras stands once, at the top.
        own = [{k: v for k, v in frame.items() if k not in shared} for frame in frames]
        document = {"camera_model": document["camera_model"], **shared, "frames": own}
    write_whole(target, (json.dumps(document, indent=1, allow_nan=False) + "\n").encode())
    write_side_file(target, placement, {"kind": "cameras", "n_cameras": len(cameras)})
    return target


def write_colmap_text(
    cameras: Cameras, names: Sequence[str], folder: Path, placement: Placement, *, overwrite: bool = False
) -> Path:
    """Write cameras as a COLMAP model in text, without points: world to camera, OpenCV axes.

    Args:
        cameras: Training frame.
        names: Name of each picture.
        folder: Takes cameras.txt, images.txt and an empty points3D.txt.
        placement: Frame of the model.
        overwrite: Replace existing files.
    Raises:
        UserError: if the files cannot be written, or COLMAP has no model for a lens.
    """
    for table in COLMAP_TABLES:
        check_target(folder / table, (".txt",), overwrite=overwrite)
    change = placement.to_file
    numbers: dict[str, int] = {}
    lines = []
    moved = cameras.transformed(change.rotation, change.translation, change.scale)
    for i, (camera, name) in enumerate(zip(moved, names, strict=True)):
        if any(c in name for c in "\r\n"):
            raise UserError("a picture's name has several lines", where=folder, fix="Rename the picture")
        number = numbers.setdefault(_colmap_camera(camera, folder), len(numbers) + 1)
        rotation = camera.c2w[:, :3].T
        q = quaternions_from_matrices(rotation.numpy()[None])[0]
        t = -(rotation @ camera.c2w[:, 3])
        numerals = " ".join(repr(float(v)) for v in (*(q * np.sign(q[0] or 1.0)), *t.tolist()))
        lines.append(f"{i + 1} {numerals} {number} {name}\n\n")
    tables = {
        "cameras.txt": "".join(f"{number} {text}\n" for text, number in numbers.items()),
        "images.txt": "".join(lines),
        "points3D.txt": "",
    }
    heads = {
        "cameras.txt": "# CAMERA_ID MODEL WIDTH HEIGHT PARAMS[]\n",
        "images.txt": "# IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME, then a line of 2D points\n",
        "points3D.txt": "# no points\n",
    }
    for table, text in tables.items():
        write_whole(folder / table, (heads[table] + text).encode())
    write_side_file(folder / "images.txt", placement, {"kind": "cameras", "n_cameras": len(cameras)})
    return folder


def _intrinsics(camera: Camera) -> dict[str, float]:
    entry: dict[str, float] = {"w": camera.width, "h": camera.height}
    if camera.lens.kind == "equirectangular":
        return entry
    K = camera.K
    entry |= {"fl_x": float(K[0, 0]), "fl_y": float(K[1, 1]), "cx": float(K[0, 2]), "cy": float(K[1, 2])}
    names = _KEYS.get(camera.lens.kind, ())
    padded = (*camera.lens.params, *([0.0] * (len(names) - len(camera.lens.params))))
    return entry | dict(zip(names, padded, strict=False))


def _colmap_camera(camera: Camera, folder: Path) -> str:
    """Model, size and parameters as they stand in cameras.txt."""
    kind, K = camera.lens.kind, camera.K
    plain = [float(K[0, 0]), float(K[1, 1]), float(K[0, 2]), float(K[1, 2])]
    k = [*camera.lens.params, *([0.0] * (6 - len(camera.lens.params)))]
    model, params = _MODELS[kind], plain
    if kind == "equirectangular":
        params = [float(camera.width), float(camera.height)]
    elif kind == "fisheye":
        params = plain + k[:4]
    elif kind == "opencv" and k[5]:
        fix = "Export them as transforms.json"
        raise UserError("COLMAP has no lens with four radial terms of this form", where=folder, fix=fix)
    elif kind == "opencv" and k[4]:
        model, params = "FULL_OPENCV", [*plain, *k[:5], 0.0, 0.0, 0.0]
    elif kind == "opencv":
        params = plain + k[:4]
    return f"{model} {camera.width} {camera.height} {' '.join(repr(value) for value in params)}"
