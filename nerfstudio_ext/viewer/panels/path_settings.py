"""How the path is flown and through what kind of camera."""

from __future__ import annotations

from collections.abc import Callable

from ...camera_paths import LENSES
from ..desk import Desk, Written, assign
from ..path_editor import PathEditor

RATES = ("24", "30", "60")


def settings_folder(desk: Desk, editor: PathEditor) -> Callable[[], None]:
    """Build the folder; returns what writes the present draft into it."""
    gui, draft = desk.gui, editor.draft
    with gui.add_folder("Path settings", expand_by_default=False):
        lens = gui.add_dropdown("Camera", LENSES, initial_value=draft.lens)
        fov = gui.add_slider(
            "Default FOV", 5.0, 150.0, 1.0, min(max(draft.fov_y_deg, 5.0), 150.0),
            hint="Vertical field of view of keys without their own, degrees",
        )  # fmt: skip
        width = gui.add_number("Width", draft.size[0], min=16, max=16384, step=2)
        height = gui.add_number("Height", draft.size[1], min=16, max=16384, step=2)
        transition = gui.add_number(
            "Per key, s", draft.transition_s, min=0.05, max=600.0, step=0.1, hint="Between keys without their own"
        )
        fps = gui.add_number("Rate, 1/s", draft.fps, min=0.1, max=240.0, step=0.1)
        rates = gui.add_button_group("Usual", RATES)
        tension = gui.add_slider("Tension", 0.0, 1.0, 0.05, draft.tension, hint="0 is smoothest, 1 straight lines")
        loop = gui.add_checkbox("Loop", draft.is_loop, hint="Return to the first key frame")
        even = gui.add_checkbox("Even speed", draft.is_even, hint="Else each key is reached at its own time")
        keys = gui.add_checkbox("Show keys", editor.shows_keys)
        line = gui.add_checkbox("Show path", editor.shows_line)
        moves = gui.add_checkbox("Use gizmo", editor.moves_keys)

    def apply() -> None:
        editor.change(
            lens=lens.value, fov_y_deg=float(fov.value), size=(int(width.value), int(height.value)),
            transition_s=float(transition.value), fps=float(fps.value), tension=float(tension.value),
            is_loop=loop.value, is_even=even.value,
        )  # fmt: skip

    def set_rate() -> None:
        assign(fps, "value", float(rates.value))
        apply()

    def draw() -> None:
        editor.shows_keys, editor.shows_line, editor.moves_keys = keys.value, line.value, moves.value
        editor.draw()

    for handle in (lens, fov, width, height, transition, fps, tension, loop, even):
        desk.on(handle.on_update, apply)
    for handle in (keys, line, moves):
        desk.on(handle.on_update, draw)
    desk.on(rates.on_click, set_rate)

    written = Written()

    def show() -> None:
        now = editor.draft
        for handle, value in (
            (lens, now.lens), (fov, min(max(now.fov_y_deg, 5.0), 150.0)), (width, now.size[0]), (height, now.size[1]),
            (transition, now.transition_s), (fps, now.fps), (tension, now.tension), (loop, now.is_loop),
            (even, now.is_even),
        ):  # fmt: skip
            written.write(handle, value)

    return show
