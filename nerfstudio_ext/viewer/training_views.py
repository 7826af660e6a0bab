"""The training cameras in the browser: where a visit begins, the frustums with thumbnails, a click to fly there."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import viser
import viser.transforms
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from ..cameras import Camera, Cameras

MAX_FRUSTUMS = 60
"""Every frustum ships a texture and costs the browser a draw call, and more of them hide the scene."""
FRUSTUM_SIZE, CLEARANCE = 0.055, 0.3
"""Size of a frustum, and distance from the eye below which it is hidden, as shares of the cameras' distance to what
they see: a frustum beside the eye fills half of the page, and the one in which the eye stands all of it."""
THUMBNAIL_PX = 100
MAX_START_FOV_DEG = 60.0
"""A tall photo's vertical field of view would show a wide window far too much."""
FRUSTUM_COLOUR = (255, 138, 76)


def focus_point(cameras: Cameras) -> Float[Tensor, "3"]:
    """The point that the optical axes pass nearest to (least squares), float64.

    Where the axes do not meet in front of the cameras (a walk along a street, one camera), the point
    lies one mean distance between cameras before the mean camera.
    """
    if not len(cameras):
        return torch.zeros(3, dtype=torch.float64)
    centres, axes = cameras.c2w[:, :, 3], cameras.c2w[:, :, 2]
    across = torch.eye(3, dtype=torch.float64) - axes[:, :, None] * axes[:, None, :]
    normal, right = across.sum(0), (across @ centres[:, :, None])[:, :, 0].sum(0)
    middle = centres.mean(0)
    spread = float((centres - middle).norm(dim=1).mean()) or 1.0
    fallback = middle + spread * torch.nn.functional.normalize(axes.mean(0), dim=0)
    if float(torch.linalg.eigvalsh(normal)[0]) < 1e-3 * len(cameras):
        return fallback
    point = torch.linalg.solve(normal, right)
    is_before = ((point - centres) * axes).sum(1) > 0
    is_near = float((point - middle).norm()) < 20 * spread
    return point if bool(is_before.double().mean() > 0.5) and is_near else fallback


@dataclass(frozen=True)
class Stand:
    """A place to look from, as a browser's orbit control wants it."""

    position: Float[Tensor, "3"]
    look_at: Float[Tensor, "3"]
    fov_y: float


def stand_of(camera: Camera, focus: Float[Tensor, "3"]) -> Stand:
    """The stand that sees what a training camera saw, orbiting about the point of its axis nearest to `focus`."""
    centre, axis = camera.c2w[:, 3], camera.c2w[:, 2]
    reach = float((focus - centre) @ axis)
    reach = max(reach, 0.25 * float((focus - centre).norm()), 1e-3)
    return Stand(centre, centre + reach * axis, vertical_fov(camera))


def vertical_fov(camera: Camera) -> float:
    """Vertical field of view in radians; 75 degrees for lenses that see (almost) everything."""
    focal = float(camera.K[1, 1])
    if camera.lens.kind == "equirectangular" or focal <= 0:
        return math.radians(75.0)
    return min(2 * math.atan(0.5 * camera.height / focal), math.radians(120.0))


def first_camera(cameras: Cameras, focus: Float[Tensor, "3"]) -> int:
    """Index of the training camera whose axis passes nearest to the focus: its view has the subject in the middle."""
    centres, axes = cameras.c2w[:, :, 3], cameras.c2w[:, :, 2]
    to_focus = torch.nn.functional.normalize(focus - centres, dim=1)
    return int((to_focus * axes).sum(1).argmax())


def thumbnail(pixels: UInt8[np.ndarray, "H W C"]) -> UInt8[np.ndarray, "h w 3"]:
    """A photo scaled down to at most `THUMBNAIL_PX`; transparent pixels become white."""
    picture = Image.fromarray(pixels)
    picture.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.BOX)
    if picture.mode == "RGBA":
        white = Image.new("RGB", picture.size, (255, 255, 255))
        white.paste(picture, mask=picture.getchannel("A"))
        picture = white
    return np.asarray(picture.convert("RGB"))


def evenly(n: int, limit: int) -> list[int]:
    """At most `limit` indices of `n`, evenly spread."""
    if n <= limit:
        return list(range(n))
    return [round(i * (n - 1) / (limit - 1)) for i in range(limit)]


class TrainingViews:
    """The training cameras drawn in the scene.

    Args:
        server: The server to draw into.
        cameras: Training cameras, in the renderer's frame.
        photos: Their photos, any size, same order; fewer or none leave frustums empty. Only the photos of frustums
            that are drawn are read.
    """

    def __init__(
        self,
        server: viser.ViserServer,
        cameras: Cameras,
        photos: Sequence[UInt8[np.ndarray, "H W C"]] = (),
    ) -> None:
        self.cameras = cameras
        self.focus = focus_point(cameras)
        self._server = server
        self._handles: dict[int, viser.CameraFrustumHandle] = {}
        self._reach = self._typical_distance()
        for index in evenly(len(cameras), MAX_FRUSTUMS):
            photo = thumbnail(photos[index]) if index < len(photos) else None
            self._handles[index] = self._add(index, photo)
        self._centres = cameras.c2w[:, :, 3].numpy()

    @property
    def reach(self) -> float:
        """Median distance between the cameras and what they see, scene units: the scale of the scene."""
        return self._reach

    def names(self) -> dict[int, str]:
        """Scene node of each camera that is drawn."""
        return {index: handle.name for index, handle in self._handles.items()}

    def beside(self, position: tuple[float, float, float]) -> set[int]:
        """The cameras that a browser at a place stands in or beside."""
        if not len(self._centres):
            return set()
        distance = np.linalg.norm(self._centres - np.asarray(position), axis=1)
        return set(np.flatnonzero(distance < CLEARANCE * self._reach).tolist())

    def fly_to(self, client: viser.ClientHandle, index: int) -> None:
        """Move a browser to the view of a training camera."""
        go_to(client, stand_of(self.cameras[index], self.focus))

    def _typical_distance(self) -> float:
        """Median distance between the cameras and what they see."""
        if not len(self.cameras):
            return 1.0
        reach = (self.cameras.c2w[:, :, 3] - self.focus).norm(dim=1).median()
        return max(float(reach), 1e-6)

    def _add(self, index: int, photo: UInt8[np.ndarray, "h w 3"] | None) -> viser.CameraFrustumHandle:
        camera = self.cameras[index]
        handle = self._server.scene.add_camera_frustum(
            f"/cameras/{index:05d}",
            fov=vertical_fov(camera),
            aspect=camera.width / camera.height,
            scale=FRUSTUM_SIZE * self._reach,
            thickness=1.5,
            thickness_units="screen",
            color=FRUSTUM_COLOUR,
            image=photo,
            format="jpeg",
            jpeg_quality=70,
            wxyz=viser.transforms.SO3.from_matrix(camera.c2w[:, :3].numpy()).wxyz,
            position=camera.c2w[:, 3].numpy(),
            cast_shadow=False,
            receive_shadow=False,
        )

        @handle.on_click
        async def _(event: viser.SceneNodePointerEvent[viser.CameraFrustumHandle]) -> None:
            self.fly_to(event.client, index)

        return handle


class ShownCameras:
    """Which training cameras one browser sees: all, none, and never those it stands in.

    Args:
        views: The training cameras.
        set_visible: Shows or hides a scene node in this browser.
    """

    def __init__(self, views: TrainingViews, set_visible: Callable[[str, bool], None]) -> None:
        self._views = views
        self._set_visible = set_visible
        self._is_shown = True
        self._near: set[int] = set()

    def show(self, is_shown: bool) -> None:
        """Show or hide all cameras."""
        self._is_shown = is_shown
        for index, name in self._views.names().items():
            self._set_visible(name, is_shown and index not in self._near)

    def stand_at(self, position: tuple[float, float, float]) -> None:
        """Hide the cameras beside the browser's own."""
        near = self._views.beside(position)
        changed, self._near = near ^ self._near, near
        names = self._views.names()
        for index in changed & names.keys():
            self._set_visible(names[index], self._is_shown and index not in near)


def go_to(client: viser.ClientHandle, stand: Stand) -> None:
    """Place a browser's camera; its up direction stays that of the world."""
    with client.atomic():
        client.camera.position = stand.position.numpy()
        client.camera.look_at = stand.look_at.numpy()
        client.camera.fov = min(stand.fov_y, math.radians(MAX_START_FOV_DEG))
    client.flush()
