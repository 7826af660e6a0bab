"""Flow control of one browser: one frame in flight, and what its link can carry."""

from __future__ import annotations

import statistics
from collections import deque

MOVING_QUALITY, STATIC_QUALITY, POOR_QUALITY = 50, 90, 30
"""JPEG qualities: while the camera moves, when it stands, and over a thin link."""
SUSPEND_S = 5.0
"""A browser that has not answered for so long is asleep or gone: nothing is rendered for it until it answers."""
LATE_S = 1.0
"""An answer later than this stops rendering ahead: the frame would be old when it leaves."""
MOVING_TRANSFER_S, STATIC_TRANSFER_S = 0.1, 1.0
"""How long a frame may occupy the link. A still picture may take longer, yet it delays the next move's first frame."""
MEASURABLE_S = 0.005
"""Transfers quicker than this above the round trip say only that the link is fast."""
MIN_FRAME_S = 1 / 60
"""No browser shows more frames than this; sending them would fill its decoder queue."""


class FlowControl:
    """Knows whether a frame may be sent, and how large it should be. Guarded by the transport's lock.

    The frame and a ping are written back to back; the browser answers the ping after it received the
    frame, so its pong is an acknowledgement. (It says the bytes arrived, not that they were drawn.)
    """

    def __init__(self) -> None:
        self._sent_at: float | None = None
        self._sent_bytes = 0
        self._last_sent_at = float("-inf")
        self._round_trips: deque[float] = deque(maxlen=8)
        self._rates: deque[float] = deque(maxlen=8)
        self._shortest = float("inf")
        self._bytes_per_pixel: dict[int, float] = {}

    @property
    def in_flight(self) -> bool:
        """True between `sent` and `acked`."""
        return self._sent_at is not None

    def sent(self, n_bytes: int, now: float) -> None:
        """Note that a frame was handed to the socket."""
        self._sent_at, self._sent_bytes, self._last_sent_at = now, n_bytes, now

    def acked(self, now: float) -> None:
        """Note that the browser received what was in flight."""
        if self._sent_at is None:
            return
        seconds = max(1e-6, now - self._sent_at)
        self._sent_at = None
        self._round_trips.append(seconds)
        self._shortest = min(self._shortest, seconds)
        transfer = seconds - self._shortest
        if transfer > MEASURABLE_S:
            self._rates.append(self._sent_bytes / transfer)
        elif self._sent_bytes > 10_000:
            self._rates.append(float("inf"))

    def lost(self) -> None:
        """Note that what was in flight will never be acknowledged: sending failed."""
        self._sent_at = None

    def note_round_trip(self, seconds: float) -> None:
        """Note the round trip of an idle link, against which transfers are measured."""
        self._shortest = min(self._shortest, max(seconds, 1e-6))

    def is_suspended(self, now: float) -> bool:
        """True when the browser has not answered for `SUSPEND_S`."""
        return self._sent_at is not None and now - self._sent_at > SUSPEND_S

    def ready_at(self, render_s: float, now: float) -> float:
        """When to begin rendering the next frame so that it is done when it may be sent; inf when unknown.

        Rendering starts while the frame before is still under way, but so late that the result does
        not wait (and grow old) for the answer.
        """
        earliest = self._last_sent_at + MIN_FRAME_S - render_s
        if self._sent_at is None:
            return earliest
        if now - self._sent_at > LATE_S:
            return float("inf")
        expected = statistics.median(self._round_trips) if self._round_trips else LATE_S
        return max(earliest, self._sent_at + max(0.0, expected - render_s))

    def note_size(self, n_bytes: int, n_pixels: int, quality: int) -> None:
        """Learn how well this scene compresses at a quality."""
        self._bytes_per_pixel[quality] = n_bytes / max(1, n_pixels)

    @property
    def bytes_per_s(self) -> float:
        """Measured throughput of the link, bytes per second; inf when no transfer took measurable time."""
        return statistics.median(self._rates) if self._rates else float("inf")

    def quality(self, n_pixels: int, is_moving: bool) -> int:
        """JPEG quality for a picture of so many pixels."""
        steps = (MOVING_QUALITY, POOR_QUALITY) if is_moving else (STATIC_QUALITY, 70, MOVING_QUALITY)
        limit = self.bytes_per_s * (MOVING_TRANSFER_S if is_moving else STATIC_TRANSFER_S)
        for quality in steps:
            if self._expected_bytes(n_pixels, quality) <= limit:
                return quality
        return steps[-1]

    def fits(self, n_pixels: int, is_moving: bool) -> bool:
        """True if a picture of so many pixels, at the lowest quality, does not clog the link."""
        quality = POOR_QUALITY if is_moving else MOVING_QUALITY
        limit = self.bytes_per_s * 2 * (MOVING_TRANSFER_S if is_moving else STATIC_TRANSFER_S)
        return self._expected_bytes(n_pixels, quality) <= limit

    def _expected_bytes(self, n_pixels: int, quality: int) -> float:
        """Bytes of a picture, from the last one at this or the nearest other quality."""
        if not self._bytes_per_pixel:
            return 0.2 * n_pixels
        nearest = min(self._bytes_per_pixel, key=lambda known: abs(known - quality))
        # Bytes grow about linearly with quality up to 70 and faster above; linear is near enough for a limit.
        return self._bytes_per_pixel[nearest] * n_pixels * quality / nearest
