"""Where a scene is looked at from: where its photos were taken, or all around an object lifted from one photo."""

from __future__ import annotations

import dataclasses
import math

import torch

from ..cameras import Cameras
from .model import SceneMeta, Split
from .prepared import FRONT, pose_around

_AROUND = "around/"
"""Names of cameras that took no photo begin with it."""
_AZIMUTHS = 12
_HIGHER_DEG = 30.0
_HIGHEST_DEG = 75.0


def viewpoints(meta: SceneMeta) -> Cameras:
    """Cameras that show the scene, training frame: those of the training photos, or all around a lifted object."""
    around = seen_all_around(meta)
    return around.training_cameras().select(list(around.split.train))


def is_lifted(meta: SceneMeta) -> bool:
    """Whether a scene is an object made from one photo, with or without cameras around it."""
    names = meta.image_names
    return names[:1] == (FRONT,) and all(name.startswith(_AROUND) for name in names[1:])


def seen_all_around(meta: SceneMeta) -> SceneMeta:
    """The same scene with cameras on two circles around it, where it is an object made from one photo.

    One circle at the photo's height and one above; any other scene is returned as it is. The first camera stays the
    photo's.
    """
    if not is_lifted(meta) or len(meta.cameras) > 1:
        return meta
    front = meta.cameras[0]
    x, y, z = front.c2w[:, 3].tolist()
    distance = math.sqrt(x * x + y * y + z * z)
    elevation = math.degrees(math.asin(max(-1.0, min(1.0, z / distance))))
    heights = elevation, min(elevation + _HIGHER_DEG, _HIGHEST_DEG)
    cameras = [
        dataclasses.replace(front, c2w=pose_around(360.0 * i / _AZIMUTHS, height, distance).to(torch.float64))
        for height in heights
        for i in range(_AZIMUTHS)
    ]
    cameras[0] = front
    names = (FRONT, *(f"{_AROUND}{i:03d}" for i in range(1, len(cameras))))
    split = Split(tuple(range(len(cameras))), (), ())
    return dataclasses.replace(meta, cameras=Cameras(cameras), image_names=names, split=split)
