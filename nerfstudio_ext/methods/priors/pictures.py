"""Pictures with opacity as latents: what the priors that need no autoencoder denoise."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional


def to_latents(
    rgb: Float[Tensor, "V 3 H W"], alpha: Float[Tensor, "V 1 H W"], side: int
) -> Float[Tensor, "V 4 side side"]:
    """Premultiplied colour and opacity, scaled to -1..1 and brought to a side; differentiable."""
    rgba = torch.cat([rgb, alpha], 1)
    if rgba.shape[-1] != side:
        is_smaller = side < rgba.shape[-1]
        rgba = functional.interpolate(rgba, (side, side), mode="bilinear", antialias=is_smaller, align_corners=False)
    return 2 * rgba - 1


def from_latents(latents: Float[Tensor, "V 4 S S"]) -> Float[Tensor, "V 3 S S"]:
    """Latents as pictures on white."""
    rgba = 0.5 * (latents + 1)
    return (rgba[:, :3] + 1 - rgba[:, 3:]).clamp(0, 1)
