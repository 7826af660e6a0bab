"""Faults while a command runs: kills, full and vanished disks, two writers, changed captures, dead workers, threads."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nerfstudio_ext.cli import main
from tests.cli.tiny_capture import write_capture
from tests.reliability.cases import holds
from tests.reliability.corpus_models import NEWEST, golden_run
from tests.reliability.nsx_process import (
    Ended,
    assert_done,
    assert_one_line,
    run_fresh,
    run_nsx,
    start_nsx,
    unchanged,
)

ROOT = Path(__file__).resolve().parents[2]
SMALL = (
    "--n-levels 2 --log2-table 6 --base-resolution 4 --finest-resolution 8 --hidden 16 --color-hidden 16 --grid-size 8 "
    "--steps-per-unit 16 --samples-per-batch 512 --backend reference --no-viewer --max-images 0"
).split()
NO_EXTRAS = ("--no-viewer", "--max-images", "0")
LONG = 60.0
"""Seconds for a training of moments on a machine that is busy with others."""


def train(folder: Path, *words: str) -> list[str]:
    return ["train", "ngp", "ball", "--output-dir", "out", *SMALL, *words]


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    return write_capture(tmp_path / "ball")


@pytest.fixture
def run(tmp_path: Path, capture: Path) -> Path:
    """The golden run, as if it had been trained on a capture that is here."""
    path = golden_run(tmp_path)
    for name in ("config.json", "scene.json"):
        (path / name).write_text((path / name).read_text().replace('"ball"', json.dumps(str(capture)), 1))
    return path


def resume(folder: Path, *words: str) -> Ended:
    return run_nsx(["train", "--resume", "run", *NO_EXTRAS, *words], folder=folder, seconds=LONG)


def wait_until(folder: Path, pattern: str) -> Path:
    deadline = time.monotonic() + LONG
    while not (found := list(folder.glob(pattern))):
        assert time.monotonic() < deadline, f"no {pattern} in {folder}"
        time.sleep(0.01)
    return found[0]


# -- Kills and signals -----------------------------------------------------------------------------------


@holds("F1", "F2", "D2")
def test_no_kill_signal_or_flipped_bit_loses_anything(tmp_path: Path) -> None:
    """The short form of the long counts: forked in a process of its own, which has one thread."""
    words = ["-m", "tests.reliability.measure_kills", "--rounds", "12", "--only", "kills", "flips", "signals"]
    done = subprocess.run(
        [sys.executable, *words], cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path)},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["kills"]["kills"] == 12 and found["kills"]["lost"] == found["kills"]["left_behind"] == []
    assert found["kills"]["last_step"] > 2, "training went on between kills"
    assert found["flips"]["flips"] == 60 and found["flips"]["loaded_silently"] == []
    assert found["signals"]["signals"] == 3 and found["signals"]["faults"] == []
    assert not list(tmp_path.glob("nsx-measure-*"))


@holds("F1", "F11", "F13")
def test_a_run_has_one_writer_and_a_killed_one_is_told_of(tmp_path: Path, capture: Path) -> None:
    first = start_nsx(train(tmp_path, "--max-steps", "1000000", "--steps-per-save", "5"), folder=tmp_path)
    path = wait_until(tmp_path, "out/ball/ngp/*/checkpoints/step-*").parents[1]
    second = run_nsx(["train", "--resume", str(path), *NO_EXTRAS], folder=tmp_path)
    assert_one_line(second, 2, names=str(path), says=rf"process {first.pid} is using this run.*Wait for it or stop it")
    assert "running" in run_nsx(["doctor", str(path)], folder=tmp_path).out
    first.send(signal.SIGKILL)
    assert first.wait().code == -signal.SIGKILL
    with unchanged(path):
        looked = run_nsx(["doctor", str(path)], folder=tmp_path)
    assert looked.code == 0 and "killed" in looked.out and f"nsx train --resume {path}" in looked.out
    third = run_nsx(train(tmp_path, "--max-steps", "1"), folder=tmp_path, seconds=LONG)
    assert_done(third)
    assert "ended without closing" in third.out and f"--resume {path.relative_to(tmp_path)}" in third.out
    steps = max(int(p.name[5:]) for p in (path / "checkpoints").glob("step-*"))
    again = run_nsx(["train", "--resume", str(path), *NO_EXTRAS, "--max-steps", str(steps + 1)], folder=tmp_path,
                    seconds=LONG)  # fmt: skip
    assert_done(again)
    assert "ended without closing it" in again.out
    assert "done" in run_nsx(["doctor", str(path)], folder=tmp_path).out


@holds("F1")
def test_a_signal_ends_the_command_with_everything_saved(tmp_path: Path, run: Path) -> None:
    training = start_nsx(["train", "--resume", "run", *NO_EXTRAS, "--max-steps", "1000000"], folder=tmp_path)
    training.wait_for("train ...", seconds=LONG)
    time.sleep(0.2)
    training.send(signal.SIGTERM)
    ended = training.wait(seconds=LONG)
    assert ended.code == 143, ended.err
    assert "everything is saved" in ended.out and "nsx train --resume run" in ended.out
    found = json.loads(run_nsx(["doctor", "run", "--json", "-"], folder=tmp_path).out)
    assert found["is_sound"] and found["ending"]["kind"] == "signal"
    assert f"at step {found['checkpoints'][0]['step']}" in found["ending"]["said"]


# -- Disks -----------------------------------------------------------------------------------


@holds("F3")
def test_a_full_disk_is_warned_of_and_training_goes_on(tmp_path: Path, capture: Path) -> None:
    words = train(tmp_path, "--max-steps", "20", "--steps-per-save", "10", "--log2-table", "14", "--n-levels", "8",
                  "--finest-resolution", "64")  # fmt: skip
    training = start_nsx(words, folder=tmp_path, limits={"RLIMIT_FSIZE": 400_000})
    ended = training.wait(seconds=LONG)
    assert_one_line(ended, 2, names="out/ball/ngp", says="step 20 could not be saved.*Free some space")
    assert ended.out.count("disk full") == 2, "at step 10, and again at step 20"
    assert re.search(r"need [\d.]+ MB, \d+ MB free", ended.out), ended.out
    (path,) = tmp_path.glob("out/ball/ngp/*")
    assert not list((path / "checkpoints").glob(".*")), "nothing half-written stays"


@holds("F3")
def test_a_log_on_a_full_disk_costs_its_lines_only(tmp_path: Path, run: Path) -> None:
    (run / "log.txt").symlink_to("/dev/full")
    ended = resume(tmp_path, "--max-steps", "31")
    assert_done(ended)
    assert "Logging error" not in ended.err


@holds("F4")
def test_frames_finished_before_the_disk_was_full_are_kept(tmp_path: Path) -> None:
    golden_run(tmp_path)
    words = ["render", "run", "--output-path", "out", "--output-format", "images", "--size", "300x300",
             "--seconds", "0.2", "--outputs", "depth", "--depth-format", "npy"]  # fmt: skip
    rendering = start_nsx(words, folder=tmp_path)
    wait_until(tmp_path, "out/frame_00001.npy")
    resource.prlimit(rendering.pid, resource.RLIMIT_FSIZE, (200_000, 200_000))
    ended = rendering.wait(seconds=LONG)
    if ended.code == 0:
        pytest.skip("the four frames were finished before the limit came")
    assert_one_line(ended, 2, names="out", says=r"disk is full at frame [2-4] of 4; [1-3] finished frames? are kept")
    first = (tmp_path / "out" / "frame_00001.npy").stat()
    assert_done(run_nsx(words, folder=tmp_path, seconds=LONG))
    assert sorted(p.name for p in tmp_path.glob("out/*.npy")) == [f"frame_0000{i}.npy" for i in range(1, 5)]
    assert (tmp_path / "out" / "frame_00001.npy").stat().st_mtime_ns == first.st_mtime_ns, "not rendered again"


@holds("F5")
@pytest.mark.parametrize("output", ["ball/transforms.json/out", "/proc/1/out"])
def test_a_place_that_cannot_be_written_is_said_before_training(tmp_path: Path, capture: Path, output: str) -> None:
    with unchanged(capture):
        ended = run_nsx(["train", "ngp", "ball", "--output-dir", output, *SMALL], folder=tmp_path, seconds=LONG)
    assert_one_line(ended, 2, names=output, says="no run folder can be made.*Choose another --output-dir")
    assert "train ..." not in ended.out


@holds("F5")
@pytest.mark.skipif(os.geteuid() == 0, reason="modes do not bind the superuser")
def test_a_read_only_folder_is_said_before_training(tmp_path: Path, capture: Path) -> None:
    (tmp_path / "out").mkdir(mode=0o500)
    ended = run_nsx(train(tmp_path), folder=tmp_path, seconds=LONG)
    assert_one_line(ended, 2, names="out", says="Permission denied.*Choose another")


@holds("F5")
def test_a_run_folder_that_is_removed_meanwhile_is_made_again_whole(tmp_path: Path, capture: Path) -> None:
    training = start_nsx(train(tmp_path, "--max-steps", "40", "--steps-per-save", "20"), folder=tmp_path)
    path = wait_until(tmp_path, "out/ball/ngp/*/metrics.jsonl").parent
    shutil.rmtree(path)
    assert_done(training.wait(seconds=LONG))
    looked = json.loads(run_nsx(["doctor", str(path), "--json", "-"], folder=tmp_path).out)
    assert looked["is_sound"] and looked["checkpoints"][0]["step"] == 40


# -- Changed captures -----------------------------------------------------------------------------------


@holds("F7")
def test_a_changed_capture_is_refused_by_name_unless_allowed(tmp_path: Path, run: Path, capture: Path) -> None:
    photo = capture / "images" / "03.png"
    pixels = np.array(Image.open(photo))
    pixels[2, 2] = 7
    Image.fromarray(pixels).save(photo)
    poses = json.loads((capture / "transforms.json").read_text())
    poses["frames"][5]["transform_matrix"][0][3] += 0.1
    (capture / "transforms.json").write_text(json.dumps(poses))
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | {"version": "0.0.9"}))
    with unchanged(run, capture):
        ended = resume(tmp_path, "--max-steps", "31")
    says = (r"1 of 16 photos \(images/03.png\)", r"cameras of 1 of 16 photos \(images/05.png\)", r"0\.0\.9 -> ")
    assert_one_line(ended, 2, names="run", says=(*says, "--allow-changed"))
    assert_done(resume(tmp_path, "--max-steps", "31", "--allow-changed"))
    changes = "\n".join(json.loads((run / "config.json").read_text())["changes"])
    for name in ("images/03.png", "images/05.png", "0.0.9"):
        assert name in changes


@holds("F7")
@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--max-side", "12"), r"--max-side 12 \(the run has 1600\)"),
        (("--downscale-factor", "2"), r"--downscale-factor 2\.0 \(the run has None\)"),
        (("--seed", "3", "--split-every", "4"), r"--split-every 4 .*--seed 3 \(the run has 0\)"),
        (("--n-levels", "3"), "method's settings are part of its weights"),
    ],
)
def test_settings_that_made_the_run_cannot_be_changed(
    tmp_path: Path, run: Path, words: Sequence[str], says: str
) -> None:
    with unchanged(run):
        ended = resume(tmp_path, *words)
    assert_one_line(ended, 2, names="--resume", says=says)


@holds("F7")
def test_an_unchanged_capture_is_resumed_without_a_word(tmp_path: Path, run: Path) -> None:
    ended = resume(tmp_path, "--max-steps", "31")
    assert_done(ended)
    assert "warning" not in ended.out and "resuming from step 30" in ended.out
    assert (run / "checkpoints" / "step-0000031").is_dir() and (run / "checkpoints" / NEWEST).is_dir()


# -- Workers, threads, interpreters -----------------------------------------------------------------------------------


@holds("F12")
def test_a_fault_in_a_worker_reaches_the_user(
    tmp_path: Path, capture: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Photos are read by a pool of threads; the solver of poses is a process with a deadline, see `test_poses`.

    Checkpoints are written by the training thread itself: there is no saver to lose.
    """

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("the worker is gone")

    monkeypatch.setattr("nerfstudio_ext.scenes.picture_loading._Shelf.put", broken)
    began = time.monotonic()
    assert main(["train", "ngp", str(capture), "--output-dir", str(tmp_path / "out"), *SMALL]) == 1
    said = capsys.readouterr()
    assert "the worker is gone" in said.err and said.err.count("error:") == 1
    assert time.monotonic() - began < 30
    assert not list(tmp_path.glob("out/*/ngp/*/checkpoints/*"))


@holds("F22")
@pytest.mark.slow
def test_thread_counts_and_old_processors_give_the_same_picture(tmp_path: Path) -> None:
    """2 and 64 threads on any machine; `default` takes the code that torch has for processors without AVX."""
    golden_run(tmp_path)
    pictures = {}
    for name, env in {
        "1": {},
        "2": {"OMP_NUM_THREADS": "2", "NUMBA_NUM_THREADS": "2"},
        "64": {"OMP_NUM_THREADS": "64", "NUMBA_NUM_THREADS": "64"},
        "no AVX": {"ATEN_CPU_CAPABILITY": "default"},
    }.items():
        words = ["render", "run", "--path", "test", "--output-path", name, "--image-format", "png"]
        assert_done(run_fresh(words, folder=tmp_path, env=env, seconds=240))
        pictures[name] = np.stack([np.asarray(Image.open(p)) for p in sorted((tmp_path / name).glob("*.png"))])
    for name, picture in pictures.items():
        assert np.abs(picture.astype(int) - pictures["1"]).max() <= 1, f"{name} threads: one step of 255 for rounding"
    assert pictures["1"].std() > 0


@holds("F23")
@pytest.mark.slow
def test_checks_are_none_that_an_optimising_interpreter_removes(tmp_path: Path) -> None:
    run = golden_run(tmp_path)
    weights = run / "checkpoints" / NEWEST / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9])
    for words, names, says in (
        (["render", "run", "--checkpoint", "30"], NEWEST, "not a complete checkpoint"),
        (["train", "nowhere"], "nowhere", "no such file"),
    ):
        assert_one_line(run_fresh(words, folder=tmp_path, python=["-O"], seconds=240), 2, names=names, says=says)
