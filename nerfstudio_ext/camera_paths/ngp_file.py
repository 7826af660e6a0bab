"""instant-ngp's camera path: key frames in its own unit-cube frame, played as a spline.

Its world is the source frame scaled, shifted and with axes cycled, p = (scale * x + offset)[y, z, x]; its camera
axes are OpenCV's. `R` is a quaternion (x, y, z, w), `fov` the vertical field of view in degrees.
Source: instant-ngp, `nerf_matrix_to_ngp` (nerf_loader.h) and `eval_camera_path` (camera_path.h).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..cameras import Camera, Cameras
from ..errors import UserError
from ..strict_json import as_number, as_numbers
from .curves import Array, aligned, matrices_from_quaternions
from .entries import field, fov_deg, integer, items
from .path import CameraPath, KeyView, Similarity, check_size, frame_count

DEFAULT_FPS = 30.0
SECONDS_PER_KEY = 1.0
"""Old files hold neither duration nor times; instant-ngp asks for them when it renders."""
_CYCLE = torch.tensor([[0.0, 1, 0], [0, 0, 1], [1, 0, 0]], dtype=torch.float64)


@dataclass(frozen=True)
class NgpFrame:
    """How instant-ngp placed a capture in its unit cube.

    Attributes:
        scale: Entry `scale` of the transforms.json.
        offset: Entry `offset` of the transforms.json.
    """

    scale: float = 0.33
    offset: tuple[float, float, float] = (0.5, 0.5, 0.5)

    def to_source(self, c2w: Float[Tensor, "*N 3 4"]) -> Float[Tensor, "*N 3 4"]:
        """Poses (OpenCV camera axes) from instant-ngp's frame to the source frame."""
        back = _CYCLE.T @ c2w
        offset = torch.tensor(self.offset, dtype=torch.float64)[:, None]
        return torch.cat([back[..., :3], (back[..., 3:] - offset) / self.scale], -1)

    def from_source(self, c2w: Float[Tensor, "*N 3 4"]) -> Float[Tensor, "*N 3 4"]:
        """Poses (OpenCV camera axes) from the source frame to instant-ngp's frame."""
        offset = torch.tensor(self.offset, dtype=torch.float64)[:, None]
        return _CYCLE @ torch.cat([c2w[..., :3], self.scale * c2w[..., 3:] + offset], -1)


DEFAULT_NGP_FRAME = NgpFrame()


def path_from_ngp(
    document: Mapping[str, object],
    frame: Similarity | None,
    ngp_frame: NgpFrame,
    size: tuple[int, int],
    *,
    where: str,
) -> CameraPath:
    """The content of an instant-ngp camera path as a path in the training frame.

    Args:
        document: The file's object.
        frame: From the source frame to the training frame of the scene.
        ngp_frame: Scale and offset instant-ngp used for the capture.
        size: (width, height) of the output; the file holds none.
        where: Name of the file, for messages.
    Raises:
        UserError: naming the entry that cannot be used.
    """
    if frame is None:
        raise UserError("an instant-ngp path is tied to a capture", where=where, fix="Give the run it is for")
    check_size(*size)
    entries = items(document["path"], f"{where}: path")
    if len(entries) < 2:
        raise UserError(f"{len(entries)} key frame(s)", where=where, fix="Set at least two key frames")
    places = [f"{where}: path[{i}]" for i in range(len(entries))]
    pairs = list(zip(entries, places, strict=True))
    quaternions = np.array([as_numbers(field(e, "R", w), f"{w}.R", 4) for e, w in pairs])[:, [3, 0, 1, 2]]
    largest = np.abs(quaternions).max(1)
    if largest.min() < 1e-6 or largest.max() > 1e6:
        raise UserError("a quaternion R that is no rotation", where=where, fix="Export the path again")
    quaternions = aligned(quaternions / np.linalg.norm(quaternions, axis=1, keepdims=True))
    positions = np.array([as_numbers(field(e, "T", w), f"{w}.T", 3) for e, w in pairs])
    fovs = np.array([fov_deg(field(e, "fov", w), f"{w}.fov") for e, w in pairs])
    is_loop = bool(document.get("loop", False))
    knots, notes = _knots(document, pairs, is_loop, where)
    n = frame_count(float(knots[-1]), DEFAULT_FPS)
    times = np.linspace(0, knots[-1], n, endpoint=not is_loop)
    order = integer(document.get("spline_order", 3), f"{where}: spline_order")
    values = _spline(np.concatenate([quaternions, positions, fovs[:, None]], 1), knots, times, order, is_loop)
    frames = _cameras(values, ngp_frame, frame, size)
    keys = _cameras(np.concatenate([quaternions, positions, fovs[:, None]], 1), ngp_frame, frame, size)
    views = tuple(KeyView(c.c2w, float(fov), size[0] / size[1]) for c, fov in zip(keys, fovs, strict=True))
    return CameraPath(frames, DEFAULT_FPS, "instant-ngp path", is_loop=is_loop, notes=notes, keys=views)


def _cameras(values: Float[np.ndarray, "N 8"], ngp: NgpFrame, frame: Similarity, size: tuple[int, int]) -> Cameras:
    rotations = matrices_from_quaternions(values[:, :4])
    c2w = ngp.to_source(torch.from_numpy(np.concatenate([rotations, values[:, 4:7, None]], 2)))
    cameras = [Camera.perspective(*size, float(fov), pose) for fov, pose in zip(values[:, 7], c2w, strict=True)]
    return Cameras(cameras).transformed(frame.rotation, frame.translation, frame.scale)


def _knots(
    document: Mapping[str, object], pairs: list[tuple[object, str]], is_loop: bool, where: str
) -> tuple[Array, tuple[str, ...]]:
    """Time of each key (and of the return to the first), and what to tell the user about them.

    A key's `timestamp` is the time at which the *next* key is reached.
    """
    n_segments = len(pairs) if is_loop else len(pairs) - 1
    stamps = [e["timestamp"] for e, _ in pairs if isinstance(e, Mapping) and "timestamp" in e]
    if len(stamps) == len(pairs):
        ends = np.array([as_number(s, f"{where}: path[{i}].timestamp") for i, s in enumerate(stamps)][:n_segments])
        knots = np.concatenate([[0.0], ends])
        if np.all(np.diff(knots) > 0):
            return knots, ()
    if "duration_seconds" not in document:
        note = f"the file holds no times; one key per {SECONDS_PER_KEY:g} s"
        return np.linspace(0, SECONDS_PER_KEY * n_segments, n_segments + 1), (note,)
    seconds = as_number(document["duration_seconds"], f"{where}: duration_seconds")
    if seconds <= 0:
        raise UserError(f"a duration of {seconds:g} seconds", where=where, fix="Write a time above 0")
    return np.linspace(0, seconds, n_segments + 1), ()


def _spline(keys: Float[np.ndarray, "K 8"], knots: Array, times: Array, order: int, is_loop: bool) -> Array:
    """Key values blended by uniform B-splines as instant-ngp does; orders 2 and 3 do not pass through their keys."""
    n = len(keys)
    segment = np.clip(np.searchsorted(knots, times, side="right") - 1, 0, len(knots) - 2)
    t = (times - knots[segment]) / (knots[segment + 1] - knots[segment])
    weights: list[tuple[int, np.ndarray[Any, np.dtype[Any]]]]
    if order == 0:
        weights = [(0, (t < 0.5) * 1.0), (1, (t >= 0.5) * 1.0)]
    elif order == 1:
        weights = [(0, 1 - t), (1, t)]
    elif order == 2:
        weights = [(-1, 0.5 * (1 - t) ** 2), (0, 0.5 + t - t * t), (1, 0.5 * t * t)]
    elif order == 3:
        b, c = (3 * t**3 - 6 * t**2 + 4) / 6, (-3 * t**3 + 3 * t**2 + 3 * t + 1) / 6
        weights = [(-1, (1 - t) ** 3 / 6), (0, b), (1, c), (2, t**3 / 6)]
    else:
        raise UserError(f"spline_order {order}", fix="Use 0, 1, 2 or 3")
    blended = np.zeros((len(times), keys.shape[1]))
    reference = keys[segment]
    for shift, weight in weights:
        index = (segment + shift) % n if is_loop else np.clip(segment + shift, 0, n - 1)
        key = keys[index].copy()
        # Signs of quaternions are relative to the segment's own key, also across the end of a loop.
        key[:, :4] *= np.where(np.sum(key[:, :4] * reference[:, :4], 1) < 0, -1.0, 1.0)[:, None]
        blended += weight[:, None] * key
    return blended
