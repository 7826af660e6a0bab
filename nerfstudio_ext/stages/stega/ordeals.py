"""What pictures of a marked run go through before they are read again: codecs, filters, resampling, films, models.

Pictures suffer through the programs that people use (Pillow, an H.264 encoder); a model suffers in its parameters and
is rendered again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import UInt8
from numpy import ndarray
from torch import Tensor

from .attacks import attack_file

Picture = UInt8[ndarray, "H W 3"]
ReencodeFilm = Callable[[Sequence[Picture]], list[Picture]]
"""Frames of one size -> what a player shows of them after a video encoder."""

_SCREEN_FACTOR, _SCREEN_KEPT, _SCREEN_QUALITY = 0.87, 0.8, 80
"""A screenshot: shown at no round size, part of it kept, saved as JPEG again."""


@dataclass(frozen=True)
class Ordeal:
    """One thing that happens to a picture.

    Attributes:
        group: What kind of thing it is; the amounts of one group belong together.
        amount: How much of it, as people write it.
        change: (picture, seed) -> picture.
    """

    group: str
    amount: str
    change: Callable[[Picture, int], Picture]


def picture_ordeals(groups: Sequence[str] | None = None) -> list[Ordeal]:
    """What is tried on pictures; None for all groups."""
    found = [Ordeal("clean", "8 bit", lambda picture, seed: picture)]
    for group, (name, unit, amounts) in _AMOUNTS.items():
        found += [Ordeal(group, unit.format(amount), _file_attack(name, amount)) for amount in amounts]
    found.append(Ordeal("screenshot", "87 %, crop 80 %, q80", screenshot))
    return [ordeal for ordeal in found if groups is None or ordeal.group in groups]


def screenshot(picture: Picture, seed: int) -> Picture:
    """Resampled by an odd factor, cut to a part of it, and saved as JPEG."""
    shown = attack_file("resize", picture, _SCREEN_FACTOR, seed)
    return attack_file("jpeg", attack_file("crop", shown, _SCREEN_KEPT, seed), _SCREEN_QUALITY, seed)


def _file_attack(name: str, amount: float) -> Callable[[Picture, int], Picture]:
    return lambda picture, seed: attack_file(name, picture, amount, seed)


_AMOUNTS: dict[str, tuple[str, str, tuple[float, ...]]] = {
    "jpeg": ("jpeg", "q{:g}", (90, 75, 50, 30)),
    "resize": ("resize", "{:g}x", (0.5, 0.75, 1.25, 1.5, 2.0)),
    "crop": ("crop", "keeps {:.0%}", (0.75, 0.5, 0.25)),
    "noise": ("noise", "sigma {:g}", (0.02, 0.05, 0.1)),
    "blur": ("blur", "{:g} px", (0.5, 1.0, 1.5)),
    "brightness": ("brightness", "x {:g}", (0.8, 1.2)),
    "contrast": ("contrast", "x {:g}", (0.8, 1.2)),
    "gamma": ("gamma", "{:g}", (0.8, 1.25)),
    "rotation": ("rotate", "{:g} deg", (2, 5, 10)),
}
"""Group -> attack, how its amount is written, amounts; the ends of a group are where reading begins to fail."""
GROUPS = ("clean", *_AMOUNTS, "screenshot")


Change = Callable[[Tensor, torch.Generator], Tensor]

MODEL_ORDEALS: dict[str, Change] = {
    "8-bit parameters": lambda tensor, generator: quantised(tensor),
    "20 % pruned": lambda tensor, generator: pruned(tensor),
    "1 % noise": lambda tensor, generator: disturbed(tensor, generator),
}
"""What is tried on the parameters of a model."""


@torch.no_grad()
def suffer(parameters: Iterable[Tensor], change: Change, generator: torch.Generator) -> None:
    """Change parameters in place, each tensor by itself."""
    for parameter in parameters:
        if parameter.is_floating_point() and parameter.numel() > 1:
            parameter.copy_(change(parameter.detach(), generator))


def quantised(tensor: Tensor, levels: int = 256) -> Tensor:
    """The nearest of equally spaced values between the smallest and the largest."""
    low, high = float(tensor.min()), float(tensor.max())
    if high <= low:
        return tensor.clone()
    step = (high - low) / (levels - 1)
    return ((tensor - low) / step).round() * step + low


def pruned(tensor: Tensor, share: float = 0.2) -> Tensor:
    """With the smallest of the values that are not zero set to zero."""
    size = tensor.abs()
    used = size[size > 0]
    if used.numel() == 0:
        return tensor.clone()
    limit = used.sort().values[min(round(share * used.numel()), used.numel() - 1)]
    return torch.where(size < limit, torch.zeros_like(tensor), tensor)


def disturbed(tensor: Tensor, generator: torch.Generator, share: float = 0.01) -> Tensor:
    """With Gaussian noise of a share of its root mean square on every value that is not zero."""
    sigma = share * tensor.square().mean().sqrt()
    noise = torch.randn(tensor.shape, generator=generator).to(tensor)
    return torch.where(tensor != 0, tensor + sigma * noise, tensor)
