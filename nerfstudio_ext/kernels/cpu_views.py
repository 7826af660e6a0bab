"""What source views show at a tile of points, on the CPU: projection, corners, direction differences, hidden layer.

A tile is 16 points in all V views: row `v * 16 + i` belongs to point i in view v.
"""

from __future__ import annotations

from typing import NamedTuple

import numba as nb
import numpy as np
from torch import Tensor

from .cpu_gemm import gemm, gemm_add
from .cpu_net import mask_relu
from .cpu_simd import LANES
from .cpu_view_look import CAMERA, FLOATS, INTS, POINTS, SEEN, blend_color, blend_lanes, look_lanes, scatter_lanes
from .views import FirstLayer, SourceViews

ZERO, ONE = np.float32(0.0), np.float32(1.0)


class Sources(NamedTuple):
    """`SourceViews` and the first layer as the kernels take them.

    `pixels` have four floats each; `cameras` is [V, 19]; `front` is [4, C]: the colour weights, then the bias.
    """

    pixels: np.ndarray
    maps: np.ndarray
    cameras: np.ndarray
    front: np.ndarray


class Tile(NamedTuple):
    """Scratch of one thread for V views.

    Attributes:
        points: [6 * 16] positions and targets.
        sizes: [7] see `look_lanes`.
        floats: [V * FLOATS * 16] shares of the corners and direction differences.
        ints: [V * INTS * 16] first elements of the corners, and whether the view sees the point.
        colors: [rows * 4] bilinear colour, then 1.
        hidden: [rows * C] the hidden layer.
    """

    points: np.ndarray
    sizes: np.ndarray
    floats: np.ndarray
    ints: np.ndarray
    colors: np.ndarray
    hidden: np.ndarray


@nb.njit(nogil=True)
def make_tile(n_views, n_hidden):
    """Scratch for tiles."""
    return Tile(
        np.zeros(6 * POINTS, np.float32),
        np.zeros(7, np.int32),
        np.ones(n_views * FLOATS * POINTS, np.float32),
        np.zeros(n_views * INTS * POINTS, np.int32),
        np.zeros(n_views * POINTS * 4, np.float32),
        np.zeros(n_views * POINTS * n_hidden, np.float32),
    )


def pack_sources(views: SourceViews, maps: Tensor, first: FirstLayer) -> Sources:
    """The views with their maps as contiguous arrays."""
    cameras = np.concatenate(
        [t.detach().reshape(len(views), -1).numpy() for t in (views.projections, views.centres, views.extents)], 1
    )
    front = np.concatenate([first.color.detach().numpy(), first.bias.detach().numpy()[None]])
    pixels = np.zeros((*views.pixels.shape[:3], 4), np.float32)
    pixels[..., :3] = views.pixels.detach().numpy()
    return Sources(
        pixels, maps.detach().contiguous().numpy(), np.ascontiguousarray(cameras), np.ascontiguousarray(front)
    )


@nb.njit(nogil=True)
def look_at_tile(sources, x, target, samples, start, count, tile):
    """Fill everything in `tile` but the hidden layer, for points start .. start + count; the rest repeats the last."""
    pixels, maps = sources.pixels, sources.maps
    cameras, flat = sources.cameras.reshape(-1), pixels.reshape(-1)
    for i in range(POINTS):
        p = start + min(i, count - 1)
        for k in range(3):
            tile.points[k * POINTS + i] = x[p, k]
            tile.points[(3 + k) * POINTS + i] = target[p // samples, k]
    for v in range(maps.shape[0]):
        tile.sizes[0], tile.sizes[1] = pixels.shape[2], v * pixels.shape[1] * pixels.shape[2]
        tile.sizes[2], tile.sizes[3] = maps.shape[2], v * maps.shape[1] * maps.shape[2]
        tile.sizes[4], tile.sizes[5], tile.sizes[6] = maps.shape[3], pixels.shape[1], maps.shape[1]
        float_at, int_at = v * FLOATS * POINTS, v * INTS * POINTS
        look_lanes(tile.points, cameras, v * CAMERA, tile.floats, float_at, tile.ints, int_at, tile.sizes)
        for i in range(POINTS):
            blend_color(
                tile.colors, 4 * (v * POINTS + i), flat, tile.ints, int_at + 4 * POINTS + i, tile.floats,
                float_at + 4 * POINTS + i,
            )  # fmt: skip


@nb.njit(nogil=True, inline="always")
def is_seen(tile, row):
    """Whether the view of a row sees its point."""
    return tile.ints[(row // POINTS * INTS + SEEN) * POINTS + row % POINTS] != 0


@nb.njit(nogil=True)
def hide_tile(sources, tile):
    """The hidden layer of a tile that `look_at_tile` has filled."""
    channels = sources.maps.shape[3]
    n_views = sources.maps.shape[0]
    gemm(tile.colors, 0, 4, 1, sources.front.reshape(-1), 0, channels, tile.hidden, 0, channels, n_views * POINTS,
         channels, 4)  # fmt: skip
    maps = sources.maps.reshape(-1)
    for row in range(n_views * POINTS):
        v, i = row // POINTS, row % POINTS
        for c in range(0, channels, LANES):
            blend_lanes(tile.hidden, row * channels + c, maps, tile.ints, v * INTS * POINTS + i, tile.floats,
                        v * FLOATS * POINTS + i, c)  # fmt: skip


@nb.njit(nogil=True)
def scatter_tile(sources, tile, d_hidden, d_front, d_maps):
    """Gradients of the first layer and of the maps from those of the hidden layer, which are masked here."""
    channels = sources.maps.shape[3]
    rows = sources.maps.shape[0] * POINTS
    mask_relu(d_hidden, 0, tile.hidden, 0, rows * channels)
    gemm_add(tile.colors, 0, 1, 4, d_hidden, 0, channels, d_front, 0, channels, 4, channels, rows)
    for row in range(rows):
        v, i = row // POINTS, row % POINTS
        at, total = v * FLOATS * POINTS + i, ZERO
        for k in range(4):
            total += tile.floats[at + k * POINTS]
        if total > ZERO:
            for c in range(0, channels, LANES):
                scatter_lanes(
                    d_hidden, row * channels + c, d_maps, tile.ints, v * INTS * POINTS + i, tile.floats, at, c
                )
