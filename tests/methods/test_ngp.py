"""The fast field learns, culls, survives extremes and means the same on every back end."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from nerfstudio_ext import kernels
from nerfstudio_ext.errors import UserError
from nerfstudio_ext.methods.ngp import Ngp, NgpConfig

from .ball_scene import BallSampler, look, make_meta

CONFIG = NgpConfig(n_levels=6, log2_table=14, finest_resolution=128, hidden=32, color_hidden=32, grid_size=64,
                   samples_per_batch=8192, coarse_steps=64)  # fmt: skip


def train(steps: int, config: NgpConfig = CONFIG) -> Ngp:
    meta = make_meta()
    sampler, method = BallSampler(meta), Ngp(config, meta, seed=0)
    groups = [{"params": list(g.params), "lr": g.lr, "betas": g.betas, "eps": g.eps} for g in method.param_groups()]
    optimizer = torch.optim.Adam(groups)
    for step in range(steps):
        batch = sampler.next(method.n_rays)
        method.train_step(sampler.rays(batch), batch, step)["color"].backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        method.after_step(step + 1)
    return method


@pytest.fixture(scope="module")
def trained() -> Ngp:
    return train(300)


def psnr_of(method: Ngp, camera_index: int) -> float:
    rays = make_meta().cameras[camera_index].rays()
    out = method.render_rays(rays)
    rgb, alpha = look(rays)
    error = out.rgb + (1 - out.alpha[:, None]) - (rgb * alpha[:, None] + 1 - alpha[:, None])
    return float(-10 * error.square().mean().log10())


@pytest.mark.slow
def test_it_learns_views_it_has_not_seen(trained: Ngp):
    assert min(psnr_of(trained, index) for index in make_meta().split.test) > 24


@pytest.mark.slow
def test_the_occupancy_culls(trained: Ngp):
    """A ball of radius 0.3 fills 11 % of the cube, its shell less: a grid that stays full is a fault."""
    assert trained.occupancy.share < 0.15
    stats = trained.stats_of_last_step
    assert stats["seen_per_ray"] < 20


@pytest.mark.slow
def test_the_same_weights_render_the_same_on_the_reference(trained: Ngp):
    rays = trained.clipped(make_meta().cameras[0].rays())
    pictures = [
        kernels.render_field(
            trained.field.tensors(), rays, trained.occupancy.occupancy(), trained.marching, backend=backend
        ).rgb
        for backend in ("cpu", "reference")
    ]
    difference = (pictures[0] - pictures[1]).abs()
    assert difference.max() < 2 / 255
    assert -10 * difference.square().mean().log10() > 45


def test_two_threads_give_the_gradient_of_one():
    meta = make_meta()
    sampler = BallSampler(meta)
    batch = sampler.next(512)
    gradients = []
    for threads in (1, 2):
        kernels.set_threads(threads)
        method = Ngp(CONFIG, meta, seed=0)
        method.train_step(sampler.rays(batch), batch, 0)["color"].backward()
        gradients.append([p.grad for p in method.parameters()])
    for one, two in zip(*gradients, strict=True):
        assert (one - two).abs().max() <= 1e-5 * one.abs().max()


@pytest.mark.parametrize("factor", [1e4, -1e4])
def test_huge_logits_give_finite_gradients(factor: float):
    meta = make_meta()
    sampler, method = BallSampler(meta), Ngp(CONFIG, meta, seed=0)
    with torch.no_grad():
        method.field.d2.mul_(factor)
        method.field.c3.mul_(factor)
        method.field.table.uniform_(-1, 1)
    batch = sampler.next(256)
    losses = method.train_step(sampler.rays(batch), batch, 0)
    losses["color"].backward()
    assert torch.isfinite(losses["color"])
    assert all(torch.isfinite(p.grad).all() for p in method.parameters())


def test_the_batch_follows_the_sample_budget():
    method = train(40)
    seen = method.stats_of_last_step["seen_per_ray"] * method.n_rays
    assert 0.5 * CONFIG.samples_per_batch < seen < 2 * CONFIG.samples_per_batch


def test_an_unbounded_scene_gets_cascades_and_growing_steps():
    meta = make_meta()
    frame = dataclasses.replace(meta.frame, aabb_scale=8)
    method = Ngp(CONFIG, dataclasses.replace(meta, frame=frame), seed=0)
    assert method.occupancy.n_cascades == 4
    assert method.marching.cone_angle > 0
    assert method.options.near_fade > 0


@pytest.mark.parametrize("name", ["n_levels", "grid_size", "steps_per_unit", "samples_per_batch"])
def test_sizes_below_one_are_refused(name: str):
    with pytest.raises(UserError, match="0 is below 1") as caught:
        dataclasses.replace(CONFIG, **{name: 0})
    assert f"--{name.replace('_', '-')}" in caught.value.line
