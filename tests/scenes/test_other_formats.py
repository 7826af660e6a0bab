"""Blender sets, LLFF, COLMAP, PLY: one tiny capture each, and damaged twins with the exact complaint."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pycolmap
import pytest
import torch
from PIL import Image

from nerfstudio_ext.cameras import Camera
from nerfstudio_ext.errors import UserError
from nerfstudio_ext.progress import SilentProgress
from nerfstudio_ext.scenes import load_scene
from nerfstudio_ext.scenes.colmap import camera_intrinsics, find_models
from nerfstudio_ext.scenes.colmap_files import CAMERA_MODELS, RawCamera
from nerfstudio_ext.scenes.ply_points import read_ply_points
from tests.scenes.builders import (
    FOCAL,
    HEIGHT,
    POINTS,
    WIDTH,
    llff_table,
    picture,
    ring,
    save_pictures,
    write_blender,
    write_colmap_binary,
    write_colmap_text,
    write_llff,
)


def error_of(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        load_scene(path)
    return caught.value.line


class TestBlender:
    def test_a_set(self, tmp_path: Path) -> None:
        meta = load_scene(write_blender(tmp_path)).meta
        assert meta.kind == "Blender set, 7 images" and meta.has_alpha
        assert (meta.split.train, meta.split.val, meta.split.test) == ((0, 1, 2, 3), (4,), (5, 6))
        assert meta.image_names[4] == "val/0000.png"
        assert meta.cameras[0].K[0, 0].item() == pytest.approx(0.5 * WIDTH / np.tan(0.5 * 0.6911112070083618))
        assert (meta.frame.scale, meta.frame.aabb_scale) == (1 / 3, 1)
        assert meta.frame.translation.tolist() == [0, 0, 0] and meta.background == (1, 1, 1)

    def test_pictures_without_opacity_are_not_called_transparent(self, tmp_path: Path) -> None:
        write_blender(tmp_path)
        for path in tmp_path.rglob("*.png"):
            Image.open(path).convert("RGB").convert("RGBA").save(path)
        assert not load_scene(tmp_path).meta.has_alpha

    def test_any_of_its_files_means_the_set(self, tmp_path: Path) -> None:
        assert len(load_scene(write_blender(tmp_path) / "transforms_test.json").images) == 7

    def test_a_set_with_real_cameras_is_not_synthetic(self, tmp_path: Path) -> None:
        write_blender(tmp_path)
        for path in tmp_path.glob("*.json"):
            path.write_text(json.dumps(json.loads(path.read_text()) | {"fl_x": FOCAL}))
        meta = load_scene(tmp_path).meta
        assert meta.kind.startswith("transforms_train.json set") and meta.frame.scale != 1 / 3

    def test_only_the_training_file(self, tmp_path: Path) -> None:
        write_blender(tmp_path)
        (tmp_path / "transforms_test.json").unlink()
        (tmp_path / "transforms_val.json").unlink()
        split = load_scene(tmp_path).meta.split
        assert split.train == (1, 2, 3) and split.test == (0,)

    def test_no_training_file(self, tmp_path: Path) -> None:
        write_blender(tmp_path)
        (tmp_path / "transforms_train.json").unlink()
        assert error_of(tmp_path / "transforms_test.json").endswith(
            "transforms_train.json: no such file. A Blender set needs its training file."
        )

    def test_the_same_pictures_for_training_and_testing(self, tmp_path: Path) -> None:
        write_blender(tmp_path)
        (tmp_path / "transforms_test.json").write_text((tmp_path / "transforms_train.json").read_text())
        assert "4 pictures are listed for training and for testing: 'train/0000.png' and others" in error_of(tmp_path)


class TestLlff:
    def test_axes_focal_length_and_depth_range(self, tmp_path: Path) -> None:
        progress = SilentProgress()
        meta = load_scene(write_llff(tmp_path), progress=progress).meta
        expected = torch.from_numpy(ring(9)[:, :3] * [1, -1, -1, 1])
        assert torch.allclose(meta.cameras.c2w, expected, atol=1e-12)
        assert meta.cameras.intrinsics[0].tolist() == [FOCAL, FOCAL, WIDTH / 2, HEIGHT / 2]
        assert meta.split.test == (0, 8) and meta.kind == "LLFF poses_bounds.npy, 9 images"
        assert "the intrinsics were scaled" in progress.warnings[0]

    def test_reduced_pictures_stand_in_for_missing_ones(self, tmp_path: Path) -> None:
        write_llff(tmp_path)
        (tmp_path / "images").rename(tmp_path / "images_4")
        assert load_scene(tmp_path).meta.image_names[0] == "images_4/0000.png"

    @pytest.mark.parametrize(
        ("table", "message"),
        [
            (llff_table(9)[:8], "8 poses but 9 photos in 'images'"),
            (llff_table(9)[:, :15], "expected N x 17 numbers, found (9, 15)"),
            (np.where(np.arange(17) == 4, np.nan, llff_table(9)), "9 rows hold NaN or infinity, first row 0"),
            (np.where(np.arange(17) == 15, -1.0, llff_table(9)), "row 0: the depth range -1 to 6 is impossible"),
            (np.where(np.arange(17) < 15, 0.0, llff_table(9)), "row 0: the rotation is all zeros"),
            (
                np.where((np.arange(17) % 5 == 1) & (np.arange(17) < 15), -llff_table(9), llff_table(9)),
                "row 0: det = -1: the pose is mirrored",
            ),
        ],
    )
    def test_damaged_arrays(self, tmp_path: Path, table: np.ndarray, message: str) -> None:
        write_llff(tmp_path)
        np.save(tmp_path / "poses_bounds.npy", table)
        assert message in error_of(tmp_path)

    def test_arrays_that_would_run_code_or_are_none(self, tmp_path: Path) -> None:
        write_llff(tmp_path)
        path = tmp_path / "poses_bounds.npy"
        np.save(path, np.array([{"a": 1}] * 9, dtype=object))
        assert "poses_bounds.npy: an array of object, not of numbers" in error_of(tmp_path)
        path.write_bytes(b"")
        assert "not a NumPy array" in error_of(tmp_path)
        whole = llff_table(9)
        np.save(path, whole)
        path.write_bytes(path.read_bytes()[:500])
        assert "cut short: its header promises 1224 bytes, 372 are there" in error_of(tmp_path)


class TestColmap:
    def capture(self, folder: Path, n: int = 9, model: str = "sparse/0") -> Path:
        write_colmap_binary(folder / model, save_pictures(folder / "images", n))
        return folder

    def test_binary(self, tmp_path: Path) -> None:
        scene = load_scene(self.capture(tmp_path))
        expected = torch.from_numpy(ring(9)[:, :3] * [1, -1, -1, 1])
        assert torch.allclose(scene.meta.cameras.c2w, expected, atol=1e-9)
        assert scene.meta.kind == "COLMAP model sparse/0, 9 images"
        assert scene.meta.cameras.intrinsics[0].tolist() == [FOCAL, FOCAL, WIDTH / 2, HEIGHT / 2]
        assert scene.meta.points is not None and np.allclose(scene.meta.points, POINTS, atol=1e-6)
        assert np.array_equal(scene.images.pixels(5), picture(5)) and scene.meta.split.test == (0, 8)

    def test_up_is_found_from_the_cameras(self, tmp_path: Path) -> None:
        cameras = load_scene(self.capture(tmp_path)).meta.training_cameras()
        assert -cameras.c2w[:, 2, 1].mean() > 0.9

    def test_text_says_the_same(self, tmp_path: Path) -> None:
        binary = load_scene(self.capture(tmp_path / "binary")).meta
        write_colmap_text(tmp_path / "text/sparse/0", save_pictures(tmp_path / "text/images", 9))
        text = load_scene(tmp_path / "text").meta
        assert torch.allclose(text.cameras.c2w, binary.cameras.c2w, atol=1e-12)
        assert text.image_names == binary.image_names and np.array_equal(text.points, binary.points)
        assert torch.equal(text.cameras.intrinsics, binary.cameras.intrinsics)

    def test_binary_wins_over_text(self, tmp_path: Path) -> None:
        self.capture(tmp_path)
        (tmp_path / "sparse/0/images.txt").write_text("damaged")
        assert len(load_scene(tmp_path).images) == 9

    @pytest.mark.parametrize("model", ["sparse", "sparse/3", "colmap/sparse/0", "."])
    def test_where_models_lie(self, tmp_path: Path, model: str) -> None:
        assert len(load_scene(self.capture(tmp_path, model=model)).images) == 9

    @pytest.mark.parametrize("model", ["sparse/0", "sparse"])
    def test_the_model_folder_itself(self, tmp_path: Path, model: str) -> None:
        assert len(load_scene(self.capture(tmp_path, model=model) / model).images) == 9

    def test_the_largest_model_counts(self, tmp_path: Path) -> None:
        names = save_pictures(tmp_path / "images", 9)
        for model, n in (("0", 3), ("1", 8), ("2", 5)):
            write_colmap_binary(tmp_path / "sparse" / model, names[:n])
        assert [m.n_images for m in find_models(tmp_path)] == [8, 5, 3]
        progress = SilentProgress()
        assert load_scene(tmp_path, progress=progress).meta.kind == "COLMAP model sparse/1, 8 images"
        assert progress.warnings == ["3 COLMAP models: the one with 8 pictures is used (others: 5, 3)"]

    def test_masks(self, tmp_path: Path) -> None:
        self.capture(tmp_path)
        (tmp_path / "masks").mkdir()
        Image.fromarray(np.eye(HEIGHT, WIDTH, dtype=np.uint8) * 255).save(tmp_path / "masks/0001.png.png")
        images = load_scene(tmp_path).images
        assert images.valid_pixels(0) is None
        assert np.array_equal(images.valid_pixels(1), np.arange(HEIGHT) * (WIDTH + 1))

    @pytest.mark.parametrize("table", ["cameras", "images", "points3D"])
    def test_every_truncation_is_told_with_its_place(self, tmp_path: Path, table: str) -> None:
        path = self.capture(tmp_path, n=4) / f"sparse/0/{table}.bin"
        whole = path.read_bytes()
        for length in (0, 5, 8, 20, len(whole) // 3, len(whole) // 2, len(whole) - 1):
            path.write_bytes(whole[:length])
            line = error_of(tmp_path)
            assert f"{table}.bin: " in line and " at byte " in line or "has no end" in line

    @pytest.mark.parametrize(("table", "at"), [("cameras", 0), ("images", 0), ("images", 81), ("points3D", 51)])
    def test_absurd_counts_take_no_memory(self, tmp_path: Path, table: str, at: int) -> None:
        path = self.capture(tmp_path, n=4) / f"sparse/0/{table}.bin"
        data = bytearray(path.read_bytes())
        data[at : at + 8] = struct.pack("<Q", 2**63)
        path.write_bytes(bytes(data))
        line = error_of(tmp_path)
        assert f"{table}.bin: cut short or damaged: {2**63} " in line and "bytes left at byte" in line

    def test_unknown_and_unsupported_lenses(self, tmp_path: Path) -> None:
        names = save_pictures(tmp_path / "images", 4)
        write_colmap_binary(tmp_path / "sparse/0", names, (FOCAL, FOCAL, 12, 8, 0.1), model_id=7)
        line = error_of(tmp_path)
        assert "camera 1: the lens model 'FOV' is not supported. Supported: SIMPLE_PINHOLE, PINHOLE, " in line
        assert "colmap image_undistorter" in line
        write_colmap_binary(tmp_path / "sparse/0", names, model_id=99)
        assert "cameras.bin: unknown camera model number 99 at byte" in error_of(tmp_path)
        rational = (FOCAL, FOCAL, 12, 8, 0.1, 0, 0, 0, 0, 0.2, 0, 0)
        write_colmap_binary(tmp_path / "sparse/0", names, rational, model_id=6)
        assert "the lens model 'FULL_OPENCV' is not supported" in error_of(tmp_path)

    def test_missing_pictures_and_escaping_names(self, tmp_path: Path) -> None:
        self.capture(tmp_path)
        (tmp_path / "images/0004.png").unlink()
        assert "images.bin: 1 picture is missing: '0004.png'" in error_of(tmp_path)
        write_colmap_binary(tmp_path / "sparse/0", ["0000.png", "../../etc/passwd", "0002.png"])
        assert "'../../etc/passwd' leaves the capture folder" in error_of(tmp_path)

    @pytest.mark.parametrize(
        ("table", "text", "message"),
        [
            ("cameras", "1 PINHOLE 24 16 20 20 12", "cameras.txt: line 1: 4 numbers expected"),
            ("cameras", "1 PINHOLE 24 16 20 20 12 x", "cameras.txt: line 1: 4 numbers expected"),
            ("cameras", "1 MAGIC 24 16 20", "cameras.txt: line 1: unknown camera model 'MAGIC'"),
            ("cameras", "2 PINHOLE 24 16 20 20 12 8", "images.txt: '0000.png': camera 1 does not exist"),
            ("cameras", "1 PINHOLE 24 16 nan 20 12 8", "camera 1: impossible size or parameters"),
            ("cameras", "1 PINHOLE 24 16 -3 20 12 8", "camera 1: the focal length is -3"),
            ("images", "1 0 0 0 0 1 2 3 1 0000.png\n\n", "images.txt: '0000.png': the quaternion has length 0"),
            ("images", "1 1 0 0 0 1 2 3 1\n\n", "images.txt: line 1: id, quaternion, translation"),
            ("images", "# nothing\n", "images.txt: the model has no pictures"),
            ("points3D", "1 0.5 0.5\n", "points3D.txt: line 1: 3 numbers expected"),
        ],
    )
    def test_damaged_text(self, tmp_path: Path, table: str, text: str, message: str) -> None:
        write_colmap_text(tmp_path / "sparse/0", save_pictures(tmp_path / "images", 4))
        (tmp_path / f"sparse/0/{table}.txt").write_text(text)
        assert message in error_of(tmp_path)

    def test_a_model_without_points(self, tmp_path: Path) -> None:
        self.capture(tmp_path)
        (tmp_path / "sparse/0/points3D.bin").write_bytes(struct.pack("<Q", 0))
        assert load_scene(tmp_path).meta.points is None
        (tmp_path / "sparse/0/points3D.bin").unlink()
        assert load_scene(tmp_path).meta.points is None

    @pytest.mark.parametrize("form", ["binary", "text"])
    def test_a_model_written_by_colmap_itself(self, tmp_path: Path, form: str) -> None:
        options = pycolmap.SyntheticDatasetOptions()
        options.num_rigs, options.num_frames_per_rig, options.num_points3D = 2, 4, 50
        theirs = pycolmap.synthesize_dataset(options)
        model = tmp_path / "sparse/0"
        model.mkdir(parents=True)
        theirs.write_binary(model) if form == "binary" else theirs.write_text(model)
        for image in theirs.images.values():
            width, height = theirs.cameras[image.camera_id].width, theirs.cameras[image.camera_id].height
            path = tmp_path / "images" / image.name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (width, height)).save(path)
        meta = load_scene(tmp_path, downscale=1).meta
        expected = {f"images/{image.name}": image for image in theirs.images.values()}
        assert set(meta.image_names) == set(expected) and len(expected) == 8
        xyz = np.array([point.xyz for point in theirs.points3D.values()])
        for name, camera in zip(meta.image_names, meta.cameras, strict=True):
            w2c = expected[name].cam_from_world().matrix()
            local = xyz @ w2c[:, :3].T + w2c[:, 3]
            uv = theirs.cameras[expected[name].camera_id].img_from_cam(local)
            ours, depth_z = camera.project(torch.from_numpy(xyz))
            assert np.abs(ours.numpy() - uv)[local[:, 2] > 0.1].max() < 1e-6
            assert np.allclose(depth_z.numpy(), local[:, 2])
        assert np.allclose(np.sort(meta.points, 0), np.sort(xyz, 0), atol=1e-5)

    @pytest.mark.parametrize("model_id", CAMERA_MODELS)
    def test_lenses_agree_with_colmap(self, model_id: int) -> None:
        """Every model we accept projects as COLMAP itself does, the others are refused."""
        name, n_params = CAMERA_MODELS[model_id]
        theirs = pycolmap.Camera.create_from_model_id(1, pycolmap.CameraModelId(model_id), 500.0, 640, 480)
        assert len(theirs.params) == n_params
        names = [word.strip() for word in theirs.params_info.split(",")]
        rng = np.random.default_rng(model_id)
        params = [
            rng.uniform(-0.03, 0.03) * (0.1 if key[0] == "p" else 1) if key[0] in "kp" else value
            for key, value in zip(names, theirs.params, strict=True)
        ]
        if name == "FULL_OPENCV":
            params[9:] = [0, 0, 0]
        theirs.params = params
        raw = RawCamera(name, 640, 480, tuple(params))
        if name in ("FOV", "THIN_PRISM_FISHEYE", "RAD_TAN_THIN_PRISM_FISHEYE", "SIMPLE_DIVISION", "DIVISION", "EUCM"):
            with pytest.raises(UserError, match=f"the lens model '{name}' is not supported"):
                camera_intrinsics(raw, "here")
            return
        intrinsics = camera_intrinsics(raw, "here")
        camera = Camera(640, 480, intrinsics.matrix(640, 480), torch.eye(3, 4, dtype=torch.float64), intrinsics.lens)
        local = rng.normal(0, 0.4, (200, 3)) + [0, 0, 1.5]
        assert np.abs(camera.project(torch.from_numpy(local))[0].numpy() - theirs.img_from_cam(local)).max() < 1e-9


class TestPly:
    XYZ = np.array([[1, 2, 3], [4, 5, 6], [np.inf, 0, 0], [7, 8, 9]], dtype=np.float64)

    def write(self, path: Path, encoding: str, code: str = "f4", n: int | None = None) -> Path:
        order = ">" if "big" in encoding else "<"
        ply_type = {"f4": "float", "f8": "double"}[code]
        header = f"ply\nformat {encoding} 1.0\ncomment by hand\nelement vertex {len(self.XYZ) if n is None else n}\n"
        header += f"property uchar red\n{''.join(f'property {ply_type} {axis}{chr(10)}' for axis in 'xyz')}"
        header += "element face 1\nproperty list uchar int vertex_indices\nend_header\n"
        dtype = np.dtype([("red", "u1"), *((axis, order + code) for axis in "xyz")])
        rows = np.array([(9, *row) for row in self.XYZ], dtype=dtype)
        text = "".join(f"9 {x} {y} {z}\n" for x, y, z in self.XYZ)
        path.write_bytes(header.encode() + (text.encode() if encoding == "ascii" else rows.tobytes()))
        return path

    @pytest.mark.parametrize("code", ["f4", "f8"])
    @pytest.mark.parametrize("encoding", ["ascii", "binary_little_endian", "binary_big_endian"])
    def test_positions(self, tmp_path: Path, encoding: str, code: str) -> None:
        points, n_dropped = read_ply_points(self.write(tmp_path / "x.ply", encoding, code))
        assert points.dtype == np.float32 and np.array_equal(points, self.XYZ[[0, 1, 3]]) and n_dropped == 1

    @pytest.mark.parametrize("encoding", ["ascii", "binary_little_endian"])
    def test_a_cap_thins_out_evenly(self, tmp_path: Path, encoding: str) -> None:
        points, _ = read_ply_points(self.write(tmp_path / "x.ply", encoding), max_points=2)
        assert np.array_equal(points, self.XYZ[[0]])  # every second: rows 0 and 2, which is not finite

    @pytest.mark.parametrize("encoding", ["ascii", "binary_little_endian"])
    def test_a_header_cannot_promise_more_than_the_file_holds(self, tmp_path: Path, encoding: str) -> None:
        path = self.write(tmp_path / "x.ply", encoding, n=10**12)
        with pytest.raises(UserError, match="cut short: the header promises 1000000000000 points, the file holds 4"):
            read_ply_points(path)

    @pytest.mark.parametrize(
        ("header", "message"),
        [
            ("<html>", "not a PLY point cloud"),
            ("ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nend_header\n", "no points with x, y and z"),
            ("ply\nformat zip 1.0\nelement vertex 0\n%send_header\n", "unknown encoding 'zip'"),
            ("ply\nformat ascii 1.0\nelement face 0\nelement vertex 1\n%send_header\n", "not the first element"),
            ("ply\nformat ascii 1.0\nelement vertex -5\n%send_header\n", "no points with x, y and z"),
            ("ply\nformat ascii 1.0\nelement vertex 1\nproperty list uchar int x\nend_header\n", "unknown property"),
            ("ply\nformat ascii 1.0\nelement vertex 1\n%send_header\n1 2 x\n", "point 0 is not three numbers"),
        ],
    )
    def test_damaged_headers(self, tmp_path: Path, header: str, message: str) -> None:
        path = tmp_path / "x.ply"
        path.write_text(header.replace("%s", "".join(f"property float {axis}\n" for axis in "xyz")))
        with pytest.raises(UserError, match=message):
            read_ply_points(path)
