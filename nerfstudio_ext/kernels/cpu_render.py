"""Inference with the fast field on the CPU: whole rays to pixels, and densities at points.

Rays go through the same rounds of density as in training, so that nothing behind a surface is computed.
"""

from __future__ import annotations

import numba as nb
import numpy as np

from . import cpu_net as net
from .cpu_step import seen_samples

BATCH = 512
CHUNK = 64
"""Rays that share the room for samples; fewer at a time where the scene is fog."""
ONE = np.float32(1.0)
ZERO = np.float32(0.0)
HALF = np.float32(0.5)


@nb.njit(nogil=True)
def _add_colors(n_kept, kept_ray, kept, logits, trans, first_ray, out):
    """Composite the kept samples of a chunk into `out`."""
    trans[:] = ONE
    for j in range(n_kept):
        i = kept_ray[j]
        r = first_ray + i
        after = trans[i] * np.exp(-kept[2, j] * kept[1, j])
        weight = trans[i] - after
        trans[i] = after
        for k in range(3):
            logit = min(max(logits[j * net.OUT + k], -net.LOGIT_MAX), net.LOGIT_MAX)
            out[r, k] += weight / (ONE + np.exp(-logit))
        out[r, 3] += weight * (kept[0, j] + HALF * kept[1, j])
        out[r, 4] += weight


@nb.njit(nogil=True, parallel=True, cache=True)
def render_kernel(rays, bits, grid, shape, table, weights, s, space, out):
    """Premultiplied (r, g, b, depth, alpha) of rays into `out` [R, 5], which holds zeros."""
    n_rays = out.shape[0]
    for chunk in nb.prange((n_rays + CHUNK - 1) // CHUNK):
        tid = nb.get_thread_id()
        at = net.weight_offsets(shape)
        capacity = space.kept_features.shape[1]
        kept_ray = np.empty(capacity, np.int64)
        kept = np.empty((3, capacity), np.float32)
        trans = np.empty(CHUNK, np.float32)
        is_dropped = np.empty(CHUNK, np.bool_)
        directions = np.empty((CHUNK, net.SH), np.float32)
        flat_directions = directions.reshape(-1)
        inputs = space.kept_inputs[tid].reshape(-1)
        first, second = space.first[tid].reshape(-1), space.second[tid].reshape(-1)
        logits = space.logits[tid].reshape(-1)
        first_ray = chunk * CHUNK
        last_ray = min(first_ray + CHUNK, n_rays)
        n = last_ray - first_ray
        while first_ray < last_ray:
            n = min(n, last_ray - first_ray)
            n_kept, _ = seen_samples(
                rays, first_ray, n, bits, grid, shape, table, weights, at, s, space, tid, trans, kept_ray, kept,
                is_dropped, capacity,
            )  # fmt: skip
            if n > 1 and is_dropped[:n].any():
                n = max(1, n // 4)
                continue
            for i in range(n):
                d = rays[1][first_ray + i]
                net.harmonics(d[0], d[1], d[2], flat_directions, i * net.SH)
            for j in range(n_kept):
                for k in range(net.SH):
                    inputs[j * (net.GEO + net.SH) + net.GEO + k] = directions[kept_ray[j], k]
            net.color_forward(shape, weights, at, inputs, 0, first, 0, second, 0, logits, 0, n_kept)
            _add_colors(n_kept, kept_ray, kept, logits, trans, first_ray, out)
            first_ray += n


@nb.njit(nogil=True, parallel=True, cache=True)
def density_kernel(x, unit_scale, grid, shape, table, weights, out):
    """Densities of world positions [N, 3] into `out` [N]."""
    n_points = x.shape[0]
    for chunk in nb.prange((n_points + BATCH - 1) // BATCH):
        at = net.weight_offsets(shape)
        start = chunk * BATCH
        n = min(BATCH, n_points - start)
        positions = np.zeros((3, BATCH), np.float32)
        features = np.empty((shape.n_features, BATCH), np.float32)
        hidden = np.empty(BATCH * shape.hidden, np.float32)
        geo = np.empty(BATCH * net.GEO, np.float32)
        for j in range(n):
            for k in range(3):
                positions[k, j] = min(max(x[start + j, k] * unit_scale + HALF, ZERO), ONE)
        net.encode_tile(grid, table, positions, 0, net.padded(n), features)
        net.density_forward(shape, weights, at, features, 0, 1, BATCH, hidden, 0, geo, 0, n)
        for j in range(n):
            logit = min(max(geo[j * net.GEO], -net.DENSITY_LOGIT_MAX), net.DENSITY_LOGIT_MAX)
            out[start + j] = np.exp(logit)
