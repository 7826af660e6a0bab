"""What happens to pictures on their way: differentiable for training, and through real codecs for measuring.

Every attack is named and has one amount with a neutral value at which nothing happens. `attack` is the differentiable
form on a batch, `attack_file` does the same to one 8-bit picture with Pillow, as other people's programs would.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from torch import Tensor
from torch.nn import functional

from ...errors import UserError
from .jpeg import jpeg
from .warps import crop, resize, rotate, shift

Pictures = Float[Tensor, "B 3 H W"]


def noise(pictures: Pictures, sigma: Float[Tensor, " B"], generator: torch.Generator) -> Pictures:
    """Add Gaussian noise of the given standard deviation (picture values are 0 to 1)."""
    drawn = torch.randn(pictures.shape, generator=generator, device=pictures.device)
    return pictures + drawn * sigma.view(-1, 1, 1, 1)


def blur(pictures: Pictures, sigma: Float[Tensor, " B"]) -> Pictures:
    """Gaussian blur, standard deviation in pixels; each picture its own."""
    radius = max(1, math.ceil(3 * float(sigma.max())))
    offsets = torch.arange(-radius, radius + 1, device=pictures.device, dtype=pictures.dtype)
    # At a sigma of a fiftieth of a pixel the neighbours' weight is below the smallest float: the identity.
    kernels = torch.exp(-0.5 * (offsets / sigma.clamp(min=0.02)[:, None]) ** 2)
    kernels = (kernels / kernels.sum(1, keepdim=True)).repeat_interleave(3, 0)
    n, _, height, width = pictures.shape
    planes = functional.pad(pictures, (radius,) * 4, mode="replicate").reshape(1, 3 * n, *_grown(height, width, radius))
    planes = functional.conv2d(planes, kernels.view(3 * n, 1, 1, -1), groups=3 * n)
    planes = functional.conv2d(planes, kernels.view(3 * n, 1, -1, 1), groups=3 * n)
    return planes.view(n, 3, height, width)


def brightness(pictures: Pictures, factor: Float[Tensor, " B"]) -> Pictures:
    """Multiply all values."""
    return pictures * factor.view(-1, 1, 1, 1)


def contrast(pictures: Pictures, factor: Float[Tensor, " B"]) -> Pictures:
    """Spread the values about the mean brightness of each picture."""
    weights = pictures.new_tensor((0.299, 0.587, 0.114)).view(3, 1, 1)
    mean = (pictures * weights).sum(1, keepdim=True).mean((2, 3), keepdim=True)
    return mean + (pictures - mean) * factor.view(-1, 1, 1, 1)


def gamma(pictures: Pictures, exponent: Float[Tensor, " B"]) -> Pictures:
    """Raise all values to a power."""
    # The derivative of a power below one is unbounded at black; half an 8-bit step keeps it finite.
    safe = pictures.clamp(min=0.5 / 255)
    power = exponent.view(-1, 1, 1, 1)
    return torch.where(pictures > 0.5 / 255, safe**power, pictures * (0.5 / 255) ** (power - 1))


@dataclass(frozen=True)
class Attack:
    """One way in which pictures suffer.

    Attributes:
        neutral: The amount at which nothing happens.
        strongest: The far end of what training draws.
        is_two_sided: Whether the mirror image of an amount is as likely: its inverse about 1, its negative about 0.
        on_batch: (pictures, amounts [B], generator) -> pictures; the size may change.
        on_file: (picture, amount, generator) -> picture, with Pillow.
    """

    neutral: float
    strongest: float
    is_two_sided: bool
    on_batch: Callable[[Tensor, Tensor, torch.Generator], Tensor]
    on_file: Callable[[Image.Image, float, np.random.Generator], Image.Image]


def attack(name: str, pictures: Pictures, amount: float | Tensor, generator: torch.Generator) -> Pictures:
    """Apply one differentiable attack to a batch.

    Args:
        name: One of `ATTACKS`.
        pictures: [B,3,H,W], values 0 to 1.
        amount: One number, or one per picture [B]. `resize` and `crop` need one number: a batch has one size.
        generator: Draws noise and places.
    Returns:
        Attacked pictures; values may leave 0 to 1 as long as they have not become a file.
    Raises:
        UserError: if there is no attack of that name.
    """
    amounts = torch.as_tensor(amount, dtype=torch.float32, device=pictures.device).expand(len(pictures))
    with torch.autocast(pictures.device.type, enabled=False):
        return attack_named(name).on_batch(pictures.float(), amounts, generator)


def attack_file(
    name: str, picture: UInt8[np.ndarray, "H W 3"], amount: float, seed: int = 0
) -> UInt8[np.ndarray, "H W 3"]:
    """Apply one attack to an 8-bit picture the way image programs do it (Pillow's codec and filters).

    Args:
        name: One of `ATTACKS`.
        picture: [H,W,3] sRGB.
        amount: As for `attack`.
        seed: For noise and places.
    Raises:
        UserError: if there is no attack of that name.
    """
    image = attack_named(name).on_file(Image.fromarray(picture), amount, np.random.default_rng(seed))
    return np.asarray(image.convert("RGB"))


def attack_named(name: str) -> Attack:
    """The attack of that name; a `UserError` lists the names there are."""
    if name not in ATTACKS:
        raise UserError(f"no attack is called '{name}'", fix=f"Choose one of {', '.join(ATTACKS)}")
    return ATTACKS[name]


def _grown(height: int, width: int, radius: int) -> tuple[int, int]:
    return height + 2 * radius, width + 2 * radius


def _jpeg_file(image: Image.Image, quality: float, _: np.random.Generator) -> Image.Image:
    if quality >= ATTACKS["jpeg"].neutral:
        return image
    file = io.BytesIO()
    image.save(file, "JPEG", quality=round(quality), subsampling="4:2:0")
    return Image.open(io.BytesIO(file.getvalue())).convert("RGB")


def _jpeg_batch(pictures: Tensor, quality: Tensor, _: torch.Generator) -> Tensor:
    is_neutral = (quality >= ATTACKS["jpeg"].neutral).view(-1, 1, 1, 1)
    return torch.where(is_neutral, pictures, jpeg(pictures, quality))


def _resize_file(image: Image.Image, factor: float, _: np.random.Generator) -> Image.Image:
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    return image.resize(size, Image.Resampling.BICUBIC)


def _crop_file(image: Image.Image, keep: float, generator: np.random.Generator) -> Image.Image:
    width, height = (max(1, round(side * math.sqrt(keep))) for side in image.size)
    left = int(generator.integers(image.width - width + 1))
    top = int(generator.integers(image.height - height + 1))
    return image.crop((left, top, left + width, top + height))


def _rotate_file(image: Image.Image, degrees: float, _: np.random.Generator) -> Image.Image:
    return image.rotate(-degrees, Image.Resampling.BICUBIC) if degrees else image


def _shift_file(image: Image.Image, pixels: float, _: np.random.Generator) -> Image.Image:
    if pixels == 0:
        return image
    matrix = (1, 0, -pixels, 0, 1, -pixels)
    return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)


def _values(change: Callable[[NDArray[np.float64], float, np.random.Generator], NDArray[np.float64]]) -> Callable:
    """An attack on the values of a file, rounded back to 8 bits."""

    def on_file(image: Image.Image, amount: float, generator: np.random.Generator) -> Image.Image:
        changed = change(np.asarray(image, np.float64) / 255, amount, generator)
        return Image.fromarray((changed.clip(0, 1) * 255).round().astype(np.uint8))

    return on_file


def _contrast_values(x: NDArray[np.float64], factor: float, _: np.random.Generator) -> NDArray[np.float64]:
    mean = float((x @ np.array([0.299, 0.587, 0.114])).mean())
    return mean + (x - mean) * factor


ATTACKS: dict[str, Attack] = {
    "jpeg": Attack(100, 40, False, _jpeg_batch, _jpeg_file),
    "resize": Attack(1, 0.5, True, lambda x, a, g: resize(x, float(a[0])), _resize_file),
    "crop": Attack(1, 0.4, False, lambda x, a, g: crop(x, float(a[0]), g), _crop_file),
    "noise": Attack(0, 0.1, False, noise, _values(lambda x, a, g: x + a * g.standard_normal(x.shape))),
    "blur": Attack(0, 1.5, False, lambda x, a, g: blur(x, a),
                   lambda i, a, g: i.filter(ImageFilter.GaussianBlur(a)) if a else i),
    "brightness": Attack(1, 1.25, True, lambda x, a, g: brightness(x, a), _values(lambda x, a, g: x * a)),
    "contrast": Attack(1, 1.25, True, lambda x, a, g: contrast(x, a), _values(_contrast_values)),
    "gamma": Attack(1, 1.25, True, lambda x, a, g: gamma(x, a), _values(lambda x, a, g: x**a)),
    "rotate": Attack(0, 10, True, lambda x, a, g: rotate(x, a), _rotate_file),
    "shift": Attack(0, 3, True, lambda x, a, g: shift(x, a), _shift_file),
}  # fmt: skip
"""Amounts: JPEG quality, scale, share of the area kept, standard deviation (0 to 1; pixels for blur), factor, exponent,
degrees clockwise, pixels right and down."""
