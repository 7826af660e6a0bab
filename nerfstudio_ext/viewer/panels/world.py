"""The world frame: which way is up, where zero is, how long a metre is."""

from __future__ import annotations

from collections.abc import Callable

import torch
import viser

from ...errors import UserError
from ..desk import Desk, Refresh, assign
from ..picking import Picker
from ..room import RoomState
from .style import CALM, WARM


def world_panel(desk: Desk) -> Refresh:
    """Up and origin, two points and their distance."""
    picker = Picker(desk)
    desk.on_leave.append(picker.forget)
    shows = [_orientation(desk, picker), _scale(desk, picker)]

    def refresh(state: RoomState) -> None:
        for show in shows:
            show()

    return refresh


def _orientation(desk: Desk, picker: Picker) -> Callable[[], None]:
    gui, world = desk.gui, desk.room.world
    with gui.add_folder("Up and origin"):
        up_here = gui.add_button(
            "Up is my camera's up", icon=viser.Icon.ARROW_UP, color=CALM, hint="Turn the scene upright, then press"
        )
        turn = gui.add_button_group("Turn up", ("X +90°", "Y +90°", "Flip"), hint="About the axes of the scene")
        origin = gui.add_button(
            "Click the origin", icon=viser.Icon.CURRENT_LOCATION, color=CALM, hint="Then click a point of the scene"
        )
        axes = gui.add_checkbox("Show axes", False, hint="Axes and ground at the origin")

    def turned() -> None:
        x, y, z = world.up
        axes_of = {"X +90°": (x, -z, y), "Y +90°": (z, y, -x), "Flip": (-x, -y, -z)}
        world.set_up(torch.tensor(axes_of[turn.value], dtype=torch.float64))
        show()

    def camera_up() -> None:
        view = desk.view
        if view is not None:
            world.set_up(-view.camera(view.width).c2w[:, 1])
            show()

    def ask() -> None:
        picker.ask(1, lambda points: world.set_origin(points[0]))
        desk.say("Choose the origin", "Click in the scene.")

    def show() -> None:
        picker.draw_axes(axes.value)

    desk.on(up_here.on_click, camera_up)
    desk.on(turn.on_click, turned)
    desk.on(origin.on_click, ask)
    desk.on(axes.on_update, show)
    return show


def _scale(desk: Desk, picker: Picker) -> Callable[[], None]:
    gui, world = desk.gui, desk.room.world
    with gui.add_folder("Measure and scale"):
        pick = gui.add_button(
            "Click two points", icon=viser.Icon.RULER_2, color=CALM, hint="Their distance is shown below"
        )
        distance = gui.add_markdown("_No two points yet_")
        length = gui.add_number(
            "Metres", 1.0, min=0.0001, max=100000.0, step=0.01, hint="How far the two points are apart in reality"
        )
        apply = gui.add_button("Make the scene metric", icon=viser.Icon.CHECK)
        reset = gui.add_button("Forget up, origin and scale", color=WARM)
        text = gui.add_markdown(world_text(desk))

    def ask() -> None:
        picker.ask(2, lambda points: show())
        desk.say("Choose two points", "Click in the scene.")

    def set_length() -> None:
        if len(picker.points) < 2:
            raise UserError("two points are needed", fix="Press 'Click two points', then click them in the scene")
        world.set_length(picker.points[-2], picker.points[-1], float(length.value))
        show()

    def forget() -> None:
        world.reset()
        show()

    def show() -> None:
        points, words = picker.points, "_No two points yet_"
        if len(points) >= 2:
            units = float((points[-1] - points[-2]).norm()) * world.units_per_training
            words = f"Distance **{units:.4g} {world.world.unit}**"
        assign(distance, "content", words)
        assign(text, "content", world_text(desk))

    desk.on(pick.on_click, ask)
    desk.on(apply.on_click, set_length)
    desk.on(reset.on_click, forget)
    return show


def world_text(desk: Desk) -> str:
    """The frame in words, as markdown."""
    world = desk.room.world
    up = ", ".join(f"{value:.2f}" for value in world.up)
    x, y, z = (f"{value:.3g}" for value in world.origin.tolist())
    scale = f"1 scene unit = **{world.units_per_training:.4g} {world.world.unit}**"
    lines = [scale, f"Up ({up}) · zero at ({x}, {y}, {z}) of the scene"]
    if world.chosen is not None:
        lines.append("Kept with the run; every path, film and export carries it")
    return "  \n".join(lines)
