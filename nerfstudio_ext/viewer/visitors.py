"""Browsers that come, move their camera and leave."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
import viser
from jaxtyping import UInt8

from .desk import Desk, Panel
from .gate import Gate
from .room import Room, RoomState
from .training_views import Stand
from .views import View, checked_view
from .viser_private import ViserLink, visitor_of, writes_to

PATIENCE_S = 0.6
"""A browser that got no picture for so long is told that one is on its way."""


@dataclass(frozen=True)
class PanelPlace:
    """A panel, its tab, and whether only the owner gets it."""

    panel: Panel
    tab: str = "View"
    is_for_owner: bool = False


class Visitors:
    """Gives every browser a desk, a seat at the scheduler and a lane of the transport.

    viser's handlers run on its event loop and never wait: controls are built in threads of their own.

    Args:
        room: What they share.
        gate: Knows who they are.
        waiting: Makes the picture for a canvas of a given aspect while there is none of the scene; None when there is
            one. Told whether the browser has waited for a while.
    """

    def __init__(
        self, room: Room, gate: Gate, waiting: Callable[[float, bool], UInt8[np.ndarray, "H W 3"] | None]
    ) -> None:
        self.desks: dict[int, Desk] = {}
        self._room, self._gate, self._waiting = room, gate, waiting
        self._places: list[PanelPlace] = []
        self._builders = ThreadPoolExecutor(1, "nsx-desk")

    def open(self) -> None:
        """Let browsers in; those that wait already are served at once."""
        self._room.server.on_client_connect(self._connected)
        self._room.server.on_client_disconnect(self._disconnected)

    def add_panel(self, place: PanelPlace) -> None:
        """Add a panel to every desk, present and future."""
        self._places.append(place)
        for desk in list(self.desks.values()):
            self._builders.submit(self._build, desk, [place])

    def refresh(self, state: RoomState) -> None:
        """Write the newest numbers into every desk."""
        for desk in list(self.desks.values()):
            desk.refresh(state)
            desk.remember_place()

    def close(self) -> None:
        """Wait until no desk is being built."""
        for desk in list(self.desks.values()):
            desk.leave()
        self._builders.shutdown(wait=True, cancel_futures=True)

    async def _connected(self, client: viser.ClientHandle) -> None:
        client_id = client.client_id
        visitor = visitor_of(self._room.server, self._gate, client_id)
        if visitor is None:
            return  # it has gone again
        scheduler, transport = self._room.scheduler, self._room.transport
        desk = Desk(client, visitor, self._room)
        self.desks[client_id] = desk
        link = ViserLink(self._room.server, client)
        lane = transport.add_client(client_id, link, lambda: scheduler.newest_seq(client_id))
        scheduler.add_client(client_id, lane)
        pinged_at = time.perf_counter()
        link.ping(lambda: lane.note_round_trip(time.perf_counter() - pinged_at))

        @client.camera.on_update
        async def _(camera: viser.CameraHandle) -> None:
            self._camera_came(desk, camera)

        # A tab left open from the last run connects before these handlers exist; its camera came then, and no other
        # will come until it moves.
        view = self._camera_came(desk, client.camera)
        aspect = 1.0 if view is None else view.width / view.height
        self._offer_waiting(client_id, aspect)
        # A finished run may take seconds for its first picture, while kernels are loaded.
        asyncio.get_running_loop().call_later(PATIENCE_S, self._offer_waiting, client_id, aspect, True)
        self._builders.submit(self._welcome, desk)

    def _offer_waiting(self, client_id: int, aspect: float, is_late: bool = False) -> None:
        """Show that the first picture is on its way, if nothing else is there to show."""
        transport = self._room.transport
        picture = self._waiting(aspect, is_late) if transport.last_jpeg(client_id) is None else None
        if picture is not None:
            transport.offer(client_id, picture)

    def _welcome(self, desk: Desk) -> None:
        place = desk.remembered.place
        if place is not None:
            position, look_at = (torch.tensor(v, dtype=torch.float64) for v in (place.position, place.look_at))
            with writes_to(desk.client):
                desk.attempt(lambda: desk.go_to(Stand(position, look_at, place.fov_y)))
        self._build(desk, self._places)

    def _build(self, desk: Desk, places: list[PanelPlace]) -> None:
        with writes_to(desk.client):
            for place in list(places):
                if not desk.has_left and (desk.is_owner or not place.is_for_owner):
                    desk.add_panel(place.panel, place.tab)

    def _camera_came(self, desk: Desk, camera: viser.CameraHandle) -> View | None:
        """Only stores the camera: viser calls this for every message of every browser."""
        view = checked_view(camera.position, camera.wxyz, camera.fov, camera.image_width, camera.image_height)
        if view is not None:
            desk.camera_came(view)
        return view

    async def _disconnected(self, client: viser.ClientHandle) -> None:
        desk = self.desks.pop(client.client_id, None)
        self._room.scheduler.remove_client(client.client_id)
        self._room.transport.remove_client(client.client_id)
        if desk is not None:
            with contextlib.suppress(RuntimeError):  # the viewer is being closed and lets go of all desks itself
                self._builders.submit(desk.leave)
