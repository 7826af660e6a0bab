"""The CUDA kernels that carry gradients back, run on the CPU, against float64: networks, grid, rays; and the optimiser.

Errors are measured as the length of the difference over the length of the truth. Samples with a hidden value within
rounding of zero are left out: whether ReLU lets them pass is then a matter of rounding, and they prove nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from nerfstudio_ext import kernels
from nerfstudio_ext.kernels import FieldTensors, GridLayout, cuda_params
from nerfstudio_ext.rays import Samples

from .cuda_on_host import host_kernels, missing
from .cuda_on_host.scene import (
    NAMES,
    HostField,
    View,
    address,
    make_field,
    make_view,
    pack_field,
    poisoned,
    rounded_to_half,
)
from .tolerances import Tolerance

pytestmark = pytest.mark.skipif(bool(missing()), reason=f"CUDA kernels on the CPU: {missing()}")

GRADIENTS = Tolerance(5e-3, "inputs and gradients of five layers rounded to halves, 2^-12 each, at every layer")
CLEAR = 4e-3
SCALE = 256.0
LAYOUT = GridLayout(n_levels=6, n_features=2, log2_table=10, base_resolution=4, finest_resolution=32)


@dataclass(frozen=True)
class Problem:
    """Samples of a field with gradients of their logits; `seen` lists some of them, out of order."""

    field: FieldTensors
    view: View
    samples: Samples
    seen: Tensor
    d_logits: Tensor


def make_problem(layout: GridLayout, hidden: int, color_hidden: int, n_seen: int) -> Problem:
    """`n_seen` clear samples among more."""
    generator = torch.Generator().manual_seed(2)
    field, view = make_field(layout, hidden, color_hidden), make_view(40, share=1.0)
    n = 5 * n_seen + 60
    rays = torch.randint(0, 40, (8 * n,), generator=generator).sort().values
    near, far = view.rays.t_min[rays], view.rays.t_max[rays]
    rays = rays[near < far][::2][:n]
    near, far = view.rays.t_min[rays], view.rays.t_max[rays]
    starts = near + (far - near) * torch.rand(len(rays), generator=generator)
    samples = Samples(rays, starts, starts + 0.02, torch.zeros(40, 2, dtype=torch.int64))
    exact = Exact(rounded_to_half(field), view, samples)
    clear = (torch.cat([h.abs() / h.abs().amax(1, True) for h in exact.hidden], 1).amin(1) > CLEAR).nonzero()[:, 0]
    seen = clear[torch.randperm(len(clear), generator=generator)[:n_seen]]
    assert len(seen) == n_seen
    return Problem(field, view, samples, seen, torch.randn(len(rays), 4, generator=generator))


class Exact:
    """The field at samples in float64, with leaves for gradients."""

    def __init__(self, field: FieldTensors, view: View, samples: Samples) -> None:
        self.field = replace(field, **{n: getattr(field, n).double().requires_grad_() for n in NAMES})
        self.d = view.rays.rays_d[samples.ray_indices].double().requires_grad_()
        middles = 0.5 * (samples.t_starts + samples.t_ends).double()
        x = view.rays.rays_o[samples.ray_indices].double() + middles[:, None] * self.d.detach()
        self.x = x.requires_grad_()
        x_unit = (self.x / field.aabb_scale + 0.5).clamp(0, 1)
        self.features = kernels.hash_encode(x_unit, self.field.table, field.layout, backend="reference")
        self.features.retain_grad()
        first = self.features @ self.field.d1
        geo = first.relu() @ self.field.d2
        inputs = torch.cat([geo, kernels.sh_encode(self.d, backend="reference")], 1)
        second = inputs @ self.field.c1
        third = second.relu() @ self.field.c2
        self.hidden = (first, second, third)
        self.logits = torch.cat([third.relu() @ self.field.c3, geo[:, :1]], 1)


def run(problem: Problem, field: HostField, blocks: int, *, deterministic: bool = False) -> dict[str, Tensor]:
    """All gradients by the kernels."""
    sizes, n, n_seen = field.sizes, len(problem.samples), len(problem.seen)
    library = host_kernels("backward.cu", sizes.defines)
    rays, count = problem.samples.ray_indices.int(), torch.tensor([n], dtype=torch.int32)
    seen, seen_count = problem.seen.int(), torch.tensor([n_seen], dtype=torch.int32)
    samples = cuda_params.SampleList(
        address(problem.samples.t_starts), address(problem.samples.t_ends), address(rays), address(count)
    )
    ray_list, half_width = problem.view.ray_list, sizes.feature_width // 2
    features, colors = poisoned(n, half_width, dtype=torch.int32), poisoned(n, 4)
    forward = cuda_params.FieldForward(field.view, ray_list, samples, address(colors), address(features))
    host_kernels("field.cu", sizes.defines).launch("field_forward", forward, 1, 128, sizes.forward_shared)
    d_logits = problem.d_logits * SCALE
    d_features = poisoned(n_seen + 1, half_width, dtype=torch.int32)
    partials, networks = poisoned(blocks, sizes.n_partials), poisoned(sizes.n_partials)
    d_directions, d_positions = poisoned(n_seen + 1, 3), poisoned(n_seen + 1, 3)
    backward = cuda_params.FieldBackward(
        field.view, ray_list, samples, address(features), address(d_logits), address(seen), address(seen_count),
        address(d_features), address(partials), address(d_directions), 1 / SCALE,
    )  # fmt: skip
    library.launch("field_backward", backward, blocks, 32 * sizes.backward_warps, sizes.backward_shared)
    reduce = cuda_params.ReduceNetworks(address(partials), blocks, 1 / SCALE, address(networks))
    library.launch("reduce_networks", reduce, -(-sizes.n_partials // 256), 256)
    d_table = torch.zeros_like(problem.field.table)
    fixed = torch.zeros(d_table.shape, dtype=torch.int64)
    to_table = address(fixed) if deterministic else address(d_table)
    grid = cuda_params.GridBackward(
        field.grid, ray_list, samples, address(seen), address(seen_count), address(d_features),
        1 / problem.field.aabb_scale, 1 / SCALE, to_table, address(d_positions),
    )  # fmt: skip
    library = host_kernels("grid.cu", (*sizes.defines, *["-DDETERMINISTIC"] * deterministic))
    for kernel in ("grid_backward", "grid_positions"):
        library.launch(kernel, grid, 2, 128)
    if deterministic:
        convert = cuda_params.TableToFloat(address(fixed), fixed.numel(), 1 / SCALE, address(d_table))
        library.launch("table_to_float", convert, -(-fixed.numel() // 256), 256)
    assert d_directions[-1].isnan().all() and d_positions[-1].isnan().all() and (d_features[-1] == -77).all()
    found = {"features": d_features[:-1].view(torch.float16).double() / SCALE, "table": d_table}
    found |= {"directions": d_directions[:-1], "positions": d_positions[:-1]}
    shapes = [w.shape for w in problem.field.tensors[1:]]
    for name, shape, part in zip(NAMES[1:], shapes, networks.split([s.numel() for s in shapes]), strict=True):
        found[name] = part.reshape(shape)
    return found


def distance(value: Tensor, truth: Tensor) -> float:
    """Length of the difference over the length of the truth."""
    assert value.shape == truth.shape and value.isfinite().all()
    return float((value.double() - truth).norm() / truth.norm().clamp_min(1e-30))


@pytest.mark.parametrize(
    "layout, hidden, color_hidden, n_seen, blocks, warps",
    [
        (LAYOUT, 32, 16, 1, 1, 8),
        (LAYOUT, 32, 16, 31, 1, 8),
        (LAYOUT, 32, 16, 300, 2, 8),
        (GridLayout(16, 2, 8, 4, 24), 64, 64, 127, 2, 8),
        (GridLayout(8, 4, 8, 4, 24), 16, 48, 31, 1, 8),
        (GridLayout(3, 1, 8, 4, 16), 128, 16, 31, 1, 4),
        (GridLayout(4, 8, 8, 4, 16), 16, 32, 31, 1, 4),
    ],
    ids=["one", "small", "two tiles", "L16F2", "L8F4", "L3F1", "L4F8"],
)
def test_gradients_match_the_reference(
    layout: GridLayout, hidden: int, color_hidden: int, n_seen: int, blocks: int, warps: int
) -> None:
    problem = make_problem(layout, hidden, color_hidden, n_seen)
    found = run(problem, pack_field(problem.field, warps), blocks)
    exact = Exact(rounded_to_half(problem.field), problem.view, problem.samples)
    (exact.logits * problem.d_logits)[problem.seen].sum().backward()
    leaves = {name: getattr(exact.field, name) for name in NAMES} | {"directions": exact.d, "positions": exact.x}
    for name, leaf in leaves.items():
        assert leaf.grad is not None
        truth = leaf.grad if name in NAMES else leaf.grad[problem.seen]
        assert distance(found[name], truth) <= GRADIENTS.bound, name
    assert exact.features.grad is not None
    width = layout.n_outputs
    assert distance(found["features"][:, :width], exact.features.grad[problem.seen]) <= GRADIENTS.bound
    assert not found["features"][:, width:].any()


def test_sums_of_whole_numbers_are_the_same_gradient() -> None:
    problem = make_problem(LAYOUT, 32, 16, 127)
    field = pack_field(problem.field)
    plain, fixed = run(problem, field, 2), run(problem, field, 2, deterministic=True)
    assert distance(fixed["table"], plain["table"].double()) <= 1e-6
    broken = replace(problem, d_logits=torch.full_like(problem.d_logits, 1e30))
    assert run(broken, field, 2, deterministic=True)["table"].isinf().any()  # not a wrong number


def test_nothing_seen_gives_no_gradient() -> None:
    problem = make_problem(LAYOUT, 32, 16, 3)
    found = run(replace(problem, seen=problem.seen[:0]), pack_field(problem.field), 2)
    assert all(not found[name].any() for name in NAMES)


def test_samples_of_one_cell_are_summed_before_they_are_added() -> None:
    """On a straight run through a coarse cell a warp adds once: the sum is that of single additions."""
    problem = make_problem(LAYOUT, 32, 16, 33)
    one_ray = problem.samples.ray_indices[0]
    near, far = problem.view.rays.t_min[one_ray], problem.view.rays.t_max[one_ray]
    n = len(problem.samples)
    starts = near + (far - near) * torch.linspace(0.3, 0.5, n)
    samples = replace(problem.samples, ray_indices=one_ray.expand(n).clone(), t_starts=starts, t_ends=starts + 1e-4)
    problem = replace(problem, samples=samples, seen=torch.arange(n))
    found = run(problem, pack_field(problem.field), 2)
    x = problem.view.rays.rays_o[one_ray] + (starts + 5e-5)[:, None] * problem.view.rays.rays_d[one_ray]
    table = problem.field.table.double().requires_grad_()
    x_unit = (x.double() / problem.field.aabb_scale + 0.5).clamp(0, 1)
    features = kernels.hash_encode(x_unit, table, LAYOUT, backend="reference")
    (features * found["features"][:, : LAYOUT.n_outputs]).sum().backward()
    assert table.grad is not None
    assert distance(found["table"], table.grad) <= 1e-4  # float sums of the same numbers, positions off by 1e-6


@pytest.mark.parametrize("n", [2, 62, 1026])
@pytest.mark.parametrize("skip_untouched", [0, 1])
def test_adam_matches_its_formulas(n: int, skip_untouched: int) -> None:
    generator = torch.Generator().manual_seed(1)
    library = host_kernels("adam.cu")
    values = torch.randn(n, generator=generator)
    first, second, half = torch.zeros(n), torch.zeros(n), poisoned(n // 2, dtype=torch.int32)
    clock, rate, n_bad = torch.zeros(4), torch.tensor([0.01]), torch.zeros(1, dtype=torch.int32)
    truth, m, v = values.double(), torch.zeros(n).double(), torch.zeros(n).double()
    for step in range(4):
        gradient = torch.randn(n, generator=generator)
        gradient[n // 2 :] *= not skip_untouched
        m, v = 0.9 * m + 0.1 * gradient, 0.99 * v + 0.01 * gradient.double().square()
        truth -= 0.01 * (m / (1 - 0.9 ** (step + 1))) / ((v / (1 - 0.99 ** (step + 1))).sqrt() + 1e-10)
        bad = cuda_params.CountBad(address(gradient), n, address(n_bad))
        library.launch("count_bad", bad, 2, 256)
        assert int(n_bad) == 0
        library.launch(
            "adam_clock", cuda_params.AdamClock(address(clock), address(rate), address(n_bad), 0.9, 0.99), 1, 32
        )
        arguments = cuda_params.Adam(
            address(values), address(gradient), address(first), address(second), address(half), n, skip_untouched,
            0.9, 0.99, 1e-10, address(clock), address(n_bad),
        )  # fmt: skip
        library.launch("adam", arguments, -(-n // 512), 256)
        assert clock[0] == step + 1 and not gradient.any()
        assert torch.allclose(values.double(), truth, atol=1e-6)
    assert torch.equal(half.view(torch.float16), values.half()) or skip_untouched
    before = values.clone()
    gradient = torch.full((n,), torch.inf)
    library.launch("count_bad", cuda_params.CountBad(address(gradient), n, address(n_bad)), 1, 256)
    assert int(n_bad) > 0
    arguments.gradient = address(gradient)
    library.launch("adam", arguments, -(-n // 512), 256)
    assert torch.equal(values, before) and not gradient.any()
