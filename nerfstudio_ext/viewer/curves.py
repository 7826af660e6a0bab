"""A bounded history of training numbers, kept once for all browsers."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float

from ..progress import TrainStatus

MAX_POINTS = 400


class Curve:
    """Values over steps that never grow beyond `MAX_POINTS`: when full, every second point goes.

    Non-finite values are left out.
    """

    def __init__(self) -> None:
        self._points: list[tuple[float, float]] = []
        self._stride = 1
        self._n_offered = 0

    def add(self, step: int, value: float) -> None:
        """Append a value; a step at or before the last (training was resumed) cuts the curve there."""
        if not math.isfinite(value):
            return
        while self._points and self._points[-1][0] >= step:
            self._points.pop()
        if self._n_offered % self._stride == 0:
            self._points.append((float(step), value))
        self._n_offered += 1
        if len(self._points) >= MAX_POINTS:
            self._points = self._points[::2]
            self._stride *= 2

    def arrays(self) -> tuple[Float[np.ndarray, " P"], Float[np.ndarray, " P"]]:
        """Steps and values."""
        steps, values = zip(*self._points, strict=True) if self._points else ((), ())
        return np.array(steps, np.float64), np.array(values, np.float64)


class TrainHistory:
    """PSNR and loss over the steps of a run."""

    def __init__(self) -> None:
        self.psnr, self.loss = Curve(), Curve()
        self.last_step = -1

    def add(self, status: TrainStatus | None) -> None:
        """Take in a look at the training; one of the same step changes nothing."""
        if status is None or status.step == self.last_step:
            return
        self.last_step = status.step
        self.psnr.add(status.step, status.psnr)
        self.loss.add(status.step, max(sum(status.losses.values()), 1e-9) if status.losses else math.nan)
