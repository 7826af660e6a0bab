"""What source views show at points of a ray: projection, bilinear sampling, direction differences. Plain torch.

Pixels here are positions in the array: the centre of the first pixel is (0, 0), so a `Camera`'s principal point is
moved by half a pixel on the way in (`source_cameras`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

DEPTH_FLOOR = 1e-8
FARTHEST_PIXEL = 1e6
"""Bounds of the official projection: they keep points near the camera plane finite."""


@dataclass(frozen=True)
class SourceCameras:
    """V pinhole cameras.

    Attributes:
        K: Intrinsics for pixel positions in the array (first centre at 0).
        c2w: Camera to world, OpenCV axes.
        sizes: (width, height) in pixels.
    """

    K: Float[Tensor, "V 3 3"]
    c2w: Float[Tensor, "V 3 4"]
    sizes: Float[Tensor, "V 2"]

    @property
    def centres(self) -> Float[Tensor, "V 3"]:
        """Camera centres, world."""
        return self.c2w[:, :, 3]

    @property
    def projections(self) -> Float[Tensor, "V 3 4"]:
        """World to homogeneous pixel."""
        rotation = self.c2w[:, :, :3].mT
        return self.K @ torch.cat([rotation, -rotation @ self.c2w[:, :, 3:]], -1)

    def __len__(self) -> int:
        return self.K.shape[0]


@dataclass(frozen=True)
class Epipolar:
    """What V views show at the samples of R rays; the inputs of `ViewTransformer.forward`."""

    rgb_feat: Float[Tensor, "R S V F"]
    ray_diff: Float[Tensor, "R S V 4"]
    mask: Float[Tensor, "R S V 1"]


def project(
    cameras: SourceCameras, x: Float[Tensor, "R S 3"]
) -> tuple[Float[Tensor, "V R S 2"], Float[Tensor, "V R S"]]:
    """Pixel positions of points in every view, and 1 where the point lies in front of the camera and in the picture."""
    homogeneous = torch.cat([x, torch.ones_like(x[..., :1])], -1)
    p = torch.einsum("vij,rsj->vrsi", cameras.projections.to(x.dtype), homogeneous)
    uv = (p[..., :2] / p[..., 2:].clamp_min(DEPTH_FLOOR)).clamp(-FARTHEST_PIXEL, FARTHEST_PIXEL)
    last = (cameras.sizes - 1)[:, None, None]
    is_inside = ((uv >= 0) & (uv <= last)).all(-1)
    return uv, (is_inside & (p[..., 2] > 0)).to(x.dtype)


def ray_differences(
    x: Float[Tensor, "R S 3"], target: Float[Tensor, "R 3"], centres: Float[Tensor, "V 3"]
) -> Float[Tensor, "R S V 4"]:
    """Unit difference of the directions to the target and to each view, and the cosine between them."""
    to_target = _direction(target[:, None, None] - x[:, :, None])
    to_source = _direction(centres[None, None] - x[:, :, None])
    difference = to_target - to_source
    length = difference.norm(dim=-1, keepdim=True)
    cosine = (to_target * to_source).sum(-1, keepdim=True)
    return torch.cat([difference / length.clamp_min(1e-6), cosine], -1)


def sample_views(
    pictures: Float[Tensor, "V 3 H W"],
    maps: Float[Tensor, "V F h w"],
    cameras: SourceCameras,
    x: Float[Tensor, "R S 3"],
    target: Float[Tensor, "R 3"],
) -> Epipolar:
    """Project samples into every view and read colours and features there.

    Args:
        pictures: Sources, all of one size; that of the first camera counts.
        maps: Their features: corner pixels of picture and map coincide, whatever their sizes.
        cameras: Of the sources.
        x: Samples, world.
        target: Centre of the camera each ray starts from.
    """
    uv, mask = project(cameras, x)
    grid = 2 * uv / (cameras.sizes - 1)[:, None, None] - 1
    both = [functional.grid_sample(t, grid, align_corners=True) for t in (pictures, maps)]
    rgb_feat = torch.cat(both, 1).permute(2, 3, 0, 1)
    return Epipolar(rgb_feat, ray_differences(x, target, cameras.centres), mask.permute(1, 2, 0)[..., None])


def _direction(v: Tensor) -> Tensor:
    return v / (v.norm(dim=-1, keepdim=True) + 1e-6)
