"""The choice of frame: laws it must obey, and captures whose right answer is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nerfstudio_ext.cameras import Camera, Cameras
from nerfstudio_ext.progress import SilentProgress
from nerfstudio_ext.scenes.boxes import choose_frame, estimate_up, rotation_to_z
from nerfstudio_ext.scenes.model import SceneFrame
from nerfstudio_ext.scenes.posed_capture import FrameHints
from tests.scenes.builders import look_at, ring


def cameras_at(poses_gl: np.ndarray) -> Cameras:
    K = torch.tensor([[400.0, 0, 320], [0, 400, 240], [0, 0, 1]], dtype=torch.float64)
    return Cameras([Camera(640, 480, K, torch.from_numpy(pose[:3] * [1, -1, -1, 1])) for pose in poses_gl])


def ball(n: int, radius: float, centre: tuple[float, float, float] = (0, 0, 0), seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    directions = rng.normal(size=(n, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return (directions * radius * rng.random((n, 1)) ** (1 / 3) + np.array(centre)).astype(np.float32)


def in_training(points: np.ndarray, frame: SceneFrame) -> np.ndarray:
    return frame.scale * points @ frame.rotation.numpy().T + frame.translation.numpy()


def centres(cameras: Cameras, frame: SceneFrame) -> np.ndarray:
    return frame.to_training(cameras).c2w[:, :, 3].numpy()


ROOM = np.concatenate([ball(3000, 0.8, (0.3, 0.2, 0.1)), 6 * np.sign(ball(800, 1, seed=2))])
"""A subject, and a room around it whose corners lie 6 units out."""


def test_an_object_on_a_turntable_of_cameras() -> None:
    cameras = cameras_at(ring(40, radius=3, target=(0.3, 0.2, 0.1)))
    frame = choose_frame(cameras, ROOM.astype(np.float32), FrameHints())
    subject = in_training(ROOM[:3000], frame)
    assert np.abs(np.median(subject, 0)).max() < 0.1
    assert (np.abs(subject).max(1) < 0.5).mean() > 0.9
    distance = np.linalg.norm(centres(cameras, frame), axis=1)
    assert 0.3 <= np.median(distance) <= 1.0
    assert (np.abs(centres(cameras, frame)) < frame.aabb_scale / 2).all()
    everything = in_training(ROOM, frame)
    assert (np.abs(everything).max(1) <= frame.aabb_scale / 2).mean() >= 0.97
    assert frame.aabb_scale == 4 and torch.equal(frame.rotation, torch.eye(3, dtype=torch.float64))


@given(st.floats(0.01, 1000), st.tuples(*[st.floats(-50, 50)] * 3), st.floats(0, 6.28))
@settings(max_examples=20, deadline=None)
def test_the_choice_moves_with_the_capture(scale: float, shift: tuple[float, float, float], turn: float) -> None:
    """Units, origin and heading of a file are arbitrary: the training frame must not depend on the first two."""
    cameras = cameras_at(ring(12))
    frame = choose_frame(cameras, ROOM.astype(np.float32), FrameHints())
    move = torch.tensor(shift, dtype=torch.float64)
    moved = cameras.transformed(torch.eye(3, dtype=torch.float64), move, scale)
    other = choose_frame(moved, (scale * ROOM + move.numpy()).astype(np.float32), FrameHints())
    assert other.aabb_scale == frame.aabb_scale
    assert other.scale * scale == pytest.approx(frame.scale, rel=1e-3)
    assert np.allclose(centres(moved, other), centres(cameras, frame), atol=2e-3)


def test_a_camera_far_away_is_told_and_shrinks_nothing() -> None:
    poses = ring(20)
    frame = choose_frame(cameras_at(poses), ROOM.astype(np.float32), FrameHints())
    far = np.concatenate([poses, look_at(np.array([1e6, 0, 0]), np.zeros(3))[None]])
    progress = SilentProgress()
    other = choose_frame(cameras_at(far), ROOM.astype(np.float32), FrameHints(), progress)
    assert other.scale == pytest.approx(frame.scale, rel=0.05) and other.aabb_scale == frame.aabb_scale
    assert "1 of 21 cameras are over 20 times as far out" in progress.warnings[0]


def test_some_points_far_away_shrink_nothing() -> None:
    cameras = cameras_at(ring(20))
    frame = choose_frame(cameras, ROOM.astype(np.float32), FrameHints())
    far = np.concatenate([ROOM, 1e5 * ball(60, 1)]).astype(np.float32)
    other = choose_frame(cameras, far, FrameHints())
    assert other.scale == pytest.approx(frame.scale, rel=0.05) and other.aabb_scale == frame.aabb_scale


def test_cameras_that_look_outward_have_the_room_around_them() -> None:
    poses = ring(16, radius=0.3, height=0.0)
    poses[:, :3, 0] *= -1
    poses[:, :3, 2] *= -1  # turned by 180 degrees about the vertical
    room = 5 * np.random.default_rng(0).uniform(-1, 1, (4000, 3))
    room[np.arange(4000), np.arange(4000) % 3] = 5 * np.sign(room[np.arange(4000), np.arange(4000) % 3])
    frame = choose_frame(cameras_at(poses), room.astype(np.float32), FrameHints())
    assert np.abs(centres(cameras_at(poses), frame)).max() < 0.1
    assert np.abs(in_training(room, frame)).max() <= frame.aabb_scale / 2 and frame.aabb_scale <= 2


def test_cameras_side_by_side_get_what_lies_ahead() -> None:
    poses = np.stack([look_at(np.array([x, -4.0, 1.0]), np.array([x, 0.0, 1.0])) for x in np.linspace(-1, 1, 9)])
    wall = np.random.default_rng(0).uniform([-2, 0, 0], [2, 0.5, 2], (2000, 3))
    frame = choose_frame(cameras_at(poses), wall.astype(np.float32), FrameHints())
    where = np.median(in_training(wall, frame), 0)
    assert np.linalg.norm(where) < 0.2
    assert (np.abs(in_training(wall, frame)).max(1) < frame.aabb_scale / 2).all()
    assert (np.abs(centres(cameras_at(poses), frame)) < frame.aabb_scale / 2).all()


def test_without_points_the_view_tells_the_size() -> None:
    cameras = cameras_at(ring(20, radius=4, height=0.5, target=(1, 2, 3)))
    cut_out = choose_frame(cameras, None, FrameHints(is_object=True))
    target = in_training(np.array([[1.0, 2, 3]]), cut_out)
    assert np.abs(target).max() < 1e-6 and cut_out.aabb_scale == 1
    radius = np.hypot(4, 0.5) * 240 / 400  # half the height of the picture at the distance of the object
    assert cut_out.scale == pytest.approx(0.5 / radius, rel=0.06)
    photos = choose_frame(cameras, None, FrameHints())
    assert photos.aabb_scale == 8 and np.linalg.norm(centres(cameras, photos), axis=1).max() <= 1


def test_depth_ranges_stand_in_for_points() -> None:
    poses = np.stack([look_at(np.array([x, -4.0, 1.0]), np.array([x, 0.0, 1.0])) for x in np.linspace(-1, 1, 9)])
    near_far = np.tile([2.0, 40.0], (9, 1))
    frame = choose_frame(cameras_at(poses), None, FrameHints(near_far=near_far))
    near, far = in_training(np.array([[0, -2.0, 1], [0, 30.0, 1]]), frame)
    assert np.abs(near).max() < 1
    assert 8 <= frame.aabb_scale <= 64 and np.abs(far).max() < frame.aabb_scale / 2


def test_one_place_for_all_cameras_is_told() -> None:
    progress = SilentProgress()
    frame = choose_frame(cameras_at(np.stack([ring(1)[0]] * 5)), None, FrameHints(), progress)
    assert "all cameras stand at one place" in progress.warnings[0] and np.isfinite(frame.scale)


def test_a_stated_box_is_kept_with_points() -> None:
    frame = choose_frame(cameras_at(ring(9)), ROOM.astype(np.float32), FrameHints(aabb_scale=16))
    assert frame.aabb_scale == 16


@given(st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_up_is_found_in_any_orientation(seed: int) -> None:
    rng = np.random.default_rng(seed)
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    turn *= np.linalg.det(turn)
    poses = ring(12, height=rng.uniform(-1, 2))
    poses[:, :3] = turn @ poses[:, :3]
    up = estimate_up(cameras_at(poses))
    assert up @ turn[:, 2] > 0.999
    to_z = rotation_to_z(up)
    assert np.allclose(to_z @ up, [0, 0, 1]) and np.allclose(to_z @ to_z.T, np.eye(3)) and np.linalg.det(to_z) > 0


def test_up_of_cameras_side_by_side_is_their_mean() -> None:
    poses = np.stack([look_at(np.array([x, -4.0, 0.0]), np.array([x, 0.0, 0.0])) for x in (-1.0, 0.0, 1.0)])
    assert estimate_up(cameras_at(poses)) == pytest.approx([0, 0, 1])


@pytest.mark.parametrize("up", [(0, 0, -1), (0, 0, 1), (1, 0, 0), (0, -1, 0)])
def test_rotation_to_z_has_no_singular_axis(up: tuple[float, float, float]) -> None:
    turn = rotation_to_z(np.array(up, dtype=float))
    assert np.allclose(turn @ up, [0, 0, 1]) and np.linalg.det(turn) == pytest.approx(1)
