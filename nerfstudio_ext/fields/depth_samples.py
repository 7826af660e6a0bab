"""Where a ray is sampled: evenly in distance or in its inverse, jittered, and again where the attention looks."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

Distances = Float[Tensor, "R S"]


def spread(near: Float[Tensor, " R"], far: Float[Tensor, " R"], n_samples: int, *, inverse: bool = True) -> Distances:
    """Distances from near to far, both included.

    Args:
        near: First distance of each ray, above 0.
        far: Last distance.
        n_samples: At least 2.
        inverse: Even in 1/distance: dense near the camera, as pixels see it.
    """
    steps = torch.linspace(0, 1, n_samples, dtype=near.dtype, device=near.device)
    if inverse:
        return 1 / ((1 / near)[:, None] * (1 - steps) + (1 / far)[:, None] * steps)
    return near[:, None] * (1 - steps) + far[:, None] * steps


def jitter(z: Distances, uniform: Distances) -> Distances:
    """One distance in the cell around each sample; cells meet half way, the outer ones end at the outer samples.

    Args:
        z: Ascending distances.
        uniform: Random numbers 0..1 of the same shape.
    """
    middles = 0.5 * (z[:, 1:] + z[:, :-1])
    lower = torch.cat([z[:, :1], middles], -1)
    upper = torch.cat([middles, z[:, -1:]], -1)
    return lower + (upper - lower) * uniform


def refine(
    z: Distances, weights: Distances, n_more: int, *, inverse: bool = True, uniform: Distances | None = None
) -> Distances:
    """Add samples where the weights are, by inverse transform sampling.

    Args:
        z: Distances of the first pass.
        weights: What each was worth; treated as constants.
        n_more: Samples to add.
        inverse: Interpolate in 1/distance.
        uniform: Random numbers 0..1 [R, n_more]; None takes `n_more` even ones from 0 to 1.
    Returns:
        Old and new distances together, ascending.
    """
    at = (1 / z).flip(-1) if inverse else z
    bins = 0.5 * (at[:, 1:] + at[:, :-1])
    shares = weights.detach()[:, 1:-1] + 1e-5  # a ray without weight is sampled evenly
    if inverse:
        shares = shares.flip(-1)
    shares = shares / shares.sum(-1, keepdim=True)
    cdf = torch.cat([torch.zeros_like(shares[:, :1]), shares.cumsum(-1)], -1)
    if uniform is None:
        uniform = torch.linspace(0, 1, n_more, dtype=z.dtype, device=z.device).expand(len(z), -1)
    # The last entry of the cdf is left out: a draw of 1 stays in the last bin.
    upper = torch.searchsorted(cdf[:, :-1].contiguous(), uniform.contiguous(), right=True)
    lower = (upper - 1).clamp_min(0)
    low_cdf, high_cdf = cdf.gather(1, lower), cdf.gather(1, upper)
    low, high = bins.gather(1, lower), bins.gather(1, upper)
    gap = high_cdf - low_cdf
    share = (uniform - low_cdf) / torch.where(gap < 1e-5, torch.ones_like(gap), gap)
    new = low + share * (high - low)
    return torch.cat([z, 1 / new if inverse else new], -1).sort(-1).values
