"""The training loop: step, log, checkpoint, publish, until steps or seconds are used up or somebody asks to stop."""

from __future__ import annotations

import logging
import math
import signal
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from .. import __version__
from ..errors import UserError
from ..methods.protocol import Batches, HasBatches, Method
from ..progress import Progress, SilentProgress, TrainRequest, TrainStatus
from ..renderer import RayRenderer, Renderer
from ..scenes.model import Scene
from ..scenes.pixel_sampler import PixelSampler
from .checkpoints import (
    CheckpointNotSaved,
    chosen_checkpoint,
    discard_after,
    list_checkpoints,
    newest_checkpoint,
    prune_checkpoints,
    save_checkpoint,
)
from .clock import TrainClock
from .config import TrainConfig
from .guard import StepGuard
from .metrics_log import MetricsLog
from .monitor import Monitor
from .run_ending import Ending
from .runs import Run
from .signals import StopOnSignal
from .snapshots import Snapshots, trainer_tensors
from .stepper import Stepper
from .team import Order, Team, TeamBroken
from .tensor_checks import first_non_finite
from .train_state import TrainState, below_prefix
from .watching import TrainingWatcher, WatcherLink

logger = logging.getLogger(__name__)
_KEPT_CHECKPOINTS = 2


@dataclass(frozen=True)
class TrainResult:
    """How a session of training ended.

    Attributes:
        steps: Steps of the run so far, earlier sessions included.
        train_seconds: Training time so far: steps, logging, publishing and checkpoints, the last one excepted.
        compile_seconds: Compiling and warming up in this session, not in `train_seconds`.
        eval_seconds: Looks at the test images in this session, not in `train_seconds`.
        paused_seconds: Time spent paused in this session, not in `train_seconds`.
        stopped_by: "steps", "seconds", "SIGINT" or "SIGTERM".
        exit_code: 0, or 130 / 143 after a signal.
        status: The last status.
        stats: The method's numbers at the end, such as "occupancy".
        n_skipped: Steps that were not used because they would have ruined the weights.
        n_rollbacks: Returns to the last good state.
    """

    steps: int
    train_seconds: float
    compile_seconds: float
    eval_seconds: float
    paused_seconds: float
    stopped_by: str
    exit_code: int
    status: TrainStatus
    stats: dict[str, float] = field(default_factory=dict)
    n_skipped: int = 0
    n_rollbacks: int = 0


class Trainer:
    """Trains a method on a scene and keeps its run folder.

    Args:
        method: The method, built for `scene.meta`.
        scene: The capture.
        config: Settings of the loop.
        run: The run folder, open for writing.
        watcher: Who watches; None costs nothing.
        progress: Gets the stage "train" in steps (in seconds when only time bounds the run) and warnings.
        sampler: Source of batches; default: the method's own, or all usable pixels of the training images.
        test_psnr: Measures the mean PSNR on held-out images; called every `steps_per_eval` steps.
        clock: Measures the training time that `config.max_train_seconds` bounds; default: wall time.
        team: The processes that train together, of which this one leads; None trains alone.
    """

    def __init__(
        self,
        method: Method,
        scene: Scene,
        config: TrainConfig,
        run: Run,
        watcher: TrainingWatcher | None = None,
        progress: Progress | None = None,
        *,
        sampler: Batches | None = None,
        test_psnr: Callable[[Renderer], float] | None = None,
        clock: TrainClock | None = None,
        team: Team | None = None,
    ) -> None:
        self.method, self.scene, self.config, self.run = method, scene, config, run
        self.progress: Progress = progress or SilentProgress()
        self.step = 0
        self.clock = clock or TrainClock()
        self.stepper = Stepper(
            method,
            sampler or batches_of(method, scene, config.seed),
            StepGuard(config.bad_steps_before_rollback),
            config.max_rollbacks,
            self._warn,
            team,
        )
        self.monitor = Monitor(method, config, self.clock, self.progress)
        self.snapshots = Snapshots(run.path, self.stepper, self.monitor, self.clock)
        self._test_psnr, self._saved_step = test_psnr, -1
        self._link = WatcherLink(watcher, method, scene.meta.background, self.progress, torch.get_num_threads())

    def resume(self, checkpoint: int | None = None) -> int:
        """Continue from a checkpoint of the run: weights, optimiser, random states, clock and counters.

        Args:
            checkpoint: Step of the checkpoint; default: the newest intact one, with a warning for each skipped.
        Returns:
            The step training continues from.
        Raises:
            UserError: if there is no intact checkpoint or it does not fit this method.
        """
        if checkpoint is None:
            loaded, skipped = newest_checkpoint(self.run.checkpoints)
            for line in skipped:
                self._warn(f"{line} Using step {loaded.step}.")
        else:
            loaded = chosen_checkpoint(self.run.checkpoints, checkpoint)
        if self.run.config.version != __version__:
            versions = f"{self.run.config.version}, this is {__version__}"
            self._warn(f"this run was begun by version {versions}: it may go on a little differently")
        if self.run.was_cut_short:
            self._warn(f"the last session of this run ended without closing it; it goes on from step {loaded.step}")
        self.stepper.restore(TrainState(loaded.weights, loaded.trainer), where=loaded.folder)
        self.monitor.load_state(below_prefix("log", loaded.trainer))
        self.clock.set_train_seconds(float(loaded.trainer["clock/train_seconds"]))
        self.step = self._saved_step = loaded.step
        logger.info("resumed from step %d", self.step)
        return self.step

    def train(self) -> TrainResult:
        """Train until the steps or the seconds are used up, or a signal asks to stop; saves at the end.

        Raises:
            UserError: if the last state could not be saved (disk full); the earlier checkpoints are kept.
            TrainingFailed: if steps became unusable again and again; the last good checkpoint is kept.
        """
        limit, seconds = self.config.step_limit, self.config.max_train_seconds
        with StopOnSignal(self._announce_stop) as stop:
            with self.clock.excluded("compile"):
                self.stepper.warm_up(self.step)
                self.snapshots.begin(self.step)
            log = MetricsLog(self.run.metrics, self.step, self.run.path / "tensorboard", self._warn)
            self.progress.stage("train", limit if limit is not None else math.ceil(seconds or 0))
            try:
                self._link.publish(self.monitor.status(self.step))
                stopped_by = _end_of(self, log, stop)
                self.clock.stop()  # the last save and what follows are not training
                _save_at_end(self)
                status = self.monitor.status(self.step, "done")
                self.monitor.show(status)
                self._link.publish(status)
            finally:
                log.close()
                self._link.close()
        logger.info("ended by %s at step %d after %.1f s of training", stopped_by, self.step, self.clock.train_seconds)
        return _result_of(self, stopped_by, stop.exit_code, status)

    def save(self) -> bool:
        """Write a checkpoint of the present state; on failure warn, keep the earlier ones and return False.

        Raises:
            TrainingFailed: if the weights are not finite and there is no good state left to return to.
        """
        if self.step == self._saved_step:
            return True
        state = self.stepper.capture()
        if bad := first_non_finite(state.weights):
            self.stepper.roll_back(f"step {self.step} is not saved, {bad} is not finite")
            return False
        self.stepper.last_good = state
        self.stepper.refresh_team()
        try:
            self.run.restore_files(self.scene.meta)
            trainer = trainer_tensors(state, self.clock, self.monitor)
            save_checkpoint(self.run.checkpoints, self.step, state.weights, trainer)
        except (CheckpointNotSaved, OSError) as error:
            self._warn(f"{error}; earlier checkpoints are kept")
            return False
        self._saved_step = self.step
        prune_checkpoints(self.run.checkpoints, _KEPT_CHECKPOINTS)
        return True

    def _loop(self, log: MetricsLog, stop: StopOnSignal) -> str:
        config, limit, seconds = self.config, self.config.step_limit, self.config.max_train_seconds
        self.clock.start()
        self.monitor.begin(self.step)
        while True:
            if stop.received is not None:
                return stop.received.name
            if limit is not None and self.step >= limit:
                return "steps"
            if seconds is not None and self.clock.train_seconds >= seconds:
                return "seconds"
            request = self._link.next_request()
            if request is not None:
                self._serve(request, log)
                continue
            if self._link.is_paused():
                self._pause(stop)
                continue
            self.stepper.user_rate = self._link.lr_factor()
            values, n_rays = self.stepper.step(self.step, self.progress_now())
            self.step += 1
            self.monitor.add(values, n_rays)
            if self.stepper.is_asked_to_stop:
                stop.received = stop.received or signal.SIGTERM
            if self.step % config.steps_per_log == 0:
                self.monitor.write_log(log, self.step, self.stepper.rate, self.stepper.guard.n_skipped)
            if self.step % config.steps_per_save == 0:
                self.save()
            if config.steps_per_eval and self.step % config.steps_per_eval == 0:
                _look_at_test_images(self, self._test_psnr)
            self.monitor.show_when_due(self.step)
            self._link.look(self._status)

    def progress_now(self) -> float:
        """Share of the planned training that is done, 0..1: by steps or by seconds, whichever is further."""
        limit, seconds = self.config.step_limit, self.config.max_train_seconds
        by_steps = self.step / limit if limit is not None else 0.0
        by_seconds = self.clock.train_seconds / seconds if seconds is not None else 0.0
        return min(1.0, max(by_steps, by_seconds))

    def _serve(self, request: TrainRequest, log: MetricsLog) -> None:
        with self.clock.excluded("pause"):
            self.step, answer = self.snapshots.serve(request, self.step)
            if request.kind != "save":
                log.rewind(self.step)
                discard_after(self.run.checkpoints, self.step)
                self._saved_step = -1
        self.monitor.begin(self.step)
        self._link.answered(answer, self.snapshots.steps())
        self._link.publish(self.monitor.status(self.step))

    def _pause(self, stop: StopOnSignal) -> None:
        def is_over() -> bool:
            self.stepper.show_life()
            return stop.is_requested or self._link.has_request()

        with self.clock.excluded("pause"):
            status = self.monitor.status(self.step, "paused")
            self.monitor.show(status)
            self._link.publish(status)
            self._link.wait_while_paused(is_over)
        self.monitor.begin(self.step)

    def _status(self) -> TrainStatus:
        return self.monitor.status(self.step)

    def _announce_stop(self, signal_name: str) -> None:
        self._warn(f"{signal_name}: saving after this step; once more stops at once")

    def _warn(self, line: str) -> None:
        logger.warning(line)
        self.progress.warn(line)


def _end_of(trainer: Trainer, log: MetricsLog, stop: StopOnSignal) -> str:
    """Train to the end; tell the other processes that it is the end, or save what there is when one was lost."""
    team = trainer.stepper.team
    trainer.run.ending = Ending("failed")  # until it is known better
    try:
        ended_by = trainer._loop(log, stop)
        if team is not None:
            team.tell(Order("stop"))
        return ended_by
    except TeamBroken as broken:
        steps = [step for step, _ in list_checkpoints(trainer.run.checkpoints)]
        if trainer.save():
            steps = [trainer.step]
        if team is not None:
            state = f"step {max(steps)} is saved" if steps else "nothing was saved yet"
            team.last_words = f"{broken}; {state}. Go on with `nsx train --resume {trainer.run.path}`."
        raise


def _save_at_end(trainer: Trainer) -> None:
    if trainer.save() or trainer.save():  # the second try is for weights that had to be rolled back first
        return
    raise UserError(
        f"the state of step {trainer.step} could not be saved",
        where=trainer.run.path,
        fix="Free some space and go on from the last checkpoint with `nsx train --resume`",
    )


def batches_of(method: Method, scene: Scene, seed: int) -> Batches:
    """Where a method's training batches come from: its own order, or all usable pixels of the training images."""
    if isinstance(method, HasBatches):
        return method.batches(scene, seed)
    return PixelSampler(scene, scene.meta.split.train, seed)


def _look_at_test_images(trainer: Trainer, test_psnr: Callable[[Renderer], float] | None) -> None:
    if test_psnr is None:
        return
    with trainer.clock.excluded("evaluate"):
        device = next(iter(trainer.method.parameters())).device
        background = trainer.scene.meta.background
        renderer = RayRenderer(trainer.method.render_rays, background, version=trainer.step, device=device)
        trainer.monitor.test_psnr = test_psnr(renderer)
        logger.info("step %d: test PSNR %.2f dB", trainer.step, trainer.monitor.test_psnr)
    trainer.monitor.begin(trainer.step)


def _result_of(trainer: Trainer, stopped_by: str, exit_code: int, status: TrainStatus) -> TrainResult:
    other, guard = trainer.clock.other, trainer.stepper.guard
    trainer.run.ending = Ending("signal" if exit_code else "done", f"by {stopped_by} at step {trainer.step}")
    return TrainResult(
        steps=trainer.step,
        train_seconds=status.train_seconds,
        compile_seconds=other.get("compile", 0.0),
        eval_seconds=other.get("evaluate", 0.0),
        paused_seconds=other.get("pause", 0.0),
        stopped_by=stopped_by,
        exit_code=exit_code,
        status=status,
        stats={name: float(value) for name, value in trainer.method.stats().items()},
        n_skipped=guard.n_skipped,
        n_rollbacks=guard.n_rollbacks,
    )
