"""GNT against figures of the official code, at the tolerances of the fixture's README."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nerfstudio_ext.fields import depth_samples, epipolar, gnt_fast
from nerfstudio_ext.methods import gnt_views
from tests.conftest import shared_folder

from .gnt_fixture import Fixture, official_vectors, pictures

pytestmark = pytest.mark.shared
MODES = ("inv", "lin")


@pytest.fixture(scope="module")
def fixture() -> Fixture:
    return Fixture(shared_folder() / "fixtures" / "gnt")


def close(found: Tensor, expected: Tensor, tolerance: float) -> None:
    assert found.shape == expected.shape
    error = float((found.double() - expected.double()).abs().max())
    assert error <= tolerance, f"largest difference {error:.2e}, allowed {tolerance:.0e}"


def z_of(fixture: Fixture, mode: str, n_rays: int) -> Tensor:
    near, far = (fixture.inputs["depth_range"][i].expand(n_rays) for i in (0, 1))
    return depth_samples.spread(near, far, int(fixture.inputs["n_samples"]), inverse=mode == "inv")


def look(fixture: Fixture, maps: Tensor, rays_o: Tensor, rays_d: Tensor, z: Tensor):
    x = rays_o[:, None] + z[..., None] * rays_d[:, None]
    return epipolar.sample_views(fixture.sources, maps, fixture.cameras, x, rays_o), x


@torch.no_grad()
def test_feature_maps(fixture: Fixture):
    net, _ = fixture.models()
    seen: dict[str, Tensor] = {}
    names = [k.split("/")[1] for k in fixture.outputs if k.startswith("feat/") and k.endswith("/shape")]
    for name in names:
        getattr(net, name).register_forward_hook(lambda _m, _i, out, name=name: seen.__setitem__(name, out))
    close(net(fixture.sources), fixture.outputs["featmap"], 1e-4)
    for name in names:
        assert list(seen[name].shape) == fixture.outputs[f"feat/{name}/shape"].tolist()
        close(seen[name].mean((0, 2, 3)), fixture.outputs[f"feat/{name}/mean_c"], 1e-4)
        close(seen[name].std((0, 2, 3)), fixture.outputs[f"feat/{name}/std_c"], 1e-4)
    close(seen["layer3"], fixture.outputs["feat/layer3"], 1e-4)
    close(seen["layer1"][0], fixture.outputs["feat/layer1_v0"], 1e-4)
    close(net(pictures(fixture.inputs["odd_rgbs_u8"])), fixture.outputs["odd_featmap"], 1e-4)


@torch.no_grad()
@pytest.mark.parametrize("mode", MODES)
def test_projection_and_sampling(fixture: Fixture, mode: str):
    rays_o, rays_d = fixture.inputs["ray_o"], fixture.inputs["ray_d"]
    z = z_of(fixture, mode, len(rays_o))
    close(z, fixture.outputs[f"{mode}/z_vals"], 1e-5)
    seen, x = look(fixture, fixture.outputs["featmap"], rays_o, rays_d, z)
    close(x, fixture.outputs[f"{mode}/pts"], 1e-5)
    uv, mask = epipolar.project(fixture.cameras, x)
    expected = fixture.outputs[f"{mode}/pixel_locations"]
    relative = (uv - expected).abs() / expected.abs().clamp_min(1)  # points near a camera's plane lie far outside
    assert float(relative[expected.abs() < 1e4].max()) < 1e-4
    both = fixture.outputs[f"{mode}/in_front"] & fixture.outputs[f"{mode}/inbound"]
    assert torch.equal(mask.bool(), both)
    close(seen.mask, fixture.outputs[f"{mode}/mask"], 0)
    close(seen.ray_diff, fixture.outputs[f"{mode}/ray_diff"], 1e-4)
    close(seen.rgb_feat, fixture.outputs[f"{mode}/rgb_feat"], 1e-4)


@torch.no_grad()
@pytest.mark.parametrize("mode", MODES)
def test_tokens_after_every_block(fixture: Fixture, mode: str):
    _, transformer = fixture.models()
    out = fixture.outputs
    stages: dict[str, Tensor] = {}

    def keep(module, name: str) -> None:
        module.register_forward_hook(lambda _m, _i, value: stages.__setitem__(name, value))

    for i in range(transformer.depth):
        keep(transformer.view_crosstrans[i], f"block{i}/view")
        keep(transformer.q_fcs[i], f"block{i}/qfc")
        keep(transformer.view_selftrans[i], f"block{i}/ray")
    keep(transformer.rgbfeat_fc, "rgbfeat")
    seen = (out[f"{mode}/rgb_feat"], out[f"{mode}/ray_diff"], out[f"{mode}/mask"], out[f"{mode}/pts"])
    rgb, weights = transformer(*seen, fixture.inputs["ray_d"])
    close(rgb, out[f"{mode}/rgb"], 1e-5)
    close(weights, out[f"{mode}/weights"], 1e-5)
    n = out[f"{mode}/rgbfeat"].shape[0]
    close(stages["rgbfeat"][:n], out[f"{mode}/rgbfeat"], 1e-4)
    for i in range(transformer.depth):
        close(stages[f"block{i}/ray"][1], out[f"{mode}/block{i}/ray_attn0"], 1e-5)
        for part in ("view", "qfc", "ray"):
            expected = out.get(f"{mode}/block{i}/{part}")
            if expected is not None:
                found = stages[f"block{i}/{part}"]
                close(found[0] if part == "ray" else found, expected, 1e-4)


@torch.no_grad()
@pytest.mark.parametrize("mode", MODES)
def test_from_pictures_to_fine_colours(fixture: Fixture, mode: str):
    net, transformer = fixture.models()
    out, rays_o, rays_d = fixture.outputs, fixture.inputs["ray_o"], fixture.inputs["ray_d"]
    maps = net(fixture.sources)
    z = z_of(fixture, mode, len(rays_o))
    seen, x = look(fixture, maps, rays_o, rays_d, z)
    rgb, weights = transformer(seen.rgb_feat, seen.ray_diff, seen.mask, x, rays_d)
    close(rgb, out[f"{mode}/rgb"], 1e-4)
    close(weights, out[f"{mode}/weights"], 1e-4)
    close((weights * z).sum(-1), out[f"{mode}/depth"], 1e-4)
    fine_z = depth_samples.refine(z, weights, int(fixture.inputs["n_importance"]), inverse=mode == "inv")
    close(fine_z, out[f"{mode}/fine_z_vals"], 1e-3)
    seen, x = look(fixture, maps, rays_o, rays_d, fine_z)
    rgb, weights = transformer(seen.rgb_feat, seen.ray_diff, seen.mask, x, rays_d)
    close(rgb, out[f"{mode}/fine_rgb"], 1e-3)
    close(weights, out[f"{mode}/fine_weights"], 1e-3)
    close((weights * fine_z).sum(-1), out[f"{mode}/fine_depth"], 1e-3)


@torch.no_grad()
def test_a_picture(fixture: Fixture):
    net, transformer = fixture.models()
    expected = fixture.outputs["image_stride4/rgb"]
    width, height = (int(n) for n in fixture.target.sizes[0])
    v, u = torch.meshgrid(torch.arange(0, height, 4.0), torch.arange(0, width, 4.0), indexing="ij")
    pixel = torch.stack([u, v, torch.ones_like(u)], -1).reshape(-1, 3)
    rays_d = pixel @ torch.linalg.inv(fixture.target.K[0]).T @ fixture.target.c2w[0, :, :3].T
    rays_o = fixture.target.centres.expand_as(rays_d)
    flat = (v * width + u).long().flatten()
    close(rays_d, fixture.inputs["all_rays_d"][flat], 1e-5)
    close(rays_o, fixture.inputs["all_rays_o"][flat], 1e-5)
    z = z_of(fixture, "inv", len(rays_d))
    seen, x = look(fixture, net(fixture.sources), rays_o, rays_d, z)
    rgb, weights = transformer(seen.rgb_feat, seen.ray_diff, seen.mask, x, rays_d)
    close(rgb.reshape(expected.shape), expected, 1e-4)
    close((weights * z).sum(-1).reshape(expected.shape[:2]), fixture.outputs["image_stride4/depth"], 1e-4)


def loss_of(fixture: Fixture, net, transformer) -> Tensor:
    rays_o, rays_d = fixture.inputs["ray_o"], fixture.inputs["ray_d"]
    seen, x = look(fixture, net(fixture.sources), rays_o, rays_d, z_of(fixture, "inv", len(rays_o)))
    rgb, _ = transformer(seen.rgb_feat, seen.ray_diff, seen.mask, x, rays_d)
    return (rgb - fixture.inputs["ray_rgb"]).square().mean()


def test_gradients_and_one_step(fixture: Fixture):
    net, transformer = fixture.models()
    check_training(fixture, net, transformer, loss_of)


def check_training(fixture: Fixture, net, transformer, loss_of) -> None:
    optimizer = torch.optim.Adam(
        [{"params": transformer.parameters(), "lr": 5e-4}, {"params": net.parameters(), "lr": 1e-3}]
    )
    loss = loss_of(fixture, net, transformer)
    close(loss.detach(), fixture.outputs["train/loss"], 1e-5)
    loss.backward()
    parameters = dict(transformer.named_parameters(prefix="net_coarse")) | dict(net.named_parameters("feature_net"))
    assert set(parameters) == set(fixture.gradient_names)
    for name, norm in zip(fixture.gradient_names, fixture.outputs["train/grad_norms"].tolist(), strict=True):
        gradient = parameters[name].grad
        found = 0.0 if gradient is None else float(gradient.norm())
        if norm >= 1e-6:  # smaller ones are rounding noise around zero
            assert abs(found - norm) <= 2e-3 * norm, name
        else:
            assert found < 1e-5, name
    for key, expected in fixture.outputs.items():
        if key.startswith("train/grad/"):
            scale = float(expected.abs().max())
            close(parameters[key.removeprefix("train/grad/")].grad, expected, 2e-3 * scale)
    optimizer.step()
    with torch.no_grad():
        close(loss_of(fixture, net, transformer), fixture.outputs["train/loss_after_one_adam_step"], 1e-4)


@torch.no_grad()
@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("mode", MODES)
def test_the_fused_path(fixture: Fixture, mode: str, backend: str):
    _, transformer = fixture.models()
    out, rays_o, rays_d = fixture.outputs, fixture.inputs["ray_o"], fixture.inputs["ray_d"]
    views = gnt_fast.make_views(transformer, fixture.sources, out["featmap"], fixture.cameras)
    options = gnt_fast.Options(backend=backend)
    rgb, weights = gnt_fast.look_and_transform(transformer, views, out[f"{mode}/pts"], rays_o, rays_d, options)
    close(rgb, out[f"{mode}/rgb"], 1e-4)
    close(weights, out[f"{mode}/weights"], 1e-4)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_training_on_the_fused_path(fixture: Fixture, backend: str):
    def fused_loss(fixture: Fixture, net, transformer) -> Tensor:
        rays_o, rays_d = fixture.inputs["ray_o"], fixture.inputs["ray_d"]
        x = rays_o[:, None] + z_of(fixture, "inv", len(rays_o))[..., None] * rays_d[:, None]
        views = gnt_fast.make_views(transformer, fixture.sources, net(fixture.sources), fixture.cameras)
        options = gnt_fast.Options(backend=backend)
        rgb, _ = gnt_fast.look_and_transform(transformer, views, x, rays_o, rays_d, options)
        return (rgb - fixture.inputs["ray_rgb"]).square().mean()

    check_training(fixture, *fixture.models(), fused_loss)


def test_view_selection(fixture: Fixture):
    target, references = fixture.inputs["select/tar_pose"][:3], fixture.inputs["select/ref_poses"][:, :3]
    chosen = [k for k in fixture.outputs if k.startswith("select/") and not k.endswith("_excl")]
    assert len(chosen) >= 4
    for key in chosen:
        _, method, count = key.split("/")
        found = gnt_views.nearest_views(
            target, references, int(count[1:]), method, centre=fixture.inputs["select/scene_center"]
        )
        assert found.tolist() == fixture.outputs[key].tolist(), key
    # With a reference as the target: the files do not say which.
    expected = fixture.outputs["select/dist/k10_excl"].tolist()
    without = [
        gnt_views.nearest_views(references[i], references, 10, "dist", exclude=i).tolist()
        for i in range(len(references))
    ]
    assert expected in without


def test_crops_and_flips(fixture: Fixture):
    target = pictures(fixture.inputs["target_rgb_u8"][None])[0]
    views = gnt_views.TrainingViews(target, fixture.sources, fixture.target, fixture.cameras)
    crops = [k.split("/")[0] for k in fixture.outputs if k.startswith("crop") and k.endswith("/rgb")]
    assert crops
    for crop in crops:
        size, centre = crop.removeprefix("crop").split("_c")
        height, width = (int(n) for n in size.split("x"))
        row, column = (int(n) for n in centre.split("_"))
        cut = gnt_views.crop_views(views, height, width, (row, column))
        close(cut.picture.permute(1, 2, 0), fixture.outputs[f"{crop}/rgb"], 1e-6)
        close(official_vectors(cut.camera)[0], fixture.outputs[f"{crop}/camera"], 1e-5)
        close(official_vectors(cut.cameras), fixture.outputs[f"{crop}/src_cameras"], 1e-5)
    flipped = gnt_views.flip_views(views)
    close(official_vectors(flipped.camera)[0], fixture.outputs["flip/camera"], 1e-5)
    close(official_vectors(flipped.cameras), fixture.outputs["flip/src_cameras"], 1e-5)
    again = gnt_views.flip_views(flipped)
    assert torch.equal(again.picture, views.picture)
    close(official_vectors(again.cameras), official_vectors(views.cameras), 1e-5)
