"""A box outside of which nothing is drawn."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import viser.transforms

from ..desk import Desk, assign
from ..looks import Crop
from .style import CALM

LEAST_EDGE = 1e-4


def crop_panel(desk: Desk) -> None:
    """Centre, size, rotation by number or by gizmo."""
    gui = desk.gui
    edge = rounded(1.2 * desk.room.training_views.reach)
    x, y, z = (rounded(value) for value in desk.room.training_views.focus.tolist())
    whole = Crop((x, y, z), (edge, edge, edge))
    start = desk.look.crop or whole
    with gui.add_folder("Crop", expand_by_default=False):
        on = gui.add_checkbox("Crop to a box", desk.look.crop is not None, hint="Films and exports use it as well")
        moves = gui.add_checkbox("Move by gizmo", True, hint="Arrows move, arcs turn the box in the scene")
        center = gui.add_vector3("Centre", start.center, step=0.01)
        size = gui.add_vector3("Size", start.size, step=0.01, hint="Edge lengths")
        turn = gui.add_vector3("Rotation", _degrees(start), step=1.0, hint="Roll, pitch, yaw in degrees")
        reset = gui.add_button("Reset box", color=CALM)
    tools = _Tools(desk)

    def crop_now() -> Crop:
        roll, pitch, yaw = (math.radians(float(v)) for v in turn.value)
        wxyz = tuple(viser.transforms.SO3.from_rpy_radians(roll, pitch, yaw).wxyz.tolist())
        x, y, z = (float(v) for v in center.value)
        edges = tuple(max(LEAST_EDGE, abs(float(v))) for v in size.value)
        return Crop((x, y, z), edges, wxyz)  # type: ignore[arg-type]

    def apply() -> None:
        crop = crop_now() if on.value else None
        desk.change(crop=crop)
        tools.show(crop, with_gizmo=moves.value)

    def dragged() -> None:
        if tools.gizmo is None:
            return
        assign(center, "value", tuple(rounded(float(v)) for v in tools.gizmo.position))
        crop = dataclasses.replace(crop_now(), wxyz=tuple(float(v) for v in tools.gizmo.wxyz))  # type: ignore[arg-type]
        assign(turn, "value", _degrees(crop))
        desk.change(crop=crop)
        tools.move_box(crop)

    def back() -> None:
        for handle, value in ((center, whole.center), (size, whole.size), (turn, (0.0, 0.0, 0.0))):
            assign(handle, "value", value)
        apply()

    tools.on_drag = dragged
    for handle in (on, moves, center, size, turn):
        desk.on(handle.on_update, apply)
    desk.on(reset.on_click, back)
    if desk.look.crop is not None:
        tools.show(desk.look.crop, with_gizmo=True)


class _Tools:
    """The drawn box and its gizmo."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self.gizmo: viser.TransformControlsHandle | None = None
        self._box: viser.BoxHandle | None = None
        self.on_drag = lambda: None

    def show(self, crop: Crop | None, *, with_gizmo: bool) -> None:
        scene = self._desk.scene
        for handle in (self.gizmo, self._box):
            if handle is not None:
                handle.remove()
        self.gizmo = self._box = None
        if crop is None:
            return
        self._box = scene.add_box(
            "/crop/box", (255, 138, 76), crop.size, wireframe=True, wxyz=crop.wxyz, position=crop.center,
            cast_shadow=False, receive_shadow=False,
        )  # fmt: skip
        if with_gizmo:
            self.gizmo = scene.add_transform_controls(
                "/crop/gizmo", scale=0.35 * self._desk.room.training_views.reach, depth_test=False, line_width=3.0,
                wxyz=crop.wxyz, position=crop.center,
            )  # fmt: skip
            self._desk.on(self.gizmo.on_update, lambda: self.on_drag())

    def move_box(self, crop: Crop) -> None:
        if self._box is not None:
            self._box.position, self._box.wxyz = crop.center, crop.wxyz


def _degrees(crop: Crop) -> tuple[float, float, float]:
    angles = viser.transforms.SO3(np.array(crop.wxyz)).as_rpy_radians()
    roll, pitch, yaw = (round(math.degrees(float(a)), 2) for a in (angles.roll, angles.pitch, angles.yaw))
    return roll, pitch, yaw


def rounded(value: float) -> float:
    """A length as it fits into its field; zero without a sign."""
    return round(value, 3) + 0.0
