"""The hash encoding as an operation of its own on CUDA devices, in float32, for fields that are no fast field."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from . import cuda_params
from .cuda_arguments import hash_grid
from .cuda_launch import floats, launcher, sizes_of
from .layouts import GridLayout

_NO_NETWORK = 16
"""Width of the networks these kernels do not have; sources are compiled for whole fields."""


def hash_encode(x_unit: Tensor, table: Tensor, layout: GridLayout) -> Tensor:
    """See `kernels.hash_encode`."""
    features: Tensor = _HashEncode.apply(x_unit, table, layout)
    return features


class _HashEncode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_unit: Tensor, table: Tensor, layout: GridLayout) -> Tensor:
        ctx.sizes = sizes_of(layout.n_levels, layout.n_features, _NO_NETWORK, _NO_NETWORK)
        ctx.layout = layout
        x_unit, table = x_unit.contiguous(), table.contiguous()
        ctx.save_for_backward(x_unit, table)
        n = len(x_unit)
        features = torch.empty(n, layout.n_outputs, device=table.device)
        grid = hash_grid(layout, floats(table))
        arguments = cuda_params.HashEncode(grid=grid, x_unit=floats(x_unit), n=n, features=floats(features))
        # A block takes 128 positions on one level.
        launcher(table.device)("hash_forward", arguments, n * layout.n_levels, ctx.sizes)
        return features

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *given: Tensor) -> tuple[Tensor | None, ...]:
        x_unit, table = ctx.saved_tensors
        d_features, n, layout = given[0].contiguous(), len(x_unit), ctx.layout
        d_x = torch.empty_like(x_unit) if ctx.needs_input_grad[0] else None
        d_table = torch.zeros_like(table) if ctx.needs_input_grad[1] else None
        arguments = cuda_params.HashEncode(
            grid=hash_grid(layout, floats(table)), x_unit=floats(x_unit), n=n, d_features=floats(d_features),
            table_gradients=floats(d_table), position_gradients=floats(d_x),
        )  # fmt: skip
        launch = launcher(table.device)
        if d_table is not None:
            launch("hash_backward", arguments, n * layout.n_levels, ctx.sizes)
        if d_x is not None:
            launch("hash_positions", arguments, n, ctx.sizes)
        return d_x, d_table, None
