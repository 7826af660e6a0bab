"""Which cells of the scene may hold something, kept up to date from the field while it trains."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from .. import kernels
from ..cameras import Camera, Cameras
from ..kernels import count_bits, pack_bits
from ..kernels.layouts import BLOCK

SWEEP_STEPS = frozenset((16, 32, 48, 64, 96, 128, 160, 192, 224))
"""Steps after which every cell is evaluated anew: the field changes fast, and decay alone would keep ghosts."""
REFRESH_FROM, REFRESH_EVERY = 256, 16
DECAY = 0.95
SHARE = 32
"""A refresh looks at one reachable cell in so many at random, and at as many of the occupied ones."""
MOST_LOOKS = 1 << 17
"""A refresh looks at no more cells of either kind: large scenes would spend their training on empty space."""
CHUNK = 1 << 18

DensityFn = Callable[[Float[Tensor, "N 3"]], Float[Tensor, " N"]]


class OccupancyGrid(nn.Module):
    """Density seen in the cells of nested cubes, and one bit per cell where it matters.

    Cascade c covers the cube of edge 2^c around the origin with G^3 cells; the part of it that cascade c - 1 covers
    is never looked at.

    Args:
        n_cascades: Cubes C; the outermost has edge 2^(C - 1).
        grid_size: Cells per axis G, a multiple of 16.
        depth_threshold: A cell counts as occupied when one marching step through it has at least this optical depth,
            or when it is denser than the mean, whichever is less.
        step: Marching step in scene units of the innermost cube.
    """

    density: Tensor
    bits: Tensor
    reachable: Tensor
    _reachable_bits: Tensor

    def __init__(self, n_cascades: int, grid_size: int, step: float, depth_threshold: float = 0.01) -> None:
        super().__init__()
        self.n_cascades, self.grid_size, self.threshold = n_cascades, grid_size, depth_threshold / step
        cells = n_cascades * grid_size**3
        reachable = torch.ones(n_cascades, grid_size, grid_size, grid_size, dtype=torch.bool)
        inner = slice(grid_size // 4, grid_size - grid_size // 4)
        reachable[1:, inner, inner, inner] = False
        self.register_buffer("density", torch.zeros(cells))
        self.register_buffer("reachable", reachable.flatten())
        self.register_buffer("bits", pack_bits(reachable))
        # Follows from `reachable`: moves between devices with it, but is no part of a checkpoint.
        self.register_buffer("_reachable_bits", self.bits.clone(), persistent=False)
        self._note_reachable()
        self.register_load_state_dict_post_hook(lambda grid, _: grid._note_reachable())

    @torch.no_grad()
    def restrict_to_views(self, cameras: Cameras, near: float) -> None:
        """Mark what no camera sees, or only nearer than `near`, as empty for good; in blocks, generously."""
        grid = torch.arange(self.grid_size // BLOCK, dtype=torch.float32)
        unit = (torch.stack(torch.meshgrid(grid, grid, grid, indexing="ij"), -1).flip(-1) + 0.5) * BLOCK
        centres = unit.reshape(-1, 3) / self.grid_size - 0.5
        is_seen = torch.zeros(self.n_cascades, len(centres), dtype=torch.bool)
        for cascade in range(self.n_cascades):
            radius = 0.5 * 3**0.5 * BLOCK / self.grid_size * 2**cascade
            for camera in cameras:
                is_seen[cascade] |= _sees(camera, centres * 2**cascade, radius, near)
        blocks = self.grid_size // BLOCK
        cells = is_seen.reshape(self.n_cascades, blocks, blocks, blocks)
        for dim in (1, 2, 3):
            cells = cells.repeat_interleave(BLOCK, dim)
        self.reachable &= cells.flatten()
        self._note_reachable()
        self.bits.copy_(self._reachable_bits)

    @torch.no_grad()
    def allow_everywhere(self) -> None:
        """Take `restrict_to_views` back: things may also be where no camera looks."""
        inner = slice(self.grid_size // 4, self.grid_size - self.grid_size // 4)
        reachable = torch.ones(self.n_cascades, self.grid_size, self.grid_size, self.grid_size, dtype=torch.bool)
        reachable[1:, inner, inner, inner] = False
        self.reachable.copy_(reachable.flatten())
        self._note_reachable()
        self.bits.copy_(self._reachable_bits)

    def occupancy(self) -> kernels.Occupancy:
        """The bits as the kernels take them."""
        return kernels.Occupancy(self.bits, self.grid_size)

    @property
    def share(self) -> float:
        """Occupied share of the cells of all cascades."""
        return count_bits(self.bits) / self.density.numel()

    def warm_up(self) -> None:
        """Compile or load the kernels of `update`; changes no state."""
        one, first = self.density[:1], self.bits.new_zeros(1)
        kernels.occ_refresh(one, first, one, 1.0)
        kernels.occ_select(self._packed(self.density, 0.0), self.grid_size, first[:0])

    @torch.no_grad()
    def update(self, step: int, density_fn: DensityFn, generator: torch.Generator) -> bool:
        """Refresh after training step `step` where the schedule says so; returns whether it did."""
        if step in SWEEP_STEPS:
            self._sweep(density_fn, generator)
        elif step >= REFRESH_FROM and step % REFRESH_EVERY == 0:
            cells = self._some_cells(generator)
            sigmas = self._evaluate(cells, density_fn, generator)
            kernels.occ_refresh(self.density, cells, sigmas, DECAY, self.density)
        else:
            return False
        mean = float(self.density.sum()) / max(self._n_reachable, 1)
        self.bits.copy_(self._packed(self.density, min(self.threshold, mean)))
        return True

    def _sweep(self, density_fn: DensityFn, generator: torch.Generator) -> None:
        """Replace all densities, eight neighbours at a time: a young field has no detail below that."""
        g, half = self.grid_size, self.grid_size // 2
        coarse = torch.arange(self.n_cascades * half**3, device=self.density.device)
        x, y, z = coarse % half, coarse // half % half, coarse // half**2
        lower = (z * 2 * g + y * 2) * g + x * 2
        is_reachable = self.reachable[lower]
        for offset in (1, g, g + 1, g * g, g * g + 1, g * g + g, g * g + g + 1):
            is_reachable |= self.reachable[lower + offset]
        found = self.density.new_zeros(len(coarse))
        found[is_reachable] = self._evaluate(lower[is_reachable], density_fn, generator, cells_per_axis=2)
        shaped = found.reshape(self.n_cascades, half, half, half)
        for dim in (1, 2, 3):
            shaped = shaped.repeat_interleave(2, dim)
        self.density.copy_(shaped.flatten() * self.reachable)

    def _some_cells(self, generator: torch.Generator) -> Int64[Tensor, " K"]:
        """One in `SHARE` of the reachable cells and as many occupied ones, evenly spread; neighbours stay together."""
        n = min(self._n_reachable // SHARE, MOST_LOOKS)
        cells = []
        for words, n_set in ((self._reachable_bits, self._n_reachable), (self.bits, count_bits(self.bits))):
            k = min(n, n_set)
            ranks = ((torch.arange(k) + torch.rand(k, generator=generator)) * (n_set / max(k, 1))).long()
            ranks = ranks.clamp_max(n_set - 1).to(words.device)
            cells.append(kernels.occ_select(words, self.grid_size, ranks))
        return torch.cat(cells)

    def _evaluate(
        self, cells: Int64[Tensor, " K"], density_fn: DensityFn, generator: torch.Generator, cells_per_axis: int = 1
    ) -> Float[Tensor, " K"]:
        """Densities at a random place in each cell, or in the cube of so many cells that begins there."""
        g = self.grid_size
        parts = []
        for part in cells.split(CHUNK):
            edge = 2.0 ** (part // g**3).float()
            index = torch.stack([part % g, part // g % g, part // g**2 % g], -1).float()
            places = torch.rand(len(part), 3, generator=generator).to(part.device)
            unit = (index + cells_per_axis * places) / g - 0.5
            parts.append(density_fn(unit * edge[:, None]))
        return torch.cat(parts) if parts else self.density[:0]

    def _note_reachable(self) -> None:
        """What follows from `reachable`."""
        cubes = self.reachable.reshape(self.n_cascades, self.grid_size, self.grid_size, self.grid_size)
        self._reachable_bits = pack_bits(cubes)
        self._n_reachable = count_bits(self._reachable_bits)

    def _packed(self, density: Float[Tensor, " N"], threshold: float) -> Int64[Tensor, "C B"]:
        return kernels.occ_pack(density, self._reachable_bits, self.grid_size, threshold)


def _sees(camera: Camera, centres: Float[Tensor, "N 3"], radius: float, near: float) -> Bool[Tensor, " N"]:
    """Whether a sphere around each centre may lie in a camera's view and not wholly nearer than `near`."""
    distance = (centres - camera.c2w[:, 3].float()).norm(dim=-1)
    is_near_enough = distance + radius > near
    if camera.lens.kind in ("equirectangular", "fisheye"):
        return is_near_enough
    uv, depth = camera.project(centres)
    size = torch.tensor([camera.width, camera.height], dtype=torch.float32)
    margin = (radius * float(camera.K[0, 0]) / depth.clamp_min(radius))[:, None]
    in_view = ((uv > -margin) & (uv < size + margin)).all(-1)
    # Lens polynomials fold back far outside the picture; nothing there is seen.
    local = (centres - camera.c2w[:, 3].float()) @ camera.c2w[:, :3].float()
    plain = (local @ camera.K.float().T)[:, :2] / depth.clamp_min(1e-6)[:, None]
    in_view &= ((plain > -0.3 * size - margin) & (plain < 1.3 * size + margin)).all(-1)
    return is_near_enough & ((in_view & (depth > 0)) | (distance < 2 * radius))
