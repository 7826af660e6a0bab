"""One browser: who sits there, what it shows, its own copy of the controls."""

from __future__ import annotations

import dataclasses
import functools
import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import viser

from ..errors import UserError
from .gate import Visitor
from .looks import Look
from .memory import Place, Remembered
from .room import Room, RoomState
from .training_views import ShownCameras, Stand, go_to
from .views import View
from .viser_private import show_node, writes_to

if TYPE_CHECKING:
    from .path_editor import PathEditor

logger = logging.getLogger(__name__)

Refresh = Callable[[RoomState], None]
Panel = Callable[["Desk"], Refresh | None]
TABS: dict[str, viser.IconName] = {
    "View": viser.Icon.EYE,
    "Train": viser.Icon.ACTIVITY,
    "Path": viser.Icon.ROUTE,
    "Export": viser.Icon.FILE_EXPORT,
    "World": viser.Icon.WORLD,
}
"""Groups of controls, in this order; those without any are not shown."""


class Desk:
    """A browser and its controls. Handlers run in viser's threads, one at a time per desk.

    Args:
        client: viser's handle of the browser.
        visitor: Who sits there.
        room: What all browsers share.
    """

    def __init__(self, client: viser.ClientHandle, visitor: Visitor, room: Room) -> None:
        self.client, self.visitor, self.room = client, visitor, room
        remembered = room.memory.recall(visitor.session)
        self.look: Look = dataclasses.replace(remembered.look, pose=None, photo=None)
        self.cameras = ShownCameras(room.training_views, functools.partial(show_node, client))
        self.on_leave: list[Callable[[], None]] = []
        self.editor: PathEditor | None = None
        self.has_left = False
        self._view: View | None = None
        self._lock, self._view_lock = threading.RLock(), threading.Lock()
        self._refreshes: list[Refresh] = []
        self._tabs: viser.GuiTabGroupHandle | None = None
        self._tab: dict[str, viser.GuiTabHandle] = {}

    # -- for panels -----------------------------------------------------------------------------------------------

    @property
    def gui(self) -> viser.GuiApi:
        """The controls of this browser only."""
        return self.client.gui

    @property
    def scene(self) -> viser.SceneApi:
        """What is drawn in this browser only."""
        return self.client.scene

    @property
    def is_owner(self) -> bool:
        """Whether this visitor may steer training and make files."""
        return self.visitor.role == "owner"

    @property
    def view(self) -> View | None:
        """The newest camera of this browser with its look; None before the first."""
        return self._view

    @property
    def remembered(self) -> Remembered:
        """What is kept of this browser over a reload."""
        return self.room.memory.recall(self.visitor.session)

    def keep(self, **changes: object) -> None:
        """Remember parts of the state over a reload; see `Remembered`."""
        self.room.memory.keep(self.visitor.session, **changes)

    def change(self, **changes: Any) -> None:
        """Change how the scene is shown in this browser; see `Look`."""
        with self._view_lock:
            look = dataclasses.replace(self.look, **changes)
            if look == self.look:
                return
            self.look = look
            if self._view is not None:
                self._put(dataclasses.replace(self._view, look=look))
        self.keep(look=dataclasses.replace(look, pose=None, photo=None))

    def say(self, title: str, text: str = "", *, is_bad: bool = False) -> None:
        """Show a notice in this browser."""
        colour: Any = "red" if is_bad else None
        self.client.add_notification(title, text, auto_close_seconds=12.0 if is_bad else 6.0, color=colour)

    def on(self, register: Callable[[Callable[[Any], None]], object], action: Callable[[], None]) -> None:
        """Connect a handler: one at a time, and what goes wrong is shown here and ends nothing.

        Args:
            register: A handle's `on_click`, `on_update` or `on_upload`.
            action: Called when the visitor (and not the program) changed the control.
        """
        self.on_event(register, lambda event: action())

    def on_event(self, register: Callable[[Callable[[Any], None]], object], action: Callable[[Any], None]) -> None:
        """Like `on`, for handlers that look at the event."""

        def handler(event: Any) -> None:
            if getattr(event, "client_id", 0) is None:
                return  # viser also calls handlers for what the program assigned
            with self._lock:
                self.attempt(lambda: action(event))

        register(handler)

    def attempt(self, action: Callable[[], None]) -> None:
        """Do something on behalf of the visitor and show what goes wrong."""
        try:
            action()
        except UserError as error:
            self.say("That did not work", error.line, is_bad=True)
        except Exception:  # a control must not take the viewer down; the log keeps what went wrong
            logger.exception("a control failed")
            self.say("That did not work", "This is a mistake of the program; its log says more.", is_bad=True)

    def go_to(self, stand: Stand) -> None:
        """Move this browser's camera."""
        go_to(self.client, stand)

    def shown_jpeg(self) -> bytes | None:
        """The picture that this browser got last, as it was sent; None before the first."""
        return self.room.transport.last_jpeg(self.client.client_id)

    # -- for the server -------------------------------------------------------------------------------------------

    def add_panel(self, panel: Panel, tab: str) -> None:
        """Build a folder of controls in a tab. A faulty one is left out."""
        with self._lock:
            if self._tabs is None:
                self._tabs = self.gui.add_tab_group()
            if tab not in self._tab:
                self._tab[tab] = self._tabs.add_tab(tab, TABS.get(tab))
            try:
                with self._tab[tab]:
                    refresh = panel(self)
            except Exception:  # one faulty panel must not cost the others
                logger.exception("a panel could not be built")
                return
            if refresh is not None:
                self._refreshes.append(refresh)

    def refresh(self, state: RoomState) -> None:
        """Write the newest numbers into the controls."""
        with self._lock, writes_to(self.client):
            for refresh in list(self._refreshes):
                try:
                    refresh(state)
                except Exception:  # supervising loop: a panel's mistake must not stop the others
                    logger.exception("a panel could not be refreshed")
                    self._refreshes.remove(refresh)

    def camera_came(self, view: View) -> None:
        """Take a camera of this browser. Called for every message: only stores it. Runs on viser's event loop."""
        with self._view_lock:
            before, look = self._view, self.look
            if look.pose is not None and before is not None and not _same_place(before, view):
                look = self.look = dataclasses.replace(look, photo=None, pose=None)  # whoever moves looks around again
            self._put(dataclasses.replace(view, look=look))
        if before is None or before.position != view.position:
            self.cameras.stand_at(view.position)

    def remember_place(self) -> None:
        """Keep where the camera stands; called now and then."""
        camera = self.client.camera
        if self._view is None:
            return
        vectors = (camera.position, camera.look_at, camera.up_direction)
        position, look_at, up = (tuple(float(v) for v in vector) for vector in vectors)
        self.keep(place=Place(position, look_at, up, float(camera.fov)))  # type: ignore[arg-type]

    def leave(self) -> None:
        """Let go of what the desk holds beyond its browser."""
        self.has_left = True
        for action in self.on_leave:
            action()

    def _put(self, view: View) -> None:
        self._view = view
        self.room.scheduler.put_view(self.client.client_id, view)


def _same_place(a: View, b: View) -> bool:
    """Whether two views differ in nothing that a visitor moves (a resized window is no movement)."""
    return a.position == b.position and a.wxyz == b.wxyz


def assign(handle: object, name: str, value: object) -> None:
    """Set a property of a control only when it differs: every assignment is a message to the browser."""
    if getattr(handle, name) != value:
        setattr(handle, name, value)


class Written:
    """Writes values into controls, each only when it is another than the one written last.

    A control that the visitor has just changed keeps that value until its handler has seen it, whatever is refreshed
    in between.
    """

    def __init__(self) -> None:
        self._last: dict[int, object] = {}

    def write(self, handle: object, value: object) -> None:
        """Set the value of a control; the handle must live as long as this object."""
        if id(handle) not in self._last or self._last[id(handle)] != value:
            self._last[id(handle)] = value
            assign(handle, "value", value)
