"""Targets about many browsers and about strangers: V7, V9, V10."""

from __future__ import annotations

import gc
import http.client
import math
import threading
import time
from pathlib import Path

import numpy as np
import viser
from viser import _messages
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from ..cameras import Camera
from ..renderer import CancelToken, Frame, Renderer
from ..viewer import ViewerServer
from .browser import FakeBrowser, cookie_from
from .figures import Figure
from .scenes import CodedRenderer
from .walks import percentile_ms, place, serving, settle, share_of_frames, step_delays, visiting
from .wire import slow_wire

N_CLIENTS = 8
SMALL = (200, 120)


def many_browsers(scene: Renderer) -> Figure:
    """V7: eight browsers at once against one; how evenly they are served; what a slow one costs the others."""
    with serving(scene) as viewer:
        with visiting(viewer) as browser:
            settle(browser, SMALL)
            single = percentile_ms(step_delays(browser, 60, SMALL), 95)
        cookie = cookie_from(viewer.link())
        crowd = [FakeBrowser(viewer.port, cookie) for _ in range(N_CLIENTS)]
        for browser in crowd:
            settle(browser, SMALL)
        slowest = _delays_of_all(crowd)
        rates = share_of_frames(crowd, 4.0)
        for browser in crowd:
            browser.close()
        evenness = min(rates) / float(np.mean(rates))
        kept = _with_a_slow_one(viewer, cookie)
    ratio = slowest / single
    value = [round(ratio, 2), round(evenness, 2), round(kept, 2)]
    met = ratio <= 4 and evenness >= 0.5 and kept >= 0.9
    return Figure(
        value, [4, 0.5, 0.9], met,
        "slowest 95th percentile of 8 over that of 1; least over mean rate; rate kept beside a slow browser",
    )  # fmt: skip


def _delays_of_all(crowd: list[FakeBrowser]) -> float:
    """The worst 95th percentile among browsers that step at once."""
    found: dict[int, float] = {}

    def step(number: int) -> None:
        found[number] = percentile_ms(step_delays(crowd[number], 40, SMALL), 95)

    threads = [threading.Thread(target=step, args=(i,), daemon=True) for i in range(len(crowd))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return max(found.values())


def _with_a_slow_one(viewer: ViewerServer, cookie: str) -> float:
    """Rate of three browsers while a fourth is on a thin link, over their rate beside a fourth that is not."""
    crowd = [FakeBrowser(viewer.port, cookie) for _ in range(3)]
    with slow_wire(viewer.port, 12_500) as (port, _):
        fast, slow = FakeBrowser(viewer.port, cookie), FakeBrowser(port, cookie)
        for browser in (*crowd, fast):
            settle(browser, SMALL)
        slow.look(place(0.0), size=SMALL)
        ratios = []
        for _ in range(3):
            alone = share_of_frames([*crowd, fast], 2.0)[:3]
            beside = share_of_frames([*crowd, slow], 2.0)[:3]
            ratios.append(float(np.mean(beside) / np.mean(alone)))
        for browser in (*crowd, fast, slow):
            browser.close()
    return float(np.median(ratios))


class FailingRenderer:
    """A renderer whose weights are gone."""

    background = (0.0, 0.0, 0.0)

    def render(self, camera: Camera, *, cancel: CancelToken | None = None) -> Frame:
        """Never a picture."""
        raise ValueError("weights are gone")


def faults(n_cycles: int = 1000) -> Figure:
    """V9: a failing renderer is told once and survived; browsers that come and go leave nothing behind."""
    with serving(CodedRenderer()) as viewer:
        with visiting(viewer) as browser:
            settle(browser, SMALL)
            shown = len(browser.pictures)
            viewer.set_renderer(FailingRenderer())
            browser.look(place(5.0), size=SMALL)
            time.sleep(1.2)
            notices = sum(m["type"] == "NotificationShowMessage" for m in browser.messages)
            stayed = len(browser.pictures) == shown
            viewer.set_renderer(CodedRenderer())
            browser.look(place(6.0), size=SMALL)
            browser.wait(shown + 1)
        cookie = cookie_from(viewer.link())
        _come_and_go(viewer, cookie, 30)
        before, threads = _resident_mb(), threading.active_count()
        _come_and_go(viewer, cookie, n_cycles)
        grown, left = _resident_mb() - before, threading.active_count() - threads
    value = [notices, int(stayed), left, round(grown, 1)]
    met = notices == 1 and stayed and left <= 0 and grown < 20
    return Figure(
        value, [1, 1, 0, 20], met,
        f"notices of a failing renderer; last picture stays; threads left and MB grown after {n_cycles} visits",
    )  # fmt: skip


def _come_and_go(viewer: ViewerServer, cookie: str, n: int) -> None:
    for i in range(n):
        browser = FakeBrowser(viewer.port, cookie)
        browser.look(place(float(i)), size=SMALL)
        browser.wait(1)
        browser.close()
    end = time.perf_counter() + 20
    while (viewer.n_clients or viewer._visitors.desks) and time.perf_counter() < end:
        time.sleep(0.05)
    time.sleep(0.5)
    gc.collect()


def _resident_mb() -> float:
    """Resident memory of this process; NaN where the system does not say."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return math.nan
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def strangers() -> Figure:
    """V10: what is refused of eight things that strangers try."""
    with serving(CodedRenderer()) as viewer:
        cookie = cookie_from(viewer.link("watcher"))
        tries = {
            "no token": _status(viewer) == 401,
            "wrong token": _status(viewer, "/?token=" + "0" * 32) == 401,
            "foreign host": _status(viewer, Host="evil.example", Cookie=cookie) == 403,
            "foreign origin": _handshake(viewer, Origin="http://evil.example", Cookie=cookie) == 403,
            "socket without cookie": _handshake(viewer) == 401,
            "forged role": _handshake(viewer, Cookie=cookie.replace("watcher", "owner")) == 401,
            "not on other addresses": viewer.host == "127.0.0.1",
            "no sharing": _messages.ShareUrlRequest not in viewer.room.server._websock_server._incoming_handlers,
        }
    refused = sum(tries.values())
    about = "refused" if refused == len(tries) else "let through: " + ", ".join(n for n, ok in tries.items() if not ok)
    return Figure(refused, len(tries), refused == len(tries), about)


def _status(viewer: ViewerServer, path: str = "/", **headers: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", viewer.port, timeout=5)
    connection.request("GET", path, headers=headers)
    return connection.getresponse().status


def _handshake(viewer: ViewerServer, **headers: str) -> int:
    protocols = [f"viser-v{viser.__version__}"]
    try:
        with connect(f"ws://127.0.0.1:{viewer.port}", additional_headers=headers, subprotocols=protocols):  # type: ignore[arg-type]
            return 101
    except InvalidStatus as refused:
        return refused.response.status_code
