"""Stand-ins for the viewer's tests: an analytic scene, a browser that speaks viser's protocol, a slow wire."""

from __future__ import annotations

import contextlib
import io
import math
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec.msgpack
import numpy as np
import torch
import viser
import zstandard
from PIL import Image
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from nerfstudio_ext.cameras import Camera, Cameras
from nerfstudio_ext.rays import RayOutputs, Rays
from nerfstudio_ext.renderer import CancelToken, Frame, RayRenderer

SPHERES = ((0.0, 0.0, 0.0, 0.5), (0.7, 0.3, -0.2, 0.3), (-0.5, 0.6, -0.1, 0.35), (0.2, -0.8, -0.25, 0.25))
COLOURS = ((0.9, 0.45, 0.25), (0.3, 0.65, 0.85), (0.45, 0.75, 0.4), (0.9, 0.8, 0.35))
LIGHT = (0.4, -0.5, 0.77)


def shade_spheres(rays: Rays, tint: float = 1.0) -> RayOutputs:
    """Opaque, softly lit spheres over a chequered floor at z = -0.5."""
    rgb = torch.zeros_like(rays.rays_o)
    depth = torch.full_like(rays.t_min, math.inf)
    light = torch.tensor(LIGHT)
    for (x, y, z, radius), colour in zip(SPHERES, COLOURS, strict=True):
        to_eye = rays.rays_o - torch.tensor([x, y, z])
        half_b = (to_eye * rays.rays_d).sum(-1)
        inside = half_b**2 - (to_eye**2).sum(-1) + radius**2
        t = -half_b - inside.clamp_min(0).sqrt()
        is_hit = (inside > 0) & (t > 0) & (t < depth)
        normal = (to_eye + t[:, None] * rays.rays_d) / radius
        shade = 0.25 + 0.75 * (normal @ light).clamp_min(0)
        rgb = torch.where(is_hit[:, None], shade[:, None] * torch.tensor(colour) * tint, rgb)
        depth = torch.where(is_hit, t, depth)
    t = (-0.5 - rays.rays_o[:, 2]) / rays.rays_d[:, 2]
    spot = rays.rays_o + t[:, None] * rays.rays_d
    is_floor = (t > 0) & (t < depth) & (spot[:, :2].norm(dim=1) < 2.5)
    chequer = ((spot[:, 0].mul(3).floor() + spot[:, 1].mul(3).floor()) % 2)[:, None] * 0.25 + 0.4
    rgb = torch.where(is_floor[:, None], (chequer * tint).expand(-1, 3), rgb)
    depth = torch.where(is_floor, t, depth)
    alpha = torch.isfinite(depth).float()
    return RayOutputs(rgb=rgb, depth=torch.where(alpha > 0, depth, 0.0), alpha=alpha)


class SphereRenderer(RayRenderer):
    """The analytic scene; `seconds_per_pixel` slows it down as a field would, between checks of the token."""

    def __init__(self, seconds_per_pixel: float = 0.0, tint: float = 1.0, chunk: int = 2048) -> None:
        super().__init__(self._render, background=(0.08, 0.08, 0.1), chunk=chunk)
        self.seconds_per_pixel = seconds_per_pixel
        self.tint = tint
        self.n_cancelled = 0
        self.sizes: list[tuple[int, int]] = []

    def _render(self, rays: Rays) -> RayOutputs:
        if self.seconds_per_pixel:
            time.sleep(self.seconds_per_pixel * len(rays))
        return shade_spheres(rays, self.tint)

    def render(self, camera: Camera, *, cancel: CancelToken | None = None) -> Frame:
        try:
            frame = super().render(camera, cancel=cancel)
        finally:
            self.n_cancelled += int(cancel is not None and cancel.is_cancelled)
        self.sizes.append((camera.width, camera.height))
        return frame


class AzimuthRenderer:
    """Frames that say which camera they show: red codes the camera's x, green the height of the picture in pixels."""

    background = (0.0, 0.0, 0.0)

    def __init__(self, seconds: float = 0.0, noise: float = 0.0) -> None:
        self.seconds = seconds
        self.noise = noise

    def render(self, camera: Camera, *, cancel: CancelToken | None = None) -> Frame:
        end = time.perf_counter() + self.seconds
        while time.perf_counter() < end:
            if cancel is not None:
                cancel.check()
            time.sleep(min(0.005, max(0.0, end - time.perf_counter())))
        rgb = torch.zeros(camera.height, camera.width, 3)
        rgb[:, :, 0] = float(camera.c2w[0, 3]) % 1.0
        rgb[:, :, 1] = min(1.0, camera.height / 1020)
        rgb[:, :, 2] = self.noise * torch.rand(camera.height, camera.width)
        return Frame(rgb, torch.ones(camera.height, camera.width), None)


def look_from(position: tuple[float, ...], target: tuple[float, ...] = (0.0, 0.0, 0.0)) -> torch.Tensor:
    """Camera-to-world [3,4] at a place, looking at another, world up +z."""
    centre, forward = torch.tensor(position, dtype=torch.float64), torch.tensor(target, dtype=torch.float64)
    forward = torch.nn.functional.normalize(forward - centre, dim=0)
    right = torch.nn.functional.normalize(torch.linalg.cross(forward, torch.tensor([0.0, 0.0, 1.0]).double()), dim=0)
    return torch.stack([right, torch.linalg.cross(forward, right), forward, centre], 1)


def ring_of_cameras(n: int = 12) -> Cameras:
    """Cameras on a circle around the spheres."""
    angles = [2 * math.pi * i / n for i in range(n)]
    places = [(2.6 * math.cos(a), 2.6 * math.sin(a), 1.1) for a in angles]
    return Cameras([Camera.perspective(160, 120, 50.0, look_from(place)) for place in places])


def photos_of(cameras: Cameras) -> list[np.ndarray]:
    """The analytic scene seen by the cameras, 8 bit."""
    renderer = SphereRenderer()
    return [(renderer.render(camera).rgb * 255).to(torch.uint8).numpy() for camera in cameras]


@dataclass
class Received:
    """A picture as it arrived."""

    at: float
    rgb: np.ndarray
    n_bytes: int
    depth_png: bytes | None


@dataclass
class FakeBrowser:
    """A browser tab that speaks viser's wire format and records the pictures it gets."""

    port: int
    connection: ClientConnection = field(init=False)
    pictures: list[Received] = field(default_factory=list)
    messages: list[dict[str, Any]] = field(default_factory=list)
    arrived: threading.Condition = field(default_factory=threading.Condition)

    def __post_init__(self) -> None:
        self.connection = connect(
            f"ws://127.0.0.1:{self.port}",
            subprotocols=[f"viser-v{viser.__version__}"],  # type: ignore[list-item]
            compression=None,
            max_size=None,
        )
        self._thread = threading.Thread(target=self._receive, daemon=True)
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
            up_direction=(0.0, 0.0, 1.0),
        )

    def send(self, type_name: str, **values: Any) -> None:
        """Send any message."""
        self.connection.send(msgspec.msgpack.encode({"type": type_name, **values}))

    def wait(self, n: int = 1, timeout: float = 20.0) -> Received:
        """Wait until so many pictures came in all; the last one."""
        with self.arrived:
            if not self.arrived.wait_for(lambda: len(self.pictures) >= n, timeout):
                raise TimeoutError(f"{len(self.pictures)} of {n} pictures after {timeout} s")
            return self.pictures[-1]

    def wait_for(self, condition: Any, timeout: float = 20.0) -> Received:
        """Wait for a picture that fulfils a condition."""
        with self.arrived:
            if not self.arrived.wait_for(lambda: any(map(condition, self.pictures)), timeout):
                raise TimeoutError(f"no such picture among {len(self.pictures)} after {timeout} s")
            return next(p for p in self.pictures if condition(p))

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
                        rgb = np.asarray(Image.open(io.BytesIO(message["rgb_data"])))
                        with self.arrived:
                            self.pictures.append(Received(now, rgb, len(message["rgb_data"]), message["depth_data"]))
                            self.arrived.notify_all()
                    else:
                        self.messages.append(message)


def decode_window(data: bytes) -> list[dict[str, Any]]:
    """The messages of one WebSocket frame of viser's hybrid format; large arrays stay placeholders."""
    n_compressed = int.from_bytes(data[8:16], "little")
    n_inner = int.from_bytes(data[:8], "little")
    inner = zstandard.ZstdDecompressor().decompress(data[16 : 16 + n_compressed], max_output_size=n_inner)
    return list(msgspec.msgpack.decode(inner)["messages"])


@contextlib.contextmanager
def slow_wire(port: int, bytes_per_s: float, delay_s: float = 0.0) -> Iterator[tuple[int, threading.Event]]:
    """A TCP proxy that lets downstream bytes through at a limited rate; setting the event stops them altogether."""
    listener = socket.create_server(("127.0.0.1", 0))
    is_blocked = threading.Event()
    is_over = threading.Event()

    def pump(source: socket.socket, sink: socket.socket, rate: float | None) -> None:
        with contextlib.suppress(OSError):
            while chunk := source.recv(4096):
                if rate is not None:
                    while is_blocked.is_set() and not is_over.is_set():
                        time.sleep(0.02)
                    time.sleep(len(chunk) / rate + delay_s)
                sink.sendall(chunk)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while not is_over.is_set():
                near, _ = listener.accept()
                far = socket.create_connection(("127.0.0.1", port))
                # Small kernel buffers, or seconds of frames hide in them.
                far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
                near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16384)
                threading.Thread(target=pump, args=(near, far, None), daemon=True).start()
                threading.Thread(target=pump, args=(far, near, bytes_per_s), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listener.getsockname()[1], is_blocked
    finally:
        is_over.set()
        listener.close()
