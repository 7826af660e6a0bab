"""Pictures with marks, and stand-ins for the extractor, for tests of extraction."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch

from nerfstudio_ext.stages.stega.extractor import Extractor, load_extractor
from nerfstudio_ext.stages.stega.keys import FEATURES, Key
from nerfstudio_ext.stages.stega.messages import Message
from nerfstudio_ext.stages.stega.payload import write_code
from nerfstudio_ext.stages.stega.picture_marks import mark_pictures
from nerfstudio_ext.stages.stega.scale_search import View
from tests.stega.pictures import as_batch, sample_picture

SECRET = "owner"
KEY, OWNER = Key(SECRET), Message.from_id("00c0ffee0001")


@cache
def public_extractor() -> Extractor:
    """The one that ships, with memory laid out for fast training steps."""
    return load_extractor().to(memory_format=torch.channels_last)  # type: ignore[call-overload]


@cache
def marked_pictures(side: int, count: int, psnr: float, steps: int = 30) -> np.ndarray:
    """[count,side,side,3] with the owner's identity; do not write to it."""
    bits = write_code(OWNER, KEY)
    pictures = np.stack([sample_picture(side, side, 21 + i) for i in range(count)])
    return mark_pictures(
        public_extractor(), as_batch(pictures), KEY, [bits] * count, psnr=psnr, steps=steps, strength=0.0
    )


class FeatureMaker:
    """Reads features that were made up: those of a mark, strongest at one factor, and noise.

    Args:
        strength: Of the mark against noise of one.
        factors: Number of a picture -> the factor at which its mark shows.
        seed: Of the noise.
    """

    def __init__(self, strength: float, factors: list[float], seed: int = 0) -> None:
        self._strength, self._factors, self._seed = strength, factors, seed
        signs = 2.0 * write_code(OWNER, KEY) - 1
        self._direction = signs @ KEY.projection(len(signs)).astype(np.float64)

    def read(self, pixels: np.ndarray, factor: float) -> np.ndarray:
        number = int(pixels[0, 0, 0])
        rng = np.random.default_rng([self._seed, number, round(1000 * factor)])
        is_right = abs(np.log(factor / self._factors[number])) < 0.1
        return rng.standard_normal(FEATURES) + self._strength * is_right * self._direction


def numbered_views(count: int, sides: list[int] | None = None) -> list[View]:
    """Pictures that say nothing but their number."""
    sides = sides or [100] * count
    return [View(str(i), np.full((side, side, 3), i, np.uint8)) for i, side in enumerate(sides)]
