"""transforms.json: world upright, axes and lens as the reader of scenes understands them, several cameras."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from nerfstudio_ext.scenes import load_scene
from nerfstudio_ext.scenes.sfm_solution import MatchSummary, PoseSolution, SolvedCamera, SolvedPhoto
from nerfstudio_ext.scenes.write_transforms import camera_to_world, upright_rotation, write_ply, write_transforms
from tests.poses.synthetic_room import look_at


def random_rotation(seed: int) -> np.ndarray:
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    return q * np.linalg.det(q)


def ring(n: int = 12, spread_deg: float = 300.0) -> np.ndarray:
    """Level cameras [n,3,4] on an arc, looking slightly down at the middle; world z up."""
    poses = []
    for angle in np.radians(np.linspace(-spread_deg / 2, spread_deg / 2, n)):
        poses.append(look_at(np.array([3 * np.sin(angle), -3 * np.cos(angle), 1.5]), np.array([0.0, 0.0, 0.5])))
    return np.stack(poses)


def solution_of(c2w: np.ndarray, cameras: dict[int, SolvedCamera], camera_of: list[int]) -> PoseSolution:
    photos = []
    for i, pose in enumerate(c2w):
        inverse = camera_to_world(pose)  # the inverse of a rigid transform is its own kind
        photos.append(SolvedPhoto(f"{i:03d}.png", 100 + i, camera_of[i], inverse, 10, 0.5))
    rng = np.random.default_rng(1)
    points = np.column_stack([rng.normal(size=(30, 3)), np.full((30, 3), 128), np.full(30, 0.5), np.arange(30) % 5 + 1])
    return PoseSolution(
        cameras=cameras, photos=tuple(photos), points=points, error_px=0.5, n_observations=100, baseline_share=1.0,
        n_models=1, principal_point_refined=True, matches=MatchSummary((), (), 0.0), attempts=(), seconds={},
        cpu_seconds={}, model_dir=Path(), version="",
    )  # fmt: skip


@given(seed=st.integers(0, 1000), spread=st.sampled_from([20.0, 90.0, 300.0]))
def test_up_is_found_in_any_frame(seed: int, spread: float) -> None:
    turn = random_rotation(seed)
    c2w = turn @ ring(spread_deg=spread)
    rotation = upright_rotation(c2w)
    assert np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(rotation) == pytest.approx(1)
    # However cameras look down (18 degrees here), their x axes are horizontal; a narrow arc leaves little to tell.
    tilt = np.degrees(np.arccos(np.clip((rotation @ turn @ [0, 0, 1])[2], -1, 1)))
    assert tilt < {20.0: 15, 90.0: 1, 300.0: 0.1}[spread]


def test_cameras_hanging_upside_down_are_righted() -> None:
    c2w = np.diag([1.0, -1.0, -1.0]) @ ring()
    assert np.allclose(upright_rotation(c2w) @ np.diag([1.0, -1.0, -1.0]) @ [0, 0, 1], [0, 0, 1], atol=1e-3)


def test_camera_to_world_inverts() -> None:
    pose = np.column_stack([random_rotation(3), [1.0, -2.0, 0.5]])
    there_and_back = camera_to_world(camera_to_world(pose))
    assert np.allclose(there_and_back, pose)
    x = np.array([0.3, 0.2, -4.0])
    assert np.allclose(camera_to_world(pose) @ [*(pose @ [*x, 1]), 1], x)


@pytest.mark.parametrize("model", ["OPENCV", "OPENCV_FISHEYE"])
def test_round_trip_through_the_scene_reader(tmp_path: Path, model: str) -> None:
    turn = random_rotation(8)
    c2w = turn @ ring()
    camera = SolvedCamera(model, 64, 48, (50.0, 51.0, 33.0, 23.5, 0.05, -0.02, 0.003, -0.004))
    solution = solution_of(c2w, {1: camera}, [1] * len(c2w))
    (tmp_path / "images").mkdir()
    for photo in solution.photos:
        Image.new("RGB", (64, 48), (90, 120, 30)).save(tmp_path / "images" / photo.name)
    _, rotation = write_transforms(solution, tmp_path, "images", {"000.png": 12.5})
    scene = load_scene(tmp_path)
    assert np.allclose(scene.meta.cameras.c2w.numpy(), rotation @ c2w, atol=1e-8)
    assert scene.meta.cameras.intrinsics[0].tolist() == [50.0, 51.0, 33.0, 23.5]
    lens = scene.meta.cameras[0].lens
    assert lens.kind == ("opencv" if model == "OPENCV" else "fisheye")
    assert set(camera.params[4:]) <= set(lens.tensor().tolist())
    assert scene.meta.points is not None
    kept = solution.points[solution.points[:, 7] >= 3, :3]
    assert np.allclose(np.sort(scene.meta.points, 0), np.sort(kept @ rotation.T, 0), atol=1e-6)
    frames = json.loads((tmp_path / "transforms.json").read_text())["frames"]
    assert frames[0]["sharpness"] == 12.5
    assert [frame["colmap_im_id"] for frame in frames] == [100 + i for i in range(len(c2w))]


def test_several_cameras_write_their_intrinsics_per_frame(tmp_path: Path) -> None:
    cameras = {
        1: SolvedCamera("OPENCV", 64, 48, (50.0, 50.0, 32.0, 24.0, 0.0, 0.0, 0.0, 0.0)),
        2: SolvedCamera("OPENCV", 48, 64, (55.0, 55.0, 24.0, 32.0, 0.1, 0.0, 0.0, 0.0)),
    }
    c2w = ring()
    camera_of = [1 + i % 2 for i in range(len(c2w))]
    solution = solution_of(c2w, cameras, camera_of)
    (tmp_path / "images").mkdir()
    for photo in solution.photos:
        size = (cameras[photo.camera_id].width, cameras[photo.camera_id].height)
        Image.new("RGB", size).save(tmp_path / "images" / photo.name)
    write_transforms(solution, tmp_path, "images", {})
    loaded = load_scene(tmp_path).meta.cameras
    for i, camera_id in enumerate(camera_of):
        assert (loaded[i].width, loaded[i].height) == (cameras[camera_id].width, cameras[camera_id].height)
        assert float(loaded[i].K[0, 0]) == cameras[camera_id].params[0]


def test_ply_holds_positions_and_colours(tmp_path: Path) -> None:
    points = np.array([[1.0, 2.0, 3.0], [-1.5, 0.25, 8.0]])
    write_ply(points, np.array([[255.0, 0.4, 300.0], [1.6, 2.0, -3.0]]), tmp_path / "p.ply")
    raw = (tmp_path / "p.ply").read_bytes()
    body = raw[raw.index(b"end_header\n") + len(b"end_header\n") :]
    assert len(body) == 2 * 15
    assert np.frombuffer(body[:12], "<f4").tolist() == [1.0, 2.0, 3.0]
    assert list(body[12:15]) == [255, 0, 255]
    assert list(body[27:30]) == [2, 2, 0]
    assert [p.name for p in tmp_path.iterdir()] == ["p.ply"]
