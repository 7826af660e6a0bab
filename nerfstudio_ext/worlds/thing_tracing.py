"""Pictures of single things made of few solids whose back follows a rule; everything compiled is in this file.

The rule: what looks away from the front (the positive x axis) has another hue, a third of the circle further on, and
stripes run on around the body. One picture of the front does not tell it.
"""

from __future__ import annotations

import math

import numba as nb
import numpy as np
from jaxtyping import Float

ELLIPSOID, BOX, CYLINDER, CONE, ROOF, RING = range(6)
HUE_SHIFT_DEG = 120.0
"""Hue of the back minus hue of the front."""
_STEPS, _NEAR_ENOUGH = 48, 5e-4
_LIGHT = (0.36, 0.48, 0.8)
"""Direction to the soft light, fixed in the world: it comes from above, the front and the left."""


def photograph_thing(
    parts: Float[np.ndarray, "P 7"],
    colors: Float[np.ndarray, "3"],
    intrinsics: Float[np.ndarray, "4"],
    c2w: Float[np.ndarray, "3 4"],
    side: int,
    rays_per_side: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Take a square picture.

    Args:
        parts: Kind, centre and half sizes of each solid; half sizes of a ring are radius, thickness and unused.
        colors: Hue of the front in degrees, stripe phase in radians, saturation.
        intrinsics: (fx, fy, cx, cy) in pixels.
        c2w: Camera to world, OpenCV axes.
        side: Of the picture, pixels.
        rays_per_side: A pixel is the mean over so many times so many rays.
    Returns:
        [side,side,4] premultiplied colours and opacity, and the mean distance along the rays that hit, inf elsewhere.
    """
    out, depth = np.empty((side, side, 4)), np.empty((side, side))
    _photograph(parts, colors, intrinsics, np.ascontiguousarray(c2w), rays_per_side, out, depth)
    return out, depth


def thing_distances(parts: Float[np.ndarray, "P 7"], x: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, " N"]:
    """Signed distances (bounds of them) of points from the surface; negative inside."""
    out = np.empty(len(x))
    _distances(parts, np.ascontiguousarray(x, dtype=np.float64), out)
    return out


@nb.njit(nogil=True, cache=True, error_model="numpy")
def _distances(parts, x, out):
    for i in range(len(x)):
        out[i] = _distance(parts, x[i, 0], x[i, 1], x[i, 2])


@nb.njit(nogil=True, cache=True, error_model="numpy")
def _photograph(parts, colors, intrinsics, c2w, per_side, out, depth):
    fx, fy, cx, cy = intrinsics
    rgb = np.empty(3)
    for row in range(out.shape[0]):
        for column in range(out.shape[1]):
            r, g, b, hits, length = 0.0, 0.0, 0.0, 0, 0.0
            for i in range(per_side * per_side):
                u = (column + (i % per_side + 0.5) / per_side - cx) / fx
                v = (row + (i // per_side + 0.5) / per_side - cy) / fy
                t = _shoot(parts, colors, c2w, u, v, rgb)
                if t >= 0:
                    r, g, b, hits, length = r + rgb[0], g + rgb[1], b + rgb[2], hits + 1, length + t
            n = per_side * per_side
            out[row, column, 0], out[row, column, 1], out[row, column, 2] = r / n, g / n, b / n
            out[row, column, 3] = hits / n
            depth[row, column] = length / hits if hits else np.inf


@nb.njit(nogil=True, cache=True, error_model="numpy")
def _shoot(parts, colors, c2w, u, v, rgb):
    """Distance along one ray and the colour it meets; -1 where it meets nothing."""
    dx = c2w[0, 0] * u + c2w[0, 1] * v + c2w[0, 2]
    dy = c2w[1, 0] * u + c2w[1, 1] * v + c2w[1, 2]
    dz = c2w[2, 0] * u + c2w[2, 1] * v + c2w[2, 2]
    length = math.sqrt(dx * dx + dy * dy + dz * dz)
    dx, dy, dz = dx / length, dy / length, dz / length
    ox, oy, oz = c2w[0, 3], c2w[1, 3], c2w[2, 3]
    # Everything lies in the ball around the cube of edge 1.
    along = -(ox * dx + oy * dy + oz * dz)
    inside = 0.75 - (ox * ox + oy * oy + oz * oz - along * along)
    if inside <= 0:
        return -1.0
    t, end = max(along - math.sqrt(inside), 0.0), along + math.sqrt(inside)
    for _ in range(_STEPS):
        d = _distance(parts, ox + t * dx, oy + t * dy, oz + t * dz)
        if d < _NEAR_ENOUGH:
            _color(parts, colors, ox + t * dx, oy + t * dy, oz + t * dz, rgb)
            return t
        t += d
        if t > end:
            return -1.0
    return -1.0


@nb.njit(nogil=True, cache=True, error_model="numpy")
def _color(parts, colors, x, y, z, rgb):
    h = 1e-3
    nx = _distance(parts, x + h, y, z) - _distance(parts, x - h, y, z)
    ny = _distance(parts, x, y + h, z) - _distance(parts, x, y - h, z)
    nz = _distance(parts, x, y, z + h) - _distance(parts, x, y, z - h)
    size = math.sqrt(nx * nx + ny * ny + nz * nz) + 1e-12
    nx, ny, nz = nx / size, ny / size, nz / size
    # From the front and a little above, what looks away by more than a quarter is hidden: the photo shows one hue only.
    away = min(max((-nx - 0.28) / 0.2, 0.0), 1.0)
    away = away * away * (3 - 2 * away)
    light = 0.62 + 0.38 * max(0.0, nx * _LIGHT[0] + ny * _LIGHT[1] + nz * _LIGHT[2])
    stripes = 0.86 + 0.14 * math.sin(3 * math.atan2(y, x) + 14 * z + colors[1])
    value = 0.95 * light * stripes
    for channel in range(3):
        front = _channel(colors[0], channel, colors[2])
        back = _channel(colors[0] + HUE_SHIFT_DEG, channel, colors[2])
        rgb[channel] = value * (front + away * (back - front))


@nb.njit(nogil=True, cache=True, error_model="numpy")
def _channel(hue_deg, channel, saturation):
    """Red, green or blue of a hue at full value."""
    k = (hue_deg / 60.0 + (5.0, 3.0, 1.0)[channel]) % 6.0
    return 1.0 - saturation * max(0.0, min(k, min(4.0 - k, 1.0)))


@nb.njit(nogil=True, cache=True, error_model="numpy")
def _distance(parts, x, y, z):
    nearest = 10.0
    for i in range(parts.shape[0]):
        nearest = min(nearest, _part_distance(parts, i, x, y, z))
    return nearest


@nb.njit(nogil=True, cache=True, error_model="numpy")
def _part_distance(parts, i, x, y, z):
    kind = int(parts[i, 0])
    x, y, z = x - parts[i, 1], y - parts[i, 2], z - parts[i, 3]
    a, b, c = parts[i, 4], parts[i, 5], parts[i, 6]
    if kind == ELLIPSOID:
        k0 = math.sqrt((x / a) ** 2 + (y / b) ** 2 + (z / c) ** 2)
        k1 = math.sqrt((x / a**2) ** 2 + (y / b**2) ** 2 + (z / c**2) ** 2)
        return k0 * (k0 - 1.0) / k1 if k1 > 1e-9 else -min(a, min(b, c))
    if kind == BOX:
        return _box(abs(x) - a, abs(y) - b, abs(z) - c)
    if kind == CYLINDER:
        k0 = math.sqrt((x / a) ** 2 + (y / b) ** 2)
        return _flat(((k0 - 1.0) * min(a, b)), abs(z) - c)
    if kind == CONE:
        # Radius falls from 1 at the foot to 0 at the tip; the slant face as a plane in (radius, height).
        k0 = math.sqrt((x / a) ** 2 + (y / b) ** 2) * min(a, b)
        foot, height = min(a, b), 2 * c
        slant = (k0 * height + (z + c) * foot - foot * height) / math.sqrt(height**2 + foot**2)
        return max(slant, -z - c)
    if kind == ROOF:
        # Ridge along y at height +c over eaves at -c.
        slant = (abs(x) * 2 * c + (z + c) * a - 2 * a * c) / math.sqrt(4 * c * c + a * a)
        return max(max(slant, -z - c), abs(y) - b)
    # A ring that stands in the plane of y and z.
    q = math.sqrt(y * y + z * z) - a
    return math.sqrt(q * q + x * x) - b


@nb.njit(nogil=True, cache=True, error_model="numpy")
def _box(x, y, z):
    outside = math.sqrt(max(x, 0.0) ** 2 + max(y, 0.0) ** 2 + max(z, 0.0) ** 2)
    return outside + min(max(x, max(y, z)), 0.0)


@nb.njit(nogil=True, cache=True, error_model="numpy")
def _flat(radial, axial):
    outside = math.sqrt(max(radial, 0.0) ** 2 + max(axial, 0.0) ** 2)
    return outside + min(max(radial, axial), 0.0)
