"""Camera paths from tables: CSV files as spreadsheets, drones and robots write them."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from ..cameras import Camera, Cameras
from ..errors import UserError
from .curves import KeyCurve, matrices_from_quaternions
from .generate import interpolate, sample_curve
from .layout import Vector, layout_of, look_at, typical_camera
from .path import MAX_FRAMES, CameraPath, Similarity, check_fps, frame_count

MAX_BYTES = 2**26
POSITION, QUATERNION = ("x", "y", "z"), ("qw", "qx", "qy", "qz")
TARGET = ("look_x", "look_y", "look_z")
COLUMNS = (*POSITION, *QUATERNION, *TARGET, "fov", "time")
_FIX = f"Columns are x, y, z and optionally {', '.join(COLUMNS[3:])}"


@dataclass(frozen=True)
class PoseTable:
    """The numbers of a table, in the table's own frame.

    Attributes:
        positions: Camera positions.
        quaternions: (w, x, y, z) camera to world, OpenCV axes, or None.
        targets: The point each camera looks at, or None.
        fovs_deg: Vertical fields of view, or None.
        times_s: Ascending times, or None.
    """

    positions: Float[np.ndarray, "N 3"]
    quaternions: Float[np.ndarray, "N 4"] | None
    targets: Float[np.ndarray, "N 3"] | None
    fovs_deg: Float[np.ndarray, " N"] | None
    times_s: Float[np.ndarray, " N"] | None


def read_pose_table(path: Path) -> PoseTable:
    """Read a CSV file with one camera per row and the names of the columns in its first row.

    Args:
        path: The file; columns are parted by commas, semicolons or tabs.
    Raises:
        UserError: naming line and column of what cannot be used.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UserError(f"more than {MAX_BYTES // 2**20} MB", where=path, fix="Split the table")
        text = path.read_text("utf-8-sig")
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", where=path, fix="Check the path") from None
    except UnicodeDecodeError as error:
        raise UserError(f"not UTF-8 text (byte {error.start})", where=path, fix="Save it as UTF-8") from None
    head = text.splitlines()[0] if text.strip() else ""
    separator = max(",;\t", key=head.count)
    rows = [row for row in csv.reader(io.StringIO(text), delimiter=separator) if any(cell.strip() for cell in row)]
    names = [cell.strip().lower() for cell in rows[0]] if rows else []
    unknown = [name for name in names if name not in COLUMNS]
    if unknown or len(set(names)) < len(names) or not set(POSITION) <= set(names):
        what = f"unknown column '{unknown[0]}'" if unknown else "no columns x, y, z, or one of them twice"
        raise UserError(what, where=path, fix=_FIX)
    if not 1 < len(rows) <= MAX_FRAMES + 1:
        raise UserError(f"{len(rows) - 1} rows", where=path, fix=f"Give 1 to {MAX_FRAMES} cameras")
    values = np.array([_numbers(row, names, path, i + 2) for i, row in enumerate(rows[1:])])
    return _table({name: values[:, k] for k, name in enumerate(names)}, path)


def path_from_table(
    table: PoseTable,
    cameras: Cameras,
    *,
    frame: Similarity | None,
    up: Vector,
    seconds: float | None = None,
    fps: float = 24.0,
    size: tuple[int, int] | None = None,
    fov_y_deg: float | None = None,
) -> CameraPath:
    """The path that a table describes.

    Where the table has times, each camera is reached at its own; else, with `seconds` given, the path flies smoothly
    through all of them at one speed; else each row is one frame. Cameras without an orientation look at what the
    photos look at.

    Args:
        table: The numbers.
        cameras: Training cameras in the training frame; field of view and size are theirs where nothing else is said.
        frame: From the table's frame to the training frame; None where both are the same.
        up: Upward direction of the training frame.
        seconds: Length of the path.
        fps: Frames per second.
        size: (width, height).
        fov_y_deg: Vertical field of view of rows that have none.
    Raises:
        UserError: for rows that make no path.
    """
    check_fps(fps)
    template = typical_camera(cameras, size, fov_y_deg)
    views = _views(table, template, cameras, frame, up)
    if table.times_s is None and seconds is None:
        return CameraPath(views, fps, "table")
    if table.times_s is None:
        return interpolate(views, seconds=seconds, fps=fps, size=(template.width, template.height))
    if len(views) < 2:
        raise UserError("one row with a time is no path", where="table", fix="Give at least two rows, or no times")
    knots = table.times_s - table.times_s[0]
    c2w = views.c2w.numpy()
    shorter = min(template.width, template.height)
    focals = np.log([float(camera.K[1, 1]) / shorter for camera in views])
    curve = KeyCurve(c2w[:, :, 3], c2w[:, :, :3], focals, knots=knots)
    at = np.linspace(0, knots[-1], frame_count(float(knots[-1]), fps))
    return CameraPath(Cameras(sample_curve(curve, at, template)), fps, "table")


def _views(table: PoseTable, template: Camera, cameras: Cameras, frame: Similarity | None, up: Vector) -> Cameras:
    rotation, shift, scale = np.eye(3), np.zeros(3), 1.0
    if frame is not None:
        rotation, shift, scale = frame.rotation.numpy(), frame.translation.numpy(), frame.scale
    eyes = scale * table.positions @ rotation.T + shift
    if table.quaternions is not None:
        turns = rotation @ matrices_from_quaternions(table.quaternions)
        poses = list(torch.from_numpy(np.concatenate([turns, eyes[:, :, None]], 2)))
    else:
        targets = np.broadcast_to(layout_of(cameras, up).center, eyes.shape)
        if table.targets is not None:
            targets = scale * table.targets @ rotation.T + shift
        near = np.linalg.norm(targets - eyes, axis=1) < 1e-9
        if near.any():
            what = f"row {int(near.argmax()) + 1} looks at its own position"
            raise UserError(what, where="table", fix="Move the point it looks at")
        poses = [look_at(eye, target, np.asarray(up, float)) for eye, target in zip(eyes, targets, strict=True)]
    width, height = template.width, template.height
    default = math.degrees(2 * math.atan(height / (2 * float(template.K[1, 1]))))
    fovs = [default] * len(poses) if table.fovs_deg is None else table.fovs_deg.tolist()
    return Cameras([Camera.perspective(width, height, fov, c2w) for fov, c2w in zip(fovs, poses, strict=True)])


def _numbers(row: list[str], names: list[str], path: Path, line: int) -> list[float]:
    if len(row) != len(names):
        raise UserError(f"line {line} has {len(row)} cells, the first has {len(names)}", where=path, fix=_FIX)
    numbers = []
    for name, cell in zip(names, row, strict=True):
        try:
            number = float(cell)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise UserError(
                f"line {line}, column {name}: '{cell.strip()[:40]}' is not a number",
                where=path,
                fix="Write a number there",
            )
        numbers.append(number)
    return numbers


def _table(columns: dict[str, np.ndarray], path: Path) -> PoseTable:
    def several(names: tuple[str, ...]) -> np.ndarray | None:
        found = [name for name in names if name in columns]
        if found and len(found) < len(names):
            raise UserError(f"of {', '.join(names)} only {', '.join(found)} is there", where=path, fix=_FIX)
        return np.stack([columns[name] for name in names], 1) if found else None

    quaternions, targets = several(QUATERNION), several(TARGET)
    if quaternions is not None and targets is not None:
        raise UserError("both orientations and points to look at", where=path, fix="Give one of them")
    if quaternions is not None and not (np.abs(np.linalg.norm(quaternions, axis=1) - 1) < 0.1).all():
        raise UserError("a quaternion that is not of length 1", where=path, fix="Write unit quaternions qw, qx, qy, qz")
    fovs, times = columns.get("fov"), columns.get("time")
    if fovs is not None and not ((fovs > 0) & (fovs < 180)).all():
        raise UserError("a field of view outside 0 to 180 degrees", where=path, fix="Write vertical degrees")
    if times is not None and not (np.diff(times) > 0).all():
        raise UserError("times that do not ascend", where=path, fix="Sort the rows by time, each time once")
    positions = several(POSITION)
    assert positions is not None
    return PoseTable(positions, quaternions, targets, fovs, times)
