"""Where a capture goes in the training frame, and how large the box around it must be."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from ..cameras import Camera, Cameras
from ..progress import Progress, SilentProgress
from .model import SceneFrame
from .posed_capture import FrameHints

SYNTHETIC_SCALE = 1 / 3
"""The objects of the Blender sets fill [-1.5, 1.5]^3."""
NGP_SCALE = 0.33
MAX_AABB_SCALE = 64
FALLBACK_AABB_SCALE = 8
"""For photos of open space without sparse points: walls up to 8 subject sizes away."""
SUBJECT_SHARE = 0.6
"""Share of the well-observed points that the inner cube holds; the rest is table, floor and walls."""
MAX_CAMERA_DISTANCE = 0.9
"""Median distance of the cameras from the centre, training units: farther, and the subject would be a fraction of
what the inner cube, with the finest cells of occupancy grid and hash grid, could hold."""
BOX_SHARE = 0.97
CAMERA_MARGIN = 1.05
OUTLIER_FACTOR = 20.0
"""A camera this many times the median distance away is a solver's mistake, not a viewpoint."""
PARALLEL_AXES = 0.01
"""Smallest mean squared sine between viewing axes for which their meeting point means anything (about 6 degrees)."""
MIN_POINTS = 10
N_POINTS, N_CAMERAS = 20_000, 100
"""How many are looked at: enough for quantiles to one per cent."""

Array3 = Float[np.ndarray, "N 3"]


@dataclass(frozen=True)
class _Views:
    """Camera poses after the rotation of the frame, outliers left out."""

    centres: Array3
    forwards: Array3
    cameras: Cameras

    @property
    def spread(self) -> float:
        """Median distance of the cameras from their median."""
        return float(np.median(np.linalg.norm(self.centres - np.median(self.centres, 0), axis=1)))


@dataclass(frozen=True)
class _Cloud:
    """Points after the rotation of the frame, and whether many cameras see each."""

    points: Array3
    is_observed: np.ndarray


def choose_frame(
    cameras: Cameras, points: np.ndarray | None, hints: FrameHints, progress: Progress | None = None
) -> SceneFrame:
    """Choose the similarity to the training frame and the edge of the scene box.

    Blender sets, and files with `aabb_scale` but no points, keep their tools' conventions. Otherwise the inner cube
    [-0.5, 0.5]^3 gets the subject: the nearer part of the points that many cameras see, around the place the cameras
    look at. The box is the power of two that holds 97 % of the points and all cameras.

    Args:
        cameras: All cameras, source frame.
        points: Sparse points [P,3], source frame, or None.
        hints: What the file says.
        progress: Is warned about cameras so far from the others that they do not count.
    """
    progress = progress or SilentProgress()
    if hints.is_synthetic:
        return SceneFrame(torch.eye(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64), SYNTHETIC_SCALE, 1)
    if hints.aabb_scale is not None and points is None:
        offset = torch.tensor(hints.offset or (0.5, 0.5, 0.5), dtype=torch.float64) - 0.5
        scale = hints.scale if hints.scale is not None else NGP_SCALE
        return SceneFrame(torch.eye(3, dtype=torch.float64), offset, scale, hints.aabb_scale)
    rotation = np.eye(3) if hints.has_up else rotation_to_z(estimate_up(cameras))
    views = _views(cameras, rotation, progress)
    known = points if points is not None and len(points) >= MIN_POINTS else _points_of_depth_ranges(cameras, hints)
    cloud = None if known is None else _cloud(views, known, rotation)
    centre, inner = _subject_of_views(views, hints) if cloud is None else _subject_of_cloud(views, cloud)
    aabb_scale = hints.aabb_scale or _box_edge(views, cloud, centre, inner, hints)
    scale = 0.5 / inner
    return SceneFrame(torch.from_numpy(rotation.copy()), torch.from_numpy(-scale * centre), scale, aabb_scale)


def estimate_up(cameras: Cameras) -> Float[np.ndarray, "3"]:
    """The direction most orthogonal to all cameras' x axes, on the side the cameras hold up: people level a camera."""
    axes = cameras.c2w.numpy()
    mean_up = -axes[:, :, 1].mean(0)
    _, lengths, directions = np.linalg.svd(axes[:, :, 0])
    # Cameras in one row share their x axis; then every direction across it is as orthogonal, and the mean decides.
    is_clear = len(lengths) == 3 and lengths[1] > 0.1 * lengths[0]
    up = directions[2] * np.sign(directions[2] @ mean_up) if is_clear else mean_up
    length = float(np.linalg.norm(up))
    return up / length if length > 1e-9 else np.array([0.0, 0.0, 1.0])


def rotation_to_z(up: Float[np.ndarray, "3"]) -> Float[np.ndarray, "3 3"]:
    """The smallest rotation that takes the unit vector `up` to +Z."""
    x, y, z = up
    if z < -1 + 1e-9:
        return np.diag([1.0, -1.0, -1.0])
    skew = np.array([[0, 0, -x], [0, 0, -y], [x, y, 0]])
    return np.eye(3) + skew + skew @ skew / (1 + z)


def _views(cameras: Cameras, rotation: np.ndarray, progress: Progress) -> _Views:
    centres = cameras.c2w[:, :, 3].numpy() @ rotation.T
    distances = np.linalg.norm(centres - np.median(centres, 0), axis=1)
    typical = float(np.median(distances))
    kept = distances <= max(OUTLIER_FACTOR * typical, 1e-12)
    if not kept.all() and typical > 0:
        progress.warn(
            f"{int((~kept).sum())} of {len(kept)} cameras are over {OUTLIER_FACTOR:.0f} times as far out as the others "
            "and do not count for the scene's size: their poses look wrong"
        )
    if typical <= 1e-9 * max(1.0, float(np.abs(centres).max())):
        progress.warn("all cameras stand at one place: depth cannot be learnt from these pictures")
        kept[:] = True
    forwards = cameras.c2w[:, :, 2].numpy() @ rotation.T
    return _Views(centres[kept], forwards[kept], cameras.select([int(i) for i in np.flatnonzero(kept)]))


def _cloud(views: _Views, points: np.ndarray, rotation: np.ndarray) -> _Cloud:
    thinned = points[:: max(1, -(-len(points) // N_POINTS))].astype(np.float64)
    counts = _count_observers(views.cameras, thinned)
    # Far points are seen by many cameras as well, but the subject is what nearly all cameras point at.
    is_observed = counts >= max(2.0, 0.5 * float(np.quantile(counts, 0.9)))
    if is_observed.sum() < MIN_POINTS:
        is_observed[:] = True
    return _Cloud(thinned @ rotation.T, is_observed)


def _count_observers(cameras: Cameras, points: Array3) -> Float[np.ndarray, " N"]:
    """How many of (at most `N_CAMERAS`) cameras have each point in their picture; occlusion is not known."""
    x = torch.from_numpy(points)
    counts = torch.zeros(len(points), dtype=torch.float64)
    for camera in cameras[:: max(1, -(-len(cameras) // N_CAMERAS))]:
        uv, depth_z = camera.project(x)
        size = torch.tensor([camera.width, camera.height], dtype=torch.float64)
        is_inside = ((uv >= 0) & (uv < size)).all(-1)
        counts += is_inside & ((depth_z > 0) | (camera.lens.kind == "equirectangular"))
    return counts.numpy()


def _points_of_depth_ranges(cameras: Cameras, hints: FrameHints) -> np.ndarray | None:
    """Points spread evenly in inverse depth over each picture's stated depth range, in place of sparse points."""
    if hints.near_far is None:
        return None
    parts = []
    step = max(1, -(-len(cameras) // N_CAMERAS))
    for camera, (near, far) in zip(cameras[::step], hints.near_far[::step], strict=True):
        size = torch.tensor([camera.width, camera.height], dtype=torch.float64)
        grid = (
            torch.stack(torch.meshgrid(torch.arange(5), torch.arange(5), indexing="ij"), -1).reshape(-1, 2) + 0.5
        ) / 5
        rays = camera.rays_through(grid * size)
        depths = 1 / torch.linspace(1 / near, 1 / far, 8, dtype=torch.float64)
        parts.append((rays.rays_o[:, None] + depths[:, None] * rays.rays_d[:, None]).reshape(-1, 3))
    return torch.cat(parts).numpy()


def _focus(views: _Views) -> tuple[np.ndarray | None, bool]:
    """The point nearest to all viewing axes, None when they are nearly parallel; and whether it lies ahead."""
    across = np.eye(3) - views.forwards[:, :, None] * views.forwards[:, None, :]
    matrix = across.mean(0)
    if np.linalg.eigvalsh(matrix)[0] < PARALLEL_AXES:
        return None, True
    focus = np.linalg.solve(matrix, (across @ views.centres[:, :, None]).mean(0)[:, 0])
    ahead = ((focus - views.centres) * views.forwards).sum(-1)
    return focus, bool(np.median(ahead) > 0)


def _subject_of_cloud(views: _Views, cloud: _Cloud) -> tuple[np.ndarray, float]:
    """Centre and half edge of the inner cube."""
    observed = cloud.points[cloud.is_observed]
    focus, is_ahead = _focus(views)
    if focus is None:
        forward = views.forwards.mean(0)
        depth = (observed - views.centres.mean(0)) @ forward
        subject = observed[depth <= np.median(depth)]
        centre = np.median(subject, 0)
    elif not is_ahead:
        # Cameras in the middle that look outward: the room around them is the subject.
        subject, centre = observed, np.median(views.centres, 0)
    else:
        reach = float(np.median(np.linalg.norm(views.centres - focus, axis=1)))
        is_near = np.linalg.norm(observed - focus, axis=1) < reach
        subject = observed[is_near] if is_near.sum() >= max(MIN_POINTS, 0.1 * len(observed)) else observed
        centre = np.median(subject, 0)
    inner = float(np.quantile(np.abs(subject - centre).max(-1), SUBJECT_SHARE))
    return centre, _within_reach(views, centre, inner)


def _subject_of_views(views: _Views, hints: FrameHints) -> tuple[np.ndarray, float]:
    """As `_subject_of_cloud`, when nothing but the cameras is known."""
    focus, is_ahead = _focus(views)
    if focus is None or not is_ahead:
        # Nothing says how far things are; hand-held series move about a quarter of the distance.
        distance = 4 * views.spread or 1.0
        focus = np.median(views.centres, 0) + (distance * views.forwards.mean(0) if is_ahead else 0.0)
    else:
        distance = float(np.median(np.linalg.norm(views.centres - focus, axis=1)))
    half_view = [_half_view(camera) for camera in views.cameras]
    inner = distance * float(np.median(half_view))
    return focus, inner * CAMERA_MARGIN if hints.is_object else _within_reach(views, focus, inner)


def _half_view(camera: Camera) -> float:
    """Half the shorter side of the picture at distance 1, at most 1."""
    if camera.lens.kind == "equirectangular":
        return 1.0
    return min(1.0, 0.5 * camera.width / float(camera.K[0, 0]), 0.5 * camera.height / float(camera.K[1, 1]))


def _within_reach(views: _Views, centre: np.ndarray, inner: float) -> float:
    distance = float(np.median(np.linalg.norm(views.centres - centre, axis=1)))
    return max(inner, 0.5 * distance / MAX_CAMERA_DISTANCE, 1e-9)


def _box_edge(views: _Views, cloud: _Cloud | None, centre: np.ndarray, inner: float, hints: FrameHints) -> int:
    if cloud is None and hints.is_object:
        return 1
    half = CAMERA_MARGIN * float(np.abs(views.centres - centre).max())
    if cloud is not None:
        half = max(half, float(np.quantile(np.abs(cloud.points - centre).max(-1), BOX_SHARE)))
    edge = 2 ** max(0, math.ceil(math.log2(half / inner) - 1e-9))
    return min(MAX_AABB_SCALE, edge if cloud is not None else max(edge, FALLBACK_AABB_SCALE))
