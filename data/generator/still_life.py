"""The things on the table."""

from __future__ import annotations

import math

import numpy as np

from .cameras import TABLE_HEIGHT
from .shapes import Patch, box, cushion, place, revolve, rotation_about, smooth_profile, sweep

TABLE_RADIUS = 0.54
RUNNER_LENGTH, RUNNER_WIDTH = 1.44, 0.36
RUNNER_TOP = TABLE_HEIGHT + 0.003
FINE = 0.0035


def table() -> list[Patch]:
    """Round pedestal table."""
    h, r = TABLE_HEIGHT, TABLE_RADIUS
    inner = np.stack([np.linspace(0.3, 0.0, 9), np.full(9, h)], 1)
    outer = np.stack([np.linspace(r - 0.01, 0.3, 9), np.full(9, h)], 1)
    rim = smooth_profile(
        [(r - 0.05, h - 0.036), (r - 0.02, h - 0.034), (r - 0.02, h - 0.034), (r - 0.006, h - 0.031),
         (r, h - 0.02), (r, h - 0.009), (r - 0.003, h - 0.002), (r - 0.01, h)], 24,
    )  # fmt: skip
    foot = smooth_profile(
        [(0.3, 0.0), (0.31, 0.02), (0.28, 0.045), (0.16, 0.07), (0.09, 0.11), (0.07, 0.16), (0.1, 0.24), (0.115, 0.32),
         (0.09, 0.42), (0.05, 0.5), (0.046, 0.6), (0.07, 0.65), (0.12, 0.7), (0.16, h - 0.034)], 60,
    )  # fmt: skip
    below = np.array([(0.0, h - 0.036), (r - 0.05, h - 0.036)])
    return [
        revolve(below, "table_foot", "varnish", 64, light_cell=0.04),
        revolve(inner, "table_inner", "varnish", 128, light_cell=0.006),
        revolve(outer, "table_outer", "varnish", 256, light_cell=0.005),
        revolve(rim, "table_rim", "varnish", 160, uv=(0, 2, 0, 1), light_cell=0.006),
        revolve(foot, "table_foot", "varnish", 64, uv=(0, 1, 0, 1), light_cell=0.02),
    ]


def runner() -> list[Patch]:
    """The cloth: flat on the table, hanging over two edges, with tassels."""
    s = np.linspace(-RUNNER_LENGTH / 2, RUNNER_LENGTH / 2, 241)
    w = np.linspace(-RUNNER_WIDTH / 2, RUNNER_WIDTH / 2, 49)
    ss, ww = np.meshgrid(s, w)
    bend = 0.014
    over = np.maximum(np.abs(ss) - TABLE_RADIUS, 0)
    turn = np.minimum(over / bend, math.pi / 2)
    drop = np.maximum(over - bend * math.pi / 2, 0)
    x = np.sign(ss) * (np.minimum(np.abs(ss), TABLE_RADIUS) + bend * np.sin(turn) + 0.05 * drop)
    z = RUNNER_TOP - bend * (1 - np.cos(turn)) - drop
    wave = np.sin(ww * 34 + np.sign(ss)) * drop * 0.09
    x = x + np.sign(ss) * wave
    z = z + 0.0006 * np.sin(ss * 21 + 5 * np.sin(ww * 13)) * np.cos(ww * 27)
    points = np.stack([x, ww, z], -1)[::-1]
    along_u, along_v = np.gradient(points, axis=1), np.gradient(points, axis=0)
    normals = np.cross(along_v, along_u)
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    patches = [Patch(points, normals, "runner", "cloth", light_cell=0.004)]
    for end in (0, -1):
        for k in range(1, 48, 2):
            top = points[k, end]
            path = top + np.linspace(0, 1, 6)[:, None] * np.array(
                [0.004 * math.sin(k * 2.1), 0.003 * math.cos(k * 1.7), -0.05]
            )
            radii = np.linspace(0.0026, 0.0042, 6)[:, None] * np.ones((1, 2))
            patches.append(sweep(path, radii, "thread", "cloth", 8, (1, 0, 0), light_cell=0.012))
    return place(patches, (0, 0, 0), 24)


def teapot() -> list[Patch]:
    """Hero of the picture: belly, lid, spout, handle."""
    body = smooth_profile(
        [(0, 0.004), (0.05, 0.004), (0.056, 0), (0.062, 0.003), (0.064, 0.012), (0.075, 0.024), (0.112, 0.062),
         (0.122, 0.1), (0.108, 0.142), (0.078, 0.166), (0.066, 0.174), (0.06, 0.172), (0.0, 0.17)], 110,
    )  # fmt: skip
    lid = smooth_profile(
        [(0.06, 0.172), (0.071, 0.173), (0.073, 0.178), (0.068, 0.184), (0.05, 0.198), (0.026, 0.208), (0.012, 0.214),
         (0.012, 0.22), (0.02, 0.232), (0.018, 0.244), (0.008, 0.25), (0, 0.251)], 70,
    )  # fmt: skip
    spout = smooth_profile(
        [(0.09, 0, 0.06), (0.13, 0, 0.066), (0.162, 0, 0.096), (0.178, 0, 0.14), (0.203, 0, 0.172)], 44
    )
    spout_radius = np.interp(
        np.linspace(0, 1, 44), [0, 0.25, 0.6, 0.93, 0.985, 1], [0.036, 0.029, 0.019, 0.0135, 0.016, 0.0145]
    )
    handle = smooth_profile(
        [
            (-0.088, 0, 0.15),
            (-0.13, 0, 0.176),
            (-0.176, 0, 0.164),
            (-0.188, 0, 0.115),
            (-0.165, 0, 0.066),
            (-0.105, 0, 0.052),
        ],
        48,
    )
    thick = 0.0095 + 0.004 * np.abs(np.linspace(-1, 1, 48)) ** 3
    patches = [
        revolve(body, "teapot_body", "glaze", 160, uv=(0, 1, -0.18, 1.16), light_cell=FINE),
        revolve(lid, "teapot_lid", "glaze", 128, light_cell=FINE),
        sweep(
            spout, np.stack([spout_radius, spout_radius], 1), "teapot_spout", "glaze", 40, (0, 1, 0), light_cell=FINE
        ),
        sweep(handle, np.stack([thick, thick * 1.25], 1), "teapot_spout", "glaze", 28, (0, 1, 0), light_cell=FINE),
        *place(
            [cushion((0.024, 0.024, 0.006), "dark", "cloth", 1.0, 12)],
            (0.2025, 0, 0.1695),
            tilt=rotation_about((0, 1, 0), 40),
        ),
    ]
    for patch in patches:
        patch.points = patch.points * 1.2
    return place(patches, (0.0, -0.01, RUNNER_TOP), 62)


def tea_cup(position: tuple[float, float], turn: float) -> list[Patch]:
    """Cup with tea on its saucer."""
    outside = [(0, 0.004), (0.022, 0.004), (0.024, 0), (0.027, 0.002), (0.031, 0.011), (0.045, 0.032), (0.051, 0.064)]
    cup = smooth_profile([*outside, (0.0505, 0.0665), (0.0485, 0.064), (0.043, 0.034), (0.028, 0.014), (0, 0.011)], 70)
    saucer = smooth_profile(
        [(0, 0.003), (0.04, 0.003), (0.042, 0), (0.046, 0.004), (0.068, 0.011), (0.092, 0.021), (0.0925, 0.0235),
         (0.09, 0.0235), (0.066, 0.014), (0.045, 0.0085), (0, 0.008)], 60,
    )  # fmt: skip
    tea = np.array([(0.0465, 0.054), (0.02, 0.054), (0.0, 0.054)])
    handle = smooth_profile(
        [(-0.045, 0, 0.056), (-0.068, 0, 0.058), (-0.076, 0, 0.042), (-0.06, 0, 0.022), (-0.036, 0, 0.02)], 30
    )
    cup_parts = [
        revolve(cup, "cup", "glaze", 96, light_cell=FINE),
        revolve(tea, "tea", "liquid", 64, light_cell=FINE),
        sweep(handle, np.full((30, 2), 0.0042), "teapot_spout", "glaze", 16, (0, 1, 0), light_cell=FINE),
    ]
    patches = [revolve(saucer, "saucer", "glaze", 96, light_cell=FINE), *place(cup_parts, (0, 0, 0.0085), 20)]
    spoon = smooth_profile([(0.07, -0.03, 0.027), (0.078, 0.0, 0.027), (0.074, 0.04, 0.028), (0.066, 0.075, 0.03)], 30)
    radii = np.stack(
        [
            np.interp(np.linspace(0, 1, 30), [0, 0.12, 0.26, 0.36, 1], [0.001, 0.01, 0.009, 0.0022, 0.0036]),
            np.full(30, 0.0016),
        ],
        1,
    )
    patches.append(sweep(spoon, radii, "brass", "metal", 16, (0, 0, 1), light_cell=FINE))
    return place(patches, (*position, TABLE_HEIGHT), turn)


def _fruit(kind: str, radius: float) -> list[Patch]:
    """A fruit around the origin, stalk up."""
    a = np.linspace(-math.pi / 2, math.pi / 2, 49)
    if kind in ("apple", "apple_green"):
        r = radius * (1.0 + 0.06 * np.sin(a)) * np.cos(a)
        z = radius * 0.92 * np.sin(a) - 0.3 * radius * np.exp(-((r / (0.3 * radius)) ** 2)) * np.sign(np.sin(a))
    elif kind == "pear":
        r = radius * np.cos(a) * (1 - 0.3 * np.sin(a) - 0.12 * np.sin(a) ** 2)
        z = radius * (1.25 * np.sin(a) + 0.25 * (np.sin(a) > 0) * np.sin(a) ** 2)
    elif kind == "lemon":
        r = radius * np.cos(a) ** 0.9
        z = radius * (1.18 * np.sin(a) + 0.25 * np.sin(a) ** 9)
    else:
        r, z = radius * np.cos(a), radius * 0.95 * np.sin(a)
    out = [revolve(np.stack([np.maximum(r, 0), z], 1), kind, "skin", 72, light_cell=FINE)]
    if kind not in ("lemon", "orange"):
        low = 0.62 * radius if "apple" in kind else 1.45 * radius
        path = np.array([(0, 0, low), (0.0015, 0, low + 0.3 * radius), (0.005, 0.002, low + 0.62 * radius)])
        out.append(sweep(smooth_profile(path, 8), np.full((8, 2), 0.0017), "dark_wood", "cloth", 8, (1, 0, 0)))
    return out


def fruit_bowl(position: tuple[float, float]) -> list[Patch]:
    """Bowl with oranges, apples and a lemon, some fruit beside it."""
    profile = smooth_profile(
        [(0, 0.004), (0.05, 0.004), (0.052, 0), (0.058, 0.002), (0.066, 0.012), (0.108, 0.044), (0.128, 0.074),
         (0.1285, 0.078), (0.124, 0.078), (0.102, 0.047), (0.06, 0.018), (0, 0.012)], 80,
    )  # fmt: skip
    patches = [revolve(profile, "bowl", "glaze", 128, light_cell=FINE)]
    for i, (kind, radius, x, y, z, axis, angle) in enumerate(
        (
            ("orange", 0.039, 0.056, 0.012, 0.061, (1, 1, 0), 30),
            ("apple", 0.038, -0.024, 0.054, 0.06, (1, 0, 0), -20),
            ("orange", 0.04, -0.046, -0.036, 0.062, (0, 1, 0), 60),
            ("apple_green", 0.037, 0.032, -0.058, 0.06, (0, 1, 0), 25),
            ("lemon", 0.03, -0.002, -0.002, 0.112, (1, 0.3, 0), 82),
        )
    ):
        patches += place(_fruit(kind, radius), (x, y, z), 57 * i, rotation_about(axis, angle))
    patches = place(patches, (*position, TABLE_HEIGHT), 10)
    patches += place(_fruit("pear", 0.036), (position[0] + 0.03, position[1] - 0.19, TABLE_HEIGHT + 0.045), 40)
    patches += place(
        _fruit("lemon", 0.03),
        (position[0] + 0.105, position[1] - 0.16, TABLE_HEIGHT + 0.03),
        150,
        rotation_about((1, 0, 0), 90),
    )
    return patches


def book(
    size: tuple[float, float, float], cover: str, spine: str, spine_uv: tuple[float, float, float, float]
) -> list[Patch]:
    """A closed book lying flat, spine to the front (-y), cover picture upright seen from there."""
    x, y, z = size
    board = 0.0035
    leather = {"top": cover, "other": "leather_" + cover}
    patches = box((x, y, board), leather, "leather", light_cell=0.005)
    patches += place(box((x, y, board), leather, "leather", light_cell=0.005), (0, 0, z - board))
    pages = box((x - 0.012, y - 0.008, z - 2 * board), "pages", "cloth", light_cell=0.005, faces="back left right")
    patches += place(pages, (0, -0.001, board))
    back = box(
        (x, 0.004, z - 2 * board),
        {"front": spine, "other": "leather_" + cover},
        "leather",
        {"front": spine_uv},
        0.005,
        "front left right",
    )
    return patches + place(back, (0, -y / 2 + 0.002, board))


def book_stack(position: tuple[float, float]) -> list[Patch]:
    """Three old books on top of each other."""
    height, patches = TABLE_HEIGHT, []
    for size, number, offset, turn in (
        ((0.25, 0.18, 0.042), 0, (0.0, 0.0), 28),
        ((0.225, 0.16, 0.034), 1, (0.008, -0.004), 11),
        ((0.19, 0.135, 0.026), 2, (-0.012, 0.008), 40),
    ):
        lying = book(size, f"cover{number}", f"spine{number}", (0, 1, 0, 1))
        patches += place(lying, (position[0] + offset[0], position[1] + offset[1], height), turn - 150)
        height += size[2]
    return patches + place(succulent(), (position[0] - 0.01, position[1] + 0.004, height))


def succulent() -> list[Patch]:
    """Rosette of thick leaves in a painted pot."""
    pot = smooth_profile(
        [(0, 0.0), (0.034, 0.0), (0.036, 0.002), (0.047, 0.05), (0.047, 0.05), (0.052, 0.052), (0.053, 0.066),
         (0.05, 0.068),
         (0.047, 0.066), (0.044, 0.056), (0, 0.056)], 60,
    )  # fmt: skip
    patches = [
        revolve(pot, "pot", "skin", 72, light_cell=FINE),
        revolve(np.array([(0.046, 0.06), (0.02, 0.061), (0, 0.062)]), "earth", "cloth", 48, light_cell=FINE),
    ]
    for i in range(34):
        share = i / 33
        angle = i * 2.39996
        length, rise = 0.078 - 0.045 * share, 0.15 + 1.15 * share
        t = np.linspace(0, 1, 18)
        flat = 0.004 + length * t * math.cos(rise)
        z = 0.062 + 0.012 * share + length * t * math.sin(rise) + 0.1 * length * t * t
        path = np.stack([flat * math.cos(angle), flat * math.sin(angle), z], 1)
        half = length * 0.27 * (np.sin(math.pi * np.clip(t, 0.0, 1.0) ** 1.5 * 0.93 + 0.2) ** 0.7)
        half[-1] = 0.0003
        side = (math.cos(angle) * -math.sin(rise), math.sin(angle) * -math.sin(rise), math.cos(rise))
        radii = np.stack([half, 0.3 * half + 0.0004], 1)
        patches.append(sweep(path, radii, f"leaf{i % 3}", "skin", 16, side, (0, 1, 1, 0), FINE))
    return patches


def dolls(position: tuple[float, float]) -> list[Patch]:
    """Mother and daughter nesting dolls."""
    knots = [(0, 0.0), (0.03, 0.0), (0.036, 0.004), (0.046, 0.03), (0.047, 0.055), (0.037, 0.083), (0.031, 0.094),
             (0.0325, 0.108), (0.03, 0.125), (0.018, 0.139), (0, 0.143)]  # fmt: skip
    patches = []
    for number, scale, dx, dy, turn in (
        (0, 1.12, 0, 0, 45),
        (1, 0.78, 0.085, -0.022, 75),
        (2, 0.52, 0.048, -0.085, 58),
    ):
        profile = smooth_profile([(r * scale, z * scale) for r, z in knots], 70)
        doll = [revolve(profile, f"doll{number}", "lacquer", 96, light_cell=FINE)]
        # The face is at u = 0.5, which looks to -x.
        patches += place(doll, (position[0] + dx, position[1] + dy, TABLE_HEIGHT), turn)
    return patches


def blocks(position: tuple[float, float]) -> list[Patch]:
    """Three toy blocks with letters."""
    edge, patches = 0.048, []
    for i, (dx, dy, z, turn) in enumerate(((0, 0, 0, 12), (0.056, 0.012, 0, -14), (0.026, 0.006, edge, 33))):
        sides = ("front", "back", "left", "right", "top", "bottom")
        faces = {name: f"block{(i + 2 * k) % 6}" for k, name in enumerate(sides)}
        faces["other"] = "block0"
        cube = box((edge, edge, edge), faces, "skin", light_cell=FINE)
        patches += place(cube, (position[0] + dx, position[1] + dy, TABLE_HEIGHT + z), turn)
    return patches


def candlestick(position: tuple[float, float]) -> list[Patch]:
    """Turned brass candlestick with a half-burnt candle."""
    brass = smooth_profile(
        [(0, 0.0), (0.048, 0.0), (0.05, 0.004), (0.046, 0.012), (0.03, 0.018), (0.014, 0.03), (0.01, 0.045),
         (0.016, 0.055),
         (0.01, 0.065), (0.008, 0.1), (0.013, 0.118), (0.018, 0.126), (0.009, 0.138), (0.014, 0.15), (0.026, 0.156),
         (0.028, 0.16), (0.014, 0.162), (0.014, 0.172), (0, 0.172)], 90,
    )  # fmt: skip
    wax = smooth_profile(
        [(0.0112, 0.17), (0.0112, 0.2), (0.011, 0.262), (0.0105, 0.268), (0.008, 0.269), (0, 0.266)], 30
    )
    wick = np.array([(0, 0, 0.265), (0.0004, 0, 0.272), (0.002, 0, 0.279)])
    return place(
        [
            revolve(brass, "brass", "metal", 64, light_cell=FINE),
            revolve(wax, "wax", "skin", 40, light_cell=FINE),
            sweep(wick, np.full((3, 2), 0.0009), "dark", "cloth", 6, (1, 0, 0)),
        ],
        (*position, TABLE_HEIGHT),
    )


def still_life() -> list[Patch]:
    """Table, cloth and everything on it."""
    return [
        *table(),
        *runner(),
        *teapot(),
        *tea_cup((0.215, -0.235), 200),
        *fruit_bowl((0.3, 0.12)),
        *book_stack((-0.27, 0.14)),
        *dolls((-0.19, -0.25)),
        *blocks((0.02, -0.36)),
        *candlestick((0.0, 0.33)),
    ]
