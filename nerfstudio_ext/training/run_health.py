"""Looking a run folder over: which of its checkpoints hold what was written, how it ended, what to do next."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError
from ..scenes.scene_json import read_scene_json
from .checkpoints import TEMPORARY, CheckpointDamaged, list_checkpoints, load_checkpoint
from .run_ending import Ending, ending_of
from .runs import find_run, open_run, read_run_config
from .snapshots import FOLDER as SNAPSHOTS


@dataclass(frozen=True)
class CheckpointHealth:
    """One checkpoint.

    Attributes:
        folder: Relative to the run.
        step: Training steps behind it.
        megabytes: On the disk.
        fault: What is wrong with it, as a line; empty when every byte is as it was written.
    """

    folder: str
    step: int
    megabytes: float
    fault: str


@dataclass(frozen=True)
class RunHealth:
    """What is known about a run folder.

    Attributes:
        path: The run.
        checkpoints: The checkpoints, newest first, then the snapshots.
        ending: How the last session ended.
        faults: What is wrong with the files beside the checkpoints, one line each.
        strays: Names in the folder of checkpoints that are no checkpoints; they are left alone.
        advice: What to do, as a sentence.
    """

    path: Path
    checkpoints: tuple[CheckpointHealth, ...]
    ending: Ending
    faults: tuple[str, ...]
    strays: tuple[str, ...]
    advice: str

    @property
    def is_sound(self) -> bool:
        """Whether there is a checkpoint and nothing is damaged."""
        return bool(self.checkpoints) and not self.faults and not any(c.fault for c in self.checkpoints)


def look_over(path: Path) -> RunHealth:
    """Look a run over; nothing in it is written, and a process that trains it is not disturbed.

    Args:
        path: The same as `find_run` takes.
    Raises:
        UserError: if there is no run.
    """
    run = find_run(path)
    faults = _faults_of_files(run)
    folders = [folder for name in ("checkpoints", SNAPSHOTS) for _, folder in list_checkpoints(run / name)]
    checkpoints = [health for folder in folders if (health := _health(folder, run)) is not None]
    intact = [c.step for c in checkpoints if not c.fault and not c.folder.startswith(SNAPSHOTS)]
    if intact and not faults:
        faults += _faults_of_method(run, intact[0])
    ending = ending_of(run)
    strays = _strays(run / "checkpoints")
    return RunHealth(
        run, tuple(checkpoints), ending, tuple(faults), strays, _advice(run, ending, checkpoints, intact, faults)
    )


def _health(folder: Path, run: Path) -> CheckpointHealth | None:
    """How a checkpoint is; None when the process that trains the run has removed it meanwhile."""
    step = int(folder.name.partition("-")[2])
    fault = ""
    try:
        load_checkpoint(folder)
    except CheckpointDamaged as error:
        fault = error.what
    try:
        n_bytes = sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
    except FileNotFoundError:
        return None
    return CheckpointHealth(folder.relative_to(run).as_posix(), step, round(n_bytes / 1e6, 1), fault)


def _faults_of_files(run: Path) -> list[str]:
    faults = []
    for read in (lambda: read_run_config(run), lambda: read_scene_json(run / "scene.json")):
        try:
            read()
        except UserError as error:
            faults.append(error.line)
    return faults


def _faults_of_method(run: Path, step: int) -> list[str]:
    """Whether the weights fit the settings beside them."""
    try:
        open_run(run, checkpoint=step)
    except UserError as error:
        return [error.line]
    return []


def _strays(folder: Path) -> tuple[str, ...]:
    ours = {path.name for _, path in list_checkpoints(folder)}
    found = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    return tuple(sorted(name for name in found - ours if not TEMPORARY.fullmatch(name)))


def _advice(
    run: Path, ending: Ending, checkpoints: list[CheckpointHealth], intact: list[int], faults: list[str]
) -> str:
    if ending.kind == "running":
        return "It is being trained: wait, or stop it with Ctrl+C; it saves before it ends."
    if faults:
        return "Restore what is damaged from a copy, or train this scene again."
    if not intact:
        return "Train this scene again: there is nothing to go on from."
    newest = checkpoints[0]
    choice = f" --checkpoint {intact[0]}" if newest.fault else ""
    skipped = f" Step {newest.step} is damaged and will be passed over." if newest.fault else ""
    if ending.kind == "done" and not newest.fault:
        return f"Nothing: look at it with `nsx view {run}`."
    return f"Go on with `nsx train --resume {run}`, or look at it with `nsx view {run}{choice}`.{skipped}"
