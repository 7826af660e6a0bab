"""Kernels of `view_attention` on the CPU, forward and backward, one tile of points through everything at a time.

Backward computes the tile again instead of keeping anything of the size points x views.
"""

from __future__ import annotations

from typing import NamedTuple

import numba as nb
import numpy as np

from .cpu_gemm import gemm, gemm_add, gemm_relu
from .cpu_net import mask_relu
from .cpu_simd import LANES, mask_lanes
from .cpu_softmax import attend_backward_lanes, attend_lanes, softmax_lanes
from .cpu_view_look import FLOATS, PLACE, POINTS, ask_lanes
from .cpu_views import hide_tile, is_seen, look_at_tile, make_tile, scatter_tile
from .views import AttentionWeights

CHUNK = 64
"""Tiles per piece of work in the forward pass."""
MASKED = np.float32(-1e9)
ZERO = np.float32(0.0)


class Packed(NamedTuple):
    """`AttentionWeights` as the kernels take them: key and value side by side, columns padded to whole vectors.

    With K and B padded sizes of the two bottlenecks and M = K + D: `mixed` [C, M]; `places` [b + 1, M], its last row
    the bias, which multiplies a constant 1 that `place` [5, B] makes in its column b; `logit` [a, D]; then the
    transposes of `mixed`, `places` and `logit` with columns padded.
    """

    mixed: np.ndarray
    places: np.ndarray
    place: np.ndarray
    logit: np.ndarray
    mixed_turned: np.ndarray
    places_turned: np.ndarray
    logit_turned: np.ndarray


class Room(NamedTuple):
    """Scratch of one thread beside its `Tile`: rows of bottleneck and value, of the direction bottleneck, of logits.

    The rest is for the way back.
    """

    mixed: np.ndarray
    places: np.ndarray
    logits: np.ndarray
    d_hidden: np.ndarray
    d_places: np.ndarray
    bottleneck: np.ndarray
    slope: np.ndarray


def padded(n: int) -> int:
    """n rounded up to whole vectors."""
    return -(-n // LANES) * LANES


def pack_weights(weights: AttentionWeights) -> Packed:
    """Put matrices side by side and pad them."""
    w = {name: tensor.detach().numpy() for name, tensor in weights.tensors().items()}
    n_key, n_value, n_place = w["logit"].shape[0], w["logit"].shape[1], w["place"].shape[1]
    keys, columns = padded(n_key), padded(n_place + 1)
    mixed = np.zeros((len(w["key"]), keys + n_value), np.float32)
    mixed[:, :n_key], mixed[:, keys:] = w["key"], w["value"]
    places = np.zeros((n_place + 1, keys + n_value), np.float32)
    places[:n_place, :n_key], places[:n_place, keys:] = w["place_key"], w["place_value"]
    places[n_place, :n_key], places[n_place, keys:] = w["key_bias"], w["value_bias"]
    place = np.zeros((5, columns), np.float32)
    place[:4, :n_place], place[4, :n_place], place[4, n_place] = w["place"], w["place_bias"], 1
    return Packed(
        mixed, places, place, np.ascontiguousarray(w["logit"]), _turned(mixed), _turned(places), _turned(w["logit"])
    )


def _turned(matrix: np.ndarray) -> np.ndarray:
    out = np.zeros((matrix.shape[1], padded(matrix.shape[0])), np.float32)
    out[:, : matrix.shape[0]] = matrix.T
    return out


@nb.njit(nogil=True)
def _make_room(n_views, n_hidden, w):
    rows, mixed, places, n_value = n_views * POINTS, w.mixed.shape[1], w.place.shape[1], w.logit.shape[1]
    return Room(
        np.empty(rows * mixed, np.float32),
        np.empty(rows * places, np.float32),
        np.empty(rows * n_value, np.float32),
        np.empty(rows * n_hidden, np.float32),
        np.empty(rows * places, np.float32),
        np.empty(rows * (mixed - n_value), np.float32),
        np.empty(n_value, np.float32),
    )


@nb.njit(nogil=True)
def _attend_tile(sources, w, query, start, count, tile, room):
    """Bottleneck, values and logits of a tile whose hidden layer is there; `query` has padded columns."""
    rows = sources.maps.shape[0] * POINTS
    mixed, places, n_value = w.mixed.shape[1], w.place.shape[1], w.logit.shape[1]
    keys, n_hidden, n_place = mixed - n_value, w.mixed.shape[0], w.places.shape[0]
    for v in range(sources.maps.shape[0]):
        gemm_relu(tile.floats, (v * FLOATS + PLACE) * POINTS, 1, POINTS, w.place.reshape(-1), 0, places, room.places,
                  v * POINTS * places, places, POINTS, places, 5)  # fmt: skip
    gemm(room.places, 0, places, 1, w.places.reshape(-1), 0, mixed, room.mixed, 0, mixed, rows, mixed, n_place)
    gemm_add(tile.hidden, 0, n_hidden, 1, w.mixed.reshape(-1), 0, mixed, room.mixed, 0, mixed, rows, mixed, n_hidden)
    queries = query.reshape(-1)
    for row in range(rows):
        p = start + min(row % POINTS, count - 1)
        for k in range(0, keys, LANES):
            ask_lanes(room.mixed, row * mixed + k, queries, p * keys + k)
    gemm(room.mixed, 0, mixed, 1, w.logit.reshape(-1), 0, n_value, room.logits, 0, n_value, rows, n_value,
         w.logit.shape[0])  # fmt: skip
    for row in range(rows):
        if not is_seen(tile, row):
            for k in range(row * n_value, row * n_value + n_value):
                room.logits[k] = MASKED


@nb.njit(nogil=True)
def _drop_tile(start, n_views, mixed, n_value, dropout, seed, values):
    """Scale the values of a tile by what `reference_views.kept` says."""
    low, scale = np.uint64(0xFFFFFFFF), np.float32(1 / (1 - dropout))
    border = np.uint64(np.int64(dropout * 4294967296.0))
    for row in range(n_views * POINTS):
        number = ((start + row % POINTS) * n_views + row // POINTS) * n_value
        for c in range(n_value):
            z = (np.uint64(number + c) * np.uint64(0x9E3779B1) + np.uint64(seed)) & low
            z = ((z ^ (z >> np.uint64(16))) * np.uint64(0x7FEB352D)) & low
            z = ((z ^ (z >> np.uint64(15))) * np.uint64(0x846CA68B)) & low
            z = z ^ (z >> np.uint64(16))
            values[row * mixed + mixed - n_value + c] *= scale if z >= border else ZERO


@nb.njit(nogil=True)
def _forward_chunk(sources, w, x, target, samples, query, dropout, seed, out, chunk):
    """The share of one chunk of tiles in `attention_kernel`."""
    n_points, n_views = x.shape[0], sources.maps.shape[0]
    mixed, n_value = w.mixed.shape[1], w.logit.shape[1]
    keys = mixed - n_value
    tiles = (n_points + POINTS - 1) // POINTS
    tile = make_tile(n_views, w.mixed.shape[0])
    room = _make_room(n_views, 0, w)
    for index in range(chunk * CHUNK, min(tiles, (chunk + 1) * CHUNK)):
        start = index * POINTS
        count = min(POINTS, n_points - start)
        look_at_tile(sources, x, target, samples, start, count, tile)
        hide_tile(sources, tile)
        _attend_tile(sources, w, query, start, count, tile, room)
        if dropout > 0:
            _drop_tile(start, n_views, mixed, n_value, dropout, seed, room.mixed)
        for i in range(count):
            for c in range(0, n_value, LANES):
                attend_lanes(room.logits, i * n_value + c, POINTS * n_value, room.mixed, i * mixed + keys + c,
                             POINTS * mixed, n_views, out, (start + i) * n_value + c)  # fmt: skip


@nb.njit(nogil=True, parallel=True, cache=True)
def attention_kernel(sources, w, x, target, samples, query, dropout, seed, out):
    """out [P * D] for points x [P, 3] and queries [P, padded A]."""
    tiles = (x.shape[0] + POINTS - 1) // POINTS
    for chunk in nb.prange((tiles + CHUNK - 1) // CHUNK):
        _forward_chunk(sources, w, x, target, samples, query, dropout, seed, out, chunk)


class Slopes(NamedTuple):
    """Gradients, one share per segment: of the packed weights [G, ...], of the first layer, of the maps."""

    mixed: np.ndarray
    places: np.ndarray
    place: np.ndarray
    logit: np.ndarray
    front: np.ndarray
    maps: np.ndarray


@nb.njit(nogil=True)
def _backward_tile(sources, w, tile, room, d, segment):
    """From slopes of logits and values (in `room.logits`, `room.mixed`) to all but the query's gradient."""
    rows, places = sources.maps.shape[0] * POINTS, w.place.shape[1]
    mixed, n_value = w.mixed.shape[1], w.logit.shape[1]
    keys, n_hidden = mixed - n_value, w.mixed.shape[0]
    gemm_add(room.bottleneck, 0, 1, keys, room.logits, 0, n_value, d.logit[segment], 0, n_value, w.logit.shape[0],
             n_value, rows)  # fmt: skip
    gemm(room.logits, 0, n_value, 1, w.logit_turned.reshape(-1), 0, keys, room.mixed, 0, mixed, rows, keys, n_value)
    for row in range(rows):
        for k in range(0, keys, LANES):
            mask_lanes(room.mixed, row * mixed + k, room.bottleneck, row * keys + k)
    gemm_add(tile.hidden, 0, 1, n_hidden, room.mixed, 0, mixed, d.mixed[segment], 0, mixed, n_hidden, mixed, rows)
    gemm_add(room.places, 0, 1, places, room.mixed, 0, mixed, d.places[segment], 0, mixed, w.places.shape[0], mixed,
             rows)  # fmt: skip
    gemm(room.mixed, 0, mixed, 1, w.mixed_turned.reshape(-1), 0, n_hidden, room.d_hidden, 0, n_hidden, rows, n_hidden,
         mixed)  # fmt: skip
    gemm(room.mixed, 0, mixed, 1, w.places_turned.reshape(-1), 0, places, room.d_places, 0, places, rows, places, mixed)
    mask_relu(room.d_places, 0, room.places, 0, rows * places)
    for v in range(sources.maps.shape[0]):
        gemm_add(tile.floats, (v * FLOATS + PLACE) * POINTS, POINTS, 1, room.d_places, v * POINTS * places, places,
                 d.place[segment], 0, places, 5, places, POINTS)  # fmt: skip


@nb.njit(nogil=True)
def _slopes_of_tile(w, tile, room, start, count, d_out, dropout, seed, n_views):
    """Slopes of the logits into `room.logits` and of the values into `room.mixed`; keeps the bottleneck."""
    mixed, n_value = w.mixed.shape[1], w.logit.shape[1]
    keys = mixed - n_value
    for row in range(n_views * POINTS):
        for k in range(keys):
            room.bottleneck[row * keys + k] = room.mixed[row * mixed + k]
    if dropout > 0:
        _drop_tile(start, n_views, mixed, n_value, dropout, seed, room.mixed)
    for i in range(POINTS):
        for c in range(n_value):
            room.slope[c] = d_out[start + i, c] if i < count else ZERO
        for c in range(0, n_value, LANES):
            at, v_at = i * n_value + c, i * mixed + keys + c
            softmax_lanes(room.logits, at, POINTS * n_value, n_views)
            attend_backward_lanes(room.logits, at, POINTS * n_value, room.mixed, v_at, POINTS * mixed, n_views,
                                  room.slope, c)  # fmt: skip
    if dropout > 0:
        _drop_tile(start, n_views, mixed, n_value, dropout, seed, room.mixed)
    for row in range(n_views * POINTS):
        if not is_seen(tile, row):
            for k in range(row * n_value, row * n_value + n_value):
                room.logits[k] = ZERO


@nb.njit(nogil=True)
def _backward_segment(sources, w, x, target, samples, query, dropout, seed, d_out, d_query, d, segment):
    """The share of one segment in `attention_backward_kernel`."""
    n_points, n_views, mixed = x.shape[0], sources.maps.shape[0], w.mixed.shape[1]
    tiles, n_segments = (n_points + POINTS - 1) // POINTS, d.maps.shape[0]
    tile = make_tile(n_views, w.mixed.shape[0])
    room = _make_room(n_views, w.mixed.shape[0], w)
    for index in range(tiles * segment // n_segments, tiles * (segment + 1) // n_segments):
        start = index * POINTS
        count = min(POINTS, n_points - start)
        look_at_tile(sources, x, target, samples, start, count, tile)
        hide_tile(sources, tile)
        _attend_tile(sources, w, query, start, count, tile, room)
        _slopes_of_tile(w, tile, room, start, count, d_out, dropout, seed, n_views)
        _backward_tile(sources, w, tile, room, d, segment)
        for i in range(count):
            for k in range(d_query.shape[1]):
                total = ZERO
                for v in range(n_views):
                    total += room.mixed[(v * POINTS + i) * mixed + k]
                d_query[start + i, k] = -total
        scatter_tile(sources, tile, room.d_hidden, d.front[segment], d.maps[segment])


@nb.njit(nogil=True, parallel=True, cache=True)
def attention_backward_kernel(sources, w, x, target, samples, query, dropout, seed, d_out, d_query, d):
    """Gradients of the queries into d_query [P, A] and of everything else into the segments of `d`."""
    for segment in nb.prange(d.maps.shape[0]):
        _backward_segment(sources, w, x, target, samples, query, dropout, seed, d_out, d_query, d, segment)
