"""JPEG as a differentiable function: what encoder and decoder do to a picture, and gradients through rounding.

Follows the reference implementation as Pillow uses it: BT.601 colours, chroma halved by averaging and restored by
linear interpolation, 8x8 cosine transform, the standard tables scaled by quality. Rounding passes gradients unchanged.
Source: ITU-T T.81, annex K; quality scaling of the Independent JPEG Group.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

_LUMA = (
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56,
    14, 17, 22, 29, 51, 87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92,
    49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99,
)  # fmt: skip
_CHROMA = (
    17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99, 24, 26, 56, 99, 99, 99, 99, 99,
    47, 66, 99, 99, 99, 99, 99, 99, *([99] * 32),
)  # fmt: skip
_TO_YCC = ((0.299, 0.587, 0.114), (-0.168735892, -0.331264108, 0.5), (0.5, -0.418687589, -0.081312411))
_TO_RGB = ((1.0, 0.0, 1.402), (1.0, -0.344136286, -0.714136286), (1.0, 1.772, 0.0))
_BLOCK = 8


def round_straight_through(x: Tensor) -> Tensor:
    """Rounded values, the gradient of the identity."""
    return x + (x.round() - x).detach()


def quantise_8bit(pictures: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
    """Pictures as an 8-bit file holds them; the gradient passes through, within 0 to 1 and beyond."""
    clipped = pictures + (pictures.clamp(0, 1) - pictures).detach()
    return round_straight_through(clipped * 255) / 255


def jpeg(
    pictures: Float[Tensor, "B 3 H W"], quality: Float[Tensor, " B"], *, subsample: bool = True
) -> Float[Tensor, "B 3 H W"]:
    """Pictures as they come back from a JPEG file.

    Args:
        pictures: Values 0 to 1; rounded to 8 bits first.
        quality: Quality setting of each picture, 1 to 100.
        subsample: Whether chroma has half the size (4:2:0, what most writers do), or is kept whole (4:4:4).
    Returns:
        Pictures of the same size, 8-bit values. In float32 whatever precision is set for the surroundings.
    Differentiable with respect to `pictures`.
    """
    with torch.autocast(pictures.device.type, enabled=False):
        height, width = pictures.shape[-2:]
        unit = 2 * _BLOCK if subsample else _BLOCK
        padding = (0, -width % unit, 0, -height % unit)
        padded = functional.pad(quantise_8bit(pictures.float()), padding, mode="replicate") * 255
        # The codec keeps whole numbers between all of its steps; at quality 95 that costs half a dB.
        ycc = round_straight_through(torch.einsum("ij,bjhw->bihw", padded.new_tensor(_TO_YCC), padded))
        luma = _code_blocks(ycc[:, :1] - 128, _table(_LUMA, quality)) + 128
        chroma = ycc[:, 1:]
        if subsample:
            halved = round_straight_through(functional.avg_pool2d(chroma, 2))
            half = _code_blocks(halved, _table(_CHROMA, quality))
            chroma = functional.interpolate(half, scale_factor=2, mode="bilinear", align_corners=False)
        else:
            chroma = _code_blocks(chroma, _table(_CHROMA, quality))
        decoded = round_straight_through(torch.cat([luma, chroma], 1))
        rgb = torch.einsum("ij,bjhw->bihw", padded.new_tensor(_TO_RGB), decoded)[..., :height, :width]
        return quantise_8bit(rgb / 255)


def _code_blocks(planes: Tensor, table: Tensor) -> Tensor:
    """Transform [B,C,H,W] in blocks, round to multiples of the [B,8,8] table, transform back."""
    n, channels, height, width = planes.shape
    blocks = planes.reshape(n, channels, height // _BLOCK, _BLOCK, width // _BLOCK, _BLOCK).transpose(3, 4)
    cosines = _cosines(planes)
    steps = table.view(n, 1, 1, 1, _BLOCK, _BLOCK)
    coefficients = round_straight_through(cosines @ blocks @ cosines.T / steps) * steps
    restored = round_straight_through(cosines.T @ coefficients @ cosines)
    return restored.transpose(3, 4).reshape(n, channels, height, width)


def _cosines(like: Tensor) -> Tensor:
    """[8,8] orthonormal cosine transform."""
    place = torch.arange(_BLOCK, device=like.device, dtype=torch.float64)
    matrix = torch.cos((2 * place[None] + 1) * place[:, None] * math.pi / (2 * _BLOCK)) * math.sqrt(2 / _BLOCK)
    matrix[0] /= math.sqrt(2)
    return matrix.to(like.dtype)


def _table(base: tuple[int, ...], quality: Tensor) -> Tensor:
    """[B,8,8] quantisation steps at each quality."""
    quality = quality.detach().float().clamp(1, 100).round()
    scale = torch.where(quality < 50, (5000 / quality).floor(), 200 - 2 * quality)
    steps = ((torch.tensor(base, device=quality.device) * scale[:, None] + 50) / 100).floor()
    return steps.clamp(1, 255).view(-1, _BLOCK, _BLOCK)
