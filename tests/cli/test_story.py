"""The commands one after the other, as a user runs them, on a capture that trains in seconds."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from nerfstudio_ext.cli import main, train
from nerfstudio_ext.training.config import TrainConfig
from tests.cli.tiny_capture import TINY_METHOD

Capture = pytest.CaptureFixture[str]


def result_of(capsys: Capture, *words: object, code: int = 0) -> dict[str, Any]:
    capsys.readouterr()
    assert main([*map(str, words), "--json", "-"]) == code
    captured = capsys.readouterr()
    assert captured.out.count("\n") == 1, captured.out
    data = json.loads(captured.out)
    assert data["schema"] == 1
    return data


def test_train_prints_what_scripts_rely_on(tiny_capture: Path, tmp_path: Path, capsys: Capture) -> None:
    words = ["train", tiny_capture, "--no-viewer", "--max-steps", "4", "--output-dir", tmp_path, *TINY_METHOD]
    data = result_of(capsys, *words)
    assert data["steps"] == 4 and data["stopped_by"] == "steps"
    assert 0 < data["occupancy"] <= 1 and 0 < data["psnr"] < 60
    assert data["train_seconds"] > 0
    assert {"load_seconds", "compile_seconds", "eval_seconds"} <= set(data)
    run = Path(data["run"])
    assert run.parent == tmp_path / "ball" / "ngp"
    for name in ("config.json", "scene.json", "metrics.jsonl", "log.txt", "report.html", "checkpoints/step-0000004"):
        assert (run / name).exists(), name
    # Images 0 and 8 are held out: 14 thumbnails, two renders with their error maps.
    assert len(list((run / "thumbnails").iterdir())) == 14
    assert sorted(p.name for p in (run / "renders/eval-test/errors").iterdir()) == ["00.png", "08.png"]


def test_seconds_bound_training(tiny_capture: Path, tmp_path: Path, capsys: Capture) -> None:
    words = ["train", "--max-train-seconds", "1", "ngp", "--data", tiny_capture, "--no-viewer", "--max-images", "0"]
    data = result_of(capsys, *words, "--output-dir", tmp_path, *TINY_METHOD)
    assert data["stopped_by"] == "seconds" and data["psnr"] is None
    assert 1 <= data["train_seconds"] < 3


def test_resume_takes_the_capture_and_settings_from_the_run(tiny_run: Path, tmp_path: Path, capsys: Capture) -> None:
    copy = shutil.copytree(tiny_run, tmp_path / "run")
    data = result_of(capsys, "train", "--resume", copy, "--max-steps", "34", "--no-viewer", "--max-images", "1")
    assert data["steps"] == 34 and data["run"] == str(copy)
    config = json.loads((copy / "config.json").read_text())
    assert config["train"]["max_steps"] == 34 and config["train"]["steps_per_save"] == 15
    assert any("max_steps" in line for line in config["changes"])


def test_eval(tiny_run: Path, tmp_path: Path, capsys: Capture) -> None:
    data = result_of(capsys, "eval", "--load-config", tiny_run / "config.json", "--output-dir", tmp_path / "pictures")
    assert data["method"] == "ngp" and data["split"] == "test" and data["n"] == 2
    assert [row["file"] for row in data["per_image"]] == ["images/00.png", "images/08.png"]
    assert data["psnr"] == pytest.approx(sum(row["psnr"] for row in data["per_image"]) / 2)
    assert len(list((tmp_path / "pictures").rglob("*.png"))) == 4
    assert result_of(capsys, "eval", tiny_run, "--max-images", "1", "--output-dir", tmp_path)["n"] == 1


def test_render_equals_eval(tiny_run: Path, tmp_path: Path, capsys: Capture) -> None:
    """One renderer for both: the same pixels."""
    result_of(capsys, "eval", tiny_run, "--output-dir", tmp_path / "eval")
    data = result_of(
        capsys, "render", tiny_run, "--path", "test", "--output-path", tmp_path / "r", "--output-format", "images"
    )
    assert data["frames"] == 2
    for name in ("00.png", "08.png"):
        with Image.open(tmp_path / "eval/renders" / name) as a, Image.open(tmp_path / "r" / name) as b:
            assert a.size == b.size == (24, 18)
            differences = [abs(x - y) for x, y in zip(a.tobytes(), b.tobytes(), strict=True)]
        assert max(differences) <= 1  # the two round halves differently


def test_render_a_path_file_to_every_kind_of_output(tiny_run: Path, tmp_path: Path, capsys: Capture) -> None:
    path = result_of(
        capsys, "path", "orbit", tiny_run, "--seconds", "1", "--fps", "3", "--size", "32x24",
        "--output-path", tmp_path / "camera_path.json",
    )  # fmt: skip
    assert path["frames"] == 3 and (path["width"], path["height"]) == (32, 24)
    for name, extra in (
        ("film.mp4", []),
        ("film.gif", ["--outputs", "depth"]),
        ("movie", ["--output-format", "video"]),
        ("pictures", ["--image-format", "jpeg"]),
        ("small", ["--downscale-factor", "2"]),
    ):
        data = result_of(
            capsys, "render", tiny_run, "--camera-path-filename", path["path"], "--output-path", tmp_path / name, *extra
        )
        assert data["frames"] == 3 and all(Path(file).stat().st_size > 0 for file in data["files"])
    assert (tmp_path / "film.mp4").exists() and len(list((tmp_path / "pictures").glob("*.jpg"))) == 3
    with Image.open(next((tmp_path / "small").glob("*.png"))) as picture:
        assert picture.size == (16, 12)


def test_view_serves_a_page_without_the_photos(tiny_run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny_run, tmp_path / "run")
    config = json.loads((copy / "config.json").read_text())
    config["source"]["path"] = str(tmp_path / "gone")
    (copy / "config.json").write_text(json.dumps(config))
    command = [sys.executable, "-m", "nerfstudio_ext", "view", str(copy), "--port", "0", "--json", "-"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = json.loads(process.stdout.readline())["url"]
        assert url.startswith("http://127.0.0.1:")
        browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
        with browser.open(url, timeout=20) as page:
            assert b"<html" in page.read(2000)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=20)
    assert process.returncode == 143 and "Traceback" not in err


def cpu_seconds(pid: int) -> float:
    """Processor time a running process has used so far; 0 where the system does not tell."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.skipif(not hasattr(os, "wait4"), reason="measures a process by what POSIX tells about it")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_leaves(number: signal.Signals, tiny_capture: Path, tmp_path: Path) -> None:
    words = ["train", str(tiny_capture), "--port", "0", "--output-dir", str(tmp_path), *TINY_METHOD]
    command = [sys.executable, "-m", "nerfstudio_ext", *words, "--max-train-seconds", "100"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        lines: list[str] = []
        while not (lines and lines[-1].startswith("train ...")):
            lines.append(process.stdout.readline())
            assert lines[-1], "".join(lines)
        assert any(line.startswith("Viewer: http://127.0.0.1:") for line in lines)
        before = cpu_seconds(process.pid)
        process.send_signal(number)
        out = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    # Work, not waiting time: on a busy machine even nothing takes long. Two threads may work for 5 s.
    assert usage.ru_utime + usage.ru_stime - before < 10
    assert process.returncode == 128 + number and "Traceback" not in out, out
    assert "nsx train --resume" in out
    assert list(tmp_path.glob("ball/ngp/*/checkpoints/step-*/manifest.json"))


def test_the_method_is_found_wherever_it_stands() -> None:
    assert train._take_method(["--port", "1", "ngp", "in"], ["ngp"]) == ("ngp", ["--port", "1", "in"])
    assert train._take_method(["--no-viewer", "ngp", "in"], ["ngp"]) == ("ngp", ["--no-viewer", "in"])
    assert train._take_method(["--scene-name", "ngp", "in"], ["ngp"]) == (None, ["--scene-name", "ngp", "in"])
    assert train._take_method(["in"], ["ngp"]) == (None, ["in"])


def test_only_given_settings_change_on_resume() -> None:
    assert train.changes_from_default(TrainConfig()) == {}
    assert train.changes_from_default(TrainConfig(max_steps=5, seed=3)) == {"max_steps": 5, "seed": 3}
