"""Damaged `transforms.json` captures, made by code: the file itself, its numbers, paths, poses, lenses, lists."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.cli.tiny_capture import TINY_METHOD
from tests.reliability.cases import Row, register
from tests.reliability.holding import BAIT
from tests.scenes.builders import save_pictures, transforms

Make = Callable[[Path, np.random.Generator], Sequence[str]]
Edit = Callable[[dict[str, Any]], object]
N = 10
FILE = "transforms.json"
TRAIN = ("--output-dir", "runs", "--no-viewer", "--max-steps", "2", "--max-images", "0", *TINY_METHOD)


def train(target: Path) -> list[str]:
    """Words that train for two steps."""
    return ["train", "ngp", str(target), *TRAIN]


def edited(edit: Edit) -> Make:
    """A whole capture whose document `edit` has changed."""

    def make(folder: Path, rng: np.random.Generator) -> list[str]:
        save_pictures(folder / "images", N)
        document = transforms(N)
        edit(document)
        (folder / FILE).write_text(json.dumps(document))
        return train(folder)

    return make


def raw(data: bytes | Callable[[bytes], bytes]) -> Make:
    """A capture whose description is these bytes, or made from the bytes of a good one."""

    def make(folder: Path, rng: np.random.Generator) -> list[str]:
        save_pictures(folder / "images", N)
        good = json.dumps(transforms(N), indent=1).encode()
        (folder / FILE).write_bytes(data(good) if callable(data) else data)
        return train(folder)

    return make


def token(text: str) -> Make:
    """The number at frames[3].transform_matrix[0][2] replaced by `text`, valid JSON or not."""

    def make(folder: Path, rng: np.random.Generator) -> list[str]:
        edited(lambda d: d["frames"][3]["transform_matrix"][0].__setitem__(2, "MARK"))(folder, rng)
        path = folder / FILE
        path.write_text(path.read_text().replace('"MARK"', text))
        return train(folder)

    return make


def pose(change: Callable[[np.ndarray], object]) -> Make:
    """The pose of frame 3 changed; `change` edits the [4,4] matrix or returns another."""

    def edit(document: dict[str, Any]) -> None:
        matrix = np.array(document["frames"][3]["transform_matrix"])
        answer = change(matrix)
        document["frames"][3]["transform_matrix"] = np.asarray(matrix if answer is None else answer).tolist()

    return edited(edit)


def name(text: str) -> Make:
    """The `file_path` of frame 3 replaced."""
    return edited(lambda d: d["frames"][3].update(file_path=text))


def link_out(folder: Path, rng: np.random.Generator) -> list[str]:
    """Picture 3 is a link to a picture outside."""
    bait = folder.parent / BAIT
    save_pictures(bait, 1)
    words = edited(lambda d: None)(folder, rng)
    (folder / "images" / "0003.png").unlink()
    (folder / "images" / "0003.png").symlink_to(bait / "0000.png")
    return words


def sparse_gigabyte(folder: Path, rng: np.random.Generator) -> list[str]:
    """A description of 1 GB that takes no room on disk."""
    with (folder / FILE).open("wb") as file:
        file.truncate(2**30)
    return train(folder)


def without_pictures(*numbers: int) -> Make:
    """Pictures that the description names and that are not there."""

    def make(folder: Path, rng: np.random.Generator) -> list[str]:
        words = edited(lambda d: None)(folder, rng)
        for number in numbers:
            (folder / "images" / f"{number:04d}.png").unlink()
        return words

    return make


def masked(pixels: np.ndarray | None) -> Make:
    """Frame 3 names a mask of these pixels, or one that is missing."""

    def make(folder: Path, rng: np.random.Generator) -> list[str]:
        words = edited(lambda d: d["frames"][3].update(mask_path="masks/0003.png"))(folder, rng)
        if pixels is not None:
            (folder / "masks").mkdir()
            Image.fromarray(pixels).save(folder / "masks" / "0003.png")
        return words

    return make


def listed(**lists: list[int]) -> Make:
    """Lists of the frames for training, validation and testing, by number."""
    names = {f"{key}_filenames": [f"images/{i:04d}.png" for i in numbers] for key, numbers in lists.items()}
    return edited(lambda d: d.update(names))


PLACE = r"frames\[3\]\.transform_matrix"
DESCRIPTIONS: Sequence[Row] = register(
    [
        Row("C1", "missing", lambda f, r: train(f / FILE), FILE, "no such file"),
        Row("C1", "empty", raw(b""), FILE, "empty"),
        Row("C1", "invalid", raw(lambda good: good.replace(b":", b"=", 1)), FILE, r"line 2, column \d+"),
        Row("C1", "cut in half", raw(lambda good: good[: len(good) // 2]), FILE, r"line \d+, column \d+"),
        Row("C1", "UTF-16", raw(lambda good: good.decode().encode("utf-16")), FILE, "not UTF-8"),
        Row("C1", "a picture", raw(b"\x89PNG\r\n\x1a\n" + bytes(range(256))), FILE, "not UTF-8"),
        Row("C1", "a list", raw(b"[1, 2]"), FILE, "expected a JSON object, found a list"),
        Row("C2", "NaN", token("NaN"), FILE, rf"NaN .*{PLACE}\[0\]\[2\]"),
        Row("C2", "Infinity", token("-Infinity"), FILE, rf"-Infinity .*{PLACE}\[0\]\[2\]"),
        Row("C2", "1e400", token("1e400"), FILE, rf"1e400 .*{PLACE}\[0\]\[2\]"),
        Row("C2", "digits without end", token("9" * 5000), FILE, "digits"),
        Row("C2", "400 digits", token("9" * 400), FILE, rf"{PLACE}\[0\]\[2\].*finite"),
        Row("C2", "text", token('"1.0"'), FILE, rf"{PLACE}\[0\]\[2\].*expected a number, found text"),
        Row("C2", "null", token("null"), FILE, rf"{PLACE}\[0\]\[2\].*expected a number, found null"),
        Row("C2", "true", token("true"), FILE, rf"{PLACE}\[0\]\[2\].*expected a number, found true"),
        Row(
            "C2",
            "a key twice",
            raw(lambda good: good.replace(b'"w":', b'"fl_x":', 1)),
            FILE,
            r"'fl_x' appears twice at line 3",
        ),
        Row("C3", "no frames", edited(lambda d: d.pop("frames")), FILE, "'frames' is missing"),
        Row("C3", "empty frames", edited(lambda d: d.update(frames=[])), FILE, "'frames' is empty"),
        Row("C3", "frames an object", edited(lambda d: d.update(frames={"0": 1})), FILE, "'frames' is not a list"),
        Row(
            "C3",
            "a frame is a number",
            edited(lambda d: d["frames"].insert(3, 7)),
            FILE,
            r"frames\[3\]: expected an object",
        ),
        Row(
            "C3",
            "10^6 frames",
            raw(b'{"frames":[' + b"{}," * 999_999 + b"{}]}"),
            FILE,
            "1000000 frames; at most 100000",
        ),
        Row("C3", "a gigabyte", sparse_gigabyte, FILE, "1024 MB of JSON; at most 64 MB"),
        Row("C3", "nested 100,000 deep", raw(b'{"frames":' + b"[" * 100_000), FILE, "nested too deeply"),
        Row("C4", "absolute", name("/etc/passwd"), (FILE, "frames[3].file_path"), "not a path inside the capture"),
        Row(
            "C4",
            "upwards",
            name("images/../../../../../../../../etc/passwd"),
            "frames[3].file_path",
            "leaves the capture folder",
        ),
        Row(
            "C4",
            "upwards with backslashes",
            name("..\\..\\outside\\0000.png"),
            "frames[3].file_path",
            "leaves the capture folder",
        ),
        Row("C4", "a drive", name("C:\\pictures\\0.png"), "frames[3].file_path", "not a path inside the capture"),
        Row("C4", "file://", name("file:///etc/passwd"), "frames[3].file_path", "not a path inside the capture"),
        Row("C4", "URL", name("https://example.invalid/0.png"), "frames[3].file_path", "not a path inside the capture"),
        Row("C4", "NUL", name("images/0003.png\0.jpg"), "frames[3].file_path", "not a path inside the capture"),
        Row("C4", "a link out", link_out, "frames[3].file_path", "leaves the capture folder"),
        Row("C4", "shell characters", name("images/$(touch marker)`touch marker`;.png"), FILE, "1 picture is missing"),
        Row("C4", "of 100,000 characters", name("a" * 100_000), (FILE, "frames[3].file_path"), ""),
        Row(
            "C4",
            "mask outside",
            edited(lambda d: d["frames"][3].update(mask_path="../outside/m.png")),
            "frames[3].mask_path",
            "leaves",
        ),
        Row(
            "C4",
            "points outside",
            edited(lambda d: d.update(ply_file_path="../outside/p.ply")),
            "ply_file_path",
            "leaves",
        ),
        Row("C5", "one missing", without_pictures(3), (FILE, "images/0003.png"), "1 picture is missing"),
        Row(
            "C5",
            "seven missing",
            without_pictures(*range(7)),
            ("images/0000.png", "images/0004.png"),
            "7 pictures are missing.*and 2 more",
        ),
        Row("C5", "a folder", name("images"), (FILE, "'images'"), "1 picture is missing"),
        Row("C6", "2x4", pose(lambda m: m[:2]), "frames[3].transform_matrix", "expected 3x4 or 4x4 numbers, found 2x4"),
        Row("C6", "4x3", pose(lambda m: m[:, :3]), "frames[3].transform_matrix", "found 4x3"),
        Row(
            "C6",
            "a flat list",
            pose(lambda m: m.ravel()),
            "frames[3].transform_matrix[0]",
            "expected a list of numbers",
        ),
        Row("C6", "transposed", pose(lambda m: m.T), "frames[3].transform_matrix", "transposed"),
        Row(
            "C6",
            "mirrored",
            pose(lambda m: m @ np.diag([-1, 1, 1, 1])),
            "frames[3].transform_matrix",
            "det = -1: .*mirrored",
        ),
        Row(
            "C6",
            "not orthonormal",
            pose(lambda m: m @ np.diag([2, 1, 1, 1])),
            "frames[3].transform_matrix",
            "axis lengths 2 1 1",
        ),
        Row("C6", "zeros", pose(np.zeros_like), "frames[3].transform_matrix", "all zeros|last row"),
        Row("C6", "zero rotation", pose(lambda m: m[:3] * [0, 0, 0, 1]), "frames[3].transform_matrix", "all zeros"),
        Row(
            "C6",
            "last row wrong",
            pose(lambda m: m.__setitem__((3, 2), 0.5)),
            "frames[3].transform_matrix",
            "last row is .*0.5",
        ),
        Row(
            "C6",
            "rows differ",
            edited(lambda d: d["frames"][3]["transform_matrix"][1].pop()),
            "frames[3].transform_matrix",
            "differ in length",
        ),
        Row(
            "C6",
            "no matrix",
            edited(lambda d: d["frames"][3].pop("transform_matrix")),
            "frames[3]",
            "no transform_matrix",
        ),
        Row("C7", "focal length 0", edited(lambda d: d.update(fl_x=0)), "fl_x", "focal length is 0"),
        Row("C7", "focal length negative", edited(lambda d: d.update(fl_x=-500.0)), "fl_x", "focal length is -500"),
        Row("C7", "focal length in mm", edited(lambda d: d.update(fl_x=0.9)), "fl_x", "field of view.*millimetres"),
        Row("C7", "centre outside", edited(lambda d: d.update(cx=4000.0)), "cx", "principal point 4000 .*24 pixels"),
        Row(
            "C7",
            "other shape than the pictures",
            edited(lambda d: d.update(w=16, h=24)),
            "frames[0]",
            "24x16 pixels, the file says 16x24",
        ),
        Row("C7", "half a pixel", edited(lambda d: d.update(w=24.5)), "w", "whole number of pixels"),
        Row(
            "C8",
            "no focal length",
            edited(lambda d: d.pop("fl_x")),
            (FILE, "frames[0]"),
            "no focal length.*camera_angle_x",
        ),
        Row(
            "C8",
            "unknown model",
            edited(lambda d: d.update(camera_model="THIN_PRISM")),
            "camera_model",
            "'THIN_PRISM' is not supported.*OPENCV_FISHEYE",
        ),
        Row(
            "C8",
            "angle above 180 degrees",
            edited(lambda d: (d.pop("fl_x"), d.update(camera_angle_x=4.0))),
            "camera_angle_x",
            "impossible field of view 4",
        ),
        Row(
            "C8",
            "three coefficients",
            edited(lambda d: d.update(distortion_params=[0.1, 0.0, 0.0])),
            "distortion_params",
            "expected 6 numbers",
        ),
        Row("C8", "a coefficient that is text", edited(lambda d: d.update(k1="0.1")), "k1", "expected a number"),
        Row("C12", "mask missing", masked(None), "frames[3].mask_path", "'masks/0003.png' is missing"),
        Row(
            "C12",
            "mask of another shape",
            masked(np.full((24, 24), 255, np.uint8)),
            "0003.png",
            "mask has 24x24 pixels, its picture 24x16",
        ),
        Row("C12", "mask all zero", masked(np.zeros((16, 24), np.uint8)), "0003.png", "leaves no pixel"),
        Row(
            "C13",
            "unknown name",
            listed(train=[0, 1, 2, 3], test=[44]),
            FILE,
            "1 names? in test_filenames .*images/0044.png",
        ),
        Row("C13", "overlap", listed(train=[0, 1, 2, 3], test=[3, 4]), FILE, "images/0003.png.*"),
        Row("C13", "test empty", listed(train=list(range(N)), val=[], test=[]), FILE, "no picture for testing"),
        Row("C13", "train empty", listed(train=[], test=list(range(N))), FILE, "no picture for training"),
    ]
)
