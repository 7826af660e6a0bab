"""How somebody watches a run while it trains, without ever holding it up."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Protocol, TypeVar, runtime_checkable

from .. import kernels
from ..methods.protocol import Method
from ..progress import Progress, TrainRequest, TrainStatus
from ..renderer import HasDraft, HasLayers, RayRenderer, Renderer

logger = logging.getLogger(__name__)
_PUBLISH_S, _STATUS_S = 0.25, 0.25
_PAUSE_POLL_S = 0.05
_Answer = TypeVar("_Answer")


class TrainingWatcher(Protocol):
    """Somebody who watches a run: the live viewer. All calls come from the training thread and must return at once."""

    def is_paused(self) -> bool:
        """Whether training should wait."""

    def reserved_threads(self) -> int:
        """Cores to leave to the view right now: 1 while somebody moves, else 0."""

    def publish(self, renderer: Renderer, status: TrainStatus) -> None:
        """Take the newest weights, behind the same window as a finished run."""

    def wants_snapshot(self) -> bool:
        """Whether newer weights would be shown at once; asked after a step, so it must be cheap."""

    def stepped(self, status: TrainStatus) -> None:
        """Take the newest numbers."""


@runtime_checkable
class TakesRequests(Protocol):
    """A watcher through whom people steer training."""

    def has_request(self) -> bool:
        """Whether somebody asked for something."""

    def next_request(self) -> TrainRequest | None:
        """Take the oldest request."""

    def answered(self, text: str, snapshots: tuple[int, ...]) -> None:
        """Take what became of it, and the steps of the snapshots there are."""

    def lr_factor(self) -> float:
        """Factor that people chose for the learning rate."""


class WatcherLink:
    """The trainer's side of a watcher: says little, seldom, and outlives the watcher's faults.

    Args:
        watcher: The watcher; None costs nothing.
        method: The method in training.
        background: Colour behind the scene.
        progress: Gets one warning when the watcher fails.
        n_threads: Threads that training uses when nobody moves.
    """

    def __init__(
        self,
        watcher: TrainingWatcher | None,
        method: Method,
        background: tuple[float, float, float],
        progress: Progress,
        n_threads: int,
    ) -> None:
        self._watcher = watcher
        self._requests = watcher if isinstance(watcher, TakesRequests) else None
        self._method = method
        self._background = background
        self._progress = progress
        self._n_threads = self._n_now = n_threads
        self._next_publish = self._next_status = 0.0

    def look(self, make_status: Callable[[], TrainStatus]) -> None:
        """Called after every step: publishes weights and numbers when they are due."""
        if self._watcher is None:
            return
        now = time.monotonic()
        try:
            self._share_cores(self._watcher.reserved_threads())
            if now >= self._next_publish and self._watcher.wants_snapshot():
                self._publish(make_status())
            elif now >= self._next_status:
                self._next_status = now + _STATUS_S
                self._watcher.stepped(make_status())
        except Exception as error:  # noqa: BLE001 - a fault of the view must never end training
            self._drop(error)

    def publish(self, status: TrainStatus) -> None:
        """Hand over the present weights now."""
        if self._watcher is None:
            return
        try:
            self._publish(status)
        except Exception as error:  # noqa: BLE001 - a fault of the view must never end training
            self._drop(error)

    def is_paused(self) -> bool:
        """Whether the watcher asks to wait."""
        if self._watcher is None:
            return False
        try:
            return self._watcher.is_paused()
        except Exception as error:  # noqa: BLE001 - a fault of the view must never end training
            self._drop(error)
            return False

    def has_request(self) -> bool:
        """Whether somebody asked for something."""
        return self._asked(lambda watcher: watcher.has_request(), False)

    def next_request(self) -> TrainRequest | None:
        """Take the oldest request."""
        return self._asked(lambda watcher: watcher.next_request(), None)

    def answered(self, text: str, snapshots: tuple[int, ...]) -> None:
        """Say what became of a request."""
        self._asked(lambda watcher: watcher.answered(text, snapshots), None)

    def lr_factor(self) -> float:
        """Factor on the learning rate."""
        return self._asked(lambda watcher: watcher.lr_factor(), 1.0)

    def _asked(self, question: Callable[[TakesRequests], _Answer], otherwise: _Answer) -> _Answer:
        """The watcher's answer, or what counts without one."""
        if self._requests is None:
            return otherwise
        try:
            return question(self._requests)
        except Exception as error:  # noqa: BLE001 - a fault of the view must never end training
            self._drop(error)
            return otherwise

    def wait_while_paused(self, should_leave: Callable[[], bool]) -> None:
        """Sleep until the pause ends or `should_leave`."""
        while self.is_paused() and not should_leave():
            time.sleep(_PAUSE_POLL_S)

    def close(self) -> None:
        """Give all cores back to this thread."""
        self._share_cores(0)

    def _publish(self, status: TrainStatus) -> None:
        assert self._watcher is not None
        render_rays = self._method.snapshot()
        snapshot = RayRenderer(
            render_rays,
            self._background,
            version=status.step,
            device=next(iter(self._method.parameters())).device,
            layers=self._method.layers() if isinstance(self._method, HasLayers) else None,
            draft=render_rays.draft if isinstance(render_rays, HasDraft) else None,
        )
        self._watcher.publish(snapshot, status)
        now = time.monotonic()
        self._next_publish, self._next_status = now + _PUBLISH_S, now + _STATUS_S

    def _share_cores(self, reserved: int) -> None:
        n = max(1, self._n_threads - reserved)
        if n != self._n_now:
            kernels.set_threads(n)
            self._n_now = n

    def _drop(self, error: Exception) -> None:
        logger.error("the watcher failed", exc_info=error)
        self._progress.warn(f"the viewer failed ({type(error).__name__}: {error}); training goes on without it")
        self._watcher = self._requests = None
        self._share_cores(0)
