"""The private names of viser 1.1 that the viewer needs, all in this one file.

viser's public interface can send a picture but cannot say when it was received, how many bytes it
took, or refuse its share service. `tests/viewer/test_viser_private.py` fails when a new viser
version renames something here.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
from collections.abc import Callable, Iterator
from typing import Any

import viser
from viser import _messages
from websockets.exceptions import ConnectionClosed

TESTED_VERSIONS = ("1.1.",)
"""Versions these names were tested with."""


def is_known_viser() -> bool:
    """True when the installed viser is one that this file was written for."""
    return viser.__version__.startswith(TESTED_VERSIONS)


class ViserLink:
    """The way to one browser: pictures out, an answer when they arrived.

    Args:
        server: The running server.
        client: The browser.
    """

    def __init__(self, server: viser.ViserServer, client: viser.ClientHandle) -> None:
        self._client = client
        self._loop: asyncio.AbstractEventLoop = server._event_loop
        self._connection = server._websock_server._live_connections.get(client.client_id)

    def send(self, jpeg: bytes, depth_png: bytes | None, on_ack: Callable[[], None]) -> None:
        """Send a background picture at once and call `on_ack` (on viser's thread) when it arrived.

        The ping must follow the picture on the wire, or its pong would acknowledge the picture
        before. viser serialises a message in the very step of its event loop that writes it, so the
        ping is scheduled from there. Never called back when the browser has gone.
        """
        message = _messages.BackgroundImageMessage(format="jpeg", rgb_data=jpeg, depth_data=depth_png)
        serialise = message.as_serializable_dict

        def serialise_and_ping(binary_buffers: list[memoryview] | None = None) -> dict[str, Any]:
            self._loop.call_soon(self._start_ping, on_ack)
            return serialise(binary_buffers)

        message.as_serializable_dict = serialise_and_ping  # type: ignore[method-assign, assignment]
        # On viser's own thread: its queue wakes an asyncio event in place, which from another thread fails now and
        # then ("deque mutated during iteration").
        call_on_loop(self._loop, lambda: self._queue(message))

    def ping(self, on_ack: Callable[[], None]) -> None:
        """Measure the round trip of an idle link."""
        call_on_loop(self._loop, lambda: self._start_ping(on_ack))

    def _queue(self, message: _messages.BackgroundImageMessage) -> None:
        connection = self._client._websock_connection
        with connection.get_message_buffer().sanctioned_dead_writes():  # the browser may just have gone
            connection.queue_message(message)
        self._client.flush()

    def _start_ping(self, on_ack: Callable[[], None]) -> None:
        task = self._loop.create_task(self._ping(on_ack))
        _pending.add(task)
        task.add_done_callback(_pending.discard)

    async def _ping(self, on_ack: Callable[[], None]) -> None:
        if self._connection is None:
            return
        try:
            pong = await self._connection.ping()
            await pong
        except (ConnectionClosed, OSError):
            return  # the browser is gone; viser tells the server so itself
        on_ack()


_pending: set[asyncio.Task[None]] = set()
"""asyncio keeps only weak references to tasks: hold them until they are done."""


def call_on_loop(loop: asyncio.AbstractEventLoop, function: Callable[[], None]) -> None:
    """Run a function on viser's thread soon; nothing happens when the server has stopped."""
    with contextlib.suppress(RuntimeError):  # the loop is closed
        loop.call_soon_threadsafe(function)


def notify_all(server: viser.ViserServer, title: str, text: str) -> None:
    """Show a notice in every browser."""

    def show() -> None:
        for client in server.get_clients().values():
            client.add_notification(title, text, auto_close_seconds=15.0, color="red")

    call_on_loop(server._event_loop, show)


def refuse_sharing(server: viser.ViserServer) -> None:
    """Take away the handlers by which any connected page could publish the scene through a third party."""
    for message in (_messages.ShareUrlRequest, _messages.ShareUrlDisconnect):
        server._websock_server.unregister_handler(message)


def hush_handshakes() -> None:
    """Keep the WebSocket library from logging a traceback for every visitor that is no browser (port scans, probes)."""
    logging.getLogger("websockets.server").setLevel(logging.CRITICAL)


@contextlib.contextmanager
def quiet_viser() -> Iterator[None]:
    """Swallow the banners viser prints on stdout when it starts and stops; stdout may be a JSON stream."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield
