"""Looking at every photo before any work: what can be used, what cannot and why, how sharp and bright each is."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import io
import math
import os
import re
import stat
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import UserError
from ..progress import Progress
from .exif import PhotoExif, read_exif
from .images import (
    HEIC_SUFFIXES,
    IMAGE_SUFFIXES,
    MAX_PIXELS,
    RAW_SUFFIXES,
    DamagedImage,
    ImageInfo,
    probe_image,
    read_image,
    turn_upright,
)

MIN_PHOTOS = 8
"""Fewer photos leave most of a scene unseen; measured captures need 20 and more to look good."""
MIN_SIDE = 64
"""Pixels; smaller pictures are icons and thumbnails."""
MAX_LISTED = 20
"""Names listed per kind of fault; a count follows."""
THUMBNAIL_SIDE = 192
OTHER_SUFFIXES = (".svg", ".pdf", ".psd", ".exr", ".hdr", ".jxl", ".avif", ".jp2")
"""Pictures of formats that are not read; they are named rather than silently passed over."""
_JPEG_KINDS = ("JPEG", "MPO")
"""MPO is what many phones write: a JPEG with a second picture behind it."""
_CANDIDATES = IMAGE_SUFFIXES + HEIC_SUFFIXES + RAW_SUFFIXES + OTHER_SUFFIXES


@dataclass(frozen=True)
class Photo:
    """One usable photo.

    Attributes:
        path: The file.
        name: Path relative to the capture, with `/`.
        info: Size once upright, orientation, format.
        exif: Camera data.
        sharpness: Variance of the Laplacian of the working picture, in squared 8-bit steps.
        brightness: Mean of the working picture, 0..255.
        thumbnail: Small JPEG as base64 text, for the report.
        work: Grey working picture that the pose solver reads.
        work_size: (width, height) of the working picture.
        needs_conversion: CMYK, palette, 16-bit or 1-bit: few tools read these rightly.
    """

    path: Path
    name: str
    info: ImageInfo
    exif: PhotoExif
    sharpness: float
    brightness: float
    thumbnail: str
    work: Path
    work_size: tuple[int, int]
    needs_conversion: bool = False

    @property
    def focal_px(self) -> float | None:
        """Focal length from EXIF in pixels, or None."""
        share = self.exif.focal_diagonals
        return None if share is None else share * math.hypot(self.info.width, self.info.height)


@dataclass(frozen=True)
class SkippedPhoto:
    """A file that is left out, and why (one short phrase)."""

    name: str
    reason: str


@dataclass(frozen=True)
class PhotoCheck:
    """The outcome of looking at every photo.

    Attributes:
        photos: Usable ones, in natural order of their names.
        skipped: The others.
    """

    photos: tuple[Photo, ...]
    skipped: tuple[SkippedPhoto, ...]


def list_photos(folder: Path) -> tuple[list[Path], list[SkippedPhoto]]:
    """Find the photos of a capture: those in the folder, else those below it.

    Hidden files, links to folders, devices and pipes are passed over.

    Returns:
        Picture files in natural order (2 before 10), and files that look like photos but are not read by design: of
        another format, or links to a place outside the folder.
    Raises:
        UserError: if there is no folder or no photo in it, or a folder may not be looked into.
    """
    if not folder.is_dir():
        what = "no such folder" if not folder.exists() else "not a folder"
        raise UserError(what, where=folder, fix="Pass the folder that holds your photos")
    found: list[Path] = []
    n_files = 0
    links: list[Path] = []
    inside = folder.resolve()
    for parent, folders, names in os.walk(folder, onerror=refuse_unreadable):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        files = [Path(parent, name) for name in names if not name.startswith(".") and _is_regular(Path(parent, name))]
        n_files += len(files)
        pictures = [f for f in files if f.suffix.lower() in _CANDIDATES]
        links += [f for f in pictures if f.is_symlink() and not f.resolve().is_relative_to(inside)]
        found += pictures
        if found and Path(parent) == folder:
            break  # pictures lie here; folders below hold copies in other sizes more often than more photos
    if not found:
        what = f"none of its {n_files} files is a photo" if n_files else "the folder is empty"
        raise UserError(what, where=folder, fix=f"Put photos there ({', '.join(IMAGE_SUFFIXES)})")
    found.sort(key=lambda path: _natural(path.relative_to(folder).as_posix()))
    reasons = dict.fromkeys(links, "a link that leaves the folder: copy the photo itself")
    for path in found:
        if path.suffix.lower() in RAW_SUFFIXES + OTHER_SUFFIXES:
            reasons.setdefault(path, f"{path.suffix.lower()} files are not read: export as JPEG")
    skipped = [SkippedPhoto(path.relative_to(folder).as_posix(), reasons[path]) for path in found if path in reasons]
    _refuse_heic([path for path in found if path.suffix.lower() in HEIC_SUFFIXES])
    return [path for path in found if path not in reasons], skipped


def check_photos(
    paths: Sequence[Path],
    root: Path,
    work_dir: Path,
    work_pixels: float,
    progress: Progress,
    *,
    skipped: Sequence[SkippedPhoto] = (),
    max_pixels: int = MAX_PIXELS,
) -> PhotoCheck:
    """Decode every photo once, list all faults in one pass, and write the grey working pictures.

    Args:
        paths: Candidates, in capture order.
        root: Folder that names are relative to.
        work_dir: Where working pictures go, named by position.
        work_pixels: About how many pixels a working picture gets; see `working_size`.
        progress: Receives one stage and a warning per photo left out.
        skipped: Files already known to be unusable.
        max_pixels: Larger pictures are refused from their header.
    Raises:
        UserError: if fewer than `MIN_PHOTOS` usable photos remain.
    """
    progress.stage("check photos", len(paths))
    names = [path.relative_to(root).as_posix() for path in paths]
    doubles = _find_duplicates(paths, names)

    def look(i: int) -> Photo | SkippedPhoto:
        if i in doubles:
            return SkippedPhoto(names[i], f"the same photo as {doubles[i]}")
        return _look_at(paths[i], names[i], work_dir / f"{i:05d}.pgm", work_pixels, max_pixels)

    results: list[Photo | SkippedPhoto] = []
    with warnings.catch_warnings(), ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        warnings.simplefilter("ignore", UserWarning)  # Pillow's remarks on damaged EXIF name no file; ours do
        for result in pool.map(look, range(len(paths))):
            results.append(result)
            progress.advance(len(results))
    photos = tuple(r for r in results if isinstance(r, Photo))
    left_out = (*skipped, *(r for r in results if isinstance(r, SkippedPhoto)))
    for item in left_out[:MAX_LISTED]:
        progress.warn(f"left out: {item.name}: {item.reason}")
    if left_out:
        progress.warn(f"{len(left_out)} of {len(paths) + len(skipped)} photos are left out; {len(photos)} remain")
    animated = [p.name for p in photos if p.info.n_frames > 1 and p.info.format not in _JPEG_KINDS]
    if animated:
        progress.warn(f"{_listed(animated)}: animated; only the first picture is used")
    damaged_exif = [p.name for p in photos if p.exif.is_damaged]
    if damaged_exif:
        progress.warn(f"{_listed(damaged_exif)}: camera data (EXIF) cannot be read; the focal length is estimated")
    if len(photos) < MIN_PHOTOS:
        raise UserError(_too_few(photos, left_out), where=root, fix="Take 30 to 100 photos that overlap by 60-80 %")
    return PhotoCheck(photos, left_out)


def working_size(width: int, height: int, work_pixels: float) -> tuple[int, int]:
    """Size of the grey picture on which features are sought.

    Large photos are reduced to about `work_pixels`. Small ones are enlarged up to 1.5 times: features are then found
    between the octaves, at a quarter of the cost of doubling the size (measured: 0.42 instead of 1.2 s per photo).
    """
    factor = min(1.5, math.sqrt(work_pixels / (width * height)))
    return max(1, round(width * factor)), max(1, round(height * factor))


def laplacian_variance(grey: np.ndarray) -> float:
    """Variance of the discrete Laplacian of a grey picture [H,W]: large for crisp pictures, near 0 for blurred ones."""
    g = grey.astype(np.float32)
    laplacian = g[:-2, 1:-1] + g[2:, 1:-1] + g[1:-1, :-2] + g[1:-1, 2:] - 4 * g[1:-1, 1:-1]
    return float(laplacian.var())


def _look_at(path: Path, name: str, work: Path, work_pixels: float, max_pixels: int) -> Photo | SkippedPhoto:
    try:
        if path.stat().st_size == 0:
            return SkippedPhoto(name, "empty file (0 bytes); copy it again")
        info = probe_image(path, max_pixels=max_pixels)
        if min(info.width, info.height) < MIN_SIDE:
            return SkippedPhoto(name, f"only {info.width}x{info.height} pixels")
        size = working_size(info.width, info.height, work_pixels)
        with Image.open(path, formats=(_plugin(info),)) as opened:
            exif, mode = read_exif(opened), opened.mode
        picture = _decode(path, info, mode, size)
    except UserError as refusal:  # damaged, too large, unreadable: this file is left out, the others are not at fault
        return SkippedPhoto(name, "; ".join(part.rstrip(".") for part in (refusal.what, refusal.fix) if part))
    except FileNotFoundError:
        return SkippedPhoto(name, "vanished while it was read")
    if picture is None:
        return SkippedPhoto(name, "wholly transparent")
    grey = picture.convert("L").resize(size, Image.Resampling.LANCZOS)
    grey.save(work)
    pixels = np.asarray(grey)
    picture.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=72)
    thumbnail = base64.b64encode(buffer.getvalue()).decode("ascii")
    return Photo(
        path, name, info, exif, laplacian_variance(pixels), float(pixels.mean()), thumbnail, work, size,
        needs_conversion=mode not in ("L", "RGB", "RGBA"),
    )  # fmt: skip


def _decode(path: Path, info: ImageInfo, mode: str, size: tuple[int, int]) -> Image.Image | None:
    """The whole photo upright in RGB, at least `size` large; None when it is wholly transparent.

    A JPEG is decoded to its end, but at a reduced size where that suffices: four times as fast on phone photos.
    """
    if info.format in _JPEG_KINDS and mode in ("RGB", "L"):
        try:
            with Image.open(path, formats=("JPEG",)) as picture:
                picture.draft("RGB", size if info.stored_size == (info.width, info.height) else size[::-1])
                pixels = np.asarray(picture.convert("RGB"))
        except (OSError, SyntaxError, ValueError) as error:
            what = "the file is cut short" if "truncated" in str(error) else f"cannot be decoded ({error})"
            raise DamagedImage(what, where=path, fix="Copy it again") from None
        return Image.fromarray(np.ascontiguousarray(turn_upright(pixels, info.orientation)))
    pixels = read_image(path)
    if pixels.shape[-1] == 4:
        if not pixels[..., 3].any():
            return None
        alpha = pixels[..., 3:] / np.float32(255)
        pixels = (pixels[..., :3] * alpha + 255 * (1 - alpha) + 0.5).astype(np.uint8)
    return Image.fromarray(pixels)


def _plugin(info: ImageInfo) -> str:
    return "JPEG" if info.format == "MPO" else info.format


def _find_duplicates(paths: Sequence[Path], names: Sequence[str]) -> dict[int, str]:
    """Position of each photo that equals an earlier one byte by byte, with the earlier one's name."""
    by_size: dict[int, list[int]] = {}
    for i, path in enumerate(paths):
        try:
            by_size.setdefault(path.stat().st_size, []).append(i)
        except OSError:
            continue  # it is named when it is opened
    doubles: dict[int, str] = {}
    for size, group in by_size.items():
        seen: dict[bytes, str] = {}
        for i in group if len(group) > 1 and size else []:
            try:
                digest = hashlib.sha256(paths[i].read_bytes()).digest()
            except OSError:
                continue
            if digest in seen:
                doubles[i] = seen[digest]
            seen.setdefault(digest, names[i])
    return doubles


def _refuse_heic(paths: list[Path]) -> None:
    if paths and importlib.util.find_spec("pillow_heif") is None:
        names = [path.name for path in paths]
        raise UserError(
            "HEIC photos need a decoder that is not installed", where=_listed(names),
            fix="Install it with `pip install nerfstudio-ext[heic]`, or export the photos as JPEG",
        )  # fmt: skip


def _too_few(photos: Sequence[Photo], left_out: Sequence[SkippedPhoto]) -> str:
    text = f"{len(photos)} usable photo{'s' * (len(photos) != 1)}; at least {MIN_PHOTOS} are needed"
    reasons: dict[str, list[str]] = {}
    for item in left_out:
        reason = "duplicates" if item.reason.startswith("the same photo") else item.reason
        reasons.setdefault(reason, []).append(item.name)
    details = [f"{len(names)} left out as {r} ({_listed(names, 3)})" for r, names in list(reasons.items())[:5]]
    return "; ".join([text, *details])


def _listed(names: Sequence[str], most: int = MAX_LISTED) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def refuse_unreadable(error: OSError) -> None:
    """For `os.walk`, which passes silently over folders it cannot read: say so instead."""
    is_forbidden = isinstance(error, PermissionError)
    what = "no permission to look into it" if is_forbidden else f"cannot be looked into ({error.strerror})"
    raise UserError(what, where=error.filename, fix="Change its mode, or move the photos elsewhere") from None


def _is_regular(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError:  # a link that leads nowhere or round in circles
        return False


def _natural(text: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key with numbers by value."""
    parts = re.findall(r"\d+|\D+", text)
    return tuple((0, int(p), "") if p.isdecimal() and p.isascii() else (1, 0, p.casefold()) for p in parts)
