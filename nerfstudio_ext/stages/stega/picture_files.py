"""Pictures to look at, from a picture file, a video or a folder of pictures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from ...errors import UserError
from ...progress import Progress
from ...scenes.images import IMAGE_SUFFIXES, DamagedImage, probe_image, read_image
from ...scenes.photo_check import list_photos
from ...scenes.video import even_frames
from .scale_search import LONGEST_SIDE, View, bounded_size, check_size

MAX_FRAMES = 24
"""Frames of a video that are looked at; more say little that is new."""


def views_of(path: Path, progress: Progress, *, max_frames: int = MAX_FRAMES) -> Iterator[View]:
    """Read pictures one after the other, no side over `LONGEST_SIDE`.

    Content decides what a file is, not its name. Where a picture is transparent, white shows through, as browsers and
    the usual renders of objects have it. The EXIF orientation is applied; of animations the first frame is read.

    Args:
        path: A picture, a video, or a folder of pictures.
        progress: Receives a warning for each picture of a folder that cannot be used.
        max_frames: Frames of a video, at equal distances.
    Raises:
        UserError: if the file is missing, damaged, neither picture nor video, or too small; if a folder holds no
            picture that can be used.
    """
    if not path.exists():
        raise UserError("no such file or folder", where=path, fix="Pass a picture, a video, or a folder of pictures")
    if path.is_dir():
        return _of_folder(path, progress)
    return _of_file(path, max_frames)


def read_view(path: Path, name: str) -> View:
    """Decode one picture, reduced to `LONGEST_SIDE`.

    Raises:
        UserError: if it cannot be read or is too small.
    """
    info = probe_image(path)
    check_size(info.width, info.height, path)
    size = bounded_size(info.width, info.height)
    return View(name, on_white(read_image(path, size=size)), size[0] / info.width)


def on_white(pixels: UInt8[np.ndarray, "H W C"]) -> UInt8[np.ndarray, "H W 3"]:
    """Colours of a picture that may carry opacity, before white."""
    if pixels.shape[2] == 3:
        return pixels
    alpha = pixels[..., 3:].astype(np.float32) / 255
    blended = pixels[..., :3] * alpha + 255 * (1 - alpha)
    return blended.round().astype(np.uint8)


def _of_file(path: Path, max_frames: int) -> Iterator[View]:
    try:
        probe_image(path)
    except DamagedImage as damage:
        if path.suffix.lower() in IMAGE_SUFFIXES or "not a picture" not in damage.what:
            raise
        yield from _of_video(path, max_frames)
    else:
        yield read_view(path, path.name)


def _of_video(path: Path, max_frames: int) -> Iterator[View]:
    for number, frame in even_frames(path, max_frames, LONGEST_SIDE):
        check_size(frame.shape[1], frame.shape[0], path)
        yield View(f"frame {number}", frame)


def _of_folder(folder: Path, progress: Progress) -> Iterator[View]:
    paths, skipped = list_photos(folder)
    n_used, last = 0, ""
    for photo in skipped:
        last = f"{photo.name}: {photo.reason}"
        progress.warn(f"left out {last}")
    for path in paths:
        try:
            view = read_view(path, path.relative_to(folder).as_posix())
        except UserError as error:
            last = f"{path.name}: {error.what}"
            progress.warn(f"left out {last}")
            continue
        n_used += 1
        yield view
    if not n_used:
        raise UserError(
            f"none of its {len(paths) + len(skipped)} pictures can be used ({last})",
            where=folder,
            fix="Pass pictures such as PNG or JPEG",
        )
