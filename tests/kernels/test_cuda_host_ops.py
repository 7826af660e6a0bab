"""The small CUDA kernels, run on the CPU: occupancy, boxes, and compositing as an operation of its own."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from nerfstudio_ext import kernels
from nerfstudio_ext.kernels import cuda_params
from nerfstudio_ext.rays import Samples

from .cases import CASES, grid_layout, make_samples, relative_error
from .cuda_on_host import host_kernels, missing
from .cuda_on_host.scene import address, grid_of, make_view, poisoned
from .tolerances import TOLERANCES

pytestmark = pytest.mark.skipif(bool(missing()), reason=f"CUDA kernels on the CPU: {missing()}")


@pytest.mark.parametrize("n_cells", [0, 1, 31, 127, 1000])
def test_occupancy_is_raised(n_cells: int) -> None:
    library, generator = host_kernels("occupancy.cu"), torch.Generator().manual_seed(n_cells)
    grid = torch.rand(2 * 8**3, generator=generator)
    grid[:5] = torch.tensor([0.0, -0.0, -1.0, 0.0, 7.0])
    cells = torch.randint(0, len(grid), (n_cells,), generator=generator)
    sigmas = 2 * torch.rand(n_cells, generator=generator)
    if n_cells > 31:
        cells[:6] = torch.tensor([0, 1, 2, 3, 3, 4])
        sigmas[:6] = torch.tensor([-0.0, 0.5, -0.5, torch.nan, -1.0, torch.inf])
    truth = kernels.occ_refresh(grid, cells, sigmas, 0.95, backend="reference")
    out = poisoned(len(grid))
    arguments = cuda_params.OccRefresh(
        address(grid), address(out), len(grid), 0.95, address(cells), address(sigmas), n_cells
    )
    library.launch("occ_decay", arguments, -(-len(grid) // 256), 256)
    library.launch("occ_raise", arguments, -(-n_cells // 256), 256)
    assert torch.equal(out, truth)


@pytest.mark.parametrize("n_cascades, grid_size", [(1, 4), (2, 16), (3, 8)])
def test_occupancy_is_packed_and_picked(n_cascades: int, grid_size: int) -> None:
    library, generator = host_kernels("occupancy.cu"), torch.Generator().manual_seed(3)
    grid = torch.rand(n_cascades * grid_size**3, generator=generator)
    grid[0] = torch.nan
    shape = (n_cascades, grid_size, grid_size, grid_size)
    reachable = kernels.pack_bits(torch.rand(shape, generator=generator) < 0.7)
    reachable[0, 0] = reachable[-1, -1] if reachable.numel() > 1 else -1
    if reachable.numel() > 4:
        reachable[0, 2] = 0
    truth = kernels.occ_pack(grid, reachable, grid_size, 0.5, backend="reference")
    n_words = truth.numel()
    found = poisoned(*truth.shape, dtype=torch.int64)
    arguments = cuda_params.OccPack(address(grid), address(reachable), address(found), n_words, grid_size, 0.5)
    library.launch("occ_pack", arguments, -(-n_words // 8), 256)
    assert torch.equal(found, truth) and 0 < kernels.count_bits(truth) < grid.numel()
    population = poisoned(n_words, dtype=torch.int64)
    n_set = kernels.count_bits(truth)
    ranks = torch.cat([torch.randint(n_set, (70,), generator=generator), torch.tensor([0, n_set - 1])]).sort().values
    cells = poisoned(len(ranks), dtype=torch.int64)
    select = cuda_params.OccSelect(
        address(found), address(population), n_words, grid_size, address(ranks), address(cells), len(ranks)
    )
    library.launch("occ_population", select, -(-n_words // 256), 256)
    assert int(population.sum()) == n_set
    population.copy_(population.cumsum(0))
    library.launch("occ_select", select, 1, 256)
    assert torch.equal(cells, kernels.occ_select(truth, grid_size, ranks, backend="reference"))


@pytest.mark.parametrize("n_rays", [1, 31, 127])
def test_boxes_are_hit_where_the_reference_says(n_rays: int) -> None:
    case = CASES["ray_aabb"](n_rays, torch.Generator().manual_seed(4))
    rays_o, rays_d, box = (case.tensors[name] for name in ("rays_o", "rays_d", "aabb"))
    rays_d[::5, 0] = 0
    truth = kernels.ray_aabb(rays_o, rays_d, box, backend="reference")
    t_min, t_max = poisoned(n_rays + 1), poisoned(n_rays + 1)
    arguments = cuda_params.RayBox(
        address(rays_o), address(rays_d), address(box), n_rays, address(t_min), address(t_max)
    )
    host_kernels("rays.cu").launch("ray_box", arguments, 1, 256)
    assert torch.equal(t_min[:-1], truth[0]) and torch.equal(t_max[:-1], truth[1]) and t_min[-1].isnan()


@pytest.mark.parametrize("counts", [[1], [0], [31], [300], [0, 32, 5, 0, 33, 127, 64, 0]], ids=str)
def test_composites_and_weights_match_the_reference(counts: list[int]) -> None:
    generator = torch.Generator().manual_seed(8)
    samples, n = make_samples(counts, generator), len(counts)
    sigmas = torch.exp(3 * torch.randn(len(samples), generator=generator))
    sigmas[::9] = 0
    if len(sigmas) > 20:
        sigmas[17] = 1e6
    rgbs = torch.rand(len(samples), 3, generator=generator)
    shapes = {"weights": (len(samples),), "rgb": (n, 3), "depth": (n,), "alpha": (n,)}
    cotangents = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    truth = _reference(samples, sigmas, rgbs, cotangents)
    for name, value in _by_kernels(samples, sigmas, rgbs, cotangents).items():
        op = "weights_of" if name == "weights" else "composite"
        assert relative_error(value, truth[name]) <= TOLERANCES[op, name].bound, name


def _reference(samples: Samples, sigmas: Tensor, rgbs: Tensor, cotangents: dict[str, Tensor]) -> dict[str, Tensor]:
    leaves = {"sigmas": sigmas, "rgbs": rgbs, "t_starts": samples.t_starts, "t_ends": samples.t_ends}
    leaves = {name: leaf.double().requires_grad_() for name, leaf in leaves.items()}
    exact = replace(samples, t_starts=leaves["t_starts"], t_ends=leaves["t_ends"])
    n_rays = samples.n_rays
    out = kernels.composite(leaves["sigmas"], leaves["rgbs"], exact, n_rays, backend="reference")
    weights = kernels.weights_of(leaves["sigmas"], exact, backend="reference")
    found = {"weights": weights, "rgb": out.rgb, "depth": out.depth, "alpha": out.alpha}
    total = sum((found[name] * cotangents[name]).sum() for name in cotangents)  # type: ignore[operator]
    gradients = torch.autograd.grad(total, list(leaves.values()))
    found |= {f"grad {name}": gradient for name, gradient in zip(leaves, gradients, strict=True)}
    return {name: value.detach() for name, value in found.items() if value is not None}


def _by_kernels(samples: Samples, sigmas: Tensor, rgbs: Tensor, cotangents: dict[str, Tensor]) -> dict[str, Tensor]:
    library, n, s = host_kernels("rays.cu"), samples.n_rays, len(samples)
    given = (address(sigmas), address(rgbs), address(samples.t_starts), address(samples.t_ends))
    given = (*given, address(samples.packed_info), n)
    found = {"weights": poisoned(s), "rgb": poisoned(n, 3), "depth": poisoned(n), "alpha": poisoned(n)}
    library.launch("composite", cuda_params.Composite(*given, *map(address, found.values())), -(-n // 4), 128)
    gradients = {"sigmas": poisoned(s), "rgbs": poisoned(s, 3), "t_starts": poisoned(s), "t_ends": poisoned(s)}
    arguments = cuda_params.CompositeBackward(
        *given, *(address(cotangents[name]) for name in found), *map(address, gradients.values())
    )
    library.launch("composite_backward", arguments, -(-n // 4), 128)
    return found | {f"grad {name}": gradient for name, gradient in gradients.items()}


@pytest.mark.parametrize("n, features", [(1, 2), (127, 2), (31, 4), (31, 1)])
def test_hash_encodings_match_the_reference(n: int, features: int) -> None:
    case = CASES["hash_encode"](n, torch.Generator().manual_seed(6))
    layout = replace(grid_layout(), n_features=features)
    generator = torch.Generator().manual_seed(7)
    x_unit, table = case.tensors["x_unit"], torch.randn(layout.n_rows, features, generator=generator)
    x_unit[::8, 1] = 1.5
    cotangent = torch.randn(n, layout.n_outputs, generator=generator)
    leaves = [x_unit.double().requires_grad_(), table.double().requires_grad_()]
    truth = kernels.hash_encode(*leaves, layout, backend="reference")
    d_x, d_table = torch.autograd.grad((truth * cotangent).sum(), leaves)
    found, d_positions = poisoned(n + 1, layout.n_outputs), poisoned(n + 1, 3)
    d_rows = torch.zeros_like(table)
    arguments = cuda_params.HashEncode(
        grid_of(layout, table), address(x_unit), n, address(found), address(cotangent), address(d_rows),
        address(d_positions),
    )  # fmt: skip
    library = host_kernels("hash.cu", (f"-DLEVELS={layout.n_levels}", f"-DFEATURES={features}"))
    for kernel in ("hash_forward", "hash_backward", "hash_positions"):
        library.launch(kernel, arguments, 3, 128)
    assert found[-1].isnan().all() and d_positions[-1].isnan().all()
    pairs = {"features": (found[:-1], truth.detach()), "grad table": (d_rows, d_table)}
    for name, (value, expected) in (pairs | {"grad x_unit": (d_positions[:-1], d_x)}).items():
        assert relative_error(value, expected) <= TOLERANCES["hash_encode", name].bound, name


def test_views_have_rays_that_miss() -> None:
    """The other files rely on it."""
    rays = make_view(31).rays
    assert 0 < int((rays.t_min >= rays.t_max).sum()) < 31
