"""A small correction of colour on the surfaces of a scene that is not changed otherwise."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .. import kernels
from ..kernels import GridLayout


class ColorResidual(nn.Module):
    """Colour differences at points, seen from directions: spherical harmonics whose coefficients lie in a hash grid.

    Attributes:
        table: [E,3 bands^2] parameters; all zero means no difference. The result is linear in it.

    Args:
        layout: The grid over the whole scene box, with `3 bands^2` features per level: for each harmonic its red, green
            and blue coefficient.
        bands: Bands of spherical harmonics, 1 (the same from all directions) to 4.
        aabb_scale: Edge of the scene box, scene units.
    """

    def __init__(self, layout: GridLayout, bands: int, aabb_scale: float) -> None:
        super().__init__()
        assert 1 <= bands <= kernels.MAX_BANDS and layout.n_features == 3 * bands**2
        self.layout, self.bands, self.aabb_scale = layout, bands, float(aabb_scale)
        self.table = nn.Parameter(torch.zeros(layout.n_rows, layout.n_features))

    @classmethod
    def over(
        cls, aabb_scale: float, *, bands: int, n_levels: int, log2_table: int, base_resolution: int,
        finest_resolution: int,
    ) -> ColorResidual:  # fmt: skip
        """A residual that is zero everywhere; resolutions are cells along the edge of the scene box."""
        layout = GridLayout(n_levels, 3 * bands**2, log2_table, base_resolution, finest_resolution)
        return cls(layout, bands, aabb_scale)

    def forward(self, x: Float[Tensor, "P 3"], d: Float[Tensor, "P 3"]) -> Float[Tensor, "P 3"]:
        """Colour differences.

        Args:
            x: World positions; those outside the box count as the nearest inside.
            d: Unit directions of view.
        Differentiable in `table`.
        """
        return kernels.hash_color(x / self.aabb_scale + 0.5, d, self.table, self.layout)
