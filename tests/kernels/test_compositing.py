"""Laws and closed forms of compositing, weights and distortion, on every back end."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from nerfstudio_ext import kernels
from nerfstudio_ext.rays import Samples

from .cases import device_of, make_samples, runnable


def _on(samples: Samples, device: str) -> Samples:
    parts = (samples.ray_indices, samples.t_starts, samples.t_ends, samples.packed_info)
    return Samples(*(part.to(device) for part in parts))


def _composite(sigmas: Tensor, rgbs: Tensor, samples: Samples, backend: str) -> tuple[Tensor, Tensor, Tensor]:
    device = device_of("composite", backend)
    out = kernels.composite(sigmas.to(device), rgbs.to(device), _on(samples, device), samples.n_rays, backend=backend)
    assert out.alpha is not None
    return out.rgb.cpu(), out.depth.cpu(), out.alpha.cpu()


def _weights(sigmas: Tensor, samples: Samples, backend: str) -> Tensor:
    device = device_of("weights_of", backend)
    return kernels.weights_of(sigmas.to(device), _on(samples, device), backend=backend).cpu()


def _distortion(weights: Tensor, samples: Samples, backend: str) -> Tensor:
    device = device_of("distortion", backend)
    return kernels.distortion(weights.to(device), _on(samples, device), backend=backend).cpu()


@pytest.mark.parametrize("backend", runnable("composite"))
def test_three_samples_by_hand(backend: str) -> None:
    """Densities chosen so that the three samples absorb 1/2, 3/4 and 1/2 of what reaches them."""
    samples = Samples(
        torch.zeros(3, dtype=torch.int64),
        torch.tensor([1.0, 2.0, 4.0]),
        torch.tensor([2.0, 4.0, 4.5]),
        torch.tensor([[0, 3]]),
    )
    sigmas = math.log(2) * torch.tensor([1.0, 1.0, 2.0])
    rgbs = torch.tensor([[1.0, 0.0, 0.5], [0.0, 1.0, 0.5], [0.0, 0.0, 0.5]])
    rgb, depth, alpha = _composite(sigmas, rgbs, samples, backend)
    # weights: 1/2, 1/2 * 3/4 = 3/8, 1/8 * 1/2 = 1/16; midpoints 1.5, 3, 4.25
    assert torch.allclose(rgb, torch.tensor([[0.5, 0.375, 0.46875]]), atol=1e-6)
    assert float(depth) == pytest.approx(0.5 * 1.5 + 0.375 * 3 + 0.0625 * 4.25, abs=1e-6)
    assert float(alpha) == pytest.approx(0.9375, abs=1e-6)


def test_three_sample_gradient_by_hand() -> None:
    """d rgb / d sigma_i = dt_i * (light that would be absorbed at i shows c_i, minus what lies behind)."""
    dt = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
    ends = torch.tensor([2.0, 4.0, 4.5], dtype=torch.float64)
    samples = Samples(torch.zeros(3, dtype=torch.int64), ends - dt, ends, torch.tensor([[0, 3]]))
    sigmas = (math.log(2) * torch.tensor([1.0, 1.0, 2.0], dtype=torch.float64)).requires_grad_()
    colours = torch.tensor([1.0, 0.25, 0.5], dtype=torch.float64)
    rgbs = colours[:, None].expand(3, 3)
    kernels.composite(sigmas, rgbs, samples, 1, backend="reference").rgb[0, 0].backward()
    # light behind samples 1, 2, 3: 1/2, 1/8, 1/16; colour behind: 3/8 * 1/4 + 1/16 * 1/2, 1/16 * 1/2, 0
    expected = torch.tensor([1.0 * (0.5 - 0.125), 2.0 * (0.25 / 8 - 0.03125), 0.5 * (0.5 / 16)], dtype=torch.float64)
    assert sigmas.grad is not None and torch.allclose(sigmas.grad, expected, atol=1e-12)


@pytest.mark.parametrize("backend", runnable("weights_of"))
def test_weights_and_what_passes_sum_to_one(backend: str) -> None:
    generator = torch.Generator().manual_seed(1)
    samples = make_samples([3, 0, 40, 1, 200], generator)
    sigmas = torch.exp(2 * torch.randn(len(samples), generator=generator))
    weights = _weights(sigmas, samples, backend)
    optical_depth = torch.zeros(5).index_add(0, samples.ray_indices, sigmas * (samples.t_ends - samples.t_starts))
    opacity = torch.zeros(5).index_add(0, samples.ray_indices, weights)
    assert torch.allclose(opacity + torch.exp(-optical_depth), torch.ones(5), atol=3e-6)
    assert (weights >= 0).all()


@pytest.mark.parametrize("backend", runnable("composite"))
@pytest.mark.parametrize("n_samples", [1, 7, 500])
def test_slab_of_constant_density_matches_the_closed_form(backend: str, n_samples: int) -> None:
    """Alpha of a slab does not depend on how it is cut; depth tends to the mean distance of an exponential."""
    near, length, sigma = 2.0, 1.5, 3.0
    edges = torch.linspace(near, near + length, n_samples + 1)
    packed_info = torch.tensor([[0, n_samples]])
    samples = Samples(torch.zeros(n_samples, dtype=torch.int64), edges[:-1], edges[1:], packed_info)
    rgbs = torch.tensor([[0.2, 0.5, 0.8]]).expand(n_samples, 3)
    rgb, depth, alpha = _composite(torch.full((n_samples,), sigma), rgbs, samples, backend)
    opacity = 1 - math.exp(-sigma * length)
    assert float(alpha) == pytest.approx(opacity, abs=3e-6)
    assert torch.allclose(rgb, opacity * rgbs[:1], atol=3e-6)
    if n_samples == 500:
        exact = near * opacity + 1 / sigma - math.exp(-sigma * length) * (length + 1 / sigma)
        assert float(depth) == pytest.approx(exact, abs=1e-5)


@pytest.mark.parametrize("backend", runnable("composite"))
def test_a_ray_does_not_feel_the_others(backend: str) -> None:
    generator = torch.Generator().manual_seed(2)
    counts = [5, 0, 9, 30, 1]
    samples = make_samples(counts, generator)
    sigmas = torch.exp(2 * torch.randn(len(samples), generator=generator))
    sigmas[:5] = 1e8  # nothing of the opaque first ray may reach the next
    rgbs = torch.rand(len(samples), 3, generator=generator)
    rgb, depth, alpha = _composite(sigmas, rgbs, samples, backend)
    for ray, (first, count) in enumerate(samples.packed_info.tolist()):
        part = slice(first, first + count)
        packed_info = torch.tensor([[0, count]])
        alone = Samples(samples.ray_indices[part] * 0, samples.t_starts[part], samples.t_ends[part], packed_info)
        one = _composite(sigmas[part], rgbs[part], alone, backend)
        for whole, single in zip((rgb, depth, alpha), one, strict=True):
            assert torch.allclose(whole[ray], single[0], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("backend", runnable("weights_of"))
def test_empty_samples_change_nothing(backend: str) -> None:
    generator = torch.Generator().manual_seed(4)
    samples = make_samples([12], generator)
    sigmas = torch.rand(12, generator=generator) * 20
    sigmas[[0, 4, 5, 11]] = 0
    keep = sigmas > 0
    packed_info = torch.tensor([[0, int(keep.sum())]])
    dense = Samples(samples.ray_indices[keep], samples.t_starts[keep], samples.t_ends[keep], packed_info)
    assert torch.equal(_weights(sigmas, samples, backend)[~keep], torch.zeros(4))
    assert torch.allclose(_weights(sigmas, samples, backend)[keep], _weights(sigmas[keep], dense, backend), atol=1e-6)


@pytest.mark.parametrize("backend", runnable("distortion"))
def test_distortion_equals_the_double_sum(backend: str) -> None:
    generator = torch.Generator().manual_seed(8)
    samples = make_samples([1, 17, 0, 60], generator)
    weights = torch.rand(len(samples), generator=generator) / 20
    found = _distortion(weights, samples, backend)
    for ray, (first, count) in enumerate(samples.packed_info.tolist()):
        w = weights[first : first + count].double()
        starts, ends = samples.t_starts[first : first + count].double(), samples.t_ends[first : first + count].double()
        middles = (starts + ends) / 2
        pairs = (w[:, None] * w * (middles[:, None] - middles).abs()).sum()
        expected = float(pairs + (w.square() * (ends - starts)).sum() / 3)
        assert float(found[ray]) == pytest.approx(expected, rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("backend", runnable("distortion"))
def test_distortion_does_not_depend_on_where_the_surface_is(backend: str) -> None:
    generator = torch.Generator().manual_seed(9)
    samples = make_samples([30], generator)
    weights = torch.rand(30, generator=generator) / 20
    # A power of two far away: shifting by it rounds the bounds to multiples of 2^-14.
    grid = 2.0**-14
    near = replace(
        samples, t_starts=(samples.t_starts / grid).round() * grid, t_ends=(samples.t_ends / grid).round() * grid
    )
    far = replace(near, t_starts=near.t_starts + 256, t_ends=near.t_ends + 256)
    assert torch.allclose(_distortion(weights, far, backend), _distortion(weights, near, backend), rtol=2e-4)


@pytest.mark.parametrize("backend", runnable("occ_refresh"))
def test_occupancy_refresh_by_hand(backend: str) -> None:
    grid = torch.tensor([1.0, 2.0, 4.0, 0.0])
    cells = torch.tensor([1, 1, 2, 3, 3])
    sigmas = torch.tensor([0.5, 3.0, 1.0, math.nan, 0.25])
    device = device_of("occ_refresh", backend)
    found = kernels.occ_refresh(grid.to(device), cells.to(device), sigmas.to(device), 0.5, backend=backend).cpu()
    assert torch.equal(found, torch.tensor([0.5, 3.0, 2.0, 0.25]))
    in_place = grid.to(device)
    kernels.occ_refresh(in_place, cells.to(device), sigmas.to(device), 0.5, in_place, backend=backend)
    assert torch.equal(in_place.cpu(), found)
