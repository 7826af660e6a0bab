"""Every operation of `kernels` in numba, for the CPU; same arguments and results as `reference`."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..rays import RayOutputs, Rays, Samples
from .cpu_composite import Distortion, Harmonics, RaySum, Weights
from .cpu_grid import HashEncode
from .cpu_march import march_count, march_write, ray_box
from .cpu_mlp import Perceptron
from .layouts import GridLayout, Marching


def hash_encode(x_unit: Tensor, table: Tensor, layout: GridLayout) -> Tensor:
    """See `kernels.hash_encode`."""
    return HashEncode.apply(x_unit, table, layout)


def sh_encode(d: Tensor) -> Tensor:
    """See `kernels.sh_encode`."""
    return Harmonics.apply(d)


def mlp(x: Tensor, weights: tuple[Tensor, ...]) -> Tensor:
    """See `kernels.mlp`."""
    return Perceptron.apply(x, *weights)


def ray_aabb(rays_o: Tensor, rays_d: Tensor, aabb: Tensor) -> tuple[Tensor, Tensor]:
    """See `kernels.ray_aabb`."""
    near, far = np.empty(len(rays_o), np.float32), np.empty(len(rays_o), np.float32)
    ray_box(*(t.detach().contiguous().numpy() for t in (rays_o, rays_d, aabb)), near, far)
    return torch.from_numpy(near), torch.from_numpy(far)


def march(
    rays: Rays, occupied_bits: Tensor, grid_size: int, options: Marching, jitter: Tensor, max_samples: int | None
) -> Samples:
    """See `kernels.march`. Walks every ray twice: to count, then to write."""
    half = 0.5 * 2.0 ** (occupied_bits.shape[0] - 1)
    box = torch.tensor([-half] * 3 + [half] * 3, dtype=torch.float32)
    entry, leave = ray_aabb(rays.rays_o, rays.rays_d, box)
    t_min = torch.maximum(rays.t_min, entry).clamp_min(options.near)
    t_max = torch.minimum(rays.t_max, leave)
    arrays = tuple(t.detach().contiguous().numpy() for t in (rays.rays_o, rays.rays_d, t_min, t_max, jitter))
    words = occupied_bits.contiguous().numpy().view(np.uint64)
    lattice = tuple(np.float32(v) for v in (options.step, options.cone_angle, options.max_step))
    counts = np.zeros(len(rays), np.int64)
    limit = np.iinfo(np.int64).max if max_samples is None else max_samples
    march_count(*arrays, words, grid_size, lattice, limit, counts)
    packed_info = np.stack([np.cumsum(counts) - counts, counts], 1)
    total = int(counts.sum())
    t_starts, t_ends, ray_indices = np.empty(total, np.float32), np.empty(total, np.float32), np.empty(total, np.int64)
    march_write(*arrays, words, grid_size, lattice, packed_info, t_starts, t_ends, ray_indices)
    return Samples(*(torch.from_numpy(a) for a in (ray_indices, t_starts, t_ends, packed_info)))


def weights_of(sigmas: Tensor, samples: Samples) -> Tensor:
    """See `kernels.weights_of`."""
    return Weights.apply(sigmas, samples)


def composite(sigmas: Tensor, rgbs: Tensor, samples: Samples, n_rays: int) -> RayOutputs:
    """See `kernels.composite`."""
    weights = weights_of(sigmas, samples)
    middles = 0.5 * (samples.t_starts + samples.t_ends)
    values = torch.cat([rgbs, middles[:, None], torch.ones_like(middles)[:, None]], 1)
    out = RaySum.apply(weights, values, samples.packed_info)
    return RayOutputs(out[:, :3], out[:, 3], out[:, 4])


def distortion(weights: Tensor, samples: Samples) -> Tensor:
    """See `kernels.distortion`."""
    return Distortion.apply(weights, samples)
