"""What stand-in browsers do: step by step, on and on, all at once; and what they note."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from .. import kernels
from ..cameras import Cameras
from ..renderer import Renderer
from ..viewer import ViewerServer
from .browser import FakeBrowser, Received, cookie_from

SIZE = (640, 400)
CAMERAS_PER_S = 50
"""The page sends no more cameras than this."""


@contextlib.contextmanager
def serving(renderer: Renderer | None, port: int = 0, secret: bytes | None = None) -> Iterator[ViewerServer]:
    """A viewer of a scene without training cameras."""
    viewer = ViewerServer(Cameras([]), port=port, secret=secret, set_threads=kernels.set_threads)
    if renderer is not None:
        viewer.set_renderer(renderer)
    try:
        yield viewer
    finally:
        viewer.close()


@contextlib.contextmanager
def visiting(viewer: ViewerServer, port: int | None = None) -> Iterator[FakeBrowser]:
    """A browser at a viewer, directly or through a wire."""
    browser = FakeBrowser(viewer.port if port is None else port, cookie_from(viewer.link()))
    try:
        yield browser
    finally:
        browser.close()


def place(step: float, radius: float = 1.3, height: float = 0.45) -> tuple[float, float, float]:
    """A place on a circle."""
    return radius * math.cos(0.02 * step), radius * math.sin(0.02 * step), height


def settle(browser: FakeBrowser, size: tuple[int, int] = SIZE) -> None:
    """Open the page and wait until the picture is sharp."""
    browser.look(place(0.0), size=size)
    browser.wait(1, timeout=60)
    browser.quiet(0.5)


def step_delays(browser: FakeBrowser, n: int, size: tuple[int, int] = SIZE, pause: float = 0.02) -> list[float]:
    """Seconds from a camera to the first new picture, step by step; the first steps are for the size to settle."""
    delays = []
    for i in range(n + 10):
        seen, sent_at = len(browser.pictures), time.perf_counter()
        browser.look(place(float(i + 1)), size=size)
        browser.wait(seen + 1)
        delays.append(browser.pictures[seen].at - sent_at)
        time.sleep(pause)
    return delays[10:]


@dataclass
class Walk:
    """A browser whose camera moves steadily; the x of its position goes from 0.1 upwards.

    Attributes:
        sent: (when, x) of each camera.
    """

    browser: FakeBrowser
    size: tuple[int, int] = SIZE
    sent: list[tuple[float, float]] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def run(self, seconds: float, step: float = 0.002) -> None:
        """Move for so long."""
        began = time.perf_counter()
        i = 0
        while time.perf_counter() - began < seconds and not self._stop.is_set():
            x = 0.1 + step * (i % int(0.8 / step))
            self.sent.append((time.perf_counter(), x))
            self.browser.look((x, 2.0, 1.0), size=self.size)
            i += 1
            time.sleep(max(0.0, began + i / CAMERAS_PER_S - time.perf_counter()))

    def start(self, seconds: float) -> None:
        """Move in the background."""
        self._thread = threading.Thread(target=self.run, args=(seconds,), daemon=True)
        self._thread.start()

    def join(self) -> None:
        """Wait for the end of `start`."""
        if self._thread is not None:
            self._thread.join()

    def ages(self, pictures: list[Received]) -> list[float]:
        """How old the cameras of pictures were when they arrived, seconds; for pictures of a `CodedRenderer`."""
        found = []
        for picture in pictures:
            x = float(picture.rgb[:, :, 0].mean()) / 255
            at = [when for when, sent in self.sent if abs(sent - x) < 0.004 and when <= picture.at]
            if at:
                found.append(picture.at - max(at))
        return found


def percentile_ms(seconds: list[float], q: float) -> float:
    """A percentile in milliseconds."""
    return round(1000 * float(np.percentile(seconds, q)), 1) if seconds else math.inf


def share_of_frames(browsers: list[FakeBrowser], seconds: float) -> list[float]:
    """Pictures per second of browsers that walk at once."""
    before = [len(browser.pictures) for browser in browsers]
    walks = [Walk(browser, (200, 120)) for browser in browsers]
    for walk in walks:
        walk.start(seconds)
    for walk in walks:
        walk.join()
    return [(len(b.pictures) - n) / seconds for b, n in zip(browsers, before, strict=True)]
