"""PSNR and loss over the steps."""

from __future__ import annotations

import numpy as np
import viser
import viser.uplot

from ..desk import Desk, Refresh, assign
from ..room import RoomState
from .style import ACCENT, COOL


def curves_panel(desk: Desk) -> Refresh:
    """PSNR and loss over the steps."""
    gui = desk.gui
    drawn = [-1]
    with gui.add_folder("Curves", visible=False) as folder:
        psnr = _add_plot(gui, "PSNR of training rays (dB)", ACCENT)
        loss = _add_plot(gui, "Loss (log scale)", COOL, is_log=True)

    def refresh(state: RoomState) -> None:
        history = desk.room.history
        if history.last_step == drawn[0]:
            return
        drawn[0] = history.last_step
        for plot, curve in ((psnr, history.psnr), (loss, history.loss)):
            steps, values = curve.arrays()
            if len(steps) > 1:
                plot.data = (steps, values)
                assign(folder, "visible", True)

    return refresh


def _add_plot(gui: viser.GuiApi, title: str, colour: str, is_log: bool = False) -> viser.GuiUplotHandle:
    axis: viser.uplot.Axis = {"stroke": "#9aa0aa", "grid": {"stroke": "#33363d", "width": 1}, "size": 42}
    bottom: viser.uplot.Axis = {"stroke": "#9aa0aa", "grid": {"stroke": "#33363d", "width": 1}, "size": 28}
    scale: viser.uplot.Scale = {"distr": 3} if is_log else {}
    return gui.add_uplot(
        data=(np.array([0.0, 1.0]), np.array([1.0, 1.0])),
        series=({"label": "step"}, {"stroke": colour, "width": 2, "points": {"show": False}}),
        title=title,
        scales={"x": {"time": False}, "y": scale},
        axes=(bottom, axis),
        legend={"show": False},
        height=130,
        padding=(10, 8, 0, 0),
    )
