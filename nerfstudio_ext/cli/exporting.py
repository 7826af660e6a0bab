"""What the exports of points, meshes and cameras have in common."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from .options import CommonOptions, one_of

if TYPE_CHECKING:
    from ..camera_paths import Similarity
    from ..exporters.placement import Placement
    from ..training.runs import OpenedRun


@dataclass(frozen=True)
class GeometryOptions(CommonOptions):
    """What every export of geometry takes."""

    run: tyro.conf.Positional[Path | None] = None
    """Run folder, a folder that holds runs (the newest is taken), or a scene file (.nsx)."""

    output_path: Path | None = None
    """What to write (default: in exports/ of the run folder)."""

    up: Literal["z", "y"] | None = None
    """Axis that points up in the file (default: z as in the capture; y in .glb, which demands it)."""

    scale: float = 1.0
    """File units per unit of the world frame."""

    checkpoint: int | None = None
    """Step of the checkpoint (default: the newest)."""

    overwrite: bool = False
    """Replace what is already there."""


@dataclass(frozen=True)
class Opening:
    """A run that is to be exported.

    Attributes:
        run: The opened run.
        target: What to write.
        placement: Frame of the file.
        world: The frame people chose, or None.
    """

    run: OpenedRun
    target: Path
    placement: Placement
    world: Similarity | None


def opening(options: GeometryOptions, kind: str, default_name: str) -> Opening:
    """Open the run and settle target and frame.

    Args:
        options: The flags.
        kind: What is exported, for messages.
        default_name: File in `exports/` when none was named.
    Raises:
        UserError: if there is no such run, or for a scale that is not positive.
    """
    source = one_of(f"export {kind}", "RUN", options.run)

    from ..exporters.placement import Placement
    from ..training.runs import open_run
    from ..training.scene_file import chosen_world_frame

    run = open_run(source, checkpoint=options.checkpoint)
    target = options.output_path or run.results / "exports" / default_name
    world = chosen_world_frame(run.path)
    up = options.up or ("y" if target.suffix.lower() == ".glb" else "z")
    return Opening(run, target, Placement.of(run.meta.frame, world, up=up, scale=options.scale), world)
