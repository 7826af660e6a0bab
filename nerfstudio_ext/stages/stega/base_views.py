"""Views of a marked run whose method beneath is rendered only once, whatever is done to its colours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import UInt8
from numpy import ndarray

from ...cameras import Camera, Cameras
from ...methods.marked import SurfaceColors, add_colors
from ...methods.protocol import Method
from ...progress import Progress, SilentProgress
from ...rays import RayOutputs, Rays
from ...renderer import DEFAULT_CHUNK, RayRenderer


@dataclass(frozen=True)
class BaseView:
    """One camera with what the method beneath gives for its rays.

    Attributes:
        camera: In the training frame.
        outputs: Of all its rays.
    """

    camera: Camera
    outputs: RayOutputs

    def picture(self, colors: SurfaceColors | None, background: tuple[float, float, float]) -> UInt8[ndarray, "H W 3"]:
        """The 8-bit picture with colours added (None: unmarked); byte for byte what rendering the run gives."""

        def render_rays(rays: Rays) -> RayOutputs:
            return self.outputs if colors is None else add_colors(colors, rays, self.outputs)

        renderer = RayRenderer(render_rays, background, chunk=self.camera.width * self.camera.height)
        return (renderer.render(self.camera).rgb * 255).round().to(torch.uint8).numpy()


def base_views(method: Method, cameras: Cameras | Sequence[Camera], progress: Progress | None = None) -> list[BaseView]:
    """Render a method from cameras; reports to the present stage of the progress."""
    progress = progress or SilentProgress()
    chunk: int = getattr(method.render_rays, "rays_at_a_time", DEFAULT_CHUNK)
    views = []
    for camera in cameras:
        rays = camera.rays()
        with torch.no_grad():
            parts = [method.render_rays(rays[start : start + chunk]) for start in range(0, len(rays), chunk)]
        alphas = [part.alpha for part in parts if part.alpha is not None]
        outputs = RayOutputs(
            torch.cat([part.rgb for part in parts]), torch.cat([part.depth for part in parts]),
            torch.cat(alphas) if alphas else None,
        )  # fmt: skip
        views.append(BaseView(camera, outputs))
        progress.advance(len(views))
    return views
