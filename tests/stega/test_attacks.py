"""Attacks do what the programs they stand for do, let gradients through, and do nothing at their neutral amount."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from nerfstudio_ext.errors import UserError
from nerfstudio_ext.stages.stega.attacks import ATTACKS, attack, attack_file
from nerfstudio_ext.stages.stega.curriculum import random_amounts, random_attacks
from nerfstudio_ext.stages.stega.jpeg import jpeg, quantise_8bit
from tests.stega.pictures import as_batch, psnr, sample_picture

PICTURE = sample_picture(120, 104)
MODERATE = {
    "jpeg": 60.0, "resize": 0.7, "crop": 0.6, "noise": 0.05, "blur": 1.0, "brightness": 0.9, "contrast": 0.8,
    "gamma": 1.2, "rotate": 6.0, "shift": 1.5,
}  # fmt: skip


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("quality", [40, 50, 60, 75, 85, 90, 95])
@pytest.mark.parametrize("size", [(120, 104), (97, 131)])
def test_jpeg_is_what_the_codec_does(quality: int, size: tuple[int, int]) -> None:
    """Same loss as the real codec within a tenth of a dB, and far closer to its result than to the original."""
    picture = sample_picture(*size, seed=quality)
    real = attack_file("jpeg", picture, quality)
    ours = jpeg(as_batch(picture), torch.tensor([float(quality)]))[0].permute(1, 2, 0).mul(255).numpy()
    assert psnr(ours, picture.astype(float)) == pytest.approx(psnr(real, picture), abs=0.1)
    assert psnr(ours, real.astype(float)) > 45


def test_jpeg_quality_belongs_to_each_picture() -> None:
    batch = as_batch(np.stack([PICTURE, PICTURE]))
    both = jpeg(batch, torch.tensor([40.0, 90.0]))
    assert torch.equal(both[:1], jpeg(batch[:1], torch.tensor([40.0])))
    assert psnr(both[1:], batch[1:]) > psnr(both[:1], batch[:1]) + 3


def test_whole_chroma_loses_less() -> None:
    batch = as_batch(sample_picture(64, 64, seed=3))
    batch[:, 0, 20:40, 20:40] = 1 - batch[:, 0, 20:40, 20:40]
    quality = torch.tensor([90.0])
    assert psnr(jpeg(batch, quality, subsample=False), batch) > psnr(jpeg(batch, quality), batch) + 1


def test_jpeg_stays_exact_under_autocast() -> None:
    batch, quality = as_batch(PICTURE), torch.tensor([75.0])
    with torch.autocast("cpu", torch.bfloat16):
        inside = jpeg(batch, quality)
    assert torch.equal(inside, jpeg(batch, quality))


def test_quantisation_is_that_of_a_file_and_lets_gradients_through() -> None:
    x = torch.tensor([-0.2, 0.1234, 0.5, 1.3]).view(1, 1, 1, 4).repeat(1, 3, 1, 1).requires_grad_()
    y = quantise_8bit(x)
    assert torch.allclose(y[0, 0, 0] * 255, torch.tensor([0.0, 31, 128, 255]))
    y.sum().backward()
    assert x.grad is not None and (x.grad == 1).all()


@pytest.mark.parametrize("name", ATTACKS)
def test_nothing_happens_at_the_neutral_amount(name: str) -> None:
    neutral = ATTACKS[name].neutral
    batch = as_batch(PICTURE)
    assert torch.allclose(attack(name, batch, neutral, generator()), batch, atol=1e-5)
    assert (attack_file(name, PICTURE, neutral) == PICTURE).all()


@pytest.mark.parametrize("name", ATTACKS)
def test_gradients_flow(name: str) -> None:
    batch = as_batch(np.stack([PICTURE, sample_picture(120, 104, seed=1)])).requires_grad_()
    result = attack(name, batch, MODERATE[name], generator())
    cotangent = torch.randn(result.shape, generator=generator(1))
    (result * cotangent).sum().backward()
    assert batch.grad is not None and batch.grad.isfinite().all()
    touched = (batch.grad.abs().sum(1) > 0).float().mean((1, 2))
    assert (touched > (0.5 if name == "crop" else 0.7)).all()


@pytest.mark.parametrize("name", sorted(set(ATTACKS) - {"noise", "crop"}))
def test_differentiable_and_real_forms_agree(name: str) -> None:
    real = attack_file(name, PICTURE, MODERATE[name])
    ours = quantise_8bit(attack(name, as_batch(PICTURE), MODERATE[name], generator()))[0].permute(1, 2, 0) * 255
    assert ours.shape == real.shape
    inner = slice(8, -8)
    # Bilinear here, bicubic there; Pillow's Gaussian is made of boxes. Changes of values are the same to half a step.
    least = {"resize": 32, "rotate": 33, "blur": 36, "shift": 44, "jpeg": 45}.get(name, 50)
    assert psnr(ours.numpy()[inner, inner], real[inner, inner].astype(float)) > least


def test_noise_and_crop_have_the_size_they_say() -> None:
    flat = np.full((100, 80, 3), 128, np.uint8)
    assert attack("noise", as_batch(flat), 0.05, generator()).std() == pytest.approx(0.05, rel=0.03)
    assert (attack_file("noise", flat, 0.05) / 255).std() == pytest.approx(0.05, rel=0.03)
    assert attack("crop", as_batch(flat), 0.25, generator()).shape == (1, 3, 50, 40)
    assert attack_file("crop", flat, 0.25).shape == (50, 40, 3)


def test_crops_are_parts_of_the_picture() -> None:
    batch = as_batch(PICTURE)
    part = attack("crop", batch, 0.5, generator(4))[0]
    windows = batch[0].unfold(1, part.shape[1], 1).unfold(2, part.shape[2], 1)
    assert ((windows - part[:, None, None]).abs().amax((0, 3, 4)) == 0).any()


def test_rotation_is_clockwise() -> None:
    picture = np.zeros((81, 81, 3), np.uint8)
    picture[8:12, 38:43] = 255
    turned = attack("rotate", as_batch(picture), 90.0, generator())[0, 0]
    assert turned[38:43, 69:73].mean() > 0.9
    assert attack_file("rotate", picture, 90)[38:43, 69:73].mean() > 0.9 * 255


def test_a_shift_by_whole_pixels_moves_them() -> None:
    batch = as_batch(PICTURE)
    moved = attack("shift", batch, 3.0, generator())
    assert torch.allclose(moved[:, :, 3:, 3:], batch[:, :, :-3, :-3], atol=1e-4)


def test_blur_belongs_to_each_picture_and_keeps_the_mean() -> None:
    batch = as_batch(np.stack([PICTURE, PICTURE]))
    blurred = attack("blur", batch, torch.tensor([0.0, 2.0]), generator())
    assert torch.allclose(blurred[0], batch[0], atol=1e-6)
    assert blurred[1].mean() == pytest.approx(float(batch[1].mean()), abs=2e-3)
    assert blurred[1].std() < batch[1].std()


def test_gamma_has_a_finite_slope_at_black() -> None:
    black = torch.zeros(1, 3, 4, 4, requires_grad=True)
    attack("gamma", black, 0.7, generator()).sum().backward()
    assert black.grad is not None and black.grad.isfinite().all() and float(black.grad.max()) < 20


def test_an_unknown_attack_is_named() -> None:
    with pytest.raises(UserError, match="no attack is called 'melt'.*jpeg"):
        attack_file("melt", PICTURE, 1)


def test_amounts_fill_their_range_and_both_sides() -> None:
    for name, kind in ATTACKS.items():
        amounts = random_amounts(name, 4000, 1.0, generator())
        edges = (float(amounts.min()), float(amounts.max()))
        other = kind.neutral
        if kind.is_two_sided:
            other = 1 / kind.strongest if kind.neutral == 1 else -kind.strongest
        assert edges == pytest.approx((min(kind.strongest, other), max(kind.strongest, other)), rel=0.01, abs=0.01)
        weak = random_amounts(name, 100, 0.1, generator())
        assert (weak - kind.neutral).abs().max() <= 0.16 * abs(kind.strongest - kind.neutral) + 1e-6


def test_random_attacks_are_nothing_at_strength_zero_and_repeatable() -> None:
    batch = as_batch(PICTURE)
    assert random_attacks(batch, 0.0, generator()) is batch
    first, second, third = (random_attacks(batch, 1.0, generator(s)) for s in (3, 3, 4))
    assert torch.equal(first, second)
    assert first.shape != third.shape or not torch.equal(first, third)


def test_random_attacks_end_as_files_half_of_them_jpeg() -> None:
    """Colour noise tells them apart: halved chroma cannot hold it, at whatever quality."""
    batch = (0.5 + 0.1 * torch.randn(64, 3, 48, 48, generator=generator())).clamp(0, 1)
    n_jpeg = n_all = 0
    for seed in range(12):
        result = random_attacks(batch, 0.02, generator(seed))
        assert torch.allclose((result * 255).round(), result * 255, atol=1e-3)
        colour = (result[:, 0] - result[:, 1]).std((1, 2))
        n_jpeg += int((colour < 0.75 * colour.max()).sum())
        n_all += 64
    assert n_jpeg / n_all == pytest.approx(0.5, abs=4 * 0.5 / math.sqrt(n_all))


@pytest.mark.parametrize("seed", range(12))
def test_gradients_flow_through_every_random_chain(seed: int) -> None:
    batch = as_batch(np.stack([PICTURE] * 6)).requires_grad_()
    result = random_attacks(batch, 1.0, generator(seed))
    assert min(result.shape[-2:]) >= 38 and math.isfinite(float(result.detach().sum()))
    result.square().sum().backward()
    assert batch.grad is not None and batch.grad.isfinite().all()
    assert (batch.grad.abs().amax((1, 2, 3)) > 0).all()
