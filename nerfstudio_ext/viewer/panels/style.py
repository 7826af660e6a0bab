"""What all panels share in looks."""

from __future__ import annotations

ACCENT = "#ff8a4c"
COOL = "#5cc8ff"
CALM = (74, 80, 92)
"""Colour of buttons that should not catch the eye."""
WARM = (190, 70, 50)
"""Colour of buttons that delete."""


def clock_text(seconds: float) -> str:
    """Seconds as `4:07` or `1:02:09`; a question mark when unknown."""
    if not abs(seconds) < float("inf"):
        return "?"
    total = max(0, round(seconds))
    hours, minutes = divmod(total // 60, 60)
    return f"{hours}:{minutes:02d}:{total % 60:02d}" if hours else f"{minutes}:{total % 60:02d}"


def short_number(value: float) -> str:
    """A count with three digits and k or M."""
    for limit, unit in ((1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.3g} {unit}"
    return f"{value:.3g}"
