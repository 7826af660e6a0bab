"""Targets about pictures: how soon, how fresh, how sharp, how large; V1 to V6 and V11 to V13."""

from __future__ import annotations

import http.client
import io
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from .. import kernels
from ..camera_paths import from_views
from ..cameras import Camera, Cameras
from ..exporters import FrameOptions, write_frames
from ..renderer import Renderer
from ..viewer.pictures import encode_depth
from ..viewer.scheduler import Scheduler
from ..viewer.shading import Ranges, shade
from ..viewer.shots import depth_along_axis, take
from ..viewer.transport import MOVING_DEPTH_PX, STATIC_DEPTH_PX
from ..viewer.views import View, checked_view
from .browser import FakeBrowser, cookie_from, look_from
from .figures import Figure
from .scenes import CodedRenderer, PhotoRenderer, TimedRenderer, TwoSpheres, two_spheres
from .walks import SIZE, Walk, percentile_ms, place, serving, settle, step_delays, visiting
from .wire import slow_wire

STALE_S = 0.25
SMALLEST = (128, 80)
MBIT = 125_000
"""Bytes per second of a megabit per second."""


def first_new_picture(scene: Renderer) -> list[float]:
    """V1 without training: milliseconds from a camera to the first new picture of the smallest size, median and 95th
    percentile. (Larger windows get larger pictures, up to the time of a frame that each browser chooses.)"""
    with serving(scene) as viewer, visiting(viewer) as browser:
        settle(browser, SMALLEST)
        delays = step_delays(browser, 80, SMALLEST)
    return [percentile_ms(delays, 50), percentile_ms(delays, 95)]


def transport_alone(is_loaded: bool) -> Figure:
    """V2: the same with rendering for free, 512 x 512."""
    with serving(PhotoRenderer()) as viewer, visiting(viewer) as browser:
        settle(browser, (512, 512))
        value = percentile_ms(step_delays(browser, 120, (512, 512)), 95)
    limit = 25.0 if is_loaded else 5.0
    return Figure(value, limit, value <= limit, "ms from camera to picture, 95th percentile, rendering free")


def freshness() -> Figure:
    """V3: pictures of old cameras after the stop, and the age of pictures over a thin link."""
    with serving(CodedRenderer(0.02)) as viewer, visiting(viewer) as browser:
        settle(browser)
        walk = Walk(browser)
        walk.run(2.0)
        stopped, last = walk.sent[-1]
        browser.quiet(0.6)
        late = [p for p in browser.pictures if p.at > stopped + STALE_S]
        n_stale = sum(abs(float(p.rgb[:, :, 0].mean()) / 255 - last) > 0.006 for p in late)
    with (
        serving(CodedRenderer(noise=0.35)) as viewer,
        slow_wire(viewer.port, 4 * MBIT) as (port, _),
        visiting(viewer, port) as browser,
    ):
        settle(browser, (512, 512))
        before = len(browser.pictures)
        walk = Walk(browser, (512, 512))
        walk.run(6.0)
        time.sleep(0.6)
        age = percentile_ms(walk.ages(browser.pictures[before:]), 95)
    met = n_stale == 0 and age <= 250
    return Figure([n_stale, age], [0, 250], met, "stale pictures; ms of age at 4 Mbit/s, 95th percentile")


def sharpness(scene: Renderer) -> Figure:
    """V4: how long after the last camera the full picture comes, its own render time taken off."""
    waits = []
    with serving(scene) as viewer, visiting(viewer) as browser:
        settle(browser)
        for round_ in range(6):
            for i in range(8):
                browser.look(place(20.0 * round_ + i))
                time.sleep(0.02)
            stopped, seen = time.perf_counter(), len(browser.pictures)
            full = _next_full(browser, seen)
            note = viewer.room.scheduler.last
            waits.append(full - stopped - (0.0 if note is None else note.seconds))
    value = percentile_ms(waits, 95)
    return Figure(value, 150.0, value <= 150.0, "ms to the full picture besides its rendering, 95th percentile")


def _next_full(browser: FakeBrowser, seen: int, timeout: float = 20.0) -> float:
    end = time.perf_counter() + timeout
    while time.perf_counter() < end:
        for picture in browser.pictures[seen:]:
            if Image.open(io.BytesIO(picture.jpeg)).size == SIZE:
                return picture.at
        time.sleep(0.002)
    raise TimeoutError("the full picture never came")


def cancelling(scene: Renderer) -> Figure:
    """V5: how long a large render goes on after a new camera came."""
    timed, delays = TimedRenderer(scene), []
    scheduler = Scheduler(lambda client_id, picture: None, set_threads=kernels.set_threads)
    scheduler.start()

    class Open:
        def ready_at(self, render_s: float, now: float) -> float:
            return 0.0

        def is_suspended(self, now: float) -> bool:
            return False

        def fits(self, n_pixels: int, is_moving: bool) -> bool:
            return True

    scheduler.add_client(0, Open())
    scheduler.set_renderer(timed)
    for i in range(8):
        view = _view(place(5.0 * i), (2048, 1280))
        scheduler.put_view(0, view)
        end = time.perf_counter() + 10.0
        while timed.width < 1024 and time.perf_counter() < end:
            time.sleep(0.001)
        time.sleep(0.03)
        n = len(timed.ends)
        if timed.width < 1024:
            continue  # it was done already
        moved_at = time.perf_counter()
        scheduler.put_view(0, _view(place(5.0 * i + 1), (2048, 1280)))
        while len(timed.ends) == n and time.perf_counter() < moved_at + 5.0:
            time.sleep(0.0005)
        delays.append(timed.ends[n] - moved_at)
    scheduler.close()
    value = percentile_ms(delays, 95)
    return Figure(value, 20.0, value <= 20.0, "ms until a running render stops, 95th percentile")


def _view(position: tuple[float, float, float], size: tuple[int, int]) -> View:
    from viser.transforms import SO3

    wxyz = SO3.from_matrix(look_from(position)[:, :3].numpy()).wxyz
    view = checked_view(position, wxyz, 0.9, *size)
    assert view is not None
    from dataclasses import replace

    return replace(view, look=replace(view.look, max_side=max(size)))


def bytes_sent() -> Figure:
    """V6: bytes of moving pictures of a photograph, and what is left of the rate over 1 Mbit/s."""
    with serving(PhotoRenderer()) as viewer, visiting(viewer) as browser:
        settle(browser, (512, 320))
        before = len(browser.pictures)
        Walk(browser, (512, 320)).run(2.0)
        moving = [p for p in browser.pictures[before:] if Image.open(io.BytesIO(p.jpeg)).width == 512]
        mean = float(np.mean([p.n_bytes for p in moving])) if moving else float("inf")
    with (
        serving(PhotoRenderer()) as viewer,
        slow_wire(viewer.port, MBIT) as (port, _),
        visiting(viewer, port) as browser,
    ):
        browser.look(place(0.0), size=(512, 320))
        browser.wait(1, timeout=60)
        time.sleep(2.0)
        before = len(browser.pictures)
        Walk(browser, (512, 320)).run(8.0)
        rate = (len(browser.pictures) - before) / 8.0
    kilobytes, megabits = round(mean / 1000, 1), round(mean * 8 * 12 / 1e6, 2)
    met = kilobytes <= 30 and megabits <= 3 and rate >= 3
    return Figure(
        [kilobytes, megabits, round(rate, 1)], [30, 3, 3], met,
        "kB per moving picture of 512 pixels; Mbit/s of 12 a second; pictures a second at 1 Mbit/s",
    )  # fmt: skip


def first_visit(scene: Renderer) -> Figure:
    """V11: from the page to the first picture, and from a restarted server to the present state."""
    secret = bytes(range(32))
    with serving(scene, secret=secret) as viewer:
        began = time.perf_counter()
        cookie = cookie_from(viewer.link())
        page = http.client.HTTPConnection("127.0.0.1", viewer.port, timeout=10)
        page.request("GET", "/", headers={"Cookie": cookie, "Accept-Encoding": "gzip"})
        page.getresponse().read()
        with visiting(viewer) as browser:
            browser.look(place(0.0), size=SIZE)
            first = browser.wait(1, timeout=60).at - began
        port = viewer.port
    began = time.perf_counter()
    with serving(scene, port, secret):
        again = _reconnect(port, cookie, began)
        again.look(place(0.0), size=SIZE)
        back = again.wait(1, timeout=60).at - began
        again.control("Dropdown", "Output")
        back = max(back, time.perf_counter() - began)
        again.close()
    value = [round(first, 2), round(back, 2)]
    return Figure(value, [2.0, 3.0], first <= 2 and back <= 3, "seconds to the first picture; after a restart")


def _reconnect(port: int, cookie: str, began: float) -> FakeBrowser:
    while True:
        try:
            return FakeBrowser(port, cookie)
        except OSError:
            if time.perf_counter() - began > 20:
                raise
            time.sleep(0.1)


def depth_order() -> Figure:
    """V12: whether depth as the page gets it puts things before and behind rightly, and what it costs."""
    scene = TwoSpheres()
    camera = Camera.perspective(512, 320, 50.0, look_from((2.0, 0.3, 0.6)))
    frame = scene.render(camera)
    _, truth = two_spheres(camera)
    depth = depth_along_axis(frame, camera)
    agree = []
    for side in (MOVING_DEPTH_PX, STATIC_DEPTH_PX):
        packed = np.asarray(Image.open(io.BytesIO(encode_depth(depth, side)))).astype(np.int64)
        sent = (packed[..., 0] << 16 | packed[..., 1] << 8 | packed[..., 2]) / 1e5
        rows = (np.arange(320) * sent.shape[0] // 320)[:, None]
        whole = sent[rows, (np.arange(512) * sent.shape[1] // 512)[None]]
        for z in np.linspace(1.2, 2.6, 15):
            agree.append(float(((whole < z) == (truth.numpy() < z)).mean()))
    seconds = []
    for _ in range(9):
        began = time.perf_counter()
        encode_depth(depth_along_axis(frame, camera), MOVING_DEPTH_PX)
        seconds.append(time.perf_counter() - began)
    share, cost = round(100 * min(agree), 2), percentile_ms(seconds, 50)
    return Figure([share, cost], [99.0, 5.0], share >= 99 and cost <= 5, "% of pixels in the right order; ms a picture")


def one_renderer(scene: Renderer) -> Figure:
    """V13: pixels that differ between the page's picture before encoding and a batch render of the same view."""
    view = _view(place(3.0), (320, 200))
    shown = shade(take({"this run": scene}, view, 320), view.look, Ranges.empty())
    with tempfile.TemporaryDirectory() as folder:
        path = from_views(Cameras([view.camera(320)]))
        (file,) = write_frames(scene, path, Path(folder) / "view.png", FrameOptions())
        exported = np.asarray(Image.open(file))
    differ = int((exported != shown).any(-1).sum())
    return Figure(differ, 0, differ == 0, "pixels that differ from a batch render")
