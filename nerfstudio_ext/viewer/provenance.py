"""The folder of controls about where a picture comes from: read the mark in what is shown."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import viser

from ..errors import UserError
from .desk import Desk, Refresh, assign
from .panels.style import CALM
from .room import RoomState

logger = logging.getLogger(__name__)

Verify = Callable[[bytes, str], str]
"""(JPEG as the browser got it, key as it was typed) -> markdown that says what it carries. A `UserError` is shown."""


@dataclass
class Verification:
    """Reads one picture at a time in a thread of its own, so that neither rendering nor the page waits.

    Attributes:
        text: The last answer, as markdown.
    """

    verify: Verify
    text: str = ""
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _thread: threading.Thread | None = None

    @property
    def is_running(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def start(self, jpeg: bytes | None, key: str) -> bool:
        """Begin to read a picture; False where one is still being read."""
        with self._lock:
            if self.is_running:
                return False
            self.text = "_Reading this frame_"
            self._thread = threading.Thread(target=self._work, args=(jpeg, key), name="nsx-verify", daemon=True)
            self._thread.start()
        return True

    def wait(self, timeout: float) -> None:
        """Wait for the present reading."""
        if self._thread is not None:
            self._thread.join(timeout)

    def _work(self, jpeg: bytes | None, key: str) -> None:
        try:
            self.text = "There is no picture yet." if jpeg is None else self.verify(jpeg, key)
        except UserError as error:
            self.text = f"**Not read:** {error.line}"
        except Exception:  # a panel must not take the viewer down; the log keeps what went wrong
            logger.exception("a frame could not be verified")
            self.text = "**Not read:** the frame could not be looked at; the log says why."


def provenance_panel(verify: Verify, *, is_open: bool = False) -> Callable[[Desk], Refresh]:
    """The panel of a run. What each visitor types and reads stays in their own browser and this process.

    Args:
        verify: Reads a picture.
        is_open: Whether the folder is unfolded from the start.
    """

    def panel(desk: Desk) -> Refresh:
        return _build(desk, Verification(verify), is_open)

    return panel


def _build(desk: Desk, verification: Verification, is_open: bool) -> Refresh:
    gui, kept = desk.gui, [""]
    with gui.add_folder("Provenance", expand_by_default=is_open):
        key = gui.add_text("Key", "", hint="The key of the mark. It leaves this field when it is used.")
        button = gui.add_button("Verify this frame", icon=viser.Icon.SHIELD_CHECK, color=CALM)
        text = gui.add_markdown("")

    def read() -> None:
        if key.value:
            kept[0] = key.value
            assign(key, "value", "")
        verification.start(desk.shown_jpeg(), kept[0])

    desk.on(button.on_click, read)

    def refresh(state: RoomState) -> None:
        assign(text, "content", verification.text)
        assign(button, "disabled", verification.is_running)

    return refresh
