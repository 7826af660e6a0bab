"""One training step after another: batch, losses, gradients, guard, optimiser; and the state between steps."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, runtime_checkable

from torch import Tensor

from ..errors import TrainingFailed
from ..methods.protocol import Batches, Method
from ..rays import Rays
from .guard import StepGuard, Verdict
from .runs import load_weights
from .tensor_checks import all_finite
from .train_state import (
    TrainState,
    below_prefix,
    copied,
    load_optimizer_tensors,
    make_optimizer,
    optimizer_tensors,
    to_scalar,
    with_prefix,
)

logger = logging.getLogger(__name__)


@runtime_checkable
class CanWarmUp(Protocol):
    """A method that can compile its kernels ahead of time."""

    def warm_up(self) -> None:
        """Compile or load every kernel that training and rendering will use; changes no state."""


class Stepper:
    """Owns what changes in a training step: the method's weights, the optimiser and the random states.

    Args:
        method: The method.
        sampler: Source of batches.
        guard: Judges every step.
        max_rollbacks: Returns to the last good state before giving up.
        on_rollback: Gets one line for the user at each return.
    """

    def __init__(
        self,
        method: Method,
        sampler: Batches,
        guard: StepGuard,
        max_rollbacks: int,
        on_rollback: Callable[[str], None],
    ) -> None:
        self.method, self.sampler, self.guard = method, sampler, guard
        self.groups = method.param_groups()
        self.optimizer = make_optimizer(self.groups)
        self._parameters = [p for group in self.groups for p in group.params]
        self._device = self._parameters[0].device
        self._max_rollbacks = max_rollbacks
        self._on_rollback = on_rollback
        self.last_good: TrainState | None = None
        self.rate = 0.0
        """Factor on the learning rates in the last step."""
        self.user_rate = 1.0
        """Factor that somebody who watches asked for."""

    def step(self, number: int, progress: float) -> tuple[dict[str, float], int]:
        """Do one step.

        Args:
            number: Steps done before.
            progress: Share 0..1 of the planned training that is done; sets the learning rate.
        Returns:
            Named losses with their sum as "loss", and the number of rays; no losses when the step was not usable.
        Raises:
            TrainingFailed: if even the last good states lead to unusable steps.
        """
        rays, losses, total = self._forward(number)
        loss = float(total.detach())
        values: dict[str, float] = {}
        if total.requires_grad and self._is_usable(total, loss, number):
            self.rate = self.method.lr_factor(progress) * self.guard.rate * self.user_rate
            for group in self.optimizer.param_groups:
                group["lr"] = group["peak_lr"] * self.rate
            self.optimizer.step()
            self.guard.good(loss)
            values = {name: float(value.detach()) for name, value in losses.items()}
            values["loss"] = loss
        self.optimizer.zero_grad(set_to_none=True)
        self.method.after_step(number)
        return values, len(rays)

    def warm_up(self, number: int) -> None:
        """Compile what the first step needs, by doing it once and taking it back."""
        if isinstance(self.method, CanWarmUp):
            self.method.warm_up()
        before = self.capture()
        _, _, total = self._forward(number)
        if total.requires_grad:
            total.backward()
        self.optimizer.zero_grad(set_to_none=True)
        self.restore(before, where=Path())
        self.last_good = before

    def capture(self) -> TrainState:
        """Copy the state between two steps."""
        trainer = {
            **with_prefix("optimizer", optimizer_tensors(self.optimizer, self.groups)),
            **with_prefix("sampler", self.sampler.state_dict()),
            **with_prefix("guard", self.guard.state()),
            "method/n_rays": to_scalar(int(self.method.n_rays)),
        }
        return TrainState(copied(self.method.state_dict()), copied(trainer))

    def restore(self, state: TrainState, *, where: Path) -> None:
        """Go back to a captured state.

        Raises:
            UserError: if it does not fit the method.
        """
        self._restore_weights(state, where)
        self.sampler.load_state_dict(below_prefix("sampler", state.trainer))
        self.guard.load_state(below_prefix("guard", state.trainer))

    def roll_back(self, reason: str) -> None:
        """Return to the last good weights and optimiser at half the rate; batches go on with fresh ones.

        Raises:
            TrainingFailed: after too many returns, or when there is nothing to return to.
        """
        if self.last_good is None or self.guard.n_rollbacks >= self._max_rollbacks:
            raise TrainingFailed(
                f"training failed: {reason}, after {self.guard.n_rollbacks} returns to the last good state. "
                "The last good checkpoint is kept. Lower the learning rate, or look for damaged poses or images."
            )
        self._restore_weights(self.last_good, Path())
        self.guard.rolled_back()
        self._on_rollback(f"{reason}: back to the last good state, learning rate now x{self.guard.rate:g}")

    def _restore_weights(self, state: TrainState, where: Path) -> None:
        load_weights(self.method, state.weights, where=where)
        load_optimizer_tensors(self.optimizer, self.groups, below_prefix("optimizer", state.trainer))
        self.method.n_rays = int(state.trainer["method/n_rays"])

    def _forward(self, number: int) -> tuple[Rays, dict[str, Tensor], Tensor]:
        batch = self.sampler.next(self.method.n_rays)
        rays = self.sampler.rays(batch)
        if self._device.type != "cpu":
            batch, rays = batch.to(self._device), rays.to(self._device)
        losses = self.method.train_step(rays, batch, number)
        terms = [value for name, value in losses.items() if name != "mse"]
        return rays, losses, sum(terms[1:], terms[0])

    def _is_usable(self, total: Tensor, loss: float, number: int) -> bool:
        """Compute the gradients; False (counted, perhaps rolled back) when the step would ruin the weights."""
        if self.guard.judge_loss(loss):
            total.backward()
            if all_finite(p.grad for p in self._parameters if p.grad is not None):
                return True
        logger.warning("step %d skipped: the loss (%g) or its gradient is unusable", number, loss)
        if self.guard.bad() is Verdict.ROLL_BACK:
            self.roll_back(f"{self.guard.limit} unusable steps in a row (last loss {loss:.3g})")
        return False
