"""What a scene is trained to show: the part of embedding that differs between code bits and hidden pictures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from .extractor import Extractor

_MARGIN = 3.0

CodeOf = Callable[[int], Float[Tensor, " N"]]
"""Signs (-1 or 1) of the code bits that a view, given by its number, is to show."""


class Objective(Protocol):
    """Says what is wrong with attacked pictures.

    Attributes:
        sees_unmarked: Whether each marked picture comes with the same view without its mark.
        is_local: Whether plain surroundings of an object do not matter, so that they need not be looked at.
        settling: Steps to go on learning once the scene is finished, as a share of the steps before.
        measure: What the share that `loss` returns is a share of, such as "of the bits in attacked pictures".
    """

    sees_unmarked: bool
    settling: float
    is_local: bool
    measure: str

    def loss(self, pictures: Float[Tensor, "B 3 H W"], index: int) -> tuple[Tensor, float]:
        """Loss of one view, and the share that is right already.

        Args:
            pictures: The marked picture after attacks; with `sees_unmarked` the unmarked one after the same attacks.
            index: Number of the view.
        """

    def finish_step(self, progress: float) -> None:
        """Learn from the gradients since the last step, at a share of all steps that are done."""


class CodeBits:
    """Code bits that a fixed extractor reads under a key.

    Args:
        extractor: Reads the bits later; not changed.
        projection: [N,F] of the key.
        code_of: The signs each view is to show.
        bfloat16: Run the extractor in 16 bits.
    """

    sees_unmarked = False
    settling = 0.0
    is_local = True
    measure = "of the bits in attacked pictures"

    def __init__(
        self, extractor: Extractor, projection: Float[Tensor, "N F"], code_of: CodeOf, *, bfloat16: bool = True
    ) -> None:
        self.extractor = extractor.requires_grad_(False)
        self.projection, self.code_of, self.bfloat16 = projection, code_of, bfloat16

    def loss(self, pictures: Float[Tensor, "B 3 H W"], index: int) -> tuple[Tensor, float]:
        """Logistic loss with a margin, and the share of bits that are right."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bfloat16):
            logits = self.extractor.logits(pictures, self.projection)[0].float()
        signs = self.code_of(index)
        right = float((logits.detach() * signs > 0).float().mean())
        return functional.softplus(-_MARGIN * signs * logits).mean(), right

    def finish_step(self, progress: float) -> None:
        """Nothing: the extractor stays as it is."""
