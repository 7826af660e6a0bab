"""Small copies of the training photos in the run folder, so that the viewer shows them where the photos are not."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, UnidentifiedImageError

from ..viewer.training_views import THUMBNAIL_PX, thumbnail

if TYPE_CHECKING:
    from jaxtyping import UInt8

    from ..scenes.model import Scene, SceneMeta

_QUALITY = 85


def write_thumbnails(scene: Scene, run_folder: Path) -> None:
    """Write one JPEG per training photo to `thumbnails/`."""
    folder = run_folder / "thumbnails"
    folder.mkdir(exist_ok=True)
    for index in scene.meta.split.train:
        Image.fromarray(thumbnail(scene.images.pixels(index))).save(folder / f"{index:05d}.jpg", quality=_QUALITY)


def read_thumbnails(meta: SceneMeta, run_folder: Path) -> list[UInt8[np.ndarray, "H W 3"]]:
    """The thumbnails of the training photos, in order; those that are missing or damaged become grey.

    Args:
        meta: The capture.
        run_folder: The run, or the scene file.
    """
    from ..training.scene_file import is_scene_file, thumbnail_bytes

    packed = thumbnail_bytes(run_folder, meta.split.train) if is_scene_file(run_folder) else None
    pictures = []
    for place, index in enumerate(meta.split.train):
        file: Path | io.BytesIO = run_folder / "thumbnails" / f"{index:05d}.jpg"
        if packed is not None:
            file = io.BytesIO(packed[place] or b"")
        try:
            with Image.open(file, formats=["JPEG"]) as picture:
                picture.draft("RGB", (THUMBNAIL_PX, THUMBNAIL_PX))
                pictures.append(np.asarray(picture.convert("RGB")))
        except (OSError, UnidentifiedImageError, Image.DecompressionBombError, ValueError):
            pictures.append(np.full((THUMBNAIL_PX, THUMBNAIL_PX, 3), 128, np.uint8))
    return pictures
