"""A mesh of a scene: where views agree on surfaces, at the density the renders show, with the colours they show."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from ..camera_paths import CropBox
from ..cameras import Cameras
from ..errors import UserError
from ..progress import Progress, SilentProgress
from ..renderer import CancelToken, HasDensity, RayRenderer
from .depth_views import render_depth_views
from .mesh_files import MESH_SUFFIXES, write_colored, write_textured
from .pictures import to_8bit
from .placement import Placement, check_target, write_side_file
from .points import fuse
from .ray_colors import colors_of, filled
from .surface import (
    Surface,
    Threshold,
    choose_threshold,
    decimated,
    extract_surface,
    make_grid,
    near_surface,
    without_small_parts,
)
from .texture import TexturedMesh, baked

LOOK_POINTS = 400_000
"""Surface points that decide where the grid lies: many per coarse cell at the usual resolutions."""
SLOW_FACES = 300_000
MAX_TEXTURE = 16_384


@dataclass(frozen=True)
class MeshOptions:
    """Settings of `export_mesh`.

    Attributes:
        resolution: Voxels along the longest edge of the grid.
        threshold: Density per training unit of the surface; None finds the one that agrees with the renders.
        smoothing: Width of the Gaussian that smooths the surface, in voxels; 0 takes the density as it is.
        crop: Only what lies in this box, training frame; None takes where surfaces are seen.
        least_share: Connected parts with a smaller share of the largest part's faces are left out.
        n_faces: Collapse to about so many faces; None keeps all.
        colors: On the vertices, or as a texture.
        texture_size: Width and height of the texture.
        seed: Seeds the choice of points at which thresholds are tried.
        overwrite: Replace existing files.
    """

    resolution: int = 256
    threshold: float | None = None
    smoothing: float = 0.7
    crop: CropBox | None = None
    least_share: float = 0.002
    n_faces: int | None = None
    colors: Literal["vertex", "texture"] = "vertex"
    texture_size: int = 2048
    seed: int = 0
    overwrite: bool = False


@dataclass(frozen=True)
class MeshReport:
    """What was written.

    Attributes:
        files: The mesh first.
        n_vertices: Of the written mesh.
        n_faces: Likewise.
        threshold: The density of the surface, and how it agrees with the renders.
        voxel: Edge of a voxel in units of the file.
        n_parts_left_out: Connected parts that were too small.
    """

    files: list[Path]
    n_vertices: int
    n_faces: int
    threshold: Threshold
    voxel: float
    n_parts_left_out: int


def export_mesh(
    renderer: RayRenderer,
    field: object,
    cameras: Cameras,
    target: Path,
    options: MeshOptions,
    placement: Placement,
    *,
    progress: Progress | None = None,
    cancel: CancelToken | None = None,
) -> MeshReport:
    """Write a mesh as .ply, .glb or .obj, and `NAME.json` beside it.

    Args:
        renderer: The scene.
        field: What has its density.
        cameras: Views that decide what is a surface, training frame.
        target: The file.
        options: What to write.
        placement: Frame of the file.
        progress: Told about the stages.
        cancel: Stops the rendering of the views.
    Raises:
        UserError: for a method without density, a request that cannot end well, or when no surface is found.
        Cancelled: when `cancel` was set.
    """
    progress = progress or SilentProgress()
    if not isinstance(field, HasDensity):
        raise UserError(
            "this method has no density to draw a surface of", fix="Use `nsx export points`, made from depth"
        )
    _check(target, options)
    if options.crop is not None:
        renderer = renderer.cropped(options.crop)
    views = render_depth_views(renderer, cameras, LOOK_POINTS, progress, cancel)
    points = fuse(views, remove_outliers=True, progress=progress)
    grid = make_grid(points.positions, options.crop, options.resolution)
    threshold = Threshold(options.threshold or 0.0, None)
    if options.threshold is None:
        generator = torch.Generator().manual_seed(options.seed)
        threshold = choose_threshold(field, points.positions, -points.normals, grid.voxel, generator)
    mask = near_surface(grid, points.positions)
    surface = extract_surface(field, grid, mask, threshold.density, options.smoothing, views, progress)
    surface, n_left_out = without_small_parts(surface, options.least_share)
    if options.n_faces is not None:
        surface = decimated(surface, options.n_faces)
    files, n_vertices = _write(renderer, surface, grid.voxel, target, options, placement, progress)
    report = MeshReport(
        files, n_vertices, len(surface.faces), threshold, grid.voxel * placement.to_file.scale, n_left_out
    )
    write_side_file(target, placement, _facts(report, options))
    return report


def _check(target: Path, options: MeshOptions) -> None:
    check_target(target, MESH_SUFFIXES, overwrite=options.overwrite)
    if not 8 <= options.resolution <= 2048:
        raise UserError(f"a resolution of {options.resolution}", fix="Choose 8 to 2048 voxels")
    if options.threshold is not None and not 0 < options.threshold < float("inf"):
        raise UserError(f"a threshold of {options.threshold:g}", fix="Choose a density above 0, or leave it out")
    if not 0 <= options.smoothing <= 8:
        raise UserError(f"smoothing over {options.smoothing:g} voxels", fix="Choose 0 to 8")
    if not 0 <= options.least_share <= 1:
        raise UserError(f"a least share of {options.least_share:g}", fix="Choose 0 to 1")
    if options.n_faces is not None and options.n_faces < 4:
        raise UserError(f"{options.n_faces} faces", fix="Choose at least 4")
    if options.colors == "texture" and target.suffix.lower() == ".ply":
        raise UserError("a PLY file holds no texture", where=target, fix="Use .glb or .obj, or colours on the vertices")
    if not 16 <= options.texture_size <= MAX_TEXTURE:
        raise UserError(f"a texture of {options.texture_size} texels", fix=f"Choose 16 to {MAX_TEXTURE}")


def _write(
    renderer: RayRenderer,
    surface: Surface,
    voxel: float,
    target: Path,
    options: MeshOptions,
    placement: Placement,
    progress: Progress,
) -> tuple[list[Path], int]:
    change = placement.to_file

    def place(x: np.ndarray) -> np.ndarray:
        return change.points(torch.from_numpy(x).double()).numpy().astype(np.float32)

    def turn(n: np.ndarray) -> np.ndarray:
        return change.directions(torch.from_numpy(n).double()).numpy().astype(np.float32)

    if options.colors == "texture":
        if len(surface.faces) > SLOW_FACES:
            progress.warn(f"unwrapping {len(surface.faces)} faces takes long; fewer faces or a lower resolution help")
        mesh = baked(surface, renderer.render_rays, voxel, options.texture_size, progress)
        placed = TexturedMesh(
            place(mesh.vertices), turn(mesh.normals), mesh.faces, mesh.uv, mesh.picture, mesh.coverage
        )
        return write_textured(target, placed), len(placed.vertices)
    x, normals = torch.from_numpy(surface.vertices), surface.normals()
    rgb, known = colors_of(renderer.render_rays, x, torch.from_numpy(normals), voxel, progress)
    colors = to_8bit(torch.from_numpy(filled(rgb, known, x))[None])[0]
    return write_colored(target, place(surface.vertices), turn(normals), colors, surface.faces), len(x)


def _facts(report: MeshReport, options: MeshOptions) -> dict[str, object]:
    return {
        "kind": "mesh",
        "files": [file.name for file in report.files],
        "n_vertices": report.n_vertices,
        "n_faces": report.n_faces,
        "density_threshold": report.threshold.density,
        "threshold_was_chosen": options.threshold is None,
        "offset_from_renders_voxels": report.threshold.offset_voxels,
        "voxel": report.voxel,
        "smoothing_voxels": options.smoothing,
        "parts_left_out": report.n_parts_left_out,
        "colors": options.colors,
    }
