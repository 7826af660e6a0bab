"""Pictures across sectors of direction on the CPU: what `kernels.sector_color` says, point after point."""

from __future__ import annotations

import math
from typing import Any

import numba as nb
import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .sectors import LEAST_WEIGHT, NEAREST, SectorLayout

_LEAST, _HALF = np.float32(LEAST_WEIGHT), np.float32(0.5)


@nb.njit(nogil=True, inline="always")
def _mix(direction, frames, sectors, weights):
    """The nearest sectors and their weights."""
    best = (np.float32(-2), np.float32(-2), np.float32(-2), np.float32(-2))
    first, second, third = 0, 0, 0
    for a in range(frames.shape[0]):
        c = frames[a, 2, 0] * direction[0] + frames[a, 2, 1] * direction[1] + frames[a, 2, 2] * direction[2]
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
    sectors[0], sectors[1], sectors[2] = first, second, third
    squares = np.float32(0)
    for k in range(NEAREST):
        weights[k] = (best[k] - best[3]) ** 2 + _LEAST
        squares += weights[k] ** 2
    scale = np.float32(1) / math.sqrt(squares)
    for k in range(NEAREST):
        weights[k] *= scale


@nb.njit(nogil=True, inline="always")
def _along(axis, vector):
    return axis[0] * vector[0] + axis[1] * vector[1] + axis[2] * vector[2]


@nb.njit(nogil=True, inline="always")
def _corners(sector, position, frame, resolution, rows, weights):
    """Rows of the four corners around a position's place in the picture of a sector, and their weights."""
    x = (position[0] - _HALF, position[1] - _HALF, position[2] - _HALF)
    u, v = _along(frame[0], x) * np.float32(resolution), _along(frame[1], x) * np.float32(resolution)
    left, low = math.floor(u), math.floor(v)
    i, j = np.int64(left) % resolution, np.int64(low) % resolution
    right, high = (i + 1) % resolution, (j + 1) % resolution
    above = sector * resolution
    rows[0], rows[1] = (above + j) * resolution + i, (above + j) * resolution + right
    rows[2], rows[3] = (above + high) * resolution + i, (above + high) * resolution + right
    fu, fv = np.float32(u - left), np.float32(v - low)
    weights[0], weights[1] = (np.float32(1) - fu) * (np.float32(1) - fv), fu * (np.float32(1) - fv)
    weights[2], weights[3] = (np.float32(1) - fu) * fv, fu * fv


@nb.njit(nogil=True, parallel=True, cache=True)
def _gather(resolution, frames, table, positions, directions, out):
    for block in nb.prange(-(-positions.shape[0] // 256)):
        sectors, shares = np.empty(NEAREST, np.int64), np.empty(NEAREST, np.float32)
        rows, weights = np.empty(4, np.int64), np.empty(4, np.float32)
        for s in range(block * 256, min((block + 1) * 256, positions.shape[0])):
            _mix(directions[s], frames, sectors, shares)
            for f in range(out.shape[1]):
                out[s, f] = np.float32(0)
            for k in range(NEAREST):
                _corners(sectors[k], positions[s], frames[sectors[k]], resolution, rows, weights)
                for corner in range(4):
                    for f in range(out.shape[1]):
                        out[s, f] += shares[k] * weights[corner] * table[rows[corner], f]


@nb.njit(nogil=True, cache=True)
def _scatter(resolution, frames, positions, directions, gradient, table_gradient):
    """On one thread: points share rows, and sums are to have one order."""
    sectors, shares = np.empty(NEAREST, np.int64), np.empty(NEAREST, np.float32)
    rows, weights = np.empty(4, np.int64), np.empty(4, np.float32)
    for s in range(positions.shape[0]):
        _mix(directions[s], frames, sectors, shares)
        for k in range(NEAREST):
            _corners(sectors[k], positions[s], frames[sectors[k]], resolution, rows, weights)
            for corner in range(4):
                for f in range(gradient.shape[1]):
                    table_gradient[rows[corner], f] += shares[k] * weights[corner] * gradient[s, f]


class _SectorColor(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_unit: Tensor, d: Tensor, table: Tensor, layout: SectorLayout) -> Tensor:
        ctx.save_for_backward(x_unit, d)
        ctx.layout, ctx.n_features = layout, table.shape[1]
        out = np.empty((len(x_unit), table.shape[1]), np.float32)
        _gather(layout.resolution, layout.frames.numpy(), _plain(table), _plain(x_unit), _plain(d), out)
        return torch.from_numpy(out)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *d_out: Tensor) -> tuple[Tensor | None, ...]:
        x_unit, d = ctx.saved_tensors
        rows = np.zeros((ctx.layout.n_rows, ctx.n_features), np.float32)
        frames = ctx.layout.frames.numpy()
        _scatter(ctx.layout.resolution, frames, _plain(x_unit), _plain(d), _plain(d_out[0]), rows)
        return None, None, torch.from_numpy(rows), None


def sector_color(x_unit: Tensor, d: Tensor, table: Tensor, layout: SectorLayout) -> Tensor:
    """See `kernels.sector_color`."""
    return _SectorColor.apply(x_unit, d, table, layout)


def _plain(tensor: Tensor) -> np.ndarray:
    return tensor.detach().contiguous().numpy()
