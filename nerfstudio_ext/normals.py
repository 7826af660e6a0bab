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
    across = _tangent(points, t, is_seen, rays_d, 1)
    down = _tangent(points, t, is_seen, rays_d, 0)
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


def _tangent(points: Tensor, t: Tensor, is_seen: Tensor, rays_d: Tensor, dim: int) -> Tensor:
    """Slope of the surface per pixel along one axis of the picture."""
    total = torch.zeros_like(points)
    for side in range(-WINDOW, WINDOW + 1):
        for step in range(1, WINDOW + 1):
            shift = [0, 0]
            shift[dim], shift[1 - dim] = step, side
            for sign in (1, -1):
                offset = (sign * shift[0], sign * shift[1])
                moved, valid = _shifted(points, offset), _shifted(is_seen[..., None], offset)[..., 0] & is_seen
                beside = _shifted(t[..., None], offset)[..., 0]
                # How far apart the two points would be on a surface facing the camera.
                spread = torch.minimum(t, beside) * (_shifted(rays_d, offset) - rays_d).norm(dim=-1)
                jump = (beside - t).abs() / (LARGEST_SLOPE * spread).clamp_min(1e-12)
                weight = torch.where(valid, 1 / (1 + jump**4), 0.0)
                total = total + (weight * sign * step)[..., None] * (moved - points)
    return total


def _shifted(values: Tensor, offset: tuple[int, int]) -> Tensor:
    """values[i + offset], zero beyond the border."""
    result = torch.zeros_like(values)
    (di, dj), (height, width) = offset, values.shape[:2]
    target = (slice(max(0, -di), height - max(0, di)), slice(max(0, -dj), width - max(0, dj)))
    source = (slice(max(0, di), height - max(0, -di)), slice(max(0, dj), width - max(0, -dj)))
    result[target] = values[source]
    return result
