"""The disturbed field on every back end against the composition of the references, and against the plain step."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from nerfstudio_ext import kernels
from nerfstudio_ext.kernels import Disturbance, Pass, SeenSamples, StepOptions, View

from .cases import device_of, relative_error, runnable
from .test_fused import MARCHING, NAMES, Scene, make_scene
from .tolerances import TOLERANCES

pytestmark = pytest.mark.slow
"""Compiling the kernels takes most of a minute, where no earlier run has left them in the cache."""
OPTIONS = StepOptions(MARCHING, stop_transmittance=1e-3)
SHIFTS = ("t", "x", "features", "raw", "rgb")
each_backend = pytest.mark.parametrize("backend", runnable("disturbed_loss"))
each_fast = pytest.mark.parametrize("backend", sorted({*runnable("disturbed_loss")} - {"reference"}))


@dataclass(frozen=True)
class Found:
    loss: Tensor
    mse: float
    gradients: dict[str, Tensor]


def seen(scene: Scene, backend: str = "reference", max_seen: int = 100_000) -> SeenSamples:
    return kernels.seen_samples(
        scene.field, scene.rays, scene.jitter, scene.occupancy, OPTIONS, max_seen, backend=backend
    )


def disturbance(scene: Scene, n: int, strength: float, names: tuple[str, ...] = SHIFTS) -> Disturbance:
    generator = torch.Generator().manual_seed(5)
    shapes = {"t": (n,), "x": (n, 3), "features": (n, scene.field.layout.n_outputs), "raw": (n, 4)}
    shapes["rgb"] = (len(scene.rays), 3)
    scales = {"t": 0.3 * MARCHING.step, "x": 0.02, "features": 0.3, "raw": 0.5, "rgb": 0.1}
    return Disturbance(
        **{k: strength * scales[k] * (2 * torch.rand(shapes[k], generator=generator) - 1) for k in names}
    )


def evaluate(
    scene: Scene, found: SeenSamples, shift: Disturbance, backend: str, options: StepOptions, *, of: str
) -> Found:
    """Loss and the gradients of the field, of what disturbs it, or of both."""
    scene = scene.to(torch.float32, device_of("disturbed_loss", backend), needs_gradient=of != "rest")
    leaf = of != "field"
    harmonics = kernels.sh_encode(scene.rays.rays_d)
    view = View(*(t.clone().requires_grad_(leaf) for t in (scene.rays.rays_o, scene.rays.rays_d, harmonics)))
    shift = Disturbance(**{name: tensor.clone().requires_grad_(leaf) for name, tensor in shift.tensors.items()})
    result = kernels.disturbed_loss(
        scene.field, found.samples, (Pass(view, shift, options),), scene.target, scene.background, backend=backend
    )
    assert result.losses == (pytest.approx(float(result.total.detach()), rel=1e-6),)
    result.total.backward()
    leaves = {name: getattr(scene.field, name) for name in NAMES}
    leaves |= {name: getattr(view, name) for name in ("rays_o", "rays_d", "harmonics")} | shift.tensors
    return Found(result.total.detach(), result.mse[0], {k: v.grad for k, v in leaves.items() if v.grad is not None})


def clear_scene(n_rays: int, strength: float, density: float = 1.0) -> tuple[Scene, SeenSamples, Disturbance]:
    """Rays whose disturbed samples are clear of cell borders of the hash grid and of the kinks of ReLU."""
    scene = make_scene(2 * n_rays + 8, density)
    found = seen(scene)
    shift = disturbance(scene, len(found.samples), strength)
    exact = scene.to(torch.float64, "cpu")
    s = found.samples
    middles = 0.5 * (s.t_starts + s.t_ends).double() + shift.t.double()
    ray = s.ray_indices
    x = exact.rays.rays_o[ray] + middles[:, None] * exact.rays.rays_d[ray] + shift.x.double()
    x_unit = (x / exact.field.aabb_scale + 0.5).clamp(0, 1)
    cells = torch.stack([x_unit * scale + 0.5 for scale in exact.field.layout.scales], 1)
    features = kernels.hash_encode(x_unit, exact.field.table, exact.field.layout, backend="reference")
    hidden = (features + shift.features.double()) @ exact.field.d1
    harmonics = kernels.sh_encode(exact.rays.rays_d, backend="reference")[ray]
    first = torch.cat([hidden.relu() @ exact.field.d2, harmonics], 1) @ exact.field.c1
    everything = torch.cat([hidden, first, first.relu() @ exact.field.c2], 1)
    kink = everything.abs().amin(1) / everything.abs().amax(1)
    border = (cells - cells.round()).abs().amin((1, 2))
    is_bad = torch.zeros(len(scene.rays), dtype=torch.bool)
    is_bad[ray[(kink < 2e-5) | (border < 1e-4)]] = True
    scene = scene.of_rays((~is_bad).nonzero()[:n_rays, 0])
    found = seen(scene)
    return scene, found, disturbance(scene, len(found.samples), strength)


@each_fast
@pytest.mark.parametrize("n_rays", [1, 7, 60])
def test_seen_samples(backend: str, n_rays: int):
    scene = make_scene(n_rays, density=3.0)
    truth, result = seen(scene), seen(scene, backend)
    assert result.n_dropped == 0
    assert result.n_marched >= len(result.samples)
    assert torch.equal(truth.samples.packed_info, result.samples.packed_info)
    assert torch.equal(truth.samples.ray_indices, result.samples.ray_indices)
    torch.testing.assert_close(truth.samples.t_starts, result.samples.t_starts, atol=0, rtol=1e-6)
    torch.testing.assert_close(truth.samples.t_ends, result.samples.t_ends, atol=0, rtol=1e-6)


@each_fast
def test_rays_without_room_have_no_samples(backend: str):
    scene = make_scene(60)
    everything, some = seen(scene, backend), seen(scene, backend, max_seen=len(seen(scene).samples) // 2)
    assert some.n_dropped > 0
    counts, full = some.samples.packed_info[:, 1], everything.samples.packed_info[:, 1]
    assert int(((counts == 0) & (full > 0)).sum()) == some.n_dropped
    assert torch.equal(counts[counts > 0], full[counts > 0])


@each_fast
@pytest.mark.parametrize("of", ["field", "rest", "both"])
@pytest.mark.parametrize("huber", [0.0, 0.1])
@pytest.mark.parametrize("n_rays", [1, 60])
def test_values_and_gradients(backend: str, of: str, huber: float, n_rays: int):
    scene, found, shift = clear_scene(n_rays, 1.0)
    options = replace(OPTIONS, huber=huber)
    truth = evaluate(scene, found, shift, "reference", options, of=of)
    result = evaluate(scene, found, shift, backend, options, of=of)
    assert float(result.loss) == pytest.approx(float(truth.loss), rel=TOLERANCES["disturbed_loss", "loss"].bound)
    assert result.mse == pytest.approx(truth.mse, rel=TOLERANCES["disturbed_loss", "loss"].bound)
    assert set(result.gradients) == set(truth.gradients)
    assert len(truth.gradients) == {"field": 6, "rest": 8, "both": 14}[of]
    for name, gradient in result.gradients.items():
        error = relative_error(gradient, truth.gradients[name])
        assert error <= TOLERANCES["disturbed_loss", "gradients"].bound, f"gradient of {name} is off by {error:.2e}"


@each_fast
@pytest.mark.parametrize("name", SHIFTS)
def test_each_shift_alone(backend: str, name: str):
    scene, found, shift = clear_scene(20, 1.0)
    alone = Disturbance(**{name: shift.tensors[name]})
    truth, result = (evaluate(scene, found, alone, b, OPTIONS, of="rest") for b in ("reference", backend))
    assert set(result.gradients) == {"rays_o", "rays_d", "harmonics", name}
    error = relative_error(result.gradients[name], truth.gradients[name])
    assert error <= TOLERANCES["disturbed_loss", "gradients"].bound


@each_backend
def test_without_disturbance_it_is_the_plain_step(backend: str):
    scene = make_scene(60)
    options = replace(OPTIONS, distortion=0.01, near_fade=1.0)
    result = evaluate(scene, seen(scene, backend), Disturbance(), backend, options, of="field")
    moved = scene.to(torch.float32, "cpu", needs_gradient=True)
    arguments = (moved.rays, moved.jitter, moved.target, moved.background, moved.occupancy, options, 100_000)
    plain = kernels.field_step(moved.field, *arguments, backend=backend)
    plain.loss.backward()
    assert float(result.loss) == pytest.approx(float(plain.loss.detach()), rel=TOLERANCES["field_step", "loss"].bound)
    for name in NAMES:
        error = relative_error(result.gradients[name], getattr(moved.field, name).grad)
        assert error <= TOLERANCES["field_step", "gradients"].bound, name


@each_backend
def test_passes_add_up_by_their_shares(backend: str):
    scene, found, shift = clear_scene(30, 1.0)
    options = replace(OPTIONS, distortion=0.01)
    moved = scene.to(torch.float32, "cpu", needs_gradient=True)
    view = View(moved.rays.rays_o, moved.rays.rays_d, kernels.sh_encode(moved.rays.rays_d))
    passes = (Pass(view, Disturbance(), options, 0.75), Pass(view, shift, OPTIONS, 0.25))
    both = kernels.disturbed_loss(moved.field, found.samples, passes, moved.target, moved.background, backend=backend)
    both.total.backward()
    plain = evaluate(scene, found, Disturbance(), backend, options, of="field")
    disturbed = evaluate(scene, found, shift, backend, OPTIONS, of="field")
    assert float(both.total.detach()) == pytest.approx(
        0.75 * float(plain.loss) + 0.25 * float(disturbed.loss), rel=1e-5
    )
    for name in NAMES:
        expected = 0.75 * plain.gradients[name] + 0.25 * disturbed.gradients[name]
        assert relative_error(getattr(moved.field, name).grad, expected) < 1e-5, name


@each_backend
def test_the_loss_rises_along_its_gradient(backend: str):
    scene, found, shift = clear_scene(30, 0.0)
    result = evaluate(scene, found, shift, backend, OPTIONS, of="rest")
    for name in SHIFTS:
        step = 1e-3 * result.gradients[name] / result.gradients[name].norm()
        losses = [
            evaluate(scene, found, Disturbance(**{name: sign * step}), backend, OPTIONS, of="rest").loss
            for sign in (1, -1)
        ]
        measured = float(losses[0] - losses[1]) / 2
        assert measured == pytest.approx(1e-3 * float(result.gradients[name].norm()), rel=0.1), name


@each_backend
def test_no_rays_at_all(backend: str):
    scene = make_scene(4).of_rays(slice(0, 0))
    found = seen(scene, backend)
    assert len(found.samples) == 0
    for of in ("field", "rest"):
        result = evaluate(scene, found, disturbance(scene, 0, 1.0), backend, OPTIONS, of=of)
        assert float(result.loss) == 0
        assert not any(gradient.any() for gradient in result.gradients.values())


def test_threads_change_nothing():
    scene, found, shift = clear_scene(60, 1.0)
    results = []
    for threads in (1, 2):
        kernels.set_threads(threads)
        results.append([evaluate(scene, found, shift, "cpu", OPTIONS, of=of) for of in ("field", "rest")])
    for one, two in zip(*results, strict=True):
        assert torch.equal(one.loss, two.loss)
        assert all(torch.equal(one.gradients[name], two.gradients[name]) for name in one.gradients)
