"""Exports read back: as many frames as cameras, the right pixels, and never half a file under a final name."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import imageio.v2 as imageio
import imageio_ffmpeg
import numpy as np
import pytest
import torch
from PIL import Image

from nerfstudio_ext.camera_paths import from_views
from nerfstudio_ext.cameras import Cameras
from nerfstudio_ext.errors import UserError
from nerfstudio_ext.exporters import FrameOptions, write_frames
from nerfstudio_ext.progress import SilentProgress
from nerfstudio_ext.renderer import RayRenderer

from .ball import DISTANCE, RADIUS, CountingRenderer, ball, expected_rgb, files_below, turn, views


@dataclass(frozen=True)
class Similarity:
    rotation: torch.Tensor
    translation: torch.Tensor
    scale: float


HALF = Similarity(torch.eye(3, dtype=torch.float64), torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64), 0.5)


def test_an_mp4_has_every_frame_and_near_its_pixels(tmp_path: Path) -> None:
    path = turn(12)
    (film,) = write_frames(RayRenderer(ball), path, tmp_path / "orbit.mp4")
    assert files_below(tmp_path) == ["orbit.mp4", "orbit.mp4.json"]
    n_frames, seconds = imageio_ffmpeg.count_frames_and_secs(str(film))
    assert n_frames == 12 and seconds == pytest.approx(1.0, abs=0.01)
    reader = imageio.get_reader(film)
    meta = reader.get_meta_data()
    assert meta["codec"] == "h264" and meta["pix_fmt"].startswith("yuv420p") and meta["fps"] == 12
    for i in (0, 11):
        error = np.abs(reader.get_data(i).astype(float) - expected_rgb(path, i))
        assert error.mean() < 6  # half the colour resolution on a picture of 48x32
    reader.close()


def test_an_mp4_starts_playing_before_it_is_loaded(tmp_path: Path) -> None:
    (film,) = write_frames(RayRenderer(ball), turn(4), tmp_path / "orbit.mp4")
    content = film.read_bytes()
    assert 0 < content.index(b"moov") < content.index(b"mdat")


def test_mp4_colours_do_not_shift(tmp_path: Path) -> None:
    class Flat(CountingRenderer):
        def render(self, camera, *, cancel=None):
            frame = super().render(camera, cancel=cancel)
            return replace(frame, rgb=torch.tensor([0.9, 0.3, 0.1]).expand_as(frame.rgb))

    (film,) = write_frames(Flat(), turn(3), tmp_path / "flat.mp4")
    reader = imageio.get_reader(film)
    assert np.abs(reader.get_data(1).reshape(-1, 3).mean(0) - 255 * np.array([0.9, 0.3, 0.1])).max() < 4
    reader.close()


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_animations_have_every_frame_and_loop(tmp_path: Path, suffix: str) -> None:
    path = turn(12)
    (film,) = write_frames(RayRenderer(ball), path, tmp_path / f"orbit{suffix}")
    with Image.open(film) as image:
        assert image.n_frames == 12 and image.size == (48, 32) and image.info.get("loop") == 0
        durations = []
        for i in range(12):
            image.seek(i)
            image.load()
            durations.append(image.info["duration"])
            error = np.abs(np.asarray(image.convert("RGB"), float) - expected_rgb(path, i))
            assert error.mean() < 8, i
    assert sum(durations) == pytest.approx(1000, abs=15)


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_animations_can_be_transparent(tmp_path: Path, suffix: str) -> None:
    (film,) = write_frames(RayRenderer(ball), turn(3), tmp_path / f"o{suffix}", FrameOptions(outputs=("rgba",)))
    with Image.open(film) as image:
        image.seek(2)
        alpha = np.asarray(image.convert("RGBA"))[..., 3]
    assert alpha[0, 0] == 0 and alpha[16, 24] == 255


def test_odd_sizes_are_padded_with_a_notice(tmp_path: Path) -> None:
    progress = SilentProgress()
    (film,) = write_frames(RayRenderer(ball), turn(3, 47, 33), tmp_path / "o.mp4", progress=progress)
    reader = imageio.get_reader(film)
    assert reader.get_meta_data()["size"] == (48, 34)
    reader.close()
    assert "47x33 is padded to 48x34" in progress.warnings[0]


def test_a_folder_of_png_holds_the_exact_pixels(tmp_path: Path) -> None:
    path = turn(3)
    files = write_frames(RayRenderer(ball), path, tmp_path / "frames")
    assert [f.name for f in files] == ["frame_00001.png", "frame_00002.png", "frame_00003.png"]
    for i, file in enumerate(files):
        np.testing.assert_array_equal(np.asarray(Image.open(file)), expected_rgb(path, i))
    assert files_below(tmp_path / "frames") == ["frame_00001.png", "frame_00002.png", "frame_00003.png", "frames.json"]


def test_views_are_named_after_their_images_and_may_differ_in_size(tmp_path: Path) -> None:
    cameras = Cameras([*views(2), *views(1, 20, 30)])
    path = from_views(cameras, ["images/a.JPG", "images/b c.png", "images/d.jpg"])
    files = write_frames(RayRenderer(ball), path, tmp_path / "test", FrameOptions(image_format="jpeg"))
    assert [f.name for f in files] == ["a.jpg", "b c.jpg", "d.jpg"]
    assert [Image.open(f).size for f in files] == [(48, 32), (48, 32), (20, 30)]
    with pytest.raises(UserError, match="different sizes"):
        write_frames(RayRenderer(ball), path, tmp_path / "test.mp4")


def test_several_outputs_get_a_folder_or_a_name_each(tmp_path: Path) -> None:
    options = FrameOptions(outputs=("rgb", "depth", "alpha", "rgba"))
    files = write_frames(RayRenderer(ball), turn(2), tmp_path / "all", options)
    assert [f.relative_to(tmp_path / "all").as_posix() for f in files][::2] == [
        f"{name}/frame_00001.png" for name in options.outputs
    ]
    films = write_frames(RayRenderer(ball), turn(2), tmp_path / "o.mp4", FrameOptions(outputs=("depth", "rgb")))
    assert [f.name for f in films] == ["o.mp4", "o_rgb.mp4"]
    rgba = np.asarray(Image.open(tmp_path / "all/rgba/frame_00001.png")).astype(float) / 255
    rgb = np.asarray(Image.open(tmp_path / "all/rgb/frame_00001.png")).astype(float) / 255
    over_white = rgba[..., :3] * rgba[..., 3:] + 1 - rgba[..., 3:]
    assert np.abs(over_white - rgb).max() < 1.5 / 255
    alpha = np.asarray(Image.open(tmp_path / "all/alpha/frame_00001.png"))
    assert set(np.unique(alpha)) == {0, 255} and (alpha[..., 0] == rgba[..., 3] * 255).all()


def test_one_picture(tmp_path: Path) -> None:
    path = from_views(views(1))
    (file,) = write_frames(RayRenderer(ball), path, tmp_path / "shot.jpeg")
    assert Image.open(file).format == "JPEG" and files_below(tmp_path) == ["shot.jpeg", "shot.jpeg.json"]
    with pytest.raises(UserError, match="one picture file"):
        write_frames(RayRenderer(ball), turn(2), tmp_path / "shots.png")


@pytest.mark.parametrize("along", ["ray", "z"])
@pytest.mark.parametrize("depth_format", ["png16", "npy"])
def test_raw_depth_is_in_source_units_as_the_side_file_says(tmp_path: Path, depth_format: str, along: str) -> None:
    options = FrameOptions(outputs=("depth",), depth_format=depth_format, depth_along=along)  # type: ignore[arg-type]
    path = from_views(views(2, 41, 41))
    files = write_frames(RayRenderer(ball), path, tmp_path / "d", options, frame=HALF)
    side = json.loads((tmp_path / "d/frames.json").read_text())["depth"]
    values = np.load(files[0]) if depth_format == "npy" else np.asarray(Image.open(files[0]))
    if depth_format == "png16":
        assert values.dtype == np.uint16 and values[0, 0] == side["empty"] == 0
        values = np.where(values > 0, values * side["unit_scale_factor"], np.inf)
    assert values.dtype == (np.float32 if depth_format == "npy" else np.float64) and np.isinf(values[0, 0])
    # The centre pixel hits the ball head on; source units are twice the training units.
    assert values[20, 20] == pytest.approx((DISTANCE - RADIUS) / HALF.scale, abs=1e-3)
    assert side["units"] == "source" and side["units_per_training_unit"] == 2
    truth = RayRenderer(ball).render(path.cameras[0]).depth.numpy() * 2
    rays_d = path.cameras[0].rays().rays_d.numpy() @ path.cameras[0].c2w[:, 2].numpy()
    if along == "z":
        truth = truth * rays_d.reshape(41, 41)
    np.testing.assert_allclose(values, truth, atol=1e-3)


def test_depth_too_large_for_millimetres_takes_a_larger_unit(tmp_path: Path) -> None:
    far = Similarity(HALF.rotation, HALF.translation, 1e-3)
    options = FrameOptions(outputs=("depth",), depth_format="png16")
    (file,) = write_frames(RayRenderer(ball), from_views(views(1)), tmp_path / "d", options, frame=far)
    unit = json.loads((tmp_path / "d/frames.json").read_text())["depth"]["unit_scale_factor"]
    assert unit == 0.1
    assert np.asarray(Image.open(file))[16, 24] * unit == pytest.approx(1500, rel=2e-3)


def test_depth_colours_keep_one_scale_over_the_whole_film(tmp_path: Path) -> None:
    near_and_far = Cameras([views(1)[0], replace(views(1)[0], c2w=views(1)[0].c2w * torch.tensor([1, 1, 1, 2.0]))])
    files = write_frames(RayRenderer(ball), from_views(near_and_far), tmp_path / "d", FrameOptions(outputs=("depth",)))
    near, far = (np.asarray(Image.open(f))[16, 24].astype(int) for f in files)
    assert near[0] > near[2] + 60 and far[2] > far[0] + 60  # red is near, blue is far
    assert np.asarray(Image.open(files[0]))[0, 0].tolist() == [0, 0, 0]
    fixed = FrameOptions(outputs=("depth",), depth_range=(1.5, 1000.0))
    (file,) = write_frames(RayRenderer(ball), from_views(views(1)), tmp_path / "e", fixed)
    assert np.asarray(Image.open(file))[16, 24].argmax() == 0
    assert json.loads((tmp_path / "e/frames.json").read_text())["depth"]["near"] == pytest.approx(1.5)


def test_the_side_file_holds_poses_in_both_frames(tmp_path: Path) -> None:
    path = turn(3)
    write_frames(RayRenderer(ball), path, tmp_path / "o.mp4", frame=HALF)
    side = json.loads((tmp_path / "o.mp4.json").read_text())
    assert side["schema"] == 1 and side["finished"] and side["n_frames"] == 3 and side["files"] == {"rgb": "o.mp4"}
    camera = side["cameras"][1]
    training = np.array(camera["c2w_training"]).reshape(3, 4)
    source = np.array(camera["c2w_source"]).reshape(3, 4)
    np.testing.assert_allclose(training, path.cameras[1].c2w.numpy())
    np.testing.assert_allclose(HALF.scale * source[:, 3] + HALF.translation.numpy(), training[:, 3])
    np.testing.assert_allclose(source[:, :3], training[:, :3])
    assert side["source_to_training"]["scale"] == 0.5
