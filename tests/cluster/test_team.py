"""Training by two gloo processes: the same result as by one, one writer, and what happens when a process ends."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from nerfstudio_ext import methods
from nerfstudio_ext.cli import main
from nerfstudio_ext.methods.ngp import Ngp
from nerfstudio_ext.scenes.pixel_sampler import PixelSampler
from nerfstudio_ext.training.checkpoints import list_checkpoints, newest_checkpoint
from nerfstudio_ext.training.config import RunConfig
from nerfstudio_ext.training.metrics_log import read_metrics
from nerfstudio_ext.training.runs import Run
from nerfstudio_ext.training.trainer import Trainer
from tests.cli.tiny_capture import TINY_METHOD
from tests.cluster.ball import METHOD, STEPS, TRAIN, ball_scene
from tests.training.tiny import RecordingProgress

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 300
"""Far more than the two processes take on a busy machine."""


def start(folder: Path, *scenarios: str) -> list[subprocess.CompletedProcess[str]]:
    """Two processes that play scenarios; how each ended."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    threads = {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-m", "tests.cluster.two_processes", str(folder), *scenarios]
    processes = [
        subprocess.Popen(
            words, cwd=ROOT, env={**os.environ, **common, **threads, "RANK": str(i), "LOCAL_RANK": str(i)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for i in range(2)
    ]  # fmt: skip
    ended = []
    for process in processes:
        out, err = process.communicate(timeout=SECONDS)
        ended.append(subprocess.CompletedProcess(words, process.returncode, out, err))
    return ended


def train_alone(folder: Path, steps: int = STEPS) -> Path:
    """The run of one process, begun in `folder` or gone on with."""
    scene = ball_scene()
    method = methods.build(METHOD, scene.meta, seed=5)
    earlier = sorted(folder.glob("tiny-scene/ngp/*"))
    config = RunConfig(METHOD, TRAIN)
    with Run.open(earlier[-1]) if earlier else Run.create(folder, config, scene.meta) as run:
        trainer = Trainer(method, scene, TRAIN, run, None, RecordingProgress())
        if earlier:
            trainer.resume()
        trainer.train()
    return run.path


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes made of all scenarios, and one process of the same."""
    folder = tmp_path_factory.mktemp("team")
    alone = train_alone(folder / "alone")
    half = folder / "resumed" / "tiny-scene" / "ngp" / alone.name
    shutil.copytree(alone, half)
    shutil.rmtree(half / "checkpoints" / f"step-{STEPS:07d}")
    for ended in start(folder, "shared", "sent", "resumed", "spoiled"):
        assert ended.returncode == 0, ended.stderr
    return folder


def run_in(folder: Path) -> Path:
    (run,) = folder.glob("tiny-scene/ngp/*")
    return run


def weights(folder: Path) -> dict[str, Tensor]:
    return newest_checkpoint(run_in(folder) / "checkpoints")[0].weights


@pytest.mark.slow
@pytest.mark.parametrize("scenario", ["shared", "sent", "resumed", "spoiled"])
def test_all_processes_end_in_the_same_state(scenario: str, together: Path) -> None:
    first, second = (load_file(together / scenario / f"process{i}.safetensors") for i in range(2))
    assert first.keys() == second.keys() and len(first) > 10
    for name, value in first.items():
        if name != "trainer/clock/train_seconds":
            assert torch.equal(value, second[name]), name


@pytest.mark.slow
@pytest.mark.parametrize("scenario", ["shared", "sent", "resumed"])
def test_two_processes_train_as_one(scenario: str, together: Path) -> None:
    one, two = weights(together / "alone"), weights(together / scenario)
    assert one.keys() == two.keys()
    for name in ("generator", "n_rays"):  # every random number was drawn alike, every batch was planned alike
        assert torch.equal(one[name], two[name]), name
    curves = [read_metrics(run_in(together / name) / "metrics.jsonl") for name in ("alone", scenario)]
    assert len(curves[0]) == len(curves[1]) == STEPS // TRAIN.steps_per_log
    for a, b in zip(*curves, strict=True):
        assert a["mse"] == pytest.approx(b["mse"], rel=1e-3)  # sums in another order, through 36 steps of Adam
        assert a["marched_per_ray"] == pytest.approx(b["marched_per_ray"], rel=2e-3)
    for name in ("field.d1", "field.c3"):
        assert (one[name] - two[name]).abs().max() < 1e-3 * one[name].abs().max(), name


@pytest.mark.slow
def test_only_the_first_process_writes_and_only_at_its_times(together: Path) -> None:
    run = run_in(together / "shared")
    assert [step for step, _ in list_checkpoints(run / "checkpoints")] == [STEPS, STEPS // 2]
    assert len((run / "metrics.jsonl").read_text().splitlines()) == STEPS // TRAIN.steps_per_log
    assert not (run / "lock").exists()


@pytest.mark.slow
def test_a_loss_that_is_no_number_in_one_process_is_skipped_in_all(together: Path) -> None:
    state = load_file(together / "spoiled" / "process0.safetensors")
    assert int(state["guard/n_skipped"]) == 5 and int(state["guard/n_rollbacks"]) == 1
    assert all(torch.isfinite(value).all() for value in state.values() if value.is_floating_point())


@pytest.mark.slow
def test_what_two_processes_saved_goes_on_in_one(together: Path, tmp_path: Path) -> None:
    begun = shutil.copytree(together / "shared", tmp_path / "begun")
    shutil.rmtree(run_in(begun) / "checkpoints" / f"step-{STEPS:07d}")
    train_alone(begun)
    one, two = weights(begun), weights(together / "alone")
    assert torch.equal(one["generator"], two["generator"])
    assert (one["field.d1"] - two["field.d1"]).abs().max() < 1e-3 * two["field.d1"].abs().max()


def torchrun(capture: Path, output: Path, log: Path, *words: str) -> subprocess.Popen[str]:
    """`torchrun --nproc-per-node 2 -m nerfstudio_ext train ngp CAPTURE ...`, its words in `log`."""
    common = ["--standalone", "--nproc-per-node=2", "-m", "nerfstudio_ext", "train", "ngp", str(capture)]
    own = ["--output-dir", str(output), "--no-viewer", "--max-images", "0", *TINY_METHOD, *words]
    environ = {**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with log.open("w") as out:
        return subprocess.Popen(
            [sys.executable, "-m", "torch.distributed.run", *common, *own],
            cwd=output.parent, env=environ, stdout=out, stderr=out, text=True,
        )  # fmt: skip


def process_of_rank(rank: int, output: Path) -> int:
    """The process of a team that trains into `output`."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            is_ours = str(output).encode() in (entry / "cmdline").read_bytes()
            if is_ours and f"\0RANK={rank}\0".encode() in (entry / "environ").read_bytes():
                return int(entry.name)
        except OSError:
            continue
    raise AssertionError("no such process")


@pytest.mark.slow
def test_a_killed_process_ends_all_with_one_line_and_a_checkpoint(
    tiny_capture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, log = tmp_path / "outputs", tmp_path / "log.txt"
    launcher = torchrun(tiny_capture, output, log, "--max-steps", "1000000", "--steps-per-log", "2")
    try:
        ends = time.monotonic() + SECONDS
        while time.monotonic() < ends and launcher.poll() is None:
            if any(len(read_metrics(file)) > 2 for file in output.glob("*/ngp/*/metrics.jsonl")):
                break
            time.sleep(0.2)
        os.kill(process_of_rank(1, output), signal.SIGKILL)
        assert launcher.wait(SECONDS) == 1
    finally:
        launcher.terminate()
    text = log.read_text()
    (run,) = output.glob("*/ngp/*")
    said = [line for line in text.splitlines() if line.startswith("error:")]
    assert len(said) == 1 and "another process of this training ended; step" in said[0], text
    assert f"nsx train --resume {run}" in said[0] and "Run:" in text and text.count("Run:") == 1
    (steps,) = [step for step, _ in list_checkpoints(run / "checkpoints")]
    assert f"step {steps} is saved" in said[0] and steps >= 6
    words = ["train", "--resume", str(run), "--no-viewer", "--max-images", "0", "--json", "-"]
    assert main([*words, "--max-steps", str(steps + 2)]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == steps + 2


class _Part:
    """One of several processes, played one after the other: sums are what all of them together would get."""

    def __init__(self, index: int, count: int, sums: list[float]) -> None:
        self.index, self.count, self.sums = index, count, sums

    def part(self, n: int) -> slice:
        return slice(n * self.index // self.count, n * (self.index + 1) // self.count)

    def n_at_most(self, n: int) -> int:
        return -(-n // self.count)

    def sum(self, values: tuple[float, ...]) -> list[float]:
        self.sums += list(values)
        return list(values)

    def gather(self, own: Tensor, n: int) -> Tensor:
        return own


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("count", [2, 3])
def test_gradients_of_the_parts_make_up_that_of_the_batch(backend: str, count: int) -> None:
    scene = ball_scene()

    def gradients(index: int | None, sums: list[float]) -> dict[str, Tensor]:
        method = methods.build(dataclasses.replace(METHOD, backend=backend), scene.meta, seed=5)
        assert isinstance(method, Ngp)
        method.n_rays = 301  # no part is as large as another
        part = slice(0, 301) if index is None else _Part(index, count, []).part(301)
        if index is not None:
            method.take_share(_Part(index, count, sums))
        sampler = PixelSampler(scene, scene.meta.split.train, 5)
        batch = sampler.next_part(301, part)
        losses = method.train_step(sampler.rays(batch), batch, 20)
        (losses["color"] * ((part.stop - part.start) / 301)).backward()
        return {name: p.grad.clone() for name, p in method.named_parameters() if p.grad is not None}

    whole = gradients(None, [])
    sums: list[float] = []
    parts = [gradients(i, sums) for i in range(count)]
    assert len(whole) == 6
    for name, value in whole.items():
        together = sum(part[name] for part in parts)
        assert (together - value).abs().max() < 1e-5 * value.abs().max(), name  # float32 sums in another order
    assert sum(sums[0::3]) > 301  # every part marched
