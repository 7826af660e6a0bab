"""Any small perceptron on the CPU, forward and backward, one tile of rows through all layers at a time."""

from __future__ import annotations

from typing import Any

import numba as nb
import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .cpu_gemm import gemm, gemm_add, gemm_relu
from .cpu_net import mask_relu
from .cpu_simd import LANES

TILE = 48
"""Rows at a time: a multiple of the register tile; the activations of three layers of 64 stay in the first cache."""
SEGMENTS = 8
"""Shares of the rows whose weight gradients are summed apart, so that results do not depend on threads."""


def _padded(n: int) -> int:
    return -(-n // LANES) * LANES


def _pack(weights: tuple[Tensor, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All matrices and transposes with columns padded to vectors; row 0 of `at`: matrices, row 1: transposes."""
    widths = np.array([weights[0].shape[0], *(w.shape[1] for w in weights)], np.int64)
    blocks, at, size = [], np.zeros((2, len(weights)), np.int64), 0
    for row, turned in enumerate((False, True)):
        for i, weight in enumerate(weights):
            matrix = weight.detach().numpy().T if turned else weight.detach().numpy()
            block = np.zeros((matrix.shape[0], _padded(matrix.shape[1])), np.float32)
            block[:, : matrix.shape[1]] = matrix
            at[row, i], size = size, size + block.size
            blocks.append(block.ravel())
    return widths, np.concatenate(blocks), at


@nb.njit(nogil=True, inline="always")
def _wide(n):
    return (n + LANES - 1) // LANES * LANES


@nb.njit(nogil=True)
def _forward_tile(x, x_at, x_row, x_col, widths, weights, at, layers, n, n_layers):
    """Activations of the first layers into `layers` [D, TILE * widest]; the very last without ReLU."""
    depth = widths.shape[0] - 1
    flat = layers.reshape(-1)
    for i in range(n_layers):
        wide = _wide(widths[i + 1])
        source, s_at, s_row, s_col = flat, (i - 1) * layers.shape[1], _wide(widths[i]), 1
        out_at = i * layers.shape[1]
        if i == 0:
            if depth == 1:
                gemm(x, x_at, x_row, x_col, weights, at[0, 0], wide, flat, out_at, wide, n, wide, widths[0])
            else:
                gemm_relu(x, x_at, x_row, x_col, weights, at[0, 0], wide, flat, out_at, wide, n, wide, widths[0])
        elif i == depth - 1:
            gemm(source, s_at, s_row, s_col, weights, at[0, i], wide, flat, out_at, wide, n, wide, widths[i])
        else:
            gemm_relu(source, s_at, s_row, s_col, weights, at[0, i], wide, flat, out_at, wide, n, wide, widths[i])


@nb.njit(nogil=True, parallel=True, cache=True)
def forward_kernel(x, x_row, x_col, n_rows, widths, weights, at, out):
    """out [S, O] = the network at x, a flat array addressed by strides."""
    depth = widths.shape[0] - 1
    widest = _wide(widths.max())
    for segment in nb.prange(SEGMENTS):
        layers = np.empty((depth, TILE * widest), np.float32)
        n_out, wide = widths[depth], _wide(widths[depth])
        for start in range(n_rows * segment // SEGMENTS, n_rows * (segment + 1) // SEGMENTS, TILE):
            n = min(TILE, n_rows * (segment + 1) // SEGMENTS - start)
            _forward_tile(x, start * x_row, x_row, x_col, widths, weights, at, layers, n, depth)
            for j in range(n):
                for k in range(n_out):
                    out[start + j, k] = layers[depth - 1, j * wide + k]


@nb.njit(nogil=True, parallel=True, cache=True)
def backward_kernel(x, x_row, x_col, n_rows, widths, weights, at, d_out, d_x, d_weights):
    """Gradients of the inputs into d_x [S, I] and of the packed weights into d_weights [SEGMENTS, W]."""
    depth = widths.shape[0] - 1
    widest = _wide(widths.max())
    for segment in nb.prange(SEGMENTS):
        layers = np.empty((depth, TILE * widest), np.float32)
        slopes = np.empty((2, TILE * widest), np.float32)
        flat, slope = layers.reshape(-1), slopes.reshape(-1)
        dw = d_weights[segment]
        for start in range(n_rows * segment // SEGMENTS, n_rows * (segment + 1) // SEGMENTS, TILE):
            n = min(TILE, n_rows * (segment + 1) // SEGMENTS - start)
            _forward_tile(x, start * x_row, x_row, x_col, widths, weights, at, layers, n, depth - 1)
            wide = _wide(widths[depth])
            here = 0
            for j in range(n):
                for k in range(widths[depth]):
                    slopes[0, j * wide + k] = d_out[start + j, k]
                for k in range(widths[depth], wide):
                    slopes[0, j * wide + k] = np.float32(0.0)
            for i in range(depth - 1, -1, -1):
                wide, narrow = _wide(widths[i + 1]), _wide(widths[i])
                g_at, next_at = here * slopes.shape[1], (1 - here) * slopes.shape[1]
                if i > 0:
                    gemm_add(
                        flat, (i - 1) * layers.shape[1], 1, narrow, slope, g_at, wide, dw, at[0, i], wide, widths[i],
                        wide, n,
                    )  # fmt: skip
                else:
                    gemm_add(x, start * x_row, x_col, x_row, slope, g_at, wide, dw, at[0, 0], wide, widths[0], wide, n)
                gemm(slope, g_at, wide, 1, weights, at[1, i], narrow, slope, next_at, narrow, n, narrow, widths[i + 1])
                if i > 0:
                    mask_relu(slope, next_at, flat, (i - 1) * layers.shape[1], n * narrow)
                here = 1 - here
            narrow = _wide(widths[0])
            for j in range(n):
                for k in range(widths[0]):
                    d_x[start + j, k] = slopes[here, j * narrow + k]


def _strided(x: Tensor) -> tuple[np.ndarray, int, int]:
    """A flat view that reaches all of x, and its strides; transposed tensors need no copy."""
    x = x.detach()
    if x.stride(0) < 0 or min(x.stride()) == 0:
        x = x.contiguous()
    reach = sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True)) + 1 if x.numel() else 0
    return x.as_strided((reach,), (1,), x.storage_offset()).numpy(), x.stride(0), x.stride(1)


class Perceptron(torch.autograd.Function):
    """`kernels.mlp` on the CPU; backward computes the hidden layers again instead of keeping them."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *weights: Tensor) -> Tensor:
        ctx.save_for_backward(x, *weights)
        widths, packed, at = _pack(weights)
        out = np.empty((x.shape[0], weights[-1].shape[1]), np.float32)
        flat, row, col = _strided(x)
        forward_kernel(flat, row, col, x.shape[0], widths, packed, at, out)
        return torch.from_numpy(out)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *d_out: Tensor) -> tuple[Tensor, ...]:
        x, *weights = ctx.saved_tensors
        widths, packed, at = _pack(tuple(weights))
        d_x = np.empty(tuple(x.shape), np.float32)
        d_packed = np.zeros((SEGMENTS, packed.size), np.float32)
        flat, row, col = _strided(x)
        slopes = d_out[0].detach().contiguous().numpy()
        backward_kernel(flat, row, col, x.shape[0], widths, packed, at, slopes, d_x, d_packed)
        total, gradients = d_packed.sum(0), []
        for start, weight in zip(at[0], weights, strict=True):
            n_in, n_out = weight.shape
            block = total[start : start + n_in * _padded(n_out)].reshape(n_in, _padded(n_out))
            gradients.append(torch.from_numpy(np.ascontiguousarray(block[:, :n_out])))
        return torch.from_numpy(d_x), *gradients
