"""From a density to a surface: where to look, which threshold, marching cubes, and which pieces to keep."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..camera_paths import CropBox
from ..errors import UserError
from ..progress import Progress
from ..renderer import HasDensity
from .depth_views import DepthView, solid_and_empty

NEAR_VOXELS = 2.0
"""Voxels from the surfaces that the views see within which the density alone decides."""
COARSE = 4
"""Voxels per edge of the coarse cells in which surfaces are looked for."""
MARGIN_VOXELS = 3
BOUND_QUANTILE = 0.002
QUERY = 1 << 18
PROBES, PROBE_REACH, PROBE_STEPS = 4000, 4.0, 33
"""Points at which thresholds are tried, and how far before and behind each, in voxels, in how many steps."""
CANDIDATES, LOWEST_CANDIDATE, AS_GOOD = 48, 1e-3, 0.02
"""Thresholds that are tried, the lowest as a share of the highest, and a difference in voxels that does not matter."""
MAX_VOXELS = 2**31


@dataclass(frozen=True)
class Grid:
    """An oriented grid of sample points.

    Attributes:
        box: The box it fills, training frame.
        shape: Samples along the three axes of the box.
        voxel: Distance between neighbours, training units.
    """

    box: CropBox
    shape: tuple[int, int, int]
    voxel: float

    def points(self, index: Int[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
        """Training positions of samples, or of places between them."""
        local = index.double() * self.voxel - self.box.size / 2
        return (local @ self.box.rotation.T + self.box.center).float()

    def indices(self, x: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
        """Places of training positions, in voxels from the first sample."""
        return (((x.double() - self.box.center) @ self.box.rotation) + self.box.size / 2) / self.voxel


@dataclass(frozen=True)
class Surface:
    """A triangle mesh in the training frame.

    Attributes:
        vertices: Float32.
        faces: Indices of vertices; seen from outside they turn left.
    """

    vertices: Float[np.ndarray, "V 3"]
    faces: Int[np.ndarray, "F 3"]

    def normals(self) -> Float[np.ndarray, "V 3"]:
        """Unit normals of the vertices, each face counted by its area."""
        corners = self.vertices[self.faces].astype(np.float64)
        across = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        total = np.zeros((len(self.vertices), 3))
        for k in range(3):
            for axis in range(3):
                total[:, axis] += np.bincount(self.faces[:, k], across[:, axis], len(self.vertices))
        return (total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-30)).astype(np.float32)


@dataclass(frozen=True)
class Threshold:
    """A density at which the surface is drawn.

    Attributes:
        density: Per training unit.
        offset_voxels: Mean distance between this surface and where the renders see it, in voxels; None when given.
    """

    density: float
    offset_voxels: float | None


def make_grid(surface_points: Float[Tensor, "N 3"], crop: CropBox | None, resolution: int) -> Grid:
    """A grid over the crop box, or over where surfaces are seen within the inner cube of the training frame.

    Args:
        surface_points: What views see, training frame.
        crop: The box that was asked for, or None.
        resolution: Voxels along its longest edge.
    Raises:
        UserError: if there are no surface points, or the grid is too large.
    """
    if crop is None:
        inner = surface_points[(surface_points.abs() <= 0.5).all(1)].double()
        chosen = inner if len(inner) else surface_points.double()
        if len(chosen) == 0:
            raise UserError("no view shows a surface", fix="Train longer, or choose a larger crop box")
        low, high = (
            torch.from_numpy(np.quantile(chosen.numpy(), q, axis=0)) for q in (BOUND_QUANTILE, 1 - BOUND_QUANTILE)
        )
        voxel = float((high - low).max()) / resolution
        margin = 2 * COARSE * voxel
        identity = torch.eye(3, dtype=torch.float64)
        crop = CropBox((low + high) / 2, high - low + 2 * margin, identity)
    voxel = float(crop.size.max()) / resolution
    shape = [max(2, math.ceil(float(edge) / voxel)) + 1 for edge in crop.size]
    if math.prod(shape) > MAX_VOXELS:
        raise UserError(f"a grid of {math.prod(shape) / 1e9:.1f} billion voxels", fix="Choose a lower resolution")
    size = torch.tensor([(n - 1) * voxel for n in shape], dtype=torch.float64)
    return Grid(CropBox(crop.center, size, crop.rotation, crop.background), (shape[0], shape[1], shape[2]), voxel)


def near_surface(grid: Grid, surface_points: Float[Tensor, "N 3"]) -> Bool[np.ndarray, "X Y Z"]:
    """Samples near what the views see: only there is the density known, elsewhere nothing ever corrected it."""
    coarse_shape = [math.ceil(n / COARSE) for n in grid.shape]
    index = torch.floor(grid.indices(surface_points) / COARSE).long()
    inside = ((index >= 0) & (index < torch.tensor(coarse_shape))).all(1)
    cells = np.zeros(coarse_shape, bool)
    cells[tuple(index[inside].numpy().T)] = True
    for axis in range(3):  # and the neighbours of each
        padded = np.pad(cells, [(1, 1) if k == axis else (0, 0) for k in range(3)])
        before, after = (np.take(padded, range(s, s + cells.shape[axis]), axis) for s in (0, 2))
        cells = cells | before | after
    for axis in range(3):
        cells = cells.repeat(COARSE, axis)
    return cells[: grid.shape[0], : grid.shape[1], : grid.shape[2]]


def choose_threshold(
    field: HasDensity,
    positions: Float[Tensor, "N 3"],
    directions: Float[Tensor, "N 3"],
    voxel: float,
    generator: torch.Generator,
) -> Threshold:
    """The density whose surface lies where the renders see it.

    Along the rays that saw some of the surface points, each candidate's surface is where the density first exceeds it;
    the best candidate has the least mean distance to the points.

    Args:
        field: The density.
        positions: Surface points that views see.
        directions: Unit directions from which they were seen.
        voxel: Unit of the distances.
        generator: Picks the points.
    Raises:
        UserError: if the density is nowhere above zero.
    """
    chosen = torch.randperm(len(positions), generator=generator)[:PROBES]
    steps = torch.linspace(-PROBE_REACH, PROBE_REACH, PROBE_STEPS)
    x = positions[chosen, None] + (steps * voxel)[:, None] * directions[chosen, None]
    sigmas = _density(field, x.reshape(-1, 3)).reshape(len(chosen), -1).double()
    positive = sigmas[sigmas > 0]
    if len(positive) == 0:
        raise UserError("the density is zero where surfaces are seen", fix="Train longer")
    high = float(np.quantile(positive.numpy(), 0.98))
    levels = np.geomspace(high * LOWEST_CANDIDATE, high * (1 - 1e-6), CANDIDATES)
    offsets = []
    for level in levels:
        above = sigmas >= level
        first = torch.where(above.any(1), steps[above.to(torch.uint8).argmax(1)].abs(), 2 * PROBE_REACH)
        offsets.append(float(first.mean()))
    # Where the density leaps, many thresholds are as good: the middle one is farthest from where it stops being so.
    good = np.flatnonzero(np.array(offsets) <= min(offsets) + AS_GOOD)
    middle = int(good[len(good) // 2])
    return Threshold(float(levels[middle]), offsets[middle])


def extract_surface(
    field: HasDensity,
    grid: Grid,
    mask: Bool[np.ndarray, "X Y Z"],
    threshold: float,
    smoothing: float,
    views: list[DepthView],
    progress: Progress,
) -> Surface:
    """Marching cubes over the density near surfaces, smoothed by a Gaussian of so many voxels.

    What all views see a surface in front of counts as solid: fields are often hollow there, and a thin shell would not
    survive smoothing, nor should it be drawn from inside. What views look through is empty, whatever the field holds.

    What is drawn is the surface where one voxel is half opaque at the threshold: 1 - 2^(-density / threshold) = 1/2.
    That function stays between 0 and 1, so that the crossing between two samples is found well even where the density
    leaps by powers of ten.

    Raises:
        UserError: if nothing is denser than the threshold, or an optional package is missing.
    """
    try:
        from scipy.ndimage import binary_erosion
        from skimage.measure import marching_cubes
    except ImportError as error:
        raise missing_extra(error) from error

    volume = np.zeros(grid.shape, np.float32)
    places = torch.from_numpy(np.argwhere(mask))
    most = 0.0
    progress.stage("evaluating density", len(places))
    for start in range(0, len(places), QUERY):
        part = places[start : start + QUERY]
        x = grid.points(part)
        opacity = 1 - torch.exp2(-_density(field, x).double() / threshold)
        most = max(most, float(opacity.max()))
        is_solid, is_empty = solid_and_empty(x, views, NEAR_VOXELS * grid.voxel)
        opacity[is_solid], opacity[is_empty] = 1.0, 0.0
        volume[tuple(part.numpy().T)] = opacity.float().numpy()
        progress.advance(min(start + QUERY, len(places)))
    if smoothing > 0:
        volume = _smoothed(volume, mask, smoothing)
    if most < 0.5 or not (volume.min() < 0.5 < volume.max()):
        raise UserError(f"nothing is denser than the threshold {threshold:.3g}", fix="Choose a lower --threshold")
    try:
        # Only cubes whose corners all are known: beyond the mask the zeros are no empty space.
        known = binary_erosion(mask, np.ones((3, 3, 3)), border_value=1)
        vertices, faces, _, _ = marching_cubes(volume, 0.5, mask=known)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"no surface was found ({error})", fix="Choose another --threshold") from error
    return Surface(
        grid.points(torch.from_numpy(vertices.copy())).numpy(), np.ascontiguousarray(faces[:, ::-1], np.int64)
    )


def without_small_parts(surface: Surface, least_share: float) -> tuple[Surface, int]:
    """The connected parts that have at least this share of the faces of the largest; and how many were left out."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    n, f = len(surface.vertices), surface.faces
    edges = np.concatenate([f[:, [0, 1]], f[:, [1, 2]]])
    graph = coo_matrix((np.ones(len(edges), bool), (edges[:, 0], edges[:, 1])), shape=(n, n))
    _, part = connected_components(graph, directed=False)
    counts = np.bincount(part[f[:, 0]])
    large = counts >= least_share * counts.max()
    kept = compact(Surface(surface.vertices, f[large[part[f[:, 0]]]]))
    return kept, int(((counts > 0) & ~large).sum())


def decimated(surface: Surface, n_faces: int) -> Surface:
    """About so many faces, by collapsing the edges that matter least (quadric error)."""
    if n_faces >= len(surface.faces):
        return surface
    try:
        from fast_simplification import simplify
    except ImportError as error:
        raise missing_extra(error) from error
    vertices, faces = simplify(
        surface.vertices.astype(np.float32), surface.faces.astype(np.int32), target_count=n_faces
    )
    return compact(Surface(np.asarray(vertices, np.float32), np.asarray(faces, np.int64)))


def compact(surface: Surface) -> Surface:
    """Without vertices that no face uses."""
    used, inverse = np.unique(surface.faces, return_inverse=True)
    return Surface(surface.vertices[used], inverse.reshape(surface.faces.shape))


def missing_extra(error: ImportError) -> UserError:
    """Names the extra that brings a missing package."""
    return UserError(
        f"{error.name or error} is not installed", fix="Install it with: pip install 'nerfstudio-ext[mesh]'"
    )


def _smoothed(
    volume: Float[np.ndarray, "X Y Z"], mask: Bool[np.ndarray, "X Y Z"], sigma: float
) -> Float[np.ndarray, "X Y Z"]:
    """Means over the samples of the mask alone: what lies beyond it is unknown, not empty."""
    from scipy.ndimage import gaussian_filter

    weight = gaussian_filter(mask.astype(np.float32), sigma, truncate=3.0)
    total = gaussian_filter(np.where(mask, volume, 0), sigma, truncate=3.0)
    return np.where(mask, total / np.maximum(weight, 1e-6), 0).astype(np.float32)


def _density(field: HasDensity, x: Float[Tensor, "N 3"]) -> Float[Tensor, " N"]:
    with torch.no_grad():
        return torch.cat([field.density(part).cpu() for part in x.split(QUERY)])
