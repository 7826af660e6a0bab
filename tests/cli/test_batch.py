"""Paths, renders and exports from the command line, without a viewer."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nerfstudio_ext.camera_paths.curves import quaternions_from_matrices
from nerfstudio_ext.cli import main
from nerfstudio_ext.scenes.scene_json import read_scene_json

Capture = pytest.CaptureFixture[str]


def result_of(capsys: Capture, *words: object, code: int = 0) -> dict[str, Any]:
    capsys.readouterr()
    assert main([*map(str, words), "--json", "-"]) == code
    return dict(json.loads(capsys.readouterr().out))


def pixels(folder: Path) -> list[np.ndarray]:
    return [np.asarray(Image.open(file)) for file in sorted(folder.glob("*.png"))]


@pytest.mark.parametrize("frame", ["normalized", "source"])
def test_a_path_renders_the_same_frames_after_a_round_trip_through_the_file(
    frame: str, tiny_run: Path, tmp_path: Path, capsys: Capture
) -> None:
    settings = ["--seconds", "1", "--fps", "3", "--size", "32x24"]
    alpha = ["--outputs", "alpha"]  # thirty steps make a fog whose colours are still white
    file = tmp_path / "camera_path.json"
    path = result_of(capsys, "path", "orbit", tiny_run, *settings, "--output-path", file, "--frame-of-reference", frame)
    assert path["frame_of_reference"] == frame and path["source_to_training"]["scale"] > 0
    direct = result_of(
        capsys, "render", tiny_run, "--path", "orbit", *settings, *alpha, "--output-path", tmp_path / "a"
    )
    result_of(capsys, "render", tiny_run, "--path", file, *alpha, "--output-path", tmp_path / "b")
    assert direct["frames"] == 3
    for a, b in zip(pixels(tmp_path / "a"), pixels(tmp_path / "b"), strict=True):
        assert (a != b).mean() < 1e-3 and np.ptp(a) > 30  # a last bit of a pose may move one pixel in a thousand
    # Again through the file: written, read and written, it says the same.
    document = json.loads(file.read_text())
    assert document["frame_of_reference"] == frame and "source_to_training" in document
    for name in ("a", "b"):
        side = json.loads((tmp_path / name / "frames.json").read_text())
        assert {"c2w_training", "c2w_source"} <= set(side["cameras"][0]) and side["source_to_training"]["scale"] > 0


def test_paths_from_a_table_and_from_a_model_are_where_the_photos_are(
    tiny_run: Path, tmp_path: Path, capsys: Capture
) -> None:
    meta = read_scene_json(tiny_run / "scene.json")
    table = tmp_path / "poses.csv"
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["x", "y", "z", "qw", "qx", "qy", "qz"])
        for i in meta.split.test:
            c2w = meta.cameras[i].c2w.numpy()
            writer.writerow([*c2w[:, 3], *quaternions_from_matrices(c2w[None, :, :3])[0]])
    result_of(capsys, "render", tiny_run, "--path", "test", "--output-path", tmp_path / "photos")
    made = result_of(capsys, "path", "csv", tiny_run, "--input", table, "--output-path", tmp_path / "p.json")
    assert made["frames"] == len(meta.split.test) == 2
    result_of(capsys, "render", tiny_run, "--path", tmp_path / "p.json", "--output-path", tmp_path / "table")
    for a, b in zip(pixels(tmp_path / "photos"), pixels(tmp_path / "table"), strict=True):
        assert np.abs(a.astype(int) - b).mean() < 1  # the field of view is the typical one, not each photo's


def test_every_output_of_a_part_of_a_path_with_a_crop(tiny_run: Path, tmp_path: Path, capsys: Capture) -> None:
    words = ["--seconds", "1", "--fps", "4", "--size", "24x18", "--outputs", "rgb,depth,normal,alpha,rgba"]
    words += ["--frames", "2:3", "--depth-format", "exr", "--samples", "2", "--output-path", tmp_path / "o"]
    data = result_of(capsys, "render", tiny_run, *words, "--crop-size", "1", "1", "1", "--crop-center", "0", "0", "9")
    assert data["frames"] == 2 and len(data["files"]) == 10
    assert (tmp_path / "o/depth/frame_00002.exr").exists()
    side = json.loads((tmp_path / "o/frames.json").read_text())
    assert side["crop"] and side["n_frames"] == 4 and side["samples_per_pixel"] == 4
    alpha = np.asarray(Image.open(tmp_path / "o/alpha/frame_00002.png"))
    assert alpha.max() == 0  # that is above everything
    film = tmp_path / "around.mp4"
    data = result_of(
        capsys, "render", tiny_run, "--seconds", "1", "--fps", "2", "--camera-type", "equirectangular", "--size",
        "32x16", "--output-path", film,
    )  # fmt: skip
    assert b"GSpherical" in film.read_bytes()


def test_shards_and_scene_files_give_the_frames_of_one_run(tiny_run: Path, tmp_path: Path, capsys: Capture) -> None:
    settings = ["--seconds", "1", "--fps", "5", "--size", "24x18"]
    scene = tmp_path / "ball.nsx"
    assert result_of(capsys, "export", "scene", tiny_run, "--output-path", scene)["output"] == str(scene)
    result_of(capsys, "render", tiny_run, *settings, "--output-path", tmp_path / "whole.mp4")
    for i in (2, 1):
        data = result_of(
            capsys, "render", tiny_run, *settings, "--shard", f"{i}/2", "--output-path", tmp_path / "parts.mp4"
        )
        assert data["frames"] == {1: 3, 2: 2}[i] and data["files"] == []
    # The last call comes from the packed scene: its weights are the same, so that the frames are taken over.
    data = result_of(capsys, "render", scene, *settings, "--output-path", tmp_path / "parts.mp4")
    assert (tmp_path / "parts.mp4").read_bytes() == (tmp_path / "whole.mp4").read_bytes()
    made = result_of(capsys, "path", "orbit", scene, *settings)
    assert Path(made["path"]) == tmp_path / "ball/camera_paths/orbit.json" and Path(made["path"]).exists()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["render", "--frames", "a:b"], "--frames: 'a:b' is no range of frames"),
        (["render", "--frames", "9:32", "--seconds", "1"], "frames 9 to 32 of 24"),
        (["render", "--shard", "4"], "--shard: '4' is no shard"),
        (["render", "--crop-center", "0", "0", "0"], "--crop-center: a crop box without a size"),
        (["render", "--crop-size", "0", "1", "1"], "--crop-size: edges of"),
        (["path", "csv"], "no input was given"),
        (["path", "orbit", "--input", "x.csv"], "an input for 'orbit'"),
        (["path", "from-colmap", "--input", "nowhere"], "neither a kind of path nor a file"),
    ],
)
def test_mistakes_get_one_line(
    words: list[str], line: str, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    copy = shutil.copytree(tiny_run, tmp_path / "run")
    kind = words[1:2] if words[0] == "path" else []
    rest = words[2:] if words[0] == "path" else words[1:]
    assert main([words[0], *kind, str(copy), *rest]) == 2
    err = capsys.readouterr().err
    assert line in err and "Traceback" not in err and not (copy / "renders" / "orbit.mp4").exists()
