"""Marks in single pictures, optimised directly: how an extractor is judged, and the upper bound for marks in scenes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from .attacks import attack_file
from .bch import Bits
from .carriers import Carriers
from .curriculum import random_attacks
from .extractor import Extractor
from .keys import Key

_MARGIN = 3.0
_FIRST_STEP, _LAST_STEP = 0.4, 0.03
"""Shares of the allowed residual; with the constant steps of training, a tenth more of the bits stay wrong."""
JUDGED_BY: dict[str, tuple[str, float]] = {
    "clean": ("noise", 0), "JPEG q75": ("jpeg", 75), "JPEG q50": ("jpeg", 50), "0.75x": ("resize", 0.75),
    "1.3x": ("resize", 1.3), "0.5x": ("resize", 0.5), "crop 50 %": ("crop", 0.5), "noise 0.05": ("noise", 0.05),
    "blur 1": ("blur", 1.0), "brightness 1.2": ("brightness", 1.2), "rotation 5": ("rotate", 5.0),
    "shift 3": ("shift", 3.0),
}  # fmt: skip
"""Attack and amount by the name it has in tables."""


def mark_pictures(
    extractor: Extractor, pictures: Float[Tensor, "B 3 H W"], key: Key, bits: Sequence[Bits], *, psnr: float,
    steps: int = 100, strength: float = 1.0, seed: int = 0,
) -> UInt8[np.ndarray, "B H W 3"]:  # fmt: skip
    """Put code bits into pictures.

    Args:
        extractor: Reads them later; it is not changed.
        pictures: Values 0 to 1.
        key: Where in feature space the bits go.
        bits: Code bits of each picture, all of one length.
        psnr: Fidelity that is kept, dB.
        steps: Steps of optimisation; attacks grow over the first half, up to
        strength: of them, 0 (none) to 1.
        seed: Of the attacks.
    Returns:
        8-bit pictures.
    """
    projection = torch.from_numpy(key.projection(len(bits[0])))
    signs = 2.0 * torch.from_numpy(np.stack(bits)).float() - 1
    generator = torch.Generator().manual_seed(seed)
    carriers = Carriers(pictures)
    for step in range(steps):
        marked = carriers.marked()
        attacked = random_attacks(marked, strength * min(1.0, 2 * step / steps), generator)
        loss = functional.softplus(-_MARGIN * signs * extractor.logits(attacked, projection)).mean()
        (gradient,) = torch.autograd.grad(loss, marked)
        carriers.update(gradient, psnr, _FIRST_STEP * (1 - step / steps) + _LAST_STEP)
    final = carriers.pictures + carriers.residual
    return (final * 255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()


@torch.no_grad()
def read_features(extractor: Extractor, pictures: Sequence[UInt8[np.ndarray, "H W 3"]]) -> NDArray[np.float64]:
    """[B,128] features of 8-bit pictures; sizes may differ."""
    tensors = (torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 255 for picture in pictures)
    return torch.cat([extractor(tensor) for tensor in tensors]).double().numpy()


def logits_after(
    extractor: Extractor, marked: UInt8[np.ndarray, "B H W 3"], key: Key, n_bits: int,
    attacks: Mapping[str, tuple[str, float]] | None = None,
) -> dict[str, NDArray[np.float64]]:  # fmt: skip
    """What is read from marked pictures after attacks with real codecs.

    Args:
        extractor: Reads the pictures.
        marked: From `mark_pictures`.
        key: As in `mark_pictures`.
        n_bits: Code bits.
        attacks: Name in the result -> name and amount for `attack_file`; None for `JUDGED_BY`.
    Returns:
        [B,n_bits] for each name.
    """
    projection = key.projection(n_bits).astype(np.float64)
    logits = {}
    for name, (kind, amount) in (JUDGED_BY if attacks is None else attacks).items():
        suffering = [attack_file(kind, picture, amount, seed=index) for index, picture in enumerate(marked)]
        logits[name] = read_features(extractor, suffering) @ projection.T
    return logits
