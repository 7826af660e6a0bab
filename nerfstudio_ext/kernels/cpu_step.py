"""One training step of the fast field on the CPU, fused: march, density, colour, loss and all gradients.

Rays are handled in small chunks whose activations stay in the second-level cache. Within a chunk the density of a
few samples per ray is evaluated at a time, so that nothing behind a surface is computed; the colour network and all
gradients run on the samples that are seen. Weight gradients are summed per segment, a fixed share of the batch, so
the result does not depend on the number of threads. Feature gradients leave the kernel and are scattered into the
table by `cpu_scatter`, one thread per level.
"""

from __future__ import annotations

from typing import NamedTuple

import numba as nb
import numpy as np

from . import cpu_net as net
from .cpu_march import next_sample, step_at
from .cpu_simd import LANES

BATCH = 512
"""Samples whose density is evaluated together."""
TILE = 120
"""Rows of the backward pass at a time: a multiple of the register tile, small enough for the cache."""
FIRST_ROUND = 4
ONE = np.float32(1.0)
ZERO = np.float32(0.0)
N_LOSSES = 6
"""Columns of the sums a segment returns: colour loss, squared error, distortion, marched, kept, dropped rays."""


class StepSettings(NamedTuple):
    """Scalars of a training step (float32 unless said otherwise); see `field_step`."""

    step: np.float32
    cone_angle: np.float32
    max_step: np.float32
    unit_scale: np.float32
    stop_transmittance: np.float32
    huber: np.float32
    distortion: np.float32
    near_fade: np.float32
    grid_size: np.int64


class StepSpace(NamedTuple):
    """Room for one chunk per thread; every array starts with the thread axis."""

    positions: np.ndarray
    features: np.ndarray
    hidden: np.ndarray
    geo: np.ndarray
    kept_positions: np.ndarray
    kept_features: np.ndarray
    kept_hidden: np.ndarray
    kept_inputs: np.ndarray
    first: np.ndarray
    second: np.ndarray
    logits: np.ndarray
    wide: np.ndarray
    d_inputs: np.ndarray
    d_hidden: np.ndarray
    d_features: np.ndarray


def make_space(shape: net.NetShape, n_threads: int, kept: int) -> StepSpace:
    """Allocate the room for chunks of at most `kept` seen samples on each of `n_threads` threads."""
    f, h, c = shape.n_features, shape.hidden, shape.color_hidden
    wide_f = (f + LANES - 1) // LANES * LANES
    sizes = (
        (3, BATCH), (f, BATCH), (BATCH, h), (BATCH, net.GEO), (3, kept), (kept, f), (kept, h), (kept, net.GEO + net.SH),
        (kept, c), (kept, c), (kept, net.OUT), (2, TILE, c), (TILE, net.GEO + net.SH), (TILE, h), (TILE, wide_f),
    )  # fmt: skip
    return StepSpace(*(np.zeros((n_threads, *size), np.float32) for size in sizes))


@nb.njit(nogil=True)
def seen_samples(
    rays,
    first_ray,
    n,
    bits,
    grid,
    shape,
    table,
    weights,
    at,
    s,
    space,
    tid,
    trans,
    kept_ray,
    kept,
    is_dropped,
    capacity,
):
    """March a chunk of rays round by round; keep the samples with transmittance left.

    Fills the kept columns of `space` and `kept` = rows (t, dt, sigma), sets `trans` [n] to what is left of each ray.
    At most `capacity` samples are kept; rays with more are marked dropped. Returns (samples kept, samples marched).
    """
    rays_o, rays_d, t_min, t_max, jitter = rays
    positions, features = space.positions[tid], space.features[tid]
    hidden, geo = space.hidden[tid].reshape(-1), space.geo[tid].reshape(-1)
    kept_features, kept_hidden, kept_inputs = space.kept_features[tid], space.kept_hidden[tid], space.kept_inputs[tid]
    kept_positions = space.kept_positions[tid]
    t_now = np.empty(n, np.float32)
    alive = np.empty(n, np.int64)
    batch_ray = np.empty(BATCH, np.int64)
    batch_t = np.empty(BATCH, np.float32)
    batch_dt = np.empty(BATCH, np.float32)
    for i in range(n):
        r = first_ray + i
        trans[i] = ONE
        is_dropped[i] = False
        alive[i] = i
        t_now[i] = t_min[r] + jitter[r] * step_at(t_min[r], s.cone_angle, s.step, s.max_step)
    n_alive, n_kept, n_marched, per_ray = n, 0, 0, FIRST_ROUND
    while n_alive > 0:
        cursor, survivors = 0, 0
        while cursor < n_alive:
            begin = cursor
            count = 0
            while cursor < n_alive and count + per_ray <= BATCH:
                i = alive[cursor]
                r = first_ray + i
                o = (rays_o[r, 0], rays_o[r, 1], rays_o[r, 2])
                d = (rays_d[r, 0], rays_d[r, 1], rays_d[r, 2])
                t = t_now[i]
                for _ in range(per_ray):
                    t, dt = next_sample(o, d, t, t_max[r], bits, s.grid_size, s.cone_angle, s.step, s.max_step)
                    if dt == ZERO:
                        break
                    middle = t + dt * np.float32(0.5)
                    for k in range(3):
                        x = (o[k] + middle * d[k]) * s.unit_scale + np.float32(0.5)
                        positions[k, count] = min(max(x, ZERO), ONE)
                    batch_ray[count], batch_t[count], batch_dt[count] = i, t, dt
                    count += 1
                    t += dt
                t_now[i] = t
                cursor += 1
            n_marched += count
            full = net.padded(count)
            for j in range(count, full):
                for k in range(3):
                    positions[k, j] = ZERO
            net.encode_tile(grid, table, positions, 0, full, features)
            net.density_forward(shape, weights, at, features, 0, 1, BATCH, hidden, 0, geo, 0, count)
            for j in range(count):
                i = batch_ray[j]
                if trans[i] < s.stop_transmittance:
                    continue
                if n_kept == capacity:
                    is_dropped[i] = True
                    trans[i] = ZERO
                    continue
                logit = min(max(geo[j * net.GEO], -net.DENSITY_LOGIT_MAX), net.DENSITY_LOGIT_MAX)
                sigma = np.exp(logit)
                kept_ray[n_kept] = i
                kept[0, n_kept], kept[1, n_kept], kept[2, n_kept] = batch_t[j], batch_dt[j], sigma
                trans[i] *= np.exp(-sigma * batch_dt[j])
                for k in range(3):
                    kept_positions[k, n_kept] = positions[k, j]
                for k in range(shape.n_features):
                    kept_features[n_kept, k] = features[k, j]
                for k in range(shape.hidden):
                    kept_hidden[n_kept, k] = hidden[j * shape.hidden + k]
                for k in range(net.GEO):
                    kept_inputs[n_kept, k] = geo[j * net.GEO + k]
                n_kept += 1
            for c in range(begin, cursor):
                i = alive[c]
                if trans[i] >= s.stop_transmittance and t_now[i] < t_max[first_ray + i]:
                    alive[survivors] = i
                    survivors += 1
        n_alive = survivors
        per_ray = min(2 * per_ray, 32)
    return n_kept, n_marched


@nb.njit(nogil=True)
def _huber(difference, delta):
    """Huber loss and its derivative; delta = 0 means squared error."""
    if delta == ZERO:
        return difference * difference, np.float32(2.0) * difference
    size = abs(difference)
    if size <= delta:
        return np.float32(0.5) * difference * difference, difference
    return delta * (size - np.float32(0.5) * delta), delta if difference > ZERO else -delta


@nb.njit(nogil=True, inline="always")
def _squeezed(t):
    """Distance in 0..1 in which distortion is measured, so that far samples do not outweigh near ones."""
    return t / (ONE + t)


@nb.njit(nogil=True)
def composite_samples(n, n_kept, kept_ray, kept, logits, rgbs, weights_out, totals):
    """Colours, weights, and per-ray totals (r, g, b, opacity, sum w m) of the kept samples."""
    running = np.ones(n, np.float32)
    totals[:n] = ZERO
    for j in range(n_kept):
        i = kept_ray[j]
        after = running[i] * np.exp(-kept[2, j] * kept[1, j])
        weight = running[i] - after
        running[i] = after
        weights_out[j] = weight
        for k in range(3):
            logit = min(max(logits[j * net.OUT + k], -net.LOGIT_MAX), net.LOGIT_MAX)
            rgbs[j, k] = ONE / (ONE + np.exp(-logit))
            totals[i, k] += weight * rgbs[j, k]
        totals[i, 3] += weight
        totals[i, 4] += weight * _squeezed(kept[0, j] + np.float32(0.5) * kept[1, j])


@nb.njit(nogil=True)
def sample_gradients(
    n, n_kept, n_rays, kept_ray, kept, rgbs, sample_weights, totals, ray_gradient, s, d_logits, d_sigma
):
    """Gradients of the colour logits (in place, [n_kept, 16]) and of the density logits; returns the distortion.

    With q = dL/dw, the gradient in sigma_i is dt_i (T_{i+1} q_i - sum_{j > i} w_j q_j): Max 1995, as in every
    volume renderer. The distortion is that of mip-NeRF 360, eq. 15, on squeezed distances.
    """
    passed = np.zeros((n, 4), np.float32)
    total_q = np.zeros(n, np.float32)
    q = np.empty(n_kept, np.float32)
    distortion = 0.0
    scale = s.distortion / np.float32(n_rays)
    for j in range(n_kept):
        i = kept_ray[j]
        w = sample_weights[j]
        value = ray_gradient[i, 3]
        for k in range(3):
            value += ray_gradient[i, k] * rgbs[j, k]
        if scale > ZERO:
            m = _squeezed(kept[0, j] + np.float32(0.5) * kept[1, j])
            width = _squeezed(kept[0, j] + kept[1, j]) - _squeezed(kept[0, j])
            before_w, before_wm = passed[i, 1], passed[i, 2]
            after_w, after_wm = totals[i, 3] - before_w - w, totals[i, 4] - before_wm - w * m
            spread = m * before_w - before_wm + after_wm - m * after_w
            distortion += w * (spread + w * width / np.float32(3.0))
            value += scale * (np.float32(2.0) * spread + np.float32(2.0 / 3.0) * w * width)
            passed[i, 1] += w
            passed[i, 2] += w * m
        q[j] = value
        total_q[i] += w * value
    trans = np.ones(n, np.float32)
    for j in range(n_kept):
        i = kept_ray[j]
        w = sample_weights[j]
        trans[i] -= w
        passed[i, 0] += w * q[j]
        fade = ONE
        if s.near_fade > ZERO:
            fade = min((kept[0, j] / s.near_fade) ** 2, ONE)
        logit_is_free = np.exp(-net.DENSITY_LOGIT_MAX) < kept[2, j] < np.exp(net.DENSITY_LOGIT_MAX)
        d = kept[1, j] * (trans[i] * q[j] - (total_q[i] - passed[i, 0]))
        d_sigma[j] = d * kept[2, j] * fade if logit_is_free else ZERO
        for k in range(net.OUT):
            d_logits[j * net.OUT + k] = ZERO
        for k in range(3):
            c = rgbs[j, k]
            d_logits[j * net.OUT + k] = ray_gradient[i, k] * w * c * (ONE - c) * fade
    return distortion


@nb.njit(nogil=True)
def ray_losses(first_ray, n, n_rays, totals, target, background, is_dropped, s, ray_gradient, sums):
    """Colour loss of each ray; `ray_gradient` [n, 4] = dL/d(rgb) and dL/d(opacity)."""
    for i in range(n):
        r = first_ray + i
        ray_gradient[i] = ZERO
        if is_dropped[i]:
            sums[5] += 1
            continue
        for k in range(3):
            predicted = totals[i, k] + (ONE - totals[i, 3]) * background[r, k]
            difference = predicted - target[r, k]
            loss, slope = _huber(difference, s.huber)
            slope = slope / np.float32(3 * n_rays)
            sums[0] += loss
            sums[1] += difference * difference
            ray_gradient[i, k] = slope
            ray_gradient[i, 3] -= slope * background[r, k]


@nb.njit(nogil=True)
def networks_backward(shape, weights, at, space, tid, n_kept, d_sigma, dw, region, out_positions, out_gradient):
    """Gradients of all weights into `dw`, of the features into columns `region` .. of `out_gradient`."""
    f, h, c = shape.n_features, shape.hidden, shape.color_hidden
    wide_f = net.padded(f)
    inputs, first = space.kept_inputs[tid].reshape(-1), space.first[tid].reshape(-1)
    second, logits = space.second[tid].reshape(-1), space.logits[tid].reshape(-1)
    features, hidden = space.kept_features[tid].reshape(-1), space.kept_hidden[tid].reshape(-1)
    wide, d_inputs = space.wide[tid].reshape(-1), space.d_inputs[tid].reshape(-1)
    d_hidden, d_features = space.d_hidden[tid].reshape(-1), space.d_features[tid].reshape(-1)
    width = net.GEO + net.SH
    for start in range(0, n_kept, TILE):
        n = min(TILE, n_kept - start)
        net.color_backward(
            shape, weights, at, inputs, start * width, first, start * c, second, start * c, logits, start * net.OUT,
            wide, 0, d_inputs, 0, n, dw,
        )  # fmt: skip
        for j in range(n):
            d_inputs[j * width] += d_sigma[start + j]
        net.density_backward(
            shape, weights, at, features, start * f, f, 1, hidden, start * h, d_inputs, 0, width, d_hidden, 0,
            d_features, 0, n, dw,
        )  # fmt: skip
        for k in range(f):
            for j in range(n):
                out_gradient[k, region + start + j] = d_features[j * wide_f + k]
        for k in range(3):
            for j in range(n):
                out_positions[k, region + start + j] = space.kept_positions[tid][k, start + j]


@nb.njit(nogil=True, parallel=True, cache=True)
def field_step_kernel(
    rays, target, background, bits, grid, shape, table, weights, s, rays_per_chunk, space, dw, sums, region_size,
    filled, out_positions, out_gradient,
):  # fmt: skip
    """Losses and gradients of a batch; see `field_step`. `dw`, `sums`, `filled` have one row per segment."""
    n_segments = dw.shape[0]
    n_rays = target.shape[0]
    for segment in nb.prange(n_segments):
        tid = nb.get_thread_id()
        at = net.weight_offsets(shape)
        capacity = space.kept_features.shape[1]
        kept_ray = np.empty(capacity, np.int64)
        kept = np.empty((3, capacity), np.float32)
        rgbs = np.empty((capacity, 3), np.float32)
        sample_weights = np.empty(capacity, np.float32)
        d_sigma = np.empty(capacity, np.float32)
        trans = np.empty(rays_per_chunk, np.float32)
        is_dropped = np.empty(rays_per_chunk, np.bool_)
        totals = np.empty((rays_per_chunk, 5), np.float32)
        ray_gradient = np.empty((rays_per_chunk, 4), np.float32)
        inputs = space.kept_inputs[tid].reshape(-1)
        first, second = space.first[tid].reshape(-1), space.second[tid].reshape(-1)
        logits = space.logits[tid].reshape(-1)
        directions = np.empty((rays_per_chunk, net.SH), np.float32)
        flat_directions = directions.reshape(-1)
        region = segment * region_size
        used = 0
        begin, end = n_rays * segment // n_segments, n_rays * (segment + 1) // n_segments
        for first_ray in range(begin, end, rays_per_chunk):
            n = min(rays_per_chunk, end - first_ray)
            n_kept, n_marched = seen_samples(
                rays,
                first_ray,
                n,
                bits,
                grid,
                shape,
                table,
                weights,
                at,
                s,
                space,
                tid,
                trans,
                kept_ray,
                kept,
                is_dropped,
                min(capacity, region_size - used),
            )
            sums[segment, 3] += n_marched
            for i in range(n):
                d = rays[1][first_ray + i]
                net.harmonics(d[0], d[1], d[2], flat_directions, i * net.SH)
            for j in range(n_kept):
                for k in range(net.SH):
                    inputs[j * (net.GEO + net.SH) + net.GEO + k] = directions[kept_ray[j], k]
            net.color_forward(shape, weights, at, inputs, 0, first, 0, second, 0, logits, 0, n_kept)
            composite_samples(n, n_kept, kept_ray, kept, logits, rgbs, sample_weights, totals)
            ray_losses(first_ray, n, n_rays, totals, target, background, is_dropped, s, ray_gradient, sums[segment])
            sums[segment, 2] += sample_gradients(
                n, n_kept, n_rays, kept_ray, kept, rgbs, sample_weights, totals, ray_gradient, s, logits, d_sigma
            )
            networks_backward(
                shape, weights, at, space, tid, n_kept, d_sigma, dw[segment], region + used, out_positions, out_gradient
            )
            used += n_kept
        filled[segment] = used
        sums[segment, 4] += used
        for j in range(used, min(net.padded(used), region_size)):
            for k in range(3):
                out_positions[k, region + j] = ZERO
            for k in range(shape.n_features):
                out_gradient[k, region + j] = ZERO
