"""Random chains of attacks for training, from none to the full set as a strength grows from 0 to 1."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from .attacks import ATTACKS, attack
from .jpeg import quantise_8bit
from .warps import random_perspectives, warp

Pictures = Float[Tensor, "B 3 H W"]

_PERSPECTIVE, _CROP = 0.55, 0.30
"""Shares of batches that are seen in perspective, or cropped; from the feasibility study, as are the ranges."""
_RESIZE = 0.3
_SCALES = (0.8, 1.25)
"""A reader searches scales a factor of 1.4 apart; a body that had to bear 0.5 to 1.5 by itself learned a third less."""
_SIGNAL = 0.4
"""Share of pictures, at full strength, that get one of `_SIGNALS`."""
_SIGNALS = ("noise", "blur", "brightness", "contrast", "gamma")
_JPEG = 0.5
"""Share of pictures that end as JPEG. With a quarter, quality 50 read 76 % of the bits; with half, 88 %."""
_SMALLEST = 40
"""Shortest side, in pixels, that a picture is cropped and shrunk to: ten pixels of the extractor's last layer."""


def random_attacks(pictures: Pictures, strength: float, generator: torch.Generator) -> Pictures:
    """One random chain: geometry (for the batch), a change of values, then a file (for each picture).

    Args:
        pictures: [B,3,H,W], values 0 to 1.
        strength: 0 returns the pictures as they are; up to 1 ranges and shares grow.
        generator: Draws everything; the same state gives the same attacks.
    Returns:
        8-bit pictures, of another size where resized or cropped. Differentiable; rounding passes gradients.
    """
    assert 0 <= strength <= 1
    if strength == 0:
        return pictures
    with torch.autocast(pictures.device.type, enabled=False):
        moved = _random_geometry(pictures.float(), strength, generator)
        return _random_file(_random_signal(moved, strength, generator), strength, generator)


def random_amounts(name: str, n: int, strength: float, generator: torch.Generator) -> Float[Tensor, " B"]:
    """Amounts of a named attack, evenly from neutral to `strength` of its range, mirrored for two-sided attacks."""
    kind = ATTACKS[name]
    share = strength * torch.rand(n, generator=generator, device=generator.device)
    sign = torch.randint(0, 2, (n,), generator=generator, device=generator.device) * 2 - 1
    if not kind.is_two_sided:
        return kind.neutral + (kind.strongest - kind.neutral) * share
    if kind.neutral == 1:
        return kind.strongest ** (share * sign)
    return kind.strongest * share * sign


def _random_geometry(pictures: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    kind, resizes, scale = torch.rand(3, generator=generator, device=generator.device).tolist()
    height, width = pictures.shape[-2:]
    if kind < _PERSPECTIVE:
        matrices = random_perspectives(len(pictures), width / height, strength, generator)
        pictures = warp(pictures, matrices)
    elif kind < _PERSPECTIVE + _CROP:
        least = min(1.0, (_SMALLEST / min(height, width)) ** 2)
        keep = max(least, float(random_amounts("crop", 1, strength, generator)))
        pictures = attack("crop", pictures, keep, generator)
    if resizes < _RESIZE:
        low, high = (edge**strength for edge in _SCALES)
        least = min(1.0, _SMALLEST / min(pictures.shape[-2:]))
        pictures = attack("resize", pictures, max(least, low * (high / low) ** scale), generator)
    return pictures


def _random_signal(pictures: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Each picture at most one change of values; the kinds are applied to their pictures together."""
    n = len(pictures)
    draw = torch.rand(n, generator=generator, device=generator.device)
    kinds = (draw / (_SIGNAL * strength) * len(_SIGNALS)).long()
    amounts = {name: random_amounts(name, n, strength, generator) for name in _SIGNALS}
    changed = pictures
    for index, name in enumerate(_SIGNALS):
        chosen = (kinds == index).nonzero()[:, 0].to(pictures.device)
        if len(chosen):
            part = attack(name, pictures[chosen], amounts[name][chosen.to(amounts[name].device)], generator)
            changed = changed.index_copy(0, chosen, part)
    return changed


def _random_file(pictures: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    n = len(pictures)
    is_jpeg = torch.rand(n, generator=generator, device=generator.device) < _JPEG
    quality = random_amounts("jpeg", n, strength, generator)
    chosen = is_jpeg.nonzero()[:, 0].to(pictures.device)
    saved = quantise_8bit(pictures)
    if len(chosen):
        part = attack("jpeg", pictures[chosen], quality[chosen.to(quality.device)], generator)
        saved = saved.index_copy(0, chosen, part)
    return saved
