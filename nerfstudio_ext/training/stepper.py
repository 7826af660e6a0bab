"""One training step after another: batch, losses, gradients, guard, optimiser; and the state between steps."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Protocol, runtime_checkable

from ..errors import TrainingFailed
from ..methods.protocol import Batches, CanShare, Method
from ..rays import Rays
from ..scenes.pixel_sampler import PixelBatch
from .gradients import gradient_mean
from .guard import EXPLODED_RMS, STEPS_PER_LOOK, StepGuard, Verdict
from .method_adam import MethodAdam
from .passes import Parts, Pass, accumulate, draw, forward, one_pass
from .runs import load_weights
from .team import Order, Team
from .tensor_checks import largest_rms
from .train_state import (
    TrainState,
    below_prefix,
    copied,
    damaged_random_state,
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
        on_rollback: Gets one line for the user at each return, and when memory runs out.
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
        groups = method.param_groups()
        self.optimizer = MethodAdam(groups)
        self._parameters = [p for group in groups for p in group.params]
        self._device = self._parameters[0].device
        self._max_rollbacks = max_rollbacks
        self._on_rollback = on_rollback
        self._parts = Parts(on_rollback)
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
            self._gradient_mean = gradient_mean(team, self._parameters)
            method.take_share(team)

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
        n_rays = self.method.n_rays
        rays, batch = draw(self.sampler, n_rays, self._device, self.team)
        done = self._pass(rays, batch, number)
        values: dict[str, float] = {}
        if done.is_usable:
            self.rate = self.method.lr_factor(progress) * self.guard.rate * self.user_rate
            self.optimizer.step(self.rate)
            self.guard.good(done.loss)
            values = {**done.found, "loss": done.loss}
            if (number + 1) % STEPS_PER_LOOK == 0:
                self._look_at_weights()
        elif done.has_gradients:
            self._reject(number, done.loss)
        self._forget()
        self.method.after_step(number)
        return values, len(rays) if self.team is None else n_rays

    def warm_up(self, number: int) -> None:
        """Compile what the first step needs, by doing it once and taking it back."""
        if self.team is not None and self.team.is_leading:
            self._tell(self.team, Order("warm up", number))
        if isinstance(self.method, CanWarmUp):
            self.method.warm_up()
        before = self.capture()
        rays, batch = draw(self.sampler, self.method.n_rays, self._device, self.team)
        self._parts.fitting(batch, partial(accumulate, self.method, rays, batch, number), self._forget)
        self._forget()
        n_parts = self._parts.n  # what memory holds is the one thing that is learned here
        self.restore(before, where=Path())
        self._parts.n = n_parts
        self._has_news = False  # the others did the same
        self.last_good = before

    def capture(self) -> TrainState:
        """Copy the state between two steps."""
        trainer = {
            **with_prefix("optimizer", self.optimizer.tensors()),
            **with_prefix("sampler", self.sampler.state_dict()),
            **with_prefix("guard", self.guard.state()),
            "method/n_rays": to_scalar(int(self.method.n_rays)),
            "method/n_parts": to_scalar(self._parts.n),
        }
        return TrainState(copied(self.method.state_dict()), copied(trainer))

    def restore(self, state: TrainState, *, where: Path) -> None:
        """Go back to a captured state.

        Raises:
            UserError: if it does not fit the method.
        """
        self._has_news = True
        self._restore_weights(state, where)
        if "method/n_parts" in state.trainer:
            self._parts.n = int(state.trainer["method/n_parts"])
        with damaged_random_state(where):
            self.sampler.load_state_dict(below_prefix("sampler", state.trainer))
        self.guard.load_state(below_prefix("guard", state.trainer))

    def roll_back(self, reason: str) -> None:
        """Return to the last good weights and optimiser at half the rate; batches go on with fresh ones.

        Raises:
            TrainingFailed: after too many returns, or when there is nothing to return to.
        """
        if self.last_good is None or self.guard.n_rollbacks >= self._max_rollbacks:
            raise TrainingFailed(
                f"training failed: {reason}, after {self.guard.n_rollbacks} returns to the last good state. The last "
                f"good checkpoint is kept. Lower the learning rate (it was {self.optimizer.peak_rate:g}, at the end "
                f"{self.optimizer.peak_rate * self.guard.rate:g}), or look for damaged poses or images."
            )
        self._has_news = True
        self._restore_weights(self.last_good, Path())
        self.guard.rolled_back()
        self._on_rollback(f"{reason}: back to the last good state, learning rate now x{self.guard.rate:g}")

    def _restore_weights(self, state: TrainState, where: Path) -> None:
        load_weights(self.method, state.weights, where=where)
        self.optimizer.load(below_prefix("optimizer", state.trainer))
        self.method.n_rays = int(state.trainer["method/n_rays"])

    def _pass(self, rays: Rays, batch: PixelBatch, number: int) -> Pass:
        """Losses and gradients of a batch: of this process alone, or the means of all."""
        judge, team = self.guard.judge_loss, self.team
        if team is None:
            return self._parts.fitting(batch, partial(one_pass, self.method, rays, batch, number, judge), self._forget)
        weights = team.weights(self.method.n_rays)  # before the method plans the next batch
        losses, total = forward(self.method, rays, batch, number)
        own = {name: float(value.detach()) for name, value in losses.items()}
        if total.requires_grad:
            total.backward()  # already here, so that one meeting tells the loss and that all gradients are there
            self._gradient_mean.put(weights)
        loss, found = self._means(team, weights[team.index], float(total.detach()), own)
        if not total.requires_grad or not judge(loss):
            return Pass(loss, found, total.requires_grad)
        return Pass(loss, found, True, self._gradient_mean.take())

    def _forget(self) -> None:
        for parameter in self._parameters:
            parameter.grad = None

    def _look_at_weights(self) -> None:
        """Roll back when they have grown beyond reason; those that are not finite show in the next loss."""
        size = largest_rms(self._parameters)
        if EXPLODED_RMS < size < math.inf:
            self._roll_back_together(f"the weights have grown to {size:.3g}")

    def _reject(self, number: int, loss: float) -> None:
        """Count a step that would ruin the weights, and roll back when there were too many in a row."""
        logger.warning("step %d skipped: the loss (%g) or its gradient is unusable", number, loss)
        if self.guard.bad() is Verdict.ROLL_BACK:
            self._roll_back_together(f"{self.guard.limit} unusable steps in a row (last loss {loss:.3g})")

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

    def _means(self, team: Team, weight: float, loss: float, found: dict[str, float]) -> tuple[float, dict[str, float]]:
        """The loss of the whole batch, and its parts."""
        n_stops, mean, *means = team.sum([team.wishes_to_stop, *(weight * value for value in (loss, *found.values()))])
        self.is_asked_to_stop = n_stops > 0
        return mean, dict(zip(found, means, strict=True))
