"""The image encoder of GNT: a small residual U-net from a picture to a feature map at a quarter of its size.

Tensor names are those of the official checkpoints, so that they load as they are. Input is RGB 0..1; nothing is taken
from other trainings. Source: IBRNet's feature network (arXiv 2102.13090, appendix), as GNT uses it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

Maps = Float[Tensor, "V F h w"]
SMALLEST_SIDE = 17
"""Reflection at a sixteenth of the size needs two pixels there."""


class FeatureNet(nn.Module):
    """Residual stages at 1/4, 1/8 and 1/16, then a decoder back to 1/4 with skips.

    Args:
        n_features: Channels of the result.
        width: Channels of the first stage; the next ones have two and four times as many. 64 is the official width.
        blocks: Residual blocks of the three stages.
        generator: Draws the weights.
    """

    def __init__(
        self,
        n_features: int = 32,
        width: int = 64,
        blocks: tuple[int, int, int] = (3, 4, 6),
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.conv1 = _conv(3, width, 7, 2, bias=False)
        self.bn1 = _norm(width)
        self.layer1 = _stage(width, width, blocks[0])
        self.layer2 = _stage(width, 2 * width, blocks[1])
        self.layer3 = _stage(2 * width, 4 * width, blocks[2])
        self.upconv3 = _Upsampled(4 * width, 2 * width)
        self.iconv3 = _ConvNormElu(4 * width, 2 * width)
        self.upconv2 = _Upsampled(2 * width, width)
        self.iconv2 = _ConvNormElu(2 * width, n_features)
        self.out_conv = nn.Conv2d(n_features, n_features, 1)
        _draw_weights(self, generator)

    def forward(self, pictures: Float[Tensor, "V 3 H W"]) -> Maps:
        """Feature maps of pictures; their size is `map_size` of the pictures' size.

        Raises:
            ValueError: for pictures with a side below 17 pixels.
        """
        if min(pictures.shape[-2:]) < SMALLEST_SIDE:
            height, width = pictures.shape[-2:]
            raise ValueError(f"pictures of {width}x{height} pixels: a side below {SMALLEST_SIDE} has no features")
        x1 = self.layer1(torch.relu(self.bn1(self.conv1(pictures))))
        x2 = self.layer2(x1)
        x = self.upconv3(self.layer3(x2))
        x = self.iconv3(_with_skip(x, x2))
        x = self.upconv2(x)
        return self.out_conv(self.iconv2(_with_skip(x, x1)))


def map_size(width: int, height: int) -> tuple[int, int]:
    """(width, height) of the feature map of a picture: a quarter, after both were rounded up to multiples of 16."""
    return 4 * -(-width // 16), 4 * -(-height // 16)


class _Block(nn.Module):
    """Two 3x3 convolutions with norms around a shortcut."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv(n_in, n_out, 3, stride, bias=False)
        self.bn1 = _norm(n_out)
        self.conv2 = _conv(n_out, n_out, 3, 1, bias=False)
        self.bn2 = _norm(n_out)
        self.downsample: nn.Module | None = None
        if stride != 1 or n_in != n_out:
            self.downsample = nn.Sequential(nn.Conv2d(n_in, n_out, 1, stride, bias=False), _norm(n_out))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + shortcut)


class _ConvNormElu(nn.Module):
    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.conv = _conv(n_in, n_out, 3, 1, bias=True)
        self.bn = _norm(n_out)

    def forward(self, x: Tensor) -> Tensor:
        return functional.elu(self.bn(self.conv(x)))


class _Upsampled(nn.Module):
    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.conv = _ConvNormElu(n_in, n_out)

    def forward(self, x: Tensor) -> Tensor:
        larger = functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
        return self.conv(larger)


def _stage(n_in: int, n_out: int, n_blocks: int) -> nn.Sequential:
    return nn.Sequential(_Block(n_in, n_out, 2), *(_Block(n_out, n_out, 1) for _ in range(n_blocks - 1)))


def _conv(n_in: int, n_out: int, size: int, stride: int, *, bias: bool) -> nn.Conv2d:
    return nn.Conv2d(n_in, n_out, size, stride, size // 2, bias=bias, padding_mode="reflect")


def _norm(n: int) -> nn.InstanceNorm2d:
    """Statistics of the picture itself, in training and after: pictures do not depend on their company."""
    return nn.InstanceNorm2d(n, affine=True)


def _with_skip(decoded: Tensor, encoded: Tensor) -> Tensor:
    """[decoded, encoded] as channels; the encoder's map is padded (or cut) to the decoder's size with zeros."""
    rows, columns = (decoded.shape[i] - encoded.shape[i] for i in (2, 3))
    if rows or columns:
        pad: Sequence[int] = (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)
        encoded = functional.pad(encoded, pad)
    return torch.cat([decoded, encoded], 1)


def _draw_weights(net: nn.Module, generator: torch.Generator | None) -> None:
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_uniform_(module.weight, nonlinearity="relu", generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
