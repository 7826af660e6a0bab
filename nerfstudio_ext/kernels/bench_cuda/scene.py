"""What the benchmark trains on: a capture in Blender's format, or a ball that is computed; all of it on the device."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...rays import Rays
from .. import (
    FieldTensors,
    GridLayout,
    Marching,
    Occupancy,
    StepOptions,
    field_density,
    occ_pack,
    occ_refresh,
    ray_aabb,
)

GRID_SIZE = 128
STEP = 1 / 256
SCENE_EDGE = 3.0
"""Edge of the box around an object in captures of Blender's format, in their units."""
_BALL_RADIUS, _BALL_DISTANCE = 0.35, 1.3
_N_BALL_VIEWS, _N_BALL_TESTS = 60, 8


@dataclass(frozen=True)
class Pictures:
    """Photos and their cameras in the frame of the field, whose cube has edge 1.

    Attributes:
        rgba: [V,H,W,4] uint8.
        poses: [V,3,4] camera to world, x right, y down, z forward.
        focal: Pixels.
    """

    rgba: Tensor
    poses: Tensor
    focal: float

    def __len__(self) -> int:
        return len(self.rgba)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.rgba.shape[2], self.rgba.shape[1]

    def picture(self, index: int) -> Tensor:
        """A photo on white, [H,W,3] floats."""
        value = self.rgba[index].float() / 255
        return value[..., :3] * value[..., 3:] + 1 - value[..., 3:]


def rays_of(pose: Tensor, width: int, height: int, focal: float) -> Rays:
    """The rays of a picture, row by row, clipped to the cube."""
    row, column = torch.meshgrid(
        torch.arange(height, device=pose.device), torch.arange(width, device=pose.device), indexing="ij"
    )
    uv = torch.stack([column, row], -1).reshape(-1, 2)
    return _through(pose.expand(len(uv), 3, 4), uv, width, height, focal)


def _through(poses: Tensor, pixel: Tensor, width: int, height: int, focal: float) -> Rays:
    x = (pixel[:, 0] + 0.5 - width / 2) / focal
    y = (pixel[:, 1] + 0.5 - height / 2) / focal
    local = torch.stack([x, y, torch.ones_like(x)], -1)
    directions = torch.nn.functional.normalize((poses[:, :, :3] * local[:, None, :]).sum(-1), dim=-1)
    origins = poses[:, :, 3].contiguous()
    box = torch.tensor([-0.5, -0.5, -0.5, 0.5, 0.5, 0.5], device=poses.device)
    t_min, t_max = ray_aabb(origins, directions, box)
    return Rays(origins, directions, t_min, t_max)


@dataclass(frozen=True)
class Batch:
    """A training batch on the device."""

    rays: Rays
    jitter: Tensor
    target: Tensor
    background: Tensor


def draw(pictures: Pictures, n_rays: int, generator: torch.Generator) -> Batch:
    """Random pixels of all photos, on random backgrounds."""
    device = pictures.rgba.device
    width, height = pictures.size
    number = torch.randint(len(pictures) * width * height, (n_rays,), device=device, generator=generator)
    view, pixel = number // (width * height), number % (width * height)
    uv = torch.stack([pixel % width, pixel // width], -1)
    value = pictures.rgba.view(-1, 4).index_select(0, number).float() / 255
    random = torch.rand(n_rays, 4, device=device, generator=generator)
    background = random[:, :3].contiguous()
    target = value[:, :3] * value[:, 3:] + (1 - value[:, 3:]) * background
    rays = _through(pictures.poses.index_select(0, view), uv, width, height, pictures.focal)
    return Batch(rays, random[:, 3].contiguous(), target, background)


def load_blender(folder: Path, split: str, device: str, most: int | None = None) -> Pictures:
    """The photos of a split of a capture in Blender's format."""
    from PIL import Image

    meta = json.loads((folder / f"transforms_{split}.json").read_text(encoding="utf-8"))
    frames = meta["frames"][:most]
    photos, poses = [], []
    for frame in frames:
        name = frame["file_path"] if Path(frame["file_path"]).suffix else frame["file_path"] + ".png"
        with Image.open(folder / name) as image:
            photos.append(np.asarray(image.convert("RGBA")))
        pose = np.array(frame["transform_matrix"], np.float32)[:3]
        pose[:, 1:3] *= -1  # from Blender's axes: y up, z backward
        pose[:, 3] /= SCENE_EDGE
        poses.append(pose)
    rgba = torch.from_numpy(np.stack(photos)).to(device)
    focal = 0.5 * rgba.shape[2] / math.tan(0.5 * float(meta["camera_angle_x"]))
    return Pictures(rgba, torch.from_numpy(np.stack(poses)).to(device), focal)


def make_ball(device: str, *, size: int = 400, tests: bool = False) -> Pictures:
    """Photos of a ball with a fine pattern, computed exactly; no file is needed."""
    n = _N_BALL_TESTS if tests else _N_BALL_VIEWS
    number = torch.arange(n, dtype=torch.float32, device=device) + (0.5 if tests else 0.0)
    z = 1 - 2 * (number + 0.5) / (n + 1)
    turn, radius = number * math.pi * (3 - math.sqrt(5)), (1 - z * z).sqrt()
    centres = _BALL_DISTANCE * torch.stack([radius * turn.cos(), radius * turn.sin(), z], -1)
    poses = torch.stack([_looking_at_origin(centre) for centre in centres])
    focal = 1.2 * size
    photos = []
    for pose in poses:
        rays = rays_of(pose, size, size, focal)
        along = -(rays.rays_o * rays.rays_d).sum(-1)
        inside = _BALL_RADIUS**2 - (rays.rays_o.square().sum(-1) - along**2)
        point = rays.rays_o + (along - inside.clamp_min(0).sqrt())[:, None] * rays.rays_d
        color = 0.5 + 0.5 * torch.sin(torch.tensor([60.0, 45.0, 75.0], device=device) * point + 3 * point.roll(1, -1))
        alpha = (inside > 0).float()
        photos.append((torch.cat([color, alpha[:, None]], 1) * 255).round().to(torch.uint8).view(size, size, 4))
    return Pictures(torch.stack(photos), poses, focal)


def _looking_at_origin(centre: Tensor) -> Tensor:
    forward = -torch.nn.functional.normalize(centre, dim=0)
    up = torch.tensor([0.0, 0.0, 1.0], device=centre.device)
    right = torch.nn.functional.normalize(torch.linalg.cross(forward, up), dim=0)
    return torch.stack([right, torch.linalg.cross(forward, right), forward, centre], 1)


def make_field(layout: GridLayout, device: str, hidden: int = 64, seed: int = 0) -> FieldTensors:
    """An untrained field in the cube of edge 1."""
    generator = torch.Generator().manual_seed(seed)

    def matrix(n_in: int, n_out: int) -> Tensor:
        bound = math.sqrt(6 / (n_in + n_out))
        return torch.empty(n_in, n_out).uniform_(-bound, bound, generator=generator).to(device)

    table = torch.empty(layout.n_rows, layout.n_features).uniform_(-1e-4, 1e-4, generator=generator).to(device)
    shapes = ((layout.n_outputs, hidden), (hidden, 16), (32, hidden), (hidden, hidden), (hidden, 3))
    d1, d2, c1, c2, c3 = (matrix(*shape) for shape in shapes)
    return FieldTensors(layout, table, d1, d2, c1, c2, c3, 1.0)


LAYOUTS = {
    "L16F2": GridLayout(16, 2, 19, 16, 2048),
    "L8F4": GridLayout(8, 4, 19, 16, 2048),
}
MARCHING = Marching(STEP, 0.0, STEP, 0.05)
OPTIONS = StepOptions(MARCHING)


class OccupancyState:
    """Densities and bits of the cells, refreshed on the device.

    Args:
        device: Where.
        seed: Of the places that are looked at.
    """

    def __init__(self, device: str, seed: int = 0) -> None:
        self.density = torch.zeros(GRID_SIZE**3, device=device)
        self.everywhere = torch.full((1, (GRID_SIZE // 4) ** 3), -1, dtype=torch.int64, device=device)
        self.bits = self.everywhere.clone()
        self._generator = torch.Generator(device=device).manual_seed(seed)

    def occupancy(self) -> Occupancy:
        """As the kernels take it."""
        return Occupancy(self.bits, GRID_SIZE)

    @torch.no_grad()
    def refresh(self, field: FieldTensors, step: int, *, backend: str = "auto") -> None:
        """Look at all cells in the beginning, at an eighth of them at random later."""
        n, device = GRID_SIZE**3, self.density.device
        is_early = step < 256
        count = n if is_early else n // 8
        cells = (
            torch.arange(n, device=device)
            if is_early
            else torch.randint(n, (count,), device=device, generator=self._generator)
        )
        index = torch.stack([cells % GRID_SIZE, cells // GRID_SIZE % GRID_SIZE, cells // GRID_SIZE**2], -1)
        places = torch.rand(count, 3, device=device, generator=self._generator)
        sigmas = field_density(field, (index + places) / GRID_SIZE - 0.5, backend=backend)
        occ_refresh(self.density, cells, sigmas, 0.5 if is_early else 0.95, self.density)
        threshold = min(0.01 / STEP, float(self.density.mean()))
        self.bits.copy_(occ_pack(self.density, self.everywhere, GRID_SIZE, threshold))


def detached(field: FieldTensors) -> FieldTensors:
    """A copy of a field that later training does not touch."""
    names = ("table", "d1", "d2", "c1", "c2", "c3")
    return replace(field, **{name: getattr(field, name).detach().clone() for name in names})
