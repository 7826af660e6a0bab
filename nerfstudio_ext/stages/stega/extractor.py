"""The public extractor: a picture of any size becomes 128 numbers that a key turns into code bits.

It knows no scene and no key. What it looks at is local and anti-aliased, so that a crop, a shift by a few pixels or a
small rotation leaves the feature what it was: a body with strided convolutions read 60 % of the bits after a shift by
three pixels, where this one reads all.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from .keys import FEATURES
from .weight_files import Source, WeightFormat

FORMAT = "nerfstudio-ext extractor"
_FILE = WeightFormat("an", "extractor", FORMAT, 1)
MIN_SIDE = 64
"""Smallest picture side that is read, in pixels."""
BORDER = 2
"""Pixels of the last layer, a quarter of the picture's resolution, that feel the padding and are left out."""
_HALF = (0.125, 0.375, 0.375, 0.125)
"""Low-pass filter before halving: binomial, no weight at the new Nyquist frequency."""
_PACKAGED = "extractor.safetensors"
_BINOMIAL = (0.0625, 0.25, 0.375, 0.25, 0.0625)
_WINDOW = 13
"""Side of the neighbourhood in which texture is looked for, pixels."""
_QUIET_SHARE, _QUIET_STRIDE, _ABOVE_QUIET = 0.05, 7, 1.8
_PLAIN = (1.5 / 255, 6 / 255)
"""Deviations that may count as plain: rounding and JPEG leave the least, noise of 0.05 the most."""
_LEAST_WEIGHT = 1e-3
"""Of plain pixels, so that a picture without any texture still has a mean."""


class PixelNorm(nn.Module):
    """Scale each pixel's channels to unit root mean square, then by a learned gain.

    Nothing is averaged over the picture, so that a crop does not change what the rest of it says.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(channels))

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        # In the precision of `x`: a float32 gain would silently turn 16-bit maps into float32 ones.
        return x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-5) * self.gain.to(x.dtype).view(-1, 1, 1)


class _Residual(nn.Module):
    """3x3 and 1x1 convolution beside the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            PixelNorm(channels),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class Extractor(nn.Module):
    """Pictures to features; 0.22 million parameters, 0.87 MB.

    A quarter of the picture's resolution is reached by low-pass filter and average pooling only. Mean and root mean
    square over the picture, a linear map, layer norm; the mean feature of unmarked pictures is subtracted.

    Attributes:
        mean: [128] mean feature of unmarked pictures before subtraction.
    """

    mean: Tensor
    lowpass: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 48, 5, padding=2), nn.SiLU(), PixelNorm(48),
            nn.Conv2d(48, 48, 3, padding=1), nn.SiLU(), PixelNorm(48),
            nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False),
            nn.Conv2d(48, 64, 1),
        )  # fmt: skip
        self.body = nn.Sequential(
            _Residual(64), _Residual(64), PixelNorm(64), nn.Conv2d(64, 128, 3, padding=1), nn.SiLU(),
        )  # fmt: skip
        self.head = nn.Linear(2 * 128, FEATURES)
        self.register_buffer("mean", torch.zeros(FEATURES))
        taps = torch.tensor(_HALF)
        self.register_buffer("lowpass", torch.outer(taps, taps).repeat(3, 1, 1, 1), persistent=False)

    def forward(self, pictures: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B F"]:
        """Features of pictures.

        Args:
            pictures: sRGB values 0 to 1; sides of at least `MIN_SIDE` pixels are meant, half of that works.
        Returns:
            [B,128], about zero mean and unit variance over unmarked pictures.
        """
        x = functional.pad(2 * pictures - 1, (1, 1, 1, 1), mode="replicate")
        x = functional.conv2d(x, self.lowpass, stride=2, groups=3)
        x = self.body(self.stem(x))[..., BORDER:-BORDER, BORDER:-BORDER]
        pooled = _pool(x.float(), _shrunk(texture_weights(pictures), x))
        feature = functional.layer_norm(functional.linear(pooled, self.head.weight, self.head.bias), (FEATURES,))
        return feature.float() - self.mean

    def logits(self, pictures: Float[Tensor, "B 3 H W"], projection: Float[Tensor, "N F"]) -> Float[Tensor, "B N"]:
        """Code bit logits of pictures under a key's projection; positive for a one."""
        return self(pictures) @ projection.T.to(pictures.device)


@torch.no_grad()
def texture_weights(pictures: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 1 H W"]:
    """How much each pixel counts: 1 where something is to be seen nearby, next to nothing in plain areas.

    The white around a rendered object carries no mark, yet averaging over it would thin out what the object says by its
    share of the picture. What counts as plain follows the quietest twentieth of the picture, so that grain does not
    turn a plain wall into a textured one. Constant with respect to the pictures: no gradient.
    """
    # In 16 bits the difference of mean squares below would be rounding error alone.
    with torch.autocast(pictures.device.type, enabled=False):
        taps = torch.tensor(_BINOMIAL, device=pictures.device)
        grey = pictures.float().mean(1, keepdim=True)
        padded = functional.pad(grey, (2, 2, 2, 2), mode="replicate")
        smooth = functional.conv2d(padded, torch.outer(taps, taps)[None, None])
        mean, square = (_window_mean(y) for y in (smooth, smooth.square()))
        deviation = (square - mean.square()).clamp(min=0).sqrt()
        quiet = torch.quantile(deviation.flatten(1)[:, ::_QUIET_STRIDE], _QUIET_SHARE, dim=1).view(-1, 1, 1, 1)
        threshold = (_ABOVE_QUIET * quiet).clamp(*_PLAIN)
        return (2 * (deviation / threshold - 1)).clamp(_LEAST_WEIGHT, 1)


def save_extractor(extractor: Extractor, path: Path, about: dict[str, str] | None = None) -> None:
    """Write the weights with their checksum into one safetensors file.

    Args:
        extractor: What to save.
        path: File; replaced when it exists.
        about: Notes to keep with it, such as the training's settings.
    """
    _FILE.save(extractor, path, about)


def load_extractor(path: Path | None = None) -> Extractor:
    """Read an extractor, ready for use (evaluation mode, CPU).

    Args:
        path: File that `save_extractor` wrote; None for the public one that comes with the package.
    Raises:
        UserError: if the file is missing, too large, not an extractor, of a later version, or damaged.
    """
    return _FILE.load(_source(path), lambda _: Extractor())[0]


def about_extractor(path: Path | None = None) -> dict[str, str]:
    """The notes saved with an extractor."""
    return _FILE.notes(_source(path))


def _source(path: Path | None) -> Source:
    return cast(Source, resources.files(__package__ or "").joinpath(_PACKAGED)) if path is None else path


def _pool(x: Tensor, weights: Tensor) -> Tensor:
    """[B,2C] weighted mean and root mean square over the pixels."""
    total = weights.sum((2, 3))
    mean, square = (x * weights).sum((2, 3)) / total, (x.square() * weights).sum((2, 3)) / total
    return torch.cat([mean, (square + 1e-6).sqrt()], 1)


def _shrunk(weights: Tensor, x: Tensor) -> Tensor:
    """Weights averaged down to the pixels of the last layer."""
    size = (x.shape[-2] + 2 * BORDER, x.shape[-1] + 2 * BORDER)
    return functional.adaptive_avg_pool2d(weights, size)[..., BORDER:-BORDER, BORDER:-BORDER]


def _window_mean(x: Tensor) -> Tensor:
    # One direction after the other: the same mean, six times cheaper than the square window.
    for window in ((_WINDOW, 1), (1, _WINDOW)):
        padding = (window[0] // 2, window[1] // 2)
        x = functional.avg_pool2d(x, window, stride=1, padding=padding, count_include_pad=False)
    return x
