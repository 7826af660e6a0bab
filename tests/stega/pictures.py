"""Pictures for tests: smooth, textured, with edges; none that the extractor was trained on."""

from __future__ import annotations

import numpy as np
import torch


def sample_picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """[H,W,3] 8-bit: waves of several lengths in colour, and a sharp disc."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width].astype(float)
    picture = np.full((height, width, 3), 0.5)
    for length in (90, 40, 21, 11, 6):
        angle, phase = rng.uniform(0, 2 * np.pi, 2)
        wave = np.sin((x * np.cos(angle) + y * np.sin(angle)) * 2 * np.pi / length + phase)
        picture += 0.012 * length**0.5 * wave[..., None] * rng.uniform(0.4, 1, 3)
    disc = (x - width * rng.uniform(0.3, 0.7)) ** 2 + (y - height / 2) ** 2 < (0.2 * width) ** 2
    picture[disc] = 0.3 * picture[disc] + rng.uniform(0.1, 0.7, 3)
    return (picture.clip(0, 1) * 255).round().astype(np.uint8)


def as_batch(pictures: np.ndarray) -> torch.Tensor:
    """[B,3,H,W] values 0 to 1 of [B,H,W,3] or [H,W,3] 8-bit pictures."""
    batch = pictures if pictures.ndim == 4 else pictures[None]
    return torch.from_numpy(batch.copy()).permute(0, 3, 1, 2).float() / 255


def psnr(a: np.ndarray | torch.Tensor, b: np.ndarray | torch.Tensor) -> float:
    """Of two 8-bit pictures or two batches with values 0 to 1, dB."""
    peak = 255.0 if isinstance(a, np.ndarray) else 1.0
    a, b = (x.copy() if isinstance(x, np.ndarray) else x for x in (a, b))
    difference = torch.as_tensor(a).double() - torch.as_tensor(b).double()
    return float(-10 * torch.log10(difference.square().mean() / peak**2 + 1e-12))
