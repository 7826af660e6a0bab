"""A training batch on its way through a method: whole, or in parts that add their gradients where memory is short."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import TypeVar

import torch
from torch import Tensor

from ..errors import UserError
from ..memory import HALVINGS, is_out_of_memory, release_memory
from ..methods.protocol import Batches, CanDivide, Method, Share
from ..rays import Rays
from ..scenes.pixel_sampler import PixelBatch
from .tensor_checks import all_finite

Result = TypeVar("Result")


@dataclass(frozen=True)
class Pass:
    """What a batch gave; its gradients are in the parameters, where there are any.

    Attributes:
        loss: Sum of the losses.
        found: Named losses, "mse" among them.
        has_gradients: Whether there was anything to learn from.
        is_usable: Whether the gradients may be used.
    """

    loss: float
    found: Mapping[str, float]
    has_gradients: bool
    is_usable: bool = False


class Parts:
    """In how many parts batches go through the method: doubled whenever memory runs out, never fewer again.

    Args:
        tell: Gets one line for the user each time.
    """

    def __init__(self, tell: Callable[[str], None]) -> None:
        self.n = 1
        self._tell = tell

    def fitting(self, batch: PixelBatch, work: Callable[[int], Result], undo: Callable[[], None]) -> Result:
        """Do `work`, again with twice the parts as long as memory runs out.

        Args:
            batch: What the work is on.
            work: Gets the number of parts; changes nothing that `undo` cannot take back.
            undo: Takes a failed attempt back.
        Raises:
            UserError: if it does not fit in the smallest parts either, or the batch cannot be divided.
        """
        while True:
            try:
                return work(self.n)
            except (MemoryError, RuntimeError, OSError) as error:
                if not is_out_of_memory(error):
                    raise
            # Only here, outside the handler, has the failed attempt given its memory back.
            undo()
            release_memory()
            self._halve(batch)

    def _halve(self, batch: PixelBatch) -> None:
        is_divisible = type(batch) is PixelBatch  # other kinds hold whole pictures
        if not is_divisible or self.n >= 2**HALVINGS or 2 * self.n > len(batch):
            part = f"{max(1, len(batch) // self.n)} rays at once" if is_divisible else "whole pictures"
            raise UserError(
                f"not enough memory to train, even with {part}; the last checkpoint is kept",
                fix="Close other programs, or train a smaller model or with smaller pictures (--downscale-factor)",
            )
        self.n *= 2
        self._tell(f"out of memory: batches now go through in {self.n} parts; their size stays, steps take longer")


def draw(sampler: Batches, n_rays: int, device: torch.device, share: Share | None = None) -> tuple[Rays, PixelBatch]:
    """The next batch and its rays, on a device; of several processes each gets its share."""
    if share is not None and isinstance(sampler, CanDivide):
        batch = sampler.next_part(n_rays, share.part(n_rays))
    else:
        batch = sampler.next(n_rays)
    rays = sampler.rays(batch)
    return (rays, batch) if device.type == "cpu" else (rays.to(device), batch.to(device))


def forward(method: Method, rays: Rays, batch: PixelBatch, number: int) -> tuple[dict[str, Tensor], Tensor]:
    """The named losses of a batch, and the sum of those that count."""
    losses = method.train_step(rays, batch, number)
    terms = [value for name, value in losses.items() if name != "mse"]
    return losses, sum(terms[1:], terms[0])


def one_pass(
    method: Method, rays: Rays, batch: PixelBatch, number: int, judge_loss: Callable[[float], bool], n_parts: int
) -> Pass:
    """Losses and gradients of a batch.

    Args:
        method: The method.
        rays: Of the batch.
        batch: The batch.
        number: Steps done before.
        judge_loss: Whether a loss can be trained on.
        n_parts: Parts that it goes through in.
    """
    if n_parts > 1:
        done = accumulate(method, rays, batch, number, n_parts)
        return replace(done, is_usable=done.has_gradients and judge_loss(done.loss) and has_finite_gradients(method))
    losses, total = forward(method, rays, batch, number)
    found = {name: float(value.detach()) for name, value in losses.items()}
    done = Pass(float(total.detach()), found, total.requires_grad)
    if not done.has_gradients or not judge_loss(done.loss):
        return done
    total.backward()
    return replace(done, is_usable=has_finite_gradients(method))


def has_finite_gradients(method: Method) -> bool:
    """Whether no gradient is NaN or infinite."""
    return all_finite(p.grad for group in method.param_groups() for p in group.params if p.grad is not None)


def accumulate(method: Method, rays: Rays, batch: PixelBatch, number: int, n_parts: int) -> Pass:
    """Mean losses and gradients of a batch that goes through the method in parts.

    Losses are means over rays, so each part counts by its share of them: the gradients are those of the whole batch,
    but for rounding and for what the method draws at random.
    """
    n, loss, found, has_gradients = len(rays), 0.0, dict[str, float](), False
    for k in range(n_parts):
        part = slice(n * k // n_parts, n * (k + 1) // n_parts)
        weight = (part.stop - part.start) / n
        losses, total = forward(method, rays[part], _part_of(batch, part), number)
        loss += weight * float(total.detach())
        for name, value in losses.items():
            found[name] = found.get(name, 0.0) + weight * float(value.detach())
        if total.requires_grad:
            has_gradients = True
            (weight * total).backward()
    return Pass(loss, found, has_gradients)


def _part_of(batch: PixelBatch, part: slice) -> PixelBatch:
    tensors = {field.name: getattr(batch, field.name) for field in fields(batch)}
    return replace(batch, **{name: value[part] for name, value in tensors.items() if isinstance(value, Tensor)})
