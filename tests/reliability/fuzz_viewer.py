"""What a stranger can send to the viewer: messages on its WebSocket, HTTP requests, and the content of an upload."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from viser import _messages

from nerfstudio_ext.camera_paths import camera_path_from_bytes, draft_from_path
from nerfstudio_ext.errors import UserError
from nerfstudio_ext.viewer.gate import Gate
from nerfstudio_ext.viewer.incoming import IncomingGuard
from nerfstudio_ext.viewer.views import checked_view
from tests.reliability import fuzz_runs

GATE = Gate(b"s" * 32, 7007)


@dataclass
class Control:
    """A control as the guard sees it."""

    value: Any
    min: float | None = None
    max: float | None = None
    options: tuple[str, ...] | None = None
    disabled: bool = False
    visible: bool = True


CONTROLS = {
    "slider": Control(0.5, 0.0, 1.0), "check": Control(True), "text": Control("abc"),
    "vector": Control((0.0, 1.0, 2.0)), "choice": Control("a", options=("a", "b")),
    "upload": Control(None), "number": Control(3),
}  # fmt: skip
_MESSAGES: dict[str, dict[str, Any]] = {
    "camera": {"type": "ViewerCameraMessage", "wxyz": [1.0, 0.0, 0.0, 0.0], "position": [0.0, 0.0, 1.0], "fov": 0.8,
               "near": 0.01, "far": 100.0, "image_height": 480, "image_width": 640, "look_at": [0.0, 0.0, 0.0],
               "up_direction": [0.0, 0.0, 1.0]},
    "slider": {"type": "GuiUpdateMessage", "uuid": "slider", "updates": {"value": 0.7}},
    "vector": {"type": "GuiUpdateMessage", "uuid": "vector", "updates": {"value": [1.0, 2.0, 3.0]}},
    "choice": {"type": "GuiUpdateMessage", "uuid": "choice", "updates": {"value": "b"}},
    "start": {"type": "FileTransferStartUpload", "source_component_uuid": "upload", "transfer_uuid": "t",
              "filename": "../../x", "mime_type": "application/json", "part_count": 2, "size_bytes": 100},
    "part": {"type": "FileTransferPart", "source_component_uuid": "upload", "transfer_uuid": "t", "part_index": 0,
             "content": "0123456789"},
}  # fmt: skip
_REQUESTS = {
    "page": {"path": f"/?token={GATE.token('owner')}", "hosts": ["localhost:7007"], "origins": [], "cookies": []},
    "socket": {"path": "/", "hosts": ["127.0.0.1:7007"], "origins": ["http://127.0.0.1:7007"],
               "cookies": [GATE.cookie("watcher", "0" * 32)]},
    "other": {"path": "/x", "hosts": ["[::1]:7007"], "origins": ["http://[::1]:7007"], "cookies": ["a=b; nsx-7007=c"]},
}  # fmt: skip


def make_messages(folder: Path) -> tuple[str, ...]:
    """JSON of each message; it travels as msgpack, which `read_message` makes of it."""
    for name, message in _MESSAGES.items():
        (folder / f"{name}.json").write_text(json.dumps(message))
    return tuple(f"{name}.json" for name in _MESSAGES)


def read_message(folder: Path) -> None:
    """As viser takes a message apart and the guard judges it; what is not a message at all closes the connection."""
    path = max(folder.glob("*.json"), key=lambda p: p.stat().st_mtime_ns)
    try:
        raw = msgspec.msgpack.encode(json.loads(path.read_bytes()))
    except (ValueError, RecursionError, OverflowError):
        raw = path.read_bytes()  # then the bytes themselves are what is sent
    try:
        message = _messages.Message.deserialize(raw)
    except Exception:  # noqa: BLE001 - viser's own reader, which ends this one connection whatever it raises
        raise UserError("not a message") from None
    passed: list[Any] = []

    async def handle(client_id: int, message: Any) -> None:
        passed.append(message)

    guard = IncomingGuard(handle, lambda uuid: CONTROLS.get(uuid))
    _finish(guard(1, message))
    if isinstance(message, _messages.ViewerCameraMessage):
        view = checked_view(message.position, message.wxyz, message.fov, message.image_width, message.image_height)
        if view is not None:
            view.camera(128)
    elif passed and isinstance(message, _messages.GuiUpdateMessage):
        assert set(message.updates) == {"value"}, "only values may change"
    if not passed:
        raise UserError("dropped")


def make_requests(folder: Path) -> tuple[str, ...]:
    for name, request in _REQUESTS.items():
        (folder / f"{name}.json").write_text(json.dumps(request))
    return tuple(f"{name}.json" for name in _REQUESTS)


def read_request(folder: Path) -> None:
    """As the gate judges a request; whoever is not let in counts as refused."""
    path = max(folder.glob("*.json"), key=lambda p: p.stat().st_mtime_ns)
    try:
        request = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        request = {"path": path.read_bytes().decode("latin-1")}
    request = request if isinstance(request, dict) else {}

    def texts(name: str) -> list[str]:
        value = request.get(name)
        # HTTP/1.1 headers are bytes that the server reads as latin-1; no other characters reach the gate.
        return [str(v).encode("latin-1", "replace").decode("latin-1") for v in value] if isinstance(value, list) else []

    where = str(request.get("path")).encode("latin-1", "replace").decode("latin-1")
    headers = texts("hosts"), texts("origins"), texts("cookies")
    for is_websocket in (False, True):
        answer = GATE.answer(where, *headers, is_websocket=is_websocket)
        if answer is None:
            assert GATE.visitor(headers[2]) is not None, "nobody comes in without a cookie"
    if answer is not None:
        raise UserError(answer.text)


def read_upload(path: Path) -> None:
    """As the viewer opens an uploaded camera path."""
    draft_from_path(camera_path_from_bytes(path.read_bytes(), fuzz_runs.FRAME, where="the uploaded file"))


def _finish(coroutine: Any) -> None:
    try:
        coroutine.send(None)
    except StopIteration:
        return
    raise AssertionError("the guard waited for something")
