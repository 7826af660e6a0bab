"""Arguments of the CUDA kernels as ctypes structures: the mirror of `csrc/params.cuh`, field by field.

A kernel takes one structure by value. Pointers are device addresses (`Tensor.data_ptr()`), None is null. Meaning and
shapes stand beside the fields in `csrc/params.cuh`; `tests/kernels/test_cuda_host.py` compares the sizes of both.
"""

from __future__ import annotations

import ctypes
from ctypes import c_float, c_uint32, c_void_p
from typing import Any

MAX_LEVELS = 16


def _struct(name: str, **fields: Any) -> type[ctypes.Structure]:
    return type(name, (ctypes.Structure,), {"_fields_": list(fields.items())})


_P, _U, _F = c_void_p, c_uint32, c_float

RayList = _struct("RayList", origins=_P, directions=_P, t_min=_P, t_max=_P, n_rays=_U)
Bits = _struct("Bits", words=_P, n_cascades=_U, grid_size=_U)
Lattice = _struct("Lattice", step=_F, cone_angle=_F, max_step=_F, near=_F)
SampleList = _struct("SampleList", t_starts=_P, t_ends=_P, rays=_P, count=_P)
HashGrid = _struct(
    "HashGrid", table=_P, mask=_U, dense_levels=_U, scales=_F * MAX_LEVELS, extents=_U * MAX_LEVELS,
    offsets=_U * MAX_LEVELS,
)  # fmt: skip
FieldView = _struct("FieldView", grid=HashGrid, forward=_P, backward=_P, unit_scale=_F)
MarchCount = _struct("MarchCount", rays=RayList, bits=Bits, lattice=Lattice, jitter=_P, max_samples=_U, counts=_P)
ScanCounts = _struct("ScanCounts", counts=_P, n=_U, capacity=_U, packed_info=_P, totals=_P)
MarchWrite = _struct(
    "MarchWrite", rays=RayList, bits=Bits, lattice=Lattice, jitter=_P, packed_info=_P, t_starts=_P, t_ends=_P,
    ray_indices=_P,
)  # fmt: skip
FieldForward = _struct("FieldForward", field=FieldView, rays=RayList, samples=SampleList, colors_sigmas=_P, features=_P)
FieldAlong = _struct(
    "FieldAlong", field=FieldView, rays=RayList, packed_info=_P, t_starts=_P, t_ends=_P, stop_transmittance=_F,
    queue=_P, colors_sigmas=_P, features=_P,
)  # fmt: skip
FieldDensity = _struct("FieldDensity", field=FieldView, x=_P, n=_U, sigmas=_P)
StepLoss = _struct(
    "StepLoss", packed_info=_P, t_starts=_P, t_ends=_P, colors_sigmas=_P, target=_P, background=_P, n_rays=_U,
    stop_transmittance=_F, huber=_F, distortion=_F, near_fade=_F, loss_scale=_F, logit_gradients=_P, ray_losses=_P,
    seen_counts=_P, outputs=_P,
)  # fmt: skip
ListSeen = _struct("ListSeen", packed_info=_P, seen_info=_P, n_rays=_U, seen=_P)
FieldBackward = _struct(
    "FieldBackward", field=FieldView, rays=RayList, samples=SampleList, features=_P, logit_gradients=_P, seen=_P,
    n_seen=_P, feature_gradients=_P, partials=_P, direction_gradients=_P, inverse_loss_scale=_F,
)  # fmt: skip
ReduceNetworks = _struct("ReduceNetworks", partials=_P, n_blocks=_U, inverse_loss_scale=_F, gradients=_P)
GridBackward = _struct(
    "GridBackward", grid=HashGrid, rays=RayList, samples=SampleList, seen=_P, n_seen=_P, feature_gradients=_P,
    unit_scale=_F, inverse_loss_scale=_F, table_gradients=_P, position_gradients=_P,
)  # fmt: skip
TableToFloat = _struct("TableToFloat", fixed=_P, n=_U, inverse_loss_scale=_F, gradients=_P)
PackNetworks = _struct("PackNetworks", d1=_P, d2=_P, c1=_P, c2=_P, c3=_P, forward=_P, backward=_P)
CastTable = _struct("CastTable", table=_P, half_pairs=_P, n=_U)
Adam = _struct(
    "Adam", master=_P, gradient=_P, first=_P, second=_P, half_pairs=_P, n=_U, skip_untouched=_U, beta1=_F, beta2=_F,
    eps=_F, clock=_P, n_bad=_P,
)  # fmt: skip
AdamClock = _struct("AdamClock", clock=_P, rate=_P, n_bad=_P, beta1=_F, beta2=_F)
CountBad = _struct("CountBad", values=_P, n=_U, n_bad=_P)
RenderFused = _struct(
    "RenderFused", field=FieldView, rays=RayList, bits=Bits, lattice=Lattice, stop_transmittance=_F,
    background=_F * 3, image_width=_U, image_height=_U, queue=_P, cancel=_P, rgb=_P, depth=_P, alpha=_P,
)  # fmt: skip
OccRefresh = _struct("OccRefresh", density_grid=_P, out=_P, n=_U, decay=_F, cells=_P, sigmas=_P, n_cells=_U)
OccPack = _struct("OccPack", density_grid=_P, reachable=_P, words=_P, n_words=_U, grid_size=_U, threshold=_F)
OccSelect = _struct("OccSelect", words=_P, population=_P, n_words=_U, grid_size=_U, ranks=_P, cells=_P, n_ranks=_U)
Composite = _struct(
    "Composite", sigmas=_P, rgbs=_P, t_starts=_P, t_ends=_P, packed_info=_P, n_rays=_U, weights=_P, rgb=_P, depth=_P,
    alpha=_P,
)  # fmt: skip
CompositeBackward = _struct(
    "CompositeBackward", sigmas=_P, rgbs=_P, t_starts=_P, t_ends=_P, packed_info=_P, n_rays=_U, d_weights=_P, d_rgb=_P,
    d_depth=_P, d_alpha=_P, d_sigmas=_P, d_rgbs=_P, d_starts=_P, d_ends=_P,
)  # fmt: skip
RayBox = _struct("RayBox", origins=_P, directions=_P, box=_P, n_rays=_U, t_min=_P, t_max=_P)
HashEncode = _struct(
    "HashEncode", grid=HashGrid, x_unit=_P, n=_U, features=_P, d_features=_P, table_gradients=_P, position_gradients=_P
)

STRUCTURES: tuple[type[ctypes.Structure], ...] = (
    RayList, Bits, Lattice, SampleList, HashGrid, FieldView, MarchCount, ScanCounts, MarchWrite, FieldForward,
    FieldDensity, StepLoss, ListSeen, FieldBackward, ReduceNetworks, GridBackward, PackNetworks, CastTable, Adam,
    AdamClock, CountBad, RenderFused, OccRefresh, OccPack, OccSelect, TableToFloat, Composite, CompositeBackward,
    RayBox, HashEncode, FieldAlong,
)  # fmt: skip
"""All of them, for the test that compares their sizes with the compiler's."""

KERNELS: dict[str, dict[str, type[ctypes.Structure]]] = {
    "march.cu": {"march_count": MarchCount, "scan_counts": ScanCounts, "march_write": MarchWrite},
    "field.cu": {"field_forward": FieldForward, "field_along": FieldAlong, "field_density": FieldDensity},
    "composite.cu": {"step_loss": StepLoss, "list_seen": ListSeen},
    "backward.cu": {"field_backward": FieldBackward, "reduce_networks": ReduceNetworks},
    "pack.cu": {"pack_networks": PackNetworks},
    "grid.cu": {"grid_backward": GridBackward, "grid_positions": GridBackward, "table_to_float": TableToFloat},
    "adam.cu": {"cast_table": CastTable, "count_bad": CountBad, "adam_clock": AdamClock, "adam": Adam},
    "render.cu": {"render_fused": RenderFused},
    "rays.cu": {"ray_box": RayBox, "composite": Composite, "composite_backward": CompositeBackward},
    "hash.cu": {"hash_forward": HashEncode, "hash_backward": HashEncode, "hash_positions": HashEncode},
    "occupancy.cu": {
        "occ_decay": OccRefresh, "occ_raise": OccRefresh, "occ_pack": OccPack, "occ_population": OccSelect,
        "occ_select": OccSelect,
    },
}  # fmt: skip
"""The kernels of each source file and the structure each takes."""
