"""A browser tab without a browser: speaks viser's wire format and records the pictures it gets."""

from __future__ import annotations

import contextlib
import functools
import http.client
import io
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import msgspec.msgpack
import numpy as np
import torch
import viser
import viser.transforms
import zstandard
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

UP = (0.0, 0.0, 1.0)


@dataclass
class Received:
    """A picture as it arrived.

    Attributes:
        at: When, on the clock of `time.perf_counter`.
        jpeg: The picture.
        depth_png: Its depth, if any came.
    """

    at: float
    jpeg: bytes
    depth_png: bytes | None

    @property
    def n_bytes(self) -> int:
        """Size of the picture on the wire."""
        return len(self.jpeg)

    @functools.cached_property
    def rgb(self) -> UInt8[np.ndarray, "H W 3"]:
        """Its pixels."""
        return np.asarray(Image.open(io.BytesIO(self.jpeg)))


def cookie_from(link: str) -> str:
    """The cookie that a printed link is exchanged for.

    Raises:
        PermissionError: if the link is not valid.
    """
    parts = urlsplit(link)
    connection = http.client.HTTPConnection(parts.hostname or "127.0.0.1", parts.port or 80, timeout=10)
    try:
        connection.request("GET", f"{parts.path}?{parts.query}")
        answer = connection.getresponse()
        if answer.status != 302:
            raise PermissionError(f"the link was refused: {answer.status}")
        return (answer.getheader("Set-Cookie") or "").partition(";")[0]
    finally:
        connection.close()


@dataclass
class FakeBrowser:
    """A browser tab.

    Args:
        port: Where to connect.
        cookie: `name=value` that opens the gate.
        headers: Further headers of the handshake.
    """

    port: int
    cookie: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    connection: ClientConnection = field(init=False)
    pictures: list[Received] = field(init=False, default_factory=list)
    messages: list[dict[str, Any]] = field(init=False, default_factory=list)
    arrived: threading.Condition = field(init=False, default_factory=threading.Condition)

    def __post_init__(self) -> None:
        self.connection = connect(
            f"ws://127.0.0.1:{self.port}",
            subprotocols=[f"viser-v{viser.__version__}"],  # type: ignore[list-item]
            additional_headers=self.headers | ({"Cookie": self.cookie} if self.cookie else {}),
            compression=None,
            max_size=None,
        )
        self._thread = threading.Thread(target=self._receive, name="fake-browser", daemon=True)
        self._thread.start()

    def look(
        self,
        position: tuple[float, ...] = (2.6, 0.0, 1.1),
        wxyz: tuple[float, ...] | None = None,
        fov: float = 0.9,
        size: tuple[int, int] = (640, 400),
    ) -> None:
        """Send a camera; by default one that looks at the origin."""
        if wxyz is None:
            rotation = look_from(position)[:, :3].numpy()
            wxyz = tuple(viser.transforms.SO3.from_matrix(rotation).wxyz.tolist())
        self.send(
            "ViewerCameraMessage",
            wxyz=wxyz,
            position=position,
            fov=fov,
            near=0.01,
            far=1000.0,
            image_height=size[1],
            image_width=size[0],
            look_at=(0.0, 0.0, 0.0),
            up_direction=UP,
        )

    def send(self, type_name: str, **values: Any) -> None:
        """Send any message."""
        self.connection.send(msgspec.msgpack.encode({"type": type_name, **values}))

    def control(self, kind: str, label: str, timeout: float = 10.0) -> str:
        """The id of a control on the page, by the kind of its message and its label; waits until it is built."""
        end = time.perf_counter() + timeout
        while time.perf_counter() < end:
            for message in list(self.messages):
                if message["type"] == f"Gui{kind}Message" and message["props"].get("label") == label:
                    return str(message["uuid"])
            time.sleep(0.02)
        raise TimeoutError(f"no {kind} '{label}' on the page")

    def set(self, kind: str, label: str, value: Any) -> None:
        """Change a control as a visitor would."""
        self.send("GuiUpdateMessage", uuid=self.control(kind, label), updates={"value": value})

    def click(self, label: str) -> None:
        """Press a button."""
        self.set("Button", label, True)

    def wait(self, n: int = 1, timeout: float = 20.0) -> Received:
        """Wait until so many pictures came in all; the last one."""
        with self.arrived:
            if not self.arrived.wait_for(lambda: len(self.pictures) >= n, timeout):
                raise TimeoutError(f"{len(self.pictures)} of {n} pictures after {timeout} s")
            return self.pictures[-1]

    def wait_for(self, condition: Callable[[Received], bool], timeout: float = 20.0) -> Received:
        """Wait for a picture that fulfils a condition."""
        with self.arrived:
            if not self.arrived.wait_for(lambda: any(map(condition, self.pictures)), timeout):
                raise TimeoutError(f"no such picture among {len(self.pictures)} after {timeout} s")
            return next(p for p in self.pictures if condition(p))

    def wait_message(self, condition: Callable[[dict[str, Any]], bool], timeout: float = 20.0) -> dict[str, Any]:
        """Wait for a message that is no picture."""
        end = time.perf_counter() + timeout
        while time.perf_counter() < end:
            for message in list(self.messages):
                if condition(message):
                    return message
            time.sleep(0.02)
        raise TimeoutError("no such message")

    def quiet(self, seconds: float, timeout: float = 10.0) -> int:
        """Wait until no picture came for a while; how many there were."""
        end = time.perf_counter() + timeout
        n = -1
        while n != len(self.pictures) and time.perf_counter() < end:
            n = len(self.pictures)
            time.sleep(seconds)
        return n

    def close(self) -> None:
        """Close the tab."""
        self.connection.close()
        self._thread.join(timeout=5)

    def _receive(self) -> None:
        with contextlib.suppress(ConnectionClosed):
            for data in self.connection:
                now = time.perf_counter()
                assert isinstance(data, bytes)
                for message in decode_window(data):
                    if message["type"] == "BackgroundImageMessage" and message["rgb_data"] is not None:
                        with self.arrived:
                            self.pictures.append(Received(now, message["rgb_data"], message["depth_data"]))
                            self.arrived.notify_all()
                    else:
                        self.messages.append(message)


def decode_window(data: bytes) -> list[dict[str, Any]]:
    """The messages of one WebSocket frame of viser's hybrid format; large arrays stay placeholders."""
    n_compressed = int.from_bytes(data[8:16], "little")
    n_inner = int.from_bytes(data[:8], "little")
    inner = zstandard.ZstdDecompressor().decompress(data[16 : 16 + n_compressed], max_output_size=n_inner)
    return list(msgspec.msgpack.decode(inner)["messages"])


def look_from(position: tuple[float, ...], target: tuple[float, ...] = (0.0, 0.0, 0.0)) -> Float[Tensor, "3 4"]:
    """Camera-to-world at a place, looking at another, world up +z, float64."""
    centre, forward = torch.tensor(position, dtype=torch.float64), torch.tensor(target, dtype=torch.float64)
    forward = torch.nn.functional.normalize(forward - centre, dim=0)
    right = torch.nn.functional.normalize(torch.linalg.cross(forward, torch.tensor(UP).double()), dim=0)
    return torch.stack([right, torch.linalg.cross(forward, right), forward, centre], 1)
