"""Pictures of scenes made of ellipsoids, boxes, cylinders and cones: textures, lamps with shadows, highlights.

Everything compiled is in this file: numba notices changes of a function's own file only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numba as nb
import numpy as np
from jaxtyping import Float, Int

from ..cameras import Camera

SPHERE, BOX, CYLINDER, CONE = range(4)
_FAR = 1e9
_BIAS = 1e-4
"""Shadow rays start this far above the surface, scene units."""


@dataclass(frozen=True)
class Solids:
    """N solids of unit size, each turned, stretched and moved.

    Attributes:
        kinds: SPHERE (radius 1), BOX (edges from -1 to 1), CYLINDER (radius 1, height -1 to 1) or CONE (tip at 1).
        centres: World positions.
        turns: World to local rotation.
        sizes: Stretch along the local axes, above 0.
        textures: Which texture.
        repeats: Texture widths per scene unit, roughly.
        tints: Factor on the texture's colour.
        gloss: Strength of highlights 0..1.
    """

    kinds: Int[np.ndarray, " N"]
    centres: Float[np.ndarray, "N 3"]
    turns: Float[np.ndarray, "N 3 3"]
    sizes: Float[np.ndarray, "N 3"]
    textures: Int[np.ndarray, " N"]
    repeats: Float[np.ndarray, " N"]
    tints: Float[np.ndarray, "N 3"]
    gloss: Float[np.ndarray, " N"]

    def __len__(self) -> int:
        return len(self.kinds)


@dataclass(frozen=True)
class World:
    """A scene that can be photographed.

    Attributes:
        solids: What is there.
        textures: [T,side,side,3] colours 0..1; they repeat mirrored.
        lamps: [L,6] position and colour; far ones are suns.
        ambient: Light from everywhere.
        background: Colour where a ray meets nothing.
        aabb_scale: Edge of the box that holds everything, scene units; 1 for a single object.
    """

    solids: Solids
    textures: Float[np.ndarray, "T side side 3"]
    lamps: Float[np.ndarray, "L 6"]
    ambient: Float[np.ndarray, "3"]
    background: Float[np.ndarray, "3"]
    aabb_scale: int


def photograph(world: World, camera: Camera, rays_per_side: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Take a picture.

    Args:
        world: The scene.
        camera: A pinhole camera.
        rays_per_side: A pixel is the mean over this many times this many rays.
    Returns:
        Colours [H,W,3] 0..1, and the distance along the ray through each pixel's first sub-pixel, `inf` where there is
        nothing.
    """
    K = camera.K.numpy()
    view = np.array([K[0, 0], K[1, 1], K[0, 2], K[1, 2], *camera.c2w.numpy().ravel()])
    s = world.solids
    radii = np.linalg.norm(s.sizes, axis=1)
    solids = (s.kinds, s.centres, s.turns, s.sizes, s.textures, s.repeats, s.tints, s.gloss, radii)
    out = np.empty((camera.height, camera.width, 3))
    depth = np.empty((camera.height, camera.width))
    light = (world.lamps, world.ambient, world.background)
    _photograph(solids, world.textures, light, view, rays_per_side, out, depth)
    return out, depth


@nb.njit(nogil=True, cache=True, error_model="numpy")
def _photograph(solids, textures, light, view, per_side, out, depth):
    fx, fy, cx, cy = view[0], view[1], view[2], view[3]
    pose = view[4:].reshape(3, 4)
    color = np.empty(3)
    for row in range(out.shape[0]):
        for column in range(out.shape[1]):
            red, green, blue = 0.0, 0.0, 0.0
            for i in range(per_side * per_side):
                x = (column + (i % per_side + 0.5) / per_side - cx) / fx
                y = (row + (i // per_side + 0.5) / per_side - cy) / fy
                over = 1 / math.sqrt(x * x + y * y + 1)
                x, y, z = x * over, y * over, over
                dx = pose[0, 0] * x + pose[0, 1] * y + pose[0, 2] * z
                dy = pose[1, 0] * x + pose[1, 1] * y + pose[1, 2] * z
                dz = pose[2, 0] * x + pose[2, 1] * y + pose[2, 2] * z
                t = _shade(solids, textures, light, pose[0, 3], pose[1, 3], pose[2, 3], dx, dy, dz, color)
                red, green, blue = red + color[0], green + color[1], blue + color[2]
                if i == 0:
                    depth[row, column] = t if t < _FAR else np.inf
            share = 1 / (per_side * per_side)
            out[row, column, 0] = min(red * share, 1.0)
            out[row, column, 1] = min(green * share, 1.0)
            out[row, column, 2] = min(blue * share, 1.0)


@nb.njit(nogil=True, error_model="numpy")
def _shade(solids, textures, light, ox, oy, oz, dx, dy, dz, color):
    """Colour of a ray into `color`; returns the distance."""
    lamps, ambient, background = light
    hit, t = _nearest(solids, ox, oy, oz, dx, dy, dz, _FAR, False)
    if hit < 0:
        for c in range(3):
            color[c] = background[c]
        return t
    _, _, _, _, texture_of, repeats, tints, gloss, _ = solids
    px, py, pz = ox + t * dx, oy + t * dy, oz + t * dz
    nx, ny, nz, u, v = _surface(solids, hit, px, py, pz)
    if nx * dx + ny * dy + nz * dz > 0:  # seen from inside, as the walls of a room are
        nx, ny, nz = -nx, -ny, -nz
    red, green, blue = _texel(textures[texture_of[hit]], u * repeats[hit], v * repeats[hit])
    red, green, blue = red * tints[hit, 0], green * tints[hit, 1], blue * tints[hit, 2]
    lr, lg, lb = ambient[0], ambient[1], ambient[2]
    shine = 0.0
    for k in range(len(lamps)):
        lx, ly, lz = lamps[k, 0] - px, lamps[k, 1] - py, lamps[k, 2] - pz
        distance = math.sqrt(lx * lx + ly * ly + lz * lz)
        lx, ly, lz = lx / distance, ly / distance, lz / distance
        facing = nx * lx + ny * ly + nz * lz
        if facing <= 0:
            continue
        sx, sy, sz = px + _BIAS * nx, py + _BIAS * ny, pz + _BIAS * nz
        blocker, _ = _nearest(solids, sx, sy, sz, lx, ly, lz, distance, True)
        if blocker >= 0:
            continue
        lr, lg, lb = lr + facing * lamps[k, 3], lg + facing * lamps[k, 4], lb + facing * lamps[k, 5]
        hx, hy, hz = lx - dx, ly - dy, lz - dz
        over = 1 / math.sqrt(hx * hx + hy * hy + hz * hz + 1e-12)
        shine += gloss[hit] * max(0.0, (nx * hx + ny * hy + nz * hz) * over) ** 40 * lamps[k, 4]
    color[0], color[1], color[2] = red * lr + shine, green * lg + shine, blue * lb + shine
    return t


@nb.njit(nogil=True, error_model="numpy")
def _nearest(solids, ox, oy, oz, dx, dy, dz, limit, is_any):
    """The solid a ray meets first before `limit` (with `is_any`: one of them), and where; -1 for none."""
    kinds, centres, turns, sizes, _, _, _, _, radii = solids
    best, t_best = -1, limit
    for i in range(len(kinds)):
        cx, cy, cz = centres[i, 0] - ox, centres[i, 1] - oy, centres[i, 2] - oz
        along = cx * dx + cy * dy + cz * dz
        room = radii[i] * radii[i] - (cx * cx + cy * cy + cz * cz - along * along)
        if room < 0 or along + math.sqrt(room) < 0:
            continue
        m = turns[i]
        a = -(m[0, 0] * cx + m[0, 1] * cy + m[0, 2] * cz) / sizes[i, 0]
        b = -(m[1, 0] * cx + m[1, 1] * cy + m[1, 2] * cz) / sizes[i, 1]
        c = -(m[2, 0] * cx + m[2, 1] * cy + m[2, 2] * cz) / sizes[i, 2]
        d = (m[0, 0] * dx + m[0, 1] * dy + m[0, 2] * dz) / sizes[i, 0]
        e = (m[1, 0] * dx + m[1, 1] * dy + m[1, 2] * dz) / sizes[i, 1]
        f = (m[2, 0] * dx + m[2, 1] * dy + m[2, 2] * dz) / sizes[i, 2]
        t = _meet(kinds[i], a, b, c, d, e, f)
        if 1e-6 < t < t_best:
            best, t_best = i, t
            if is_any:
                return best, t_best
    return best, t_best


@nb.njit(nogil=True, error_model="numpy")
def _meet(kind, a, b, c, d, e, f):
    """First distance above 0 at which a ray from (a, b, c) along (d, e, f) crosses the surface of a unit solid."""
    if kind == SPHERE:
        return _root(d * d + e * e + f * f, a * d + b * e + c * f, a * a + b * b + c * c - 1)
    if kind == BOX:
        near, far = -_FAR, _FAR
        for o, s in ((a, d), (b, e), (c, f)):
            over = 1 / s if s != 0 else 1e30
            first, second = (-1 - o) * over, (1 - o) * over
            near, far = max(near, min(first, second)), min(far, max(first, second))
        if near > far:
            return _FAR
        return near if near > 1e-6 else far
    best = _FAR
    if kind == CYLINDER:
        qa, qb, qc = d * d + e * e, a * d + b * e, a * a + b * b - 1
    else:  # radius (1 - z) / 2
        g, h = 0.5 * (1 - c), -0.5 * f
        qa, qb, qc = d * d + e * e - h * h, a * d + b * e - g * h, a * a + b * b - g * g
    inside = qb * qb - qa * qc
    if inside > 0 and abs(qa) > 1e-12:
        root = math.sqrt(inside)
        for sign in (-1.0, 1.0):
            t = (-qb + sign * root) / qa
            if 1e-6 < t < best and abs(c + t * f) <= 1:
                best = t
    if f != 0:
        for cap in (-1.0, 1.0):
            t = (cap - c) / f
            x, y = a + t * d, b + t * e
            radius = 1.0 if kind == CYLINDER else 0.5 * (1 - cap)
            if 1e-6 < t < best and x * x + y * y <= radius * radius:
                best = t
    return best


@nb.njit(nogil=True, error_model="numpy")
def _root(qa, qb, qc):
    inside = qb * qb - qa * qc
    if inside < 0:
        return _FAR
    root = math.sqrt(inside)
    t = (-qb - root) / qa
    return t if t > 1e-6 else (-qb + root) / qa if -qb + root > 0 else _FAR


@nb.njit(nogil=True, error_model="numpy")
def _surface(solids, i, px, py, pz):
    """World normal of a surface point, outward, and its place on the texture in scene units."""
    kinds, centres, turns, sizes, _, _, _, _, _ = solids
    m = turns[i]
    qx, qy, qz = px - centres[i, 0], py - centres[i, 1], pz - centres[i, 2]
    sa, sb, sc = sizes[i, 0], sizes[i, 1], sizes[i, 2]
    a = (m[0, 0] * qx + m[0, 1] * qy + m[0, 2] * qz) / sa
    b = (m[1, 0] * qx + m[1, 1] * qy + m[1, 2] * qz) / sb
    c = (m[2, 0] * qx + m[2, 1] * qy + m[2, 2] * qz) / sc
    around, girth = math.atan2(b, a), 0.5 * (sa + sb)
    u, v = around * girth, c * sc
    if kinds[i] == SPHERE:
        na, nb_, nc = a, b, c
    elif kinds[i] == BOX:
        na, nb_, nc = 0.0, 0.0, 0.0
        if abs(a) >= max(abs(b), abs(c)):
            na, u, v = a, b * sb, c * sc
        elif abs(b) >= abs(c):
            nb_, u, v = b, a * sa, c * sc
        else:
            nc, u, v = c, a * sa, b * sb
    elif abs(c) > 0.9999:
        na, nb_, nc = 0.0, 0.0, c
        u, v = a * sa, b * sb
    elif kinds[i] == CYLINDER:
        na, nb_, nc = a, b, 0.0
    else:
        na, nb_, nc = a, b, 0.25 * (1 - c)
    na, nb_, nc = na / sa, nb_ / sb, nc / sc
    nx = m[0, 0] * na + m[1, 0] * nb_ + m[2, 0] * nc
    ny = m[0, 1] * na + m[1, 1] * nb_ + m[2, 1] * nc
    nz = m[0, 2] * na + m[1, 2] * nb_ + m[2, 2] * nc
    over = 1 / math.sqrt(nx * nx + ny * ny + nz * nz + 1e-20)
    return nx * over, ny * over, nz * over, u, v


@nb.njit(nogil=True, error_model="numpy")
def _texel(texture, u, v):
    """Bilinear colour at (u, v) in texture widths; the texture repeats mirrored."""
    side = texture.shape[0]
    x, y = _mirrored(u) * (side - 1), _mirrored(v) * (side - 1)
    i, j = min(int(x), side - 2), min(int(y), side - 2)
    s, t = x - i, y - j
    w00, w10, w01, w11 = (1 - s) * (1 - t), s * (1 - t), (1 - s) * t, s * t
    a, b, c, d = texture[j, i], texture[j, i + 1], texture[j + 1, i], texture[j + 1, i + 1]
    return (
        w00 * a[0] + w10 * b[0] + w01 * c[0] + w11 * d[0],
        w00 * a[1] + w10 * b[1] + w01 * c[1] + w11 * d[1],
        w00 * a[2] + w10 * b[2] + w01 * c[2] + w11 * d[2],
    )


@nb.njit(nogil=True, error_model="numpy")
def _mirrored(x):
    x = 0.5 * x
    return 1 - abs(2 * (x - math.floor(x)) - 1)
