"""Training across scenes: it learns, and goes on to the last bit where it stopped."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from nerfstudio_ext.errors import UserError
from nerfstudio_ext.fields.epipolar import project
from nerfstudio_ext.fields.gnt_weights import load_gnt, save_gnt
from nerfstudio_ext.worlds import train_gnt as training
from nerfstudio_ext.worlds.captures import make_capture, make_capture_with_depths
from nerfstudio_ext.worlds.compose import compose
from nerfstudio_ext.worlds.tracing import photograph
from nerfstudio_ext.worlds.train_gnt import Episodes, GntTraining, train_gnt

TINY = GntTraining(
    steps=6, depth=2, width=16, feature_width=8, n_rays=24, n_samples=8, n_views=4, side=32, views_per_scene=8, pool=2,
    steps_per_scene=2, steps_per_save=3, steps_per_check=3, validation_scenes=1, max_side=64,
)  # fmt: skip


@pytest.mark.slow
def test_resuming_is_bit_equal(tmp_path: Path):
    whole = train_gnt(TINY, tmp_path / "whole").state_dict()
    # A stop after three of the six steps, at the rates of six.
    stopped = training._Training(TINY, tmp_path / "parts", (), training.SilentProgress())
    stopped._fill_pool()
    for _ in range(3):
        stopped._train_step()
        stopped.step += 1
        if stopped.step % TINY.steps_per_scene == 0:
            stopped._fill_pool()
    stopped._save()
    found = train_gnt(TINY, tmp_path / "parts").state_dict()
    for name, tensor in whole.items():
        assert torch.equal(tensor, found[name]), name
    lines = [json.loads(line) for line in (tmp_path / "whole" / training.LOG).read_text().splitlines()]
    assert [line["step"] for line in lines] == [3, 6]
    assert all(line["validation_psnr"] > 0 for line in lines)
    with pytest.raises(UserError, match="another seed or other sizes"):
        train_gnt(dataclasses.replace(TINY, seed=1), tmp_path / "parts")
    with pytest.raises(UserError, match="another seed or other sizes"):
        train_gnt(dataclasses.replace(TINY, depth=1), tmp_path / "parts")


@pytest.mark.slow
def test_it_learns_more_than_a_mean_colour():
    config = dataclasses.replace(TINY, n_rays=64, n_samples=16)
    generator = torch.Generator().manual_seed(0)
    model = training.GntModel(config.architecture(), generator)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    episodes = Episodes.of(make_capture(3, n_views=12, side=32, scale="object"), 64, 4)
    pictures = [picture.flatten(1).float() / 255 for picture in episodes.photos.pictures]
    variance = float(torch.stack([picture.var(1).mean() for picture in pictures]).mean())
    errors = []
    for _ in range(100):
        loss, error = training.episode_loss(model, episodes, config, generator)
        assert error == float(loss.detach()), "nothing is known of distances here"
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        errors.append(float(loss.detach()))
    assert sum(errors[-20:]) / 20 < 0.9 * variance
    assert sum(errors[-10:]) < 0.4 * sum(errors[:10])


def test_a_point_has_one_colour_in_every_picture():
    """Where the tracer says a pixel's surface is, the sources show the same colour: cameras and pictures agree."""
    capture, world = make_capture(2, n_views=6, side=64, scale="room"), compose(2, "room")
    photos = Episodes.of(capture, 64, 2).photos
    depth = torch.from_numpy(photograph(world, capture.meta.cameras[0], 1)[1]).float().flatten()
    rays = capture.meta.cameras[0].rays()
    x = rays.rays_o + depth[:, None] * rays.rays_d
    colors = photos.pictures[0].flatten(1).T.float() / 255
    cameras = photos.source_cameras([1, 2, 3])
    uv, is_seen = project(cameras, x[:, None])
    sources = torch.stack([photos.pictures[i].float() / 255 for i in (1, 2, 3)])
    shown = functional.grid_sample(sources, 2 * uv / (cameras.sizes - 1)[:, None, None] - 1, align_corners=True)
    errors = (shown[..., 0].permute(0, 2, 1) - colors).abs().mean(-1)[is_seen[..., 0] > 0]
    assert len(errors) > 500
    assert float(errors.median()) < 0.25 * float(colors.std(0).mean())


def test_mirrored_steps_show_the_same_scene():
    """A mirrored target sees the same points: the rays of its pixels are those of the original."""
    scene, measured = make_capture_with_depths(2, n_views=4, side=32)
    episodes = Episodes.of(scene, 64, 2, measured)
    seen = {}
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        views = training._augmented(episodes, 0, [1, 2], generator)
        rays, colors, distances = training._draw_rays(views, 10_000, torch.Generator().manual_seed(0))
        assert distances is not None
        order = rays.rays_d[:, 0].sort().indices
        known = (rays.rays_d, colors, distances.nan_to_num(posinf=1e3))
        seen[bool(views.camera.K[0, 0, 0] < 0)] = tuple(part[order] for part in known)
    assert set(seen) == {False, True}
    for one, other in zip(seen[False], seen[True], strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_attention_is_judged_by_where_the_surface_is():
    """Weights on the true sample cost least, others more with their distance; a ray without surface costs nothing."""
    z = 1 / torch.linspace(1.0, 0.25, 16).expand(3, -1)
    truth = z[:, 7].clone()
    costs = [float(training._astray(z, torch.eye(16)[at].expand(3, -1) * 0.9 + 0.1 / 16, truth)) for at in (7, 8, 10)]
    assert costs[0] < costs[1] < costs[2]
    nowhere = torch.full((3,), torch.inf)
    assert float(training._astray(z, torch.full((3, 16), 1 / 16), nowhere)) == 0.0


def test_a_fresh_network_passes_on_what_the_views_show():
    """Before any training two targets of different colours get different tokens from the position layers."""
    net = training.GntModel(TINY.architecture(), torch.Generator().manual_seed(0))
    training.start_simply(net)
    tokens = torch.randn(50, 16, generator=torch.Generator().manual_seed(1)).clamp(-1.5, 1.5)
    with torch.no_grad():
        passed = net.net_coarse.q_fcs[0](torch.cat([tokens, torch.zeros(50, 126)], 1))
    assert torch.allclose(passed, tokens, atol=1e-5)


def test_real_captures_take_part_and_the_default_size_ships(tmp_path: Path):
    real = make_capture(5, n_views=6, side=32)
    config = dataclasses.replace(TINY, steps=2, capture_share=1.0, steps_per_check=9, validation_scenes=1)
    train_gnt(config, tmp_path, captures=[real])
    model = training.GntModel(GntTraining().architecture())
    save_gnt(model, tmp_path / "size.safetensors", dtype=torch.float16)
    assert (tmp_path / "size.safetensors").stat().st_size < 10e6
    assert load_gnt(tmp_path / "size.safetensors")[0].architecture == GntTraining().architecture()
