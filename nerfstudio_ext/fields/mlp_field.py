"""The field of the first radiance fields: frequency codes and one deep perceptron (Mildenhall et al. 2020)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..errors import UserError

POINT_OCTAVES = 10
DIRECTION_OCTAVES = 4
DEPTH = 8
SKIP_AFTER = 4
"""Behind this layer (counted from 0) the code of the point is handed in once more."""
INITIAL_DENSITY = 0.1
RELEASED_NAMES = {
    **{f"points.{i}": f"pts_linears.{i}" for i in range(DEPTH)},
    "density": "alpha_linear",
    "feature": "feature_linear",
    "direction": "views_linears.0",
    "color": "rgb_linear",
}
"""Our name of every layer and its name in published checkpoints of this network."""


def frequency_code(x: Float[Tensor, "*N D"], n_octaves: int) -> Float[Tensor, "*N C"]:
    """Coordinates followed by sin(2^k x) and cos(2^k x) for k = 0 .. n_octaves - 1.

    Source: Mildenhall et al. 2020, equation 4, in the widespread variant without pi that keeps the coordinates.
    """
    waves = [wave(x * 2.0**k) for k in range(n_octaves) for wave in (torch.sin, torch.cos)]
    return torch.cat([x, *waves], -1)


class MlpField(nn.Module):
    """Eight layers on the point's code, then density, and two more layers with the direction's code for the colour.

    Args:
        width: Width W of the layers, a positive even number.
        generator: Source of the initial weights.
    Raises:
        UserError: if the width cannot be halved.
    """

    def __init__(self, width: int, generator: torch.Generator) -> None:
        super().__init__()
        if width < 2 or width % 2:
            raise UserError(f"width = {width}", where="network width", fix="Use a positive even number")
        self.width = width
        code, direction_code = 3 + 6 * POINT_OCTAVES, 3 + 6 * DIRECTION_OCTAVES
        inputs = [code] + [width + code * (i == SKIP_AFTER + 1) for i in range(1, DEPTH)]
        self.points = nn.ModuleList(nn.Linear(n, width) for n in inputs)
        self.density = nn.Linear(width, 1)
        self.feature = nn.Linear(width, width)
        self.direction = nn.Linear(width + direction_code, width // 2)
        self.color = nn.Linear(width // 2, 3)
        with torch.no_grad():
            for layer in self.modules():
                if isinstance(layer, nn.Linear):
                    bound = 1 / math.sqrt(layer.in_features)
                    for parameter in layer.parameters():
                        parameter.uniform_(-bound, bound, generator=generator)
            # A raw density below zero everywhere would leave the whole network without gradient.
            self.density.bias.fill_(INITIAL_DENSITY)

    def forward(
        self,
        x: Float[Tensor, "*N 3"],
        d: Float[Tensor, "*N 3"],
        feature_delta: Float[Tensor, "*N W"] | None = None,
    ) -> Float[Tensor, "*N 4"]:
        """Raw colour (before the sigmoid) and raw density (before the ReLU).

        Args:
            x: Positions.
            d: Unit directions of view.
            feature_delta: Added to the hidden vector behind the eighth layer, in front of both heads.
        """
        hidden = self._hidden(x)
        if feature_delta is not None:
            hidden = hidden + feature_delta
        turned = torch.cat([self.feature(hidden), frequency_code(d, DIRECTION_OCTAVES)], -1)
        return torch.cat([self.color(self.direction(turned).relu()), self.density(hidden)], -1)

    def raw_density(self, x: Float[Tensor, "*N 3"]) -> Float[Tensor, "*N"]:
        """Raw density alone, which no direction changes."""
        return self.density(self._hidden(x))[..., 0]

    def _hidden(self, x: Tensor) -> Tensor:
        code = frequency_code(x, POINT_OCTAVES)
        hidden = code
        for i, layer in enumerate(self.points):
            hidden = layer(hidden).relu()
            if i == SKIP_AFTER:
                hidden = torch.cat([code, hidden], -1)
        return hidden


def from_released(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The weights below `prefix` of a published checkpoint under our names; layers that it lacks are left out."""
    return {
        f"{ours}.{kind}": weights[f"{prefix}{theirs}.{kind}"]
        for ours, theirs in RELEASED_NAMES.items()
        for kind in ("weight", "bias")
        if f"{prefix}{theirs}.{kind}" in weights
    }
