"""Single things of eight classes with free sizes and hues: what the small prior is trained on, and lifting judged by.

How deep a thing is follows from its class and its visible width, a chair has its back at the far side, and the hue of
the back follows from that of the front: rules that no single photo shows (`thing_tracing`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..methods.priors import Views
from ..scenes.prepared import DISTANCE, FOV_Y_DEG, camera_around
from .thing_tracing import (
    BOX,
    CONE,
    CYLINDER,
    ELLIPSOID,
    RING,
    ROOF,
    photograph_thing,
    thing_distances,
)

CLASSES = ("ball", "box", "cylinder", "cone", "table", "chair", "house", "mug")
DEPTH_PER_WIDTH = {
    "ball": 1.3, "box": 0.55, "cylinder": 1.0, "cone": 1.0, "table": 0.7, "chair": 0.9, "house": 1.25, "mug": 1.0,
}  # fmt: skip
"""Rule of each class: extent along the line of sight of the front view per extent across it."""
FRONT_ELEVATION_DEG = 15.0
HELD_OUT_HUES_DEG = 30.0
"""Width of the band of hues, another one for each class, that `draw_thing` leaves out unless asked for."""
HELD_OUT_SIZES = (0.4, 0.6)
"""Part of the range of the first size, 0..1, that is left out likewise."""


@dataclass(frozen=True)
class Thing:
    """One thing in the cube of edge 1 around the origin, z up, its front towards positive x.

    Attributes:
        class_name: One of `CLASSES`.
        parts: See `thing_tracing.photograph_thing`.
        hue_deg: Hue of the front.
        phase: Of the stripes, radians.
        saturation: Of both hues.
    """

    class_name: str
    parts: Float[np.ndarray, "P 7"]
    hue_deg: float
    phase: float
    saturation: float


def draw_thing(rng: np.random.Generator, class_name: str, *, is_held_out: bool = False) -> Thing:
    """A random thing of a class.

    Args:
        rng: Draws sizes and colours.
        class_name: One of `CLASSES`.
        is_held_out: Take hue and size from the ranges that are else left out.
    """
    low = 45.0 * CLASSES.index(class_name)
    hue = rng.uniform(0, HELD_OUT_HUES_DEG) if is_held_out else rng.uniform(HELD_OUT_HUES_DEG, 360)
    a, b = HELD_OUT_SIZES
    sizes = rng.uniform(0, 1, 3)
    if is_held_out:
        sizes[0] = rng.uniform(a, b)
    elif a <= sizes[0] <= b:
        sizes[0] = sizes[0] - a if rng.random() < 0.5 else sizes[0] + 1 - b
    parts = _PARTS[class_name](sizes)
    return Thing(
        class_name,
        np.array(parts, dtype=np.float64),
        (low + hue) % 360,
        rng.uniform(0, 2 * np.pi),
        rng.uniform(0.6, 0.85),
    )


def photograph(
    thing: Thing, azimuth_deg: float, elevation_deg: float, side: int, rays_per_side: int = 2
) -> tuple[Float[np.ndarray, "S S 4"], Float[np.ndarray, "S S"]]:
    """A picture from the distance at which prepared photos are, premultiplied RGBA 0..1, and its ray lengths."""
    camera = camera_around(azimuth_deg, elevation_deg, DISTANCE, FOV_Y_DEG, side)
    k = camera.K.numpy()
    intrinsics = np.array([k[0, 0], k[1, 1], k[0, 2], k[1, 2]])
    colors = np.array([thing.hue_deg, thing.phase, thing.saturation])
    return photograph_thing(thing.parts, colors, intrinsics, camera.c2w.numpy(), side, rays_per_side)


def pictures_of(thing: Thing, views: Views, side: int) -> Float[Tensor, "V 4 S S"]:
    """Pictures from several views, premultiplied RGBA; distance and field of view are those of prepared photos."""
    taken = [
        photograph(thing, float(a), float(e), side)[0]
        for a, e in zip(views.azimuth_deg, views.elevation_deg, strict=True)
    ]
    return torch.from_numpy(np.stack(taken)).float().permute(0, 3, 1, 2).contiguous()


def views_at(angles: list[tuple[float, float]]) -> Views:
    """Views from (azimuth, elevation) in degrees, at the distance of prepared photos."""
    pairs = torch.tensor(angles, dtype=torch.float32).reshape(-1, 2)
    n = len(pairs)
    return Views(pairs[:, 0], pairs[:, 1], torch.full((n,), DISTANCE), torch.full((n,), FOV_Y_DEG))


def is_inside(thing: Thing, x: Float[Tensor, "N 3"]) -> Bool[Tensor, " N"]:
    """Which points lie within the thing."""
    return torch.from_numpy(thing_distances(thing.parts, x.double().numpy()) < 0)


def _between(share: float, low: float, high: float) -> float:
    return low + share * (high - low)


def _round(kind: int, name: str, s: np.ndarray) -> list[list[float]]:
    b, c = _between(s[0], 0.2, 0.38), _between(s[1], 0.2, 0.42)
    a = min(b * DEPTH_PER_WIDTH[name], 0.46)
    return [[kind, 0, 0, 0, a, b, c]]


def _table(s: np.ndarray) -> list[list[float]]:
    b, c = _between(s[0], 0.28, 0.42), _between(s[1], 0.2, 0.34)
    a, top = b * DEPTH_PER_WIDTH["table"], _between(s[2], 0.05, 0.09)
    leg = 0.05
    legs = [[BOX, i * (a - leg), j * (b - leg), -top, leg, leg, c - top] for i in (-1, 1) for j in (-1, 1)]
    return [[BOX, 0, 0, c - top, a, b, top], *legs]


def _chair(s: np.ndarray) -> list[list[float]]:
    b, c = _between(s[0], 0.2, 0.32), _between(s[1], 0.3, 0.42)
    a, seat = b * DEPTH_PER_WIDTH["chair"], _between(s[2], -0.15, 0.05)
    back = 0.07
    return [[BOX, 0, 0, (seat - c) / 2, a, b, (seat + c) / 2], [BOX, -a + back, 0, 0, back, b, c]]


def _house(s: np.ndarray) -> list[list[float]]:
    b, wall = _between(s[0], 0.2, 0.32), _between(s[1], 0.12, 0.22)
    a, roof = b * DEPTH_PER_WIDTH["house"], _between(s[2], 0.08, 0.16)
    return [[BOX, 0, 0, -roof, a, b, wall], [ROOF, 0, 0, wall, a + 0.03, b + 0.03, roof]]


def _mug(s: np.ndarray) -> list[list[float]]:
    radius, c = _between(s[0], 0.18, 0.27), _between(s[1], 0.22, 0.36)
    ring = _between(s[2], 0.09, 0.14)
    return [[CYLINDER, 0, -0.07, 0, radius, radius, c], [RING, 0, -0.07 + radius + 0.3 * ring, 0, ring, 0.04, 0]]


_PARTS = {
    "ball": lambda s: _round(ELLIPSOID, "ball", s),
    "box": lambda s: _round(BOX, "box", s),
    "cylinder": lambda s: _round(CYLINDER, "cylinder", s),
    "cone": lambda s: _round(CONE, "cone", s),
    "table": _table,
    "chair": _chair,
    "house": _house,
    "mug": _mug,
}
