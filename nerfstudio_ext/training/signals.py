"""Ctrl+C and SIGTERM as a request: the first ends training after the step at hand, the second ends at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopOnSignal:
    """Context manager that turns SIGINT and SIGTERM into a flag; handlers are restored on leaving.

    Outside the main thread Python cannot handle signals: there the flag simply stays unset.

    Args:
        on_request: Called once, inside the signal handler, when the first signal comes.
    """

    def __init__(self, on_request: Callable[[str], None] | None = None) -> None:
        self.received: signal.Signals | None = None
        self._n_received = 0
        self._on_request = on_request
        self._before: dict[signal.Signals, Any] = {}

    @property
    def is_requested(self) -> bool:
        """Whether somebody asked to stop."""
        return self.received is not None

    @property
    def exit_code(self) -> int:
        """130 after SIGINT, 143 after SIGTERM, else 0."""
        return 0 if self.received is None else 128 + int(self.received)

    def __enter__(self) -> StopOnSignal:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._handle) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            # None means a handler that was not set from Python: it cannot be put back, the default is nearest.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._n_received += 1
        if self._n_received > 2:
            os._exit(128 + number)  # something swallowed the exit below
        if self._n_received == 2:
            raise SystemExit(128 + number)
        self.received = signal.Signals(number)
        if self._on_request is not None:
            self._on_request(self.received.name)
