"""What a path holds is told from its files, and what holds nothing is told kindly."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nerfstudio_ext.errors import UserError
from nerfstudio_ext.scenes import detect_kind, load_scene
from tests.scenes.builders import save_pictures, write_blender, write_colmap_binary, write_llff, write_transforms


def test_folders(tmp_path: Path) -> None:
    assert detect_kind(write_transforms(tmp_path / "a")) == "transforms"
    assert detect_kind(write_blender(tmp_path / "b")) == "blender"
    assert detect_kind(write_llff(tmp_path / "c")) == "llff"
    write_colmap_binary(tmp_path / "d/sparse/0", save_pictures(tmp_path / "d/images", 3))
    assert detect_kind(tmp_path / "d") == "colmap" and detect_kind(tmp_path / "d/sparse/0") == "colmap"
    assert detect_kind(tmp_path / "d/images") == "photos"


def test_photos_in_any_depth_and_case(tmp_path: Path) -> None:
    (tmp_path / "DCIM/100APPLE").mkdir(parents=True)
    (tmp_path / "DCIM/100APPLE/IMG_1.HEIC").write_bytes(b"")
    assert detect_kind(tmp_path) == "photos"


def test_files(tmp_path: Path) -> None:
    assert detect_kind(write_transforms(tmp_path / "a") / "transforms.json") == "transforms"
    assert detect_kind(write_blender(tmp_path / "b") / "transforms_val.json") == "blender"
    assert detect_kind(write_llff(tmp_path / "c") / "poses_bounds.npy") == "llff"
    (tmp_path / "clip.MOV").write_bytes(b"")
    assert detect_kind(tmp_path / "clip.MOV") == "video"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: None, "no such file or folder. Pass the folder that holds your photos"),
        (lambda p: p.mkdir(), "the folder is empty. Put photos there (.jpg, .jpeg, .png"),
        (lambda p: (p.mkdir(), (p / "a.txt").touch(), (p / ".jpg").touch()), "none of its 1 files is a photo"),
        (lambda p: (p.mkdir(), (p / "clip.mp4").touch()), "no photos, but a video ('clip.mp4'). Pass the video file"),
        (lambda p: p.write_text("hello"), "not a capture. Pass a folder, a transforms.json or a video"),
        (lambda p: os.mkfifo(p), "neither a file nor a folder"),
    ],
    ids=["missing", "empty", "no photo", "a video", "text", "pipe"],
)
def test_nothing_usable(tmp_path: Path, make: object, message: str) -> None:
    path = tmp_path / "input"
    make(path)  # type: ignore[operator]
    with pytest.raises(UserError) as caught:
        detect_kind(path)
    assert caught.value.line.startswith(f"{path}: {message}")


def test_one_picture(tmp_path: Path) -> None:
    save_pictures(tmp_path, 1)
    with pytest.raises(UserError, match="one picture is no capture"):
        detect_kind(tmp_path / "0000.png")


def test_photos_without_poses_are_sent_to_the_solver(tmp_path: Path) -> None:
    save_pictures(tmp_path, 4)
    with pytest.raises(UserError, match="photos without camera poses. Run `nsx process` on it first"):
        load_scene(tmp_path)
