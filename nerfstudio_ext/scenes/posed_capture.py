"""What every reader of posed captures returns, and the checks they share: paths and poses."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import UserError
from ..lenses import Lens
from .images import IMAGE_SUFFIXES

POSE_TOLERANCE = 0.05
"""Deviation of an axis length from 1 that still counts as noise: COLMAP writes 1e-7, hand-made files 1e-2."""
MAX_POSITION = 1e12
"""Coordinates beyond are damaged: metres from the centre of the earth reach 1e7."""
ROTATION_NOISE = 1e-9
"""Deviation above which a rotation is made orthonormal; float64 rounding lies at 1e-15."""


@dataclass(frozen=True)
class Intrinsics:
    """Focal lengths and principal point for a picture of `width` x `height` pixels.

    Attributes:
        width: None where the file does not say; then the picture's own size counts.
        height: As `width`.
        focal: (fx, fy) in pixels.
        fov: (horizontal, vertical) full field of view in radians where no focal length is given; vertical may be None.
        centre: (cx, cy) in pixels, or None for the centre of the picture.
        lens: Lens model and coefficients.
        circle_radius: Radius in pixels of the valid circle of a fisheye picture, or None.
    """

    width: int | None
    height: int | None
    focal: tuple[float, float] | None
    fov: tuple[float | None, float | None] | None
    centre: tuple[float | None, float | None]
    lens: Lens
    circle_radius: float | None = None

    def matrix(self, width: int, height: int) -> Float[Tensor, "3 3"]:
        """K for a picture of the given size, which must be the stated one where a size is stated."""
        fx, fy = self.focal or _focal_of_fov(self.fov, width, height)
        cx = self.centre[0] if self.centre[0] is not None else width / 2
        cy = self.centre[1] if self.centre[1] is not None else height / 2
        return torch.tensor([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], dtype=torch.float64)


def _focal_of_fov(fov: tuple[float | None, float | None] | None, width: int, height: int) -> tuple[float, float]:
    fov_x, fov_y = fov or (None, None)
    fx = 0.5 * width / float(np.tan(0.5 * fov_x)) if fov_x is not None else None
    fy = 0.5 * height / float(np.tan(0.5 * fov_y)) if fov_y is not None else None
    focal_x, focal_y = fx if fx is not None else fy, fy if fy is not None else fx
    # An equirectangular picture has no focal length; any positive number stands in.
    return (focal_x or float(width), focal_y or float(width))


@dataclass(frozen=True)
class PosedFrame:
    """One picture with its pose, as a file describes it.

    Attributes:
        name: Path as the file names it, cleaned, with `/`.
        path: The picture.
        c2w: [3,4] float64, OpenCV axes, source frame.
        intrinsics: See `Intrinsics`.
        mask: Mask file, white = use, or None.
        ignore_mask: Mask file of the opposite sense, non-zero = ignore, or None.
        where: Place in the file for messages, such as `transforms.json: frames[3]`.
    """

    name: str
    path: Path
    c2w: Float[Tensor, "3 4"]
    intrinsics: Intrinsics
    mask: Path | None = None
    ignore_mask: Path | None = None
    where: str = ""


@dataclass(frozen=True)
class FrameHints:
    """What a file says about the box around the scene.

    Attributes:
        is_synthetic: A Blender set, whose object fills [-1.5, 1.5]^3.
        aabb_scale: Edge of the scene box over the inner cube, or None.
        scale: Training units per source unit (instant-ngp), or None for 0.33.
        offset: Added after scaling, in a unit cube from 0 to 1 (instant-ngp), or None for 0.5.
        has_up: Whether +Z of the source frame points up.
        near_far: [V,2] depth range of each picture, source units, or None.
        is_object: The pictures show an object cut out from its background.
    """

    is_synthetic: bool = False
    aabb_scale: int | None = None
    scale: float | None = None
    offset: tuple[float, float, float] | None = None
    has_up: bool = True
    near_far: np.ndarray | None = None
    is_object: bool = False


@dataclass(frozen=True)
class PosedCapture:
    """A capture as its file describes it, before any picture is opened.

    Attributes:
        kind: For people: "nerfstudio transforms.json".
        root: Folder no path may leave.
        frames: The pictures, in the order the scene will have.
        splits: Names per purpose ("train", "val", "test") where the file fixes them, else None.
        points: [P,3] float32 in the source frame, or None.
        applied_transform: [3,4] float64, or None.
        hints: About the box.
        warnings: One line each.
        file: The file that lists the pictures, for messages; None stands for the root.
    """

    kind: str
    root: Path
    frames: tuple[PosedFrame, ...]
    splits: Mapping[str, tuple[str, ...]] | None = None
    points: np.ndarray | None = None
    applied_transform: Float[Tensor, "3 4"] | None = None
    hints: FrameHints = field(default_factory=FrameHints)
    warnings: tuple[str, ...] = ()
    file: Path | None = None


def resolve_inside(root: Path, name: str, where: str) -> Path:
    """The file that `name` (from a capture's file) means, inside `root`; it need not exist.

    Raises:
        UserError: if it is absolute, a URL, leaves `root` (symbolic links followed), or holds a NUL byte.
    """
    cleaned = name.replace("\\", "/")
    is_drive = len(cleaned) > 1 and cleaned[1] == ":"
    if not cleaned or "\0" in cleaned or "://" in cleaned or cleaned.startswith(("/", "file:")) or is_drive:
        raise UserError(f"'{_shown(name)}' is not a path inside the capture", where=where, fix="Use a relative path")
    if not _can_be_named(cleaned):
        raise UserError(f"'{_shown(name)}' cannot be the name of a file", where=where, fix="Write the file again")
    try:
        path = (root / cleaned).resolve()
    except (OSError, RuntimeError):  # a loop of symbolic links
        raise UserError(f"'{_shown(name)}' cannot be followed", where=where, fix="Remove the link") from None
    if not path.is_relative_to(root.resolve()):
        raise UserError(
            f"'{_shown(name)}' leaves the capture folder", where=where, fix="Copy the file into the capture folder"
        )
    return path


def _can_be_named(name: str) -> bool:
    """Whether file systems take such a name: 255 bytes a part, 4096 in all, no half of a character."""
    try:
        parts = [os.fsencode(part) for part in name.split("/")]
    except UnicodeEncodeError:
        return False
    return max(map(len, parts)) <= 255 and sum(map(len, parts)) < 4000


def find_picture(root: Path, name: str, where: str) -> Path | None:
    """`resolve_inside`, trying the known endings when the name has none; None when nothing is there."""
    path = resolve_inside(root, name, where)
    if path.exists() and not path.is_dir():
        return path
    for suffix in IMAGE_SUFFIXES:
        for ending in (suffix, suffix.upper()):
            candidate = resolve_inside(root, name.rstrip("/") + ending, where)
            if candidate.exists():
                return candidate
    return None


def clean_name(name: str) -> str:
    """A path from a file with `/` and without leading `./`."""
    parts = [p for p in name.replace("\\", "/").split("/") if p not in ("", ".")]
    return "/".join(parts)


def missing_pictures(names: list[str], where: str, folder: Path) -> UserError:
    """The error for pictures that are not there: how many, and the first five."""
    shown = ", ".join(f"'{_shown(n)}'" for n in names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    count = "1 picture is" if len(names) == 1 else f"{len(names)} pictures are"
    return UserError(f"{count} missing: {shown}", where=where, fix=f"Restore them under {folder}, or delete the frames")


def check_pose(matrix: np.ndarray, where: str) -> Float[Tensor, "3 4"]:
    """A camera-to-world pose [3,4] or [4,4] with a proper, orthonormal rotation; slight noise is removed.

    Raises:
        UserError: if it is not finite, absurdly far away, its last row is wrong, it is zero, mirrored, or no rotation.
            Names `where`.
    """
    fix = "Write the poses again, or delete the frame"
    if matrix.shape not in ((3, 4), (4, 4)):
        raise UserError(f"expected 3x4 or 4x4 numbers, found {'x'.join(map(str, matrix.shape))}", where=where, fix=fix)
    if not np.isfinite(matrix).all():
        raise UserError("the pose is not finite", where=where, fix=fix)
    farthest = np.abs(matrix[:3, 3]).max()
    if farthest > MAX_POSITION:
        raise UserError(f"the position is {farthest:.3g} units from the origin", where=where, fix=fix)
    if len(matrix) == 4 and np.abs(matrix[3] - [0, 0, 0, 1]).max() > 1e-4:
        hint = "transposed: " if np.abs(matrix[:3, 3]).max() < 1e-4 and abs(matrix[3, 3] - 1) < 1e-4 else ""
        row = ", ".join(f"{v:.6g}" for v in matrix[3])
        raise UserError(f"{hint}the last row is [{row}], expected [0, 0, 0, 1]", where=where, fix=fix)
    rotation = matrix[:3, :3].astype(np.float64)
    left, lengths, right = np.linalg.svd(rotation)
    if lengths[2] < 1e-6 * max(lengths[0], 1e-6):
        what = "all zeros" if lengths[0] < 1e-12 else "flat (two axes coincide)"
        raise UserError(f"the rotation is {what}", where=where, fix=fix)
    if np.linalg.det(rotation) < 0:
        raise UserError("det = -1: the pose is mirrored", where=where, fix=fix)
    if np.abs(lengths - 1).max() > POSE_TOLERANCE:
        shown = " ".join(f"{v:.3g}" for v in lengths)
        raise UserError(f"not a rotation (axis lengths {shown}, expected 1 1 1)", where=where, fix=fix)
    pose = torch.from_numpy(np.ascontiguousarray(matrix[:3], dtype=np.float64).copy())
    if np.abs(rotation @ rotation.T - np.eye(3)).max() > ROTATION_NOISE:
        pose[:, :3] = torch.from_numpy(left @ right)
    return pose


def from_opengl(c2w: Float[Tensor, "3 4"]) -> Float[Tensor, "3 4"]:
    """OpenGL camera axes (y up, z backward) to OpenCV's (y down, z forward), or back."""
    return c2w * torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=c2w.dtype)


def _shown(name: str) -> str:
    printable = "".join(c if c.isprintable() else "?" for c in name)
    return printable if len(printable) <= 80 else printable[:77] + "..."
