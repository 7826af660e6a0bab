"""The fused operations of the fast field on CUDA devices: rendering, densities, and the training step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..rays import RayOutputs, Rays
from . import cuda_params
from .cuda_arguments import bits_of, contiguous_rays, lattice_of, ray_list
from .cuda_launch import floats, launcher, words
from .cuda_prepared import prepared
from .cuda_step import FieldSpace
from .fused import FieldTensors, Occupancy, StepOptions, StepResult
from .hints import hints
from .layouts import Marching

__all__ = ["FieldSpace", "field_density", "field_step", "render_field"]


def render_field(
    field: FieldTensors, rays: Rays, occupancy: Occupancy, marching: Marching, stop_transmittance: float = 1e-3
) -> RayOutputs:
    """See `kernels.render_field`. One launch; ends early, with unfinished pixels, when the picture is cancelled."""
    half, device, n = prepared(field), rays.rays_o.device, len(rays)
    rays, occupancy = contiguous_rays(rays), Occupancy(occupancy.bits.contiguous(), occupancy.grid_size)
    present = hints()
    width, height = present.size if present.size[0] * present.size[1] == n else (0, 0)
    queue = torch.zeros(1, dtype=torch.int32, device=device)
    rgb, depth, alpha = (torch.zeros(shape, device=device) for shape in ((n, 3), (n,), (n,)))
    arguments = cuda_params.RenderFused(
        field=half.view(),
        rays=ray_list(rays),
        bits=bits_of(occupancy),
        lattice=lattice_of(marching),
        stop_transmittance=stop_transmittance,
        image_width=width,
        image_height=height,
        queue=words(queue),
        cancel=present.cancel_address(device),
        rgb=floats(rgb),
        depth=floats(depth),
        alpha=floats(alpha),
    )
    launcher(device)("render_fused", arguments, n, half.shape)
    return RayOutputs(rgb, depth, alpha)


def field_density(field: FieldTensors, x: Tensor) -> Tensor:
    """See `kernels.field_density`."""
    half, x = prepared(field), x.detach().contiguous()
    sigmas = torch.empty(len(x), device=x.device)
    arguments = cuda_params.FieldDensity(half.view(), floats(x), len(x), floats(sigmas))
    launcher(x.device)("field_density", arguments, len(x), half.shape)
    return sigmas


class _Step(torch.autograd.Function):
    """Gradients are made in the forward pass; backward hands them out."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, gradients: list[Tensor], *parameters: Tensor) -> Tensor:
        ctx.gradients = gradients
        return loss.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *d_loss: Tensor) -> tuple[Tensor | None, ...]:
        # A fresh tensor per gradient lets autograd keep it as .grad without a copy of the table.
        gradients = [gradient.detach() for gradient in ctx.gradients]
        factor = float(d_loss[0])
        if factor != 1.0:
            gradients = [gradient * factor for gradient in gradients]
        ctx.gradients = None
        return None, None, *gradients


def field_step(
    field: FieldTensors,
    rays: Rays,
    jitter: Tensor,
    target: Tensor,
    background: Tensor,
    occupancy: Occupancy,
    options: StepOptions,
    max_seen: int,
    space: FieldSpace | None = None,
) -> StepResult:
    """See `kernels.field_step`. Computes in half precision, sums in float32; one wait for the device."""
    space = space or FieldSpace()
    done = space.step(field, rays, jitter, target, background, occupancy, options, max_seen)
    loss = _Step.apply(done.loss, list(done.gradients), *field.tensors)
    return StepResult(
        loss, done.color_loss, done.mse, done.distortion, done.n_marched, done.n_seen, done.n_dropped
    )  # fmt: skip
