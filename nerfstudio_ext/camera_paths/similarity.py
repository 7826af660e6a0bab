"""Similarities as values: composing the source, training and world frames of a capture."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from .path import Similarity


@dataclass(frozen=True, eq=False)
class FrameChange:
    """x_to = scale * rotation @ x_from + translation.

    Attributes:
        rotation: A proper rotation, float64.
        translation: In units of the frame it leads to, float64.
        scale: Units of that frame per unit of the one it starts from, > 0.
    """

    rotation: Float[Tensor, "3 3"]
    translation: Float[Tensor, "3"]
    scale: float

    @classmethod
    def identity(cls) -> FrameChange:
        """Both frames are the same."""
        return cls(torch.eye(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64), 1.0)

    @classmethod
    def of(cls, similarity: Similarity | None) -> FrameChange:
        """The same similarity with the operations of this class; the identity for None."""
        if similarity is None:
            return cls.identity()
        return cls(similarity.rotation.double(), similarity.translation.double(), float(similarity.scale))

    def inverse(self) -> FrameChange:
        """The way back."""
        back = self.rotation.T
        return FrameChange(back, -(back @ self.translation) / self.scale, 1 / self.scale)

    def then(self, other: FrameChange) -> FrameChange:
        """This change followed by another."""
        rotation = other.rotation @ self.rotation
        translation = other.scale * (other.rotation @ self.translation) + other.translation
        return FrameChange(rotation, translation, other.scale * self.scale)

    def points(self, x: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
        """Positions after the change, in the precision they came in."""
        return (self.scale * (x.double() @ self.rotation.T) + self.translation).to(x.dtype)

    def directions(self, d: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
        """Directions after the change; their length stays."""
        return (d.double() @ self.rotation.T).to(d.dtype)

    def to_json(self) -> dict[str, object]:
        """As JSON data."""
        return {"rotation": self.rotation.tolist(), "translation": self.translation.tolist(), "scale": self.scale}
