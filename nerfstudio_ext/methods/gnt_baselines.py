"""What GNT is measured against: pictures of the same sources that need no network and know no depth."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from ..cameras import Camera
from ..fields.depth_samples import spread
from ..kernels.reference_views import project
from ..rays import RayOutputs, Rays
from ..renderer import CancelToken, Frame, RayRenderer, Renderer
from .gnt import Gnt
from .gnt_photos import Photos
from .gnt_render import RAYS_AT_A_TIME, GntRenderer
from .gnt_views import Nearness, nearest_views


def baselines_of(gnt: Gnt) -> dict[str, Renderer]:
    """Renderers of the baselines by name, over the photos of a GNT."""
    background = gnt.meta.background
    return {
        "nearest source": NearestPhoto(gnt.photos, gnt.plan.nearness, background),
        "depth-free blend": RayRenderer(DepthFreeBlend(gnt.renderer()), background),
    }


class NearestPhoto:
    """A `Renderer` that shows the nearest source as it is.

    Args:
        photos: The sources.
        nearness: What near means.
        background: Unused: a photo shows its own.
    """

    def __init__(self, photos: Photos, nearness: Nearness, background: tuple[float, float, float]) -> None:
        self.photos, self.nearness, self.background = photos, nearness, background

    def render(self, camera: Camera, *, cancel: CancelToken | None = None) -> Frame:
        """The photo, at the size that was asked for."""
        near = nearest_views(camera.c2w, self.photos.poses, 1, self.nearness, leaves_one=False)
        size = (camera.height, camera.width)
        picture = self.photos.pictures[int(near[0])].float() / 255
        if tuple(picture.shape[1:]) != size:
            picture = functional.interpolate(picture[None], size, mode="bilinear", antialias=True)[0]
        return Frame(picture.permute(1, 2, 0).contiguous(), torch.full(size, torch.inf), None)


class DepthFreeBlend:
    """Colour of a ray: the mean of what the sources of GNT show at its samples, all samples and views alike.

    That is what attention without any preference would see. Rays of a call start at one place.

    Args:
        renderer: Chooses sources and samples.
    """

    rays_at_a_time = RAYS_AT_A_TIME

    def __init__(self, renderer: GntRenderer) -> None:
        self.renderer = renderer

    @torch.no_grad()
    def __call__(self, rays: Rays) -> RayOutputs:
        """Evaluate rays."""
        origin = rays.rays_o[0]
        views, (near, far) = self.renderer.sources_for(origin), self.renderer.depth_range.of(origin)
        sampling = self.renderer.sampling
        starts, ends = rays.t_min.clamp_min(near), rays.t_max.clamp_max(far)
        z = spread(starts, torch.maximum(ends, starts * 1.001), sampling.n_samples, inverse=sampling.inverse)
        x = rays.rays_o[:, None] + z[..., None] * rays.rays_d[:, None]
        return RayOutputs(
            _mean_color(views.pixels, *project(views.projections, views.extents[:, :2], x)), z.mean(1), None
        )


def _mean_color(
    pixels: Float[Tensor, "V H W 3"], uv: Float[Tensor, "V R S 2"], is_seen: Tensor
) -> Float[Tensor, "R 3"]:
    """Mean over samples and the views that see them; black where none does."""
    last = uv.new_tensor([pixels.shape[2] - 1, pixels.shape[1] - 1])
    colors = functional.grid_sample(pixels.permute(0, 3, 1, 2), 2 * uv / last - 1, align_corners=True)
    share = is_seen[:, None].to(colors.dtype)
    return ((colors * share).sum((0, 3)) / share.sum((0, 3)).clamp_min(1)).T.contiguous()
