"""Photos without texture, overlap or depth, and a solver that fails in every way: told in one line, in bounded time."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.poses.builders import write_photos
from tests.poses.synthetic_room import view, write_room
from tests.reliability.album import solved
from tests.reliability.cases import holds
from tests.reliability.nsx_process import Ended, assert_done, assert_one_line


def numbered(n: int) -> list[str]:
    return [f"p{i:02d}.jpg" for i in range(n)]


def report(tmp_path: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((tmp_path / "out" / "capture_report.json").read_text())
    return found


def assert_no_capture(ended: Ended, tmp_path: Path) -> None:
    """What a failed search leaves: its log and report, and nothing that looks like a capture."""
    left = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert left in (["capture_report.html", "capture_report.json", "poses.log"], ["poses.log"])
    assert "out/poses.log" in ended.errors[0]
    assert (tmp_path / "out" / "poses.log").read_text().startswith("$ ")


@holds("B1")
def test_blank_walls_are_told_with_the_worst_photos(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    write_photos(folder, ["c_noise.jpg"])
    for i in range(8):
        Image.new("RGB", (160, 120), (100 + 9 * i, 120, 90)).save(folder / f"wall_{i}.jpg")
    ended = solved(folder, None)
    assert_one_line(
        ended, 2, names=("wall_0.jpg (0)", "wall_1.jpg (0)"), says=r"only [01] of 9 photos have over 100 feat.*light"
    )
    assert_no_capture(ended, tmp_path)
    assert report(tmp_path)["summary"]["n_photos"] == 9  # type: ignore[index]


@pytest.mark.slow
@holds("B2")
def test_thirty_unrelated_photos_end_in_one_line(tmp_path: Path) -> None:
    write_photos(tmp_path / "in", numbered(30))
    ended = solved(tmp_path / "in", None)
    assert_one_line(ended, 2, says=r"the largest connected group is \d+ of 30.*60-80 %")
    assert_no_capture(ended, tmp_path)


@holds("B2")
def test_little_overlap_is_told(tmp_path: Path) -> None:
    write_photos(tmp_path / "in", numbered(9))
    ended = solved(tmp_path / "in", "nothing-unconnected")
    assert_one_line(ended, 2, says="the largest connected group is 2 of 9.*60-80 %")
    assert_no_capture(ended, tmp_path)


@holds("B3", "B4")
def test_the_photos_without_a_place_are_listed(tmp_path: Path) -> None:
    names = write_photos(tmp_path / "in", numbered(20))
    ended = solved(tmp_path / "in", "place:8", {"n_models": 2})
    assert_done(ended)
    assert f"warning: 12 of 20 photos could not be placed: {', '.join(names[8:])}" in ended.out
    assert "warning: The solver found 2 unconnected pieces and kept the largest." in ended.out
    assert "8 of 20 (40 %)" in ended.out


@holds("B4")
def test_too_few_places_are_no_capture(tmp_path: Path) -> None:
    write_photos(tmp_path / "in", numbered(20))
    ended = solved(tmp_path / "in", "place:5")
    line = assert_one_line(ended, 2, says="only 5 of 20 photos could be placed; at least 6 are needed.*60-80 %")
    assert "capture_report.html" in line and not (tmp_path / "out" / "transforms.json").exists()


@holds("B5", "B8")
@pytest.mark.parametrize(
    "answer, said",
    [
        ({"model": {"baseline_share": 0.01}}, "The cameras stood almost on one spot: depth is uncertain."),
        ({"turned_share": 0.95}, "a flat wall, or be taken from one spot: depth is uncertain."),
        ({"model": {"error_px": 9.0}}, "Points miss their place by 9.0 px on average. .*focal length in EXIF"),
    ],
)
def test_cameras_that_may_be_wrong_are_told(answer: dict[str, object], said: str, tmp_path: Path) -> None:
    write_photos(tmp_path / "in", numbered(9))
    ended = solved(tmp_path / "in", "place:9", answer)
    assert_done(ended)
    assert re.search(f"warning: .*{said}", ended.out)


@pytest.mark.slow
@holds("B5")
def test_a_turn_on_the_spot_gives_no_scene_without_a_word(tmp_path: Path) -> None:
    """The real solver on nine photos from one place."""
    folder = tmp_path / "in"
    folder.mkdir()
    centre = np.array([0.0, -2.0, 1.4])
    for i in range(9):
        angle = np.radians(8.0 * (i - 4))
        forward, down = np.array([np.sin(angle), np.cos(angle), -0.2]), np.array([0.0, 0.0, -1.0])
        forward /= np.linalg.norm(forward)
        right = np.cross(down, forward)
        right /= np.linalg.norm(right)
        pose = np.column_stack([right, np.cross(forward, right), forward, centre])
        pixels = view(pose, 240, 180, 0.85 * 240)
        Image.fromarray((255 * pixels).astype(np.uint8)).save(folder / f"{i}.jpg", quality=95)
    ended = solved(folder, None, None, "--time-limit", "200")
    if ended.code == 0:
        assert "depth is uncertain" in ended.out
    else:
        assert_one_line(ended, 2, says="one spot|could be placed|no camera could be placed")
        assert_no_capture(ended, tmp_path)


@holds("B6")
@pytest.mark.parametrize(
    "part, says",
    [
        ("missing", "pycolmap: the pose solver is not installed.*pip install pycolmap"),
        ("old", r"ended with status 1 \(RuntimeError: pycolmap 0.6.1 is too old; run pip install --upgrade"),
        ("crash", "the pose solver was ended by SIGSEGV"),
        ("error", r"ended with status 1 \(ValueError: the database is locked\)"),
        ("silent", "ended without an answer"),
        ("garbage", "ended without an answer"),
    ],
)
def test_a_solver_that_fails_is_one_line_with_status_and_log(part: str, says: str, tmp_path: Path) -> None:
    write_photos(tmp_path / "in", numbered(8))
    ended = solved(tmp_path / "in", part)
    assert_one_line(ended, 2, says=says)
    if part != "missing":
        assert_one_line(ended, 2, names="out/poses.log", says="poses of another tool .a COLMAP model")
        assert_no_capture(ended, tmp_path)
    assert all(isinstance(word, str) and len(words) == 3 for words in ended.launched for word in words)


@holds("B6")
def test_a_solver_that_hangs_is_ended_at_the_limit(tmp_path: Path) -> None:
    write_photos(tmp_path / "in", numbered(8))
    ended = solved(tmp_path / "in", "hang", None, "--time-limit", "2")
    assert_one_line(ended, 2, says="took longer than 2 s.*--time-limit")
    assert ended.seconds < 15
    assert_no_capture(ended, tmp_path)


@pytest.mark.slow
@holds("B8")
def test_a_wrong_focal_length_in_exif_is_told_or_refused(tmp_path: Path) -> None:
    """The real solver on a known room whose photos state ten times their focal length."""
    folder = write_room(tmp_path / "room", n=9, width=240, height=180)
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA405] = round(10 * 0.85 * 240 / np.hypot(240, 180) * 43.2666)
    for path in sorted(folder.iterdir()):
        with Image.open(path) as picture:
            picture.load()
        picture.save(path, quality=95, exif=exif)
    ended = solved(folder, None)
    if ended.code == 0:
        assert "times the focal length that the photos show" in ended.out or "Points miss their place" in ended.out
    else:
        assert_one_line(ended, 2)
