"""Cameras around a scene: domes and caps, arcs, walks and grids that look at what is in the middle."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch

from ..cameras import Camera, Cameras

Rig = Literal["dome", "cap", "arc", "walk", "grid"]
RIGS_AROUND: tuple[Rig, ...] = ("dome", "cap", "cap", "cap", "cap", "cap")
"""Mostly close together: the nearest ten of a hundred pictures around a thing stand as the pictures of a cap do."""
RIGS_WITHIN: tuple[Rig, ...] = ("arc", "walk", "grid")


def place_cameras(
    rng: np.random.Generator, rig: Rig, n: int, width: int, height: int, distance: float, fov_y_deg: float
) -> Cameras:
    """Cameras that look at the surroundings of the origin, z up.

    Args:
        rng: Draws what the rig leaves open.
        rig: Upper half of a sphere, round patch of it, part of a ring, uneven walk, or flat grid.
        n: How many.
        width: Of the pictures.
        height: Of the pictures.
        distance: Mean distance from the origin, scene units.
        fov_y_deg: Vertical field of view.
    """
    places = _PLACES[rig](rng, n) * distance
    spread = 0.12 if rig in ("arc", "walk", "grid") else 0.06
    cameras = []
    for place in places:
        centre = place * rng.uniform(0.9, 1.1)
        target = rng.normal(0, spread * distance, 3)
        cameras.append(Camera.perspective(width, height, fov_y_deg, torch.from_numpy(_look(centre, target, rng))))
    return Cameras(cameras)


def _look(centre: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Camera to world [3,4], OpenCV axes, a few degrees off the level."""
    forward = target - centre
    forward /= np.linalg.norm(forward)
    up = np.array([0.0, 0.0, 1.0]) + rng.normal(0, 0.03, 3)
    if abs(forward @ up) > 0.98 * np.linalg.norm(up):
        up = np.array([0.0, 1.0, 0.0])
    right = np.cross(forward, up)
    right /= np.linalg.norm(right)
    return np.column_stack([right, np.cross(forward, right), forward, centre])


def _dome(rng: np.random.Generator, n: int) -> np.ndarray:
    height = (np.arange(n) + rng.uniform(0, 1, n)) / n * 0.95
    return _at(height, 2.399963 * np.arange(n) + rng.uniform(0, 2 * math.pi))


def _cap(rng: np.random.Generator, n: int) -> np.ndarray:
    """All within 15 to 45 degrees of one direction, most often one above the horizon."""
    middle = _at(np.array([rng.uniform(-0.2, 0.95)]), np.array([rng.uniform(0, 2 * math.pi)]))[0]
    along = 1 - (np.arange(n) + rng.uniform(0, 1, n)) / n * (1 - math.cos(math.radians(rng.uniform(15, 45))))
    angle, away = 2.399963 * np.arange(n), np.sqrt(1 - along**2)
    right = np.cross(middle, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    up = np.cross(right, middle)
    return along[:, None] * middle + away[:, None] * (np.cos(angle)[:, None] * right + np.sin(angle)[:, None] * up)


def _arc(rng: np.random.Generator, n: int) -> np.ndarray:
    start, width = rng.uniform(0, 2 * math.pi), rng.uniform(0.3, 1.2)
    return _at(rng.uniform(0.0, 0.5, n), start + width * np.arange(n) / n)


def _walk(rng: np.random.Generator, n: int) -> np.ndarray:
    angles = rng.uniform(0, 2 * math.pi) + np.cumsum(rng.normal(1.2 / n, 1.0 / n, n))
    height = rng.uniform(0.1, 0.4) + np.cumsum(rng.normal(0, 0.4 / n, n))
    return _at(height, angles) * rng.uniform(0.8, 1.2, (n, 1))


def _grid(rng: np.random.Generator, n: int) -> np.ndarray:
    """Side by side in one plane, as forward-facing captures are."""
    start, wide = rng.uniform(0, 2 * math.pi), rng.uniform(0.15, 0.45)
    middle = _at(np.array([rng.uniform(0.0, 0.5)]), np.array([start]))[0]
    right = np.array([-math.sin(start), math.cos(start), 0.0])
    sideways = rng.uniform(-wide, wide, (n, 1)) * right
    return middle + sideways + rng.uniform(-wide, wide, (n, 1)) * np.array([0, 0, 0.6])


def _at(height: np.ndarray, angle: np.ndarray) -> np.ndarray:
    height = np.clip(height, -0.98, 0.98)
    around = np.sqrt(1 - height**2)
    return np.column_stack([around * np.cos(angle), around * np.sin(angle), height])


_PLACES = {"dome": _dome, "cap": _cap, "arc": _arc, "walk": _walk, "grid": _grid}
