"""transforms.json of nerfstudio and instant-ngp: every habit of theirs that changes what a number means."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from nerfstudio_ext.progress import SilentProgress
from nerfstudio_ext.scenes import load_scene
from nerfstudio_ext.scenes.posed_formats import read_transforms
from tests.scenes.builders import FOCAL, HEIGHT, WIDTH, picture, ring, transforms, write_transforms


def camera_of(folder: Path, **top: Any) -> Any:
    """First camera of a capture with the given top-level keys; a key set to None is left out."""
    document = {key: value for key, value in transforms(4, **top).items() if value is not None}
    return load_scene(write_transforms(folder, document)).meta.cameras[0]


def test_a_plain_capture(tmp_path: Path) -> None:
    scene = load_scene(write_transforms(tmp_path / "bear"))
    assert scene.meta.name == "bear" and scene.meta.kind == "nerfstudio transforms.json, 10 images"
    assert scene.meta.image_names[:2] == ("images/0000.png", "images/0001.png")
    expected = torch.from_numpy(ring(10)[:, :3] * [1, -1, -1, 1])
    assert torch.allclose(scene.meta.cameras.c2w, expected, atol=1e-12)
    assert scene.meta.cameras.intrinsics[0].tolist() == [FOCAL, FOCAL, WIDTH / 2, HEIGHT / 2]
    assert np.array_equal(scene.images.pixels(3), picture(3))
    assert scene.meta.split.train == (1, 2, 3, 4, 5, 6, 7, 9)
    assert scene.meta.split.val == scene.meta.split.test == (0, 8)
    assert not scene.meta.has_alpha and scene.meta.points is None


def test_the_target_of_the_ring_projects_to_the_centre(tmp_path: Path) -> None:
    """Axis conventions end to end: what all cameras look at lies in the middle of every picture."""
    for camera in load_scene(write_transforms(tmp_path)).meta.cameras:
        uv, depth_z = camera.project(torch.tensor([[0.0, 0, 0], [0, 0, 0.5]], dtype=torch.float64))
        assert uv[0].tolist() == pytest.approx([WIDTH / 2, HEIGHT / 2])
        assert uv[1, 1] < HEIGHT / 2 and (depth_z > 0).all()  # what is higher is higher in the picture


@pytest.mark.parametrize(
    ("keys", "focal"),
    [
        ({"camera_angle_x": 1.0}, (0.5 * WIDTH / math.tan(0.5), 0.5 * WIDTH / math.tan(0.5))),
        ({"x_fov": 57.29577951308232}, (0.5 * WIDTH / math.tan(0.5), 0.5 * WIDTH / math.tan(0.5))),
        ({"camera_angle_y": 0.8}, (0.5 * HEIGHT / math.tan(0.4), 0.5 * HEIGHT / math.tan(0.4))),
        ({"x_fov": 50.0, "y_fov": 40.0}, (12 / math.tan(math.radians(25)), 8 / math.tan(math.radians(20)))),
        ({"fl_x": 30.0, "camera_angle_x": 1.0}, (30.0, 30.0)),
        ({"fl_x": 30.0, "fl_y": 31.0}, (30.0, 31.0)),
        ({"fl_y": 31.0}, (31.0, 31.0)),
    ],
)
def test_focal_lengths_angles_and_their_units(
    tmp_path: Path, keys: dict[str, float], focal: tuple[float, float]
) -> None:
    camera = camera_of(tmp_path, **{"fl_x": None, **keys})
    assert (camera.K[0, 0].item(), camera.K[1, 1].item()) == pytest.approx(focal)


def test_size_and_centre_default_to_the_picture(tmp_path: Path) -> None:
    camera = camera_of(tmp_path, w=None, h=None, fl_x=None, camera_angle_x=1.0)
    assert (camera.width, camera.height) == (WIDTH, HEIGHT)
    assert camera.K[:2, 2].tolist() == [WIDTH / 2, HEIGHT / 2]


@pytest.mark.parametrize(
    ("keys", "kind", "params"),
    [
        ({}, "perspective", ()),
        ({"camera_model": "PINHOLE", "k1": 0.1}, "perspective", ()),
        ({"k1": 0.1}, "opencv", (0.1, 0, 0, 0, 0, 0)),
        ({"camera_model": "OPENCV", "k1": 0.1, "k2": 0.2, "p1": 0.03, "p2": 0.04, "k3": 0.05, "k4": 0.06}, "opencv",
         (0.1, 0.2, 0.03, 0.04, 0.05, 0.06)),
        ({"camera_model": "OPENCV", "k1": 9.0, "distortion_params": [0.1, 0.2, 0.05, 0.06, 0.03, 0.04]}, "opencv",
         (0.1, 0.2, 0.03, 0.04, 0.05, 0.06)),
        ({"camera_model": "SIMPLE_RADIAL", "k1": 0.1}, "opencv", (0.1, 0, 0, 0, 0, 0)),
        ({"camera_model": "OPENCV_FISHEYE", "k1": 0.1, "k4": -0.01}, "fisheye", (0.1, 0, 0, -0.01)),
        ({"camera_model": "OPENCV_FISHEYE", "distortion_params": [0.1, 0.2, 0.3, 0.4, 0, 0]}, "fisheye",
         (0.1, 0.2, 0.3, 0.4)),
        ({"is_fisheye": True, "k1": 0.1}, "fisheye", (0.1, 0, 0, 0)),
        ({"camera_model": "EQUIRECTANGULAR", "fl_x": None}, "equirectangular", ()),
        ({"latlong": True, "fl_x": None}, "equirectangular", ()),
        ({"equirectangular": True, "fl_x": None}, "equirectangular", ()),
    ],
)  # fmt: skip
def test_lens_models(tmp_path: Path, keys: dict[str, Any], kind: str, params: tuple[float, ...]) -> None:
    lens = camera_of(tmp_path, **keys).lens
    assert lens.kind == kind and lens.params == pytest.approx(params)


def test_keys_of_a_frame_win_over_keys_of_the_file(tmp_path: Path) -> None:
    document = transforms(4, k1=0.1, cx=11.0)
    document["frames"][1] |= {"fl_x": 33.0, "k1": 0.2, "cy": 9.0}
    cameras = load_scene(write_transforms(tmp_path, document)).meta.cameras
    assert cameras.intrinsics[0].tolist() == [FOCAL, FOCAL, 11.0, HEIGHT / 2]
    assert cameras.intrinsics[1].tolist() == [33.0, 33.0, 11.0, 9.0]
    assert [c.lens.params[0] for c in cameras] == [0.1, 0.2, 0.1, 0.1]


def test_names_without_ending_with_backslashes_and_dots(tmp_path: Path) -> None:
    document = transforms(4)
    for frame, name in zip(
        document["frames"], ["images/0000", ".\\images\\0001.png", "./images/0002", "images//0003.png"], strict=True
    ):
        frame["file_path"] = name
    meta = load_scene(write_transforms(tmp_path, document)).meta
    assert meta.image_names == tuple(f"images/{i:04d}.png" for i in range(4))


def test_order_is_by_name_whatever_the_file_says(tmp_path: Path) -> None:
    document = transforms(9)
    document["frames"].reverse()
    scene = load_scene(write_transforms(tmp_path, document))
    assert scene.meta.image_names[0] == "images/0000.png" and scene.meta.split.test == (0, 8)
    assert torch.allclose(scene.meta.cameras[2].c2w[:, 3], torch.from_numpy(ring(9)[2, :3, 3]))


def test_slight_noise_in_rotations_is_removed_and_3x4_accepted(tmp_path: Path) -> None:
    document = transforms(4)
    noisy = np.array(document["frames"][1]["transform_matrix"])
    noisy[:3, :3] = 1.003 * noisy[:3, :3] + 1e-3 * np.random.default_rng(0).normal(size=(3, 3))
    document["frames"][1]["transform_matrix"] = noisy[:3].tolist()
    rotation = load_scene(write_transforms(tmp_path, document)).meta.cameras[1].c2w[:, :3]
    assert torch.allclose(rotation @ rotation.T, torch.eye(3, dtype=torch.float64), atol=1e-12)
    assert (rotation - torch.from_numpy(noisy[:3, :3] * [1, -1, -1])).abs().max() < 0.01


def test_explicit_splits_win(tmp_path: Path) -> None:
    names = [f"images/{i:04d}.png" for i in range(10)]
    top = {"train_filenames": names[:6], "val_filenames": ["./" + names[7]], "test_filenames": names[8:]}
    split = load_scene(write_transforms(tmp_path, **top)).meta.split
    assert (split.train, split.val, split.test) == ((0, 1, 2, 3, 4, 5), (7,), (8, 9))


def test_lists_that_are_not_given_follow_from_the_others(tmp_path: Path) -> None:
    names = [f"images/{i:04d}.png" for i in range(10)]
    split = load_scene(write_transforms(tmp_path / "a", test_filenames=names[:2])).meta.split
    assert (split.train, split.val, split.test) == (tuple(range(2, 10)), (0, 1), (0, 1))
    split = load_scene(write_transforms(tmp_path / "b", train_filenames=names[:7])).meta.split
    assert (split.train, split.val, split.test) == (tuple(range(7)), (7, 8, 9), (7, 8, 9))


def test_split_every(tmp_path: Path) -> None:
    write_transforms(tmp_path)
    assert load_scene(tmp_path, split_every=5).meta.split.test == (0, 5)
    split = load_scene(tmp_path, split_every=0).meta.split
    assert split.test == split.val == () and len(split.train) == 10


def test_applied_transform_and_scale(tmp_path: Path) -> None:
    matrix = [[1, 0, 0, 0.5], [0, 0, 1, 0], [0, -1, 0, 2.0]]
    meta = load_scene(write_transforms(tmp_path, applied_transform=matrix, applied_scale=2.0)).meta
    assert meta.applied_transform is not None
    assert torch.equal(meta.applied_transform, 2 * torch.tensor(matrix, dtype=torch.float64))


def test_instant_ngp_box_scale_and_offset(tmp_path: Path) -> None:
    meta = load_scene(write_transforms(tmp_path / "a", aabb_scale=4)).meta
    assert meta.kind.startswith("instant-ngp")
    assert (meta.frame.scale, meta.frame.aabb_scale, meta.frame.translation.tolist()) == (0.33, 4, [0, 0, 0])
    meta = load_scene(write_transforms(tmp_path / "b", aabb_scale=16, scale=0.2, offset=[0.5, 0.6, 0.3])).meta
    assert meta.frame.scale == 0.2 and meta.frame.aabb_scale == 16
    assert meta.frame.translation.tolist() == pytest.approx([0, 0.1, -0.2])
    meta = load_scene(write_transforms(tmp_path / "c", aabb_scale=1, aabb=[[-1, 0, 0], [3, 2, 1]])).meta
    corners = meta.frame.scale * torch.tensor([[-1.0, 0, 0], [3, 2, 1]]).double() + meta.frame.translation
    assert meta.frame.scale == 0.25
    assert torch.allclose(corners.mean(0), torch.zeros(3).double()) and corners.abs().max() == 0.5


def test_what_is_not_modelled_is_said_once(tmp_path: Path) -> None:
    document = transforms(4, rolling_shutter=[0, 0, 1, 0], white_transparent=True)
    for frame in document["frames"]:
        frame["transform_matrix_start"] = frame["transform_matrix_end"] = frame.pop("transform_matrix")
    progress = SilentProgress()
    load_scene(write_transforms(tmp_path, document), progress=progress)
    assert sum("rolling shutter" in line for line in progress.warnings) == 1
    assert sum("'white_transparent' is ignored" in line for line in progress.warnings) == 1


def test_masks_of_both_senses_and_of_another_size(tmp_path: Path) -> None:
    document = transforms(4)
    document["frames"][0]["mask_path"] = "masks/0.png"
    document["frames"][1]["mask_path"] = "masks/1.png"
    write_transforms(tmp_path, document)
    (tmp_path / "masks").mkdir()
    use_left = np.zeros((HEIGHT, WIDTH), np.uint8)
    use_left[:, : WIDTH // 2] = 255
    Image.fromarray(use_left).save(tmp_path / "masks/0.png")
    Image.fromarray(use_left).resize((2 * WIDTH, 2 * HEIGHT)).save(tmp_path / "masks/1.png")
    Image.fromarray(use_left // 255).save(tmp_path / "images/dynamic_mask_0002.png")  # 1 of 255 is not black
    images = load_scene(tmp_path).images
    left, right = np.flatnonzero(use_left), np.flatnonzero(use_left == 0)
    assert np.array_equal(images.valid_pixels(0), left) and np.array_equal(images.valid_pixels(1), left)
    assert np.array_equal(images.valid_pixels(2), right)
    assert images.valid_pixels(3) is None and images.valid_pixels(0).dtype == np.int32


def test_a_mask_for_the_ignoring_sense_grows_when_reduced(tmp_path: Path) -> None:
    write_transforms(tmp_path)
    ignore = np.zeros((HEIGHT, WIDTH), np.uint8)
    ignore[5, 9] = 200
    Image.fromarray(ignore).save(tmp_path / "images/dynamic_mask_0000.png")
    valid = load_scene(tmp_path, downscale=4).images.valid_pixels(0)
    assert valid is not None
    assert sorted(set(range(6 * 4)) - set(valid.tolist())) == [1 * 6 + 2]


def test_fisheye_circle(tmp_path: Path) -> None:
    top = {"camera_model": "OPENCV_FISHEYE", "fisheye_crop_radius": 6.0}
    valid = load_scene(write_transforms(tmp_path, **top)).images.valid_pixels(0)
    assert valid is not None
    distance = np.hypot(valid % WIDTH + 0.5 - WIDTH / 2, valid // WIDTH + 0.5 - HEIGHT / 2)
    assert distance.max() <= 6 and len(valid) == pytest.approx(math.pi * 36, rel=0.1)


def test_pixels_beyond_the_lens_model_are_not_used(tmp_path: Path) -> None:
    progress = SilentProgress()
    scene = load_scene(write_transforms(tmp_path, k1=-0.9), progress=progress)
    valid = scene.images.valid_pixels(0)
    assert valid is not None and 0 < len(valid) < WIDTH * HEIGHT
    assert any("lens model that ends inside the picture" in line for line in progress.warnings)
    radius = np.hypot(valid % WIDTH + 0.5 - WIDTH / 2, valid // WIDTH + 0.5 - HEIGHT / 2) / FOCAL
    assert radius.max() <= 2 / 3 / math.sqrt(2.7)  # the peak of x - 0.9 x^3


def test_reduction_averages_areas_and_scales_the_camera(tmp_path: Path) -> None:
    scene = load_scene(write_transforms(tmp_path), downscale=2)
    expected = picture(4).reshape(HEIGHT // 2, 2, WIDTH // 2, 2, 3).astype(float).mean((1, 3))
    assert np.abs(scene.images.pixels(4) - expected).max() <= 1
    camera = scene.meta.cameras[4]
    assert (camera.width, camera.height) == (WIDTH // 2, HEIGHT // 2)
    assert camera.K[0].tolist() == [FOCAL / 2, 0, WIDTH / 4]
    assert max(load_scene(tmp_path, max_side=12).images.sizes[0].tolist()) == 12
    assert load_scene(tmp_path, max_side=100).images.sizes[0].tolist() == [WIDTH, HEIGHT]


def test_pictures_of_another_size_with_the_same_shape_scale_the_intrinsics(tmp_path: Path) -> None:
    document = transforms(4, w=2 * WIDTH, h=2 * HEIGHT, fl_x=2 * FOCAL, cx=25.0)
    progress = SilentProgress()
    camera = load_scene(write_transforms(tmp_path, document), progress=progress).meta.cameras[0]
    assert camera.K[0].tolist() == [FOCAL, 0, 12.5]
    assert progress.warnings == ["4 pictures have 24x16 pixels where the file says 48x32: the intrinsics were scaled"]


def test_turned_pictures_follow_the_size_their_poses_were_made_for(tmp_path: Path) -> None:
    write_transforms(tmp_path, transforms(4))
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = picture(1)
    Image.fromarray(stored).save(tmp_path / "images/0001.png", exif=exif)
    scene = load_scene(tmp_path)  # the file says 24x16: as stored
    assert np.array_equal(scene.images.pixels(1), stored)
    document = transforms(4)
    document["frames"][1] |= {"w": HEIGHT, "h": WIDTH}
    (tmp_path / "transforms.json").write_text(json.dumps(document))
    assert np.array_equal(load_scene(tmp_path).images.pixels(1), np.rot90(stored, -1))


def test_damaged_pictures_are_named_left_out_and_counted(tmp_path: Path) -> None:
    names = [f"images/{i:04d}.png" for i in range(6)]
    write_transforms(tmp_path, transforms(6, train_filenames=names[:4], test_filenames=names[4:]))
    whole = (tmp_path / "images/0001.png").read_bytes()
    (tmp_path / "images/0001.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "images/0004.png").write_bytes(b"")
    progress = SilentProgress()
    scene = load_scene(tmp_path, progress=progress)
    assert scene.meta.image_names == tuple(names[i] for i in (0, 2, 3, 5))
    assert np.array_equal(scene.images.pixels(1), picture(2))
    assert scene.meta.split.train == (0, 1, 2) and scene.meta.split.test == (3,)
    text = "\n".join(progress.warnings)
    assert "0001.png: the file is cut short" in text and "0004.png: the file is empty" in text
    assert "4 remain" in text


def test_sparse_points_of_a_ply_file(tmp_path: Path) -> None:
    rows = [[0.1, 0.2, 0.3, 255, 0, 0], [1, 2, 3, 0, 0, 0], [float("nan"), 0, 0, 0, 0, 0]]
    header = "ply\nformat ascii 1.0\nelement vertex 3\n" + "".join(f"property float {a}\n" for a in "xyz")
    header += "".join(f"property uchar {c}\n" for c in ("red", "green", "blue")) + "end_header\n"
    write_transforms(tmp_path, transforms(4, ply_file_path="sparse_pc.ply"))
    (tmp_path / "sparse_pc.ply").write_text(header + "\n".join(" ".join(map(str, row)) for row in rows) + "\n")
    progress = SilentProgress()
    points = load_scene(tmp_path, progress=progress).meta.points
    assert points is not None and points.dtype == np.float32
    assert np.allclose(points, [[0.1, 0.2, 0.3], [1, 2, 3]])
    assert "sparse_pc.ply: 1 points that are not finite were dropped" in progress.warnings
    (tmp_path / "sparse_pc.ply").unlink()
    assert load_scene(tmp_path, progress=progress).meta.points is None
    assert "going on without sparse points" in progress.warnings[-1]


def test_blurred_pictures_are_left_out_when_the_file_asks(tmp_path: Path) -> None:
    document = transforms(9, sharpness_discard_threshold=0.5)
    for i, frame in enumerate(document["frames"]):
        frame["sharpness"] = 1.0 if i == 4 else 10.0 + i
    progress = SilentProgress()
    meta = load_scene(write_transforms(tmp_path, document), progress=progress).meta
    assert "images/0004.png" not in meta.image_names and len(meta.image_names) == 8
    assert "1 of 9 pictures are left out as blurred" in progress.warnings[0]
    document["train_filenames"] = [f"images/{i:04d}.png" for i in range(8)]
    (tmp_path / "transforms.json").write_text(json.dumps(document))
    assert "images/0004.png" in load_scene(tmp_path).meta.image_names


def test_the_first_frame_of_an_animation(tmp_path: Path) -> None:
    write_transforms(tmp_path, transforms(4))
    frames = [Image.fromarray(picture(i)) for i in (1, 8)]
    frames[0].save(tmp_path / "images/0001.png", save_all=True, append_images=frames[1:])
    progress = SilentProgress()
    scene = load_scene(tmp_path, progress=progress)
    assert np.array_equal(scene.images.pixels(1), picture(1))
    assert progress.warnings == ["1 pictures hold several frames: only the first is used"]


def test_a_byte_order_mark_is_accepted(tmp_path: Path) -> None:
    write_transforms(tmp_path)
    path = tmp_path / "transforms.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(read_transforms(path).frames) == 10
    assert len(load_scene(path).images) == 10


@pytest.mark.parametrize("name", ["photo $(touch x).png", "-rf.png", "é à.png", "日本 🐻.png", 'it\'s "quoted".png'])
def test_strange_names_work(tmp_path: Path, name: str) -> None:
    document = transforms(4)
    document["frames"][0]["file_path"] = f"images/{name}"
    write_transforms(tmp_path, document)
    (tmp_path / "images/0000.png").rename(tmp_path / "images" / name)
    scene = load_scene(tmp_path)
    assert f"images/{name}" in scene.meta.image_names
    assert sorted(p.name for p in tmp_path.iterdir()) == ["images", "transforms.json"]
