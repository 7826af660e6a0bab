"""`nsx path`: make a camera path from a run and write it as camera_path.json."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from ..errors import UserError
from .console import Output, clock
from .options import CommonOptions, one_of
from .parsing import did_you_mean
from .paths import MOVING, WithPathSettings, build_path

FROM_FILES = ("csv", "from-colmap")
KINDS = (*MOVING, *FROM_FILES)


@dataclass(frozen=True)
class PathOptions(WithPathSettings, CommonOptions):
    """Options of `nsx path`."""

    kind: tyro.conf.Positional[str | None] = None
    """orbit (around the subject), spiral (small circles about one view), interpolate (through the photos), csv (from a
    table of positions) or from-colmap (the cameras of a COLMAP model)."""

    run: tyro.conf.Positional[Path | None] = None
    """Run folder, a folder that holds runs (the newest is taken), or a scene file (.nsx)."""

    input: Path | None = None
    """For csv the table: a first row with x, y, z and optionally qw, qx, qy, qz (camera to world, OpenCV axes) or
    look_x, look_y, look_z, and fov, time. For from-colmap the folder with the model."""

    output_path: Path | None = None
    """The file to write (default: camera_paths/KIND.json in the run folder)."""

    frame_of_reference: Literal["normalized", "source"] = "normalized"
    """Frame of the poses in the file: normalized (that of the training, what nerfstudio expects) or source (that of the
    capture). Both are named in the file, and either is read back to the same cameras."""

    overwrite: bool = False
    """Replace the file if it exists."""


def options_for(argv: list[str]) -> tuple[type[PathOptions], list[str]]:
    """One kind of options."""
    return PathOptions, argv


def run(options: PathOptions, out: Output) -> None:
    """Write the file and say where."""
    kind = _checked_kind(options)
    source = one_of("path", "RUN", options.run)

    from ..camera_paths import write_camera_path
    from ..camera_paths.similarity import FrameChange
    from ..training.scene_file import scene_of

    meta, folder = scene_of(source)
    spec = kind if kind in MOVING else str(options.input)
    path = build_path(spec, meta, options.path_settings)
    target = options.output_path or folder / "camera_paths" / f"{kind}.json"
    write_camera_path(
        path,
        target,
        meta.frame,
        frame_of_reference=options.frame_of_reference,
        overwrite=options.overwrite or options.output_path is None,
    )
    for note in path.notes:
        out.say(f"note: {note}")
    size = path.size or (0, 0)
    out.say(f"{target}: {len(path)} frames of {size[0]}x{size[1]}, {clock(path.seconds)} at {path.fps:g} per second")
    names = {"normalized": "training frame", "source": "frame of the capture"}
    out.say(
        f"Poses are in the {names[options.frame_of_reference]}; the file holds the way to the other: "
        f"x_training = {meta.frame.scale:.6g} * R @ x_source + t"
    )
    out.say(f"Next: `nsx render {source} --path {target} --output-path {kind}.mp4`")
    change = FrameChange.of(meta.frame)
    out.result(
        {"path": target, "kind": kind, "frames": len(path), "fps": path.fps, "width": size[0], "height": size[1],
         "frame_of_reference": options.frame_of_reference, "source_to_training": change.to_json()}
    )  # fmt: skip


def _checked_kind(options: PathOptions) -> str:
    kind = options.kind
    if kind not in KINDS:
        what = (
            "no kind of path was given" if kind is None else f"unknown kind of path '{kind}'{did_you_mean(kind, KINDS)}"
        )
        raise UserError(what, where="nsx path", fix=f"Use one of {', '.join(KINDS)}, then the run")
    if (kind in FROM_FILES) != (options.input is not None):
        fix = "Give --input FILE.csv, or the folder of a COLMAP model" if kind in FROM_FILES else "Leave --input out"
        what = "no input was given" if kind in FROM_FILES else f"an input for '{kind}'"
        raise UserError(what, where="nsx path", fix=fix)
    if kind == "csv" and options.input is not None and options.input.suffix.lower() != ".csv":
        raise UserError("not a .csv file", where=options.input, fix="Name the table so")
    return kind
