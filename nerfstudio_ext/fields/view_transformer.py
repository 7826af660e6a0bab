"""The transformer of GNT: from what source views show along a ray to the colour of the ray, without densities.

`ViewTransformer` holds the weights under the official names, and its `forward` is the model written plainly; it is what
the faster path (`gnt_fast`) is checked against.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .gnt_blocks import Dropout, RayBlock, Tokens, ViewBlock, keep_all

FREQUENCIES = 10
CODE_SIZE = 3 * (1 + 2 * FREQUENCIES)
"""Numbers of the positional code of a point or a direction: 63."""


class ViewTransformer(nn.Module):
    """The network `net_coarse` of the official checkpoints.

    Args:
        depth: View and ray blocks; 4 for single scenes, 8 across scenes.
        width: Channels of a token, a multiple of 16.
        n_features: Channels of the feature maps.
        generator: Draws the weights.
    """

    def __init__(
        self, depth: int = 4, width: int = 64, n_features: int = 32, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.rgbfeat_fc = _two_layers(3 + n_features, width)
        self.view_crosstrans = nn.ModuleList(ViewBlock(width) for _ in range(depth))
        self.view_selftrans = nn.ModuleList(RayBlock(width) for _ in range(depth))
        self.q_fcs = nn.ModuleList(
            _two_layers(width + 2 * CODE_SIZE, width) if i % 2 == 0 else nn.Identity() for i in range(depth)
        )
        self.norm = nn.LayerNorm(width)
        self.rgb_fc = nn.Linear(width, 3)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                _draw(module, generator)

    @property
    def depth(self) -> int:
        """Number of view blocks."""
        return len(self.view_crosstrans)

    @property
    def width(self) -> int:
        """Channels of a token."""
        return self.rgb_fc.in_features

    def forward(
        self,
        rgb_feat: Float[Tensor, "R S V F"],
        ray_diff: Float[Tensor, "R S V 4"],
        mask: Float[Tensor, "R S V 1"],
        x: Float[Tensor, "R S 3"],
        rays_d: Float[Tensor, "R 3"],
        drop: Dropout = keep_all,
    ) -> tuple[Float[Tensor, "R 3"], Float[Tensor, "R S"]]:
        """Colours of rays and the weights of their samples.

        Args:
            rgb_feat: Colour and features that each source view shows at each sample.
            ray_diff: Difference of directions between the ray and each view.
            mask: 1 where a view sees the sample.
            x: Sample positions, world.
            rays_d: Ray directions of any length.
            drop: Dropout in training.
        Returns:
            Colours, not limited to 0..1, and the head-mean attention of the nearest sample in the last ray block, which
            sums to 1 along a ray: `sum(weights * z)` is the learned depth.
        """
        f = self.rgbfeat_fc(rgb_feat)
        q = f.max(dim=2).values
        codes = self.codes(x, rays_d)
        weights = mask.new_zeros(mask.shape[:2])
        for i in range(self.depth):
            q = self.view_crosstrans[i](q, f, ray_diff, mask, drop)
            if i % 2 == 0:
                q = self.q_fcs[i](torch.cat([q, codes], -1))
            q, weights = self.view_selftrans[i](q, drop)
        return self.colors(q), weights

    def colors(self, q: Tokens) -> Float[Tensor, "R 3"]:
        """The mean of the normed tokens of a ray as a colour."""
        return self.rgb_fc(self.norm(q).mean(1))

    @staticmethod
    def codes(x: Float[Tensor, "R S 3"], rays_d: Float[Tensor, "R 3"]) -> Float[Tensor, "R S C"]:
        """Positional codes of points and of the unit direction of their ray, side by side."""
        direction = positional_code(rays_d / rays_d.norm(dim=-1, keepdim=True))
        return torch.cat([positional_code(x), direction[:, None].expand(-1, x.shape[1], -1)], -1)


def positional_code(x: Float[Tensor, "*N 3"]) -> Float[Tensor, "*N 63"]:
    """The numbers themselves, then sine and cosine of 1, 2, 4, ... 512 times them, octave after octave."""
    scaled = [x * 2.0**k for k in range(FREQUENCIES)]
    return torch.cat([x, *(part for s in scaled for part in (s.sin(), s.cos()))], -1)


def _two_layers(n_in: int, n_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(n_in, n_out), nn.ReLU(), nn.Linear(n_out, n_out))


def _draw(linear: nn.Linear, generator: torch.Generator | None) -> None:
    """Torch's own initial distribution for linear layers, from our generator."""
    bound = 1 / math.sqrt(linear.in_features)
    nn.init.uniform_(linear.weight, -bound, bound, generator=generator)
    if linear.bias is not None:
        nn.init.uniform_(linear.bias, -bound, bound, generator=generator)
