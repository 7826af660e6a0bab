"""Targets about viewing while training: V8, and V1 with training."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable

from .. import kernels
from ..methods.ngp import Ngp
from ..progress import SilentProgress, TrainStatus
from ..renderer import RayRenderer
from ..training.watching import WatcherLink
from ..viewer import ViewerServer
from ..viewer.scheduler import available_cores
from .browser import FakeBrowser, cookie_from
from .figures import Figure
from .pictures import SMALLEST
from .walks import percentile_ms, place, serving, settle, step_delays

Step = Callable[[], None]
WINDOW_S, ROUNDS = 3.0, 5


class Trained:
    """A loop of training steps in this thread, watched by a viewer or by nobody.

    Args:
        method: What is trained.
        step: Does one step.
        seconds: Training time so far: young scenes are shown otherwise than old ones.
    """

    def __init__(self, method: Ngp, step: Step, seconds: float) -> None:
        self.method, self._step, self._seconds = method, step, seconds
        self._n = 0

    def rate(self, viewer: ViewerServer | None, seconds: float = WINDOW_S) -> float:
        """Steps per second over a while."""
        cores = available_cores()
        link = WatcherLink(viewer, self.method, (1.0, 1.0, 1.0), SilentProgress(), cores)
        began = time.perf_counter()
        n = 0
        while time.perf_counter() - began < seconds:
            self._step()
            n += 1
            link.look(self._status)
        link.close()
        self._n += n
        self._seconds += time.perf_counter() - began
        return n / (time.perf_counter() - began)

    def _status(self) -> TrainStatus:
        return TrainStatus(self._n, None, self._seconds, 60.0, {"color": 0.01}, 25.0, 10.0, 1e5)


def shares(trained: Trained) -> tuple[Figure, float]:
    """V8: training speed beside viewers over that without; and V1 while training: ms to a new picture, 95th percentile.

    Windows of each kind follow each other in turn, so that what else the machine does falls on all of them.
    """
    kernels.set_threads(available_cores())
    nobody: list[float] = []
    still: list[float] = []
    moving: list[float] = []
    delays: list[float] = []
    with serving(None) as viewer:
        viewer.publish(_renderer(trained), trained._status())
        cookie = cookie_from(viewer.link())
        for _ in range(ROUNDS):
            alone = trained.rate(None)
            nobody.append(trained.rate(viewer) / alone)
            browser = FakeBrowser(viewer.port, cookie)
            _settle_while_training(trained, viewer, browser)
            alone = 0.5 * (alone + trained.rate(None))
            still.append(trained.rate(viewer) / alone)
            moving.append(_rate_while_moving(trained, viewer, browser, delays) / alone)
            browser.close()
            time.sleep(0.2)
    value = [round(statistics.median(ratios), 3) for ratios in (nobody, still, moving)]
    met = value[0] >= 0.99 and value[1] >= 0.95 and value[2] >= 0.6
    about = "share of training speed kept: nobody there, a still browser, a moving one"
    return Figure(value, [0.99, 0.95, 0.6], met, about), percentile_ms(delays, 95)


def _renderer(trained: Trained) -> RayRenderer:
    return RayRenderer(trained.method.snapshot())


def _settle_while_training(trained: Trained, viewer: ViewerServer, browser: FakeBrowser) -> None:
    """The first pictures of a browser are paid for once."""
    thread = threading.Thread(target=settle, args=(browser, SMALLEST), daemon=True)
    thread.start()
    while thread.is_alive():
        trained.rate(viewer, 0.5)


def _rate_while_moving(trained: Trained, viewer: ViewerServer, browser: FakeBrowser, delays: list[float]) -> float:
    is_over = threading.Event()

    def move() -> None:
        while not is_over.is_set():
            delays.extend(step_delays(browser, 10, SMALLEST))

    thread = threading.Thread(target=move, daemon=True)
    browser.look(place(0.0), size=SMALLEST)
    thread.start()
    rate = trained.rate(viewer)
    is_over.set()
    while thread.is_alive():
        trained.rate(viewer, 0.1)
    return rate
