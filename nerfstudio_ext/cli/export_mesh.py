"""`nsx export mesh`: a surface with colours or a texture."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from .console import Output, clock
from .crops import WithCropSettings, crop_box
from .exporting import GeometryOptions, opening

if TYPE_CHECKING:
    from ..training.runs import OpenedRun


@dataclass(frozen=True)
class ExportMeshOptions(WithCropSettings, GeometryOptions):
    """Options of `nsx export mesh`."""

    command: ClassVar[str] = "export mesh"
    summary: ClassVar[str] = "Write a surface as .ply or .obj or .glb, where views agree that there is one."

    resolution: int = 256
    """Voxels along the longest edge; the grid covers the crop box, or where surfaces are seen."""

    threshold: float | None = None
    """Density at which the surface is drawn, per training unit (default: the one that agrees with the renders)."""

    smoothing: float = 0.7
    """Width of the Gaussian that smooths the surface, in voxels: fields are noisy from voxel to voxel; 0 takes them as
    they are."""

    least_share: float = 0.002
    """Leave out connected parts with less than this share of the largest part's faces; 0 keeps everything."""

    faces: int | None = None
    """Collapse the mesh to about so many faces (default: keep all)."""

    colors: Literal["vertex", "texture"] | None = None
    """Colours on the vertices, or as a texture (default: texture for .glb and .obj, vertices for .ply)."""

    texture_size: int = 2048
    """Width and height of the texture."""

    seed: int = 0
    """Seeds the choice of points at which thresholds are tried."""


def options_for(argv: list[str]) -> tuple[type[ExportMeshOptions], list[str]]:
    """One kind of options."""
    return ExportMeshOptions, argv


def run(options: ExportMeshOptions, out: Output) -> None:
    """Write the mesh and say where."""
    opened = opening(options, "mesh", "mesh.glb")

    from ..exporters.mesh import MeshOptions, export_mesh
    from ..scenes.viewpoints import viewpoints
    from .render import world_to_training

    run, meta = opened.run, opened.run.meta
    box = crop_box(options.crop_settings, world_to_training(meta.frame, opened.world), meta.background)
    colors = options.colors or ("vertex" if opened.target.suffix.lower() == ".ply" else "texture")
    settings = MeshOptions(
        options.resolution, options.threshold, options.smoothing, box, options.least_share, options.faces, colors,
        options.texture_size, options.seed, options.overwrite,
    )  # fmt: skip
    began = time.perf_counter()
    with out.progress() as progress:
        cameras = viewpoints(meta)
        report = export_mesh(
            run.renderer(), density_of(run), cameras, opened.target, settings, opened.placement, progress=progress
        )
    seconds, n_bytes = time.perf_counter() - began, sum(file.stat().st_size for file in report.files)
    offset = report.threshold.offset_voxels
    chosen = "as given" if offset is None else f"chosen: {offset:.2f} voxels from where the renders see the surface"
    out.say(f"density threshold {report.threshold.density:.4g} ({chosen}); voxels of {report.voxel:.4g}")
    if report.n_parts_left_out:
        out.say(f"{report.n_parts_left_out} small parts were left out (--least-share)")
    out.say(
        f"{opened.target}: {report.n_vertices} vertices, {report.n_faces} faces, {n_bytes / 1e6:.1f} MB, "
        f"in {clock(seconds)}"
    )
    out.result({"run": run.path, "step": run.step, "output": opened.target, "files": report.files, "bytes": n_bytes,
                "vertices": report.n_vertices, "faces": report.n_faces, "threshold": report.threshold.density,
                "offset_voxels": offset, "voxel": report.voxel, "placement": opened.placement.to_json(),
                "seconds": round(seconds, 3)})  # fmt: skip


def density_of(run: OpenedRun) -> object:
    """What has the density of a run: its method, or the one beneath a mark."""
    from ..methods.marked import Marked

    return run.method.base if isinstance(run.method, Marked) else run.method
