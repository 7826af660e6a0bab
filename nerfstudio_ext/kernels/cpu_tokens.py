"""The feed-forward part of a transformer block on the CPU, one tile of tokens at a time; contract in `tokens`."""

from __future__ import annotations

import math

import numba as nb
import numpy as np
import torch
from torch import Tensor

from .cpu_gemm import gemm_add, gemm_relu
from .cpu_simd import LANES

TILE = 96
"""Tokens at a time, a multiple of the register tile: with four times the width hidden they stay in the second cache."""
CHUNK = 16
"""Tiles per piece of work."""


@nb.njit(nogil=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"})
def _norm_row(x, at, width, gain, offset, eps, out, out_at):
    total = np.float32(0.0)
    for k in range(width):
        total += x[at + k]
    mean = total / np.float32(width)
    spread = np.float32(0.0)
    for k in range(width):
        difference = x[at + k] - mean
        spread += difference * difference
    over = np.float32(1.0) / np.float32(math.sqrt(spread / np.float32(width) + eps))
    for k in range(width):
        out[out_at + k] = (x[at + k] - mean) * over * gain[k] + offset[k]


@nb.njit(nogil=True)
def _chunk(x, gain, offset, eps, first, second, bias, out, chunk):
    """The share of one chunk of tiles; `first` holds the bias of the first layer as its last row."""
    n, width = x.shape
    hidden_width, stride = first.shape[1], width + LANES
    flat, out_flat = x.reshape(-1), out.reshape(-1)
    normed, hidden = np.zeros(TILE * stride, np.float32), np.empty(TILE * hidden_width, np.float32)
    for i in range(TILE):
        normed[i * stride + width] = np.float32(1.0)
    for start in range(chunk * CHUNK * TILE, min(n, (chunk + 1) * CHUNK * TILE), TILE):
        rows = min(TILE, n - start)
        for i in range(rows):
            at = (start + i) * width
            _norm_row(flat, at, width, gain, offset, eps, normed, i * stride)
            for k in range(width):
                out_flat[at + k] = flat[at + k] + bias[k]
        gemm_relu(normed, 0, stride, 1, first.reshape(-1), 0, hidden_width, hidden, 0, hidden_width, rows, hidden_width,
                  width + 1)  # fmt: skip
        gemm_add(hidden, 0, hidden_width, 1, second.reshape(-1), 0, width, out_flat, start * width, width, rows, width,
                 hidden_width)  # fmt: skip


@nb.njit(nogil=True, parallel=True, cache=True)
def feed_forward_kernel(x, gain, offset, eps, first, second, bias, out):
    """out [P, D] for tokens x [P, D]."""
    for chunk in nb.prange((x.shape[0] + CHUNK * TILE - 1) // (CHUNK * TILE)):
        _chunk(x, gain, offset, eps, first, second, bias, out, chunk)


def feed_forward(
    x: Tensor, gain: Tensor, offset: Tensor, first: Tensor, first_bias: Tensor, second: Tensor, second_bias: Tensor,
    eps: float,
) -> Tensor:  # fmt: skip
    """See `kernels.feed_forward`."""
    if x.shape[1] % LANES or first.shape[1] % LANES:
        raise ValueError(f"widths must be multiples of {LANES}, got {x.shape[1]} and {first.shape[1]}")
    joined = torch.cat([first.detach(), first_bias.detach()[None]])
    arrays = [t.detach().contiguous().numpy() for t in (x, gain, offset, joined, second, second_bias)]
    tokens, gains, offsets, firsts, seconds, biases = arrays
    out = np.empty_like(tokens)
    feed_forward_kernel(tokens, gains, offsets, np.float32(eps), firsts, seconds, biases, out)
    return torch.from_numpy(out)
