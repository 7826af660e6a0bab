"""From finished frames to browsers: one encode thread, one frame in flight per browser, newest wins."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from jaxtyping import UInt8

from .flow import FlowControl
from .pictures import encode_depth, encode_jpeg
from .scheduler import Picture
from .shading import Ranges, shade
from .shots import depth_along_axis

logger = logging.getLogger(__name__)

STALE_S = 0.15
"""A moving frame that waited for the link longer than this is not sent when there is a newer camera."""
MOVING_DEPTH_PX, STATIC_DEPTH_PX = 128, 256


class Link(Protocol):
    """A way to one browser; see `viser_private.ViserLink`."""

    def send(self, jpeg: bytes, depth_png: bytes | None, on_ack: Callable[[], None]) -> None:
        """Send a picture now; `on_ack` is called from any thread when it arrived."""


class Lane:
    """One browser in the transport: its newest waiting picture and its flow control. A planner's `Gate`."""

    def __init__(self, link: Link, newest_seq: Callable[[], int], lock: threading.Condition) -> None:
        self.link = link
        self.newest_seq = newest_seq
        self.flow = FlowControl()
        self.waiting: Picture | UInt8[np.ndarray, "H W 3"] | None = None
        self.is_busy = False
        self.ranges = Ranges.empty()
        self.jpeg: bytes | None = None
        self.sent_at = float("-inf")
        self._lock = lock

    def ready_at(self, render_s: float, now: float) -> float:
        with self._lock:
            if self.waiting is not None or self.is_busy:
                return float("inf")
            return self.flow.ready_at(render_s, now)

    def is_suspended(self, now: float) -> bool:
        with self._lock:
            return self.flow.is_suspended(now)

    def fits(self, n_pixels: int, is_moving: bool) -> bool:
        with self._lock:
            return self.flow.fits(n_pixels, is_moving)

    def note_round_trip(self, seconds: float) -> None:
        """Tell the flow control how long an empty round trip took."""
        with self._lock:
            self.flow.note_round_trip(seconds)


class Transport:
    """Encodes pictures in a thread of its own and sends them.

    Args:
        photos: Training photos, for browsers that compare with them.
        on_ready: Called when a browser may get its next picture (from several threads).
        clock: Monotonic time in seconds.
    """

    def __init__(
        self,
        photos: Sequence[UInt8[np.ndarray, "h w C"]] = (),
        on_ready: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.photos = photos
        self.on_ready = on_ready
        self._clock = clock
        self._cond = threading.Condition()
        self._lanes: dict[int, Lane] = {}
        self._is_closed = False
        self._has_failed = False
        self._thread = threading.Thread(target=self._work, name="nsx-encode", daemon=True)

    def start(self) -> None:
        """Start the encode thread."""
        self._thread.start()

    def close(self) -> None:
        """Stop the encode thread and wait for it."""
        with self._cond:
            self._is_closed = True
            self._cond.notify_all()
        if self._thread.ident is not None:
            self._thread.join(timeout=5.0)

    def add_client(self, client_id: int, link: Link, newest_seq: Callable[[], int]) -> Lane:
        """Open a lane; `newest_seq` tells the number of the browser's newest camera."""
        lane = Lane(link, newest_seq, self._cond)
        with self._cond:
            self._lanes[client_id] = lane
        return lane

    def remove_client(self, client_id: int) -> None:
        """Close a lane; what waits in it is dropped."""
        with self._cond:
            self._lanes.pop(client_id, None)

    def offer(self, client_id: int, picture: Picture | UInt8[np.ndarray, "H W 3"]) -> None:
        """Put a picture (or plain pixels) in a lane's single place; an older one that still waits is dropped."""
        with self._cond:
            lane = self._lanes.get(client_id)
            if lane is not None:
                lane.waiting = picture
                self._cond.notify_all()

    def last_jpeg(self, client_id: int) -> bytes | None:
        """The picture that a browser was sent last."""
        with self._cond:
            lane = self._lanes.get(client_id)
            return None if lane is None else lane.jpeg

    def photo_psnr(self, client_id: int) -> float | None:
        """Of the render against the photo that a browser saw over it last, dB; None before there was one."""
        with self._cond:
            lane = self._lanes.get(client_id)
            return None if lane is None else lane.ranges.photo_psnr

    def n_awake(self) -> int:
        """Number of browsers that answer."""
        now = self._clock()
        with self._cond:
            return sum(not lane.flow.is_suspended(now) for lane in self._lanes.values())

    def _work(self) -> None:
        while True:
            with self._cond:
                chosen = self._next_lane()
                while chosen is None and not self._is_closed:
                    self._cond.wait()
                    chosen = self._next_lane()
                if self._is_closed or chosen is None:
                    return
                picture, chosen.waiting = chosen.waiting, None
                chosen.is_busy = True
            try:
                if picture is not None:
                    self._encode_and_send(chosen, picture)
            except Exception:  # supervising loop: one bad frame must not end the pictures of all browsers
                if not self._has_failed:
                    logger.exception("a frame could not be sent")
                self._has_failed = True
                with self._cond:
                    chosen.flow.lost()
            finally:
                with self._cond:
                    chosen.is_busy = False
            self.on_ready()

    def _next_lane(self) -> Lane | None:
        lanes = [lane for lane in self._lanes.values() if lane.waiting is not None]
        free = [lane for lane in lanes if not lane.is_busy and not lane.flow.in_flight]
        return min(free, key=lambda lane: lane.sent_at, default=None)

    def _encode_and_send(self, lane: Lane, picture: Picture | UInt8[np.ndarray, "H W 3"]) -> None:
        depth_png: bytes | None = None
        is_moving = False
        if isinstance(picture, Picture):
            is_moving = picture.is_moving
            has_waited = self._clock() - picture.finished_at > STALE_S
            if picture.seq < lane.newest_seq() and (has_waited or not is_moving):
                return
            rgb8 = shade(picture.shot, picture.look, lane.ranges, is_moving, self.photos)
            if picture.look.composites_depth and picture.look.pose is None:
                part = picture.shot.left
                depth_z = depth_along_axis(part.frame, part.camera)
                depth_png = encode_depth(depth_z, MOVING_DEPTH_PX if is_moving else STATIC_DEPTH_PX)
        else:
            rgb8 = picture
        n_pixels = rgb8.shape[0] * rgb8.shape[1]
        with self._cond:
            quality = lane.flow.quality(n_pixels, is_moving)
        jpeg = encode_jpeg(rgb8, quality)
        n_bytes = len(jpeg) + len(depth_png or b"")
        with self._cond:
            lane.flow.note_size(len(jpeg), n_pixels, quality)
            lane.sent_at, lane.jpeg = self._clock(), jpeg
            lane.flow.sent(n_bytes, lane.sent_at)
        lane.link.send(jpeg, depth_png, lambda: self._acked(lane))

    def _acked(self, lane: Lane) -> None:
        with self._cond:
            lane.flow.acked(self._clock())
            self._cond.notify_all()
        self.on_ready()
