"""Differentiable changes of geometry: size, part, rotation, sub-pixel shift, perspective."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

Pictures = Float[Tensor, "B 3 H W"]


def resize(pictures: Pictures, factor: float) -> Pictures:
    """Scale all pictures, with a low-pass filter where they shrink; sizes are rounded to whole pixels."""
    height, width = (max(1, round(side * factor)) for side in pictures.shape[-2:])
    if (height, width) == tuple(pictures.shape[-2:]):
        return pictures
    return functional.interpolate(pictures, (height, width), mode="bilinear", antialias=True, align_corners=False)


def crop(pictures: Pictures, keep: float, generator: torch.Generator) -> Pictures:
    """Keep a part of each picture, of the same shape, at a random place of its own.

    Args:
        pictures: [B,3,H,W].
        keep: Share of the area, 0 to 1.
        generator: Draws the places.
    """
    height, width = (max(1, round(side * math.sqrt(keep))) for side in pictures.shape[-2:])
    places = torch.rand(len(pictures), 2, generator=generator, device=generator.device).cpu()
    room = torch.tensor([pictures.shape[-2] - height, pictures.shape[-1] - width])
    corners = (places * (room + 1)).long().clamp(max=room)
    parts = zip(pictures, corners.tolist(), strict=True)
    return torch.stack([picture[:, top : top + height, left : left + width] for picture, (top, left) in parts])


def rotate(pictures: Pictures, degrees: Float[Tensor, " B"]) -> Pictures:
    """Turn pictures clockwise about their centre; corners that come from outside are black."""
    angle = torch.deg2rad(degrees.float())
    return warp(pictures, _rotation(angle, pictures.shape[-1] / pictures.shape[-2]), padding="zeros")


def shift(pictures: Pictures, pixels: Float[Tensor, " B"]) -> Pictures:
    """Move pictures right and down by as many pixels, fractions included; the border is repeated."""
    matrices = torch.eye(3, device=pictures.device).repeat(len(pictures), 1, 1)
    matrices[:, 0, 2] = -2 * pixels / pictures.shape[-1]
    matrices[:, 1, 2] = -2 * pixels / pictures.shape[-2]
    return warp(pictures, matrices)


def random_perspectives(
    n: int, aspect: float, strength: float, generator: torch.Generator, *, degrees: float = 10.0, zoom: float = 1.15,
    tilt: float = 0.08,
) -> Float[Tensor, "B 3 3"]:  # fmt: skip
    """Small random views of a flat picture: rotation, zoom, unequal scale, tilt, a shift by any number of pixels.

    Args:
        n: How many.
        aspect: Width over height of the pictures.
        strength: 0 gives identities, 1 the full ranges, which are drawn from evenly.
        generator: Draws them.
        degrees: Largest rotation.
        zoom: Largest factor of size, and its inverse the smallest.
        tilt: Largest change of scale from the centre to a side.
    """
    u = 2 * torch.rand(n, 7, generator=generator, device=generator.device) - 1
    u = strength * u
    matrices = _rotation(torch.deg2rad(degrees * u[:, 0]), aspect)
    stretch = torch.exp(math.log(zoom) * torch.stack([u[:, 1] + 0.25 * u[:, 2], u[:, 1] - 0.25 * u[:, 2]], 1))
    matrices[:, :2, :2] = matrices[:, :2, :2] * stretch[:, None]
    matrices[:, :2, 2] = 0.06 * u[:, 3:5]
    matrices[:, 2, :2] = tilt * u[:, 5:7]
    return matrices


def warp(pictures: Pictures, matrices: Float[Tensor, "B 3 3"], *, padding: str = "border") -> Pictures:
    """Look up each pixel where its homography points.

    Args:
        pictures: [B,3,H,W].
        matrices: From places in the result to places in the picture, both from -1 to 1 between the outer pixel edges.
        padding: "border" repeats the outermost pixels, "zeros" is black outside.
    Returns:
        Pictures of the same size, bilinear. Differentiable with respect to `pictures`.
    """
    height, width = pictures.shape[-2:]
    y = (2 * torch.arange(height, device=pictures.device) + 1) / height - 1
    x = (2 * torch.arange(width, device=pictures.device) + 1) / width - 1
    rows, columns = torch.meshgrid(y, x, indexing="ij")
    places = torch.stack([columns, rows, torch.ones_like(rows)], -1).view(-1, 3)
    mapped = places @ matrices.to(pictures.device).transpose(1, 2)
    grid = (mapped[..., :2] / mapped[..., 2:]).view(-1, height, width, 2)
    return functional.grid_sample(pictures, grid, mode="bilinear", padding_mode=padding, align_corners=False)


def _rotation(angle: Tensor, aspect: float) -> Tensor:
    """[B,3,3] in coordinates from -1 to 1 on both sides of a picture that is `aspect` times as wide as high."""
    matrices = torch.zeros(len(angle), 3, 3, device=angle.device)
    matrices[:, 0, 0], matrices[:, 0, 1] = angle.cos(), angle.sin() / aspect
    matrices[:, 1, 0], matrices[:, 1, 1] = -angle.sin() * aspect, angle.cos()
    matrices[:, 2, 2] = 1
    return matrices
