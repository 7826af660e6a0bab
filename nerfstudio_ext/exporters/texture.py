"""A texture for a mesh: unwrap it, find the surface point of every texel, look at it, fill the seams."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8

from ..progress import Progress
from ..renderer import RenderRays
from .ray_colors import colors_of
from .surface import Surface, missing_extra

CANDIDATES_AT_ONCE = 1 << 23
PADDING = 4
"""Texels between charts: filled with the nearest colour, so that smaller copies of the texture do not bleed."""


@dataclass(frozen=True)
class TexturedMesh:
    """A mesh whose vertices are cut along the seams of its texture.

    Attributes:
        vertices: Float32, training frame.
        normals: Unit normals.
        faces: Indices of vertices.
        uv: Place of each vertex in the picture, 0..1 from its lower left corner.
        picture: The texture, first row at the top.
        coverage: Share of the texels that show a part of the surface.
    """

    vertices: Float[np.ndarray, "V 3"]
    normals: Float[np.ndarray, "V 3"]
    faces: Int[np.ndarray, "F 3"]
    uv: Float[np.ndarray, "V 2"]
    picture: UInt8[np.ndarray, "H W 3"]
    coverage: float


def baked(surface: Surface, render_rays: RenderRays, voxel: float, size: int, progress: Progress) -> TexturedMesh:
    """Unwrap a surface and colour every texel by a ray onto it.

    Args:
        surface: Training frame.
        render_rays: The method's evaluation function.
        voxel: How far the surface may lie from where the method sees it.
        size: Width and height of the texture, texels.
        progress: Told about the stages.
    Raises:
        UserError: if the unwrapping package is missing.
    """
    try:
        import xatlas
    except ImportError as error:
        raise missing_extra(error) from error

    progress.stage(f"unwrapping {len(surface.faces)} faces")
    atlas = xatlas.Atlas()
    atlas.add_mesh(surface.vertices.astype(np.float32), surface.faces.astype(np.uint32))
    packing = xatlas.PackOptions()
    packing.resolution, packing.padding, packing.bilinear = size, PADDING, True
    # Without this it would search for the best place of every chart, which takes minutes.
    packing.bruteForce = False
    charts = xatlas.ChartOptions()
    charts.max_iterations = 1
    atlas.generate(chart_options=charts, pack_options=packing)
    origin, faces, uv = atlas[0]
    faces, uv = faces.astype(np.int64), uv.astype(np.float64)
    vertices, normals = surface.vertices[origin], surface.normals()[origin]
    texels, face_of, weights = covered_texels(uv[faces] * size, size)
    corners = faces[face_of]
    x = (vertices[corners] * weights[:, :, None]).sum(1)
    n = (normals[corners] * weights[:, :, None]).sum(1)
    n /= np.maximum(np.linalg.norm(n, axis=1, keepdims=True), 1e-12)
    to_tensor = torch.from_numpy
    rgb, known = colors_of(render_rays, to_tensor(x).float(), to_tensor(n).float(), voxel, progress)
    seen = known.numpy()
    flat = np.zeros((size * size, 3), np.float32)
    flat[texels[seen]] = rgb.numpy()[seen]
    is_filled = np.zeros(size * size, bool)
    is_filled[texels[seen]] = True
    picture = _spread(flat.reshape(size, size, 3), is_filled.reshape(size, size))
    # Texel rows grow with v; picture rows run from the top.
    pixels = (picture[::-1].clip(0, 1) * 255).round().astype(np.uint8)
    return TexturedMesh(vertices, normals, faces, uv.astype(np.float32), pixels, len(texels) / size**2)


def covered_texels(
    corners: Float[np.ndarray, "F 3 2"], size: int
) -> tuple[Int[np.ndarray, " T"], Int[np.ndarray, " T"], Float[np.ndarray, "T 3"]]:
    """Texels whose centre lies in a triangle: their place (row * size + column), the triangle, barycentric weights.

    Args:
        corners: Triangles in texels.
        size: Width and height of the texture.
    """
    low = np.floor(corners.min(1) - 0.5).astype(np.int64).clip(0, size - 1)
    high = np.ceil(corners.max(1) - 0.5).astype(np.int64).clip(0, size - 1)
    extent = high - low + 1
    counts = extent.prod(1)
    owner = np.full(size * size, -1, np.int64)
    weights_of = np.zeros((size * size, 3), np.float32)
    ends = np.cumsum(counts)
    start = 0
    while start < len(corners):
        base = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, base + CANDIDATES_AT_ONCE, "right")))
        chosen = np.arange(start, stop)
        face = np.repeat(chosen, counts[start:stop])
        within = np.arange(len(face)) - np.repeat(ends[start:stop] - counts[start:stop] - base, counts[start:stop])
        column = low[face, 0] + within % extent[face, 0]
        row = low[face, 1] + within // extent[face, 0]
        weights = _barycentric(corners[face], np.stack([column + 0.5, row + 0.5], 1))
        inside = (weights >= -1e-6).all(1)
        place = row[inside] * size + column[inside]
        owner[place], weights_of[place] = face[inside], weights[inside]
        start = stop
    texels = np.flatnonzero(owner >= 0)
    return texels, owner[texels], weights_of[texels]


def _barycentric(corners: Float[np.ndarray, "N 3 2"], p: Float[np.ndarray, "N 2"]) -> Float[np.ndarray, "N 3"]:
    a, b, c = corners[:, 0], corners[:, 1], corners[:, 2]
    area = _cross(b - a, c - a)
    safe = np.where(np.abs(area) < 1e-12, np.inf, area)
    v, w = _cross(p - a, c - a) / safe, _cross(b - a, p - a) / safe
    weights = np.stack([1 - v - w, v, w], 1)
    return np.where(np.isfinite(safe)[:, None], weights, -1.0)


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.asarray(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0])


def _spread(picture: Float[np.ndarray, "H W 3"], known: np.ndarray) -> Float[np.ndarray, "H W 3"]:
    """Every unknown texel in the colour of the nearest known one."""
    if known.all() or not known.any():
        return picture
    from scipy.ndimage import distance_transform_edt

    nearest = distance_transform_edt(~known, return_distances=False, return_indices=True)
    return np.asarray(picture[tuple(nearest)])
