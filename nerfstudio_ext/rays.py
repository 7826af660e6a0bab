"""Rays, packed samples along them, and what rendering returns.

Letters in shapes, everywhere: R rays, S packed samples, V views, H W C image, L levels, F features per level.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float, Int64


@dataclass(frozen=True)
class Rays:
    """R rays, each valid on the interval [t_min, t_max] of ray length.

    Attributes:
        rays_o: Origins, scene units.
        rays_d: Directions of unit length.
        t_min: Start of the valid interval, scene units; `t_min >= t_max` means the ray sees nothing.
        t_max: End of the valid interval; may be `inf`.
    """

    rays_o: Float[Tensor, "R 3"]
    rays_d: Float[Tensor, "R 3"]
    t_min: Float[Tensor, " R"]
    t_max: Float[Tensor, " R"]

    def __len__(self) -> int:
        return self.rays_o.shape[0]

    def __getitem__(self, index: slice | Tensor) -> Rays:
        return Rays(*(getattr(self, f.name)[index] for f in fields(self)))

    def to(self, device: torch.device | str) -> Rays:
        """Return the same rays on another device."""
        return Rays(*(getattr(self, f.name).to(device) for f in fields(self)))


@dataclass(frozen=True)
class Samples:
    """S sample intervals on R rays, packed: all samples of ray 0, then of ray 1, each sorted by distance.

    Attributes:
        ray_indices: Ray of each sample, ascending.
        t_starts: Start of each interval, ray length in scene units.
        t_ends: End of each interval.
        packed_info: (first sample, number of samples) of each ray.
    """

    ray_indices: Int64[Tensor, " S"]
    t_starts: Float[Tensor, " S"]
    t_ends: Float[Tensor, " S"]
    packed_info: Int64[Tensor, "R 2"]

    def __len__(self) -> int:
        return self.t_starts.shape[0]

    @property
    def n_rays(self) -> int:
        return self.packed_info.shape[0]

    def positions(self, rays: Rays) -> Float[Tensor, "S 3"]:
        """World positions of the interval midpoints."""
        t = 0.5 * (self.t_starts + self.t_ends)
        return rays.rays_o[self.ray_indices] + t[:, None] * rays.rays_d[self.ray_indices]


@dataclass(frozen=True)
class RayOutputs:
    """What rendering returns for R rays, before any background is added.

    Attributes:
        rgb: Colour; premultiplied by `alpha` when there is one (add `(1 - alpha) * background`).
        depth: Ray length in scene units; premultiplied by `alpha` when there is one.
        alpha: Opacity 0..1, or None for a method that has no notion of empty space.
    """

    rgb: Float[Tensor, "R 3"]
    depth: Float[Tensor, " R"]
    alpha: Float[Tensor, " R"] | None
