"""Augmented training of the fast field through the trainer: masks, unbounded captures, bit-equal resume."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from nerfstudio_ext import methods
from nerfstudio_ext.methods.aug_settings import AugConfig
from nerfstudio_ext.methods.ngp import NgpConfig
from nerfstudio_ext.scenes.images import ImageStore
from nerfstudio_ext.scenes.model import Scene
from nerfstudio_ext.training.config import RunConfig, TrainConfig
from nerfstudio_ext.training.runs import Run
from nerfstudio_ext.training.trainer import Trainer
from tests.methods.ball_scene import make_meta, make_scene

HASH = NgpConfig(n_levels=4, log2_table=12, finest_resolution=64, hidden=16, color_hidden=16, grid_size=32,
                 samples_per_batch=1024, steps_per_unit=64, backend="reference")  # fmt: skip
METHOD = AugConfig(field="hash", hash=HASH, keys="points,raw,rgb", adversary_from=1, adversary_every=2)
META = make_meta(n_cameras=14, size=16)


def state_after(scene: Scene, folder: Path, steps: int, resume_from: int | None = None) -> dict[str, Tensor]:
    """Weights and random states of a run; the first session saves every second step."""
    config = RunConfig(METHOD, TrainConfig(max_steps=steps, steps_per_save=2))
    with Run.create(folder, config, scene.meta) as run:
        trainer = Trainer(methods.build(METHOD, scene.meta, seed=3), scene, config.train, run)
        if resume_from is not None:
            run.checkpoints.mkdir(exist_ok=True)
            (folder.parent / f"step-{resume_from:07d}").rename(run.checkpoints / f"step-{resume_from:07d}")
            assert trainer.resume() == resume_from
        trainer.train()
        if resume_from is None and steps > 2:
            (run.checkpoints / "step-0000002").rename(folder.parent / "step-0000002")
        return {name: value.clone() for name, value in trainer.stepper.capture().weights.items()}


def masked(seed: int) -> Scene:
    """The ball with its lower half masked, which holds noise."""
    scene = make_scene(META)
    noise = np.random.default_rng(seed)
    arrays, usable = [], []
    for i in range(len(scene.images)):
        pixels = scene.images.pixels(i).copy()
        pixels[8:] = noise.integers(0, 255, size=pixels[8:].shape, dtype=np.uint8)
        arrays.append(pixels)
        usable.append(np.arange(8 * 16, dtype=np.int32))
    return Scene(META, ImageStore.from_arrays(arrays, usable))


def test_masked_pixels_do_not_matter(tmp_path: Path):
    one, other = (state_after(masked(seed), tmp_path / str(seed), steps=2) for seed in (1, 2))
    assert all(torch.equal(one[name], other[name]) for name in one)
    whole = state_after(make_scene(META), tmp_path / "whole", steps=2)
    assert not torch.equal(one["scene.ngp.field.table"], whole["scene.ngp.field.table"])


@pytest.mark.parametrize("scale", [1, 8])
def test_a_resumed_run_goes_on_bit_for_bit(tmp_path: Path, scale: int):
    """Bounded, and unbounded with photos that have no opacity: everything around belongs to the scene."""
    scene = make_scene(META)
    if scale > 1:
        meta = dataclasses.replace(META, has_alpha=False, frame=dataclasses.replace(META.frame, aabb_scale=scale))
        opaque = [scene.images.pixels(i)[..., :3].copy() for i in range(len(scene.images))]
        scene = Scene(meta, ImageStore.from_arrays(opaque))
    expected = state_after(scene, tmp_path / "whole", steps=4)
    found = state_after(scene, tmp_path / "resumed", steps=4, resume_from=2)
    assert int(expected["cameras.looks"]) == 2
    assert expected.keys() == found.keys()
    for name in expected:
        assert torch.equal(expected[name], found[name]), name
