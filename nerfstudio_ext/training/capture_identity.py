"""What a run was trained on, so that resuming notices when photos or poses are no longer the same."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..cameras import Cameras
from ..errors import UserError
from ..scenes.model import Scene, SceneMeta
from ..strict_json import read_json

FILE = "capture.json"
_SCHEMA = 1
_EDGE_BYTES = 1 << 16
"""Read from either end of a photo. With its size that tells any two photos apart, and 2,000 of them take a second;
hashing whole photos would take as long as decoding them."""
_SAME_POSE = 1e-6
"""Relative to the cameras' extent: what writing a pose as text may cost."""
_NAMED = 5


def photo_marks(root: Path, names: Sequence[str]) -> dict[str, str]:
    """A short mark of every photo that is there: equal for equal files.

    Args:
        root: Folder that the names are relative to.
        names: Paths of the photos.
    """
    marks = {}
    for name in names:
        try:
            with (root / name).open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                digest = hashlib.sha256(str(size).encode() + file.read(_EDGE_BYTES))
                file.seek(max(0, size - _EDGE_BYTES))
                digest.update(file.read(_EDGE_BYTES))
        except OSError:
            continue  # a prepared capture has pictures that are no files
        marks[name] = digest.hexdigest()[:32]
    return marks


def identity_of(scene: Scene) -> dict[str, Any]:
    """What `FILE` in a run folder holds."""
    return {"schema": _SCHEMA, "photos": photo_marks(scene.root, scene.meta.image_names)}


def read_identity(run: Path) -> dict[str, str] | None:
    """The marks of a run's photos; None where the run has none, being older or imported.

    Raises:
        UserError: if the file is damaged.
    """
    path = run / FILE
    if not path.exists():
        return None
    photos = read_json(path).get("photos")
    if not isinstance(photos, Mapping) or not all(isinstance(mark, str) for mark in photos.values()):
        raise UserError("no list of photos", where=path, fix="Delete it: the photos are then taken as they are")
    return dict(photos)


def changes_since(before: Mapping[str, str] | None, trained: SceneMeta, now: Scene) -> list[str]:
    """What differs between the capture that was trained on and the capture as it is; empty when nothing does.

    Args:
        before: From `read_identity`.
        trained: The capture as the run knows it.
        now: The capture as it was just loaded.
    """
    lines = []
    if before is not None:
        marks = photo_marks(now.root, now.meta.image_names)
        differing = [name for name in before.keys() | marks.keys() if before.get(name) != marks.get(name)]
        if differing:
            lines.append(f"{len(differing)} of {len(before)} photos ({_some(sorted(differing))})")
    moved = _moved(trained.cameras, now.meta.cameras)
    if moved:
        names = [trained.image_names[i] for i in moved]
        lines.append(f"the cameras of {len(moved)} of {len(trained.cameras)} photos ({_some(names)})")
    if trained.split != now.meta.split:
        lines.append("the choice of held-out photos")
    return lines


def _moved(before: Cameras, now: Cameras) -> list[int]:
    """Positions of the cameras that are not where they were, or have another lens or size."""
    if len(before) != len(now):
        return list(range(len(before)))
    extent = float(before.c2w[:, :, 3].abs().max()) if len(before) else 1.0
    same = (before.c2w - now.c2w).abs().flatten(1).amax(1) <= _SAME_POSE * max(extent, 1.0)
    same &= ((before.intrinsics - now.intrinsics).abs() <= _SAME_POSE * before.intrinsics.abs()).all(1)
    same &= (before.lens_params - now.lens_params).abs().amax(1) <= _SAME_POSE
    same &= (before.sizes == now.sizes).all(1) & (before.lens_kinds == now.lens_kinds)
    return [int(i) for i in (~same).nonzero()[:, 0]]


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
