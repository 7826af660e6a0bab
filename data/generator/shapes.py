"""Surfaces as grids of points: revolved profiles, swept tubes, boxes, cushions, sheets.

Every surface is a `Patch`: a grid of points with u along the columns and v along the rows. The same u, v
address its picture (texture) and its baked light, so one parametrisation serves modelling, painting and lighting.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

UvRect = tuple[float, float, float, float]
WHOLE: UvRect = (0.0, 1.0, 0.0, 1.0)


@dataclass
class Patch:
    """A piece of surface.

    Attributes:
        points: [V,U,3] grid in metres, z up.
        normals: [V,U,3] unit normals, pointing to the side that is seen.
        texture: Name of the picture on it.
        material: Name of the finish.
        uv: u of first and last column, v of first and last row in the picture (v = 0 is its top row).
        light_cell: Wanted spacing of the baked light in metres.
    """

    points: np.ndarray
    normals: np.ndarray
    texture: str
    material: str
    uv: UvRect = WHOLE
    light_cell: float = 0.004


def place(patches: Sequence[Patch], position: Sequence[float], turn_deg: float = 0.0, tilt: np.ndarray | None = None):
    """Turn all `patches` about z (after an optional rotation `tilt`), move them, and return them."""
    c, s = math.cos(math.radians(turn_deg)), math.sin(math.radians(turn_deg))
    rotation = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]])
    if tilt is not None:
        rotation = rotation @ tilt
    for patch in patches:
        patch.points = patch.points @ rotation.T + np.asarray(position, float)
        patch.normals = patch.normals @ rotation.T
    return list(patches)


def rotation_about(axis: Sequence[float], angle_deg: float) -> np.ndarray:
    """Rotation matrix [3,3] by Rodrigues' formula."""
    x, y, z = np.asarray(axis, float) / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    a = math.radians(angle_deg)
    return np.eye(3) + math.sin(a) * cross + (1 - math.cos(a)) * cross @ cross


def grid_normals(points: np.ndarray, closed_u: bool, outward: np.ndarray | None = None) -> np.ndarray:
    """Normals [V,U,3] of a grid by central differences; `outward` [V,U,3] settles the sign and the poles."""
    if closed_u:
        padded = np.concatenate([points[:, -2:-1], points, points[:, 1:2]], axis=1)
        along_u = padded[:, 2:] - padded[:, :-2]
    else:
        along_u = np.gradient(points, axis=1)
    along_v = np.gradient(points, axis=0)
    normals = np.cross(along_u, along_v)
    length = np.linalg.norm(normals, axis=-1, keepdims=True)
    weak = length[..., 0] < 1e-12
    normals = normals / np.maximum(length, 1e-12)
    if outward is not None:
        flip = np.sign(np.sum(normals * outward, axis=(0, 1)).sum())
        normals = normals * (flip if flip != 0 else 1.0)
    for row, column in zip(*np.nonzero(weak), strict=True):
        # At a pole the ring shrinks to a point: take the mean of the ring beside it.
        beside = row + 1 if row == 0 else row - 1
        mean = normals[beside].mean(axis=0)
        normals[row, column] = mean / max(np.linalg.norm(mean), 1e-12)
    return normals


def smooth_profile(knots: Sequence[Sequence[float]], n: int) -> np.ndarray:
    """Centripetal Catmull-Rom curve [n,D] through `knots`; a repeated knot makes a corner."""
    pts = np.asarray(knots, float)
    pieces = np.split(pts, [i + 1 for i in range(len(pts) - 1) if np.allclose(pts[i], pts[i + 1])])
    lengths = [float(np.linalg.norm(np.diff(p, axis=0), axis=1).sum()) for p in pieces]
    total = sum(lengths)
    out = []
    for piece, length in zip(pieces, lengths, strict=True):
        if len(piece) > 1:
            out.append(_catmull_rom(piece, max(3, round(n * length / total))))
    return np.concatenate(out)


def _catmull_rom(p: np.ndarray, n: int) -> np.ndarray:
    padded = np.concatenate([2 * p[:1] - p[1:2], p, 2 * p[-1:] - p[-2:-1]])
    knots = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(padded, axis=0), axis=1) ** 0.5 + 1e-9)])
    ts = np.linspace(knots[1], knots[-2], n)
    segment = np.clip(np.searchsorted(knots, ts, side="right") - 1, 1, len(p) - 1)
    t = ts[:, None]
    k0, k1, k2, k3 = (knots[segment + i][:, None] for i in (-1, 0, 1, 2))
    p0, p1, p2, p3 = (padded[segment + i] for i in (-1, 0, 1, 2))
    a1 = (k1 - t) / (k1 - k0) * p0 + (t - k0) / (k1 - k0) * p1
    a2 = (k2 - t) / (k2 - k1) * p1 + (t - k1) / (k2 - k1) * p2
    a3 = (k3 - t) / (k3 - k2) * p2 + (t - k2) / (k3 - k2) * p3
    b1 = (k2 - t) / (k2 - k0) * a1 + (t - k0) / (k2 - k0) * a2
    b2 = (k3 - t) / (k3 - k1) * a2 + (t - k1) / (k3 - k1) * a3
    return (k2 - t) / (k2 - k1) * b1 + (t - k1) / (k2 - k1) * b2


def revolve(
    profile: np.ndarray,
    texture: str,
    material: str,
    n_around: int = 96,
    shape: Callable[[np.ndarray], np.ndarray] | None = None,
    uv: UvRect = WHOLE,
    light_cell: float = 0.004,
) -> Patch:
    """Surface of revolution of `profile` [n,2] (radius, height), from its bottom outwards; v = 1 at its start.

    `shape` maps the angle to a factor of the radius (fluting). The outside is to the right of the profile.
    """
    angle = np.linspace(0, 2 * math.pi, n_around + 1)
    factor = np.ones_like(angle) if shape is None else shape(angle)
    profile = profile[::-1]
    x = profile[:, :1] * (np.cos(angle) * factor)
    y = profile[:, :1] * (np.sin(angle) * factor)
    z = np.repeat(profile[:, 1:], n_around + 1, axis=1)
    points = np.stack([x, y, z], axis=-1)
    points[:, -1] = points[:, 0]
    tangent = np.gradient(profile, axis=0)
    out = np.stack(
        [-tangent[:, 1:] * np.cos(angle), -tangent[:, 1:] * np.sin(angle), np.repeat(tangent[:, :1], len(angle), 1)], -1
    )
    corners = np.concatenate([[False], np.all(np.abs(np.diff(profile, axis=0)) < 1e-12, axis=1)])
    normals = out / np.maximum(np.linalg.norm(out, axis=-1, keepdims=True), 1e-12)
    if shape is not None:
        normals = grid_normals(points, True, outward=normals)
    elif corners.any():
        normals = _split_normals(profile, angle, corners)
    return Patch(points, normals, texture, material, uv, light_cell)


def _split_normals(profile: np.ndarray, angle: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Normals of a revolved profile whose repeated points are sharp corners."""
    tangent = np.empty_like(profile)
    starts = [0, *np.nonzero(corners)[0].tolist(), len(profile)]
    for begin, end in zip(starts[:-1], starts[1:], strict=True):
        tangent[begin:end] = np.gradient(profile[begin:end], axis=0) if end - begin > 1 else 0.0
    out = np.stack(
        [-tangent[:, 1:] * np.cos(angle), -tangent[:, 1:] * np.sin(angle), np.repeat(tangent[:, :1], len(angle), 1)], -1
    )
    return out / np.maximum(np.linalg.norm(out, axis=-1, keepdims=True), 1e-12)


def sweep(
    path: np.ndarray,
    radii: np.ndarray,
    texture: str,
    material: str,
    n_around: int = 24,
    side: Sequence[float] = (0.0, 0.0, 1.0),
    uv: UvRect = WHOLE,
    light_cell: float = 0.004,
) -> Patch:
    """Tube along `path` [n,3] with elliptic sections: `radii` [n,2] across `side` and along it."""
    tangent = np.gradient(path, axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    across = np.cross(tangent, np.asarray(side, float))
    across /= np.maximum(np.linalg.norm(across, axis=1, keepdims=True), 1e-9)
    along = np.cross(across, tangent)
    angle = np.linspace(0, 2 * math.pi, n_around + 1)
    ring_a = np.cos(angle)[None, :, None] * across[:, None]
    ring_b = np.sin(angle)[None, :, None] * along[:, None]
    points = path[:, None] + ring_a * radii[:, None, :1] + ring_b * radii[:, None, 1:]
    points[:, -1] = points[:, 0]
    normals = grid_normals(points, True, outward=points - path[:, None])
    return Patch(points, normals, texture, material, uv, light_cell)


def sheet(
    corner: Sequence[float],
    edge_u: Sequence[float],
    edge_v: Sequence[float],
    texture: str,
    material: str,
    uv: UvRect = WHOLE,
    light_cell: float = 0.01,
) -> Patch:
    """Flat parallelogram; u runs along `edge_u`, v along `edge_v`; it is seen from the side of edge_v x edge_u."""
    c, eu, ev = (np.asarray(x, float) for x in (corner, edge_u, edge_v))
    points = np.array([[c, c + eu], [c + ev, c + ev + eu]])
    normal = np.cross(ev, eu)
    normal /= np.linalg.norm(normal)
    return Patch(points, np.broadcast_to(normal, points.shape).copy(), texture, material, uv, light_cell)


def box(
    size: Sequence[float],
    textures: str | dict[str, str],
    material: str,
    uvs: dict[str, UvRect] | None = None,
    light_cell: float = 0.01,
    faces: str = "front back left right top bottom",
) -> list[Patch]:
    """Faces of a box standing on z = 0, centred in x and y; front looks to -y. Pictures are upright on the sides."""
    x, y, z = size[0] / 2, size[1] / 2, size[2]
    spans = {
        "front": ((-x, -y, z), (2 * x, 0, 0), (0, 0, -z)),
        "right": ((x, -y, z), (0, 2 * y, 0), (0, 0, -z)),
        "back": ((x, y, z), (-2 * x, 0, 0), (0, 0, -z)),
        "left": ((-x, y, z), (0, -2 * y, 0), (0, 0, -z)),
        "top": ((-x, y, z), (2 * x, 0, 0), (0, -2 * y, 0)),
        "bottom": ((-x, -y, 0), (2 * x, 0, 0), (0, 2 * y, 0)),
    }
    out = []
    for name in faces.split():
        corner, eu, ev = spans[name]
        texture = textures if isinstance(textures, str) else textures.get(name, textures["other"])
        uv = WHOLE if uvs is None else uvs.get(name, WHOLE)
        out.append(sheet(corner, eu, ev, texture, material, uv, light_cell))
    return out


def cushion(
    size: Sequence[float], texture: str, material: str, roundness: float = 0.35, n: int = 32, light_cell: float = 0.01
) -> Patch:
    """Superellipsoid of the given outer size, standing on z = 0: 1 is an ellipsoid, near 0 a box."""
    around = np.linspace(-math.pi, math.pi, 2 * n + 1)
    up = np.linspace(math.pi / 2, -math.pi / 2, n + 1)[:, None]

    def power(x: np.ndarray, e: float) -> np.ndarray:
        return np.sign(x) * np.abs(x) ** e

    x = power(np.cos(up), roundness) * power(np.cos(around), roundness)
    y = power(np.cos(up), roundness) * power(np.sin(around), roundness)
    z = np.broadcast_to(power(np.sin(up), roundness), x.shape)
    unit = np.stack([x, y, z], axis=-1)
    unit[:, -1] = unit[:, 0]
    half = np.asarray(size, float) / 2
    points = unit * half
    exponent = 2 / roundness - 1
    normals = np.sign(unit) * np.abs(unit) ** exponent / half
    normals /= np.maximum(np.linalg.norm(normals, axis=-1, keepdims=True), 1e-12)
    points[..., 2] += half[2]
    return Patch(points, normals, texture, material, WHOLE, light_cell)
