"""Poses are solved once and taken again while the input stays the same; nothing that exists is overwritten."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

from nerfstudio_ext.cli.capture import input_stamp, name_of, prepare_capture
from nerfstudio_ext.cli.process import SolveOptions
from nerfstudio_ext.progress import SilentProgress
from nerfstudio_ext.scenes import photos as photos_module
from nerfstudio_ext.scenes.photos import ProcessOptions, ProcessResult


@pytest.fixture
def solved(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Replaces the pose solver; collects the folders it was asked to fill."""
    folders: list[Path] = []

    def solve(_source: Path, folder: Path, _options: ProcessOptions, _progress: object) -> ProcessResult:
        folder.mkdir(parents=True)
        (folder / "transforms.json").write_text("{}")
        folders.append(folder)
        return ProcessResult(folder / "transforms.json", 9, 9, {"match": 1.0, "solve": 2.0}, folder / "report.html")

    monkeypatch.setattr(photos_module, "process_capture", solve)
    return folders


@pytest.fixture
def album(tmp_path: Path) -> Path:
    folder = tmp_path / "holiday" / "images"
    folder.mkdir(parents=True)
    for i in range(3):
        (folder / f"{i}.jpg").write_bytes(b"x" * (i + 1))
    return folder


def test_the_same_photos_are_solved_once(album: Path, tmp_path: Path, solved: list[Path]) -> None:
    out = tmp_path / "out"
    first = prepare_capture(album, out, None, SilentProgress())
    again = prepare_capture(album, out, None, SilentProgress())
    assert solved == [out / "holiday" / "capture"]
    assert first.path == again.path == solved[0]
    assert first.scene_name == "holiday" and first.seconds == 3.0 and again.seconds == 0.0


def test_changed_photos_are_solved_beside_the_old_poses(album: Path, tmp_path: Path, solved: list[Path]) -> None:
    prepare_capture(album, tmp_path / "out", "trip", SilentProgress())
    os.utime(album / "1.jpg", (1, 1))
    changed = prepare_capture(album, tmp_path / "out", "trip", SilentProgress())
    assert [folder.name for folder in solved] == ["capture", "capture-2"]
    assert changed.path == solved[1] and changed.path.parent.name == "trip"
    assert prepare_capture(album, tmp_path / "out", "trip", SilentProgress()).path == solved[1]


def test_a_damaged_stamp_is_no_proof(album: Path, tmp_path: Path, solved: list[Path]) -> None:
    prepared = prepare_capture(album, tmp_path / "out", None, SilentProgress())
    (prepared.path / "input.json").write_text("{")
    prepare_capture(album, tmp_path / "out", None, SilentProgress())
    assert len(solved) == 2


def test_a_posed_capture_is_taken_as_it_is(tiny_capture: Path, tmp_path: Path, solved: list[Path]) -> None:
    prepared = prepare_capture(tiny_capture, tmp_path, None, SilentProgress())
    assert prepared.path == tiny_capture and prepared.scene_name == "ball"
    assert not solved and not list(tmp_path.iterdir())


def test_the_stamp_sees_files_options_and_place(album: Path, tmp_path: Path) -> None:
    stamp = input_stamp(album, ProcessOptions())
    assert stamp == input_stamp(album, ProcessOptions())
    assert stamp != input_stamp(album, ProcessOptions(seed=1))
    (album / "3.jpg").write_bytes(b"new")
    assert stamp["files"] == 3 and input_stamp(album, ProcessOptions())["files"] == 4


@pytest.mark.parametrize(
    ("path", "name"),
    [("trip", "trip"), ("trip/images", "trip"), ("trip/colmap/sparse/0", "trip"), ("trip.mp4", "trip")],
)
def test_names_come_from_the_input(path: str, name: str, tmp_path: Path) -> None:
    source = tmp_path / path
    source.parent.mkdir(parents=True, exist_ok=True)
    source.write_bytes(b"") if source.suffix else source.mkdir()
    assert name_of(source) == name


def test_the_flags_are_the_solvers_settings() -> None:
    """Kept apart so that `--help` needs no torch; this keeps them equal."""
    flags = {f.name: (f.default, str(f.type)) for f in dataclasses.fields(SolveOptions)}
    settings = {f.name: (f.default, str(f.type)) for f in dataclasses.fields(ProcessOptions)}
    del settings["solver_command"]
    assert flags == settings
