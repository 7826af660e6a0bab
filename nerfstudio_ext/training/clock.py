"""Where the time of a run goes: training, compiling, evaluating, saving, waiting."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class TrainClock:
    """Measures training time; other activities stop it and are measured under their own name.

    Args:
        now: What time it is, seconds from any point: wall time, or `time.process_time` for the processor time of all
            threads, which compares methods fairly on a machine that does other work as well.

    Attributes:
        other: Seconds by activity that does not count as training ("compile", "evaluate", "pause").
    """

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self._now = now
        self._before = 0.0
        self._running_since: float | None = None
        self.other: dict[str, float] = {}

    @property
    def train_seconds(self) -> float:
        """Training time so far, seconds of wall time or as told by `now`."""
        running = 0.0 if self._running_since is None else self._now() - self._running_since
        return self._before + running

    def set_train_seconds(self, seconds: float) -> None:
        """Go on from an earlier session's training time."""
        self._before = seconds
        if self._running_since is not None:
            self._running_since = self._now()

    def start(self) -> None:
        """Count from now on."""
        self._running_since = self._now()

    def stop(self) -> None:
        """Stop counting."""
        self._before = self.train_seconds
        self._running_since = None

    @contextmanager
    def excluded(self, activity: str) -> Iterator[None]:
        """Stop training time while something else is done."""
        was_running = self._running_since is not None
        self.stop()
        began = self._now()
        try:
            yield
        finally:
            self.other[activity] = self.other.get(activity, 0.0) + self._now() - began
            if was_running:
                self.start()
