"""Fruit skins, leaves, earth."""

from __future__ import annotations

import math

import numpy as np

from .painting import Colour, fbm, mix, ramp, smoothstep, to_texture


def _sphere(resolution: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """u, v and two position-like noise coordinates on a ball that do not tear at the seam."""
    u = (np.arange(2 * resolution) + 0.5) / (2 * resolution)
    v = (np.arange(resolution) + 0.5) / resolution
    uu, vv = np.meshgrid(u, v)
    angle = uu * 2 * math.pi
    a = np.sin(vv * math.pi) * np.cos(angle) + 3.1 * np.cos(vv * math.pi)
    b = np.sin(vv * math.pi) * np.sin(angle) + 1.7 * np.cos(vv * math.pi)
    return uu, vv, a, b


def orange_skin(resolution: int, colours: tuple[Colour, Colour, Colour], seed: int) -> np.ndarray:
    """Citrus: pores and a change of colour towards the stalk."""
    _, v, a, b = _sphere(resolution)
    tone = 0.5 + 1.4 * (fbm(a * 1.6, b * 1.6, 4, seed) - 0.5) - 0.3 * np.cos(v * math.pi) * 0.6
    pores = smoothstep(0.52, 0.72, fbm(a * 34, b * 34, 2, seed + 1))
    colour = ramp(colours, tone) * (1 - 0.28 * pores)[..., None]
    spots = smoothstep(0.7, 0.76, fbm(a * 7, b * 7, 3, seed + 2))
    colour = mix(colour, (128, 84, 40), 0.5 * spots)
    return to_texture(mix(colour, (74, 84, 36), np.exp(-((v / 0.035) ** 2))))


def apple_skin(resolution: int, ground: Colour, blush: Colour, seed: int, streaks: float = 1.6) -> np.ndarray:
    """Apple or pear: streaks from the stalk, pale lenticels, a blush on one side."""
    u, v, a, b = _sphere(resolution)
    angle = u * 2 * math.pi
    side = 0.5 + 0.5 * np.cos(angle - 1.0)
    streak = fbm(np.cos(angle) * 15 + 40, np.sin(angle) * 15 + v * 1.4, 4, seed)
    amount = np.clip(1.5 * side + streaks * (streak - 0.5) + 0.5 * (fbm(a * 2, b * 2, 4, seed + 1) - 0.5), 0, 1)
    colour = mix(
        mix(ground, blush, amount),
        tuple(int(c * 0.62) for c in blush),
        smoothstep(0.55, 0.75, streak) * amount * streaks / 1.6,
    )
    dots = smoothstep(0.72, 0.78, fbm(a * 26, b * 26, 2, seed + 2))
    colour = mix(colour, (244, 222, 160), 0.7 * dots)
    return to_texture(mix(colour, (120, 110, 50), np.exp(-((v / 0.09) ** 2))))


def leaf_skin(resolution: int, light: Colour, dark: Colour, edge: Colour, seed: int) -> np.ndarray:
    """Leaf as a tube: v from stalk (1) to tip (0); u around, so the face has its middle at 0.25 and 0.75."""
    u = (np.arange(resolution) + 0.5)[None, :] / resolution
    v = (np.arange(2 * resolution) + 0.5)[:, None] / (2 * resolution)
    across = np.abs(((u * 2) % 1.0) - 0.5) * 2
    ribs = np.abs((((v + 0.12 * across) * 11) % 1.0) - 0.5) * 2
    cloud = fbm(u * 9 + 0 * v, v * 14, 5, seed)
    colour = mix(dark, light, np.clip(0.25 + 0.5 * cloud + 0.35 * (1 - v) + 0.25 * (ribs - 0.5), 0, 1))
    colour = mix(colour, tuple(int(c * 1.3) for c in light), np.exp(-((across / 0.07) ** 2)) * np.ones_like(v))
    rim = smoothstep(0.78, 0.98, across) * np.ones_like(v)
    colour = mix(colour, edge, np.clip(rim + np.exp(-((v / 0.12) ** 2)), 0, 1))
    speckle = fbm(u * 70, v * 120, 2, seed + 1)
    return to_texture(colour * (0.82 + 0.36 * speckle)[..., None])


def earth(resolution: int) -> np.ndarray:
    """Potting soil with pebbles."""
    g = np.linspace(0, 1, resolution)
    x, y = np.meshgrid(g, g)
    colour = ramp(((38, 26, 18), (78, 54, 36), (120, 92, 64)), fbm(x * 22, y * 22, 4, 9))
    return to_texture(mix(colour, (188, 172, 148), smoothstep(0.7, 0.74, fbm(x * 30, y * 30, 2, 10))))


def tea(resolution: int) -> np.ndarray:
    """Tea in a cup: amber, darker to the middle, a few leaves."""
    v = (np.arange(resolution) + 0.5)[:, None] / resolution
    u = (np.arange(2 * resolution) + 0.5)[None, :] / (2 * resolution)
    x, y = v * np.cos(2 * math.pi * u), v * np.sin(2 * math.pi * u)
    colour = ramp(((72, 26, 8), (128, 54, 14), (190, 104, 36)), v + 0.0 * u)
    bits = smoothstep(0.72, 0.76, fbm(x * 9, y * 9, 3, 77))
    return to_texture(mix(colour, (30, 14, 6), bits))
