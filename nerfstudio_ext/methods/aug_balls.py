"""The adversary: norm balls around nothing, random starts in them, and projected gradient steps to the worst point.

Nothing here knows what is disturbed. A disturbance ("delta") is a named tensor whose first axis counts what stands on
its own: rays, packed samples or cameras.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

Norm = Literal["linf", "l2"]
Deltas = Mapping[str, Tensor]
TINY = 1e-20
WEIGHT_PROBE = 5e-4
"""Learning rate of the one Adam step that finds the direction of the weight disturbance."""
ADAM_EPS = 1e-8


@dataclass(frozen=True)
class Ball:
    """Where a delta may be, and how it moves.

    Attributes:
        radius: Largest absolute value of an element ("linf") or norm of a row ("l2"), in the units of the delta; a
            number or a tensor that broadcasts against the delta ("linf") or has one value per row ("l2").
        step: Length of an ascent step, of the same kind and unit as the radius.
        iterations: Ascent steps the key takes part in.
        norm: "linf" moves by the sign of the gradient and clamps each element; "l2" moves each row along its unit
            gradient and shortens it to the radius.
        is_friendly: Descend instead of ascend: the disturbance then helps the fit.
    """

    radius: float | Tensor
    step: float | Tensor
    iterations: int = 1
    norm: Norm = "linf"
    is_friendly: bool = False

    def start(self, shape: Sequence[int], generator: torch.Generator) -> Tensor:
        """A random point: uniform in the cube ("linf"), or uniform in direction and length ("l2")."""
        if self.norm == "linf":
            return _uniform(tuple(shape), generator).mul_(self.radius)
        direction = torch.randn(tuple(shape), generator=generator)
        length = torch.rand(shape[0], generator=generator) * self.radius
        return direction * _per_row(length / _row_norms(direction).clamp_min(TINY), direction)

    def moved(self, delta: Tensor, gradient: Tensor) -> Tensor:
        """The delta after one step up the gradient (down, if friendly), back inside the ball."""
        gradient = -gradient if self.is_friendly else gradient
        if self.norm == "linf":
            bound = self.radius
            upper = bound if isinstance(bound, Tensor) else torch.tensor(bound, dtype=delta.dtype)
            return torch.clamp(delta + self.step * gradient.sign(), -upper, upper)
        unit = gradient * _per_row(1 / _row_norms(gradient).clamp_min(TINY), gradient)
        step = self.step if isinstance(self.step, float) else _per_row(self.step, unit)
        stepped = delta + step * unit
        shrink = (self.radius / _row_norms(stepped).clamp_min(TINY)).clamp(max=1)
        return stepped * _per_row(shrink, stepped)


def random_start(
    balls: Mapping[str, Ball], shapes: Mapping[str, Sequence[int]], generator: torch.Generator
) -> dict[str, Tensor]:
    """One random delta per key, drawn in the order of `balls`."""
    return {key: ball.start(shapes[key], generator) for key, ball in balls.items()}


def ascend(
    loss_of: Callable[[Deltas], Tensor], start: Deltas, balls: Mapping[str, Ball], still: Deltas | None = None
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Move all deltas together to where the loss is larger: projected gradient ascent.

    One joint evaluation per iteration; a key moves as long as its own iterations last. Leaves no gradient anywhere.

    Args:
        loss_of: Scalar loss for given deltas, differentiable in them.
        start: The first deltas.
        balls: Ball of each key.
        still: Added to the deltas of the same names in the first evaluation; its slopes are wanted.
    Returns:
        The last deltas, without gradients; and the gradients in `still`.
    Source: Madry et al. 2018; in radiance fields Chen et al. 2022 (Aug-NeRF), section 3.2. With a single start the
        published "keep the worst" rule always keeps the last point, so it needs no further evaluation.
    """
    deltas, slopes = dict(start), dict[str, Tensor]()
    for iteration in range(max([ball.iterations for ball in balls.values()] + [1 if still else 0])):
        moving = [key for key in deltas if iteration < balls[key].iterations]
        leaves = {key: deltas[key].detach().requires_grad_(key in moving) for key in deltas}
        added = {key: delta.detach().requires_grad_() for key, delta in (still or {}).items() if iteration == 0}
        joined = leaves | {key: leaves[key] + added[key] if key in leaves else added[key] for key in added}
        asked = [leaves[key] for key in moving] + list(added.values())
        found = torch.autograd.grad(loss_of(joined), asked, allow_unused=True)
        for key, gradient in zip(moving, found, strict=False):
            if gradient is not None:
                deltas[key] = balls[key].moved(leaves[key].detach(), gradient)
        slopes |= {key: g for key, g in zip(added, found[len(moving) :], strict=True) if g is not None}
    return {key: delta.detach() for key, delta in deltas.items()}, slopes


def weight_disturbance(loss: Tensor, weights: Sequence[nn.Parameter]) -> list[Tensor]:
    """For each weight matrix a change that makes the loss larger, with the norm of the matrix itself.

    One Adam step from a fresh state gives the direction. A matrix that the loss does not reach gets zero.

    Args:
        loss: Scalar loss; its graph is used up.
        weights: Matrices (biases are never disturbed).
    Source: Wu et al. 2020 (adversarial weight perturbation), equation 8, and the released Aug-NeRF code for the step.
    """
    gradients = torch.autograd.grad(loss, list(weights), allow_unused=True)
    disturbances = []
    for weight, gradient in zip(weights, gradients, strict=True):
        w = weight.detach()
        if gradient is None:
            disturbances.append(torch.zeros_like(w))
            continue
        probe = (w + WEIGHT_PROBE * gradient / (gradient.abs() + ADAM_EPS)) - w
        disturbances.append(probe * (w.norm() / (probe.norm() + TINY)))
    return disturbances


def _uniform(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Numbers from -1 to 1 in steps of 2^-15: four from each random word, a third of the time of `uniform_`."""
    n = math.prod(shape)
    words = torch.empty(-(-n // 4), dtype=torch.int64).random_(-(2**63), None, generator=generator)
    return words.view(torch.int16)[:n].to(torch.float32).add_(0.5).mul_(2.0**-15).reshape(shape)


def _row_norms(x: Tensor) -> Tensor:
    return x.flatten(1).norm(dim=1)


def _per_row(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(-1, *[1] * (like.dim() - 1))
