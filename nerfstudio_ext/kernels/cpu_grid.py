"""The hash grid alone on the CPU: encoding, its gradient in the table and in the positions."""

from __future__ import annotations

from typing import Any

import numba as nb
import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .cpu_grid_simd import N_CORNERS
from .cpu_net import Grid, encode_dense, encode_hashed
from .cpu_scatter import corners_dense, corners_hashed, deal_levels, scatter_gradient
from .cpu_simd import LANES
from .layouts import GridLayout


def kernel_grid(layout: GridLayout) -> Grid:
    """The grid as the kernels take it."""
    extents = [
        resolution + 1 if dense else 2**layout.log2_table - 1
        for resolution, dense in zip(layout.resolutions, layout.is_dense, strict=True)
    ]
    return Grid(
        np.array(layout.scales, np.float32),
        np.array(extents, np.int32),
        np.array(layout.is_dense, np.bool_),
        np.array(layout.offsets[:-1], np.int64),
    )


@nb.njit(nogil=True, parallel=True, cache=True)
def encode_levels(grid, order, table, positions, features):
    """Features [2 L, S] at positions [3, S], S a multiple of 16; level by level, since a level fits the cache."""
    capacity = features.shape[1]
    for slot in nb.prange(order.shape[0]):
        level = order[slot]
        scale, extent, at = grid.scales[level], grid.extents[level], grid.offsets[level]
        for s in range(0, capacity, LANES):
            if grid.is_dense[level]:
                encode_dense(positions, s, scale, extent, table, at, features, 2 * level * capacity + s, capacity)
            else:
                encode_hashed(positions, s, scale, extent, table, at, features, 2 * level * capacity + s, capacity)


@nb.njit(nogil=True)
def _block_corners(grid, level, positions, s, indices, weights):
    if grid.is_dense[level]:
        corners_dense(positions, s, grid.scales[level], grid.extents[level], indices, weights)
    else:
        corners_hashed(positions, s, grid.scales[level], grid.extents[level], indices, weights)


@nb.njit(nogil=True, parallel=True, cache=True)
def encode_any(grid, order, table, positions, features):
    """`encode_levels` for any number of features per level: `features` is [L F, S]."""
    n_features = table.shape[1]
    for slot in nb.prange(order.shape[0]):
        level = order[slot]
        indices, weights = np.empty(N_CORNERS * LANES, np.int32), np.empty(N_CORNERS * LANES, np.float32)
        for s in range(0, features.shape[1], LANES):
            _block_corners(grid, level, positions, s, indices, weights)
            for lane in range(LANES):
                for k in range(n_features):
                    total = np.float32(0.0)
                    for c in range(N_CORNERS):
                        row = grid.offsets[level] + indices[c * LANES + lane]
                        total += weights[c * LANES + lane] * table[row, k]
                    features[level * n_features + k, s + lane] = total


@nb.njit(nogil=True, parallel=True, cache=True)
def scatter_any(grid, order, positions, gradient, table_gradient):
    """`scatter_gradient` for any number of features per level."""
    n_features = table_gradient.shape[1]
    for slot in nb.prange(order.shape[0]):
        level = order[slot]
        indices, weights = np.empty(N_CORNERS * LANES, np.int32), np.empty(N_CORNERS * LANES, np.float32)
        for s in range(0, gradient.shape[1], LANES):
            _block_corners(grid, level, positions, s, indices, weights)
            for lane in range(LANES):
                for c in range(N_CORNERS):
                    row = grid.offsets[level] + indices[c * LANES + lane]
                    for k in range(n_features):
                        table_gradient[row, k] += weights[c * LANES + lane] * gradient[level * n_features + k, s + lane]


@nb.njit(nogil=True, parallel=True, cache=True)
def position_gradient(grid, table, positions, gradient, d_positions):
    """Gradient in the positions [3, S]: differences of corner features across the cell, times the level's scale."""
    n_features = table.shape[1]
    n_levels = grid.scales.shape[0]
    for block in nb.prange(positions.shape[1] // LANES):
        s = block * LANES
        indices, weights = np.empty(N_CORNERS * LANES, np.int32), np.empty(N_CORNERS * LANES, np.float32)
        for lane in range(LANES):
            for axis in range(3):
                d_positions[axis, s + lane] = np.float32(0.0)
        for level in range(n_levels):
            _block_corners(grid, level, positions, s, indices, weights)
            scale = grid.scales[level]
            for lane in range(LANES):
                fraction = np.empty(3, np.float32)
                for axis in range(3):
                    scaled = positions[axis, s + lane] * scale + np.float32(0.5)
                    fraction[axis] = scaled - np.floor(scaled)
                for c in range(N_CORNERS):
                    row = grid.offsets[level] + indices[c * LANES + lane]
                    value = np.float32(0.0)
                    for k in range(n_features):
                        value += table[row, k] * gradient[level * n_features + k, s + lane]
                    for axis in range(3):
                        slope = scale if (c >> axis) & 1 else -scale
                        for other in range(3):
                            if other != axis:
                                w = fraction[other]
                                slope *= w if (c >> other) & 1 else np.float32(1.0) - w
                        d_positions[axis, s + lane] += slope * value


def _columns(x: Tensor) -> np.ndarray:
    """Positions [S, 3] as [3, S padded to vectors], inside the unit cube."""
    n = x.shape[0]
    columns = np.zeros((3, -(-n // LANES) * LANES), np.float32)
    columns[:, :n] = x.detach().clamp(0, 1).numpy().T
    return columns


class HashEncode(torch.autograd.Function):
    """`kernels.hash_encode` on the CPU. The result is a transposed view: one row of memory per feature."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, table: Tensor, layout: GridLayout) -> Tensor:
        ctx.save_for_backward(x, table)
        ctx.layout = layout
        positions, rows = _columns(x), table.detach().contiguous().numpy()
        features = np.empty((layout.n_outputs, positions.shape[1]), np.float32)
        encode = encode_levels if layout.n_features == 2 else encode_any
        encode(kernel_grid(layout), deal_levels(layout.n_levels, nb.get_num_threads()), rows, positions, features)
        return torch.from_numpy(features)[:, : x.shape[0]].T

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *d_out: Tensor) -> tuple[Tensor | None, ...]:
        x, table = ctx.saved_tensors
        layout, positions, grid = ctx.layout, _columns(x), kernel_grid(ctx.layout)
        gradient = np.zeros((layout.n_outputs, positions.shape[1]), np.float32)
        gradient[:, : x.shape[0]] = d_out[0].detach().numpy().T
        d_x = d_table = None
        if ctx.needs_input_grad[1]:
            rows = np.zeros(tuple(table.shape), np.float32)
            order = deal_levels(layout.n_levels, nb.get_num_threads())
            if layout.n_features == 2:
                filled = np.array([positions.shape[1]])
                scatter_gradient(grid, order, positions, gradient, positions.shape[1], filled, rows)
            else:
                scatter_any(grid, order, positions, gradient, rows)
            d_table = torch.from_numpy(rows)
        if ctx.needs_input_grad[0]:
            columns = np.empty_like(positions)
            position_gradient(grid, table.detach().contiguous().numpy(), positions, gradient, columns)
            inside = (x >= 0) & (x <= 1)
            d_x = torch.from_numpy(columns)[:, : x.shape[0]].T * inside
        return d_x, d_table, None
