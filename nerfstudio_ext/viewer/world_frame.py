"""The world frame of a run while people change it: up, origin, metres. Kept beside the run at every change."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from ..camera_paths import (
    Similarity,
    WorldFrame,
    read_world_frame,
    stamp_world_frame,
    world_frame_of,
    write_world_frame,
)
from ..errors import UserError

logger = logging.getLogger(__name__)
Vector = tuple[float, float, float]


class WorldFrames:
    """Holds the world frame of a run and writes it down.

    Args:
        folder: The run folder.
        frame: From the source frame to the training frame.
        up: Upward direction of the training frame, until somebody chooses one.
        packed: What was chosen before, where the folder has nothing newer (a scene file carries it).
    """

    def __init__(self, folder: Path, frame: Similarity | None, up: Vector, packed: WorldFrame | None = None) -> None:
        self._folder, self._frame = folder, frame
        self._default_up = torch.tensor(up, dtype=torch.float64)
        self._lock = threading.Lock()
        zero = torch.zeros(3, dtype=torch.float64)
        self._own = world_frame_of(frame, self._default_up, self._to_training(zero), None)
        self.on_change: list[Callable[[], None]] = []
        try:
            self._chosen = read_world_frame(folder) or packed
        except UserError as error:
            logger.warning("the world frame is not used: %s", error.line)
            self._chosen = packed

    @property
    def chosen(self) -> WorldFrame | None:
        """The frame that people chose; None before."""
        return self._chosen

    @property
    def world(self) -> WorldFrame:
        """The frame in use."""
        return self._chosen or self._own

    @property
    def up(self) -> Vector:
        """Upward direction in the training frame."""
        rotation = torch.eye(3, dtype=torch.float64) if self._frame is None else self._frame.rotation
        x, y, z = (rotation @ self.world.rotation.T)[:, 2].tolist()
        return x, y, z

    @property
    def origin(self) -> Float[Tensor, "3"]:
        """Training position of the world's zero."""
        world = self.world
        return self._to_training(-(world.rotation.T @ world.translation) / world.scale)

    @property
    def metres_per_unit(self) -> float | None:
        """Metres per training unit; None until a length was given."""
        return self.units_per_training if self.world.is_metric else None

    @property
    def units_per_training(self) -> float:
        """World units per training unit."""
        return self.world.scale / (1.0 if self._frame is None else self._frame.scale)

    def set_up(self, up: Tensor) -> None:
        """Choose the upward direction, in the training frame."""
        self._choose(world_frame_of(self._frame, up, self.origin, self.metres_per_unit))

    def set_origin(self, origin: Tensor) -> None:
        """Choose the world's zero, in the training frame."""
        up = torch.tensor(self.up, dtype=torch.float64)
        self._choose(world_frame_of(self._frame, up, origin, self.metres_per_unit))

    def set_length(self, a: Tensor, b: Tensor, metres: float) -> None:
        """Make the distance of two training positions so many metres long.

        Raises:
            UserError: if the points are the same or the length is not positive.
        """
        distance = float((b - a).norm())
        if distance < 1e-9 or not 0 < metres < 1e6:
            raise UserError("no scale follows from that", fix="Choose two points that are apart, and a length above 0")
        up = torch.tensor(self.up, dtype=torch.float64)
        self._choose(world_frame_of(self._frame, up, self.origin, metres / distance))

    def reset(self) -> None:
        """Go back to the capture's own frame."""
        self._choose(self._own)

    def to_world(self, x: Float[Tensor, "3"]) -> Float[Tensor, "3"]:
        """A training position in world coordinates."""
        world, x = self.world, x.double()
        if self._frame is not None:
            x = self._frame.rotation.T @ (x - self._frame.translation) / self._frame.scale
        return world.scale * (world.rotation @ x) + world.translation

    def stamp(self, side_file: Path) -> None:
        """Write the chosen frame into the JSON file beside an export."""
        stamp_world_frame(side_file, self._chosen)

    def _to_training(self, x_source: Tensor) -> Tensor:
        if self._frame is None:
            return x_source
        return self._frame.scale * (self._frame.rotation @ x_source) + self._frame.translation

    def _choose(self, world: WorldFrame) -> None:
        with self._lock:
            write_world_frame(world, self._folder)
            self._chosen = world
        for action in self.on_change:
            action()
