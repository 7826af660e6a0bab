"""The fused operations on every back end against the composition of the references.

The reference runs in float32 here: the lattice of samples then is the same bit for bit. Rays on which rounding decides,
whether a midpoint lies in an occupied cell or a hidden value passes ReLU, are left out: they prove nothing.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from nerfstudio_ext import kernels
from nerfstudio_ext.kernels import FieldTensors, GridLayout, Marching, Occupancy, StepOptions, StepResult
from nerfstudio_ext.rays import Rays

from .cases import device_of, relative_error, runnable
from .tolerances import HALF_BACKENDS, MARCH_MISMATCH, bound_of

NAMES = ("table", "d1", "d2", "c1", "c2", "c3")
MARCHING = Marching(step=0.04, cone_angle=1 / 128, max_step=0.2, near=0.0)
each_step = pytest.mark.parametrize("backend", runnable("field_step"))
each_fast_step = pytest.mark.parametrize("backend", sorted({*runnable("field_step")} - {"reference"}))
each_render = pytest.mark.parametrize("backend", runnable("render_field"))
each_fast_render = pytest.mark.parametrize("backend", sorted({*runnable("render_field")} - {"reference"}))
each_density = pytest.mark.parametrize("backend", runnable("field_density"))


@dataclass(frozen=True)
class Scene:
    """A random field and the rays to look at it with."""

    field: FieldTensors
    rays: Rays
    jitter: Tensor
    target: Tensor
    background: Tensor
    occupancy: Occupancy

    def to(self, dtype: torch.dtype, device: str, *, needs_gradient: bool = False) -> Scene:
        """A copy in another type and place; the field's tensors become leaves."""

        def moved(tensor: Tensor) -> Tensor:
            return tensor.detach().to(device, dtype, copy=True)

        tensors = {name: moved(getattr(self.field, name)).requires_grad_(needs_gradient) for name in NAMES}
        rays = Rays(*(moved(t) for t in (self.rays.rays_o, self.rays.rays_d, self.rays.t_min, self.rays.t_max)))
        return Scene(
            field=replace(self.field, **tensors),
            rays=rays,
            jitter=moved(self.jitter),
            target=moved(self.target),
            background=moved(self.background),
            occupancy=replace(self.occupancy, bits=self.occupancy.bits.to(device)),
        )

    def of_rays(self, index: slice | Tensor) -> Scene:
        """The same scene seen by some of the rays."""
        parts = {name: getattr(self, name)[index] for name in ("rays", "jitter", "target", "background")}
        return replace(self, **parts)


def make_scene(n_rays: int, density: float = 1.0, n_cascades: int = 2, occupancy: float = 0.3) -> Scene:
    """`density` scales the logits of the density network: larger is more opaque and more contrast."""
    scene = _random_scene(3 * n_rays + 16, density, n_cascades, occupancy)
    clear = _clear_rays(scene).nonzero()[:n_rays, 0]
    assert len(clear) == n_rays
    return scene.of_rays(clear)


def _clear_rays(scene: Scene) -> Tensor:
    """Rays none of whose samples are within rounding of a cell border or of the kink of a ReLU."""
    exact = scene.to(torch.float64, "cpu")
    field, rays, bits, grid_size = exact.field, exact.rays, exact.occupancy.bits, exact.occupancy.grid_size
    everywhere = kernels.march(rays, torch.full_like(bits, -1), grid_size, MARCHING, exact.jitter, backend="reference")
    x = everywhere.positions(rays)
    cells = torch.stack([x * (grid_size / 2**c) for c in range(len(bits))], 1)
    border = (cells - cells.round()).abs().amin((1, 2))  # borders of all cascades, whichever the point is in
    samples = kernels.march(rays, bits, grid_size, MARCHING, exact.jitter, backend="reference")
    x_unit = samples.positions(rays) / field.aabb_scale + 0.5
    geo_hidden = kernels.hash_encode(x_unit, field.table, field.layout, backend="reference") @ field.d1
    harmonics = kernels.sh_encode(rays.rays_d, backend="reference")[samples.ray_indices]
    first = torch.cat([geo_hidden.relu() @ field.d2, harmonics], 1) @ field.c1
    hidden = torch.cat([geo_hidden, first, first.relu() @ field.c2], 1)
    kink = hidden.abs().amin(1) / hidden.abs().amax(1)
    is_near_border, is_near_kink = (torch.zeros(len(rays), dtype=torch.bool) for _ in range(2))
    is_near_border[everywhere.ray_indices[border < 2e-5]] = True
    is_near_kink[samples.ray_indices[kink < 2e-5]] = True
    return ~(is_near_border | is_near_kink)


def _random_scene(n_rays: int, density: float, n_cascades: int, occupancy: float) -> Scene:
    generator = torch.Generator().manual_seed(21)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    layout = GridLayout(n_levels=6, n_features=2, log2_table=12, base_resolution=8, finest_resolution=32)
    hidden, color_hidden = 32, 16
    field = FieldTensors(
        layout,
        table=normal(layout.n_rows, 2),
        d1=normal(layout.n_outputs, hidden) / layout.n_outputs**0.5,
        d2=density * normal(hidden, 16) / hidden**0.5,
        c1=normal(32, color_hidden) / 32**0.5,
        c2=normal(color_hidden, color_hidden) / color_hidden**0.5,
        c3=normal(color_hidden, 3) / color_hidden**0.5,
        aabb_scale=float(2 ** (n_cascades - 1)),
    )
    rays_o = 1.5 * normal(n_rays, 3)
    rays_d = torch.nn.functional.normalize(0.3 * normal(n_rays, 3) - rays_o, dim=-1)
    half = field.aabb_scale / 2
    aabb = torch.tensor([-half] * 3 + [half] * 3)
    t_min, t_max = kernels.ray_aabb(rays_o, rays_d, aabb, backend="reference")
    grid_size = 16
    cells = torch.rand(n_cascades, grid_size, grid_size, grid_size, generator=generator) < occupancy
    return Scene(
        field=field,
        rays=Rays(rays_o, rays_d, t_min, t_max),
        jitter=torch.rand(n_rays, generator=generator),
        target=torch.rand(n_rays, 3, generator=generator),
        background=torch.rand(n_rays, 3, generator=generator),
        occupancy=Occupancy(kernels.pack_bits(cells), grid_size),
    )


@dataclass(frozen=True)
class Found:
    result: StepResult
    gradients: dict[str, Tensor]


def step(scene: Scene, backend: str, dtype: torch.dtype, options: StepOptions, max_seen: int = 100_000) -> Found:
    """Run a step forward and backward."""
    moved = scene.to(dtype, device_of("field_step", backend), needs_gradient=True)
    result = kernels.field_step(
        moved.field,
        moved.rays,
        moved.jitter,
        moved.target,
        moved.background,
        moved.occupancy,
        options,
        max_seen,
        backend=backend,
    )
    result.loss.backward()
    gradients = {name: getattr(moved.field, name).grad for name in NAMES}
    result = replace(result, loss=result.loss.detach())
    return Found(result, {name: torch.zeros(()) if g is None else g.cpu().clone() for name, g in gradients.items()})


def check_step(scene: Scene, backend: str, options: StepOptions) -> Found:
    """Compare a step with the reference."""
    truth = step(scene, "reference", torch.float32, options)
    found = step(scene, backend, torch.float32, options)
    assert found.result.n_dropped == 0
    # In half precision a ray may get dark a sample earlier or later.
    differing = 0.01 if backend in HALF_BACKENDS else MARCH_MISMATCH.bound
    assert abs(found.result.n_seen - truth.result.n_seen) <= 1 + differing * truth.result.n_seen
    for name in ("loss", "color_loss", "mse", "distortion"):
        value, expected = float(getattr(found.result, name)), float(getattr(truth.result, name))
        assert value == pytest.approx(expected, rel=bound_of("field_step", "loss", backend)), name
    for name in NAMES:
        error = relative_error(found.gradients[name], truth.gradients[name])
        assert error <= bound_of("field_step", "gradients", backend), f"gradient of {name} is off by {error:.2e}"
    return found


@pytest.mark.parametrize(
    "options",
    [
        StepOptions(MARCHING),
        StepOptions(MARCHING, huber=0.0),
        StepOptions(MARCHING, distortion=0.1),
        StepOptions(MARCHING, near_fade=1.5),
        StepOptions(MARCHING, stop_transmittance=0.3, distortion=0.01, near_fade=1.0),
    ],
    ids=["plain", "squared error", "distortion", "near fade", "all"],
)
@each_fast_step
def test_step_matches_the_reference(backend: str, options: StepOptions) -> None:
    found = check_step(make_scene(127), backend, options)
    assert found.result.n_seen > 500 and all(gradient.abs().max() > 0 for gradient in found.gradients.values())


@pytest.mark.parametrize("n_rays", [1, 31, 257])
@each_fast_step
def test_odd_batches(backend: str, n_rays: int) -> None:
    check_step(make_scene(n_rays), backend, StepOptions(MARCHING))


@pytest.mark.parametrize("n_cascades", [1, 4])
@each_fast_step
def test_other_scene_sizes(backend: str, n_cascades: int) -> None:
    check_step(make_scene(127, n_cascades=n_cascades), backend, StepOptions(MARCHING))


@pytest.mark.parametrize("n_rays", [0, 5])
@each_step
def test_batches_that_see_nothing(backend: str, n_rays: int) -> None:
    scene = make_scene(n_rays, occupancy=0.0)
    found = step(scene, backend, torch.float32, StepOptions(MARCHING, distortion=0.1))
    assert found.result.n_seen == found.result.n_marched == found.result.n_dropped == 0
    assert not any(gradient.any() for gradient in found.gradients.values())
    expected = (scene.background - scene.target).square().mean().item() if n_rays else 0.0
    assert found.result.mse == pytest.approx(expected, abs=1e-6)


@each_step
def test_step_is_deterministic_for_any_number_of_threads(backend: str) -> None:
    scene, options = make_scene(257), StepOptions(MARCHING, distortion=0.01, deterministic=True)
    first, second = (step(scene, backend, torch.float32, options) for _ in range(2))
    kernels.set_threads(2)
    third = step(scene, backend, torch.float32, options)
    for other in (second, third) if backend != "reference" else (second,):
        assert float(other.result.loss) == float(first.result.loss)
        assert all(torch.equal(other.gradients[name], first.gradients[name]) for name in NAMES)


@each_fast_step
def test_rays_without_room_are_counted_and_leave_no_gradient(backend: str) -> None:
    scene = _random_scene(2049, 1.0, 2, 0.3)  # sees about twice what there is room for
    found = step(scene, backend, torch.float32, StepOptions(MARCHING), max_seen=16384)
    assert 0 < found.result.n_dropped < 2049
    assert 0 < found.result.n_seen <= 16384 + 8 * 16  # eight shares, each rounded up to whole vectors
    assert all(gradient.isfinite().all() and gradient.any() for gradient in found.gradients.values())
    assert math.isfinite(found.result.color_loss)


@pytest.mark.parametrize("scale", [1e2, 1e4, 1e8])
@each_step
def test_extreme_logits_give_finite_gradients(backend: str, scale: float) -> None:
    scene = make_scene(61)
    field = replace(scene.field, d2=scene.field.d2 * scale, c3=scene.field.c3 * scale)
    options = StepOptions(MARCHING, distortion=0.1, near_fade=1.0)
    found = step(replace(scene, field=field), backend, torch.float32, options)
    assert math.isfinite(float(found.result.loss))
    assert all(gradient.isfinite().all() for gradient in found.gradients.values())


@each_step
def test_two_steps_add_their_gradients(backend: str) -> None:
    """Gradient accumulation: each call without a shared space owns its memory until backward."""
    scene, options = make_scene(64), StepOptions(MARCHING)
    halves = [scene.of_rays(slice(0, 32)), scene.of_rays(slice(32, 64))]
    expected = [step(half, backend, torch.float32, options).gradients for half in halves]
    moved = scene.to(torch.float32, device_of("field_step", backend), needs_gradient=True)
    losses = []
    for index in (slice(0, 32), slice(32, 64)):
        part = moved.of_rays(index)
        result = kernels.field_step(
            moved.field,
            part.rays,
            part.jitter,
            part.target,
            part.background,
            part.occupancy,
            options,
            10_000,
            backend=backend,
        )
        losses.append(result.loss)
    (losses[0] + 3 * losses[1]).backward()
    for name in NAMES:
        gradient = getattr(moved.field, name).grad
        assert gradient is not None
        total = expected[0][name] + 3 * expected[1][name]
        assert torch.allclose(gradient.cpu(), total, atol=1e-6 * float(total.abs().max())), name


@pytest.mark.parametrize("density", [1.0, 4.0], ids=["soft", "contrast"])
@pytest.mark.parametrize("n_rays", [1, 257])
@each_fast_render
def test_render_matches_the_reference(backend: str, n_rays: int, density: float) -> None:
    scene = make_scene(n_rays, density)
    truth, found = (_render(scene, name, torch.float32) for name in ("reference", backend))
    for name, value in found.items():
        error = (value.double() - truth[name]).abs()
        bound = bound_of("render_field", name, backend)
        # A midpoint on a cell border may change sides: one ray in a hundred may differ more.
        assert (error.reshape(n_rays, -1).amax(1) > bound).double().mean() <= 0.01, f"{name}: {float(error.max()):.2e}"


@each_render
def test_render_with_nothing_to_see(backend: str) -> None:
    for scene in (make_scene(5, occupancy=0.0), make_scene(0)):
        assert not any(value.any() for value in _render(scene, backend, torch.float32).values())


@each_render
def test_extreme_logits_render_finite_pixels(backend: str) -> None:
    scene = make_scene(61)
    field = replace(scene.field, d2=scene.field.d2 * 1e8, c3=scene.field.c3 * 1e8)
    found = _render(replace(scene, field=field), backend, torch.float32)
    assert all(value.isfinite().all() for value in found.values())
    assert found["rgb"].min() >= 0 and found["rgb"].max() <= 1 + 1e-5
    assert found["alpha"].min() >= 0 and found["alpha"].max() <= 1 + 1e-5


def _render(scene: Scene, backend: str, dtype: torch.dtype) -> dict[str, Tensor]:
    moved = scene.to(dtype, device_of("render_field", backend))
    out = kernels.render_field(moved.field, moved.rays, moved.occupancy, MARCHING, backend=backend)
    assert out.alpha is not None
    return {"rgb": out.rgb.cpu(), "depth": out.depth.cpu(), "alpha": out.alpha.cpu()}


@pytest.mark.parametrize("n_points", [0, 1, 1025])
@each_density
def test_density_matches_the_reference(backend: str, n_points: int) -> None:
    scene = make_scene(1)
    x = 1.2 * torch.randn(n_points, 3, generator=torch.Generator().manual_seed(1))  # some lie outside the cube
    values = []
    for name, dtype in (("reference", torch.float64), (backend, torch.float32)):
        device = device_of("field_density", name)
        values.append(kernels.field_density(scene.to(dtype, device).field, x.to(device, dtype), backend=name).cpu())
    assert values[1].shape == (n_points,)
    if n_points:
        assert ((values[1] - values[0]).abs() / values[0]).max() <= bound_of("field_density", "sigmas", backend)


_FAR_RAYS = """
import sys, torch
from nerfstudio_ext import kernels
from nerfstudio_ext.kernels import StepOptions
from nerfstudio_ext.rays import Rays
sys.path.insert(0, "tests")
from kernels.test_fused import MARCHING, make_scene
scene = make_scene(3, occupancy=0.01)
rays_o = torch.tensor([[1e6, 0, 0], [3e5, 3e5, 3e5], [float("nan"), 0, 0]])
rays_d = torch.tensor([[-1, 0, 0], [-(3 ** -0.5)] * 3, [1.0, 0, 0]])
t_min, t_max = kernels.ray_aabb(rays_o, rays_d, torch.tensor([-1.0, -1, -1, 1, 1, 1]), backend="reference")
rays = Rays(rays_o, rays_d, t_min, t_max)
marching = kernels.Marching(step=0.003, cone_angle=0.0, max_step=0.003, near=0.0)
kernels.render_field(scene.field, rays, scene.occupancy, marching, backend=sys.argv[1])
options = StepOptions(marching)
arguments = (scene.jitter, scene.target, scene.background, scene.occupancy, options, 1000)
print(kernels.field_step(scene.field, rays, *arguments, backend=sys.argv[1]).n_seen)
"""


@each_step
def test_impossible_rays_end(backend: str) -> None:
    """As in test_march.py: a far outlier among the cameras must not hang training."""
    if device_of("field_step", backend) != "cpu":
        pytest.skip("the script keeps its tensors on the CPU")
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    command = [sys.executable, "-c", _FAR_RAYS, backend]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, cwd=root, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip().isdigit()
