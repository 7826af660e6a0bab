"""What to render next: pure decisions over the connected browsers, without threads or clocks of their own."""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from typing import Protocol

from .ladder import Ladder
from .views import LatestSlot, Newest

IDLE_S = 0.06
"""A camera that sent nothing for so long stands still: the picture starts to sharpen."""
MOVING_HOLD_S = 0.4
"""For sharing out cores and budgets a camera counts as moving a little longer, or both would flicker."""
TRAIN_SHARE = 0.03
"""Unless somebody asks for more; see `Planner.train_share`."""
SHORTEST_REFRESH_S, LONGEST_REFRESH_S = 1.5, 30.0
LONGEST_CLIMB_S = 1.0
"""Whoever moved the camera gets one picture of up to this cost, whatever the age of the scene."""
AGE_PER_REFRESH = 4.0
"""A scene trained for t seconds changes little within t/4: young scenes are shown small and often, old ones large and
seldom."""


class Urgency(enum.IntEnum):
    """Why a picture is rendered; the smaller goes first."""

    NEW = 0
    """The camera (or what is shown of it) changed."""
    CLIMB = 1
    """The camera stands: show it sharper."""
    REFRESH = 2
    """The scene changed under a camera that stands."""


class Gate(Protocol):
    """What the transport knows about one browser."""

    def ready_at(self, render_s: float, now: float) -> float:
        """When rendering the next frame should begin; inf while the browser does not answer."""

    def is_suspended(self, now: float) -> bool:
        """True while the browser has been silent for too long."""

    def fits(self, n_pixels: int, is_moving: bool) -> bool:
        """True if the link carries pictures of this size."""


@dataclass(frozen=True)
class Job:
    """One picture to render.

    Attributes:
        client_id: Browser it is for.
        urgency: Why.
        newest: View and its number.
        long_side: Longer side in pixels.
        generation: Number of the output settings.
    """

    client_id: int
    urgency: Urgency
    newest: Newest
    long_side: int
    generation: int


@dataclass(frozen=True)
class Shown:
    """The last picture handed over to a browser."""

    seq: int
    generation: int
    long_side: int
    publication: int
    n_pixels: int
    at: float
    is_moving: bool


@dataclass
class Seat:
    """One browser as the planner sees it."""

    client_id: int
    slot: LatestSlot
    gate: Gate
    shown: Shown | None = None
    is_settled: bool = False
    served_at: float = float("-inf")


@dataclass
class Planner:
    """Chooses the next job. The scheduler's lock guards every call.

    Attributes:
        max_side: Longest side of any picture, pixels; each browser may ask for less.
        train_share: Share of the wall time that refreshing still views may take from training, over all browsers.
        publication: Number of the newest renderer; 0 before the first.
        generation: Number of the output settings; a new one makes every shown picture old.
        train_age_s: Seconds of training so far while training runs, else None.
    """

    max_side: int = 4096
    train_share: float = TRAIN_SHARE
    publication: int = 0
    generation: int = 0
    train_age_s: float | None = None

    def __post_init__(self) -> None:
        self.ladder = Ladder()
        self.seats: dict[int, Seat] = {}

    def choose(self, now: float) -> tuple[Job | None, float]:
        """The job to do now, or None and the seconds until there may be one (inf: not before an event)."""
        best: Job | None = None
        best_rank = (float("inf"), float("inf"))
        next_due = float("inf")
        if self.publication:
            for seat in self.seats.values():
                job, due = self.plan(seat, now)
                if job is None:
                    continue
                rank = (float(job.urgency), seat.served_at)
                if due > now:
                    next_due = min(next_due, due)
                elif rank < best_rank:
                    best, best_rank = job, rank
        return best, (0.0 if best is not None else next_due - now)

    def plan(self, seat: Seat, now: float) -> tuple[Job | None, float]:
        """What a browser needs next and when it is due (inf: not before its link is free)."""
        newest = seat.slot.newest
        if newest is None:
            return None, float("inf")
        pixels = self._pixels_of(seat, newest)
        shown = seat.shown
        if shown is None or shown.seq < newest.seq or shown.generation != self.generation:
            present = 0 if shown is None else shown.long_side if shown.is_moving else 0
            budget = newest.view.look.budget_s / max(1, self.n_moving(now))
            usable = {side: n for side, n in pixels.items() if seat.gate.fits(n, is_moving=True)}
            smallest = next(iter(pixels))
            rung = self.ladder.moving_rung(usable or {smallest: pixels[smallest]}, budget, present, now)
            return self._job(seat, Urgency.NEW, newest, rung, pixels[rung], 0.0, now)
        # A rung may have gone since (the window or the cap shrank): stay on the largest there is.
        at_least = max(side for side in pixels if side <= max(shown.long_side, min(pixels)))
        usable = {side: n for side, n in pixels.items() if side <= at_least or seat.gate.fits(n, is_moving=False)}
        target = max(at_least, self.ladder.static_rung(usable, self._longest_render(newest, now), now))
        is_sharp = at_least >= target and not shown.is_moving
        if not is_sharp and not (seat.is_settled and self.train_age_s is not None):
            rung = self.ladder.climb(usable, at_least, target, now)
            return self._job(seat, Urgency.CLIMB, newest, rung, pixels[rung], newest.changed_at + IDLE_S, now)
        if shown.publication < self.publication:
            return self._job(seat, Urgency.REFRESH, newest, target, pixels[target], self.refresh_due(shown, now), now)
        return None, float("inf")

    def delivered(self, job: Job, publication: int, now: float) -> None:
        """Note that a job's picture was handed over."""
        seat = self.seats.get(job.client_id)
        if seat is None:
            return
        is_moving = job.urgency is Urgency.NEW
        width, height = job.newest.view.size(job.long_side)
        seat.shown = Shown(job.newest.seq, job.generation, job.long_side, publication, width * height, now, is_moving)
        seat.is_settled = False
        if not is_moving:
            # Settled: from here on only the refresh budget decides, not the climb.
            followup, _ = self.plan(seat, now)
            seat.is_settled = followup is None or followup.urgency is not Urgency.CLIMB

    def twins(self, job: Job, now: float) -> list[Job]:
        """Jobs of other browsers that the picture of `job` answers as well."""
        jobs = []
        for seat in self.seats.values():
            if seat.client_id == job.client_id:
                continue
            other, due = self.plan(seat, now)
            if other is None or due > now:
                continue
            wanted = (other.newest.view, other.long_side, other.urgency)
            if wanted == (job.newest.view, job.long_side, job.urgency):
                jobs.append(replace(other, generation=job.generation))
        return jobs

    def refresh_due(self, shown: Shown, now: float) -> float:
        """When a still picture may be rendered anew for newer weights."""
        if self.train_age_s is None:
            return shown.at
        seconds = self.ladder.estimate(shown.long_side, shown.n_pixels, now) or 0.0
        return shown.at + max(SHORTEST_REFRESH_S, seconds * self.n_awake(now) / self.train_share)

    def n_awake(self, now: float) -> int:
        """Number of browsers that answer, at least 1."""
        return max(1, sum(not seat.gate.is_suspended(now) for seat in self.seats.values()))

    def n_moving(self, now: float) -> int:
        """Number of browsers whose camera moves."""
        return sum(self._is_moving(seat, now) for seat in self.seats.values())

    def is_interactive(self, now: float) -> bool:
        """True while somebody waits for a picture of a camera they moved: leave a core to the view."""
        return any(
            not seat.gate.is_suspended(now) and (self._is_moving(seat, now) or self._is_waiting(seat))
            for seat in self.seats.values()
        )

    def wants_publication(self, now: float) -> bool:
        """True if newer weights would be shown at once."""
        for seat in self.seats.values():
            if seat.gate.is_suspended(now) or seat.shown is None:
                continue
            if self._is_moving(seat, now):
                return True
            is_current = seat.is_settled and seat.shown.publication == self.publication
            if is_current and now >= self.refresh_due(seat.shown, now):
                return True
        return False

    def _job(
        self, seat: Seat, urgency: Urgency, newest: Newest, rung: int, n_pixels: int, earliest: float, now: float
    ) -> tuple[Job, float]:
        seconds = self.ladder.estimate(rung, n_pixels, now) or 0.0
        due = max(earliest, seat.gate.ready_at(seconds, now))
        return Job(seat.client_id, urgency, newest, rung, self.generation), due

    def _pixels_of(self, seat: Seat, newest: Newest) -> dict[int, int]:
        """Pixels of each rung of this browser, ascending; the rung in use stays when the cap drops below it."""
        view = newest.view
        cap = min(self.max_side, view.look.max_side, max(view.width, view.height))
        pixels = {}
        for rung in self.ladder.rungs(cap) if view.look.is_dynamic else [cap]:
            width, height = newest.view.size(rung)
            pixels[rung] = width * height
        return pixels

    def _longest_render(self, newest: Newest, now: float) -> float:
        """How long one picture of a still camera may take."""
        if self.train_age_s is None:
            return float("inf")
        interval = min(max(self.train_age_s / AGE_PER_REFRESH, SHORTEST_REFRESH_S), LONGEST_REFRESH_S)
        return max(interval * self.train_share / self.n_awake(now), 0.0 if newest.is_first else LONGEST_CLIMB_S)

    def _is_moving(self, seat: Seat, now: float) -> bool:
        newest = seat.slot.newest
        if newest is None or newest.is_first or seat.gate.is_suspended(now):
            return False
        return now - newest.changed_at < MOVING_HOLD_S

    def _is_waiting(self, seat: Seat) -> bool:
        newest = seat.slot.newest
        if newest is None or not self.publication:
            return False
        return not newest.is_first and (seat.shown is None or not seat.is_settled)
