"""How near a picture is to another: PSNR, SSIM and, where its weights lie on this machine, LPIPS.

Conventions, the same for `nsx eval`, training logs and reports: images are [H,W,3] floats 0..1 in the colour space
of the files (no linearisation), clamped to 0..1 and not rounded to 8 bits; means over images are means of the values
in dB, not of the errors.
"""

from __future__ import annotations

import hashlib
import importlib.util
import math
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .errors import UserError

MAX_PSNR = 100.0
"""PSNR of equal images, where the formula gives infinity: JSON and means need a number."""
SSIM_WINDOW = 11
LPIPS_BACKBONE = "alexnet-owt-7be5be79.pth"
"""File of torch's hub cache that LPIPS stands on; the name ends in the first digits of its SHA-256."""


def psnr(
    image: Float[Tensor, "H W 3"], reference: Float[Tensor, "H W 3"], mask: Bool[Tensor, "H W"] | None = None
) -> float:
    """Peak signal-to-noise ratio in dB, -10 log10 of the mean squared error, at most 100.

    Args:
        image: The picture to judge; clamped to 0..1.
        reference: What it should be.
        mask: Pixels that count; None counts all.
    Raises:
        UserError: if the sizes differ or no pixel counts.
    """
    _check(image, reference, mask)
    error = (image.clamp(0, 1).double() - reference.clamp(0, 1).double()).square()
    mse = float(error.mean() if mask is None else error[mask].mean())
    return min(MAX_PSNR, -10 * math.log10(mse)) if mse > 0 else MAX_PSNR


def ssim(
    image: Float[Tensor, "H W 3"], reference: Float[Tensor, "H W 3"], mask: Bool[Tensor, "H W"] | None = None
) -> float:
    """Structural similarity, -1..1 (1: equal), as published (Wang et al. 2004) through torchmetrics.

    Gaussian window of 11 pixels, sigma 1.5, K1 = 0.01, K2 = 0.03, data range 1, per channel on colour images, mean over
    pixels and channels; borders are reflected. Images smaller than the window are compared through a uniform window
    of the largest odd size that fits.

    Args:
        image: The picture to judge; clamped to 0..1.
        reference: What it should be.
        mask: Pixels whose windows count; None counts all. The windows themselves see every pixel.
    Raises:
        UserError: if the sizes differ or no pixel counts.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure

    _check(image, reference, mask)
    side = min(image.shape[:2])
    window = SSIM_WINDOW if side >= SSIM_WINDOW else side - 1 + side % 2
    a, b = (x.clamp(0, 1).float().permute(2, 0, 1)[None].contiguous() for x in (image, reference))
    _, full = structural_similarity_index_measure(
        a,
        b,
        gaussian_kernel=side >= SSIM_WINDOW,
        kernel_size=window,
        data_range=1.0,
        return_full_image=True,
    )
    per_pixel = full[0].double().mean(0)
    return float(per_pixel.mean() if mask is None else per_pixel[mask].mean())


def lpips(image: Float[Tensor, "H W 3"], reference: Float[Tensor, "H W 3"]) -> float | None:
    """Learned perceptual distance (AlexNet, torchmetrics; lower is better), or None where it cannot be had offline.

    Nothing is downloaded: torchvision must be installed and its AlexNet weights must lie in torch's hub cache.
    """
    if not has_lpips() or min(image.shape[:2]) < 64:
        return None
    from torchmetrics.functional.image import learned_perceptual_image_patch_similarity

    _check(image, reference, None)
    a, b = (x.clamp(0, 1).float().permute(2, 0, 1)[None].contiguous() for x in (image, reference))
    with torch.no_grad():
        return float(learned_perceptual_image_patch_similarity(a, b, net_type="alex", normalize=True))


def has_lpips() -> bool:
    """Whether `lpips` can give a number on this machine; the weights must have the digest in their name."""
    if importlib.util.find_spec("torchvision") is None:
        return False
    weights = Path(torch.hub.get_dir()) / "checkpoints" / LPIPS_BACKBONE
    if not weights.is_file():
        return False
    stamp = (str(weights), weights.stat().st_size, weights.stat().st_mtime_ns)
    if stamp not in _checked:
        digest = hashlib.sha256(weights.read_bytes()).hexdigest()
        _checked[stamp] = digest.startswith(LPIPS_BACKBONE.rsplit("-", 1)[1].removesuffix(".pth"))
    return _checked[stamp]


_checked: dict[tuple[str, int, int], bool] = {}


def _check(image: Tensor, reference: Tensor, mask: Tensor | None) -> None:
    if image.shape != reference.shape or image.ndim != 3 or 0 in image.shape:
        raise UserError(
            f"cannot compare images of shapes {list(image.shape)} and {list(reference.shape)}",
            fix="Compare images of the same size",
        )
    if mask is not None and not bool(mask.any()):
        raise UserError("the mask hides every pixel", fix="Use a mask with usable pixels")
