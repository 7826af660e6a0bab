"""Stable Diffusion, view-conditioned models and CLIP with tiny random weights: they compute, differentiate, reload and
refuse. Nothing here says anything about the quality of real ones."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from nerfstudio_ext.errors import UserError
from nerfstudio_ext.methods import pretrained
from nerfstudio_ext.methods.lift_clip import ClipImages
from nerfstudio_ext.methods.priors import PriorSettings, Subject, Views, make_prior
from nerfstudio_ext.methods.priors.latents import estimated_bytes, noise_of, or_with_less_memory
from nerfstudio_ext.methods.priors.stable_diffusion import guided
from nerfstudio_ext.methods.priors.view_conditioned import TRAINED_FOV_DEG, movements


def views(*places: tuple[float, float]) -> Views:
    azimuth, elevation = torch.tensor(places).T
    return Views(azimuth, elevation, torch.full_like(azimuth, 1.8), torch.full_like(azimuth, 40.0))


def subject(text: str = "a red ball") -> Subject:
    y, x = torch.meshgrid(torch.linspace(-1, 1, 64), torch.linspace(-1, 1, 64), indexing="ij")
    alpha = ((x.square() + y.square()) < 0.5).float()[None]
    return Subject(torch.stack([0.5 + x / 2, 0.5 + y / 2, 0.2 * x + 0.3]), alpha, views((0, 15)), text)


def loaded(name: str, folder: Path, **changes):
    prior = make_prior(PriorSettings(prior=name, model=str(folder), **changes))
    prior.take_subject(subject())
    return prior


NAMES = {"sd": "stable_diffusion", "view": "view_model"}


@pytest.mark.parametrize("name", NAMES)
def test_pictures_become_latents_with_gradients(name: str, tiny_model):
    prior = loaded(name, tiny_model(NAMES[name]))
    assert prior.facts.side == 64 and prior.facts.licence and prior.facts.models
    picture = torch.rand(2, 3, 40, 40, requires_grad=True)
    latents = prior.encode(picture, torch.ones(2, 1, 40, 40), torch.zeros(2, 3))
    assert latents.shape == (2, 4, 8, 8) and latents.dtype is torch.float32
    latents.square().sum().backward()
    assert torch.isfinite(picture.grad).all() and picture.grad.abs().sum() > 0
    decoded = prior.decode(latents.detach().requires_grad_())
    assert decoded.shape == (2, 3, 64, 64) and decoded.min() >= 0 and decoded.max() <= 1
    assert decoded.requires_grad


@pytest.mark.parametrize("name", NAMES)
def test_denoises_by_view_alike_in_low_memory_and_after_loading_again(name: str, tiny_model):
    prior = loaded(name, tiny_model(NAMES[name]))
    noisy, steps, around = torch.randn(3, 4, 8, 8), torch.tensor([50, 500, 900]), views((0, 0), (90, 0), (180, 70))
    noise = prior.denoise(noisy, steps, around, 5.0)
    assert noise.shape == noisy.shape and torch.isfinite(noise).all() and not noise.requires_grad
    turned = prior.denoise(noisy, steps, views((180, 0), (180, 0), (0, 0)), 5.0)
    assert (turned - noise).abs().max() > 1e-6
    again = loaded(name, tiny_model(NAMES[name])).denoise(noisy, steps, around, 5.0)
    assert torch.equal(again, noise)
    small = loaded(name, tiny_model(NAMES[name]), low_memory=True)
    assert small.low_memory
    torch.testing.assert_close(small.denoise(noisy, steps, around, 5.0), noise, atol=1e-4, rtol=1e-4)
    assert small.estimated_bytes < prior.estimated_bytes


def test_guidance_moves_from_without_to_with_and_beyond(tiny_model):
    prior = loaded("sd", tiny_model("stable_diffusion"))
    noisy, steps, front = torch.randn(1, 4, 8, 8), torch.tensor([400]), views((0, 0))
    none, plain, strong = (prior.denoise(noisy, steps, front, g) for g in (0.0, 1.0, 3.0))
    torch.testing.assert_close(strong, none + 3 * (plain - none), atol=1e-5, rtol=1e-4)
    assert (plain - none).abs().max() > 1e-6


def test_all_orders_of_views_and_passes_give_the_same():
    def predict(x, t, c):
        return x * t.reshape(-1, 1, 1, 1) + c.reshape(-1, 1, 1, 1)

    x, t, c = torch.randn(3, 2, 2, 2), torch.arange(3.0), torch.randn(3, 1)
    for strength in (0.0, 1.0, 7.5):
        results = [guided(predict, x, t, c, c * 0, strength, one_by_one=way) for way in (True, False)]
        torch.testing.assert_close(results[0], results[1])
        expected = x * t.reshape(-1, 1, 1, 1) + strength * c.reshape(-1, 1, 1, 1)
        torch.testing.assert_close(results[0], expected, atol=1e-5, rtol=1e-5)


def test_several_views_have_the_gradient_of_each_by_itself(tiny_model):
    prior = loaded("view", tiny_model("view_model"))
    pictures = torch.rand(2, 3, 64, 64)
    ones, ground = torch.ones(2, 1, 64, 64), torch.zeros(2, 3)
    together = pictures.clone().requires_grad_()
    prior.encode(together, ones, ground).square().sum().backward()
    single = pictures[1:].clone().requires_grad_()
    prior.encode(single, ones[1:], ground[1:]).square().sum().backward()
    torch.testing.assert_close(together.grad[1:], single.grad, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_every_kind_of_prediction_stands_for_the_same_noise(share: float):
    a = torch.tensor(share).reshape(1, 1, 1, 1)
    clean, noise = torch.randn(1, 4, 3, 3), torch.randn(1, 4, 3, 3)
    noisy = a.sqrt() * clean + (1 - a).sqrt() * noise
    outputs = {"epsilon": noise, "v_prediction": a.sqrt() * noise - (1 - a).sqrt() * clean, "sample": clean}
    for kind, output in outputs.items():
        torch.testing.assert_close(noise_of(output, noisy, a, kind), noise, atol=1e-4, rtol=1e-4)
    with pytest.raises(UserError, match="flow"):
        noise_of(noise, noisy, a, "flow")


def test_v_prediction_of_the_model_is_heeded(tiny_model, tmp_path: Path):
    folder = shutil.copytree(tiny_model("stable_diffusion"), tmp_path / "v")
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "prediction_type": "v_prediction"}))
    noisy, steps, front = torch.randn(1, 4, 8, 8), torch.tensor([400]), views((0, 0))
    plain = loaded("sd", tiny_model("stable_diffusion"))
    a = plain.alphas_cumprod[400]
    expected = a.sqrt() * plain.denoise(noisy, steps, front, 1.0) + (1 - a).sqrt() * noisy
    torch.testing.assert_close(loaded("sd", folder).denoise(noisy, steps, front, 1.0), expected, atol=1e-5, rtol=1e-4)


def test_the_schedule_falls_from_signal_to_noise(tiny_model):
    alphas = loaded("sd", tiny_model("stable_diffusion")).alphas_cumprod
    assert len(alphas) == 1000 and (alphas[1:] < alphas[:-1]).all() and alphas[0] > 0.99 and alphas[-1] < 0.01


def test_stable_diffusion_wants_a_text(tiny_model):
    prior = make_prior(PriorSettings(prior="sd", model=str(tiny_model("stable_diffusion"))))
    with pytest.raises(UserError, match="told what the photo shows"):
        prior.take_subject(subject(""))


def test_a_learned_word_changes_what_the_model_sees(tiny_model, tmp_path: Path):
    save_file({"<object>": torch.linspace(-1, 1, 32)}, tmp_path / "word.safetensors")
    noisy, steps, front = torch.randn(1, 4, 8, 8), torch.tensor([400]), views((0, 0))
    results = []
    for word in ("", str(tmp_path / "word.safetensors")):
        prior = make_prior(PriorSettings(prior="sd", model=str(tiny_model("stable_diffusion")), embedding=word))
        prior.take_subject(subject("a photo of <object>"))
        results.append(prior.denoise(noisy, steps, front, 1.0))
    assert (results[0] - results[1]).abs().max() > 1e-6
    save_file({"<object>": torch.zeros(7)}, tmp_path / "word.safetensors")
    with pytest.raises(UserError, match="width 32"):
        make_prior(PriorSettings(prior="sd", model=str(tiny_model("stable_diffusion")), embedding=word))


def test_each_prior_refuses_the_other_kind_of_model(tiny_model):
    with pytest.raises(UserError, match="--prior view"):
        make_prior(PriorSettings(prior="sd", model=str(tiny_model("view_model"))))
    with pytest.raises(UserError, match="--prior sd"):
        make_prior(PriorSettings(prior="view", model=str(tiny_model("stable_diffusion"))))


def test_movements_are_relative_to_the_photo():
    start = views((0, 15))
    around = views((0, 15), (90, 15), (0, 45))
    found = movements(around, start, tells_elevation=False)
    torch.testing.assert_close(found[0], torch.tensor([0.0, 0.0, 1.0, 0.0]))
    torch.testing.assert_close(found[1], torch.tensor([0.0, 1.0, 0.0, 0.0]), atol=1e-6, rtol=0)
    assert found[2, 0] < 0  # higher up is nearer to the vertical
    ones = torch.ones(1)
    lens = Views(0 * ones, 15 * ones, 2.5 * ones, TRAINED_FOV_DEG * ones)
    farther = Views(0 * ones, 15 * ones, 3.0 * ones, TRAINED_FOV_DEG * ones)
    assert movements(farther, lens, tells_elevation=False)[0, 3] == pytest.approx(0.5)
    assert movements(around, start, tells_elevation=True)[:, 3].tolist() == pytest.approx([1.3089969] * 3)


def test_running_out_of_memory_saves_memory_once_and_says_so(caplog: pytest.LogCaptureFixture):
    state = {"low": False}

    def save_memory() -> bool:
        was, state["low"] = state["low"], True
        return not was

    def needs_low() -> str:
        if not state["low"]:
            raise torch.cuda.OutOfMemoryError("no memory")
        return "done"

    def never() -> str:
        raise torch.cuda.OutOfMemoryError("no memory")

    with caplog.at_level(logging.WARNING):
        assert or_with_less_memory(needs_low, save_memory, "sd") == "done"
    assert "low-memory mode" in caplog.text
    with pytest.raises(UserError, match="even in low-memory mode"):
        or_with_less_memory(never, save_memory, "sd")


def test_the_estimate_for_stable_diffusion_keeps_the_targets():
    weights = 2 * (860 + 84 + 123 + 151) * 10**6  # parameters of version 1.5 with a CLIP, at half precision
    sizes = [
        estimated_bytes(weights, 512, with_decoder=True, low_memory=low, dtype=torch.float16) / 1e9
        for low in (False, True)
    ]
    assert sizes[0] <= 16 and sizes[1] <= 8


def test_incomplete_models_are_refused(tiny_model, tmp_path: Path):
    folder = shutil.copytree(tiny_model("stable_diffusion"), tmp_path / "cut")
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    tensors.pop("conv_in.bias")
    save_file(tensors, weights)
    with pytest.raises(UserError, match="random numbers"):
        make_prior(PriorSettings(prior="sd", model=str(folder)))
    weights.write_bytes(b"\0" * 100)
    with pytest.raises(UserError, match="cannot be loaded from this folder"):
        make_prior(PriorSettings(prior="sd", model=str(folder)))
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(UserError, match="cannot be loaded from this folder"):
        make_prior(PriorSettings(prior="sd", model=str(folder)))


def test_models_that_are_not_here_get_one_line_that_says_how(tiny_model):
    tiny_model("stable_diffusion")
    with pytest.raises(UserError, match="hf download nobody/nothing") as caught:
        make_prior(PriorSettings(prior="sd", model="nobody/nothing"))
    assert "\n" not in caught.value.line
    with pytest.raises(UserError, match="no such folder"):
        make_prior(PriorSettings(prior="view", model="./nowhere"))


def test_without_the_extra_one_line_names_it(monkeypatch: pytest.MonkeyPatch):
    def absent(name: str):
        raise ImportError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(pretrained.importlib, "import_module", absent)
    with pytest.raises(UserError, match=r'pip install "nerfstudio-ext\[lift\]"'):
        pretrained.library("diffusers", "the prior 'sd'")


def test_importing_the_methods_imports_no_hub_package():
    code = (
        "import sys, nerfstudio_ext.methods, nerfstudio_ext.methods.priors.stable_diffusion, "
        "nerfstudio_ext.methods.priors.view_conditioned, nerfstudio_ext.methods.lift_clip\n"
        "print(sorted({'diffusers', 'transformers', 'accelerate', 'huggingface_hub'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_licence_is_read_from_the_card_of_a_folder(tmp_path: Path):
    (tmp_path / "README.md").write_text("---\ntags: [x]\nlicense: openrail\n---\nlicense: nonsense\n")
    assert pretrained.licence_of(str(tmp_path)) == "openrail"
    assert "Apache-2.0" in pretrained.licence_of("depth-anything/Depth-Anything-V2-Small-hf")
    assert "read its card" in pretrained.licence_of("some/body")


def test_clip_pulls_pictures_towards_each_other(tiny_model):
    clip = ClipImages.load(str(tiny_model("clip")))
    target = clip(torch.rand(1, 3, 48, 48))
    torch.testing.assert_close(target.norm(dim=1), torch.ones(1))
    picture = torch.rand(1, 3, 48, 48, requires_grad=True)
    optimizer = torch.optim.Adam([picture], lr=0.02)
    distances = []
    for _ in range(30):
        distance = (1 - (clip(picture) * target).sum(1)).sum()
        optimizer.zero_grad()
        distance.backward()
        optimizer.step()
        distances.append(float(distance.detach()))
    assert distances[-1] < 0.5 * distances[0]
    texts = clip.texts(["a ball", "a house"])
    assert texts.shape == target.expand(2, -1).shape and (texts[0] - texts[1]).abs().max() > 1e-4
