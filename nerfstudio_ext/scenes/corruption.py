"""Corrupted copies of a capture: bad training photos or poses, with the held-out ones as they were."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageFilter

from ..errors import UserError
from ..progress import Progress, SilentProgress
from ..strict_json import read_json
from .loading import load_scene
from .model import Scene
from .posed_capture import clean_name

CorruptionKind = Literal["impulse", "gaussian", "blur", "exposure", "pose"]
KINDS: tuple[CorruptionKind, ...] = get_args(CorruptionKind)
LARGEST_LEVEL: Mapping[CorruptionKind, float] = {"impulse": 1, "gaussian": 1, "blur": 50, "exposure": 4, "pose": 45}
LEVEL_MEANING: Mapping[CorruptionKind, str] = {
    "impulse": "share of pixels that become black or white",
    "gaussian": "standard deviation of the noise, as a share of white",
    "blur": "standard deviation of the blur in pixels",
    "exposure": "largest error of the exposure in stops",
    "pose": "error of the pose: degrees, and percent of the scene's size",
}
NOTE_FILE = "corruption.json"
_NOT_COPIED = shutil.ignore_patterns(".*", "outputs")
_SMALL = 64
"""Longest side at which photos are loaded to learn their names and their split."""
Photo = UInt8[np.ndarray, "H W C"]


@dataclass(frozen=True)
class Corruption:
    """What is done to training photos or their poses.

    Attributes:
        kind: See `LEVEL_MEANING`.
        level: How much.
        seed: Of all random choices; each photo has a stream of its own.
    Raises:
        UserError: if the level is out of range.
    """

    kind: CorruptionKind
    level: float
    seed: int = 0

    def __post_init__(self) -> None:
        largest = LARGEST_LEVEL[self.kind]
        if not 0 < self.level <= largest:
            raise UserError(
                f"level {self.level:g} is out of range", where=f"--kind {self.kind}",
                fix=f"Give a number above 0, up to {largest:g}: {LEVEL_MEANING[self.kind]}",
            )  # fmt: skip
        if self.seed < 0:
            raise UserError(f"the seed is {self.seed}", where="--seed", fix="Give a number from 0 up")

    def generator(self, position: int) -> np.random.Generator:
        """The random stream of the photo at a position of the capture."""
        return np.random.default_rng([self.seed, position])


@dataclass(frozen=True)
class CorruptedCapture:
    """A finished copy.

    Attributes:
        path: Its folder.
        changed: Names of the corrupted photos.
        kept: Number of the others.
    """

    path: Path
    changed: tuple[str, ...]
    kept: int


def corrupt_photo(photo: Photo, corruption: Corruption, generator: np.random.Generator) -> Photo:
    """A corrupted copy of an 8-bit photo with three channels, or four with opacity.

    Impulse noise makes exactly the given share of the pixels black or white, each with probability 1/2, in all colour
    channels together and opaque. Other kinds leave the opacity as it is.
    """
    kind, level = corruption.kind, corruption.level
    if kind == "impulse":
        flat = photo.reshape(-1, photo.shape[2]).copy()
        chosen = generator.permutation(len(flat))[: round(level * len(flat))]
        flat[chosen, :3] = 255 * generator.integers(0, 2, size=(len(chosen), 1), dtype=np.uint8)
        flat[chosen, 3:] = 255
        return flat.reshape(photo.shape)
    color = photo[..., :3].astype(np.float32)
    if kind == "gaussian":
        color = color + 255 * level * generator.standard_normal(color.shape, dtype=np.float32)
    elif kind == "exposure":
        color = color * 2 ** generator.uniform(-level, level)
    elif kind == "blur":
        blurred = Image.fromarray(photo[..., :3]).filter(ImageFilter.GaussianBlur(level))
        color = np.asarray(blurred, np.float32)
    return np.concatenate([color.round().clip(0, 255).astype(np.uint8), photo[..., 3:]], -1)


def corrupt_pose(matrix: np.ndarray, corruption: Corruption, size: float, generator: np.random.Generator) -> np.ndarray:
    """A camera-to-world matrix [3 or 4, 4], turned by `level` degrees and moved by `level` percent of `size`.

    Axis and direction are random; the camera turns about its own position.
    """
    axis, direction = (v / np.linalg.norm(v) for v in generator.standard_normal((2, 3)))
    angle = np.deg2rad(corruption.level)
    cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    turn = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross  # Rodrigues
    moved = matrix.copy()
    moved[:3, :3] = turn @ matrix[:3, :3]
    moved[:3, 3] += corruption.level / 100 * size * direction
    return moved


def corrupt_capture(
    path: Path, target: Path, corruption: Corruption, *, split_every: int = 8, progress: Progress | None = None
) -> CorruptedCapture:
    """Copy a posed capture and corrupt the training photos (or poses) of the copy.

    Photos keep their names and formats; lossy ones are written at the highest quality. A note with everything needed
    to do it again lies in `corruption.json`.

    Args:
        path: The capture.
        target: Folder to make; must not exist.
        corruption: What to do.
        split_every: As in training, where the capture fixes no split of its own.
        progress: Told about every photo.
    Raises:
        UserError: if the capture cannot be read, the target exists or cannot be written, or poses are to be changed in
            a format other than transforms.json.
    """
    progress = progress or SilentProgress()
    scene = load_scene(path, max_side=_SMALL, split_every=split_every, progress=progress)
    names = {scene.meta.image_names[i]: i for i in scene.meta.split.train}
    documents = _pose_documents(path, scene) if corruption.kind == "pose" else []
    if target.exists():
        raise UserError("exists", where=target, fix="Choose another --output-dir")
    if target.resolve().is_relative_to(scene.root.resolve()):
        raise UserError("lies inside the capture", where=target, fix="Choose another --output-dir")
    progress.stage("copying the capture")
    try:
        shutil.copytree(scene.root, target, ignore=_NOT_COPIED)
        if corruption.kind == "pose":
            for document in documents:
                _corrupt_document(target / document, names, corruption, 1 / scene.meta.frame.scale)
        else:
            progress.stage(f"{corruption.kind} on {len(names)} training photos", len(names))
            for done, (name, position) in enumerate(names.items(), start=1):
                change = _changer(corruption, position)
                _rewrite(target / name, change)
                progress.advance(done, Path(name).name)
        _write_note(target, path, corruption, split_every, list(names))
    except (OSError, shutil.Error) as why:
        reason = os.strerror(why.errno) if isinstance(why, OSError) and why.errno else "some files could not be copied"
        raise UserError(f"cannot be written: {reason}", where=target, fix="Choose another --output-dir") from None
    return CorruptedCapture(target, tuple(names), len(scene.meta.image_names) - len(names))


def _changer(corruption: Corruption, position: int) -> Callable[[Photo], Photo]:
    return lambda photo: corrupt_photo(photo, corruption, corruption.generator(position))


def _rewrite(path: Path, change: Callable[[Photo], Photo]) -> None:
    """Change the pixels of a picture as they are stored, before any turning by EXIF."""
    with Image.open(path) as picture:
        has_alpha = "A" in picture.mode or "transparency" in picture.info
        kind, exif = picture.format, picture.info.get("exif")
        pixels = np.asarray(picture.convert("RGBA" if has_alpha else "RGB"))
    options: dict[str, Any] = {} if exif is None else {"exif": exif}
    if kind == "JPEG":
        options |= {"quality": 100, "subsampling": 0}
    elif kind == "WEBP":
        options |= {"lossless": True}
    path.unlink()  # a hard link or a read-only copy must not be written through
    Image.fromarray(change(pixels)).save(path, format=kind, **options)


def _pose_documents(path: Path, scene: Scene) -> list[str]:
    """Names of the files that hold the poses of the training photos."""
    if path.is_file() and path.suffix.lower() == ".json" and path.name != "transforms_train.json":
        return [path.name]
    found = [name for name in ("transforms.json", "transforms_train.json") if (scene.root / name).is_file()]
    if not found:
        raise UserError(
            f"poses of this kind of capture cannot be changed ({scene.meta.kind})", where=path,
            fix="Use a capture with a transforms.json",
        )  # fmt: skip
    return found[:1]


def _corrupt_document(path: Path, names: Mapping[str, int], corruption: Corruption, size: float) -> None:
    document = read_json(path)
    without_suffix = {str(Path(name).with_suffix("")): position for name, position in names.items()}
    for frame in document["frames"]:
        name = clean_name(frame["file_path"])
        position = names.get(name, without_suffix.get(name))
        if position is None:
            continue
        key = "transform_matrix" if "transform_matrix" in frame else "transform_matrix_start"
        matrix = np.array(frame[key], dtype=np.float64)
        frame[key] = corrupt_pose(matrix, corruption, size, corruption.generator(position)).tolist()
    path.unlink()
    path.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _write_note(target: Path, source: Path, corruption: Corruption, split_every: int, changed: list[str]) -> None:
    note = {
        "schema": 1,
        "source": source.name,
        "kind": corruption.kind,
        "level": corruption.level,
        "meaning": LEVEL_MEANING[corruption.kind],
        "seed": corruption.seed,
        "split_every": split_every,
        "changed": changed,
    }
    (target / NOTE_FILE).write_text(json.dumps(note, indent=1) + "\n", encoding="utf-8")
