"""Bakes diffuse light into the nodes of every patch: direct light with soft shadows, then bounces.

The room does not move, so diffuse light is the same for all photos. It is computed once with many rays per
node, which makes the photos free of noise at a few rays per pixel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numba import config, njit

from .bvh import STACK_SIZE, hit
from .scene import Scene, diffuse_radiance, grid_lookup

OFFSET = 4e-4
"""Metres a ray starts above its surface: more than the sag of the finest grids, less than any contact shadow."""
R2_U, R2_V = 0.7548776662466927, 0.5698402909980532
"""Roberts' two-dimensional low-discrepancy sequence."""
CHUNK = 4096


def bake(scene: Scene, n_direct: int, n_gather: int, n_bounces: int, say: Callable[[str], None]) -> None:
    """Fill `scene.light`. Deterministic; the number of threads does not change the result."""
    direct = np.zeros_like(scene.light)
    _run(scene, direct, n_direct, True)
    scene.light[:] = direct
    say(f"direct light on {len(direct)} nodes")
    for bounce in range(n_bounces):
        indirect = np.zeros_like(direct)
        last = bounce == n_bounces - 1
        _run(scene, indirect, n_gather if last else max(n_gather // 4, 1), False)
        scene.light[:] = direct + indirect
        say(f"bounce {bounce + 1} of {n_bounces}")


def _run(scene: Scene, out: np.ndarray, n_samples: int, is_direct: bool) -> None:
    owner = np.repeat(np.arange(len(scene.nodes)), scene.nodes[:, 1] * scene.nodes[:, 2]).astype(np.int64)

    def work(begin: int) -> None:
        _bake_nodes(scene, owner, out, n_samples, is_direct, begin, min(begin + CHUNK, len(owner)))

    in_threads(work, range(0, len(owner), CHUNK))


def in_threads(work: Callable[[int], None], items: Iterable[int]) -> None:
    """Call `work` for every item on as many threads as NUMBA_NUM_THREADS allows; compiled code lets go of the lock."""
    with ThreadPoolExecutor(config.NUMBA_NUM_THREADS) as pool:
        for _ in pool.map(work, items):
            pass


@njit(cache=True)
def hash_unit(a: int, b: int) -> float:
    """A number in [0,1) that looks random, from two integers."""
    x = np.uint64(a) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(b) * np.uint64(0xC2B2AE3D27D4EB4F)
    x ^= x >> np.uint64(31)
    x *= np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(27)
    x *= np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return float(x >> np.uint64(11)) * (1.0 / 9007199254740992.0)


@njit(cache=True, nogil=True)
def _bake_nodes(scene, owner, out, n_samples, is_direct, begin, end):
    stack = np.empty(STACK_SIZE, np.int32)
    for node in range(begin, end):
        _bake_node(scene, stack, owner[node], node, out, n_samples, is_direct)


@njit(cache=True, fastmath=True)
def _bake_node(scene, stack, patch, node, out, n_samples, is_direct):
    start, nu, nv = scene.nodes[patch]
    row = (node - start) // nu
    # Nodes on a rim are pulled in a little, so that they do not lie inside the neighbouring face.
    u = min(max((node - start - row * nu) / (nu - 1), 0.02 / nu), 1 - 0.02 / nu)
    v = min(max(row / (nv - 1), 0.02 / nv), 1 - 0.02 / nv)
    px, py, pz = grid_lookup(scene, scene.points, patch, u, v)
    nx, ny, nz = grid_lookup(scene, scene.normals, patch, u, v)
    length = math.sqrt(nx * nx + ny * ny + nz * nz) + 1e-12
    nx, ny, nz = nx / length, ny / length, nz / length
    px, py, pz = px + nx * OFFSET, py + ny * OFFSET, pz + nz * OFFSET
    su, sv = hash_unit(node, 1), hash_unit(node, 2)
    if is_direct:
        for i in range(len(scene.lights)):
            r, g, b = _direct(scene, stack, scene.lights[i], px, py, pz, nx, ny, nz, su, sv, n_samples)
            out[node, 0] += r
            out[node, 1] += g
            out[node, 2] += b
    else:
        r, g, b = _gather(scene, stack, px, py, pz, nx, ny, nz, su, sv, n_samples)
        out[node, 0], out[node, 1], out[node, 2] = r, g, b


@njit(cache=True, fastmath=True)
def _direct(scene, stack, light, px, py, pz, nx, ny, nz, su, sv, n):
    """Irradiance / pi from one light."""
    total = 0.0
    for i in range(n):
        a, b = (su + i * R2_U) % 1.0, (sv + i * R2_V) % 1.0
        if light[15] > 0:
            radius, angle = math.sqrt(a), 2 * math.pi * b
            a, b = radius * math.cos(angle), radius * math.sin(angle)
        else:
            a, b = 2 * a - 1, 2 * b - 1
        x = light[0] + a * light[3] + b * light[6] - px
        y = light[1] + a * light[4] + b * light[7] - py
        z = light[2] + a * light[5] + b * light[8] - pz
        square = x * x + y * y + z * z
        cos_here = nx * x + ny * y + nz * z
        cos_there = -(light[12] * x + light[13] * y + light[14] * z)
        if cos_here <= 0 or cos_there <= 0:
            continue
        distance = math.sqrt(square)
        inverse = 1 / distance
        t, _, _, _ = hit(scene.bvh, stack, px, py, pz, x * inverse, y * inverse, z * inverse, distance * 0.999, True)
        if t < 0:
            total += cos_here * cos_there / (square * square)
    total /= n * math.pi
    return total * light[9], total * light[10], total * light[11]


@njit(cache=True, fastmath=True)
def frame(nx, ny, nz):
    """Two unit vectors orthogonal to a unit normal (Duff et al. 2017)."""
    sign = 1.0 if nz >= 0 else -1.0
    a = -1.0 / (sign + nz)
    b = nx * ny * a
    return 1.0 + sign * nx * nx * a, sign * b, -sign * nx, b, sign + ny * ny * a, -ny


@njit(cache=True, fastmath=True)
def _gather(scene, stack, px, py, pz, nx, ny, nz, su, sv, n):
    """Mean radiance over the cosine-weighted hemisphere: irradiance / pi."""
    tx, ty, tz, bx, by, bz = frame(nx, ny, nz)
    red, green, blue = 0.0, 0.0, 0.0
    for i in range(n):
        a, angle = (su + i * R2_U) % 1.0, 2 * math.pi * ((sv + i * R2_V) % 1.0)
        radius, height = math.sqrt(a), math.sqrt(1 - a)
        x, y = radius * math.cos(angle), radius * math.sin(angle)
        dx, dy, dz = x * tx + y * bx + height * nx, x * ty + y * by + height * ny, x * tz + y * bz + height * nz
        r, g, b = diffuse_radiance(scene, stack, px, py, pz, dx, dy, dz, True)
        red, green, blue = red + r, green + g, blue + b
    return red / n, green / n, blue / n
