"""A small field, rays and occupancy as the CUDA kernels take them; memory is poisoned before a kernel writes to it."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nerfstudio_ext.kernels import FieldTensors, GridLayout, Marching, Occupancy, cuda_params, pack_bits, ray_aabb
from nerfstudio_ext.kernels.cuda_sizes import FieldSizes
from nerfstudio_ext.rays import Rays

from . import host_kernels

POISON = float("nan")
NAMES = ("table", "d1", "d2", "c1", "c2", "c3")


def poisoned(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Memory that holds what no kernel would write."""
    if dtype.is_floating_point:
        return torch.full(shape, POISON, dtype=dtype)
    return torch.full(shape, -77, dtype=dtype)


def address(tensor: Tensor | None) -> int | None:
    """Where a tensor's numbers lie."""
    if tensor is None:
        return None
    assert tensor.is_contiguous()
    return tensor.data_ptr()


def rounded_to_half(field: FieldTensors) -> FieldTensors:
    """The field whose numbers the kernels see."""
    return replace(field, **{name: getattr(field, name).half().float() for name in NAMES})


def make_field(
    layout: GridLayout, hidden: int, color_hidden: int, aabb_scale: float = 2.0, density: float = 1.0, seed: int = 3
) -> FieldTensors:
    """A random field; `density` scales the logits."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator) / shape[0] ** 0.5

    table = torch.randn(layout.n_rows, layout.n_features, generator=generator)
    return FieldTensors(
        layout, table, normal(layout.n_outputs, hidden), density * normal(hidden, 16), normal(32, color_hidden),
        normal(color_hidden, color_hidden), normal(color_hidden, 3), aabb_scale,
    )  # fmt: skip


def grid_of(layout: GridLayout, table: Tensor) -> ctypes.Structure:
    """A hash grid as an argument."""
    dense = sum(1 << level for level, is_dense in enumerate(layout.is_dense) if is_dense)
    n = layout.n_levels
    spare = cuda_params.MAX_LEVELS - n
    return cuda_params.HashGrid(
        address(table), 2**layout.log2_table - 1, dense, (ctypes.c_float * 16)(*layout.scales, *[0.0] * spare),
        (ctypes.c_uint32 * 16)(*(resolution + 1 for resolution in layout.resolutions), *[0] * spare),
        (ctypes.c_uint32 * 16)(*layout.offsets[:n], *[0] * spare),
    )  # fmt: skip


@dataclass(frozen=True)
class HostField:
    """A field packed by `cast_table` and `pack_networks`; keeps the memory its `view` points to."""

    field: FieldTensors
    sizes: FieldSizes
    half_table: Tensor
    forward: Tensor
    backward: Tensor

    @property
    def grid(self) -> ctypes.Structure:
        """The hash grid as an argument."""
        return grid_of(self.field.layout, self.half_table)

    @property
    def view(self) -> ctypes.Structure:
        """The field as an argument."""
        return cuda_params.FieldView(
            self.grid, address(self.forward), address(self.backward), 1 / self.field.aabb_scale
        )


def pack_field(field: FieldTensors, backward_warps: int = 8) -> HostField:
    """Round and pack a field by the kernels that do it."""
    layout = field.layout
    sizes = FieldSizes(layout.n_levels, layout.n_features, field.d1.shape[1], field.c1.shape[1], backward_warps)
    words = poisoned(max(sizes.forward_words, sizes.backward_words) + 8, dtype=torch.int32)
    forward, backward = words.clone(), words.clone()
    half = poisoned(field.table.numel() // 2, dtype=torch.int32)
    n = field.table.numel()
    cast = cuda_params.CastTable(address(field.table), address(half), n)
    host_kernels("adam.cu").launch("cast_table", cast, -(-n // 512), 256)
    pack = cuda_params.PackNetworks(*(address(w) for w in field.tensors[1:]), address(forward), address(backward))
    blocks = -(-max(sizes.forward_words, sizes.backward_words) // 256)
    host_kernels("pack.cu", sizes.defines).launch("pack_networks", pack, blocks, 256)
    assert torch.equal(half.view(torch.float16), field.table.clamp(-65504, 65504).half().flatten())
    assert (forward[sizes.forward_words :] == -77).all() and (backward[sizes.backward_words :] == -77).all()
    return HostField(field, sizes, half, forward, backward)


@dataclass(frozen=True)
class View:
    """Rays with all that training wants to know about them, and where to look."""

    rays: Rays
    jitter: Tensor
    target: Tensor
    background: Tensor
    occupancy: Occupancy

    @property
    def ray_list(self) -> ctypes.Structure:
        """The rays as an argument."""
        parts = (self.rays.rays_o, self.rays.rays_d, self.rays.t_min, self.rays.t_max)
        return cuda_params.RayList(*(address(part) for part in parts), len(self.rays))

    @property
    def bits(self) -> ctypes.Structure:
        """The occupancy as an argument."""
        words = self.occupancy.bits
        return cuda_params.Bits(address(words), len(words), self.occupancy.grid_size)


def make_view(n_rays: int, n_cascades: int = 2, share: float = 0.3, grid_size: int = 16, seed: int = 5) -> View:
    """Rays from around a scene, some of which miss it; `share` of the cells are occupied."""
    generator = torch.Generator().manual_seed(seed)
    rays_o = 1.5 * torch.randn(n_rays, 3, generator=generator)
    aim = 0.3 * torch.randn(n_rays, 3, generator=generator) - rays_o
    aim[3::7] *= -1  # these look away
    rays_d = torch.nn.functional.normalize(aim, dim=-1)
    half = 2.0 ** (n_cascades - 2)
    t_min, t_max = ray_aabb(rays_o, rays_d, torch.tensor([-half] * 3 + [half] * 3), backend="reference")
    cells = torch.rand(n_cascades, grid_size, grid_size, grid_size, generator=generator) < share
    return View(
        Rays(rays_o, rays_d, t_min, t_max),
        torch.rand(n_rays, generator=generator),
        torch.rand(n_rays, 3, generator=generator),
        torch.rand(n_rays, 3, generator=generator),
        Occupancy(pack_bits(cells), grid_size),
    )


def lattice_of(marching: Marching) -> ctypes.Structure:
    """The lattice as an argument."""
    return cuda_params.Lattice(marching.step, marching.cone_angle, marching.max_step, marching.near)
