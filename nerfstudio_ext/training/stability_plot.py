"""The curves of `stability` as one picture: a panel per disturbance, PSNR against its strength."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from ..errors import UserError
from .stability import StabilityCurve

PANEL, MARGIN = (360, 300), (56, 40, 20, 52)
"""Size of a panel in pixels, and its margins: left, top, right, bottom."""
INSET = 18
"""Room between the axis and the first point, for the number above it."""
INK, GRID, CURVE = (40, 40, 40), (222, 222, 222), (31, 95, 191)


def write_plot(curves: Sequence[StabilityCurve], path: Path, title: str) -> None:
    """Draw all curves over one range of PSNR, so that panels can be compared.

    Raises:
        UserError: if the file cannot be written.
    """
    values = [value for curve in curves for value in curve.psnr]
    low, high = min(values), max(values)
    step = next(s for s in (0.5, 1, 2, 5, 10, 20, 50) if (high - low) / s <= 6)
    bottom, top = step * (low // step), step * (high // step + 1)
    picture = Image.new("RGB", (PANEL[0] * len(curves), PANEL[1] + 30), "white")
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(13)
    draw.text((12, 8), title, fill=INK, font=ImageFont.load_default(15))
    ticks = [bottom + i * step for i in range(round((top - bottom) / step) + 1)]
    for number, curve in enumerate(curves):
        _panel(draw, (number * PANEL[0], 30), curve, ticks, font)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)
    except OSError as why:
        raise UserError(f"cannot write: {why.strerror}", where=path, fix="Choose a folder you may write to") from why


def _panel(
    draw: ImageDraw.ImageDraw, corner: tuple[int, int], curve: StabilityCurve, ticks: Sequence[float], font: object
) -> None:
    left, top = corner[0] + MARGIN[0], corner[1] + MARGIN[1]
    width, height = PANEL[0] - MARGIN[0] - MARGIN[2], PANEL[1] - MARGIN[1] - MARGIN[3]

    def place(index: int, value: float) -> tuple[float, float]:
        share = (value - ticks[0]) / (ticks[-1] - ticks[0])
        return left + INSET + (width - 2 * INSET) * index / (len(curve.levels) - 1), top + height * (1 - share)

    draw.text((left, corner[1] + 8), f"{curve.name}: PSNR, dB", fill=INK, font=font)  # type: ignore[arg-type]
    for tick in ticks:
        y = place(0, tick)[1]
        draw.line([(left, y), (left + width, y)], fill=GRID)
        draw.text((left - 8, y), f"{tick:g}", fill=INK, font=font, anchor="rm")  # type: ignore[arg-type]
    points = [place(i, value) for i, value in enumerate(curve.psnr)]
    draw.line(points, fill=CURVE, width=3)
    for (x, y), level, value in zip(points, curve.levels, curve.psnr, strict=True):
        draw.ellipse([(x - 4, y - 4), (x + 4, y + 4)], fill=CURVE)
        draw.text((x, y - 8), f"{value:.1f}", fill=INK, font=font, anchor="mb")  # type: ignore[arg-type]
        draw.text((x, top + height + 6), f"{level:g}", fill=INK, font=font, anchor="ma")  # type: ignore[arg-type]
    draw.text((left + width / 2, top + height + 26), curve.unit, fill=INK, font=font, anchor="ma")  # type: ignore[arg-type]
