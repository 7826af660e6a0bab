"""`nsx process`: a photo folder or a video becomes a posed capture."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from ..errors import UserError
from .console import Output, clock
from .options import CommonOptions, one_of


@dataclass(frozen=True)
class SolveOptions:
    """How photos become a posed capture; the same settings as `scenes.photos.ProcessOptions`."""

    matching: Literal["auto", "sequential", "exhaustive"] = "auto"
    """Photos to compare: auto = those that seem to overlap, sequential = neighbours in time, exhaustive = all."""

    lens: Literal["perspective", "fisheye"] = "perspective"
    """Lens of the camera; fisheye for action cameras and lenses wider than about 110 degrees."""

    num_frames_target: int = 120
    """Frames taken from a video; more show more and take longer."""

    feature_megapixels: float = 0.5
    """Size, in megapixels, at which photos are searched for features; the photos themselves keep their size."""

    max_pixels: int = 100_000_000
    """Photos with more pixels are left out."""

    threads: int = 0
    """Threads of the pose solver; 0 = all cores."""

    time_limit: float = 3600.0
    """Seconds after which pose solving is given up."""

    seed: int = 0
    """Seed of every random choice: the same seed and number of threads give the same poses."""

    overwrite: bool = False
    """Replace a capture that is already in the output folder."""


@dataclass(frozen=True)
class ProcessCommandOptions(SolveOptions, CommonOptions):
    """Options of `nsx process`."""

    source: tyro.conf.Positional[Path | None] = None
    """Photo folder or video."""

    output_dir: Path | None = None
    """Where the capture goes (default: outputs/NAME/capture)."""


def options_for(argv: list[str]) -> tuple[type[ProcessCommandOptions], list[str]]:
    """One kind of options."""
    return ProcessCommandOptions, argv


def run(options: ProcessCommandOptions, out: Output) -> None:
    """Solve the poses and say how well that went."""
    source = one_of("process", "INPUT", options.source)

    from ..scenes import detect_kind
    from ..scenes.photos import ProcessOptions, process_capture
    from .capture import name_of

    kind = detect_kind(source)
    if kind not in ("photos", "video"):
        raise UserError(
            f"this is a posed capture already ({kind})", where=source, fix="Train on it: `nsx train` takes it as it is"
        )
    target = options.output_dir or Path("outputs") / name_of(source) / "capture"
    solve = ProcessOptions(**{f.name: getattr(options, f.name) for f in dataclasses.fields(SolveOptions)})
    with out.progress() as progress:
        result = process_capture(source, target, solve, progress)
    share = result.n_registered / result.n_photos
    rows: dict[str, object] = {
        "photos placed": f"{result.n_registered} of {result.n_photos} ({100 * share:.0f} %)",
        "time": clock(sum(result.seconds.values())),
        "capture": result.transforms,
        "report": result.report,
        "next": f"nsx train {target}",
    }
    out.box("Poses", rows)
    out.result(
        {
            "transforms": result.transforms,
            "photos": result.n_photos,
            "registered": result.n_registered,
            "seconds": {name: round(value, 3) for name, value in result.seconds.items()},
            "report": result.report,
        }
    )
