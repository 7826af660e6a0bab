"""Laws of augmented training: where deltas may be, what they reach, and what stays as it was without them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from nerfstudio_ext.errors import UserError
from nerfstudio_ext.methods.aug import Aug
from nerfstudio_ext.methods.aug_balls import Ball, ascend, random_start, weight_disturbance
from nerfstudio_ext.methods.aug_mlp import MlpScene
from nerfstudio_ext.methods.aug_settings import AugConfig, MlpConfig, plans
from nerfstudio_ext.methods.ngp import Ngp, NgpConfig
from nerfstudio_ext.methods.protocol import Method

from .ball_scene import BallSampler, make_meta

META = make_meta(n_cameras=18)
MLP = MlpConfig(width=16, coarse_samples=12, fine_samples=8, rays_per_batch=48)
HASH = NgpConfig(n_levels=4, log2_table=12, finest_resolution=64, hidden=16, color_hidden=16, grid_size=32,
                 samples_per_batch=2048, steps_per_unit=64, backend="reference")  # fmt: skip
ALL = "pose,depth,points,features,raw,rgb"
CONFIGS = {
    "mlp": AugConfig(mlp=MLP, keys=ALL),
    "hash": AugConfig(field="hash", hash=HASH, keys=ALL, adversary_from=0, adversary_every=1),
    "official": AugConfig(mode="official", mlp=MLP, keys=ALL, step_sizes="0.001"),
}
each_field = pytest.mark.parametrize("name", ["mlp", "hash"])


def train(method: Method, steps: int, seed: int = 0) -> Method:
    sampler = BallSampler(META, seed)
    groups = [{"params": list(g.params), "lr": g.lr, "betas": g.betas, "eps": g.eps} for g in method.param_groups()]
    optimizer = torch.optim.Adam(groups)
    for step in range(steps):
        batch = sampler.next(method.n_rays)
        losses = method.train_step(sampler.rays(batch), batch, step)
        sum(value for key, value in losses.items() if key != "mse").backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        method.after_step(step)
    return method


def begun(method: Aug, seed: int = 1):
    sampler = BallSampler(META, seed)
    batch = sampler.next(method.n_rays)
    return method.scene.begin(sampler.rays(batch), batch, 500)


def balls_of(method: Aug, batch) -> dict[str, Ball]:
    found = {}
    for key, plan in plans(method.config).items():
        for name in batch.shapes([key]):
            unit = batch.unit(name)
            step = plan.step if method.config.mode == "official" else plan.step * unit
            found[name] = Ball(plan.radius * unit, step, plan.iterations, plan.norm, plan.is_friendly)
    return found


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_every_delta_stays_in_its_ball_at_every_iteration(name: str, monkeypatch: pytest.MonkeyPatch):
    config = dataclasses.replace(CONFIGS[name], iterations="4", step_sizes="0.7")
    method = train(Aug(config, META, seed=0), 2)
    batch = begun(method)
    balls, seen = balls_of(method, batch), []

    disturbed = type(batch).disturbed

    def watched(self, deltas: Mapping[str, Tensor], *, for_weights: bool) -> Tensor:
        seen.append({key: delta.detach().clone() for key, delta in deltas.items()})
        return disturbed(self, deltas, for_weights=for_weights)

    monkeypatch.setattr(type(batch), "disturbed", watched)
    seen.append(method.worst(batch))
    assert len(seen) == 5
    for deltas in seen:
        assert set(deltas) == set(balls)
        for key, delta in deltas.items():
            assert bool((delta.abs() <= torch.as_tensor(balls[key].radius) * (1 + 1e-6)).all()), key
    for key in balls:
        assert not torch.equal(seen[0][key], seen[-1][key]), key


@pytest.mark.parametrize("adversary", ["worst", "friendly", "random"])
@each_field
def test_the_adversary_does_what_it_is_called(name: str, adversary: str):
    config = dataclasses.replace(CONFIGS[name], adversary=adversary, iterations="3", step_sizes="0.4")
    method = train(Aug(config, META, seed=0), 3)
    gains = []
    for seed in range(6):
        batch = begun(method, seed)
        balls = balls_of(method, batch)
        shapes = {key: batch.shapes([k])[key] for k in plans(config) for key in batch.shapes([k])}
        state = method.adversary_generator.get_state()
        start = random_start(balls, shapes, method.adversary_generator)
        method.adversary_generator.set_state(state)
        end = method.worst(batch)
        with torch.no_grad():
            before, after = (float(batch.disturbed(d, for_weights=True)) for d in (start, end))
        gains.append(after - before)
    mean = sum(gains) / len(gains)
    assert {"worst": mean > 0, "friendly": mean < 0, "random": gains == [0.0] * 6}[adversary]


@each_field
def test_the_disturbed_loss_is_not_below_the_clean_one_on_average(name: str):
    method = train(Aug(CONFIGS[name], META, seed=0), 20)
    gaps = []
    for seed in range(8):
        batch = begun(method, seed)
        deltas = method.worst(batch)
        with torch.no_grad():
            nothing = {key: torch.zeros_like(delta) for key, delta in deltas.items()}
            gaps.append(float(batch.disturbed(deltas, for_weights=True) - batch.disturbed(nothing, for_weights=True)))
    assert sum(gaps) / len(gaps) > 0


def test_without_a_share_the_hash_field_trains_as_ever_bit_for_bit():
    plain, augmented = Ngp(HASH, META, seed=3), Aug(dataclasses.replace(CONFIGS["hash"], mix=0.0), META, seed=3)
    train(plain, 6), train(augmented, 6)
    for one, two in zip(plain.parameters(), augmented.parameters(), strict=True):
        assert torch.equal(one, two)


def test_without_a_share_the_networks_train_as_ever_bit_for_bit():
    """Against the plain loop written out: codes, levels and loss without a word of disturbance."""
    augmented = Aug(dataclasses.replace(CONFIGS["mlp"], mix=0.0), META, seed=3)
    plain = MlpScene(CONFIGS["mlp"], META, seed=3)
    sampler = BallSampler(META)
    optimizer = torch.optim.Adam(plain.parameters(), lr=MLP.mlp_lr, betas=(0.9, 0.999), eps=1e-8)
    for _ in range(4):
        batch = sampler.next(plain.n_rays)
        plain.begin(sampler.rays(batch), batch, 0).clean()[0].backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    train(augmented, 4)
    for one, two in zip(plain.parameters(), augmented.parameters(), strict=True):
        assert torch.equal(one, two)


@each_field
def test_the_clean_random_stream_does_not_depend_on_the_adversary(name: str):
    some, others = (Aug(dataclasses.replace(CONFIGS[name], keys=keys), META, seed=0) for keys in ("raw", ALL))
    one, two = begun(some), begun(others)
    stream = (one.inputs.jitter, two.inputs.jitter) if name == "hash" else (one.noise.coarse, two.noise.coarse)
    assert torch.equal(*stream)


@each_field
def test_the_adversarial_loss_reaches_what_is_rendered(name: str):
    method = Aug(CONFIGS[name], META, seed=0)
    batch = begun(method)
    batch.disturbed(method.worst(batch), for_weights=True).backward()
    reached = {n for n, p in method.named_parameters() if p.grad is not None and bool(p.grad.any())}
    assert reached == {n for n, _ in method.named_parameters() if not n.startswith("cameras.")}


def test_in_official_mode_it_does_not():
    method = Aug(CONFIGS["official"], META, seed=0)
    batch = begun(method)
    batch.disturbed(method.worst(batch), for_weights=True).backward()
    reached = {n for n, p in method.named_parameters() if p.grad is not None and bool(p.grad.any())}
    assert reached
    assert all(n.startswith("scene.adversarial.") for n in reached)
    before = [p.detach().clone() for p in method.scene.coarse.parameters()]
    rays = META.training_cameras()[0].rays()
    shown = method.render_rays(rays).rgb
    with torch.no_grad():
        for parameter in method.scene.adversarial.parameters():
            parameter.add_(1.0)
    assert torch.equal(method.render_rays(rays).rgb, shown)
    assert all(torch.equal(a, b) for a, b in zip(before, method.scene.coarse.parameters(), strict=True))


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_the_inner_maximisation_leaves_no_gradient_behind(name: str):
    method = Aug(CONFIGS[name], META, seed=0)
    method.worst(begun(method))
    assert all(p.grad is None and p.requires_grad for p in method.parameters())


@each_field
def test_disturbed_weights_return_after_the_step(name: str):
    config = dataclasses.replace(CONFIGS[name], keys="raw,weights", weight_strength=0.1)
    method = train(Aug(config, META, seed=0), 2)
    before = {n: p.detach().clone() for n, p in method.named_parameters()}
    sampler = BallSampler(META)
    batch = sampler.next(method.n_rays)
    method.train_step(sampler.rays(batch), batch, 5)
    disturbed = set(map(id, method.scene.disturbed_weights()))
    for n, p in method.named_parameters():
        assert torch.equal(p, before[n]) == (id(p) not in disturbed), n
    state = {key: value.clone() for key, value in method.state_dict().items()}
    method.after_step(5)
    for n, p in method.named_parameters():
        torch.testing.assert_close(p, before[n], atol=1e-6, rtol=1e-5)
    # Going back to a saved state forgets the disturbance instead of taking it off once more.
    method.train_step(sampler.rays(batch), batch, 6)
    method.load_state_dict(state)
    method.after_step(6)
    assert all(torch.equal(value, state[key]) for key, value in method.state_dict().items() if "weight" in key)


def test_weight_disturbance_raises_the_loss_and_has_the_size_of_the_weights():
    generator = torch.Generator().manual_seed(0)
    w = torch.nn.Parameter(torch.randn(6, 5, generator=generator))
    unused = torch.nn.Parameter(torch.randn(3, 3, generator=generator))
    x = torch.randn(20, 6, generator=generator)
    change, nothing = weight_disturbance((x @ w).square().mean(), [w, unused])
    assert float(change.norm()) == pytest.approx(float(w.detach().norm()), rel=1e-5)
    assert not nothing.any()
    with torch.no_grad():
        assert (x @ (w + 0.01 * change)).square().mean() > (x @ w).square().mean()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_ascent_on_a_known_function(norm: str):
    """On a linear loss the worst point of a ball is known: its corner, or its pole."""
    slope = torch.tensor([[3.0, -4.0], [0.0, 2.0]])
    ball = Ball(radius=0.5, step=0.3, iterations=60, norm=norm)
    start = random_start({"d": ball}, {"d": (2, 2)}, torch.Generator().manual_seed(0))
    assert bool((start["d"].abs() <= 0.5).all())
    end = ascend(lambda d: (slope * d["d"]).sum(), start, {"d": ball})[0]["d"]
    if norm == "linf":
        assert torch.equal(end[0], torch.tensor([0.5, -0.5]))
        assert end[1, 0] == start["d"][1, 0]  # no slope, no step
    else:
        torch.testing.assert_close(end, 0.5 * slope / slope.norm(dim=1, keepdim=True), atol=1e-3, rtol=0)
    kind = dataclasses.replace(ball, is_friendly=True)
    friendly = ascend(lambda d: (slope * d["d"]).sum(), start, {"d": kind})[0]["d"]
    torch.testing.assert_close(friendly[0], -end[0], atol=1e-3, rtol=0)


def test_keys_may_differ_in_what_they_want():
    config = AugConfig(keys="pose,rgb,raw", adversary="worst,friendly,random", iterations="2")
    found = plans(config)
    assert [plan.is_friendly for plan in found.values()] == [False, True, False]
    assert [plan.iterations for plan in found.values()] == [2, 2, 0]
    balls = {"up": Ball(1.0, 0.5, 1), "down": Ball(1.0, 0.5, 1, is_friendly=True)}
    end, _ = ascend(lambda d: d["up"].sum() + d["down"].sum(), {key: torch.zeros(1) for key in balls}, balls)
    assert (float(end["up"]), float(end["down"])) == (0.5, -0.5)


def test_each_key_moves_for_its_own_iterations():
    balls = {"one": Ball(10.0, 1.0, 1), "three": Ball(10.0, 1.0, 3), "none": Ball(10.0, 1.0, 0)}
    start = {key: torch.zeros(1) for key in balls}
    end, _ = ascend(lambda d: d["one"].sum() + d["three"].sum() + d["none"].sum(), start, balls)
    assert {key: float(value) for key, value in end.items()} == {"one": 1.0, "three": 3.0, "none": 0.0}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"keys": "poses"}, "'poses' cannot be disturbed. Did you mean 'pose'?"),
        ({"keys": "raw,raw"}, "names a key twice"),
        ({"radii": "1,2"}, "2 values for 5 keys"),
        ({"radii": "a"}, "'a' is not a list of numbers"),
        ({"radii": "-1"}, "out of range"),
        ({"radii": "nan"}, "out of range"),
        ({"norms": "l1"}, "'l1' is no norm"),
        ({"mix": 1.5}, "not between 0 and 1"),
        ({"adversary": "worse"}, "'worse' is no adversary. Did you mean 'worst'?"),
        ({"keys": "raw,rgb", "adversary": "worst,random,friendly"}, "3 values for 2 keys"),
        ({"adversary_every": 0}, "every 1 or more"),
        ({"field": "hash", "mode": "official"}, "no hash field"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict, said: str):
    with pytest.raises(UserError, match="^.*" + said.replace("?", r"\?").replace(".", r"\.")):
        AugConfig(**settings)


def test_radii_follow_the_spacing_of_the_samples():
    """Twice the marching step, twice the radius: one default for every scene scale."""
    radii = []
    for steps_per_unit in (64, 32):
        config = dataclasses.replace(CONFIGS["hash"], hash=dataclasses.replace(HASH, steps_per_unit=steps_per_unit))
        batch = begun(Aug(config, META, seed=0))
        radii.append(float(batch.unit("t").max()))
        assert batch.unit("x").max() <= radii[-1]
    assert radii[1] == pytest.approx(2 * radii[0], rel=1e-4)


@pytest.mark.parametrize("scale", [1, 8])
@each_field
def test_bounded_and_unbounded_scenes_train(name: str, scale: int):
    meta = dataclasses.replace(META, frame=dataclasses.replace(META.frame, aabb_scale=scale))
    method = Aug(CONFIGS[name], meta, seed=0)
    train(method, 2)
    out = method.render_rays(meta.training_cameras()[0].rays())
    assert torch.isfinite(out.rgb).all()
    assert ((out.alpha >= 0) & (out.alpha <= 1 + 1e-5)).all()
    density = method.density(torch.zeros(4, 3))
    assert density.shape == (4,)
    assert (density >= 0).all()


@each_field
@pytest.mark.parametrize("adversary_from", [0, 100])
def test_warming_up_changes_nothing(name: str, adversary_from: int):
    method = Aug(dataclasses.replace(CONFIGS[name], adversary_from=adversary_from), META, seed=0)
    before = {key: value.clone() for key, value in method.state_dict().items()}
    method.warm_up()
    after = method.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert all(p.grad is None for p in method.parameters())
    assert method.n_rays == Aug(CONFIGS[name], META, seed=0).n_rays


@each_field
def test_before_its_first_step_the_adversary_changes_nothing(name: str):
    late = Aug(dataclasses.replace(CONFIGS[name], adversary_from=3), META, seed=3)
    never = Aug(dataclasses.replace(CONFIGS[name], mix=0.0), META, seed=3)
    pairs = list(zip(late.scene.parameters(), never.scene.parameters(), strict=True))
    train(late, 3), train(never, 3)
    assert all(torch.equal(a, b) for a, b in pairs)
    train(late, 4), train(never, 4)
    assert not all(torch.equal(a, b) for a, b in pairs)


@each_field
def test_every_other_step_may_be_plain(name: str, monkeypatch: pytest.MonkeyPatch):
    method = Aug(dataclasses.replace(CONFIGS[name], adversary_from=2, adversary_every=3), META, seed=0)
    searched = []
    search = Aug._search
    monkeypatch.setattr(Aug, "_search", lambda self, *given: searched.append(step) or search(self, *given))
    sampler = BallSampler(META)
    for step in range(9):
        batch = sampler.next(method.n_rays)
        losses = method.train_step(sampler.rays(batch), batch, step)
        assert ("disturbed" in losses) == (step in (2, 5, 8))
        method.after_step(step)
    assert searched == [2, 5, 8]


@each_field
def test_a_saved_state_goes_on_bit_for_bit(name: str):
    """Both random streams and the sizes of the features belong to the state."""
    config = dataclasses.replace(CONFIGS[name], keys=f"{ALL},weights")
    method = train(Aug(config, META, seed=0), 18)
    twin = Aug(config, META, seed=9)
    twin.load_state_dict({key: value.clone() for key, value in method.state_dict().items()})
    twin.n_rays = method.n_rays
    train(method, 3, seed=5), train(twin, 3, seed=5)
    state, other = method.state_dict(), twin.state_dict()
    assert all(torch.equal(state[key], other[key]) for key in state)
