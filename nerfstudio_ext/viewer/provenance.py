"""The folder of controls about where a picture comes from: read the mark in what is shown, compare with and without."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import viser

from ..errors import UserError
from .comparison import SIDES, Choice, ComparisonRenderer
from .panels import CALM, PanelHost, PanelState, Refresh, assign

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


def provenance_panel(verify: Verify, comparison: ComparisonRenderer | None = None) -> Callable[[PanelHost], Refresh]:
    """The panel of a run.

    The key is taken out of its field when it is used and kept in this process only: what stands in a field is shown in
    every browser that has the page open.

    Args:
        verify: Reads a picture.
        comparison: What renders the run, if it is marked; its choice is set from here.
    """

    def panel(host: PanelHost) -> Refresh:
        return _build(host, Verification(verify), comparison)

    return panel


def _build(host: PanelHost, verification: Verification, comparison: ComparisonRenderer | None) -> Refresh:
    gui, kept = host.gui, [""]
    with gui.add_folder("Provenance", order=3, expand_by_default=comparison is not None):
        if comparison is not None:
            _add_comparison(host, comparison)
        key = gui.add_text("Key", "", hint="The key of the mark. It leaves this field when it is used.")
        button = gui.add_button("Verify this frame", icon=viser.Icon.SHIELD_CHECK, color=CALM)
        text = gui.add_markdown("")

    @button.on_click
    def _(event: viser.GuiEvent[viser.GuiButtonHandle]) -> None:
        if key.value:
            kept[0] = key.value
            assign(key, "value", "")
        jpeg = None if event.client_id is None else host.shown_jpeg(event.client_id)
        verification.start(jpeg, kept[0])

    def refresh(state: PanelState) -> None:
        assign(text, "content", verification.text)
        assign(button, "disabled", verification.is_running)

    return refresh


def _add_comparison(host: PanelHost, comparison: ComparisonRenderer) -> None:
    show = host.gui.add_dropdown("Show", SIDES, initial_value=comparison.choice.side)
    wipe = host.gui.add_slider(
        "Wipe", 0.0, 1.0, 0.01, comparison.choice.wipe, hint="Marked left of it, unmarked right of it"
    )

    def choose(moved_wipe: bool) -> None:
        if moved_wipe:
            assign(show, "value", "wipe")
        comparison.choice = Choice(show.value, float(wipe.value))
        host.redraw()

    show.on_update(lambda event: choose(False))
    wipe.on_update(lambda event: choose(True))
