"""The depth pictures that points and meshes are made from."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..cameras import Camera, Cameras
from ..errors import UserError
from ..normals import normals_from_depth
from ..progress import Progress
from ..renderer import CancelToken, Renderer

MAX_VIEWS = 100
"""More views than this see the same surfaces again."""
MIN_SIDE = 48
SURVEY_SIDE = 48
MAX_WITNESSES, WITNESSES_OF_SPACE = 40, 2
DEEPEST = 8.0
"""What lies deeper behind a surface, in units of where the inside begins, may be in the shadow behind a thing."""
LEAST_FACING = 0.1
"""Cosine between a surface and the ray that sees it; a lower one is more likely an edge."""
SOLID_ALPHA = 0.5
"""A pixel more transparent than this shows no surface."""


@dataclass(frozen=True)
class DepthView:
    """One rendered view.

    Attributes:
        camera: Where it was rendered from.
        rgb: Colours 0..1.
        depth: Ray length, training units, `inf` where no surface is seen.
    """

    camera: Camera
    rgb: Float[Tensor, "H W 3"]
    depth: Float[Tensor, "H W"]

    def surface(self) -> tuple[Float[Tensor, "P 3"], Float[Tensor, "P 3"], Float[Tensor, "P 3"]]:
        """Positions, normals and colours of the pixels that show a surface, training frame.

        Pixels at the edges of things are left out: their depth lies between what is before and what is behind.
        """
        rays = self.camera.rays()
        normals = normals_from_depth(self.depth, self.camera).reshape(-1, 3)
        seen = self.depth.isfinite().flatten() & ((normals * rays.rays_d).sum(1) < -LEAST_FACING)
        rays = rays[seen]
        positions = rays.rays_o + self.depth.flatten()[seen, None] * rays.rays_d
        return positions, normals[seen], self.rgb.reshape(-1, 3)[seen]

    def gaps(self, x: Float[Tensor, "N 3"]) -> tuple[Float[Tensor, " N"], Bool[Tensor, " N"]]:
        """How far behind each point the view sees, in ray length, and whether the point is in the picture.

        Negative where a surface hides the point, about 0 on the surface, `inf` where the view sees nothing.
        """
        uv, depth_z = self.camera.project(x)
        column, row = uv[:, 0].floor().long(), uv[:, 1].floor().long()
        inside = (column >= 0) & (column < self.camera.width) & (row >= 0) & (row < self.camera.height)
        if self.camera.lens.kind != "equirectangular":
            inside &= depth_z > 0
        distance = (x - self.camera.c2w[:, 3].to(x)).norm(dim=1)
        found = self.depth[row.clamp(0, self.camera.height - 1), column.clamp(0, self.camera.width - 1)]
        return found - distance, inside

    @property
    def pixel_angle(self) -> float:
        """Angle that a pixel in the middle spans, radians."""
        if self.camera.lens.kind == "equirectangular":
            return math.pi / self.camera.height
        return 1 / float(self.camera.K[1, 1])


def render_depth_views(
    renderer: Renderer,
    cameras: Cameras,
    n_points: int,
    progress: Progress,
    cancel: CancelToken | None = None,
) -> list[DepthView]:
    """Render the cameras at the size that gives about so many surface points in all.

    Args:
        renderer: The scene.
        cameras: Training cameras in the training frame; of many, evenly picked ones are used.
        n_points: Surface points wanted over all views.
        progress: Told about every view.
        cancel: Stops the work.
    Raises:
        UserError: without cameras, or if no view shows a surface.
    """
    if len(cameras) == 0:
        raise UserError("no cameras to look from", fix="Use a run with training images")
    picked = np.unique(np.linspace(0, len(cameras) - 1, min(len(cameras), MAX_VIEWS)).round().astype(int)).tolist()
    chosen = [cameras[i] for i in picked]
    looks = [_view(renderer, _sized(camera, SURVEY_SIDE**2), cancel) for camera in chosen[:: max(1, len(chosen) // 6)]]
    share = float(np.mean([float(look.depth.isfinite().float().mean()) for look in looks]))
    if share == 0:
        raise UserError("no view shows a surface", fix="Train longer, or choose a larger crop box")
    per_view = n_points / (len(chosen) * max(share, 0.02))
    progress.stage(f"rendering depth of {len(chosen)} views", len(chosen))
    views = []
    for i, camera in enumerate(chosen):
        views.append(_view(renderer, _sized(camera, per_view), cancel))
        progress.advance(i + 1)
    return views


def _view(renderer: Renderer, camera: Camera, cancel: CancelToken | None) -> DepthView:
    frame = renderer.render(camera, cancel=cancel)
    depth, rgb = frame.depth, frame.rgb
    if frame.alpha is not None:
        depth = torch.where(frame.alpha > SOLID_ALPHA, depth, torch.inf)
        behind = torch.tensor(renderer.background, dtype=rgb.dtype)
        alpha = frame.alpha[..., None].clamp_min(SOLID_ALPHA)
        rgb = ((rgb - (1 - alpha) * behind) / alpha).clamp(0, 1)
    return DepthView(camera, rgb, depth)


def _sized(camera: Camera, pixels: float) -> Camera:
    """The camera with about so many pixels, never more than it has."""
    scale = min(1.0, math.sqrt(pixels / (camera.width * camera.height)))
    scale = max(scale, min(1.0, MIN_SIDE / min(camera.width, camera.height)))
    return camera.resize(max(1, round(scale * camera.width)), max(1, round(scale * camera.height)))


def solid_and_empty(
    x: Float[Tensor, "N 3"], views: list[DepthView], depth: float
) -> tuple[Bool[Tensor, " N"], Bool[Tensor, " N"]]:
    """What the views say about points: inside of things, and in free space.

    Solid is what lies a little behind a surface for some view, and behind one for every other that has it in its
    picture: nothing ever told a field what to hold there, and many are hollow. Empty is what several views look
    through and none sees a surface at.

    Args:
        x: Points, training frame.
        views: Who is asked, at most `MAX_WITNESSES` of them, evenly picked.
        depth: How far from the surface the inside and the free space begin, training units.
    """
    n_through = torch.zeros(len(x), dtype=torch.int8)
    is_at, is_close, is_hidden = (torch.full((len(x),), start) for start in (False, False, True))
    left = torch.arange(len(x))
    for view in views[:: -(-len(views) // MAX_WITNESSES)]:
        gap, inside = view.gaps(x[left])
        is_hidden[left] &= ~inside | (gap < -depth)
        is_close[left] |= inside & (gap < -depth) & (gap > -DEEPEST * depth)
        n_through[left] += (inside & (gap > depth)).to(torch.int8)
        is_at[left] |= inside & (gap.abs() <= depth)
        left = left[~is_at[left]]  # on a surface: the density decides
    return is_hidden & is_close & ~is_at, (n_through >= WITNESSES_OF_SPACE) & ~is_at
