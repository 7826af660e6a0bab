"""Stepping along one ray through the occupancy bits; every CPU marcher uses it.

The lattice of a ray is t += clamp(cone_angle * t, step, max_step), in float32 and in this order of operations on
all back ends. Empty cells, and empty blocks of 4 x 4 x 4 cells, are left in one go.
"""

from __future__ import annotations

import numba as nb
import numpy as np

ONE = np.float32(1.0)
HALF = np.float32(0.5)
FAR = np.float32(1e30)


@nb.njit(nogil=True, inline="always")
def step_at(t, cone_angle, step, max_step):
    """Length of the lattice interval that starts at t."""
    return min(max(cone_angle * t, step), max_step)


@nb.njit(nogil=True, inline="always")
def _leave(position, direction, cell, size, origin):
    """Ray length from `position` to the far face of the cell `[origin + cell * size, + size]` along one axis."""
    if direction > np.float32(1e-9):
        return (origin + (cell + ONE) * size - position) / direction
    if direction < np.float32(-1e-9):
        return (origin + cell * size - position) / direction
    return FAR


@nb.njit(nogil=True)
def next_sample(o, d, t, t_max, bits, grid_size, cone_angle, step, max_step):
    """First lattice interval at or after t whose midpoint lies in an occupied cell.

    Args:
        o, d: Origin and direction, tuples of 3 float32.
        t, t_max: Lattice position to start from and end of the ray.
        bits: Occupancy words [C, (G/4)^3], uint64.
    Returns:
        (t, dt) of the interval, or (t_max, 0) when there is none.
    """
    n_cascades = bits.shape[0]
    blocks = grid_size // 4
    while t < t_max:
        dt = step_at(t, cone_angle, step, max_step)
        if not t + dt > t:  # so far away that a step vanishes in rounding
            break
        middle = t + dt * HALF
        x, y, z = o[0] + middle * d[0], o[1] + middle * d[1], o[2] + middle * d[2]
        reach = max(abs(x), abs(y), abs(z))
        cascade = 0
        half = HALF
        while reach > half and cascade + 1 < n_cascades:
            half += half
            cascade += 1
        if not reach <= half:
            if reach != reach:
                break
            t += dt
            continue
        to_cell = np.float32(grid_size) / (half + half)
        cx = min(max(int((x + half) * to_cell), 0), grid_size - 1)
        cy = min(max(int((y + half) * to_cell), 0), grid_size - 1)
        cz = min(max(int((z + half) * to_cell), 0), grid_size - 1)
        word = bits[cascade, ((cz >> 2) * blocks + (cy >> 2)) * blocks + (cx >> 2)]
        if (word >> np.uint64((cz & 3) * 16 + (cy & 3) * 4 + (cx & 3))) & np.uint64(1):
            return t, dt
        size = ONE / to_cell
        if word == np.uint64(0):
            cx, cy, cz = cx >> 2, cy >> 2, cz >> 2
            size = size * np.float32(4.0)
        leave = min(
            _leave(x, d[0], np.float32(cx), size, -half),
            _leave(y, d[1], np.float32(cy), size, -half),
            _leave(z, d[2], np.float32(cz), size, -half),
        )
        target = middle + leave
        t += dt
        if cone_angle == np.float32(0.0):  # the same sums, waiting for one addition a step instead of four operations
            half_step = dt * HALF
            while t + half_step < target and t < t_max and t + dt > t:
                t += dt
            continue
        dt = step_at(t, cone_angle, step, max_step)
        while t + dt * HALF < target and t < t_max and t + dt > t:
            t += dt
            dt = step_at(t, cone_angle, step, max_step)
    return t_max, np.float32(0.0)


@nb.njit(nogil=True, parallel=True, cache=True)
def march_count(rays_o, rays_d, t_min, t_max, jitter, bits, grid_size, options, limit, counts):
    """Number of samples of each ray, at most `limit`; options = (step, cone_angle, max_step)."""
    step, cone_angle, max_step = options
    for r in nb.prange(rays_o.shape[0]):
        o = (rays_o[r, 0], rays_o[r, 1], rays_o[r, 2])
        d = (rays_d[r, 0], rays_d[r, 1], rays_d[r, 2])
        t = t_min[r] + jitter[r] * step_at(t_min[r], cone_angle, step, max_step)
        n = 0
        while t < t_max[r] and n < limit:
            t, dt = next_sample(o, d, t, t_max[r], bits, grid_size, cone_angle, step, max_step)
            if dt > 0:
                n += 1
                t += dt
        counts[r] = n


@nb.njit(nogil=True, parallel=True, cache=True)
def march_write(
    rays_o, rays_d, t_min, t_max, jitter, bits, grid_size, options, packed_info, t_starts, t_ends, ray_indices
):
    """Write the samples counted by `march_count`; `packed_info` [R, 2] says where."""
    step, cone_angle, max_step = options
    for r in nb.prange(rays_o.shape[0]):
        o = (rays_o[r, 0], rays_o[r, 1], rays_o[r, 2])
        d = (rays_d[r, 0], rays_d[r, 1], rays_d[r, 2])
        t = t_min[r] + jitter[r] * step_at(t_min[r], cone_angle, step, max_step)
        at = packed_info[r, 0]
        for i in range(at, at + packed_info[r, 1]):
            t, dt = next_sample(o, d, t, t_max[r], bits, grid_size, cone_angle, step, max_step)
            t_starts[i] = t
            t += dt
            t_ends[i] = t
            ray_indices[i] = r


@nb.njit(nogil=True, parallel=True, cache=True)
def ray_box(rays_o, rays_d, box, t_near, t_far):
    """Slab test of rays against a box [6]; a miss gives t_near = inf, t_far = -inf."""
    for r in nb.prange(rays_o.shape[0]):
        near, far = np.float32(0.0), np.float32(np.inf)
        for k in range(3):
            o, d = rays_o[r, k], rays_d[r, k]
            if d == 0:
                if o < box[k] or o > box[3 + k]:
                    near, far = np.float32(np.inf), np.float32(-np.inf)
            else:
                a, b = (box[k] - o) / d, (box[3 + k] - o) / d
                near, far = max(near, min(a, b)), min(far, max(a, b))
        if near > far:
            near, far = np.float32(np.inf), np.float32(-np.inf)
        t_near[r] = near
        t_far[r] = far
