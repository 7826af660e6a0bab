"""Bounding volume hierarchy over triangles: build once, then find what a ray hits first."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

LEAF_SIZE = 4
N_BINS = 12
STACK_SIZE = 64


class Bvh(NamedTuple):
    """Flat tree; a NamedTuple because compiled code takes it as an argument.

    Attributes:
        bounds: [N,6] float32, box minimum then maximum of every node.
        child: [N] int32, first of two neighbouring children, or first triangle of a leaf.
        count: [N] int32, triangles of a leaf, 0 for inner nodes.
        corners: [T,9] float32, first corner and the two edges from it, in tree order.
        order: [T] int32, original number of each triangle in tree order.
    """

    bounds: np.ndarray
    child: np.ndarray
    count: np.ndarray
    corners: np.ndarray
    order: np.ndarray


def build_bvh(triangles: np.ndarray) -> Bvh:
    """Build the tree of `triangles` [T,3,3] with the binned surface area heuristic."""
    low = triangles.min(axis=1)
    high = triangles.max(axis=1)
    bounds, child, count, order = _build(low.astype(np.float64), high.astype(np.float64))
    first = triangles[order, 0]
    corners = np.concatenate([first, triangles[order, 1] - first, triangles[order, 2] - first], axis=1)
    return Bvh(bounds, child, count, np.ascontiguousarray(corners, dtype=np.float32), order)


@njit(cache=True)
def _box_of(low: np.ndarray, high: np.ndarray, order: np.ndarray, begin: int, end: int, box: np.ndarray) -> None:
    for a in range(3):
        box[a], box[a + 3] = np.inf, -np.inf
    for i in range(begin, end):
        for a in range(3):
            box[a] = min(box[a], low[order[i], a])
            box[a + 3] = max(box[a + 3], high[order[i], a])


@njit(cache=True)
def _half_area(box: np.ndarray) -> float:
    x, y, z = box[3] - box[0], box[4] - box[1], box[5] - box[2]
    return x * y + y * z + z * x if x >= 0 else 0.0


@njit(cache=True)
def _best_split(
    low: np.ndarray, high: np.ndarray, order: np.ndarray, begin: int, end: int
) -> tuple[float, int, float, float]:
    """Cheapest (cost, axis, lower centre, bins per unit x 1000 + bin) over all axes; cost inf when none splits."""
    best_cost, best_axis, best_origin, best_plane = np.inf, 0, 0.0, 0.0
    boxes = np.empty((N_BINS, 6))
    counts = np.empty(N_BINS, np.int64)
    right_cost = np.empty(N_BINS)
    box = np.empty(6)
    for axis in range(3):
        least, most = np.inf, -np.inf
        for i in range(begin, end):
            centre = low[order[i], axis] + high[order[i], axis]
            least, most = min(least, centre), max(most, centre)
        if most - least < 1e-9:
            continue
        counts[:] = 0
        boxes[:, :3], boxes[:, 3:] = np.inf, -np.inf
        for i in range(begin, end):
            t = order[i]
            b = min(int((low[t, axis] + high[t, axis] - least) / (most - least) * N_BINS), N_BINS - 1)
            counts[b] += 1
            for a in range(3):
                boxes[b, a] = min(boxes[b, a], low[t, a])
                boxes[b, a + 3] = max(boxes[b, a + 3], high[t, a])
        box[:3], box[3:] = np.inf, -np.inf
        n = 0
        for b in range(N_BINS - 1, 0, -1):
            box[:3], box[3:] = np.minimum(box[:3], boxes[b, :3]), np.maximum(box[3:], boxes[b, 3:])
            n += counts[b]
            right_cost[b] = n * _half_area(box)
        box[:3], box[3:] = np.inf, -np.inf
        n = 0
        for b in range(N_BINS - 1):
            box[:3], box[3:] = np.minimum(box[:3], boxes[b, :3]), np.maximum(box[3:], boxes[b, 3:])
            n += counts[b]
            cost = n * _half_area(box) + right_cost[b + 1]
            if 0 < n < end - begin and cost < best_cost:
                best_cost, best_axis, best_origin = cost, axis, least
                best_plane = least + (most - least) * (b + 1) / N_BINS
    return best_cost, best_axis, best_origin, best_plane


@njit(cache=True)
def _build(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    n = len(low)
    order = np.arange(n).astype(np.int32)
    bounds = np.empty((2 * n, 6), np.float32)
    child = np.zeros(2 * n, np.int32)
    count = np.zeros(2 * n, np.int32)
    ranges = np.empty((2 * n, 2), np.int64)
    ranges[0, 0], ranges[0, 1] = 0, n
    n_nodes, node = 1, 0
    box = np.empty(6)
    while node < n_nodes:
        begin, end = ranges[node]
        _box_of(low, high, order, begin, end, box)
        # float32 rounding must never cut a triangle off.
        bounds[node, :3], bounds[node, 3:] = box[:3] - 1e-6, box[3:] + 1e-6
        cost, axis, _, plane = _best_split(low, high, order, begin, end)
        if end - begin <= LEAF_SIZE or not np.isfinite(cost):
            child[node], count[node] = begin, end - begin
        else:
            i, j = begin, end - 1
            while i <= j:
                if low[order[i], axis] + high[order[i], axis] < plane:
                    i += 1
                else:
                    order[i], order[j] = order[j], order[i]
                    j -= 1
            if i == begin or i == end:
                i = (begin + end) // 2
            child[node] = n_nodes
            ranges[n_nodes, 0], ranges[n_nodes, 1] = begin, i
            ranges[n_nodes + 1, 0], ranges[n_nodes + 1, 1] = i, end
            n_nodes += 2
        node += 1
    return bounds[:n_nodes].copy(), child[:n_nodes].copy(), count[:n_nodes].copy(), order


@njit(cache=True, fastmath=True, inline="always")
def _enter(bounds, node, ox, oy, oz, ix, iy, iz, t_max):
    x0, x1 = (bounds[node, 0] - ox) * ix, (bounds[node, 3] - ox) * ix
    y0, y1 = (bounds[node, 1] - oy) * iy, (bounds[node, 4] - oy) * iy
    z0, z1 = (bounds[node, 2] - oz) * iz, (bounds[node, 5] - oz) * iz
    near = max(max(min(x0, x1), min(y0, y1)), max(min(z0, z1), 0.0))
    far = min(min(max(x0, x1), max(y0, y1)), min(max(z0, z1), t_max))
    return near if near <= far else 1e30


@njit(cache=True, fastmath=True, inline="always")
def _safe_inverse(x):
    return 1.0 / x if abs(x) > 1e-12 else 1e12


@njit(cache=True, fastmath=True)
def hit(bvh, stack, ox, oy, oz, dx, dy, dz, t_max, any_hit):
    """First triangle on the ray: (tree position or -1, distance, barycentric a, b); with `any_hit` any one."""
    bounds, child, count, corners = bvh.bounds, bvh.child, bvh.count, bvh.corners
    ix, iy, iz = _safe_inverse(dx), _safe_inverse(dy), _safe_inverse(dz)
    found, hit_a, hit_b = -1, 0.0, 0.0
    depth, node = 0, 0
    while True:
        n = count[node]
        if n > 0:
            for t in range(child[node], child[node] + n):
                ax, ay, az = float(corners[t, 3]), float(corners[t, 4]), float(corners[t, 5])
                bx, by, bz = float(corners[t, 6]), float(corners[t, 7]), float(corners[t, 8])
                px, py, pz = dy * bz - dz * by, dz * bx - dx * bz, dx * by - dy * bx
                det = ax * px + ay * py + az * pz
                if abs(det) < 1e-14:
                    continue
                inverse = 1.0 / det
                sx, sy, sz = ox - corners[t, 0], oy - corners[t, 1], oz - corners[t, 2]
                a = (sx * px + sy * py + sz * pz) * inverse
                if a < 0.0 or a > 1.0:
                    continue
                qx, qy, qz = sy * az - sz * ay, sz * ax - sx * az, sx * ay - sy * ax
                b = (dx * qx + dy * qy + dz * qz) * inverse
                if b < 0.0 or a + b > 1.0:
                    continue
                distance = (bx * qx + by * qy + bz * qz) * inverse
                if 1e-7 < distance < t_max:
                    t_max, found, hit_a, hit_b = distance, t, a, b
                    if any_hit:
                        return found, t_max, hit_a, hit_b
        else:
            left = child[node]
            near_left = _enter(bounds, left, ox, oy, oz, ix, iy, iz, t_max)
            near_right = _enter(bounds, left + 1, ox, oy, oz, ix, iy, iz, t_max)
            if near_left < 1e30 or near_right < 1e30:
                if near_left <= near_right:
                    if near_right < 1e30:
                        stack[depth] = left + 1
                        depth += 1
                    node = left
                else:
                    if near_left < 1e30:
                        stack[depth] = left
                        depth += 1
                    node = left + 1
                continue
        if depth == 0:
            return found, t_max, hit_a, hit_b
        depth -= 1
        node = stack[depth]
