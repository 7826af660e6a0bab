"""The picture of this moment, lossless, at any size."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import viser

from ...errors import UserError
from ..desk import Desk, Refresh, assign
from ..render_queue import JobProgress, QueueJob, save_png
from ..room import RoomState
from ..shading import Ranges, shade
from ..shots import take
from .jobs import offer_to

LARGEST_PX, MOST_PIXELS = 16384, 100_000_000


def capture_panel(desk: Desk) -> Refresh:
    """Size and a button."""
    gui = desk.gui
    with gui.add_folder("Capture this view"):
        width = gui.add_number(
            "Width", 1920, min=16, max=LARGEST_PX, step=1, hint="The height follows from the shape of the window"
        )
        own = gui.add_checkbox("Own height", False, hint="Cuts or extends the view above and below")
        height = gui.add_number("Height", 1080, min=16, max=LARGEST_PX, step=1, disabled=True)
        start = gui.add_button("Capture PNG", icon=viser.Icon.CAMERA)

    def capture() -> None:
        rows = int(height.value) if own.value else None
        submit_capture(desk, int(width.value), rows)
        desk.say("Capturing", "The picture is offered when it is done.")

    desk.on(own.on_update, lambda: setattr(height, "disabled", not own.value))
    desk.on(start.on_click, capture)

    def refresh(state: RoomState) -> None:
        assign(start, "disabled", not state.has_scene)

    return refresh


def submit_capture(desk: Desk, width: int, height: int | None) -> QueueJob:
    """Add a picture of what this browser shows to the queue: its output, colours, crop and comparison.

    Args:
        desk: The browser.
        width: Pixels.
        height: Pixels; None keeps the shape of the window.
    """
    view, sources = desk.view, desk.room.sources()
    if view is None or not sources:
        raise UserError("there is no picture yet", fix="Wait for the first one")
    rows = max(1, round(width * view.height / view.width)) if height is None else height
    if width * rows > MOST_PIXELS or max(width, rows) > LARGEST_PX:
        raise UserError(
            f"a picture of {width} x {rows}", fix=f"Choose at most {MOST_PIXELS // 10**6} megapixels in all"
        )
    look = dataclasses.replace(view.look, max_side=max(width, rows))
    exact = dataclasses.replace(view, width=width, height=rows, look=look)
    target = desk.room.queue.folder / f"view-{time.strftime('%Y%m%d-%H%M%S')}-{width}x{rows}.png"

    def work(progress: JobProgress) -> list[Path]:
        progress.stage("rendering", None)
        shot = take(sources, exact, max(width, rows), progress.cancel)
        pixels = shade(shot, look, Ranges.empty(), photos=desk.room.photos)
        step = max(1, max(pixels.shape) // 320)
        progress.job.preview = pixels[::step, ::step].copy()
        return [save_png(pixels, target)]

    return desk.room.queue.submit(target.name, work, offer_to(desk))
