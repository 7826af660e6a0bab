"""Surface directions from a depth picture: works for every method, because every method renders depth."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from .cameras import Camera

WINDOW = 2
"""Pixels on either side that the fit looks at: rendered depth is noisy from pixel to pixel."""
LARGEST_SLOPE = 4.0
"""A neighbour counts less where depth changes by more than so many times the distance to it: there an edge is more
likely than a surface seen at under 15 degrees."""


def normals_from_depth(depth: Float[Tensor, "H W"], camera: Camera) -> Float[Tensor, "H W 3"]:
    """Unit normals in the frame of the camera's pose, facing the camera; zero where there is no depth.

    Each axis of the picture gives one tangent, the slope of a least-squares line through the neighbouring points, in
    which neighbours across an edge of depth hardly count; the normal is perpendicular to both.

    Args:
        depth: Ray length, `inf` where empty.
        camera: The camera it was rendered through.
    """
    rays = camera.rays()
    rays_d = rays.rays_d.reshape(*depth.shape, 3)
    is_seen = depth.isfinite()
    t = torch.where(is_seen, depth, 0.0)
    points = rays.rays_o.reshape(*depth.shape, 3) + t[..., None] * rays_d
    across, down = _tangents(points, t, is_seen, rays_d)
    normal = torch.cross(across, down, dim=-1)
    normal = torch.where(((normal * rays_d).sum(-1) > 0)[..., None], -normal, normal)
    length = normal.norm(dim=-1, keepdim=True)
    is_known = is_seen & (length[..., 0] > 0)
    return torch.where(is_known[..., None], normal / length.clamp_min(1e-30), 0.0)


def color_normals(normals: Float[Tensor, "H W 3"], alpha: Float[Tensor, "H W"] | None = None) -> Float[Tensor, "H W 3"]:
    """Normals as colour: (x, y, z) from -1..1 to red, green, blue from 0..1; black where there is none.

    Args:
        normals: Unit vectors, or zero.
        alpha: Opacity; half-empty pixels fade to black.
    """
    is_known = (normals.abs().sum(-1) > 0).to(normals.dtype)
    return (0.5 + 0.5 * normals) * (is_known if alpha is None else is_known * alpha)[..., None]


def _tangents(points: Tensor, t: Tensor, is_seen: Tensor, rays_d: Tensor) -> tuple[Tensor, Tensor]:
    """Slopes of the surface per pixel along the rows and down the columns of the picture."""
    across, down = torch.zeros_like(points), torch.zeros_like(points)
    reach = range(-WINDOW, WINDOW + 1)
    for offset in ((di, dj) for di in reach for dj in reach if (di, dj) != (0, 0)):
        beside, is_known = _shifted(t, offset), _shifted(is_seen, offset) & is_seen
        # How far apart the two points would be on a surface facing the camera.
        spread = torch.minimum(t, beside) * (_shifted(rays_d, offset) - rays_d).norm(dim=-1)
        jump = ((beside - t) / (LARGEST_SLOPE * spread).clamp_min(1e-12)).square()
        weight = torch.where(is_known, 1 / (1 + jump.square()), 0.0)
        step = weight[..., None] * (_shifted(points, offset) - points)
        across += offset[1] * step
        down += offset[0] * step
    return across, down


def _shifted(values: Tensor, offset: tuple[int, int]) -> Tensor:
    """values[i + offset], zero beyond the border."""
    result = torch.zeros_like(values)
    (di, dj), (height, width) = offset, values.shape[:2]
    target = (slice(max(0, -di), height - max(0, di)), slice(max(0, -dj), width - max(0, dj)))
    source = (slice(max(0, di), height - max(0, -di)), slice(max(0, dj), width - max(0, -dj)))
    result[target] = values[source]
    return result
