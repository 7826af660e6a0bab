"""The room around the table. Walls are called by compass: north is +y, east is +x (the window)."""

from __future__ import annotations

import math

import numpy as np

from .scene import Light
from .shapes import Patch, box, cushion, place, revolve, sheet, smooth_profile, sweep

HALF_X, HALF_Y, HEIGHT = 2.4, 2.3, 2.7
WAINSCOT = 0.92
SPINES = 40
SIDES = {"north": 0.0, "east": -90.0, "south": 180.0, "west": 90.0}
COARSE = 0.03
SKYLIGHT = (15.0, 16.0, 17.4)
FILLLIGHT = (3.4, 3.0, 2.5)
LAMPLIGHT = (24.0, 18.6, 12.4)


def against(side: str, patches: list[Patch], x: float = 0.0, z: float = 0.0) -> list[Patch]:
    """Move things modelled before the plane y = 0 (seen from -y) to a wall."""
    away = HALF_X if side in ("east", "west") else HALF_Y
    place(patches, (x, away, z))
    return place(patches, (0, 0, 0), SIDES[side])


def shell() -> list[Patch]:
    """Floor, rug, ceiling, four walls in two zones with a rail."""
    x, y = HALF_X, HALF_Y
    patches = [
        sheet((-x, y, 0), (2 * x, 0, 0), (0, -2 * y, 0), "floor", "floor", light_cell=COARSE),
        sheet((-x, y, HEIGHT), (0, -2 * y, 0), (2 * x, 0, 0), "ceiling", "matt", light_cell=0.1),
        *place(box((2.7, 2.0, 0.006), "rug", "matt", light_cell=0.025, faces="top"), (0, 0, 0.0), 0),
    ]
    for side in SIDES:
        half = y if side in ("east", "west") else x
        low = sheet((-half, 0, WAINSCOT), (2 * half, 0, 0), (0, 0, -WAINSCOT), "panelling", "paint", light_cell=COARSE)
        high = sheet(
            (-half, 0, HEIGHT), (2 * half, 0, 0), (0, 0, WAINSCOT - HEIGHT), f"paper_{side}", "matt", light_cell=COARSE
        )
        rail = place(box((2 * half, 0.03, 0.05), "oak", "varnish", None, 0.04), (0, -0.015, WAINSCOT - 0.02))
        skirting = place(box((2 * half, 0.02, 0.11), "oak", "varnish", None, 0.04), (0, -0.01, 0.0))
        patches += against(side, [low, high, *rail, *skirting])
    return patches


def framed(name: str, width: float, height: float, frame: str) -> list[Patch]:
    """A picture in a frame, centred on x = 0, z = 0."""
    border = 0.045
    patches = [
        sheet((-width / 2, -0.012, height / 2), (width, 0, 0), (0, 0, -height), name, "canvas", light_cell=COARSE)
    ]
    for x, z, w, h in (
        (0, height / 2, width + 2 * border, border),
        (0, -height / 2 - border, width + 2 * border, border),
        (-width / 2 - border / 2, -height / 2, border, height),
        (width / 2 + border / 2, -height / 2, border, height),
    ):
        patches += place(box((w, 0.035, h), frame, "varnish", light_cell=COARSE), (x, -0.0175, z))
    return patches


def bookshelf(width: float, shelves: tuple[float, ...], rng: np.random.Generator) -> list[Patch]:
    """Shelves full of books, a few gaps with jars."""
    depth, top = 0.3, shelves[-1]
    patches = [sheet((-width / 2, -0.004, top), (width, 0, 0), (0, 0, -top), "walnut", "matt", (0, 3, 0, 3), COARSE)]
    for z in shelves:
        patches += place(box((width, depth, 0.025), "walnut", "varnish", light_cell=COARSE), (0, -depth / 2, z - 0.025))
    for x in (-width / 2, -width / 6, width / 6, width / 2):
        patches += place(box((0.03, depth, top), "walnut_up", "varnish", light_cell=COARSE), (x, -depth / 2, 0))
    for low, high in zip(shelves[:-1], shelves[1:], strict=True):
        for bay in range(3):
            begin = -width / 2 + bay * width / 3 + 0.018
            patches += _row_of_books(begin, begin + width / 3 - 0.036, low, high - low - 0.05, rng)
    return patches


def _row_of_books(x: float, end: float, z: float, room: float, rng: np.random.Generator) -> list[Patch]:
    patches: list[Patch] = []
    while True:
        thick, tall, deep = rng.uniform(0.018, 0.05), room * rng.uniform(0.66, 0.97), rng.uniform(0.17, 0.24)
        if x + thick > end:
            return patches
        if rng.random() < 0.035 and x + 0.13 < end:
            jar = revolve(
                smooth_profile(
                    [(0, 0), (0.04, 0), (0.055, 0.06), (0.05, 0.11), (0.026, 0.14), (0.034, 0.16), (0, 0.155)], 30
                ),
                "pot",
                "glaze",
                32,
                light_cell=0.02,
            )
            patches += place([jar], (x + 0.06, -0.2, z))
            x += 0.13
            continue
        i = int(rng.integers(SPINES))
        uv = {
            "front": (i / SPINES, (i + 1) / SPINES, 0.0, 1.0),
            "left": (i / SPINES, (i + 0.4) / SPINES, 0.3, 0.5),
            "right": (i / SPINES, (i + 0.4) / SPINES, 0.3, 0.5),
        }
        one = box(
            (thick, deep, tall),
            {"front": "spines", "left": "spines", "right": "spines", "other": "pages"},
            "leather",
            uv,
            0.03,
            "front left right top",
        )
        patches += place(one, (x + thick / 2, -0.03 - deep / 2 - rng.uniform(0, 0.03), z))
        x += thick + rng.uniform(0.0005, 0.002)


def window() -> list[Patch]:
    """Leaded window with its frame and two curtains on a rod."""
    w, low, high = 1.5, 0.98, 2.3
    patches = [sheet((-w / 2, -0.01, high), (w, 0, 0), (0, 0, low - high), "glass", "skylight", light_cell=0.2)]
    for x in (-w / 2, 0.0, w / 2):
        patches += place(box((0.06, 0.05, high - low), "oak_up", "varnish", light_cell=COARSE), (x, -0.025, low))
    for z in (low - 0.03, (low + high) / 2 + 0.15, high - 0.03):
        patches += place(box((w + 0.06, 0.05, 0.06), "oak", "varnish", light_cell=COARSE), (0, -0.025, z))
    patches += place(box((w + 0.3, 0.2, 0.035), "oak", "varnish", light_cell=COARSE), (0, -0.1, low - 0.06))
    for flip in (-1, 1):
        x = np.linspace(0, 0.5, 91)
        z = np.linspace(2.42, 0.1, 30)
        xx, zz = np.meshgrid(x, z)
        fold = 0.045 * np.sin(xx * 2 * math.pi / 0.09 + 0.4 * np.sin(zz * 3))
        points = np.stack([flip * (w / 2 + 0.02) + (xx if flip > 0 else xx - 0.5), -0.12 + fold, zz], -1)
        along_u, along_v = np.gradient(points, axis=1), np.gradient(points, axis=0)
        normals = np.cross(along_v, along_u)
        normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
        patches.append(Patch(points, normals, "curtain", "matt", (0, 1, 0, 1), 0.025))
    rod = np.stack([np.linspace(-1.4, 1.4, 5), np.full(5, -0.12), np.full(5, 2.44)], 1)
    patches.append(sweep(rod, np.full((5, 2), 0.014), "brass", "metal", 12, light_cell=COARSE))
    return patches


def sideboard(width: float, height: float) -> list[Patch]:
    """Low cabinet with doors."""
    depth = 0.42
    patches = place(box((width, depth, height - 0.12), "walnut", "varnish", light_cell=COARSE), (0, -depth / 2, 0.1))
    patches += place(
        box((width + 0.05, depth + 0.03, 0.025), "oak", "varnish", light_cell=COARSE), (0, -depth / 2, height - 0.025)
    )
    n = max(2, round(width / 0.45))
    for i in range(n):
        x = (i + 0.5) * width / n - width / 2
        door = box((width / n - 0.03, 0.02, height - 0.2), "oak_up", "varnish", light_cell=COARSE)
        patches += place(door, (x, -depth - 0.008, 0.14))
        inner = box((width / n - 0.15, 0.012, height - 0.34), "walnut_up", "varnish", light_cell=COARSE)
        patches += place(inner, (x, -depth - 0.022, 0.21))
        patches += place(
            [cushion((0.03, 0.03, 0.03), "brass", "metal", 1.0, 12)],
            (x + width / n / 2 - 0.05, -depth - 0.03, height / 2),
        )
    for x in (-width / 2 + 0.05, width / 2 - 0.05):
        for y in (-0.05, -depth + 0.05):
            patches += place(box((0.05, 0.05, 0.1), "walnut_up", "varnish"), (x, y, 0))
    return patches


def armchair() -> list[Patch]:
    """Wing chair in tweed, facing -y."""
    parts = (
        ((0.74, 0.7, 0.26), (0, 0, 0.14)),
        ((0.6, 0.62, 0.18), (0, -0.04, 0.36)),
        ((0.66, 0.2, 0.72), (0, 0.3, 0.38)),
        ((0.17, 0.68, 0.5), (-0.36, -0.01, 0.14)),
        ((0.17, 0.68, 0.5), (0.36, -0.01, 0.14)),
    )
    patches = [p for size, at in parts for p in place([cushion(size, "tweed", "matt", 0.35, 24, COARSE)], at)]
    for patch in patches:
        patch.uv = (0.0, 4.0, 0.0, 2.0)
    patches += place([cushion((0.42, 0.14, 0.36), "curtain_cushion", "matt", 0.5, 24, 0.02)], (0.02, 0.13, 0.5))
    for x in (-0.3, 0.3):
        for y in (-0.28, 0.28):
            patches += place(box((0.05, 0.05, 0.15), "walnut_up", "varnish"), (x, y, 0))
    return patches


def tall_plant(rng: np.random.Generator) -> list[Patch]:
    """Floor plant with broad leaves."""
    pot = smooth_profile(
        [(0, 0), (0.13, 0), (0.15, 0.02), (0.19, 0.3), (0.2, 0.34), (0.18, 0.34), (0.17, 0.3), (0, 0.3)], 40
    )
    patches = [
        revolve(pot, "pot", "glaze", 64, light_cell=0.02),
        revolve(np.array([(0.17, 0.31), (0, 0.32)]), "earth", "matt", 32, light_cell=0.03),
    ]
    for i in range(26):
        angle, reach, rise = i * 2.4 + rng.uniform(-0.3, 0.3), rng.uniform(0.28, 0.52), rng.uniform(0.5, 1.25)
        t = np.linspace(0, 1, 16)
        out = 0.02 + reach * t**1.3
        z = 0.3 + rise * t**0.8 - 0.28 * reach * t**4
        path = np.stack([out * math.cos(angle), out * math.sin(angle), z], 1)
        stem, blade = path[:10], smooth_profile(path[9:], 16)
        patches.append(
            sweep(
                stem,
                np.full((10, 2), 0.006),
                "leaf1",
                "skin",
                8,
                (math.sin(angle), -math.cos(angle), 0.1),
                light_cell=0.02,
            )
        )
        s = np.linspace(0, 1, 16)
        half = 0.085 * np.sin(math.pi * s**0.7) ** 0.8 + 0.002
        tip = path[-1] - path[9]
        side = np.cross(np.cross(tip, (0, 0, 1.0)), tip)
        radii = np.stack([half, np.full(16, 0.0016)], 1)
        patches.append(sweep(blade, radii, f"leaf{i % 3}", "skin", 16, side, (0, 1, 1, 0), 0.015))
    return patches


def globe() -> list[Patch]:
    """Globe on a stand."""
    a = np.linspace(-math.pi / 2, math.pi / 2, 33)
    ball = revolve(np.stack([0.15 * np.cos(a), 0.15 * np.sin(a)], 1), "globe", "lacquer", 64, light_cell=0.02)
    ring_angle = np.linspace(0, 2 * math.pi, 49)
    ring = np.stack([0.165 * np.cos(ring_angle), 0 * ring_angle, 0.165 * np.sin(ring_angle)], 1)
    foot = smooth_profile([(0, 0), (0.09, 0), (0.08, 0.02), (0.02, 0.04), (0.016, 0.09), (0, 0.09)], 24)
    return [
        *place([ball], (0, 0, 0.25)),
        *place([sweep(ring, np.full((49, 2), 0.007), "brass", "metal", 10, (0, 1, 0), light_cell=0.02)], (0, 0, 0.25)),
        revolve(foot, "dark_wood", "varnish", 32, light_cell=0.02),
    ]


def pendant() -> tuple[list[Patch], list[Light]]:
    """Lamp over the table: parchment shade, a glowing disc that is the light."""
    low, radius = 1.95, 0.24
    outline = smooth_profile(
        [
            (radius, low),
            (0.2, low + 0.12),
            (0.1, low + 0.25),
            (0.1, low + 0.25),
            (0.095, low + 0.25),
            (0.19, low + 0.12),
            (radius - 0.008, low),
        ],
        40,
    )
    glow = np.array([(0.0, low + 0.04), (0.17, low + 0.04)])
    cord = np.stack([np.zeros(4), np.zeros(4), np.linspace(low + 0.2, HEIGHT, 4)], 1)
    patches = [
        revolve(outline, "lampshade", "shade", 64, light_cell=0.03),
        revolve(glow, "bulb", "lamplight", 48, light_cell=0.1),
        sweep(cord, np.full((4, 2), 0.006), "dark", "matt", 8, (1, 0, 0), light_cell=0.1),
    ]
    r = 0.17
    return patches, [Light((0, 0, low + 0.038), (r, 0, 0), (0, -r, 0), LAMPLIGHT, True)]


def room() -> tuple[list[Patch], list[Light]]:
    """Everything but the table, and the two lights."""
    rng = np.random.default_rng(2024)
    patches = shell()
    patches += against("north", bookshelf(2.7, (0.1, 0.46, 0.8, 1.14, 1.48, 1.82, 2.14), rng))
    patches += against("east", window())
    patches += against("west", sideboard(1.7, 0.72))
    patches += against("west", framed("map", 1.35, 0.92, "gold_frame"), 0.0, 1.62)
    patches += against("west", place(globe(), (0.55, -0.22, 0.72)))
    patches += against("west", place(book_pile(), (-0.5, -0.2, 0.72), 20))
    for name, width, height, x, z in (
        ("view0", 0.72, 0.5, 0.05, 1.72), ("circles", 0.5, 0.5, 0.8, 1.6), ("view1", 0.5, 0.36, -0.72, 1.86),
        ("view2", 0.5, 0.36, -0.72, 1.34), ("view3", 0.5, 0.3, 0.05, 1.2),
    ):  # fmt: skip
        patches += against("south", framed(name, width, height, "gold_frame" if name != "circles" else "walnut"), x, z)
    patches += place(armchair(), (-1.62, -1.62, 0), 138)
    patches += place(tall_plant(rng), (-1.95, 1.85, 0))
    patches += place(tall_plant(rng), (1.9, -1.85, 0))
    lamp, lights = pendant()
    sky = Light((HALF_X - 0.06, 0, 1.64), (0, 0, 0.62), (0, 0.7, 0), SKYLIGHT)
    # A lamp behind the viewer's back would be seen in some photos; a soft source under the ceiling is not.
    fill = Light((-1.3, -0.4, 2.62), (0.7, 0, 0), (0, -0.9, 0), FILLLIGHT)
    return patches + lamp, [*lights, sky, fill]


def book_pile() -> list[Patch]:
    """A few books lying on the sideboard."""
    from .still_life import book

    patches, z = [], 0.0
    for i, turn in enumerate((0, 14, -9)):
        patches += place(book((0.24, 0.17, 0.035), f"cover{i}", f"spine{i}", (0, 1, 0, 1)), (0, 0, z), turn)
        z += 0.035
    for patch in patches:
        patch.light_cell = 0.02
    return patches
