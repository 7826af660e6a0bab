"""A striped ball seen from all around, as pictures in memory: the smallest capture a method can learn."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from nerfstudio_ext.cameras import Camera, Cameras
from nerfstudio_ext.rays import Rays
from nerfstudio_ext.scenes.images import ImageStore
from nerfstudio_ext.scenes.model import Scene, SceneFrame, SceneMeta, Split
from nerfstudio_ext.scenes.pixel_sampler import PixelBatch

RADIUS = 0.3


def make_meta(n_cameras: int = 48, size: int = 64) -> SceneMeta:
    """Cameras on a sphere of radius 1.3 that look at the origin; a few in the middle are test views."""
    cameras = []
    for i in range(n_cameras):
        height = 1 - 2 * (i + 0.5) / n_cameras
        around = math.sqrt(1 - height * height)
        place = torch.tensor([around * math.cos(2.4 * i), around * math.sin(2.4 * i), height], dtype=torch.float64)
        right = torch.nn.functional.normalize(
            torch.linalg.cross(-place, torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)), dim=0
        )
        c2w = torch.stack([right, torch.linalg.cross(-place, right), -place, 1.3 * place], 1)
        cameras.append(Camera.perspective(size, size, 40.0, c2w))
    test = tuple(range(6, n_cameras - 6, 6))  # not the polar ones, which see what no other camera sees
    train = tuple(i for i in range(n_cameras) if i not in test)
    names = tuple(f"{i:03d}.png" for i in range(n_cameras))
    return SceneMeta(
        "ball", "computed", Cameras(cameras), names, Split(train, (), test), SceneFrame.identity(), has_alpha=True
    )


def look(rays: Rays) -> tuple[torch.Tensor, torch.Tensor]:
    """Colour and opacity that rays see."""
    along = -(rays.rays_o * rays.rays_d).sum(-1)
    inside = RADIUS**2 - (rays.rays_o + along[:, None] * rays.rays_d).square().sum(-1)
    hit = rays.rays_o + (along - inside.clamp_min(0).sqrt())[:, None] * rays.rays_d
    return 0.5 + 0.4 * torch.sin(12 * hit + torch.tensor([0.0, 2.0, 4.0])), (inside > 0).float()


def make_scene(meta: SceneMeta) -> Scene:
    """The capture with its pictures, RGBA."""
    pictures = []
    for camera in meta.training_cameras():
        rgb, alpha = look(camera.rays())
        rgba = torch.cat([rgb, alpha[:, None]], -1).reshape(camera.height, camera.width, 4)
        pictures.append((255 * rgba).round().to(torch.uint8).numpy())
    return Scene(meta, ImageStore.from_arrays(pictures))


@dataclass
class BallSampler:
    """Random pixels of the training views."""

    meta: SceneMeta
    seed: int = 0

    def __post_init__(self) -> None:
        self.generator = torch.Generator().manual_seed(self.seed)

    def next(self, n_rays: int) -> PixelBatch:
        train = torch.tensor(self.meta.split.train)
        cam_ids = train[torch.randint(len(train), (n_rays,), generator=self.generator)]
        uv = torch.randint(64, (n_rays, 2), generator=self.generator) + 0.5
        rgb, alpha = look(self.meta.cameras.rays_through(cam_ids, uv))
        return PixelBatch(cam_ids, uv, rgb, alpha)

    def rays(self, batch: PixelBatch) -> Rays:
        return self.meta.training_cameras().rays_through(batch.cam_ids, batch.uv)

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        self.generator.set_state(state["generator"])
