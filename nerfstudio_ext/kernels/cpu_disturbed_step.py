"""Inner loops of the disturbed field on the CPU: one chunk of given samples forward, and back to what disturbs them.

Forward and the gradients of the field are those of `cpu_step`; here is what comes in between: the shifts of samples,
and the way back to positions, features, logits and rays.
"""

from __future__ import annotations

from typing import NamedTuple

import numba as nb
import numpy as np

from . import cpu_net as net
from .cpu_gemm import gemm
from .cpu_grid_simd import make_slope
from .cpu_simd import LANES
from .cpu_step import TILE

ONE, ZERO, HALF = np.float32(1.0), np.float32(0.0), np.float32(0.5)
slope_dense = make_slope(True)
slope_hashed = make_slope(False)


class DisturbedSpace(NamedTuple):
    """Room for one chunk per thread; every array starts with the thread axis. Names as in `cpu_step.StepSpace`."""

    kept_positions: np.ndarray
    features: np.ndarray
    kept_features: np.ndarray
    kept_hidden: np.ndarray
    geo: np.ndarray
    kept_inputs: np.ndarray
    first: np.ndarray
    second: np.ndarray
    logits: np.ndarray
    wide: np.ndarray
    d_inputs: np.ndarray
    d_hidden: np.ndarray
    d_features: np.ndarray
    d_columns: np.ndarray
    d_positions: np.ndarray


class Shifts(NamedTuple):
    """The disturbance as arrays; one that is not there has length 0."""

    t: np.ndarray
    x: np.ndarray
    features: np.ndarray
    raw: np.ndarray
    rgb: np.ndarray


def make_space(shape: net.NetShape, n_threads: int, room: int) -> DisturbedSpace:
    """Allocate the room for chunks of at most `room` samples (a multiple of 16) on each of `n_threads` threads."""
    f, h, c = shape.n_features, shape.hidden, shape.color_hidden
    wide_f = (f + LANES - 1) // LANES * LANES
    sizes = (
        (3, room), (f, room), (room, f), (room, h), (room, net.GEO), (room, net.GEO + net.SH), (room, c), (room, c),
        (room, net.OUT), (2, TILE, c), (TILE, net.GEO + net.SH), (TILE, h), (TILE, wide_f), (f, room), (3, room),
    )  # fmt: skip
    return DisturbedSpace(*(np.zeros((n_threads, *size), np.float32) for size in sizes))


@nb.njit(nogil=True)
def place_samples(begin, n, rays_o, rays_d, first_ray, samples, shifts, unit_scale, aabb_is_inside, space, tid, chunk):
    """Fill ray numbers, distances, lengths and positions of the samples begin .. begin + n of a chunk.

    `chunk` = (ray of each sample counted from `first_ray`, rows (start, length, density), middles, neighbour flags).
    """
    ray_indices, t_starts, t_ends = samples
    kept_ray, kept, middles, has_neighbour = chunk
    positions = space.kept_positions[tid]
    is_shifted, is_moved = shifts.t.shape[0] > 0, shifts.x.shape[0] > 0
    for j in range(n):
        at = begin + j
        r = ray_indices[at]
        kept_ray[j] = r - first_ray
        length = t_ends[at] - t_starts[at]
        follows = at + 1 < ray_indices.shape[0] and ray_indices[at + 1] == r
        has_neighbour[j] = follows and t_starts[at + 1] - t_ends[at] < np.float32(0.01) * length
        middle = HALF * (t_starts[at] + t_ends[at])
        if is_shifted:
            middle += shifts.t[at]
            length -= shifts.t[at]
            if has_neighbour[j]:
                length += shifts.t[at + 1]
        kept[0, j], kept[1, j], middles[j] = t_starts[at], max(length, ZERO), middle
        for k in range(3):
            x = rays_o[r, k] + middle * rays_d[r, k]
            if is_moved:
                x += shifts.x[at, k]
            x = x * unit_scale + HALF
            aabb_is_inside[j, k] = ZERO <= x <= ONE
            positions[k, j] = min(max(x, ZERO), ONE)
    for j in range(n, net.padded(n)):
        for k in range(3):
            positions[k, j] = ZERO


@nb.njit(nogil=True)
def forward_networks(begin, n, grid, table, shape, weights, at, harmonics, first_ray, shifts, space, tid, chunk):
    """Features, both networks and the densities of a chunk that `place_samples` has placed."""
    kept_ray, kept = chunk[0], chunk[1]
    features, rows = space.features[tid], space.kept_features[tid]
    net.encode_tile(grid, table, space.kept_positions[tid], 0, net.padded(n), features)
    f = shape.n_features
    is_disturbed = shifts.features.shape[0] > 0
    for j in range(n):
        for k in range(f):
            rows[j, k] = features[k, j]
        if is_disturbed:
            for k in range(f):
                rows[j, k] += shifts.features[begin + j, k]
    geo, inputs = space.geo[tid], space.kept_inputs[tid]
    net.density_forward(
        shape, weights, at, rows.reshape(-1), 0, f, 1, space.kept_hidden[tid].reshape(-1), 0, geo.reshape(-1), 0, n
    )
    for j in range(n):
        for k in range(net.GEO):
            inputs[j, k] = geo[j, k]
        r = first_ray + kept_ray[j]
        for k in range(net.SH):
            inputs[j, net.GEO + k] = harmonics[r, k]
    logits = space.logits[tid]
    net.color_forward(
        shape, weights, at, inputs.reshape(-1), 0, space.first[tid].reshape(-1), 0, space.second[tid].reshape(-1), 0,
        logits.reshape(-1), 0, n,
    )  # fmt: skip
    is_disturbed = shifts.raw.shape[0] > 0
    for j in range(n):
        logit = geo[j, 0]
        if is_disturbed:
            logit += shifts.raw[begin + j, 3]
            for k in range(3):
                logits[j, k] += shifts.raw[begin + j, k]
        kept[2, j] = np.exp(min(max(logit, -net.DENSITY_LOGIT_MAX), net.DENSITY_LOGIT_MAX))


@nb.njit(nogil=True)
def shift_colors(first_ray, n, rgb, totals):
    """Add the disturbance of the rendered colours, where there is one."""
    if rgb.shape[0] > 0:
        for i in range(n):
            for k in range(3):
                totals[i, k] += rgb[first_ray + i, k]


@nb.njit(nogil=True)
def scale_rows(n, factor, rows):
    """Multiply the first n rows."""
    for i in range(n):
        for k in range(rows.shape[1]):
            rows[i, k] *= factor


@nb.njit(nogil=True)
def keep_color_gradient(first_ray, n, ray_gradient, out):
    """Copy the gradient in the rendered colours, where it is wanted."""
    if out.shape[0] > 0:
        for i in range(n):
            for k in range(3):
                out[first_ray + i, k] = ray_gradient[i, k]


@nb.njit(nogil=True)
def _inputs_backward(shape, weights, at, space, tid, start, n, d_density):
    """Gradients of the inputs and of the features of one tile: `networks_backward` without those of the weights."""
    h, c, f = shape.hidden, shape.color_hidden, net.padded(shape.n_features)
    width = net.GEO + net.SH
    first, second = space.first[tid].reshape(-1), space.second[tid].reshape(-1)
    logits, wide = space.logits[tid].reshape(-1), space.wide[tid].reshape(-1)
    d_inputs, d_hidden = space.d_inputs[tid].reshape(-1), space.d_hidden[tid].reshape(-1)
    half = TILE * c
    gemm(logits, start * net.OUT, net.OUT, 1, weights, at[9], c, wide, 0, c, n, c, 3)
    net.mask_relu(wide, 0, second, start * c, n * c)
    gemm(wide, 0, c, 1, weights, at[8], c, wide, half, c, n, c, c)
    net.mask_relu(wide, half, first, start * c, n * c)
    gemm(wide, half, c, 1, weights, at[7], width, d_inputs, 0, width, n, width, c)
    for j in range(n):
        d_inputs[j * width] += d_density[start + j]
    gemm(d_inputs, 0, width, 1, weights, at[6], h, d_hidden, 0, h, n, h, net.GEO)
    net.mask_relu(d_hidden, 0, space.kept_hidden[tid].reshape(-1), start * h, n * h)
    gemm(d_hidden, 0, h, 1, weights, at[5], f, space.d_features[tid].reshape(-1), 0, f, n, f, h)


@nb.njit(nogil=True)
def disturbance_backward(
    begin, n, shape, weights, at, grid, table, space, tid, chunk, d_density, first_ray, out, d_harmonics
):
    """Gradients of features, logits and harmonics into `out`, of the positions in the unit cube into the space."""
    kept_ray = chunk[0]
    wants_features, wants_raw = out.features.shape[0] > 0, out.raw.shape[0] > 0
    logits, d_inputs, d_features = space.logits[tid], space.d_inputs[tid], space.d_features[tid]
    columns = space.d_columns[tid]
    for start in range(0, n, TILE):
        size = min(TILE, n - start)
        _inputs_backward(shape, weights, at, space, tid, start, size, d_density)
        for j in range(size):
            s = begin + start + j
            if wants_raw:
                for k in range(3):
                    out.raw[s, k] = logits[start + j, k]
                out.raw[s, 3] = d_density[start + j]
            if wants_features:
                for k in range(shape.n_features):
                    out.features[s, k] = d_features[j, k]
            r = first_ray + kept_ray[start + j]
            for k in range(net.SH):
                d_harmonics[r, k] += d_inputs[j, net.GEO + k]
        for k in range(shape.n_features):
            for j in range(size):
                columns[k, start + j] = d_features[j, k]
    for k in range(shape.n_features):
        for j in range(n, net.padded(n)):
            columns[k, j] = ZERO
    _position_gradient(grid, table, space.kept_positions[tid], columns, space.d_positions[tid], net.padded(n))


@nb.njit(nogil=True)
def _position_gradient(grid, table, positions, columns, d_positions, count):
    """Gradient in the positions [3, capacity], columns 0 .. count, from that of the features [2 L, capacity]."""
    capacity = columns.shape[1]
    for k in range(3):
        for j in range(count):
            d_positions[k, j] = ZERO
    for level in range(grid.scales.shape[0]):
        scale, extent, at = grid.scales[level], grid.extents[level], grid.offsets[level]
        row = 2 * level * capacity
        for s in range(0, count, LANES):
            if grid.is_dense[level]:
                slope_dense(positions, s, scale, extent, table, at, columns, row + s, capacity, d_positions)
            else:
                slope_hashed(positions, s, scale, extent, table, at, columns, row + s, capacity, d_positions)


@nb.njit(nogil=True)
def spread_to_samples(
    begin, n, rays_d, first_ray, unit_scale, aabb_is_inside, d_density, space, tid, chunk, out, d_o, d_d
):
    """Gradients in shifts along the ray, in positions, origins and directions; a length reaches two shifts.

    `d_density` is the gradient in the density logit, density times length times that in the optical depth, hence
    that in the length is `d_density / length`.
    """
    kept_ray, kept, middles, has_neighbour = chunk
    d_positions = space.d_positions[tid]
    wants_t, wants_x = out.t.shape[0] > 0, out.x.shape[0] > 0
    if wants_t:
        for j in range(n):
            out.t[begin + j] = ZERO
    for j in range(n):
        r = first_ray + kept_ray[j]
        along = ZERO
        for k in range(3):
            d = d_positions[k, j] * unit_scale if aabb_is_inside[j, k] else ZERO
            if wants_x:
                out.x[begin + j, k] = d
            along += d * rays_d[r, k]
            d_o[r, k] += d
            d_d[r, k] += middles[j] * d
        if wants_t:
            out.t[begin + j] += along
            if kept[1, j] > ZERO:
                d_length = d_density[j] / kept[1, j]
                out.t[begin + j] -= d_length
                if has_neighbour[j]:
                    out.t[begin + j + 1] += d_length
