"""The private names of viser that the viewer leans on: a new version that renames one fails here, not on screen."""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import threading

import pytest
import viser
from viser import _messages
from viser.infra import _async_message_buffer, _infra

from nerfstudio_ext.viewer.gate import Gate
from nerfstudio_ext.viewer.server import make_viser
from nerfstudio_ext.viewer.viser_private import is_known_viser, quiet_viser


@pytest.fixture(scope="module")
def server():
    made = make_viser(Gate.fresh(0), "127.0.0.1", 0, "test")
    yield made
    with quiet_viser():
        made.stop()


def test_this_viser_was_tested():
    assert is_known_viser(), f"viser {viser.__version__}: check viser_private.py and add it to TESTED_VERSIONS"


def test_the_names_exist(server):
    assert isinstance(server._websock_server._live_connections, dict)
    assert server._event_loop.is_running()
    fields = {field.name for field in dataclasses.fields(_messages.BackgroundImageMessage)}
    assert {"format", "rgb_data", "depth_data"} <= fields
    assert "_websock_connection" in inspect.getsource(viser.ClientHandle.__init__)


def test_a_message_is_serialised_in_the_step_that_writes_it():
    """`ViserLink.send` places its ping by this: nothing may be awaited between serialising and sending."""
    source = inspect.getsource(_infra._message_producer)
    between = source[source.index("as_serializable_dict") : source.index("await websocket.send")]
    assert "await" not in between
    assert "flush_event" in inspect.getsource(_async_message_buffer.AsyncMessageBuffer)


def test_messages_queued_by_any_thread_wake_the_sender_on_its_own(server):
    outbox = server._websock_server.get_message_buffer()
    loop, woken = server._event_loop, threading.Event()

    async def sleeper() -> None:
        await outbox.message_event.wait()
        woken.set()

    async def forget() -> None:
        outbox.message_event.clear()

    asyncio.run_coroutine_threadsafe(forget(), loop).result(5)
    outbox.message_event.set()
    assert not outbox.message_event.is_set(), "another thread cannot touch what the loop's tasks wait for"
    waiting = asyncio.run_coroutine_threadsafe(sleeper(), loop)
    server.scene.set_up_direction((0.0, 0.0, 1.0))
    assert woken.wait(5), "what is queued reaches the sender all the same"
    waiting.result(5)


def test_nobody_can_publish_the_scene(server):
    handlers = server._websock_server._incoming_handlers
    assert _messages.ShareUrlRequest not in handlers and _messages.ShareUrlDisconnect not in handlers
    assert _messages.GuiUpdateMessage in handlers or handlers, "the others are still there"


def test_standard_output_stays_clean(capsys):
    made = make_viser(Gate.fresh(0), "127.0.0.1", 0, "test")
    with quiet_viser():
        made.stop()
    assert capsys.readouterr().out == ""
