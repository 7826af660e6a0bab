"""Play the path, or look at one of its frames."""

from __future__ import annotations

from collections.abc import Callable

import viser

from ...errors import UserError
from ..desk import Desk, assign
from ..path_editor import PathEditor
from .style import CALM, clock_text


def playback_folder(desk: Desk, editor: PathEditor) -> Callable[[], None]:
    """Build the folder; returns what writes the present draft into it."""
    gui, player = desk.gui, editor.player
    with gui.add_folder("Playback"):
        play = gui.add_button("Play", icon=viser.Icon.PLAYER_PLAY, hint="Moving the camera ends it")
        frame = gui.add_slider("Frame", 1, 2, 1, 1, hint="Shows the picture of the path's own camera")
        leave = gui.add_button("Back to my camera", color=CALM, visible=False)
        text = gui.add_markdown("")

    shown = [0]

    def toggle() -> None:
        if player.is_playing:
            player.stop()
        else:
            player.play()
        show()

    def back() -> None:
        player.leave()
        show()

    desk.on(play.on_click, toggle)
    desk.on(frame.on_update, lambda: player.show(int(frame.value) - 1))
    desk.on(leave.on_click, back)

    def show() -> None:
        try:
            n = len(editor.path())
            words = f"{n} frames · {clock_text(editor.draft.seconds)} min"
        except UserError as error:
            n, words = 0, error.what
        assign(text, "content", words)
        for handle in (play, frame):
            assign(handle, "disabled", n == 0)
        assign(play, "label", "Pause" if player.is_playing else "Play")
        assign(play, "icon", viser.Icon.PLAYER_PAUSE if player.is_playing else viser.Icon.PLAYER_PLAY)
        assign(frame, "max", max(2, n))
        if player.frame != shown[0]:
            shown[0] = player.frame
            assign(frame, "value", min(player.frame + 1, max(2, n)))
        assign(leave, "visible", desk.look.pose is not None and desk.look.photo is None)

    return show
