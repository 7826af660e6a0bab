"""`nsx corrupt`: a copy of a capture with bad training photos, to measure what training survives."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from .console import Output
from .options import CommonOptions, one_of


@dataclass(frozen=True)
class CorruptOptions(CommonOptions):
    """Options of `nsx corrupt`."""

    capture: tyro.conf.Positional[Path | None] = None
    """Posed capture (transforms.json, Blender, LLFF, COLMAP)."""

    kind: Literal["impulse", "gaussian", "blur", "exposure", "pose"] = "impulse"
    """What goes wrong."""

    level: float = 0.3
    """How much. impulse: share of pixels; gaussian: share of white; blur: pixels; exposure: stops; pose: degrees, and
    percent of the scene's size."""

    seed: int = 0
    """Seed of all random choices."""

    output_dir: Path | None = None
    """Folder to make (default: NAME-KIND-LEVEL in this folder)."""

    split_every: int = 8
    """Every so many photos are held out and stay clean, where the capture has no split of its own."""


def options_for(argv: list[str]) -> tuple[type[CorruptOptions], list[str]]:
    """One kind of options."""
    return CorruptOptions, argv


def run(options: CorruptOptions, out: Output) -> None:
    """Copy and corrupt."""
    source = one_of("corrupt", "CAPTURE", options.capture)

    from ..scenes.corruption import Corruption, corrupt_capture

    corruption = Corruption(options.kind, options.level, options.seed)
    name = source.resolve().name if source.is_dir() else source.resolve().parent.name
    target = options.output_dir or Path(f"{name}-{options.kind}-{options.level:g}")
    with out.progress() as progress:
        made = corrupt_capture(source, target, corruption, split_every=options.split_every, progress=progress)
    what = "poses" if options.kind == "pose" else "photos"
    out.say(f"{made.path}: {len(made.changed)} training {what} corrupted, {made.kept} others as they were")
    out.result(
        {
            "output": made.path,
            "kind": options.kind,
            "level": options.level,
            "seed": options.seed,
            "n_changed": len(made.changed),
            "n_kept": made.kept,
        }
    )
