"""What one browser looks at: a validated view, and the slot that keeps only the newest one."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ..cameras import Camera
from .looks import Look

MIN_FOV_DEG, MAX_FOV_DEG = 1.0, 179.0
MAX_CANVAS_PX = 16384
"""Largest believable browser canvas side; what is rendered is capped far below by the ladder."""
MAX_ASPECT = 20.0
MAX_COORDINATE = 1e6
"""Positions beyond this are a broken client: float32 rays would have no precision left there."""


@dataclass(frozen=True)
class View:
    """A checked camera of a browser.

    Attributes:
        position: Camera centre, scene units.
        wxyz: Unit quaternion of the camera-to-world rotation, OpenCV axes.
        fov_y: Vertical field of view in radians.
        width: Canvas width in pixels; with `height` it gives the aspect.
        height: Canvas height in pixels.
        look: How the scene is to be shown.
    """

    position: tuple[float, float, float]
    wxyz: tuple[float, float, float, float]
    fov_y: float
    width: int
    height: int
    look: Look = Look()

    def size(self, long_side: int) -> tuple[int, int]:
        """Width and height of a picture with the canvas' aspect and the given longer side."""
        scale = long_side / max(self.width, self.height)
        return max(1, round(self.width * scale)), max(1, round(self.height * scale))

    def camera(self, long_side: int) -> Camera:
        """The camera that renders this view with the given longer side.

        The picture is stretched over the whole canvas by the browser, so the intrinsics are scaled
        per axis from the canvas: a rounded size does not distort the scene.
        """
        c2w = torch.empty(3, 4, dtype=torch.float64)
        c2w[:, :3] = rotation_of(self.wxyz)
        c2w[:, 3] = torch.tensor(self.position, dtype=torch.float64)
        canvas = Camera.perspective(self.width, self.height, math.degrees(self.fov_y), c2w)
        return canvas.resize(*self.size(long_side))


def rotation_of(wxyz: Sequence[float]) -> Float[Tensor, "3 3"]:
    """The rotation matrix of a unit quaternion, float64."""
    w, x, y, z = wxyz
    return torch.tensor(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ],
        dtype=torch.float64,
    )


def checked_view(
    position: Iterable[float], wxyz: Iterable[float], fov_y: float, width: int, height: int
) -> View | None:
    """The view a browser sent, or None when it cannot be rendered.

    A web page is untrusted input: poses with NaN, fields of view of 1e9 and canvases of 1e9 pixels
    arrive as they were sent, so everything is checked here and nowhere later.

    Args:
        position: Camera centre, scene units.
        wxyz: Rotation quaternion; any length above 1e-6, normalised here.
        fov_y: Vertical field of view, radians.
        width: Canvas width in pixels.
        height: Canvas height in pixels.
    """
    try:
        centre = tuple(float(v) for v in position)
        quaternion = tuple(float(v) for v in wxyz)
        fov, columns, rows = float(fov_y), int(width), int(height)
    except (TypeError, ValueError, OverflowError):
        return None
    if len(centre) != 3 or len(quaternion) != 4 or not all(map(math.isfinite, (*centre, *quaternion, fov))):
        return None
    length = math.sqrt(sum(v * v for v in quaternion)) if max(map(abs, quaternion)) < MAX_COORDINATE else 0.0
    if length < 1e-6 or max(map(abs, centre)) > MAX_COORDINATE:
        return None
    if not MIN_FOV_DEG <= math.degrees(fov) <= MAX_FOV_DEG:
        return None
    if not (1 <= columns <= MAX_CANVAS_PX and 1 <= rows <= MAX_CANVAS_PX):
        return None
    if not 1 / MAX_ASPECT <= columns / rows <= MAX_ASPECT:
        return None
    w, x, y, z = (v / length for v in quaternion)
    return View((centre[0], centre[1], centre[2]), (w, x, y, z), fov, columns, rows)


@dataclass(frozen=True)
class Newest:
    """The content of a `LatestSlot` at one moment.

    Attributes:
        view: The newest view.
        seq: Grows with every change of the view; frames carry it.
        changed_at: When the view changed last, on the slot's clock.
        is_first: True until the view changed for the first time: nobody has moved yet.
    """

    view: View
    seq: int
    changed_at: float
    is_first: bool


class LatestSlot:
    """Keeps one view; a newer one always overwrites. Safe to use from several threads.

    Args:
        clock: Monotonic time in seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._newest: Newest | None = None

    def put(self, view: View | None) -> bool:
        """Store a view; True if it differs from the one before. None (an invalid view) is ignored.

        An equal view is not a movement: browsers repeat their camera on reconnect and resize.
        """
        if view is None:
            return False
        with self._lock:
            before = self._newest
            if before is not None and before.view == view:
                return False
            seq = 1 if before is None else before.seq + 1
            self._newest = Newest(view, seq, self._clock(), is_first=before is None)
            return True

    @property
    def newest(self) -> Newest | None:
        """The newest view with its number and time, or None before the first."""
        with self._lock:
            return self._newest
