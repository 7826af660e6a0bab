"""A word is learned: nothing else changes, it goes on where it stopped, and left stays left."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from nerfstudio_ext.errors import UserError
from nerfstudio_ext.methods.pretrained import ModelSource
from nerfstudio_ext.methods.priors.stable_diffusion import add_word, encode_text, load_parts, new_word
from nerfstudio_ext.scenes.prepared import PreparedNotes, PreparedPhoto
from nerfstudio_ext.stages.lift.invert import InvertSettings, augmented, learn_word

SETTINGS = InvertSettings(invert_steps=4, invert_lr=0.05)


def cut_out() -> PreparedPhoto:
    """Red on the left, blue on the right."""
    rgba = np.zeros((64, 64, 4), np.uint8)
    rgba[16:48, 12:52, 3] = 255
    rgba[..., :32, 0] = rgba[..., 32:, 2] = 230
    return PreparedPhoto(rgba, None, PreparedNotes())


def learn(folder: Path, model: Path, **changes):
    parts = load_parts(ModelSource(str(model)))
    before = {name: value.clone() for name, value in parts.unet.state_dict().items()}
    table = parts.text_encoder.get_input_embeddings().weight.clone()
    file = learn_word(parts, cut_out(), "a ball", dataclasses.replace(SETTINGS, **changes), folder)
    for name, value in parts.unet.state_dict().items():
        assert torch.equal(value, before[name])
    assert torch.equal(parts.text_encoder.get_input_embeddings().weight[: len(table)], table)
    return load_file(file)


def test_a_word_is_learned_resumes_and_is_drawn(tiny_model, tmp_path: Path):
    model = tiny_model("stable_diffusion")
    whole = learn(tmp_path / "whole", model)["<object>"]
    first = learn(tmp_path / "parts", model, invert_steps=2)["<object>"]
    assert first.shape == (32,) and not torch.equal(first, whole)
    resumed = learn(tmp_path / "parts", model)["<object>"]
    assert torch.equal(resumed, whole)
    with Image.open(tmp_path / "whole" / "inverted.png") as picture:
        assert picture.size == (3 * 64 + 2 * 8, 64)
    (tmp_path / "whole" / "state.safetensors").write_bytes(b"damaged")
    assert torch.equal(learn(tmp_path / "whole", model)["<object>"], whole)


def test_the_learned_word_reads_as_what_was_learned(tiny_model, tmp_path: Path):
    from safetensors.torch import save_file

    parts = load_parts(ModelSource(str(tiny_model("stable_diffusion"))))
    place = new_word(parts, "<same>")
    vector = torch.linspace(-1, 1, 32)
    save_file({"<object>": vector}, tmp_path / "word.safetensors")
    assert add_word(parts, tmp_path / "word.safetensors") == "<object>"
    with torch.no_grad():
        parts.text_encoder.get_input_embeddings().weight[place] = vector
    texts = [encode_text(f"a photo of {word}", parts.tokenizer, parts.text_encoder) for word in ("<object>", "<same>")]
    assert torch.equal(*texts)
    with pytest.raises(UserError, match="knows the word"):
        new_word(parts, "<object>")


def test_copies_of_the_photo_are_never_mirrored():
    rgba = torch.from_numpy(cut_out().rgba).permute(2, 0, 1).float()[None] / 255
    generator = torch.Generator().manual_seed(0)
    copies = [augmented(rgba, generator)[0] for _ in range(20)]
    columns = torch.arange(64.0)
    for copy in copies:
        red = ((copy[0] - copy[2]).clamp_min(0).sum(0) * columns).sum() / (copy[0] - copy[2]).clamp_min(0).sum()
        blue = ((copy[2] - copy[0]).clamp_min(0).sum(0) * columns).sum() / (copy[2] - copy[0]).clamp_min(0).sum()
        assert red + 10 < blue
        assert copy.min() >= 0 and copy.max() <= 1 and (copy[:, 0, 0] == 1).all()  # on white
    assert (torch.stack(copies).std(0) > 0.05).any()


@pytest.mark.parametrize("changes", [{"word": "two words"}, {"invert_steps": 0}, {"word": ""}])
def test_settings_that_cannot_work_are_refused(changes):
    with pytest.raises(UserError):
        InvertSettings(**changes)
