"""How a set of cameras stands: what it looks at, from how far, from which sides."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..cameras import Camera, Cameras
from ..errors import UserError

Vector = tuple[float, float, float]
PRIOR_WEIGHT, PRIOR_ENDS = 0.01, 0.03
"""Weight per camera of the prior on the focus point, and the spread of view directions from which it is not needed.
The spread is the mean squared sine of the angles to the direction the axes share most: 0.03 is 10 degrees. Below about
6 degrees the prior leads, because there the crossings of noisy axes mean nothing."""
FORWARD_FACING_DEG = 30.0
"""A capture whose view directions all lie this close to their mean (nine in ten) is called forward-facing."""
NEAR_CAMERA = 0.2
"""A place is near a camera within this share of the distance to the subject: about 11 degrees seen from there."""
SAME_SWEEP = 0.15
"""Cameras belong to one sweep when distance (as a log) and elevation (radians) differ by no more than this."""
MIN_FOV_DEG, MAX_FOV_DEG, DEFAULT_FOV_DEG = 20.0, 90.0, 60.0


@dataclass(frozen=True)
class Layout:
    """Cameras in cylinder coordinates around what they look at.

    Attributes:
        center: The point nearest to all optical axes.
        axes: [3,3] rows: two horizontal unit vectors and up.
        distance: Typical distance of the cameras from the centre.
        elevation: Typical elevation of the cameras above the horizontal plane through the centre, radians.
        elevations: Elevation of each camera, radians.
        azimuths: Azimuth of each camera, radians.
        origins: Position of each camera.
        pitch: Median elevation of the view directions, radians.
        is_outward: Most cameras have the centre behind them: they look outwards from inside.
        is_forward_facing: All cameras look about the same way.
    """

    center: Float[np.ndarray, "3"]
    axes: Float[np.ndarray, "3 3"]
    distance: float
    elevation: float
    elevations: Float[np.ndarray, " V"]
    azimuths: Float[np.ndarray, " V"]
    origins: Float[np.ndarray, "V 3"]
    pitch: float
    is_outward: bool
    is_forward_facing: bool

    def point(self, azimuth: float, elevation: float, distance: float) -> Float[np.ndarray, "3"]:
        """The point in that direction from the centre."""
        across = math.cos(elevation)
        local = np.array([across * math.cos(azimuth), across * math.sin(azimuth), math.sin(elevation)])
        return np.asarray(self.center + distance * (local @ self.axes))

    def covered(self) -> tuple[float, float]:
        """(middle, width) in radians of the arc of azimuths the cameras stand in, its largest gap left out."""
        ordered = np.sort(np.mod(self.azimuths, 2 * np.pi))
        gaps = np.diff(np.concatenate([ordered, ordered[:1] + 2 * np.pi]))
        widest = int(gaps.argmax())
        width = 2 * math.pi - float(gaps[widest])
        start = float(ordered[(widest + 1) % len(ordered)])
        return math.remainder(start + width / 2, 2 * math.pi), width

    def supported(self, elevation: float) -> tuple[float, float]:
        """(middle, width) of the longest part of the covered arc that runs near cameras, at the typical distance.

        Several sweeps at different heights and distances cover more azimuths together than any one of them: where no
        camera was near, the view is through what no photo saw. Falls back to the covered arc where nothing is near.
        """
        middle, width = self.covered()
        angles = middle + np.linspace(-0.5, 0.5, 181) * width
        points = np.stack([self.point(a, elevation, self.distance) for a in angles])
        nearest = np.linalg.norm(points[:, None] - self.origins[None], axis=2).min(1)
        apart = np.linalg.norm(self.origins[:, None] - self.origins[None], axis=2)
        np.fill_diagonal(apart, np.inf)
        near = nearest <= max(NEAR_CAMERA * self.distance, float(np.median(apart.min(1))) if len(apart) > 1 else 0.0)
        edges = np.flatnonzero(np.diff(np.concatenate([[False], near, [False]]).astype(int)))
        if len(edges) == 0:
            return middle, width
        starts, ends = edges[::2], edges[1::2] - 1
        longest = int((ends - starts).argmax())
        first, last = float(angles[starts[longest]]), float(angles[ends[longest]])
        return (first + last) / 2, last - first


def layout_of(cameras: Cameras, up: Vector = (0.0, 0.0, 1.0)) -> Layout:
    """Find what cameras look at and how they stand around it.

    Args:
        cameras: At least one camera.
        up: The upward direction of the world.
    Raises:
        UserError: without cameras.
    """
    if len(cameras) == 0:
        raise UserError("no cameras to plan a path from", fix="Use a capture with at least one training image")
    c2w = cameras.c2w.numpy()
    origins, forwards = c2w[:, :, 3], c2w[:, :, 2]
    center = focus_point(origins, forwards)
    axes = _axes(np.asarray(up, float))
    offsets = (origins - center) @ axes.T
    distances = np.linalg.norm(offsets, axis=1)
    mean = forwards.mean(0)
    elevations = np.arcsin(np.clip(offsets[:, 2] / np.maximum(distances, 1e-12), -1, 1))
    distance, elevation = _typical(distances, elevations)
    angles = np.degrees(np.arccos(np.clip(forwards @ (mean / max(np.linalg.norm(mean), 1e-12)), -1, 1)))
    in_front = np.sum((center - origins) * forwards, 1) > 0
    return Layout(
        center=center,
        axes=axes,
        distance=distance,
        elevation=elevation,
        elevations=elevations,
        azimuths=np.arctan2(offsets[:, 1], offsets[:, 0]),
        origins=origins,
        pitch=float(np.median(np.arcsin(np.clip(forwards @ axes[2], -1, 1)))),
        is_outward=bool(in_front.mean() < 0.5),
        is_forward_facing=bool(np.quantile(angles, 0.9) < FORWARD_FACING_DEG),
    )


def focus_point(origins: Float[np.ndarray, "V 3"], forwards: Float[np.ndarray, "V 3"]) -> Float[np.ndarray, "3"]:
    """The point nearest to all optical axes, in the sense of least absolute distances (few strays do not move it).

    Where the axes are parallel their common distance is unknown; there the point lies as far in front of the
    cameras as the middle of the training frame, or as the cameras are apart when that is behind them.
    """
    depth = float(np.median(-np.sum(origins * forwards, 1)))
    spread = float(np.linalg.norm(origins - np.median(origins, 0), axis=1).max())
    if depth <= 0.1 * spread or depth <= 0:
        depth = max(2 * spread, 1.0 if spread == 0 else spread)
    prior = np.median(origins + depth * forwards, axis=0)
    across = np.eye(3) - forwards[:, :, None] * forwards[:, None, :]
    prior_weight = PRIOR_WEIGHT * max(0.0, 1 - float(np.linalg.eigvalsh(across.mean(0))[0]) / PRIOR_ENDS)
    weights = np.ones(len(origins))
    point = prior
    for _ in range(20):
        A = (weights[:, None, None] * across).sum(0) + prior_weight * weights.sum() * np.eye(3)
        b = (weights[:, None, None] * across @ origins[:, :, None]).sum(0)[:, 0] + prior_weight * weights.sum() * prior
        moved, point = point, np.linalg.solve(A, b)
        if np.linalg.norm(moved - point) < 1e-9 * (1 + depth):
            break
        misses = np.linalg.norm((across @ (point - origins)[:, :, None])[:, :, 0], axis=1)
        weights = 1 / np.maximum(misses, 1e-3 * depth)
    return np.asarray(point)


def look_at(
    eye: Float[np.ndarray, "3"], target: Float[np.ndarray, "3"], up: Float[np.ndarray, "3"]
) -> Float[Tensor, "3 4"]:
    """Camera-to-world (OpenCV axes) of a level camera at `eye` that sees `target` in its centre."""
    forward = target - eye
    forward = forward / np.linalg.norm(forward)
    right = np.cross(forward, up)
    if np.linalg.norm(right) < 1e-9:
        # Straight up or down: any horizontal direction will do for the image's x axis.
        right = _axes(up)[0]
    right = right / np.linalg.norm(right)
    return torch.from_numpy(np.stack([right, np.cross(forward, right), forward, eye], 1))


def typical_size(cameras: Cameras) -> tuple[int, int]:
    """The most frequent image size of the cameras, made even (H.264 wants that)."""
    sizes, counts = torch.unique(cameras.sizes, dim=0, return_counts=True)
    width, height = (int(side) for side in sizes[counts.argmax()])
    return max(width - width % 2, 2), max(height - height % 2, 2)


def typical_camera(cameras: Cameras, size: tuple[int, int] | None, fov_y_deg: float | None) -> Camera:
    """A pinhole camera, yet without a pose, that shows as much as the given cameras do.

    The shorter image side keeps the field of view that the cameras' shorter side has, so a subject that filled
    portrait photos also fits a landscape video. Clamped to 20..90 degrees.

    Args:
        cameras: The cameras to resemble.
        size: (width, height) of the new one; None takes the most frequent size.
        fov_y_deg: Vertical field of view, overrides the above.
    """
    width, height = size or typical_size(cameras)
    if fov_y_deg is not None:
        if not 0 < fov_y_deg < 180:
            raise UserError(
                f"a field of view of {fov_y_deg} degrees", fix="Choose more than 0 and less than 180 degrees"
            )
    else:
        half_tangents = [
            min(c.width, c.height) / (2 * float(c.K[0, 0])) for c in cameras if c.lens.kind in ("perspective", "opencv")
        ]
        half = float(np.median(half_tangents)) if half_tangents else math.tan(math.radians(DEFAULT_FOV_DEG / 2))
        half = min(max(half, math.tan(math.radians(MIN_FOV_DEG / 2))), math.tan(math.radians(MAX_FOV_DEG / 2)))
        fov_y_deg = math.degrees(2 * math.atan(half * height / min(width, height)))
    return Camera.perspective(width, height, fov_y_deg, torch.eye(4, dtype=torch.float64)[:3])


def _typical(distances: Float[np.ndarray, " V"], elevations: Float[np.ndarray, " V"]) -> tuple[float, float]:
    """Distance and elevation that belong together: medians over the cameras most like the one most like all others.

    Separate medians of a low, distant sweep and a high, close one would give a place where nobody stood.
    """
    places = np.stack([np.log(np.maximum(distances, 1e-12)), elevations], 1)
    apart = np.linalg.norm(places[:, None] - places[None], axis=2)
    central = int(apart.sum(1).argmin())
    alike = apart[central] <= max(SAME_SWEEP, float(np.quantile(apart[central], 0.25)))
    return float(np.median(distances[alike])), float(np.median(elevations[alike]))


def _axes(up: Float[np.ndarray, "3"]) -> Float[np.ndarray, "3 3"]:
    """Rows: two horizontal unit vectors and the unit upward direction, right-handed; the identity for +Z."""
    length = float(np.linalg.norm(up))
    if not (math.isfinite(length) and length > 0):
        raise UserError(f"up direction {tuple(up)}", fix="Give a direction that is not zero")
    z = up / length
    x = np.array([1.0, 0, 0]) if abs(z[0]) < 0.9 else np.array([0.0, 1, 0])
    x = x - (x @ z) * z
    x = x / np.linalg.norm(x)
    return np.stack([x, np.cross(z, x), z])
