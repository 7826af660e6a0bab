"""A prior whose score is known in closed form: pictures scattered normally around one picture per view."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from .pictures import from_latents, to_latents
from .protocol import PriorFacts, Subject, Views, linear_alphas

MeanPictures = Callable[[Views], Float[Tensor, "V 4 S S"]]
"""Premultiplied RGBA of the mean from each view."""


class AnalyticPrior:
    """A `Prior` with mean pictures and one standard deviation; its denoiser is exact.

    With `z = mean + deviation * n` and `noisy = sqrt(a) z + sqrt(1 - a) noise`, both normal, the expected noise is
    `sqrt(1 - a) (noisy - sqrt(a) mean) / (a deviation^2 + 1 - a)`.

    Args:
        mean: The mean pictures.
        side: Their side, pixels.
        deviation: Standard deviation of latents, which lie in -1..1.
    """

    def __init__(self, mean: MeanPictures, side: int, deviation: float = 0.0) -> None:
        self.facts = PriorFacts("analytic", "none needed: it is a formula", side)
        self.alphas_cumprod = linear_alphas()
        self._mean, self._deviation = mean, deviation

    def take_subject(self, subject: Subject) -> None:
        """Nothing to learn."""

    def encode(self, rgb: Tensor, alpha: Tensor, background: Tensor) -> Tensor:
        """Colour and opacity, -1..1; the background is not needed."""
        return to_latents(rgb, alpha, self.facts.side)

    def decode(self, latents: Tensor) -> Tensor:
        """On white."""
        return from_latents(latents)

    @torch.no_grad()
    def denoise(self, noisy: Tensor, steps: Tensor, views: Views, guidance: float) -> Tensor:
        """The expected noise; there is no unconditional mode, so that guidance changes nothing."""
        a = self.alphas_cumprod[steps][:, None, None, None]
        mean = 2 * self._mean(views) - 1
        return (1 - a).sqrt() * (noisy - a.sqrt() * mean) / (a * self._deviation**2 + 1 - a)
