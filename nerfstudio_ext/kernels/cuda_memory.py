"""Device memory of a training step, allocated once for so many rays and samples: graphs can then rely on addresses."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..rays import Rays
from . import cuda_params
from .cuda_arguments import HALF_WORDS, HalfField
from .cuda_launch import floats, words
from .fused import FieldTensors

MARCHED_PER_SEEN = 4
"""Room for marched samples, in multiples of the room for seen ones. A trained scene marches 1.2 to 3 samples for each
that light reaches; in the first steps more rays are left out instead."""


@dataclass(frozen=True)
class Room:
    """How much a step's memory holds.

    Attributes:
        n_rays: Rays.
        n_seen: Samples that take part in the gradient.
    """

    n_rays: int
    n_seen: int

    @property
    def n_marched(self) -> int:
        """Samples that are evaluated."""
        return MARCHED_PER_SEEN * self.n_seen


class StepMemory:
    """All tensors of a step.

    Args:
        field: The field it is for.
        room: How much it holds.
        n_blocks: Blocks of the kernel that makes weight gradients; each has a row of its own.
    """

    def __init__(self, field: FieldTensors, room: Room, n_blocks: int) -> None:
        device = field.table.device
        self.room, self.n_blocks = room, n_blocks
        self.half = HalfField.empty(field)
        sizes = self.half.shape
        n_pairs = sizes.feature_width // 2

        def real(*shape: int) -> Tensor:
            return torch.empty(shape, dtype=torch.float32, device=device)

        def word(*shape: int) -> Tensor:
            return torch.empty(shape, dtype=HALF_WORDS, device=device)

        rays, marched, seen = room.n_rays, room.n_marched, room.n_seen
        # What comes in.
        self.rays = Rays(real(rays, 3), real(rays, 3), real(rays), real(rays))
        self.jitter, self.target, self.background = real(rays), real(rays, 3), real(rays, 3)
        # Per ray.
        self.counts, self.seen_counts = word(rays), word(rays)
        self.packed_info, self.seen_info = word(rays, 2), word(rays, 2)
        self.ray_losses = real(rays, 3)
        self.totals, self.seen_totals = (torch.zeros(3, dtype=HALF_WORDS, device=device) for _ in range(2))
        self.queue = torch.zeros(1, dtype=HALF_WORDS, device=device)
        # Per sample.
        self.t_starts, self.t_ends, self.sample_rays = real(marched), real(marched), word(marched)
        self.colors_sigmas, self.logit_gradients = real(marched, 4), real(marched, 4)
        self.features, self.feature_gradients = word(marched, n_pairs), word(seen, n_pairs)
        self.seen = word(seen)
        # What comes out.
        self.partials = real(n_blocks, sizes.n_partials)
        self.network_gradients = real(sizes.n_partials)
        self.table_gradients = real(*field.table.shape)
        self.n_bad = torch.zeros(1, dtype=HALF_WORDS, device=device)
        self.figures = torch.zeros(8, dtype=torch.float64, device=device)
        self.loss = torch.zeros((), device=device)

    @functools.cached_property
    def fixed(self) -> Tensor:
        """Sums of the table's gradient as whole numbers, whose order does not matter: for deterministic steps."""
        return torch.zeros(self.table_gradients.shape, dtype=torch.int64, device=self.table_gradients.device)

    def take(self, rays: Rays, jitter: Tensor, target: Tensor, background: Tensor) -> None:
        """Copy a batch in."""
        given = (rays.rays_o, rays.rays_d, rays.t_min, rays.t_max, jitter, target, background)
        own = self.rays
        kept = (own.rays_o, own.rays_d, own.t_min, own.t_max, self.jitter, self.target, self.background)
        for source, place in zip(given, kept, strict=True):
            place[: len(rays)].copy_(source.detach())

    def samples(self) -> Any:
        """The marched samples as an argument."""
        return cuda_params.SampleList(
            floats(self.t_starts), floats(self.t_ends), words(self.sample_rays), words(self.totals)
        )

    def matrix_gradients(self, field: FieldTensors) -> list[Tensor]:
        """Gradients of d1, d2, c1, c2, c3: parts of one buffer, in this order."""
        matrices = field.tensors[1:]
        parts = self.network_gradients.split([matrix.numel() for matrix in matrices])
        return [part.view(matrix.shape) for part, matrix in zip(parts, matrices, strict=True)]
