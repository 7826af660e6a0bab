"""From a camera to linear radiance per pixel."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from .baking import R2_U, R2_V, frame, hash_unit, in_threads
from .bvh import STACK_SIZE, hit
from .cameras import Lens
from .scene import Scene, baked_light, diffuse_radiance, grid_lookup, locate, picture

BAND = 16
"""Rows a thread renders at a time."""
MAX_HIGHLIGHT = 9.0
"""Cap of the radiance of a mirrored lamp: keeps highlights from swallowing the paint beneath."""


def render(scene: Scene, lens: Lens, pose: np.ndarray, n_samples: int, seed: int) -> np.ndarray:
    """Linear radiance [H,W,3]; pixels are weighted by a tent of two pixels' width, as a lens would blur."""
    out = np.zeros((lens.height, lens.width, 3))
    params = np.array([lens.focal, lens.cx, lens.cy, lens.k1, lens.k2])
    pose = np.ascontiguousarray(pose)

    def work(begin: int) -> None:
        _render(scene, pose, params, n_samples, seed, out, begin, min(begin + BAND, lens.height))

    in_threads(work, range(0, lens.height, BAND))
    return out


def trace_pixels(scene: Scene, lens: Lens, pose: np.ndarray, uv: np.ndarray) -> np.ndarray:
    """World points [N,3] seen at pixel positions `uv` [N,2] (centres at +0.5); NaN where nothing is."""
    params = np.array([lens.focal, lens.cx, lens.cy, lens.k1, lens.k2])
    return _trace_pixels(scene, np.ascontiguousarray(pose), params, np.asarray(uv, float))


@njit(cache=True)
def _pixel_ray(pose, params, x, y):
    """Unit direction in the world of a pixel position, undoing the lens by Newton's method on the radius."""
    focal, cx, cy, k1, k2 = params
    x, y = (x - cx) / focal, (y - cy) / focal
    bent = math.sqrt(x * x + y * y)
    r = bent
    for _ in range(8):
        s = r * r
        r -= (r * (1 + k1 * s + k2 * s * s) - bent) / (1 + 3 * k1 * s + 5 * k2 * s * s)
    factor = r / bent if bent > 1e-12 else 1.0
    x, y = x * factor, -y * factor
    norm = 1 / math.sqrt(x * x + y * y + 1)
    x, y, z = x * norm, y * norm, -norm
    return (
        pose[0, 0] * x + pose[0, 1] * y + pose[0, 2] * z,
        pose[1, 0] * x + pose[1, 1] * y + pose[1, 2] * z,
        pose[2, 0] * x + pose[2, 1] * y + pose[2, 2] * z,
    )


@njit(cache=True)
def _trace_pixels(scene, pose, params, uv):
    stack = np.empty(STACK_SIZE, np.int32)
    out = np.full((len(uv), 3), np.nan)
    for i in range(len(uv)):
        dx, dy, dz = _pixel_ray(pose, params, uv[i, 0], uv[i, 1])
        t, distance, _, _ = hit(scene.bvh, stack, pose[0, 3], pose[1, 3], pose[2, 3], dx, dy, dz, 1e9, False)
        if t >= 0:
            out[i, 0] = pose[0, 3] + distance * dx
            out[i, 1] = pose[1, 3] + distance * dy
            out[i, 2] = pose[2, 3] + distance * dz
    return out


@njit(cache=True)
def _tent(a):
    return math.sqrt(2 * a) - 1 if a < 0.5 else 1 - math.sqrt(2 - 2 * a)


@njit(cache=True, nogil=True)
def _render(scene, pose, params, n_samples, seed, out, begin, end):
    height, width = out.shape[:2]
    stack = np.empty(STACK_SIZE, np.int32)
    for row in range(begin, end):
        for column in range(width):
            pixel = (seed * height + row) * width + column
            s0, s1, s2, s3 = (hash_unit(pixel, 11), hash_unit(pixel, 12), hash_unit(pixel, 13), hash_unit(pixel, 14))
            red, green, blue = 0.0, 0.0, 0.0
            for i in range(n_samples):
                x = column + 0.5 + _tent((s0 + i * R2_U) % 1.0)
                y = row + 0.5 + _tent((s1 + i * R2_V) % 1.0)
                dx, dy, dz = _pixel_ray(pose, params, x, y)
                a, b = (s2 + i * 0.8191725134) % 1.0, (s3 + i * 0.6710436067) % 1.0
                r, g, b = _radiance(scene, stack, pose[0, 3], pose[1, 3], pose[2, 3], dx, dy, dz, a, b, i)
                red, green, blue = red + r, green + g, blue + b
            out[row, column, 0] = red / n_samples
            out[row, column, 1] = green / n_samples
            out[row, column, 2] = blue / n_samples


@njit(cache=True, fastmath=True)
def _radiance(scene, stack, ox, oy, oz, dx, dy, dz, a, b, number):
    """Baked diffuse light plus one rough mirror reflection of the surroundings."""
    t, distance, p, q = hit(scene.bvh, stack, ox, oy, oz, dx, dy, dz, 1e9, False)
    if t < 0:
        return 0.0, 0.0, 0.0
    patch, u, v = locate(scene, t, p, q)
    red, green, blue, metal = picture(scene, patch, u, v)
    material = scene.materials[scene.patch_material[patch]]
    if material[2] > 0:
        return red * material[2], green * material[2], blue * material[2]
    lr, lg, lb = baked_light(scene, patch, u, v)
    f0 = material[1]
    if f0 <= 0:
        return red * lr, green * lg, blue * lb
    nx, ny, nz = grid_lookup(scene, scene.normals, patch, u, v)
    length = 1 / math.sqrt(nx * nx + ny * ny + nz * nz + 1e-20)
    nx, ny, nz = nx * length, ny * length, nz * length
    cos_view = -(nx * dx + ny * dy + nz * dz)
    weight = 1.0
    if f0 < 0.1 and metal < 0.5 and cos_view > 0.45:
        # A weak reflection: every second ray looks for it, with twice the weight.
        if number & 1 == 0:
            matt = (1 - metal) * (1 - f0)
            return red * lr * matt, green * lg * matt, blue * lb * matt
        weight = 2.0
    rx, ry, rz, cos_half = _reflect(nx, ny, nz, dx, dy, dz, material[0], a, b)
    rise = nx * rx + ny * ry + nz * rz
    px, py, pz = ox + distance * dx + 4e-4 * nx, oy + distance * dy + 4e-4 * ny, oz + distance * dz + 4e-4 * nz
    mr, mg, mb = 0.0, 0.0, 0.0
    if rise > 1e-3:
        mr, mg, mb = diffuse_radiance(scene, stack, px, py, pz, rx, ry, rz, True)
    for k in range(len(scene.lights)):
        share = _mirrored(scene.lights[k], px, py, pz, nx, ny, nz, dx, dy, dz, material[0])
        if share > 2e-3 and _sees(scene, stack, scene.lights[k], px, py, pz, rx, ry, rz, a, b):
            mr += share * min(scene.lights[k, 9], MAX_HIGHLIGHT)
            mg += share * min(scene.lights[k, 10], MAX_HIGHLIGHT)
            mb += share * min(scene.lights[k, 11], MAX_HIGHLIGHT)
    grazing = (1 - cos_half) ** 5 * (1 - 0.7 * material[0])
    coat = f0 + (1 - f0) * grazing
    matt = (1 - metal) * (1 - coat)
    fr = coat * (1 - metal) + metal * (red + (1 - red) * grazing)
    fg = coat * (1 - metal) + metal * (green + (1 - green) * grazing)
    fb = coat * (1 - metal) + metal * (blue + (1 - blue) * grazing)
    mr, mg, mb = mr * weight, mg * weight, mb * weight
    return red * lr * matt + mr * fr, green * lg * matt + mg * fg, blue * lb * matt + mb * fb


@njit(cache=True, fastmath=True)
def _mirrored(light, px, py, pz, nx, ny, nz, dx, dy, dz, roughness):
    """Share of the reflection lobe that a flat light fills, taking the lobe as a bell: no noise, unlike sampling."""
    cos_view = -(nx * dx + ny * dy + nz * dz)
    rx, ry, rz = dx + 2 * cos_view * nx, dy + 2 * cos_view * ny, dz + 2 * cos_view * nz
    lx, ly, lz = light[0] - px, light[1] - py, light[2] - pz
    area = math.sqrt(light[12] ** 2 + light[13] ** 2 + light[14] ** 2)
    facing = -(rx * light[12] + ry * light[13] + rz * light[14]) / area
    ahead = -(lx * light[12] + ly * light[13] + lz * light[14]) / area
    if ahead <= 1e-3 or cos_view <= 1e-3:
        return 0.0
    reach = ahead / max(facing, 0.05)
    hx, hy, hz = rx * reach - lx, ry * reach - ly, rz * reach - lz
    # A micro-normal off by one slope unit turns the ray by twice that; GGX slopes spread by about alpha / sqrt 2.
    spread = 1.5 * roughness * roughness * reach
    share = 1.0
    for k in range(2):
        ex, ey, ez = light[3 + 3 * k], light[4 + 3 * k], light[5 + 3 * k]
        half = math.sqrt(ex * ex + ey * ey + ez * ez)
        at = (hx * ex + hy * ey + hz * ez) / half
        share *= 0.5 * (math.erf((half - at) / spread) + math.erf((half + at) / spread))
    return share * min(1.0, max(0.0, facing * 8))


@njit(cache=True, fastmath=True)
def _sees(scene, stack, light, px, py, pz, rx, ry, rz, a, b):
    """Whether the light is unblocked: along the sampled reflection where it meets the light, else at a random point."""
    lx, ly, lz = light[0] - px, light[1] - py, light[2] - pz
    facing = rx * light[12] + ry * light[13] + rz * light[14]
    reach = (lx * light[12] + ly * light[13] + lz * light[14]) / facing if abs(facing) > 1e-9 else -1.0
    s, t = 2.0, 2.0
    if reach > 0:
        hx, hy, hz = rx * reach - lx, ry * reach - ly, rz * reach - lz
        s = (hx * light[3] + hy * light[4] + hz * light[5]) / (light[3] ** 2 + light[4] ** 2 + light[5] ** 2)
        t = (hx * light[6] + hy * light[7] + hz * light[8]) / (light[6] ** 2 + light[7] ** 2 + light[8] ** 2)
    if abs(s) > 1 or abs(t) > 1:
        s, t = 1.4 * a - 0.7, 1.4 * b - 0.7
    lx, ly, lz = lx + s * light[3] + t * light[6], ly + s * light[4] + t * light[7], lz + s * light[5] + t * light[8]
    length = math.sqrt(lx * lx + ly * ly + lz * lz)
    found, _, _, _ = hit(scene.bvh, stack, px, py, pz, lx / length, ly / length, lz / length, length * 0.999, True)
    return found < 0


@njit(cache=True, fastmath=True)
def _reflect(nx, ny, nz, dx, dy, dz, roughness, a, b):
    """Mirror direction about a GGX visible micro-normal (Heitz 2018), and the cosine of half angle and view."""
    tx, ty, tz, bx, by, bz = frame(nx, ny, nz)
    alpha = roughness * roughness
    vx, vy = -(dx * tx + dy * ty + dz * tz), -(dx * bx + dy * by + dz * bz)
    vz = max(-(dx * nx + dy * ny + dz * nz), 1e-3)
    sx, sy, sz = alpha * vx, alpha * vy, vz
    length = 1 / math.sqrt(sx * sx + sy * sy + sz * sz)
    sx, sy, sz = sx * length, sy * length, sz * length
    flat = sx * sx + sy * sy
    ux, uy = (-sy / math.sqrt(flat), sx / math.sqrt(flat)) if flat > 1e-12 else (1.0, 0.0)
    wx, wy, wz = -sz * uy, sz * ux, sx * uy - sy * ux
    radius, angle = math.sqrt(a), 2 * math.pi * b
    p, q = radius * math.cos(angle), radius * math.sin(angle)
    s = 0.5 * (1 + sz)
    q = (1 - s) * math.sqrt(max(0.0, 1 - p * p)) + s * q
    rest = math.sqrt(max(0.0, 1 - p * p - q * q))
    hx, hy, hz = (
        alpha * (p * ux + q * wx + rest * sx),
        alpha * (p * uy + q * wy + rest * sy),
        max(1e-6, q * wz + rest * sz),
    )
    length = 1 / math.sqrt(hx * hx + hy * hy + hz * hz)
    hx, hy, hz = hx * length, hy * length, hz * length
    dot = max(vx * hx + vy * hy + vz * hz, 0.0)
    mx, my, mz = 2 * dot * hx - vx, 2 * dot * hy - vy, 2 * dot * hz - vz
    return (
        mx * tx + my * bx + mz * nx,
        mx * ty + my * by + mz * ny,
        mx * tz + my * bz + mz * nz,
        dot,
    )
