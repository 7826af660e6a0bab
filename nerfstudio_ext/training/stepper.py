"""One training step after another: batch, losses, gradients, guard, optimiser; and the state between steps."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, runtime_checkable

from torch import Tensor

from ..errors import TrainingFailed
from ..methods.protocol import Batches, CanShare, Method
from ..rays import Rays
from .gradients import gradient_mean
from .guard import StepGuard, Verdict
from .runs import load_weights
from .team import Order, Team
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
        team: The processes that train together; None where this one trains alone.
    """

    def __init__(
        self,
        method: Method,
        sampler: Batches,
        guard: StepGuard,
        max_rollbacks: int,
        on_rollback: Callable[[str], None],
        team: Team | None = None,
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
        self.is_asked_to_stop = False
        """Whether another process was told to stop."""
        self.team = team
        self._has_news = True
        if team is not None and isinstance(method, CanShare):
            method.take_share(team)
            self._mean_gradients = gradient_mean(team, self._parameters)

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
        if self.team is not None and self.team.is_leading:
            self._tell(self.team, Order("step", number, progress, self.user_rate))
        rays, losses, total = self._forward(number)
        loss = float(total.detach())
        found = {name: float(value.detach()) for name, value in losses.items()}
        weight = 1.0
        if self.team is not None:
            weight, loss, found = self._means(self.team, len(rays), loss, found)
        values: dict[str, float] = {}
        if total.requires_grad and self._is_usable(total, loss, number, weight):
            self.rate = self.method.lr_factor(progress) * self.guard.rate * self.user_rate
            for group in self.optimizer.param_groups:
                group["lr"] = group["peak_lr"] * self.rate
            self.optimizer.step()
            self.guard.good(loss)
            values = {**found, "loss": loss}
        self.optimizer.zero_grad(set_to_none=True)
        self.method.after_step(number)
        return values, len(rays)

    def warm_up(self, number: int) -> None:
        """Compile what the first step needs, by doing it once and taking it back."""
        if self.team is not None and self.team.is_leading:
            self._tell(self.team, Order("warm up", number))
        if isinstance(self.method, CanWarmUp):
            self.method.warm_up()
        before = self.capture()
        _, _, total = self._forward(number)
        if total.requires_grad:
            total.backward()
        self.optimizer.zero_grad(set_to_none=True)
        self.restore(before, where=Path())
        self._has_news = False  # the others did the same
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
        self._has_news = True
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
        self._has_news = True
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

    def _roll_back_together(self, reason: str) -> None:
        """`roll_back` in the middle of a step that all processes do: the others take the state of the first."""
        if self.team is None or self.team.is_leading or self.guard.n_rollbacks >= self._max_rollbacks:
            self.roll_back(reason)
            if self.team is not None:
                self.team.send_state(self.capture())
        else:
            self.restore(self.team.receive_state(), where=Path())
        self._has_news = False

    def show_life(self) -> None:
        """Let the other processes know that a pause goes on."""
        if self.team is not None:
            self.team.show_life()

    def refresh_team(self) -> None:
        """Give the other processes the whole state before the next step, in case processors round differently."""
        self._has_news = True

    def _tell(self, team: Team, order: Order) -> None:
        if self._has_news:
            team.tell(Order("state"))
            team.send_state(self.capture())
            self._has_news = False
        team.tell(order)

    def _means(
        self, team: Team, n_rays: int, loss: float, found: dict[str, float]
    ) -> tuple[float, float, dict[str, float]]:
        """This process's weight in the batch, the loss of the whole batch, and its parts."""
        part = team.part(n_rays)
        weight = (part.stop - part.start) / max(n_rays, 1)
        own = [weight * value for value in (loss, *found.values())]
        n_stops, mean, *means = team.sum([float(team.wishes_to_stop), *own])
        self.is_asked_to_stop = n_stops > 0
        return weight, mean, dict(zip(found, means, strict=True))

    def _is_usable(self, total: Tensor, loss: float, number: int, weight: float) -> bool:
        """Compute the gradients; False (counted, perhaps rolled back) when the step would ruin the weights."""
        if self.guard.judge_loss(loss):
            total.backward()
            if self.team is not None:
                if self._mean_gradients(weight):
                    return True
            elif all_finite(p.grad for p in self._parameters if p.grad is not None):
                return True
        logger.warning("step %d skipped: the loss (%g) or its gradient is unusable", number, loss)
        if self.guard.bad() is Verdict.ROLL_BACK:
            self._roll_back_together(f"{self.guard.limit} unusable steps in a row (last loss {loss:.3g})")
        return False
