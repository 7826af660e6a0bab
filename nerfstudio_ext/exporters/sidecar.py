"""What is written beside every export: cameras in both frames, depth units, and the hash that lets it continue."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict

import torch

from .. import __version__
from ..camera_paths import CameraPath, CropBox, Similarity
from ..cameras import Camera
from .exr import CHANNEL
from .options import FrameOptions
from .pictures import DepthScale

SCHEMA = 1


def describe(
    path: CameraPath,
    options: FrameOptions,
    frame: Similarity | None,
    depth: DepthScale | None,
    stems: list[str],
    settings_sha256: str,
) -> dict[str, object]:
    """The side file of an export as JSON data.

    Args:
        path: The cameras, in the training frame.
        options: The request.
        frame: From source frame to training frame, or None when unknown.
        depth: Depth scale, or None without depth.
        stems: Name of each frame.
        settings_sha256: Hash of everything that decides the pixels.
    """
    document: dict[str, object] = {
        "schema": SCHEMA,
        "written_by": f"nerfstudio-ext {__version__}",
        "settings_sha256": settings_sha256,
        "finished": False,
        "path": path.kind,
        "n_frames": len(path),
        "fps": path.fps,
        "is_loop": path.is_loop,
        "outputs": list(options.outputs),
        "axes": "camera to world, OpenCV axes (x right, y down, z forward), 3x4 row by row, pixel centres at +0.5",
        "source_to_training": _similarity(frame),
        "samples_per_pixel": options.samples**2,
    }
    if path.crop is not None:
        document["crop"] = _crop(path.crop)
    if "normal" in options.outputs:
        document["normal"] = _normal(frame)
    if depth is not None:
        document["depth"] = _depth(options, depth, frame)
    document["cameras"] = [_camera(c, stem, frame) for c, stem in zip(path.cameras, stems, strict=True)]
    return document


def settings_hash(
    path: CameraPath,
    options: FrameOptions,
    background: tuple[float, float, float],
    frame: Similarity | None,
    stems: list[str],
    content_id: str,
    container: str,
) -> str:
    """SHA-256 of everything that decides the pixels of an export.

    The frame rate and `overwrite` do not, nor does the part of the path that a call renders.
    """
    settings = asdict(options) | {
        "overwrite": None,
        "shard": None,
        "frames": None,
        "crop": _crop(path.crop),
        "video_crf": None,
        "webp_quality": None,
        "schema": SCHEMA,
        "background": list(background),
        "frame": _similarity(frame),
        "content_id": content_id,
        "container": container,
        "cameras": [_camera(c, stem, None) for c, stem in zip(path.cameras, stems, strict=True)],
    }
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def _similarity(frame: Similarity | None) -> dict[str, object] | None:
    if frame is None:
        return None
    return {
        "formula": "x_training = scale * rotation @ x_source + translation",
        "rotation": frame.rotation.tolist(),
        "translation": frame.translation.tolist(),
        "scale": frame.scale,
    }


def _depth(options: FrameOptions, depth: DepthScale, frame: Similarity | None) -> dict[str, object]:
    entry: dict[str, object] = {
        "format": options.depth_format,
        "units": "source" if frame is not None else "training",
        "units_per_training_unit": depth.units_per_training,
    }
    if options.depth_format == "color":
        near, far = (value * depth.units_per_training for value in (depth.near, depth.far))
        return entry | {
            "scale": "linear in 1/depth: red is near, blue is far, black is empty",
            "near": near,
            "far": far,
        }
    entry["measured"] = "along the ray" if options.depth_along == "ray" else "along the camera's z axis"
    if options.depth_format == "png16":
        return entry | {"unit_scale_factor": depth.png16_unit, "empty": 0, "largest": 65_535 * depth.png16_unit}
    if options.depth_format == "exr":
        entry["channel"] = CHANNEL
    return entry | {"dtype": "float32", "empty": "inf"}


def _normal(frame: Similarity | None) -> dict[str, object]:
    return {
        "frame": "source" if frame is not None else "training",
        "coding": "(x, y, z) from -1..1 to red, green, blue from 0..255; black is empty",
        "from": "rendered depth",
    }


def _crop(crop: CropBox | None) -> dict[str, object] | None:
    if crop is None:
        return None
    return {
        "frame": "training",
        "center": crop.center.tolist(),
        "size": crop.size.tolist(),
        "rotation": crop.rotation.tolist(),
        "background": list(crop.background),
    }


def _camera(camera: Camera, stem: str, frame: Similarity | None) -> dict[str, object]:
    K = camera.K
    entry: dict[str, object] = {
        "name": stem,
        "width": camera.width,
        "height": camera.height,
        "fx": float(K[0, 0]),
        "fy": float(K[1, 1]),
        "cx": float(K[0, 2]),
        "cy": float(K[1, 2]),
        "lens": camera.lens.kind,
        "lens_params": list(camera.lens.params),
        "c2w_training": camera.c2w.reshape(-1).tolist(),
    }
    if frame is not None:
        back = frame.rotation.T
        center = back @ (camera.c2w[:, 3] - frame.translation) / frame.scale
        source = torch.cat([back @ camera.c2w[:, :3], center[:, None]], 1)
        entry["c2w_source"] = source.reshape(-1).tolist()
    return entry
