"""Losses of lifting by their laws: what they are blind to, which way they push, and closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import normalize

from nerfstudio_ext.methods import lift_losses as losses
from nerfstudio_ext.rays import Samples

ALL_PAIRS = torch.cartesian_prod(torch.arange(40), torch.arange(40))
BLIND_TO = {
    "scale": lambda d: 7 * d,
    "offset": lambda d: d + 3,
    "square": lambda d: d.square(),
    "exponential": lambda d: d.exp(),
}


@pytest.fixture
def depth() -> torch.Tensor:
    return torch.rand(40, generator=torch.Generator().manual_seed(3)) + 0.5


@pytest.mark.parametrize("change", BLIND_TO)
def test_ranking_sees_order_only(depth, change):
    assert losses.ranking_loss(depth, BLIND_TO[change](depth), ALL_PAIRS) == 0


def test_ranking_of_a_wrong_order_is_the_mean_of_the_wrong_differences():
    depth, reference = torch.tensor([1.0, 2.0]), torch.tensor([5.0, 4.0])
    pairs = torch.tensor([[0, 1], [1, 0], [0, 0], [1, 1]])
    assert losses.ranking_loss(depth, reference, pairs) == pytest.approx(0.5)
    assert losses.ranking_loss(depth, reference, pairs[:0]) == 0


def test_descending_the_ranking_puts_depths_in_order(depth):
    found = torch.full_like(depth, 1.0) + 0.01 * torch.randn(40, generator=torch.Generator().manual_seed(0))
    for _ in range(200):
        found.requires_grad_(True)
        (slope,) = torch.autograd.grad(losses.ranking_loss(found, depth, ALL_PAIRS, margin=0.01), found)
        found = (found - slope).detach()
    assert torch.corrcoef(torch.stack([found.argsort().argsort(), depth.argsort().argsort()]).float())[0, 1] > 0.99


def test_pairs_are_drawn_from_what_is_known_and_no_more_than_asked():
    is_known = torch.zeros(1000, dtype=torch.bool)
    is_known[100:120] = True
    pairs = losses.draw_pairs(is_known, 64, torch.Generator().manual_seed(0))
    assert pairs.shape == (64, 2) and bool(is_known[pairs].all()) and len(pairs.unique()) > 10
    assert len(losses.draw_pairs(is_known[:101], 64, torch.Generator())) == 0


def test_the_sampled_ranking_has_the_mean_of_all_pairs(depth):
    reference = depth.flip(0)
    pairs = losses.draw_pairs(torch.ones(40, dtype=torch.bool), 40_000, torch.Generator().manual_seed(1))
    whole = float(losses.ranking_loss(depth, reference, ALL_PAIRS))
    # 40,000 draws of a quantity about as scattered as its mean: 1 % is two deviations.
    assert float(losses.ranking_loss(depth, reference, pairs)) == pytest.approx(whole, rel=0.03)


def test_pearson_is_blind_to_scale_and_offset_and_tells_the_sign(depth):
    assert float(losses.pearson_loss(depth, 4 * depth - 9)) == pytest.approx(0, abs=1e-5)
    assert float(losses.pearson_loss(depth, -depth)) == pytest.approx(2, abs=1e-5)
    shuffled = depth[torch.randperm(40, generator=torch.Generator().manual_seed(0))]
    assert 0.4 < float(losses.pearson_loss(depth, shuffled)) < 1.6
    assert losses.pearson_loss(depth[:1], depth[:1]) == 0


def test_the_photo_is_matched_on_every_background():
    photo, mask = torch.rand(30, 3), torch.rand(30)
    assert losses.photo_loss(photo * mask[:, None], mask, photo, mask) == 0
    assert float(losses.photo_loss(0 * photo, mask, photo, torch.ones(30))) == pytest.approx(
        float(photo.square().mean())
    )
    inside = torch.arange(30) < 10
    found = torch.where(inside[:, None], photo + 0.25, 9.0)
    assert float(losses.photo_loss_in_mask(found, mask, photo, inside.float())) == pytest.approx(0.25)


def test_leaks_count_outside_the_mask_only_and_ten_times_when_large():
    mask = torch.tensor([1.0, 1.0, 0.0, 0.0])
    assert losses.leak_loss(torch.tensor([1.0, 0.3, 0.0, 0.0]), mask) == 0
    assert float(losses.leak_loss(torch.tensor([1.0, 1.0, 0.04, 0.04]), mask)) == pytest.approx(0.04)
    assert float(losses.leak_loss(torch.tensor([1.0, 1.0, 0.2, 0.0]), mask)) == pytest.approx(1.0)


def test_opacity_and_entropy_in_closed_form():
    assert float(losses.opacity_loss(torch.full((5,), 0.5))) == pytest.approx(0.25)
    assert float(losses.opacity_loss(torch.full((5,), 0.9))) == pytest.approx(8.1)
    assert float(losses.entropy_loss(torch.tensor([0.5]))) == pytest.approx(1.0)
    assert float(losses.entropy_loss(torch.tensor([0.0, 1.0]))) == pytest.approx(0, abs=1e-3)


def blob(x: torch.Tensor) -> torch.Tensor:
    return (-8 * x.square().sum(-1)).exp()


def test_normals_of_a_blob_point_outwards():
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)) * 0.3
    assert torch.allclose(losses.normals_of(blob, x, 1e-2), normalize(x, dim=1), atol=2e-3)


def test_orientation_punishes_surfaces_that_look_away():
    d, weights = torch.tensor([[0.0, 0.0, 1.0]]), torch.ones(1)
    assert losses.orientation_loss(torch.tensor([[0.0, 0.0, -1.0]]), d, weights) == 0
    assert losses.orientation_loss(torch.tensor([[0.0, 0.0, 1.0]]), d, weights) == 1
    slanted = normalize(torch.tensor([[1.0, 0.0, 1.0]]), dim=1)
    assert float(losses.orientation_loss(slanted, d, 3 * weights)) == pytest.approx(0.5)


def test_distortion_prefers_weights_that_lie_together():
    starts = torch.arange(4).float()
    samples = Samples(torch.zeros(4, dtype=torch.int64), starts, starts + 1, torch.tensor([[0, 4]]))
    near = losses.distortion_loss(torch.tensor([0.0, 0.5, 0.5, 0.0]), samples)
    far = losses.distortion_loss(torch.tensor([0.5, 0.0, 0.0, 0.5]), samples)
    assert float(near) == pytest.approx(2 * 0.25 + 0.5 / 3) and float(far) == pytest.approx(2 * 0.25 * 3 + 0.5 / 3)


def test_smoothness_spares_edges_of_the_picture():
    step = torch.zeros(1, 4, 4)
    step[..., 2:] = 1
    flat, edge = torch.zeros(1, 3, 4, 4), step[:, None].expand(1, 3, 4, 4)
    assert losses.smoothness_loss(torch.ones(1, 4, 4), edge) == 0
    assert float(losses.smoothness_loss(step, flat)) == pytest.approx(1 / 3)
    assert float(losses.smoothness_loss(step, edge)) == pytest.approx(math.exp(-1) / 3)


def test_clip_distance_is_twice_the_squared_half_angle():
    angles = torch.tensor([0.0, 0.5, 2.0])
    a = torch.stack([angles.cos(), angles.sin()], 1)
    found = losses.clip_distance(a, torch.tensor([[1.0, 0.0]]).expand(3, 2))
    assert torch.allclose(found, 2 * (angles / 2).square(), atol=1e-5)
