"""Damaged twins of a transforms.json capture: one line that names the place, before any picture is decoded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nerfstudio_ext.errors import UserError
from nerfstudio_ext.progress import SilentProgress
from nerfstudio_ext.scenes import load_scene
from tests.scenes.builders import HEIGHT, WIDTH, transforms, write_transforms

Damage = Callable[[dict[str, Any]], object]


def frame(i: int, **keys: Any) -> Damage:
    return lambda document: document["frames"][i].update(keys)


def entry(i: int, row: int, column: int, value: Any) -> Damage:
    return lambda document: document["frames"][i]["transform_matrix"][row].__setitem__(column, value)


def matrix(i: int, change: Callable[[np.ndarray], np.ndarray]) -> Damage:
    def damage(document: dict[str, Any]) -> None:
        pose = np.array(document["frames"][i]["transform_matrix"])
        document["frames"][i]["transform_matrix"] = change(pose).tolist()

    return damage


def top(**keys: Any) -> Damage:
    return lambda document: document.update(keys)


PLACE = "transforms.json: frames[3]"
AGAIN = "Write the poses again, or delete the frame."
LENSES = "PINHOLE, SIMPLE_PINHOLE, SIMPLE_RADIAL, RADIAL, OPENCV, FULL_OPENCV, OPENCV_FISHEYE, EQUIRECTANGULAR"
CASES: dict[str, tuple[Damage, str]] = {
    "no frames": (lambda d: d.pop("frames"), "transforms.json: 'frames' is missing. Write one entry per picture."),
    "empty frames": (top(frames=[]), "transforms.json: 'frames' is empty. Write one entry per picture."),
    "frames no list": (top(frames={}), "transforms.json: 'frames' is not a list. Write one entry per picture."),
    "frame no object": (
        lambda d: d["frames"].insert(3, 7),
        f"{PLACE}: expected an object. Write the frame again, or delete it.",
    ),
    "no name": (
        lambda d: d["frames"][3].pop("file_path"),
        f"{PLACE}.file_path: expected text, found null. Correct the value.",
    ),
    "no matrix": (
        lambda d: d["frames"][3].pop("transform_matrix"),
        f"{PLACE}: no transform_matrix. Give the camera-to-world matrix, or delete the frame.",
    ),
    "text for a number": (
        entry(3, 0, 2, "0.5"),
        f"{PLACE}.transform_matrix[0][2]: expected a number, found text. Correct the value.",
    ),
    "short row": (
        lambda d: d["frames"][3]["transform_matrix"][1].pop(),
        f"{PLACE}.transform_matrix: the rows differ in length. Write three or four rows of four.",
    ),
    "2x2": (
        matrix(3, lambda m: m[:2, :2]),
        f"{PLACE}.transform_matrix: expected 3x4 or 4x4 numbers, found 2x2. {AGAIN}",
    ),
    "mirrored": (
        matrix(3, lambda m: m * [1, 1, -1, 1]),
        f"{PLACE}.transform_matrix: det = -1: the pose is mirrored. {AGAIN}",
    ),
    "zeros": (
        matrix(3, lambda m: m * [[0, 0, 0, 1]]),
        f"{PLACE}.transform_matrix: the rotation is all zeros. {AGAIN}",
    ),
    "flat": (
        matrix(3, lambda m: m[:, [0, 0, 2, 3]]),
        f"{PLACE}.transform_matrix: the rotation is flat (two axes coincide). {AGAIN}",
    ),
    "scaled axis": (
        matrix(3, lambda m: m * [1, 1, 0.5, 1]),
        f"{PLACE}.transform_matrix: not a rotation (axis lengths 1 1 0.5, expected 1 1 1). {AGAIN}",
    ),
    "last row": (
        entry(3, 3, 3, 2.0),
        f"{PLACE}.transform_matrix: the last row is [0, 0, 0, 2], expected [0, 0, 0, 1]. {AGAIN}",
    ),
    "leaves the folder": (
        frame(3, file_path="../../etc/passwd"),
        f"{PLACE}.file_path: '../../etc/passwd' leaves the capture folder. Copy the file into the capture folder.",
    ),
    "absolute": (
        frame(3, file_path="/etc/passwd"),
        f"{PLACE}.file_path: '/etc/passwd' is not a path inside the capture. Use a relative path.",
    ),
    "drive": (
        frame(3, file_path="C:\\photos\\a.png"),
        f"{PLACE}.file_path: 'C:\\photos\\a.png' is not a path inside the capture. Use a relative path.",
    ),
    "URL": (
        frame(3, file_path="file:///etc/passwd"),
        f"{PLACE}.file_path: 'file:///etc/passwd' is not a path inside the capture. Use a relative path.",
    ),
    "NUL": (
        frame(3, file_path="a\0.png"),
        f"{PLACE}.file_path: 'a?.png' is not a path inside the capture. Use a relative path.",
    ),
    "mask leaves": (
        frame(3, mask_path="../mask.png"),
        f"{PLACE}.mask_path: '../mask.png' leaves the capture folder. Copy the file into the capture folder.",
    ),
    "mask missing": (frame(3, mask_path="m.png"), f"{PLACE}.mask_path: the mask 'm.png' is missing. Restore it."),
    "points leave": (
        top(ply_file_path="../x.ply"),
        "transforms.json: ply_file_path: '../x.ply' leaves the capture folder. Copy the file into the capture folder.",
    ),
    "unknown lens": (
        top(camera_model="FISHEYE624"),
        f"transforms.json: camera_model: the lens model 'FISHEYE624' is not supported. Supported: {LENSES}.",
    ),
    "f-theta": (
        top(ftheta_p0=0.1),
        f"transforms.json: ftheta_p0: the lens model 'ftheta' is not supported. Supported: {LENSES}.",
    ),
    "distortion list": (
        top(distortion_params=[0.1, 0.2]),
        "transforms.json: distortion_params: expected 6 numbers (k1 k2 k3 k4 p1 p2), found 2. "
        "Write all six, 0 where there is none.",
    ),
    "no focal length": (
        lambda d: d.pop("fl_x"),
        "transforms.json: frames[0]: no focal length. Give fl_x (pixels) or camera_angle_x.",
    ),
    "focal length 0": (
        frame(3, fl_x=0),
        f"{PLACE}.fl_x: the focal length is 0. Give it in pixels, above 0.",
    ),
    "millimetres": (
        top(fl_x=0.9),
        "transforms.json: fl_x: 0.9 makes a field of view of 171 degrees over 24 pixels. "
        "Give the focal length in pixels, not in millimetres.",
    ),
    "degrees as radians": (
        lambda d: (d.pop("fl_x"), d.update(camera_angle_x=60)),
        "transforms.json: camera_angle_x: impossible field of view 60. Give radians, between 0 and 3.14.",
    ),
    "centre outside": (
        top(cx=0.5, cy=99.0),
        "transforms.json: cy: the principal point 99 lies outside the picture of 16 pixels. Give it in pixels.",
    ),
    "half a pixel": (
        top(w=24.5),
        "transforms.json: w: expected a whole number of pixels, found 24.5. Correct the value.",
    ),
    "another shape": (
        frame(3, w=WIDTH, h=WIDTH),
        f"{PLACE}: the picture has 24x16 pixels, the file says 24x24. Use the pictures the poses were made for.",
    ),
    "box size": (
        top(aabb_scale=3),
        "transforms.json: aabb_scale: 3 is no box size. Use one of 1, 2, 4, 8, 16, 32, 64, 128.",
    ),
    "scale": (top(scale=-1), "transforms.json: scale: the scale is -1. Give a number above 0."),
    "aabb": (
        top(aabb=[[0, 0, 0], [0, 0, 0]]),
        "transforms.json: aabb: expected [[min x, y, z], [max x, y, z]] of a box with volume. "
        "Write it again, or remove it.",
    ),
    "applied transform": (
        top(applied_transform=[[0, 0, 0, 1]] * 3),
        "transforms.json: applied_transform: the transform cannot be undone (det = 0). Write it again, or remove it.",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_damaged_document(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damage, message = CASES[case]
    document = transforms(5)
    write_transforms(tmp_path, document)
    damage(document)
    (tmp_path / "transforms.json").write_text(json.dumps(document))
    monkeypatch.setattr("nerfstudio_ext.scenes.images.read_image", lambda *_, **__: pytest.fail("decoded a picture"))
    with pytest.raises(UserError) as caught:
        load_scene(tmp_path)
    assert caught.value.line == message


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        ({"train_filenames": ["images/0000.png", "nothing.png"]},
         "1 names in train_filenames belong to no frame: 'nothing.png'"),
        ({"train_filenames": ["images/0000.png"], "test_filenames": ["images/0000.png"]},
         "1 pictures are listed for training and for testing: 'images/0000.png'"),
        ({"train_filenames": ["images/0000.png"], "test_filenames": [], "val_filenames": []},
         "the file's lists leave no picture for testing"),
        ({"train_filenames": [], "test_filenames": ["images/0000.png"]},
         "the file's lists leave no picture for training"),
        ({"train_filenames": "images/0000.png"}, "train_filenames: expected a list of texts, found text"),
    ],
    ids=["unknown", "overlap", "no test", "no train", "no list"],
)  # fmt: skip
def test_damaged_splits(tmp_path: Path, listed: dict[str, Any], message: str) -> None:
    write_transforms(tmp_path, transforms(5, **listed))
    with pytest.raises(UserError) as caught:
        load_scene(tmp_path)
    assert message in caught.value.line and caught.value.fix or "expected a list" in message


def test_missing_pictures_are_counted_and_named_at_once(tmp_path: Path) -> None:
    write_transforms(tmp_path, transforms(9))
    for i in range(1, 8):
        (tmp_path / f"images/{i:04d}.png").unlink()
    with pytest.raises(UserError) as caught:
        load_scene(tmp_path)
    names = ", ".join(f"'images/{i:04d}.png'" for i in range(1, 6))
    assert caught.value.line == (
        f"transforms.json: 7 pictures are missing: {names} and 2 more. "
        f"Restore them under {tmp_path}, or delete the frames."
    )


def test_a_link_out_of_the_capture_is_not_followed(tmp_path: Path) -> None:
    write_transforms(tmp_path / "capture", transforms(4))
    outside = tmp_path / "secret.png"
    (tmp_path / "capture/images/0002.png").rename(outside)
    (tmp_path / "capture/images/0002.png").symlink_to(outside)
    with pytest.raises(UserError, match=r"frames\[2\]\.file_path: 'images/0002.png' leaves the capture folder"):
        load_scene(tmp_path / "capture")


def test_a_loop_of_links_ends(tmp_path: Path) -> None:
    write_transforms(tmp_path, transforms(4))
    (tmp_path / "images/0002.png").unlink()
    (tmp_path / "images/0002.png").symlink_to(tmp_path / "images/0002.png")
    with pytest.raises(UserError, match=r"0002\.png"):
        load_scene(tmp_path)


def test_too_few_pictures_left(tmp_path: Path) -> None:
    write_transforms(tmp_path, transforms(4))
    for i in range(2):
        (tmp_path / f"images/{i:04d}.png").write_text("<html>not a picture</html>")
    progress = SilentProgress()
    with pytest.raises(UserError, match="2 usable pictures; at least 3 are needed. Restore the damaged pictures"):
        load_scene(tmp_path, progress=progress)
    assert sum("not a picture" in line for line in progress.warnings) == 2


@pytest.mark.parametrize("size", [(WIDTH, WIDTH), (7, 40)])
def test_masks_of_the_wrong_shape_or_without_a_pixel(tmp_path: Path, size: tuple[int, int]) -> None:
    document = transforms(4)
    document["frames"][1]["mask_path"] = "mask.png"
    write_transforms(tmp_path, document)
    Image.new("L", size, 255).save(tmp_path / "mask.png")
    expected = f"mask.png: the mask has {size[0]}x{size[1]} pixels, its picture 24x16"
    with pytest.raises(UserError, match=expected):
        load_scene(tmp_path)
    Image.new("L", (WIDTH, HEIGHT), 0).save(tmp_path / "mask.png")
    with pytest.raises(UserError, match="mask.png: the mask leaves no pixel of the picture"):
        load_scene(tmp_path)


@pytest.mark.parametrize(("option", "value"), [("downscale", 0.5), ("downscale", 1e9), ("max_side", 3)])
def test_impossible_reductions(tmp_path: Path, option: str, value: float) -> None:
    write_transforms(tmp_path)
    with pytest.raises(UserError, match="is out of range"):
        load_scene(tmp_path, **{option: value})


def test_a_transposed_pose_is_recognised(tmp_path: Path) -> None:
    document = transforms(4)
    document["frames"][2]["transform_matrix"] = np.array(document["frames"][2]["transform_matrix"]).T.tolist()
    write_transforms(tmp_path, document)
    with pytest.raises(UserError, match=r"frames\[2\]\.transform_matrix: transposed: the last row is"):
        load_scene(tmp_path)
