"""`nsx demo`: the whole story on the sample capture, from photos to a film, with nothing to choose."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UserError
from .console import Output
from .options import CommonOptions, ViewerOptions

if TYPE_CHECKING:
    from ..camera_paths import CameraPath
    from ..renderer import Renderer
    from .session import Session

SAMPLE = Path(__file__).resolve().parents[2] / "data" / "sample" / "images"
DEFAULT_MINUTES = 2.5
ORBIT_SECONDS, ORBIT_FPS = 6.0, 24.0
ORBIT_BUDGET_S = 60.0
"""The film is made smaller where it would take longer to render than this."""
ORBIT_MAX_SIDE = 640


@dataclass(frozen=True)
class DemoOptions(ViewerOptions, CommonOptions):
    """Options of `nsx demo`."""

    output_dir: Path = Path("outputs")
    """Where the run goes."""

    viewer: bool = True
    """Serve the live viewer while training; on a terminal it stays open at the end."""

    minutes: float | None = None
    """Minutes of training (default: the environment's NSX_DEMO_MINUTES, else 2.5)."""


def options_for(argv: list[str]) -> tuple[type[DemoOptions], list[str]]:
    """One kind of options."""
    return DemoOptions, argv


def run(options: DemoOptions, out: Output) -> int:
    """Poses, training with the live viewer, comparison, film, report; prints where they are."""
    from ..training.config import TrainConfig
    from . import train

    seconds = 60.0 * demo_minutes(options.minutes)
    if not SAMPLE.is_dir():
        raise UserError(
            "the sample capture comes with a checkout, not with the installed package",
            where="nsx demo",
            fix="Clone the project and run `make demo`, or run `nsx train` on photos of your own",
        )
    out.say(f"Photos: {SAMPLE}   ({sum(1 for _ in SAMPLE.iterdir())} of them, generated)")
    train_options, _ = train.options_for([])
    prepared = train_options(
        debug=options.debug,
        port=options.port,
        host=options.host,
        source=SAMPLE,
        output_dir=options.output_dir,
        viewer=options.viewer,
        keep_viewer=options.viewer and out.is_terminal,
        train=TrainConfig(max_train_seconds=seconds),
    )
    return train.run(prepared, out, after_training=render_orbit)


def demo_minutes(given: float | None) -> float:
    """Minutes of training: the option, else the environment, else the default.

    Raises:
        UserError: if that is no positive number.
    """
    text = os.environ.get("NSX_DEMO_MINUTES", "") if given is None else str(given)
    try:
        minutes = float(text) if text else DEFAULT_MINUTES
    except ValueError:
        minutes = 0.0
    if not 0 < minutes <= 1440:
        where = "NSX_DEMO_MINUTES" if given is None else "--minutes"
        raise UserError(f"'{text}' is no number of minutes", where=where, fix="Write a number above 0, such as 2")
    return minutes


def render_orbit(session: Session) -> dict[str, object]:
    """Render orbit.mp4 into the run; returns the line that tells where it is."""
    from ..exporters import FrameOptions, write_frames
    from .paths import PathSettings, build_path

    meta, renderer = session.scene.meta, session.renderer()
    settings = PathSettings(seconds=ORBIT_SECONDS, fps=ORBIT_FPS)
    path = affordable(build_path("orbit", meta, settings), renderer)
    target = session.run.path / "renders" / "orbit.mp4"
    write_frames(renderer, path, target, FrameOptions(overwrite=True), frame=meta.frame, progress=session.progress)
    return {"orbit film": target}


def affordable(path: CameraPath, renderer: Renderer) -> CameraPath:
    """The path at a size that renders within the budget on this machine, judged by one frame."""
    width, height = path.size or (ORBIT_MAX_SIDE, ORBIT_MAX_SIDE)
    scale = min(1.0, ORBIT_MAX_SIDE / max(width, height))
    path = path.with_size(*_even(width, height, scale))
    renderer.render(path.cameras[0])  # compiles whatever is still to compile
    began = time.perf_counter()
    renderer.render(path.cameras[len(path) // 2])
    expected = len(path) * (time.perf_counter() - began)
    if expected > ORBIT_BUDGET_S:
        scale *= max(0.25, (ORBIT_BUDGET_S / expected) ** 0.5)
        path = path.with_size(*_even(width, height, scale))
    return path


def _even(width: int, height: int, scale: float) -> tuple[int, int]:
    """Sizes that every video player takes."""
    return max(2, 2 * round(width * scale / 2)), max(2, 2 * round(height * scale / 2))
