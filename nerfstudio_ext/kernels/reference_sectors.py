"""Cells by place and sector of direction in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor

from .layouts import HASH_PRIMES
from .sectors import LEAST_WEIGHT, NEAREST, SECTOR_PRIME, SectorLayout

_BITS = 0xFFFFFFFF


def sector_color(x_unit: Tensor, d: Tensor, table: Tensor, layout: SectorLayout) -> Tensor:
    """See `kernels.sector_color`."""
    sectors, mix = _nearest(d.detach(), layout)
    position = x_unit.detach().clamp(0, 1) * (layout.resolution - 1) + 0.5
    lower = position.floor()
    fraction = (position - lower)[:, None, :]
    steps = torch.tensor([[c & 1, c >> 1 & 1, c >> 2] for c in range(8)], device=x_unit.device)
    x, y, z = (lower.long()[:, None, :] + steps).unbind(-1)  # each [S,8]
    weights = torch.where(steps == 1, fraction, 1 - fraction).prod(-1)[:, :, None] * mix[:, None, :]  # [S,8,3]
    place = (x * HASH_PRIMES[0]) ^ (y * HASH_PRIMES[1]) ^ (z * HASH_PRIMES[2])
    rows = (place[:, :, None] ^ ((sectors + 1) * SECTOR_PRIME & _BITS)[:, None, :]) & (layout.n_rows - 1)
    features = table.index_select(0, rows.flatten()).reshape(*rows.shape, table.shape[1])
    return (weights[..., None] * features).sum((1, 2))


def _nearest(d: Tensor, layout: SectorLayout) -> tuple[Tensor, Tensor]:
    """[S,3] numbers of the sectors that are mixed, and their weights."""
    cosines, order = (d @ layout.centres.to(d).T).topk(NEAREST + 1, dim=1)
    weights = (cosines[:, :NEAREST] - cosines[:, NEAREST:]).square() + LEAST_WEIGHT
    return order[:, :NEAREST], weights / weights.norm(dim=1, keepdim=True)
