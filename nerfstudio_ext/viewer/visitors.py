"""Browsers that come, move their camera and leave."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import viser
from jaxtyping import UInt8

from .scheduler import Scheduler
from .training_views import TrainingViews
from .transport import Transport
from .views import checked_view
from .viser_private import ViserLink


class Visitors:
    """Seats every browser at the scheduler and the transport. All handlers run on viser's event loop and never wait.

    Args:
        server: The running server.
        scheduler: Gets the cameras.
        transport: Gets a lane per browser.
        training_views: Frustums in which a browser stands are hidden.
        waiting: Makes the picture for a canvas of a given aspect while there is no scene; None when there is one.
    """

    def __init__(
        self,
        server: viser.ViserServer,
        scheduler: Scheduler,
        transport: Transport,
        training_views: TrainingViews,
        waiting: Callable[[float], UInt8[np.ndarray, "H W 3"] | None],
    ) -> None:
        self.positions: dict[int, tuple[float, float, float]] = {}
        self._server = server
        self._scheduler = scheduler
        self._transport = transport
        self._training_views = training_views
        self._waiting = waiting
        server.on_client_connect(self._connected)
        server.on_client_disconnect(self._disconnected)

    async def _connected(self, client: viser.ClientHandle) -> None:
        client_id = client.client_id
        link = ViserLink(self._server, client)
        lane = self._transport.add_client(client_id, link, lambda: self._scheduler.newest_seq(client_id))
        self._scheduler.add_client(client_id, lane)
        pinged_at = time.perf_counter()
        link.ping(lambda: lane.note_round_trip(time.perf_counter() - pinged_at))

        @client.camera.on_update
        async def _(camera: viser.CameraHandle) -> None:
            self._camera_came(client_id, camera)

        # A tab left open from the last run connects before these handlers exist; its camera came then, and no other
        # will come until it moves.
        self._camera_came(client_id, client.camera)
        picture = self._waiting(client.camera.aspect)
        if picture is not None:
            self._transport.offer(client_id, picture)

    def _camera_came(self, client_id: int, camera: viser.CameraHandle) -> None:
        """Only stores the camera: viser calls this for every message of every browser."""
        view = checked_view(camera.position, camera.wxyz, camera.fov, camera.image_width, camera.image_height)
        if view is None:
            return
        self._scheduler.put_view(client_id, view)
        if self.positions.get(client_id) != view.position:
            self.positions[client_id] = view.position
            self._training_views.hide_near(list(self.positions.values()))

    async def _disconnected(self, client: viser.ClientHandle) -> None:
        self._scheduler.remove_client(client.client_id)
        self._transport.remove_client(client.client_id)
        self.positions.pop(client.client_id, None)
