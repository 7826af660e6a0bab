"""What a run says about itself while it trains: lines of metrics.jsonl, the status a few times a second."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from ..methods.protocol import Method
from ..progress import Progress, TrainStatus
from .clock import TrainClock
from .config import TrainConfig
from .metrics_log import LossWindow, MetricsLog, psnr_of

_STATUS_S = 0.25
"""Between two looks at the numbers: faster than anybody reads."""


class Monitor:
    """Averages what the steps report and passes it on, seldom enough to cost nothing.

    Attributes:
        test_psnr: Mean PSNR on held-out images when it was measured last, dB.
    """

    def __init__(self, method: Method, config: TrainConfig, clock: TrainClock, progress: Progress) -> None:
        self.test_psnr: float | None = None
        self._method, self._config, self._clock, self._progress = method, config, clock, progress
        self._logged, self._shown = LossWindow(), LossWindow()
        self._log_began = self._shown_began = time.perf_counter()
        self._began_at = (0, 0.0)
        self._status = TrainStatus(0, config.step_limit, 0.0, math.inf, {}, math.nan, 0.0, 0.0)

    def begin(self, step: int) -> None:
        """Start measuring rates: at the start, and after every time that nothing was trained."""
        self._log_began = self._shown_began = time.perf_counter()
        self._began_at = (step, self._clock.train_seconds)
        self._shown.clear()

    def add(self, values: Mapping[str, float], n_rays: int) -> None:
        """Take in one step; steps that were skipped have no values."""
        if values:
            self._logged.add(values, n_rays)
            self._shown.add(values, n_rays)

    def write_log(self, log: MetricsLog, step: int, rate: float, n_skipped: int) -> None:
        """Write the averages since the last line to metrics.jsonl."""
        now = time.perf_counter()
        means, window = self._logged.means(), self._logged
        elapsed = max(now - self._log_began, 1e-9)
        log.write(
            {
                "step": step,
                "train_seconds": round(self._clock.train_seconds, 3),
                **means,
                "psnr": psnr_of(means.get("mse")),
                "lr_factor": rate,
                "steps_per_s": round(window.n_steps / elapsed, 3),
                "rays_per_s": round(window.n_rays / elapsed, 1),
                "skipped": n_skipped,
                **{name: float(value) for name, value in self._method.stats().items()},
            }
        )
        self._logged.clear()
        self._log_began = now

    def show_when_due(self, step: int) -> None:
        """Tell the user where training is, at most four times a second."""
        now = time.perf_counter()
        elapsed = now - self._shown_began
        if elapsed < _STATUS_S or not self._shown.n_steps:
            return
        losses = self._shown.means()
        psnr = psnr_of(losses.pop("mse", None))
        self._status = replace(
            self._status,
            losses=losses,
            psnr=psnr,
            steps_per_s=self._shown.n_steps / elapsed,
            rays_per_s=self._shown.n_rays / elapsed,
        )
        self._shown.clear()
        self._shown_began = now
        self.show(self.status(step))

    def show(self, status: TrainStatus) -> None:
        """Tell the user where training is, now."""
        done = status.step if status.max_steps is not None else int(status.train_seconds)
        self._progress.advance(done, _phrase(status))

    def status(self, step: int, state: str = "training") -> TrainStatus:
        """The numbers of the last look, with the step and the clock of now."""
        return replace(
            self._status,
            step=step,
            train_seconds=self._clock.train_seconds,
            seconds_left=0.0 if state == "done" else self._seconds_left(step),
            state=state,
            test_psnr=self.test_psnr,
        )

    def state(self) -> dict[str, Tensor]:
        """The unfinished averages of the next log line."""
        return self._logged.state()

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore `state()`."""
        self._logged.load_state(state)

    def _seconds_left(self, step: int) -> float:
        limit, seconds = self._config.step_limit, self._config.max_train_seconds
        step_began, seconds_began = self._began_at
        now = self._clock.train_seconds
        left = math.inf if seconds is None else max(0.0, seconds - now)
        if limit is not None and step > step_began:
            left = min(left, (limit - step) * (now - seconds_began) / (step - step_began))
        return left


def _phrase(status: TrainStatus) -> str:
    parts = [] if status.max_steps is not None else [f"step {status.step}"]
    if math.isfinite(status.psnr):
        parts.append(f"{status.psnr:.2f} dB")
    if status.test_psnr is not None:
        parts.append(f"test {status.test_psnr:.2f} dB")
    parts += [f"{status.steps_per_s:.1f} steps/s", f"{_thousands(status.rays_per_s)} rays/s"]
    if status.state == "paused":
        parts.append("paused")
    return "  ".join(parts)


def _thousands(number: float) -> str:
    return f"{number / 1e6:.2f} M" if number >= 1e6 else f"{number / 1e3:.0f} k" if number >= 1e4 else f"{number:.0f}"
