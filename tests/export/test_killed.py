"""Exports that are killed, split and cut: the same bytes as one undisturbed run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import imageio_ffmpeg
import pytest

from nerfstudio_ext.errors import UserError
from nerfstudio_ext.exporters import FrameOptions, write_frames
from nerfstudio_ext.renderer import RayRenderer

from .ball import CountingRenderer, ball, files_below, turn
from .killed_render import OPTIONS

ROOT = Path(__file__).resolve().parents[2]
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {name: (folder / name).read_bytes() for name in files_below(folder)}


def check_killed(tmp_path: Path, suffix: str, kills: int, frames: int, seed: int) -> tuple[int, int]:
    """Kill an export and compare it with a whole one; returns how often it was killed, and with all frames done."""
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    write_frames(RayRenderer(ball), turn(frames), tmp_path / "whole" / f"film{suffix}", OPTIONS)
    words = [str(tmp_path / "killed"), suffix, str(kills), str(frames), str(seed)]
    result = subprocess.run(
        [sys.executable, "-m", "tests.export.killed_render", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    n_killed, n_while_encoding = map(int, result.stdout.split())
    return n_killed, n_while_encoding


@needs_fork
@pytest.mark.parametrize("suffix", ["", ".mp4"])
def test_killed_twenty_times_it_ends_with_the_same_bytes(tmp_path: Path, suffix: str) -> None:
    n_killed, n_while_encoding = check_killed(tmp_path, suffix, kills=20, frames=24 if suffix else 150, seed=7)
    assert n_killed == 20 and (suffix == "" or n_while_encoding >= 5)


@needs_fork
@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["", ".mp4", ".gif"])
@pytest.mark.parametrize("seed", [1, 2])
def test_killed_sixty_times(tmp_path: Path, suffix: str, seed: int) -> None:
    assert check_killed(tmp_path, suffix, kills=60, frames=240, seed=seed)[0] >= 20


@pytest.mark.parametrize("target", ["frames", "film.mp4"])
def test_four_shards_equal_one_run(tmp_path: Path, target: str) -> None:
    path = turn(10)
    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    write_frames(RayRenderer(ball), path, tmp_path / "whole" / target, OPTIONS)
    counts = []
    for i in (3, 1, 4, 2):
        renderer = CountingRenderer()
        options = FrameOptions(outputs=OPTIONS.outputs, shard=(i, 4))
        files = write_frames(renderer, path, tmp_path / "parts" / target, options)
        counts.append(renderer.n_frames - 8)  # eight small looks choose the scale of the depth colours
        assert len(files) == (2 * counts[-1] if target == "frames" else 0)
        assert not (tmp_path / "parts/film.mp4").exists()
    assert counts == [2, 3, 2, 3]
    if target == "film.mp4":
        last = CountingRenderer()
        write_frames(last, path, tmp_path / "parts" / target, OPTIONS)
        assert last.n_frames == 8
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")


def test_ranges_of_a_folder_add_up_and_a_film_holds_its_range(tmp_path: Path) -> None:
    path = turn(9)
    write_frames(RayRenderer(ball), path, tmp_path / "whole")
    files = write_frames(RayRenderer(ball), path, tmp_path / "parts", FrameOptions(frames=(6, 9)))
    assert [file.name for file in files] == [f"frame_0000{i}.png" for i in (6, 7, 8, 9)]
    assert not json.loads((tmp_path / "parts/frames.json").read_text())["finished"]
    rest = CountingRenderer()
    write_frames(rest, path, tmp_path / "parts", FrameOptions(frames=(1, 6)))
    assert rest.n_frames == 5 and contents(tmp_path / "parts") == contents(tmp_path / "whole")
    (film,) = write_frames(RayRenderer(ball), path, tmp_path / "o.mp4", FrameOptions(frames=(3, 7)))
    assert imageio_ffmpeg.count_frames_and_secs(str(film))[0] == 5
    assert [c["name"] for c in json.loads((tmp_path / "o.mp4.json").read_text())["cameras"]][0] == "frame_00003"
    (picture,) = write_frames(RayRenderer(ball), path, tmp_path / "o.png", FrameOptions(frames=(4, 4)))
    assert picture.read_bytes() == (tmp_path / "whole/frame_00004.png").read_bytes()


def test_the_finished_export_names_the_hash_of_every_frame(tmp_path: Path) -> None:
    import hashlib

    files = write_frames(RayRenderer(ball), turn(3), tmp_path / "frames")
    noted = json.loads((tmp_path / "frames/frames.json").read_text())["sha256"]
    assert noted == {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def test_a_frame_that_was_changed_is_rendered_again(tmp_path: Path) -> None:
    path, output = turn(5), tmp_path / "frames"
    with pytest.raises(KeyboardInterrupt):
        write_frames(CountingRenderer(stop_after=4), path, output)
    picture = (output / "frame_00002.png").read_bytes()
    # A whole picture of the right size, but another one; and a journal whose last line was cut off.
    (output / "frame_00002.png").write_bytes((output / "frame_00001.png").read_bytes())
    journal = output / ".finished-all.jsonl"
    journal.write_bytes(journal.read_bytes()[:-20])
    rest = CountingRenderer()
    write_frames(rest, path, output)
    assert rest.n_frames == 3 and (output / "frame_00002.png").read_bytes() == picture


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (FrameOptions(frames=(0, 3)), "frames 0 to 3 of 4"),
        (FrameOptions(frames=(3, 2)), "frames 3 to 2 of 4"),
        (FrameOptions(frames=(2, 5)), "frames 2 to 5 of 4"),
        (FrameOptions(shard=(5, 4)), "shard 5 of 4"),
        (FrameOptions(shard=(0, 4)), "shard 0 of 4"),
        (FrameOptions(samples=0), "samples is 0"),
    ],
)
def test_impossible_parts_are_refused(tmp_path: Path, options: FrameOptions, words: str) -> None:
    with pytest.raises(UserError, match=words):
        write_frames(RayRenderer(ball), turn(4), tmp_path / "o", options)
    assert not (tmp_path / "o").exists()
