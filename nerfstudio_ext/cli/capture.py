"""From any input to a posed capture: photos and videos are solved once and reused while they stay the same."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError

if TYPE_CHECKING:
    from ..progress import Progress
    from ..scenes.photos import ProcessOptions

_STAMP = "input.json"
_MAX_CAPTURES = 1000


@dataclass(frozen=True)
class PreparedCapture:
    """A capture with poses.

    Attributes:
        path: What `load_scene` reads.
        scene_name: Name for the scene's folder.
        seconds: Time that solving took; 0 when nothing had to be solved.
    """

    path: Path
    scene_name: str
    seconds: float = 0.0


def prepare_capture(source: Path, output_dir: Path, scene_name: str | None, progress: Progress) -> PreparedCapture:
    """Make sure that there are poses.

    Photos and videos are solved into `OUTPUT_DIR/SCENE/capture`; a capture that was solved there before is taken when
    the input's files and the options are the same, and never overwritten when they are not.

    Args:
        source: Anything that `nsx train` takes.
        output_dir: Where runs go.
        scene_name: Name of the scene, or None to take it from the input's name.
        progress: Shows the stages.
    Raises:
        UserError: if the input holds nothing that can be used.
    """
    from ..scenes import detect_kind

    kind = detect_kind(source)
    name = scene_name or name_of(source)
    if kind not in ("photos", "video"):
        return PreparedCapture(source, name)

    from ..scenes.photos import ProcessOptions, process_capture

    options = ProcessOptions()
    stamp = input_stamp(source, options)
    for n in range(1, _MAX_CAPTURES):
        folder = output_dir / name / ("capture" if n == 1 else f"capture-{n}")
        if _is_solved(folder, stamp):
            progress.stage(f"poses of {source.name}: solved before, taken from {folder}")
            return PreparedCapture(folder, name)
        if not (folder / "transforms.json").exists():
            break
    result = process_capture(source, folder, options, progress)
    (folder / _STAMP).write_text(json.dumps(stamp) + "\n", encoding="utf-8")
    return PreparedCapture(folder, name, sum(result.seconds.values()))


def name_of(source: Path) -> str:
    """A scene's name from its input: the folder, or the folder above one that is called `images` and the like."""
    path = source.resolve()
    if path.is_file():
        path = path.parent if path.suffix in (".json", ".npy") else path.with_suffix("")
    while path.name.lower() in ("images", "photos", "input", "colmap", "sparse", "0") and path.parent.name:
        path = path.parent
    return path.name or "scene"


def input_stamp(source: Path, options: ProcessOptions) -> dict[str, Any]:
    """What decides about the poses: the files with size and time, and the options."""
    files = [source] if source.is_file() else sorted(path for path in source.rglob("*") if path.is_file())
    digest = hashlib.sha256()
    for path in files:
        stat = path.stat()
        digest.update(f"{path.name}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
    return {
        "source": str(source.resolve()),
        "files": len(files),
        "digest": digest.hexdigest(),
        "options": repr(options),
    }


def _is_solved(folder: Path, stamp: dict[str, Any]) -> bool:
    from ..strict_json import read_json

    if not (folder / "transforms.json").is_file() or not (folder / _STAMP).is_file():
        return False
    try:
        return read_json(folder / _STAMP, 1 << 20) == stamp
    except UserError:  # a stamp that cannot be read proves nothing: the poses are solved again, beside it
        return False
