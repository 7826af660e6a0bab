"""Scenes to measure with: pictures that say which camera they show, pictures that compress like photographs."""

from __future__ import annotations

import time

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..cameras import Camera
from ..renderer import CancelToken, Frame, Renderer


class CodedRenderer:
    """Red says which camera a picture shows: the fractional part of its x.

    Args:
        seconds: Time per picture.
        noise: Strength of noise in blue, which makes pictures large.
    """

    background = (0.0, 0.0, 0.0)

    def __init__(self, seconds: float = 0.0, noise: float = 0.0) -> None:
        self.seconds, self.noise = seconds, noise

    def render(self, camera: Camera, *, cancel: CancelToken | None = None) -> Frame:
        """One picture."""
        end = time.perf_counter() + self.seconds
        while time.perf_counter() < end:
            if cancel is not None:
                cancel.check()
            time.sleep(min(0.005, max(0.0, end - time.perf_counter())))
        rgb = torch.zeros(camera.height, camera.width, 3)
        rgb[:, :, 0] = float(camera.c2w[0, 3]) % 1.0
        rgb[:, :, 2] = self.noise * torch.rand(camera.height, camera.width)
        return Frame(rgb, torch.ones(camera.height, camera.width), None)


_SHIFTS = 64


class PhotoRenderer:
    """Free pictures with edges and texture at every scale, as photographs have; each is a part of one made before."""

    background = (0.0, 0.0, 0.0)

    def __init__(self) -> None:
        self._picture = photo_like(1024, 1024)
        self._wide: dict[tuple[int, int], Float[Tensor, "H W+64 3"]] = {}
        self._opaque: dict[tuple[int, int], Float[Tensor, "H W"]] = {}

    def render(self, camera: Camera, *, cancel: CancelToken | None = None) -> Frame:
        """A part of the picture, shifted with the camera."""
        size = (camera.height, camera.width)
        if size not in self._wide:
            step = max(1, 1024 // max(size))
            rows, columns = torch.arange(size[0]) * step % 1024, (torch.arange(size[1] + _SHIFTS) * step) % 1024
            self._wide[size], self._opaque[size] = self._picture[rows][:, columns], torch.ones(size)
        shift = int(200 * float(camera.c2w[0, 3])) % _SHIFTS
        return Frame(self._wide[size][:, shift : shift + size[1]], self._opaque[size], None)


def photo_like(height: int, width: int) -> Float[Tensor, "H W 3"]:
    """Colour with the statistics of photographs: amplitudes fall with frequency, and there are edges."""
    random = np.random.default_rng(0)
    fy, fx = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    falloff = 1 / np.maximum(np.hypot(fy, fx), 1 / max(height, width)) ** 1.2
    channels = []
    shared = random.standard_normal((height, width))
    for _ in range(3):
        noise = np.fft.rfft2(0.85 * shared + 0.3 * random.standard_normal((height, width)))
        channel = np.fft.irfft2(noise * falloff, (height, width))
        channels.append((channel - channel.mean()) / channel.std())
    picture = 0.45 + 0.2 * np.stack(channels, -1)
    for _ in range(14):  # edges
        y, x, r = random.uniform(0, 1, 3) * (height, width, 0.22 * width)
        inside = np.hypot(*np.ogrid[-y : height - y, -x : width - x]) < r
        picture[inside] = 0.6 * picture[inside] + 0.4 * random.uniform(0, 1, 3)
    return torch.from_numpy(np.clip(picture, 0, 1)).float()


class TimedRenderer:
    """Notes when renders of another renderer end, and the width of the one that runs (0 for none)."""

    def __init__(self, renderer: Renderer) -> None:
        self._renderer = renderer
        self.background = renderer.background
        self.width = 0
        self.ends: list[float] = []

    def render(self, camera: Camera, *, cancel: CancelToken | None = None) -> Frame:
        """The other's picture."""
        self.width = camera.width
        try:
            return self._renderer.render(camera, cancel=cancel)
        finally:
            self.width = 0
            self.ends.append(time.perf_counter())


def two_spheres(camera: Camera) -> tuple[Float[Tensor, "H W"], Float[Tensor, "H W"]]:
    """Ray length and depth along the axis of two overlapping spheres; infinite where nothing is."""
    rays = camera.rays()
    t = torch.full((len(rays),), torch.inf)
    for centre, radius in (((0.0, 0.0, 0.0), 0.5), ((0.5, 0.55, 0.1), 0.4)):
        to_eye = rays.rays_o - torch.tensor(centre)
        half_b = (to_eye * rays.rays_d).sum(-1)
        inside = half_b**2 - (to_eye**2).sum(-1) + radius**2
        hit = -half_b - inside.clamp_min(0).sqrt()
        t = torch.where((inside > 0) & (hit > 0) & (hit < t), hit, t)
    axis = rays.rays_d @ camera.c2w[:, 2].float()
    shape = (camera.height, camera.width)
    return t.reshape(shape), (t * axis).reshape(shape)


class TwoSpheres:
    """The two spheres, shaded by depth."""

    background = (1.0, 1.0, 1.0)

    def render(self, camera: Camera, *, cancel: CancelToken | None = None) -> Frame:
        """One picture."""
        depth, _ = two_spheres(camera)
        alpha = depth.isfinite().float()
        rgb = torch.where(alpha > 0, 1 / (1 + depth), 1.0)[..., None].expand(-1, -1, 3).contiguous()
        return Frame(rgb, depth, alpha)
