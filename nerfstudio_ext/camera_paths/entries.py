"""Reading single entries of a path file, each refusal naming file and place."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import UserError
from ..strict_json import as_number, as_numbers, parse_json

MAX_DISTANCE = 1e9
"""Beyond, float32 rays have no precision left near any scene."""
MAX_SKEW = 1e-2
"""Rounded poses of other programs are off by up to 1e-3; beyond this the matrix is not a rotation."""


def field(entry: object, name: str, where: str) -> object:
    """`entry[name]`, or a refusal that names both."""
    if not isinstance(entry, Mapping) or name not in entry:
        raise UserError(f"'{name}' is missing", where=where, fix="Add it, or export the path again")
    return entry[name]


def items(value: object, where: str) -> list[object]:
    """The value as a list."""
    if not isinstance(value, list):
        raise UserError("expected a list", where=where, fix="Write the path again, or repair it by hand")
    return value


def integer(value: object, where: str) -> int:
    """The value as a whole number."""
    number = as_number(value, where)
    if number != int(number):
        raise UserError(
            f"expected a whole number, found {number:g}", where=where, fix="Write the path again, or repair it by hand"
        )
    return int(number)


def fov_deg(value: object, where: str) -> float:
    """The value as a field of view in degrees."""
    fov = as_number(value, where)
    if not 1e-3 <= fov < 180:
        raise UserError(f"a field of view of {fov:g} degrees", where=where, fix="Write 0.001 to 179")
    return fov


def pose(value: object, where: str) -> Float[Tensor, "3 4"]:
    """A camera-to-world matrix, its axes turned from OpenGL's to OpenCV's.

    A list holds rows; a string, as old files and the Blender add-on write, holds columns. Should the bottom row then
    not be (0, 0, 0, 1) while the other reading's is, the other reading is taken.
    """
    is_text = isinstance(value, str)
    if isinstance(value, str):
        value = parse_json(f'{{"m": {value}}}', where=where)["m"]
    if isinstance(value, list) and len(value) in (3, 4) and all(isinstance(row, list) for row in value):
        value = [number for row in value for number in row]
    if isinstance(value, list) and len(value) == 12:
        value = [*value, 0, 0, 0, 1]
    m = np.array(as_numbers(value, where, 16)).reshape(4, 4)
    m = m.T if is_text else m
    if not _ends_well(m) and _ends_well(m.T):
        m = m.T
    if not _ends_well(m):
        raise UserError(f"the bottom row is {m[3].tolist()}, not 0 0 0 1", where=where, fix="Export the path again")
    return rigid(m[:3] * np.array([1.0, -1, -1, 1]), where)


def rigid(c2w: Float[np.ndarray, "3 4"], where: str) -> Float[Tensor, "3 4"]:
    """The pose with its rotation made exactly orthonormal; refused when it is far from one, or mirrored."""
    rotation = c2w[:, :3]
    if np.linalg.det(rotation) <= 0:
        raise UserError("the matrix mirrors or flattens", where=where, fix="Export the path again")
    scale = np.cbrt(np.linalg.det(rotation))
    u, _, vt = np.linalg.svd(rotation)
    if np.abs(c2w[:, 3]).max() > MAX_DISTANCE:
        raise UserError(
            f"a camera {np.abs(c2w[:, 3]).max():.3g} units away", where=where, fix="Export the path again"
        )  # fmt: skip
    if np.abs(u @ vt - rotation / scale).max() > MAX_SKEW or not 1e-3 < scale < 1e3:
        raise UserError("the matrix is not a rotation", where=where, fix="Export the path again")
    return torch.from_numpy(np.concatenate([u @ vt, c2w[:, 3:]], 1))


def rotation_zyx(roll: float, pitch: float, yaw: float) -> Float[Tensor, "3 3"]:
    """Rz(yaw) Ry(pitch) Rx(roll), the order nerfstudio's crop box uses."""
    (cr, sr), (cp, sp), (cy, sy) = ((math.cos(a), math.sin(a)) for a in (roll, pitch, yaw))
    return torch.tensor(
        [
            [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr],
            [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr],
            [-sp, cp * sr, cp * cr],
        ],
        dtype=torch.float64,
    )


def _ends_well(m: Float[np.ndarray, "4 4"]) -> bool:
    return bool(np.allclose(m[3], (0, 0, 0, 1), atol=1e-6))
