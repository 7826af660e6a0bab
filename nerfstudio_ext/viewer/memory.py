"""What the viewer remembers about a browser between two visits, so that a reload changes nothing."""

from __future__ import annotations

import dataclasses
import threading
from collections import OrderedDict
from dataclasses import dataclass

from ..camera_paths import PathDraft
from .looks import Look

MAX_SESSIONS = 64
"""Whoever comes with a new cookie each time pushes out the oldest memory, nothing else."""
Vector = tuple[float, float, float]


@dataclass(frozen=True)
class Place:
    """Where a browser's camera stood, as its orbit control has it."""

    position: Vector
    look_at: Vector
    up: Vector
    fov_y: float


@dataclass(frozen=True)
class Remembered:
    """One browser.

    Attributes:
        look: How it wanted the scene shown.
        place: Where its camera stood, None before it moved.
        draft: Its camera path.
        shows_cameras: Whether the training cameras are drawn.
        is_dark: Whether the page is dark.
    """

    look: Look = Look()
    place: Place | None = None
    draft: PathDraft = PathDraft()
    shows_cameras: bool = True
    is_dark: bool = True


class Memory:
    """The newest state of the last `MAX_SESSIONS` sessions. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_session: OrderedDict[str, Remembered] = OrderedDict()

    def recall(self, session: str) -> Remembered:
        """What a session looked like last; a fresh state for a new one."""
        with self._lock:
            return self._by_session.get(session, Remembered())

    def keep(self, session: str, **changes: object) -> Remembered:
        """Change parts of what is remembered; returns all of it."""
        with self._lock:
            before = self._by_session.pop(session, Remembered())
            after = dataclasses.replace(before, **changes)  # type: ignore[arg-type]
            self._by_session[session] = after
            while len(self._by_session) > MAX_SESSIONS:
                self._by_session.popitem(last=False)
            return after
