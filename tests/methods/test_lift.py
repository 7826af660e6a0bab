"""The method `lift`: one field in training and in pictures, resume bit by bit, convexity, and what a prior adds."""

from __future__ import annotations

import dataclasses
import logging
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from nerfstudio_ext.cameras import Cameras
from nerfstudio_ext.errors import UserError
from nerfstudio_ext.methods.lift import Lift
from nerfstudio_ext.methods.lift_batches import LiftBatch, LiftBatches, Photo, read_photo
from nerfstudio_ext.methods.lift_config import LiftConfig, LiftWeights
from nerfstudio_ext.methods.lift_render import render
from nerfstudio_ext.methods.ngp import NgpConfig
from nerfstudio_ext.methods.priors import PriorFacts, Views
from nerfstudio_ext.methods.priors.analytic import AnalyticPrior
from nerfstudio_ext.methods.priors.null import NullPrior
from nerfstudio_ext.renderer import RayRenderer
from nerfstudio_ext.scenes import load_scene
from nerfstudio_ext.scenes.prepared import PreparedNotes, PreparedPhoto, camera_around, write_prepared
from nerfstudio_ext.training.guard import StepGuard
from nerfstudio_ext.training.stepper import Stepper

SIDE = 16
FIELD = NgpConfig(
    n_levels=4, log2_table=12, base_resolution=4, finest_resolution=24, hidden=16, color_hidden=16, grid_size=16,
    steps_per_unit=32,
)  # fmt: skip
CONFIG = LiftConfig(side=SIDE, steps=80, views=3, hash=FIELD, normals=64, pairs=1024, lr=0.05)
RADIUS, CENTRE_DISTANCE = 0.35, 1.8


def ball_photo(sign: float = 1.0) -> Photo:
    """A grey ball from the front; with `sign` -1 its depths are those of a bowl."""
    rays = camera_around(0.0, 0.0, CENTRE_DISTANCE, 40.0, SIDE).rays()
    along = -(rays.rays_o * rays.rays_d).sum(-1)
    inside = RADIUS**2 - (rays.rays_o + along[:, None] * rays.rays_d).square().sum(-1)
    depth = torch.where(inside > 0, along - sign * inside.clamp_min(0).sqrt(), torch.nan).view(SIDE, SIDE)
    alpha = (inside > 0).float().view(1, SIDE, SIDE)
    return Photo(torch.cat([0.6 * alpha.expand(3, -1, -1), alpha]), depth, PreparedNotes(elevation_deg=0.0))


def make(config: LiftConfig = CONFIG, prior=None, photo: Photo | None = None, seed: int = 0):
    photo = photo or ball_photo()
    blank = PreparedPhoto(np.zeros((SIDE, SIDE, 4), np.uint8), None, photo.notes)
    method = Lift(config, blank.scene("ball", Path()).meta, seed=seed, prior=prior or NullPrior())
    batches = method.batches_of(photo, seed)
    return method, Stepper(method, batches, StepGuard(5), 3, lambda line: None)


def run(stepper: Stepper, first: int, last: int, steps: int = CONFIG.schedule_steps) -> None:
    for step in range(first, last):
        values, _ = stepper.step(step, step / steps)
        assert values, "the step was not usable"


def red_in_front_blue_behind(views: Views) -> torch.Tensor:
    """A disc of the ball's size, its colour by the azimuth."""
    disc = ball_photo().rgba[3]
    pictures = []
    for azimuth in views.azimuth_deg:
        back = 0.5 - 0.5 * math.cos(math.radians(float(azimuth)))
        pictures.append(torch.stack([(1 - back) * disc, 0 * disc, back * disc, disc]))
    return torch.stack(pictures)


def test_training_and_pictures_show_the_same_field():
    method, stepper = make()
    run(stepper, 0, 12)
    ngp = method.ngp
    rays = ngp.clipped(camera_around(40.0, 20.0, 1.8, 40.0, SIDE).rays())
    half = torch.full((len(rays),), 0.5)
    seen = render(ngp.field, rays, ngp.occupancy.occupancy(), ngp.marching, half, "auto")
    shown = method.render_rays(rays)
    # The renderer stops where less than a thousandth of the light is left.
    for a, b in ((seen.rgb, shown.rgb), (seen.alpha, shown.alpha), (seen.depth, shown.depth)):
        assert torch.allclose(a.detach(), b, atol=4e-3)
    assert float(shown.alpha.max()) > 0.05


def test_colours_do_not_depend_on_the_direction():
    method, stepper = make()
    run(stepper, 0, 12)
    first = method.ngp.field.c1.detach()
    assert float(first[17:].abs().max()) == 0 and float(first[:17].abs().min()) > 0


def test_resume_is_bit_equal():
    prior = AnalyticPrior(red_in_front_blue_behind, SIDE)
    whole, stepper = make(prior=prior)
    run(stepper, 0, 20)
    half, first = make(prior=prior)
    run(first, 0, 11)
    state = first.capture()
    other, second = make(prior=prior, seed=1)
    second.restore(state, where=Path())
    run(second, 11, 20)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


def surface_depths(method: Lift) -> tuple[float, float]:
    """Ray length to the ball's middle and near its rim, as the photo's camera sees it."""
    frame = RayRenderer(method.render_rays).render(camera_around(0.0, 0.0, CENTRE_DISTANCE, 40.0, SIDE))
    rim = frame.depth[SIDE // 2, [SIDE // 2 - 4, SIDE // 2 + 3]]
    middle = frame.depth[SIDE // 2 - 1 : SIDE // 2 + 1, SIDE // 2 - 1 : SIDE // 2 + 1]
    return float(middle.mean()), float(rim.mean())


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_near_parts_bulge_towards_the_camera(sign):
    """With the depth's sign turned round the very same photo becomes a bowl: it is the depth that decides."""
    method, stepper = make(photo=ball_photo(sign))
    run(stepper, 0, 80)
    middle, rim = surface_depths(method)
    assert sign * (rim - middle) > 0.02


def test_the_back_is_what_the_prior_says():
    method, stepper = make(prior=AnalyticPrior(red_in_front_blue_behind, SIDE))
    run(stepper, 0, 80)
    frame = RayRenderer(method.render_rays).render(camera_around(180.0, 0.0, CENTRE_DISTANCE, 40.0, SIDE))
    red, _, blue = frame.rgb[SIDE // 2 - 2 : SIDE // 2 + 2, SIDE // 2 - 2 : SIDE // 2 + 2].mean((0, 1))
    assert blue > red + 0.3


def test_without_a_prior_it_is_said_that_the_back_is_undefined(caplog):
    with caplog.at_level(logging.WARNING):
        make()
    assert "what the photo does not show is undefined" in caplog.text


def test_losses_without_weight_are_not_computed():
    weights = LiftWeights(ranking=0, pearson=0, distillation=1, orientation=0, distortion=0, smoothness=0, entropy=0)
    method, stepper = make(dataclasses.replace(CONFIG, weights=weights), AnalyticPrior(red_in_front_blue_behind, SIDE))
    values, _ = stepper.step(0, 0.0)
    assert set(values) == {"photo", "mask", "distillation", "mse", "loss"}
    full, stepper = make(prior=AnalyticPrior(red_in_front_blue_behind, SIDE))
    assert set(stepper.step(0, 0.0)[0]) > {"ranking", "pearson", "orientation", "distortion", "smoothness", "entropy"}


def test_the_paper_shows_the_photo_or_other_views_and_begins_with_the_photo():
    config = dataclasses.replace(CONFIG, preset="paper", steps=1000)
    batches = LiftBatches(ball_photo(), config, PriorFacts("x", "", 8), seed=0)
    drawn = [batches.next(0) for _ in range(300)]
    assert all(b.n_photo and not len(b.views) for b in drawn[:10])
    assert all(bool(b.n_photo) != bool(len(b.views)) for b in drawn)
    share = sum(bool(b.n_photo) for b in drawn[10:]) / 290
    assert 0.02 < share < 0.15


def test_batches_hold_whole_pictures_and_their_rays():
    batches = LiftBatches(ball_photo(), CONFIG, PriorFacts("x", "", 8), seed=0)
    batch = batches.next(0)
    assert isinstance(batch, LiftBatch) and batch.n_photo == SIDE**2 and len(batch) == 4 * SIDE**2
    rays, v = batches.rays(batch), batch.views
    last = camera_around(*(float(x[2]) for x in (v.azimuth_deg, v.elevation_deg, v.distance, v.fov_y_deg)), SIDE)
    wanted = Cameras([last]).rays_through(torch.zeros(SIDE**2, dtype=torch.int64), last.pixel_centres())
    assert torch.allclose(rays.rays_d[-(SIDE**2) :], wanted.rays_d)
    low, high = CONFIG.elevations
    angles = torch.cat([batches.next(0).views.elevation_deg for _ in range(200)])
    assert low <= float(angles.min()) < low + 5 and high - 5 < float(angles.max()) <= high


def test_a_prior_that_knows_few_views_is_asked_for_those_only():
    known = ((0.0, 10.0), (120.0, 10.0), (240.0, 30.0))
    facts = PriorFacts("x", "", 8, views=known, distance=1.7, fov_y_deg=33.0)
    batches = LiftBatches(ball_photo(), CONFIG, facts, seed=0)
    seen = set()
    for _ in range(30):
        v = batches.next(0).views
        seen |= set(zip(v.azimuth_deg.tolist(), v.elevation_deg.tolist(), strict=True))
        assert v.distance.tolist() == pytest.approx([1.7] * 3) and v.fov_y_deg.tolist() == [33.0] * 3
    assert seen == set(known)


def test_a_prepared_photo_is_read_with_its_depth(tmp_path):
    rgba = np.zeros((32, 32, 4), np.uint8)
    rgba[8:24, 8:24] = (200, 100, 50, 255)
    depth = np.tile(np.arange(32, dtype=np.float32), (32, 1))
    notes = PreparedNotes(text="a brick", elevation_deg=20.0)
    write_prepared(PreparedPhoto(rgba, depth, notes), tmp_path)
    scene = load_scene(tmp_path)
    photo = read_photo(scene, SIDE)
    assert photo.notes == notes and photo.subject(CONFIG).text == "a brick"
    assert torch.allclose(photo.rgba[:3, 8, 8], torch.tensor([200, 100, 50]) / 255)
    is_known = photo.depth.isfinite()
    assert bool(is_known[8, 8]) and not bool(is_known[2, 2]) and not bool(is_known[4, 4])
    assert bool((photo.depth[8, 6:10].diff() > 0).all())
    (tmp_path / "depth.npy").write_bytes(b"no array")
    with pytest.raises(UserError, match="not a NumPy array"):
        read_photo(scene, SIDE)


def test_the_photo_is_where_the_camera_looks():
    """The camera of a prepared photo sees the axes where it should: y to the right, z up, x towards it."""
    camera = camera_around(0.0, 0.0, 2.0, 40.0, 100)
    uv, depth = camera.project(torch.tensor([[0.0, 0.2, 0.0], [0.0, 0.0, 0.2], [0.2, 0.0, 0.0]]))
    assert uv[0, 0] > 51 and uv[1, 1] < 49 and depth[2] == pytest.approx(1.8)
    back = camera_around(90.0, 0.0, 2.0, 40.0, 100)
    assert torch.allclose(back.c2w[:, 3], torch.tensor([0.0, 2.0, 0.0], dtype=torch.float64), atol=1e-9)


def test_settings_out_of_range_are_refused():
    with pytest.raises(UserError, match="fewer than 1 view"):
        LiftConfig(views=0)
    with pytest.raises(UserError, match="runs backwards"):
        LiftConfig(elevations=(30.0, 10.0))
