"""Where a visit begins and where a click on a camera leads."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from nerfstudio_ext.cameras import Camera, Cameras
from nerfstudio_ext.viewer.training_views import (
    THUMBNAIL_PX,
    evenly,
    first_camera,
    focus_point,
    stand_of,
    thumbnail,
    vertical_fov,
)
from tests.viewer.fakes import look_from, ring_of_cameras


def test_the_focus_is_what_the_cameras_look_at():
    assert torch.allclose(focus_point(ring_of_cameras()), torch.zeros(3).double(), atol=1e-9)


def test_the_focus_moves_with_the_world():
    cameras = ring_of_cameras()
    rotation = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64)).Q
    rotation = rotation * torch.linalg.det(rotation).sign()
    shift = torch.tensor([3.0, -2.0, 7.0], dtype=torch.float64)
    moved = cameras.transformed(rotation, shift, 2.5)
    assert torch.allclose(focus_point(moved), shift, atol=1e-8)


@pytest.mark.parametrize("n", [0, 1])
def test_few_cameras_have_a_focus(n):
    assert torch.isfinite(focus_point(ring_of_cameras()[:n])).all()


def test_parallel_cameras_look_ahead():
    poses = [look_from((float(x), 0.0, 0.0), (float(x), 5.0, 0.0)) for x in range(5)]
    focus = focus_point(Cameras([Camera.perspective(40, 30, 50.0, pose) for pose in poses]))
    assert focus[0] == pytest.approx(2.0) and focus[1] > 0


def test_cameras_that_look_outwards_have_their_focus_before_them():
    angles = [2 * math.pi * i / 8 for i in range(3)]
    poses = [look_from((math.cos(a), math.sin(a), 0.0), (3 * math.cos(a), 3 * math.sin(a), 0.0)) for a in angles]
    cameras = Cameras([Camera.perspective(40, 30, 50.0, pose) for pose in poses])
    to_focus = focus_point(cameras) - cameras.c2w[:, :, 3].mean(0)
    assert float(to_focus @ cameras.c2w[:, :, 2].mean(0)) > 0


def test_a_stand_looks_along_its_cameras_axis():
    cameras = ring_of_cameras()
    index = first_camera(cameras, focus_point(cameras))
    stand = stand_of(cameras[index], focus_point(cameras))
    axis = torch.nn.functional.normalize(stand.look_at - stand.position, dim=0)
    assert torch.allclose(axis, cameras[index].c2w[:, 2], atol=1e-9)
    assert torch.allclose(stand.look_at, torch.zeros(3).double(), atol=1e-9), "orbits about the subject"
    assert math.degrees(stand.fov_y) == pytest.approx(50.0)


def test_a_camera_that_looks_away_still_gets_a_usable_stand():
    camera = Camera.perspective(40, 30, 50.0, look_from((2.0, 0.0, 0.0), (4.0, 0.0, 0.0)))
    stand = stand_of(camera, torch.zeros(3).double())
    assert float((stand.look_at - stand.position) @ camera.c2w[:, 2]) >= 0.25


def test_field_of_view_is_bounded():
    wide = Camera(100, 100, torch.tensor([[1.0, 0, 50], [0, 1.0, 50], [0, 0, 1]]).double(), look_from((1.0, 0.0, 0.0)))
    assert vertical_fov(wide) <= math.radians(120)


def test_thumbnails_are_small_and_opaque():
    assert max(thumbnail(np.zeros((300, 400, 3), np.uint8)).shape) <= THUMBNAIL_PX
    clear = thumbnail(np.zeros((50, 40, 4), np.uint8))
    assert clear.shape == (50, 40, 3) and (clear == 255).all()


@pytest.mark.parametrize(("n", "limit"), [(0, 5), (3, 5), (1000, 100)])
def test_evenly(n, limit):
    chosen = evenly(n, limit)
    assert len(chosen) == min(n, limit) == len(set(chosen))
    if n > limit:
        assert chosen[0] == 0 and chosen[-1] == n - 1
