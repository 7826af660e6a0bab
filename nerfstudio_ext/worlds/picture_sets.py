"""The finite set of things that the exact prior knows: all classes, photographed from a ring of views."""

from __future__ import annotations

import numpy as np
import torch

from ..methods.priors.empirical import PictureSet
from ..progress import Progress, SilentProgress
from ..scenes.prepared import DISTANCE, FOV_Y_DEG
from .things import CLASSES, FRONT_ELEVATION_DEG, draw_thing, photograph

SET_SEED = 1 << 20
AZIMUTHS = 12
ELEVATIONS_DEG = (0.0, 35.0)
PER_CLASS = 160


def make_set(
    side: int, per_class: int = PER_CLASS, seed: int = SET_SEED, *, progress: Progress | None = None
) -> PictureSet:
    """Photograph a set.

    Args:
        side: Of the pictures, pixels.
        per_class: Things of each class.
        seed: Decides everything.
        progress: Told how many things are done.
    """
    progress = progress or SilentProgress()
    angles = [(360.0 * i / AZIMUTHS - 180, e) for e in ELEVATIONS_DEG for i in range(AZIMUTHS)]
    n = per_class * len(CLASSES)
    pictures = np.empty((n, len(angles), 4, side, side), np.uint8)
    photos = np.empty((n, 4, side, side), np.uint8)
    progress.stage("photographing things", n)
    for i in range(n):
        thing = draw_thing(np.random.default_rng((seed, i)), CLASSES[i % len(CLASSES)])
        photos[i] = _eight_bits(photograph(thing, 0.0, FRONT_ELEVATION_DEG, side)[0])
        for j, (azimuth, elevation) in enumerate(angles):
            pictures[i, j] = _eight_bits(photograph(thing, azimuth, elevation, side)[0])
        progress.advance(i + 1)
    class_ids = torch.arange(n) % len(CLASSES)
    tensors = torch.from_numpy(pictures), torch.from_numpy(photos), torch.tensor(angles)
    return PictureSet(*tensors, class_ids, CLASSES, DISTANCE, FOV_Y_DEG)


def shuffled(known: PictureSet, seed: int = 0) -> PictureSet:
    """The same pictures with the azimuths of every thing in another order: a control that knows no back."""
    generator = torch.Generator().manual_seed(seed)
    pictures = known.pictures.clone()
    for i in range(len(pictures)):
        for first in range(0, len(known.views), AZIMUTHS):
            order = first + torch.randperm(AZIMUTHS, generator=generator)
            pictures[i, first : first + AZIMUTHS] = known.pictures[i, order]
    return PictureSet(
        pictures, known.photos, known.views, known.class_ids, known.class_names, known.distance, known.fov_y_deg
    )


def _eight_bits(picture: np.ndarray) -> np.ndarray:
    return np.round(255 * picture).clip(0, 255).astype(np.uint8).transpose(2, 0, 1)
