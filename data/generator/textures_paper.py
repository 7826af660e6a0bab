"""Books, toy blocks and the pictures on the walls."""

from __future__ import annotations

import math

import numpy as np

from .painting import GOLD, Canvas, Colour, fbm, mix, ramp, shade, to_texture, vary

LEATHERS: tuple[Colour, ...] = (
    (122, 32, 34), (30, 62, 54), (32, 46, 88), (128, 84, 36), (70, 34, 60), (168, 120, 60), (54, 44, 38),
    (176, 62, 40), (40, 96, 104), (206, 186, 140), (90, 104, 54), (148, 60, 74),
)  # fmt: skip
WORDS = (
    "LIGHT", "RAYS", "FIELDS", "ATLAS", "GARDEN", "TEA", "VIEWS", "OPTICS", "HERBAL", "STARS", "COLOUR", "PAINT",
    "MAPS", "BIRDS", "SEA", "WOOD", "CLAY", "NOTES", "DEPTH", "PRISM", "LENS", "HASH", "CAMERA", "STONE", "RIVER",
)  # fmt: skip


def book_cover(
    width: float, height: float, resolution: float, title: tuple[str, str], leather: Colour, seed: int
) -> np.ndarray:
    """Front cover: tooled frame, corner flowers, title."""
    rng = np.random.default_rng(seed)
    canvas = Canvas(width, height, resolution, leather)
    for inset, line in ((0.008, 0.0022), (0.013, 0.001), (0.03, 0.0014)):
        for x0, y0, x1, y1 in (
            (inset, inset, width - inset, inset + line),
            (inset, height - inset - line, width - inset, height - inset),
            (inset, inset, inset + line, height - inset),
            (width - inset - line, inset, width - inset, height - inset),
        ):
            canvas.rectangle(x0, y0, x1, y1, GOLD, True)
    for i in range(int(2 * (width + height) / 0.016)):
        side, at = i % 2, (i // 2) * 0.016 + 0.02
        if at < (width if side else height) - 0.02:
            for far in (0.0215, (height if side else width) - 0.0215):
                x, y = (at, far) if side else (far, at)
                canvas.disc(x, y, 0.004, shade(leather, 1.5))
                canvas.disc(x, y, 0.002, GOLD, True)
    for sx in (0, 1):
        for sy in (0, 1):
            x, y = (width - 0.048 if sx else 0.048), (height - 0.048 if sy else 0.048)
            canvas.flower(x, y, 0.02, 8, vary(GOLD, rng, 20), leather, 0.2)
    canvas.text(width / 2, height * 0.32, title[0], 0.024, GOLD, True)
    canvas.text(width / 2, height * 0.68, title[1], 0.015, GOLD, True)
    for k in range(12):
        canvas.leaf(width / 2, height * 0.5, k * math.pi / 6, 0.034, 0.012, shade(leather, 1.5 + 0.3 * (k % 2)))
    canvas.flower(width / 2, height * 0.5, 0.02, 7, GOLD, leather)
    return canvas.texture(0.16, 0.0025, seed)


def page_block(width: float, height: float, resolution: float, seed: int) -> np.ndarray:
    """The cut edge of the pages: lines along the width."""
    x, y = Canvas(width, height, resolution, (0, 0, 0)).grid()
    tone = 0.72 + 0.4 * fbm(x * 8, y * 1100, 2, seed) + 0.2 * (fbm(x * 40, y * 40, 3, seed + 1) - 0.5)
    return to_texture(np.asarray((226, 208, 168), float) * np.clip(tone, 0, 1.1)[..., None])


def spine_atlas(count: int, resolution: float, seed: int) -> np.ndarray:
    """`count` book spines side by side, each 0.04 x 0.26 m, upright."""
    rng = np.random.default_rng(seed)
    w, h = 0.04, 0.26
    canvas = Canvas(w * count, h, resolution, (60, 40, 30))
    for i in range(count):
        leather = vary(LEATHERS[int(rng.integers(len(LEATHERS)))], rng, 12)
        x0, x1 = i * w, (i + 1) * w
        canvas.rectangle(x0, 0, x1, h, leather)
        ink = GOLD if sum(leather) < 420 else (84, 40, 28)
        for y in np.sort(rng.uniform(0.02, h - 0.02, int(rng.integers(4, 9)))):
            thick = rng.uniform(0.001, 0.007)
            canvas.rectangle(
                x0, y, x1, y + thick, ink if rng.random() < 0.6 else shade(leather, 1.5), rng.random() < 0.3
            )
        if rng.random() < 0.7:
            y = rng.uniform(0.05, 0.08)
            canvas.rectangle(x0, y - 0.022, x1, y + 0.022, shade(leather, rng.choice((0.5, 1.6))))
        canvas.text((x0 + x1) / 2, rng.uniform(0.12, 0.17), str(rng.choice(WORDS)), 0.017, ink, False, 90)
        motif = rng.integers(3)
        if motif == 0:
            canvas.flower((x0 + x1) / 2, 0.235, 0.013, 6, ink, leather)
        elif motif == 1:
            canvas.polygon([(x0 + 0.008, 0.235), (x0 + 0.02, 0.215), (x0 + 0.032, 0.235), (x0 + 0.02, 0.252)], ink)
    return canvas.texture(0.16, 0.004, seed)


def block_face(letter: str, size: float, resolution: float, colour: Colour, seed: int) -> np.ndarray:
    """Face of a wooden toy block: coloured frame and letter on maple."""
    from .textures_wood import wood

    canvas = Canvas(size, size, resolution, colour)
    m = size * 0.1
    canvas.rectangle(m, m, size - m, size - m, (238, 208, 156))
    canvas.rectangle(1.35 * m, 1.35 * m, size - 1.35 * m, size - 1.35 * m, shade(colour, 1.1))
    canvas.rectangle(1.6 * m, 1.6 * m, size - 1.6 * m, size - 1.6 * m, (240, 214, 164))
    canvas.text(size / 2, size / 2, letter, size * 0.5, colour)
    for sx in (0.22, 0.78):
        for sy in (0.22, 0.78):
            canvas.disc(size * sx, size * sy, size * 0.03, shade(colour, 0.8))
    painted, _ = canvas.finish()
    x, y = canvas.grid()
    grain = wood(x, y, ((190, 190, 190), (220, 220, 220), (245, 245, 245), (255, 255, 255)), seed) / 235
    return to_texture(painted * grain)


def landscape(
    width: float, height: float, resolution: float, hues: tuple[Colour, Colour, Colour], seed: int
) -> np.ndarray:
    """Mountain ranges before an evening sky, a lake below, in thick paint."""
    x, y = Canvas(width, height, resolution, (0, 0, 0)).grid()
    dark, middle, sky = hues
    brush = fbm(x * 30 + 4 * fbm(x * 9, y * 9, 2, seed), y * 90, 4, seed + 1) - 0.5
    colour = mix(sky, (250, 226, 170), np.clip(y / height * 1.6 + 0.5 * brush, 0, 1))
    sun = np.hypot(x - 0.66 * width, y - 0.3 * height) / height
    colour = mix(colour, (255, 240, 190), np.exp(-((sun / 0.1) ** 4)))
    for k in range(5):
        ridge = height * (0.36 + 0.09 * k - 0.3 * (fbm(x * (3 + k) / width + 9 * k, 0 * x, 5, seed + 5) - 0.45))
        tone = mix(
            np.broadcast_to(mix(middle, sky, np.array(0.5 - 0.14 * k)), colour.shape), dark, np.full(x.shape, k / 5)
        )
        lit = fbm(x * 26, (y - ridge) * 40, 4, seed + 20 + k)
        colour = np.where((y > ridge)[..., None], tone * (0.6 + 0.8 * lit)[..., None], colour)
    lake = y > 0.8 * height
    ripple = fbm(x * 14, y * 160, 3, seed + 40)
    colour = np.where(lake[..., None], mix(mix(middle, sky, 0 * x + 0.5), (250, 226, 170), ripple**2), colour)
    return to_texture(colour * (1 + 0.5 * brush)[..., None])


def circles(width: float, height: float, resolution: float, seed: int) -> np.ndarray:
    """Abstract: concentric circles in squares."""
    rng = np.random.default_rng(seed)
    canvas = Canvas(width, height, resolution, (230, 214, 180))
    n = 4
    palette = (
        (196, 60, 44),
        (32, 60, 110),
        (236, 170, 50),
        (60, 130, 120),
        (244, 232, 206),
        (90, 40, 70),
        (226, 120, 60),
    )
    for i in range(n):
        for j in range(round(n * height / width)):
            s = width / n
            canvas.rectangle(i * s, j * s, (i + 1) * s, (j + 1) * s, vary(palette[int(rng.integers(7))], rng))
            for r in (0.46, 0.36, 0.26, 0.16, 0.07):
                colour = vary(palette[int(rng.integers(7))], rng)
                canvas.disc((i + 0.5) * s, (j + 0.5) * s, r * s * rng.uniform(0.9, 1.06), colour)
    return canvas.texture(0.2, 0.008, seed)


def old_map(width: float, height: float, resolution: float, seed: int) -> np.ndarray:
    """Map of an island that does not exist: coast lines, hills, roads, names, a compass rose."""
    rng = np.random.default_rng(seed)
    x, y = Canvas(width, height, resolution, (0, 0, 0)).grid()
    r = np.hypot((x - width / 2) / width, (y - height / 2) / height) * 2
    land = fbm(x * 5 / width, y * 5 / width, 6, seed) - 0.62 * r + 0.16
    colour = mix((120, 160, 160), (214, 206, 170), np.exp(-np.abs(np.minimum(land - 0.1, 0)) * 12))
    ink = np.abs((land * 60) % 1.0 - 0.5) < 0.09
    colour[(land < 0.1) & (land > -0.02) & ink] = (70, 110, 120)
    ground = ramp(
        ((222, 200, 140), (196, 184, 112), (160, 150, 92), (176, 130, 84), (236, 226, 206)), (land - 0.1) * 2.6
    )
    colour = np.where((land > 0.1)[..., None], ground, colour)
    colour[np.abs(land - 0.1) < 0.004] = (70, 44, 28)
    colour[(land > 0.1) & ink & (np.abs((land * 30) % 1.0 - 0.5) < 0.25)] *= 0.82
    canvas = Canvas(width, height, resolution, (255, 255, 255))
    for _ in range(34):
        px, py = rng.uniform(0.15, 0.85) * width, rng.uniform(0.15, 0.85) * height
        canvas.disc(px, py, 0.004, (150, 30, 30))
        canvas.text(px, py - 0.014, str(rng.choice(WORDS)), 0.012, (60, 34, 24))
    for k in range(16):
        canvas.leaf(0.86 * width, 0.82 * height, k * math.pi / 8, 0.08 if k % 2 == 0 else 0.05, 0.016, (150, 60, 40))
    canvas.text(width / 2, 0.05 * height + 0.01, "TERRA RADIANTIA", 0.03, (90, 40, 26))
    drawn, _ = canvas.finish()
    colour = colour * drawn / 255 * (0.75 + 0.5 * fbm(x * 12, y * 12, 5, 3))[..., None]
    return to_texture(colour)


def lying_spine(width: float, height: float, resolution: float, title: str, leather: Colour, seed: int) -> np.ndarray:
    """Spine of a lying book: raised bands, title along it."""
    canvas = Canvas(width, height, resolution, leather)
    for i in range(1, 7):
        x = i * width / 7
        canvas.rectangle(x - 0.0035, 0, x + 0.0035, height, shade(leather, 0.6))
        canvas.rectangle(x - 0.0025, 0, x + 0.0005, height, shade(leather, 1.5))
        for dx in (-0.0055, 0.0045):
            canvas.rectangle(x + dx, 0, x + dx + 0.001, height, GOLD, True)
    canvas.rectangle(2 * width / 7 + 0.007, 0, 5 * width / 7 - 0.007, height, shade(leather, 0.55))
    canvas.text(width / 2, height / 2, title, height * 0.42, GOLD, True)
    for i in (0, 1, 5, 6):
        canvas.flower((i + 0.5) * width / 7, height / 2, height * 0.26, 8, GOLD, leather, 0.3 * i + seed)
    return canvas.texture(0.2, 0.0025, seed)
