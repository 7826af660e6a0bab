"""The CUDA kernels, run on the CPU, against the float64 reference: march, field, densities.

The reference sees tables and matrices rounded to halves, as the kernels do; what remains is the rounding of features
and of activations to halves between the layers (11 bits), and of sums to float.
"""

from __future__ import annotations

import ctypes
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from nerfstudio_ext import kernels
from nerfstudio_ext.kernels import GridLayout, Marching, cuda_params, reference_fused
from nerfstudio_ext.rays import Samples

from .cuda_on_host import host_kernels, missing
from .cuda_on_host.scene import (
    HostField,
    View,
    address,
    lattice_of,
    make_field,
    make_view,
    pack_field,
    poisoned,
    rounded_to_half,
)
from .tolerances import Tolerance

pytestmark = pytest.mark.skipif(bool(missing()), reason=f"CUDA kernels on the CPU: {missing()}")

HALF_NETWORKS = Tolerance(
    4e-3, "five layers whose inputs are rounded to 2^-12 each, in sums of up to 64 terms that partly cancel"
)
LAYOUT = GridLayout(n_levels=6, n_features=2, log2_table=10, base_resolution=4, finest_resolution=32)
MARCHING = Marching(step=0.04, cone_angle=1 / 128, max_step=0.2, near=0.0)
ALL = 0xFFFFFFFF


def test_structures_have_the_compiler_s_sizes() -> None:
    sizes = [ctypes.sizeof(structure) for structure in cuda_params.STRUCTURES]
    assert host_kernels("march.cu").structure_sizes() == sizes


def test_halves_are_rounded_as_torch_rounds_them() -> None:
    """What all other comparisons rest on: every half, what lies in the middle of two, and what lies beside that."""
    halves = torch.arange(0x7C00, dtype=torch.int32).to(torch.int16).view(torch.float16).float()
    middles = 0.5 * (halves[1:] + halves[:-1])
    beside = [torch.nextafter(middles, torch.full_like(middles, end)) for end in (0.0, torch.inf)]
    values = torch.cat([halves, middles, *beside, torch.tensor([7e4, 1e30, torch.inf, 1e-9, 1e-30])])
    values = torch.cat([values, -values])
    found = poisoned(len(values) // 2, dtype=torch.int32)
    arguments = cuda_params.CastTable(address(values), address(found), len(values))
    host_kernels("adam.cu").launch("cast_table", arguments, -(-len(values) // 512), 256)
    assert torch.equal(found.view(torch.float16), values.clamp(-65504, 65504).half())


def march(view: View, marching: Marching, room: int = 100_000, limit: int = ALL) -> tuple[Samples, Tensor]:
    """All samples of the rays, and the totals (kept, dropped, wanted)."""
    library = host_kernels("march.cu")
    n, lattice = len(view.rays), lattice_of(marching)
    counts = poisoned(n, dtype=torch.int32)
    packed, totals = poisoned(n, 2, dtype=torch.int32), poisoned(3, dtype=torch.int32)
    count = cuda_params.MarchCount(view.ray_list, view.bits, lattice, address(view.jitter), limit, address(counts))
    library.launch("march_count", count, -(-n // 128), 128)
    scan = cuda_params.ScanCounts(address(counts), n, room, address(packed), address(totals))
    library.launch("scan_counts", scan, 1, 1024)
    total = int(totals[0])
    t_starts, t_ends = poisoned(total + 1), poisoned(total + 1)
    ray_indices = poisoned(total + 1, dtype=torch.int32)
    write = cuda_params.MarchWrite(
        view.ray_list, view.bits, lattice, address(view.jitter), address(packed), address(t_starts), address(t_ends),
        address(ray_indices),
    )  # fmt: skip
    library.launch("march_write", write, -(-n // 128), 128)
    assert t_starts[-1].isnan() and t_ends[-1].isnan() and ray_indices[-1] == -77
    return Samples(ray_indices[:-1].long(), t_starts[:-1], t_ends[:-1], packed.long()), totals


@pytest.mark.parametrize("cone_angle", [0.0, 1 / 128])
@pytest.mark.parametrize(
    "n_rays, n_cascades, share", [(1, 1, 0.3), (31, 2, 0.3), (127, 2, 0.1), (127, 3, 1.0), (127, 1, 0.0)]
)
def test_march_is_the_reference_s(n_rays: int, n_cascades: int, share: float, cone_angle: float) -> None:
    view = make_view(n_rays, n_cascades, share)
    marching = Marching(step=0.01, cone_angle=cone_angle, max_step=0.05 if cone_angle else 0.01, near=0.2)
    bits, size = view.occupancy.bits, view.occupancy.grid_size
    truth = kernels.march(view.rays, bits, size, marching, view.jitter, backend="reference")
    found, totals = march(view, marching)
    assert totals.tolist() == [len(found), 0, len(found)]
    assert torch.equal(found.packed_info, truth.packed_info)
    assert torch.equal(found.ray_indices, truth.ray_indices)
    assert torch.equal(found.t_starts, truth.t_starts) and torch.equal(found.t_ends, truth.t_ends)
    assert (len(found) == 0) == (share == 0)


def test_march_keeps_the_first_samples_of_a_ray() -> None:
    view = make_view(127)
    bits, size = view.occupancy.bits, view.occupancy.grid_size
    truth = kernels.march(view.rays, bits, size, MARCHING, view.jitter, 3, backend="reference")
    found, _ = march(view, MARCHING, limit=3)
    assert torch.equal(found.t_starts, truth.t_starts) and torch.equal(found.packed_info, truth.packed_info)


def test_impossible_rays_are_empty() -> None:
    view = make_view(31, share=1.0)
    rays = view.rays
    rays.rays_o[0], rays.rays_o[1], rays.rays_d[2], rays.t_min[3] = torch.nan, torch.inf, torch.nan, torch.nan
    rays.t_max[4], rays.t_min[5], rays.t_max[5] = torch.nan, 3.0, 3.0
    rays.rays_o[6] = torch.tensor([1e6, 0, 0])
    rays.rays_d[6] = torch.tensor([-1.0, 0, 0])
    rays.t_min[6], rays.t_max[6] = 0, torch.inf
    found, _ = march(replace(view), MARCHING)
    assert (found.packed_info[:6, 1] == 0).all()
    truth = kernels.march(rays, view.occupancy.bits, 16, MARCHING, view.jitter, backend="reference")
    assert torch.equal(found.packed_info, truth.packed_info)


def test_rays_without_room_are_dropped_whole() -> None:
    view = make_view(1500, share=0.2)
    all_of_them, _ = march(view, MARCHING)
    room = len(all_of_them) // 3
    found, totals = march(view, MARCHING, room=room)
    kept = found.packed_info[:, 1] >= 0
    wanted = all_of_them.packed_info[:, 1]
    assert torch.equal(kept, (wanted.cumsum(0) <= room) | (wanted == 0))
    assert totals.tolist() == [int(wanted[kept].sum()), int((~kept).sum()), len(all_of_them)]
    assert torch.equal(found.t_starts, all_of_them.t_starts[: int(totals[0])])


def forward(field: HostField, view: View, samples: Samples, blocks: int = 2) -> tuple[Tensor, Tensor]:
    """Colours and densities [S,4] of samples, and their features."""
    n = len(samples)
    count = torch.tensor([n], dtype=torch.int32)
    rays = samples.ray_indices.int()
    found, features = poisoned(n + 1, 4), poisoned(n + 1, field.sizes.feature_width // 2, dtype=torch.int32)
    listed = cuda_params.SampleList(address(samples.t_starts), address(samples.t_ends), address(rays), address(count))
    arguments = cuda_params.FieldForward(field.view, view.ray_list, listed, address(found), address(features))
    host_kernels("field.cu", field.sizes.defines).launch(
        "field_forward", arguments, blocks, 128, field.sizes.forward_shared
    )
    assert found[-1].isnan().all() and (features[-1] == -77).all()
    return found[:-1], features[:-1].view(torch.float16)


@pytest.mark.parametrize(
    "layout, hidden, color_hidden",
    [
        (LAYOUT, 32, 16),
        (GridLayout(16, 2, 10, 4, 32), 64, 64),
        (GridLayout(8, 4, 9, 4, 24), 16, 48),
        (GridLayout(12, 2, 9, 4, 24), 128, 128),
        (GridLayout(3, 1, 8, 4, 16), 16, 16),
        (GridLayout(5, 8, 8, 4, 16), 32, 32),
    ],
    ids=["small", "L16F2", "L8F4", "wide", "L3F1", "L5F8"],
)
def test_field_forward_matches_the_reference(layout: GridLayout, hidden: int, color_hidden: int) -> None:
    field = pack_field(make_field(layout, hidden, color_hidden))
    view = make_view(7)
    samples, _ = march(view, Marching(step=0.05, cone_angle=0.0, max_step=0.05, near=0.0))
    samples = Samples(samples.ray_indices[:45], samples.t_starts[:45], samples.t_ends[:45], samples.packed_info)
    assert len(samples) == 45
    found, features = forward(field, view, samples)
    exact = rounded_to_half(field.field)
    truth = exact_field(exact, view, samples)
    width = layout.n_outputs
    assert (features[:, width:] == 0).all()
    assert (features[:, :width].double() - truth["features"]).abs().max() <= 1e-3 * truth["features"].abs().max()
    assert (found[:, :3].double() - truth["rgbs"]).abs().max() <= HALF_NETWORKS.bound
    assert (found[:, 3].double().log() - truth["sigmas"].log()).abs().max() <= HALF_NETWORKS.bound * 2


@pytest.mark.parametrize("n_rays, blocks", [(1, 1), (31, 1), (127, 2)])
@pytest.mark.parametrize("stop", [1e-4, 0.5])
def test_field_along_rays_ends_where_the_light_does(n_rays: int, blocks: int, stop: float) -> None:
    field, view = pack_field(make_field(LAYOUT, 32, 16, density=3.0)), make_view(n_rays, share=0.5)
    samples, _ = march(view, MARCHING)
    truth, features = forward(field, view, samples)
    n = len(samples)
    packed = samples.packed_info.int()
    packed[-1] = torch.tensor([0, -1]) if n_rays > 1 else packed[-1]  # a dropped ray stays one
    found, found_features = poisoned(n, 4), poisoned(n, field.sizes.feature_width // 2, dtype=torch.int32)
    queue = torch.zeros(1, dtype=torch.int32)
    arguments = cuda_params.FieldAlong(
        field.view, view.ray_list, address(packed), address(samples.t_starts), address(samples.t_ends), stop,
        address(queue), address(found), address(found_features),
    )  # fmt: skip
    library = host_kernels("field.cu", field.sizes.defines)
    library.launch("field_along", arguments, blocks, 128, field.sizes.forward_shared)
    depths = truth[:, 3] * (samples.t_ends - samples.t_starts)
    assert n_rays == 1 or int(packed[-1, 1]) == -1
    for (first, count), used in zip(samples.packed_info.tolist(), packed[:, 1].tolist(), strict=True):
        if used < 0:
            continue
        dark = (depths[first : first + count].cumsum(0) > -math.log(stop)).nonzero()[:, 0]
        assert used == min(count, (int(dark[0]) // 4 + 1) * 4 if len(dark) else count)
        mine = slice(first, first + used)
        assert torch.allclose(found[mine], truth[mine], rtol=1e-5)
        assert torch.equal(found_features[mine].view(torch.float16), features[mine])
        assert found[first + used : first + count].isnan().all()
    if stop == 0.5 and n_rays > 1:
        assert int(packed[:, 1].clamp_min(0).sum()) < n - n_rays  # it ends rays before their last samples


def exact_field(field: kernels.FieldTensors, view: View, samples: Samples) -> dict[str, Tensor]:
    """The field at samples in float64."""
    tensors = {name: getattr(field, name).double() for name in ("table", "d1", "d2", "c1", "c2", "c3")}
    field = replace(field, **tensors)
    rays = type(view.rays)(
        *(t.double() for t in (view.rays.rays_o, view.rays.rays_d, view.rays.t_min, view.rays.t_max))
    )
    exact = Samples(samples.ray_indices, samples.t_starts.double(), samples.t_ends.double(), samples.packed_info)
    x = exact.positions(rays)
    x_unit = (x / field.aabb_scale + 0.5).clamp(0, 1)
    features = kernels.hash_encode(x_unit, field.table, field.layout, backend="reference")
    geo = kernels.mlp(features, (field.d1, field.d2), backend="reference")
    rgbs = reference_fused._color(field, geo, rays, exact)
    return {"features": features, "sigmas": reference_fused._density(geo), "rgbs": rgbs}


@pytest.mark.parametrize("n_points", [1, 31, 127])
def test_densities_match_the_reference(n_points: int) -> None:
    field = pack_field(make_field(LAYOUT, 32, 16, density=3.0))
    x = 1.2 * torch.randn(n_points, 3, generator=torch.Generator().manual_seed(1))  # some lie outside the cube
    sigmas = poisoned(n_points + 1)
    arguments = cuda_params.FieldDensity(field.view, address(x), n_points, address(sigmas))
    launch = field.sizes.forward_launch(per_block=101376, per_processor=102400)
    assert launch.threads == 320 and launch.per_processor == 2
    host_kernels("field.cu", field.sizes.defines).launch("field_density", arguments, 2, launch.threads, launch.shared)
    exact = rounded_to_half(field.field)
    truth = kernels.field_density(
        replace(exact, **{name: getattr(exact, name).double() for name in ("table", "d1", "d2", "c1", "c2", "c3")}),
        x.double(), backend="reference",
    )  # fmt: skip
    assert (sigmas[:-1].double().log() - truth.log()).abs().max() <= 3 * HALF_NETWORKS.bound
    assert sigmas[-1].isnan()


def test_extreme_weights_give_finite_numbers() -> None:
    field = make_field(LAYOUT, 32, 16)
    field = pack_field(replace(field, d2=field.d2 * 1e8, c3=field.c3 * 1e8, table=field.table * 1e5))
    view = make_view(5, share=1.0)
    samples, _ = march(view, MARCHING)
    found, _ = forward(field, view, samples)
    assert found.isfinite().all() and (found[:, :3] >= 0).all() and (found[:, :3] <= 1).all()
