"""From the name of a path, or a camera_path.json, to the cameras to render: shared by `path`, `render` and `demo`."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from ..errors import UserError
from .options import image_size
from .parsing import did_you_mean

if TYPE_CHECKING:
    from ..camera_paths import CameraPath
    from ..cameras import Camera, Cameras
    from ..scenes.model import SceneMeta

MOVING = ("orbit", "spiral", "interpolate")
SPECS = (*MOVING, "train", "test")
FPS = 24.0
Text = Annotated[str | None, tyro.conf.arg(metavar="WxH")]


@dataclass(frozen=True)
class PathSettings:
    """How a camera moves; a value that is not given is chosen from the photos or taken from the file."""

    seconds: float | None = None
    """Length of the path (default: 8, for interpolate 0.8 per view). With it, a path through given cameras (csv,
    from-colmap) flies smoothly through them; without, each of them is one frame."""

    fps: float | None = None
    """Frames per second (default: 24, or those of the path file)."""

    size: Text = None
    """Image size (default: that of most photos, or of the camera_path.json)."""

    fov: float | None = None
    """Vertical field of view in degrees for orbit, spiral and csv (default: that of the photos)."""

    sweep: float | None = None
    """Angle of an orbit in degrees; 360 insists on the full turn (default: what the photos cover)."""

    radius: float | None = None
    """Radius of a spiral in training units (default: what the photos cover)."""

    turns: int = 2
    """Circles of a spiral."""

    loop: bool = False
    """Let an interpolation return to its first view."""

    camera_type: Literal["perspective", "fisheye", "equirectangular"] | None = None
    """Kind of camera; equirectangular makes 360-degree pictures, twice as wide as high (default: perspective, or that
    of the path file)."""

    input_frame: Literal["source", "training"] = "source"
    """Frame of the numbers in a CSV file: the capture's own, or the one the scene was trained in."""


@dataclass(frozen=True)
class WithPathSettings:
    """For options that carry path settings; the flags are flat."""

    path_settings: PathSettings = field(default_factory=PathSettings)


def build_path(spec: str, meta: SceneMeta, settings: PathSettings) -> CameraPath:
    """The path that `spec` names, in the training frame of a scene.

    Args:
        spec: One of `SPECS`, a camera_path.json of nerfstudio, instant-ngp or this program, a table (.csv), or the
            folder of a COLMAP model.
        meta: The scene.
        settings: How the camera moves.
    Raises:
        UserError: for an unknown name, an unreadable file, or views that the scene does not have.
    """
    path = _built(spec, meta, settings)
    if settings.camera_type is None:
        return path
    cameras = [_with_lens(camera, settings) for camera in path.cameras]
    return dataclasses.replace(path, cameras=type(path.cameras)(cameras))


def _built(spec: str, meta: SceneMeta, settings: PathSettings) -> CameraPath:
    from .. import camera_paths

    size, fps = image_size(settings.size), FPS if settings.fps is None else settings.fps
    if spec in ("train", "test"):
        return _photo_views(spec, meta, size)
    if spec not in MOVING:
        return _from_file(Path(spec), spec, meta, settings)
    cameras = _looked_from(meta)
    seconds = 8.0 if settings.seconds is None else settings.seconds
    if spec == "orbit":
        return camera_paths.orbit(
            cameras,
            seconds=seconds,
            fps=fps,
            size=size,
            fov_y_deg=settings.fov,
            sweep_deg=settings.sweep,
            up=up_of(meta),
        )
    if spec == "spiral":
        return camera_paths.spiral(
            cameras,
            seconds=seconds,
            fps=fps,
            size=size,
            fov_y_deg=settings.fov,
            radius=settings.radius,
            turns=settings.turns,
            up=up_of(meta),
        )
    return camera_paths.interpolate(
        cameras, seconds=settings.seconds, fps=fps, size=size, is_loop=settings.loop, order=True
    )


def _from_file(file: Path, spec: str, meta: SceneMeta, settings: PathSettings) -> CameraPath:
    from .. import camera_paths
    from ..camera_paths.table_file import path_from_table, read_pose_table

    size = image_size(settings.size)
    if file.is_dir():
        return _colmap_views(file, meta, settings)
    if not file.is_file():
        raise UserError(
            f"neither a kind of path nor a file{did_you_mean(spec, SPECS)}",
            where=f"--path {spec}",
            fix=f"Use one of {', '.join(SPECS)}, a camera_path.json, a .csv table, or a COLMAP folder",
        )
    if file.suffix.lower() == ".csv":
        return path_from_table(
            read_pose_table(file),
            _looked_from(meta),
            frame=meta.frame if settings.input_frame == "source" else None,
            up=up_of(meta),
            seconds=settings.seconds,
            fps=FPS if settings.fps is None else settings.fps,
            size=size,
            fov_y_deg=settings.fov,
        )
    path = camera_paths.read_camera_path(file, meta.frame, size=size)
    return path if settings.fps is None else dataclasses.replace(path, fps=settings.fps)


def _colmap_views(folder: Path, meta: SceneMeta, settings: PathSettings) -> CameraPath:
    """The cameras of a COLMAP model, as frames in the order of their names, or flown through smoothly."""
    from ..camera_paths import from_views, interpolate
    from ..scenes.colmap import read_model_views

    cameras, names = read_model_views(folder)
    if meta.applied_transform is not None:
        # The capture was turned upright after COLMAP: its own frame is the model's after that.
        matrix = meta.applied_transform[:, :3]
        scale = float(matrix.det().abs() ** (1 / 3))
        if float(matrix.det()) < 0:
            raise UserError("the capture mirrors the model's frame", where=folder, fix="Write the cameras as a table")
        cameras = cameras.transformed(matrix / scale, meta.applied_transform[:, 3], scale)
    cameras = meta.frame.to_training(cameras)
    fps, size = FPS if settings.fps is None else settings.fps, image_size(settings.size)
    if settings.seconds is not None:
        return interpolate(cameras, seconds=settings.seconds, fps=fps, size=size, is_loop=settings.loop)
    path = from_views(cameras, names, fps=fps, kind="COLMAP views")
    return path if size is None else path.with_size(*size)


def _with_lens(camera: Camera, settings: PathSettings) -> Camera:
    """The camera with another lens; a fisheye's field of view is 180 degrees unless one was given."""
    import math

    import torch

    from ..lenses import Lens

    width, height = camera.width, camera.height
    if settings.camera_type == "equirectangular":
        width = width if settings.size is not None else 2 * height
    K = camera.K.clone()
    if settings.camera_type == "fisheye":
        focal = 0.5 * height / math.radians((settings.fov or 180.0) / 2)
        K = torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]], dtype=torch.float64)
    return dataclasses.replace(camera, width=width, K=K, lens=Lens(settings.camera_type or "perspective"))


def up_of(meta: SceneMeta) -> tuple[float, float, float]:
    """The capture's upward axis, +Z, in the training frame."""
    x, y, z = meta.frame.rotation[:, 2].tolist()
    return x, y, z


def _looked_from(meta: SceneMeta) -> Cameras:
    """The cameras that a moving path keeps to."""
    from ..scenes.viewpoints import seen_all_around

    return _views(seen_all_around(meta), "train")[0]


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
