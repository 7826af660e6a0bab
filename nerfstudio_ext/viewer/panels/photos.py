"""The training cameras and their photos: fly there, look at the photo, see where the render differs."""

from __future__ import annotations

from ..desk import Desk, Refresh, assign
from ..looks import PHOTO_MODES, Photo, Pose
from ..room import RoomState


def photos_panel(desk: Desk) -> Refresh | None:
    """Previous and next camera, photo and error over the render."""
    gui, room = desk.gui, desk.room
    n = len(room.training_views.cameras)
    if n == 0:
        return None
    at = [0]
    with gui.add_folder("Training photos", expand_by_default=False):
        shown = gui.add_checkbox(
            "Show cameras", desk.remembered.shows_cameras, hint="Click a camera in the scene to look through it"
        )
        hides = gui.add_checkbox(
            "Occlusion", desk.look.composites_depth, hint="The scene hides what is drawn behind it"
        )
        index = gui.add_slider("Photo", 1, max(2, n), 1, 1, disabled=n < 2)
        steps = gui.add_button_group("Go to", ("Previous", "Next"))
        mode = gui.add_dropdown(
            "Show", PHOTO_MODES, initial_value="render",
            hint="The photo, or its difference to the render (black is none), exactly from where it was taken",
        )  # fmt: skip
        opacity = gui.add_slider("Opacity", 0.0, 1.0, 0.05, 1.0, hint="Of the photo over the render")
        text = gui.add_markdown(_name(desk, 0))

    def go() -> None:
        at[0] = min(max(int(index.value) - 1, 0), n - 1)
        text.content = _name(desk, at[0])
        camera = room.training_views.cameras[at[0]]
        if mode.value == "render":
            desk.change(photo=None, pose=None)
            room.training_views.fly_to(desk.client, at[0])
            return
        desk.change(photo=Photo(at[0], mode.value, float(opacity.value)), pose=Pose(camera))

    def step() -> None:
        assign(index, "value", (at[0] + (1 if steps.value == "Next" else -1)) % n + 1)
        go()

    def show(is_shown: bool) -> None:
        desk.cameras.show(is_shown)
        desk.keep(shows_cameras=is_shown)

    if not desk.remembered.shows_cameras:
        desk.cameras.show(False)
    desk.on(shown.on_update, lambda: show(shown.value))
    desk.on(hides.on_update, lambda: desk.change(composites_depth=hides.value))
    desk.on(index.on_update, go)
    desk.on(steps.on_click, step)
    desk.on(mode.on_update, go)
    desk.on(opacity.on_update, go)

    was_over = [False]

    def refresh(state: RoomState) -> None:
        is_over = desk.look.photo is not None
        if was_over[0] and not is_over:
            assign(mode, "value", "render")  # whoever moves the camera leaves the photo
        was_over[0] = is_over
        assign(text, "content", _name(desk, at[0]) + (_agreement(desk) if is_over else ""))

    return refresh


def _agreement(desk: Desk) -> str:
    psnr = desk.room.transport.photo_psnr(desk.client.client_id)
    return "" if psnr is None else f" · render and photo agree to {psnr:.1f} dB, as shown"


def _name(desk: Desk, index: int) -> str:
    names = desk.room.photo_names
    name = names[index].replace("`", "'") if index < len(names) else f"camera {index + 1}"
    return f"`{name}`"
