"""The render worker: one thread that renders what the planner chooses and can be interrupted."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from ..renderer import Cancelled, CancelToken, Renderer
from .ladder import RUNGS
from .looks import MAIN, Look
from .planner import Gate, Job, Planner, Seat, Urgency
from .shots import Shot, take
from .views import LatestSlot, View

logger = logging.getLogger(__name__)

OVERDUE = 2.5
"""A moving frame that takes so many times its budget is given up when the camera has moved on."""
FIRST_BACKOFF_S, LONGEST_BACKOFF_S = 0.5, 8.0
BUSY = 1.5
"""Load of the machine per core above which others want all cores; the viewer alone keeps it below."""
PUBLISH_S = 0.25
"""A copy of the weights costs the trainer time: not more often than this, even while somebody moves."""


@dataclass(frozen=True)
class Picture:
    """A finished frame on its way to one browser.

    Attributes:
        shot: What was rendered.
        look: How it is to be shown.
        seq: Number of the view it shows.
        is_moving: True when a sharper one will follow once the camera stands.
        finished_at: When its render ended.
    """

    shot: Shot
    look: Look
    seq: int
    is_moving: bool
    finished_at: float


@dataclass(frozen=True)
class RenderNote:
    """What the panel says about the last frame."""

    width: int
    height: int
    seconds: float


class _MovingToken(CancelToken):
    """Also set once a moving frame went far over its time and shows a camera that is no longer the newest."""

    def __init__(self, is_overdue: Callable[[], bool]) -> None:
        super().__init__()
        self._is_overdue = is_overdue
        self.was_overdue = False

    @property
    def is_cancelled(self) -> bool:
        self.was_overdue = self.was_overdue or self._is_overdue()
        return super().is_cancelled or self.was_overdue

    def check(self) -> None:
        if self.is_cancelled:
            raise Cancelled


def _token_for(job: Job, slot: LatestSlot, budget_s: float, clock: Callable[[], float]) -> CancelToken:
    """The token of a job. A moving frame above the smallest size gives up when it is overdue and outdated."""
    if job.urgency is not Urgency.NEW or job.long_side <= RUNGS[0]:
        return CancelToken()
    deadline = clock() + OVERDUE * budget_s

    def is_overdue() -> bool:
        newest = slot.newest
        return clock() > deadline and newest is not None and newest.seq > job.newest.seq

    return _MovingToken(is_overdue)


@dataclass
class _Failures:
    """Failed renders in a row: told once, tried again ever more seldom."""

    tell: Callable[[str], None]
    n_in_a_row: int = 0
    retry_at: float = float("-inf")

    def note(self, error: Exception, now: float) -> None:
        if self.n_in_a_row == 0:
            logger.error("a frame could not be rendered", exc_info=error)
            self.tell(f"A frame could not be rendered: {type(error).__name__}: {error}")
        self.retry_at = now + min(FIRST_BACKOFF_S * 2**self.n_in_a_row, LONGEST_BACKOFF_S)
        self.n_in_a_row += 1


@dataclass
class _Running:
    job: Job
    token: CancelToken
    started_at: float


class Scheduler:
    """Renders for all browsers in turn, newest cameras first.

    Args:
        deliver: Takes each finished picture; called on the worker's thread.
        planner: Decisions and limits.
        on_error: Called once per series of failing renders with one line of text.
        set_threads: Sets the kernel threads of the calling thread; None leaves them.
        clock: Monotonic time in seconds.
    """

    def __init__(
        self,
        deliver: Callable[[int, Picture], None],
        planner: Planner | None = None,
        on_error: Callable[[str], None] = lambda text: None,
        set_threads: Callable[[int], None] | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.planner = planner or Planner()
        self.last: RenderNote | None = None
        self._deliver = deliver
        self._set_threads = set_threads
        self._clock = clock
        self._cond = threading.Condition()
        self._sources: dict[str, Renderer] = {}
        self._published_at = float("-inf")
        self._running: _Running | None = None
        self._failures = _Failures(on_error)
        self._n_threads, self._is_closed = 0, False
        self._thread = threading.Thread(target=self._work, name="nsx-render", daemon=True)

    def start(self) -> None:
        """Start the worker."""
        self._thread.start()

    def close(self) -> None:
        """Stop the worker."""
        with self._cond:
            self._is_closed = True
            if self._running is not None:
                self._running.token.cancel()
            self._cond.notify_all()
        if self._thread.ident is not None:
            self._thread.join(timeout=5.0)

    def add_client(self, client_id: int, gate: Gate) -> LatestSlot:
        """Seat a browser; its cameras go into the returned slot through `put_view`."""
        slot = LatestSlot(self._clock)
        with self._cond:
            self.planner.seats[client_id] = Seat(client_id, slot, gate)
        return slot

    def remove_client(self, client_id: int) -> None:
        """Forget a browser and stop rendering for it."""
        with self._cond:
            self.planner.seats.pop(client_id, None)
            if self._running is not None and self._running.job.client_id == client_id:
                self._running.token.cancel()
            self._cond.notify_all()

    def put_view(self, client_id: int, view: View | None) -> None:
        """Store the newest camera of a browser and interrupt what it makes useless. Never waits for a render."""
        with self._cond:
            seat = self.planner.seats.get(client_id)
            if seat is None or not seat.slot.put(view):
                return
            running = self._running
            # A moving frame is finished (see `_token_for`), or a steady stream of cameras would cancel every one.
            if running is not None and running.job.urgency is not Urgency.NEW:
                running.token.cancel()
            self._cond.notify_all()

    def newest_seq(self, client_id: int) -> int:
        """Number of the newest view of a browser; 0 when it has none."""
        with self._cond:
            seat = self.planner.seats.get(client_id)
            newest = None if seat is None else seat.slot.newest
        return 0 if newest is None else newest.seq

    def set_renderer(self, renderer: Renderer, name: str = MAIN) -> None:
        """Use a renderer from the next frame on; nothing is rendered before there is a main one."""
        with self._cond:
            self._sources = {**self._sources, name: renderer}
            if MAIN in self._sources:
                self.planner.publication += 1
                self._published_at = self._clock()
            self._cond.notify_all()

    @property
    def sources(self) -> dict[str, Renderer]:
        """The renderers by name; not to be changed."""
        return self._sources

    def set_training(self, train_age_s: float | None) -> None:
        """Say that training runs (seconds of it so far) or does not (None): then still views sharpen fully."""
        with self._cond:
            changed = (train_age_s is None) != (self.planner.train_age_s is None)
            self.planner.train_age_s = train_age_s
            if changed:
                self._cond.notify_all()

    def redraw(self, max_side: int | None = None, train_share: float | None = None) -> None:
        """Render every view again, because the limits for all of them changed."""
        with self._cond:
            self.planner.max_side = max_side or self.planner.max_side
            self.planner.train_share = train_share or self.planner.train_share
            self.planner.generation += 1
            if self._running is not None:
                self._running.token.cancel()
            self._cond.notify_all()

    def wake(self) -> None:
        """Look again: a browser became ready."""
        with self._cond:
            self._cond.notify_all()

    def is_interactive(self) -> bool:
        """True while somebody waits for pictures of a moving camera."""
        with self._cond:
            return self.planner.is_interactive(self._clock())

    def wants_publication(self) -> bool:
        """True if newer weights would be shown at once, or there are none yet."""
        with self._cond:
            now = self._clock()
            if MAIN not in self._sources:
                return True
            return now - self._published_at >= PUBLISH_S and self.planner.wants_publication(now)

    def _work(self) -> None:
        while True:
            with self._cond:
                job = self._wait_for_job()
                if job is None:
                    return
                sources, publication = self._sources, self.planner.publication
                started_at = self._clock()
                seat = self.planner.seats[job.client_id]
                seat.served_at = started_at
                token = _token_for(job, seat.slot, job.newest.view.look.budget_s, self._clock)
                running = self._running = _Running(job, token, started_at)
                n_threads = 1 if self.planner.train_age_s is not None else free_cores()
            shot = self._render(sources, job, running.token, n_threads)
            width, height = job.newest.view.size(job.long_side)
            with self._cond:
                self._running = None
                if shot is None and isinstance(running.token, _MovingToken) and running.token.was_overdue:
                    # It took at least this long: the next moving frame will be smaller.
                    now = self._clock()
                    self.planner.ladder.add(job.long_side, width * height, now - running.started_at, now)
            if shot is not None:
                self._hand_over(running, shot, publication)

    def _wait_for_job(self) -> Job | None:
        """The next job; None when the worker must end. Holds the lock."""
        while not self._is_closed:
            now = self._clock()
            job, wait_s = self.planner.choose(now)
            if now < self._failures.retry_at:
                job, wait_s = None, self._failures.retry_at - now
            if job is not None:
                return job
            self._cond.wait(timeout=None if wait_s == float("inf") else min(wait_s, 60.0))
        return None

    def _render(self, sources: dict[str, Renderer], job: Job, token: CancelToken, n_threads: int) -> Shot | None:
        try:
            self._use_threads(n_threads)
            shot = take(sources, job.newest.view, job.long_side, token, is_moving=job.urgency is Urgency.NEW)
        except Cancelled:
            return None
        except Exception as error:  # noqa: BLE001 - supervising loop: whatever a renderer raises, training goes on
            self._failures.note(error, self._clock())
            return None
        self._failures.n_in_a_row = 0
        return shot

    def _hand_over(self, running: _Running, shot: Shot, publication: int) -> None:
        job = running.job
        width, height = shot.canvas
        with self._cond:
            now = self._clock()
            seconds = now - running.started_at
            self.planner.ladder.add(job.long_side, width * height, seconds, now)
            jobs = [job, *self.planner.twins(job, now)]
            accepted = []
            for each in jobs:
                if not _is_late(each, self.planner):
                    self.planner.delivered(each, publication, now)
                    accepted.append(each)
            self.last = RenderNote(width, height, seconds)
        for each in accepted:
            is_moving = each.urgency is Urgency.NEW
            self._deliver(each.client_id, Picture(shot, each.newest.view.look, each.newest.seq, is_moving, now))

    def _use_threads(self, n_threads: int) -> None:
        if self._set_threads is not None and n_threads != self._n_threads:
            self._set_threads(n_threads)
            self._n_threads = n_threads


def _is_late(job: Job, planner: Planner) -> bool:
    """Whether a finished job is of no use any more: the browser left, its camera moved on, or the output changed."""
    seat = planner.seats.get(job.client_id)
    newest = None if seat is None else seat.slot.newest
    if newest is None or job.generation != planner.generation:
        return True
    return job.urgency is not Urgency.NEW and newest.seq != job.newest.seq


def available_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_cores() -> int:
    """Cores that a picture should be rendered on: one where others keep all of them busy.

    Threads of one picture wait for the slowest of them; on a machine whose cores are taken, two were several times
    slower than one.
    """
    cores = available_cores()
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    return 1 if load > BUSY * cores else cores
