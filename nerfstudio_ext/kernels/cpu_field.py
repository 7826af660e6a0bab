"""The fused CPU operations behind `field_step`, `render_field` and `field_density`: tensors in, kernels called."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numba as nb
import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..rays import RayOutputs, Rays
from .cpu_grid import kernel_grid
from .cpu_net import NetShape, pack_weights, weight_offsets
from .cpu_render import density_kernel, render_kernel
from .cpu_scatter import deal_levels, scatter_gradient
from .cpu_step import N_LOSSES, StepSettings, StepSpace, field_step_kernel, make_space
from .fused import FieldTensors, Occupancy, StepOptions, StepResult
from .layouts import Marching

SEGMENTS = 8
"""Fixed shares of a batch whose weight gradients are summed apart, so that results do not depend on threads."""
CHUNK_SEEN = 384
"""Seen samples a chunk of rays should have: their activations (1.1 kB each) then stay in the second-level cache."""
CHUNK_ROOM = 1536
RAYS_PER_CHUNK = (4, 256)


def as_array(tensor: Tensor) -> np.ndarray:
    """A tensor's float32 memory as a contiguous array."""
    return tensor.detach().contiguous().numpy()


class FieldSpace:
    """Memory that the fused CPU kernels keep between calls; one per caller thread. Holds nothing that matters."""

    def __init__(self) -> None:
        self._key: tuple[Any, ...] = ()
        self._arrays: dict[str, np.ndarray] = {}
        self._other: tuple[tuple[Any, ...], Any] = ((), None)
        self.step_space: StepSpace | None = None

    def array(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """A float32 array that is reused when the shape stays the same; contents undefined."""
        found = self._arrays.get(name)
        if found is None or found.shape != shape:
            found = self._arrays[name] = np.zeros(shape, np.float32)
        return found

    def room(self, shape: NetShape, threads: int) -> StepSpace:
        """Chunk memory for so many threads."""
        key = (shape, threads)
        if self.step_space is None or self._key != key:
            self._key, self.step_space = key, make_space(shape, threads, CHUNK_ROOM)
        return self.step_space

    def kept(self, key: tuple[Any, ...], make: Callable[[], Any]) -> Any:
        """Further memory, made anew when its key changes."""
        if self._other[0] != key:
            self._other = (key, make())
        return self._other[1]


_of_thread = threading.local()


def _render_space() -> FieldSpace:
    """The calling thread's own memory for rendering: a picture is many calls, and fresh memory costs page faults."""
    if not hasattr(_of_thread, "space"):
        _of_thread.space = FieldSpace()
    space: FieldSpace = _of_thread.space
    return space


def shape_of(field: FieldTensors) -> NetShape:
    """Sizes of a field's networks."""
    return NetShape(field.layout.n_outputs, field.d1.shape[1], field.c1.shape[1])


def packed_weights(field: FieldTensors) -> np.ndarray:
    """The networks of a field in the kernels' layout."""
    shape = shape_of(field)
    packed = np.empty(int(weight_offsets(shape)[10]), np.float32)
    pack_weights(shape, *(as_array(w) for w in field.tensors[1:]), packed)
    return packed


def settings_of(options: StepOptions, grid_size: int, aabb_scale: float) -> StepSettings:
    """Options of a step as the kernels take them."""
    f = np.float32
    m = options.marching
    return StepSettings(
        f(m.step), f(m.cone_angle), f(m.max_step), f(1 / aabb_scale), f(options.stop_transmittance), f(options.huber),
        f(options.distortion), f(options.near_fade), grid_size,
    )  # fmt: skip


def ray_arrays(rays: Rays, jitter: Tensor) -> tuple[np.ndarray, ...]:
    """Rays as the kernels take them."""
    return tuple(as_array(t) for t in (rays.rays_o, rays.rays_d, rays.t_min, rays.t_max, jitter))


def rays_in_a_chunk(n_rays: int, max_seen: int) -> int:
    """Rays whose seen samples should fill a chunk: a batch is planned to use half of its room.

    Nothing remembered enters here, or a resumed run would add up its weight gradients in another order.
    """
    return int(np.clip(CHUNK_SEEN * n_rays / max(max_seen / 2, 1), *RAYS_PER_CHUNK))


class _Step(torch.autograd.Function):
    """Gradients are made in the forward pass; backward hands them out."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, gradients: list[np.ndarray], *parameters: Tensor) -> Tensor:
        ctx.gradients = gradients
        return loss.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *d_loss: Tensor) -> tuple[Tensor | None, ...]:
        # A fresh tensor per gradient lets autograd keep it as .grad without a copy of the table.
        gradients = [torch.from_numpy(g) for g in ctx.gradients]
        factor = float(d_loss[0])
        if factor != 1.0:
            gradients = [g * factor for g in gradients]
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
    """See `kernels.field_step`."""
    space = space or FieldSpace()
    shape, layout = shape_of(field), field.layout
    region = -(-max_seen // SEGMENTS) // 16 * 16 + 16
    rays_per_chunk = rays_in_a_chunk(len(rays), max_seen)
    sums = np.zeros((SEGMENTS, N_LOSSES))
    filled = np.zeros(SEGMENTS, np.int64)
    packed = packed_weights(field)
    dw = np.zeros((SEGMENTS, packed.size), np.float32)
    positions = space.array("positions", (3, SEGMENTS * region))
    gradient = space.array("gradient", (layout.n_outputs, SEGMENTS * region))
    grid = kernel_grid(layout)
    field_step_kernel(
        ray_arrays(rays, jitter), as_array(target), as_array(background), occupancy.bits.numpy().view(np.uint64), grid,
        shape, as_array(field.table), packed, settings_of(options, occupancy.grid_size, field.aabb_scale),
        rays_per_chunk, space.room(shape, nb.get_num_threads()), dw, sums, region, filled, positions, gradient,
    )  # fmt: skip
    d_table = space.array("table", tuple(field.table.shape))
    d_table[:] = 0
    order = deal_levels(layout.n_levels, nb.get_num_threads())
    scatter_gradient(grid, order, positions, gradient, region, filled, d_table)
    total, n_rays = sums.sum(0), max(len(rays), 1)
    color_loss, mse, distortion = total[0] / (3 * n_rays), total[1] / (3 * n_rays), total[2] / n_rays
    loss = torch.tensor(color_loss + options.distortion * distortion, dtype=torch.float32)
    gradients = [d_table, *unpack_weights(shape, dw.sum(0), field)]
    return StepResult(
        _Step.apply(loss, gradients, *field.tensors),
        color_loss,
        mse,
        distortion,
        int(total[3]),
        int(total[4]),
        int(total[5]),
    )


def unpack_weights(shape: NetShape, dw: np.ndarray, field: FieldTensors) -> list[np.ndarray]:
    """Gradients of the five matrices from the packed ones."""
    at = weight_offsets(shape)
    gradients = []
    for i, w in enumerate(field.tensors[1:]):
        columns = 16 if i == 4 else w.shape[1]
        block = dw[at[i] : at[i] + w.shape[0] * columns].reshape(w.shape[0], columns)
        gradients.append(np.ascontiguousarray(block[:, : w.shape[1]]))
    return gradients


def render_field(
    field: FieldTensors,
    rays: Rays,
    occupancy: Occupancy,
    marching: Marching,
    stop_transmittance: float = 1e-3,
    packed: np.ndarray | None = None,
) -> RayOutputs:
    """See `kernels.render_field`."""
    shape = shape_of(field)
    options = StepOptions(marching, stop_transmittance=stop_transmittance)
    out = np.zeros((len(rays), 5), np.float32)
    half = torch.full((len(rays),), 0.5)
    space = _render_space().room(shape, nb.get_num_threads())
    render_kernel(
        ray_arrays(rays, half), occupancy.bits.numpy().view(np.uint64), kernel_grid(field.layout), shape,
        as_array(field.table), packed_weights(field) if packed is None else packed,
        settings_of(options, occupancy.grid_size, field.aabb_scale), space, out,
    )  # fmt: skip
    result = torch.from_numpy(out)
    return RayOutputs(result[:, :3], result[:, 3], result[:, 4])


def field_density(field: FieldTensors, x: Tensor) -> Tensor:
    """See `kernels.field_density`."""
    out = np.zeros(len(x), np.float32)
    density_kernel(
        as_array(x), np.float32(1 / field.aabb_scale), kernel_grid(field.layout), shape_of(field),
        as_array(field.table), packed_weights(field), out,
    )  # fmt: skip
    return torch.from_numpy(out)
