"""Every operation in plain torch, for float32 and float64, on any device: written to be read, and to check the others.

The docstrings of `nerfstudio_ext.kernels` say what each operation computes; here is how.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..rays import RayOutputs, Rays, Samples
from .layouts import BLOCK, HASH_PRIMES, GridLayout, Marching, pack_bits


def hash_encode(x_unit: Tensor, table: Tensor, layout: GridLayout) -> Tensor:
    """See `kernels.hash_encode`."""
    x_unit = x_unit.clamp(0, 1)
    corner_steps = torch.tensor([[c & 1, c >> 1 & 1, c >> 2] for c in range(8)], device=x_unit.device)  # [8,3]
    levels = []
    for level, scale in enumerate(layout.scales):
        position = x_unit * scale + 0.5
        lower = position.floor()
        fraction = (position - lower)[:, None, :]  # [S,1,3]
        corners = lower.long()[:, None, :] + corner_steps  # [S,8,3]
        weights = torch.where(corner_steps == 1, fraction, 1 - fraction).prod(-1)  # [S,8]
        rows = layout.offsets[level] + _level_rows(corners, layout, level)
        features = table.index_select(0, rows.flatten()).reshape(*rows.shape, layout.n_features)
        levels.append((weights[..., None] * features).sum(1))
    return torch.cat(levels, dim=1)


def _level_rows(corners: Tensor, layout: GridLayout, level: int) -> Tensor:
    """Rows of corner coordinates [..., 3] within their level."""
    x, y, z = corners.unbind(-1)
    if layout.is_dense[level]:
        stride = layout.resolutions[level] + 1
        return x + y * stride + z * stride * stride
    # Products stay below 2^63, so their low bits are those of the 32-bit arithmetic the layout speaks of.
    hashed = (x * HASH_PRIMES[0]) ^ (y * HASH_PRIMES[1]) ^ (z * HASH_PRIMES[2])
    return hashed & (2**layout.log2_table - 1)


def sh_encode(d: Tensor) -> Tensor:
    """See `kernels.sh_encode`."""
    x, y, z = d.unbind(-1)
    xx, yy, zz = x * x, y * y, z * z
    return torch.stack(
        [
            torch.full_like(x, 0.28209479177387814),
            -0.48860251190291987 * y,
            0.48860251190291987 * z,
            -0.48860251190291987 * x,
            1.0925484305920792 * x * y,
            -1.0925484305920792 * y * z,
            0.94617469575755997 * zz - 0.31539156525251999,
            -1.0925484305920792 * x * z,
            0.54627421529603959 * (xx - yy),
            0.59004358992664352 * y * (yy - 3 * xx),
            2.8906114426405538 * x * y * z,
            0.45704579946446572 * y * (1 - 5 * zz),
            0.3731763325901154 * z * (5 * zz - 3),
            0.45704579946446572 * x * (1 - 5 * zz),
            1.4453057213202769 * z * (xx - yy),
            0.59004358992664352 * x * (3 * yy - xx),
        ],
        dim=-1,
    )


def hash_color(x_unit: Tensor, d: Tensor, table: Tensor, layout: GridLayout) -> Tensor:
    """See `kernels.hash_color`."""
    n_harmonics = layout.n_features // 3
    coefficients = hash_encode(x_unit.detach(), table, layout).reshape(-1, layout.n_levels, n_harmonics, 3).sum(1)
    harmonics = sh_encode(d.detach())
    return (coefficients * (harmonics[:, :n_harmonics] / harmonics[:, :1])[:, :, None]).sum(1)


def mlp(x: Tensor, weights: tuple[Tensor, ...]) -> Tensor:
    """See `kernels.mlp`."""
    for weight in weights[:-1]:
        x = (x @ weight).relu()
    return x @ weights[-1]


@torch.no_grad()
def ray_aabb(rays_o: Tensor, rays_d: Tensor, aabb: Tensor) -> tuple[Tensor, Tensor]:
    """See `kernels.ray_aabb`."""
    first, second = (aabb[:3] - rays_o) / rays_d, (aabb[3:] - rays_o) / rays_d
    near, far = torch.minimum(first, second), torch.maximum(first, second)
    # A ray parallel to a pair of faces divides by zero: it is between them everywhere or nowhere.
    is_parallel = rays_d == 0
    is_between = (aabb[:3] <= rays_o) & (rays_o <= aabb[3:])
    near = torch.where(is_parallel, torch.where(is_between, -torch.inf, torch.inf), near)
    far = torch.where(is_parallel, torch.where(is_between, torch.inf, -torch.inf), far)
    t_min, t_max = near.amax(-1).clamp_min(0), far.amin(-1)
    hits = t_min <= t_max
    return torch.where(hits, t_min, torch.inf), torch.where(hits, t_max, -torch.inf)


@torch.no_grad()
def march(
    rays: Rays, occupied_bits: Tensor, grid_size: int, options: Marching, jitter: Tensor, max_samples: int | None
) -> Samples:
    """See `kernels.march`. Walks all rays in step; each round of the loop is one interval of every living ray."""
    n_rays = len(rays)
    half = 0.5 * 2.0 ** (occupied_bits.shape[0] - 1)
    box = rays.rays_o.new_tensor([-half] * 3 + [half] * 3)
    entry, leave = ray_aabb(rays.rays_o, rays.rays_d, box)
    t_end = torch.minimum(rays.t_max, leave)
    t = torch.maximum(rays.t_min, entry).clamp_min(options.near)
    t = t + jitter * _interval(t, options)
    alive = torch.arange(n_rays, device=t.device)
    counts = torch.zeros(n_rays, dtype=torch.int64, device=t.device)
    kept: list[tuple[Tensor, Tensor, Tensor]] = [(alive[:0], t[:0], t[:0])]
    while len(alive):
        dt = _interval(t, options)
        middle, t_next = t + 0.5 * dt, t + dt
        # Far from the origin a step can vanish in rounding: such a ray ends instead of standing still.
        goes_on = (t < t_end[alive]) & (t_next > t)
        if max_samples is not None:
            goes_on &= counts[alive] < max_samples
        alive, t, t_next, middle = alive[goes_on], t[goes_on], t_next[goes_on], middle[goes_on]
        points = rays.rays_o[alive] + middle[:, None] * rays.rays_d[alive]
        keep = _is_occupied(points, occupied_bits, grid_size)
        kept.append((alive[keep], t[keep], t_next[keep]))
        counts[alive[keep]] += 1
        t = t_next
    ray_indices, t_starts, t_ends = (torch.cat(parts) for parts in zip(*kept, strict=True))
    order = torch.argsort(ray_indices, stable=True)  # rounds come in order of distance, so this keeps it within a ray
    packed_info = torch.stack([counts.cumsum(0) - counts, counts], dim=1)
    return Samples(ray_indices[order], t_starts[order], t_ends[order], packed_info)


def _interval(t: Tensor, options: Marching) -> Tensor:
    return (options.cone_angle * t).clamp(options.step, options.max_step)


def _is_occupied(points: Tensor, occupied_bits: Tensor, grid_size: int) -> Tensor:
    """Whether points [N,3] lie in occupied cells of their cascade."""
    blocks = grid_size // BLOCK
    edges = points.new_tensor([2.0**c for c in range(occupied_bits.shape[0])])
    reach = points.abs().amax(-1)
    is_inside = reach <= 0.5 * edges[-1]
    cascade = torch.where(is_inside, torch.bucketize(reach, 0.5 * edges), 0)
    unit = torch.where(is_inside[:, None], points / edges[cascade, None] + 0.5, 0)
    cells = (unit * grid_size).floor().long().clamp(0, grid_size - 1)
    x, y, z = (cells // BLOCK).unbind(-1)
    words = occupied_bits[cascade, (z * blocks + y) * blocks + x]
    x, y, z = (cells % BLOCK).unbind(-1)
    return is_inside & ((words >> (z * 16 + y * 4 + x)) & 1).bool()


def weights_of(sigmas: Tensor, samples: Samples) -> Tensor:
    """See `kernels.weights_of`."""
    depths = sigmas * (samples.t_ends - samples.t_starts)
    # expm1 keeps small opacities exact; a difference of cumulative sums would lose them behind a dense sample.
    return -torch.expm1(-depths) * torch.exp(-_sum_before(depths, samples))


def composite(sigmas: Tensor, rgbs: Tensor, samples: Samples, n_rays: int) -> RayOutputs:
    """See `kernels.composite`."""
    weights = weights_of(sigmas, samples)
    middles = 0.5 * (samples.t_starts + samples.t_ends)
    total_depth = _sum_per_ray(sigmas * (samples.t_ends - samples.t_starts), samples, n_rays)
    return RayOutputs(
        rgb=_sum_per_ray(weights[:, None] * rgbs, samples, n_rays),
        depth=_sum_per_ray(weights * middles, samples, n_rays),
        alpha=-torch.expm1(-total_depth),
    )


def distortion(weights: Tensor, samples: Samples) -> Tensor:
    """See `kernels.distortion`."""
    return spread(weights, 0.5 * (samples.t_starts + samples.t_ends), samples.t_ends - samples.t_starts, samples)


def spread(weights: Tensor, middles: Tensor, lengths: Tensor, samples: Samples) -> Tensor:
    """The distortion of intervals given by midpoints and lengths; of `samples`, only which ray has which counts."""
    # Only differences of midpoints count; measured from the ray's first sample they keep more digits.
    middles = middles - middles[samples.packed_info[samples.ray_indices, 0]]
    before, moment_before = _sum_before(weights, samples), _sum_before(weights * middles, samples)
    between = 2 * weights * (middles * before - moment_before)
    within = weights.square() * lengths / 3
    return _sum_per_ray(between + within, samples, samples.n_rays)


@torch.no_grad()
def occ_refresh(density_grid: Tensor, cells: Tensor, sigmas: Tensor, decay: float, out: Tensor) -> Tensor:
    """See `kernels.occ_refresh`."""
    sigmas = torch.where(sigmas.isnan(), 0, sigmas)
    return out.copy_((density_grid * decay).scatter_reduce(0, cells, sigmas, reduce="amax"))


def occ_pack(density_grid: Tensor, reachable: Tensor, grid_size: int, threshold: float) -> Tensor:
    """See `kernels.occ_pack`."""
    is_dense = (density_grid.detach() > threshold).reshape(-1, grid_size, grid_size, grid_size)
    return pack_bits(is_dense) & reachable


def occ_select(words: Tensor, grid_size: int, ranks: Tensor) -> Tensor:
    """See `kernels.occ_select`."""
    cells = torch.arange(words.numel() * BLOCK**3, device=words.device)
    per_side = (len(words), grid_size // BLOCK, BLOCK, grid_size // BLOCK, BLOCK, grid_size // BLOCK, BLOCK)
    by_word = cells.reshape(per_side).permute(0, 1, 3, 5, 2, 4, 6).reshape(words.numel(), BLOCK**3)
    bits = (words.reshape(-1, 1) >> torch.arange(BLOCK**3, device=words.device)) & 1
    return by_word[bits.bool()][ranks]


def _sum_per_ray(values: Tensor, samples: Samples, n_rays: int) -> Tensor:
    return values.new_zeros(n_rays, *values.shape[1:]).index_add(0, samples.ray_indices, values)


def _sum_before(values: Tensor, samples: Samples) -> Tensor:
    """Sum of the samples in front of each sample on the same ray, by doubling: log2(longest ray) rounds."""
    longest = int(samples.packed_info[:, 1].max()) if len(samples) else 0
    sums, reach = _shift(values, 1, samples), 1
    while reach < longest:
        sums = sums + _shift(sums, reach, samples)
        reach *= 2
    return sums


def _shift(values: Tensor, places: int, samples: Samples) -> Tensor:
    """Values of the sample `places` earlier on the same ray; zero where the ray has none."""
    if places >= len(values):
        return torch.zeros_like(values)
    is_same_ray = samples.ray_indices[places:] == samples.ray_indices[:-places]
    return torch.nn.functional.pad(torch.where(is_same_ray, values[:-places], 0), (places, 0))
