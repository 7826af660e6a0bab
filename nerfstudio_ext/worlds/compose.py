"""Random scenes: heaps, towers, fences, grids and rings of solids; alone, on a table, or in a furnished room."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import numpy as np
import torch

from ..stages.stega.procedural import procedural_pictures
from .tracing import BOX, CONE, CYLINDER, SPHERE, Solids, World

Scale = Literal["object", "table", "room"]
SCALES: tuple[Scale, ...] = ("object", "table", "room")
TEXTURES, TEXTURE_SIDE = 12, 96
KINDS = (SPHERE, BOX, CYLINDER, CONE)


class _Heap:
    """Solids one by one, with looks drawn for each or shared by a group."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.rows: list[tuple[object, ...]] = []
        self.draw_look()

    def draw_look(self) -> None:
        """Choose texture, tint and gloss for what comes next."""
        rng = self.rng
        tint = rng.uniform(0.7, 1.1) * (1 - rng.uniform(0, 0.5) * rng.uniform(0, 1, 3))
        gloss = rng.uniform(0, 0.7) if rng.random() < 0.35 else 0.0
        self.look = (int(rng.integers(TEXTURES)), rng.uniform(1.5, 6.0), tint, gloss)

    def add(self, kind: int, centre: np.ndarray, size: np.ndarray, turn: np.ndarray | None = None) -> None:
        """One solid with the present look."""
        turn = np.eye(3) if turn is None else turn
        self.rows.append((kind, np.asarray(centre, float), turn, np.asarray(size, float), *self.look))

    def solids(self) -> Solids:
        columns = [np.array(column) for column in zip(*self.rows, strict=True)]
        kinds, centres, turns, sizes, textures, repeats, tints, gloss = columns
        return Solids(kinds, centres, turns, sizes, textures, repeats, tints, gloss)


def random_turn(rng: np.random.Generator, *, upright: bool = False) -> np.ndarray:
    """A random rotation, or one about the vertical."""
    if upright:
        angle = rng.uniform(0, 2 * math.pi)
        c, s = math.cos(angle), math.sin(angle)
        return np.array([[c, s, 0], [-s, c, 0], [0, 0, 1.0]])
    q, r = np.linalg.qr(rng.standard_normal((3, 3)))
    q = q * np.sign(np.diag(r))
    return q if np.linalg.det(q) > 0 else -q


def compose(seed: int, scale: Scale) -> World:
    """A scene from a seed: the main things lie within half a unit of the origin, z is up.

    Args:
        seed: Decides everything.
        scale: A thing before a plain background, things on a table with walls far away, or a room full of things.
    """
    rng = np.random.default_rng(seed)
    heap = _Heap(rng)
    if scale == "object":
        _arrange(heap, np.zeros(3), rng.uniform(0.4, 0.5), int(rng.integers(1, 6)))
        white = rng.random() < 0.6
        background = np.ones(3) if white else rng.uniform(0, 1, 3)
        aabb_scale = 1
    elif scale == "table":
        _arrange(heap, np.zeros(3), rng.uniform(0.3, 0.5), int(rng.integers(2, 6)))
        heap.draw_look()
        heap.add(BOX, np.array([0, 0, -0.55]), np.array([rng.uniform(0.8, 2), rng.uniform(0.8, 2), 0.05]))
        aabb_scale = int(rng.choice([4, 8]))
        _walls(heap, aabb_scale)
        background = rng.uniform(0, 1, 3)
    else:
        aabb_scale = int(rng.choice([4, 8]))
        _furnish(heap, aabb_scale)
        _walls(heap, aabb_scale)
        background = rng.uniform(0, 1, 3)
    return World(heap.solids(), _textures(rng), _lamps(rng, scale, aabb_scale), *_air(rng, background), aabb_scale)


def _air(rng: np.random.Generator, background: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return rng.uniform(0.35, 0.75) * (1 - 0.25 * rng.uniform(0, 1, 3)), background


def _lamps(rng: np.random.Generator, scale: Scale, aabb_scale: int) -> np.ndarray:
    lamps = []
    for _ in range(int(rng.integers(1, 4))):
        away = rng.standard_normal(3)
        away[2] = abs(away[2]) + 0.3
        away /= np.linalg.norm(away)
        reach = 20.0 if scale == "object" else rng.uniform(0.25, 0.42) * aabb_scale
        lamps.append([*(reach * away), *(rng.uniform(0.35, 0.9) * (1 - 0.3 * rng.uniform(0, 1, 3)))])
    return np.array(lamps)


def _textures(rng: np.random.Generator) -> np.ndarray:
    generator = torch.Generator().manual_seed(int(rng.integers(1 << 31)))
    pictures = procedural_pictures(TEXTURES, TEXTURE_SIDE, generator)
    return np.ascontiguousarray(pictures.permute(0, 2, 3, 1).double().numpy())


def _walls(heap: _Heap, aabb_scale: int) -> None:
    """A room around everything, seen from inside, each pair of walls with the texture of one box."""
    rng = heap.rng
    heap.draw_look()
    texture, _, tint, _ = heap.look
    heap.look = (texture, rng.uniform(1.0, 5.0) / aabb_scale, np.asarray(tint), 0.0)
    half = 0.49 * aabb_scale * rng.uniform(0.7, 1.0, 3)
    heap.add(BOX, np.zeros(3), half, random_turn(rng, upright=True) if rng.random() < 0.5 else None)


def _furnish(heap: _Heap, aabb_scale: int) -> None:
    """Groups of things, large and small, all over the floor and in the middle."""
    rng = heap.rng
    _arrange(heap, np.zeros(3), rng.uniform(0.3, 0.5), int(rng.integers(2, 5)))
    for _ in range(int(rng.integers(3, 7))):
        # Along the walls: cameras stand between them and the middle.
        angle, far = rng.uniform(0, 2 * math.pi), rng.uniform(0.36, 0.46) * aabb_scale
        place = np.array([far * math.cos(angle), far * math.sin(angle), rng.uniform(-0.15, 0.1) * aabb_scale])
        _arrange(heap, place, rng.uniform(0.15, 0.1 * aabb_scale), int(rng.integers(1, 3)))


def _arrange(heap: _Heap, centre: np.ndarray, radius: float, groups: int) -> None:
    """Groups of solids within a ball."""
    rng = heap.rng
    for _ in range(groups):
        heap.draw_look()
        kind = GROUPS[int(rng.integers(len(GROUPS)))]
        share = rng.uniform(0.45, 0.95) if groups > 1 else 1.0
        offset = rng.uniform(-1, 1, 3) * radius * (1 - share) / math.sqrt(3)
        kind(heap, centre + offset, radius * share)


def _lump(heap: _Heap, centre: np.ndarray, radius: float) -> None:
    rng = heap.rng
    for _ in range(int(rng.integers(2, 9))):
        if rng.random() < 0.5:
            heap.draw_look()
        size = radius * rng.uniform(0.12, 0.5, 3)
        place = centre + rng.uniform(-1, 1, 3) * 0.45 * radius
        heap.add(KINDS[int(rng.integers(4))], place, size, random_turn(rng))


def _tower(heap: _Heap, centre: np.ndarray, radius: float) -> None:
    """Plates one on the other, with studs on the last."""
    rng = heap.rng
    n = int(rng.integers(3, 8))
    thick = 0.8 * radius / n
    turn = random_turn(rng, upright=True)
    wide = radius * rng.uniform(0.25, 0.55, 2)
    for i in range(n):
        if rng.random() < 0.6:
            heap.draw_look()
        place = centre + np.array([0, 0, (2 * i + 1 - n) * thick])
        heap.add(BOX, place, np.array([*(wide * rng.uniform(0.5, 1.0, 2)), 0.98 * thick]), turn)
    for x in (-0.5, 0, 0.5):
        for y in (-0.5, 0, 0.5):
            stud = centre + turn.T @ np.array([x * wide[0], y * wide[1], n * thick + 0.03 * radius])
            heap.add(CYLINDER, stud, radius * np.array([0.06, 0.06, 0.05]), turn)


def _fence(heap: _Heap, centre: np.ndarray, radius: float) -> None:
    """Rods beside each other with two rails: thin things with gaps."""
    rng = heap.rng
    n, turn = int(rng.integers(4, 10)), random_turn(rng, upright=rng.random() < 0.7)
    thick = radius * rng.uniform(0.015, 0.05)
    kind = CYLINDER if rng.random() < 0.5 else BOX
    for i in range(n):
        place = centre + turn.T @ np.array([(2 * i / (n - 1) - 1) * 0.7 * radius, 0, 0])
        heap.add(kind, place, np.array([thick, thick, 0.6 * radius]), turn)
    for z in (-0.35, 0.35):
        heap.add(BOX, centre + turn.T @ np.array([0, 0, z * radius]), radius * np.array([0.75, 0.03, 0.03]), turn)


def _grid(heap: _Heap, centre: np.ndarray, radius: float) -> None:
    rng = heap.rng
    n, turn = int(rng.integers(2, 4)), random_turn(rng)
    kind, step = KINDS[int(rng.integers(4))], 1.1 * radius / n
    size = step * rng.uniform(0.2, 0.48, 3)
    for x in range(n):
        for y in range(n):
            for z in range(n):
                at = (np.array([x, y, z]) - (n - 1) / 2) * step
                heap.add(kind, centre + turn.T @ at, size, turn)


def _ring(heap: _Heap, centre: np.ndarray, radius: float) -> None:
    rng = heap.rng
    n, turn = int(rng.integers(6, 16)), random_turn(rng, upright=rng.random() < 0.5)
    kind = KINDS[int(rng.integers(4))]
    size = radius * rng.uniform(0.08, 0.22, 3)
    for i in range(n):
        angle = 2 * math.pi * i / n
        c, s = math.cos(angle), math.sin(angle)
        spin = np.array([[c, s, 0], [-s, c, 0], [0, 0, 1.0]])
        heap.add(kind, centre + turn.T @ (0.7 * radius * np.array([c, s, 0])), size, spin @ turn)


def _stairs(heap: _Heap, centre: np.ndarray, radius: float) -> None:
    rng = heap.rng
    n, turn = int(rng.integers(3, 8)), random_turn(rng, upright=True)
    for i in range(n):
        if rng.random() < 0.3:
            heap.draw_look()
        height = 0.55 * radius * (i + 1) / n
        at = np.array([(2 * (i + 0.5) / n - 1) * 0.6 * radius, 0, height - 0.55 * radius])
        heap.add(BOX, centre + turn.T @ at, np.array([0.6 * radius / n, 0.4 * radius, height]), turn)


GROUPS: tuple[Callable[[_Heap, np.ndarray, float], None], ...] = (_lump, _tower, _fence, _grid, _ring, _stairs, _lump)
