"""A slab of the scene: what lies before and behind it is not drawn."""

from __future__ import annotations

from ..desk import Desk
from ..looks import SLICE_AXES, Slice


def slice_panel(desk: Desk) -> None:
    """Axis, position, thickness."""
    gui, reach, look = desk.gui, desk.room.training_views.reach, desk.look.slice
    farthest = round(3 * reach, 3)
    step = max(round(reach / 200, 4), 1e-4)
    with gui.add_folder("Slice", expand_by_default=False):
        axis = gui.add_dropdown(
            "Across", SLICE_AXES, initial_value=look.axis, hint="The direction of the view, or an axis of the scene"
        )
        position = gui.add_slider(
            "Position", -farthest, farthest, step, min(max(look.position or reach, -farthest), farthest),
            hint="Distance from the eye, or coordinate",
        )  # fmt: skip
        thickness = gui.add_slider(
            "Thickness", step, farthest, step, min(max(look.thickness, step), farthest), hint="Of what is drawn"
        )

    def apply() -> None:
        desk.change(slice=Slice(axis.value, float(position.value), max(float(thickness.value), 1e-6)))

    for handle in (axis, position, thickness):
        desk.on(handle.on_update, apply)
