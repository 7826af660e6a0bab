"""Tensors as the structures that the CUDA kernels take. Who calls keeps the tensors alive until the launch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..rays import Rays
from . import cuda_params
from .cuda_launch import Launcher, floats, launcher, longs, sizes_of, words
from .cuda_params import MAX_LEVELS
from .cuda_sizes import FieldSizes
from .fused import FieldTensors, Occupancy
from .layouts import GridLayout, Marching

HALF_WORDS = torch.int32
"""Pairs of half-precision numbers and matrix fragments are kept as 32-bit words."""


def shape_of(field: FieldTensors) -> FieldSizes:
    """Sizes of a field, as its device can run it.

    Raises:
        UserError: if the kernels cannot be built for them.
    """
    sizes = sizes_of(field.layout.n_levels, field.layout.n_features, field.d1.shape[1], field.c1.shape[1])
    return launcher(field.table.device).fitted(sizes)


def contiguous_rays(rays: Rays) -> Rays:
    """The rays with all tensors contiguous and without history."""
    parts = (rays.rays_o, rays.rays_d, rays.t_min, rays.t_max)
    return Rays(*(part.detach().contiguous() for part in parts))


def ray_list(rays: Rays) -> Any:
    """Contiguous rays."""
    return cuda_params.RayList(
        floats(rays.rays_o), floats(rays.rays_d), floats(rays.t_min), floats(rays.t_max), len(rays)
    )


def bits_of(occupancy: Occupancy) -> Any:
    """Occupancy with contiguous words."""
    return cuda_params.Bits(longs(occupancy.bits), occupancy.bits.shape[0], occupancy.grid_size)


def lattice_of(marching: Marching) -> Any:
    """The lattice of samples."""
    return cuda_params.Lattice(marching.step, marching.cone_angle, marching.max_step, marching.near)


def hash_grid(layout: GridLayout, table: int | None) -> Any:
    """A grid with the address of its table."""

    def row(values: tuple[int, ...] | tuple[float, ...]) -> tuple[float, ...]:
        return (*values, *(0,) * (MAX_LEVELS - layout.n_levels))

    dense = sum(1 << level for level, is_dense in enumerate(layout.is_dense) if is_dense)
    grid = cuda_params.HashGrid(table=table, mask=2**layout.log2_table - 1, dense_levels=dense)
    grid.scales[:] = row(layout.scales)
    grid.extents[:] = [int(value) for value in row(tuple(resolution + 1 for resolution in layout.resolutions))]
    grid.offsets[:] = [int(value) for value in row(layout.offsets[:-1])]
    return grid


@dataclass(frozen=True)
class HalfField:
    """A field as the kernels read it: the table in half precision, the matrices in the order of tensor-core fragments.

    Attributes:
        layout: The hash grid.
        shape: Sizes.
        table: Half pairs, in the order of the full-precision table.
        forward: Fragments of the matrices.
        backward: Fragments of their transposes.
        unit_scale: 1 / edge of the field's cube.
    """

    layout: GridLayout
    shape: FieldSizes
    table: Tensor
    forward: Tensor
    backward: Tensor
    unit_scale: float

    @staticmethod
    def empty(field: FieldTensors) -> HalfField:
        """Memory for a field, not filled."""
        shape, device = shape_of(field), field.table.device

        def memory(n: int) -> Tensor:
            return torch.empty(n, dtype=HALF_WORDS, device=device)

        table, forward, backward = map(memory, (field.table.numel() // 2, shape.forward_words, shape.backward_words))
        return HalfField(field.layout, shape, table, forward, backward, 1.0 / field.aabb_scale)

    def grid(self) -> Any:
        """The grid as an argument."""
        return hash_grid(self.layout, words(self.table))

    def view(self) -> Any:
        """The field as an argument."""
        return cuda_params.FieldView(self.grid(), words(self.forward), words(self.backward), self.unit_scale)

    def fill(self, launch: Launcher, field: FieldTensors) -> None:
        """Queue the conversion of a field's present values."""
        table, *matrices = (tensor.detach() for tensor in field.tensors)
        launch("cast_table", cuda_params.CastTable(floats(table), words(self.table), table.numel()), table.numel())
        self.pack(launch, matrices)

    def pack(self, launch: Launcher, matrices: list[Tensor]) -> None:
        """Queue the conversion of the five matrices."""
        addresses = [floats(matrix) for matrix in matrices]
        arguments = cuda_params.PackNetworks(*addresses, words(self.forward), words(self.backward))
        n_words = max(len(self.forward), len(self.backward))
        launch("pack_networks", arguments, n_words, self.shape)
