"""Colours that depend on place and, sharply, on direction: for each sector of directions a picture across it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import UserError
from .checks import check_shape
from .dispatch import call

if TYPE_CHECKING:
    from jaxtyping import Float

NEAREST = 3
"""Sectors that are mixed for a direction."""
LEAST_WEIGHT = 1e-12
"""Keeps a direction that is equally far from four centres from dividing by zero."""
_GOLDEN_TURN = math.pi * (1 + math.sqrt(5))
_LEAST_SECTORS, _MOST_SECTORS = NEAREST + 1, 4096
_RESOLUTIONS = (2, 4096)
_MOST_ROWS = 1 << 26


@dataclass(frozen=True)
class SectorLayout:
    """Where colours lie in a table [E,3] by sector of direction and place on its plane.

    Sectors are the neighbourhoods of unit vectors that lie evenly on the sphere (a Fibonacci spiral). Each has a
    picture on the plane across its centre. A position whose offset from the middle of the unit cube has the
    coordinates (u, v) along the axes of that plane lies at `(u, v) * resolution`; whole numbers are corners, and
    corner (i, j) of sector s has the row `(s * resolution + j mod resolution) * resolution + i mod resolution`:
    pictures repeat beyond the cube.

    Attributes:
        n_sectors: Directions that have a picture of their own.
        resolution: Cells along the edge of the unit cube.
    """

    n_sectors: int
    resolution: int

    def __post_init__(self) -> None:
        ranges = {"n_sectors": (_LEAST_SECTORS, _MOST_SECTORS), "resolution": _RESOLUTIONS}
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise UserError(f"{name} of {value} in a table of sectors", fix=f"Use {low} to {high}.")
        if self.n_rows > _MOST_ROWS:
            raise UserError(f"a table of {self.n_rows} rows", fix="Use fewer sectors or a lower resolution.")

    @property
    def n_rows(self) -> int:
        """Rows E of the table."""
        return self.n_sectors * self.resolution**2

    @cached_property
    def frames(self) -> Float[Tensor, "A 3 3"]:
        """Axes of the sectors: two across the centre, which span the plane, and the centre itself."""
        number = torch.arange(self.n_sectors, dtype=torch.float64) + 0.5
        z = 1 - 2 * number / self.n_sectors
        radius = (1 - z * z).sqrt()
        angle = _GOLDEN_TURN * number
        centres = torch.stack([radius * angle.cos(), radius * angle.sin(), z], 1)
        across = torch.stack([-angle.sin(), angle.cos(), torch.zeros_like(angle)], 1)
        return torch.stack([across, torch.linalg.cross(centres, across), centres], 1).float()


def sector_color(
    x_unit: Float[Tensor, "S 3"], d: Float[Tensor, "S 3"], table: Float[Tensor, "E F"], layout: SectorLayout, *,
    backend: str = "auto",
) -> Float[Tensor, "S F"]:  # fmt: skip
    """Mix the pictures of the three sectors nearest to a direction, projected along their centres.

    With the cosines c0 >= c1 >= c2 >= c3 to the four nearest centres, sector k has the weight (ck - c3)^2 + 1e-12,
    divided by the root of the sum of the squares of all three: continuous where the third nearest changes, and
    independent colours of neighbouring sectors mix to their own size. Pictures are interpolated between four corners.

    Args:
        x_unit: Finite positions, in edges of the unit cube.
        d: Unit directions.
        table: Colours, or any features, of the rows.
        layout: Sectors and resolution.
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
