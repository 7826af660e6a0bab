"""A scene method that is a formula: a ball whose surface, density and colours are known. Registered by tests only."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from nerfstudio_ext.camera_paths.layout import look_at
from nerfstudio_ext.cameras import Camera, Cameras
from nerfstudio_ext.methods import MethodEntry, known_methods
from nerfstudio_ext.rays import RayOutputs, Rays
from nerfstudio_ext.scenes.model import SceneFrame, SceneMeta, Split
from nerfstudio_ext.training.checkpoints import save_checkpoint
from nerfstudio_ext.training.config import RunConfig
from nerfstudio_ext.training.runs import Run

RADIUS = 0.4
SOLID = 500.0
"""Density inside."""
TURN = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]], dtype=torch.float64)
FRAME = SceneFrame(TURN, torch.tensor([0.1, -0.2, 0.3], dtype=torch.float64), 0.25)


def paint(x: Tensor) -> Tensor:
    """Colour of a surface point: its direction from the centre, 0.1 to 0.9."""
    return 0.5 + 0.4 * x / RADIUS


def see(rays: Rays) -> RayOutputs:
    """The nearest point of the solid ball on each ray, within its limits."""
    b = (rays.rays_o * rays.rays_d).sum(1)
    under_root = b * b - (rays.rays_o.square().sum(1) - RADIUS**2)
    half = under_root.clamp_min(0).sqrt()
    t = torch.maximum(-b - half, rays.t_min)
    hit = (under_root > 0) & (t < -b + half) & (t < rays.t_max)
    alpha = hit.float()
    rgb = paint(rays.rays_o + t[:, None] * rays.rays_d).clamp(0, 1)
    return RayOutputs(rgb * alpha[:, None], torch.where(hit, t, 0.0), alpha)


def around(n: int = 18, size: int = 72) -> Cameras:
    """Cameras on a sphere around the ball, training frame."""
    cameras = []
    for k in range(n):
        z = 1 - 2 * (k + 0.5) / n
        angle = k * math.pi * (3 - math.sqrt(5))
        across = math.sqrt(1 - z * z)
        eye = 1.6 * np.array([across * math.cos(angle), across * math.sin(angle), z])
        cameras.append(Camera.perspective(size, size, 40.0, look_at(eye, np.zeros(3), np.array([0.0, 0.0, 1.0]))))
    return Cameras(cameras)


class BallField:
    """The ball's density, with a floating blob and, in a hollow one, an emptiness that no render shows."""

    def __init__(self, core: float = 0.6) -> None:
        self.core = core

    def density(self, x: Tensor) -> Tensor:
        inside = (x.norm(dim=1) < RADIUS) & (x.norm(dim=1) > self.core * RADIUS)
        blob = (x - torch.tensor([0.38, 0.38, 0.0])).norm(dim=1) < 0.05
        return SOLID * (inside | blob).float()


@dataclass(frozen=True)
class BallConfig:
    """Settings of the ball."""

    has_density: bool = True
    """Whether it offers its density."""


class BallMethod(nn.Module):
    """The ball as a method; one parameter, so that there is something to store."""

    n_rays = 64

    def __init__(self, config: BallConfig, meta: SceneMeta, *, seed: int) -> None:
        super().__init__()
        self.config = config
        self.shade = nn.Parameter(torch.tensor([float(seed)]))
        if config.has_density:
            self.density = BallField().density

    def render_rays(self, rays: Rays) -> RayOutputs:
        seen = see(rays)
        return seen if self.config.has_density else RayOutputs(seen.rgb, seen.depth, None)

    def snapshot(self) -> Callable[[Rays], RayOutputs]:
        return self.render_rays

    def stats(self) -> Mapping[str, float]:
        return {}


@contextmanager
def registered() -> Iterator[None]:
    """Within it, `ball` is a method like any other."""
    known_methods()["ball"] = MethodEntry("ball", BallConfig, BallMethod, is_trainable=False)
    try:
        yield
    finally:
        del known_methods()["ball"]


def write_run(folder: Path, config: BallConfig | None = None) -> Path:
    """A finished run of the ball, its capture's frame turned, moved and four times as large."""
    cameras = around(18, 72)
    n = len(cameras)
    meta = SceneMeta(
        name="ball", kind="a formula", cameras=FRAME.to_source(cameras),
        image_names=tuple(f"images/{i:02d}.png" for i in range(n)),
        split=Split(tuple(range(2, n)), (), (0, 1)), frame=FRAME,
    )  # fmt: skip
    config = config or BallConfig()
    with Run.create(folder, RunConfig(config), meta) as run:
        save_checkpoint(run.checkpoints, 7, dict(BallMethod(config, meta, seed=0).state_dict()), {})
        return run.path
