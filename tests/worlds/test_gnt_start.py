"""The weights that training begins with find surfaces before any training."""

from __future__ import annotations

import torch

from nerfstudio_ext.fields.gnt_weights import Architecture, GntModel
from nerfstudio_ext.methods.gnt_baselines import DepthFreeBlend
from nerfstudio_ext.methods.gnt_photos import Photos, photos_of_scene
from nerfstudio_ext.methods.gnt_render import DepthRange, GntRenderer, Sampling
from nerfstudio_ext.worlds.captures import make_capture_with_depths
from nerfstudio_ext.worlds.gnt_start import start_sweeping

SIZES = Architecture(depth=2, width=64, n_features=8, feature_width=8, feature_blocks=(1, 1, 1))


def test_it_sees_depth_and_colour_before_training():
    """Before a target that it was not given: far closer to its colours than a blend, and nearer to its depth."""
    scene, distances = make_capture_with_depths(10, n_views=24, side=48, scale="object")
    photos = photos_of_scene(scene, 48)
    target = 11
    others = [i for i in range(len(photos)) if i != target]
    sources = Photos(*(tuple(part[i] for i in others) for part in (photos.pictures, photos.cameras)), tuple(others))
    model = GntModel(SIZES, torch.Generator().manual_seed(0))
    assert start_sweeping(model)
    sampling = Sampling(48, 0, True, 8, "dist")
    renderer = GntRenderer(model, sources, DepthRange(scene.meta), sampling, backend="reference")
    truth = torch.from_numpy(distances[target]).float().flatten()
    chosen = truth.isfinite().nonzero()[::4, 0]
    rays = scene.meta.training_cameras()[target].rays()[chosen]
    wanted = photos.pictures[target].flatten(1).T[chosen].float() / 255
    seen, blend = renderer(rays), DepthFreeBlend(renderer)(rays)
    assert seen.alpha is not None and float(seen.alpha.min()) == 1
    assert float((seen.rgb - wanted).square().mean()) < 0.6 * float((blend.rgb - wanted).square().mean())
    off = [float((depth - truth[chosen]).abs().median()) for depth in (seen.depth, blend.depth)]
    assert off[0] < 0.6 * off[1]


def test_small_networks_are_left_alone():
    small = GntModel(Architecture(depth=1, width=64, n_features=8, feature_width=8, feature_blocks=(1, 1, 1)))
    before = {name: tensor.clone() for name, tensor in small.state_dict().items()}
    assert not start_sweeping(small)
    assert all(torch.equal(tensor, before[name]) for name, tensor in small.state_dict().items())
