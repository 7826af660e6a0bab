"""What a camera path is: cameras in the training frame, a frame rate, and what an editor needs to change it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from ..cameras import Camera, Cameras
from ..errors import UserError

MAX_FRAMES = 100_000
"""An hour at 24 frames per second is 86 400 frames; more is taken for a slip of the keyboard."""
MAX_FPS = 1000.0
MAX_SIDE = 16_384


class Similarity(Protocol):
    """A similarity x_training = scale * rotation @ x_source + translation, such as `scenes.SceneFrame`."""

    @property
    def rotation(self) -> Float[Tensor, "3 3"]:
        """A proper rotation, float64."""

    @property
    def translation(self) -> Float[Tensor, "3"]:
        """Training units, float64."""

    @property
    def scale(self) -> float:
        """Training units per source unit, > 0."""


@dataclass(frozen=True)
class KeyView:
    """One key frame of an editable path.

    Attributes:
        c2w: Camera-to-world in the training frame, OpenCV axes, float64.
        fov_y_deg: Vertical field of view.
        aspect: Width divided by height.
        transition_s: Seconds to the next key; None uses the path's default.
        extra: What other programs keep per key (names, times); carried along unread.
    """

    c2w: Float[Tensor, "3 4"]
    fov_y_deg: float
    aspect: float = 1.0
    transition_s: float | None = None
    extra: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class CropBox:
    """An oriented box outside of which a path wants nothing drawn, in the training frame.

    Attributes:
        center: Its centre.
        size: Full edge lengths.
        rotation: Columns are the box axes, float64.
        background: Colour outside, 0..1.
    """

    center: Float[Tensor, "3"]
    size: Float[Tensor, "3"]
    rotation: Float[Tensor, "3 3"]
    background: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def transformed(self, rotation: Float[Tensor, "3 3"], translation: Float[Tensor, "3"], scale: float) -> CropBox:
        """The box after the similarity x -> scale * rotation @ x + translation."""
        center = scale * (rotation @ self.center) + translation
        return dataclasses.replace(self, center=center, size=scale * self.size, rotation=rotation @ self.rotation)


@dataclass(frozen=True)
class CameraPath:
    """Cameras to render one after the other, all in the training frame.

    Attributes:
        cameras: One camera per output frame.
        fps: Frames per second when shown as a video.
        kind: How it was made ("orbit", "test views"), for people and for side files.
        names: Image that each camera stands for (train and test views), or None for a moving camera.
        is_loop: Whether the last frame leads smoothly back to the first.
        notes: What the user should be told about how the path was chosen, one sentence each.
        keys: Key frames for an editor; may be empty.
        crop: Crop box carried by the file the path came from, or None.
        extra: Unread top-level entries of that file, kept when it is written again.
    Raises:
        UserError: for an empty or endless path, a frame rate that is not positive, or a pose that is not finite.
    """

    cameras: Cameras
    fps: float = 24.0
    kind: str = "path"
    names: tuple[str, ...] | None = None
    is_loop: bool = False
    notes: tuple[str, ...] = ()
    keys: tuple[KeyView, ...] = ()
    crop: CropBox | None = None
    extra: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_fps(self.fps)
        check_frame_count(len(self.cameras))
        if self.names is not None and len(self.names) != len(self.cameras):
            raise UserError(
                f"{len(self.cameras)} cameras but {len(self.names)} names",
                where=self.kind,
                fix="Give as many names as cameras",
            )
        finite = self.cameras.c2w.isfinite().flatten(1).all(1) & self.cameras.intrinsics.isfinite().all(1)
        if not bool(finite.all()):
            first = int((~finite).nonzero()[0])
            raise UserError(
                f"camera {first + 1} of {len(finite)} is not finite", where=self.kind, fix="Repair the path"
            )
        for width, height in torch.unique(self.cameras.sizes, dim=0).tolist():
            check_size(width, height)

    def __len__(self) -> int:
        return len(self.cameras)

    @property
    def seconds(self) -> float:
        """Playing time."""
        return len(self.cameras) / self.fps

    @property
    def size(self) -> tuple[int, int] | None:
        """(width, height) when all cameras share it, else None."""
        sizes = torch.unique(self.cameras.sizes, dim=0)
        return (int(sizes[0, 0]), int(sizes[0, 1])) if len(sizes) == 1 else None

    def with_size(self, width: int, height: int) -> CameraPath:
        """The same views with another image size; each keeps its vertical field of view, pixels stay square."""
        check_size(width, height)
        return dataclasses.replace(self, cameras=Cameras([_resized(c, width, height) for c in self.cameras]))

    def transformed(self, rotation: Float[Tensor, "3 3"], translation: Float[Tensor, "3"], scale: float) -> CameraPath:
        """The path after a similarity of the world, key frames and crop box included."""
        keys = []
        for key in self.keys:
            c2w = torch.cat([rotation @ key.c2w[:, :3], (scale * (rotation @ key.c2w[:, 3]) + translation)[:, None]], 1)
            keys.append(dataclasses.replace(key, c2w=c2w))
        return dataclasses.replace(
            self,
            cameras=self.cameras.transformed(rotation, translation, scale),
            keys=tuple(keys),
            crop=self.crop.transformed(rotation, translation, scale) if self.crop else None,
        )


def check_fps(fps: float) -> None:
    """Refuse a frame rate that no player could show."""
    if not (math.isfinite(fps) and 0 < fps <= MAX_FPS):
        raise UserError(f"{fps} frames per second", fix=f"Choose a rate above 0 and up to {MAX_FPS:g}")


def check_frame_count(count: int) -> None:
    """Refuse an empty path and one that would take forever."""
    if count < 1:
        raise UserError("the camera path has no frames", fix="Give at least one camera, or a longer time")
    if count > MAX_FRAMES:
        raise UserError(
            f"{count} frames, at most {MAX_FRAMES} are possible", fix="Use fewer seconds or a lower frame rate"
        )


def check_size(width: int, height: int) -> None:
    """Refuse image sizes that cannot be rendered."""
    if not (1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE):
        raise UserError(f"image size {width}x{height}", fix=f"Choose both sides from 1 to {MAX_SIDE} pixels")


def frame_count(seconds: float, fps: float) -> int:
    """Frames of a path of that length, checked; the same rounding as nerfstudio's, int(fps * seconds)."""
    check_fps(fps)
    if not (math.isfinite(seconds) and seconds > 0):
        raise UserError(f"a path of {seconds} seconds", fix="Choose a time above 0")
    count = int(min(seconds * fps, 2.0 * MAX_FRAMES) + 1e-6)
    check_frame_count(count)
    return count


def _resized(camera: Camera, width: int, height: int) -> Camera:
    if camera.lens.kind == "equirectangular":
        return camera.resize(width, height)
    scale = height / camera.height
    K = camera.K.clone()
    K[0, 0], K[1, 1] = K[0, 0] * scale, K[1, 1] * scale
    K[0, 2] = width / 2 + scale * (K[0, 2] - camera.width / 2)
    K[1, 2] = height / 2 + scale * (K[1, 2] - camera.height / 2)
    return dataclasses.replace(camera, width=width, height=height, K=K)
