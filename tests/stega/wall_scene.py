"""A painted wall seen from in front: the scene in which a mark is made in seconds, because all views agree on it."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from nerfstudio_ext.cameras import Camera, Cameras
from nerfstudio_ext.methods.ngp import NgpConfig
from nerfstudio_ext.rays import RayOutputs, Rays
from nerfstudio_ext.scenes.images import ImageStore
from nerfstudio_ext.scenes.model import Scene, SceneFrame, SceneMeta, Split
from nerfstudio_ext.training.config import RunConfig
from nerfstudio_ext.training.runs import OpenedRun
from tests.stega.pictures import sample_picture

CONFIG = NgpConfig(n_levels=4, log2_table=12, finest_resolution=64, hidden=16, color_hidden=16, grid_size=32)
_DISTANCE, _FIELD_DEG, _TEXELS = 1.0, 40.0, 256


class Wall(nn.Module):
    """Stands in for a trained method: an opaque wall in the plane y = 0, painted with a picture."""

    n_rays = 1

    def __init__(self) -> None:
        super().__init__()
        paint = torch.from_numpy(sample_picture(_TEXELS, _TEXELS, 4).copy()).float() / 255
        self.paint = nn.Parameter(paint.permute(2, 0, 1)[None])

    def render_rays(self, rays: Rays) -> RayOutputs:
        """The wall where a ray meets it."""
        depth = -rays.rays_o[:, 1] / rays.rays_d[:, 1]
        hit = (rays.rays_o + depth[:, None] * rays.rays_d)[:, [0, 2]]
        with torch.no_grad():
            rgb = nn.functional.grid_sample(
                self.paint, 2 * hit[None, None], padding_mode="reflection", align_corners=False
            )
        return RayOutputs(rgb[0, :, 0].T, depth, torch.ones_like(depth))

    def snapshot(self):
        """Itself: it does not change."""
        return self.render_rays


def wall_meta(size: int = 128, sides: tuple[float, ...] = (0.0,), per_side: int = 8) -> SceneMeta:
    """Cameras before one or several places of the wall, every fourth of them held out.

    Args:
        size: Of the pictures, pixels.
        sides: Where along x groups of cameras stand.
        per_side: Cameras of a group.
    """
    generator = torch.Generator().manual_seed(5)
    cameras = []
    for side in sides:
        for shift in (0.06 * torch.randn(per_side, 3, generator=generator)).tolist():
            place = torch.tensor([side + shift[0], -_DISTANCE + shift[1], shift[2]], dtype=torch.float64)
            forward = nn.functional.normalize(torch.tensor([side, 0.0, 0.0], dtype=torch.float64) - place, dim=0)
            down = torch.tensor([0.0, 0.0, -1.0], dtype=torch.float64)
            right = nn.functional.normalize(torch.linalg.cross(down, forward), dim=0)
            c2w = torch.stack([right, torch.linalg.cross(forward, right), forward, place], 1)
            cameras.append(Camera.perspective(size, size, _FIELD_DEG, c2w))
    test = tuple(range(3, len(cameras), 4))
    train = tuple(i for i in range(len(cameras)) if i not in test)
    names = tuple(f"{i:03d}.png" for i in range(len(cameras)))
    return SceneMeta("wall", "computed", Cameras(cameras), names, Split(train, (), test), SceneFrame.identity(2))


def wall_photos(meta: SceneMeta) -> Scene:
    """The capture with photos, each slightly brighter than the wall is rendered."""
    pictures = [(255 * (wall_rgb(camera) + 0.02).clamp(0, 1)).round().byte().numpy() for camera in meta.cameras]
    return Scene(meta, ImageStore.from_arrays(pictures))


def wall_rgb(camera: Camera) -> Tensor:
    """[H,W,3] the wall as a camera sees it."""
    return Wall().render_rays(camera.rays()).rgb.reshape(camera.height, camera.width, 3)


def wall_run(meta: SceneMeta, path: Path) -> OpenedRun:
    """The wall as if it had been trained."""
    return OpenedRun(path, RunConfig(CONFIG), meta, Wall(), 1)  # type: ignore[arg-type]
