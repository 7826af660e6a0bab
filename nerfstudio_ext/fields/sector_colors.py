"""Colour differences on surfaces that look different from every side: what carries a mark."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .. import kernels
from ..kernels import SectorLayout


class SectorColors(nn.Module):
    """Colour differences at points, told apart by the sector of directions they are seen from.

    One texture that has to read right from all sides is a compromise between hundreds of pictures. Here each
    surface has a texture for every few degrees, so that a mark is written view by view; neighbouring sectors are mixed.

    Attributes:
        table: [E,3] parameters; all zero means no difference. The result is linear in it.

    Args:
        layout: The grid over the whole scene box.
        aabb_scale: Edge of the scene box, scene units.
    """

    def __init__(self, layout: SectorLayout, aabb_scale: float) -> None:
        super().__init__()
        self.layout, self.aabb_scale = layout, float(aabb_scale)
        self.table = nn.Parameter(torch.zeros(layout.n_rows, 3))

    def empty(self) -> SectorColors:
        """Another one of the same size, all zero."""
        return SectorColors(self.layout, self.aabb_scale)

    def forward(self, x: Float[Tensor, "P 3"], d: Float[Tensor, "P 3"]) -> Float[Tensor, "P 3"]:
        """Colour differences.

        Args:
            x: World positions; those outside the box count as the nearest inside.
            d: Unit directions of view.
        Differentiable in `table`.
        """
        return kernels.sector_color(x / self.aabb_scale + 0.5, d, self.table, self.layout)

    def visits(
        self, x: Float[Tensor, "P 3"], d: Float[Tensor, "P 3"], amounts: Float[Tensor, "P N"]
    ) -> Float[Tensor, "E N"]:
        """Amounts at points, dealt to the rows that decide there, each by its weight."""
        rows = torch.zeros(self.layout.n_rows, amounts.shape[1], requires_grad=True)
        dealt = kernels.sector_color(x / self.aabb_scale + 0.5, d, rows, self.layout)
        (gradient,) = torch.autograd.grad(dealt, rows, amounts)
        return gradient
