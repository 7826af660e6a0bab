"""Painting tools: noise fields and a canvas in metres with leaves, flowers, bands and letters."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numba import njit
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]
GOLD: Colour = (222, 176, 92)
SUPERSAMPLING = 3


@njit(cache=True)
def _lattice(i: int, j: int, seed: int) -> float:
    x = np.uint64(i & 0xFFFFFF) * np.uint64(0x9E3779B97F4A7C15)
    x ^= np.uint64(j & 0xFFFFFF) * np.uint64(0xC2B2AE3D27D4EB4F) + np.uint64(seed) * np.uint64(0x165667B19E3779F9)
    x ^= x >> np.uint64(29)
    x *= np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(32)
    return float(x >> np.uint64(11)) / 9007199254740992.0


@njit(cache=True)
def _fbm(x: np.ndarray, y: np.ndarray, octaves: int, seed: int, out: np.ndarray) -> None:
    for k in range(len(x)):
        total, weight, scale, norm = 0.0, 1.0, 1.0, 0.0
        for octave in range(octaves):
            px, py = x[k] * scale + 17.3 * octave, y[k] * scale + 9.1 * octave
            i, j = int(np.floor(px)), int(np.floor(py))
            fx, fy = px - i, py - j
            fx, fy = fx * fx * (3 - 2 * fx), fy * fy * (3 - 2 * fy)
            s = seed * 31 + octave
            low = _lattice(i, j, s) * (1 - fx) + _lattice(i + 1, j, s) * fx
            high = _lattice(i, j + 1, s) * (1 - fx) + _lattice(i + 1, j + 1, s) * fx
            total += weight * (low * (1 - fy) + high * fy)
            norm += weight
            weight *= 0.5
            scale *= 2.03
        out[k] = total / norm


def fbm(x: np.ndarray, y: np.ndarray, octaves: int = 5, seed: int = 0) -> np.ndarray:
    """Fractal noise in 0..1 at positions x, y; features of size 1 and smaller."""
    x, y = np.broadcast_arrays(np.asarray(x, float), np.asarray(y, float))
    out = np.empty(x.size)
    _fbm(x.ravel(), y.ravel(), octaves, seed, out)
    return out.reshape(x.shape)


def smoothstep(low: float, high: float, x: np.ndarray) -> np.ndarray:
    """0 below `low`, 1 above `high`, smooth between."""
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def mix(a: np.ndarray | Colour, b: np.ndarray | Colour, t: np.ndarray) -> np.ndarray:
    """Colour [...,3] between `a` and `b`; `t` [...] in 0..1."""
    t = np.asarray(t, float)[..., None]
    return np.asarray(a, float) * (1 - t) + np.asarray(b, float) * t


def ramp(colours: Sequence[Colour], t: np.ndarray) -> np.ndarray:
    """Colour [...,3] along a list of colours; `t` in 0..1."""
    table = np.asarray(colours, float)
    at = np.clip(t, 0, 1) * (len(table) - 1)
    i = np.minimum(at.astype(int), len(table) - 2)
    return mix(table[i], table[i + 1], at - i)


def to_texture(colour: np.ndarray, metal: np.ndarray | float = 0.0) -> np.ndarray:
    """Linear texture [H,W,4] from sRGB 0..255 [H,W,3] and the metal share."""
    value = np.clip(colour, 0, 255) / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    share = np.broadcast_to(np.asarray(metal, float), linear.shape[:2])
    return np.concatenate([linear, share[..., None]], axis=2).astype(np.float32)


def shade(colour: Colour, factor: float) -> Colour:
    """A darker (< 1) or lighter (> 1) colour."""
    r, g, b = (int(min(255, max(0, c * factor))) for c in colour)
    return r, g, b


def vary(colour: Colour, rng: np.random.Generator, spread: float = 14.0) -> Colour:
    """A colour a little off, as a hand-mixed paint is."""
    r, g, b = (int(min(255, max(0, c + rng.normal(0, spread)))) for c in colour)
    return r, g, b


class Canvas:
    """A picture of `width` x `height` metres; what is drawn is antialiased; x may wrap around."""

    def __init__(self, width: float, height: float, resolution: float, ground: Colour, wraps: bool = False) -> None:
        self.width, self.height, self.wraps = width, height, wraps
        self.columns = max(4, round(width * resolution))
        self.rows = max(4, round(height * resolution))
        self.scale = self.columns * SUPERSAMPLING / width
        size = (self.columns * SUPERSAMPLING, self.rows * SUPERSAMPLING)
        self._colour, self._metal = Image.new("RGB", size, ground), Image.new("L", size, 0)
        self._has_metal = False
        self._pens = (ImageDraw.Draw(self._colour), ImageDraw.Draw(self._metal))

    def grid(self) -> tuple[np.ndarray, np.ndarray]:
        """Positions x, y [H,W] of the finished texels, for noise."""
        x = (np.arange(self.columns) + 0.5) * self.width / self.columns
        y = (np.arange(self.rows) + 0.5) * self.height / self.rows
        gx, gy = np.meshgrid(x, y)
        return gx, gy

    def polygon(self, points: Sequence[Sequence[float]] | np.ndarray, colour: Colour, metal: bool = False) -> None:
        """Fill a polygon [n,2]."""
        pts = np.asarray(points, float) * self.scale
        span = self.width * self.scale
        for shift in (-span, 0.0, span) if self.wraps else (0.0,):
            if pts[:, 0].max() + shift < 0 or pts[:, 0].min() + shift > span:
                continue
            flat = (pts + (shift, 0.0)).ravel().tolist()
            self._pens[0].polygon(flat, fill=colour)
            self._has_metal = self._has_metal or metal
            if self._has_metal:
                self._pens[1].polygon(flat, fill=255 if metal else 0)

    def disc(self, x: float, y: float, radius: float, colour: Colour, metal: bool = False, squash: float = 1.0) -> None:
        """Fill an ellipse; `squash` is its height over its width."""
        a = np.linspace(0, 2 * math.pi, 20 if radius * self.scale < 12 else 48)
        self.polygon(np.stack([x + radius * np.cos(a), y + radius * squash * np.sin(a)], 1), colour, metal)

    def stroke(self, points: np.ndarray, width: float | np.ndarray, colour: Colour, metal: bool = False) -> None:
        """A brush line along `points` [n,2]; `width` may change along it."""
        pts = np.asarray(points, float)
        tangent = np.gradient(pts, axis=0)
        tangent /= np.maximum(np.linalg.norm(tangent, axis=1, keepdims=True), 1e-12)
        side = np.stack([-tangent[:, 1], tangent[:, 0]], 1) * (np.broadcast_to(width, len(pts))[:, None] / 2)
        for i in range(len(pts) - 1):
            quad = [pts[i] + side[i], pts[i + 1] + side[i + 1], pts[i + 1] - side[i + 1], pts[i] - side[i]]
            self.polygon(quad, colour, metal)

    def band(self, y0: float, y1: float, colour: Colour, metal: bool = False) -> None:
        """A horizontal band over the whole width."""
        self.polygon([(0, y0), (self.width, y0), (self.width, y1), (0, y1)], colour, metal)

    def rectangle(self, x0: float, y0: float, x1: float, y1: float, colour: Colour, metal: bool = False) -> None:
        """An upright rectangle."""
        self.polygon([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], colour, metal)

    def leaf(self, x: float, y: float, angle: float, length: float, width: float, colour: Colour) -> None:
        """A leaf from its stalk at x, y, with a lighter half and a vein."""
        t = np.linspace(0, 1, 14)
        half = width / 2 * np.sin(math.pi * t**0.8) * (1 - 0.25 * t)
        c, s = math.cos(angle), math.sin(angle)
        turn = np.array([[c, s], [-s, c]])
        along = t * length
        upper = np.stack([along, half], 1) @ turn + (x, y)
        lower = np.stack([along, -half], 1) @ turn + (x, y)
        spine = np.stack([along, 0 * along], 1) @ turn + (x, y)
        self.polygon(np.concatenate([upper, lower[::-1]]), colour)
        self.polygon(np.concatenate([upper, spine[::-1]]), shade(colour, 1.18))
        self.stroke(spine, width * 0.07, shade(colour, 0.72))

    def petal(self, x: float, y: float, angle: float, length: float, width: float, colour: Colour) -> None:
        """A round-ended petal from x, y: dark rim, light middle, a line of shade at its root."""
        t = np.linspace(0, 1, 18)
        half = width / 2 * np.sin(math.pi * t**1.7) ** 0.75
        c, s = math.cos(angle), math.sin(angle)
        turn = np.array([[c, s], [-s, c]])
        for size, factor in ((1.0, 0.74), (0.9, 1.0), (0.66, 1.16)):
            along = length * (0.1 * (1 - size) + t * size)
            outline = np.concatenate([np.stack([along, half * size], 1), np.stack([along, -half * size], 1)[::-1]])
            self.polygon(outline @ turn + (x, y), shade(colour, factor))
        root = np.stack([np.linspace(0, 0.55, 6) * length, np.zeros(6)], 1) @ turn + (x, y)
        self.stroke(root, np.linspace(0.16, 0.02, 6) * width, shade(colour, 0.66))

    def flower(
        self, x: float, y: float, radius: float, petals: int, colour: Colour, heart: Colour, turn: float = 0.0
    ) -> None:
        """A flower with two rings of petals and a dotted heart."""
        for ring, (size, factor) in enumerate(((1.0, 0.92), (0.64, 1.1))):
            for i in range(petals):
                angle = turn + (i + 0.5 * ring) * 2 * math.pi / petals
                wide = 2.1 * radius * size * math.sin(math.pi / petals)
                self.petal(x, y, angle, radius * size, wide, shade(colour, factor))
        self.disc(x, y, radius * 0.24, shade(heart, 0.8))
        self.disc(x, y, radius * 0.19, heart)
        for i in range(8):
            angle = turn + i * math.pi / 4
            dx, dy = 0.29 * radius * math.cos(angle), 0.29 * radius * math.sin(angle)
            self.disc(x + dx, y + dy, radius * 0.045, shade(heart, 1.15))

    def text(
        self, x: float, y: float, text: str, size: float, colour: Colour, metal: bool = False, turn_deg: int = 0
    ) -> None:
        """Letters centred at x, y; `size` is their height in metres."""
        font = ImageFont.load_default(max(6.0, size * self.scale * 1.3))
        left, top, right, bottom = font.getbbox(text)
        mask = Image.new("L", (int(right - left) + 4, int(bottom - top) + 4), 0)
        ImageDraw.Draw(mask).text((2 - left, 2 - top), text, fill=255, font=font)
        if turn_deg:
            mask = mask.rotate(turn_deg, expand=True)
        corner = (round(x * self.scale - mask.width / 2), round(y * self.scale - mask.height / 2))
        self._colour.paste(colour, corner, mask)
        self._has_metal = self._has_metal or metal
        self._metal.paste(255 if metal else 0, corner, mask)

    def finish(self) -> tuple[np.ndarray, np.ndarray]:
        """sRGB picture [H,W,3] as float 0..255 and metal share [H,W], at the final resolution."""
        size = (self.columns, self.rows)
        colour = np.asarray(self._colour.resize(size, Image.Resampling.BOX), float)
        return colour, np.asarray(self._metal.resize(size, Image.Resampling.BOX), float) / 255

    def texture(self, grain: float = 0.03, grain_size: float = 0.004, seed: int = 0) -> np.ndarray:
        """Finished linear texture with a fine unevenness of `grain` (share of the brightness)."""
        colour, metal = self.finish()
        x, y = self.grid()
        noise = fbm(x / grain_size, y / grain_size, 4, seed) - 0.5
        return to_texture(colour * (1 + 2 * grain * noise)[..., None], metal)
