"""The fast field: a multiresolution hash grid, a density network and a colour network (Mueller et al. 2022)."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .. import kernels
from ..errors import UserError

GEO = 16
HARMONICS = 16


class HashField(nn.Module):
    """Density and colour in the cube of edge `aabb_scale` around the origin.

    Args:
        layout: Layout of the hash grid over the whole cube.
        hidden: Width of the density network's hidden layer, a multiple of 16.
        color_hidden: Width of the colour network's two hidden layers, a multiple of 16.
        aabb_scale: Edge of the cube in scene units.
        generator: Source of the initial weights.
    Raises:
        UserError: if a width is not a positive multiple of 16.
    """

    def __init__(
        self,
        layout: kernels.GridLayout,
        hidden: int,
        color_hidden: int,
        aabb_scale: float,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        for name, width in (("hidden", hidden), ("color_hidden", color_hidden)):
            if width < 16 or width % 16:
                raise UserError(f"{name} = {width}", where="network width", fix="Use a positive multiple of 16")
        self.layout = layout
        self.aabb_scale = float(aabb_scale)
        table = torch.empty(layout.n_rows, layout.n_features)
        self.table = nn.Parameter(table.uniform_(-1e-4, 1e-4, generator=generator))
        self.d1 = _matrix(layout.n_outputs, hidden, generator)
        self.d2 = _matrix(hidden, GEO, generator)
        self.c1 = _matrix(GEO + HARMONICS, color_hidden, generator)
        self.c2 = _matrix(color_hidden, color_hidden, generator)
        self.c3 = _matrix(color_hidden, 3, generator)

    @property
    def networks(self) -> tuple[nn.Parameter, ...]:
        """The five matrices, density first."""
        return self.d1, self.d2, self.c1, self.c2, self.c3

    def tensors(self) -> kernels.FieldTensors:
        """The field as the fused operations take it; shares memory with the parameters."""
        return kernels.FieldTensors(
            self.layout, self.table, self.d1, self.d2, self.c1, self.c2, self.c3, self.aabb_scale
        )

    def density(self, x: Float[Tensor, "N 3"]) -> Float[Tensor, " N"]:
        """Density per scene unit at world positions, without gradients."""
        return kernels.field_density(self.tensors(), x)


def _matrix(n_in: int, n_out: int, generator: torch.Generator) -> nn.Parameter:
    """Uniform weights of Glorot and Bengio 2010, which keep the variance through ReLU layers without bias alive."""
    bound = math.sqrt(6 / (n_in + n_out))
    return nn.Parameter(torch.empty(n_in, n_out).uniform_(-bound, bound, generator=generator))
