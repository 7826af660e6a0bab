"""The resolution ladder: how large a picture fits the time there is, from measured render times."""

from __future__ import annotations

import statistics
from collections import deque
from dataclasses import dataclass, field

RUNGS = (128, 192, 256, 384, 512, 768, 1024, 1536, 2048)
"""Longer side in pixels. Below 128 a picture is unreadable whatever it costs; each rung costs about twice the last."""
N_KEPT = 8
N_IGNORED = 2
"""The first renders compile kernels and fill caches: their times only serve as a guess until there are others."""
FRESH_S = 15.0
"""Older times are left out when newer ones exist: a scene gets cheaper while it is trained."""
TELLING_S = 0.010
"""A render faster than this is mostly fixed cost; larger rungs are never inferred from it."""
STEP_UP, STEP_DOWN = 0.8, 1.25
"""Hysteresis around the budget, so that the size does not flicker between two rungs."""
NEAR_TARGET = 1.5
"""A rung this near below the target (ratio of sides) is left out of the climb: it costs half of the target itself."""
DOUBT = 3.0
"""How far an inferred time may exceed a limit before the rung counts as too slow to try."""
QUICK_S = 0.15
"""A rung that takes no longer than this is reached in one jump when the camera stops."""


@dataclass
class _Times:
    """Render times of one rung, newest last: (when, seconds, seconds per pixel)."""

    samples: deque[tuple[float, float, float]] = field(default_factory=lambda: deque(maxlen=N_KEPT))

    def since(self, start: float) -> list[tuple[float, float, float]]:
        return [sample for sample in self.samples if sample[0] >= start]


class Ladder:
    """Chooses rungs from medians of measured render times. Not thread-safe: the scheduler's lock guards it."""

    def __init__(self) -> None:
        self._times: dict[int, _Times] = {}
        self._n_seen = 0
        self._first_per_pixel = float("inf")

    def add(self, long_side: int, n_pixels: int, seconds: float, now: float) -> None:
        """Note a finished render."""
        self._n_seen += 1
        if self._n_seen <= N_IGNORED:
            if seconds >= TELLING_S:
                self._first_per_pixel = min(self._first_per_pixel, seconds / max(1, n_pixels))
            return
        self._times.setdefault(long_side, _Times()).samples.append((now, seconds, seconds / max(1, n_pixels)))

    def estimate(self, long_side: int, n_pixels: int, now: float) -> float | None:
        """Expected seconds of a render, or None when nothing measured allows a guess.

        The rung's own median comes first; else the nearest rung below or above whose renders took
        at least 10 ms, scaled by pixels.
        """
        start = now - FRESH_S
        if not any(times.since(start) for times in self._times.values()):
            start = float("-inf")
        fresh = {side: times.since(start) for side, times in self._times.items()}
        own = fresh.get(long_side)
        if own:
            return statistics.median(sample[2] for sample in own) * n_pixels
        telling = {
            side: statistics.median(sample[2] for sample in samples)
            for side, samples in fresh.items()
            if samples and statistics.median(sample[1] for sample in samples) >= TELLING_S
        }
        if not telling:
            return None
        nearest = min(telling, key=lambda side: abs(side - long_side))
        return telling[nearest] * n_pixels

    def rungs(self, cap: int) -> list[int]:
        """The rungs up to `cap`, which is itself the last one."""
        return [rung for rung in RUNGS if rung < cap] + [cap]

    def moving_rung(self, n_pixels_of: dict[int, int], budget_s: float, present: int, now: float) -> int:
        """The largest rung that renders within the budget; the smallest when none does.

        Args:
            n_pixels_of: Pixels of each rung that may be used, ascending.
            budget_s: Time for one frame, seconds.
            present: Rung in use now (0 for none): leaving it needs a clear reason.
            now: Present time.
        """
        rungs = list(n_pixels_of)
        best = rungs[0]
        previous_is_quick = True
        for rung in rungs:
            seconds = self.estimate(rung, n_pixels_of[rung], now)
            if seconds is None:
                # Nothing is known above quick rungs: try exactly one step and measure it.
                if previous_is_quick and rung != rungs[0] and self._has_measured(best):
                    best = rung
                break
            if seconds > budget_s * (STEP_UP if rung > present else STEP_DOWN):
                break
            best = rung
            previous_is_quick = seconds < TELLING_S
        return best

    def static_rung(self, n_pixels_of: dict[int, int], limit_s: float, now: float) -> int:
        """The largest rung for a still camera when one render may take `limit_s`.

        Unknown rungs count as possible: the climb goes up rung by rung and measures on its way. A rung
        known only by inference gets the benefit of the doubt, or one slow small picture (a busy machine,
        a fixed cost) would keep the view small for good.
        """
        best = next(iter(n_pixels_of))
        for rung, n_pixels in n_pixels_of.items():
            seconds = self.estimate(rung, n_pixels, now)
            if seconds is None and self._first_per_pixel < float("inf"):
                seconds = self._first_per_pixel * n_pixels
            if seconds is not None and seconds > limit_s * (1.0 if self._has_measured(rung) else DOUBT):
                break
            best = rung
        return best

    def climb(self, n_pixels_of: dict[int, int], shown: int, target: int, now: float) -> int:
        """The next rung to show on the way from `shown` to `target`.

        Straight to the target when that is quick, else the rung of about twice the side: each
        finished picture is shown, and all of them together cost about a third more than the last alone.
        """
        above = [rung for rung in n_pixels_of if shown < rung <= target]
        best = next((rung for rung in above if rung >= 2 * shown), target)
        best = target if target <= NEAR_TARGET * best else best
        estimates = {rung: self.estimate(rung, n_pixels_of[rung], now) for rung in above}
        quick = [rung for rung, seconds in estimates.items() if seconds is not None and seconds <= QUICK_S]
        return max([best, *quick])

    def _has_measured(self, long_side: int) -> bool:
        times = self._times.get(long_side)
        return times is not None and len(times.samples) > 0
