"""The priors of our own: exactness of the finite one, the network's parts, files, and words for views."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from nerfstudio_ext.errors import UserError
from nerfstudio_ext.methods.priors import PriorSettings, Subject, Views, make_prior, tiny, view_texts, view_words
from nerfstudio_ext.methods.priors.denoiser import (
    Conditions,
    DenoiserSize,
    PoseDenoiser,
    _cut,
    _joined,
    cosine_alphas,
)
from nerfstudio_ext.methods.priors.empirical import EmpiricalPrior, PictureSet, load_set, save_set
from nerfstudio_ext.methods.priors.pictures import to_latents
from nerfstudio_ext.methods.priors.tiny import TinyPrior, load_denoiser, save_denoiser
from nerfstudio_ext.worlds.lift_trials import hue_error_deg
from nerfstudio_ext.worlds.things import CLASSES, FRONT_ELEVATION_DEG, draw_thing, pictures_of, views_at

SIDE, TINY = 8, DenoiserSize(side=8, patch=4, width=16, depth=1, n_heads=2, n_classes=2)


def at(*azimuths: float) -> Views:
    n = len(azimuths)
    return Views(torch.tensor(azimuths), torch.zeros(n), torch.full((n,), 1.8), torch.full((n,), 40.0))


def make_pictures(n: int = 6) -> PictureSet:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)

    views = torch.tensor([[0.0, 0.0], [180.0, 0.0], [180.0, 40.0]])
    return PictureSet(
        draw(n, 3, 4, SIDE, SIDE), draw(n, 4, SIDE, SIDE), views, torch.arange(n) % 2, ("cup", "hat"), 1.8, 40.0
    )


def subject_of(known: PictureSet, i: int, class_name: str = "") -> Subject:
    photo = known.photos[i].float() / 255
    return Subject(photo[:3] / photo[3:].clamp_min(1e-4), photo[3:], at(0.0), class_name=class_name)


def clean_of(prior, noisy, steps, views) -> torch.Tensor:
    a = prior.alphas_cumprod[steps][:, None, None, None]
    return (noisy - (1 - a).sqrt() * prior.denoise(noisy, steps, views, 1.0)) / a.sqrt()


def test_the_exact_denoiser_is_the_mean_of_the_posterior():
    known = make_pictures()
    prior = EmpiricalPrior(known, uses_photo=False)
    steps, noisy = torch.tensor([999]), torch.randn(1, 4, SIDE, SIDE)
    a = float(prior.alphas_cumprod[999])
    pictures = known.pictures[:, 1].double() / 127.5 - 1
    distance = (noisy.double() - a**0.5 * pictures).square().flatten(1).sum(1)
    weights = torch.softmax(-distance / (2 * (1 - a)), 0)
    wanted = (weights[:, None, None, None] * pictures).sum(0)
    assert torch.allclose(clean_of(prior, noisy, steps, at(180.0))[0].double(), wanted, atol=1e-3)


def test_at_little_noise_it_finds_the_picture_itself():
    known = make_pictures()
    prior = EmpiricalPrior(known, uses_photo=False)
    picture = known.pictures[4:5, 0].float() / 127.5 - 1
    assert torch.allclose(clean_of(prior, picture, torch.tensor([20]), at(0.0)), picture, atol=0.02)


def test_the_photo_decides_which_thing_it_is_and_a_class_which_kind():
    known = make_pictures()
    prior = EmpiricalPrior(known)
    prior.take_subject(subject_of(known, 3))
    noise = torch.randn(1, 4, SIDE, SIDE)
    wanted = known.pictures[3:4, 1].float() / 127.5 - 1
    assert torch.allclose(clean_of(prior, noise, torch.tensor([999]), at(179.0)), wanted, atol=1e-3)
    by_class = EmpiricalPrior(known, uses_photo=False)
    by_class.take_subject(subject_of(known, 3, "cup"))
    picture = known.pictures[3:4, 0].float() / 127.5 - 1
    found = clean_of(by_class, picture, torch.tensor([20]), at(0.0))
    assert min(float((found - known.pictures[i, 0] / 127.5 + 1).abs().max()) for i in (0, 2, 4)) < 0.02
    with pytest.raises(UserError, match="no class 'car' in the set"):
        by_class.take_subject(subject_of(known, 3, "car"))


def test_a_set_survives_its_file(tmp_path):
    known = make_pictures()
    save_set(known, tmp_path / "set.safetensors")
    for name, value in vars(load_set(tmp_path / "set.safetensors")).items():
        other = getattr(known, name)
        assert torch.equal(value, other) if isinstance(value, torch.Tensor) else value == other
    (tmp_path / "broken.safetensors").write_bytes(b"nothing")
    for name, words in (("broken.safetensors", "not a tensor file"), ("missing", "no such set of pictures")):
        with pytest.raises(UserError, match=words):
            make_prior(PriorSettings("empirical", str(tmp_path / name)))
    with pytest.raises(UserError, match="needs a set of pictures"):
        make_prior(PriorSettings("empirical"))


def test_patches_are_put_back_where_they_were():
    picture = torch.rand(2, 4, 8, 8)
    assert torch.equal(_joined(_cut(picture, 4), 8, 4), picture)
    assert torch.equal(_cut(picture, 4)[0, 1].view(4, 4, 4), picture[0, :, :4, 4:])


def random_denoiser(seed: int = 0) -> PoseDenoiser:
    """All weights random: as it is drawn the network gives zeros."""
    model = PoseDenoiser(TINY)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def conditions(**changes) -> Conditions:
    given = Conditions(
        torch.rand(1, 4, 8, 8, generator=torch.Generator().manual_seed(1)), torch.tensor([True]), torch.tensor([0]),
        torch.tensor([[30.0, 10.0, 15.0]]),
    )  # fmt: skip
    return dataclasses.replace(given, **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"photo": torch.zeros(1, 4, 8, 8)},
        {"has_photo": torch.tensor([False])},
        {"class_ids": torch.tensor([1])},
        {"view_deg": torch.tensor([[-30.0, 10.0, 15.0]])},
        {"view_deg": torch.tensor([[30.0, 20.0, 15.0]])},
        {"view_deg": torch.tensor([[30.0, 10.0, 5.0]])},
    ],
)
def test_the_denoiser_heeds_all_it_is_told(changes):
    model, noisy, alphas = random_denoiser(), torch.rand(1, 4, 8, 8), torch.tensor([0.5])
    assert not torch.allclose(model(noisy, alphas, conditions()), model(noisy, alphas, conditions(**changes)))


def test_a_hidden_photo_does_not_count():
    model, noisy, alphas = random_denoiser(), torch.rand(1, 4, 8, 8), torch.tensor([0.5])
    hidden = conditions(has_photo=torch.tensor([False]))
    other = dataclasses.replace(hidden, photo=torch.rand(1, 4, 8, 8))
    assert torch.equal(model(noisy, alphas, hidden), model(noisy, alphas, other))


def test_the_small_prior_turns_v_into_noise_and_guides(tmp_path):
    save_denoiser(random_denoiser(), ("cup", "hat"), tmp_path / "small.safetensors", {"steps": "0"})
    prior = TinyPrior.load(PriorSettings("tiny", str(tmp_path / "small.safetensors")))
    photo = torch.rand(4, 8, 8)
    prior.take_subject(Subject(photo[:3], photo[3:], at(0.0), class_name="hat"))
    noisy, steps = torch.randn(2, 4, 8, 8), torch.tensor([300, 300])
    a = prior.alphas_cumprod[300]
    plain = prior.denoise(noisy, steps, at(0.0, 180.0), 1.0)
    # v = sqrt(a) noise - sqrt(1 - a) picture, so that noise and picture make up the noisy picture again.
    v = a.sqrt() * plain - (1 - a).sqrt() * (noisy - (1 - a).sqrt() * plain) / a.sqrt()
    assert torch.allclose((1 - a).sqrt() * noisy + a.sqrt() * v, plain, atol=1e-4)
    assert not torch.allclose(plain[0], plain[1])
    without, twice = (prior.denoise(noisy, steps, at(0.0, 180.0), g) for g in (0.0, 2.0))
    assert torch.allclose(twice - without, 2 * (plain - without), atol=1e-3)
    with pytest.raises(UserError, match="knows no class 'car'"):
        prior.take_subject(Subject(photo[:3], photo[3:], at(0.0), class_name="car"))


def test_files_of_the_small_prior_are_read_whole_or_refused(tmp_path):
    model, path = random_denoiser(), tmp_path / "small.safetensors"
    save_denoiser(model, ("cup", "hat"), path, {})
    read, names = load_denoiser(path)
    assert names == ("cup", "hat") and read.size == TINY
    for name, value in read.state_dict().items():
        assert torch.equal(value, model.state_dict()[name].half().float())
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(UserError, match="damaged"):
        load_denoiser(path)
    with pytest.raises(UserError, match="no such file of weights"):
        make_prior(PriorSettings("tiny", str(tmp_path / "missing.safetensors")))


def test_without_shipped_weights_it_is_said_where_they_come_from(tmp_path, monkeypatch):
    monkeypatch.setattr(tiny, "SHIPPED", tmp_path / "tiny.safetensors")
    with pytest.raises(UserError, match="apps/train_lift_prior.py"):
        make_prior(PriorSettings())
    save_denoiser(random_denoiser(), ("cup", "hat"), tmp_path / "tiny.safetensors", {})
    facts = make_prior(PriorSettings()).facts
    assert facts.name == "tiny" and facts.side == 8 and "Apache" in facts.licence


def test_schedules_fall_and_names_are_checked():
    alphas = cosine_alphas()
    assert float(alphas[0]) > 0.99 and float(alphas[-1]) < 1e-3 and bool((alphas.diff() <= 0).all())
    with pytest.raises(UserError, match="unknown prior 'tyni'"):
        make_prior(PriorSettings("tyni"))


def test_words_for_views():
    words = [view_words(a, e) for a, e in ((0, 0), (59, 10), (-61, 0), (90, 0), (181, 0), (-125, 0), (0, 70), (0, -70))]
    assert words == [
        "front view", "front view", "side view", "side view", "back view", "back view", "overhead view", "bottom view",
    ]  # fmt: skip
    assert view_texts("a cabin", at(0.0, 180.0)) == ["a cabin, front view", "a cabin, back view"]
    assert view_texts("", at(90.0)) == ["side view"]


def test_the_shipped_weights_know_the_rule_of_backs():
    """From nearly pure noise and the photo, the back comes out in the hue of the rule and not in the front's."""
    assert tiny.SHIPPED.stat().st_size < 6e6
    prior, generator = TinyPrior.load(PriorSettings("tiny")), torch.Generator().manual_seed(0)
    step = int((prior.alphas_cumprod - 0.05).abs().argmin())
    a, off, off_front = prior.alphas_cumprod[step], [], []
    for number, name in enumerate(CLASSES):
        thing = draw_thing(np.random.default_rng((77, number)), name, is_held_out=True)
        front, back = pictures_of(thing, views_at([(0.0, FRONT_ELEVATION_DEG), (180.0, FRONT_ELEVATION_DEG)]), 16)
        straight = front[:3] / front[3:].clamp_min(1e-6)
        prior.take_subject(Subject(straight, front[3:], views_at([(0.0, FRONT_ELEVATION_DEG)])))
        noise = torch.randn(1, 4, 16, 16, generator=generator)
        noisy = a.sqrt() * to_latents(back[None, :3], back[None, 3:], 16) + (1 - a).sqrt() * noise
        found = prior.denoise(noisy, torch.tensor([step]), views_at([(180.0, FRONT_ELEVATION_DEG)]), 1.0)
        clean = (noisy - (1 - a).sqrt() * found) / a.sqrt()
        shown = ((clean[0] + 1) / 2).clamp(0, 1).permute(1, 2, 0).numpy()
        off.append(hue_error_deg(shown, back.permute(1, 2, 0).numpy()))
        off_front.append(hue_error_deg(shown, front.permute(1, 2, 0).numpy()))
    assert float(np.median(off)) < 35 and float(np.median(off_front)) > 70
