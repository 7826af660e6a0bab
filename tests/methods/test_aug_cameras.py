"""Corrections of the cameras: they change nothing that is right, stay in their ball, and take errors of poses back."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from nerfstudio_ext.errors import UserError
from nerfstudio_ext.methods.aug import Aug
from nerfstudio_ext.methods.aug_cameras import LOOKS, MOVE_UNIT, CameraCorrections
from nerfstudio_ext.methods.aug_levels import moved_rays
from nerfstudio_ext.methods.aug_settings import AugConfig
from nerfstudio_ext.methods.ngp import NgpConfig
from nerfstudio_ext.rays import Rays

from .ball_scene import BallSampler, make_meta

META = make_meta(n_cameras=18)
HASH = NgpConfig(n_levels=6, log2_table=13, finest_resolution=128, hidden=16, color_hidden=16, grid_size=32,
                 samples_per_batch=4096, steps_per_unit=64, coarse_steps=0)  # fmt: skip
CONFIG = AugConfig(field="hash", hash=HASH, correct_poses=2.0, adversary_from=100, adversary_every=1)


def shaken(radius: float = 1.0) -> CameraCorrections:
    """Corrections that have been somewhere already."""
    cameras = CameraCorrections(len(META.cameras), META.split.train, radius)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        cameras.turns.normal_(std=0.05, generator=generator)
        cameras.moves.normal_(std=0.05, generator=generator)
    return cameras


def some_rays() -> tuple[Rays, torch.Tensor]:
    batch = BallSampler(META).next(64)
    return META.training_cameras().rays_through(batch.cam_ids, batch.uv), batch.cam_ids


def test_no_correction_changes_no_bit():
    rays, cam_ids = some_rays()
    same = CameraCorrections(len(META.cameras), META.split.train, 1.0).corrected(rays, cam_ids)
    assert torch.equal(same.rays_o, rays.rays_o)
    assert torch.equal(same.rays_d, rays.rays_d)


def test_corrected_rays_keep_their_length_and_move_by_what_is_said():
    rays, cam_ids = some_rays()
    cameras = shaken()
    corrected = cameras.corrected(rays, cam_ids)
    torch.testing.assert_close(corrected.rays_d.norm(dim=1), torch.ones(64))
    torch.testing.assert_close(corrected.rays_o - rays.rays_o, cameras.moves.detach()[cam_ids])
    assert not corrected.rays_d.requires_grad


def test_corrections_stay_in_their_ball_and_do_not_move_the_scene():
    cameras = shaken(radius=0.5)
    untrained = [i for i in range(len(META.cameras)) if i not in META.split.train]
    before = cameras.turns.detach()[untrained].clamp(-0.5 * math.pi / 180, 0.5 * math.pi / 180)
    cameras.project()
    assert float(cameras.turns.detach().abs().max()) <= 0.5 * math.pi / 180 * (1 + 1e-6)
    assert float(cameras.moves.detach().abs().max()) <= 0.5 * MOVE_UNIT * (1 + 1e-6)
    assert torch.equal(cameras.turns.detach()[untrained], before)
    small = shaken(radius=100.0)
    small.project()
    assert float(small.turns.detach()[small.trained].mean(0).abs().max()) < 1e-7


def test_the_pull_is_nothing_but_a_gradient():
    cameras = shaken()
    cameras.looks.fill_(LOOKS)
    slopes = {"cam_r": torch.randn(18, 3), "cam_t": torch.randn(18, 3)}
    pull = cameras.pull(slopes)
    assert float(pull.detach()) == 0
    pull.backward()
    assert torch.equal(cameras.turns.grad, slopes["cam_r"])
    assert torch.equal(cameras.moves.grad, slopes["cam_t"])


@pytest.mark.parametrize("keys", ["", "raw", "pose"])
def test_the_slopes_are_those_of_the_loss(keys: str):
    """Against differences of the loss along a random direction, alone and in one evaluation with an adversary.

    The grid is linear in pieces and the loss has float32's digits: small steps, and a tenth of tolerance.
    """
    config = dataclasses.replace(CONFIG, keys=keys, hash=dataclasses.replace(HASH, backend="reference"))
    method = Aug(config, META, seed=0)
    sampler = BallSampler(META)
    with torch.no_grad():  # a fresh table is flat: nothing would depend on where it is looked at
        method.scene.ngp.field.table.normal_(std=0.1, generator=torch.Generator().manual_seed(1))
    batch = sampler.next(64)
    begun = method.scene.begin(sampler.rays(batch), batch, 500)
    state = method.adversary_generator.get_state()
    _, slopes = method._search(begun, config, method.adversary_generator, method.cameras)
    method.adversary_generator.set_state(state)
    still = dataclasses.replace(config, iterations="0")
    start = method.worst(begun, still)
    generator = torch.Generator().manual_seed(2)
    direction = {name: torch.randn(18, 3, generator=generator) for name in slopes}
    steps = []
    for sign in (1.0, -1.0):
        deltas = {name: start.get(name, 0.0) + sign * 1e-5 * value for name, value in direction.items()}
        with torch.no_grad():
            steps.append(float(begun.disturbed({**start, **deltas}, for_weights=True)))
    along = sum(float((slopes[name] * direction[name]).sum()) for name in slopes)
    assert along == pytest.approx((steps[0] - steps[1]) / 2e-5, rel=0.1, abs=2e-4)


class WrongPoses(BallSampler):
    """Every camera is told to stand turned by up to a degree about each axis."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.errors = torch.empty(18, 3).uniform_(-1, 1, generator=torch.Generator().manual_seed(7)) * math.pi / 180
        self.errors -= self.errors[list(META.split.train)].mean(0)

    def rays(self, batch) -> Rays:
        rays = super().rays(batch)
        deltas = {"cam_r": self.errors, "cam_t": torch.zeros(18, 3)}
        rays_o, rays_d = moved_rays(rays.rays_o, rays.rays_d, batch.cam_ids, deltas)
        return Rays(rays_o, rays_d, rays.t_min, rays.t_max)


@pytest.mark.slow
def test_wrong_poses_are_put_right():
    """A turn of a camera about its own place shows in the pictures: most of it is found while the scene is learned."""
    sampler, method = WrongPoses(META, 0), Aug(CONFIG, META, seed=0)
    groups = [{"params": list(g.params), "lr": g.lr, "betas": g.betas, "eps": g.eps} for g in method.param_groups()]
    optimizer = torch.optim.Adam(groups)
    for step in range(200):
        batch = sampler.next(method.n_rays)
        losses = method.train_step(sampler.rays(batch), batch, step)
        sum(value for key, value in losses.items() if key != "mse").backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        method.after_step(step)
    trained = list(META.split.train)
    before, after = (e[trained].norm(dim=1).mean() for e in (sampler.errors, sampler.errors + method.cameras.turns))
    # A small move of a camera sideways looks much like a small turn: the rest hides there.
    assert float(after.detach()) < 0.75 * float(before)


def test_poses_that_are_right_are_left_alone():
    """Looks at noise are no evidence; from then on no step looks again."""
    cameras = CameraCorrections(18, META.split.train, 1.0)
    generator = torch.Generator().manual_seed(0)
    while int(cameras.looks) < LOOKS:
        assert cameras.are_of_use
        slopes = {name: 1e-4 * torch.randn(18, 3, generator=generator) for name in ("cam_r", "cam_t")}
        assert not cameras.pull(slopes).requires_grad
    assert 0.8 < cameras.evidence < 1.5
    assert not cameras.are_of_use
    method, sampler = Aug(CONFIG, META, seed=0), BallSampler(META)
    method.cameras.load_state_dict(cameras.state_dict())
    batch = sampler.next(64)
    plain = Aug(dataclasses.replace(CONFIG, mix=0.0), META, seed=0)
    losses, others = (m.train_step(sampler.rays(batch), batch, 100) for m in (method, plain))
    assert losses.keys() == others.keys()
    assert torch.equal(losses["color"], others["color"])


def test_a_common_slope_is_evidence():
    cameras = CameraCorrections(18, META.split.train, 1.0)
    generator = torch.Generator().manual_seed(0)
    error = torch.randn(2, 18, 3, generator=generator)
    for _ in range(LOOKS):
        found = 1e-4 * (error + torch.randn(2, 18, 3, generator=generator))
        cameras.pull({"cam_r": found[0], "cam_t": found[1]})
    assert cameras.evidence > 5
    assert cameras.are_of_use
    assert cameras.pull({"cam_r": found[0], "cam_t": found[1]}).requires_grad


def test_without_a_share_or_a_radius_there_are_no_corrections():
    for change in ({"mix": 0.0}, {"correct_poses": 0.0}):
        method = Aug(dataclasses.replace(CONFIG, **change), META, seed=0)
        assert not [name for name in method.state_dict() if name.startswith("cameras.")]
        assert len(method.param_groups()) == 2


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"correct_poses": -1.0}, "--correct-poses: -1.0 is out of range"),
        ({"patient_huber": math.nan}, "--patient-huber: nan is out of range"),
        ({"mode": "official", "correct_poses": 1.0}, "corrects no poses"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict, said: str):
    with pytest.raises(UserError, match=said):
        AugConfig(**settings)
