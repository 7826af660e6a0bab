"""The stage `refine`: a finished lifting goes on with larger pictures and little noise, as a run of its own.

The child takes over weights, optimiser and random state, so that it begins where its parent ended: late in a longer
schedule, where the prior adds detail and no longer changes shapes.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from ...errors import TrainingFailed, UserError
from ...methods.lift_config import LiftConfig
from ...scenes.scene_json import read_scene_json
from ...training.checkpoints import CheckpointNotSaved, newest_checkpoint, save_checkpoint
from ...training.config import RunConfig
from ...training.runs import Run, find_run, read_run_config


@dataclass(frozen=True)
class RefineSettings:
    """How a run is refined."""

    refine_side: int | None = None
    """Side of the pictures while refining, pixels (default: twice that of the lifting)."""
    refine_steps: int | None = None
    """Steps of the refining (default: two thirds of the lifting's)."""

    def __post_init__(self) -> None:
        for name in ("refine_side", "refine_steps"):
            value = getattr(self, name)
            if value is not None and value < (8 if name == "refine_side" else 1):
                raise UserError(
                    f"{value} is too small", where=f"--{name.replace('_', '-')}", fix="Give a larger number"
                )


def refined_config(config: RunConfig, steps_done: int, settings: RefineSettings, parent: str) -> RunConfig:
    """The settings of the child of a run.

    Args:
        config: The parent's.
        steps_done: Steps behind the parent's weights.
        settings: How to refine.
        parent: Name of the parent's folder, for the notes.
    """
    lift: LiftConfig = config.method
    side = settings.refine_side or 2 * lift.side
    if side < lift.side:
        raise UserError(
            f"{side} pixels are fewer than the {lift.side} of the lifting", where="--refine-side", fix="Give more"
        )
    total = steps_done + (settings.refine_steps or max(1, 2 * steps_done // 3))
    return dataclasses.replace(
        config,
        method=dataclasses.replace(lift, side=side, steps=total),
        train=dataclasses.replace(config.train, max_steps=total, max_train_seconds=None),
        changes=(*config.changes, f"refined from {parent} after {steps_done} steps: side {lift.side} -> {side}"),
    )


def start_refining(parent: Path, output_dir: Path, settings: RefineSettings) -> Run:
    """Make the child of a finished lifting, with the parent's newest checkpoint in it, ready to resume.

    Args:
        parent: The parent's folder; nothing in it changes.
        output_dir: The child goes to `output_dir/SCENE/lift/TIME`.
        settings: How to refine.
    Raises:
        UserError: if the parent was not made by lifting, or has no intact checkpoint.
        TrainingFailed: if the child cannot be written.
    """
    folder = find_run(parent)
    config = read_run_config(folder)
    if not isinstance(config.method, LiftConfig):
        raise UserError("this run was not made by lifting", where=folder, fix="Give a run of `nsx train lift`")
    loaded, _ = newest_checkpoint(folder / "checkpoints", with_trainer=True)
    child = Run.create(
        output_dir, refined_config(config, loaded.step, settings, folder.name), read_scene_json(folder / "scene.json")
    )
    try:
        save_checkpoint(child.checkpoints, loaded.step, loaded.weights, loaded.trainer)
    except CheckpointNotSaved as error:
        child.close()
        raise TrainingFailed(str(error)) from error
    return child
