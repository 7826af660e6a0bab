"""The camera path: keys, the flight through them, playback, files. The parts share one editor per browser."""

from __future__ import annotations

from ..desk import Desk, Refresh
from ..path_editor import PathEditor
from ..room import RoomState
from .path_files import files_folder
from .path_keys import keys_folder
from .path_playback import playback_folder
from .path_settings import settings_folder


def path_panels(desk: Desk) -> Refresh:
    """All folders of the path tab."""
    editor = PathEditor(desk)
    desk.editor = editor
    shows = [folder(desk, editor) for folder in (keys_folder, playback_folder, settings_folder, files_folder)]
    shown: list[object] = [None]

    def show() -> None:
        # Only what changed is written back: a control that the visitor has just changed must not be set to what it was
        # before its handler has run.
        present = (editor.draft, editor.chosen)
        for action in shows if present != shown[0] else (shows[1], shows[3]):
            action()
        shown[0] = present

    editor.on_change.append(show)
    show()

    def refresh(state: RoomState) -> None:
        editor.follow_camera()
        show()

    return refresh
