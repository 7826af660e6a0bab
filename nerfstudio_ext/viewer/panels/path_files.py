"""camera_path.json: download, upload, keep beside the run."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import viser

from ...camera_paths import (
    CameraPath,
    camera_path_from_bytes,
    camera_path_to_json,
    draft_from_path,
    file_stems,
    interpolate,
    orbit,
    read_camera_path,
    spiral,
    write_camera_path,
)
from ...cameras import Cameras
from ...errors import UserError
from ..desk import Desk, assign
from ..path_editor import PathEditor
from ..shots import crop_box
from .style import CALM

NOTHING = "none yet"
STARTS = ("Orbit", "Spiral", "Photos")
MAX_LISTED = 100


def files_folder(desk: Desk, editor: PathEditor) -> Callable[[], None]:
    """Build the folder; returns what writes the present state into it."""
    gui, folder = desk.gui, desk.room.folder / "camera_paths"
    with gui.add_folder("Path files", expand_by_default=False):
        start = gui.add_button_group(
            "Begin with", STARTS, hint="Key frames around the scene, on a spiral, or through the photos"
        )
        name = gui.add_text("Name", "path")
        save = gui.add_button("Save with the run", icon=viser.Icon.DEVICE_FLOPPY, visible=desk.is_owner)
        download = gui.add_button("Download", icon=viser.Icon.DOWNLOAD, color=CALM, hint="As nerfstudio reads it")
        saved = gui.add_dropdown("Saved paths", _saved(folder))
        load = gui.add_button("Open saved path", color=CALM)
        upload = gui.add_upload_button(
            "Open a file", mime_type="application/json", icon=viser.Icon.UPLOAD, color=CALM,
            hint="camera_path.json of nerfstudio, or a camera path of instant-ngp",
        )  # fmt: skip

    def take(path: CameraPath) -> None:
        draft = draft_from_path(path)
        editor.set(draft, 0)
        if path.crop is not None:
            desk.say("The path carries a crop box", "It is used when the path is rendered.")
        for note in path.notes:
            desk.say("Path opened", note)

    def begin() -> None:
        cameras = desk.room.training_views.cameras
        take(made_path(start.value, cameras, desk.room.world.up, editor.draft.size))

    def load_saved() -> None:
        if saved.value != NOTHING:
            take(read_camera_path(folder / saved.value, desk.room.frame))

    desk.on(start.on_click, begin)
    desk.on(save.on_click, lambda: _save(desk, editor, folder, name.value))
    desk.on(download.on_click, lambda: _download(desk, editor, name.value))
    desk.on(load.on_click, load_saved)
    desk.on(
        upload.on_upload,
        lambda: take(camera_path_from_bytes(upload.value.content, desk.room.frame, where="the uploaded file")),
    )

    def show() -> None:
        names = _saved(folder)
        assign(saved, "options", names)
        assign(load, "disabled", names == (NOTHING,))

    return show


def made_path(kind: str, cameras: Cameras, up: tuple[float, float, float], size: tuple[int, int]) -> CameraPath:
    """A path to begin with."""
    if kind == "Orbit":
        return orbit(cameras, up=up, size=size)
    if kind == "Spiral":
        return spiral(cameras, up=up, size=size)
    return interpolate(cameras, size=size, order=True)


def path_to_write(desk: Desk, editor: PathEditor) -> CameraPath:
    """The edited path with the browser's crop box and the chosen world frame."""
    path = editor.path()
    world = desk.room.world.chosen
    extra = dict(path.extra) | ({"world_frame": world.to_json()} if world is not None else {})
    crop = path.crop if desk.look.crop is None else crop_box(desk.look.crop)
    return dataclasses.replace(path, extra=extra, crop=crop)


def _save(desk: Desk, editor: PathEditor, folder: Path, name: str) -> None:
    if not desk.is_owner:
        raise UserError("watchers cannot write files", fix="Download the path instead")
    target = folder / f"{file_stems([name or 'path'])[0]}.json"
    write_camera_path(path_to_write(desk, editor), target, desk.room.frame, overwrite=True)
    desk.say("Path saved", str(target))


def _download(desk: Desk, editor: PathEditor, name: str) -> None:
    document = camera_path_to_json(path_to_write(desk, editor), desk.room.frame)
    content = json.dumps(document, allow_nan=False, indent=1).encode()
    desk.client.send_file_download(f"{file_stems([name or 'path'])[0]}.json", content, save_immediately=True)


def _saved(folder: Path) -> tuple[str, ...]:
    names = sorted(file.name for file in folder.glob("*.json")) if folder.is_dir() else []
    return tuple(names[:MAX_LISTED]) or (NOTHING,)
