"""The small networks of the fast field on one tile of samples: encoding, density, colour, and their gradients.

Activations lie in one scratch array per thread, addressed by offsets, rows of one sample each; weights in one
packed array with every matrix padded to whole vectors. See `NetShape` for both layouts.
"""

from __future__ import annotations

from typing import NamedTuple

import numba as nb
import numpy as np

from .cpu_gemm import gemm, gemm_add, gemm_relu
from .cpu_grid_simd import make_encode
from .cpu_simd import LANES, mask_lanes

SH = 16
GEO = 16
"""Outputs of the density network; the first is the density logit, all are inputs of the colour network."""
OUT = 16
"""Columns of the last colour layer, three of them used."""
LOGIT_MAX = np.float32(20.0)
DENSITY_LOGIT_MAX = np.float32(15.0)
encode_dense = make_encode(True)
encode_hashed = make_encode(False)


class NetShape(NamedTuple):
    """Sizes of a field's networks (all int64): features in, hidden width of density and colour."""

    n_features: int
    hidden: int
    color_hidden: int


class Grid(NamedTuple):
    """A hash grid as the kernels take it; arrays over the levels."""

    scales: np.ndarray
    extents: np.ndarray
    is_dense: np.ndarray
    offsets: np.ndarray


@nb.njit(nogil=True, inline="always")
def padded(n):
    """n rounded up to whole vectors."""
    return (n + LANES - 1) // LANES * LANES


@nb.njit(nogil=True)
def encode_tile(grid, table, positions, start, count, features):
    """Features [2 L, capacity] of the positions [3, capacity] in columns start .. start + count (padded to 16)."""
    capacity = features.shape[1]
    for level in range(grid.scales.shape[0]):
        scale, extent, at = grid.scales[level], grid.extents[level], grid.offsets[level]
        row = 2 * level * capacity
        if grid.is_dense[level]:
            for s in range(start, start + count, LANES):
                encode_dense(positions, s, scale, extent, table, at, features, row + s, capacity)
        else:
            for s in range(start, start + count, LANES):
                encode_hashed(positions, s, scale, extent, table, at, features, row + s, capacity)


@nb.njit(nogil=True)
def weight_offsets(shape):
    """Starts of (d1, d2, c1, c2, c3) in the packed weights, then of the five transposes, then the size."""
    f, h, c = shape.n_features, shape.hidden, shape.color_hidden
    at = np.zeros(11, np.int64)
    sizes = (f * h, h * GEO, (GEO + SH) * c, c * c, c * OUT, h * padded(f), GEO * h, c * (GEO + SH), c * c, OUT * c)
    for i in range(10):
        at[i + 1] = at[i] + sizes[i]
    return at


@nb.njit(nogil=True, cache=True)
def pack_weights(shape, d1, d2, c1, c2, c3, packed):
    """Copy the five matrices [in, out] and their transposes into `packed`, padded with zeros."""
    at = weight_offsets(shape)
    packed[:] = np.float32(0.0)
    f = padded(shape.n_features)
    matrices = (d1, d2, c1, c2, c3)
    for i in range(5):
        w = matrices[i]
        columns = OUT if i == 4 else w.shape[1]
        rows_padded = f if i == 0 else w.shape[0]
        for r in range(w.shape[0]):
            for c in range(w.shape[1]):
                packed[at[i] + r * columns + c] = w[r, c]
                packed[at[5 + i] + c * rows_padded + r] = w[r, c]


@nb.njit(nogil=True)
def density_forward(shape, weights, at, features, f_at, f_row, f_col, hidden, h_at, geo, g_at, n):
    """hidden [n, H] and geo [n, 16] from features addressed by (row, col) strides."""
    h = shape.hidden
    gemm_relu(features, f_at, f_row, f_col, weights, at[0], h, hidden, h_at, h, n, h, shape.n_features)
    gemm(hidden, h_at, h, 1, weights, at[1], GEO, geo, g_at, GEO, n, GEO, h)


@nb.njit(nogil=True)
def color_forward(shape, weights, at, inputs, i_at, first, a_at, second, b_at, logits, l_at, n):
    """Colour logits [n, 16] from inputs [n, 32] = (geo, spherical harmonics); keeps both hidden layers."""
    c = shape.color_hidden
    gemm_relu(inputs, i_at, GEO + SH, 1, weights, at[2], c, first, a_at, c, n, c, GEO + SH)
    gemm_relu(first, a_at, c, 1, weights, at[3], c, second, b_at, c, n, c, c)
    gemm(second, b_at, c, 1, weights, at[4], OUT, logits, l_at, OUT, n, OUT, c)


@nb.njit(nogil=True)
def mask_relu(gradient, g_at, activation, a_at, count):
    """Zero the gradient where the activation was clamped; `count` is a multiple of 16."""
    for i in range(0, count, LANES):
        mask_lanes(gradient, g_at + i, activation, a_at + i)


@nb.njit(nogil=True)
def color_backward(
    shape, weights, at, inputs, i_at, first, a_at, second, b_at, d_logits, l_at, d_wide, w_at, d_inputs, d_at, n, dw
):
    """Gradient of the inputs [n, 32] from that of the logits; adds the weight gradients to `dw`.

    `d_wide` is room for 2 [n, C].
    """
    c = shape.color_hidden
    wide = w_at + n * c
    gemm_add(second, b_at, 1, c, d_logits, l_at, OUT, dw, at[4], OUT, c, OUT, n)
    gemm(d_logits, l_at, OUT, 1, weights, at[9], c, d_wide, w_at, c, n, c, 3)
    mask_relu(d_wide, w_at, second, b_at, n * c)
    gemm_add(first, a_at, 1, c, d_wide, w_at, c, dw, at[3], c, c, c, n)
    gemm(d_wide, w_at, c, 1, weights, at[8], c, d_wide, wide, c, n, c, c)
    mask_relu(d_wide, wide, first, a_at, n * c)
    gemm_add(inputs, i_at, 1, GEO + SH, d_wide, wide, c, dw, at[2], c, GEO + SH, c, n)
    gemm(d_wide, wide, c, 1, weights, at[7], GEO + SH, d_inputs, d_at, GEO + SH, n, GEO + SH, c)


@nb.njit(nogil=True)
def density_backward(
    shape,
    weights,
    at,
    features,
    f_at,
    f_row,
    f_col,
    hidden,
    h_at,
    d_geo,
    g_at,
    g_row,
    d_hidden,
    dh_at,
    d_features,
    df_at,
    n,
    dw,
):
    """Gradient of the features [n, padded F] from that of geo (rows `g_row` apart); adds weight gradients to `dw`."""
    h, f = shape.hidden, padded(shape.n_features)
    gemm_add(hidden, h_at, 1, h, d_geo, g_at, g_row, dw, at[1], GEO, h, GEO, n)
    gemm(d_geo, g_at, g_row, 1, weights, at[6], h, d_hidden, dh_at, h, n, h, GEO)
    mask_relu(d_hidden, dh_at, hidden, h_at, n * h)
    gemm_add(features, f_at, f_col, f_row, d_hidden, dh_at, h, dw, at[0], h, shape.n_features, h, n)
    gemm(d_hidden, dh_at, h, 1, weights, at[5], f, d_features, df_at, f, n, f, h)


@nb.njit(nogil=True)
def harmonics(x, y, z, out, at):
    """Real spherical harmonics up to degree 3 of a unit direction: 16 values, signs as in instant-ngp."""
    xy, xz, yz, x2, y2, z2 = x * y, x * z, y * z, x * x, y * y, z * z
    out[at] = 0.28209479177387814
    out[at + 1] = -0.48860251190291987 * y
    out[at + 2] = 0.48860251190291987 * z
    out[at + 3] = -0.48860251190291987 * x
    out[at + 4] = 1.0925484305920792 * xy
    out[at + 5] = -1.0925484305920792 * yz
    out[at + 6] = 0.94617469575755997 * z2 - 0.31539156525251999
    out[at + 7] = -1.0925484305920792 * xz
    out[at + 8] = 0.54627421529603959 * (x2 - y2)
    out[at + 9] = 0.59004358992664352 * y * (-3.0 * x2 + y2)
    out[at + 10] = 2.8906114426405538 * xy * z
    out[at + 11] = 0.45704579946446572 * y * (1.0 - 5.0 * z2)
    out[at + 12] = 0.3731763325901154 * z * (5.0 * z2 - 3.0)
    out[at + 13] = 0.45704579946446572 * x * (1.0 - 5.0 * z2)
    out[at + 14] = 1.4453057213202769 * z * (x2 - y2)
    out[at + 15] = 0.59004358992664352 * x * (-x2 + 3.0 * y2)
