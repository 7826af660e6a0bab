"""Memory layouts and options that every back end shares: the hash grid, occupancy bits, the marching lattice."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError

if TYPE_CHECKING:
    from jaxtyping import Bool, Int64

HASH_PRIMES = (1, 2654435761, 805459861)
"""Factors of the three cell coordinates; modulo 2^32 arithmetic, combined with xor."""
BLOCK = 4
"""Occupancy is stored in blocks of 4 x 4 x 4 cells: 64 bits, one word."""
_ROW_MULTIPLE = 8
_MAX_LOG2_TABLE = 28


@dataclass(frozen=True)
class GridLayout:
    """Where the features of a multiresolution hash grid lie in its table [E, F].

    Level l has `scale = base * growth^l - 1` and `resolution = ceil(scale) + 1`. A position x in [0, 1]^3 lies at
    `x * scale + 0.5` on the level; its floor is the lower corner of the cell and the fraction gives the trilinear
    weights. Corner coordinates run from 0 to `resolution`. A level whose (resolution + 1)^3 corners fit in
    2^log2_table rows is dense: `row = x + y * (resolution + 1) + z * (resolution + 1)^2`. Any other level has
    2^log2_table rows: `row = (x * 1 ^ y * 2654435761 ^ z * 805459861) mod 2^log2_table`.

    Source: Mueller et al. 2022, section 3, and the public instant-ngp sources for the half-cell offset.

    Attributes:
        n_levels: Number of levels L.
        n_features: Features per level F.
        log2_table: Logarithm of the largest number of rows of a level.
        base_resolution: Resolution of the coarsest level.
        finest_resolution: Resolution of the finest level; equals `base_resolution` when there is one level.
    """

    n_levels: int
    n_features: int
    log2_table: int
    base_resolution: int
    finest_resolution: int

    def __post_init__(self) -> None:
        if self.n_levels < 1 or self.n_features < 1:
            raise UserError(
                f"hash grid of {self.n_levels} levels with {self.n_features} features", fix="Use at least 1."
            )
        if not 3 <= self.log2_table <= _MAX_LOG2_TABLE:
            raise UserError(f"hash table of 2^{self.log2_table} rows", fix=f"Use 3 to {_MAX_LOG2_TABLE}.")
        if not 2 <= self.base_resolution <= self.finest_resolution:
            raise UserError(
                f"hash grid resolutions from {self.base_resolution} to {self.finest_resolution}",
                fix="Use a base resolution of at least 2 and a finest resolution not below it.",
            )
        if self.n_levels == 1 and self.finest_resolution != self.base_resolution:
            raise UserError("one level with two resolutions", fix="Give both resolutions the same value.")

    @cached_property
    def scales(self) -> tuple[float, ...]:
        """Scale of each level, rounded to float32 so that all back ends and precisions use the same number."""
        steps = max(self.n_levels - 1, 1)
        growth = math.log(self.finest_resolution / self.base_resolution) / steps
        scales = (self.base_resolution * math.exp(growth * level) - 1.0 for level in range(self.n_levels))
        return tuple(float(np.float32(scale)) for scale in scales)

    @cached_property
    def resolutions(self) -> tuple[int, ...]:
        """Largest corner coordinate of each level."""
        return tuple(math.ceil(scale) + 1 for scale in self.scales)

    @cached_property
    def is_dense(self) -> tuple[bool, ...]:
        """Whether each level stores all of its corners."""
        return tuple((resolution + 1) ** 3 <= 2**self.log2_table for resolution in self.resolutions)

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """First row of each level, and the total number of rows as last entry (L + 1 numbers)."""
        offsets = [0]
        for resolution, is_dense in zip(self.resolutions, self.is_dense, strict=True):
            rows = (resolution + 1) ** 3 if is_dense else 2**self.log2_table
            offsets.append(offsets[-1] + -(-rows // _ROW_MULTIPLE) * _ROW_MULTIPLE)
        return tuple(offsets)

    @property
    def n_rows(self) -> int:
        """Rows E of the table."""
        return self.offsets[-1]

    @property
    def n_outputs(self) -> int:
        """Length L * F of the encoding."""
        return self.n_levels * self.n_features


@dataclass(frozen=True)
class Marching:
    """The lattice of sample intervals along a ray: `dt(t) = clamp(cone_angle * t, step, max_step)`.

    Attributes:
        step: Shortest interval, scene units, > 0.
        cone_angle: Growth of the interval with distance; 0 gives equal intervals.
        max_step: Longest interval, scene units, >= `step`.
        near: No interval starts before this ray length.
    """

    step: float
    cone_angle: float
    max_step: float
    near: float

    def __post_init__(self) -> None:
        if not (0 < self.step <= self.max_step < math.inf):
            raise UserError(
                f"marching steps from {self.step} to {self.max_step}",
                fix="Use a positive step and a finite largest step not below it.",
            )
        if not (0 <= self.cone_angle < math.inf and 0 <= self.near < math.inf):
            raise UserError(
                f"cone angle {self.cone_angle}, near distance {self.near}",
                fix="Use finite numbers that are not negative.",
            )


def _n_blocks(grid_size: int) -> int:
    """Return the number of blocks per axis of an occupancy grid.

    Raises:
        UserError: if `grid_size` is not a positive multiple of 4.
    """
    if grid_size < BLOCK or grid_size % BLOCK:
        raise UserError(f"occupancy grid of {grid_size} cells per axis", fix="Use a positive multiple of 4.")
    return grid_size // BLOCK


def pack_bits(occupied: Bool[Tensor, "C G G G"]) -> Int64[Tensor, "C B"]:
    """Pack occupancy flags into one 64-bit word per 4 x 4 x 4 block.

    Args:
        occupied: Flags of C cascades, indexed cascade, z, y, x.
    Returns:
        Words of the B = (G / 4)^3 blocks. Block (bx, by, bz) is word `(bz * G/4 + by) * G/4 + bx`; cell (x, y, z) is
        its bit `(z % 4) * 16 + (y % 4) * 4 + x % 4`.
    Raises:
        UserError: if G is not a multiple of 4.
    """
    n_cascades, grid_size = occupied.shape[:2]
    blocks = _n_blocks(grid_size)
    split = occupied.reshape(n_cascades, blocks, BLOCK, blocks, BLOCK, blocks, BLOCK)
    cells = split.permute(0, 1, 3, 5, 2, 4, 6).reshape(n_cascades, blocks**3, BLOCK**3)
    shifts = torch.arange(BLOCK**3, device=occupied.device)
    return (cells.long() << shifts).sum(-1)


def unpack_bits(words: Int64[Tensor, "C B"], grid_size: int) -> Bool[Tensor, "C G G G"]:
    """Undo `pack_bits`.

    Args:
        words: Words of C cascades.
        grid_size: Cells per axis G.
    Returns:
        Flags, indexed cascade, z, y, x.
    Raises:
        UserError: if G is not a multiple of 4.
    """
    n_cascades = words.shape[0]
    blocks = _n_blocks(grid_size)
    shifts = torch.arange(BLOCK**3, device=words.device)
    cells = ((words[..., None] >> shifts) & 1).bool()
    split = cells.reshape(n_cascades, blocks, blocks, blocks, BLOCK, BLOCK, BLOCK)
    return split.permute(0, 1, 4, 2, 5, 3, 6).reshape(n_cascades, grid_size, grid_size, grid_size)


def count_bits(words: Int64[Tensor, "..."]) -> int:
    """Number of set bits: the occupied cells of occupancy words. Sums pairs, nibbles and bytes side by side."""
    x = words - ((words >> 1) & 0x5555555555555555)
    x = (x & 0x3333333333333333) + ((x >> 2) & 0x3333333333333333)
    x = (x + (x >> 4)) & 0x0F0F0F0F0F0F0F0F
    return int(x.contiguous().view(torch.uint8).sum())
