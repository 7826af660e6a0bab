"""Where the camera stands, and how the page looks."""

from __future__ import annotations

from collections.abc import Callable

import viser

from ..desk import Desk, Refresh, assign
from ..room import RoomState
from ..training_views import Stand
from .style import CALM


def page_panel(first_stand: Stand | None) -> Callable[[Desk], Refresh]:
    """The panel of a viewer that begins at a stand."""

    def panel(desk: Desk) -> Refresh:
        gui = desk.gui
        with gui.add_folder("Camera and page"):
            home = gui.add_button("First view", icon=viser.Icon.HOME, color=CALM, visible=first_stand is not None)
            level = gui.add_button(
                "Level the camera", icon=viser.Icon.ARROW_UP, color=CALM, hint="Turn it so that up is up again"
            )
            light = gui.add_checkbox("Light page", not desk.remembered.is_dark)
            people = gui.add_markdown("")

        def dress() -> None:
            desk.keep(is_dark=not light.value)
            dress_page(desk)

        if first_stand is not None:
            desk.on(home.on_click, lambda: desk.go_to(first_stand))
        desk.on(level.on_click, lambda: setattr(desk.client.camera, "up_direction", desk.room.world.up))
        desk.on(light.on_update, dress)
        if not desk.remembered.is_dark:
            dress_page(desk)

        def refresh(state: RoomState) -> None:
            others = state.n_clients - 1
            who = "You may train and export" if desk.is_owner else "You may look around"
            company = "" if others < 1 else f" · {others} other browser{'s' if others > 1 else ''} connected"
            assign(people, "content", who + company)

        return refresh

    return panel


def dress_page(desk: Desk) -> None:
    """Dark or light, in this browser."""
    desk.gui.configure_theme(
        dark_mode=desk.remembered.is_dark,
        show_logo=False,
        show_share_button=False,
        brand_color=(255, 138, 76),
        control_width="large",
    )
