"""How long work reports itself: one event type for steps of any job, one status for training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol


class Progress(Protocol):
    """Receives the progress of a long job; the command line draws it, tests record it."""

    def stage(self, name: str, total: int | None = None) -> None:
        """Begin a named stage of `total` units (None: unknown); ends the stage before."""

    def advance(self, done: int, note: str = "") -> None:
        """Say that `done` units of the present stage are finished; `note` is one short phrase."""

    def warn(self, text: str) -> None:
        """Tell the user something they should know while work goes on (one line)."""


class SilentProgress:
    """A `Progress` that keeps warnings and shows nothing; the default of library calls."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def stage(self, name: str, total: int | None = None) -> None:
        return None

    def advance(self, done: int, note: str = "") -> None:
        return None

    def warn(self, text: str) -> None:
        self.warnings.append(text)


@dataclass(frozen=True)
class TrainStatus:
    """One look at a training run, as the terminal and the viewer show it.

    Attributes:
        step: Steps finished.
        max_steps: Planned number of steps, or None when only time bounds the run.
        train_seconds: Wall time spent in training steps so far.
        seconds_left: Estimate of the training time left.
        losses: Named losses of the last step, averaged since the last status.
        psnr: PSNR of the training batches since the last status, dB.
        steps_per_s: Steps per second since the last status.
        rays_per_s: Rays per second since the last status.
        state: "training", "paused" or "done".
        test_psnr: Mean PSNR on held-out images when it was measured last, else None.
    """

    step: int
    max_steps: int | None
    train_seconds: float
    seconds_left: float
    losses: dict[str, float]
    psnr: float
    steps_per_s: float
    rays_per_s: float
    state: str = "training"
    test_psnr: float | None = None


@dataclass(frozen=True)
class TrainRequest:
    """Something a person asks of a running training.

    Attributes:
        kind: `reset` goes back to the beginning, `save` keeps a snapshot, `load` goes on from one.
        step: Step of the snapshot to load; None takes the newest.
    """

    kind: Literal["reset", "save", "load"]
    step: int | None = None
