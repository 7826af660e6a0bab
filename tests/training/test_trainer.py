"""The loop: what it reports, how it saves, pauses, skips, rolls back and stops."""

from __future__ import annotations

import math
import os
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from torch import Tensor

from nerfstudio_ext.errors import TrainingFailed, UserError
from nerfstudio_ext.progress import TrainStatus
from nerfstudio_ext.renderer import Renderer
from nerfstudio_ext.training import checkpoints as ck
from nerfstudio_ext.training import trainer as trainer_module
from nerfstudio_ext.training.config import TrainConfig
from nerfstudio_ext.training.guard import StepGuard, Verdict
from nerfstudio_ext.training.metrics_log import read_metrics
from nerfstudio_ext.training.trainer import Trainer
from tests.training.tiny import everything, tiny_trainer


@dataclass
class Watcher:
    """A viewer that records what it gets."""

    paused: bool = False
    wants: bool = False
    reserved: int = 0
    published: list[tuple[Renderer, TrainStatus]] = field(default_factory=list)
    statuses: list[TrainStatus] = field(default_factory=list)

    def is_paused(self) -> bool:
        return self.paused

    def reserved_threads(self) -> int:
        return self.reserved

    def wants_snapshot(self) -> bool:
        return self.wants

    def publish(self, renderer: Renderer, status: TrainStatus) -> None:
        self.published.append((renderer, status))

    def stepped(self, status: TrainStatus) -> None:
        self.statuses.append(status)


def test_it_learns_saves_and_reports(tmp_path: Path) -> None:
    trainer, progress = tiny_trainer(tmp_path, TrainConfig(max_steps=300, steps_per_save=100, steps_per_log=20))
    result = trainer.train()
    lines = read_metrics(trainer.run.metrics)
    assert [line["step"] for line in lines] == list(range(20, 301, 20))
    assert lines[-1]["loss"] < 0.2 * lines[0]["loss"]
    assert lines[-1]["loss"] == pytest.approx(lines[-1]["colour"] + lines[-1]["size"], rel=1e-5)
    assert lines[-1]["psnr"] == pytest.approx(-10 * math.log10(lines[-1]["mse"]))
    assert lines[-1]["occupancy"] == 0.25
    assert result.steps == 300
    assert result.stopped_by == "steps"
    assert result.exit_code == 0
    assert result.stats == {"occupancy": 0.25}
    assert result.status.state == "done"
    assert [step for step, _ in ck.list_checkpoints(trainer.run.checkpoints)] == [300, 200]
    assert progress.stages == [("train", 300)]
    assert progress.notes[-1][0] == 300
    assert "steps/s" in progress.notes[-1][1]
    assert progress.warnings == []


def test_the_rate_follows_steps_or_seconds_whichever_is_further(tmp_path: Path) -> None:
    trainer, _ = tiny_trainer(tmp_path, TrainConfig(max_steps=100, max_train_seconds=50.0))
    trainer.step = 30
    assert trainer.progress_now() == pytest.approx(0.3)
    trainer.clock.set_train_seconds(40.0)
    assert trainer.progress_now() == pytest.approx(0.8)
    trainer.stepper.step(30, trainer.progress_now())
    (group,) = trainer.stepper.optimizer.adam.param_groups
    assert group["lr"] == pytest.approx(1e-2 * 10**-0.8)


def test_time_alone_bounds_a_run_and_excludes_the_rest(tmp_path: Path) -> None:
    trainer, progress = tiny_trainer(
        tmp_path, TrainConfig(max_train_seconds=0.5, steps_per_eval=50, steps_per_save=100_000)
    )
    looks: list[int] = []

    def slow_look(renderer: Renderer) -> float:
        looks.append(renderer.version)  # type: ignore[attr-defined]
        time.sleep(0.2)
        return 12.5

    trainer._test_psnr = slow_look
    trainer.stepper.method.warm_up = lambda: time.sleep(0.3)  # type: ignore[attr-defined]
    began = time.perf_counter()
    result = trainer.train()
    wall = time.perf_counter() - began
    assert result.stopped_by == "seconds"
    assert result.train_seconds >= 0.5
    assert result.compile_seconds >= 0.3
    assert result.eval_seconds >= 0.2 * len(looks) > 0
    assert wall >= result.train_seconds + result.compile_seconds + result.eval_seconds
    assert result.status.test_psnr == 12.5
    assert progress.stages == [("train", 1)]


def test_warming_up_leaves_no_trace(tmp_path: Path) -> None:
    trainer, _ = tiny_trainer(tmp_path, TrainConfig(max_steps=1))
    before = everything(trainer)
    trainer.stepper.warm_up(0)
    after = everything(trainer)
    for part in ("weights", "trainer"):
        for name, tensor in getattr(before, part).items():
            assert torch.equal(tensor, getattr(after, part)[name]), name
    assert all(p.grad is None for p in trainer.method.parameters())


# -- Steps that would ruin the weights ---------------------------------------------------------------------------


def spoil(steps: set[int], value: float):
    def change(step: int, loss: Tensor) -> Tensor:
        return loss * value if step in steps else loss

    return change


def quality(trainer: Trainer) -> float:
    """PSNR over all pixels of all pictures, dB."""
    scene = trainer.scene
    errors = [
        (trainer.method.render_rays(camera.rays()).rgb - torch.from_numpy(scene.images.pixels(i)).reshape(-1, 3) / 255)
        for i, camera in enumerate(scene.meta.training_cameras())
    ]
    return -10 * math.log10(torch.cat(errors).square().mean().item())


@pytest.fixture(scope="module")
def clean_quality(tmp_path_factory: pytest.TempPathFactory) -> float:
    trainer, _ = tiny_trainer(tmp_path_factory.mktemp("clean"), TrainConfig(max_steps=500))
    trainer.train()
    return quality(trainer)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e6])
def test_a_ruinous_step_is_skipped_and_counted(tmp_path: Path, value: float, clean_quality: float) -> None:
    trainer, _ = tiny_trainer(tmp_path, TrainConfig(max_steps=500))
    spoiled = {33, 34, 60, 111, 150, 151, 152, 240, 298, *range(300, 480, 20)}
    trainer.method.spoil = spoil(spoiled, value)  # type: ignore[attr-defined]
    result = trainer.train()
    assert result.n_skipped == len(spoiled)
    assert result.n_rollbacks == 0
    assert all(p.isfinite().all() for p in trainer.method.parameters())
    assert quality(trainer) > clean_quality - 0.2 > 25
    assert read_metrics(trainer.run.metrics)[-1]["skipped"] == len(spoiled)


def test_a_gradient_that_is_not_finite_is_skipped(tmp_path: Path) -> None:
    trainer, _ = tiny_trainer(tmp_path, TrainConfig(max_steps=60))
    first = trainer.method.first  # type: ignore[attr-defined]
    seen: list[int] = []

    def poison(grad: Tensor) -> Tensor:
        seen.append(1)
        return grad.index_fill(0, torch.tensor([1]), math.nan) if len(seen) == 30 else grad

    first.register_hook(poison)
    result = trainer.train()
    assert result.n_skipped == 1
    assert first.isfinite().all()


def test_many_in_a_row_roll_back_at_half_the_rate(tmp_path: Path) -> None:
    trainer, progress = tiny_trainer(
        tmp_path, TrainConfig(max_steps=150, steps_per_save=50, bad_steps_before_rollback=4)
    )
    method, good = trainer.method, {}

    def before_step(step: int) -> None:
        if step == 100:
            good["first"] = method.first.detach().clone()
        if step == 113:
            with torch.no_grad():
                method.first.fill_(math.nan)  # what a fault elsewhere might do
        if step == 117:
            # The weights are those of step 100 again, three steps after the fault was met.
            assert torch.equal(method.first, good["first"])

    method.before_step = before_step  # type: ignore[attr-defined]
    result = trainer.train()
    assert result.n_rollbacks == 1
    assert result.n_skipped == 4
    assert len(progress.warnings) == 1
    assert "4 unusable steps in a row" in progress.warnings[0]
    assert "x0.5" in progress.warnings[0]
    assert trainer.stepper.rate == pytest.approx(0.5 * 10 ** (-149 / 150))
    assert all(ck.is_intact(path) for _, path in ck.list_checkpoints(trainer.run.checkpoints))


def test_it_gives_up_after_three_and_keeps_the_last_good(tmp_path: Path) -> None:
    trainer, progress = tiny_trainer(tmp_path, TrainConfig(max_steps=500, steps_per_save=50))
    trainer.method.spoil = spoil(set(range(60, 500)), math.nan)  # type: ignore[attr-defined]
    with pytest.raises(TrainingFailed, match="after 3 returns.*last good checkpoint is kept.*learning rate"):
        trainer.train()
    assert len(progress.warnings) == 3
    newest, skipped = ck.newest_checkpoint(trainer.run.checkpoints)
    assert newest.step == 50
    assert not skipped


def test_ruined_weights_are_never_saved(tmp_path: Path) -> None:
    trainer, progress = tiny_trainer(tmp_path, TrainConfig(max_steps=40, steps_per_save=20))

    def before_step(step: int) -> None:
        if step == 39:
            trainer.stepper.optimizer.adam.register_step_post_hook(ruin)

    def ruin(*_: object) -> None:
        with torch.no_grad():
            trainer.method.second[0, 0] = math.inf  # type: ignore[attr-defined]

    trainer.method.before_step = before_step  # type: ignore[attr-defined]
    result = trainer.train()
    assert result.n_rollbacks == 1
    assert "'second' (1 of 48 values) is not finite" in progress.warnings[0]
    for _, path in ck.list_checkpoints(trainer.run.checkpoints):
        assert ck.load_checkpoint(path).weights["second"].isfinite().all()


def test_the_guard_ignores_ordinary_noise() -> None:
    guard = StepGuard(5)
    for step in range(200):
        loss = 0.01 * (1 + 0.9 * math.sin(step)) * (30 if step % 10 == 0 else 1)
        assert guard.judge_loss(loss)
        guard.good(loss)
    assert not guard.judge_loss(50.0)
    assert guard.judge_loss(0.0)
    assert [guard.bad() for _ in range(5)] == [Verdict.SKIP] * 4 + [Verdict.ROLL_BACK]


# -- Disk -----------------------------------------------------------------------------------------------------------


def test_a_full_disk_does_not_end_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, progress = tiny_trainer(tmp_path, TrainConfig(max_steps=60, steps_per_save=20))
    fsync = os.fsync

    def full_at_40(descriptor: int) -> None:
        if trainer.step == 40:
            raise OSError(28, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full_at_40)
    assert trainer.train().steps == 60
    assert len(progress.warnings) == 1
    assert "disk full: need" in progress.warnings[0]
    assert sorted(os.listdir(trainer.run.checkpoints)) == ["step-0000020", "step-0000060"]


def test_a_disk_that_stays_full_says_so_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, _ = tiny_trainer(tmp_path, TrainConfig(max_steps=60, steps_per_save=20))
    save = trainer_module.save_checkpoint

    def full(folder: Path, step: int, *states: dict[str, Tensor]) -> Path:
        if step > 20:
            raise ck.CheckpointNotSaved("disk full: need 48 MB, 3 MB free")
        return save(folder, step, *states)

    monkeypatch.setattr(trainer_module, "save_checkpoint", full)
    with pytest.raises(UserError, match="step 60 could not be saved.*Free some space"):
        trainer.train()
    assert ck.newest_checkpoint(trainer.run.checkpoints)[0].step == 20


def test_a_log_that_cannot_be_written_costs_one_warning(tmp_path: Path) -> None:
    trainer, progress = tiny_trainer(tmp_path, TrainConfig(max_steps=50))
    trainer.run.metrics.mkdir()
    assert trainer.train().steps == 50
    assert len([line for line in progress.warnings if "metrics.jsonl" in line]) == 1


def test_a_run_folder_that_vanishes_is_made_again(tmp_path: Path) -> None:
    trainer, _ = tiny_trainer(tmp_path, TrainConfig(max_steps=50, steps_per_save=25))
    trainer.method.before_step = (  # type: ignore[attr-defined]
        lambda step: ck._discard(trainer.run.checkpoints / "step-0000025") if step == 40 else None
    )
    trainer.train()
    assert ck.newest_checkpoint(trainer.run.checkpoints)[0].step == 50


# -- Watching ---------------------------------------------------------------------------------------------------------


def test_snapshots_are_frozen_and_seldom(tmp_path: Path) -> None:
    watcher = Watcher(wants=True)
    trainer, _ = tiny_trainer(tmp_path, TrainConfig(max_train_seconds=1.3, steps_per_save=10**6), watcher=watcher)
    began = time.perf_counter()
    trainer.train()
    wall = time.perf_counter() - began
    versions = [status.step for _, status in watcher.published]
    assert versions[0] == 0
    assert watcher.published[-1][1].state == "done"
    assert 3 <= len(versions) <= wall / 0.25 + 3
    camera = trainer.scene.meta.training_cameras()[0]
    first, again = (watcher.published[0][0].render(camera).rgb for _ in range(2))
    assert torch.equal(first, again)
    last = watcher.published[-1][0].render(camera)
    assert last.version == trainer.step
    assert not torch.equal(first, last.rgb)
    assert not [t for t in threading.enumerate() if t is not threading.main_thread() and not t.daemon]


def test_nobody_looking_costs_no_snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watcher = Watcher()
    trainer, _ = tiny_trainer(tmp_path, TrainConfig(max_train_seconds=0.8, steps_per_save=10**6), watcher=watcher)
    trainer.train()
    assert len(watcher.published) == 2, "at the start and at the end"
    assert 1 <= len(watcher.statuses) <= 5

    alone, _ = tiny_trainer(tmp_path, TrainConfig(max_steps=30))
    monkeypatch.setattr(alone.method, "snapshot", lambda: pytest.fail("a snapshot without a watcher"))
    alone.train()


def test_a_pause_stops_steps_and_the_clock(tmp_path: Path) -> None:
    watcher = Watcher()
    trainer, progress = tiny_trainer(tmp_path, TrainConfig(max_steps=100), watcher=watcher)
    at: list[int] = []

    def release() -> None:
        while not any(status.state == "paused" for _, status in watcher.published):
            time.sleep(0.01)
        time.sleep(0.4)
        at.append(trainer.step)
        watcher.paused = False

    def before_step(step: int) -> None:
        if step == 50:
            watcher.paused = True
            threading.Thread(target=release).start()

    trainer.method.before_step = before_step  # type: ignore[attr-defined]
    result = trainer.train()
    assert at == [51]
    assert result.steps == 100
    assert result.paused_seconds >= 0.3
    assert "paused" in [status.state for _, status in watcher.published]
    assert any("paused" in note for _, note in progress.notes)


def test_cores_are_left_to_the_view_and_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts: list[int] = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr("nerfstudio_ext.kernels.set_threads", counts.append)
    watcher = Watcher()
    trainer, _ = tiny_trainer(tmp_path, TrainConfig(max_steps=40), watcher=watcher)

    def before_step(step: int) -> None:
        watcher.reserved = {10: 1, 20: 0, 30: 1}.get(step, watcher.reserved)

    trainer.method.before_step = before_step  # type: ignore[attr-defined]
    trainer.train()
    assert counts == [1, 2, 1, 2]


@pytest.mark.parametrize("call", ["publish", "wants_snapshot", "is_paused", "reserved_threads"])
def test_a_watcher_that_fails_never_ends_training(tmp_path: Path, call: str) -> None:
    watcher = Watcher()
    trainer, progress = tiny_trainer(tmp_path, TrainConfig(max_steps=40), watcher=watcher)

    def fail(*_: object) -> None:
        raise ConnectionError("the browser went away")

    setattr(watcher, call, fail)
    trainer.stepper.method.before_step = lambda step: time.sleep(0.01)  # type: ignore[attr-defined]
    assert trainer.train().steps == 40
    assert progress.warnings == [
        "the viewer failed (ConnectionError: the browser went away); training goes on without it"
    ]
