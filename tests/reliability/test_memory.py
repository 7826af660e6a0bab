"""Running out of memory, and rates that are far too high: less at once and the same batch, or one line and an end."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from nerfstudio_ext.cameras import Camera
from nerfstudio_ext.errors import TrainingFailed, UserError
from nerfstudio_ext.memory import HALVINGS, is_out_of_memory
from nerfstudio_ext.rays import RayOutputs, Rays
from nerfstudio_ext.renderer import RayRenderer
from nerfstudio_ext.scenes.pixel_sampler import PixelBatch
from nerfstudio_ext.training import checkpoints as ck
from nerfstudio_ext.training.config import TrainConfig
from nerfstudio_ext.training.passes import Parts, accumulate, one_pass
from nerfstudio_ext.training.trainer import Trainer
from tests.reliability.cases import holds
from tests.training.tiny import everything, tiny_trainer

ERRORS = (
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried to allocate"
    ),
    OSError(12, "Cannot allocate memory"),
)


def short_of_memory(trainer: Trainer, most: Callable[[int], int], error: BaseException) -> list[int]:
    """Let the method fail on more rays than `most(step)`; returns the sizes that it did."""
    train_step, sizes = trainer.method.train_step, list[int]()

    def limited(rays: Rays, batch: PixelBatch, step: int) -> dict[str, torch.Tensor]:
        if len(rays) > most(step):
            raise error
        sizes.append(len(rays))
        return train_step(rays, batch, step)

    trainer.method.train_step = limited  # type: ignore[method-assign]
    return sizes


@holds("F10")
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_training_goes_on_with_batches_in_parts(tmp_path: Path, error: BaseException) -> None:
    trainer, progress = tiny_trainer(tmp_path, TrainConfig(max_steps=60))
    sizes = short_of_memory(trainer, lambda step: 12 if step >= 30 else 1000, error)
    result = trainer.train()
    assert result.steps == 60 and result.n_skipped == 0
    assert [line.split(":")[0] for line in progress.warnings] == ["out of memory"] * 2
    assert "in 4 parts" in progress.warnings[-1]
    after = sizes[sizes.index(next(n for n in sizes if n <= 12)) :]
    assert len(after) == 4 * 30 and max(after) <= 12, "four parts of every later batch, and none of them twice"
    assert 24 * 30 <= sum(after) < 40 * 30, "the batches kept their size"


@holds("F10")
def test_the_result_is_that_of_small_parts_from_the_beginning(tmp_path: Path) -> None:
    short, _ = tiny_trainer(tmp_path / "short", TrainConfig(max_steps=40))
    short_of_memory(short, lambda step: 10, MemoryError())
    small, _ = tiny_trainer(tmp_path / "small", TrainConfig(max_steps=40))
    small.stepper._parts.n = 4
    for trainer in (short, small):
        trainer.train()
    mine, theirs = everything(short), everything(small)
    for part in ("weights", "trainer"):
        for name, tensor in getattr(mine, part).items():
            assert torch.equal(tensor, getattr(theirs, part)[name]), name
    assert int(mine.trainer["method/n_parts"]) == 4


@holds("F10")
def test_parts_add_up_to_the_gradient_of_the_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, _ = tiny_trainer(tmp_path, TrainConfig(max_steps=1))
    method, sampler = trainer.method, trainer.stepper.sampler
    monkeypatch.setattr(torch, "randn", lambda *sizes, **_: torch.zeros(*sizes))  # its noise differs between parts
    batch = sampler.next(37)
    rays = sampler.rays(batch)
    whole = one_pass(method, rays, batch, 0, lambda loss: True, 1)
    expected = [p.grad.clone() for p in method.parameters()]
    for n_parts in (2, 5, 37):
        method.zero_grad()  # type: ignore[attr-defined]
        found = accumulate(method, rays, batch, 0, n_parts)
        assert found.loss == pytest.approx(whole.loss, rel=1e-6)
        assert found.found == pytest.approx(whole.found, rel=1e-5)
        for gradient, p in zip(expected, method.parameters(), strict=True):
            torch.testing.assert_close(p.grad, gradient, rtol=1e-4, atol=1e-7)


@holds("F10")
def test_what_never_fits_ends_in_one_line_with_the_checkpoint_kept(tmp_path: Path) -> None:
    trainer, progress = tiny_trainer(tmp_path, TrainConfig(max_steps=60, steps_per_save=20))
    sizes = short_of_memory(trainer, lambda step: 1000 if step < 30 else 0, MemoryError())
    with pytest.raises(UserError, match="not enough memory to train, even with 1 rays at once.*--downscale-factor"):
        trainer.train()
    assert 1 <= len(progress.warnings) <= HALVINGS
    assert ck.newest_checkpoint(trainer.run.checkpoints)[0].step == 20
    assert len(sizes) == 31, "one to warm up, thirty steps"


def test_six_halvings_are_the_most() -> None:
    batch = PixelBatch(*(torch.zeros(10_000, n) for n in (1, 2, 3)), None)
    told: list[str] = []
    parts, tried = Parts(told.append), list[int]()

    def work(n: int) -> None:
        tried.append(n)
        raise MemoryError

    with pytest.raises(UserError, match="even with 156 rays at once"):
        parts.fitting(batch, work, lambda: None)
    assert tried == [1, 2, 4, 8, 16, 32, 64] and len(told) == HALVINGS


def test_whole_pictures_are_not_divided() -> None:
    @dataclasses.dataclass(frozen=True)
    class Pictures(PixelBatch):
        side: int

    batch = Pictures(*(torch.zeros(64, n) for n in (1, 2, 3)), None, 8)

    def work(n: int) -> None:
        raise MemoryError

    with pytest.raises(UserError, match="even with whole pictures"):
        Parts(lambda line: None).fitting(batch, work, lambda: None)


def test_other_errors_are_not_taken_for_it() -> None:
    for error in (RuntimeError("size mismatch"), OSError(28, "No space left on device"), ValueError("out of memory")):
        assert not is_out_of_memory(error)
    assert all(is_out_of_memory(error) for error in ERRORS)


# -- Rendering ---------------------------------------------------------------------------------------------------------


def striped(rays: Rays) -> RayOutputs:
    rgb = 0.5 + 0.5 * torch.sin(7 * rays.rays_d)
    return RayOutputs(rgb, torch.ones(len(rays)), torch.ones(len(rays)))


CAMERA = Camera.perspective(40, 30, 50.0, torch.eye(4, dtype=torch.float64)[:3])


@holds("F10")
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_a_picture_is_rendered_in_smaller_parts(error: BaseException) -> None:
    """The window through which viewer, export, evaluation and batch rendering see a scene."""
    sizes: list[int] = []

    def limited(rays: Rays) -> RayOutputs:
        if len(rays) > 100:
            raise error
        sizes.append(len(rays))
        return striped(rays)

    renderer = RayRenderer(limited, chunk=4096)
    frame = renderer.render(CAMERA)
    assert torch.equal(frame.rgb, RayRenderer(striped, chunk=75).render(CAMERA).rgb)
    assert max(sizes) <= 100 and sum(sizes) == 1200
    again = len(sizes)
    renderer.render(CAMERA)
    assert sum(sizes[again:]) == 1200 and renderer.chunk == 75, "the next picture begins with what fitted"


@holds("F10")
def test_a_picture_that_never_fits_is_one_line() -> None:
    tried: list[int] = []

    def never(rays: Rays) -> RayOutputs:
        tried.append(len(rays))
        raise MemoryError

    with pytest.raises(
        UserError, match=r"not enough memory to render 40x30 pixels, even 18 at once.*--downscale-factor"
    ):
        RayRenderer(never).render(CAMERA)
    assert tried == [1200, 600, 300, 150, 75, 37, 18]


# -- Rates ------------------------------------------------------------------------------------------------------------


@holds("F9")
@pytest.mark.parametrize("rate", [1e3, 1e5])
def test_a_rate_far_too_high_ends_with_advice(tmp_path: Path, rate: float) -> None:
    """Losses stay finite, colours being bounded: the weights themselves tell."""
    trainer, progress = tiny_trainer(tmp_path, TrainConfig(max_steps=400))
    for group in trainer.stepper.optimizer.adam.param_groups:
        group["peak_lr"] = rate
    with pytest.raises(TrainingFailed, match=rf"Lower the learning rate \(it was {rate:g}, at the end {rate / 8:g}\)"):
        trainer.train()
    assert len(progress.warnings) == 3 and "learning rate now x0.125" in progress.warnings[-1]
    assert all(p.isfinite().all() for p in trainer.method.parameters())
    assert not ck.list_checkpoints(trainer.run.checkpoints), "nothing ruined was saved"


@holds("F9")
def test_a_loss_a_hundred_times_the_usual_is_no_step(tmp_path: Path) -> None:
    trainer, progress = tiny_trainer(tmp_path, TrainConfig(max_steps=60))
    trainer.method.spoil = lambda step, loss: loss * (1e4 if 30 <= step < 35 else 1)  # type: ignore[attr-defined]
    result = trainer.train()
    assert result.n_skipped == 5 and result.n_rollbacks == 1
    assert "5 unusable steps in a row" in progress.warnings[0]
