"""The disturbed operations as compositions of the small references: what every fast version is tested against."""

from __future__ import annotations

import torch
from torch import Tensor

from ..rays import Rays, Samples
from . import reference, reference_fused
from .disturbed import CONTIGUOUS, DisturbedLoss, Pass, SeenSamples
from .fused import FieldTensors, Occupancy, StepOptions


def seen_samples(
    field: FieldTensors,
    rays: Rays,
    jitter: Tensor,
    occupancy: Occupancy,
    options: StepOptions,
    max_seen: int,
    space: object | None = None,
) -> SeenSamples:
    """See `kernels.seen_samples`. Has no room limit: `max_seen` and `space` are not used."""
    marched = reference.march(rays, occupancy.bits, occupancy.grid_size, options.marching, jitter, None)
    samples = reference_fused.seen_samples(field, rays, marched, options.stop_transmittance)
    return SeenSamples(samples, len(marched), 0)


def disturbed_loss(
    field: FieldTensors,
    samples: Samples,
    passes: tuple[Pass, ...],
    target: Tensor,
    background: Tensor,
    space: object | None = None,
) -> DisturbedLoss:
    """See `kernels.disturbed_loss`."""
    found = [_one_pass(field, samples, one, target, background) for one in passes]
    total = sum((one.share * loss for one, (loss, _) in zip(passes, found, strict=True)), torch.zeros(()))
    return DisturbedLoss(total, tuple(float(loss.detach()) for loss, _ in found), tuple(mse for _, mse in found))


def _one_pass(
    field: FieldTensors, samples: Samples, one: Pass, target: Tensor, background: Tensor
) -> tuple[Tensor, float]:
    """Loss and squared error of a pass."""
    view, disturbance, options = one.view, one.disturbance, one.options
    n_rays, ray = len(target), samples.ray_indices
    shift = disturbance.t if disturbance.t is not None else torch.zeros_like(samples.t_starts)
    middles = 0.5 * (samples.t_starts + samples.t_ends) + shift
    positions = view.rays_o[ray] + middles[:, None] * view.rays_d[ray]
    if disturbance.x is not None:
        positions = positions + disturbance.x
    x_unit = (positions / field.aabb_scale + 0.5).clamp(0, 1)
    features = reference.hash_encode(x_unit, field.table, field.layout)
    if disturbance.features is not None:
        features = features + disturbance.features
    geo = reference.mlp(features, (field.d1, field.d2))
    color = reference.mlp(torch.cat([geo, view.harmonics[ray]], 1), (field.c1, field.c2, field.c3))
    density = geo[:, 0]
    if disturbance.raw is not None:
        color, density = color + disturbance.raw[:, :3], density + disturbance.raw[:, 3]
    sigmas = density.clamp(-reference_fused.DENSITY_LOGIT_MAX, reference_fused.DENSITY_LOGIT_MAX).exp()
    rgbs = color.clamp(-reference_fused.COLOR_LOGIT_MAX, reference_fused.COLOR_LOGIT_MAX).sigmoid()
    if options.near_fade > 0 and field.table.requires_grad:
        fade = (samples.t_starts / options.near_fade).square().clamp(max=1)
        rgbs = reference_fused.scale_gradient(rgbs, fade[:, None])
        sigmas = reference_fused.scale_gradient(sigmas, fade)
    lengths = _lengths(samples, shift)
    moved = Samples(ray, torch.zeros_like(lengths), lengths, samples.packed_info)
    outputs = reference.composite(sigmas, rgbs, moved, n_rays)
    assert outputs.alpha is not None
    predicted = outputs.rgb + (1 - outputs.alpha[:, None]) * background
    if disturbance.rgb is not None:
        predicted = predicted + disturbance.rgb
    loss = reference_fused.color_loss(predicted, target, options.huber)
    if options.distortion > 0 and field.table.requires_grad:
        loss = loss + options.distortion * reference_fused.squeezed_distortion(sigmas, samples)
    return loss, (predicted - target).square().sum().item() / (3 * max(n_rays, 1))


def _lengths(samples: Samples, shift: Tensor) -> Tensor:
    """Lengths of intervals whose beginnings have been shifted, and with them the ends of their neighbours in front."""
    lengths = samples.t_ends - samples.t_starts
    is_same_ray = samples.ray_indices[1:] == samples.ray_indices[:-1]
    is_neighbour = is_same_ray & (samples.t_starts[1:] - samples.t_ends[:-1] < CONTIGUOUS * lengths[:-1])
    next_shift = torch.nn.functional.pad(torch.where(is_neighbour, shift[1:], 0), (0, 1))
    return (lengths + next_shift - shift).clamp_min(0)
