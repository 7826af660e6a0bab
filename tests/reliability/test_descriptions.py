"""Damaged capture files: refused in one line that names the place, before anything is written; odd ones are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.reliability.cases import Row, holds
from tests.reliability.corpus_captures import DESCRIPTIONS, FILE, N, train
from tests.reliability.corpus_tables import PLY, TABLES
from tests.reliability.corpus_words import WORDS, rows_of_a_run
from tests.reliability.holding import hold_row
from tests.reliability.nsx_process import Ended, assert_done, no_marker, run_nsx, unchanged
from tests.scenes.builders import FOCAL, save_pictures, transforms, write_colmap_binary, write_colmap_text

__all__ = ["no_marker"]


@pytest.mark.parametrize("row", [*DESCRIPTIONS, *TABLES, *WORDS], ids=str)
def test_what_is_damaged_is_refused(row: Row, tmp_path: Path, no_marker: Path) -> None:
    hold_row(row, tmp_path)


@holds("C14")
def test_settings_of_a_run_are_data(tiny_run: Path, tmp_path: Path) -> None:
    for number, row in enumerate(rows_of_a_run(tiny_run)):
        place = tmp_path / f"{number:02d}"
        place.mkdir()
        hold_row(row, place)
    assert not list(tmp_path.rglob("marker-of-foreign-code"))


def trained(folder: Path, document: dict[str, Any] | bytes) -> Ended:
    """Train for two steps on a capture with this description; it must work and leave the capture alone."""
    save_pictures(folder / "images", N)
    data = document if isinstance(document, bytes) else json.dumps(document).encode()
    (folder / FILE).write_bytes(data)
    with unchanged(folder):
        ended = run_nsx(train(folder), folder=folder.parent, seconds=60)
    assert_done(ended)
    return ended


def meta(folder: Path) -> dict[str, Any]:
    """The scene of the only run beside a capture."""
    (path,) = (folder.parent / "runs").glob("*/ngp/*/scene.json")
    document: dict[str, Any] = json.loads(path.read_text())
    return document


@holds("C1", "C5", "C6", "C8", "C12")
def test_habits_of_other_tools_are_read(tmp_path: Path) -> None:
    """A byte order mark, names without ending or with backslashes, 3x4 and 4x4 poses, an angle, few coefficients."""
    folder = tmp_path / "in"
    document = transforms(N, k1=0.01, camera_angle_x=2 * np.arctan(12 / FOCAL), is_fisheye=False)
    del document["fl_x"]
    for i, frame in enumerate(document["frames"]):
        frame["file_path"] = f".\\images\\{i:04d}" if i % 2 else f"./images/{i:04d}"
        frame["transform_matrix"] = frame["transform_matrix"][: 3 + i % 2]
    document["frames"][2] |= {"mask_path": "mask.png", "depth_file_path": "depth.exr"}
    folder.mkdir()
    Image.fromarray(np.full((16, 24), 255, np.uint8)).save(folder / "mask.png")
    ended = trained(folder, b"\xef\xbb\xbf" + json.dumps(document).encode())
    assert "warning: transforms.json: 1 of 10 pictures have a mask; the others are used whole" in ended.out
    assert "warning: transforms.json: the depth files are not used" in ended.out
    image = meta(folder)["images"][0]
    assert image["lens"] == "opencv" and image["lens_params"][0] == 0.01
    assert image["K"][0][0] == pytest.approx(FOCAL)


@holds("C7", "C11")
def test_intrinsics_of_another_size_are_scaled_and_points_that_are_not_finite_dropped(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    cloud = np.random.default_rng(0).normal(0, 0.5, (60, 3)).astype("<f4")
    cloud[:7, 1] = np.nan
    (folder / "cloud.ply").write_bytes(PLY % 60 + cloud.tobytes())
    ended = trained(folder, transforms(N, w=48, h=32, fl_x=2 * FOCAL, ply_file_path="cloud.ply"))
    assert "10 pictures have 24x16 pixels where the file says 48x32: the intrinsics were scaled" in ended.out
    assert "cloud.ply: 7 points that are not finite were dropped" in ended.out
    assert meta(folder)["images"][0]["K"][0][0] == pytest.approx(FOCAL)


@holds("C9")
@pytest.mark.parametrize(
    "case, said",
    [
        ("one place", "all cameras stand at one place: depth cannot be learnt"),
        ("on a line", ""),
        ("one far away", "1 of 10 cameras are over 20 times as far out as the others"),
        ("millimetres", ""),
    ],
)
def test_poses_of_any_layout_and_unit_are_told_and_do_not_shrink_the_scene(
    case: str, said: str, tmp_path: Path
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    document = transforms(N)
    for i, frame in enumerate(document["frames"]):
        matrix = np.array(frame["transform_matrix"])
        if case == "one place":
            matrix[:3, 3] = 1.0
        elif case == "on a line":
            matrix[:3] = np.column_stack([np.eye(3), [0.3 * i, 0, 0]])
        elif case == "one far away" and i == 4:
            matrix[:3, 3] = 1e6
        elif case == "millimetres":
            matrix[:3, 3] *= 1000
        frame["transform_matrix"] = matrix.tolist()
    ended = trained(folder, document)
    assert said in ended.out and ("warning" in ended.out) == bool(said)
    expected = {"millimetres": 1e-3, "one far away": 1.0}.get(case)
    plain = tmp_path / "plain" / "in"
    if expected is not None:
        plain.mkdir(parents=True)
        trained(plain, transforms(N))
        # The ring's radius decides; one camera of ten moves the median a little.
        assert meta(folder)["frame"]["scale"] == pytest.approx(expected * meta(plain)["frame"]["scale"], rel=0.2)


@holds("C10")
def test_of_binary_and_text_tables_the_binary_count_and_no_points_are_no_fault(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    names = save_pictures(folder / "images", N)
    write_colmap_binary(folder / "sparse" / "0", names)
    write_colmap_text(folder / "sparse" / "0", names[:5])
    (folder / "sparse" / "0" / "points3D.bin").write_bytes(bytes(8))
    with unchanged(folder):
        assert_done(run_nsx(train(folder), folder=tmp_path, seconds=60))
    scene = meta(folder)
    assert len(scene["images"]) == N and scene["points"] is None
