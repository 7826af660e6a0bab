"""What a mark does to pictures: marked against unmarked, and both against photos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

from ...metrics import psnr, ssim
from ...scenes.model import Scene
from ...training.evaluate import truth_image

Picture = UInt8[np.ndarray, "H W 3"]


@dataclass(frozen=True)
class Likeness:
    """How near two sets of pictures are, mean over the pictures.

    Attributes:
        psnr: dB.
        worst_psnr: Of the worst picture, dB.
        ssim: -1..1.
    """

    psnr: float
    worst_psnr: float
    ssim: float


def likeness(pictures: Sequence[Picture], references: Sequence[Tensor]) -> Likeness:
    """Compare 8-bit pictures with references [H,W,3] of values 0..1."""
    shown = [as_floats(picture) for picture in pictures]
    ratios = [psnr(a, b) for a, b in zip(shown, references, strict=True)]
    similar = [ssim(a, b) for a, b in zip(shown, references, strict=True)]
    return Likeness(float(np.mean(ratios)), min(ratios), float(np.mean(similar)))


def as_floats(picture: Picture) -> Float[Tensor, "H W 3"]:
    """Values 0..1 of an 8-bit picture."""
    return torch.from_numpy(np.array(picture)).float() / 255


def photo_at_size(scene: Scene, position: int, width: int, height: int) -> Float[Tensor, "H W 3"]:
    """A photo over the scene's background, scaled by area."""
    photo = truth_image(scene, position).permute(2, 0, 1)[None]
    resized = functional.interpolate(photo, (height, width), mode="bilinear", antialias=True, align_corners=False)
    return resized[0].permute(1, 2, 0)
