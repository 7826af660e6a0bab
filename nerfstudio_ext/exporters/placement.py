"""The frame in which points, meshes and cameras are written, and the file beside them that says so."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from .. import __version__
from ..camera_paths import Similarity
from ..camera_paths.similarity import FrameChange
from ..errors import UserError
from .pictures import write_whole
from .sequence import document_text

UpAxis = Literal["z", "y"]
SCHEMA = 1
_Y_UP = torch.tensor([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]], dtype=torch.float64)
"""Turns z up into y up; x stays."""


@dataclass(frozen=True)
class Placement:
    """From the training frame to the frame of a file.

    Attributes:
        to_file: The change of frame.
        to_source: From the training frame to the capture's own.
        is_chosen: Whether people set the world frame; else it is the capture's own.
        up: Axis that points up in the file.
        scale: File units per world unit.
    """

    to_file: FrameChange
    to_source: FrameChange
    is_chosen: bool
    up: UpAxis
    scale: float

    @classmethod
    def of(
        cls, frame: Similarity | None, world: Similarity | None = None, *, up: UpAxis = "z", scale: float = 1.0
    ) -> Placement:
        """The placement of a file in the world frame.

        Args:
            frame: From the capture's own frame to the training frame.
            world: From the capture's own frame to the one people chose; None takes the capture's own.
            up: Axis that points up in the file.
            scale: File units per world unit, above 0.
        Raises:
            UserError: for a scale that is not positive.
        """
        if not (math.isfinite(scale) and scale > 0):
            raise UserError(f"a scale of {scale:g}", fix="Choose a scale above 0")
        to_source = FrameChange.of(frame).inverse()
        turn = _Y_UP if up == "y" else torch.eye(3, dtype=torch.float64)
        last = FrameChange(turn, torch.zeros(3, dtype=torch.float64), scale)
        return cls(to_source.then(FrameChange.of(world)).then(last), to_source, world is not None, up, scale)

    def to_json(self) -> dict[str, object]:
        """What the file beside an export says about frames."""
        back = self.to_file.inverse()
        return {
            "formula": "x_to = scale * rotation @ x_from + translation",
            "frame": "world frame chosen for the run" if self.is_chosen else "frame of the capture (source)",
            "up": self.up,
            "units_per_world_unit": self.scale,
            "file_to_source": back.then(self.to_source).to_json(),
            "file_to_training": back.to_json(),
        }


def write_side_file(target: Path, placement: Placement, facts: Mapping[str, object]) -> Path:
    """Write `NAME.json` beside an export.

    Raises:
        UserError: if it cannot be written.
    """
    file = target.with_name(target.name + ".json")
    document = {
        "schema": SCHEMA, "written_by": f"nerfstudio-ext {__version__}", "file": target.name,
        **facts, "placement": placement.to_json(),
    }  # fmt: skip
    try:
        write_whole(file, document_text(document))
    except OSError as error:
        raise UserError(f"cannot write: {error.strerror}", where=file, fix="Make room there") from error
    return file


def check_target(target: Path, suffixes: tuple[str, ...], *, overwrite: bool) -> None:
    """Refuse before any work what cannot be written at the end.

    Raises:
        UserError: for another suffix, an existing file, or a folder that cannot be made.
    """
    if target.suffix.lower() not in suffixes:
        raise UserError(f"cannot write '{target.suffix}' files", where=target, fix=f"Use {', '.join(suffixes)}")
    if target.exists() and not overwrite:
        raise UserError("the file exists", where=target, fix="Choose another name or allow overwriting")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot write there: {error.strerror}", where=target.parent, fix="Choose another folder"
        ) from (error)
