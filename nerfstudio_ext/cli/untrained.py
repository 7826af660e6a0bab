"""A run without training: a posed capture seen by a network that was trained on other scenes."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from .console import Output
from .train import DEFAULT_MAX_SIDE, load_source

if TYPE_CHECKING:
    from ..scenes.model import Scene
    from ..training.runs import OpenedRun


@dataclass(frozen=True)
class UntrainedOptions:
    """Options of commands that take a run, or a capture and a method that needs no training."""

    method: Literal["gnt"] | None = None
    """Take a capture instead of a run, and show it without any training: gnt (shipped weights). Photos and videos get
    their poses first. The result is a run at step 0, which all commands take and `nsx train --resume` goes on with."""

    weights: Path | None = None
    """With --method gnt: other weights (.safetensors, see `nsx import gnt`)."""

    downscale_factor: float | None = None
    """With --method: divide the photos' width and height by this."""

    split_every: int = 8
    """With --method: hold out every so many photos by name, where the capture has no split of its own."""

    runs_dir: Path = Path("outputs")
    """With --method: where the run goes: RUNS_DIR/SCENE/gnt/TIMESTAMP."""


def run_without_training(source: Path, options: UntrainedOptions, out: Output) -> tuple[OpenedRun, Scene]:
    """Make a run at step 0 of a capture and open it; returns the capture with its photos too.

    Raises:
        UserError: if the capture or the weights cannot be used.
    """
    from .. import methods
    from ..methods.gnt_config import GntConfig
    from ..training.config import RunConfig, SceneSource, TrainConfig
    from ..training.photos import give_photos
    from ..training.runs import Run, open_run
    from ..training.trainer import Trainer
    from .capture import prepare_capture
    from .thumbnails import write_thumbnails

    settings = methods.settled(GntConfig(weights=options.weights))
    with out.progress() as progress:
        posed = prepare_capture(source, options.runs_dir, None, progress)
        place = SceneSource(
            path=str(posed.path.resolve()), downscale=options.downscale_factor, max_side=DEFAULT_MAX_SIDE,
            split_every=options.split_every,
        )  # fmt: skip
        scene = load_source(place, progress)
        scene = dataclasses.replace(scene, meta=dataclasses.replace(scene.meta, name=posed.scene_name))
        config = RunConfig(method=settings, train=TrainConfig(), source=place)
        with Run.create(options.runs_dir, config, scene.meta) as run:
            method = methods.build(GntConfig(weights=options.weights), scene.meta, seed=config.train.seed)
            give_photos(method, scene, run.path)
            write_thumbnails(scene, run.path)
            Trainer(method, scene, config.train, run, progress=progress).save()
    return open_run(run.path), scene
