"""Pictures that carry a residual within a fidelity budget: what is optimised, whoever reads it.

The budget is hard: after each step the residual is scaled back to the PSNR it may have. With a weighted fidelity term
instead, the message never started, or the picture never recovered.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

Pictures = Float[Tensor, "B 3 H W"]

_MOMENTUM = 0.6
"""From the feasibility study, as are the steps: large while the residual is young, then half."""
_FIRST_STEP, _LATER_STEP = 0.8, 0.4
_YOUNG = 4


class Carriers:
    """A batch of pictures with residuals of their own.

    Args:
        pictures: [B,3,H,W], values 0 to 1.

    Attributes:
        residual: [B,3,H,W] what is added; `pictures + residual` stays within 0 to 1.
        visits: Steps taken.
    """

    def __init__(self, pictures: Pictures) -> None:
        self.pictures = pictures
        self.residual = torch.zeros_like(pictures)
        self.visits = 0
        self._momentum = torch.zeros_like(pictures)

    def marked(self) -> Pictures:
        """The pictures with their residuals, a leaf that collects gradients."""
        return (self.pictures + self.residual).requires_grad_()

    def update(self, gradient: Pictures, psnr: float, step: float | None = None) -> None:
        """Step against the gradient of a loss, then back into the budget.

        Args:
            gradient: With respect to `marked()`; each picture's is normalised, so that its size does not matter.
            psnr: Fidelity of each picture to be kept at least, dB.
            step: Length of the step as a share of the allowed residual; None for the steps of training.
        """
        allowed = 10 ** (-psnr / 20)
        self._momentum = _MOMENTUM * self._momentum - gradient / _rms(gradient)
        if step is None:
            step = _FIRST_STEP if self.visits < _YOUNG else _LATER_STEP
        moved = self.residual + step * allowed * self._momentum / _rms(self._momentum)
        moved = moved * (allowed / _rms(moved)).clamp(max=1)
        self.residual = (self.pictures + moved).clamp(0, 1) - self.pictures
        self.visits += 1

    def psnr(self) -> Float[Tensor, " B"]:
        """Fidelity of each picture at present, dB."""
        return -20 * _rms(self.residual).view(-1).log10()


def _rms(x: Tensor) -> Tensor:
    """[B,1,1,1] root mean square of each picture; never quite zero."""
    return x.square().mean((1, 2, 3), keepdim=True).sqrt().clamp(min=1e-12)
