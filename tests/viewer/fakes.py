"""Stand-ins for the viewer's tests: an analytic scene, a browser that speaks viser's protocol, a slow wire."""

from __future__ import annotations

import math
import secrets
import time

import numpy as np
import torch

from nerfstudio_ext import viewer_bench
from nerfstudio_ext.cameras import Camera, Cameras
from nerfstudio_ext.rays import RayOutputs, Rays
from nerfstudio_ext.renderer import CancelToken, Frame, RayRenderer
from nerfstudio_ext.viewer.gate import Gate, Role
from nerfstudio_ext.viewer_bench.browser import Received, look_from
from nerfstudio_ext.viewer_bench.wire import SERVER_OF, slow_wire

SPHERES = ((0.0, 0.0, 0.0, 0.5), (0.7, 0.3, -0.2, 0.3), (-0.5, 0.6, -0.1, 0.35), (0.2, -0.8, -0.25, 0.25))
COLOURS = ((0.9, 0.45, 0.25), (0.3, 0.65, 0.85), (0.45, 0.75, 0.4), (0.9, 0.8, 0.35))
LIGHT = (0.4, -0.5, 0.77)


def shade_spheres(rays: Rays, tint: float = 1.0) -> RayOutputs:
    """Opaque, softly lit spheres over a chequered floor at z = -0.5."""
    rgb = torch.zeros_like(rays.rays_o)
    depth = torch.full_like(rays.t_min, math.inf)
    light = torch.tensor(LIGHT)
    for (x, y, z, radius), colour in zip(SPHERES, COLOURS, strict=True):
        to_eye = rays.rays_o - torch.tensor([x, y, z])
        half_b = (to_eye * rays.rays_d).sum(-1)
        inside = half_b**2 - (to_eye**2).sum(-1) + radius**2
        t = -half_b - inside.clamp_min(0).sqrt()
        is_hit = (inside > 0) & (t > 0) & (t < depth)
        normal = (to_eye + t[:, None] * rays.rays_d) / radius
        shade = 0.25 + 0.75 * (normal @ light).clamp_min(0)
        rgb = torch.where(is_hit[:, None], shade[:, None] * torch.tensor(colour) * tint, rgb)
        depth = torch.where(is_hit, t, depth)
    t = (-0.5 - rays.rays_o[:, 2]) / rays.rays_d[:, 2]
    spot = rays.rays_o + t[:, None] * rays.rays_d
    is_floor = (t > 0) & (t < depth) & (spot[:, :2].norm(dim=1) < 2.5)
    chequer = ((spot[:, 0].mul(3).floor() + spot[:, 1].mul(3).floor()) % 2)[:, None] * 0.25 + 0.4
    rgb = torch.where(is_floor[:, None], (chequer * tint).expand(-1, 3), rgb)
    depth = torch.where(is_floor, t, depth)
    alpha = torch.isfinite(depth).float()
    return RayOutputs(rgb=rgb, depth=torch.where(alpha > 0, depth, 0.0), alpha=alpha)


class SphereRenderer(RayRenderer):
    """The analytic scene; `seconds_per_pixel` slows it down as a field would, between checks of the token."""

    def __init__(self, seconds_per_pixel: float = 0.0, tint: float = 1.0, chunk: int = 2048) -> None:
        super().__init__(self._shade, background=(0.08, 0.08, 0.1), chunk=chunk)
        self.seconds_per_pixel = seconds_per_pixel
        self.tint = tint
        self.n_cancelled = 0
        self.sizes: list[tuple[int, int]] = []

    def _shade(self, rays: Rays) -> RayOutputs:
        if self.seconds_per_pixel:
            time.sleep(self.seconds_per_pixel * len(rays))
        return shade_spheres(rays, self.tint)

    def render(self, camera: Camera, *, cancel: CancelToken | None = None) -> Frame:
        try:
            frame = super().render(camera, cancel=cancel)
        finally:
            self.n_cancelled += int(cancel is not None and cancel.is_cancelled)
        self.sizes.append((camera.width, camera.height))
        return frame


class AzimuthRenderer:
    """Frames that say which camera they show: red codes the camera's x, green the height of the picture in pixels."""

    background = (0.0, 0.0, 0.0)

    def __init__(self, seconds: float = 0.0, noise: float = 0.0) -> None:
        self.seconds = seconds
        self.noise = noise

    def render(self, camera: Camera, *, cancel: CancelToken | None = None) -> Frame:
        end = time.perf_counter() + self.seconds
        while time.perf_counter() < end:
            if cancel is not None:
                cancel.check()
            time.sleep(min(0.005, max(0.0, end - time.perf_counter())))
        rgb = torch.zeros(camera.height, camera.width, 3)
        rgb[:, :, 0] = float(camera.c2w[0, 3]) % 1.0
        rgb[:, :, 1] = min(1.0, camera.height / 1020)
        rgb[:, :, 2] = self.noise * torch.rand(camera.height, camera.width)
        return Frame(rgb, torch.ones(camera.height, camera.width), None)


def ring_of_cameras(n: int = 12) -> Cameras:
    """Cameras on a circle around the spheres."""
    angles = [2 * math.pi * i / n for i in range(n)]
    places = [(2.6 * math.cos(a), 2.6 * math.sin(a), 1.1) for a in angles]
    return Cameras([Camera.perspective(160, 120, 50.0, look_from(place)) for place in places])


def photos_of(cameras: Cameras) -> list[np.ndarray]:
    """The analytic scene seen by the cameras, 8 bit."""
    renderer = SphereRenderer()
    return [(renderer.render(camera).rgb * 255).to(torch.uint8).numpy() for camera in cameras]


TEST_SECRET = b"only for tests, " * 2


class FakeBrowser(viewer_bench.FakeBrowser):
    """A browser whose visitor has the link of a role; see `conftest.py` for the servers of tests."""

    def __init__(self, port: int, role: Role = "owner", session: str | None = None, **headers: str) -> None:
        server_port = SERVER_OF.get(port, port)
        self.session = session or secrets.token_hex(16)
        super().__init__(port, Gate(TEST_SECRET, server_port).cookie(role, self.session), headers)


__all__ = ["Received", "look_from", "slow_wire"]
