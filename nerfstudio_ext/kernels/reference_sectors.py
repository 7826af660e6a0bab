"""Pictures across sectors of direction in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor

from .sectors import LEAST_WEIGHT, NEAREST, SectorLayout


def sector_color(x_unit: Tensor, d: Tensor, table: Tensor, layout: SectorLayout) -> Tensor:
    """See `kernels.sector_color`."""
    sectors, mix = _nearest(d.detach(), layout)
    across = layout.frames.to(d)[sectors][:, :, :2]  # [S,3,2,3]: sector, axis, coordinate
    position = (across * (x_unit.detach() - 0.5)[:, None, None, :]).sum(-1) * layout.resolution  # [S,3,2]
    lower = position.floor()
    fraction = (position - lower)[:, :, None, :]
    steps = torch.tensor([[0, 0], [1, 0], [0, 1], [1, 1]], device=d.device)
    i, j = ((lower.long()[:, :, None, :] + steps) % layout.resolution).unbind(-1)  # each [S,3,4]
    weights = torch.where(steps == 1, fraction, 1 - fraction).prod(-1) * mix[:, :, None]
    rows = (sectors[:, :, None] * layout.resolution + j) * layout.resolution + i
    features = table.index_select(0, rows.flatten()).reshape(*rows.shape, table.shape[1])
    return (weights[..., None] * features).sum((1, 2))


def _nearest(d: Tensor, layout: SectorLayout) -> tuple[Tensor, Tensor]:
    """[S,3] numbers of the sectors that are mixed, and their weights."""
    cosines, order = (d @ layout.frames[:, 2].to(d).T).topk(NEAREST + 1, dim=1)
    weights = (cosines[:, :NEAREST] - cosines[:, NEAREST:]).square() + LEAST_WEIGHT
    return order[:, :NEAREST], weights / weights.norm(dim=1, keepdim=True)
