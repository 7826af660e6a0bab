"""Exports besides pictures: whatever the program that owns the viewer offers (meshes, points, cameras, the scene)."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import viser

from ...camera_paths import file_stems
from ..desk import Desk, Refresh, assign
from ..render_queue import ExportKind, ExportRequest, JobProgress
from ..room import RoomState
from ..shots import crop_box
from .jobs import offer_to
from .style import CALM


def exports_panel(desk: Desk) -> Refresh | None:
    """One folder per kind of export."""
    if not desk.room.exports:
        return None
    buttons = [_folder(desk, key, kind) for key, kind in desk.room.exports.items()]

    def refresh(state: RoomState) -> None:
        for button in buttons:
            assign(button, "disabled", not state.has_scene)

    return refresh


def _folder(desk: Desk, key: str, kind: ExportKind) -> viser.GuiButtonHandle:
    gui = desk.gui
    with gui.add_folder(kind.label, expand_by_default=False):
        gui.add_markdown(kind.hint)
        options: dict[str, Any] = {
            **{
                name: gui.add_number(label, default, min=least, max=most, step=1)
                for name, (label, least, most, default) in kind.numbers.items()
            },
            **{name: gui.add_dropdown(label, choices) for name, (label, choices) in kind.choices.items()},
        }
        crops = gui.add_checkbox("Use crop", True, hint="Stay within your crop box, where there is one")
        name = gui.add_text("Name", key)
        button = gui.add_button(f"Export {key}", icon=viser.Icon.FILE_EXPORT, color=CALM)

    def start() -> None:
        request = ExportRequest(
            file_stems([name.value or key])[0],
            desk.room.folder / "exports",
            crop_box(desk.look.crop) if crops.value and desk.look.crop is not None else None,
            desk.room.world.chosen,
            {option: handle.value for option, handle in options.items()},
        )
        desk.room.queue.submit(f"{kind.label}: {request.name}", functools.partial(_work, kind, request), offer_to(desk))
        desk.say("Added to the queue", kind.label)

    desk.on(button.on_click, start)
    return button


def _work(kind: ExportKind, request: ExportRequest, progress: JobProgress) -> list[Path]:
    return kind.run(request, progress, progress.cancel)
