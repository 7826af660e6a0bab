"""The disturbed field on the CPU: tensors in, kernels called; gradients are made in the forward pass."""

from __future__ import annotations

import functools
from typing import Any

import numba as nb
import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..rays import Rays, Samples
from . import cpu_net as net
from .cpu_disturbed_step import (
    DisturbedSpace,
    Shifts,
    disturbance_backward,
    forward_networks,
    keep_color_gradient,
    make_space,
    place_samples,
    scale_rows,
    shift_colors,
    spread_to_samples,
)
from .cpu_field import (
    RAYS_PER_CHUNK,
    SEGMENTS,
    FieldSpace,
    as_array,
    packed_weights,
    ray_arrays,
    rays_in_a_chunk,
    settings_of,
    shape_of,
    unpack_weights,
)
from .cpu_grid import kernel_grid
from .cpu_scatter import deal_levels, scatter_gradient
from .cpu_step import (
    N_LOSSES,
    StepSettings,
    composite_samples,
    networks_backward,
    ray_losses,
    sample_gradients,
)
from .cpu_step import seen_samples as seen_in_chunk
from .disturbed import Disturbance, DisturbedLoss, Pass, SeenSamples
from .fused import FieldTensors, Occupancy, StepOptions

CHUNK = 384
"""Samples a chunk aims at: their activations then stay in the second-level cache."""
ROUNDED = 8192
"""Room for gradients grows in such steps: memory of a new size every call would cost page faults."""
SHIFT_SHAPES: dict[str, tuple[int, ...]] = {"t": (), "x": (3,), "features": (1,), "raw": (4,), "rgb": (3,)}


@nb.njit(nogil=True, parallel=True, cache=True)
def seen_kernel(
    rays, bits, grid, shape, table, weights, s, rays_per_chunk, space, counts, region_size, totals, out_t, out_dt,
    out_ray,
):  # fmt: skip
    """Seen samples of each segment's rays, packed by ray into its region of `out_*`; `totals` = marched, dropped."""
    n_segments = totals.shape[0]
    n_rays = counts.shape[0]
    for segment in nb.prange(n_segments):
        tid = nb.get_thread_id()
        at = net.weight_offsets(shape)
        capacity = space.kept_features.shape[1]
        kept_ray = np.empty(capacity, np.int64)
        kept = np.empty((3, capacity), np.float32)
        trans = np.empty(rays_per_chunk, np.float32)
        is_dropped = np.empty(rays_per_chunk, np.bool_)
        place = np.empty(rays_per_chunk + 1, np.int64)
        region = segment * region_size
        used = 0
        for first_ray in range(n_rays * segment // n_segments, n_rays * (segment + 1) // n_segments, rays_per_chunk):
            n = min(rays_per_chunk, n_rays * (segment + 1) // n_segments - first_ray)
            n_kept, n_marched = seen_in_chunk(
                rays, first_ray, n, bits, grid, shape, table, weights, at, s, space, tid, trans, kept_ray, kept,
                is_dropped, min(capacity, region_size - used),
            )  # fmt: skip
            totals[segment, 0] += n_marched
            for j in range(n_kept):
                if not is_dropped[kept_ray[j]]:
                    counts[first_ray + kept_ray[j]] += 1
            place[0] = region + used
            for i in range(n):
                totals[segment, 1] += is_dropped[i]
                place[i + 1] = place[i] + counts[first_ray + i]
            used = place[n] - region
            for j in range(n_kept):
                i = kept_ray[j]
                if not is_dropped[i]:
                    out_t[place[i]], out_dt[place[i]], out_ray[place[i]] = kept[0, j], kept[1, j], first_ray + i
                    place[i] += 1
        totals[segment, 2] = used


@nb.njit(nogil=True, parallel=True, cache=True)
def disturbed_kernel(
    view, samples, starts, shifts, target, background, grid, shape, table, weights, s, space, rays_per_chunk,
    wants_field, share, region, dw, sums, positions, gradient, out, d_view,
):  # fmt: skip
    """Losses of given samples under disturbance, and gradients: of the field, or of what disturbs it.

    `starts` [R + 1] is the first sample of each ray. The field's go to `dw` and to columns of `gradient` from `region`
    on, those of the disturbance to `out`, those of origins, directions and harmonics to `d_view`; all times `share`.
    """
    n_segments, n_rays = dw.shape[0], target.shape[0]
    rays_o, rays_d, harmonics = view
    room = space.kept_features.shape[1]
    for segment in nb.prange(n_segments):
        tid = nb.get_thread_id()
        at = net.weight_offsets(shape)
        kept, rgbs = np.empty((3, room), np.float32), np.empty((room, 3), np.float32)
        chunk = (np.empty(room, np.int64), kept, np.empty(room, np.float32), np.empty(room, np.bool_))
        is_inside = np.empty((room, 3), np.bool_)
        sample_weights, d_density = np.empty(room, np.float32), np.empty(room, np.float32)
        is_dropped = np.zeros(rays_per_chunk, np.bool_)
        totals = np.empty((rays_per_chunk, 5), np.float32)
        ray_gradient = np.empty((rays_per_chunk, 4), np.float32)
        first_ray, end = n_rays * segment // n_segments, n_rays * (segment + 1) // n_segments
        while first_ray < end:
            n = 1
            begin = starts[first_ray]
            while n < rays_per_chunk and first_ray + n < end and starts[first_ray + n + 1] - begin <= CHUNK:
                n += 1
            count = starts[first_ray + n] - begin
            place_samples(
                begin, count, rays_o, rays_d, first_ray, samples, shifts, s.unit_scale, is_inside, space, tid, chunk
            )
            forward_networks(
                begin, count, grid, table, shape, weights, at, harmonics, first_ray, shifts, space, tid, chunk
            )
            logits = space.logits[tid].reshape(-1)
            composite_samples(n, count, chunk[0], kept, logits, rgbs, sample_weights, totals)
            shift_colors(first_ray, n, shifts.rgb, totals)
            ray_losses(first_ray, n, n_rays, totals, target, background, is_dropped, s, ray_gradient, sums[segment])
            scale_rows(n, share, ray_gradient)
            keep_color_gradient(first_ray, n, ray_gradient, out.rgb)
            sums[segment, 2] += sample_gradients(
                n, count, n_rays, chunk[0], kept, rgbs, sample_weights, totals, ray_gradient, s, logits, d_density
            )
            if wants_field:
                networks_backward(
                    shape, weights, at, space, tid, count, d_density, dw[segment], region + begin, positions, gradient
                )
            else:
                disturbance_backward(
                    begin, count, shape, weights, at, grid, table, space, tid, chunk, d_density, first_ray, out,
                    d_view[2],
                )  # fmt: skip
                spread_to_samples(
                    begin, count, rays_d, first_ray, s.unit_scale, is_inside, d_density, space, tid, chunk, out,
                    d_view[0], d_view[1],
                )  # fmt: skip
            first_ray += n


class _Evaluated(torch.autograd.Function):
    """A loss whose gradients are there already; backward hands them out."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, gradients: list[np.ndarray | None], *inputs: Tensor) -> Tensor:
        ctx.gradients = gradients
        return loss.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *d_loss: Tensor) -> tuple[Tensor | None, ...]:
        factor = float(d_loss[0])
        gradients = [None if g is None else torch.from_numpy(g) for g in ctx.gradients]
        ctx.gradients = None
        return None, None, *(g if g is None or factor == 1.0 else g * factor for g in gradients)


def seen_samples(
    field: FieldTensors,
    rays: Rays,
    jitter: Tensor,
    occupancy: Occupancy,
    options: StepOptions,
    max_seen: int,
    space: FieldSpace | None = None,
) -> SeenSamples:
    """See `kernels.seen_samples`."""
    space = space or FieldSpace()
    shape, n_rays = shape_of(field), len(rays)
    region = -(-max_seen // SEGMENTS)
    counts, totals = np.zeros(n_rays, np.int64), np.zeros((SEGMENTS, 3), np.int64)
    t, dt = (np.empty(SEGMENTS * region, np.float32) for _ in range(2))
    ray = np.empty(SEGMENTS * region, np.int64)
    seen_kernel(
        ray_arrays(rays, jitter), occupancy.bits.numpy().view(np.uint64), kernel_grid(field.layout), shape,
        as_array(field.table), packed_weights(field), settings_of(options, occupancy.grid_size, field.aabb_scale),
        rays_in_a_chunk(n_rays, max_seen), space.room(shape, nb.get_num_threads()), counts, region, totals, t, dt, ray,
    )  # fmt: skip
    parts = [slice(i * region, i * region + int(used)) for i, used in enumerate(totals[:, 2])]
    t, dt, ray = (np.concatenate([array[part] for part in parts]) for array in (t, dt, ray))
    packed_info = np.stack([np.cumsum(counts) - counts, counts], 1)
    samples = Samples(*(torch.from_numpy(a) for a in (ray, t, t + dt, packed_info)))
    return SeenSamples(samples, int(totals[:, 0].sum()), int(totals[:, 1].sum()))


def disturbed_loss(
    field: FieldTensors,
    samples: Samples,
    passes: tuple[Pass, ...],
    target: Tensor,
    background: Tensor,
    space: FieldSpace | None = None,
) -> DisturbedLoss:
    """See `kernels.disturbed_loss`. Gradients of the field and of what disturbs it take one evaluation each."""
    job = _Job(field, samples, as_array(target), as_array(background), space or FieldSpace())
    sources = [
        [one.view.rays_o, one.view.rays_d, one.view.harmonics, *one.disturbance.tensors.values()] for one in passes
    ]
    wants_field = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in field.tensors)
    gradients: list[np.ndarray | None] = [None] * len(field.tensors)
    sums = np.zeros((len(passes), N_LOSSES))
    if wants_field:
        sums, found = _field_gradients(job, passes)
        gradients = [*found]
    for number, (one, tensors) in enumerate(zip(passes, sources, strict=True)):
        if wants_field and not any(tensor.requires_grad for tensor in tensors):
            gradients += [None] * len(tensors)
            continue
        of_pass, found = _source_gradients(job, one)
        gradients += found
        if not wants_field:
            sums[number] = of_pass
    n_rays = max(len(target), 1)
    weights = np.array([one.options.distortion if wants_field else 0.0 for one in passes])
    losses = sums[:, 0] / (3 * n_rays) + weights * sums[:, 2] / n_rays
    total = torch.tensor(float(losses @ np.array([one.share for one in passes])), dtype=torch.float32)
    inputs = [*field.tensors, *(tensor for tensors in sources for tensor in tensors)]
    mse = tuple(float(value) for value in sums[:, 1] / (3 * n_rays))
    return DisturbedLoss(_Evaluated.apply(total, gradients, *inputs), tuple(float(v) for v in losses), mse)


class _Job:
    """What all passes of a call have in common, as the kernels take it."""

    def __init__(
        self, field: FieldTensors, samples: Samples, target: np.ndarray, background: np.ndarray, space: FieldSpace
    ) -> None:
        self.field, self.target, self.background, self.space = field, target, background, space
        self.n_samples, self.shape, self.grid = len(samples), shape_of(field), kernel_grid(field.layout)
        self.samples = samples.ray_indices.numpy(), as_array(samples.t_starts), as_array(samples.t_ends)
        self.starts = np.append(samples.packed_info[:, 0].numpy(), self.n_samples)
        longest = int(samples.packed_info[:, 1].max()) if self.n_samples else 0
        room, threads = -(-max(longest, CHUNK) // 16) * 16, nb.get_num_threads()
        make = functools.partial(make_space, self.shape, threads, room)
        self.room: DisturbedSpace = space.kept(("disturbed", self.shape, threads, room), make)
        self.packed = packed_weights(field)

    def run(
        self,
        one: Pass,
        settings: StepSettings,
        region: int,
        field_out: tuple[np.ndarray, ...],
        out: Shifts,
        d_view: Any,
    ) -> np.ndarray:
        """One pass; `field_out` = (weights, positions, feature gradients), empty where the field's are not wanted."""
        dw, positions, gradient = field_out
        sums = np.zeros((SEGMENTS, N_LOSSES))
        view = tuple(as_array(t) for t in (one.view.rays_o, one.view.rays_d, one.view.harmonics))
        disturbed_kernel(
            view, self.samples, self.starts, _arrays(one.disturbance, self.field.layout.n_outputs), self.target,
            self.background, self.grid, self.shape, as_array(self.field.table), self.packed, settings, self.room,
            RAYS_PER_CHUNK[1], dw.shape[1] > 0, np.float32(one.share), region, dw, sums, positions, gradient, out,
            d_view,
        )  # fmt: skip
        return sums.sum(0)


def _field_gradients(job: _Job, passes: tuple[Pass, ...]) -> tuple[np.ndarray, list[np.ndarray]]:
    """Sums of the losses of all passes, and the gradients of the field over all of them."""
    field, layout, n = job.field, job.field.layout, job.n_samples
    width, end = -(-n // ROUNDED) * ROUNDED, net.padded(n)
    positions = job.space.array("positions", (3, len(passes) * width))
    gradient = job.space.array("gradient", (layout.n_outputs, len(passes) * width))
    dw = np.zeros((SEGMENTS, job.packed.size), np.float32)
    nothing = Shifts(*(array[:0] for array in _arrays(Disturbance(), layout.n_outputs)))
    no_view = tuple(np.zeros((0, k), np.float32) for k in (3, 3, net.SH))
    sums = []
    for number, one in enumerate(passes):
        settings = settings_of(one.options, 1, field.aabb_scale)
        settings = settings._replace(distortion=np.float32(one.share * one.options.distortion))
        region = number * width
        sums.append(job.run(one, settings, region, (dw, positions, gradient), nothing, no_view))
        positions[:, region + n : region + end], gradient[:, region + n : region + end] = 0, 0
    d_table = job.space.array("table", tuple(field.table.shape))
    d_table[:] = 0
    order = deal_levels(layout.n_levels, nb.get_num_threads())
    scatter_gradient(job.grid, order, positions, gradient, width, np.full(len(passes), n), d_table)
    return np.stack(sums), [d_table, *unpack_weights(job.shape, dw.sum(0), field)]


def _source_gradients(job: _Job, one: Pass) -> tuple[np.ndarray, list[np.ndarray]]:
    """Sums of the losses of a pass, and the gradients of its view and its disturbance."""
    layout = job.field.layout
    out = Shifts(*(np.empty_like(array) for array in _arrays(one.disturbance, layout.n_outputs)))
    d_view = tuple(np.zeros((len(job.target), k), np.float32) for k in (3, 3, net.SH))
    settings = settings_of(one.options, 1, job.field.aabb_scale)
    settings = settings._replace(near_fade=np.float32(0), distortion=np.float32(0))
    empty = (np.zeros((SEGMENTS, 0), np.float32), np.zeros((3, 0), np.float32), np.zeros((0, 0), np.float32))
    sums = job.run(one, settings, 0, empty, out, d_view)
    present = [array for name, array in zip(Shifts._fields, out, strict=True) if name in one.disturbance.tensors]
    return sums, [*d_view, *present]


def _arrays(disturbance: Disturbance, n_features: int) -> Shifts:
    """The disturbance as arrays; what is not there has no rows."""
    found = {}
    for name, shape in SHIFT_SHAPES.items():
        tensor = getattr(disturbance, name)
        empty = (0, n_features) if name == "features" else (0, *shape)
        found[name] = np.zeros(empty, np.float32) if tensor is None else as_array(tensor)
    return Shifts(**found)
