"""Exports that are interrupted, refused or out of room: they continue, say why, and never overwrite by accident."""

from __future__ import annotations

import errno
import json
import shutil
from dataclasses import replace
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from nerfstudio_ext.camera_paths import from_views
from nerfstudio_ext.cameras import Cameras
from nerfstudio_ext.errors import UserError
from nerfstudio_ext.exporters import FrameOptions, write_frames
from nerfstudio_ext.exporters import sequence as sequence_module
from nerfstudio_ext.exporters import video as video_module
from nerfstudio_ext.progress import SilentProgress
from nerfstudio_ext.renderer import Cancelled, CancelToken, RayRenderer

from .ball import CountingRenderer, ball, expected_rgb, files_below, opaque_ball, turn, views


@pytest.mark.parametrize("target", ["frames", "o.mp4"])
def test_an_interrupted_export_continues_and_equals_a_whole_one(tmp_path: Path, target: str) -> None:
    path, whole, output = turn(8), tmp_path / "whole", tmp_path / target
    write_frames(RayRenderer(ball), path, whole)
    with pytest.raises(KeyboardInterrupt):
        write_frames(CountingRenderer(stop_after=5), path, output)
    work = output if target == "frames" else tmp_path / "o.mp4.partial"
    frames = [f"frame_0000{i}.png" for i in range(1, 6)]
    assert files_below(work) == [".finished-all.jsonl", *frames, "frames.json"]
    assert target == "frames" or not output.exists()
    rest = CountingRenderer()
    write_frames(rest, path, output)
    assert rest.n_frames == 3
    if target == "frames":
        for name in files_below(whole):
            assert (whole / name).read_bytes() == (output / name).read_bytes()
    else:
        assert imageio_ffmpeg.count_frames_and_secs(str(output))[0] == 8 and not work.exists()


def test_damaged_frames_are_rendered_again(tmp_path: Path) -> None:
    path, output = turn(4), tmp_path / "frames"
    with pytest.raises(KeyboardInterrupt):
        write_frames(CountingRenderer(stop_after=3), path, output)
    (output / "frame_00001.png").write_bytes(b"")
    (output / "frame_00002.png").write_bytes(b"not a picture")
    rest = CountingRenderer()
    write_frames(rest, path, output)
    assert rest.n_frames == 3
    np.testing.assert_array_equal(np.asarray(Image.open(output / "frame_00001.png")), expected_rgb(path, 0))


def test_frames_of_other_weights_or_settings_are_never_mixed(tmp_path: Path) -> None:
    path, output = turn(4), tmp_path / "frames"
    with pytest.raises(KeyboardInterrupt):
        write_frames(CountingRenderer(stop_after=2), path, output, content_id="run step 100")
    with pytest.raises(UserError, match="already there"):
        write_frames(CountingRenderer(), path, output, content_id="run step 200")
    again = CountingRenderer()
    write_frames(again, path, output, FrameOptions(overwrite=True), content_id="run step 200")
    assert again.n_frames == 4
    # A film's work folder is ours: done anew without asking.
    with pytest.raises(KeyboardInterrupt):
        write_frames(CountingRenderer(stop_after=2), path, tmp_path / "o.mp4", content_id="a")
    anew = CountingRenderer()
    write_frames(anew, path, tmp_path / "o.mp4", content_id="b")
    assert anew.n_frames == 4


@pytest.mark.parametrize("target", ["frames", "o.mp4", "o.gif"])
def test_cancel_leaves_nothing_under_the_final_name(tmp_path: Path, target: str) -> None:
    token = CancelToken()
    with pytest.raises(Cancelled):
        write_frames(CountingRenderer(stop_after=2, token=token), turn(6), tmp_path / target, cancel=token)
    assert not (tmp_path / target).is_file()
    assert not [n for n in files_below(tmp_path) if n.endswith(".part")]


def test_cancel_while_encoding_leaves_no_film(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token = CancelToken()
    monkeypatch.setattr(video_module.time, "sleep", lambda _: token.cancel())
    with pytest.raises(Cancelled):
        write_frames(RayRenderer(ball), turn(6), tmp_path / "o.mp4", cancel=token)
    assert not (tmp_path / "o.mp4").exists() and "film.mp4" not in files_below(tmp_path / "o.mp4.partial")


def test_an_existing_target_needs_permission(tmp_path: Path) -> None:
    film, folder = tmp_path / "o.mp4", tmp_path / "frames"
    film.write_bytes(b"precious")
    renderer = CountingRenderer()
    with pytest.raises(UserError, match="exists"):
        write_frames(renderer, turn(2), film)
    write_frames(RayRenderer(ball), turn(2), folder)
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="already there"):
        write_frames(renderer, turn(2), folder)
    assert renderer.n_frames == 0 and film.read_bytes() == b"precious"
    write_frames(renderer, turn(1), folder, FrameOptions(overwrite=True))
    assert files_below(folder) == ["frame_00001.png", "frames.json", "notes.txt"]
    write_frames(renderer, turn(2), film, FrameOptions(overwrite=True))
    assert film.read_bytes() != b"precious"


def test_a_stranger_s_pictures_are_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "frame_00002.png").write_bytes(b"mine")
    with pytest.raises(UserError, match="'frame_00002.png' is already there"):
        write_frames(RayRenderer(ball), turn(2), tmp_path)
    assert (tmp_path / "frame_00002.png").read_bytes() == b"mine"


def test_a_forged_manifest_deletes_nothing_outside(tmp_path: Path) -> None:
    folder, outside = tmp_path / "frames", tmp_path / "outside.png"
    folder.mkdir()
    outside.write_bytes(b"mine")
    (folder / "frames.json").write_text(json.dumps({"files": {"rgb": ["../outside.png", str(outside)]}}))
    write_frames(RayRenderer(ball), turn(2), folder, FrameOptions(overwrite=True))
    assert outside.read_bytes() == b"mine"


def test_a_full_disk_names_the_frame_and_keeps_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, n_written = sequence_module.write_whole, []

    def fills_up(target: Path, content: bytes, *, is_shared: bool = False) -> None:
        n_written.append(target)
        if len(n_written) == 5:  # the manifest and three frames fit
            raise OSError(errno.ENOSPC, "No space left on device")
        write(target, content, is_shared=is_shared)

    monkeypatch.setattr(sequence_module, "write_whole", fills_up)
    with pytest.raises(UserError, match="disk is full at frame 4 of 6; 3 finished frames are kept"):
        write_frames(RayRenderer(ball), turn(6), tmp_path / "frames")
    monkeypatch.setattr(sequence_module, "write_whole", write)
    rest = CountingRenderer()
    write_frames(rest, turn(6), tmp_path / "frames")
    assert rest.n_frames == 3


def test_a_dying_encoder_keeps_the_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video_module, "_h264", lambda options: ["-c:v", "no_such_codec"])
    with pytest.raises(UserError, match="encoder stopped.*frames are kept"):
        write_frames(RayRenderer(ball), turn(3), tmp_path / "o.mp4")
    assert not (tmp_path / "o.mp4").exists()
    monkeypatch.undo()
    rest = CountingRenderer()
    write_frames(rest, turn(3), tmp_path / "o.mp4")
    assert rest.n_frames == 0 and files_below(tmp_path) == ["o.mp4", "o.mp4.json"]


def test_a_missing_encoder_is_told_before_rendering(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> str:
        raise RuntimeError("No ffmpeg exe could be found")

    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", missing)
    renderer = CountingRenderer()
    with pytest.raises(UserError, match="no video encoder.*folder of images"):
        write_frames(renderer, turn(3), tmp_path / "o.mp4")
    assert renderer.n_frames == 0
    write_frames(renderer, turn(1), tmp_path / "frames")


def test_notes_of_the_path_reach_the_user(tmp_path: Path) -> None:
    progress = SilentProgress()
    write_frames(RayRenderer(ball), replace(turn(2), notes=("orbit is an arc",)), tmp_path / "o", progress=progress)
    assert progress.warnings == ["orbit is an arc"]


@pytest.mark.parametrize(
    ("output", "options", "words"),
    [
        ("o.avi", FrameOptions(), "cannot write '.avi' files"),
        ("o", FrameOptions(outputs=()), "outputs are 'nothing'"),
        ("o", FrameOptions(outputs=("normals",)), "outputs are 'normals'"),  # type: ignore[arg-type]
        ("o", FrameOptions(outputs=("rgb", "rgb")), "outputs are 'rgb, rgb'"),
        ("o.mp4", FrameOptions(outputs=("rgba",)), "holds no opacity"),
        ("o", FrameOptions(outputs=("rgba",), image_format="jpeg"), "JPEG holds no opacity"),
        ("o.mp4", FrameOptions(outputs=("depth",), depth_format="npy"), "raw depth does not fit"),
        ("o", FrameOptions(jpeg_quality=0), "jpeg_quality is 0"),
        ("o.mp4", FrameOptions(video_crf=99), "video_crf is 99"),
        ("o", FrameOptions(depth_range=(2.0, 1.0)), "depth range from 2 to 1"),
        ("taken/o.mp4", FrameOptions(), "cannot write there"),
    ],
)
def test_bad_requests_end_before_rendering(tmp_path: Path, output: str, options: FrameOptions, words: str) -> None:
    (tmp_path / "taken").write_text("a file where a folder should be")
    renderer = CountingRenderer()
    with pytest.raises(UserError, match=words):
        write_frames(renderer, turn(2), tmp_path / output, options)
    assert renderer.n_frames == 0


def test_limits_of_film_formats(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="60 frames per second in a GIF"):
        write_frames(RayRenderer(ball), replace(turn(2), fps=60), tmp_path / "o.gif")
    with pytest.raises(UserError, match="too large for mp4"):
        write_frames(RayRenderer(ball), turn(2).with_size(9000, 2), tmp_path / "o.mp4")


def test_an_export_that_cannot_fit_is_refused_with_the_estimate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=10_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    path = from_views(Cameras([views(1)[0].resize(4000, 3000)] * 3))
    with pytest.raises(UserError, match="3 frames need about 0.1 GB, 0.0 GB are free"):
        write_frames(RayRenderer(ball), path, tmp_path / "o", FrameOptions(outputs=("depth",), depth_format="npy"))


def test_opacity_of_a_method_without_is_refused_before_the_first_frame(tmp_path: Path) -> None:
    for outputs in (("rgb", "alpha"), ("rgba",)):
        with pytest.raises(UserError, match="no opacity"):
            write_frames(RayRenderer(opaque_ball), turn(3), tmp_path / "o", FrameOptions(outputs=outputs))  # type: ignore[arg-type]
    assert not (tmp_path / "o").exists() or not files_below(tmp_path / "o")
    write_frames(RayRenderer(opaque_ball), turn(1), tmp_path / "d", FrameOptions(outputs=("rgb", "depth")))
