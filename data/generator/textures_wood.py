"""Wood, floor and rug."""

from __future__ import annotations

import math

import numpy as np

from .painting import Canvas, Colour, fbm, mix, ramp, smoothstep, to_texture

HONEY: tuple[Colour, ...] = ((110, 62, 28), (158, 96, 46), (190, 126, 66), (210, 150, 88))
WALNUT: tuple[Colour, ...] = ((52, 30, 18), (84, 50, 30), (112, 70, 42), (134, 88, 54))
OAK: tuple[Colour, ...] = ((116, 78, 44), (156, 112, 66), (182, 138, 88), (198, 158, 106))
PAINTED: tuple[Colour, ...] = ((196, 196, 182), (214, 212, 198), (224, 222, 208), (230, 228, 216))


def wood(along: np.ndarray, across: np.ndarray, colours: tuple[Colour, ...], seed: int) -> np.ndarray:
    """sRGB wood [...,3]; positions in metres, grain running along the first one."""
    warp = fbm(along * 1.6, across * 9, 4, seed)
    rings = fbm(along * 0.7, across * 26 + 5.0 * warp, 3, seed + 1) * 7
    year = np.abs((rings % 1.0) * 2 - 1)
    fibre = fbm(along * 18, across * 700, 3, seed + 2)
    pores = smoothstep(0.66, 0.8, fbm(along * 45, across * 900, 2, seed + 3))
    tone = 0.15 + 0.5 * year * (0.6 + 0.8 * warp) + 0.5 * (fibre - 0.35) + 0.3 * (warp - 0.5)
    return ramp(colours, tone) * (1 - 0.32 * pores)[..., None]


def board(width: float, height: float, resolution: float, colours: tuple[Colour, ...], seed: int) -> np.ndarray:
    """Texture of one board, grain along its width."""
    x, y = Canvas(width, height, resolution, (0, 0, 0)).grid()
    return to_texture(wood(x, y, colours, seed))


def table_top(inner: float, outer: float, resolution: float) -> np.ndarray:
    """Ring of a round table in polar form: u the angle, v from the inner (0) to the outer radius (1)."""
    columns = round(2 * math.pi * outer * resolution)
    rows = round((outer - inner) * resolution)
    angle = (np.arange(columns) + 0.5) / columns * 2 * math.pi
    radius = inner + (np.arange(rows)[:, None] + 0.5) / rows * (outer - inner)
    x, y = radius * np.cos(angle), radius * np.sin(angle)
    plank = np.floor((y + 2) / 0.13)
    colour = wood(x + 3.7 * plank, y, HONEY, 21) * (0.9 + 0.2 * fbm(plank * 7.7, 0 * plank, 1, 5))[..., None]
    seam = np.abs(((y + 2) / 0.13 + 0.5) % 1.0 - 0.5) * 0.13
    colour *= (1 - 0.55 * np.exp(-((seam / 0.0014) ** 2)))[..., None]
    # A darker inlaid ring with small lozenges near the rim.
    ring = wood(radius * angle, radius, WALNUT, 8)
    inlay = (radius > 0.462) & (radius < 0.5) & np.ones_like(x, bool)
    colour = np.where(inlay[..., None], ring, colour)
    lozenge = np.abs((angle * 44 / (2 * math.pi)) % 1.0 - 0.5) * 0.066 + np.abs(radius - 0.481)
    pale = wood(x, y, PAINTED, 4) * np.array([1.0, 0.9, 0.72])
    colour = np.where((lozenge < 0.0125)[..., None], pale, colour)
    for line in (0.46, 0.502):
        colour = mix(colour, (40, 22, 14), np.exp(-(((radius - line) / 0.0014) ** 2)) * np.ones_like(x))
    return to_texture(colour)


def herringbone(size: float, resolution: float) -> np.ndarray:
    """Square of oak herringbone parquet."""
    x, y = Canvas(size, size, resolution, (0, 0, 0)).grid()
    unit, n = 0.085, 5
    i, j = np.floor(x / unit), np.floor(y / unit)
    k = (i - j) % (2 * n)
    lies = k < n
    start_x, start_y = np.where(lies, i - k, i), np.where(lies, j, j - (2 * n - 1 - k))
    along = np.where(lies, x - start_x * unit, y - start_y * unit)
    across = np.where(lies, y - start_y * unit, x - start_x * unit)
    number = start_x * 131 + start_y * 17
    tone = fbm(number * 3.7, number * 1.3, 1, 2)
    colour = wood(along + number * 0.77, across + number * 0.31, OAK, 33) * (0.68 + 0.5 * tone)[..., None]
    edge = np.minimum(np.minimum(along, n * unit - along), np.minimum(across, unit - across))
    return to_texture(colour * (1 - 0.6 * np.exp(-((edge / 0.002) ** 2)))[..., None])


def panelling(width: float, height: float, resolution: float, n_panels: int) -> np.ndarray:
    """Painted wall panels with mouldings, a little worn."""
    canvas = Canvas(width, height, resolution, (128, 154, 144))
    step = width / n_panels
    for i in range(n_panels):
        x0, x1 = i * step + 0.07, (i + 1) * step - 0.07
        for inset, tone in ((0.0, 0.62), (0.008, 1.2), (0.02, 0.8), (0.03, 1.12), (0.04, 0.95)):
            c = (int(min(128 * tone, 255)), int(154 * tone), int(144 * tone))
            canvas.rectangle(x0 + inset, 0.1 + inset, x1 - inset, height - 0.16 - inset, c)
    for y, c in ((0.0, (128, 150, 142)), (0.03, (66, 86, 82)), (0.036, (100, 124, 118)), (height - 0.1, (60, 80, 76))):
        canvas.band(y, y + 0.012, c)
    colour, _ = canvas.finish()
    x, y = canvas.grid()
    brushed = fbm(x * 400, y * 9, 4, 3) - 0.5
    worn = smoothstep(0.62, 0.72, fbm(x * 14, y * 14, 5, 12))
    colour = colour * (1 + 0.3 * brushed)[..., None]
    return to_texture(mix(colour, wood(y, x, OAK, 3), 0.75 * worn))


def rug(width: float, height: float, resolution: float) -> np.ndarray:
    """Oriental rug: medallion, scattered blossoms, three borders; drawn in quarters, knotted with small faults."""
    knot = 0.0035
    x, y = Canvas(width, height, resolution, (0, 0, 0)).grid()
    qx, qy = np.floor(x / knot) * knot - width / 2, np.floor(y / knot) * knot - height / 2
    ax, ay = np.abs(qx), np.abs(qy)
    to_edge = np.minimum(width / 2 - ax, height / 2 - ay)
    radius, angle = np.hypot(ax / 1.15, ay), np.arctan2(ay, ax)
    colour = np.empty((*x.shape, 3))
    colour[:] = (122, 28, 32)
    spots = fbm(ax * 16, ay * 16, 2, 41)
    for level, c in ((0.62, (206, 160, 92)), (0.68, (30, 44, 86)), (0.74, (226, 204, 160))):
        colour[spots > level] = c
    vines = np.abs(fbm(ax * 9, ay * 9, 3, 43) - 0.5)
    colour[vines < 0.012] = (196, 152, 84)
    petals = 0.05 * np.cos(8 * angle) + 0.015 * np.cos(24 * angle)
    for size, c in (
        (0.5, (228, 208, 166)),
        (0.48, (28, 42, 84)),
        (0.36, (206, 160, 92)),
        (0.34, (134, 34, 36)),
        (0.2, (228, 208, 166)),
        (0.18, (34, 70, 84)),
        (0.08, (206, 110, 60)),
    ):
        colour[radius < size + petals * (0.4 + size)] = c
    inside = (radius < 0.46 + petals * 0.8) & (spots > 0.6)
    colour[inside] = (214, 176, 110)
    for begin, end, ground in (
        (0.0, 0.03, (34, 30, 48)),
        (0.03, 0.06, (214, 184, 130)),
        (0.06, 0.2, (30, 44, 82)),
        (0.2, 0.23, (214, 184, 130)),
        (0.23, 0.25, (96, 24, 28)),
    ):
        colour[(to_edge >= begin) & (to_edge < end)] = ground
    run = np.where(width / 2 - ax < height / 2 - ay, ay, ax)
    wave = (run / 0.16) % 1.0
    blossom = np.hypot((wave - 0.5) * 0.16, to_edge - 0.13)
    lobes = 1 + 0.25 * np.cos(6 * np.arctan2(to_edge - 0.13, (wave - 0.5) * 0.16))
    for size, c in ((0.05, (202, 150, 84)), (0.042, (146, 38, 40)), (0.024, (232, 214, 176)), (0.011, (40, 74, 90))):
        colour[(blossom < size * lobes) & (to_edge < 0.2)] = c
    small = np.abs(((run / 0.045) % 1.0) - 0.5) * 0.045 + np.abs(((to_edge - 0.03) % 0.17) - 0.015)
    colour[(small < 0.013) & (((to_edge > 0.03) & (to_edge < 0.06)) | ((to_edge > 0.2) & (to_edge < 0.23)))] = (
        126,
        36,
        36,
    )
    thread = fbm(qx / knot * 1.7 + 91, qy / knot * 1.7, 1, 47)
    pile = fbm(x * 900, y * 240, 3, 48)
    age = fbm(x * 3, y * 9, 4, 49)
    return to_texture(colour * (0.62 + 0.34 * thread + 0.3 * pile + 0.3 * (age - 0.5))[..., None])
