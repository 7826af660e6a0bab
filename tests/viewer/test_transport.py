"""Flow control and the encode thread, against links that answer when the test says so."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
import torch

from nerfstudio_ext.renderer import Frame
from nerfstudio_ext.viewer.flow import SUSPEND_S, FlowControl
from nerfstudio_ext.viewer.scheduler import Picture
from nerfstudio_ext.viewer.shots import Part, Shot, depth_along_axis
from nerfstudio_ext.viewer.transport import Transport
from nerfstudio_ext.viewer.views import View


class HeldLink:
    """A link whose acknowledgements the test gives."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.acks: list = []
        self._cond = threading.Condition()

    def send(self, jpeg, depth_png, on_ack) -> None:
        with self._cond:
            self.sent.append(jpeg)
            self.acks.append(on_ack)
            self._cond.notify_all()

    def wait(self, n: int, timeout: float = 5.0) -> None:
        with self._cond:
            assert self._cond.wait_for(lambda: len(self.sent) >= n, timeout), len(self.sent)


def picture(grey: float, seq: int = 1, is_moving: bool = True, age: float = 0.0) -> Picture:
    view = View((0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0), 0.9, 64, 48)
    frame = Frame(torch.full((48, 64, 3), grey), torch.ones(48, 64), None)
    shot = Shot(Part(frame, view.camera(64)), None, None, (64, 48))
    return Picture(shot, view.look, seq, is_moving, time.perf_counter() - age)


def grey_of(jpeg: bytes) -> float:
    import io

    from PIL import Image

    return float(np.asarray(Image.open(io.BytesIO(jpeg))).mean()) / 255


@pytest.fixture
def transport():
    made = Transport()
    made.start()
    yield made
    made.close()


def test_one_frame_in_flight_and_the_newest_goes_next(transport):
    link = HeldLink()
    transport.add_client(0, link, lambda: 1)
    transport.offer(0, picture(0.1))
    link.wait(1)
    for grey in (0.3, 0.5, 0.9):
        transport.offer(0, picture(grey))
    time.sleep(0.2)
    assert len(link.sent) == 1, "nothing is sent before the answer"
    link.acks[0]()
    link.wait(2)
    assert grey_of(link.sent[1]) == pytest.approx(0.9, abs=0.02)
    link.acks[1]()
    time.sleep(0.1)
    assert len(link.sent) == 2, "the frames between were dropped"


def test_a_slow_browser_does_not_slow_another(transport):
    slow, quick = HeldLink(), HeldLink()
    transport.add_client(0, slow, lambda: 1)
    transport.add_client(1, quick, lambda: 1)
    transport.offer(0, picture(0.5))
    slow.wait(1)
    for i in range(20):
        transport.offer(0, picture(0.1))
        transport.offer(1, picture(0.5))
        quick.wait(i + 1)
        quick.acks[i]()
    assert len(slow.sent) == 1 and len(quick.sent) == 20


def test_stale_frames_are_not_sent(transport):
    link = HeldLink()
    transport.add_client(0, link, lambda: 7)
    transport.offer(0, picture(0.1, seq=6, is_moving=False))
    transport.offer(0, picture(0.1, seq=6, is_moving=True, age=0.5))
    time.sleep(0.2)
    assert link.sent == [], "old sharp frames and moving frames that waited too long"
    transport.offer(0, picture(0.1, seq=6, is_moving=True))
    link.wait(1)
    link.acks[0]()
    transport.offer(0, picture(0.1, seq=7, is_moving=False, age=0.5))
    link.wait(2)


def test_a_frame_that_cannot_be_encoded_does_not_end_the_thread(transport):
    link = HeldLink()
    transport.add_client(0, link, lambda: 1)
    transport.offer(0, np.zeros((3, 3, 7), np.uint8))
    time.sleep(0.1)
    transport.offer(0, picture(0.5))
    link.wait(1)


def test_leaving_drops_what_waits(transport):
    link = HeldLink()
    transport.add_client(0, link, lambda: 1)
    transport.offer(0, picture(0.5))
    link.wait(1)
    transport.offer(0, picture(0.5))
    transport.remove_client(0)
    link.acks[0]()
    transport.offer(0, picture(0.5))
    time.sleep(0.1)
    assert len(link.sent) == 1 and transport.n_awake() == 0


def test_depth_is_turned_from_ray_length_to_axis_distance():
    """A wall at z = 2 seen head on has ray lengths 2 / cos and axis distance 2 everywhere."""
    camera = View((0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0), 1.2, 80, 50).camera(80)
    lengths = 2.0 / camera.rays().rays_d[:, 2]
    frame = Frame(torch.zeros(50, 80, 3), lengths.reshape(50, 80), None)
    assert torch.allclose(depth_along_axis(frame, camera), torch.full((50, 80), 2.0), atol=1e-5)


# -- flow control on its own ----------------------------------------------------------------------------------------


def link_of(bytes_per_s: float, round_trip: float = 0.002, frame: int = 20_000, n: int = 8) -> FlowControl:
    """Flow control after some frames over a link of known speed."""
    flow, now = FlowControl(), 0.0
    flow.note_round_trip(round_trip)
    for _ in range(n):
        flow.note_size(frame, 512 * 320, 50)
        flow.sent(frame, now)
        now += round_trip + frame / bytes_per_s
        flow.acked(now)
    return flow


def test_throughput_is_measured():
    assert link_of(125_000).bytes_per_s == pytest.approx(125_000, rel=0.01)
    assert link_of(1e9).bytes_per_s == float("inf")


def test_quality_follows_the_link():
    fast, thin = link_of(1e9), link_of(60_000)
    assert (fast.quality(512 * 320, is_moving=True), fast.quality(1024 * 640, is_moving=False)) == (50, 90)
    assert thin.quality(512 * 320, is_moving=True) == 30
    assert thin.quality(1024 * 640, is_moving=False) < 90


def test_a_thin_link_gets_smaller_pictures():
    thin = link_of(30_000)
    assert not thin.fits(1024 * 640, is_moving=True)
    assert thin.fits(128 * 80, is_moving=True)
    assert link_of(1e9).fits(2048 * 2048, is_moving=True)


def test_a_silent_browser_is_suspended_until_it_answers():
    flow = FlowControl()
    flow.sent(1000, 10.0)
    assert not flow.is_suspended(10.0 + SUSPEND_S - 0.1)
    assert flow.is_suspended(10.0 + SUSPEND_S + 0.1)
    assert flow.ready_at(0.01, 10.0 + SUSPEND_S) == float("inf")
    flow.acked(30.0)
    assert not flow.is_suspended(30.0)
    assert flow.ready_at(0.01, 30.0) < 30.0


def test_rendering_starts_so_that_it_ends_with_the_answer():
    flow = link_of(100_000, round_trip=0.1, frame=10_000)
    start = 100.0
    flow.sent(10_000, start)
    assert flow.ready_at(0.05, start) == pytest.approx(start + 0.2 - 0.05, abs=0.01)
    assert flow.ready_at(1.0, start) == pytest.approx(start)


def test_no_more_frames_than_a_screen_shows():
    flow = FlowControl()
    flow.sent(1000, 10.0)
    flow.acked(10.001)
    assert flow.ready_at(0.0, 10.001) == pytest.approx(10.0 + 1 / 60)
