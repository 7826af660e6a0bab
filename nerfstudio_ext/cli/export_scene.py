"""`nsx export scene`: a run packed into one file that opens on any machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import tyro

from .console import Output
from .options import CommonOptions, one_of


@dataclass(frozen=True)
class ExportSceneOptions(CommonOptions):
    """Options of `nsx export scene`."""

    command: ClassVar[str] = "export scene"
    summary: ClassVar[str] = "Pack weights, settings, cameras and thumbnails of a run into one file of data."

    run: tyro.conf.Positional[Path | None] = None
    """Run folder, or a folder that holds runs: the newest is taken."""

    output_path: Path | None = None
    """The file (default: exports/SCENE.nsx in the run folder)."""

    checkpoint: int | None = None
    """Step of the checkpoint to pack (default: the newest)."""

    overwrite: bool = False
    """Replace the file if it exists."""


def options_for(argv: list[str]) -> tuple[type[ExportSceneOptions], list[str]]:
    """One kind of options."""
    return ExportSceneOptions, argv


def run(options: ExportSceneOptions, out: Output) -> None:
    """Write the file and say where."""
    source = one_of("export scene", "RUN", options.run)

    from ..training.runs import open_run
    from ..training.scene_file import SUFFIX, write_scene_file

    opened = open_run(source, checkpoint=options.checkpoint)
    target = options.output_path or opened.results / "exports" / f"{opened.meta.name}{SUFFIX}"
    if target.suffix.lower() != SUFFIX:
        target = target.with_name(target.name + SUFFIX)
    write_scene_file(opened, target, overwrite=options.overwrite)
    n_bytes = target.stat().st_size
    out.say(f"{target}: step {opened.step}, {len(opened.meta.image_names)} cameras, {n_bytes / 1e6:.1f} MB")
    out.say(f"Open it with `nsx view {target}` or `nsx render {target}`; it needs neither the photos nor a GPU.")
    out.result({"run": opened.path, "step": opened.step, "output": target, "bytes": n_bytes})
