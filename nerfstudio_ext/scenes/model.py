"""What a loaded capture is: cameras, split, box, pictures.

`SceneMeta` is everything but the pixels; it travels in a run folder as `scene.json`, so that a finished
run opens without its photos. `Scene` adds the pictures.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..cameras import Cameras
from .images import ImageStore


@dataclass(frozen=True)
class SceneFrame:
    """The similarity from the capture's own frame to the training frame, and the box in the latter.

    A point moves as `x_train = scale * rotation @ x_source + translation`. In the training frame the part of
    the scene that matters most fills the cube [-0.5, 0.5]^3, and all of it lies in the cube `aabb_scale` times
    as large around the same centre.

    Attributes:
        rotation: [3,3] float64, a proper rotation.
        translation: [3] float64.
        scale: Training units per source unit, > 0.
        aabb_scale: Edge of the scene box in training units; a power of two from 1 to 128.
    """

    rotation: Float[Tensor, "3 3"]
    translation: Float[Tensor, "3"]
    scale: float
    aabb_scale: int = 1

    @classmethod
    def identity(cls, aabb_scale: int = 1) -> SceneFrame:
        """Source and training frame are the same."""
        return cls(torch.eye(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64), 1.0, aabb_scale)

    def to_training(self, cameras: Cameras) -> Cameras:
        """Cameras of the source frame, moved to the training frame."""
        return cameras.transformed(self.rotation, self.translation, self.scale)

    def to_source(self, cameras: Cameras) -> Cameras:
        """Cameras of the training frame, moved back to the source frame."""
        back = self.rotation.T
        return cameras.transformed(back, -(back @ self.translation) / self.scale, 1 / self.scale)

    @property
    def aabb(self) -> Float[Tensor, "6"]:
        """The scene box in the training frame, min then max, float32."""
        half = self.aabb_scale / 2
        return torch.tensor([-half] * 3 + [half] * 3, dtype=torch.float32)


@dataclass(frozen=True)
class Split:
    """Positions of the images used for each purpose; train never overlaps the others."""

    train: tuple[int, ...]
    val: tuple[int, ...]
    test: tuple[int, ...]


@dataclass(frozen=True)
class SceneMeta:
    """A capture without its pixels.

    Attributes:
        name: Short name, used for run folders.
        kind: What was found, for people: "nerfstudio transforms.json, 50 images".
        cameras: All cameras, in the source frame.
        image_names: Path of each image relative to the capture, with `/`.
        split: Which image is used for what.
        frame: From source frame to training frame.
        background: Colour behind the scene when pictures are shown or evaluated, 0..1.
        has_alpha: Whether the pictures carry opacity (then training composites on random colours).
        points: Sparse points in the source frame, [P,3] float32, or None.
        applied_transform: [3,4] float64 from the capture's original frame to the source frame, or None.
        source: Absolute path the capture was loaded from (for people and for resume).
    """

    name: str
    kind: str
    cameras: Cameras
    image_names: tuple[str, ...]
    split: Split
    frame: SceneFrame
    background: tuple[float, float, float] = (1.0, 1.0, 1.0)
    has_alpha: bool = False
    points: np.ndarray | None = None
    applied_transform: Float[Tensor, "3 4"] | None = None
    source: str = ""

    def training_cameras(self) -> Cameras:
        """All cameras, in the training frame."""
        return self.frame.to_training(self.cameras)


@dataclass(frozen=True)
class Scene:
    """A capture: `meta` plus its pictures."""

    meta: SceneMeta
    images: ImageStore
    root: Path = field(default_factory=Path)
