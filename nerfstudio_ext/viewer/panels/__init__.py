"""The control panels: one function per folder of controls, one file per panel.

A panel is `panel(desk)`: it builds its controls in the browser of that desk and may return a function that writes the
newest numbers into them about once a second. Programs add their own through `ViewerServer.add_panel`.
"""

from __future__ import annotations

from ..training_views import Stand
from ..visitors import PanelPlace
from .capture import capture_panel
from .compare import compare_panel
from .crop import crop_panel
from .curves import curves_panel
from .exports import exports_panel
from .jobs import jobs_panel
from .output import output_panel
from .page import page_panel
from .path import path_panels
from .photos import photos_panel
from .render import render_panel
from .slice import slice_panel
from .training import training_panel
from .training_control import training_control_panel
from .world import world_panel


def default_panels(first_stand: Stand | None) -> list[PanelPlace]:
    """The panels of every viewer, in order.

    Args:
        first_stand: Where a visit begins.
    """
    return [
        PanelPlace(output_panel),
        PanelPlace(photos_panel),
        PanelPlace(crop_panel),
        PanelPlace(slice_panel),
        PanelPlace(compare_panel),
        PanelPlace(page_panel(first_stand)),
        PanelPlace(training_panel, "Train"),
        PanelPlace(training_control_panel, "Train", is_for_owner=True),
        PanelPlace(curves_panel, "Train"),
        PanelPlace(path_panels, "Path"),
        PanelPlace(render_panel, "Export", is_for_owner=True),
        PanelPlace(capture_panel, "Export", is_for_owner=True),
        PanelPlace(exports_panel, "Export", is_for_owner=True),
        PanelPlace(jobs_panel, "Export", is_for_owner=True),
        PanelPlace(world_panel, "World", is_for_owner=True),
    ]


__all__ = ["default_panels"]
