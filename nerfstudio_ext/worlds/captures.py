"""From a seed to a capture: pictures in memory with exact cameras, as if somebody had photographed a scene."""

from __future__ import annotations

import numpy as np

from ..scenes.images import ImageStore
from ..scenes.model import Scene, SceneFrame, SceneMeta, Split
from .compose import SCALES, Scale, compose
from .rigs import RIGS_AROUND, RIGS_WITHIN, Rig, place_cameras
from .tracing import World, photograph

VALIDATION_SEEDS = 1 << 40
"""Scenes that training may never see have seeds from here."""


def make_capture(seed: int, *, n_views: int = 24, side: int = 128, scale: Scale | None = None) -> Scene:
    """Photograph the scene of a seed; see `make_capture_with_depths`."""
    return make_capture_with_depths(seed, n_views=n_views, side=side, scale=scale)[0]


def make_capture_with_depths(
    seed: int, *, n_views: int = 24, side: int = 128, scale: Scale | None = None
) -> tuple[Scene, list[np.ndarray]]:
    """Photograph the scene of a seed, and measure it.

    Args:
        seed: Decides everything; the same seed gives the same pictures.
        n_views: Pictures.
        side: Longer side of the pictures, pixels.
        scale: What kind of scene; None draws it.
    Returns:
        A capture whose source frame is the training frame, all pictures for training; and the distance [H,W] at each
        pixel of each picture, `inf` where there is nothing.
    """
    rng = np.random.default_rng((seed, 1))
    if scale is None:
        scale = SCALES[int(rng.choice(len(SCALES), p=(0.45, 0.3, 0.25)))]
    world = compose(seed, scale)
    is_object = scale == "object"
    rig = _drawn(rng, RIGS_AROUND if is_object else RIGS_WITHIN)
    short = round(side * rng.uniform(0.6, 1.0)) if rng.random() < 0.6 else side
    width, height = (side, short) if rng.random() < 0.7 else (short, side)
    distance = rng.uniform(1.1, 1.7) if is_object else _distance_within(rng, world)
    fov = rng.uniform(38, 55) if is_object else rng.uniform(40, 70)
    cameras = place_cameras(rng, rig, n_views, width, height, distance, fov)
    taken = [photograph(world, camera) for camera in cameras]
    pictures = [(255 * color).round().astype(np.uint8) for color, _ in taken]
    meta = SceneMeta(
        name=f"{scale}-{seed}",
        kind=f"computed, {scale}, {rig}",
        cameras=cameras,
        image_names=tuple(f"{i:03d}.png" for i in range(n_views)),
        split=Split(tuple(range(n_views)), (), ()),
        frame=SceneFrame.identity(world.aabb_scale),
        background=(float(world.background[0]), float(world.background[1]), float(world.background[2])),
    )
    return Scene(meta, ImageStore.from_arrays(pictures)), [depth for _, depth in taken]


def _drawn(rng: np.random.Generator, rigs: tuple[Rig, ...]) -> Rig:
    return rigs[int(rng.integers(len(rigs)))]


def _distance_within(rng: np.random.Generator, world: World) -> float:
    """Outside the things in the middle, well inside the walls."""
    return float(rng.uniform(0.8, min(0.3 * world.aabb_scale, 1.8)))
