"""The key frames: add, choose, move, copy, delete, reorder, each with its own field of view and time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import viser

from ..desk import Desk, Written, assign
from ..path_editor import PathEditor
from .style import CALM, WARM


def keys_folder(desk: Desk, editor: PathEditor) -> Callable[[], None]:
    """Build the folder; returns what writes the present draft into it."""
    gui = desk.gui
    with gui.add_folder("Key frames"):
        add = gui.add_button(
            "Add this view", icon=viser.Icon.CAMERA_PLUS, hint="A key frame where you look from, behind the chosen one"
        )
        chosen = gui.add_slider("Key frame", 1, 2, 1, 1, hint="Or click one in the scene")
        moves = gui.add_button_group("Chosen", ("Go to", "Set here"), hint="Fly to it, or move it to where you look")
        copies = gui.add_button_group("Edit", ("Copy", "Delete"))
        order = gui.add_button_group("Order", ("Earlier", "Later", "Reverse"))
        own_fov = gui.add_checkbox("Own FOV", False, hint="A field of view of its own for this key")
        fov = gui.add_slider("FOV", 5.0, 150.0, 1.0, 60.0, hint="Vertical, degrees")
        own_time = gui.add_checkbox("Own time", False, hint="Seconds of its own from this key to the next")
        seconds = gui.add_number("Seconds", 2.0, min=0.05, max=600.0, step=0.1)
        clear = gui.add_button("Delete all key frames", color=WARM, icon=viser.Icon.TRASH)

    def edit() -> None:
        index = editor.need_chosen()
        draft = editor.draft
        editor.set(draft.duplicated(index) if copies.value == "Copy" else draft.without(index))

    def reorder() -> None:
        index = editor.need_chosen()
        if order.value == "Reverse":
            editor.set(editor.draft.reversed(), len(editor.draft.keys) - 1 - index)
            return
        by = -1 if order.value == "Earlier" else 1
        editor.set(editor.draft.moved(index, by), index + by)

    def set_own() -> None:
        index = editor.need_chosen()
        editor.set(
            editor.draft.with_key(
                index,
                fov_y_deg=float(fov.value) if own_fov.value else None,
                transition_s=float(seconds.value) if own_time.value else None,
            )
        )

    desk.on(add.on_click, editor.add_here)
    desk.on(chosen.on_update, lambda: editor.choose(int(chosen.value) - 1))
    desk.on(moves.on_click, lambda: editor.go_to_chosen() if moves.value == "Go to" else editor.set_here())
    desk.on(copies.on_click, edit)
    desk.on(order.on_click, reorder)
    for handle in (own_fov, fov, own_time, seconds):
        desk.on(handle.on_update, set_own)
    desk.on(clear.on_click, lambda: _confirm_clear(desk, editor))

    written = Written()

    def show() -> None:
        for handle in (chosen, own_fov, own_time, clear):
            assign(handle, "disabled", editor.chosen is None)
        assign(chosen, "max", max(2, len(editor.draft.keys)))
        assign(chosen, "label", f"Key of {len(editor.draft.keys)}")
        _show_chosen(editor, written, chosen, own_fov, fov, own_time, seconds)

    return show


def _show_chosen(
    editor: PathEditor, written: Written, chosen: Any, own_fov: Any, fov: Any, own_time: Any, seconds: Any
) -> None:
    """Write the chosen key into its controls."""
    draft, index = editor.draft, editor.chosen
    if index is None:
        return
    key = draft.keys[index]
    written.write(chosen, index + 1)
    written.write(own_fov, key.fov_y_deg is not None)
    written.write(fov, min(max(draft.key_fov_deg(index), 5.0), 150.0))
    assign(fov, "disabled", key.fov_y_deg is None)
    written.write(own_time, key.transition_s is not None)
    written.write(seconds, draft.transition_s if key.transition_s is None else key.transition_s)
    assign(seconds, "disabled", key.transition_s is None)


def _confirm_clear(desk: Desk, editor: PathEditor) -> None:
    modal = desk.gui.add_modal("Delete all key frames?")
    with modal:
        yes = desk.gui.add_button("Delete all", color=WARM)
        no = desk.gui.add_button("Keep them", color=CALM)

    def clear() -> None:
        modal.close()
        editor.player.leave()
        editor.change(keys=())

    desk.on(yes.on_click, clear)
    desk.on(no.on_click, modal.close)
