"""What latent-diffusion priors share: pictures to latents and back, the noise, and the memory it takes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from ...errors import UserError

logger = logging.getLogger(__name__)
GB = 1e9
_ENCODE, _DECODE, _DENOISE, _FIELD = 2.5 * GB, 4.5 * GB, 3.0 * GB, 2.5 * GB
"""Working memory at half precision and 512 pixels: the encoder with gradients for one view, the decoder likewise, the
U-Net for both passes of two views, and the field that renders. From counting activations, not measured."""
_CHECKPOINTED = 0.35
"""Share of the working memory that is left when activations are computed again in the backward pass."""
_ONE_BY_ONE = 0.3
"""Share that the U-Net needs when views and passes follow each other and attention is sliced."""
_FULL_SIDE = 512
Result = TypeVar("Result")


class LatentCoder:
    """A variational autoencoder between pictures and latents.

    Args:
        vae: `AutoencoderKL`.
        side: Side of the square pictures it gets, pixels.
        dtype: What it computes in.
    """

    def __init__(self, vae: Any, side: int, dtype: torch.dtype) -> None:
        self.vae = vae
        self.side = side
        self.dtype = dtype
        self.factor = float(vae.config.scaling_factor)

    def save_memory(self) -> None:
        """Work in tiles and slices, and compute activations again in the backward pass."""
        self.vae.enable_tiling()
        self.vae.enable_slicing()
        self.vae.enable_gradient_checkpointing()

    def resized(self, pictures: Float[Tensor, "V 3 H W"]) -> Float[Tensor, "V 3 S S"]:
        """Pictures at the side the model knows; reducing averages, so that nothing aliases."""
        if pictures.shape[-2:] == (self.side, self.side):
            return pictures
        size = (self.side, self.side)
        return functional.interpolate(pictures, size, mode="bilinear", align_corners=False, antialias=True)

    def encode(self, pictures: Float[Tensor, "V 3 H W"]) -> Float[Tensor, "V C h w"]:
        """Latents of pictures 0..1: the mean of the encoder's distribution, scaled; float32, differentiable.

        The mean and not a draw: the noise of a draw is far below what is added next, and a run stays repeatable.
        """
        resized = self.resized(pictures)

        def encoded() -> Tensor:
            return _one_after_another(lambda x: self.vae.encode(x).latent_dist.mode(), (resized * 2 - 1).to(self.dtype))

        return self._finite(encoded) * self.factor

    def decode(self, latents: Float[Tensor, "V C h w"]) -> Float[Tensor, "V 3 S S"]:
        """Pictures 0..1 of latents; float32, differentiable where they are not clipped."""

        def decoded() -> Tensor:
            return _one_after_another(lambda z: self.vae.decode(z).sample, (latents / self.factor).to(self.dtype))

        return (self._finite(decoded) / 2 + 0.5).clamp(0, 1)

    def _finite(self, work: Callable[[], Tensor]) -> Tensor:
        """The result in float32; where half precision overflows the coder moves to float32 for good."""
        value = work()
        if self.dtype is torch.float16 and not bool(torch.isfinite(value).all()):
            logger.warning(
                "the picture coder overflows at half precision: it goes on in float32, with twice the memory"
            )
            self.dtype = torch.float32
            self.vae.to(torch.float32)
            value = work()
        return value.float()


def _one_after_another(work: Callable[[Tensor], Tensor], batch: Float[Tensor, "V ..."]) -> Float[Tensor, "V ..."]:
    """`work` on each item by itself. With gradients, activations are computed again for one item at a time in the
    backward pass, so that memory does not grow with the number of views."""
    items = batch.split(1)
    if len(items) > 1 and torch.is_grad_enabled() and batch.requires_grad:
        return torch.cat([checkpoint(work, item, use_reentrant=False, preserve_rng_state=False) for item in items])
    return torch.cat([work(item) for item in items])


def noise_of(
    prediction: Float[Tensor, "V C h w"], noisy: Float[Tensor, "V C h w"], a: Float[Tensor, "V 1 1 1"], kind: str
) -> Float[Tensor, "V C h w"]:
    """The noise that a network's output stands for.

    Args:
        prediction: The output.
        noisy: What it was given, `sqrt(a) z + sqrt(1 - a) noise`.
        a: Share of the signal's variance.
        kind: `epsilon` (the noise itself), `v_prediction` (`sqrt(a) noise - sqrt(1 - a) z`) or `sample` (`z`).
    Raises:
        UserError: for a kind that no model here has.
    """
    if kind == "epsilon":
        return prediction
    if kind == "v_prediction":
        return a.sqrt() * prediction + (1 - a).sqrt() * noisy
    if kind == "sample":
        return (noisy - a.sqrt() * prediction) / (1 - a).sqrt()
    raise UserError(f"prediction type '{kind}' of the model is unknown", fix="Use a model that predicts noise or v")


def signal_share(alphas: Float[Tensor, " T"], steps: Int64[Tensor, " V"], like: Tensor) -> Float[Tensor, "V 1 1 1"]:
    """`alphas[steps]`, shaped to multiply latents."""
    return alphas.to(like.device)[steps.to(like.device)].reshape(-1, 1, 1, 1).to(like)


def working_precision(device: torch.device | str, half_precision: bool) -> torch.dtype:
    """Half precision on a GPU where it is wanted; processors compute it slowly or not at all."""
    return torch.float16 if half_precision and torch.device(device).type == "cuda" else torch.float32


def weight_bytes(*networks: Any) -> int:
    """Memory that the weights take."""
    return sum(p.numel() * p.element_size() for network in networks for p in network.parameters())


def estimated_bytes(weights: int, side: int, *, with_decoder: bool, low_memory: bool, dtype: torch.dtype) -> float:
    """Peak GPU memory of a lifting step with such a prior; an estimate, see `_ENCODE`.

    Args:
        weights: Bytes of all weights.
        side: Side of the pictures the prior looks at.
        with_decoder: Whether denoised estimates are decoded with gradients, for CLIP guidance.
        low_memory: Whether memory is saved where it can be.
        dtype: What the networks compute in.
    """
    area = (side / _FULL_SIDE) ** 2 * (2 if dtype is torch.float32 else 1)
    encode, decode = _ENCODE * area, _DECODE * area if with_decoder else 0.0
    if low_memory:
        return weights + max((encode + decode) * _CHECKPOINTED, _DENOISE * area * _ONE_BY_ONE) + _FIELD / 2
    return weights + max(encode + decode, _DENOISE * area) + _FIELD


def choose_low_memory(wanted: bool, device: torch.device | str, estimates: tuple[float, float], what: str) -> bool:
    """Whether to save memory: where it is asked for, and where the GPU has less free than the estimate.

    Args:
        wanted: Whether the user asked for it.
        device: Where the prior will run.
        estimates: Bytes with and without.
        what: The prior, for messages.
    Raises:
        UserError: if not even that fits.
    """
    if torch.device(device).type != "cuda":
        return wanted
    free = float(torch.cuda.mem_get_info(torch.device(device))[0])
    if free < estimates[0]:
        raise UserError(
            f"{free / GB:.1f} GB of GPU memory are free; it needs about {estimates[0] / GB:.0f} GB even in low-memory "
            "mode (estimated)",
            where=what,
            fix="Close other programs, choose another prior, or set CUDA_VISIBLE_DEVICES= to compute on the processor",
        )
    if not wanted and free < estimates[1]:
        logger.warning(
            "%s: %.1f GB of GPU memory are free and about %.0f GB would be needed (estimated): low-memory mode",
            what, free / GB, estimates[1] / GB,
        )  # fmt: skip
        return True
    return wanted


def or_with_less_memory(work: Callable[[], Result], save_memory: Callable[[], bool], what: str) -> Result:
    """Do `work`; when the GPU runs out of memory, once more after `save_memory`.

    Args:
        work: May be called twice.
        save_memory: Saves memory from now on; returns False where that was done before.
        what: The prior, for messages.
    Raises:
        UserError: if it does not fit even then.
    """
    try:
        return work()
    except torch.cuda.OutOfMemoryError:
        if not save_memory():
            raise _too_small(what) from None
    logger.warning("%s: the GPU ran out of memory; going on in low-memory mode", what)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    try:
        return work()
    except torch.cuda.OutOfMemoryError:
        raise _too_small(what) from None


def _too_small(what: str) -> UserError:
    return UserError(
        "the GPU has not enough memory, even in low-memory mode", where=what,
        fix="Close other programs, use a smaller --side, or choose another prior",
    )  # fmt: skip
