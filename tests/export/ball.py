"""A scene whose every pixel is known: a chequered unit ball of radius 0.5 at the origin, seen by exact rays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from nerfstudio_ext.camera_paths import orbit
from nerfstudio_ext.camera_paths.layout import look_at
from nerfstudio_ext.camera_paths.path import CameraPath
from nerfstudio_ext.cameras import Camera, Cameras
from nerfstudio_ext.rays import RayOutputs, Rays
from nerfstudio_ext.renderer import CancelToken, Frame, RayRenderer

RADIUS, DISTANCE = 0.5, 2.0


def ball(rays: Rays) -> RayOutputs:
    """Premultiplied colour, depth and opacity of the ball."""
    b = (rays.rays_o * rays.rays_d).sum(1)
    under_root = b * b - (rays.rays_o.square().sum(1) - RADIUS**2)
    hit = under_root > 0
    t = torch.where(hit, -b - under_root.clamp_min(0).sqrt(), 0.0)
    x = rays.rays_o + t[:, None] * rays.rays_d
    checks = (torch.floor(x * 6).long().sum(1) % 2).float()[:, None]
    color = (0.5 + x) * (0.4 + 0.6 * checks)
    alpha = hit.float()
    return RayOutputs(color.clamp(0, 1) * alpha[:, None], t * alpha, alpha)


def opaque_ball(rays: Rays) -> RayOutputs:
    """The same from a method without opacity."""
    seen = ball(rays)
    return RayOutputs(seen.rgb, seen.depth, None)


def views(n: int = 6, width: int = 48, height: int = 32) -> Cameras:
    """Cameras on a circle around the ball."""
    angles = np.linspace(0, 2 * np.pi, n, endpoint=False)
    eyes = [DISTANCE * np.array([np.cos(a), np.sin(a), 0]) for a in angles]
    up = np.array([0.0, 0.0, 1.0])
    return Cameras([Camera.perspective(width, height, 40.0, look_at(eye, np.zeros(3), up)) for eye in eyes])


def turn(n: int = 12, width: int = 48, height: int = 32) -> CameraPath:
    """An orbit of `n` frames, 12 per second."""
    return orbit(views(), seconds=n / 12, fps=12, size=(width, height))


class CountingRenderer(RayRenderer):
    """Counts finished frames of full size; can stop with an error or a cancel after some."""

    def __init__(self, render_rays=ball, stop_after: int | None = None, token: CancelToken | None = None) -> None:
        super().__init__(render_rays)
        self.n_frames, self.stop_after, self.token = 0, stop_after, token

    def render(self, camera: Camera, *, cancel: CancelToken | None = None) -> Frame:
        if self.n_frames == self.stop_after:
            if self.token is None:
                raise KeyboardInterrupt
            self.token.cancel()
        frame = super().render(camera, cancel=cancel)
        self.n_frames += 1
        return frame


def files_below(folder: Path) -> list[str]:
    """All files, relative to the folder."""
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def expected_rgb(path: CameraPath, i: int) -> np.ndarray:
    """The pixels of frame `i`, 8 bits."""
    return (RayRenderer(ball).render(path.cameras[i]).rgb * 255).round().numpy().astype(np.uint8)
