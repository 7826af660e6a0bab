"""What people ask of a running training: keep a snapshot, go on from one, begin anew."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ..errors import UserError
from ..progress import TrainRequest
from .checkpoints import CheckpointNotSaved, chosen_checkpoint, list_checkpoints, save_checkpoint
from .clock import TrainClock
from .metrics_log import LossWindow
from .monitor import Monitor
from .stepper import Stepper
from .train_state import TrainState, below_prefix, to_scalar, with_prefix

FOLDER = "snapshots"
"""Beside `checkpoints`, whose files come and go by themselves; snapshots stay until somebody deletes them."""


@dataclass(frozen=True)
class Moment:
    """A state of training, with its step and its clock."""

    step: int
    state: TrainState
    train_seconds: float


class Snapshots:
    """Serves requests between two steps.

    Args:
        run_folder: Where the folder of snapshots goes.
        stepper: What changes in training.
        monitor: Its unfinished averages belong to a snapshot.
        clock: The training time belongs to a snapshot.
    """

    def __init__(self, run_folder: Path, stepper: Stepper, monitor: Monitor, clock: TrainClock) -> None:
        self.folder = run_folder / FOLDER
        self._stepper, self._monitor, self._clock = stepper, monitor, clock
        self._beginning: Moment | None = None

    def begin(self, step: int) -> None:
        """Note the state that a reset returns to: that of this session's first step."""
        self._beginning = Moment(step, self._stepper.capture(), self._clock.train_seconds)

    def steps(self) -> tuple[int, ...]:
        """Steps of the snapshots there are, newest first."""
        return tuple(step for step, _ in list_checkpoints(self.folder))

    def serve(self, request: TrainRequest, step: int) -> tuple[int, str]:
        """Do what is asked.

        Args:
            request: What to do.
            step: Steps finished.
        Returns:
            The step training goes on from, and one line that says what was done.
        """
        try:
            if request.kind == "save":
                state = self._stepper.capture()
                tensors = trainer_tensors(state, self._clock, self._monitor)
                save_checkpoint(self.folder, step, state.weights, tensors)
                return step, f"Saved the snapshot of step {step:,}"
            if request.kind == "load":
                return self._load(request.step)
            return self._reset()
        except (UserError, CheckpointNotSaved) as error:
            return step, f"Not done: {error}"

    def _load(self, step: int | None) -> tuple[int, str]:
        steps = self.steps()
        if not steps:
            raise UserError("there is no snapshot", fix="Save one first")
        loaded = chosen_checkpoint(self.folder, steps[0] if step is None else step)
        self._stepper.restore(TrainState(loaded.weights, loaded.trainer), where=loaded.folder)
        self._monitor.load_state(below_prefix("log", loaded.trainer))
        self._clock.set_train_seconds(float(loaded.trainer["clock/train_seconds"]))
        return loaded.step, f"Goes on from the snapshot of step {loaded.step:,}"

    def _reset(self) -> tuple[int, str]:
        moment = self._beginning
        if moment is None:
            raise UserError("the beginning is not known", fix="Start a new run")
        self._stepper.restore(moment.state, where=Path())
        self._monitor.load_state(LossWindow().state())
        self._clock.set_train_seconds(moment.train_seconds)
        return moment.step, f"Began anew at step {moment.step:,}"


def trainer_tensors(state: TrainState, clock: TrainClock, monitor: Monitor) -> dict[str, Tensor]:
    """What a checkpoint holds beside the weights."""
    seconds = {"clock/train_seconds": to_scalar(clock.train_seconds)}
    return {**state.trainer, **seconds, **with_prefix("log", monitor.state())}
