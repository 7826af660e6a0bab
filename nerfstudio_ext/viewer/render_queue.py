"""Renders and exports one after the other, in a thread of its own: progress, a look at the last frame, cancel."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from ..camera_paths import CropBox, WorldFrame
from ..cameras import Camera
from ..errors import UserError
from ..progress import Progress
from ..renderer import Cancelled, CancelToken, CanCrop, Frame, Renderer
from .pictures import to_8bit

logger = logging.getLogger(__name__)
JobState = Literal["waiting", "running", "done", "failed", "cancelled"]
PREVIEW_PX = 320
MAX_WAITING, MAX_KEPT = 20, 50
LOOK_S = 0.02


@dataclass
class QueueJob:
    """One render or export; its fields are written by the queue only.

    Attributes:
        number: Counts from 1.
        title: What it makes, for people.
        state: Where it is.
        stage: What it does right now.
        done: Units finished of `total`.
        total: Units of the stage; None where unknown.
        text: What went wrong, or where the result is.
        files: What it made.
        preview: The last frame, small.
        seconds: Time spent so far.
    """

    number: int
    title: str
    work: Work
    sends_to: Callable[[QueueJob], None] | None = None
    state: JobState = "waiting"
    stage: str = ""
    done: int = 0
    total: int | None = None
    text: str = ""
    files: list[Path] = field(default_factory=list)
    preview: UInt8[np.ndarray, "h w 3"] | None = None
    seconds: float = 0.0
    began_at: float = 0.0
    cancel: CancelToken = field(default_factory=CancelToken)

    @property
    def is_done(self) -> bool:
        """Whether the result is there."""
        return self.state == "done"

    @property
    def share(self) -> float:
        """How much is done, 0..1."""
        if self.is_done:
            return 1.0
        return min(1.0, self.done / self.total) if self.total else 0.0

    @property
    def seconds_left(self) -> float | None:
        """Estimate of the time left; None where unknown."""
        if self.state != "running" or not self.total or not self.done:
            return None
        return (time.perf_counter() - self.began_at) * (self.total - self.done) / self.done


Work = Callable[["JobProgress"], list[Path]]
"""Does a job: renders, writes, returns the files. Raises `UserError` or `Cancelled`."""


class JobProgress:
    """The `Progress` of a job, with what a job needs besides.

    Args:
        job: The job.
        is_busy: Whether somebody waits for pictures of a moving camera.
    """

    def __init__(self, job: QueueJob, is_busy: Callable[[], bool]) -> None:
        self.job, self._is_busy = job, is_busy
        self.cancel = job.cancel
        self.warnings: list[str] = []

    def stage(self, name: str, total: int | None = None) -> None:
        """Begin a stage."""
        self.job.stage, self.job.total, self.job.done = name, total, 0
        self.job.began_at = time.perf_counter()

    def advance(self, done: int, note: str = "") -> None:
        """So much of the stage is done."""
        self.job.done = done

    def warn(self, text: str) -> None:
        """Keep a warning; it is shown with the result."""
        self.warnings.append(text)

    def polite(self, renderer: Renderer) -> Renderer:
        """A renderer that lets those who look go first and shows its last frame."""
        return _PoliteRenderer(renderer, self._is_busy, self._show)

    def _show(self, frame: Frame) -> None:
        step = max(1, max(frame.rgb.shape[:2]) // PREVIEW_PX)
        self.job.preview = to_8bit(frame.rgb[::step, ::step].contiguous())


@dataclass(frozen=True)
class ExportRequest:
    """What an export is asked for.

    Attributes:
        name: Name of the file without suffix.
        folder: Where it goes.
        crop: Box to stay in, training frame, or None.
        world: The frame people chose, or None.
        options: What its panel asked, by name of the option.
    """

    name: str
    folder: Path
    crop: CropBox | None
    world: WorldFrame | None = None
    options: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class ExportKind:
    """Something besides pictures that a run can be exported to.

    Attributes:
        label: On its button.
        hint: What it makes, one sentence.
        numbers: Options that are whole numbers: name -> (label, least, most, default).
        choices: Options to choose from: name -> (label, choices).
        run: Makes it.
    """

    label: str
    hint: str
    run: Callable[[ExportRequest, Progress, CancelToken], list[Path]]
    numbers: dict[str, tuple[str, int, int, int]] = field(default_factory=dict)
    choices: dict[str, tuple[str, tuple[str, ...]]] = field(default_factory=dict)


class RenderQueue:
    """Jobs in the order they came. Safe to use from several threads.

    Args:
        folder: Where results go.
        is_busy: Whether somebody waits for pictures of a moving camera; jobs then take at most half of the time.
    """

    def __init__(self, folder: Path, is_busy: Callable[[], bool] = lambda: False) -> None:
        self.folder = folder
        self._is_busy = is_busy
        self._cond = threading.Condition()
        self._jobs: list[QueueJob] = []
        self._numbers = itertools.count(1)
        self._is_closed = False
        self._thread = threading.Thread(target=self._work, name="nsx-queue", daemon=True)

    def start(self) -> None:
        """Start the worker."""
        self._thread.start()

    def close(self) -> None:
        """Cancel what runs and wait for the worker."""
        with self._cond:
            self._is_closed = True
            for job in self._jobs:
                job.cancel.cancel()
            self._cond.notify_all()
        if self._thread.ident is not None:
            self._thread.join(timeout=10.0)

    def submit(self, title: str, work: Work, sends_to: Callable[[QueueJob], None] | None = None) -> QueueJob:
        """Add a job.

        Args:
            title: What it makes.
            work: Does it.
            sends_to: Called with the finished job, on the queue's thread (to offer the result to whoever asked).
        Raises:
            UserError: if too many jobs wait already.
        """
        with self._cond:
            if sum(job.state == "waiting" for job in self._jobs) >= MAX_WAITING:
                raise UserError(f"{MAX_WAITING} jobs are waiting", where="export", fix="Cancel some, or wait")
            job = QueueJob(next(self._numbers), title, work, sends_to)
            self._jobs.append(job)
            finished = [old for old in self._jobs if old.state not in ("waiting", "running")]
            for old in finished[: max(0, len(self._jobs) - MAX_KEPT)]:
                self._jobs.remove(old)
            self._cond.notify_all()
            return job

    def jobs(self) -> list[QueueJob]:
        """All jobs, oldest first."""
        with self._cond:
            return list(self._jobs)

    def cancel(self, number: int) -> None:
        """Stop a job, or take it out before it began."""
        with self._cond:
            for job in self._jobs:
                if job.number == number:
                    job.cancel.cancel()
                    if job.state == "waiting":
                        job.state, job.text = "cancelled", "Cancelled before it began"

    def _work(self) -> None:
        while True:
            with self._cond:
                job = self._next()
                while job is None and not self._is_closed:
                    self._cond.wait()
                    job = self._next()
                if self._is_closed or job is None:
                    return
                job.state, job.began_at = "running", time.perf_counter()
            began = job.began_at
            self._run(job)
            job.seconds = time.perf_counter() - began
            if job.is_done and job.sends_to is not None:
                try:
                    job.sends_to(job)
                except Exception:  # whoever asked may have left; the files stay
                    logger.exception("a result could not be offered")

    def _next(self) -> QueueJob | None:
        return next((job for job in self._jobs if job.state == "waiting"), None)

    def _run(self, job: QueueJob) -> None:
        progress = JobProgress(job, self._is_busy)
        try:
            job.files = job.work(progress)
            job.text = " ".join(progress.warnings)
            job.state = "done"
        except Cancelled:
            job.state, job.text = "cancelled", "Cancelled; finished frames are kept"
        except UserError as error:
            job.state, job.text = "failed", error.line
        except Exception as error:  # supervising loop: one bad job must not end the queue
            logger.exception("a job failed")
            job.state, job.text = "failed", f"{type(error).__name__}: {error}"


class _PoliteRenderer:
    """Renders another renderer's pictures, at most half of the time while somebody looks around."""

    def __init__(self, renderer: Renderer, is_busy: Callable[[], bool], on_frame: Callable[[Frame], None]) -> None:
        self._renderer, self._is_busy, self._on_frame = renderer, is_busy, on_frame
        self.background = renderer.background
        self._last_s = 0.0

    def render(self, camera: Camera, *, cancel: CancelToken | None = None) -> Frame:
        """Wait for as long as the last frame took while others are busy, then render."""
        until = time.perf_counter() + self._last_s
        while self._is_busy() and time.perf_counter() < until:
            if cancel is not None:
                cancel.check()
            time.sleep(LOOK_S)
        began = time.perf_counter()
        frame = self._renderer.render(camera, cancel=cancel)
        self._last_s = time.perf_counter() - began
        self._on_frame(frame)
        return frame

    def cropped(self, box: CropBox) -> Renderer:
        """The same inside a box."""
        if not isinstance(self._renderer, CanCrop):
            raise UserError("this scene cannot be cropped", fix="Leave the crop out")
        return _PoliteRenderer(self._renderer.cropped(box), self._is_busy, self._on_frame)


def save_png(pixels: UInt8[np.ndarray, "H W 3"], file: Path) -> Path:
    """Write a lossless picture; it appears only when complete."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}")
    try:
        Image.fromarray(pixels).save(partial, "PNG", compress_level=4)
        partial.replace(file)
    except OSError as error:
        raise UserError(f"cannot write: {error.strerror}", where=file, fix="Make room there") from error
    finally:
        partial.unlink(missing_ok=True)
    return file
