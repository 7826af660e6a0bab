"""Features of pictures at the sizes they may have been marked at.

A mark lies in coloured blobs of a certain size in pixels, and who resizes a picture resizes them. The extractor reads
them within about 15 % of that size, so a picture is brought back by a few factors and read at each. The factors are
searched: an average over them reads less than the right one alone.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float64, UInt8
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional

from ...errors import UserError
from .extractor import MIN_SIDE, Extractor

FACTOR_SHARES = {1.0: 1 / 2, 1.4: 3 / 32, 0.7: 3 / 32, 2.0: 3 / 32, 0.5: 3 / 32, 1.19: 1 / 16, 0.84: 1 / 16}
"""Resizing before reading, in the order in which it is tried -> share of the false alarms allowed. Most pictures keep
their size. 1.19 and 0.84 stand half way between others: they gain what 1 % of the bits are worth and come last."""
LONGEST_SIDE = 1024
"""Larger pictures are reduced to this first, in pixels; so are those in which a scene is marked. It bounds the time,
and common sizes of captures (800 x 800, 1008 x 756) stay as they are."""
_SMALLEST = 40
"""Shortest side, in pixels, that a picture is reduced to: what the extractor was trained on at least."""
_SAME = 1.12
"""Factors closer to each other than this ratio read the same."""
_KEPT_PICTURES = 32
"""More pictures than these are read at every factor at once, so that their pixels need not be kept."""


@dataclass(frozen=True)
class View:
    """One picture to look at.

    Attributes:
        name: What to call it.
        pixels: [H,W,3] sRGB, 8 bit.
        reduction: By how much it has been made smaller already, 1 or less; only counted into the scale reported.
    """

    name: str
    pixels: UInt8[np.ndarray, "H W 3"]
    reduction: float = 1.0


def check_size(width: int, height: int, where: object) -> None:
    """Refuse pictures that are too small, also once `LONGEST_SIDE` has been applied.

    Raises:
        UserError: with the size.
    """
    short = min(width, height) * min(1.0, LONGEST_SIDE / max(width, height, 1))
    if short < MIN_SIDE:
        why = f"{MIN_SIDE} are needed" if min(width, height) < MIN_SIDE else "it is too long and narrow"
        raise UserError(f"{width} x {height} pixels: {why}", where=where, fix="Use a larger picture, or a part of it")


def bounded_size(width: int, height: int) -> tuple[int, int]:
    """Width and height with no side over `LONGEST_SIDE`."""
    factor = min(1.0, LONGEST_SIDE / max(width, height))
    return max(1, round(width * factor)), max(1, round(height * factor))


class FeatureReader:
    """An extractor made ready for this machine.

    Convolutions run in 16 bits where the processor has matrix units for them: 2.5 times faster, and the features
    change by a hundredth of their spread.

    Args:
        extractor: Is not changed.
        is_16_bit: None: as the machine can.
    """

    def __init__(self, extractor: Extractor, *, is_16_bit: bool | None = None) -> None:
        self._extractor = copy.deepcopy(extractor).eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._is_16_bit = has_matrix_units() if is_16_bit is None else is_16_bit

    @torch.inference_mode()
    def read(self, pixels: UInt8[np.ndarray, "H W 3"], factor: float) -> Float64[np.ndarray, " F"]:
        """Feature [128] of a picture that is first resized by a factor."""
        size = [max(1, round(side * factor)) for side in pixels.shape[:2]]
        with torch.autocast("cpu", torch.bfloat16, enabled=self._is_16_bit):
            picture = torch.from_numpy(np.array(pixels)).permute(2, 0, 1)[None].float() / 255
            if size != list(pixels.shape[:2]):
                picture = functional.interpolate(
                    picture, size, mode="bicubic", antialias=factor < 1, align_corners=False
                )
            return self._extractor(picture.contiguous(memory_format=torch.channels_last))[0].double().numpy()


class FeatureTable:
    """Features of several pictures by factor, computed when they are first asked for.

    Attributes:
        names: Of the pictures.
        reductions: By how much each was made smaller before it is resized by a factor.
    """

    def __init__(self, reader: FeatureReader) -> None:
        self.names: list[str] = []
        self.reductions: list[float] = []
        self._reader = reader
        self._pixels: list[UInt8[np.ndarray, "H W 3"] | None] = []
        self._sizes: list[tuple[int, int]] = []
        self._features: dict[tuple[int, float], NDArray[np.float64]] = {}

    def __len__(self) -> int:
        return len(self.names)

    def add(self, view: View) -> None:
        """Take in a picture and read it at its own size.

        Raises:
            UserError: if it is too small.
        """
        assert view.pixels.dtype == np.uint8 and view.pixels.ndim == 3 and view.pixels.shape[2] == 3
        height, width = view.pixels.shape[:2]
        check_size(width, height, view.name)
        size = bounded_size(width, height)
        pixels = view.pixels
        if size != (width, height):
            pixels = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BOX))
        index = len(self.names)
        self.names.append(view.name)
        self.reductions.append(view.reduction * max(size) / max(width, height))
        self._sizes.append(size)
        self._pixels.append(pixels)
        for factor in (1.0,) if index < _KEPT_PICTURES else tuple(FACTOR_SHARES):
            self.feature(index, factor)
        if index >= _KEPT_PICTURES:
            self._pixels[index] = None

    def factor(self, index: int, wanted: float) -> float | None:
        """The factor that can be had in place of a wanted one.

        Marked pictures have no side over `LONGEST_SIDE`, so none needs to be enlarged beyond it.

        Returns:
            None where the picture would be too small, or is the same as at its own size.
        """
        width, height = self._sizes[index]
        factor = min(wanted, max(1.0, LONGEST_SIDE / max(width, height)))
        if wanted > 1 and factor < _SAME or min(width, height) * factor < _SMALLEST:
            return None
        return factor

    def feature(self, index: int, wanted: float) -> NDArray[np.float64] | None:
        """[128] of one picture at a factor; None as in `factor`, or when the pixels are no longer kept."""
        factor = self.factor(index, wanted)
        pixels = self._pixels[index]
        if factor is None or ((index, factor) not in self._features and pixels is None):
            return None
        if (index, factor) not in self._features and pixels is not None:
            self._features[index, factor] = self._reader.read(pixels, factor)
        return self._features[index, factor]

    def trial(self, wanted: Sequence[float], share: float) -> Trial | None:
        """The mean over pictures, each at its factor (0: left out); None where not even one can be had."""
        features = [self.feature(index, factor) if factor else None for index, factor in enumerate(wanted)]
        known = [feature for feature in features if feature is not None]
        if not known:
            return None
        had = ((self.factor(i, wanted[i]) or 0.0) if f is not None else 0.0 for i, f in enumerate(features))
        common = wanted[0] if len(set(wanted)) == 1 else None
        return Trial(tuple(had), np.mean(known, axis=0), share, common)

    def trials(self, share: float = 1.0) -> Iterator[Trial]:
        """All pictures at one factor; those that are likely first, and computed one by one."""
        yield from self._distinct([[wanted] * len(self) for wanted in FACTOR_SHARES], share)

    def equal_size_trials(self, share: float) -> Iterator[Trial]:
        """As if pictures of several sizes had all been of one: for copies of several sizes."""
        longest = [max(size) for size in self._sizes]
        if max(longest) > _SAME * min(longest):
            yield from self._distinct([[f * max(longest) / side for side in longest] for f in FACTOR_SHARES], share)

    def _distinct(self, factors: list[list[float]], share: float) -> Iterator[Trial]:
        seen: set[tuple[float | None, ...]] = set()
        for wanted, own_share in zip(factors, FACTOR_SHARES.values(), strict=True):
            had = tuple(self.factor(index, factor) for index, factor in enumerate(wanted))
            if had in seen:
                continue
            seen.add(had)
            trial = self.trial(wanted, share * own_share)
            if trial is not None:
                yield trial


@dataclass(frozen=True)
class Trial:
    """One look at all pictures together.

    Attributes:
        factors: By which each picture was resized; 0 where it was left out.
        feature: [128] mean over the pictures.
        share: Of the false alarms allowed; the shares of all trials that could be made sum to at most 1.
        common: The factor that was wanted for all pictures; None where each has its own.
    """

    factors: tuple[float, ...]
    feature: NDArray[np.float64]
    share: float
    common: float | None = None


@cache
def has_matrix_units() -> bool:
    """Whether the processor multiplies matrices of 16-bit numbers in hardware (AMX)."""
    try:
        return " amx_bf16" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
