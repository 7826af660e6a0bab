"""Hash grid and spherical harmonics in one pass on the CPU: no features per point are kept.

A row of coefficients is contiguous and wide enough (27 numbers for three bands) that one point after another fills the
vector units; the generic encoding followed by the harmonics took six times as long.
"""

from __future__ import annotations

from typing import Any

import numba as nb
import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .cpu_grid import kernel_grid
from .cpu_net import harmonics
from .layouts import HASH_PRIMES, GridLayout

_P1, _P2 = np.uint32(HASH_PRIMES[1]), np.uint32(HASH_PRIMES[2])
_MAX_FEATURES = 48


@nb.njit(nogil=True, inline="always")
def _corner_row(grid, level, x, y, z):
    extent = grid.extents[level]
    if grid.is_dense[level]:
        return grid.offsets[level] + x + extent * (y + extent * np.int64(z))
    mixed = np.uint32(x) ^ (np.uint32(y) * _P1) ^ (np.uint32(z) * _P2)
    return grid.offsets[level] + np.int64(mixed & np.uint32(extent))


@nb.njit(nogil=True, inline="always")
def cell_of(position, scale, lower, fraction):
    """Lower corner of the cell of a position in the unit cube, and the place within it."""
    for axis in range(3):
        at = min(max(position[axis], np.float32(0)), np.float32(1)) * scale + np.float32(0.5)
        lower[axis] = np.int32(at)
        fraction[axis] = at - np.float32(lower[axis])


@nb.njit(nogil=True, inline="always")
def _corner(corner, lower, fraction, grid, level):
    """Row and weight of a corner."""
    weight = np.float32(1)
    for axis in range(3):
        weight *= fraction[axis] if (corner >> axis) & 1 else np.float32(1) - fraction[axis]
    row = _corner_row(grid, level, lower[0] + (corner & 1), lower[1] + ((corner >> 1) & 1), lower[2] + (corner >> 2))
    return row, weight


@nb.njit(nogil=True, parallel=True, cache=True, fastmath={"reassoc", "contract"})
def _colors(grid, table, positions, directions, out):
    n_features = table.shape[1]
    for block in nb.prange(-(-positions.shape[0] // 256)):
        lower, fraction = np.empty(3, np.int32), np.empty(3, np.float32)
        shape, total = np.empty(16, np.float32), np.empty(_MAX_FEATURES, np.float32)
        for s in range(block * 256, min((block + 1) * 256, positions.shape[0])):
            total[:n_features] = np.float32(0)
            for level in range(grid.scales.shape[0]):
                cell_of(positions[s], grid.scales[level], lower, fraction)
                for corner in range(8):
                    row, weight = _corner(corner, lower, fraction, grid, level)
                    for k in range(n_features):
                        total[k] += weight * table[row, k]
            harmonics(directions[s, 0], directions[s, 1], directions[s, 2], shape, 0)
            scale = np.float32(1) / shape[0]
            for c in range(3):
                value = np.float32(0)
                for h in range(n_features // 3):
                    value += shape[h] * scale * total[3 * h + c]
                out[s, c] = value


@nb.njit(nogil=True, parallel=True, cache=True)
def _scatter(grid, positions, directions, gradient, table_gradient):
    """Levels in parallel: each owns its rows, so that sums have one order."""
    n_features = table_gradient.shape[1]
    for level in nb.prange(grid.scales.shape[0]):
        lower, fraction = np.empty(3, np.int32), np.empty(3, np.float32)
        shape, pulled = np.empty(16, np.float32), np.empty(_MAX_FEATURES, np.float32)
        for s in range(positions.shape[0]):
            harmonics(directions[s, 0], directions[s, 1], directions[s, 2], shape, 0)
            scale = np.float32(1) / shape[0]
            for h in range(n_features // 3):
                for c in range(3):
                    pulled[3 * h + c] = shape[h] * scale * gradient[s, c]
            cell_of(positions[s], grid.scales[level], lower, fraction)
            for corner in range(8):
                row, weight = _corner(corner, lower, fraction, grid, level)
                for k in range(n_features):
                    table_gradient[row, k] += weight * pulled[k]


class _HashColor(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_unit: Tensor, d: Tensor, table: Tensor, layout: GridLayout) -> Tensor:
        ctx.save_for_backward(x_unit, d)
        ctx.layout = layout
        out = np.empty((len(x_unit), 3), np.float32)
        _colors(kernel_grid(layout), _plain(table), _plain(x_unit), _plain(d), out)
        return torch.from_numpy(out)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *d_out: Tensor) -> tuple[Tensor | None, ...]:
        x_unit, d = ctx.saved_tensors
        rows = np.zeros((ctx.layout.n_rows, ctx.layout.n_features), np.float32)
        _scatter(kernel_grid(ctx.layout), _plain(x_unit), _plain(d), _plain(d_out[0]), rows)
        return None, None, torch.from_numpy(rows), None


def hash_color(x_unit: Tensor, d: Tensor, table: Tensor, layout: GridLayout) -> Tensor:
    """See `kernels.hash_color`."""
    return _HashColor.apply(x_unit, d, table, layout)


def _plain(tensor: Tensor) -> np.ndarray:
    return tensor.detach().contiguous().numpy()
