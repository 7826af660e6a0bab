"""From the name of a path, or a camera_path.json, to the cameras to render: shared by `path`, `render` and `demo`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from ..errors import UserError
from .options import image_size
from .parsing import did_you_mean

if TYPE_CHECKING:
    from ..camera_paths import CameraPath
    from ..cameras import Cameras
    from ..scenes.model import SceneMeta

MOVING = ("orbit", "spiral", "interpolate")
SPECS = (*MOVING, "train", "test")
Text = Annotated[str | None, tyro.conf.arg(metavar="WxH")]


@dataclass(frozen=True)
class PathSettings:
    """How a camera moves; a value that is not given is chosen from the photos or taken from the file."""

    seconds: float | None = None
    """Length of the path (default: 8, for interpolate 0.8 per view)."""

    fps: float = 24.0
    """Frames per second."""

    size: Text = None
    """Image size (default: that of most photos, or of the camera_path.json)."""

    fov: float | None = None
    """Vertical field of view in degrees for orbit and spiral (default: that of the photos)."""

    sweep: float | None = None
    """Angle of an orbit in degrees; 360 insists on the full turn (default: what the photos cover)."""

    radius: float | None = None
    """Radius of a spiral in training units (default: what the photos cover)."""

    turns: int = 2
    """Circles of a spiral."""

    loop: bool = False
    """Let an interpolation return to its first view."""


@dataclass(frozen=True)
class WithPathSettings:
    """For options that carry path settings; the flags are flat."""

    path_settings: PathSettings = field(default_factory=PathSettings)


def build_path(spec: str, meta: SceneMeta, settings: PathSettings) -> CameraPath:
    """The path that `spec` names, in the training frame of a scene.

    Args:
        spec: One of `SPECS`, or a camera_path.json of nerfstudio, instant-ngp or this program.
        meta: The scene.
        settings: How the camera moves.
    Raises:
        UserError: for an unknown name, an unreadable file, or views that the scene does not have.
    """
    from .. import camera_paths

    size = image_size(settings.size)
    if spec in ("train", "test"):
        return _photo_views(spec, meta, size)
    if spec not in MOVING:
        if not Path(spec).is_file():
            raise UserError(
                f"neither a kind of path nor a file{did_you_mean(spec, SPECS)}",
                where=f"--path {spec}",
                fix=f"Use one of {', '.join(SPECS)}, or a camera_path.json",
            )
        return camera_paths.read_camera_path(Path(spec), meta.frame, size=size)
    cameras = _views(meta, "train")[0]
    seconds = 8.0 if settings.seconds is None else settings.seconds
    if spec == "orbit":
        return camera_paths.orbit(
            cameras,
            seconds=seconds,
            fps=settings.fps,
            size=size,
            fov_y_deg=settings.fov,
            sweep_deg=settings.sweep,
            up=up_of(meta),
        )
    if spec == "spiral":
        return camera_paths.spiral(
            cameras,
            seconds=seconds,
            fps=settings.fps,
            size=size,
            fov_y_deg=settings.fov,
            radius=settings.radius,
            turns=settings.turns,
            up=up_of(meta),
        )
    return camera_paths.interpolate(
        cameras, seconds=settings.seconds, fps=settings.fps, size=size, is_loop=settings.loop, order=True
    )


def up_of(meta: SceneMeta) -> tuple[float, float, float]:
    """The capture's upward axis, +Z, in the training frame."""
    x, y, z = meta.frame.rotation[:, 2].tolist()
    return x, y, z


def _views(meta: SceneMeta, purpose: str) -> tuple[Cameras, tuple[str, ...]]:
    indices = list(meta.split.train if purpose == "train" else meta.split.test)
    if not indices:
        raise UserError(f"the scene has no {purpose} images", where=meta.name, fix="Choose another path")
    return meta.training_cameras().select(indices), tuple(meta.image_names[i] for i in indices)


def _photo_views(purpose: str, meta: SceneMeta, size: tuple[int, int] | None) -> CameraPath:
    from ..camera_paths import from_views

    cameras, names = _views(meta, purpose)
    path = from_views(cameras, names, kind=f"{purpose} views")
    return path if size is None else path.with_size(*size)
