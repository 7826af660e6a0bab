"""Our augmented training against figures computed with the released code, for any set of figures of that layout.

The figures hold the released behaviour, faults included, hence `keeps_released_faults`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from nerfstudio_ext.fields.mlp_field import DIRECTION_OCTAVES, POINT_OCTAVES, MlpField, frequency_code, from_released
from nerfstudio_ext.methods.aug import Aug
from nerfstudio_ext.methods.aug_balls import Ball, ascend, weight_disturbance
from nerfstudio_ext.methods.aug_levels import Level, LevelOptions, SamplingNoise, Stretch, moved_rays, render_levels
from nerfstudio_ext.methods.aug_settings import AugConfig
from tests.conftest import shared_folder

from .ball_scene import make_meta

pytestmark = pytest.mark.shared

COARSE, FINE, FED, GRADIENT = 1e-5, 1e-3, 1e-5, 1e-3
"""Absolute on values, relative to the largest on gradients. The fine level hangs on quantiles of the coarse weights,
which magnify rounding; with the stored distances it is as exact as the coarse level."""
SAME_SHARE, SAME = 0.995, 1e-6
"""Share of the elements of a delta that must agree after ascent steps: the sign of a gradient near zero is rounding."""
LAST_QUANTILES = (1 + 3e-7, *(1 - k * 6e-8 for k in range(9)), 1 - 1e-5)
"""At u = 1 the last fine sample falls into an empty bin of the coarse level. It is 1e-5 wide, some hundred roundings of
the cumulative sum, and as wide as the smallest divisor, so rounding decides where in the bin the sample lies, or at
which end. These stand for all outcomes; no other sample is moved by them."""


@dataclass(frozen=True)
class Figures:
    """One set of figures and the networks it was computed with."""

    inputs: Mapping[str, np.ndarray]
    outputs: Mapping[str, np.ndarray]
    networks: Mapping[str, MlpField]

    def given(self, name: str) -> Tensor:
        return torch.from_numpy(np.asarray(self.inputs[name]))

    def expected(self, name: str) -> Tensor:
        return torch.from_numpy(np.asarray(self.outputs[name]))

    @property
    def stretch(self) -> Stretch:
        n = self.given("rays").shape[1]
        near, far = (torch.full((n,), float(self.inputs[name])) for name in ("near", "far"))
        return Stretch(near, far)

    @property
    def options(self) -> LevelOptions:
        return LevelOptions(int(self.inputs["N_samples"]), int(self.inputs["N_importance"]), keeps_released_faults=True)

    def render(
        self, names: tuple[str, str], deltas: Mapping[str, Tensor] | None = None, **more: object
    ) -> tuple[Level, Level]:
        deltas = deltas or {}
        rays_o, rays_d = moved_rays(*self.given("rays"), self.given("cam_ids"), deltas)
        networks = (self.networks[names[0]], self.networks[names[1]])
        return render_levels(networks, rays_o, rays_d, self.stretch, self.options, deltas, **more)

    def loss(self, levels: tuple[Level, Level]) -> Tensor:
        return sum((level.rgb - self.given("gt")).square().mean() for level in levels)


@lru_cache
def figures(folder: Path) -> Figures:
    inputs, outputs, weights = (dict(np.load(folder / f"{name}.npz")) for name in ("inputs", "outputs", "weights"))
    tensors = {name: torch.from_numpy(value) for name, value in weights.items()}
    networks = {}
    for name in ("nerf", "nerf_fine", "nerf_adv"):
        networks[name] = MlpField(int(inputs["netwidth"]), torch.Generator().manual_seed(0))
        networks[name].load_state_dict(from_released(tensors, f"{name}.mlp."))
    return Figures(inputs, outputs, networks)


@pytest.fixture
def given() -> Figures:
    return figures(shared_folder() / "fixtures" / "augnerf")


CLEAN, ADVERSARY = ("nerf", "nerf_fine"), ("nerf_adv", "nerf_adv")


def far_apart(found: Tensor, expected: Tensor) -> Tensor:
    """Largest difference per ray."""
    return (found.detach().reshape(expected.shape) - expected).abs().flatten(1).amax(1)


def last_quantiles(given: Figures, last: Tensor | float) -> SamplingNoise:
    """Regular samples, but for the last fine one of each ray."""
    u = torch.linspace(0, 1, given.options.n_fine).repeat(given.given("rays").shape[1], 1)
    u[:, -1] = last
    return SamplingNoise(fine=u)


def fine_errors(given: Figures, names: tuple[str, str], deltas: Mapping[str, Tensor], prefix: str, what: str) -> Tensor:
    """Difference of the fine level, [outcomes of the last sample, rays]."""
    levels = [given.render(names, deltas, noise=last_quantiles(given, last))[1] for last in LAST_QUANTILES]
    return torch.stack(
        [far_apart(getattr(fine, what), given.expected(f"{prefix}/{RELEASED[what]}")) for fine in levels]
    )


def best_of_bins(
    given: Figures, names: tuple[str, str], deltas: Mapping[str, Tensor], prefix: str, what: str
) -> Tensor:
    """Difference of the fine level per ray, for the outcome that fits the figures."""
    return fine_errors(given, names, deltas, prefix, what).amin(0)


def as_released(given: Figures, deltas: Mapping[str, Tensor], prefix: str) -> SamplingNoise:
    """The outcome of the last sample on each ray that the figures were computed with."""
    chosen = fine_errors(given, ADVERSARY, deltas, prefix, "rgb").argmin(0)
    return last_quantiles(given, torch.tensor(LAST_QUANTILES)[chosen])


RELEASED = {"rgb": "rgb", "alpha": "acc", "weights": "weights", "raw": "raw", "points": "pts", "z": "z_vals"}


def test_codes(given: Figures):
    for name, key, n in (("pts", "mlp/pts", POINT_OCTAVES), ("dirs", "mlp/viewdirs", DIRECTION_OCTAVES)):
        code = frequency_code(given.given(key).reshape(-1, 3), n)
        torch.testing.assert_close(code, given.expected(f"mlp/embed_{name}"), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["nerf", "nerf_fine", "nerf_adv", "nerf_adv_featpert"])
def test_networks(given: Figures, name: str):
    delta = given.given("mlp/adv_feat") if name.endswith("featpert") else None
    raw = given.networks[name.removesuffix("_featpert")](given.given("mlp/pts"), given.given("mlp/viewdirs"), delta)
    torch.testing.assert_close(raw, given.expected(f"mlp/{name}"), atol=COARSE, rtol=1e-5)


@pytest.mark.parametrize("what", sorted(RELEASED))
def test_clean(given: Figures, what: str):
    coarse, _ = given.render(CLEAN)
    assert far_apart(getattr(coarse, what), given.expected(f"clean/{RELEASED[what]}0")).max() < COARSE
    fed = given.render(CLEAN, z_fine=given.expected("clean/z_vals"))[1]
    assert far_apart(getattr(fed, what), given.expected(f"clean/{RELEASED[what]}")).max() < FED
    assert best_of_bins(given, CLEAN, {}, "clean", what).max() < FINE


def test_clean_depth_white_background_and_loss(given: Figures):
    coarse, fine = given.render(CLEAN, z_fine=given.expected("clean/z_vals"))
    for level, name in ((coarse, "depth0"), (fine, "depth")):
        depth = torch.where(level.alpha > 1e-10, level.depth, 1e10)
        assert far_apart(depth, given.expected(f"clean/{name}")).max() < 1e-4  # distances up to 6, eight digits
    white = fine.rgb + (1 - fine.alpha[:, None])
    assert far_apart(white, given.expected("clean_white/rgb")).max() < FED
    assert abs(float(given.loss((coarse, fine)).detach()) - float(given.expected("clean/loss_mean"))) < COARSE


@pytest.mark.parametrize("key", ["pts", "zval", "feat", "raw"])
@pytest.mark.parametrize("letter", ["c", "f"])
def test_one_disturbance(given: Figures, key: str, letter: str):
    name = f"{key}_{letter}"
    deltas = {name: given.given(f"single/{name}")}
    coarse, _ = given.render(ADVERSARY, deltas)
    assert far_apart(coarse.rgb, given.expected(f"single/{name}/rgb0")).max() < COARSE
    assert far_apart(coarse.alpha, given.expected(f"single/{name}/acc0")).max() < COARSE
    for what in ("rgb", "alpha"):
        assert best_of_bins(given, ADVERSARY, deltas, f"single/{name}", what).max() < FINE


def test_camera(given: Figures):
    deltas = {name: given.given(f"single/{name}") for name in ("cam_r", "cam_t")}
    rays_o, rays_d = moved_rays(*given.given("rays"), given.given("cam_ids"), deltas)
    torch.testing.assert_close(rays_o, given.expected("single/cam/rays_o"), atol=1e-6, rtol=0)
    torch.testing.assert_close(rays_d, given.expected("single/cam/rays_d"), atol=1e-6, rtol=0)
    coarse, _ = given.render(ADVERSARY, deltas)
    assert far_apart(coarse.rgb, given.expected("single/cam/rgb0")).max() < COARSE
    assert best_of_bins(given, ADVERSARY, deltas, "single/cam", "rgb").max() < FINE


def balls(given: Figures, iterations: int) -> dict[str, Ball]:
    """Balls with the radii of our own rules and the steps as the figures give them."""
    half = {
        "c": given.stretch.half_spacing(given.options.n_coarse),
        "f": given.stretch.half_spacing(given.options.n_total),
    }
    pixel, found = 2 / max(int(given.inputs["H"]), int(given.inputs["W"])), {}
    for name, alpha, eps in zip(*(given.inputs[k] for k in ("adv_keys", "pgd_alpha", "pgd_eps")), strict=True):
        key, letter = str(name).split("_")
        unit = {"zval": half[letter], "pts": half[letter].clamp_max(pixel)[..., None]}.get(key, torch.ones(()))
        found[str(name)] = Ball(float(eps) * unit, float(alpha), iterations)
    return found


def test_radii(given: Figures):
    for name, ball in balls(given, 1).items():
        radius = torch.as_tensor(ball.radius)
        torch.testing.assert_close(
            radius, given.expected(f"template/eps/{name}").float().expand_as(radius), atol=0, rtol=1e-5
        )
        assert ball.step == pytest.approx(float(given.expected(f"template/alpha/{name}")))


@pytest.mark.parametrize("prefix", ["pgd1", "pgdN"])
def test_ascent(given: Figures, prefix: str):
    iterations = 1 if prefix == "pgd1" else int(given.inputs["pgd_iters"])
    start = {str(name): given.expected(f"pgd1/init/{name}") for name in given.inputs["adv_keys"]}
    final, _ = ascend(lambda d: given.loss(given.render(ADVERSARY, d)), start, balls(given, iterations))
    for name, delta in final.items():
        is_same = (delta - given.expected(f"{prefix}/final/{name}")).abs() <= SAME
        assert is_same.float().mean() >= SAME_SHARE, name
    expected = {name: given.expected(f"{prefix}/final/{name}") for name in start}
    coarse, _ = given.render(ADVERSARY, expected)
    assert far_apart(coarse.rgb, given.expected(f"{prefix}/ret/rgb0")).max() < COARSE
    assert best_of_bins(given, ADVERSARY, expected, f"{prefix}/ret", "rgb").max() < FINE


def test_gradients_at_the_start(given: Figures):
    leaves = {str(n): given.expected(f"pgd1/init/{n}").requires_grad_() for n in given.inputs["adv_keys"]}
    loss = given.loss(given.render(ADVERSARY, leaves))
    assert abs(float(loss.detach()) - float(given.expected("pgd1/loss_at_init"))) < FINE
    gradients = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))
    for name, gradient in gradients.items():
        expected = given.expected(f"pgd1/grad_at_init/{name}")
        off = (gradient - expected).abs() / expected.abs().max()
        # A fine sample that fell into the other bin changes the gradients of its whole ray.
        per_ray = off.flatten(1).amax(1)
        allowed = 0 if name.endswith("_c") and name != "zval_c" else other_bins(given, leaves)
        assert int((per_ray > GRADIENT).sum()) <= allowed, name
        zeros = float((gradient == 0).float().mean())
        assert zeros == pytest.approx(float(given.expected(f"pgd1/zero_grad_fraction/{name}")), abs=0.02)
    assert (gradients["raw_f"][..., :3] == 0).all()


def other_bins(given: Figures, deltas: Mapping[str, Tensor]) -> int:
    """Rays on which rounding decides where the last fine sample lies."""
    with torch.no_grad():
        z = [given.render(ADVERSARY, deltas, noise=last_quantiles(given, last))[1].z for last in LAST_QUANTILES]
    return int((torch.stack([far_apart(z[0], other) for other in z]).amax(0) > 1e-4).sum())


def test_the_objective(given: Figures):
    final = {str(name): given.expected(f"pgd1/final/{name}") for name in given.inputs["adv_keys"]}
    clean = given.loss(given.render(CLEAN, z_fine=given.expected("clean/z_vals")))
    disturbed = given.loss(given.render(ADVERSARY, final, noise=as_released(given, final, "pgd1/ret")))
    assert float(clean.detach()) == pytest.approx(float(given.expected("train/loss_clean")), abs=COARSE)
    assert float(disturbed.detach()) == pytest.approx(float(given.expected("train/loss_adv")), abs=COARSE)
    mixed = 0.5 * clean + 0.5 * disturbed
    assert float(mixed.detach()) == pytest.approx(float(given.expected("train/loss")), abs=COARSE)
    named = parameters(given)
    gradients = torch.autograd.grad(mixed, list(named.values()))
    expected = dict(zip(given.outputs["train/grad_names"], given.outputs["train/grad_norms"], strict=True))
    for name, gradient in zip(named, gradients, strict=True):
        assert float(gradient.norm()) == pytest.approx(float(expected[name]), rel=GRADIENT), name
    assert not bool(given.expected("train/clean_nets_receive_adv_gradient"))


def parameters(given: Figures) -> dict[str, Tensor]:
    """All weights under their released names."""
    return {
        f"{name}.mlp.{released(ours)}": parameter
        for name, network in given.networks.items()
        for ours, parameter in network.named_parameters()
    }


def released(ours: str) -> str:
    from nerfstudio_ext.fields.mlp_field import RELEASED_NAMES

    layer, _, kind = ours.rpartition(".")
    return f"{RELEASED_NAMES[layer]}.{kind}"


def test_weight_disturbance(given: Figures):
    named = {name: p for name, p in parameters(given).items() if name.endswith("weight")}
    final = {str(name): given.expected(f"pgd1/final/{name}") for name in given.inputs["adv_keys"]}

    noise = as_released(given, final, "pgd1/ret")

    def loss() -> Tensor:
        return given.loss(given.render(ADVERSARY, final, noise=noise))

    changes = dict(zip(named, weight_disturbance(loss(), list(named.values())), strict=True))
    norms = dict(zip(given.outputs["awp/keys"], given.outputs["awp/diff_norms"], strict=True))
    for name, change in changes.items():
        assert float(change.norm()) == pytest.approx(float(norms[name]), rel=1e-3, abs=1e-8), name
    for name in ("nerf_adv.mlp.rgb_linear.weight", "nerf_adv.mlp.alpha_linear.weight"):
        is_same = (changes[name] - given.expected(f"awp/diff/{name}")).abs() <= 1e-5
        assert is_same.float().mean() >= SAME_SHARE
    with torch.no_grad():
        for name, change in changes.items():
            named[name].add_(0.01 * change)
    after = [loss(), given.loss(given.render(CLEAN))]
    with torch.no_grad():
        for name, change in changes.items():
            named[name].sub_(0.01 * change)
    for value, name in zip(after, ("adv", "clean"), strict=True):
        assert float(value.detach()) == pytest.approx(float(given.expected(f"awp/loss_{name}_after_perturb")), abs=FINE)


def test_learning_rate(given: Figures):
    method = Aug(AugConfig(), make_meta(n_cameras=4), seed=0)
    (group,) = method.param_groups()
    for step, rate in zip(given.inputs["lr/steps"], given.outputs["lr/values"], strict=True):
        assert group.lr * method.lr_factor(step / 500_000) == pytest.approx(float(rate), rel=1e-9)
