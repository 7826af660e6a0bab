"""The operations on CUDA devices that are no part of a field: marching and occupancy; arguments as in `reference`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..rays import Rays, Samples
from . import cuda_params
from .cuda_arguments import bits_of, contiguous_rays, lattice_of, ray_list
from .cuda_launch import floats, launcher, longs, words
from .fused import Occupancy
from .layouts import Marching

NO_LIMIT = 0xFFFFFFFF
_MOST = 0x7FFFFFFF
"""Samples of one call: their numbers must fit 31 bits."""


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
