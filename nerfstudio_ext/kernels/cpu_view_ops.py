"""The operations on source views for autograd, over the kernels of the CPU; contracts in `views`."""

from __future__ import annotations

from typing import Any

import numba as nb
import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .cpu_gemm import gemm, gemm_add
from .cpu_simd import LANES
from .cpu_view_attention import Slopes, attention_backward_kernel, attention_kernel, pack_weights, padded
from .cpu_view_look import POINTS
from .cpu_views import hide_tile, look_at_tile, make_tile, pack_sources, scatter_tile
from .views import AttentionWeights, FirstLayer, SourceViews

CHUNK = 64
"""Tiles per piece of work in the forward pass."""
SEGMENTS = 8
"""Shares of the points whose gradients are summed apart, so that results do not depend on threads."""
GRADIENT_ROOM = 1 << 26
"""Floats that the shares of the maps' gradients may take together (256 MB); there are fewer shares of larger maps."""


@nb.njit(nogil=True)
def _maximum_chunk(sources, weight, x, out, chunk):
    """The share of one chunk of tiles in `maximum_kernel`."""
    n_points, n_views = x.shape[0], sources.maps.shape[0]
    n_hidden, n_value = weight.shape
    tiles = (n_points + POINTS - 1) // POINTS
    tile = make_tile(n_views, n_hidden)
    values = np.empty(n_views * POINTS * n_value, np.float32)
    for index in range(chunk * CHUNK, min(tiles, (chunk + 1) * CHUNK)):
        start = index * POINTS
        count = min(POINTS, n_points - start)
        look_at_tile(sources, x, x, 1, start, count, tile)
        hide_tile(sources, tile)
        gemm(tile.hidden, 0, n_hidden, 1, weight.reshape(-1), 0, n_value, values, 0, n_value, n_views * POINTS,
             n_value, n_hidden)  # fmt: skip
        for i in range(count):
            for c in range(n_value):
                best = values[i * n_value + c]
                for v in range(1, n_views):
                    best = max(best, values[(v * POINTS + i) * n_value + c])
                out[start + i, c] = best


@nb.njit(nogil=True, parallel=True, cache=True)
def maximum_kernel(sources, weight, x, out):
    """out [P, D] for points x [P, 3]."""
    tiles = (x.shape[0] + POINTS - 1) // POINTS
    for chunk in nb.prange((tiles + CHUNK - 1) // CHUNK):
        _maximum_chunk(sources, weight, x, out, chunk)


@nb.njit(nogil=True)
def _choose_largest(values, n_views, n_value, count, d_out, start, slopes):
    """The gradient of each maximum goes to the first view that has it."""
    slopes[:] = np.float32(0.0)
    for i in range(count):
        for c in range(n_value):
            best = 0
            for v in range(1, n_views):
                if values[(v * POINTS + i) * n_value + c] > values[(best * POINTS + i) * n_value + c]:
                    best = v
            slopes[(best * POINTS + i) * n_value + c] = d_out[start + i, c]


@nb.njit(nogil=True)
def _maximum_backward_segment(sources, weight, turned, x, d_out, d_weight, d_front, d_maps, segment):
    """The share of one segment in `maximum_backward_kernel`."""
    n_points, n_views = x.shape[0], sources.maps.shape[0]
    n_hidden, n_value = weight.shape
    tiles, n_segments = (n_points + POINTS - 1) // POINTS, d_maps.shape[0]
    rows = n_views * POINTS
    tile = make_tile(n_views, n_hidden)
    values = np.empty(rows * n_value, np.float32)
    slopes = np.empty(rows * n_value, np.float32)
    d_hidden = np.empty(rows * n_hidden, np.float32)
    for index in range(tiles * segment // n_segments, tiles * (segment + 1) // n_segments):
        start = index * POINTS
        count = min(POINTS, n_points - start)
        look_at_tile(sources, x, x, 1, start, count, tile)
        hide_tile(sources, tile)
        gemm(tile.hidden, 0, n_hidden, 1, weight.reshape(-1), 0, n_value, values, 0, n_value, rows, n_value,
             n_hidden)  # fmt: skip
        _choose_largest(values, n_views, n_value, count, d_out, start, slopes)
        gemm_add(tile.hidden, 0, 1, n_hidden, slopes, 0, n_value, d_weight[segment], 0, n_value, n_hidden, n_value,
                 rows)  # fmt: skip
        gemm(slopes, 0, n_value, 1, turned.reshape(-1), 0, n_hidden, d_hidden, 0, n_hidden, rows, n_hidden, n_value)
        scatter_tile(sources, tile, d_hidden, d_front[segment], d_maps[segment])


@nb.njit(nogil=True, parallel=True, cache=True)
def maximum_backward_kernel(sources, weight, turned, x, d_out, d_weight, d_front, d_maps):
    """Gradients into segments: of the weight [G, C * D], the first layer [G, 4 C] and the maps [G, ...]."""
    for segment in nb.prange(d_maps.shape[0]):
        _maximum_backward_segment(sources, weight, turned, x, d_out, d_weight, d_front, d_maps, segment)


def view_maximum(x: Tensor, views: SourceViews, first: FirstLayer, weight: Tensor) -> Tensor:
    """See `kernels.view_maximum`."""
    _check_widths(views.maps.shape[3], weight.shape[1])
    return _Maximum.apply(x, views.maps, first.color, first.bias, weight, views)


def view_attention(
    x: Tensor, target: Tensor, query: Tensor, views: SourceViews, first: FirstLayer, weights: AttentionWeights,
    dropout: float, seed: int,
) -> Tensor:  # fmt: skip
    """See `kernels.view_attention`."""
    _check_widths(views.maps.shape[3], weights.logit.shape[1])
    inputs = (views.maps, first.color, first.bias, *weights.tensors().values())
    return _Attention.apply(x, target, query, (dropout, seed), views, *inputs)


def _check_widths(*widths: int) -> None:
    if any(width % LANES for width in widths):
        raise ValueError(f"widths must be multiples of {LANES}, got {', '.join(map(str, widths))}")


def _points(x: Tensor) -> np.ndarray:
    return np.ascontiguousarray(x.detach().reshape(-1, x.shape[-1]).numpy())


def _queries(query: Tensor) -> np.ndarray:
    """Queries [P, padded A]."""
    points = _points(query)
    out = np.zeros((len(points), padded(query.shape[2])), np.float32)
    out[:, : query.shape[2]] = points
    return out


def _segments(maps: np.ndarray) -> int:
    return int(min(SEGMENTS, max(1, GRADIENT_ROOM // max(maps.size, 1))))


def _to_tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))


class _Maximum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, maps: Tensor, color: Tensor, bias: Tensor, weight: Tensor, views: SourceViews
    ) -> Tensor:
        ctx.save_for_backward(x, maps, color, bias, weight)
        ctx.views = views
        sources = pack_sources(views, maps, FirstLayer(color, bias))
        out = np.empty((x.shape[0] * x.shape[1], weight.shape[1]), np.float32)
        maximum_kernel(sources, weight.detach().contiguous().numpy(), _points(x), out)
        return torch.from_numpy(out).view(*x.shape[:2], weight.shape[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *d_out: Tensor) -> tuple[Tensor | None, ...]:
        x, maps, color, bias, weight = ctx.saved_tensors
        sources = pack_sources(ctx.views, maps, FirstLayer(color, bias))
        matrix = weight.detach().contiguous().numpy()
        n = _segments(sources.maps)
        d_weight, d_front, d_maps = (
            np.zeros((n, size), np.float32) for size in (matrix.size, sources.front.size, sources.maps.size)
        )
        turned = np.ascontiguousarray(matrix.T)
        maximum_backward_kernel(sources, matrix, turned, _points(x), _points(d_out[0]), d_weight, d_front, d_maps)
        front = d_front.sum(0).reshape(sources.front.shape)
        return (
            None, _to_tensor(d_maps.sum(0).reshape(sources.maps.shape)), _to_tensor(front[:3]), _to_tensor(front[3]),
            _to_tensor(d_weight.sum(0).reshape(matrix.shape)), None,
        )  # fmt: skip


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, target: Tensor, query: Tensor, drop: tuple[float, int], views: SourceViews, *inputs: Tensor
    ) -> Tensor:
        ctx.save_for_backward(x, target, query, *inputs)
        ctx.drop, ctx.views = drop, views
        weights = AttentionWeights(*inputs[3:])
        sources = pack_sources(views, inputs[0], FirstLayer(*inputs[1:3]))
        out = np.empty(x.shape[0] * x.shape[1] * weights.logit.shape[1], np.float32)
        attention_kernel(
            sources, pack_weights(weights), _points(x), _points(target), x.shape[1], _queries(query), *drop, out
        )
        return torch.from_numpy(out).view(*x.shape[:2], weights.logit.shape[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *d_out: Tensor) -> tuple[Tensor | None, ...]:
        x, target, query, *inputs = ctx.saved_tensors
        weights = AttentionWeights(*inputs[3:])
        sources, packed = pack_sources(ctx.views, inputs[0], FirstLayer(*inputs[1:3])), pack_weights(weights)
        n = _segments(sources.maps)
        parts = (packed.mixed, packed.places, packed.place, packed.logit, sources.front, sources.maps)
        slopes = Slopes(*(np.zeros((n, part.size), np.float32) for part in parts))
        d_query = np.empty((x.shape[0] * x.shape[1], query.shape[2]), np.float32)
        attention_backward_kernel(
            sources, packed, _points(x), _points(target), x.shape[1], _queries(query), *ctx.drop, _points(d_out[0]),
            d_query, slopes,
        )  # fmt: skip
        total = [d.sum(0).reshape(part.shape) for d, part in zip(slopes, parts, strict=True)]
        gradients = [total[5], total[4][:3], total[4][3], *_unpacked(total, weights)]
        return None, None, torch.from_numpy(d_query).view(query.shape), None, None, *map(_to_tensor, gradients)


def _unpacked(total: list[np.ndarray], weights: AttentionWeights) -> list[np.ndarray]:
    """Gradients in the order of `AttentionWeights` from those of `Packed`."""
    mixed, places, place, logit = total[:4]
    n_key, n_value = weights.logit.shape
    n_place, keys = weights.place.shape[1], mixed.shape[1] - n_value
    return [
        mixed[:, :n_key], places[n_place, :n_key], mixed[:, keys:], places[n_place, keys:], place[:4, :n_place],
        place[4, :n_place], places[:n_place, :n_key], places[:n_place, keys:], logit,
    ]  # fmt: skip
