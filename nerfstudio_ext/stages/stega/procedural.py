"""Pictures made of nothing: noise, gradients, shapes and patterns, to train the extractor on.

They need not please anyone; they must differ as pictures differ: plain and busy, sharp and soft, dark and bright,
objects on white. A batch of 32 at 96 pixels takes about a tenth of a second on one core.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor
from torch.nn import functional

Pictures = Float[Tensor, "B 3 H W"]

_LAYERS = 6
_SHAPES = 6
_PATTERNS = 4
_OCTAVES = (2, 4, 8, 16, 32, 64)
_WHITE, _PLAIN = 0.15, 0.15
"""Shares of pictures on white, as renders of single objects are, and on one colour."""
_PHOTO_SIDE = 400
"""Photos are shrunk to about this shorter side before they are cropped: the scale at which renders are looked at."""


def procedural_pictures(n: int, size: int, generator: torch.Generator) -> Pictures:
    """Random pictures.

    Args:
        n: How many.
        size: Side in pixels.
        generator: Draws everything.
    Returns:
        [n,3,size,size], values 0 to 1.
    """
    uniform = _Uniform(n, generator)
    picture = _background(size, uniform)
    for _ in range(_LAYERS):
        local = _local_coordinates(size, uniform)
        mask = _mask(local, size, uniform)
        # Later layers are absent in some pictures, so that plain and busy ones are both common.
        mask = mask * (uniform(1, 1, 1) < uniform(1, 1, 1) + 0.25)
        picture = picture + mask * (_texture(local, size, uniform) - picture)
    light = 1 + 0.5 * (uniform(1, 1, 1) - 0.5) * (_fractal(1, size, 2.0, uniform) - 0.5)
    grey = picture.mean(1, keepdim=True)
    picture = grey + uniform(1, 1, 1).sqrt() * (picture - grey)
    gain = 0.7 + 0.6 * uniform(1, 1, 1)
    grain = 0.03 * uniform(1, 1, 1) ** 3 * uniform.normal(3, size, size)
    return (picture * light * gain.clamp(max=1) + grain).clamp(0, 1)


def read_photos(folder: Path) -> list[UInt8[Tensor, "3 H W"]]:
    """The JPEG and PNG files of a folder in order of name, shrunk to a shorter side of about 400 pixels."""
    photos = []
    for path in sorted(p for p in folder.iterdir() if p.suffix.lower() in (".jpg", ".jpeg", ".png")):
        with Image.open(path) as image:
            factor = _PHOTO_SIDE / min(image.size)
            small = image.convert("RGB").resize(
                (round(image.width * factor), round(image.height * factor)), Image.Resampling.LANCZOS
            )
        photos.append(torch.from_numpy(np.array(small)).permute(2, 0, 1).contiguous())
    return photos


def photo_crops(photos: Sequence[UInt8[Tensor, "3 H W"]], n: int, size: int, generator: torch.Generator) -> Pictures:
    """Random square parts of photos, mirrored in half of the cases, scaled by up to two.

    Args:
        photos: At least one, every side at least `size` pixels.
        n: How many parts.
        size: Their side in pixels.
        generator: Draws them.
    """
    crops = []
    for which, at_y, at_x, zoom, mirror in torch.rand(n, 5, generator=generator).tolist():
        photo = photos[int(which * len(photos))]
        side = min(round(size * 2**zoom), *photo.shape[-2:])
        top, left = (int(at * (room - side + 1)) for at, room in zip((at_y, at_x), photo.shape[-2:], strict=True))
        part = photo[None, :, top : top + side, left : left + side].float() / 255
        part = functional.interpolate(part, (size, size), mode="bilinear", antialias=True, align_corners=False)
        crops.append(part.flip(-1) if mirror < 0.5 else part)
    return torch.cat(crops).clamp(0, 1)


class _Uniform:
    """Random numbers 0 to 1 for each of n pictures: `uniform(1, 1, 1)` is [n,1,1,1]."""

    def __init__(self, n: int, generator: torch.Generator) -> None:
        self.n, self.generator = n, generator

    def __call__(self, *shape: int) -> Tensor:
        return torch.rand(self.n, *shape, generator=self.generator)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(self.n, *shape, generator=self.generator)

    def choice(self, options: int) -> Tensor:
        return torch.randint(0, options, (self.n, 1, 1, 1), generator=self.generator)


def _fractal(channels: int, size: int, roughness: float | Tensor, uniform: _Uniform) -> Tensor:
    """[n,channels,size,size] about 0 to 1: smooth noise of all sizes, finer ones weaker by `size^-roughness`."""
    total = torch.zeros(uniform.n, channels, size, size)
    power = torch.zeros(uniform.n, 1, 1, 1)
    for cells in _OCTAVES:
        if cells > size:
            break
        weight = torch.as_tensor(float(cells)) ** -torch.as_tensor(roughness)
        grid = uniform.normal(channels, cells + 1, cells + 1)
        layer = functional.interpolate(grid, (size, size), mode="bicubic", align_corners=True)
        total = total + weight * layer
        power = power + weight**2
    return 0.5 + 0.3 * total / power.sqrt()


def _background(size: int, uniform: _Uniform) -> Tensor:
    roughness = 0.3 + 1.5 * uniform(1, 1, 1)
    colour, contrast = uniform(3, 1, 1), uniform(1, 1, 1)
    grey, tinted = _fractal(1, size, roughness, uniform), _fractal(3, size, roughness, uniform)
    noisy = colour + contrast * (0.7 * grey + 0.3 * tinted - 0.5)
    kind = uniform(1, 1, 1)
    plain = torch.where(kind < _WHITE, torch.ones(()), colour)
    return torch.where(kind < _WHITE + _PLAIN, plain, noisy)


def _local_coordinates(size: int, uniform: _Uniform) -> Tensor:
    """[n,2,size,size] coordinates of a shape: turned, moved, and one at about its edge."""
    line = (torch.arange(size) + 0.5) / size * 2 - 1
    angle = 2 * math.pi * uniform(1, 1, 1)
    centre = 1.6 * uniform(2, 1, 1) - 0.8
    extent = 0.1 + 0.9 * uniform(2, 1, 1) ** 1.5
    x, y = line.view(1, 1, 1, -1) - centre[:, :1], line.view(1, 1, -1, 1) - centre[:, 1:]
    u, v = x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()
    return torch.cat([u / extent[:, :1], v / extent[:, 1:]], 1)


def _mask(local: Tensor, size: int, uniform: _Uniform) -> Tensor:
    """[n,1,size,size] 0 to 1: disc, box, half plane, bars, ring, or a blot; sharp or soft edges."""
    u, v = local[:, :1], local[:, 1:]
    radius = (u.square() + v.square() + 1e-9).sqrt()
    blot = 4 * (_fractal(1, size, 1.2, uniform) - 0.4 - 0.3 * uniform(1, 1, 1))
    bars = torch.sin(u * (2 + 10 * uniform(1, 1, 1))) - 0.4
    distance = torch.stack([1 - radius, 1 - torch.maximum(u.abs(), v.abs()), u, bars, 0.2 - (radius - 1).abs(), blot])
    kind = uniform.choice(_SHAPES)
    chosen = distance.gather(0, kind.expand(-1, 1, size, size)[None])[0]
    sharpness = size * (0.05 + 0.4 * uniform(1, 1, 1))
    return torch.sigmoid(chosen * sharpness)


def _texture(local: Tensor, size: int, uniform: _Uniform) -> Tensor:
    """[n,3,size,size]: two colours mixed by a pattern, with rounded shading in half of the cases."""
    u, v = local[:, :1], local[:, 1:]
    frequency = 3 + 20 * uniform(1, 1, 1)
    noise = _fractal(1, size, 0.2 + 1.3 * uniform(1, 1, 1), uniform)
    stripes = 0.5 + 0.5 * torch.sin(frequency * u + 3 * noise * uniform(1, 1, 1))
    checks = torch.sigmoid(6 * torch.sin(frequency * u) * torch.sin(frequency * v))
    pattern = torch.stack([(0.5 + 0.5 * u).clamp(0, 1), noise, stripes, checks])
    mix = pattern.gather(0, uniform.choice(_PATTERNS).expand(-1, 1, size, size)[None])[0] * uniform(1, 1, 1)
    first, second = uniform(3, 1, 1), uniform(3, 1, 1)
    round_light = (1.2 - u.square() - v.square() - 0.6 * u).clamp(0.05, 1.44).sqrt()
    shade = torch.where(uniform(1, 1, 1) < 0.5, round_light, torch.ones(()))
    return (first + mix * (second - first)) * shade
