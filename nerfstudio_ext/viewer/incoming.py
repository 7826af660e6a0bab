"""What browsers may say: limits on messages, uploads and values, applied before any handler sees them.

A page is untrusted input even when its visitor is welcome. viser sets whatever attribute a message names and keeps
parts of uploads until they are complete; here a message may only change the value of a control of its own browser,
and only to what that control could show.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from viser import _messages

logger = logging.getLogger(__name__)

MAX_MESSAGE_BYTES = 4 << 20
"""The page sends files in parts of half a megabyte; everything else is far smaller."""
MAX_UPLOAD_BYTES = 32 << 20
"""Camera paths are the only files that are taken; a path of 100,000 frames is about so large."""
MAX_UPLOADS, MAX_PARTS = 2, 1024
MAX_CLIENTS = 32
MAX_TEXT, MAX_ITEMS = 4096, 64
TELL_AGAIN_S = 5.0

Handle = Callable[[int, Any], Awaitable[None]]


@dataclass
class Uploads:
    """Counts the bytes of one browser's unfinished uploads.

    Attributes:
        left: Bytes still to come, by transfer.
    """

    left: dict[str, int] = field(default_factory=dict)

    def may_start(self, size: int, n_parts: int, transfer: str) -> bool:
        """Whether an upload may begin."""
        is_sane = 0 <= size <= MAX_UPLOAD_BYTES and 0 <= n_parts <= MAX_PARTS and len(transfer) <= MAX_TEXT
        if not is_sane or len(self.left) >= MAX_UPLOADS or transfer in self.left:
            return False
        if n_parts:
            self.left[transfer] = size
        return True

    def may_go_on(self, n_bytes: int, transfer: str) -> bool:
        """Whether a part belongs to an upload and does not exceed what was announced."""
        if transfer not in self.left or n_bytes > self.left[transfer]:
            return False
        self.left[transfer] -= n_bytes
        if self.left[transfer] == 0:
            del self.left[transfer]
        return True


class IncomingGuard:
    """Stands before the message handlers of one browser.

    Args:
        handle: Takes the messages that pass.
        find_control: The control of this browser with an id, or None.
        tell: Shows a line to whoever sits there.
    """

    def __init__(
        self, handle: Handle, find_control: Callable[[str], Any], tell: Callable[[str], None] = lambda text: None
    ) -> None:
        self._handle = handle
        self._find_control = find_control
        self._tell = tell
        self._tell_again_at = 0.0
        self._uploads = Uploads()

    async def __call__(self, client_id: int, message: Any) -> None:
        """Pass a message on, or drop it."""
        try:
            if self._passes(message):
                await self._handle(client_id, message)
        except Exception:  # noqa: BLE001 - whatever a stranger's message breaks, the server goes on
            logger.debug("a message of browser %d was dropped", client_id, exc_info=True)

    def _passes(self, message: Any) -> bool:
        if isinstance(message, _messages.GuiUpdateMessage):
            control = self._find_control(message.uuid)
            is_plain = set(message.updates) == {"value"} and is_plain_value(message.updates["value"])
            return is_plain and control is not None and could_show(control, message.updates["value"])
        if isinstance(message, _messages.FileTransferStartUpload):
            control = self._find_control(message.source_component_uuid)
            if control is None or control.disabled or not control.visible:
                return False
            may_start = self._uploads.may_start(message.size_bytes, message.part_count, message.transfer_uuid)
            if not may_start:
                self._say_limits()
            return may_start
        if isinstance(message, _messages.FileTransferPart):
            return self._uploads.may_go_on(len(message.content), message.transfer_uuid)
        return True

    def _say_limits(self) -> None:
        now = time.monotonic()
        if now >= self._tell_again_at:  # a page that sends thousands of files must not collect thousands of notices
            self._tell_again_at = now + TELL_AGAIN_S
            self._tell(f"Files of at most {MAX_UPLOAD_BYTES >> 20} MB are taken, {MAX_UPLOADS} at a time.")


def is_plain_value(value: Any, depth: int = 2) -> bool:
    """Whether a value is a short text, a finite number, a truth value, nothing, or a short list of such."""
    if isinstance(value, (bool, type(None))):
        return True
    if isinstance(value, int):
        return abs(value) < 2**53
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, str):
        return len(value) <= MAX_TEXT
    if isinstance(value, (list, tuple)) and depth:
        return len(value) <= MAX_ITEMS and all(is_plain_value(item, depth - 1) for item in value)
    return False


def could_show(control: Any, value: Any) -> bool:
    """Whether a control could have this value: visible, of the same kind, within its limits, among its options."""
    if control.disabled or not control.visible:
        return False
    options = getattr(control, "options", None)
    if options is not None:
        return value in options
    present = control.value
    if isinstance(present, bool):
        return isinstance(value, bool)
    if isinstance(present, str):
        return isinstance(value, str)
    if isinstance(present, (int, float)):
        return _is_number(value) and _within(value, getattr(control, "min", None), getattr(control, "max", None))
    if isinstance(present, tuple):
        return isinstance(value, (list, tuple)) and len(value) == len(present) and all(map(_is_number, value))
    return False


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _within(value: float, low: float | None, high: float | None) -> bool:
    slack = 1e-9 + 1e-6 * abs(value)  # the page rounds to the digits it shows
    return (low is None or value >= low - slack) and (high is None or value <= high + slack)
