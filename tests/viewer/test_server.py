"""The running server against fake browsers on loopback."""

from __future__ import annotations

import math
import socket
import threading
import time
import urllib.request

import numpy as np
import pytest
import viser

from nerfstudio_ext.cameras import Cameras
from nerfstudio_ext.errors import UserError
from nerfstudio_ext.progress import TrainStatus
from nerfstudio_ext.viewer import ViewerServer
from nerfstudio_ext.viewer.gate import Gate
from nerfstudio_ext.viewer.looks import Side
from nerfstudio_ext.viewer.pictures import encode_jpeg, to_rgb8
from nerfstudio_ext.viewer.server import make_viser
from nerfstudio_ext.viewer.views import checked_view
from tests.viewer.fakes import AzimuthRenderer, FakeBrowser, SphereRenderer, photos_of, ring_of_cameras, slow_wire


def status(step: int = 100, state: str = "training", seconds: float = 5.0) -> TrainStatus:
    return TrainStatus(step, 1000, seconds, 60.0, {"rgb": 0.01}, 25.0, 50.0, 4e5, state)


@pytest.fixture
def viewer():
    made = ViewerServer(ring_of_cameras(4), photos_of(ring_of_cameras(4)), port=0)
    yield made
    made.close()


@pytest.fixture
def browser(viewer):
    made = FakeBrowser(viewer.port)
    yield made
    made.close()


def azimuth_of(picture) -> float:
    """The camera's x that a frame of `AzimuthRenderer` shows, 0..1."""
    return float(picture.rgb[:, :, 0].mean()) / 255


def test_the_page_is_served_on_loopback_only(viewer):
    opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
    with opener.open(viewer.link(), timeout=5) as answer:
        assert b"<html" in answer.read(4096).lower() and "token" not in answer.url
    assert viewer.url.startswith("http://127.0.0.1:")


def test_a_photo_is_shown_until_there_is_a_scene(viewer, browser):
    browser.look()
    waiting = browser.wait(1)
    assert waiting.rgb.shape == (480, 768, 3) and waiting.rgb.std() > 5
    start = time.perf_counter()
    viewer.publish(SphereRenderer(), status(step=1, seconds=0.1))
    first = browser.wait(2)
    assert first.rgb.shape == (80, 128, 3)
    assert first.at - start < 2.0


def test_a_tab_that_was_open_before_is_served_without_moving():
    """It connects while the server is still being set up, and then stays still."""
    browsers: list[FakeBrowser] = []

    def make_server_with_impatient_browser(gate: Gate, host: str, port: int, label: str) -> viser.ViserServer:
        server = make_viser(gate, host, port, label)
        browsers.append(FakeBrowser(server.get_port()))
        browsers[0].look()
        assert wait_until(lambda: len(server.get_clients()) == 1)
        return server

    viewer = ViewerServer(Cameras([]), port=0, make_server=make_server_with_impatient_browser)
    viewer.set_renderer(AzimuthRenderer())
    browsers[0].wait_for(lambda p: p.rgb.shape == (400, 640, 3))
    browsers[0].close()
    viewer.close()


def test_what_arrives_is_what_the_renderer_renders(viewer, browser):
    """Byte for byte: the JPEG in the browser is the encoding of the renderer's own frame."""
    renderer = SphereRenderer()
    viewer.set_renderer(renderer)
    browser.look()
    sharp = browser.wait_for(lambda p: p.rgb.shape == (400, 640, 3))
    view = viewer._scheduler.planner.seats[0].slot.newest.view
    expected = encode_jpeg(to_rgb8(renderer.render(view.camera(640))), 90)
    assert sharp.n_bytes == len(expected)
    from io import BytesIO

    from PIL import Image

    assert np.array_equal(np.asarray(Image.open(BytesIO(expected))), sharp.rgb)


def test_broken_cameras_are_ignored(viewer, browser):
    viewer.set_renderer(AzimuthRenderer())
    browser.look((0.5, 2.0, 1.0))
    browser.wait(1)
    n = browser.quiet(0.4)
    browser.look((math.nan, 0.0, 0.0), wxyz=(1.0, 0.0, 0.0, 0.0))
    browser.look((0.9, 2.0, 1.0), wxyz=(math.nan, 0.0, 0.0, 0.0))
    browser.look((0.9, 2.0, 1.0), fov=1e9)
    browser.look((0.9, 2.0, 1.0), size=(10**9, 10**9))
    assert browser.quiet(0.4) == n
    browser.look((0.25, 2.0, 1.0))
    assert azimuth_of(browser.wait(n + 1)) == pytest.approx(0.25, abs=0.02), "the connection lives"


def test_after_the_last_camera_only_its_own_frames_come(viewer, browser):
    viewer.set_renderer(AzimuthRenderer(seconds=0.02))
    for i in range(60):
        browser.look((0.2 + 0.01 * i, 2.0, 1.0))
        time.sleep(0.02)
    stopped = time.perf_counter()
    browser.quiet(0.5)
    late = [p for p in browser.pictures if p.at > stopped + 0.25]
    assert all(azimuth_of(p) == pytest.approx(0.79, abs=0.012) for p in late)
    sharp = browser.pictures[-1]
    assert sharp.rgb.shape == (400, 640, 3) and sharp.at > stopped, "the picture sharpens after the stop"


def test_frames_never_go_back_to_an_older_camera(viewer, browser):
    viewer.set_renderer(AzimuthRenderer(seconds=0.01))
    for i in range(80):
        browser.look((0.1 + 0.01 * i, 2.0, 1.0))
        time.sleep(0.01)
    browser.quiet(0.4)
    shown = [azimuth_of(p) for p in browser.pictures]
    assert all(b >= a - 0.025 for a, b in zip(shown, shown[1:], strict=False)), "beyond what coarse files are off by"


def test_a_frame_follows_its_camera_at_once(viewer, browser):
    """Rendering aside: without the flush after each frame the median alone would be above 17 ms."""
    viewer.set_renderer(AzimuthRenderer())
    browser.look((0.1, 2.0, 1.0), size=(256, 160))
    browser.wait(1)
    browser.quiet(0.3)
    delays = []
    for i in range(60):
        n, start = len(browser.pictures), time.perf_counter()
        browser.look((0.11 + 0.001 * i, 2.0, 1.0), size=(256, 160))
        browser.wait(n + 1)
        delays.append(browser.pictures[n].at - start)
        time.sleep(0.02)
    assert np.percentile(delays, 25) < 0.016
    assert np.median(delays) < 0.06


def test_a_slow_link_shows_fresh_frames(viewer):
    """4 Mbit/s with frames as large as they come: the age of what arrives stays small."""
    viewer.set_renderer(AzimuthRenderer(noise=1.0))
    with slow_wire(viewer.port, bytes_per_s=500_000) as (port, _):
        browser = FakeBrowser(port)
        sent: list[tuple[float, float]] = []
        for i in range(150):
            x = 0.1 + 0.005 * i
            sent.append((time.perf_counter(), x))
            browser.look((x, 2.0, 1.0))
            time.sleep(0.02)
        stopped = time.perf_counter()
        browser.quiet(0.7)
        ages = []
        for picture in browser.pictures:
            shown = azimuth_of(picture)
            at = max((when for when, x in sent if x <= shown + 0.004), default=None)
            if at is not None and picture.at < stopped:
                ages.append(picture.at - at)
        browser.close()
    assert len(ages) >= 9, "at least three frames per second"
    assert np.percentile(ages, 95) < 0.5


def test_a_silent_browser_is_left_alone_and_comes_back(viewer, monkeypatch):
    from nerfstudio_ext.viewer import flow

    monkeypatch.setattr(flow, "SUSPEND_S", 0.5)
    renderer = AzimuthRenderer()
    viewer.set_renderer(renderer)
    with slow_wire(viewer.port, bytes_per_s=50e6) as (port, is_blocked):
        browser = FakeBrowser(port)
        browser.look((0.5, 2.0, 1.0))
        browser.wait(1)
        browser.quiet(0.4)
        is_blocked.set()
        for i in range(60):
            browser.look((0.5 + 0.005 * i, 2.0, 1.0))
            time.sleep(0.02)
        assert viewer.n_clients == 0, "suspended"
        assert viewer.reserved_threads() == 0 and not viewer.wants_snapshot()
        n = len(browser.pictures)
        is_blocked.clear()
        browser.wait_for(lambda p: azimuth_of(p) > 0.78)
        assert browser.quiet(0.3) - n < 15, "no queue of old frames"
        assert viewer.n_clients == 1
        browser.close()


def test_a_render_error_is_shown_and_survived(browser):
    said: list[str] = []
    viewer = ViewerServer(Cameras([]), port=0, notice=said.append)
    browser = FakeBrowser(viewer.port)

    class Broken:
        background = (0.0, 0.0, 0.0)

        def render(self, camera, *, cancel=None):
            raise ValueError("weights are gone")

    viewer.set_renderer(AzimuthRenderer())
    browser.look((0.5, 2.0, 1.0))
    browser.wait(1)
    n = browser.quiet(0.4)
    viewer.set_renderer(Broken())
    browser.look((0.6, 2.0, 1.0))
    time.sleep(1.0)
    assert len(browser.pictures) == n, "the last frame stays"
    assert len(said) == 1 and "weights are gone" in said[0]
    assert sum(message["type"] == "NotificationShowMessage" for message in browser.messages) == 1
    viewer.set_renderer(AzimuthRenderer())
    browser.wait(n + 1)
    browser.close()
    viewer.close()


def test_the_watcher_side(viewer, browser):
    assert viewer.wants_snapshot(), "the first picture should come at once"
    viewer.publish(AzimuthRenderer(), status())
    assert not viewer.wants_snapshot(), "nobody looks"
    assert viewer.reserved_threads() == 0 and not viewer.is_paused()
    browser.look((0.5, 2.0, 1.0))
    browser.wait(1)
    assert viewer.reserved_threads() == 0, "looking is not moving"
    browser.look((0.51, 2.0, 1.0))
    assert wait_until(lambda: viewer.reserved_threads() == 1)
    assert wait_until(lambda: viewer.reserved_threads() == 0)


def test_the_pause_button(viewer, browser):
    viewer.room.has_trainer = True
    viewer.publish(AzimuthRenderer(), status())
    browser.look()
    browser.wait(1)
    button = browser.control("Button", "Pause training")
    viewer.refresh_panels()
    browser.send("GuiUpdateMessage", uuid=button, updates={"value": True})
    assert wait_until(viewer.is_paused)
    browser.send("GuiUpdateMessage", uuid=button, updates={"value": True})
    assert wait_until(lambda: not viewer.is_paused())


def test_the_output_menu_changes_what_is_sent(viewer, browser):
    viewer.set_renderer(SphereRenderer())
    browser.look()
    colour = browser.wait_for(lambda p: p.rgb.shape == (400, 640, 3))
    viewer.change_looks(side=Side(output="alpha"))
    n = len(browser.pictures)
    alpha = browser.wait_for(lambda p: p.at > colour.at and p.rgb.shape == (400, 640, 3) and np.ptp(p.rgb, 2).max() < 8)
    assert alpha.rgb.max() > 250
    viewer.change_looks(side=Side(output="depth"))
    browser.wait(n + 2)
    viewer.change_looks(composites_depth=True)
    assert browser.wait_for(lambda p: p.depth_png is not None).depth_png[:4] == b"\x89PNG"


def test_the_size_slider_limits_pictures(viewer, browser):
    viewer.set_renderer(AzimuthRenderer())
    browser.look()
    browser.wait(1)
    viewer.change_looks(max_side=300)
    browser.quiet(0.4)
    browser.pictures.clear()
    browser.look((0.0, 2.6, 1.1))
    browser.quiet(0.4)
    assert max(p.rgb.shape[1] for p in browser.pictures) == 300


def test_two_browsers_each_get_their_own_view(viewer, browser):
    viewer.set_renderer(AzimuthRenderer(seconds=0.005))
    other = FakeBrowser(viewer.port)
    browser.look((0.25, 2.0, 1.0))
    other.look((0.75, 2.0, 1.0), size=(300, 500))
    browser.quiet(0.4)
    other.quiet(0.4)
    assert azimuth_of(browser.pictures[-1]) == pytest.approx(0.25, abs=0.02)
    assert azimuth_of(other.pictures[-1]) == pytest.approx(0.75, abs=0.02)
    assert other.pictures[-1].rgb.shape == (500, 300, 3)
    other.close()


def test_coming_and_going_leaves_nothing_behind(viewer):
    viewer.set_renderer(AzimuthRenderer())
    first = FakeBrowser(viewer.port)
    first.look()
    first.wait(1)
    first.close()
    assert wait_until(lambda: viewer.n_clients == 0)
    n_threads = threading.active_count()
    for _ in range(25):
        browser = FakeBrowser(viewer.port)
        browser.look()
        browser.wait(1)
        browser.close()
    assert wait_until(lambda: viewer.n_clients == 0)
    assert viewer._scheduler.planner.seats == {} and viewer._visitors.desks == {}
    assert threading.active_count() <= n_threads + 2


def test_new_weights_reach_a_still_browser_seldom_while_training(viewer, browser):
    viewer.publish(AzimuthRenderer(), status())
    browser.look()
    browser.quiet(0.4)
    n, start = len(browser.pictures), time.perf_counter()
    while time.perf_counter() - start < 3.2 or len(browser.pictures) == n:
        if viewer.wants_snapshot():
            viewer.publish(AzimuthRenderer(), status())
        else:
            viewer.stepped(status())
        time.sleep(0.05)
        assert time.perf_counter() - start < 30
    assert len(browser.pictures) - n <= (time.perf_counter() - start) / 1.5 + 1


def test_panels_can_be_added_and_faulty_ones_do_no_harm(viewer, browser):
    seen = []

    def panel(desk):
        desk.gui.add_markdown("more")
        return seen.append

    def faulty(desk):
        def refresh(state):
            raise KeyError("x")

        return refresh

    def broken(desk):
        raise KeyError("y")

    browser.look()
    viewer.add_panel(broken)
    viewer.add_panel(faulty)
    viewer.add_panel(panel)
    viewer.publish(AzimuthRenderer(), status(step=7))
    assert wait_until(lambda: len(seen) >= 2, 4.0)
    assert seen[-1].status.step == 7


def test_a_taken_port_is_told_and_the_next_one_used():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        said: list[str] = []
        port = taken.getsockname()[1]
        viewer = ViewerServer(Cameras([]), port=port, notice=said.append)
        assert viewer.port != port and str(port) in said[0] and viewer.url in said[0]
        viewer.close()


@pytest.mark.parametrize(("host", "port"), [("203.0.113.7", 7007), ("no such host", 7007), ("127.0.0.1", 99999)])
def test_impossible_addresses_are_refused(host, port):
    with pytest.raises(UserError) as caught:
        ViewerServer(Cameras([]), host=host, port=port)
    assert "\n" not in caught.value.line and caught.value.fix


def test_closing_ends_all_threads():
    viewer = ViewerServer(Cameras([]), port=0)
    viewer.set_renderer(AzimuthRenderer())
    viewer.close()
    viewer.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("nsx-")]


def test_the_newest_view_is_the_browsers(viewer, browser):
    viewer.set_renderer(AzimuthRenderer())
    browser.look((0.3, 2.0, 1.0), wxyz=(0.5, 0.5, -0.5, -0.5), fov=0.7, size=(800, 500))
    browser.wait(1)
    view = viewer._scheduler.planner.seats[0].slot.newest.view
    assert view == checked_view((0.3, 2.0, 1.0), (0.5, 0.5, -0.5, -0.5), 0.7, 800, 500)


def wait_until(condition, timeout: float = 5.0) -> bool:
    end = time.perf_counter() + timeout
    while time.perf_counter() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False
