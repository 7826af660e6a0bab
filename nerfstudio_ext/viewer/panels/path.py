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

    def show() -> None:
        for action in shows:
            action()

    editor.on_change.append(show)
    show()

    def refresh(state: RoomState) -> None:
        show()

    return refresh
