"""Bit-equal resume of the fast field itself: hash grid, occupancy grid, random backgrounds, adapted batches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from nerfstudio_ext import kernels, methods
from nerfstudio_ext.errors import UserError
from nerfstudio_ext.methods.ngp import NgpConfig
from nerfstudio_ext.scenes.images import ImageStore
from nerfstudio_ext.scenes.model import Scene
from nerfstudio_ext.training.config import RunConfig, TrainConfig
from nerfstudio_ext.training.metrics_log import read_metrics
from nerfstudio_ext.training.runs import Run, open_run
from nerfstudio_ext.training.trainer import Trainer
from tests.training.tiny import RecordingProgress, tiny_meta

STEPS = 72
"""Past three refreshes of the occupancy grid."""
TIMES = {"train_seconds", "steps_per_s", "rays_per_s"}
CONFIG = RunConfig(
    NgpConfig(
        n_levels=4,
        log2_table=12,
        finest_resolution=64,
        hidden=32,
        color_hidden=32,
        grid_size=32,
        samples_per_batch=4096,
    ),
    TrainConfig(max_steps=STEPS, steps_per_save=10_000, steps_per_log=5),
)


def ball_scene(size: int = 24) -> Scene:
    """A ball of radius 0.3, coloured by its normal, with opacity, seen from a ring of cameras."""
    meta = tiny_meta(8, size)
    pictures = []
    for camera in meta.training_cameras():
        rays = camera.rays()
        nearest = -(rays.rays_o * rays.rays_d).sum(-1)
        gap = 0.3**2 - (rays.rays_o.square().sum(-1) - nearest**2)
        hit = rays.rays_o + (nearest - gap.clamp_min(0).sqrt())[:, None] * rays.rays_d
        rgba = torch.cat([0.5 + 0.5 * hit / 0.3, (gap > 0).float()[:, None]], -1).clamp(0, 1)
        pictures.append((255 * rgba).to(torch.uint8).reshape(size, size, 4).numpy())
    return Scene(meta, ImageStore.from_arrays([np.ascontiguousarray(p) for p in pictures]))


def trainer_for(scene: Scene, run: Run, seed: int) -> Trainer:
    method = methods.build(CONFIG.method, scene.meta, seed=seed)
    return Trainer(method, scene, CONFIG.train, run, None, RecordingProgress())


def curve(run: Run) -> list[dict[str, float]]:
    return [{k: v for k, v in line.items() if k not in TIMES} for line in read_metrics(run.metrics)]


@pytest.fixture(params=[1, 2])
def _threads(request: pytest.FixtureRequest) -> None:
    kernels.set_threads(request.param)


@pytest.mark.slow
@pytest.mark.usefixtures("_threads")
def test_resumed_equals_uninterrupted_at_three_points(tmp_path: Path) -> None:
    scene = ball_scene()
    with Run.create(tmp_path / "whole", CONFIG, scene.meta) as run:
        whole = trainer_for(scene, run, seed=5)
        step = whole.stepper.step

        def saving(number: int, progress: float) -> tuple[dict[str, float], int]:
            if number in (1, 40, 64):
                trainer_for_part = tmp_path / f"part{number}"
                whole.save()
                trainer_for_part.mkdir()
                (whole.run.checkpoints / f"step-{number:07d}").rename(trainer_for_part / f"step-{number:07d}")
            return step(number, progress)

        whole.stepper.step = saving  # type: ignore[method-assign]
        result = whole.train()
        expected, lines = whole.stepper.capture(), curve(run)
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert len({line["occupancy"] for line in lines}) > 2, "the occupancy grid is refreshed"

    for split in (1, 40, 64):
        with Run.create(tmp_path / "resumed", CONFIG, scene.meta) as run:
            (tmp_path / f"part{split}").rename(run.checkpoints)
            again = trainer_for(scene, run, seed=77)
            assert again.resume() == split
            assert again.train().stats == result.stats
            state = again.stepper.capture()
            for part in ("weights", "trainer"):
                mine, theirs = getattr(state, part), getattr(expected, part)
                assert mine.keys() == theirs.keys()
                for name in mine:
                    assert torch.equal(mine[name], theirs[name]), f"{name} after resuming at {split}"
            first = split // 5 * 5
            assert curve(run) == [line for line in lines if line["step"] > first]
        opened = open_run(run.path)
        camera = scene.meta.training_cameras()[0]
        frames = (opened.renderer().render(camera), whole.method.render_rays(camera.rays()))
        assert torch.isfinite(frames[0].rgb).all()
        assert torch.equal(opened.method.render_rays(camera.rays()).rgb, frames[1].rgb)


def test_a_damaged_random_state_is_said_in_one_line(tmp_path: Path) -> None:
    """Right in type and size, so that only torch can tell; of the method and of the batches."""
    scene = ball_scene()
    with Run.create(tmp_path, CONFIG, scene.meta) as run:
        stepper = trainer_for(scene, run, seed=5).stepper
    state = stepper.capture()
    for part, name in ((state.weights, "generator"), (state.trainer, "sampler/generator")):
        whole = part[name].clone()
        part[name].fill_(255)
        with pytest.raises(UserError, match="damaged .*--checkpoint STEP") as caught:
            stepper.restore(state, where=tmp_path)
        assert "\n" not in caught.value.line
        part[name] = whole
    stepper.restore(state, where=tmp_path)
