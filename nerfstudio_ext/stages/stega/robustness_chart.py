"""The table of robustness as one picture: a bar per line for single pictures, a mark for four, the bits beside it."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import groupby

from .reading_back import ReadBack
from .robustness import Row

_NAME, _BAR, _BITS = 250, 330, 90
_LINE, _GAP, _TOP = 22, 10, 64
_INK, _FAINT, _GRID, _ONE, _FOUR = "#1f2430", "#6b7280", "#e3e6ec", "#ff8a4c", "#1f77a8"


def robustness_chart(rows: Sequence[Row]) -> str:
    """An SVG picture of the table.

    Args:
        rows: In the order in which they are to stand; lines of one group stand together.
    """
    parts, y = [_head()], float(_TOP)
    for _, group in groupby(rows, key=lambda row: row.group):
        for row in group:
            parts.append(_line(f"{row.group}, {row.amount}", row.read, y))
            y += _LINE
        y += _GAP
    width, height = _NAME + _BAR + _BITS + 20, y + 6
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height:.0f}" width="{width}" '
        f'height="{height:.0f}" font-family="system-ui, sans-serif" font-size="13">'
        f'<rect width="100%" height="100%" fill="white"/>{_grid(height)}{"".join(parts)}</svg>\n'
    )


def _head() -> str:
    return (
        f'<text x="12" y="24" font-size="16" font-weight="600" fill="{_INK}">Exact message after what happened</text>'
        f'<rect x="{_NAME}" y="36" width="18" height="10" fill="{_ONE}"/>'
        f'<text x="{_NAME + 24}" y="46" fill="{_FAINT}">one picture</text>'
        f'<circle cx="{_NAME + 125}" cy="41" r="5" fill="{_FOUR}"/>'
        f'<text x="{_NAME + 135}" y="46" fill="{_FAINT}">four together</text>'
        f'<text x="{_NAME + _BAR + _BITS + 8}" y="46" text-anchor="end" fill="{_FAINT}">bits right</text>'
    )


def _grid(height: float) -> str:
    lines = []
    for share in (0.0, 0.5, 1.0):
        x = _NAME + share * _BAR
        lines.append(f'<path d="M{x:.1f} {_TOP - 6}V{height - 14:.0f}" stroke="{_GRID}"/>')
        lines.append(f'<text x="{x:.1f}" y="{height - 2:.0f}" text-anchor="middle" font-size="11" fill="{_FAINT}">'
                     f'{share:.0%}</text>')  # fmt: skip
    return "".join(lines)


def _line(name: str, read: ReadBack, y: float) -> str:
    middle = y + _LINE / 2
    return (
        f'<text x="{_NAME - 10}" y="{middle + 4.5:.1f}" text-anchor="end" fill="{_INK}">{escape(name)}</text>'
        f'<rect x="{_NAME}" y="{y + 4:.1f}" width="{read.exact_one * _BAR:.1f}" height="{_LINE - 8}" fill="{_ONE}"/>'
        f'<circle cx="{_NAME + read.exact_four * _BAR:.1f}" cy="{middle:.1f}" r="5" fill="{_FOUR}"/>'
        f'<text x="{_NAME + _BAR + _BITS + 8}" y="{middle + 4.5:.1f}" text-anchor="end" fill="{_INK}">'
        f"{100 * read.bit_accuracy:.1f} %</text>"
    )
