"""Scores as the GNT paper takes them, beside ours: they are only comparable with published figures this way."""

from __future__ import annotations

import math

from jaxtyping import Float
from torch import Tensor

from ..metrics import ssim

STRIDE, OFFSET = 2, 1e-6
"""Every second pixel in each direction counts, and this is added to the squared error: 60 dB at most."""


class PaperProtocol:
    """Collects scores of renders; pass it to `evaluate` as `also`."""

    ABOUT = "every second pixel, 1e-6 added to the squared error"

    def __init__(self) -> None:
        self._psnrs: list[float] = []
        self._ssims: list[float] = []

    def __call__(self, image: Float[Tensor, "H W 3"], truth: Float[Tensor, "H W 3"]) -> None:
        """Take one render with its photo."""
        seen, wanted = (picture[::STRIDE, ::STRIDE].contiguous() for picture in (image, truth))
        error = float((seen - wanted).square().mean())
        self._psnrs.append(-10 * math.log10(error + OFFSET))
        self._ssims.append(ssim(seen, wanted))

    @property
    def psnr(self) -> float:
        """Mean over the pictures, dB."""
        return math.fsum(self._psnrs) / len(self._psnrs)

    @property
    def ssim(self) -> float:
        """Mean over the pictures."""
        return math.fsum(self._ssims) / len(self._ssims)

    def to_json(self) -> dict[str, object]:
        """Scores with what they are."""
        return {"about": self.ABOUT, "psnr": self.psnr, "ssim": self.ssim, "n": len(self._psnrs)}
