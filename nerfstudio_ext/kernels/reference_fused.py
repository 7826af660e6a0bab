"""The fused operations as compositions of the small references: what every fast version is tested against."""

from __future__ import annotations

import torch
from torch import Tensor

from ..rays import RayOutputs, Rays, Samples
from . import reference
from .fused import FieldTensors, Occupancy, StepOptions, StepResult
from .layouts import Marching

DENSITY_LOGIT_MAX = 15.0
COLOR_LOGIT_MAX = 20.0


def field_density(field: FieldTensors, x: Tensor) -> Tensor:
    """See `kernels.field_density`."""
    return _density(_geometry(field, x))


def render_field(
    field: FieldTensors, rays: Rays, occupancy: Occupancy, marching: Marching, stop_transmittance: float = 1e-3
) -> RayOutputs:
    """See `kernels.render_field`."""
    half = torch.full_like(rays.t_min, 0.5)
    with torch.no_grad():
        marched = reference.march(rays, occupancy.bits, occupancy.grid_size, marching, half, None)
        samples = seen_samples(field, rays, marched, stop_transmittance)
        geo = _geometry(field, samples.positions(rays))
        return reference.composite(_density(geo), _color(field, geo, rays, samples), samples, len(rays))


def field_step(
    field: FieldTensors,
    rays: Rays,
    jitter: Tensor,
    target: Tensor,
    background: Tensor,
    occupancy: Occupancy,
    options: StepOptions,
    max_seen: int,
    space: object | None = None,
    *,
    given: Samples | None = None,
) -> StepResult:
    """See `kernels.field_step`. Has no room limit: `max_seen` and `space` are not used.

    With `given` samples nothing is marched: these are looked at.
    """
    n_rays = max(len(rays), 1)
    if given is None:
        given = reference.march(rays, occupancy.bits, occupancy.grid_size, options.marching, jitter, None)
    samples = seen_samples(field, rays, given, options.stop_transmittance)
    geo = _geometry(field, samples.positions(rays))
    sigmas = _density(geo)
    rgbs = _color(field, geo, rays, samples)
    fade = torch.ones_like(samples.t_starts)
    if options.near_fade > 0:
        fade = (samples.t_starts / options.near_fade).square().clamp(max=1)
        rgbs, sigmas = scale_gradient(rgbs, fade[:, None]), scale_gradient(sigmas, fade)
    outputs = reference.composite(sigmas, rgbs, samples, len(rays))
    assert outputs.alpha is not None
    predicted = outputs.rgb + (1 - outputs.alpha[:, None]) * background
    color = color_loss(predicted, target, options.huber)
    distortion = torch.zeros_like(color)
    if options.distortion > 0:
        distortion = squeezed_distortion(sigmas, samples)
    loss = color + options.distortion * distortion
    mse = (predicted - target).square().sum().item() / (3 * n_rays)
    return StepResult(loss, color.item(), mse, distortion.item(), len(given), len(samples), 0)


def color_loss(predicted: Tensor, target: Tensor, huber: float) -> Tensor:
    """Mean colour loss per channel: Huber's, or squared for `huber` = 0."""
    if huber > 0:
        total = torch.nn.functional.huber_loss(predicted, target, reduction="sum", delta=huber)
    else:
        total = (predicted - target).square().sum()
    return total / (3 * max(len(target), 1))


def squeezed_distortion(sigmas: Tensor, samples: Samples) -> Tensor:
    """Mean distortion per ray, of distances t / (1 + t)."""
    starts, ends = _squeeze(samples.t_starts), _squeeze(samples.t_ends)
    middles = _squeeze(0.5 * (samples.t_starts + samples.t_ends))
    weights = reference.weights_of(sigmas, samples)
    return reference.spread(weights, middles, ends - starts, samples).sum() / max(samples.n_rays, 1)


def _squeeze(t: Tensor) -> Tensor:
    return t / (1 + t)


def scale_gradient(value: Tensor, factor: Tensor) -> Tensor:
    """The value itself, with its gradient multiplied by `factor`."""
    return value * factor + (value * (1 - factor)).detach()


def _geometry(field: FieldTensors, x: Tensor) -> Tensor:
    x_unit = (x / field.aabb_scale + 0.5).clamp(0, 1)
    return reference.mlp(reference.hash_encode(x_unit, field.table, field.layout), (field.d1, field.d2))


def _density(geo: Tensor) -> Tensor:
    return geo[:, 0].clamp(-DENSITY_LOGIT_MAX, DENSITY_LOGIT_MAX).exp()


def _color(field: FieldTensors, geo: Tensor, rays: Rays, samples: Samples) -> Tensor:
    harmonics = reference.sh_encode(rays.rays_d)[samples.ray_indices]
    logits = reference.mlp(torch.cat([geo, harmonics], 1), (field.c1, field.c2, field.c3))
    return logits.clamp(-COLOR_LOGIT_MAX, COLOR_LOGIT_MAX).sigmoid()


def seen_samples(field: FieldTensors, rays: Rays, marched: Samples, stop_transmittance: float) -> Samples:
    """The samples in front of which more light than `stop_transmittance` passes."""
    with torch.no_grad():
        sigmas = _density(_geometry(field, marched.positions(rays)))
        depths = sigmas * (marched.t_ends - marched.t_starts)
        weights = reference.weights_of(sigmas, marched)
        # T_i = w_i / (1 - exp(-sigma_i dt_i)), safe where the sample itself is empty.
        opacity = -torch.expm1(-depths)
        before = torch.where(opacity > 0, weights / opacity.clamp_min(1e-30), torch.ones_like(opacity))
        keep = before >= stop_transmittance
    indices = marched.ray_indices[keep]
    counts = torch.bincount(indices, minlength=len(rays))
    packed = torch.stack([counts.cumsum(0) - counts, counts], 1)
    return Samples(indices, marched.t_starts[keep], marched.t_ends[keep], packed)
