"""GNT as a method: its laws, its sources, resuming to the last bit, and what it says about bad input."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import pytest
import torch

from nerfstudio_ext import kernels, methods
from nerfstudio_ext.cameras import Cameras
from nerfstudio_ext.cli.entry import main
from nerfstudio_ext.errors import UserError
from nerfstudio_ext.fields.gnt_weights import Architecture, GntModel, load_gnt, save_gnt
from nerfstudio_ext.kernels.reference_views import project
from nerfstudio_ext.lenses import Lens
from nerfstudio_ext.methods import gnt_views
from nerfstudio_ext.methods.gnt import Gnt
from nerfstudio_ext.methods.gnt_config import SHIPPED, GntConfig
from nerfstudio_ext.methods.gnt_photos import photos_from_tensors, photos_of_scene
from nerfstudio_ext.methods.gnt_render import DRAFT_SAMPLES, DRAFT_VIEWS, DepthRange, confidence, views_of
from nerfstudio_ext.methods.marked import Marked, MarkedConfig, marked_over
from nerfstudio_ext.methods.protocol import NeedsPhotos
from nerfstudio_ext.rays import Rays
from nerfstudio_ext.renderer import HasDraft
from nerfstudio_ext.scenes.images import ImageStore
from nerfstudio_ext.scenes.model import Scene, SceneFrame, Split
from nerfstudio_ext.training.checkpoints import save_checkpoint
from nerfstudio_ext.training.config import RunConfig, TrainConfig
from nerfstudio_ext.training.photos import PHOTOS, give_photos, keep_photos
from nerfstudio_ext.training.runs import Run, open_run
from nerfstudio_ext.training.trainer import Trainer
from tests.training.tiny import RecordingProgress

from .ball_scene import make_meta, make_scene

SIZES = Architecture(depth=2, width=16, n_features=8, feature_width=8, feature_blocks=(1, 1, 1))
TINY = GntConfig(**dataclasses.asdict(SIZES), n_views=4, n_samples=12, n_samples_render=12, n_rays=64)


def make_gnt(config: GntConfig = TINY, n_cameras: int = 12, size: int = 32) -> tuple[Gnt, Scene]:
    scene = make_scene(make_meta(n_cameras, size))
    gnt = methods.build(config, scene.meta, seed=1)
    assert isinstance(gnt, Gnt)
    gnt.take_photos(scene)
    return gnt, scene


def steps(gnt: Gnt, scene: Scene, n: int) -> list[float]:
    """Train; returns the mean squared errors."""
    optimizer = torch.optim.Adam([{"params": g.params, "lr": g.lr, "betas": g.betas} for g in gnt.param_groups()])
    batches, errors = gnt.batches(scene, 5), []
    for step in range(n):
        batch = batches.next(gnt.n_rays)
        losses = gnt.train_step(batches.rays(batch), batch, step)
        optimizer.zero_grad()
        losses["color"].backward()
        optimizer.step()
        gnt.after_step(step)
        errors.append(float(losses["mse"]))
    return errors


@pytest.mark.slow
def test_it_learns():
    gnt, scene = make_gnt(dataclasses.replace(TINY, lr=3e-3, lr_features=3e-3, dropout=0.0))
    errors = steps(gnt, scene, 60)
    assert sum(errors[-10:]) < 0.5 * sum(errors[:10])


def test_every_ray_of_a_batch_belongs_to_one_picture_and_its_colour_is_the_photos():
    gnt, scene = make_gnt()
    batches = gnt.batches(scene, 5)
    seen = set()
    for _ in range(40):
        batch = batches.next(50)
        (view,) = torch.unique(batch.cam_ids).tolist()
        seen.add(view)
        pixel = batch.uv.long()
        assert len(torch.unique(pixel, dim=0)) == 50, "drawn without replacement"
        photo = torch.from_numpy(scene.images.pixels(view).copy())[pixel[:, 1], pixel[:, 0]]
        assert torch.allclose(batch.rgb, photo[:, :3] / 255)
    assert seen == set(scene.meta.split.train)


def test_sources_are_near_and_never_the_target_unless_drawn_on_purpose():
    poses = make_meta(48).training_cameras().c2w
    generator = torch.Generator().manual_seed(0)
    everyone = list(range(48))
    plan = gnt_views.SourcePlan(n_views=10, target_share=0.0, spread_shares=(1.0, 0.0, 0.0))
    nearest = set(gnt_views.nearest_views(poses[7], poses, 10, "vector", exclude=7).tolist())
    for _ in range(20):
        assert set(gnt_views.choose_sources(7, everyone, poses, plan, generator)) == nearest
    wide = dataclasses.replace(plan, spread_shares=(0.0, 0.0, 1.0))
    drawn = [gnt_views.choose_sources(7, everyone, poses, wide, generator) for _ in range(50)]
    assert {len(set(chosen)) for chosen in drawn} == {10}
    assert len(set().union(*drawn)) == 30
    assert all(7 not in chosen for chosen in drawn)
    always = dataclasses.replace(plan, target_share=1.0, vary=(-2, 2))
    drawn = [gnt_views.choose_sources(7, everyone, poses, always, generator) for _ in range(50)]
    assert all(7 in chosen for chosen in drawn)
    assert {len(chosen) for chosen in drawn} == {8, 9, 10, 11, 12}


def test_rendering_agrees_with_itself_in_any_chunks_and_order():
    gnt, scene = make_gnt()
    rays = scene.meta.training_cameras()[2].rays()
    whole = gnt.render_rays(rays)
    order = torch.randperm(len(rays), generator=torch.Generator().manual_seed(2))
    mixed = gnt.render_rays(rays[order])
    assert torch.allclose(whole.rgb[order], mixed.rgb, atol=2e-2)  # 16-bit products round by their neighbours
    exact = dataclasses.replace(TINY, half_precision=False)
    gnt, _ = make_gnt(exact)
    assert torch.allclose(gnt.render_rays(rays).rgb[order], gnt.render_rays(rays[order]).rgb, atol=1e-5)
    assert float((gnt.render_rays(rays).rgb - whole.rgb).abs().max()) < 3e-2, "half precision keeps the picture"


def test_rays_from_two_places_use_the_sources_of_each():
    gnt, scene = make_gnt(dataclasses.replace(TINY, half_precision=False))
    cameras = scene.meta.training_cameras()
    a, b = cameras[1].rays()[:100], cameras[8].rays()[:100]
    both = Rays(*(torch.cat([getattr(a, f.name), getattr(b, f.name)]) for f in dataclasses.fields(Rays)))
    together = gnt.render_rays(both)
    assert torch.allclose(together.rgb[:100], gnt.render_rays(a).rgb, atol=1e-5)
    assert torch.allclose(together.rgb[100:], gnt.render_rays(b).rgb, atol=1e-5)


def test_a_draft_shows_the_same_with_fewer_samples_and_sources():
    config = dataclasses.replace(TINY, n_views=8, n_samples_render=48, half_precision=False)
    gnt, scene = make_gnt(config)
    rays = scene.meta.training_cameras()[2].rays()
    few, _ = make_gnt(dataclasses.replace(config, n_views=DRAFT_VIEWS, n_samples_render=DRAFT_SAMPLES))
    few.load_state_dict(gnt.state_dict())
    whole, draft = gnt.render_rays(rays), gnt.draft(rays)
    assert not torch.equal(whole.depth, draft.depth)
    assert torch.equal(draft.rgb, few.render_rays(rays).rgb) and torch.equal(draft.depth, few.render_rays(rays).depth)
    assert torch.equal(gnt.render_rays(rays).depth, whole.depth), "a draft leaves nothing behind"
    snapshot = gnt.snapshot()
    assert isinstance(snapshot, HasDraft) and torch.equal(snapshot.draft(rays).depth, draft.depth)
    steps(gnt, scene, 1)
    assert not torch.equal(gnt.draft(rays).depth, draft.depth), "it has the present weights"


def test_a_second_pass_changes_the_samples():
    one, scene = make_gnt()
    two, _ = make_gnt(dataclasses.replace(TINY, n_more=6))
    two.load_state_dict(one.state_dict())
    rays = scene.meta.training_cameras()[3].rays()
    first, second = one.render_rays(rays), two.render_rays(rays)
    assert not torch.equal(first.depth, second.depth)
    assert bool(second.depth.isfinite().all())
    assert len(steps(two, scene, 2)) == 2


def test_sources_of_different_sizes():
    meta = make_meta(12, 32)
    cameras = [c.resize(40, 24) if i % 2 else c for i, c in enumerate(meta.cameras)]
    mixed = make_scene(dataclasses.replace(meta, cameras=Cameras(cameras)))
    gnt = methods.build(dataclasses.replace(TINY, half_precision=False), mixed.meta, seed=1)
    gnt.take_photos(mixed)
    assert len(steps(gnt, mixed, 2)) == 2
    assert bool(gnt.render_rays(mixed.meta.training_cameras()[0].rays()).rgb.isfinite().all())


def test_a_view_that_fills_only_part_of_the_array_counts_as_if_it_were_alone():
    """Padding to the largest size must not change what a small view shows."""
    gnt, scene = make_gnt(dataclasses.replace(TINY, half_precision=False))
    photos = gnt.photos
    pictures = [photos.pictures[i].float() / 255 for i in (0, 1)]
    x = 0.3 * torch.randn(20, 3, 3, generator=torch.Generator().manual_seed(3))
    large = torch.nn.functional.pad(pictures[1], (0, 16, 0, 8))
    cameras = photos.source_cameras([0, 1])
    padded_cameras = dataclasses.replace(cameras, sizes=cameras.sizes + torch.tensor([[0.0, 0.0], [16.0, 8.0]]))
    with torch.no_grad():
        small = views_of(gnt.model, pictures, cameras)
        mixed = views_of(gnt.model, [pictures[0], large], padded_cameras)
        layer = gnt.model.net_coarse.rgbfeat_fc
        first = kernels.FirstLayer(layer[0].weight[:, :3].T, layer[0].bias)

        def only_first(views: kernels.SourceViews) -> torch.Tensor:
            parts = {name: tensor[:1] for name, tensor in views.tensors().items()}
            return kernels.view_maximum(x, kernels.SourceViews(**parts), first, layer[2].weight.T)

        assert mixed.pixels.shape[1:3] == (40, 48)
        assert torch.allclose(only_first(small), only_first(mixed), atol=1e-5)


def test_lens_distortion_is_taken_out_of_the_sources():
    meta = make_meta(12, 64)
    lens = Lens("opencv", (0.2, 0.05, 0.0, 0.0))
    bent = dataclasses.replace(meta, cameras=Cameras([dataclasses.replace(c, lens=lens) for c in meta.cameras]))
    straight, corrected = (photos_of_scene(make_scene(m), 64).pictures for m in (meta, bent))
    raw = make_scene(bent).images.pixels(0)
    assert not (raw == make_scene(meta).images.pixels(0)).all()
    inner = (slice(None), slice(8, -8), slice(8, -8))  # beyond, the bent photo does not reach
    for a, b in zip(straight, corrected, strict=True):
        assert float((a[inner].float() - b[inner].float()).abs().mean()) < 4


def test_around_a_thing_what_few_sources_see_is_air():
    gnt, scene = make_gnt()
    views = gnt.renderer().sources_for(scene.meta.training_cameras()[0].c2w[:, 3].float())
    x = torch.rand(4000, 3, generator=torch.Generator().manual_seed(3)) * 6 - 3
    n_seen = project(views.projections, views.extents[:, :2], x[:, None])[1][..., 0].sum(0)
    assert len(set(n_seen.tolist())) == 5, "0 to 4 sources"
    plain, strict = confidence(views, x, 4), confidence(views, x, 4, 0.5)
    assert torch.allclose(plain, n_seen / 4) and torch.allclose(strict, (n_seen / 2 - 1).clamp(0, 1))


def test_a_background_in_the_photos_gets_no_holes():
    gnt, scene = make_gnt()
    rays = scene.meta.training_cameras()[2].rays()
    for has_alpha in (True, False):
        assert DepthRange(dataclasses.replace(scene.meta, has_alpha=has_alpha)).has_cut_out is has_alpha
    shown = {}
    for gnt.depth_range.has_cut_out in (True, False):
        shown[gnt.depth_range.has_cut_out] = gnt.renderer()(rays).alpha
    assert bool((shown[True] <= shown[False]).all()) and float(shown[True].sum()) < float(shown[False].sum())


def test_a_target_far_outside_is_said_and_shown(caplog: pytest.LogCaptureFixture):
    gnt, scene = make_gnt()
    camera = scene.meta.training_cameras()[2]
    assert float(gnt.render_rays(camera.rays()).alpha.mean()) > 0.9
    away = dataclasses.replace(camera, c2w=camera.c2w.clone())
    away.c2w[:, 3] *= 30
    away.c2w[:, :3] *= torch.tensor([1.0, -1.0, -1.0])  # and it looks away from what the sources see
    with caplog.at_level(logging.WARNING):
        alpha = gnt.render_rays(away.rays()).alpha
        gnt.render_rays(away.rays())
    assert float(alpha.mean()) < 0.1
    assert [record.getMessage().count("nearest source") for record in caplog.records] == [1]


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_resuming_is_bit_equal(tmp_path: Path, dropout: float):
    method_config = dataclasses.replace(TINY, dropout=dropout).settled()
    config = RunConfig(method_config, TrainConfig(max_steps=6, steps_per_save=100, steps_per_log=2))
    scene = make_scene(make_meta(8, 32))

    def trainer(run: Run, seed: int, max_steps: int) -> Trainer:
        method = methods.build(config.method, scene.meta, seed=seed)
        give_photos(method, scene, run.path)
        return Trainer(
            method, scene, dataclasses.replace(config.train, max_steps=max_steps), run, None, RecordingProgress()
        )

    with Run.create(tmp_path / "whole", config, scene.meta) as run:
        whole = trainer(run, 3, 6)
        whole.train()
    with Run.create(tmp_path / "parts", config, scene.meta) as run:
        trainer(run, 3, 3).train()
        path = run.path
    with Run.open(path) as run:
        second = trainer(run, 99, 6)
        assert second.resume() == 3
        second.train()
    for name, tensor in whole.method.state_dict().items():
        assert torch.equal(tensor, second.method.state_dict()[name]), name
    rays = scene.meta.training_cameras()[1].rays()
    shown = open_run(path).method.render_rays(rays)
    assert torch.equal(shown.rgb, whole.method.render_rays(rays).rgb), "a finished run opens with its photos"
    (path / PHOTOS).unlink()
    with pytest.raises(UserError, match="no such file with the run.s source pictures.*resume"):
        open_run(path)
    (path / PHOTOS).write_bytes(b"nonsense")
    with pytest.raises(UserError, match="not a tensor file"):
        open_run(path)


def test_trained_weights_go_on_at_their_own_rates(tmp_path: Path):
    path = tmp_path / "trained.safetensors"
    model = GntModel(SIZES, torch.Generator().manual_seed(8))
    save_gnt(model, path, {"code_scale": "source units"})
    config = GntConfig(weights=path, n_views=4, n_samples=8)
    meta = make_meta(12, 32)
    meta = dataclasses.replace(meta, frame=dataclasses.replace(SceneFrame.identity(), scale=0.25))
    gnt = methods.build(config, meta, seed=1)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, gnt.model.state_dict()[name]), name
    assert [group.lr for group in gnt.param_groups()] == [2e-4, 5e-4]
    assert gnt.code_scale == 4.0
    settled = methods.settled(config)
    path.unlink()
    again = methods.build(methods.config_from_json(methods.config_to_json(settled)), meta, seed=2)
    again.load_state_dict(gnt.state_dict())
    with pytest.raises(UserError, match="no such file of weights"):
        methods.build(config, meta, seed=1)


@pytest.mark.parametrize(("name", "value"), [("depth", 3), ("width", 32), ("feature_blocks", (2, 1, 1))])
def test_weights_of_another_size_are_refused_in_one_line(tmp_path: Path, name: str, value: object):
    path = tmp_path / "w.safetensors"
    save_gnt(GntModel(SIZES), path)
    with pytest.raises(UserError, match=f"--{name.replace('_', '-')} asks for") as caught:
        methods.build(dataclasses.replace(GntConfig(weights=path), **{name: value}), make_meta(12), seed=1)
    assert "\n" not in caught.value.line


def test_the_shipped_weights_are_the_beginning_unless_asked_otherwise(tmp_path: Path):
    shipped = load_gnt(SHIPPED)[0]
    assert SHIPPED.stat().st_size < 10e6
    default = GntConfig().settled()
    assert (default.depth, default.width) == (shipped.architecture.depth, shipped.architecture.width)
    gnt = methods.build(GntConfig(n_views=4), make_meta(12, 32), seed=1)
    for name, tensor in shipped.state_dict().items():
        assert torch.equal(tensor, gnt.model.state_dict()[name]), name
    assert (default.lr, default.dropout, default.falls) == (2e-4, 0.0, True)
    anew = GntConfig(from_scratch=True).settled()
    assert (anew.lr, anew.dropout, anew.falls) == (5e-4, 0.1, False)
    assert GntConfig(from_scratch=True).settled().feature_blocks == (3, 4, 6)
    assert GntConfig(depth=3).settled().width == 64, "official sizes where one is given"
    with pytest.raises(UserError, match="--from-scratch"):
        GntConfig(weights=tmp_path, from_scratch=True)


def test_a_marked_run_keeps_the_photos_it_looks_at(tmp_path: Path):
    gnt, scene = make_gnt(dataclasses.replace(TINY, half_precision=False).settled())
    config = MarkedConfig(methods.config_to_json(gnt.config), log2_table=6, mark_resolution=8, sectors=4)
    marked = marked_over(config, gnt, scene.meta.frame.aabb_scale)
    with Run.create(tmp_path, RunConfig(config, TrainConfig()), scene.meta) as run:
        keep_photos(marked, run.path)
        save_checkpoint(run.checkpoints, 0, dict(marked.state_dict()), {})
    opened = open_run(run.path).method
    rays = scene.meta.training_cameras()[1].rays()
    assert isinstance(opened, Marked)
    assert torch.equal(opened.render_rays(rays).rgb, gnt.render_rays(rays).rgb), "without a mark nothing changes"
    ngp = methods.build(methods.NgpConfig(n_levels=2, log2_table=8), scene.meta)
    assert not isinstance(marked_over(config, ngp, 1.0), NeedsPhotos), "others still open without photos"


def test_the_rate_of_written_weights_rises_and_falls():
    gnt, scene = make_gnt(dataclasses.replace(TINY, falls=True))
    batches = gnt.batches(scene, 5)

    def factor(step: int, progress: float) -> float:
        batch = batches.next(gnt.n_rays)
        gnt.train_step(batches.rays(batch), batch, step)
        return gnt.lr_factor(progress)

    rising = [factor(step, 0.1) for step in (0, 14, 29, 400)]
    assert rising == pytest.approx([1 / 30, 0.5, 1.0, 1.0])
    assert [factor(500, share) for share in (0.5, 0.75, 1.0)] == pytest.approx([1.0, 0.05**0.5, 0.05])


def test_the_rate_halves_by_steps():
    gnt, scene = make_gnt(dataclasses.replace(TINY, halved_every=2))
    factors = []
    batches = gnt.batches(scene, 1)
    for step in range(5):
        batch = batches.next(4)
        gnt.train_step(batches.rays(batch), batch, step)
        factors.append(gnt.lr_factor(0.9))
    assert factors == [1, 1, 0.5, 0.5, 0.25]


def test_too_few_or_too_small_sources_are_refused():
    scene = make_scene(make_meta(12, 32))
    alone = dataclasses.replace(scene.meta, split=Split((0,), (), (1,)))
    with pytest.raises(UserError, match="at least 2 source pictures, there are 1"):
        photos_of_scene(Scene(alone, scene.images), 64)
    with pytest.raises(UserError, match="16x16 pixels are too few"):
        photos_of_scene(make_scene(make_meta(12, 16)), 64)
    gnt = methods.build(TINY, scene.meta, seed=1)
    with pytest.raises(UserError, match="no source pictures"):
        gnt.render_rays(scene.meta.training_cameras()[0].rays())
    with pytest.raises(UserError, match="missing or has another size"):
        photos_from_tensors(scene.meta, {"0": torch.zeros(3, 5, 5, dtype=torch.uint8)}, 64)


@pytest.mark.parametrize("bad", [{"n_views": 1}, {"width": 20}, {"dropout": 1.0}, {"n_samples": 1}])
def test_settings_without_sense_are_refused(bad: dict):
    with pytest.raises(UserError):
        GntConfig(**bad)


def test_large_photos_are_reduced():
    meta = make_meta(12, 64)
    photos = photos_of_scene(Scene(meta, ImageStore.from_arrays(
        [make_scene(meta).images.pixels(i) for i in range(12)])), 32)  # fmt: skip
    assert {picture.shape for picture in photos.pictures} == {(3, 32, 32)}
    assert photos.cameras[0].K[0, 0] == 0.5 * meta.cameras[0].K[0, 0]


def test_its_settings_are_flags(capsys: pytest.CaptureFixture[str]):
    assert main(["train", "gnt", "--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"--{f.name.replace('_', '-')}" in text for f in dataclasses.fields(GntConfig))
