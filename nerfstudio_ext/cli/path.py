"""`nsx path`: make a camera path from a run and write it as camera_path.json."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from ..errors import UserError
from .console import Output, clock
from .options import CommonOptions, one_of
from .parsing import did_you_mean
from .paths import MOVING, WithPathSettings, build_path


@dataclass(frozen=True)
class PathOptions(WithPathSettings, CommonOptions):
    """Options of `nsx path`."""

    kind: tyro.conf.Positional[str | None] = None
    """orbit (around the subject), spiral (small circles about one view) or interpolate (through the photos)."""

    run: tyro.conf.Positional[Path | None] = None
    """Run folder, or a folder that holds runs: the newest is taken."""

    output_path: Path | None = None
    """The file to write (default: camera_paths/KIND.json in the run folder)."""

    overwrite: bool = False
    """Replace the file if it exists."""


def options_for(argv: list[str]) -> tuple[type[PathOptions], list[str]]:
    """One kind of options."""
    return PathOptions, argv


def run(options: PathOptions, out: Output) -> None:
    """Write the file and say where."""
    kind = options.kind
    if kind not in MOVING:
        what = (
            "no kind of path was given"
            if kind is None
            else f"unknown kind of path '{kind}'{did_you_mean(kind, MOVING)}"
        )
        raise UserError(what, where="nsx path", fix=f"Use one of {', '.join(MOVING)}, then the run")
    folder_or_run = one_of("path", "RUN", options.run)

    from ..camera_paths import write_camera_path
    from ..scenes.scene_json import read_scene_json
    from ..training.runs import find_run

    folder = find_run(folder_or_run)
    meta = read_scene_json(folder / "scene.json")
    path = build_path(kind, meta, options.path_settings)
    target = options.output_path or folder / "camera_paths" / f"{kind}.json"
    write_camera_path(path, target, meta.frame, overwrite=options.overwrite or options.output_path is None)
    for note in path.notes:
        out.say(f"note: {note}")
    size = path.size or (0, 0)
    out.say(f"{target}: {len(path)} frames of {size[0]}x{size[1]}, {clock(path.seconds)} at {path.fps:g} per second")
    out.say(f"Next: `nsx render {folder} --path {target} --output-path {kind}.mp4`")
    out.result(
        {"path": target, "kind": kind, "frames": len(path), "fps": path.fps, "width": size[0], "height": size[1]}
    )
