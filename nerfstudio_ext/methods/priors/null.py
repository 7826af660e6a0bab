"""The prior that knows nothing: lifting then has the photo and its smoothness only."""

from __future__ import annotations

from torch import Tensor

from .protocol import PriorFacts, Subject, Views, linear_alphas


class NullPrior:
    """A `Prior` that finds every picture as likely as any other."""

    def __init__(self) -> None:
        self.facts = PriorFacts("null", "none needed: it has no weights", 64, defines_back=False)
        self.alphas_cumprod = linear_alphas()

    def take_subject(self, subject: Subject) -> None:
        """Nothing to learn."""

    def encode(self, rgb: Tensor, alpha: Tensor, background: Tensor) -> Tensor:
        """The pictures on the background."""
        return rgb + (1 - alpha) * background[:, :, None, None]

    def decode(self, latents: Tensor) -> Tensor:
        """The pictures."""
        return latents

    def denoise(self, noisy: Tensor, steps: Tensor, views: Views, guidance: float) -> Tensor:
        """Refuse: there is nothing to follow. Lifting does not ask a prior that does not define the back."""
        raise RuntimeError("the null prior has no score")


def warning(prior_name: str) -> str:
    """The line for people when a prior does not define the back."""
    return f"prior '{prior_name}': what the photo does not show is undefined and will look like anything"
