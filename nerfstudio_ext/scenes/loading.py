"""From a path to a scene: which format it is, what the readers found, which pictures can be used, who is held out."""

from __future__ import annotations

import dataclasses
import logging
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from ..cameras import Camera, Cameras
from ..errors import UserError
from ..progress import Progress, SilentProgress
from .boxes import choose_frame
from .colmap import find_models, read_colmap
from .images import (
    HEIC_SUFFIXES,
    IMAGE_SUFFIXES,
    RAW_SUFFIXES,
    DamagedImage,
    ImageInfo,
    ImageStore,
    probe_image,
)
from .llff import read_llff
from .model import Scene, SceneMeta, Split
from .photo_check import refuse_unreadable
from .picture_loading import PictureJob, load_store
from .picture_memory import NOTE_BYTES, PictureLoad, plan_load
from .posed_capture import PosedCapture, PosedFrame
from .posed_formats import read_blender, read_transforms
from .prepared import is_prepared, load_prepared
from .usable_pixels import blind_share, check_mask_size, usable_pixels

log = logging.getLogger(__name__)

CaptureKind = Literal["prepared", "transforms", "blender", "llff", "colmap", "photos", "video"]
VIDEO_SUFFIXES = (".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm", ".mts", ".3gp")
MIN_PICTURES = 3
"""Below this no method here can tell shape from colour."""
SIZE_TOLERANCE = 0.01
"""Relative difference of the two axes' scales that rounding of a reduced picture can explain (1 pixel in 100)."""
ANIMATED_FORMATS = ("GIF", "WEBP", "PNG", "TIFF")
ANIMATION_NOTE = "hold several frames: only the first is used"
MAX_LISTED = 50_000
"""Files looked at to tell what a folder holds."""


def detect_kind(path: Path) -> CaptureKind:
    """Tell what a path holds: a posed capture, plain photos or a video.

    In a folder with several, the first of this list counts: prepared.json, transforms.json, transforms_train.json,
    poses_bounds.npy, a COLMAP model, photos.

    Raises:
        UserError: if there is nothing there, or nothing that can be used.
    """
    if not os.path.exists(path):  # unlike Path.exists, no error for a name that no file can have
        raise UserError("no such file or folder", where=path, fix="Pass the folder that holds your photos")
    if path.is_file():
        return _kind_of_file(path)
    if not path.is_dir():
        raise UserError("neither a file nor a folder", where=path, fix="Pass the folder that holds your photos")
    if is_prepared(path):
        return "prepared"
    if (path / "transforms.json").is_file():
        return "transforms"
    if (path / "transforms_train.json").is_file():
        return "blender"
    if (path / "poses_bounds.npy").is_file():
        return "llff"
    return "colmap" if find_models(path) else _kind_of_files(path)


def load_scene(
    path: Path,
    *,
    downscale: float | None = None,
    max_side: int | None = None,
    split_every: int = 8,
    memory_budget: int | None = None,
    scratch: Path | None = None,
    progress: Progress | None = None,
) -> Scene:
    """Load a posed capture.

    Pictures that cannot be decoded are named, left out and counted. Where the file fixes no split, every
    `split_every`-th picture by name (the first, the ninth, ...) is held out for validation and test.

    Args:
        path: The capture's folder or its file.
        downscale: Divide width and height by this (area average); None or 1 keeps the size.
        max_side: Reduce pictures so that no side is longer, pixels.
        split_every: See above; 0 holds nothing out.
        memory_budget: Bytes of pixels that may stay in memory; a larger capture is kept in a file without a name.
            None: a share of what is free.
        scratch: Folder for that file; None: the system's for temporary files.
        progress: Receives stages and warnings.
    Raises:
        UserError: if the path holds no posed capture, anything in it is damaged beyond single pictures, or fewer than
            3 pictures remain.
    """
    progress = progress or SilentProgress()
    if downscale is not None and not 1 <= downscale <= 64:
        raise UserError(f"{downscale:g} is out of range", where="downscale", fix="Give a number from 1 to 64")
    if max_side is not None and max_side < 8:
        raise UserError(f"{max_side} is out of range", where="max-side", fix="Give at least 8 pixels")
    if is_prepared(path):
        return load_prepared(path)  # one picture, made for lifting, at the size it is wanted at
    capture = _read_capture(path)
    for line in capture.warnings:
        progress.warn(line)
    pictures = _open_pictures(capture, downscale or 1.0, max_side, progress)
    n_channels = 4 if any(p.info.has_alpha for p in pictures) else 3
    jobs = [PictureJob(p.frame.path, p.size, p.is_upright, p.usable) for p in pictures]
    load = _plan(pictures, n_channels, memory_budget, scratch)
    images, damaged = load_store(jobs, n_channels, memory_budget=load.budget, folder=load.folder, progress=progress)
    _report_damaged(list(damaged.values()), len(capture.frames), len(images), capture, progress)
    kept = [p for i, p in enumerate(pictures) if i not in damaged]
    return _assemble(path, capture, kept, images, split_every, progress)


def _plan(pictures: Sequence[_Picture], n_channels: int, budget: int | None, scratch: Path | None) -> PictureLoad:
    """What loading will take; said where it will take long or not fit into memory."""
    load = plan_load(
        [p.info.width * p.info.height for p in pictures],
        [p.size[0] * p.size[1] for p in pictures], n_channels, budget, scratch,
    )  # fmt: skip
    if load.is_mapped or load.n_bytes > NOTE_BYTES:
        log.warning(load.line, extra={"is_note": True})
    return load


def _read_capture(path: Path) -> PosedCapture:
    kind = detect_kind(path)
    if kind == "transforms":
        return read_transforms(path if path.is_file() else path / "transforms.json")
    if kind == "blender":
        return read_blender(path if path.is_dir() else path.parent)
    if kind == "llff":
        return read_llff(path if path.is_dir() else path.parent)
    if kind == "colmap":
        return read_colmap(path)
    raise UserError(
        f"{'a video' if kind == 'video' else 'photos'} without camera poses", where=path,
        fix="Run `nsx process` on it first",
    )  # fmt: skip


def _kind_of_file(path: Path) -> CaptureKind:
    suffix = path.suffix.lower()
    if suffix == ".json":
        return "blender" if re.fullmatch(r"transforms_(train|val|test)\.json", path.name) else "transforms"
    if suffix in VIDEO_SUFFIXES:
        return "video"
    if path.name == "poses_bounds.npy":
        return "llff"
    if suffix in IMAGE_SUFFIXES + HEIC_SUFFIXES:
        raise UserError("one picture is no capture", where=path, fix="Pass the folder that holds your photos")
    raise UserError(
        "not a capture", where=path, fix=f"Pass a folder, a transforms.json or a video ({', '.join(VIDEO_SUFFIXES)})"
    )


def _kind_of_files(folder: Path) -> CaptureKind:
    n_files, n_photos, videos = 0, 0, []
    for _, folders, names in os.walk(folder, onerror=refuse_unreadable):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        for name in names:
            suffix = Path(name).suffix.lower()
            n_files += not name.startswith(".")
            n_photos += suffix in IMAGE_SUFFIXES + HEIC_SUFFIXES + RAW_SUFFIXES and not name.startswith(".")
            videos += [name] if suffix in VIDEO_SUFFIXES else []
        if n_files > MAX_LISTED:
            break
    if n_photos:
        return "photos"
    if videos:
        raise UserError(f"no photos, but a video ('{videos[0]}')", where=folder, fix="Pass the video file itself")
    what = "the folder is empty" if n_files == 0 else f"none of its {n_files} files is a photo"
    raise UserError(what, where=folder, fix=f"Put photos there ({', '.join(IMAGE_SUFFIXES)})")


@dataclass(frozen=True)
class _Picture:
    """A frame whose picture could be opened.

    Attributes:
        frame: What the file says.
        info: What the picture's header says.
        camera: At the size to be loaded, source frame.
        is_upright: Whether the EXIF orientation is applied.
    """

    frame: PosedFrame
    info: ImageInfo
    camera: Camera
    is_upright: bool

    @property
    def size(self) -> tuple[int, int]:
        return self.camera.width, self.camera.height

    def usable(self) -> np.ndarray | None:
        """Mask of usable pixels [H,W] bool, None for all."""
        stated = self.frame.intrinsics.width or self.info.width
        return usable_pixels(self.frame, self.camera, self.camera.width / stated)


def _open_pictures(capture: PosedCapture, downscale: float, max_side: int | None, progress: Progress) -> list[_Picture]:
    pictures, damaged, notes = [], [], dict[str, int]()
    for frame in capture.frames:
        try:
            info = probe_image(frame.path)
        except DamagedImage as damage:
            damaged.append(damage)
            continue
        camera, is_upright, note = _fit_camera(frame, info)
        if info.n_frames > 1 and info.format in ANIMATED_FORMATS:
            notes[ANIMATION_NOTE] = notes.get(ANIMATION_NOTE, 0) + 1
        if note:
            notes[note] = notes.get(note, 0) + 1
        factor = min(1 / downscale, 1.0 if max_side is None else max_side / max(camera.width, camera.height))
        size = max(1, round(factor * camera.width)), max(1, round(factor * camera.height))
        for mask in (frame.mask, frame.ignore_mask):
            if mask is not None:
                check_mask_size(mask, camera)
        pictures.append(_Picture(frame, info, camera.resize(*size), is_upright))
    blind = [share for picture in pictures if (share := blind_share(picture.camera)) > 0]
    if blind:
        progress.warn(
            f"{len(blind)} pictures have a lens model that ends inside the picture: "
            f"up to {100 * max(blind):.1f} % of their pixels are not used"
        )
    for note, count in notes.items():
        progress.warn(f"{count} pictures {note}")
    _report_damaged(damaged, len(capture.frames), len(pictures), capture, progress)
    return pictures


def _fit_camera(frame: PosedFrame, info: ImageInfo) -> tuple[Camera, bool, str]:
    """The camera for the picture as it is on disk, whether to turn it upright, and what to tell about the fit."""
    stated = frame.intrinsics.width, frame.intrinsics.height
    actual = info.width, info.height
    if stated[0] is None or stated[1] is None:
        return Camera(*actual, frame.intrinsics.matrix(*actual), frame.c2w, frame.intrinsics.lens), True, ""
    width, height = stated[0], stated[1]
    camera = Camera(width, height, frame.intrinsics.matrix(width, height), frame.c2w, frame.intrinsics.lens)
    if (width, height) == actual:
        return camera, True, ""
    if (width, height) == info.stored_size:
        return camera, False, "are marked as turned (EXIF), but their poses fit them as stored: not turned"
    ratio = (actual[0] / width) / (actual[1] / height)
    slack = max(SIZE_TOLERANCE, 1 / min(*actual, width, height))
    if abs(ratio - 1) > slack:
        raise UserError(
            f"the picture has {actual[0]}x{actual[1]} pixels, the file says {width}x{height}", where=frame.where,
            fix="Use the pictures the poses were made for",
        )  # fmt: skip
    note = f"have {actual[0]}x{actual[1]} pixels where the file says {width}x{height}: the intrinsics were scaled"
    return camera.resize(*actual), True, note


def _report_damaged(
    damaged: Sequence[DamagedImage], n_all: int, n_left: int, capture: PosedCapture, progress: Progress
) -> None:
    for damage in damaged[:20]:
        progress.warn(f"left out: {damage.line}")
    if damaged:
        progress.warn(f"{len(damaged)} of {n_all} pictures are left out; {n_left} remain")
    if n_left < MIN_PICTURES:
        what = f"{n_left} usable picture{'s' * (n_left != 1)}; at least {MIN_PICTURES} are needed"
        raise UserError(what, where=capture.root, fix="Restore the damaged pictures" if damaged else "Add pictures")


def _assemble(
    path: Path,
    capture: PosedCapture,
    pictures: list[_Picture],
    images: ImageStore,
    split_every: int,
    progress: Progress,
) -> Scene:
    root = capture.root.resolve()
    cameras = Cameras([p.camera for p in pictures])
    names = tuple(p.frame.path.relative_to(root).as_posix() for p in pictures)
    split = _split(capture, pictures, names, split_every)
    has_alpha = images.n_channels == 4 and any(bool((images.pixels(i)[..., 3] < 255).any()) for i in range(len(images)))
    hints = dataclasses.replace(capture.hints, is_object=has_alpha)
    if hints.near_far is not None:
        position = {frame.name: i for i, frame in enumerate(capture.frames)}
        hints = dataclasses.replace(hints, near_far=hints.near_far[[position[p.frame.name] for p in pictures]])
    meta = SceneMeta(
        name=re.sub(r"[^\w.-]+", "_", root.name).strip("._-") or "scene",
        kind=f"{capture.kind}, {len(pictures)} images",
        cameras=cameras,
        image_names=names,
        split=split,
        frame=choose_frame(cameras, capture.points, hints, progress),
        has_alpha=has_alpha,
        points=capture.points,
        applied_transform=capture.applied_transform,
        source=str(path.resolve()),
    )
    return Scene(meta, images, root)


def _split(capture: PosedCapture, pictures: list[_Picture], names: Sequence[str], split_every: int) -> Split:
    everything = range(len(pictures))
    if capture.splits is None:
        by_name = sorted(everything, key=lambda i: names[i])
        held = tuple(sorted(by_name[::split_every])) if split_every > 0 else ()
        return Split(tuple(i for i in everything if i not in set(held)), held, held)
    positions = {purpose: _positions(listed, purpose, capture, pictures) for purpose, listed in capture.splits.items()}
    val, test = positions.get("val", ()), positions.get("test", ())
    train = positions.get("train", tuple(i for i in everything if i not in {*val, *test}))
    held = tuple(i for i in everything if i not in set(train)) if not val and not test and len(positions) == 1 else ()
    val, test = val or test or held, test or val or held
    overlap = sorted({names[i] for i in set(train) & {*val, *test}})
    if overlap:
        raise UserError(
            f"{len(overlap)} pictures are listed for training and for testing: '{overlap[0]}'"
            + (" and others" if len(overlap) > 1 else ""), where=capture.file or capture.root,
            fix="List each for one purpose",
        )  # fmt: skip
    for purpose, chosen in (("training", train), ("testing", test)):
        if not chosen:
            fix = "Name some, or remove the lists to hold out every 8th"
            where = capture.file or capture.root
            raise UserError(f"the file's lists leave no picture for {purpose}", where=where, fix=fix)
    return Split(train, val, test)


def _positions(listed: Sequence[str], purpose: str, capture: PosedCapture, pictures: list[_Picture]) -> tuple[int, ...]:
    known = {frame.name for frame in capture.frames}
    unknown = [name for name in listed if name not in known]
    if unknown:
        raise UserError(
            f"{len(unknown)} names in {purpose}_filenames belong to no frame: '{unknown[0]}'",
            where=capture.file or capture.root, fix="Use the file_path of the frames",
        )  # fmt: skip
    wanted = set(listed)
    return tuple(i for i, picture in enumerate(pictures) if picture.frame.name in wanted)
