"""Adding feature gradients to the hash table on the CPU: without atomics, since a level belongs to one thread."""

from __future__ import annotations

import numba as nb
import numpy as np

from .cpu_grid_simd import add_pair, make_corners
from .cpu_simd import LANES

ZERO = np.float32(0.0)
corners_dense = make_corners(True)
corners_hashed = make_corners(False)


def deal_levels(n_levels: int, threads: int) -> np.ndarray:
    """Levels in an order of which equal shares cost the same: fine levels miss the cache, coarse ones do not."""
    return np.array(sorted(range(n_levels), key=lambda level: (level % threads, level)), np.int64)


@nb.njit(nogil=True, parallel=True, cache=True)
def scatter_gradient(grid, order, positions, gradient, region_size, filled, table_gradient):
    """Add the feature gradients [2 L, S] to the table's, level by level in `order`; a level belongs to one thread.

    Sums in the same order whatever the number of threads. Each segment's columns are padded with zero gradients to
    whole vectors.
    """
    for slot in nb.prange(order.shape[0]):
        level = order[slot]
        scale, extent, at = grid.scales[level], grid.extents[level], grid.offsets[level]
        indices = np.empty(8 * LANES, np.int32)
        weights = np.empty(8 * LANES, np.float32)
        for segment in range(filled.shape[0]):
            start = segment * region_size
            for column in range(start, start + filled[segment], LANES):
                if grid.is_dense[level]:
                    corners_dense(positions, column, scale, extent, indices, weights)
                else:
                    corners_hashed(positions, column, scale, extent, indices, weights)
                for lane in range(LANES):
                    even, odd = gradient[2 * level, column + lane], gradient[2 * level + 1, column + lane]
                    if even != ZERO or odd != ZERO:
                        for c in range(8):
                            row = at + indices[c * LANES + lane]
                            add_pair(table_gradient, row, weights[c * LANES + lane], even, odd)
