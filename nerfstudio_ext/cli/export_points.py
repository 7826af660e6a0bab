"""`nsx export points`: a coloured point cloud."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import ClassVar

from .console import Output, clock
from .crops import WithCropSettings, crop_box
from .exporting import GeometryOptions, opening


@dataclass(frozen=True)
class ExportPointsOptions(WithCropSettings, GeometryOptions):
    """Options of `nsx export points`."""

    command: ClassVar[str] = "export points"
    summary: ClassVar[str] = "Write coloured points with normals as PLY, from depth that several views agree on."

    n_points: int = 1_000_000
    """Points to write; fewer where the views do not show as many."""

    remove_outliers: bool = True
    """Leave out points that other views contradict, and points that stand alone."""

    seed: int = 0
    """Seeds the choice among the points found."""


def options_for(argv: list[str]) -> tuple[type[ExportPointsOptions], list[str]]:
    """One kind of options."""
    return ExportPointsOptions, argv


def run(options: ExportPointsOptions, out: Output) -> None:
    """Write the points and say where."""
    opened = opening(options, "points", "points.ply")

    from ..exporters.points import PointOptions, export_points
    from ..scenes.viewpoints import viewpoints
    from .render import world_to_training

    run, meta = opened.run, opened.run.meta
    box = crop_box(options.crop_settings, world_to_training(meta.frame, opened.world), meta.background)
    settings = PointOptions(options.n_points, options.remove_outliers, box, options.seed, options.overwrite)
    began = time.perf_counter()
    with out.progress() as progress:
        cameras = viewpoints(meta)
        n = export_points(
            run.renderer(), cameras, opened.target, settings, opened.placement, progress=progress
        )  # fmt: skip
    seconds, n_bytes = time.perf_counter() - began, opened.target.stat().st_size
    out.say(f"{opened.target}: {n} points, {n_bytes / 1e6:.1f} MB, in {clock(seconds)}")
    out.result({"run": run.path, "step": run.step, "output": opened.target, "points": n, "bytes": n_bytes,
                "placement": opened.placement.to_json(), "seconds": round(seconds, 3)})  # fmt: skip
