"""What a scene is trained to show: the part of embedding that differs between code bits and hidden pictures."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from ...errors import UserError
from .extractor import Extractor

_MARGIN = 3.0
_TOGETHER = 4
"""Pictures that have to be enough; bits of unsure pictures add up."""
_GROWTH = 1.7
"""What unseen pictures carry at the end, per bit that attacked ones carry after a third of the steps. Later steps are
shorter, and the last pictures are read without attacks."""

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

    def check(self, right: float) -> None:
        """Give up early, knowing the share that is right after a third of the steps.

        Raises:
            UserError: if the scene will not show what it is to show.
        """

    def finish_step(self, progress: float) -> None:
        """Learn from the gradients since the last step, at a share of all steps that are done."""


class CodeBits:
    """Code bits that a fixed extractor reads under a key.

    Args:
        extractor: Reads the bits later; not changed.
        projection: [N,F] of the key.
        code_of: The signs each view is to show; may be set later, before `loss`.
        needed: Bits that four pictures have to carry together to be read, see `check`; 0 never gives up.
        bfloat16: Run the extractor in 16 bits.
    """

    sees_unmarked = False
    settling = 0.0
    is_local = True
    measure = "of the bits in attacked pictures"

    def __init__(
        self, extractor: Extractor, projection: Float[Tensor, "N F"], code_of: CodeOf | None = None, *,
        needed: int = 0, bfloat16: bool = True,
    ) -> None:  # fmt: skip
        self.extractor = extractor.requires_grad_(False)
        self.projection, self.needed, self.bfloat16 = projection, needed, bfloat16
        self.code_of: CodeOf = code_of or _no_code

    def loss(self, pictures: Float[Tensor, "B 3 H W"], index: int) -> tuple[Tensor, float]:
        """Logistic loss with a margin, and the share of bits that are right."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bfloat16):
            logits = self.extractor.logits(pictures, self.projection)[0].float()
        signs = self.code_of(index)
        right = float((logits.detach() * signs > 0).float().mean())
        return margin_loss(logits, signs), right

    def check(self, right: float) -> None:
        """Refuse scenes that are too plain for the code: what pictures carry so far, carried forward, is too little."""
        carried = _TOGETHER * _GROWTH * capacity(len(self.projection), right)
        if carried < self.needed:
            raise UserError(
                f"the scene is too plain for this payload: {_TOGETHER} pictures of it will carry about {carried:.0f} "
                f"bits, {self.needed} are needed ({right:.0%} of {len(self.projection)} code bits stand after a third "
                "of the steps)",
                fix="Give the mark room: lower --psnr and --worst-psnr, higher --max-loss, or larger pictures (--size)",
            )

    def finish_step(self, progress: float) -> None:
        """Nothing: the extractor stays as it is."""


def _no_code(index: int) -> Tensor:
    raise AssertionError("set code_of first")


def margin_loss(logits: Float[Tensor, " N"], signs: Float[Tensor, " N"]) -> Tensor:
    """Logistic loss of code bits that wants about a third of a unit beyond zero."""
    return functional.softplus(-_MARGIN * signs * logits).mean()


def capacity(n: int, right: float) -> float:
    """Bits that n code bits carry of which each is right with a probability (binary symmetric channel)."""
    wrong = min(max(1 - right, 0.0), 0.5)
    if wrong == 0:
        return float(n)
    return n * (1 + wrong * math.log2(wrong) + (1 - wrong) * math.log2(1 - wrong))
