"""The private names of viser 1.1 that the viewer needs, all in this one file.

viser's public interface can send a picture but cannot say when it was received, how many bytes it
took, or refuse its share service. `tests/viewer/test_viser_private.py` fails when a new viser
version renames something here.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import http
import io
import logging
import threading
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import viser
import websockets.asyncio.server
from viser import _gui_api, _gui_handles, _messages
from viser import _icons as _viser_icons
from viser.infra import _async_message_buffer, _infra
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from ..errors import printable
from .gate import NO_FRAMES, Answer, Gate, Visitor
from .incoming import MAX_CLIENTS, MAX_MESSAGE_BYTES, IncomingGuard

logger = logging.getLogger(__name__)

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


_building = threading.Lock()
"""Only one server at a time may be made while the serving function is wrapped."""
SHARED_MESSAGES = (
    _messages.SceneNodeClickMessage,
    _messages.ScenePointerMessage,
)
"""What may reach handlers that all browsers share; controls belong to one browser each."""


def gated_server(gate: Gate, host: str, port: int, label: str) -> viser.ViserServer:
    """A viser server that asks the gate about every request and checks every message.

    viser offers no place for this, so the function by which it listens is wrapped while the server is made. Until
    the message checks are in place every visitor is told to come back.
    """
    is_ready = threading.Event()
    noted: set[int] = set()
    n_open: dict[str, Callable[[], int]] = {}
    serve = websockets.asyncio.server.serve

    @functools.wraps(serve)
    def gated_serve(*args: Any, **options: Any) -> Any:
        answer_page = options["process_request"]

        def process_request(connection: Any, request: Request) -> Response | None:
            is_full = is_ready.is_set() and n_open["count"]() >= MAX_CLIENTS
            refused = _refusal(gate, request, is_ready.is_set(), is_full)
            if refused is not None:
                _note_refusal(refused, request, noted)
                return refused
            page: Response | None = answer_page(connection, request)
            if page is not None:
                for name, value in NO_FRAMES.items():
                    page.headers[name] = value
            return page

        return serve(*args, **(options | {"process_request": process_request, "max_size": MAX_MESSAGE_BYTES}))

    with _building, quiet_viser():
        websockets.asyncio.server.serve = gated_serve  # type: ignore[misc, assignment]
        try:
            server = viser.ViserServer(host=host, port=port, label=label, verbose=False)
        finally:
            websockets.asyncio.server.serve = serve  # type: ignore[misc]
    refuse_sharing(server)
    _guard_messages(server)
    n_open["count"] = lambda: len(server._websock_server._live_connections)
    is_ready.set()
    return server


def writes_to(client: viser.ClientHandle) -> contextlib.AbstractContextManager[Any]:
    """Groups what is sent to a browser, and is silent where it has just gone."""
    stack = contextlib.ExitStack()
    stack.enter_context(client._websock_connection.get_message_buffer().sanctioned_dead_writes())
    stack.enter_context(client.atomic())
    return stack


def show_node(client: viser.ClientHandle, name: str, is_shown: bool) -> None:
    """Show or hide a node of the shared scene in one browser only."""
    client._websock_connection.queue_message(_messages.SetSceneNodeVisibilityMessage(name, is_shown))


def visitor_of(server: viser.ViserServer, gate: Gate, client_id: int) -> Visitor | None:
    """Who sits before a browser, by the cookie its WebSocket came with; None when it has gone."""
    connection = server._websock_server._live_connections.get(client_id)
    request = None if connection is None else connection.request
    return None if request is None else gate.visitor(request.headers.get_all("Cookie"))


def _refusal(gate: Gate, request: Request, is_ready: bool, is_full: bool) -> Response | None:
    headers = request.headers
    is_websocket = "Upgrade" in headers
    answer = gate.answer(
        request.path,
        headers.get_all("Host"),
        headers.get_all("Origin"),
        headers.get_all("Cookie"),
        is_websocket=is_websocket,
    )
    if answer is None and not is_ready:
        answer = Answer(503, "The viewer is starting.")
    if answer is None and is_websocket and is_full:
        answer = Answer(503, f"{MAX_CLIENTS} browsers are connected; no more fit.")
    if answer is None:
        return None
    status, body = http.HTTPStatus(answer.status), answer.text.encode()
    kind = {"Content-Type": "text/plain; charset=utf-8", "Content-Length": str(len(body)), "Cache-Control": "no-store"}
    return Response(status, status.phrase, Headers([*kind.items(), *NO_FRAMES.items(), *answer.headers]), body)


def _note_refusal(refused: Response, request: Request, noted: set[int]) -> None:
    """Tell of the first refusal of each kind; a scanner must not fill the log."""
    if refused.status_code in noted or refused.status_code not in (401, 403):
        return
    noted.add(refused.status_code)
    named = [f"{name} {printable(value, 80)}" for name in ("Host", "Origin") for value in request.headers.get_all(name)]
    # Whoever forgets the key is no stranger yet; a page of another site, or a foreign name, is.
    level = logging.WARNING if refused.status_code == 403 else logging.INFO
    logger.log(level, "the viewer refused a visitor (%d): %s", refused.status_code, ", ".join(named) or "no Host")


def _guard_messages(server: viser.ViserServer) -> None:
    """Let only checked messages reach the handlers."""
    shared = server._websock_server
    handle_shared = shared._handle_incoming_message

    async def handle(client_id: Any, message: Any) -> None:
        if isinstance(message, SHARED_MESSAGES):
            await handle_shared(client_id, message)

    shared._handle_incoming_message = handle  # type: ignore[method-assign]

    def guard(connection: Any) -> None:
        handlers = connection._incoming_handlers.get(_messages.GuiUpdateMessage, ())
        controls = handlers[0].__self__._gui_input_handle_from_uuid
        handle_own, number = connection._handle_incoming_message, connection.client_id

        def tell(text: str) -> None:
            client = server.get_clients().get(number)
            if client is not None:
                client.add_notification("The file is not taken", text, auto_close_seconds=12.0, color="red")

        connection._handle_incoming_message = IncomingGuard(handle_own, controls.get, tell)

    shared.on_client_connect(guard)


def refuse_sharing(server: viser.ViserServer) -> None:
    """Take away the handlers by which any connected page could publish the scene through a third party."""
    for message in (_messages.ShareUrlRequest, _messages.ShareUrlDisconnect):
        server._websock_server.unregister_handler(message)


@functools.cache
def _icons() -> tuple[zipfile.ZipFile, threading.Lock]:
    return zipfile.ZipFile(_viser_icons.ICONS_DIR / "tabler-icons.zip"), threading.Lock()


@functools.cache
def _icon(name: str) -> str:
    archive, lock = _icons()
    with lock:
        return archive.read(f"{name}.svg").decode("utf-8")


def quick_icons() -> None:
    """Let viser open its archive of icons once and not for each icon: with twenty of them the first visitor would wait
    two seconds for the controls."""
    for module in (_gui_api, _gui_handles):
        module.svg_from_icon = _icon  # type: ignore[attr-defined]


def hush_handshakes() -> None:
    """Keep the WebSocket library from logging a traceback for every visitor that is no browser (port scans, probes)."""
    logging.getLogger("websockets.server").setLevel(logging.CRITICAL)


class _EventOfLoop(asyncio.Event):
    """An event that only the thread of its loop can set; from other threads `set` does nothing.

    Args:
        loop: The loop whose tasks wait.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._own_loop = loop

    def set(self) -> None:
        """Wake whoever waits."""
        with contextlib.suppress(RuntimeError):  # no loop runs in this thread
            if asyncio.get_running_loop() is self._own_loop:
                super().set()


class _Outbox(_async_message_buffer.AsyncMessageBuffer):
    """viser's queue of messages to a browser, safe to fill from any thread.

    viser wakes its sender twice: in place, which from another thread fails now and then ("deque mutated during
    iteration") in the middle of whatever changed a control, and through the loop. The second does it alone.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.message_event = _EventOfLoop(self.event_loop)


def safe_outboxes() -> None:
    """Let all servers from now on queue their messages safely."""
    _infra.AsyncMessageBuffer = _Outbox  # type: ignore[misc]


@contextlib.contextmanager
def quiet_viser() -> Iterator[None]:
    """Swallow the banners viser prints on stdout when it starts and stops; stdout may be a JSON stream."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield
