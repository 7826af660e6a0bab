"""The whole of `process_capture` around a stand-in solver: the ladder, how failures end, what is written."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nerfstudio_ext.errors import UserError
from nerfstudio_ext.scenes import load_scene
from nerfstudio_ext.scenes.photos import ProcessOptions, ProcessResult, process_capture
from tests.poses.builders import write_photos


class Recorder:
    def __init__(self) -> None:
        self.stages: list[str] = []
        self.steps: list[int] = []
        self.warnings: list[str] = []

    def stage(self, name: str, total: int | None = None) -> None:
        self.stages.append(name)

    def advance(self, done: int, note: str = "") -> None:
        self.steps.append(done)

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def run(tmp_path: Path, parts: str, n: int = 20, **options: object) -> tuple[ProcessResult, Recorder]:
    if not (tmp_path / "in").exists():
        write_photos(tmp_path / "in", [f"p{i:02d}.jpg" for i in range(n)])
    command = (sys.executable, str(Path(__file__).with_name("fake_solver.py")), parts)
    recorder = Recorder()
    settings = ProcessOptions(solver_command=command, feature_megapixels=0.05, **options)  # type: ignore[arg-type]
    return process_capture(tmp_path / "in", tmp_path / "out", settings, recorder), recorder


def n_attempts(tmp_path: Path) -> int:
    return (tmp_path / "out" / "poses.log").read_text().count("fake solver plays")


def test_a_good_first_attempt_is_enough(tmp_path: Path) -> None:
    result, recorder = run(tmp_path, "place:18,crash")
    assert (result.n_photos, result.n_registered) == (20, 18)
    assert n_attempts(tmp_path) == 1
    assert recorder.stages[:3] == ["check photos", "copy photos", "match"]
    assert any("2 of 20 photos could not be placed: p18.jpg, p19.jpg" in w for w in recorder.warnings)
    assert result.transforms == tmp_path / "out" / "transforms.json"
    assert result.report.name == "capture_report.html"


def test_a_poor_attempt_is_followed_by_the_next_and_the_best_counts(tmp_path: Path) -> None:
    result, recorder = run(tmp_path, "place:12,place:9,place:20")
    # With 60 % placed the relaxed start is not tried: it would trade right cameras for wrong ones.
    assert (result.n_registered, n_attempts(tmp_path)) == (12, 2)
    assert any("12 of 20 photos placed; trying again: all pairs" in w for w in recorder.warnings)


def test_the_relaxed_start_is_the_last_resort(tmp_path: Path) -> None:
    result, _ = run(tmp_path, "nothing,place:8,place:11")
    assert (result.n_registered, n_attempts(tmp_path)) == (11, 3)
    attempts = json.loads((tmp_path / "out" / "capture_report.json").read_text())["attempts"]
    assert [a["outcome"] for a in attempts] == [f"{k} of 20 photos placed" for k in (0, 8, 11)]


def test_a_crash_is_survived_by_the_next_attempt_and_told(tmp_path: Path) -> None:
    result, recorder = run(tmp_path, "crash,place:20")
    assert result.n_registered == 20
    assert any("SIGSEGV" in w and "poses.log" in w for w in recorder.warnings)


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ("crash", "the pose solver was ended by SIGSEGV"),
        ("error", "ended with status 1 (ValueError: the database is locked)"),
        ("silent", "ended without an answer"),
        ("garbage", "ended without an answer"),
    ],
)
def test_a_solver_that_always_fails_is_one_line_with_the_log(tmp_path: Path, part: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        run(tmp_path, part, n=8)
    assert words in caught.value.line
    assert str(tmp_path / "out" / "poses.log") in caught.value.line
    assert n_attempts(tmp_path) == 3
    assert not (tmp_path / "out" / "transforms.json").exists()


def test_a_hang_ends_at_the_time_limit(tmp_path: Path) -> None:
    write_photos(tmp_path / "in", [f"p{i}.jpg" for i in range(8)])
    started = time.monotonic()
    with pytest.raises(UserError, match="took longer than 3 s"):
        run(tmp_path, "hang", time_limit=3.0)
    assert time.monotonic() - started < 60
    assert n_attempts(tmp_path) == 1


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ("nothing-textureless", "only 0 of 8 photos have over 100 features"),
        ("nothing-unconnected", "the largest connected group is 2 of 8"),
        ("nothing-turned", "from one spot"),
        ("nothing", "no camera could be placed"),
    ],
)
def test_nothing_placed_says_why_and_leaves_a_report(tmp_path: Path, part: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        run(tmp_path, part, n=8)
    assert words in caught.value.line
    report = json.loads((tmp_path / "out" / "capture_report.json").read_text())
    assert words in report["summary"]["problem"]
    assert report["summary"]["n_registered"] == 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "capture_report.html", "capture_report.json", "poses.log",
    ]  # fmt: skip


def test_a_handful_of_cameras_is_no_capture(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="only 5 of 20 photos could be placed; at least 6 are needed"):
        run(tmp_path, "place:5")


def test_the_solver_ends_when_its_parent_stops_listening(tmp_path: Path) -> None:
    class Impatient(Recorder):
        def advance(self, done: int, note: str = "") -> None:
            if self.stages[-1] == "match":
                raise KeyboardInterrupt

    write_photos(tmp_path / "in", [f"p{i}.jpg" for i in range(8)])
    command = (sys.executable, str(Path(__file__).with_name("fake_solver.py")), "hang")
    options = ProcessOptions(solver_command=command, feature_megapixels=0.05)
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        process_capture(tmp_path / "in", tmp_path / "out", options, Impatient())
    assert time.monotonic() - started < 60  # the stand-in sleeps 600 s
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["poses.log"]


def test_the_result_loads_as_a_scene_with_the_solved_cameras(tmp_path: Path) -> None:
    result, _ = run(tmp_path, "place:20")
    scene = load_scene(result.transforms.parent)
    assert len(scene.meta.cameras) == 20
    camera = scene.meta.cameras[0]
    assert (camera.width, camera.height) == (160, 120)
    assert [float(camera.K[0, 0]), float(camera.K[1, 1]), float(camera.K[0, 2]), float(camera.K[1, 2])] == [
        140, 141, 81, 59,
    ]  # fmt: skip
    c2w = scene.meta.cameras.c2w.numpy()
    # The stand-in's world has y down; in the file z is up: all cameras at one height, their y axes pointing to -z.
    assert np.ptp(c2w[:, 2, 3]) < 1e-9
    assert np.allclose(c2w[:, :, 1], [0, 0, -1])
    assert np.allclose(np.linalg.norm(c2w[:, :, 3], axis=1), 3)
    assert np.allclose(c2w[:, :, 2], -c2w[:, :, 3] / 3)
    assert scene.meta.points is not None
    assert len(scene.meta.points) == 200
    applied = np.array(scene.meta.applied_transform)
    assert np.allclose(applied[:, :3] @ [0, -1, 0], [0, 0, 1])


def test_photos_are_linked_or_turned_and_the_originals_stay(tmp_path: Path) -> None:
    write_photos(tmp_path / "in", [f"p{i}.jpg" for i in range(9)])
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(tmp_path / "in" / "p8.jpg") as picture:
        picture.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "in" / "p8.jpg", quality=95, exif=exif)
    before = {p.name: p.read_bytes() for p in (tmp_path / "in").iterdir()}
    run(tmp_path, "place:9")
    assert {p.name: p.read_bytes() for p in (tmp_path / "in").iterdir()} == before
    assert (tmp_path / "out" / "images" / "p0.jpg").read_bytes() == before["p0.jpg"]
    with Image.open(tmp_path / "out" / "images" / "p8.jpg") as picture:
        assert picture.size == (160, 120)
        assert picture.getexif().get(0x0112, 1) == 1
    # Replacing the capture must not write into the links, which are the originals.
    run(tmp_path, "place:9", overwrite=True)
    assert {p.name: p.read_bytes() for p in (tmp_path / "in").iterdir()} == before


def test_an_existing_capture_is_kept_unless_told(tmp_path: Path) -> None:
    run(tmp_path, "place:20")
    before = (tmp_path / "out" / "transforms.json").read_bytes()
    with pytest.raises(UserError, match="--overwrite"):
        run(tmp_path, "place:18")
    assert (tmp_path / "out" / "transforms.json").read_bytes() == before
    result, _ = run(tmp_path, "place:18", overwrite=True)
    assert result.n_registered == 18


def test_output_beside_the_photos_does_not_replace_them(tmp_path: Path) -> None:
    names = write_photos(tmp_path / "images", [f"p{i}.jpg" for i in range(8)])
    before = {name: (tmp_path / "images" / name).read_bytes() for name in names}
    command = (sys.executable, str(Path(__file__).with_name("fake_solver.py")), "place:8")
    options = ProcessOptions(solver_command=command, feature_megapixels=0.05)
    process_capture(tmp_path / "images", tmp_path, options, Recorder())
    assert {name: (tmp_path / "images" / name).read_bytes() for name in names} == before
    frames = json.loads((tmp_path / "transforms.json").read_text())["frames"]
    assert all((tmp_path / frame["file_path"]).is_file() for frame in frames)
    assert len(load_scene(tmp_path).meta.cameras) == 8


@pytest.mark.parametrize(
    "name",
    ["a b.jpg", "it's.jpg", "$(touch x).jpg", "-rf.jpg", "smile \N{GRINNING FACE}.jpg", "e\u0301.jpg", "new\nline.jpg"],
)
def test_odd_names_work(tmp_path: Path, name: str) -> None:
    write_photos(tmp_path / "in", [name, *[f"p{i}.jpg" for i in range(8)]])
    result, _ = run(tmp_path, "place:9")
    frames = json.loads(result.transforms.read_text())["frames"]
    assert len(frames) == 9
    assert all((tmp_path / "out" / frame["file_path"]).is_file() for frame in frames)
    assert not list(tmp_path.rglob("x"))
    assert len(load_scene(tmp_path / "out").meta.cameras) == 9


def test_names_that_differ_in_case_or_ending_stay_apart(tmp_path: Path) -> None:
    write_photos(tmp_path / "in", ["a.jpg", "A.jpg", "a.png", *[f"p{i}.jpg" for i in range(6)]])
    run(tmp_path, "place:9")
    written = [p.name for p in (tmp_path / "out" / "images").iterdir()]
    assert len({name.lower() for name in written}) == 9


def test_bad_settings_and_paths(tmp_path: Path) -> None:
    write_photos(tmp_path / "in", [f"p{i}.jpg" for i in range(8)])
    with pytest.raises(UserError, match="--num-frames-target: 2 is out of range"):
        run(tmp_path, "place:8", num_frames_target=2)
    with pytest.raises(UserError, match="no such file or folder"):
        process_capture(tmp_path / "none", tmp_path / "out", ProcessOptions(), Recorder())
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        process_capture(tmp_path / "in", tmp_path / "file" / "out", ProcessOptions(), Recorder())
