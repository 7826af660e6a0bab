"""Laws of cameras: reductions, crops and world moves commute with projection; batches equal single cameras."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nerfstudio_ext.cameras import Camera, Cameras
from nerfstudio_ext.errors import UserError
from nerfstudio_ext.lenses import Lens
from nerfstudio_ext.scenes.model import SceneFrame
from nerfstudio_ext.scenes.posed_capture import from_opengl
from tests.cameras.test_lenses import LENSES, camera_with, random_pose

X = torch.tensor([[0.2, -0.1, 3.0], [-0.6, 0.5, 4.0], [0.0, 0.0, 2.0]], dtype=torch.float64)


def seen_points(camera: Camera) -> torch.Tensor:
    """`X`, given in the camera's own axes, in the world."""
    return X @ camera.c2w[:, :3].T + camera.c2w[:, 3]


@pytest.mark.parametrize("name", LENSES)
@pytest.mark.parametrize("size", [(320, 240), (213, 480), (1280, 961)])
def test_resize_commutes_with_projection(name: str, size: tuple[int, int]) -> None:
    camera = camera_with(LENSES[name], random_pose(1))
    small = camera.resize(*size)
    scale = torch.tensor([size[0] / camera.width, size[1] / camera.height], dtype=torch.float64)
    uv, _ = camera.project(seen_points(camera))
    assert torch.allclose(small.project(seen_points(camera))[0], uv * scale, atol=1e-9)
    assert torch.allclose(small.rays_through(uv * scale).rays_d, camera.rays_through(uv).rays_d, atol=1e-9)


@pytest.mark.parametrize("name", [n for n in LENSES if n != "equirectangular"])
def test_crop_commutes_with_projection(name: str) -> None:
    camera = camera_with(LENSES[name], random_pose(2))
    part = camera.crop(100, 60, 200, 150)
    uv, _ = camera.project(seen_points(camera))
    shift = torch.tensor([100.0, 60.0], dtype=torch.float64)
    assert torch.allclose(part.project(seen_points(camera))[0], uv - shift, atol=1e-9)
    assert torch.allclose(part.rays_through(uv - shift).rays_d, camera.rays_through(uv).rays_d, atol=1e-9)
    assert (part.width, part.height) == (200, 150)


def test_impossible_sizes_and_crops_are_refused() -> None:
    with pytest.raises(UserError, match="camera size 0x5 is not positive"):
        camera_with(Lens()).resize(0, 5)
    with pytest.raises(UserError, match="equirectangular camera cannot be cropped"):
        camera_with(Lens("equirectangular")).crop(0, 0, 5, 5)


@given(st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_opengl_and_opencv_axes_are_each_others_inverse(seed: int) -> None:
    pose = random_pose(seed)
    assert torch.equal(from_opengl(from_opengl(pose)), pose)
    turned = from_opengl(pose)
    assert torch.linalg.det(turned[:, :3]) == pytest.approx(1)
    assert torch.equal(turned[:, [0, 3]], pose[:, [0, 3]]) and torch.equal(turned[:, 1:3], -pose[:, 1:3])


def test_an_opengl_camera_looks_along_minus_z() -> None:
    camera = camera_with(Lens(), from_opengl(torch.eye(3, 4, dtype=torch.float64)))
    up_ahead = torch.tensor([[0.0, 1.0, -5.0]], dtype=torch.float64)
    uv, depth_z = camera.project(up_ahead)
    assert depth_z == 5 and uv[0, 1] < 231.5  # above the centre: rows count downwards


def test_many_cameras_equal_single_ones_with_mixed_lenses() -> None:
    cameras = Cameras([camera_with(lens, random_pose(i)) for i, lens in enumerate(LENSES.values())])
    cam_ids = torch.randint(len(cameras), (300,))
    uv = torch.rand(300, 2) * torch.tensor([640, 480])
    together = cameras.rays_through(cam_ids, uv, t_min=0.25)
    for i, camera in enumerate(cameras):
        alone = camera.rays_through(uv[cam_ids == i])
        assert torch.allclose(together.rays_d[cam_ids == i], alone.rays_d, atol=1e-6)
        assert torch.equal(together.rays_o[cam_ids == i], alone.rays_o)
    assert (together.t_min == 0.25).all()


@given(st.integers(0, 10_000), st.floats(0.05, 20))
@settings(max_examples=25, deadline=None)
def test_moving_world_and_camera_together_changes_no_pixel(seed: int, scale: float) -> None:
    move = random_pose(seed)
    frame = SceneFrame(move[:, :3], move[:, 3], scale)
    cameras = Cameras([camera_with(LENSES["opencv barrel"], random_pose(seed + 1))])
    moved = frame.to_training(cameras)
    x = seen_points(cameras[0])
    uv, depth_z = cameras[0].project(x)
    uv_moved, depth_moved = moved[0].project(scale * x @ move[:, :3].T + move[:, 3])
    assert torch.allclose(uv, uv_moved, atol=1e-7)
    assert torch.allclose(scale * depth_z, depth_moved)
    assert torch.allclose(frame.to_source(moved).c2w, cameras.c2w, atol=1e-9)


def test_selection_and_slices_keep_order() -> None:
    cameras = Cameras([camera_with(Lens(), random_pose(i)) for i in range(5)])
    assert torch.equal(cameras.select((3, 1)).c2w, cameras.c2w[[3, 1]])
    assert torch.equal(cameras[1:4].c2w, cameras.c2w[1:4])
    assert len(Cameras([])) == 0


def test_perspective_camera_has_the_field_of_view_asked_for() -> None:
    camera = Camera.perspective(300, 200, 60.0, torch.eye(3, 4))
    top = camera.rays_through(torch.tensor([[150.0, 0.0]], dtype=torch.float64)).rays_d[0]
    assert torch.rad2deg(torch.atan2(-top[1], top[2])).item() == pytest.approx(30, abs=1e-5)
