"""Woven and printed: table runner, wallpaper, curtains, upholstery, window glass."""

from __future__ import annotations

import math

import numpy as np

from .painting import Canvas, Colour, fbm, mix, shade, smoothstep, to_texture, vary

RED: Colour = (168, 44, 38)
INDIGO: Colour = (36, 48, 96)
SAND: Colour = (230, 208, 164)
TEAL: Colour = (36, 116, 116)
ORANGE: Colour = (220, 126, 48)


def _weave(
    colour: np.ndarray, x: np.ndarray, y: np.ndarray, thread: float, seed: int, depth: float = 0.4
) -> np.ndarray:
    """Threads over and under, every one of them a little different."""
    i, j = np.floor(x / thread), np.floor(y / thread)
    over = (i + j) % 2 == 0
    fx, fy = (x / thread) % 1.0 - 0.5, (y / thread) % 1.0 - 0.5
    bulge = np.where(over, 1 - 3.2 * fy * fy, 1 - 3.2 * fx * fx)
    tint = np.where(over, fbm(j * 1.37, i * 0.04, 2, seed), fbm(i * 1.37, j * 0.04, 2, seed + 1))
    return colour * (1 - depth + depth * bulge + 0.34 * (tint - 0.5))[..., None]


def runner(length: float, width: float, resolution: float) -> np.ndarray:
    """Kilim table runner: stepped medallions, hooks, zigzag borders; no two medallions have the same colours."""
    canvas = Canvas(length, width, resolution, RED)
    rng = np.random.default_rng(17)
    step = 0.2
    count = round(length / step)
    for i in range(count):
        cx = (i + 0.5) * length / count
        palette = [INDIGO, SAND, TEAL, ORANGE, (120, 30, 40), (236, 222, 190)]
        rng.shuffle(palette)
        for k, size in enumerate((1.0, 0.78, 0.58, 0.4, 0.22)):
            _stepped(canvas, cx, width / 2, 0.098 * size, 0.15 * size, palette[k])
        for sx in (-1, 1):
            for sy in (-1, 1):
                _stepped(canvas, cx + sx * 0.074, width / 2 + sy * 0.098, 0.024, 0.036, palette[5])
                _stepped(canvas, cx + sx * 0.074, width / 2 + sy * 0.098, 0.012, 0.018, palette[int(rng.integers(5))])
    for side in (0, 1):
        _runner_border(canvas, side, rng)
    colour, _ = canvas.finish()
    x, y = canvas.grid()
    faded = fbm(x * 5, y * 60, 4, 3) - 0.5
    return to_texture(_weave(colour * (1 + 0.3 * faded)[..., None], x, y, 0.0026, 5))


def _stepped(canvas: Canvas, x: float, y: float, half_x: float, half_y: float, colour: Colour) -> None:
    steps = 5
    for i in range(steps):
        a, b = half_x * (i + 1) / steps, half_y * (steps - i) / steps
        canvas.rectangle(x - a, y - b, x + a, y + b, colour)


def _runner_border(canvas: Canvas, side: int, rng: np.random.Generator) -> None:
    width, length = canvas.height, canvas.width

    def at(y: float) -> float:
        return width - y if side else y

    for y0, y1, colour in ((0.0, 0.012, INDIGO), (0.012, 0.04, SAND), (0.04, 0.046, INDIGO)):
        canvas.rectangle(0, min(at(y0), at(y1)), length, max(at(y0), at(y1)), colour)
    n = round(length / 0.028)
    for i in range(n):
        x, half = (i + 0.5) * length / n, length / n / 2
        colour = (RED, TEAL, INDIGO, ORANGE)[int(rng.integers(4))]
        canvas.polygon([(x - half, at(0.038)), (x, at(0.014)), (x + half, at(0.038))], colour)
        canvas.polygon([(x - half / 3, at(0.034)), (x, at(0.026)), (x + half / 3, at(0.034))], SAND)


def wallpaper(width: float, height: float, resolution: float, seed: int) -> np.ndarray:
    """Hand-printed garden: winding stems, leaves, blossoms and berries strewn without repetition."""
    ground: Colour = (72, 104, 104)
    rng = np.random.default_rng(seed)
    canvas = Canvas(width, height, resolution, ground)
    greens: tuple[Colour, ...] = ((132, 164, 112), (104, 146, 122), (166, 180, 116), (92, 128, 112))
    blooms: tuple[Colour, ...] = ((226, 196, 148), (206, 116, 92), (222, 164, 84), (178, 82, 84), (200, 200, 190))
    for i in range(int(width / 0.16) + 1):
        y = np.linspace(-0.05, height + 0.05, 60)
        phase = rng.uniform(0, 6.28)
        x = (i + 0.5) * 0.16 + 0.055 * np.sin(y * 7 + phase) + 0.02 * np.sin(y * 17 + 2 * phase)
        canvas.stroke(np.stack([x, y], 1), 0.009, (112, 104, 70))
        for k in range(2, 58, 2):
            side = rng.choice((-1.0, 1.0))
            angle = -math.pi / 2 + side * rng.uniform(0.5, 1.3)
            green = vary(greens[int(rng.integers(4))], rng, 10)
            canvas.leaf(float(x[k]), float(y[k]), angle, rng.uniform(0.06, 0.1), rng.uniform(0.026, 0.04), green)
        for k in range(int(rng.integers(0, 5)), 58, 9):
            petals = int(rng.integers(5, 10))
            bloom = vary(blooms[int(rng.integers(5))], rng, 12)
            canvas.flower(
                float(x[k]) + rng.normal(0, 0.02),
                float(y[k]),
                rng.uniform(0.03, 0.055),
                petals,
                bloom,
                (150, 84, 50),
                rng.uniform(0, 1),
            )
    for _ in range(int(width * height * 70)):
        bx, by = rng.uniform(0, width), rng.uniform(0, height)
        for k in range(3):
            canvas.disc(bx + 0.009 * math.cos(2.1 * k), by + 0.009 * math.sin(2.1 * k), 0.007, vary((190, 70, 60), rng))
    return canvas.texture(0.12, 0.006, seed)


def curtain(width: float, height: float, resolution: float, seed: int) -> np.ndarray:
    """Printed linen with branches and birds' eyes, a wide border at the bottom."""
    rng = np.random.default_rng(seed)
    canvas = Canvas(width, height, resolution, (226, 200, 152))
    for _ in range(int(width * height * 26)):
        x, y, a = rng.uniform(0, width), rng.uniform(0, height - 0.3), rng.uniform(0, 6.28)
        colour = vary(((176, 70, 52), (58, 96, 104), (198, 136, 62), (104, 116, 66))[int(rng.integers(4))], rng, 10)
        for k in range(5):
            canvas.leaf(x, y, a + (k - 2) * 0.5, rng.uniform(0.07, 0.12), 0.03, shade(colour, 0.85 + 0.1 * k))
        canvas.disc(x, y, 0.016, (240, 226, 190))
        canvas.disc(x, y, 0.009, shade(colour, 0.6))
    for y0, y1, c in ((0.26, 0.24, RED), (0.23, 0.1, INDIGO), (0.09, 0.07, RED)):
        canvas.band(height - y0, height - y1, c)
    n = round(width / 0.09)
    for i in range(n):
        canvas.flower((i + 0.5) * width / n, height - 0.165, 0.042, 6, vary(ORANGE, rng), SAND, 0.5 * i)
    colour, _ = canvas.finish()
    x, y = canvas.grid()
    return to_texture(_weave(colour, x, y, 0.006, 15, 0.3))


def upholstery(resolution: int, seed: int) -> np.ndarray:
    """Tweed in checks."""
    g = (np.arange(resolution) + 0.5) / resolution
    x, y = np.meshgrid(g * 1.6, g)
    base = mix((150, 92, 44), (96, 50, 34), ((x * 16).astype(int) % 2 + (y * 16).astype(int) % 2) / 2)
    line = (np.abs((x * 8) % 1.0 - 0.5) < 0.03) | (np.abs((y * 8) % 1.0 - 0.5) < 0.03)
    base[line] = (226, 196, 130)
    fleck = smoothstep(0.62, 0.7, fbm(x * 160, y * 160, 2, seed))
    return to_texture(_weave(mix(base, (230, 206, 160), fleck), x, y, 0.008, seed))


def stained_glass(width: float, height: float, resolution: float) -> np.ndarray:
    """Milk glass with a coloured border and a sun, leaded; what shines through the window."""
    canvas = Canvas(width, height, resolution, (226, 232, 236))
    rng = np.random.default_rng(4)
    cell = 0.11
    lead: Colour = (40, 40, 44)
    for i in range(int(width / cell) + 1):
        for j in range(int(height / cell) + 1):
            tone = vary((222, 230, 236), rng, 9)
            canvas.rectangle(i * cell, j * cell, (i + 1) * cell - 0.009, (j + 1) * cell - 0.009, tone)
    border: tuple[Colour, ...] = ((208, 66, 48), (236, 170, 60), (60, 120, 190), (76, 150, 100))
    for y in (0.0, height - cell):
        for i in range(int(width / cell) + 1):
            canvas.rectangle(i * cell, y, (i + 1) * cell - 0.009, y + cell - 0.009, border[int(rng.integers(4))])
    for x in (0.0, width - cell):
        for j in range(int(height / cell) + 1):
            canvas.rectangle(x, j * cell, x + cell - 0.009, (j + 1) * cell - 0.009, border[int(rng.integers(4))])
    colour, _ = canvas.finish()
    gx, gy = canvas.grid()
    lines = ((gx % cell) > cell - 0.009) | ((gy % cell) > cell - 0.009)
    colour[lines] = lead
    streak = fbm(gx * 14, gy * 40, 4, 8)
    return to_texture(colour * (0.72 + 0.5 * streak)[..., None])


def lampshade(width: float, height: float, resolution: float) -> np.ndarray:
    """Parchment with ribs and a fringe of dots."""
    canvas = Canvas(width, height, resolution, (250, 214, 150), wraps=True)
    n = 16
    for i in range(n):
        x = (i + 0.5) * width / n
        canvas.stroke(np.array([[x, 0], [x, height]]), 0.006, (190, 120, 60))
        canvas.flower(x + width / n / 2, height * 0.5, 0.04, 6, (226, 120, 70), (250, 230, 180), 0.3 * i)
        canvas.leaf(x + width / n / 2, height * 0.7, 1.57, 0.07, 0.03, (150, 140, 70))
    canvas.band(0, 0.02, (168, 84, 44))
    canvas.band(height - 0.03, height, (168, 84, 44))
    return canvas.texture(0.1, 0.01, 6)
