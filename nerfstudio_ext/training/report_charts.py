"""Line charts as inline SVG: readable on a phone, coloured by the page's style sheet, no script."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 480, 270
_LEFT, _RIGHT, _TOP, _BOTTOM = 60, 14, 14, 34
_MAX_POINTS = 400
_WINDOWS = 50
"""How many times shorter than the curve its smoothing is, each way."""


@dataclass(frozen=True)
class Level:
    """A value to compare a curve with, drawn as a dashed line.

    Attributes:
        value: Where.
        label: What it is.
    """

    value: float
    label: str


def line_chart(
    x: Sequence[float],
    y: Sequence[float | None],
    *,
    unit: str = "",
    is_log: bool = False,
    is_smoothed: bool = True,
    level: Level | None = None,
) -> str:
    """Draw values over training time.

    Args:
        x: Training time, seconds, ascending.
        y: Values; None and values that are not finite leave a gap.
        unit: For those who hear the page.
        is_log: Logarithmic vertical axis; values must be positive to show.
        is_smoothed: Draw a running mean over the values, which stay visible faintly.
        level: A value to compare with.
    Returns:
        An `<svg>` element, or a sentence when there are fewer than two values.
    """
    points = [(a, b) for a, b in zip(x, y, strict=True) if b is not None and math.isfinite(b) and (b > 0 or not is_log)]
    if len(points) < 2:
        return '<p class="empty">Not enough values for a curve.</p>'
    smooth = _smoothed(points, is_log) if is_smoothed else points
    values = [b for _, b in smooth] + ([level.value] if level else [])
    # The faint raw values may leave the frame; the axis belongs to the curve that is read.
    ticks = _log_ticks(values) if is_log else _ticks(min(values), max(values), 5)
    low, high = (min(ticks[0], *values), max(ticks[-1], *values))
    frame = _Frame(points[0][0], points[-1][0], low, high, is_log)
    parts = [frame.grid(ticks), frame.time_axis()]
    if is_smoothed:
        parts.append(f'<path class="raw" clip-path="inset(0)" d="{frame.path(_thinned(points))}"/>')
    curve = _thinned(smooth)
    parts.append(f'<path class="area" d="{frame.path(curve)}V{frame.bottom:.1f}H{frame.px(curve[0][0]):.1f}Z"/>')
    parts.append(f'<path class="curve" d="{frame.path(curve)}"/>')
    if level is not None:
        parts.append(frame.level(level))
    last = smooth[-1]
    parts.append(f'<circle class="end" cx="{frame.px(last[0]):.1f}" cy="{frame.py(last[1]):.1f}" r="4"/>')
    summary = escape(f"from {short(smooth[0][1])} to {short(last[1])} {unit}")
    return f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{summary}">{"".join(parts)}</svg>'


@dataclass(frozen=True)
class _Frame:
    """Where values lie in the picture."""

    x_min: float
    x_max: float
    y_min: float
    y_max: float
    is_log: bool

    @property
    def bottom(self) -> float:
        return HEIGHT - _BOTTOM

    def px(self, x: float) -> float:
        return _LEFT + (x - self.x_min) / max(self.x_max - self.x_min, 1e-12) * (WIDTH - _LEFT - _RIGHT)

    def py(self, y: float) -> float:
        a, b, c = (math.log10(v) for v in (self.y_min, self.y_max, y)) if self.is_log else (self.y_min, self.y_max, y)
        share = (c - a) / max(b - a, 1e-12)
        return self.bottom - min(max(share, -0.02), 1.04) * (self.bottom - _TOP)

    def path(self, points: Sequence[tuple[float, float]]) -> str:
        return "M" + "L".join(f"{self.px(a):.1f} {self.py(b):.1f}" for a, b in points)

    def grid(self, ticks: Sequence[float]) -> str:
        return "".join(
            f'<path class="grid" d="M{_LEFT} {self.py(t):.1f}H{WIDTH - _RIGHT}"/>'
            f'<text class="tick" text-anchor="end" x="{_LEFT - 7}" y="{self.py(t) + 4.5:.1f}">{short(t)}</text>'
            for t in ticks
        )

    def time_axis(self) -> str:
        span = self.x_max - self.x_min
        step = next((s for s in _TIME_STEPS if span / s <= 5), _TIME_STEPS[-1])
        first = math.ceil(self.x_min / step) * step
        marks = []
        for i in range(int((self.x_max - first) // step) + 1):
            t = first + i * step
            anchor = "middle" if self.px(t) < WIDTH - 30 else "end"
            marks.append(
                f'<text class="tick" text-anchor="{anchor}" x="{self.px(t):.1f}" y="{HEIGHT - 8}">{clock(t)}</text>'
            )
        return "".join(marks)

    def level(self, level: Level) -> str:
        y = self.py(level.value)
        text_y = y - 7 if y > _TOP + 24 else y + 18
        return (
            f'<path class="level" d="M{_LEFT} {y:.1f}H{WIDTH - _RIGHT}"/>'
            f'<text class="level-name" x="{_LEFT + 6}" y="{text_y:.1f}">{escape(level.label)}</text>'
        )


_TIME_STEPS = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 43200, 86400)


def clock(seconds: float) -> str:
    """A duration for people: `45 s`, `3:05`, `2:03:00`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"


def short(value: float) -> str:
    """A number in few characters: 31.4, 0.0021, 1.2 M."""
    size = abs(value)
    if size >= 1e6:
        return f"{value / 1e6:.3g} M"
    if size >= 1e4:
        return f"{value / 1e3:.3g} k"
    if size >= 1e-4 or size == 0:
        return f"{value:.4g}" if size >= 100 else f"{value:.3g}"
    return f"{value:.0e}".replace("e-0", "e-")


def _smoothed(points: Sequence[tuple[float, float]], is_log: bool) -> list[tuple[float, float]]:
    """Mean over a window around each value, which does not lag; of the logarithm on a logarithmic axis."""
    values = [math.log(b) if is_log else b for _, b in points]
    sums = [0.0, *itertools.accumulate(values)]
    reach = max(1, len(points) // _WINDOWS)
    result = []
    for i, (a, _) in enumerate(points):
        half = min(i, len(points) - 1 - i, reach)
        mean = (sums[i + half + 1] - sums[i - half]) / (2 * half + 1)
        result.append((a, math.exp(mean) if is_log else mean))
    return result


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    step = max(1, math.ceil(len(points) / _MAX_POINTS))
    return [*points[:-1:step], points[-1]]


def _ticks(low: float, high: float, about: int) -> list[float]:
    """Round values that enclose a range."""
    span = high - low or abs(high) or 1.0
    rough = span / about
    power = 10 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(i * step, 12) for i in range(first, last + 1)]


def _log_ticks(values: Sequence[float]) -> list[float]:
    low, high = math.log10(min(values)), math.log10(max(values))
    multiples = (1, 3) if high - low < 2.5 else (1,)
    every = [m * 10.0**p for p in range(math.floor(low) - 1, math.ceil(high) + 2) for m in multiples]
    inside = [t for t in every if low - 0.5 <= math.log10(t) <= high + 0.5]
    return inside if len(inside) >= 2 else [min(values), max(values)]
