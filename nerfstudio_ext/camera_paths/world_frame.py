"""The frame people chose for a capture: which way is up, where zero is, how long a metre is.

It lies beside the run as `world_frame.json`, and every path, film and export carries a copy.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import UserError
from ..strict_json import as_number, as_numbers, read_json
from .entries import field, items, rigid
from .path import Similarity

FILE = "world_frame.json"
ENTRY = "world_frame"
MAX_BYTES = 1 << 20
SCHEMA = 1


@dataclass(frozen=True, eq=False)
class WorldFrame:
    """A similarity x_world = scale * rotation @ x_source + translation. Its z axis points up.

    Attributes:
        rotation: A proper rotation, float64.
        translation: World units, float64.
        scale: World units per source unit, > 0.
        is_metric: Whether a world unit is a metre; else it is as long as a source unit.
    """

    rotation: Float[Tensor, "3 3"]
    translation: Float[Tensor, "3"]
    scale: float = 1.0
    is_metric: bool = False

    @classmethod
    def identity(cls) -> WorldFrame:
        """The capture's own frame."""
        return cls(torch.eye(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64))

    @property
    def unit(self) -> str:
        """Name of a world unit, for people."""
        return "m" if self.is_metric else "units"

    def to_json(self) -> dict[str, object]:
        """As JSON data."""
        return {
            "schema": SCHEMA,
            "formula": "x_world = scale * rotation @ x_source + translation; z is up",
            "unit": "metre" if self.is_metric else "source unit",
            "rotation": self.rotation.tolist(),
            "translation": self.translation.tolist(),
            "scale": self.scale,
        }


def world_frame_from_json(document: Mapping[str, object], where: str = FILE) -> WorldFrame:
    """What `WorldFrame.to_json` wrote.

    Raises:
        UserError: naming the entry that cannot be used.
    """
    rows = items(field(document, "rotation", where), f"{where}: rotation")
    rotation = np.array([as_numbers(row, f"{where}: rotation", 3) for row in rows])
    if rotation.shape != (3, 3):
        raise UserError("expected three rows", where=f"{where}: rotation", fix="Remove the file")
    shift = as_numbers(field(document, "translation", where), f"{where}: translation", 3)
    scale = as_number(field(document, "scale", where), f"{where}: scale")
    if scale <= 0:
        raise UserError(f"a scale of {scale:g}", where=where, fix="Remove the file")
    pose = rigid(np.concatenate([rotation, np.array(shift)[:, None]], 1), where)
    return WorldFrame(pose[:, :3].clone(), pose[:, 3].clone(), scale, document.get("unit") == "metre")


def read_world_frame(folder: Path) -> WorldFrame | None:
    """The world frame of a run folder; None when nobody chose one.

    Raises:
        UserError: if the file is there but damaged.
    """
    file = folder / FILE
    if not file.is_file():
        return None
    return world_frame_from_json(read_json(file, MAX_BYTES), where=str(file))


def write_world_frame(world: WorldFrame, folder: Path) -> Path:
    """Write the world frame of a run folder; an older one is replaced as a whole."""
    return _write_json(folder / FILE, world.to_json())


def stamp_world_frame(side_file: Path, world: WorldFrame | None) -> None:
    """Add the world frame to the JSON file beside an export; nothing happens without one."""
    if world is None or not side_file.is_file():
        return
    document = read_json(side_file, 256 * MAX_BYTES)
    _write_json(side_file, dict(document) | {ENTRY: world.to_json()})


def turn_to(a: Float[Tensor, "3"], b: Float[Tensor, "3"]) -> Float[Tensor, "3 3"]:
    """The smallest rotation that takes the direction `a` to `b`, float64."""
    a, b = (v.double() / v.double().norm() for v in (a, b))
    axis, cosine = torch.linalg.cross(a, b), float(a @ b)
    if cosine < -1 + 1e-12:
        # Opposite directions: half a turn about any axis across.
        across = torch.linalg.cross(a, torch.eye(3, dtype=torch.float64)[int(a.abs().argmin())])
        across = across / across.norm()
        return 2 * across[:, None] * across[None, :] - torch.eye(3, dtype=torch.float64)
    x, y, z = axis.tolist()
    skew = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64)
    return torch.eye(3, dtype=torch.float64) + skew + skew @ skew / (1 + cosine)


def world_frame_of(frame: Similarity | None, up: Tensor, origin: Tensor, metres_per_unit: float | None) -> WorldFrame:
    """The world frame with an upward direction and an origin given in the training frame.

    Turned no more than the upward direction asks for, so that the capture's own heading stays.

    Args:
        frame: From the source frame to the training frame; None where both are the same.
        up: Upward direction in the training frame, any length.
        origin: Training position of the world's zero.
        metres_per_unit: Metres per training unit; None keeps the capture's own length.
    Raises:
        UserError: for a direction of no length or a scale that is not positive.
    """
    if not (bool(up.isfinite().all()) and float(up.norm()) > 1e-9 and bool(origin.isfinite().all())):
        raise UserError("an upward direction of no length", fix="Choose another direction")
    if metres_per_unit is not None and not (math.isfinite(metres_per_unit) and metres_per_unit > 0):
        raise UserError(f"a scale of {metres_per_unit:g}", fix="Choose two points that are apart, and a length above 0")
    rotation = torch.eye(3, dtype=torch.float64) if frame is None else frame.rotation
    shift = torch.zeros(3, dtype=torch.float64) if frame is None else frame.translation
    scale = 1.0 if frame is None else frame.scale
    z = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    to_world = turn_to(rotation.T @ up.double(), z) @ rotation.T
    unit = 1 / scale if metres_per_unit is None else metres_per_unit
    return WorldFrame(
        to_world @ rotation, unit * (to_world @ (shift - origin.double())), unit * scale, metres_per_unit is not None
    )


def _write_json(file: Path, document: Mapping[str, object]) -> Path:
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        os.replace(partial, file)
    except OSError as error:
        raise UserError(f"cannot write: {error.strerror}", where=file, fix="Make room there") from error
    finally:
        partial.unlink(missing_ok=True)
    return file
