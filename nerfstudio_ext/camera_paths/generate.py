"""Camera paths made from the cameras of a capture: orbit, spiral, interpolation, the views themselves."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..cameras import Camera, Cameras
from ..errors import UserError
from .curves import KeyCurve, distinct, quaternions_from_matrices, radian_weight
from .layout import Layout, Vector, layout_of, look_at, typical_camera
from .path import CameraPath, KeyView, check_size, frame_count

UP: Vector = (0.0, 0.0, 1.0)
FULL_LOOP_GAP_DEG = 150.0
"""A full turn is taken unless more than this is left unseen: beyond it the camera would show what no photo saw."""
MAX_ELEVATION_DEG = 65.0
"""Steeper orbits look like a spinning map."""
ARC_SHARE = 0.9
"""Share of the covered arc that is used: its very ends are seen by one photo only."""
MIN_ARC_DEG, MAX_ARC_TILT_DEG = 6.0, 5.0
KEYS_PER_LOOP = 12


def orbit(
    cameras: Cameras,
    *,
    seconds: float = 8.0,
    fps: float = 24.0,
    size: tuple[int, int] | None = None,
    fov_y_deg: float | None = None,
    sweep_deg: float | None = None,
    up: Vector = UP,
) -> CameraPath:
    """Turn around what the cameras look at, level, at their typical distance and height.

    A full loop where the cameras surround the subject; where they stand on one side of it, a gentle arc to and
    fro within what they saw (a note says so); where they look outwards, a turn on the spot.

    Args:
        cameras: Training cameras in the training frame.
        seconds: Length of the loop.
        fps: Frames per second.
        size: (width, height); None takes the size of most training cameras.
        fov_y_deg: Vertical field of view; None takes that of the training cameras.
        sweep_deg: Angle to sweep: 360 insists on the full turn, less is an arc to and fro; None decides as above.
        up: Upward direction of the training frame.
    Returns:
        A closed path: the last frame is one step before the first.
    Raises:
        UserError: without cameras, or for values out of range.
    """
    n = frame_count(seconds, fps)
    if sweep_deg is not None and not 0 < sweep_deg <= 360:
        raise UserError(f"an orbit of {sweep_deg} degrees", fix="Choose more than 0 and up to 360 degrees")
    layout = layout_of(cameras, up)
    template = _template(cameras, size, fov_y_deg)
    if layout.is_outward and sweep_deg is None:
        poses, note = _turn_in_place(layout, cameras, n)
    else:
        poses, note = _orbit_poses(layout, n, sweep_deg)
    return _path(template, poses, fps, "orbit", is_loop=True, notes=(note,) if note else ())


def spiral(
    cameras: Cameras,
    *,
    seconds: float = 8.0,
    fps: float = 24.0,
    size: tuple[int, int] | None = None,
    fov_y_deg: float | None = None,
    radius: float | None = None,
    turns: int = 2,
    up: Vector = UP,
) -> CameraPath:
    """Circle around one central view while moving in and out, always looking at the same point.

    The loop that LLFF and nerfstudio draw for forward-facing captures: offsets (cos a, sin a, sin(a / turns)) in
    the axes of the central camera.

    Args:
        cameras: Training cameras in the training frame.
        seconds: Length of the loop.
        fps: Frames per second.
        size: (width, height); None takes the size of most training cameras.
        fov_y_deg: Vertical field of view; None takes that of the training cameras.
        radius: Radius in training units; None covers most of the cameras' spread around the central one when the
            capture is forward-facing, else a tenth of the distance to the subject.
        turns: Circles per loop.
        up: Upward direction of the training frame.
    Raises:
        UserError: without cameras, or for values out of range.
    """
    n = frame_count(seconds, fps)
    if radius is not None and not (math.isfinite(radius) and radius > 0):
        raise UserError(f"a spiral of radius {radius}", fix="Choose a radius above 0")
    if turns < 1:
        raise UserError(f"a spiral of {turns} turns", fix="Choose at least 1 turn")
    layout = layout_of(cameras, up)
    c2w = cameras.c2w.numpy()
    central = c2w[_central(c2w)]
    distance = max(float((layout.center - central[:, 3]) @ central[:, 2]), 0.3 * layout.distance, 1e-6)
    target = central[:, 3] + distance * central[:, 2]
    radii = np.full(3, radius if radius is not None else 0.1 * distance)
    if radius is None and layout.is_forward_facing:
        offsets = np.abs((c2w[:, :, 3] - central[:, 3]) @ central[:, :3])
        radii = np.clip(np.quantile(offsets, 0.7, axis=0), 0.02 * distance, 0.25 * distance)
    angles = 2 * np.pi * turns * np.arange(n) / n
    local = np.stack([np.cos(angles), np.sin(angles), 0.5 * np.sin(angles / turns)], 1) * radii
    eyes = central[:, 3] + local @ central[:, :3].T
    # The central view's own upright, so a tilted capture is not levelled by force.
    poses = [look_at(eye, target, -central[:, 1]) for eye in eyes]
    return _path(_template(cameras, size, fov_y_deg), poses, fps, "spiral", is_loop=True)


def interpolate(
    views: Cameras,
    *,
    seconds: float | None = None,
    fps: float = 24.0,
    size: tuple[int, int] | None = None,
    is_loop: bool = False,
    order: bool = False,
) -> CameraPath:
    """Fly smoothly through given views at uniform speed.

    Args:
        views: The views to pass, in the training frame; equal neighbours count once.
        seconds: Length; None takes 0.8 s per view.
        fps: Frames per second.
        size: (width, height); None takes the size of most views.
        is_loop: Return to the first view at the end.
        order: Reorder the views to a short tour, starting at the first.
    Raises:
        UserError: for fewer than two different views, or values out of range.
    """
    picked = list(range(len(views)))
    if order and picked:
        picked = short_tour(views)
    chosen = views.select(picked)
    c2w = chosen.c2w.numpy()
    kept = distinct(c2w[:, :, 3], c2w[:, :, :3]) if len(chosen) else []
    if is_loop and len(kept) > 2 and len(distinct(c2w[[kept[-1], 0], :, 3], c2w[[kept[-1], 0], :, :3])) == 1:
        kept = kept[:-1]
    if len(kept) < 2:
        raise UserError(f"{len(kept)} different view(s) to interpolate", fix="Give at least two different views")
    chosen, c2w = chosen.select(kept), c2w[kept]
    n = frame_count(0.8 * (len(kept) - (0 if is_loop else 1)) if seconds is None else seconds, fps)
    template = _template(chosen, size, None)
    focals = [float(c.K[1, 1]) / min(c.width, c.height) for c in chosen if c.lens.kind != "equirectangular"]
    if len(focals) < len(chosen):
        focals = [float(template.K[1, 1]) / min(template.width, template.height)] * len(chosen)
    curve = KeyCurve(c2w[:, :, 3], c2w[:, :, :3], np.log(focals), is_loop=is_loop)
    cameras = sample_curve(curve, curve.uniform(n, with_end=not is_loop), template)
    keys = tuple(
        _key(dataclasses.replace(template, c2w=camera.c2w, K=_centred(template, focal)))
        for camera, focal in zip(chosen, focals, strict=True)
    )
    return CameraPath(Cameras(cameras), fps, "interpolation", is_loop=is_loop, keys=keys)


def from_views(
    cameras: Cameras, names: Sequence[str] | None = None, *, fps: float = 4.0, kind: str = "views"
) -> CameraPath:
    """The given views themselves, lens and size as they are (train and test views).

    Args:
        cameras: The views in the training frame.
        names: The image of each view; files are then named after them.
        fps: Frames per second if they are shown as a video.
        kind: What they are, for people.
    Raises:
        UserError: without views.
    """
    return CameraPath(cameras, fps, kind, names=tuple(names) if names is not None else None)


def sample_curve(curve: KeyCurve, u: Float[np.ndarray, " N"], template: Camera) -> list[Camera]:
    """Cameras at parameters of a curve, like `template` in size and lens."""
    positions, rotations, log_focals = curve.at(u)
    c2w = torch.from_numpy(np.concatenate([rotations, positions[:, :, None]], 2))
    return [
        dataclasses.replace(template, c2w=pose, K=_centred(template, math.exp(focal)))
        for pose, focal in zip(c2w, log_focals.tolist(), strict=True)
    ]


def short_tour(cameras: Cameras) -> list[int]:
    """An order of the views that always goes on to the nearest one left, rotation counted in, from the first."""
    c2w = cameras.c2w.numpy()
    positions, quaternions = c2w[:, :, 3], quaternions_from_matrices(c2w[:, :, :3])
    weight = radian_weight(positions, quaternions)
    tour, left = [0], list(range(1, len(positions)))
    while left:
        turned = 2 * np.arccos(np.clip(np.abs(quaternions[left] @ quaternions[tour[-1]]), 0, 1))
        moved = np.linalg.norm(positions[left] - positions[tour[-1]], axis=1)
        tour.append(left.pop(int(np.hypot(moved, weight * turned).argmin())))
    return tour


def _orbit_poses(layout: Layout, n: int, sweep_deg: float | None) -> tuple[list[Tensor], str]:
    limit = math.radians(MAX_ELEVATION_DEG)
    elevation = min(max(layout.elevation, -limit), limit)
    phases = 2 * np.pi * np.arange(n) / n
    note = ""
    if sweep_deg is None:
        sweep_deg = 360.0
        if math.degrees(layout.covered()[1]) < 360 - FULL_LOOP_GAP_DEG:
            sweep_deg = max(math.degrees(layout.supported(elevation)[1]) * ARC_SHARE, MIN_ARC_DEG)
            why = "all cameras look the same way" if layout.is_forward_facing else "the cameras stand on one side"
            note = f"orbit is an arc of {sweep_deg:.0f} degrees to and fro, not a full turn: {why}"
    if sweep_deg >= 360:
        # Starts where a photo was taken, so that the first frame is a good one.
        azimuths, elevations = layout.azimuths[0] + phases, np.full(n, elevation)
    else:
        middle, half = layout.supported(elevation)[0], math.radians(sweep_deg) / 2
        spread = 0.5 * float(np.subtract(*np.quantile(layout.elevations, [0.85, 0.15])))
        tilt = min(0.3 * half, spread, math.radians(MAX_ARC_TILT_DEG))
        azimuths, elevations = middle + half * np.sin(phases), elevation + tilt * np.cos(phases)
    eyes = [layout.point(a, e, max(layout.distance, 1e-6)) for a, e in zip(azimuths, elevations, strict=True)]
    return [look_at(eye, layout.center, layout.axes[2]) for eye in eyes], note


def _turn_in_place(layout: Layout, cameras: Cameras, n: int) -> tuple[list[Tensor], str]:
    eye = np.median(cameras.c2w.numpy()[:, :, 3], axis=0)
    forward = cameras.c2w.numpy()[0, :, 2] @ layout.axes.T
    start = math.atan2(forward[1], forward[0])
    around = dataclasses.replace(layout, center=eye)
    targets = [around.point(start + 2 * math.pi * i / n, layout.pitch, 1.0) for i in range(n)]
    note = "orbit turns on the spot: the cameras look outwards, not at a common point"
    return [look_at(eye, target, layout.axes[2]) for target in targets], note


def _central(c2w: Float[np.ndarray, "V 3 4"]) -> int:
    """The camera nearest to all others in position, among those that look most like the mean direction."""
    mean = c2w[:, :, 2].mean(0)
    alike = c2w[:, :, 2] @ mean
    candidates = np.flatnonzero(alike >= np.median(alike))
    spread = np.linalg.norm(c2w[candidates, None, :, 3] - c2w[None, :, :, 3], axis=-1).mean(1)
    return int(candidates[spread.argmin()])


def _template(cameras: Cameras, size: tuple[int, int] | None, fov_y_deg: float | None) -> Camera:
    if size is not None:
        check_size(*size)
    return typical_camera(cameras, size, fov_y_deg)


def _centred(template: Camera, focal: float) -> Float[Tensor, "3 3"]:
    """Intrinsics with that focal length in units of the shorter image side, principal point in the centre."""
    focal = focal * min(template.width, template.height)
    K = torch.eye(3, dtype=torch.float64)
    K[0, 0] = K[1, 1] = focal
    K[0, 2], K[1, 2] = template.width / 2, template.height / 2
    return K


def _key(camera: Camera) -> KeyView:
    fov = math.degrees(2 * math.atan(camera.height / (2 * float(camera.K[1, 1]))))
    return KeyView(camera.c2w, fov, camera.width / camera.height)


def _path(
    template: Camera, poses: list[Tensor], fps: float, kind: str, *, is_loop: bool, notes: tuple[str, ...] = ()
) -> CameraPath:
    cameras = [dataclasses.replace(template, c2w=pose) for pose in poses]
    keys = tuple(_key(c) for c in cameras[:: max(1, len(cameras) // KEYS_PER_LOOP)])
    return CameraPath(Cameras(cameras), fps, kind, is_loop=is_loop, notes=notes, keys=keys)
