"""Path files: what nerfstudio and instant-ngp write is read as they mean it, and what is written reads back."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nerfstudio_ext.camera_paths import (
    CameraPath,
    CropBox,
    KeyView,
    NgpFrame,
    camera_path_from_json,
    camera_path_to_json,
    file_stems,
    from_views,
    interpolate,
    orbit,
    read_camera_path,
    write_camera_path,
)
from nerfstudio_ext.camera_paths.curves import matrices_from_quaternions, quaternions_from_matrices
from nerfstudio_ext.camera_paths.layout import look_at
from nerfstudio_ext.camera_paths.ngp_file import path_from_ngp
from nerfstudio_ext.cameras import Camera, Cameras
from nerfstudio_ext.errors import UserError
from nerfstudio_ext.lenses import Lens

UP = np.array([0.0, 0.0, 1.0])
F64 = torch.float64


@dataclass(frozen=True)
class Similarity:
    rotation: torch.Tensor
    translation: torch.Tensor
    scale: float


def similarity(seed: int = 0, scale: float = 0.4) -> Similarity:
    random = np.random.default_rng(seed)
    rotation = matrices_from_quaternions(random.normal(size=(1, 4)))[0]
    return Similarity(torch.from_numpy(rotation), torch.from_numpy(random.normal(size=3)), scale)


def pose(seed: int = 0) -> torch.Tensor:
    eye = np.random.default_rng(seed).normal(size=3) + [3, 0, 0]
    return look_at(eye, np.zeros(3), UP)


def views(n: int = 6, width: int = 64, height: int = 48) -> Cameras:
    return Cameras([Camera.perspective(width, height, 50.0, pose(i)) for i in range(n)])


def opengl_rows(c2w: torch.Tensor) -> list[float]:
    """As nerfstudio writes it: axes right, up, backward; row by row."""
    flipped = c2w.numpy() @ np.diag([1.0, -1, -1, 1])
    return [*flipped.ravel().tolist(), 0.0, 0.0, 0.0, 1.0]


def nerfstudio_file(**changes: object) -> dict[str, object]:
    document: dict[str, object] = {
        "camera_type": "perspective",
        "render_height": 48,
        "render_width": 64,
        "fps": 24,
        "seconds": 0.5,
        "is_cycle": False,
        "smoothness_value": 0.3,
        "default_fov": 75.0,
        "keyframes": [],
        "camera_path": [
            {"camera_to_world": opengl_rows(pose(i)), "fov": 50.0, "aspect": 64 / 48} for i in range(4)
        ],
        "crop": None,
    }  # fmt: skip
    return document | changes


def save(tmp_path: Path, document: object) -> Path:
    file = tmp_path / "camera_path.json"
    file.write_text(json.dumps(document))
    return file


def test_a_nerfstudio_file_reads_with_vertical_degrees_and_its_own_rate(tmp_path: Path) -> None:
    path = read_camera_path(save(tmp_path, nerfstudio_file()))
    assert path.size == (64, 48) and len(path) == 4
    assert path.fps == 8  # frames / seconds, as nerfstudio's renderer does, whatever "fps" says
    for i, camera in enumerate(path.cameras):
        assert torch.allclose(camera.c2w, pose(i), atol=1e-12)
        assert camera.K[1, 1] == camera.K[0, 0] == pytest.approx(24 / math.tan(math.radians(25)))
        assert camera.K[0, 2] == 32 and camera.K[1, 2] == 24
    top = path.cameras[0].rays_through(torch.tensor([[32.0, 0.0], [32.0, 48.0]])).rays_d
    assert math.degrees(math.acos(float(top[0] @ top[1]))) == pytest.approx(50, abs=1e-3)


def test_a_camera_of_the_file_looks_along_minus_z() -> None:
    document = nerfstudio_file()
    document["camera_path"] = [{"camera_to_world": np.eye(4).ravel().tolist(), "fov": 60.0, "aspect": 1.0}]
    camera = camera_path_from_json(document).cameras[0]
    assert camera.c2w[:, 2].tolist() == [0, 0, -1] and camera.c2w[:, 1].tolist() == [0, -1, 0]


def test_key_frames_are_rows_in_lists_and_columns_in_strings() -> None:
    rows = np.array(opengl_rows(pose(7))).reshape(4, 4)
    columns = json.dumps(rows.T.ravel().tolist())
    keys = [
        {"matrix": rows.ravel().tolist(), "fov": 50, "aspect": 1.0},
        {"matrix": columns, "fov": 50, "aspect": 1.0, "properties": '[["FOV",50]]'},
        {"matrix": rows.tolist(), "fov": 50},
    ]
    for key in camera_path_from_json(nerfstudio_file(keyframes=keys)).keys:
        assert torch.allclose(key.c2w, pose(7), atol=1e-12)


def test_a_list_in_columns_is_told_by_its_bottom_row() -> None:
    rows = np.array(opengl_rows(pose(7))).reshape(4, 4)
    document = nerfstudio_file(camera_path=[{"camera_to_world": rows.T.ravel().tolist(), "fov": 50.0}])
    assert torch.allclose(camera_path_from_json(document).cameras[0].c2w, pose(7), atol=1e-12)


def test_a_file_with_key_frames_only_is_filled_in_between_at_their_times() -> None:
    keys = [
        {"matrix": opengl_rows(pose(i)), "fov": 50.0, "aspect": 1.0, "override_transition_enabled": i == 0,
         "override_transition_sec": 1.0} for i in range(3)
    ]  # fmt: skip
    path = camera_path_from_json(nerfstudio_file(camera_path=[], keyframes=keys, default_transition_sec=2.0, fps=10))
    assert len(path) == 30 and path.fps == 10
    assert torch.allclose(path.cameras[0].c2w, pose(0)) and torch.allclose(path.cameras[-1].c2w, pose(2))
    at_second_key = np.interp(1.0, np.linspace(0, 3, 30), np.arange(30))
    near = path.cameras.c2w[[math.floor(at_second_key), math.ceil(at_second_key)], :, 3]
    assert (near - pose(1)[:, 3]).norm(dim=1).min() < 0.35
    looped = camera_path_from_json(nerfstudio_file(camera_path=[], keyframes=keys, is_cycle=True, fps=10))
    assert len(looped) == 50 and looped.is_loop


@pytest.mark.parametrize("reference", ["normalized", "source"])
@given(seed=st.integers(0, 10_000))
@settings(max_examples=15, deadline=None)
def test_what_is_written_reads_back(reference: str, seed: int) -> None:
    frame = similarity(seed)
    crop = CropBox(
        torch.tensor([1.0, 2, 3], dtype=F64), torch.tensor([0.5, 1, 2], dtype=F64), frame.rotation, (0, 0.2, 1)
    )
    keys = (KeyView(pose(seed), 42.0, 1.5, 3.0, {"name": "a"}), KeyView(pose(seed + 1), 43.0))
    before = replace(interpolate(views()), keys=keys, crop=crop, extra={"smoothness_value": 0.5}, is_loop=True)
    text = json.dumps(camera_path_to_json(before, frame, frame_of_reference=reference))  # type: ignore[arg-type]
    after = camera_path_from_json(json.loads(text), frame)
    assert torch.allclose(after.cameras.c2w, before.cameras.c2w, atol=1e-10)
    assert torch.allclose(after.cameras.intrinsics, before.cameras.intrinsics, atol=1e-9)
    assert after.size == before.size and after.fps == pytest.approx(before.fps) and after.is_loop
    assert after.extra == {"smoothness_value": 0.5} and not after.notes
    assert after.keys[0].transition_s == 3.0 and after.keys[1].transition_s is None
    assert after.keys[0].extra == {"name": "a"} and after.keys[0].fov_y_deg == 42.0
    assert torch.allclose(after.keys[0].c2w, keys[0].c2w, atol=1e-10)
    assert after.crop is not None and torch.allclose(after.crop.rotation, crop.rotation, atol=1e-9)
    assert torch.allclose(after.crop.center, crop.center) and torch.allclose(after.crop.size, crop.size)
    assert after.crop.background == crop.background


def test_the_file_is_what_nerfstudio_expects(tmp_path: Path) -> None:
    file = write_camera_path(orbit(views(), seconds=1, fps=12), tmp_path / "new" / "orbit.json")
    document = json.loads(file.read_text())
    assert len(document["camera_path"]) == 12 and document["seconds"] == 1 and document["crop"] is None
    first = document["camera_path"][0]
    assert len(first["camera_to_world"]) == 16 and first["camera_to_world"][12:] == [0, 0, 0, 1]
    assert first["fov"] == pytest.approx(50) and first["aspect"] == pytest.approx(64 / 48)
    assert all(len(key["matrix"]) == 16 for key in document["keyframes"]) and document["keyframes"]
    assert document["frame_of_reference"] == "normalized" and document["camera_type"] == "perspective"


def test_a_path_made_for_one_run_fits_the_next_run_of_the_capture() -> None:
    first, second = similarity(1), similarity(2, scale=1.7)
    in_source = views()
    path = from_views(in_source.transformed(first.rotation, first.translation, first.scale))
    moved = camera_path_from_json(camera_path_to_json(path, first), second)
    expected = in_source.transformed(second.rotation, second.translation, second.scale)
    assert torch.allclose(moved.cameras.c2w, expected.c2w, atol=1e-10)
    assert "another run" in moved.notes[0]


def test_a_path_in_the_source_frame_needs_a_scene() -> None:
    document = camera_path_to_json(from_views(views()), similarity(), frame_of_reference="source")
    with pytest.raises(UserError, match="source frame"):
        camera_path_from_json(document)
    with pytest.raises(UserError, match="scene's frame"):
        camera_path_to_json(from_views(views()), frame_of_reference="source")


def test_lens_and_principal_point_survive_in_entries_of_our_own() -> None:
    K = torch.tensor([[50.0, 0, 30], [0, 51, 25], [0, 0, 1]], dtype=F64)
    path = from_views(Cameras([Camera(64, 48, K, pose(), Lens("opencv", (0.1, 0.02, 0.001, 0.002)))]))
    document = camera_path_to_json(path)
    back = camera_path_from_json(document).cameras[0]
    assert torch.allclose(back.K, K) and back.lens == path.cameras[0].lens
    half = camera_path_from_json(document, size=(32, 24)).cameras[0]
    assert torch.allclose(half.K[:2], K[:2] / 2) and (half.width, half.height) == (32, 24)


def test_360_paths_ignore_the_field_of_view() -> None:
    document = nerfstudio_file(camera_type="equirectangular")
    for entry in document["camera_path"]:  # type: ignore[attr-defined]
        del entry["fov"]
    path = camera_path_from_json(document)
    assert path.cameras[0].lens.kind == "equirectangular"
    assert camera_path_to_json(path)["camera_type"] == "equirectangular"
    assert camera_path_from_json(nerfstudio_file(camera_type="fisheye")).cameras[0].lens.kind == "fisheye"


@given(seed=st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_the_ngp_conversion_is_invertible(seed: int) -> None:
    frame = NgpFrame(0.33 + seed / 1e4, (0.5, 0.4, 0.3))
    poses = torch.stack([pose(seed), pose(seed + 1)])
    assert torch.allclose(frame.to_source(frame.from_source(poses)), poses, atol=1e-12)


def test_the_ngp_frame_is_scaled_shifted_and_cycled() -> None:
    c2w = torch.tensor([[1.0, 0, 0, 1], [0, 1, 0, 2], [0, 0, 1, 3]], dtype=F64)
    moved = NgpFrame().from_source(c2w)
    assert moved[:, 3].tolist() == pytest.approx([0.33 * 2 + 0.5, 0.33 * 3 + 0.5, 0.33 * 1 + 0.5])
    assert moved[:, 0].tolist() == [0, 0, 1]  # source x is instant-ngp's z


def ngp_file(poses: list[torch.Tensor], **changes: object) -> dict[str, object]:
    keys = []
    for i, c2w in enumerate(NgpFrame().from_source(torch.stack(poses)).numpy()):
        w, x, y, z = quaternions_from_matrices(c2w[None, :, :3])[0]
        sign = -1 if i % 2 else 1
        keys.append(
            {"R": [sign * v for v in (x, y, z, w)], "T": c2w[:, 3].tolist(), "fov": 50.625, "slice": 0, "scale": 1}
        )
    return {"loop": False, "time": 0.5, "duration_seconds": 2.0, "spline_order": 1, "path": keys} | changes


def test_an_ngp_path_arrives_in_the_training_frame(tmp_path: Path) -> None:
    frame = similarity(5)
    poses = [pose(i) for i in range(3)]
    path = read_camera_path(save(tmp_path, ngp_file(poses)), frame, size=(64, 48))
    expected = Cameras([Camera.perspective(64, 48, 50.625, p) for p in poses])
    expected = expected.transformed(frame.rotation, frame.translation, frame.scale)
    assert len(path) == 60 and path.fps == 30
    for frame_index, key in ((0, 0), (-1, 2)):
        assert torch.allclose(path.cameras.c2w[frame_index], expected.c2w[key], atol=1e-9)
    assert torch.allclose(path.cameras.intrinsics[0], expected.intrinsics[0])
    assert torch.allclose(torch.stack([k.c2w for k in path.keys]), expected.c2w, atol=1e-9)


def test_an_ngp_path_is_smoothed_as_instant_ngp_does() -> None:
    poses = [pose(i) for i in range(4)]
    path = camera_path_like_ngp(ngp_file(poses, spline_order=3, duration_seconds=3.0))
    x = torch.stack(poses)[:, :, 3]
    # At an inner key a cubic B-spline stands at (1, 4, 1) / 6 of its neighbours; here between frames 29 and 30.
    inner = (x[0] + 4 * x[1] + x[2]) / 6
    found = path.cameras.c2w[:, :, 3]
    assert (found - inner).norm(dim=1).min() < 0.03
    assert torch.allclose(found[0], (5 * x[0] + x[1]) / 6, atol=1e-9)


def camera_path_like_ngp(document: dict[str, object]) -> CameraPath:
    identity = Similarity(torch.eye(3, dtype=F64), torch.zeros(3, dtype=F64), 1.0)
    return path_from_ngp(document, identity, NgpFrame(), (64, 48), where="base_cam.json")


def test_ngp_times_loops_and_old_files() -> None:
    poses = [pose(i) for i in range(3)]
    document = ngp_file(poses, loop=True)
    for key, stamp in zip(document["path"], (1.0, 1.5, 4.0), strict=True):  # type: ignore[call-overload]
        key["timestamp"] = stamp
    path = camera_path_like_ngp(document)
    assert path.seconds == pytest.approx(4) and path.is_loop
    assert torch.allclose(path.cameras.c2w[30], poses[1], atol=1e-9)
    assert torch.allclose(path.cameras.c2w[45], poses[2], atol=1e-9)
    old = ngp_file(poses)
    del old["duration_seconds"]
    assert "no times" in camera_path_like_ngp(old).notes[0]
    with pytest.raises(UserError, match="tied to a capture"):
        path_from_ngp(old, None, NgpFrame(), (64, 48), where="base_cam.json")


def bad(**changes: object):
    return lambda: camera_path_from_json(nerfstudio_file(**changes), where="p.json")


def entry(**changes: object) -> list[object]:
    return [{"camera_to_world": opengl_rows(pose()), "fov": 50.0} | changes]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (bad(camera_path=[]), "0 key frame"),
        (bad(camera_path=[], keyframes=[{"matrix": opengl_rows(pose()), "fov": 50}]), "1 key frame"),
        (bad(camera_path="x"), "camera_path: expected a list"),
        (bad(camera_path=entry(fov=0)), r"camera_path\[0\].fov: a field of view of 0"),
        (bad(camera_path=entry(fov="wide")), "expected a number"),
        (bad(camera_path=entry(camera_to_world=[1, 2, 3])), "expected a list of 16"),
        (bad(camera_path=entry(camera_to_world=[1.0] * 16)), "bottom row"),
        (bad(camera_path=entry(camera_to_world=np.diag([1.0, 1, -1, 1]).ravel().tolist())), "mirrors"),
        (bad(camera_path=entry(camera_to_world=np.diag([1.0, 2, 1, 1]).ravel().tolist())), "not a rotation"),
        (bad(camera_path=[{"fov": 50}]), "'camera_to_world' is missing"),
        (bad(camera_path=[7]), "'camera_to_world' is missing"),
        (bad(seconds=0), "seconds is 0"),
        (bad(seconds=1e-9), "frames per second"),
        (bad(render_width=0), "0x48"),
        (bad(render_width=1.5), "whole number"),
        (bad(camera_type="vr180"), "vr180"),
        (bad(frame_of_reference="moon"), "moon"),
        (bad(crop={"crop_center": [0, 0, 0]}), "'crop_scale' is missing"),
        (lambda: camera_path_from_json({"frames": []}), "neither"),
        (lambda: camera_path_like_ngp(ngp_file([pose()])), "1 key frame"),
        (lambda: camera_path_like_ngp(ngp_file([pose(0), pose(1)], spline_order=7)), "spline_order 7"),
        (lambda: camera_path_like_ngp(ngp_file([pose(0), pose(1)], duration_seconds=-1)), "-1 seconds"),
        (lambda: camera_path_to_json(from_views(Cameras([*views(1), *views(1, 32)]))), "different sizes"),
    ],
)
def test_bad_files_are_refused_by_name(call, words: str) -> None:
    with pytest.raises(UserError, match=words):
        call()


def test_nan_and_missing_files_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "p.json"
    file.write_text('{"camera_path": [{"camera_to_world": [NaN], "fov": 50}]}')
    with pytest.raises(UserError, match="NaN"):
        read_camera_path(file)
    with pytest.raises(UserError, match="no such file"):
        read_camera_path(tmp_path / "nothing.json")


def test_files_are_not_overwritten_by_accident(tmp_path: Path) -> None:
    path, file = from_views(views()), tmp_path / "p.json"
    file.write_text("mine")
    with pytest.raises(UserError, match="exists"):
        write_camera_path(path, file)
    assert file.read_text() == "mine"
    write_camera_path(path, file, overwrite=True)
    assert len(read_camera_path(file)) == 6 and [p.name for p in tmp_path.iterdir()] == ["p.json"]


def test_slightly_rounded_rotations_are_made_exact() -> None:
    rounded = [round(v, 4) for v in opengl_rows(pose())]
    camera = camera_path_from_json(nerfstudio_file(camera_path=entry(camera_to_world=rounded))).cameras[0]
    rotation = camera.c2w[:, :3]
    assert torch.allclose(rotation @ rotation.T, torch.eye(3, dtype=F64), atol=1e-12)
    assert torch.allclose(camera.c2w, pose(), atol=1e-3)


def test_file_stems_are_unique_and_stay_in_their_folder() -> None:
    assert file_stems(["images/r_1.png", "images/r_2.png"]) == ["r_1", "r_2"]
    assert file_stems(["a.jpg", "a.png"]) == ["a.jpg", "a.png"]
    assert file_stems(["left/1.png", "right/1.png"]) == ["left__1.png", "right__1.png"]
    assert file_stems(["A.png", "a.png"]) == ["00001_A.png", "00002_a.png"]
    for name in ("../../etc/passwd", "..", "C:\\windows\\x", "a/\0b", "con:1", "ünï.png"):
        (stem,) = file_stems([name])
        assert stem and not set(stem) & set('/\\:*?"<>|\0') and stem.strip(". ") == stem
