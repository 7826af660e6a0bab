"""Boxes that cut a scene, and normals from depth, against a ball whose surface is known."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from nerfstudio_ext.camera_paths import CropBox
from nerfstudio_ext.cameras import Camera
from nerfstudio_ext.normals import color_normals, normals_from_depth
from nerfstudio_ext.rays import Rays
from nerfstudio_ext.renderer import RayRenderer, clip_to_box

from .ball import RADIUS, ball, opaque_ball, views

F64 = torch.float64


def box(size=(1.0, 1.0, 1.0), center=(0.0, 0.0, 0.0), angle_deg: float = 0.0) -> CropBox:
    c, s = math.cos(math.radians(angle_deg)), math.sin(math.radians(angle_deg))
    turn = torch.tensor([[c, -s, 0], [s, c, 0], [0, 0, 1]], dtype=F64)
    return CropBox(torch.tensor(center, dtype=F64), torch.tensor(size, dtype=F64), turn, (0.0, 0.0, 1.0))


def random_rays(n: int = 500) -> Rays:
    rays_d = torch.nn.functional.normalize(torch.randn(n, 3), dim=1)
    return Rays(2 * torch.randn(n, 3), rays_d, torch.zeros(n), torch.full((n,), torch.inf))


@pytest.mark.parametrize("angle_deg", [0.0, 30.0])
def test_a_ray_is_inside_exactly_on_its_clipped_part(angle_deg: float) -> None:
    rays, crop = random_rays(), box((1.0, 2.0, 0.5), (0.3, -0.2, 0.1), angle_deg)
    cut = clip_to_box(rays, crop)
    t = torch.linspace(0, 8, 2000)
    x = (rays.rays_o[:, None] + t[:, None] * rays.rays_d[:, None] - crop.center.float()) @ crop.rotation.float()
    inside = (x.abs() <= crop.size.float() / 2).all(-1)
    claimed = (t >= cut.t_min[:, None]) & (t <= cut.t_max[:, None])
    assert (inside != claimed).float().mean() < 1e-4 and inside.any()


def test_axis_aligned_rays_do_not_divide_by_zero() -> None:
    rays = Rays(
        torch.tensor([[0.0, 0, -3], [2, 0, -3]]), torch.tensor([[0.0, 0, 1]] * 2), torch.zeros(2), torch.ones(2) * 9
    )
    cut = clip_to_box(rays, box())
    assert cut.t_min[0] == 2.5 and cut.t_max[0] == 3.5 and cut.t_min[1] >= cut.t_max[1]


@pytest.mark.parametrize("function", [ball, opaque_ball])
def test_only_what_lies_in_the_box_is_seen(function) -> None:
    camera = views(1, 40, 40)[0]  # looks along -x from (2, 0, 0)
    upper = RayRenderer(function).cropped(box((2.0, 2.0, 1.0), (0.0, 0.0, 0.5)))
    frame = upper.render(camera)
    whole = RayRenderer(ball).render(camera)
    assert frame.alpha is not None and frame.alpha[:19].sum() == whole.alpha[:19].sum() > 0
    assert frame.alpha[21:].sum() == 0
    assert frame.rgb[30, 20].tolist() == [0.0, 0.0, 1.0]  # the box's background, not the scene's
    seen = (frame.alpha > 0.5) & (whole.alpha > 0.5)
    assert (frame.depth[:19][seen[:19]] - whole.depth[:19][seen[:19]]).abs().max() < 1e-5
    nothing = RayRenderer(function).cropped(box((0.1, 0.1, 0.1), (5.0, 5.0, 5.0))).render(camera)
    assert nothing.alpha is not None and nothing.alpha.sum() == 0 and nothing.depth.isinf().all()


@pytest.mark.parametrize("lens", ["perspective", "equirectangular"])
def test_normals_of_a_ball_point_away_from_its_centre(lens: str) -> None:
    camera = views(1, 96, 96)[0]
    if lens == "equirectangular":
        camera = replace(camera.resize(512, 256), lens=replace(camera.lens, kind=lens))
    frame = RayRenderer(ball).render(camera)
    # The formula also meets the ball behind the camera.
    frame = replace(frame, depth=torch.where(frame.depth > 0, frame.depth, torch.inf))
    normals = normals_from_depth(frame.depth, camera)
    rays = camera.rays()
    seen = frame.depth.isfinite().flatten()
    x = rays.rays_o[seen] + frame.depth.flatten()[seen, None] * rays.rays_d[seen]
    found = normals.reshape(-1, 3)[seen]
    torch.testing.assert_close(found.norm(dim=1), torch.ones(len(found)))
    cosine = (found * x / RADIUS).sum(1)
    facing = (x / RADIUS * -rays.rays_d[seen]).sum(1) > 0.35  # the rim has no neighbours on one side
    assert cosine[facing].min() > 0.97 and cosine[facing].mean() > 0.999 and facing.sum() > 300
    assert normals.reshape(-1, 3)[~seen].abs().sum() == 0
    assert color_normals(normals, frame.alpha).reshape(-1, 3)[~seen].abs().sum() == 0


def test_normals_keep_a_step_sharp() -> None:
    """Two walls facing the camera, one behind the other: no pixel shows the jump as a surface."""
    camera = Camera.perspective(40, 30, 50.0, torch.eye(4, dtype=F64)[:3])
    rays_d = camera.rays().rays_d.reshape(30, 40, 3)
    z = torch.where(torch.arange(40) < 20, 1.0, 3.0).expand(30, 40)
    normals = normals_from_depth(z / rays_d[..., 2], camera)
    assert normals[..., 2].max() < -0.98
