"""Compositing along packed samples on the CPU, with gradients, and the harmonics of directions."""

from __future__ import annotations

from typing import Any

import numba as nb
import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..rays import Samples
from .cpu_net import harmonics

HALF = np.float32(0.5)


@nb.njit(nogil=True, parallel=True, cache=True)
def weights_forward(sigmas, t_starts, t_ends, packed_info, weights):
    """Weights of all samples."""
    for r in nb.prange(packed_info.shape[0]):
        depth = 0.0
        for i in range(packed_info[r, 0], packed_info[r, 0] + packed_info[r, 1]):
            own = sigmas[i] * (t_ends[i] - t_starts[i])
            weights[i] = -np.expm1(-own) * np.exp(-depth)
            depth += own


@nb.njit(nogil=True, parallel=True, cache=True)
def weights_backward(sigmas, t_starts, t_ends, packed_info, weights, d_weights, d_sigmas):
    """d sigma_i = dt_i (T_{i+1} g_i - sum_{j > i} w_j g_j)."""
    for r in nb.prange(packed_info.shape[0]):
        first, last = packed_info[r, 0], packed_info[r, 0] + packed_info[r, 1]
        depth = 0.0
        for i in range(first, last):
            depth += sigmas[i] * (t_ends[i] - t_starts[i])
            d_sigmas[i] = np.exp(-depth)  # kept here for the way back: an overflown depth cannot be taken back
        behind = 0.0
        for i in range(last - 1, first - 1, -1):
            d_sigmas[i] = (t_ends[i] - t_starts[i]) * (d_sigmas[i] * d_weights[i] - behind)
            behind += weights[i] * d_weights[i]


@nb.njit(nogil=True, parallel=True, cache=True)
def sum_forward(weights, values, packed_info, out):
    """out [R, K] = sum of weights times values [S, K] on each ray."""
    for r in nb.prange(packed_info.shape[0]):
        for i in range(packed_info[r, 0], packed_info[r, 0] + packed_info[r, 1]):
            for k in range(values.shape[1]):
                out[r, k] += weights[i] * values[i, k]


@nb.njit(nogil=True, parallel=True, cache=True)
def sum_backward(weights, values, packed_info, d_out, d_weights, d_values):
    """Gradients of `sum_forward`."""
    for r in nb.prange(packed_info.shape[0]):
        for i in range(packed_info[r, 0], packed_info[r, 0] + packed_info[r, 1]):
            total = np.float32(0.0)
            for k in range(values.shape[1]):
                total += d_out[r, k] * values[i, k]
                d_values[i, k] = d_out[r, k] * weights[i]
            d_weights[i] = total


@nb.njit(nogil=True, parallel=True, cache=True)
def distortion_forward(weights, t_starts, t_ends, packed_info, out, slopes):
    """Distortion of each ray and its derivative in every weight."""
    for r in nb.prange(packed_info.shape[0]):
        first, last = packed_info[r, 0], packed_info[r, 0] + packed_info[r, 1]
        w_all, wm_all = 0.0, 0.0
        for i in range(first, last):
            w_all += weights[i]
            wm_all += weights[i] * HALF * (t_starts[i] + t_ends[i])
        w_before, wm_before, total = 0.0, 0.0, 0.0
        for i in range(first, last):
            w, m, dt = weights[i], HALF * (t_starts[i] + t_ends[i]), t_ends[i] - t_starts[i]
            w_after, wm_after = w_all - w_before - w, wm_all - wm_before - w * m
            spread = m * w_before - wm_before + wm_after - m * w_after
            total += w * (spread + w * dt / 3.0)
            slopes[i] = 2.0 * spread + 2.0 * w * dt / 3.0
            w_before += w
            wm_before += w * m
        out[r] = total


def _flat(*tensors: Tensor) -> list[np.ndarray]:
    return [t.detach().contiguous().numpy() for t in tensors]


class Weights(torch.autograd.Function):
    """`kernels.weights_of`."""

    @staticmethod
    def forward(ctx: Any, sigmas: Tensor, samples: Samples) -> Tensor:
        out = np.zeros(sigmas.shape[0], np.float32)
        weights_forward(*_flat(sigmas, samples.t_starts, samples.t_ends, samples.packed_info), out)
        weights = torch.from_numpy(out)
        ctx.samples = samples
        ctx.save_for_backward(sigmas, weights)
        return weights

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *d_out: Tensor) -> tuple[Tensor | None, ...]:
        sigmas, weights = ctx.saved_tensors
        s = ctx.samples
        d_sigmas = np.zeros(sigmas.shape[0], np.float32)
        weights_backward(*_flat(sigmas, s.t_starts, s.t_ends, s.packed_info, weights, d_out[0]), d_sigmas)
        return torch.from_numpy(d_sigmas), None


class RaySum(torch.autograd.Function):
    """Weighted sum of values [S, K] along each ray: [R, K]."""

    @staticmethod
    def forward(ctx: Any, weights: Tensor, values: Tensor, packed_info: Tensor) -> Tensor:
        ctx.save_for_backward(weights, values, packed_info)
        out = np.zeros((packed_info.shape[0], values.shape[1]), np.float32)
        sum_forward(*_flat(weights, values, packed_info), out)
        return torch.from_numpy(out)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *d_out: Tensor) -> tuple[Tensor | None, ...]:
        weights, values, packed_info = ctx.saved_tensors
        d_weights, d_values = np.zeros(weights.shape[0], np.float32), np.zeros(tuple(values.shape), np.float32)
        sum_backward(*_flat(weights, values, packed_info, d_out[0]), d_weights, d_values)
        return torch.from_numpy(d_weights), torch.from_numpy(d_values), None


class Distortion(torch.autograd.Function):
    """`kernels.distortion`."""

    @staticmethod
    def forward(ctx: Any, weights: Tensor, samples: Samples) -> Tensor:
        out = np.zeros(samples.packed_info.shape[0], np.float32)
        slopes = np.zeros(weights.shape[0], np.float32)
        distortion_forward(*_flat(weights, samples.t_starts, samples.t_ends, samples.packed_info), out, slopes)
        ctx.save_for_backward(torch.from_numpy(slopes), samples.ray_indices)
        return torch.from_numpy(out)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *d_out: Tensor) -> tuple[Tensor | None, ...]:
        slopes, ray_indices = ctx.saved_tensors
        return slopes * d_out[0][ray_indices], None


class Harmonics(torch.autograd.Function):
    """`kernels.sh_encode`; the gradient is that of the polynomials."""

    @staticmethod
    def forward(ctx: Any, d: Tensor) -> Tensor:
        ctx.save_for_backward(d)
        out = np.empty((d.shape[0], 16), np.float32)
        _harmonics_kernel(d.detach().contiguous().numpy(), out)
        return torch.from_numpy(out)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *d_out: Tensor) -> Tensor:
        (d,) = ctx.saved_tensors
        d_d = np.empty((d.shape[0], 3), np.float32)
        _harmonics_gradient(*_flat(d, d_out[0]), d_d)
        return torch.from_numpy(d_d)


@nb.njit(nogil=True, parallel=True, cache=True)
def _harmonics_kernel(d, out):
    for i in nb.prange(d.shape[0]):
        harmonics(d[i, 0], d[i, 1], d[i, 2], out[i], 0)


@nb.njit(nogil=True, parallel=True, cache=True)
def _harmonics_gradient(d, g, out):
    for i in nb.prange(d.shape[0]):
        x, y, z = d[i, 0], d[i, 1], d[i, 2]
        x2, y2, z2 = x * x, y * y, z * z
        a1, a2, a3, a4 = 0.48860251190291987, 1.0925484305920792, 0.94617469575755997, 0.54627421529603959
        b1, b2, b3, b4, b5 = (
            0.59004358992664352, 2.8906114426405538, 0.45704579946446572, 0.3731763325901154, 1.4453057213202769,
        )  # fmt: skip
        h = g[i]
        out[i, 0] = (
            -a1 * h[3] + a2 * (y * h[4] - z * h[7]) + 2 * a4 * x * h[8] - 6 * b1 * x * y * h[9] + b2 * y * z * h[10]
            + b3 * (1 - 5 * z2) * h[13] + 2 * b5 * x * z * h[14] + 3 * b1 * (y2 - x2) * h[15]
        )  # fmt: skip
        out[i, 1] = (
            -a1 * h[1] + a2 * (x * h[4] - z * h[5]) - 2 * a4 * y * h[8] + 3 * b1 * (y2 - x2) * h[9] + b2 * x * z * h[10]
            + b3 * (1 - 5 * z2) * h[11] - 2 * b5 * y * z * h[14] + 6 * b1 * x * y * h[15]
        )  # fmt: skip
        out[i, 2] = (
            a1 * h[2] - a2 * (y * h[5] + x * h[7]) + 2 * a3 * z * h[6] + b2 * x * y * h[10] - 10 * b3 * y * z * h[11]
            + b4 * (15 * z2 - 3) * h[12] - 10 * b3 * x * z * h[13] + b5 * (x2 - y2) * h[14]
        )  # fmt: skip
