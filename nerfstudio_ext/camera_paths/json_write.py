"""Writing nerfstudio's camera_path.json; `json_file` describes the format."""

from __future__ import annotations

import json
import math
import os
import tempfile
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..cameras import Camera
from ..errors import UserError
from .json_file import LENS_OF_TYPE
from .path import CameraPath, CropBox, KeyView, Similarity

FrameName = Literal["normalized", "source"]


def write_camera_path(
    path: CameraPath,
    target: Path,
    frame: Similarity | None = None,
    *,
    frame_of_reference: FrameName = "normalized",
    overwrite: bool = False,
) -> Path:
    """Write a path as camera_path.json that nerfstudio reads too.

    What that format cannot hold (an off-centre principal point, lens coefficients) goes into entries of each frame
    that other programs ignore and this one reads back.

    Args:
        path: A path in the training frame; all cameras of one size.
        target: The file; it appears only when complete.
        frame: From source frame to training frame; stored so that the path fits other runs of the capture.
        frame_of_reference: Frame of the poses in the file; "source" needs `frame`.
        overwrite: Replace an existing file.
    Raises:
        UserError: if the file exists, cannot be written, or cannot hold the path.
    """
    target = Path(target)
    if target.exists() and not overwrite:
        raise UserError("the file exists", where=target, fix="Choose another name or allow overwriting")
    text = json.dumps(
        camera_path_to_json(path, frame, frame_of_reference=frame_of_reference), allow_nan=False, indent=1
    )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        Path(partial).chmod(0o644)
        os.replace(partial, target)
    except OSError as error:
        raise UserError(
            f"cannot write: {error.strerror}", where=target, fix="Choose a folder you may write to"
        ) from error
    return target


def camera_path_to_json(
    path: CameraPath, frame: Similarity | None = None, *, frame_of_reference: FrameName = "normalized"
) -> dict[str, object]:
    """The content of a camera_path.json; see `write_camera_path`."""
    if path.size is None:
        raise UserError("the views have different sizes", where=path.kind, fix="Choose one size for the whole path")
    kinds = {camera.lens.kind for camera in path.cameras}
    document: dict[str, object] = dict(path.extra)
    document["frame_of_reference"] = frame_of_reference
    if frame is not None:
        transform = torch.cat([frame.rotation, (frame.translation / frame.scale)[:, None]], 1)
        document["source_to_training"] = {"transform": transform.tolist(), "scale": frame.scale}
    if frame_of_reference == "source":
        path = _to_source(path, frame)
    types = {lens: name for name, lens in LENS_OF_TYPE.items()}
    document |= {
        "camera_type": types.get(next(iter(kinds)), "perspective") if len(kinds) == 1 else "perspective",
        "render_width": path.size[0] if path.size else 0,
        "render_height": path.size[1] if path.size else 0,
        "fps": path.fps,
        "seconds": path.seconds,
        "is_cycle": path.is_loop,
        "keyframes": [_key_entry(key) for key in path.keys],
        "camera_path": [_camera_entry(camera) for camera in path.cameras],
        "crop": _crop_entry(path.crop) if path.crop else None,
    }
    return document


def _to_source(path: CameraPath, frame: Similarity | None) -> CameraPath:
    if frame is None:
        raise UserError("a path in the source frame needs the scene's frame", fix="Write it in the normalized frame")
    back = frame.rotation.T
    return path.transformed(back, -(back @ frame.translation) / frame.scale, 1 / frame.scale)


def _camera_entry(camera: Camera) -> dict[str, object]:
    fy, height = float(camera.K[1, 1]), camera.height
    entry: dict[str, object] = {
        "camera_to_world": _rows(camera.c2w),
        "fov": math.degrees(2 * math.atan(height / (2 * fy))),
        "aspect": camera.width / height,
    }
    plain = (fy, fy, camera.width / 2, height / 2)
    intrinsics = (float(camera.K[0, 0]), fy, float(camera.K[0, 2]), float(camera.K[1, 2]))
    is_plain = (
        np.allclose(plain, intrinsics, rtol=0, atol=1e-6) and not camera.lens.params and camera.lens.kind != "opencv"
    )
    if not is_plain and camera.lens.kind != "equirectangular":
        entry["nsx"] = {
            "intrinsics": list(intrinsics),
            "size": [camera.width, height],
            "lens": camera.lens.kind,
            "lens_params": list(camera.lens.params),
        }
    return entry


def _key_entry(key: KeyView) -> dict[str, object]:
    return {
        **key.extra,
        "matrix": _rows(key.c2w),
        "fov": key.fov_y_deg,
        "aspect": key.aspect,
        "override_transition_enabled": key.transition_s is not None,
        "override_transition_sec": key.transition_s,
    }


def _rows(c2w: Float[Tensor, "3 4"]) -> list[float]:
    """16 numbers row by row, camera axes turned to OpenGL's."""
    flipped = c2w * torch.tensor([1.0, -1, -1, 1], dtype=torch.float64)
    return [*flipped.reshape(-1).tolist(), 0.0, 0.0, 0.0, 1.0]


def _crop_entry(crop: CropBox) -> dict[str, object]:
    R = crop.rotation
    pitch = math.asin(min(max(-float(R[2, 0]), -1.0), 1.0))
    if abs(float(R[2, 0])) < 1 - 1e-9:
        roll, yaw = math.atan2(R[2, 1], R[2, 2]), math.atan2(R[1, 0], R[0, 0])
    else:
        roll, yaw = 0.0, math.atan2(-R[0, 1], R[1, 1])
    return {
        "crop_center": crop.center.tolist(),
        "crop_scale": crop.size.tolist(),
        "crop_rot": [roll, pitch, yaw],
        "crop_bg_color": {name: round(255 * value) for name, value in zip("rgb", crop.background, strict=True)},
    }
