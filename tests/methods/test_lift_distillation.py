"""Distillation: with a score known in closed form it ends at the mean; guidance falls; broken pictures do no harm."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.nn.functional import normalize

from nerfstudio_ext.methods.lift_config import NOISE
from nerfstudio_ext.methods.lift_distillation import NoiseRange, clip_guidance, distil
from nerfstudio_ext.methods.lift_losses import clip_distance
from nerfstudio_ext.methods.priors import Views
from nerfstudio_ext.methods.priors.analytic import AnalyticPrior

SIDE = 4


def views(n: int = 2) -> Views:
    zeros = torch.zeros(n)
    return Views(torch.arange(n) * 90.0, zeros, zeros + 1.8, zeros + 40)


def mean_pictures(at: Views) -> torch.Tensor:
    """Another picture for each azimuth."""
    pictures = [torch.rand(4, SIDE, SIDE, generator=torch.Generator().manual_seed(int(a))) for a in at.azimuth_deg]
    return torch.stack(pictures)


def descend(prior, weighting: str, n: int, rate: float) -> torch.Tensor:
    """Latents after n steps of plain descent from noise, with noise levels from high to low."""
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(2, 4, SIDE, SIDE, generator=generator)
    for step in range(n):
        latents.requires_grad_(True)
        at = NOISE["modern"].draw(step / n, 2, len(prior.alphas_cumprod), generator)
        loss = distil(prior, latents, at, views(), 1.0, weighting, generator).loss
        (slope,) = torch.autograd.grad(loss, latents)
        latents = (latents - rate * slope).detach()
    return latents


@pytest.mark.parametrize("weighting, rate", [("paper", 0.5), ("clean", 20.0)])
def test_an_analytic_score_leads_to_its_mean(weighting, rate):
    found = descend(AnalyticPrior(mean_pictures, SIDE), weighting, 300, rate)
    wanted = 2 * mean_pictures(views()) - 1
    assert float((found - wanted).norm() / wanted.norm()) < 0.01


def test_with_a_width_the_latents_end_within_it():
    prior = AnalyticPrior(mean_pictures, SIDE, deviation=0.05)
    wanted = 2 * mean_pictures(views()) - 1
    assert float((descend(prior, "clean", 400, 5.0) - wanted).square().mean().sqrt()) < 0.05


def test_the_analytic_noise_is_the_score_of_the_noisy_density():
    prior = AnalyticPrior(mean_pictures, SIDE, deviation=0.3)
    noisy = torch.randn(2, 4, SIDE, SIDE, dtype=torch.float64, requires_grad=True)
    steps = torch.tensor([100, 700])
    a = prior.alphas_cumprod[steps].double()[:, None, None, None]
    mean = 2 * mean_pictures(views()).double() - 1
    log_density = (-(noisy - a.sqrt() * mean).square() / (2 * (a * 0.09 + 1 - a))).sum()
    (score,) = torch.autograd.grad(log_density, noisy)
    found = prior.denoise(noisy.detach().float(), steps, views(), 1.0)
    assert torch.allclose(found.double(), -(1 - a).sqrt() * score, atol=1e-5)


@pytest.mark.parametrize("weighting", ["paper", "clean"])
def test_the_loss_scales_like_any_other(weighting):
    """A loss scaler multiplies losses before the backward pass: the prior's share must grow with them."""
    prior, latents = AnalyticPrior(mean_pictures, SIDE), torch.randn(2, 4, SIDE, SIDE, requires_grad=True)
    slopes = []
    for scale in (1.0, 65536.0):
        loss = distil(
            prior, latents, torch.tensor([500, 900]), views(), 1.0, weighting, torch.Generator().manual_seed(0)
        ).loss
        slopes.append(torch.autograd.grad(scale * loss, latents)[0] / scale)
    assert float(slopes[0].abs().max()) > 0
    assert torch.allclose(slopes[0], slopes[1], rtol=1e-5)


def test_the_paper_weighting_is_the_published_gradient():
    prior, latents = AnalyticPrior(mean_pictures, SIDE), torch.randn(2, 4, SIDE, SIDE, requires_grad=True)
    steps, generator = torch.tensor([300, 800]), torch.Generator().manual_seed(5)
    loss = distil(prior, latents, steps, views(), 1.0, "paper", generator).loss
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(5))
    a = prior.alphas_cumprod[steps][:, None, None, None]
    found = prior.denoise(a.sqrt() * latents.detach() + (1 - a).sqrt() * noise, steps, views(), 1.0)
    wanted = (1 - a) * (found - noise) / 2
    assert torch.allclose(torch.autograd.grad(loss, latents)[0], wanted, atol=1e-6)


def test_a_broken_picture_pulls_nowhere():
    class Broken(AnalyticPrior):
        def denoise(self, noisy, steps, views, guidance):
            found = super().denoise(noisy, steps, views, guidance)
            found[0] = torch.nan
            return found

    latents = torch.randn(2, 4, SIDE, SIDE, requires_grad=True)
    distilled = distil(
        Broken(mean_pictures, SIDE), latents, torch.tensor([500, 500]), views(), 1.0, "clean", torch.Generator()
    )
    (slope,) = torch.autograd.grad(distilled.loss, latents)
    assert float(slope[0].abs().max()) == 0 and float(slope[1].abs().max()) > 0


def test_clip_guidance_brings_pictures_nearer_to_the_photo():
    """Descended, as every loss is, it must lower the distance; the official code's sign would raise it."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(3 * SIDE * SIDE, 8, generator=generator)

    def encoder(pictures: torch.Tensor) -> torch.Tensor:
        return normalize((pictures.flatten(1) - 0.5).tanh() @ weights, dim=1)

    prior = AnalyticPrior(mean_pictures, SIDE)
    prior.decode = lambda latents: 0.5 * (latents[:, :3] + 1)  # without the clamp no start is stuck
    wanted = encoder(torch.rand(1, 3, SIDE, SIDE, generator=generator))
    latents = torch.randn(2, 4, SIDE, SIDE, generator=generator)

    def distance() -> float:
        return float(clip_distance(encoder(prior.decode(latents)), wanted.expand(2, 8)).mean())

    before = distance()
    for _ in range(50):
        latents.requires_grad_(True)
        distilled = distil(prior, latents, torch.tensor([500, 500]), views(), 1.0, "clean", generator)
        # The estimate of the clean picture taken to be the picture itself: guidance alone is looked at.
        alone = dataclasses.replace(distilled, clean=latents.detach())
        (slope,) = torch.autograd.grad(clip_guidance(prior, alone, encoder, wanted), latents)
        latents = (latents - 0.5 * slope / slope.norm()).detach()
    assert distance() < 0.5 * before


def test_noise_falls_from_high_to_low():
    generator = torch.Generator().manual_seed(0)
    means = [float(NOISE["modern"].draw(p, 500, 1000, generator).float().mean()) for p in (0.0, 0.5, 1.0)]
    assert means[0] > 900 and means[0] > means[1] > means[2] and means[2] < 300
    assert NOISE["paper"].at(0.0) == (0.95, 0.95) and NOISE["paper"].at(0.4) == pytest.approx((0.05, 0.95))
    assert NoiseRange((0.2, 0.2), (0.1, 0.3)).at(0.0) == (0.1, 0.1)
