"""Painted ceramics and lacquer: tea set, bowl, pots, nesting dolls."""

from __future__ import annotations

import math

import numpy as np

from .painting import GOLD, Canvas, Colour, fbm, mix, shade, to_texture, vary

CREAM: Colour = (240, 230, 208)
COBALT: Colour = (28, 52, 132)
SKY: Colour = (92, 140, 196)
CORAL: Colour = (206, 78, 56)
MOSS: Colour = (88, 122, 60)
OCHRE: Colour = (226, 168, 60)
TURQUOISE: Colour = (38, 134, 140)


def _glaze(canvas: Canvas, seed: int, crackle: float = 0.05, specks: float = 0.5) -> np.ndarray:
    """Finish with the cloudiness and fine speckles of a hand-made glaze."""
    colour, metal = canvas.finish()
    x, y = canvas.grid()
    angle = x / canvas.width * 2 * math.pi
    a, b = np.cos(angle) * canvas.width / 2 / math.pi, np.sin(angle) * canvas.width / 2 / math.pi
    cloud = fbm(a * 30 + y * 11, b * 30 + y * 23, 4, seed) - 0.5
    speckle = fbm(x * 420, y * 420, 2, seed + 1)
    colour = colour * (1 + 2 * crackle * cloud)[..., None]
    return to_texture(mix(colour, (120, 88, 60), specks * (speckle > 0.84)), metal)


def _scroll(canvas: Canvas, x: float, y: float, size: float, turn: float, flip: float, colour: Colour) -> None:
    """A spiral tendril with leaves along its outside."""
    t = np.linspace(0, 1, 30)
    angle = turn + flip * t * 1.7 * math.pi
    radius = size * (1 - 0.82 * t)
    centre = np.array([x + size * math.cos(turn + math.pi), y + size * math.sin(turn + math.pi)])
    line = centre + np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)
    canvas.stroke(line, np.linspace(0.12, 0.05, 30) * size, colour)
    canvas.disc(*line[-1], size * 0.12, colour)
    for i in (5, 10, 15):
        canvas.leaf(*line[i], float(angle[i]) + flip * 0.7, size * 0.55, size * 0.26, shade(colour, 1.25))


def _row(canvas: Canvas, y: float, step: float, kind: str, size: float, colour: Colour, metal: bool = False) -> None:
    """A row of small ornaments, a whole number around the canvas."""
    count = max(1, round(canvas.width / step))
    for i in range(count):
        x = (i + 0.5) * canvas.width / count
        if kind == "dot":
            canvas.disc(x, y, size, colour, metal)
        elif kind == "lozenge":
            canvas.polygon([(x - size, y), (x, y - 1.5 * size), (x + size, y), (x, y + 1.5 * size)], colour, metal)
        elif kind == "petal":
            a = np.linspace(0, math.pi, 16)
            half = 0.5 * canvas.width / count
            canvas.polygon(np.stack([x + half * 0.92 * np.cos(a), y - size * np.sin(a)], 1), colour, metal)
        elif kind == "hang":
            a = np.linspace(0, math.pi, 16)
            half = 0.5 * canvas.width / count
            canvas.polygon(np.stack([x + half * 0.92 * np.cos(a), y + size * np.sin(a)], 1), colour, metal)


def _bouquet(canvas: Canvas, x: float, y: float, size: float, rng: np.random.Generator, bloom: Colour) -> None:
    """A large blossom with buds, leaves and tendrils."""
    for flip in (-1.0, 1.0):
        _scroll(canvas, x + flip * size * 1.0, y + size * 0.3, size * 0.6, -math.pi / 2, flip, COBALT)
        _scroll(canvas, x + flip * size * 0.95, y - size * 0.55, size * 0.45, math.pi / 2, -flip, COBALT)
    for i in range(11):
        angle = i * 2 * math.pi / 11 + rng.uniform(-0.2, 0.2)
        canvas.leaf(x, y, angle, size * rng.uniform(0.95, 1.2), size * 0.3, vary(MOSS, rng, 10))
    for angle in (-2.5, -1.57, -0.65, 0.65, 1.57, 2.5):
        bx, by = x + 1.08 * size * math.cos(angle), y + 0.98 * size * math.sin(angle)
        canvas.flower(bx, by, size * 0.25, 6, vary(SKY if abs(angle) != 1.57 else OCHRE, rng, 12), CORAL, angle)
    canvas.flower(x, y, size * 0.74, 9, bloom, OCHRE if bloom != OCHRE else CORAL, rng.uniform(0, 1))


def teapot_body(width: float, height: float, resolution: float) -> np.ndarray:
    """Cream glaze, four bouquets in blue and coral, gold lines; v from the lid seat down to the foot."""
    rng = np.random.default_rng(101)
    canvas = Canvas(width, height, resolution, CREAM, wraps=True)
    h = height
    for i in range(190):
        x, y = rng.uniform(0, width), rng.uniform(0.16, 0.8) * h
        angle = rng.uniform(0, 6.28)
        for k in (-0.5, 0.5):
            canvas.leaf(x, y, angle + k, rng.uniform(0.006, 0.01), 0.004, vary(SKY, rng, 14))
        canvas.disc(x, y, 0.0015, (CORAL, OCHRE)[i % 2])
    for i, bloom in enumerate((CORAL, COBALT, (196, 62, 92), OCHRE)):
        _bouquet(canvas, (i + 0.5) * width / 4, 0.47 * h, 0.215 * h, rng, bloom)
    canvas.band(0, 0.07 * h, COBALT)
    _row(canvas, 0.035 * h, 0.022, "lozenge", 0.005, GOLD, True)
    canvas.band(0.07 * h, 0.08 * h, GOLD, True)
    _row(canvas, 0.08 * h, 0.03, "hang", 0.022, COBALT)
    _row(canvas, 0.08 * h, 0.03, "hang", 0.016, SKY)
    _row(canvas, 0.08 * h, 0.03, "hang", 0.009, CREAM)
    _row(canvas, 0.09 * h, 0.03, "dot", 0.0025, CORAL)
    canvas.band(0.77 * h, 0.78 * h, GOLD, True)
    canvas.band(0.785 * h, 0.86 * h, COBALT)
    _row(canvas, 0.8225 * h, 0.026, "dot", 0.0075, CREAM)
    _row(canvas, 0.8225 * h, 0.026, "dot", 0.0045, CORAL)
    _row(canvas, 0.8225 * h, 0.026, "dot", 0.0018, GOLD, True)
    canvas.band(0.865 * h, 0.875 * h, GOLD, True)
    _row(canvas, 0.96 * h, 0.03, "petal", 0.022, SKY)
    _row(canvas, 0.96 * h, 0.03, "petal", 0.012, COBALT)
    return _glaze(canvas, 7)


def teapot_lid(width: float, height: float, resolution: float) -> np.ndarray:
    """Lid: knob at the top, petals, a blue rim with gold."""
    canvas = Canvas(width, height, resolution, CREAM, wraps=True)
    h = height
    canvas.band(0, 0.28 * h, COBALT)
    _row(canvas, 0.17 * h, width / 8, "lozenge", 0.09 * h, GOLD, True)
    canvas.band(0.28 * h, 0.32 * h, GOLD, True)
    _row(canvas, 0.6 * h, width / 12, "petal", 0.2 * h, CORAL)
    _row(canvas, 0.6 * h, width / 12, "petal", 0.1 * h, OCHRE)
    _row(canvas, 0.68 * h, width / 24, "dot", 0.02 * h, COBALT)
    canvas.band(0.76 * h, 0.9 * h, COBALT)
    _row(canvas, 0.83 * h, width / 30, "dot", 0.03 * h, CREAM)
    canvas.band(0.92 * h, h, GOLD, True)
    return _glaze(canvas, 8)


def striped_glaze(width: float, height: float, resolution: float) -> np.ndarray:
    """Spout and handle: v along the tube; rings, dots and leaves."""
    canvas = Canvas(width, height, resolution, CREAM, wraps=True)
    steps = 9
    for i in range(steps):
        y = (i + 0.5) * height / steps
        canvas.band(y - 0.1 * height / steps, y + 0.1 * height / steps, COBALT if i % 2 else SKY)
        canvas.band(y + 0.13 * height / steps, y + 0.2 * height / steps, GOLD, True)
        for j in range(5):
            x = (j + 0.5 * (i % 2)) * width / 5
            canvas.leaf(x, y + 0.25 * height / steps, math.pi / 2, 0.5 * height / steps, 0.25 * height / steps, MOSS)
            canvas.disc(x, y, 0.08 * height / steps, CORAL)
    return _glaze(canvas, 9)


def cup(width: float, height: float, resolution: float) -> np.ndarray:
    """Cup or saucer: v from the inside bottom over the rim to the foot."""
    rng = np.random.default_rng(55)
    canvas = Canvas(width, height, resolution, CREAM, wraps=True)
    h = height
    canvas.band(0.34 * h, 0.4 * h, COBALT)
    _row(canvas, 0.37 * h, 0.014, "dot", 0.0026, CREAM)
    canvas.band(0.43 * h, 0.455 * h, GOLD, True)
    for i in range(6):
        x = (i + 0.5) * width / 6
        for k in range(6):
            canvas.leaf(x, 0.64 * h, k * 1.047 + 0.4, 0.026, 0.011, vary(MOSS, rng, 9))
        canvas.flower(x, 0.64 * h, 0.017, 7, (CORAL, COBALT, OCHRE)[i % 3], OCHRE if i % 3 < 2 else CORAL)
        canvas.disc(x + width / 12, 0.6 * h, 0.004, SKY)
        canvas.disc(x + width / 12, 0.7 * h, 0.003, CORAL)
    canvas.band(0.84 * h, 0.88 * h, COBALT)
    _row(canvas, 0.2 * h, width / 10, "petal", 0.012, SKY)
    return _glaze(canvas, 10)


def bowl(width: float, height: float, resolution: float) -> np.ndarray:
    """Turquoise majolica; v from the inside bottom over the rim (0.5) to the foot."""
    canvas = Canvas(width, height, resolution, TURQUOISE, wraps=True)
    h = height
    canvas.band(0.0, 0.42 * h, (236, 220, 184))
    _row(canvas, 0.4 * h, 0.04, "petal", 0.04, TURQUOISE)
    canvas.band(0.42 * h, 0.53 * h, OCHRE)
    _row(canvas, 0.475 * h, 0.02, "lozenge", 0.0055, (130, 44, 34))
    canvas.band(0.53 * h, 0.56 * h, (240, 228, 196))
    count = 14
    for i in range(count):
        x = (i + 0.5) * width / count
        y = 0.7 * h
        half = width / count / 2
        canvas.polygon([(x - half, y), (x, y - 0.1 * h), (x + half, y), (x, y + 0.1 * h)], (240, 226, 190))
        canvas.polygon(
            [(x - 0.7 * half, y), (x, y - 0.07 * h), (x + 0.7 * half, y), (x, y + 0.07 * h)],
            CORAL if i % 2 else COBALT,
        )
        canvas.flower(x, y, 0.4 * half, 5, OCHRE, CREAM, i * 0.4)
        canvas.disc(x + half, y - 0.08 * h, 0.004, OCHRE)
        canvas.disc(x + half, y + 0.08 * h, 0.004, CREAM)
    canvas.band(0.84 * h, 0.88 * h, (240, 228, 196))
    _row(canvas, 0.94 * h, 0.02, "dot", 0.005, OCHRE)
    return _glaze(canvas, 11, 0.1)


def plant_pot(width: float, height: float, resolution: float, ground: Colour, ink: Colour) -> np.ndarray:
    """Terracotta pot painted with zigzags and triangles."""
    canvas = Canvas(width, height, resolution, ground, wraps=True)
    count = 16
    for row, (y, size, colour) in enumerate(
        ((0.3, 0.12, ink), (0.45, 0.1, OCHRE), (0.6, 0.12, CREAM), (0.78, 0.1, ink))
    ):
        for i in range(count):
            x, half = (i + 0.5 * (row % 2)) * width / count, width / count / 2
            top, bottom = (y - size / 2) * height, (y + size / 2) * height
            canvas.polygon([(x - half, bottom), (x, top), (x + half, bottom), (x, (top + 2 * bottom) / 3)], colour)
            canvas.disc(x + half, top + 0.01 * height, 0.025 * height, shade(colour, 0.8))
    canvas.band(0.88 * height, 0.92 * height, CREAM)
    canvas.band(0.16 * height, 0.19 * height, CREAM)
    return _glaze(canvas, 12, 0.22)


def nesting_doll(width: float, height: float, resolution: float, coat: Colour, scarf: Colour, seed: int) -> np.ndarray:
    """Nesting doll; u = 0.5 is her front, v from the top of the head down."""
    rng = np.random.default_rng(seed)
    canvas = Canvas(width, height, resolution, scarf, wraps=True)
    w, h, mid = width, height, width / 2
    for _ in range(34):
        canvas.disc(rng.uniform(0, w), rng.uniform(0.05, 0.4) * h, 0.016 * h, shade(scarf, 0.72))
        canvas.disc(rng.uniform(0, w), rng.uniform(0.05, 0.4) * h, 0.01 * h, CREAM)
    canvas.band(0.44 * h, h, coat)
    _doll_face(canvas, mid, 0.27 * h, h)
    canvas.polygon([(mid - 0.13 * w, 0.43 * h), (mid, 0.4 * h), (mid + 0.13 * w, 0.43 * h), (mid, 0.56 * h)], scarf)
    canvas.disc(mid, 0.45 * h, 0.03 * h, OCHRE)
    a = np.linspace(0, 2 * math.pi, 50)
    apron = np.stack([mid + 0.24 * w * np.cos(a), 0.73 * h + 0.2 * h * np.sin(a)], 1)
    canvas.polygon(apron, CREAM)
    for i in range(0, 50, 2):
        canvas.disc(*apron[i], 0.018 * h, OCHRE)
    for i, (dx, dy, size) in enumerate(
        ((0, 0, 0.095), (-0.12, -0.06, 0.055), (0.12, -0.06, 0.055), (-0.08, 0.1, 0.05), (0.09, 0.1, 0.05))
    ):
        x, y = mid + dx * w, (0.73 + dy) * h
        for k in range(7):
            canvas.leaf(x, y, k * 0.9 + i, size * h * 1.35, size * h * 0.5, vary(MOSS, rng, 12))
        canvas.flower(x, y, size * h, 8, (CORAL, COBALT, OCHRE)[i % 3], (OCHRE, CREAM, CORAL)[i % 3], i)
    for i in range(9):
        x, y = (0.13 * w + i * 0.74 * w / 8 + 0.5 * w) % w, (0.66 + 0.14 * (i % 2)) * h
        if abs(x - mid) > 0.27 * w:
            for k in range(5):
                canvas.leaf(x, y, k * 1.256 + i, 0.075 * h, 0.03 * h, vary(MOSS, rng, 12))
            canvas.flower(x, y, 0.055 * h, 7, OCHRE if i % 2 else CREAM, CORAL, i)
    canvas.band(0.93 * h, 0.95 * h, OCHRE)
    _row(canvas, 0.965 * h, 0.012, "dot", 0.01 * h, CREAM)
    return _glaze(canvas, seed, 0.03, 0.12)


def _doll_face(canvas: Canvas, x: float, y: float, h: float) -> None:
    s = 0.125 * h
    canvas.disc(x, y, s * 1.18, OCHRE, squash=1.12)
    canvas.disc(x, y, s * 1.08, (70, 40, 22), squash=1.12)
    canvas.disc(x, y + 0.12 * s, 0.95 * s, (246, 212, 176), squash=1.08)
    a = np.linspace(math.pi, 2 * math.pi, 20)
    for flip in (-1, 1):
        hair = np.stack([x + flip * 0.5 * s + 0.55 * s * np.cos(a), y - 0.35 * s + 0.6 * s * np.sin(a)], 1)
        canvas.polygon(hair, (92, 54, 28))
        canvas.disc(x + flip * 0.38 * s, y + 0.02 * s, 0.15 * s, (252, 250, 244), squash=0.8)
        canvas.disc(x + flip * 0.36 * s, y + 0.03 * s, 0.1 * s, (40, 70, 110))
        canvas.disc(x + flip * 0.35 * s, y + 0.02 * s, 0.05 * s, (16, 14, 14))
        brow = np.stack(
            [x + flip * s * np.linspace(0.2, 0.6, 8), y - s * (0.22 + 0.1 * np.sin(np.linspace(0, 3.1, 8)))], 1
        )
        canvas.stroke(brow, 0.06 * s, (70, 40, 22))
        canvas.disc(x + flip * 0.52 * s, y + 0.42 * s, 0.2 * s, (232, 138, 112))
    canvas.disc(x, y + 0.32 * s, 0.05 * s, (214, 150, 116))
    lips = np.stack([x + s * np.linspace(-0.2, 0.2, 9), y + s * (0.56 + 0.06 * np.sin(np.linspace(0, math.pi, 9)))], 1)
    canvas.stroke(lips, 0.12 * s * np.sin(np.linspace(0.3, 2.8, 9)), (188, 40, 44))


def gilded(seed: int = 3) -> np.ndarray:
    """Brushed brass."""
    x, y = Canvas(0.2, 0.2, 1200, (0, 0, 0)).grid()
    tone = 0.8 + 0.25 * fbm(x * 30, y * 700, 4, seed)
    return to_texture(np.asarray((206, 160, 84), float) * tone[..., None], 0.9)
