"""Films and pictures along a path, rendered here and downloaded from here."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import get_args

import viser

from ...camera_paths import CameraPath, file_stems, from_views
from ...errors import UserError
from ...exporters import FrameOptions, write_frames
from ...exporters.options import OutputName
from ...renderer import HasBackdrop
from ..desk import Desk, Refresh, assign
from ..render_queue import JobProgress, QueueJob
from ..room import RoomState
from ..shots import background_of, crop_box
from .jobs import offer_to
from .path_files import STARTS, made_path, path_to_write

MY_PATH, PHOTO_VIEWS = "My path", "Training views"
FORMATS = {"Film (mp4)": ".mp4", "Animation (webp)": ".webp", "Animation (gif)": ".gif", "Pictures (png)": ""}
OUTPUTS: tuple[OutputName, ...] = get_args(OutputName)
MADE_SECONDS, MADE_FPS = 8.0, 24.0


def render_panel(desk: Desk) -> Refresh:
    """Which path, which format, how large, how good."""
    gui = desk.gui
    with gui.add_folder("Render a path"):
        which = gui.add_dropdown("Path", (MY_PATH, *STARTS, PHOTO_VIEWS), initial_value="Orbit")
        kind = gui.add_dropdown("Format", tuple(FORMATS))
        output = gui.add_dropdown("Output", OUTPUTS)
        width = gui.add_number("Width", 1280, min=16, max=8192, step=2)
        height = gui.add_number("Height", 720, min=16, max=8192, step=2)
        quality = gui.add_slider("Quality", 0, 51, 1, 18, hint="Of mp4: 0 is lossless, 18 looks like the frames")
        smooth = gui.add_slider("Rays per pixel", 1, 4, 1, 1, hint="Along each axis; more give smoother edges")
        crops = gui.add_checkbox("Use crop", True, hint="Stay within your crop box, where there is one")
        name = gui.add_text("Name", "film")
        start = gui.add_button("Render", icon=viser.Icon.MOVIE)

    def path() -> CameraPath:
        size = (int(width.value), int(height.value))
        if which.value == MY_PATH:
            if desk.editor is None:
                raise UserError("there is no path", fix="Make one in the tab Path")
            return path_to_write(desk, desk.editor)
        cameras = desk.room.training_views.cameras
        if which.value == PHOTO_VIEWS:
            return from_views(cameras, list(desk.room.photo_names) or None, kind="training views")
        return made_path(which.value, cameras, desk.room.world.up, size)

    def render() -> None:
        chosen = path()
        if which.value != PHOTO_VIEWS:
            chosen = chosen.with_size(int(width.value), int(height.value))
        if crops.value and desk.look.crop is not None:
            chosen = dataclasses.replace(chosen, crop=crop_box(desk.look.crop, background_of(desk.look) or (1, 1, 1)))
        elif not crops.value:
            chosen = dataclasses.replace(chosen, crop=None)
        options = FrameOptions(
            outputs=(output.value,),
            video_crf=int(quality.value),
            samples=int(smooth.value),
            overwrite=True,
        )
        target = desk.room.queue.folder / f"{file_stems([name.value or 'film'])[0]}{FORMATS[kind.value]}"
        job = submit_render(desk, chosen, target, options)
        desk.say("Added to the queue", f"{job.title}: {len(chosen)} frames")

    desk.on(start.on_click, render)

    def refresh(state: RoomState) -> None:
        assign(start, "disabled", not state.has_scene)
        assign(quality, "visible", FORMATS[kind.value] == ".mp4")

    return refresh


def submit_render(desk: Desk, path: CameraPath, target: Path, options: FrameOptions) -> QueueJob:
    """Add a render of a path to the queue; its result is offered to this browser.

    The renderer is the one of this moment: a film shows one state of the scene, however long it takes.
    """
    if not desk.is_owner:
        raise UserError("watchers cannot render", fix="Ask whoever started the viewer for the other link")
    sources = desk.room.sources()
    renderer = sources.get(desk.look.side.source) or next(iter(sources.values()), None)
    if renderer is None:
        raise UserError("there is no scene yet", fix="Wait for the first picture")
    backdrop = background_of(desk.look)
    if backdrop is not None and isinstance(renderer, HasBackdrop):
        renderer = renderer.on_background(backdrop)
    room, content_id = desk.room, desk.room.content_id()
    version = str(getattr(renderer, "version", ""))

    def work(progress: JobProgress) -> list[Path]:
        files = write_frames(
            progress.polite(renderer), path, target, options, frame=room.frame,
            content_id=f"{content_id} {desk.look.side.source} {version}", progress=progress, cancel=progress.cancel,
        )  # fmt: skip
        side = target.with_name(target.name + ".json") if target.suffix else target / "frames.json"
        room.world.stamp(side)
        return [*files, side] if side.is_file() and target.suffix else files

    return room.queue.submit(target.name, work, offer_to(desk))
