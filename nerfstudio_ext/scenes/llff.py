"""Reader of LLFF captures: `poses_bounds.npy` beside a folder of photos."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..array_files import read_array
from ..errors import UserError
from ..lenses import Lens
from .images import IMAGE_SUFFIXES
from .posed_capture import FrameHints, Intrinsics, PosedCapture, PosedFrame, check_pose, resolve_inside

IMAGE_FOLDERS = ("images", "images_2", "images_4", "images_8")
MAX_BYTES = 100_000 * 17 * 8


def read_llff(folder: Path) -> PosedCapture:
    """Read an LLFF capture.

    Each row of the array holds a 3x5 matrix (camera-to-world with axes down, right, backward; then height, width,
    focal length in pixels) and the near and far depth. Photos belong to rows by sorted name.

    Raises:
        UserError: if the array is damaged or the number of photos differs from the number of poses.
    """
    path = folder / "poses_bounds.npy"
    table = _read_table(path)
    images = next((folder / name for name in IMAGE_FOLDERS if (folder / name).is_dir()), None)
    if images is None:
        raise UserError("no folder 'images' beside the poses", where=folder, fix="Put the photos into 'images'")
    names = sorted(f"{images.name}/{p.name}" for p in images.iterdir() if _is_photo(p))
    if len(names) != len(table):
        raise UserError(
            f"{len(table)} poses but {len(names)} photos in '{images.name}'", where=path,
            fix="Photos belong to poses by sorted name: restore or remove photos until the numbers agree",
        )  # fmt: skip
    frames = [
        _read_row(row, name, folder, f"{path.name}: row {i}")
        for i, (row, name) in enumerate(zip(table, names, strict=True))
    ]
    return PosedCapture(
        kind="LLFF poses_bounds.npy", root=folder, frames=tuple(frames),
        hints=FrameHints(has_up=False, near_far=table[:, 15:17]),
    )  # fmt: skip


def _is_photo(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def _read_table(path: Path) -> np.ndarray:
    fix = "Make the poses again (LLFF's imgs2poses)"
    table = read_array(path, max_bytes=MAX_BYTES, noun="array of poses", fix=fix)
    if table.ndim != 2 or table.shape[1] != 17:
        raise UserError(f"expected N x 17 numbers, found {table.shape}", where=path, fix=fix)
    table = table.astype(np.float64)
    bad = np.flatnonzero(~np.isfinite(table).all(1))
    if len(bad):
        raise UserError(f"{len(bad)} rows hold NaN or infinity, first row {bad[0]}", where=path, fix=fix)
    near, far = table[:, 15], table[:, 16]
    bad = np.flatnonzero((near <= 0) | (far <= near))
    if len(bad):
        row = int(bad[0])
        what = f"row {row}: the depth range {near[row]:g} to {far[row]:g} is impossible"
        raise UserError(what, where=path, fix=fix)
    return table


def _read_row(row: np.ndarray, name: str, folder: Path, where: str) -> PosedFrame:
    matrix = row[:15].reshape(3, 5)
    down, right, backward, centre = matrix[:, :4].T
    c2w = check_pose(np.stack([right, down, -backward, centre], -1), where)
    height, width, focal = matrix[:, 4].tolist()
    if height < 1 or width < 1 or focal <= 0:
        raise UserError(
            f"impossible size or focal length: {height:g}, {width:g}, {focal:g}",
            where=where,
            fix="Make the poses again (LLFF's imgs2poses)",
        )
    intrinsics = Intrinsics(round(width), round(height), (focal, focal), None, (None, None), Lens())
    return PosedFrame(name=name, path=resolve_inside(folder, name, where), c2w=c2w, intrinsics=intrinsics, where=where)
