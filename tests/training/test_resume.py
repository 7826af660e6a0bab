"""A run that was interrupted and resumed is, bit by bit, the run that was not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from nerfstudio_ext.errors import UserError
from nerfstudio_ext.training.config import TrainConfig
from nerfstudio_ext.training.metrics_log import read_metrics
from nerfstudio_ext.training.runs import Run
from nerfstudio_ext.training.trainer import Trainer
from tests.training.tiny import everything, tiny_trainer

STEPS = 120
TIMES = {"train_seconds", "steps_per_s", "rays_per_s"}


def config(max_steps: int = STEPS) -> TrainConfig:
    return TrainConfig(max_steps=max_steps, steps_per_save=1000, steps_per_log=7)


def curve(trainer: Trainer) -> list[dict[str, float]]:
    """The loss curve as logged, without what a clock says."""
    return [{k: v for k, v in line.items() if k not in TIMES} for line in read_metrics(trainer.run.metrics)]


def assert_same_bits(one: Trainer, other: Trainer) -> None:
    a, b = everything(one), everything(other)
    for part in ("weights", "trainer"):
        mine, theirs = getattr(a, part), getattr(b, part)
        assert mine.keys() == theirs.keys()
        for name in mine:
            assert torch.equal(mine[name], theirs[name]), name
    assert curve(one) == curve(other)


@pytest.fixture
def n_threads(request: pytest.FixtureRequest) -> None:
    torch.set_num_threads(request.param)


@pytest.mark.parametrize("n_threads", [1, 2], indirect=True)
@pytest.mark.parametrize("split", [1, 50, 119])
@pytest.mark.usefixtures("n_threads")
def test_resumed_equals_uninterrupted(tmp_path: Path, split: int) -> None:
    whole, _ = tiny_trainer(tmp_path / "whole", config())
    whole.train()
    # The learning rate follows the planned 120 steps, so the first part is the same run stopped early.
    first, _ = tiny_trainer(tmp_path / "parts", config())
    step = first.stepper.step

    def until_split(number: int, progress: float):
        if number == split:
            first.save()
            raise InterruptedError
        return step(number, progress)

    first.stepper.step = until_split  # type: ignore[method-assign]
    with pytest.raises(InterruptedError):
        first.train()
    first.run.close()

    second, progress = tiny_trainer(tmp_path / "parts", config(), run=Run.open(first.run.path), seed=99)
    assert second.resume() == split
    assert second.train().steps == STEPS
    assert progress.warnings == []
    assert_same_bits(whole, second)


def test_the_comparison_can_fail(tmp_path: Path) -> None:
    """Without the sampler's random state the curves part."""
    one, _ = tiny_trainer(tmp_path / "one", config(60))
    one.train()
    other, _ = tiny_trainer(tmp_path / "other", config(60))
    other.stepper.sampler.load_state_dict({"generator": torch.Generator().manual_seed(4).get_state()})
    other.train()
    with pytest.raises(AssertionError):
        assert_same_bits(one, other)


def test_lines_of_lost_steps_leave_the_curve(tmp_path: Path) -> None:
    """A crash after the last checkpoint leaves log lines that the resumed run writes again."""
    trainer, _ = tiny_trainer(tmp_path, config(70))
    trainer.train()
    trainer.run.close()
    with trainer.run.metrics.open("a") as file:
        file.write('{"step": 77, "loss": 1.0}\n{"step": 84, "lo')
    again, _ = tiny_trainer(tmp_path, config(140), run=Run.open(trainer.run.path))
    again.resume()
    again.train()
    assert [line["step"] for line in read_metrics(again.run.metrics)] == list(range(7, 141, 7))


def test_training_time_goes_on(tmp_path: Path) -> None:
    trainer, _ = tiny_trainer(tmp_path, TrainConfig(max_train_seconds=0.4, steps_per_save=10_000))
    result = trainer.train()
    assert result.stopped_by == "seconds"
    assert result.train_seconds >= 0.4
    trainer.run.close()
    again, _ = tiny_trainer(tmp_path, TrainConfig(max_train_seconds=0.8), run=Run.open(trainer.run.path))
    again.resume()
    assert again.progress_now() == pytest.approx(0.5, abs=0.2)
    assert again.train().train_seconds >= 0.8


def test_a_damaged_newest_checkpoint_is_skipped_by_name(tmp_path: Path) -> None:
    trainer, _ = tiny_trainer(tmp_path, TrainConfig(max_steps=60, steps_per_save=20))
    trainer.train()
    trainer.run.close()
    weights = trainer.run.checkpoints / "step-0000060" / "weights.safetensors"
    data = bytearray(weights.read_bytes())
    data[-5] ^= 1
    weights.write_bytes(data)
    again, progress = tiny_trainer(tmp_path, TrainConfig(max_steps=60), run=Run.open(trainer.run.path))
    assert again.resume() == 40
    assert len(progress.warnings) == 1
    assert "step-0000060" in progress.warnings[0]
    assert "Using step 40" in progress.warnings[0]
    with pytest.raises(UserError, match="Use step 40"):
        again.resume(60)


def test_other_settings_of_the_method_are_refused(tmp_path: Path) -> None:
    trainer, _ = tiny_trainer(tmp_path, TrainConfig(max_steps=5))
    trainer.train()
    trainer.method.first = torch.nn.Parameter(torch.zeros(3, 20))  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=r"'first': expected \(3, 20\) float32, got \(3, 16\) float32"):
        trainer.resume()
