"""Laws of generated paths: what orbits keep, where spirals look, which points curves pass."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nerfstudio_ext.camera_paths import CameraPath, from_views, interpolate, orbit, spiral
from nerfstudio_ext.camera_paths.curves import KeyCurve, matrices_from_quaternions, quaternions_from_matrices
from nerfstudio_ext.camera_paths.generate import short_tour
from nerfstudio_ext.camera_paths.layout import focus_point, layout_of, look_at
from nerfstudio_ext.cameras import Camera, Cameras
from nerfstudio_ext.errors import UserError
from nerfstudio_ext.lenses import Lens

UP = np.array([0.0, 0.0, 1.0])


def ring(
    n: int = 20, radius: float = 2.0, height: float = 0.7, center=(0.3, -0.2, 0.1), arc: float = 2 * math.pi
) -> Cameras:
    """Cameras on a circle (or part of one) around a point, all looking at it."""
    center = np.array(center)
    step = arc / n if arc >= 2 * math.pi else arc / (n - 1)
    eyes = [center + [radius * math.cos(i * step), radius * math.sin(i * step), height] for i in range(n)]
    return Cameras([Camera.perspective(80, 60, 50.0, look_at(eye, center, UP)) for eye in eyes])


def wall(n: int = 5) -> Cameras:
    """Forward-facing: a grid of cameras that all look along +Y."""
    eyes = [np.array([0.2 * i, -3.0, 0.2 * j]) for i in range(n) for j in range(n)]
    return Cameras([Camera.perspective(80, 60, 50.0, look_at(e, e + [0, 1, 0], UP)) for e in eyes])


def centers(path: CameraPath) -> np.ndarray:
    return path.cameras.c2w[:, :, 3].numpy()


def is_proper(path: CameraPath) -> bool:
    rotation = path.cameras.c2w[:, :, :3]
    eye = torch.eye(3, dtype=torch.float64).expand_as(rotation)
    return torch.allclose(rotation @ rotation.mT, eye, atol=1e-9) and bool((torch.linalg.det(rotation) > 0).all())


def test_orbit_keeps_radius_and_height_and_looks_at_the_centre() -> None:
    path = orbit(ring(), seconds=2, fps=20)
    center = np.array([0.3, -0.2, 0.1])
    offsets = centers(path) - center
    np.testing.assert_allclose(np.linalg.norm(offsets[:, :2], axis=1), 2.0, rtol=1e-6)
    np.testing.assert_allclose(offsets[:, 2], 0.7, rtol=1e-6)
    for camera in path.cameras:
        uv, depth = camera.project(torch.from_numpy(center)[None])
        np.testing.assert_allclose(uv[0].numpy(), [40, 30], atol=1e-6)
        assert depth > 0
    assert is_proper(path)
    # Level: the image's x axis is horizontal, and up is up.
    assert path.cameras.c2w[:, 2, 0].abs().max() < 1e-12
    assert path.cameras.c2w[:, 2, 1].max() < 0


def test_orbit_is_a_closed_loop_of_equal_steps_with_the_cameras_field_of_view() -> None:
    path = orbit(ring(), seconds=2, fps=20)
    assert len(path) == 40 and path.fps == 20 and path.seconds == 2 and path.is_loop and not path.notes
    around = np.concatenate([centers(path), centers(path)[:1]])
    steps = np.linalg.norm(np.diff(around, axis=0), axis=1)
    np.testing.assert_allclose(steps, steps[0], rtol=1e-9)
    assert steps.sum() == pytest.approx(2 * math.pi * 2, rel=2e-3)
    assert path.size == (80, 60)
    assert path.cameras[0].K[1, 1] == pytest.approx(30 / math.tan(math.radians(25)))


def test_orbit_ignores_a_few_strays() -> None:
    cameras = list(ring(30))
    cameras[3] = Camera.perspective(80, 60, 50.0, look_at(np.array([9.0, 9, 9]), np.array([20.0, 0, 5]), UP))
    offsets = centers(orbit(Cameras(cameras))) - np.array([0.3, -0.2, 0.1])
    np.testing.assert_allclose(np.linalg.norm(offsets, axis=1), math.hypot(2, 0.7), rtol=0.02)


def test_orbit_takes_a_full_turn_only_where_cameras_saw_it() -> None:
    one_side = orbit(ring(15, arc=math.radians(100)))
    assert one_side.is_loop and "arc" in one_side.notes[0] and "one side" in one_side.notes[0]
    offsets = centers(one_side) - np.array([0.3, -0.2, 0.1])
    azimuths = np.degrees(np.arctan2(offsets[:, 1], offsets[:, 0]))
    assert azimuths.min() > 0 and azimuths.max() < 100
    np.testing.assert_allclose(np.linalg.norm(offsets, axis=1), math.hypot(2, 0.7), rtol=1e-6)
    assert not orbit(ring(15, arc=math.radians(100)), sweep_deg=360).notes


def test_orbit_of_a_forward_facing_capture_is_a_gentle_arc_and_says_so() -> None:
    path = orbit(wall())
    assert "all cameras look the same way" in path.notes[0]
    forward = path.cameras.c2w[:, :, 2].numpy()
    assert np.degrees(np.arccos(forward @ [0, 1, 0])).max() < 15
    assert np.abs(centers(path) - [0.4, -3.0, 0.4]).max() < 1.0


def test_orbit_of_several_sweeps_stays_on_the_larger_one() -> None:
    low = list(ring(24, radius=2.0, height=-0.2, arc=math.radians(60)))
    high = list(ring(20, radius=1.0, height=0.9, arc=math.radians(110)))
    path = orbit(Cameras(low + high))
    offsets = centers(path) - np.array([0.3, -0.2, 0.1])
    np.testing.assert_allclose(np.linalg.norm(offsets, axis=1), math.hypot(2, 0.2), rtol=0.01)
    # The high sweep went on to 110 degrees; at this distance nobody stood beyond 60.
    azimuths = np.degrees(np.arctan2(offsets[:, 1], offsets[:, 0]))
    assert -1 < azimuths.min() < 10 and 50 < azimuths.max() < 72


def test_orbit_turns_on_the_spot_where_cameras_look_outwards() -> None:
    eyes = [0.1 * np.array([math.cos(a), math.sin(a), 0]) for a in np.linspace(0, 6, 12)]
    outward = Cameras([Camera.perspective(80, 60, 50.0, look_at(e, 50 * e, UP)) for e in eyes])
    path = orbit(outward)
    assert "on the spot" in path.notes[0]
    assert np.ptp(centers(path), axis=0).max() < 1e-9
    assert is_proper(path)


def test_portrait_photos_give_a_landscape_video_that_shows_as_much() -> None:
    portrait = Cameras([Camera.perspective(60, 80, 60.0, c.c2w) for c in ring()])
    path = orbit(portrait, size=(160, 90))
    short_side_before = 30 / float(portrait[0].K[0, 0])
    assert 45 / float(path.cameras[0].K[1, 1]) == pytest.approx(short_side_before)


def test_odd_photo_sizes_are_made_even() -> None:
    odd = Cameras([Camera.perspective(81, 61, 50.0, c.c2w) for c in ring()])
    assert orbit(odd).size == (80, 60)


def test_distorted_and_360_cameras_give_a_pinhole_orbit() -> None:
    for lens in (Lens("opencv", (0.1,)), Lens("equirectangular")):
        cameras = Cameras([Camera(c.width, c.height, c.K, c.c2w, lens) for c in ring()])
        assert orbit(cameras).cameras[0].lens.kind == "perspective"


@pytest.mark.parametrize("cameras", [ring(), wall()], ids=["ring", "wall"])
def test_spiral_looks_at_one_point_and_closes(cameras: Cameras) -> None:
    path = spiral(cameras, seconds=4, fps=24)
    origins = centers(path)
    forward = path.cameras.c2w[:, :, 2].numpy()
    target = focus_point(origins, forward)
    misses = np.linalg.norm(np.cross(target - origins, forward), axis=1)
    assert misses.max() < 0.02 * np.linalg.norm(target - origins, axis=1).mean()
    steps = np.linalg.norm(np.diff(np.concatenate([origins, origins[:1]]), axis=0), axis=1)
    assert steps.max() < 2 * steps.mean()
    assert is_proper(path) and path.is_loop


def test_spiral_of_a_wall_stays_in_front_of_it() -> None:
    assert np.abs(centers(spiral(wall())) - [0.4, -3.0, 0.4]).max() < 1.0


@given(st.integers(0, 2**32 - 1), st.booleans(), st.integers(3, 9))
@settings(max_examples=40, deadline=None)
def test_curves_pass_through_their_keys(seed: int, is_loop: bool, n_keys: int) -> None:
    random = np.random.default_rng(seed)
    positions = random.normal(size=(n_keys, 3))
    rotations = matrices_from_quaternions(random.normal(size=(n_keys, 4)))
    focals = random.normal(size=n_keys)
    curve = KeyCurve(positions, rotations, focals, is_loop=is_loop)
    assert len(curve.knots) == n_keys + is_loop
    at = curve.at(curve.knots[:n_keys])
    for found, expected in zip(at, (positions, rotations, focals), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-6)
    if is_loop:
        np.testing.assert_allclose(curve.at(curve.knots[-1:])[1][0], rotations[0], atol=1e-6)


@pytest.mark.parametrize("is_loop", [False, True])
def test_curves_are_smooth_at_their_keys(is_loop: bool) -> None:
    cameras = ring(7)
    c2w = cameras.c2w.numpy()
    curve = KeyCurve(c2w[:, :, 3], c2w[:, :, :3], np.zeros(7), is_loop=is_loop)
    inner = curve.knots[1:-1]
    h = 1e-5
    for part in (0, 1):
        before = (curve.at(inner)[part] - curve.at(inner - h)[part]) / h
        after = (curve.at(inner + h)[part] - curve.at(inner)[part]) / h
        np.testing.assert_allclose(before, after, atol=2e-2 * np.abs(before).max())


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_quaternions_and_matrices_are_inverse(seed: int) -> None:
    q = np.random.default_rng(seed).normal(size=(5, 4))
    q /= np.linalg.norm(q, axis=1, keepdims=True)
    back = quaternions_from_matrices(matrices_from_quaternions(q))
    np.testing.assert_allclose(np.abs(np.sum(q * back, 1)), 1, atol=1e-9)


def test_half_turns_have_quaternions_too() -> None:
    half_turns = np.stack([np.diag(d) for d in ([1.0, -1, -1], [-1.0, 1, -1], [-1.0, -1, 1], [1.0, 1, 1])])
    np.testing.assert_allclose(matrices_from_quaternions(quaternions_from_matrices(half_turns)), half_turns, atol=1e-12)


def test_interpolation_has_uniform_speed_and_meets_its_end_views() -> None:
    random = np.random.default_rng(3)
    eyes = np.cumsum(random.uniform(0.2, 1.5, (6, 3)), axis=0)
    views = Cameras([Camera.perspective(80, 60, 50.0, look_at(e, e + [0, 1, 0], UP)) for e in eyes])
    path = interpolate(views, seconds=10, fps=30)
    steps = np.linalg.norm(np.diff(centers(path), axis=0), axis=1)
    assert len(path) == 300 and steps.max() / steps.min() < 1.02
    np.testing.assert_allclose(path.cameras.c2w[0], views.c2w[0], atol=1e-9)
    np.testing.assert_allclose(path.cameras.c2w[-1], views.c2w[-1], atol=1e-9)
    for view in views.c2w.numpy():
        nearest = np.linalg.norm(centers(path) - view[:, 3], axis=1).min()
        assert nearest <= steps.max() / 2 + 1e-9
    assert is_proper(path) and len(path.keys) == 6


def test_interpolated_loop_closes_without_repeating_its_first_frame() -> None:
    path = interpolate(ring(6), seconds=2, fps=30, is_loop=True)
    around = np.concatenate([centers(path), centers(path)[:1]])
    steps = np.linalg.norm(np.diff(around, axis=0), axis=1)
    assert steps.max() / steps.min() < 1.15
    # Through six views on a circle the curve stays near the circle.
    radius = np.linalg.norm((centers(path) - [0.3, -0.2, 0.1])[:, :2], axis=1)
    assert np.abs(radius - 2).max() < 0.06


def test_interpolation_blends_the_field_of_view() -> None:
    poses = ring(3).c2w
    views = Cameras(
        [Camera.perspective(80, 60, fov, pose) for fov, pose in zip((30.0, 50.0, 70.0), poses, strict=True)]
    )
    focal = interpolate(views, seconds=2).cameras.intrinsics[:, 1]
    assert focal[0] == pytest.approx(30 / math.tan(math.radians(15))) and bool((focal.diff() < 0).all())


def test_equal_neighbours_count_once() -> None:
    views = list(ring(4))
    doubled = interpolate(Cameras([v for view in views for v in (view, view)]), seconds=2)
    single = interpolate(Cameras(views), seconds=2)
    assert torch.allclose(doubled.cameras.c2w, single.cameras.c2w)


def test_a_short_tour_goes_round() -> None:
    shuffled = ring(8).select([0, 4, 2, 6, 1, 5, 3, 7])
    tour = shuffled.select(short_tour(shuffled)).c2w[:, :, 3]
    steps = tour.diff(dim=0).norm(dim=1)
    assert float(steps.max() / steps.min()) < 1.001


def test_views_keep_lens_size_and_name() -> None:
    cameras = Cameras([Camera(81, 61, c.K, c.c2w, Lens("opencv", (0.1, 0.01))) for c in ring(3)])
    path = from_views(cameras, ["a/1.jpg", "a/2.jpg", "a/3.jpg"], kind="test views")
    assert path.size == (81, 61) and path.names == ("a/1.jpg", "a/2.jpg", "a/3.jpg")
    assert path.cameras[1].lens == Lens("opencv", (0.1, 0.01))


def test_another_size_keeps_the_vertical_field_of_view_and_square_pixels() -> None:
    K = torch.tensor([[50.0, 0, 41], [0, 50, 28], [0, 0, 1]], dtype=torch.float64)
    camera = Camera(80, 60, K, ring(1).c2w[0])
    wide = CameraPath(Cameras([camera])).with_size(240, 120).cameras[0]
    assert wide.K[1, 1] == wide.K[0, 0] == 100
    # The principal point stays as far from the image centre, counted in image heights.
    assert (wide.K[0, 2] - 120) / 120 == pytest.approx(1 / 60) and (wide.K[1, 2] - 60) / 120 == pytest.approx(-2 / 60)


def test_covered_arc_spans_the_cameras() -> None:
    middle, width = layout_of(ring(11, arc=math.radians(60))).covered()
    assert math.degrees(width) == pytest.approx(60, abs=0.5) and math.degrees(middle) == pytest.approx(30, abs=0.5)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: orbit(ring(), fps=0), "0 frames per second"),
        (lambda: orbit(ring(), fps=float("nan")), "nan frames per second"),
        (lambda: orbit(ring(), seconds=0), "0 seconds"),
        (lambda: orbit(ring(), seconds=float("inf")), "inf seconds"),
        (lambda: orbit(ring(), seconds=1e9), "frames, at most"),
        (lambda: orbit(ring(), seconds=0.001), "no frames"),
        (lambda: orbit(ring(), size=(0, 10)), "0x10"),
        (lambda: orbit(ring(), fov_y_deg=180), "180 degrees"),
        (lambda: orbit(ring(), sweep_deg=-1), "-1 degrees"),
        (lambda: orbit(Cameras([])), "no cameras"),
        (lambda: orbit(ring(), up=(0.0, 0.0, 0.0)), "up direction"),
        (lambda: spiral(ring(), radius=float("nan")), "radius nan"),
        (lambda: interpolate(Cameras([])), "0 different view"),
        (lambda: interpolate(ring(1)), "1 different view"),
        (lambda: from_views(Cameras([])), "no frames"),
        (lambda: CameraPath(ring(2), fps=24, names=("a",)), "2 cameras but 1 names"),
        (lambda: CameraPath(ring(2)).with_size(100_000, 10), "100000x10"),
        (lambda: CameraPath(ring(2).transformed(torch.eye(3).double(), torch.full((3,), math.nan), 1)), "not finite"),
    ],
)  # fmt: skip
def test_impossible_requests_are_refused(call, words: str) -> None:
    with pytest.raises(UserError, match=words):
        call()
