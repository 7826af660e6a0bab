"""How far and how fast each row of a mark's table may move: where it is plain less, where it is rarely seen more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from ...fields.sector_colors import SectorColors
from .scene_views import SceneView

_BUSIEST = 10
"""One in so many rows, the busiest ones, moves freely."""
_QUIET = 2 / 255
"""Deviation that is added to that of the surroundings: rounding to 8 bits hides as much."""
_RARE = 0.05
"""Visits, as a share of the mean, that are added to all: what is hardly ever seen does not run away."""


@dataclass(frozen=True)
class RowWeights:
    """Factors on the rows of a table.

    Attributes:
        mask: [E] on updates, 0 to 1.
        evenness: [E] on gradients.
    """

    mask: Float[Tensor, " E"]
    evenness: Float[Tensor, " E"]


@torch.no_grad()
def row_weights(
    colors: SectorColors, views: Sequence[SceneView], background: Float[Tensor, "3"], *, mask_power: float,
    even_out: float,
) -> RowWeights:  # fmt: skip
    """Look at all views once and weigh the rows.

    The paper's mask spares weights that matter most to the picture, `(|theta| / q)^-power`. A table that starts at zero
    has no weights of its own; what matters is how plain its surroundings are, since eyes find changes there. The
    busiest tenth gets 1; rows that nothing looks at stay zero.

    Args:
        colors: The table's owner.
        views: All that will be looked at.
        background: Colour behind the scene.
        mask_power: How strongly plain areas are spared, 0 (not at all) upwards.
        even_out: How far rows that are rarely seen are helped to as long steps as others, 0 (not) to 1 (fully).
    Source: Li et al. 2023 (StegaNeRF), section 3.3, with plainness in place of magnitude.
    """
    sums = torch.zeros(colors.layout.n_rows, 2)
    for view in views:
        texture = local_deviation(view.unmarked(background)).reshape(-1)
        for part in view.chunks():
            x, d, alpha = view.points(part)
            plainness = alpha / (texture[view.seen[part]] + _QUIET)
            with torch.enable_grad():
                sums += colors.visits(x, d, torch.stack([alpha, plainness], 1))
    visits, plainness = sums.unbind(1)
    is_visited = visits > 0
    if not bool(is_visited.any()):
        return RowWeights(torch.zeros_like(visits), torch.ones_like(visits))
    importance = torch.where(is_visited, plainness / visits.clamp_min(1e-12), torch.inf)
    known = importance[is_visited]
    quantile = known.sort().values[len(known) // _BUSIEST]
    mask = torch.where(is_visited, (importance / quantile).clamp_min(1.0) ** -mask_power, torch.zeros(()))
    return RowWeights(mask, (visits / float(visits[is_visited].mean()) + _RARE) ** -even_out)


def local_deviation(picture: Float[Tensor, "H W 3"]) -> Float[Tensor, "H W"]:
    """Standard deviation of brightness around each pixel."""
    grey = picture.mean(-1)[None, None]
    mean, square = (functional.avg_pool2d(y, 9, 1, 4, count_include_pad=False) for y in (grey, grey.square()))
    return (square - mean.square()).clamp_min(0).sqrt()[0, 0]
