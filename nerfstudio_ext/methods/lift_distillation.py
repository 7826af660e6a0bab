"""Score distillation as a loss: how a denoiser that knows pictures pulls on rendered ones (Poole et al. 2022).

The gradient is written as the gradient of `0.5 |z - stopgrad(z - g)|^2`. It then takes part in the one backward pass of
all losses, scaled like them; handed over on the side, as in the official code, it is lost where losses are scaled.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from .lift_losses import clip_distance
from .priors import Prior, Views

ImageEncoder = Callable[[Float[Tensor, "V 3 H W"]], Float[Tensor, "V E"]]
"""Unit embeddings of pictures 0..1, differentiable."""
Weighting = Literal["paper", "clean"]


@dataclass(frozen=True)
class NoiseRange:
    """From which noise levels steps are drawn, as shares 0..1 of the schedule, at the begin and at the end.

    Attributes:
        low: Least noise (begin, end).
        high: Most noise (begin, end).
        until: Share of the training after which the end is reached.
    """

    low: tuple[float, float]
    high: tuple[float, float]
    until: float = 1.0

    def at(self, progress: float) -> tuple[float, float]:
        """Least and most noise at a share of the training."""
        share = min(1.0, max(0.0, progress) / max(self.until, 1e-9))
        low, high = (a + share * (b - a) for a, b in (self.low, self.high))
        return min(low, high), high

    def draw(self, progress: float, n: int, n_steps: int, generator: torch.Generator) -> Tensor:
        """n noise steps of a schedule of n_steps."""
        low, high = self.at(progress)
        shares = low + (high - low) * torch.rand(n, generator=generator)
        return (shares * (n_steps - 1)).round().long()


@dataclass(frozen=True)
class Distilled:
    """What the prior made of rendered pictures.

    Attributes:
        loss: Differentiable in the pictures.
        latents: Of the pictures; differentiable.
        clean: The prior's estimate of what they should be, no gradient.
        signal: Share of the signal's variance at the drawn noise, for each picture.
    """

    loss: Float[Tensor, ""]
    latents: Float[Tensor, "V C h w"]
    clean: Float[Tensor, "V C h w"]
    signal: Float[Tensor, " V"]


def distil(
    prior: Prior,
    latents: Float[Tensor, "V C h w"],
    steps: Tensor,
    views: Views,
    guidance: float,
    weighting: Weighting,
    generator: torch.Generator,
    pixel_weights: Float[Tensor, "V 1 h w"] | None = None,
) -> Distilled:
    """Add noise to latents, let the prior take it away, and pull the latents to where it leads.

    `g = (1 - a) (noise_hat - noise)` and its sum over a picture, as in the paper; or `g = z - z_hat`, the distance to
    the clean estimate, and its mean over a picture: it has the same direction and does not fade at low noise.

    Args:
        prior: Knows the pictures.
        latents: z.
        steps: Noise step of each picture.
        views: Where each is seen from.
        guidance: See `Prior.denoise`.
        weighting: See above.
        generator: Draws the noise.
        pixel_weights: Factors on g.
    """
    z = latents.detach()
    signal = prior.alphas_cumprod[steps]
    a = signal[:, None, None, None]
    noise = torch.randn(z.shape, generator=generator).to(z)
    noisy = a.sqrt() * z + (1 - a).sqrt() * noise
    found = prior.denoise(noisy, steps, views, guidance)
    clean = (noisy - (1 - a).sqrt() * found) / a.sqrt()
    gradient = (1 - a) * (found - noise) if weighting == "paper" else z - clean
    # One broken picture of a half-precision model must not end the training.
    gradient = torch.nan_to_num(gradient, 0.0, 0.0, 0.0)
    if pixel_weights is not None:
        gradient = gradient * pixel_weights
    distance = 0.5 * (latents - (z - gradient)).square()
    loss = distance.sum() / len(z) if weighting == "paper" else distance.mean()
    return Distilled(loss, latents, torch.nan_to_num(clean, 0.0, 0.0, 0.0), signal)


def clip_guidance(
    prior: Prior, distilled: Distilled, encoder: ImageEncoder, wanted: Float[Tensor, "1 E"]
) -> Float[Tensor, ""]:
    """Pull the clean estimate towards an embedding of the photo, through the latents it was made from.

    To be descended like every loss: the distance then falls. The official code descends its negative.

    Args:
        prior: Decodes the estimate.
        distilled: The estimate.
        encoder: Embeds pictures.
        wanted: Unit embedding of the photo.
    Returns:
        Mean over pictures of `(1 - a) distance`, differentiable in the latents.
    """
    # The estimate moves with the latents one to one while the predicted noise stays.
    estimate = distilled.clean + distilled.latents - distilled.latents.detach()
    embeddings = encoder(prior.decode(estimate))
    return ((1 - distilled.signal) * clip_distance(embeddings, wanted.expand_as(embeddings))).mean()
