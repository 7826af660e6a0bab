"""Flat arrays of a modelled room, as the tracer wants them, and the questions asked of them by a ray."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numba import njit

from .bvh import Bvh, build_bvh, hit
from .shapes import Patch


@dataclass(frozen=True)
class Finish:
    """How a surface answers light: `roughness` and `f0` of its coat (f0 = 0: none), own radiance `emit` x picture.

    `is_light` marks emitters that are listed as `Light` too; gathered light then skips them.
    """

    roughness: float = 1.0
    f0: float = 0.0
    emit: float = 0.0
    is_light: bool = False


@dataclass(frozen=True)
class Light:
    """Flat one-sided emitter: parallelogram centre +- edges, or the ellipse inside it; `radiance` is linear RGB."""

    centre: tuple[float, float, float]
    edge_u: tuple[float, float, float]
    edge_v: tuple[float, float, float]
    radiance: tuple[float, float, float]
    is_round: bool = False


class Scene(NamedTuple):
    """Everything compiled code needs; shapes: T triangles, G grid points, P patches, M light nodes, K materials."""

    bvh: Bvh
    tri_patch: np.ndarray  # [T] in tree order
    tri_cell: np.ndarray  # [T] 2 * (row * columns + column) + half
    points: np.ndarray  # [G,3]
    normals: np.ndarray  # [G,3]
    grid: np.ndarray  # [P,3] first point, columns, rows
    uv: np.ndarray  # [P,4]
    nodes: np.ndarray  # [P,3] first light node, nodes along u, along v
    patch_texture: np.ndarray  # [P]
    patch_material: np.ndarray  # [P]
    texels: np.ndarray  # [E,4] linear RGB and metal share, float32
    texture: np.ndarray  # [X,3] first texel, width, height
    materials: np.ndarray  # [K,4] roughness, f0, emit, is_light
    lights: np.ndarray  # [L,16] centre, edge_u, edge_v, radiance, area x normal, round
    light: np.ndarray  # [M,3] baked irradiance / pi


def assemble(
    patches: list[Patch],
    textures: dict[str, np.ndarray],
    finishes: dict[str, Finish],
    lights: list[Light],
    light_scale: float = 1.0,
) -> Scene:
    """Pack the model; `light_scale` > 1 makes the baked light coarser (for quick looks)."""
    texture_number = {name: i for i, name in enumerate(textures)}
    finish_number = {name: i for i, name in enumerate(finishes)}
    sizes = [(t.shape[1], t.shape[0]) for t in textures.values()]
    starts = np.cumsum([0] + [w * h for w, h in sizes])
    texture = np.array([(s, w, h) for s, (w, h) in zip(starts[:-1], sizes, strict=True)], np.int64)
    grid, nodes, n_points, n_nodes = [], [], 0, 0
    for patch in patches:
        rows, columns = patch.points.shape[:2]
        grid.append((n_points, columns, rows))
        n_points += rows * columns
        nu, nv = light_resolution(patch, light_scale)
        nodes.append((n_nodes, nu, nv))
        n_nodes += nu * nv
    triangles, tri_patch, tri_cell = _triangulate(patches)
    bvh = build_bvh(triangles)
    return Scene(
        bvh=bvh,
        tri_patch=tri_patch[bvh.order],
        tri_cell=tri_cell[bvh.order],
        points=np.concatenate([p.points.reshape(-1, 3) for p in patches]),
        normals=np.concatenate([p.normals.reshape(-1, 3) for p in patches]),
        grid=np.array(grid, np.int64),
        uv=np.array([p.uv for p in patches], float),
        nodes=np.array(nodes, np.int64),
        patch_texture=np.array([texture_number[p.texture] for p in patches], np.int64),
        patch_material=np.array([finish_number[p.material] for p in patches], np.int64),
        texels=np.concatenate([t.reshape(-1, 4) for t in textures.values()]).astype(np.float32),
        texture=texture,
        materials=np.array([(f.roughness, f.f0, f.emit, float(f.is_light)) for f in finishes.values()]),
        lights=np.array([_light_row(light) for light in lights]),
        light=np.zeros((n_nodes, 3), np.float32),
    )


def light_resolution(patch: Patch, light_scale: float) -> tuple[int, int]:
    """Light nodes along u and v (at least 2 each), from the mean extent of the grid."""
    width = np.linalg.norm(np.diff(patch.points, axis=1), axis=-1).sum(axis=1).max()
    height = np.linalg.norm(np.diff(patch.points, axis=0), axis=-1).sum(axis=0).max()
    cell = patch.light_cell * light_scale
    return max(2, round(width / cell) + 1), max(2, round(height / cell) + 1)


def _light_row(light: Light) -> list[float]:
    normal = np.cross(light.edge_u, light.edge_v) * (np.pi if light.is_round else 4.0)
    return [*light.centre, *light.edge_u, *light.edge_v, *light.radiance, *normal.tolist(), float(light.is_round)]


def _triangulate(patches: list[Patch]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    triangles, owners, cells = [], [], []
    for number, patch in enumerate(patches):
        p = patch.points
        a, b, c, d = p[:-1, :-1], p[:-1, 1:], p[1:, :-1], p[1:, 1:]
        # Half 0 has its right angle at (u, v), half 1 at (u + 1, v + 1).
        halves = np.stack([np.stack([a, b, c], axis=2), np.stack([d, c, b], axis=2)], axis=2)
        triangles.append(halves.reshape(-1, 3, 3))
        owners.append(np.full(len(triangles[-1]), number, np.int32))
        cells.append(np.arange(len(triangles[-1]), dtype=np.int32))
    soup = np.concatenate(triangles)
    area = np.linalg.norm(np.cross(soup[:, 1] - soup[:, 0], soup[:, 2] - soup[:, 0]), axis=1)
    solid = area > 1e-12
    return soup[solid], np.concatenate(owners)[solid], np.concatenate(cells)[solid]


@njit(cache=True, fastmath=True)
def locate(scene, triangle, a, b):
    """Patch and its (u, v) in [0,1] for barycentrics a, b of a triangle (tree position)."""
    patch = scene.tri_patch[triangle]
    columns, rows = scene.grid[patch, 1] - 1, scene.grid[patch, 2] - 1
    cell = scene.tri_cell[triangle]
    if cell & 1:
        a, b = 1.0 - a, 1.0 - b
    cell >>= 1
    row = cell // columns
    return patch, (cell - row * columns + a) / columns, (row + b) / rows


@njit(cache=True, fastmath=True)
def grid_lookup(scene, values, patch, u, v):
    """Bilinear value (three numbers) of a per-grid-point array at (u, v) of a patch."""
    start, columns, rows = scene.grid[patch]
    x, y = u * (columns - 1), v * (rows - 1)
    i, j = min(int(x), columns - 2), min(int(y), rows - 2)
    x, y = x - i, y - j
    p = start + j * columns + i
    q = p + columns
    w00, w01, w10, w11 = (1 - x) * (1 - y), x * (1 - y), (1 - x) * y, x * y
    return (
        w00 * values[p, 0] + w01 * values[p + 1, 0] + w10 * values[q, 0] + w11 * values[q + 1, 0],
        w00 * values[p, 1] + w01 * values[p + 1, 1] + w10 * values[q, 1] + w11 * values[q + 1, 1],
        w00 * values[p, 2] + w01 * values[p + 1, 2] + w10 * values[q, 2] + w11 * values[q + 1, 2],
    )


@njit(cache=True, fastmath=True)
def baked_light(scene, patch, u, v):
    """Baked irradiance / pi at (u, v) of a patch, bilinear between nodes."""
    start, nu, nv = scene.nodes[patch]
    light = scene.light
    x, y = u * (nu - 1), v * (nv - 1)
    i, j = min(int(x), nu - 2), min(int(y), nv - 2)
    x, y = x - i, y - j
    p = start + j * nu + i
    q = p + nu
    w00, w01, w10, w11 = (1 - x) * (1 - y), x * (1 - y), (1 - x) * y, x * y
    return (
        w00 * light[p, 0] + w01 * light[p + 1, 0] + w10 * light[q, 0] + w11 * light[q + 1, 0],
        w00 * light[p, 1] + w01 * light[p + 1, 1] + w10 * light[q, 1] + w11 * light[q + 1, 1],
        w00 * light[p, 2] + w01 * light[p + 1, 2] + w10 * light[q, 2] + w11 * light[q + 1, 2],
    )


@njit(cache=True, fastmath=True)
def picture(scene, patch, u, v):
    """Linear red, green, blue and metal share of the patch's picture; it repeats outside 0..1."""
    uv = scene.uv[patch]
    start, width, height = scene.texture[scene.patch_texture[patch]]
    x = (uv[0] + (uv[1] - uv[0]) * u) * width - 0.5
    y = (uv[2] + (uv[3] - uv[2]) * v) * height - 0.5
    i, j = int(np.floor(x)), int(np.floor(y))
    x, y = x - i, y - j
    i0, i1 = i % width, (i + 1) % width
    p, q = start + (j % height) * width, start + ((j + 1) % height) * width
    t = scene.texels
    w00, w01, w10, w11 = (1 - x) * (1 - y), x * (1 - y), (1 - x) * y, x * y
    return (
        w00 * t[p + i0, 0] + w01 * t[p + i1, 0] + w10 * t[q + i0, 0] + w11 * t[q + i1, 0],
        w00 * t[p + i0, 1] + w01 * t[p + i1, 1] + w10 * t[q + i0, 1] + w11 * t[q + i1, 1],
        w00 * t[p + i0, 2] + w01 * t[p + i1, 2] + w10 * t[q + i0, 2] + w11 * t[q + i1, 2],
        w00 * t[p + i0, 3] + w01 * t[p + i1, 3] + w10 * t[q + i0, 3] + w11 * t[q + i1, 3],
    )


@njit(cache=True, fastmath=True)
def diffuse_radiance(scene, stack, ox, oy, oz, dx, dy, dz, gathering):
    """Radiance along a ray when every surface is taken as matt; `gathering` skips listed lights."""
    t, _, a, b = hit(scene.bvh, stack, ox, oy, oz, dx, dy, dz, 1e9, False)
    if t < 0:
        return 0.0, 0.0, 0.0
    patch, u, v = locate(scene, t, a, b)
    nx, ny, nz = grid_lookup(scene, scene.normals, patch, u, v)
    if nx * dx + ny * dy + nz * dz > 0.2:
        # The back of a closed body: only reached from inside.
        return 0.0, 0.0, 0.0
    red, green, blue, _ = picture(scene, patch, u, v)
    material = scene.materials[scene.patch_material[patch]]
    if material[2] > 0:
        if gathering and material[3] > 0:
            return 0.0, 0.0, 0.0
        return red * material[2], green * material[2], blue * material[2]
    lr, lg, lb = baked_light(scene, patch, u, v)
    return red * lr, green * lg, blue * lb
