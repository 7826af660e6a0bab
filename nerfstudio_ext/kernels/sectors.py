"""Colours that depend on place and, sharply, on direction: hashed cells told apart by where one looks from."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import UserError
from .checks import check_shape
from .dispatch import call

SECTOR_PRIME = 3674653429
"""Factor of the sector's number in the hash, beside those of the three cell coordinates."""
NEAREST = 3
"""Sectors that are mixed for a direction."""
LEAST_WEIGHT = 1e-12
"""Keeps a direction that is equally far from four centres from dividing by zero."""
_GOLDEN_TURN = math.pi * (1 + math.sqrt(5))
_LEAST_SECTORS, _MOST_SECTORS = NEAREST + 1, 4096
_LOG2_TABLES = (3, 24)
_RESOLUTIONS = (2, 1 << 20)


@dataclass(frozen=True)
class SectorLayout:
    """Where colours lie in a table [E,3] by place and sector of direction.

    A position x in [0, 1]^3 lies at `x * (resolution - 1) + 0.5`, as on one level of a `GridLayout`. Corner (x, y, z)
    has in sector s (from 0) the row `(x ^ y * 2654435761 ^ z * 805459861 ^ (s + 1) * 3674653429) mod 2^log2_table`.
    Sectors are the neighbourhoods of points that lie evenly on the sphere (a Fibonacci spiral).

    Attributes:
        n_sectors: Directions that have colours of their own.
        log2_table: Logarithm of the number of rows.
        resolution: Cells along the edge.
    """

    n_sectors: int
    log2_table: int
    resolution: int

    def __post_init__(self) -> None:
        ranges = {
            "n_sectors": (_LEAST_SECTORS, _MOST_SECTORS), "log2_table": _LOG2_TABLES, "resolution": _RESOLUTIONS,
        }  # fmt: skip
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise UserError(f"{name} of {value} in a table of sectors", fix=f"Use {low} to {high}.")

    @property
    def n_rows(self) -> int:
        """Rows E of the table."""
        return 1 << self.log2_table

    @cached_property
    def centres(self) -> Float[Tensor, "A 3"]:
        """Unit directions in the middle of the sectors."""
        number = torch.arange(self.n_sectors, dtype=torch.float64) + 0.5
        z = 1 - 2 * number / self.n_sectors
        radius = (1 - z * z).sqrt()
        angle = _GOLDEN_TURN * number
        return torch.stack([radius * angle.cos(), radius * angle.sin(), z], 1).float()


def sector_color(
    x_unit: Float[Tensor, "S 3"], d: Float[Tensor, "S 3"], table: Float[Tensor, "E F"], layout: SectorLayout, *,
    backend: str = "auto",
) -> Float[Tensor, "S F"]:  # fmt: skip
    """Interpolate colours between the corners of a cell and the three sectors nearest to a direction.

    With the cosines c0 >= c1 >= c2 >= c3 to the four nearest centres, sector k has the weight (ck - c3)^2 + 1e-12,
    divided by the root of the sum of the squares of all three: continuous where the third nearest changes, and
    independent colours of neighbouring sectors mix to their own size.

    Args:
        x_unit: Finite positions in [0, 1]^3. Those outside count as the nearest point inside.
        d: Unit directions.
        table: Colours, or any features, of the rows.
        layout: The grid.
    Returns:
        Features: linear in `table`.
    Raises:
        ValueError: if a shape does not fit.
    Differentiable in `table` only.
    """
    check_shape("x_unit", x_unit, (None, 3))
    check_shape("d", d, (x_unit.shape[0], 3))
    check_shape("table", table, (layout.n_rows, None))
    return call("sector_color", backend, (x_unit, d, table, layout), x_unit=x_unit, d=d, table=table)
