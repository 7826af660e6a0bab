"""How far an implementation may be from the float64 reference: one table, each entry with its reason.

An error is the largest absolute difference divided by the largest absolute value of the reference tensor. Inputs are
the same float32 numbers on both sides, so only rounding inside the operation counts.
"""

from __future__ import annotations

from dataclasses import dataclass

FLOAT32_STEP = 2.0**-24
"""Relative rounding error of one float32 operation."""


@dataclass(frozen=True)
class Tolerance:
    """A bound and why it is what it is."""

    bound: float
    reason: str


_POSITION = (
    "x * scale + 0.5 is about 500 on the finest level of the test grid, where float32 numbers lie 3e-5 apart: each of "
    "three weights is off by up to 3e-5, and the errors of 8 corners may add"
)
_SUM = "a few dozen rounded operations, each below 6e-8"
_LONG_SUM = "sums over up to 300 samples, rounded at each: 300 * 6e-8, seldom all in one direction"
_CANCEL = "differences of sums over the ray: the rounding of the sums stays while their leading digits cancel"
_DOT = "dot products of up to 64 terms in float32, chained through the layers, in any order of summation"
_CHAIN = "encoding, networks, compositing and loss in a row, float32 on both sides"
_RENDER = "rays end where less than 1e-3 of the light passes, and samples that add less than 1e-4 may have no colour"
_LOOK = "projections are off by 1e-5 pixels, which features that change by one per cell turn into 1e-5"
_LOOK_BACK = _LOOK + "; sums over up to 12,000 points and four views"
_LOOK_INPUTS = (
    "query", "maps", "color", "bias", "key", "key_bias", "value", "value_bias", "place", "place_bias", "place_key",
    "place_value", "logit",
)  # fmt: skip

TOLERANCES: dict[tuple[str, str], Tolerance] = {
    ("hash_encode", "features"): Tolerance(2e-4, _POSITION),
    ("hash_encode", "grad table"): Tolerance(2e-4, _POSITION),
    ("hash_encode", "grad x_unit"): Tolerance(3e-4, _POSITION + "; then summed over the levels"),
    ("sh_encode", "harmonics"): Tolerance(1e-6, _SUM),
    ("sh_encode", "grad d"): Tolerance(2e-6, _SUM + ", in 16 terms"),
    ("hash_color", "colours"): Tolerance(2e-5, "as hash_encode, on a grid of 20 cells: numbers lie 1e-6 apart"),
    ("hash_color", "grad table"): Tolerance(2e-5, "as hash_encode, on a grid of 20 cells; sums over 4097 positions"),
    ("sector_color", "colours"): Tolerance(2e-5, "as hash_color; weights from differences of cosines, 1e-6 apart"),
    ("sector_color", "grad table"): Tolerance(2e-5, "as hash_color; sums over 4097 positions"),
    ("mlp", "outputs"): Tolerance(2e-6, _DOT),
    ("mlp", "grad x"): Tolerance(4e-6, _DOT + "; inputs of ReLU near zero are left out of the test"),
    ("mlp", "grad weights[0]"): Tolerance(1e-5, _DOT + "; then summed over 4097 samples"),
    ("mlp", "grad weights[1]"): Tolerance(1e-5, _DOT + "; then summed over 4097 samples"),
    ("mlp", "grad weights[2]"): Tolerance(1e-5, _DOT + "; then summed over 4097 samples"),
    ("ray_aabb", "t_min"): Tolerance(1e-6, "one subtraction and one division; origins up to 3 boxes away"),
    ("ray_aabb", "t_max"): Tolerance(1e-6, "one subtraction and one division; origins up to 3 boxes away"),
    ("weights_of", "weights"): Tolerance(5e-6, _LONG_SUM),
    ("weights_of", "grad sigmas"): Tolerance(1e-5, _LONG_SUM + "; " + _CANCEL),
    ("weights_of", "grad t_starts"): Tolerance(1e-5, _LONG_SUM + "; " + _CANCEL),
    ("weights_of", "grad t_ends"): Tolerance(1e-5, _LONG_SUM + "; " + _CANCEL),
    ("composite", "rgb"): Tolerance(5e-6, _LONG_SUM),
    ("composite", "depth"): Tolerance(5e-6, _LONG_SUM),
    ("composite", "alpha"): Tolerance(5e-6, _LONG_SUM),
    ("composite", "grad sigmas"): Tolerance(1e-5, _LONG_SUM + "; " + _CANCEL),
    ("composite", "grad rgbs"): Tolerance(5e-6, _LONG_SUM),
    ("composite", "grad t_starts"): Tolerance(1e-5, _LONG_SUM + "; " + _CANCEL),
    ("composite", "grad t_ends"): Tolerance(1e-5, _LONG_SUM + "; " + _CANCEL),
    ("distortion", "distortion"): Tolerance(2e-5, _CANCEL + "; midpoints up to 40 units away, differences from 0.01"),
    ("distortion", "grad weights"): Tolerance(2e-5, _CANCEL + "; midpoints up to 40 units away, differences from 0.01"),
    ("distortion", "grad t_starts"): Tolerance(2e-5, _CANCEL),
    ("distortion", "grad t_ends"): Tolerance(2e-5, _CANCEL),
    ("occ_refresh", "density_grid"): Tolerance(1e-7, "one multiplication"),
    ("occ_pack", "occupied"): Tolerance(0.0, "comparisons"),
    ("occ_select", "cells"): Tolerance(0.0, "whole numbers"),
    ("field_step", "loss"): Tolerance(1e-5, _CHAIN),
    ("field_step", "gradients"): Tolerance(3e-5, _CHAIN + "; 4e-6 was seen"),
    ("disturbed_loss", "loss"): Tolerance(1e-5, _CHAIN),
    ("disturbed_loss", "gradients"): Tolerance(1e-4, _CHAIN + "; in positions, the rounding of the cell's fractions"),
    ("render_field", "rgb"): Tolerance(2e-3, _RENDER),
    ("feed_forward", "tokens"): Tolerance(2e-5, _DOT),
    **{
        ("feed_forward", f"grad {name}"): Tolerance(5e-5, _DOT + "; sums over up to 257 tokens")
        for name in ("x", "gain", "offset", "first", "first_bias", "second", "second_bias")
    },
    ("view_attention", "attended"): Tolerance(3e-5, _LOOK),
    ("view_attention", "dropped"): Tolerance(3e-5, _LOOK),
    **{("view_attention", f"grad {name}"): Tolerance(1e-4, _LOOK_BACK) for name in _LOOK_INPUTS},
    ("view_maximum", "largest"): Tolerance(2e-5, _LOOK),
    **{("view_maximum", f"grad {name}"): Tolerance(5e-5, _LOOK_BACK) for name in ("maps", "color", "bias", "weight")},
    ("render_field", "alpha"): Tolerance(2e-3, _RENDER),
    ("render_field", "depth"): Tolerance(1e-2, _RENDER + "; distances up to 5"),
    ("field_density", "sigmas"): Tolerance(
        1e-3, "relative: exp turns the error of the logit, 1e-5 of up to 15, into this"
    ),
}

_HALF = "half-precision table, matrices and activations (11 bits) through five layers, sums in float32"
HALF_TOLERANCES: dict[tuple[str, str], Tolerance] = {
    ("field_step", "loss"): Tolerance(3e-3, _HALF),
    ("field_step", "gradients"): Tolerance(3e-2, _HALF + "; and back through the same layers"),
    ("render_field", "rgb"): Tolerance(8e-3, _HALF + "; " + _RENDER),
    ("render_field", "alpha"): Tolerance(8e-3, _HALF + "; " + _RENDER),
    ("render_field", "depth"): Tolerance(4e-2, _HALF + "; distances up to 5"),
    ("field_density", "sigmas"): Tolerance(
        5e-2, _HALF + "; exp turns the error of the logit, 3e-3 of up to 15, into this"
    ),
}
"""What differs for back ends that compute in half precision."""
HALF_BACKENDS = ("cuda",)


def bound_of(op: str, name: str, backend: str) -> float:
    """The bound for one output on one back end."""
    table = HALF_TOLERANCES if backend in HALF_BACKENDS and (op, name) in HALF_TOLERANCES else TOLERANCES
    return table[op, name].bound


MARCH_MISMATCH = Tolerance(
    1e-4,
    "share of samples that may differ from the float32 reference: midpoints within rounding of a cell border, about "
    "one in 10^5 with cells of 1/16 and points rounded to 1e-7",
)
THREADS = Tolerance(
    1e-6, "one thread against two: only the order of summation over blocks of samples may change, a few steps of 6e-8"
)
