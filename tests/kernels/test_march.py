"""Marching: against a brute-force walk in plain Python, on known occupancy, and on rays that should not hang it."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from nerfstudio_ext import kernels
from nerfstudio_ext.errors import UserError
from nerfstudio_ext.kernels import Marching
from nerfstudio_ext.rays import Rays, Samples

from .cases import device_of, runnable
from .tolerances import MARCH_MISMATCH

GRID = 16
CONES = Marching(step=0.01, cone_angle=1 / 64, max_step=0.2, near=0.05)
EQUAL = Marching(step=0.02, cone_angle=0.0, max_step=0.02, near=0.0)


each_backend = pytest.mark.parametrize("backend", runnable("march"))


def _rays(n: int, generator: torch.Generator, spread: float = 1.0) -> Rays:
    rays_o = spread * torch.randn(n, 3, generator=generator)
    targets = 0.5 * torch.randn(n, 3, generator=generator)
    rays_d = torch.nn.functional.normalize(targets - rays_o, dim=-1)
    return Rays(rays_o, rays_d, torch.zeros(n), torch.full((n,), math.inf))


def _one_ray(origin: list[float], direction: list[float], t_min: float = 0.0, t_max: float = math.inf) -> Rays:
    return Rays(torch.tensor([origin]), torch.tensor([direction]), torch.tensor([t_min]), torch.tensor([t_max]))


def _bits(occupied: Tensor) -> Tensor:
    return kernels.pack_bits(occupied)


def _march(
    rays: Rays,
    bits: Tensor,
    options: Marching,
    jitter: Tensor,
    backend: str,
    max_samples: int | None = None,
    grid_size: int = GRID,
) -> Samples:
    device = device_of("march", backend)
    found = kernels.march(
        rays.to(device), bits.to(device), grid_size, options, jitter.to(device), max_samples, backend=backend
    )
    return Samples(*(part.cpu() for part in (found.ray_indices, found.t_starts, found.t_ends, found.packed_info)))


def _check_packing(samples: Samples, n_rays: int) -> None:
    assert samples.ray_indices.dtype == samples.packed_info.dtype == torch.int64
    assert samples.packed_info.shape == (n_rays, 2)
    firsts, counts = samples.packed_info.unbind(1)
    assert int(counts.sum()) == len(samples) == len(samples.t_ends)
    assert torch.equal(firsts, counts.cumsum(0) - counts)
    assert torch.equal(samples.ray_indices, torch.repeat_interleave(torch.arange(n_rays), counts))
    assert (samples.t_ends > samples.t_starts).all()
    is_same_ray = samples.ray_indices[1:] == samples.ray_indices[:-1]
    assert (samples.t_starts[1:] >= samples.t_ends[:-1])[is_same_ray].all()


def _share_different(found: Samples, expected: Samples) -> float:
    """Share of intervals, bit for bit, that only one of the two has."""

    def intervals(samples: Samples) -> set[tuple[float, float, float]]:
        return set(zip(samples.ray_indices.tolist(), samples.t_starts.tolist(), samples.t_ends.tolist(), strict=True))

    if torch.equal(found.packed_info, expected.packed_info) and torch.equal(found.t_starts, expected.t_starts):
        return 0.0  # t_ends follow from t_starts; comparing sets of tuples takes seconds
    first, second = intervals(found), intervals(expected)
    return len(first ^ second) / max(len(second), 1)


def _brute_force(rays: Rays, occupied: Tensor, options: Marching, jitter: Tensor, max_samples: int | None) -> Samples:
    """The docstring of `kernels.march`, one ray and one step at a time, in numpy float32."""
    f = np.float32
    n_cascades, grid_size = occupied.shape[:2]
    half = f(2.0 ** (n_cascades - 1) / 2)
    kept: list[tuple[int, float, float]] = []
    counts = [0] * len(rays)
    for r in range(len(rays)):
        o, d = rays.rays_o[r].numpy(), rays.rays_d[r].numpy()
        slabs = np.stack([(-half - o) / d, (half - o) / d])
        entry, leave = slabs.min(0).max(), slabs.max(0).min()
        end = min(rays.t_max[r].item(), leave)

        def interval(t: np.float32) -> np.float32:
            return min(max(f(options.cone_angle) * t, f(options.step)), f(options.max_step))

        t = f(max(rays.t_min[r].item(), entry, 0.0, f(options.near)))
        t = t + jitter[r].numpy() * interval(t)
        while t < end and (max_samples is None or counts[r] < max_samples):
            dt = interval(t)
            p = o + (t + f(0.5) * dt) * d
            fitting = [c for c in range(n_cascades) if np.abs(p).max() <= 2.0**c / 2]
            if fitting:
                x, y, z = np.clip(
                    np.floor((p / f(2.0 ** fitting[0]) + f(0.5)) * f(grid_size)), 0, grid_size - 1
                ).astype(int)
                if occupied[fitting[0], z, y, x]:
                    kept.append((r, float(t), float(t + dt)))
                    counts[r] += 1
            t = t + dt
    numbers = torch.tensor(counts)
    columns = torch.tensor(kept, dtype=torch.float64).reshape(-1, 3)
    packed_info = torch.stack([numbers.cumsum(0) - numbers, numbers], dim=1)
    return Samples(columns[:, 0].long(), columns[:, 1].float(), columns[:, 2].float(), packed_info)


@pytest.mark.parametrize("options", [CONES, EQUAL], ids=["cones", "equal steps"])
@pytest.mark.parametrize("n_cascades", [1, 3])
@pytest.mark.parametrize("max_samples", [None, 5])
@each_backend
def test_march_equals_brute_force(backend: str, max_samples: int | None, n_cascades: int, options: Marching) -> None:
    generator = torch.Generator().manual_seed(5)
    occupied = torch.rand(n_cascades, GRID, GRID, GRID, generator=generator) < 0.2
    rays = _rays(61, generator)
    jitter = torch.rand(61, generator=generator)
    found = _march(rays, _bits(occupied), options, jitter, backend, max_samples)
    expected = _brute_force(rays, occupied, options, jitter, max_samples)
    _check_packing(found, 61)
    assert len(expected) > 100
    assert _share_different(found, expected) <= (0.02 if max_samples else MARCH_MISMATCH.bound + 1 / len(expected))


@pytest.mark.parametrize("occupancy", [0.003, 0.1, 1.0], ids=["sparse", "some", "full"])
@pytest.mark.parametrize(("n_rays", "grid_size", "n_cascades"), [(1, 16, 1), (127, 32, 2), (517, 64, 4)])
@pytest.mark.parametrize("backend", sorted({*runnable("march")} - {"reference"}))
def test_march_equals_reference(backend: str, n_rays: int, grid_size: int, n_cascades: int, occupancy: float) -> None:
    generator = torch.Generator().manual_seed(6)
    blobs = torch.rand(n_cascades, *[grid_size // 2] * 3, generator=generator) < occupancy
    occupied = blobs.repeat_interleave(2, 1).repeat_interleave(2, 2).repeat_interleave(2, 3)
    rays = _rays(n_rays, generator, spread=2.0)
    jitter = torch.rand(n_rays, generator=generator)
    options = Marching(step=0.02, cone_angle=1 / 128, max_step=0.5, near=0.1)
    found = _march(rays, _bits(occupied), options, jitter, backend, grid_size=grid_size)
    expected = kernels.march(rays, _bits(occupied), grid_size, options, jitter, backend="reference")
    _check_packing(found, n_rays)
    different = _share_different(found, expected)
    assert different <= MARCH_MISMATCH.bound + 1 / max(len(expected), 1)
    again = _march(rays, _bits(occupied), options, jitter, backend, grid_size=grid_size)
    assert torch.equal(found.t_starts, again.t_starts) and torch.equal(found.packed_info, again.packed_info)


@each_backend
def test_inputs_with_gaps_in_memory(backend: str) -> None:
    generator = torch.Generator().manual_seed(7)
    occupied = torch.rand(2, GRID, GRID, GRID, generator=generator) < 0.2
    rays, jitter = _rays(127, generator), torch.rand(127, generator=generator)
    expected = _march(rays, _bits(occupied), CONES, jitter, backend)
    spread = [torch.stack([t, t], -1)[..., 0] for t in (rays.rays_o, rays.rays_d, rays.t_min, rays.t_max, jitter)]
    bits = _bits(occupied).T.contiguous().T
    found = _march(Rays(*spread[:4]), bits, CONES, spread[4], backend)
    assert torch.equal(found.t_starts, expected.t_starts) and torch.equal(found.ray_indices, expected.ray_indices)


@each_backend
def test_a_known_slab_is_found_where_it_is(backend: str) -> None:
    occupied = torch.zeros(1, GRID, GRID, GRID, dtype=torch.bool)
    occupied[:, :, :, 8:10] = True  # x from 0 to 1/8
    found = _march(_one_ray([-2.0, 0.01, 0.02], [1.0, 0.0, 0.0]), _bits(occupied), EQUAL, torch.zeros(1), backend)
    middles = 0.5 * (found.t_starts + found.t_ends) - 2
    assert len(found) in (6, 7)  # 0.125 / 0.02
    assert (middles >= 0).all() and (middles <= 1 / 8).all()
    # The lattice starts at the box (t = 1.5), whatever is empty on the way.
    steps = (found.t_starts - 1.5) / 0.02
    assert torch.allclose(steps, steps.round(), atol=1e-3)


@each_backend
def test_each_point_belongs_to_the_smallest_cascade_that_holds_it(backend: str) -> None:
    n_cascades = 4
    for cascade in range(n_cascades):
        occupied = torch.zeros(n_cascades, GRID, GRID, GRID, dtype=torch.bool)
        occupied[cascade] = True
        found = _march(_one_ray([0.0, 0.013, 0.017], [1.0, 0.0, 0.0]), _bits(occupied), EQUAL, torch.zeros(1), backend)
        middles = 0.5 * (found.t_starts + found.t_ends)
        inner = 2.0**cascade / 4 if cascade else 0.0
        assert (middles > inner - 1e-5).all() and (middles < 2.0**cascade / 2 + 1e-5).all()
        assert abs(len(found) * 0.02 - (2.0**cascade / 2 - inner)) <= 0.021


@each_backend
def test_interval_length_follows_the_cone(backend: str) -> None:
    occupied = torch.ones(5, GRID, GRID, GRID, dtype=torch.bool)
    found = _march(_one_ray([0.0, 0.0, 0.0], [0.6, 0.0, 0.8]), _bits(occupied), CONES, torch.full((1,), 0.5), backend)
    lengths = found.t_ends - found.t_starts
    expected = (found.t_starts / 64).clamp(0.01, 0.2)
    assert torch.allclose(lengths, expected, atol=2e-6)
    assert torch.equal(found.t_starts[1:], found.t_ends[:-1])  # everything is occupied: no gaps
    assert float(found.t_starts[0]) == pytest.approx(0.05 + 0.5 * 0.01, abs=1e-7)
    assert float(lengths.max()) == pytest.approx(8 / 0.8 / 64, rel=0.05)


@each_backend
def test_limits_of_the_ray_hold(backend: str) -> None:
    occupied = torch.ones(2, GRID, GRID, GRID, dtype=torch.bool)
    ray = _one_ray([-3.0, 0.0, 0.0], [1.0, 0.0, 0.0], t_min=2.5, t_max=3.0)
    found = _march(ray, _bits(occupied), EQUAL, torch.full((1,), 0.25), backend)
    assert float(found.t_starts.min()) == pytest.approx(2.505, abs=1e-6)
    assert 2.98 <= float(found.t_starts.max()) < 3.0
    capped = _march(ray, _bits(occupied), EQUAL, torch.full((1,), 0.25), backend, max_samples=3)
    assert torch.equal(capped.t_starts, found.t_starts[:3])


@each_backend
def test_rays_that_see_nothing_have_no_samples(backend: str) -> None:
    occupied = torch.ones(2, GRID, GRID, GRID, dtype=torch.bool)
    rays = Rays(
        torch.tensor([[5.0, 5.0, 5.0], [0.0, 0.0, 0.0], [0.0, 0.0, 5.0], [0.0, 0.0, 0.0]]),
        torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, 1.0, 0.0]]),
        torch.tensor([0.0, 2.0, 0.0, math.inf]),
        torch.tensor([math.inf, 1.0, math.inf, -math.inf]),
    )
    found = _march(rays, _bits(occupied), CONES, torch.full((4,), 0.9), backend)
    _check_packing(found, 4)
    assert len(found) == 0
    _check_packing(_march(rays, _bits(occupied) * 0, CONES, torch.zeros(4), backend), 4)
    none = _march(rays[:0], _bits(occupied), CONES, torch.zeros(0), backend)
    assert len(none) == 0 and none.packed_info.shape == (0, 2)


_HARD_RAYS = """
import math, sys, torch
from nerfstudio_ext import kernels
from nerfstudio_ext.rays import Rays
nan, inf = math.nan, math.inf
bits = kernels.pack_bits(torch.ones(3, 16, 16, 16, dtype=torch.bool))
o = torch.tensor([[nan, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0], [1e6, 0, 0], [3e5, 3e5, 3e5], [0, inf, 0], [0, 0, 0.0]])
d = torch.tensor([[1, 0, 0], [nan, 0, 0], [1, 0, 0], [1, 0, 0], [-1, 0, 0], [-1, -1, -1], [0, -1, 0], [0, 0, 0.0]])
t_min = torch.tensor([0, 0, nan, 0, 0, 0, 0, 0.0])
t_max = torch.tensor([inf, inf, inf, nan, inf, inf, inf, 1.0])
d[5] /= 3 ** 0.5
options = kernels.Marching(step=0.003, cone_angle=0.0, max_step=0.003, near=0.0)
found = kernels.march(Rays(o, d, t_min, t_max), bits, 16, options, torch.full((8,), 0.5), backend=sys.argv[1])
print(found.packed_info[:4, 1].tolist())
"""


@each_backend
def test_impossible_rays_end(backend: str) -> None:
    """NaN rays are empty; rays from where a step vanishes in rounding end. In a process that can be ended."""
    if device_of("march", backend) != "cpu":
        pytest.skip("the script keeps its tensors on the CPU")
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    command = [sys.executable, "-c", _HARD_RAYS, backend]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, cwd=root, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == "[0, 0, 0, 0]"


@pytest.mark.parametrize("grid_size", [0, 8, 20, 33])
def test_grid_sizes_that_do_not_fit_are_refused(grid_size: int) -> None:
    words = torch.zeros(1, max(grid_size // 4, 1) ** 3, dtype=torch.int64)
    with pytest.raises(UserError, match=f"{grid_size} cells per axis"):
        kernels.march(_one_ray([0.0] * 3, [1.0, 0.0, 0.0]), words, grid_size, EQUAL, torch.zeros(1))


@pytest.mark.parametrize(
    "wrong",
    [
        {"step": 0.0},
        {"step": -1.0},
        {"step": math.nan},
        {"max_step": 0.001},
        {"max_step": math.inf},
        {"cone_angle": -1.0},
        {"cone_angle": math.nan},
        {"near": -0.1},
        {"near": math.inf},
    ],
    ids=str,
)
def test_marching_options_are_checked(wrong: dict[str, float]) -> None:
    with pytest.raises(UserError):
        Marching(**{"step": 0.01, "cone_angle": 0.0, "max_step": 0.1, "near": 0.0, **wrong})
