"""The operations on CUDA devices that are no part of a field: boxes, marching, compositing, occupancy."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..rays import RayOutputs, Rays, Samples
from . import cuda_params
from .cuda_arguments import bits_of, contiguous_rays, lattice_of, ray_list
from .cuda_launch import floats, launcher, longs, words
from .fused import Occupancy
from .layouts import Marching

NO_LIMIT = 0xFFFFFFFF
_MOST = 0x7FFFFFFF
"""Samples of one call: their numbers must fit 31 bits."""


def ray_aabb(rays_o: Tensor, rays_d: Tensor, aabb: Tensor) -> tuple[Tensor, Tensor]:
    """See `kernels.ray_aabb`."""
    origins, directions, box = (tensor.detach().contiguous() for tensor in (rays_o, rays_d, aabb))
    t_min, t_max = (torch.empty(len(origins), device=origins.device) for _ in range(2))
    addresses = floats(origins), floats(directions), floats(box)
    arguments = cuda_params.RayBox(*addresses, len(origins), floats(t_min), floats(t_max))
    launcher(origins.device)("ray_box", arguments, len(origins))
    return t_min, t_max


def weights_of(sigmas: Tensor, samples: Samples) -> Tensor:
    """See `kernels.weights_of`."""
    weights: Tensor = _Composite.apply(sigmas, None, samples.t_starts, samples.t_ends, samples.packed_info)
    return weights


def composite(sigmas: Tensor, rgbs: Tensor, samples: Samples, n_rays: int) -> RayOutputs:
    """See `kernels.composite`."""
    return RayOutputs(*_Composite.apply(sigmas, rgbs, samples.t_starts, samples.t_ends, samples.packed_info))


class _Composite(torch.autograd.Function):
    """Colours, distances and opacities of rays; without colours the weights of the samples instead."""

    @staticmethod
    def forward(
        ctx: Any, sigmas: Tensor, rgbs: Tensor | None, t_starts: Tensor, t_ends: Tensor, packed_info: Tensor
    ) -> Tensor | tuple[Tensor, ...]:
        sigmas, t_starts, t_ends, packed_info = (t.contiguous() for t in (sigmas, t_starts, t_ends, packed_info))
        rgbs = None if rgbs is None else rgbs.contiguous()
        ctx.save_for_backward(sigmas, rgbs, t_starts, t_ends, packed_info)
        n_rays, device = len(packed_info), sigmas.device
        common = _addresses(sigmas, rgbs, t_starts, t_ends, packed_info)
        if rgbs is None:
            weights = torch.empty_like(sigmas)
            arguments = cuda_params.Composite(*common, n_rays, floats(weights), None, None, None)
            launcher(device)("composite", arguments, n_rays)
            return weights
        rgb, depth, alpha = (torch.empty(shape, device=device) for shape in ((n_rays, 3), (n_rays,), (n_rays,)))
        arguments = cuda_params.Composite(*common, n_rays, None, floats(rgb), floats(depth), floats(alpha))
        launcher(device)("composite", arguments, n_rays)
        return rgb, depth, alpha

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *given: Tensor) -> tuple[Tensor | None, ...]:
        sigmas, rgbs, t_starts, t_ends, packed_info = ctx.saved_tensors
        given = tuple(gradient.contiguous() for gradient in given)
        cotangents = (floats(given[0]), None, None, None) if rgbs is None else (None, *map(floats, given))
        _, needs_rgbs, needs_starts, needs_ends, _ = ctx.needs_input_grad
        d_sigmas = torch.empty_like(sigmas)
        d_rgbs = torch.empty_like(rgbs) if needs_rgbs else None
        d_starts = torch.empty_like(t_starts) if needs_starts else None
        d_ends = torch.empty_like(t_ends) if needs_ends else None
        common, n_rays = _addresses(sigmas, rgbs, t_starts, t_ends, packed_info), len(packed_info)
        outputs = (floats(d_sigmas), floats(d_rgbs), floats(d_starts), floats(d_ends))
        arguments = cuda_params.CompositeBackward(*common, n_rays, *cotangents, *outputs)
        launcher(sigmas.device)("composite_backward", arguments, n_rays)
        return d_sigmas, d_rgbs, d_starts, d_ends, None


def _addresses(
    sigmas: Tensor, rgbs: Tensor | None, t_starts: Tensor, t_ends: Tensor, packed_info: Tensor
) -> tuple[int | None, ...]:
    return floats(sigmas), floats(rgbs), floats(t_starts), floats(t_ends), longs(packed_info)


def march(
    rays: Rays, occupied_bits: Tensor, grid_size: int, options: Marching, jitter: Tensor, max_samples: int | None
) -> Samples:
    """See `kernels.march`. Walks every ray twice: to count, then to write."""
    device, n_rays = rays.rays_o.device, len(rays)
    launch = launcher(device)
    rays, occupancy = contiguous_rays(rays), Occupancy(occupied_bits.contiguous(), grid_size)
    jitter = jitter.detach().contiguous()
    counts = torch.empty(n_rays, dtype=torch.int32, device=device)
    packed_info = torch.empty(n_rays, 2, dtype=torch.int32, device=device)
    totals = torch.zeros(3, dtype=torch.int32, device=device)
    common = (ray_list(rays), bits_of(occupancy), lattice_of(options), floats(jitter))
    limit = NO_LIMIT if max_samples is None else max_samples
    launch("march_count", cuda_params.MarchCount(*common, limit, words(counts)), n_rays)
    launch("scan_counts", cuda_params.ScanCounts(words(counts), n_rays, _MOST, words(packed_info), words(totals)))
    total = int(totals[0])
    t_starts, t_ends = (torch.empty(total, device=device) for _ in range(2))
    ray_indices = torch.empty(total, dtype=torch.int32, device=device)
    outputs = (words(packed_info), floats(t_starts), floats(t_ends), words(ray_indices))
    launch("march_write", cuda_params.MarchWrite(*common, *outputs), n_rays)
    return Samples(ray_indices.long(), t_starts, t_ends, packed_info.long())


def occ_refresh(density_grid: Tensor, cells: Tensor, sigmas: Tensor, decay: float, out: Tensor) -> Tensor:
    """See `kernels.occ_refresh`."""
    launch = launcher(out.device)
    grid = density_grid.detach().contiguous()
    cells, sigmas = cells.contiguous(), sigmas.detach().contiguous()
    arguments = cuda_params.OccRefresh(
        floats(grid), floats(out), len(grid), decay, longs(cells), floats(sigmas), len(cells)
    )
    launch("occ_decay", arguments, len(grid))
    launch("occ_raise", arguments, len(cells))
    return out


def occ_pack(density_grid: Tensor, reachable: Tensor, grid_size: int, threshold: float) -> Tensor:
    """See `kernels.occ_pack`."""
    grid, reachable = density_grid.detach().contiguous(), reachable.contiguous()
    packed = torch.empty_like(reachable)
    arguments = cuda_params.OccPack(floats(grid), longs(reachable), longs(packed), packed.numel(), grid_size, threshold)
    launcher(packed.device)("occ_pack", arguments, packed.numel())
    return packed


def occ_select(words_: Tensor, grid_size: int, ranks: Tensor) -> Tensor:
    """See `kernels.occ_select`."""
    launch = launcher(words_.device)
    words_, ranks = words_.contiguous(), ranks.contiguous()
    population = torch.empty(words_.numel(), dtype=torch.int64, device=words_.device)
    cells = torch.empty_like(ranks)

    def arguments() -> Any:
        return cuda_params.OccSelect(
            longs(words_), longs(population), words_.numel(), grid_size, longs(ranks), longs(cells), len(ranks)
        )

    launch("occ_population", arguments(), words_.numel())
    population = population.cumsum(0)
    launch("occ_select", arguments(), len(ranks))
    return cells
