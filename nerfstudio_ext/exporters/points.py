"""Coloured points from rendered depth: works for every method. What several views agree on is a surface."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from ..camera_paths import CropBox
from ..cameras import Cameras
from ..errors import UserError
from ..progress import Progress, SilentProgress
from ..renderer import CancelToken, CanCrop, Renderer
from .depth_views import DepthView, render_depth_views
from .pictures import to_8bit, write_whole
from .placement import Placement, check_target, write_side_file
from .ply import ply_bytes

WITNESSES, MANY_WITNESSES = 8, 4
"""Nearest views that are asked about each point."""
FOOTPRINTS, SHARE_OF_DISTANCE = 2.0, 0.005
"""Two depths agree when they differ by less than so many pixels' widths, and this share of the distance."""
SURPLUS = 2.0
"""Points looked for per point wanted: some are refused, and thinning at random then evens out the views."""
CELL_FOOTPRINTS, FEWEST_NEIGHBOURS = 4.0, 6
"""A point is alone when the 27 cells around it, each so many pixels wide, hold fewer points than this."""
MAX_POINTS = 50_000_000


@dataclass(frozen=True)
class Points:
    """Surface points in the training frame.

    Attributes:
        positions: Where they are.
        normals: Unit normals towards the camera that saw them; zero where unknown.
        colors: 8 bits.
    """

    positions: Float[Tensor, "N 3"]
    normals: Float[Tensor, "N 3"]
    colors: UInt8[np.ndarray, "N 3"]

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: Tensor) -> Points:
        return Points(self.positions[index], self.normals[index], self.colors[index.numpy()])


@dataclass(frozen=True)
class PointOptions:
    """Settings of `export_points`.

    Attributes:
        n_points: Points wanted; fewer are written where the views do not show as many.
        remove_outliers: Leave out points that other views contradict and points that stand alone.
        crop: Only what lies in this box, training frame.
        seed: Seeds the choice of points.
        overwrite: Replace an existing file.
    """

    n_points: int = 1_000_000
    remove_outliers: bool = True
    crop: CropBox | None = None
    seed: int = 0
    overwrite: bool = False


def export_points(
    renderer: Renderer,
    cameras: Cameras,
    target: Path,
    options: PointOptions,
    placement: Placement,
    *,
    progress: Progress | None = None,
    cancel: CancelToken | None = None,
) -> int:
    """Write a coloured point cloud with normals as binary PLY, and `NAME.json` beside it; returns how many points.

    Args:
        renderer: The scene.
        cameras: Views to look from, training frame.
        target: The .ply file; it appears only when complete.
        options: What to write.
        placement: Frame of the file.
        progress: Told about every view.
        cancel: Stops the work.
    Raises:
        UserError: for a target that cannot be written, or when no surface is found.
        Cancelled: when `cancel` was set.
    """
    progress = progress or SilentProgress()
    check_target(target, (".ply",), overwrite=options.overwrite)
    if not 1 <= options.n_points <= MAX_POINTS:
        raise UserError(f"{options.n_points} points", fix=f"Choose 1 to {MAX_POINTS}")
    if options.crop is not None and isinstance(renderer, CanCrop):
        renderer = renderer.cropped(options.crop)  # looks through what stands before the box
    views = render_depth_views(renderer, cameras, int(SURPLUS * options.n_points), progress, cancel)
    points = fuse(views, remove_outliers=options.remove_outliers, progress=progress)
    if options.crop is not None:
        points = points[is_in_box(points.positions, options.crop).nonzero()[:, 0]]
    if len(points) == 0:
        raise UserError("no surface point is left", where=target, fix="Train longer, or choose a larger crop box")
    if len(points) > options.n_points:
        generator = torch.Generator().manual_seed(options.seed)
        chosen = torch.randperm(len(points), generator=generator)[: options.n_points]
        points = points[chosen.sort().values]
    change = placement.to_file
    positions, normals = change.points(points.positions.double()), change.directions(points.normals)
    content = ply_bytes(positions.numpy().astype(np.float32), normals.numpy().astype(np.float32), points.colors)
    write_whole(target, content)
    facts = {"kind": "points", "n_points": len(points), "n_views": len(views), "from": "rendered depth"}
    write_side_file(target, placement, facts)
    return len(points)


def fuse(views: list[DepthView], *, remove_outliers: bool, progress: Progress) -> Points:
    """All surface points of the views, without those that the views contradict among themselves."""
    progress.stage("comparing views", len(views))
    origins = torch.stack([view.camera.c2w[:, 3] for view in views])
    parts, widths = [], []
    for i, view in enumerate(views):
        positions, normals, rgb = view.surface()
        width = view.pixel_angle * (positions - view.camera.c2w[:, 3].float()).norm(dim=1)
        if remove_outliers and len(views) > 1:
            nearest = (origins - origins[i]).norm(dim=1).argsort().tolist()
            witnesses = [views[k] for k in nearest if k != i][:WITNESSES]
            kept = agreed(positions, witnesses)
            positions, normals, rgb, width = positions[kept], normals[kept], rgb[kept], width[kept]
        parts.append(Points(positions, normals, to_8bit(rgb[None])[0]))
        widths.append(width)
        progress.advance(i + 1)
    points = Points(
        torch.cat([part.positions for part in parts]),
        torch.cat([part.normals for part in parts]),
        np.concatenate([part.colors for part in parts]),
    )
    if remove_outliers and len(points) > FEWEST_NEIGHBOURS:
        cell = CELL_FOOTPRINTS * float(torch.cat(widths).median())
        points = points[(~are_alone(points.positions, cell)).nonzero()[:, 0]]
    return points


def agreed(x: Float[Tensor, "N 3"], witnesses: list[DepthView]) -> Bool[Tensor, " N"]:
    """Whether at least two of the witnesses (one, of few) see a surface at each point, and fewer look through it."""
    at, through = torch.zeros(len(x), dtype=torch.int64), torch.zeros(len(x), dtype=torch.int64)
    for view in witnesses:
        gap, inside = view.gaps(x)
        distance = (x - view.camera.c2w[:, 3].to(x)).norm(dim=1)
        tolerance = (FOOTPRINTS * view.pixel_angle + SHARE_OF_DISTANCE) * distance
        at += inside & (gap.abs() <= tolerance)
        through += inside & (gap > tolerance)
    return (at > through) & (at >= (2 if len(witnesses) >= MANY_WITNESSES else 1))


def are_alone(x: Float[Tensor, "N 3"], cell: float) -> Bool[Tensor, " N"]:
    """Whether the 27 grid cells around each point hold fewer than `FEWEST_NEIGHBOURS` points."""
    index = torch.floor((x.double() - x.double().amin(0)) / cell).long() + 1
    extent = index.amax(0) + 2
    keys = (index[:, 0] * extent[1] + index[:, 1]) * extent[2] + index[:, 2]
    cells, inverse, counts = torch.unique(keys, return_inverse=True, return_counts=True)
    total = torch.zeros_like(counts)
    steps = torch.tensor([-1, 0, 1])
    for shift in torch.cartesian_prod(steps, steps, steps):
        wanted = cells + (shift[0] * extent[1] + shift[1]) * extent[2] + shift[2]
        place = torch.searchsorted(cells, wanted).clamp_max(len(cells) - 1)
        total += torch.where(cells[place] == wanted, counts[place], 0)
    return (total < FEWEST_NEIGHBOURS)[inverse]


def is_in_box(x: Float[Tensor, "N 3"], box: CropBox) -> Bool[Tensor, " N"]:
    """Whether points lie in an oriented box."""
    local = (x.double() - box.center) @ box.rotation
    return (local.abs() <= box.size / 2).all(1)
