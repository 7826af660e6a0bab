"""A crop box from flags, in a frame people know."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..errors import UserError

if TYPE_CHECKING:
    from ..camera_paths import CropBox
    from ..camera_paths.similarity import FrameChange

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class CropSettings:
    """A box outside of which nothing is taken."""

    crop_center: Triple | None = None
    """Centre of a crop box in the world frame: the frame of the capture, or the one that was set in the viewer."""

    crop_size: Triple | None = None
    """Its edge lengths in world units."""

    crop_rotation: Triple = (0.0, 0.0, 0.0)
    """Its roll, pitch and yaw in degrees (yaw about z, last)."""


@dataclass(frozen=True)
class WithCropSettings:
    """For options that carry a crop box; the flags are flat."""

    crop_settings: CropSettings = field(default_factory=CropSettings)


def crop_box(
    settings: CropSettings, world_to_training: FrameChange, background: tuple[float, float, float]
) -> CropBox | None:
    """The box in the training frame, or None when none was asked for.

    Args:
        settings: The flags.
        world_to_training: From the frame of the flags.
        background: Colour outside.
    Raises:
        UserError: if only half of a box was given, or it has no volume.
    """
    import torch

    from ..camera_paths import CropBox
    from ..camera_paths.entries import rotation_zyx

    if settings.crop_size is None:
        if settings.crop_center is not None:
            raise UserError("a crop box without a size", where="--crop-center", fix="Give --crop-size X Y Z as well")
        return None
    if not (min(settings.crop_size) > 0 and all(map(math.isfinite, settings.crop_size))):
        raise UserError(f"edges of {settings.crop_size}", where="--crop-size", fix="Give three lengths above 0")
    f64 = torch.float64
    center = torch.tensor(settings.crop_center or (0.0, 0.0, 0.0), dtype=f64)
    rotation = rotation_zyx(*(math.radians(angle) for angle in settings.crop_rotation))
    box = CropBox(center, torch.tensor(settings.crop_size, dtype=f64), rotation, background)
    change = world_to_training
    return box.transformed(change.rotation, change.translation, change.scale)
