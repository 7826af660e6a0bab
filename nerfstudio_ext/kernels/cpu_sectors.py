"""Cells by place and sector of direction on the CPU: what `kernels.sector_color` says, point after point."""

from __future__ import annotations

import math
from typing import Any

import numba as nb
import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .cpu_color import cell_of
from .layouts import HASH_PRIMES
from .sectors import LEAST_WEIGHT, NEAREST, SECTOR_PRIME, SectorLayout

_P1, _P2, _P3 = np.uint32(HASH_PRIMES[1]), np.uint32(HASH_PRIMES[2]), np.uint32(SECTOR_PRIME)
_LEAST = np.float32(LEAST_WEIGHT)


@nb.njit(nogil=True, inline="always")
def _mix(direction, centres, sectors, weights):
    """The nearest sectors, ready for the hash, and their weights."""
    best = (np.float32(-2), np.float32(-2), np.float32(-2), np.float32(-2))
    first, second, third = 0, 0, 0
    for a in range(centres.shape[0]):
        c = centres[a, 0] * direction[0] + centres[a, 1] * direction[1] + centres[a, 2] * direction[2]
        if c <= best[3]:
            continue
        if c > best[0]:
            best = (c, best[0], best[1], best[2])
            first, second, third = a, first, second
        elif c > best[1]:
            best = (best[0], c, best[1], best[2])
            second, third = a, second
        elif c > best[2]:
            best = (best[0], best[1], c, best[2])
            third = a
        else:
            best = (best[0], best[1], best[2], c)
    sectors[0], sectors[1], sectors[2] = (
        np.uint32(first + 1) * _P3, np.uint32(second + 1) * _P3, np.uint32(third + 1) * _P3,
    )  # fmt: skip
    squares = np.float32(0)
    for k in range(NEAREST):
        weights[k] = (best[k] - best[3]) ** 2 + _LEAST
        squares += weights[k] ** 2
    scale = np.float32(1) / math.sqrt(squares)
    for k in range(NEAREST):
        weights[k] *= scale


@nb.njit(nogil=True, inline="always")
def _corner(corner, lower, fraction):
    """Hash of a corner's place, and its weight."""
    weight = np.float32(1)
    for axis in range(3):
        weight *= fraction[axis] if (corner >> axis) & 1 else np.float32(1) - fraction[axis]
    x, y, z = lower[0] + (corner & 1), lower[1] + ((corner >> 1) & 1), lower[2] + (corner >> 2)
    return np.uint32(x) ^ (np.uint32(y) * _P1) ^ (np.uint32(z) * _P2), weight


@nb.njit(nogil=True, parallel=True, cache=True)
def _gather(scale, centres, table, positions, directions, out):
    mask = np.uint32(table.shape[0] - 1)
    for block in nb.prange(-(-positions.shape[0] // 256)):
        lower, fraction = np.empty(3, np.int32), np.empty(3, np.float32)
        sectors, weights = np.empty(NEAREST, np.uint32), np.empty(NEAREST, np.float32)
        for s in range(block * 256, min((block + 1) * 256, positions.shape[0])):
            _mix(directions[s], centres, sectors, weights)
            cell_of(positions[s], scale, lower, fraction)
            for f in range(out.shape[1]):
                out[s, f] = np.float32(0)
            for corner in range(8):
                place, weight = _corner(corner, lower, fraction)
                for k in range(NEAREST):
                    row = np.int64((place ^ sectors[k]) & mask)
                    for f in range(out.shape[1]):
                        out[s, f] += weight * weights[k] * table[row, f]


@nb.njit(nogil=True, cache=True)
def _scatter(scale, centres, positions, directions, gradient, table_gradient):
    """On one thread: rows are shared by chance, and sums are to have one order."""
    mask = np.uint32(table_gradient.shape[0] - 1)
    lower, fraction = np.empty(3, np.int32), np.empty(3, np.float32)
    sectors, weights = np.empty(NEAREST, np.uint32), np.empty(NEAREST, np.float32)
    for s in range(positions.shape[0]):
        _mix(directions[s], centres, sectors, weights)
        cell_of(positions[s], scale, lower, fraction)
        for corner in range(8):
            place, weight = _corner(corner, lower, fraction)
            for k in range(NEAREST):
                row = np.int64((place ^ sectors[k]) & mask)
                for f in range(gradient.shape[1]):
                    table_gradient[row, f] += weight * weights[k] * gradient[s, f]


class _SectorColor(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_unit: Tensor, d: Tensor, table: Tensor, layout: SectorLayout) -> Tensor:
        ctx.save_for_backward(x_unit, d)
        ctx.layout, ctx.n_features = layout, table.shape[1]
        out = np.empty((len(x_unit), table.shape[1]), np.float32)
        _gather(_scale(layout), layout.centres.numpy(), _plain(table), _plain(x_unit), _plain(d), out)
        return torch.from_numpy(out)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *d_out: Tensor) -> tuple[Tensor | None, ...]:
        x_unit, d = ctx.saved_tensors
        rows = np.zeros((ctx.layout.n_rows, ctx.n_features), np.float32)
        centres = ctx.layout.centres.numpy()
        _scatter(_scale(ctx.layout), centres, _plain(x_unit), _plain(d), _plain(d_out[0]), rows)
        return None, None, torch.from_numpy(rows), None


def sector_color(x_unit: Tensor, d: Tensor, table: Tensor, layout: SectorLayout) -> Tensor:
    """See `kernels.sector_color`."""
    return _SectorColor.apply(x_unit, d, table, layout)


def _scale(layout: SectorLayout) -> np.float32:
    return np.float32(layout.resolution - 1)


def _plain(tensor: Tensor) -> np.ndarray:
    return tensor.detach().contiguous().numpy()
