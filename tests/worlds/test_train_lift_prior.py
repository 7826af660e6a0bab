"""Training of the small prior: it learns, it goes on bit by bit, and it refuses a folder of another training."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from nerfstudio_ext.errors import UserError
from nerfstudio_ext.worlds.things import CLASSES
from nerfstudio_ext.worlds.train_lift_prior import (
    PriorTraining,
    ThingPictures,
    batch_of,
    denoising_loss,
    guess_clean,
    train_lift_prior,
)

SMALL = PriorTraining(
    steps=30, batch=16, side=8, patch=4, width=32, depth=2, n_heads=2, things=32, views=2, steps_per_save=10,
    steps_per_check=15, lr=3e-3,
)  # fmt: skip


def test_it_learns_and_goes_on_bit_by_bit(tmp_path, monkeypatch):
    whole = train_lift_prior(SMALL, tmp_path / "whole")
    lines = [json.loads(line) for line in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [15, 30] and lines[1]["loss"] < lines[0]["loss"]

    class Stopped(Exception):
        pass

    from nerfstudio_ext.worlds import train_lift_prior as module

    advance = module.SilentProgress.advance

    def stop(self, done, note=""):
        if "error" in note and done == 20:
            raise Stopped
        advance(self, done, note)

    with monkeypatch.context() as patch:
        patch.setattr(module.SilentProgress, "advance", stop)
        with pytest.raises(Stopped):
            train_lift_prior(SMALL, tmp_path / "parts")
    resumed = train_lift_prior(SMALL, tmp_path / "parts")
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    with pytest.raises(UserError, match="another seed or other sizes"):
        train_lift_prior(dataclasses.replace(SMALL, seed=1), tmp_path / "parts")


def test_a_network_that_is_right_has_no_loss():
    data = ThingPictures.draw(8, 2, 8, 0)
    clean, given = batch_of(data, torch.arange(8), torch.zeros(8, dtype=torch.int64), None)
    alphas, noise = torch.linspace(0.1, 0.9, 8), torch.randn(clean.shape)
    a = alphas[:, None, None, None]

    def right(noisy, alphas, given):
        return a.sqrt() * noise - (1 - a).sqrt() * clean

    assert float(denoising_loss(right, clean, noise, alphas, given)) < 1e-10
    assert torch.allclose(guess_clean(right, clean, noise, alphas, given), clean, atol=1e-5)
    assert bool(given.has_photo.all()) and bool((given.class_ids == len(CLASSES)).all())


def test_photos_and_classes_are_left_out_at_times():
    data = ThingPictures.draw(8, 2, 8, 0)
    which = torch.arange(4000) % 8
    _, given = batch_of(data, which, which % 2, torch.Generator().manual_seed(0))
    assert 0.83 < float(given.has_photo.float().mean()) < 0.87
    is_told = given.class_ids < len(CLASSES)
    assert 0.46 < float(is_told.float().mean()) < 0.54
    assert torch.equal(given.class_ids[is_told], data.class_ids[which][is_told])
    assert float(given.photo[~given.has_photo].abs().max()) == 0


def test_shuffled_pictures_have_the_azimuths_of_others():
    data = ThingPictures.draw(16, 2, 8, 0)
    other = data.shuffled(torch.Generator().manual_seed(0))
    assert torch.equal(other.pictures, data.pictures) and torch.equal(other.angles[..., 1], data.angles[..., 1])
    assert torch.equal(other.angles[..., 0].flatten().sort().values, data.angles[..., 0].flatten().sort().values)
    assert float((other.angles[..., 0] != data.angles[..., 0]).float().mean()) > 0.8
