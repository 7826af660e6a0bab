"""A patient colour loss where photos look bad, and the usual one where they do not."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from nerfstudio_ext.methods import aug_hash
from nerfstudio_ext.methods.aug import Aug
from nerfstudio_ext.methods.aug_settings import AugConfig
from nerfstudio_ext.methods.ngp import NgpConfig

from .ball_scene import BallSampler, make_meta

HASH = NgpConfig(n_levels=4, log2_table=12, finest_resolution=64, hidden=16, color_hidden=16, grid_size=32,
                 samples_per_batch=1024, steps_per_unit=64, coarse_steps=0, distortion=0.01,
                 backend="reference")  # fmt: skip
CONFIG = AugConfig(field="hash", hash=HASH)
META = make_meta(n_cameras=14)


def options_at(method: Aug, off_share: float):
    sampler = BallSampler(META)
    batch = sampler.next(64)
    method.scene.off_share.fill_(off_share)
    return method.scene._inputs(sampler.rays(batch), batch, 1).options


def test_patience_sets_in_with_the_share_of_bad_rays():
    method = Aug(CONFIG, META, seed=0)
    usual = options_at(method, 0.01)
    assert (usual.huber, usual.distortion) == (HASH.huber, 0.01)
    patient = options_at(method, 0.3)
    assert patient.huber == CONFIG.patient_huber
    # The slope of the colour loss is at most `huber`: what stands beside it gives way alike.
    assert patient.distortion == pytest.approx(0.01 * CONFIG.patient_huber / HASH.huber)
    for change in ({"patient_huber": 0.0}, {"mix": 0.0}):
        assert options_at(Aug(dataclasses.replace(CONFIG, **change), META, seed=0), 0.3).huber == HASH.huber


def test_the_share_is_that_of_the_rays_that_are_far_off():
    method = Aug(CONFIG, META, seed=0)
    sampler = BallSampler(META)
    batch = sampler.next(100)
    given = method.scene.ngp.inputs(sampler.rays(batch), batch, 500)
    seen = method.render_rays(given.rays)
    shown = seen.rgb + (1 - seen.alpha[:, None]) * given.background
    off = torch.zeros(100, 3)
    off[:25, 1] = 1.1 * aug_hash.OFF
    off[25:] = 0.9 * aug_hash.OFF
    method.scene._look_at_photos(dataclasses.replace(given, target=shown + off))
    assert float(method.scene.off_share) == pytest.approx(0.125)
    method.scene._look_at_photos(dataclasses.replace(given, target=shown + off))
    assert float(method.scene.off_share) == pytest.approx(0.1875)


def test_looks_begin_when_the_fog_has_lifted(monkeypatch: pytest.MonkeyPatch):
    looked = []
    method = Aug(CONFIG, META, seed=0)
    monkeypatch.setattr(type(method.scene), "_look_at_photos", lambda self, given: looked.append(step))
    sampler = BallSampler(META)
    for step in range(aug_hash.LOOK_FROM - 1, aug_hash.LOOK_FROM + 2 * aug_hash.LEVEL_EVERY):
        batch = sampler.next(16)
        method.scene._inputs(sampler.rays(batch), batch, step)
    first = -(-aug_hash.LOOK_FROM // aug_hash.LEVEL_EVERY) * aug_hash.LEVEL_EVERY
    assert looked == [first, first + aug_hash.LEVEL_EVERY]
