"""The photos of a posed capture: upright, under names every tool accepts, the originals untouched."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image

from ..errors import UserError
from ..progress import Progress
from .images import read_image
from .photo_check import Photo

JPEG_QUALITY = 95
_LINKABLE = {"JPEG": (".jpg", ".jpeg"), "MPO": (".jpg", ".jpeg"), "PNG": (".png",)}
"""Formats every reader of transforms.json knows, with the endings that tell the truth about them."""
_SAFE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._ -]*")


def output_names(photos: Sequence[Photo]) -> list[str]:
    """A file name for each photo: its own where that is harmless, else made harmless and unique.

    Names that differ only in case get different numbers: the folder may be copied to a disk that ignores case.
    """
    names: list[str] = []
    taken: set[str] = set()
    for photo in photos:
        flat = photo.name.replace("/", "_")
        stem, suffix = os.path.splitext(flat)
        if _can_link(photo):
            suffix = suffix if suffix.lower() in _LINKABLE[photo.info.format] else _LINKABLE[photo.info.format][0]
        else:
            suffix = ".jpg" if photo.info.format in ("JPEG", "MPO") else ".png"
        if not _SAFE_NAME.fullmatch(stem) or len(stem) > 100:
            stem = "photo_" + re.sub(r"[^A-Za-z0-9._-]+", "_", stem).strip("._-")[:80]
        name, number = stem + suffix, 2
        while name.lower() in taken:
            name, number = f"{stem}_{number}{suffix}", number + 1
        taken.add(name.lower())
        names.append(name)
    return names


def copy_photos(photos: Sequence[Photo], names: Sequence[str], folder: Path, progress: Progress) -> int:
    """Put the photos into `folder`: hard links where they can stay as they are, converted copies else.

    A converted copy is upright, 8 bits per value, sRGB; of a JPEG it stays a JPEG. An existing file of that name is
    replaced, never written into: it may be a link to an original.

    Returns:
        How many had to be converted.
    Raises:
        UserError: if the folder cannot be written, or a photo has gone.
    """
    progress.stage("copy photos", len(photos))

    def put(i: int) -> bool:
        target, temporary = folder / names[i], folder / f".new-{i:05d}"
        temporary.unlink(missing_ok=True)
        is_linked = _can_link(photos[i])
        if not photos[i].path.is_file():
            raise UserError("vanished while it was read", where=photos[i].path, fix="Restore it, and start again")
        if is_linked:
            _link_or_copy(photos[i].path.resolve(), temporary)
        else:
            _convert(photos[i], temporary, target.suffix)
        os.replace(temporary, target)
        return not is_linked

    try:
        folder.mkdir(parents=True, exist_ok=True)
        n_converted = 0
        with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
            for done, is_converted in enumerate(pool.map(put, range(len(photos))), 1):
                n_converted += is_converted
                progress.advance(done)
    except OSError as error:
        raise UserError(
            f"cannot write the photos: {error.strerror or error}", where=folder, fix="Choose another --output-dir"
        ) from None
    return n_converted


def _can_link(photo: Photo) -> bool:
    info = photo.info
    return info.format in _LINKABLE and info.orientation == 1 and not photo.needs_conversion


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk, or a file system without links
        shutil.copyfile(source, target)


def _convert(photo: Photo, target: Path, suffix: str) -> None:
    picture = Image.fromarray(read_image(photo.path))
    if suffix == ".jpg":
        picture.convert("RGB").save(target, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    else:
        picture.save(target, "PNG", compress_level=3)
