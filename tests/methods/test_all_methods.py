"""Every method trains two steps, saves, loads and renders the same picture. No method is left out."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from nerfstudio_ext import methods
from nerfstudio_ext.methods.aug_settings import AugConfig, MlpConfig
from nerfstudio_ext.methods.gnt_config import GntConfig
from nerfstudio_ext.methods.lift_config import LiftConfig
from nerfstudio_ext.methods.ngp import NgpConfig
from nerfstudio_ext.methods.protocol import NeedsPhotos

from .ball_scene import BallSampler, make_meta, make_scene

TINY_HASH = NgpConfig(n_levels=4, log2_table=12, finest_resolution=64, hidden=16, color_hidden=16, grid_size=32)
SMALL = {
    "ngp": TINY_HASH,
    "lift": LiftConfig(hash=TINY_HASH),
    "aug": AugConfig(mlp=MlpConfig(width=16, coarse_samples=8, fine_samples=8, rays_per_batch=64)),
    "gnt": GntConfig(
        depth=2,
        width=16,
        n_features=8,
        feature_width=8,
        feature_blocks=(1, 1, 1),
        n_views=3,
        n_samples=8,
        n_samples_render=8,
        n_rays=40,
    ),
}
"""A size at which two steps take a moment; a method without an entry is tested as it comes."""

TRAINABLE = sorted(name for name, entry in methods.known_methods().items() if entry.is_trainable)


def small_config(name: str):
    return SMALL.get(name) or methods.known_methods()[name].config()


def build(name: str, meta, seed: int):
    """The method, with the photos where it needs them."""
    method = methods.build(small_config(name), meta, seed=seed, device="cpu")
    if isinstance(method, NeedsPhotos):
        method.take_photos(make_scene(meta))
    return method


@pytest.mark.parametrize("name", TRAINABLE)
def test_trains_saves_loads_and_renders(name: str):
    meta = make_meta()
    sampler = BallSampler(meta)
    method = build(name, meta, 3)
    optimizer = torch.optim.Adam([{"params": list(g.params), "lr": g.lr} for g in method.param_groups()])
    before = [p.detach().clone() for p in method.parameters()]
    for step in range(2):
        batch = sampler.next(method.n_rays)
        losses = method.train_step(sampler.rays(batch), batch, step)
        total = sum(value for key, value in losses.items() if key != "mse")
        assert torch.isfinite(total)
        assert torch.isfinite(losses["mse"]) and not losses["mse"].requires_grad
        total.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        method.after_step(step)
    assert any(not torch.equal(a, b) for a, b in zip(before, method.parameters(), strict=True))
    twin = build(name, meta, 4)
    twin.load_state_dict({key: value.clone() for key, value in method.state_dict().items()})
    rays = meta.training_cameras()[0].rays()
    first, second, frozen = method.render_rays(rays), twin.render_rays(rays), method.snapshot()(rays)
    for other in (second, frozen):
        assert torch.equal(first.rgb, other.rgb)
        assert torch.equal(first.depth, other.depth)


@pytest.mark.parametrize("name", TRAINABLE)
def test_a_snapshot_does_not_follow_training(name: str):
    meta = make_meta()
    method = build(name, meta, 3)
    rays = meta.training_cameras()[0].rays()
    frozen = method.snapshot()
    before = frozen(rays).rgb
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(0.1)
    assert torch.equal(frozen(rays).rgb, before)
    assert not torch.equal(method.render_rays(rays).rgb, before)


def test_the_settings_survive_json():
    for name in methods.known_methods():
        config = small_config(name)
        assert methods.config_from_json(methods.config_to_json(config)) == config
        assert dataclasses.is_dataclass(config)
