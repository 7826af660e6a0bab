"""Colours that depend on place and direction: spherical harmonics with coefficients from a hash grid."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from .checks import check_shape
from .dispatch import call
from .layouts import GridLayout

if TYPE_CHECKING:
    from jaxtyping import Float

MAX_BANDS = 4


def hash_color(
    x_unit: Float[Tensor, "S 3"], d: Float[Tensor, "S 3"], table: Float[Tensor, "E F"], layout: GridLayout, *,
    backend: str = "auto",
) -> Float[Tensor, "S 3"]:  # fmt: skip
    """Interpolate harmonic coefficients at positions, add up the levels, and evaluate them at directions.

    A row holds, for each harmonic of `sh_encode`'s order, its red, green and blue coefficient; harmonics are divided by
    the constant one, so that a coefficient of the lowest band is a colour.

    Args:
        x_unit: Finite positions in [0, 1]^3. Those outside count as the nearest point inside.
        d: Unit directions.
        table: Coefficients, `layout.n_rows` rows of 3, 12, 27 or 48 features: one to four bands.
        layout: The grid.
    Returns:
        Colours: linear in `table`.
    Raises:
        ValueError: if a shape does not fit.
    Differentiable in `table` only.
    """
    check_shape("x_unit", x_unit, (None, 3))
    check_shape("d", d, (x_unit.shape[0], 3))
    check_shape("table", table, (layout.n_rows, layout.n_features))
    if layout.n_features not in tuple(3 * bands**2 for bands in range(1, MAX_BANDS + 1)):
        raise ValueError(f"table: {layout.n_features} features per row; 3, 12, 27 or 48 make whole bands")
    return call("hash_color", backend, (x_unit, d, table, layout), x_unit=x_unit, d=d, table=table)
