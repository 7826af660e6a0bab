"""Training makes pictures and body agree, continues where it stopped, and keeps to the fidelity budget."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from nerfstudio_ext.errors import TrainingFailed, UserError
from nerfstudio_ext.progress import SilentProgress
from nerfstudio_ext.stages.stega.carriers import Carriers
from nerfstudio_ext.stages.stega.extractor import Extractor
from nerfstudio_ext.stages.stega.keys import Key
from nerfstudio_ext.stages.stega.messages import Message
from nerfstudio_ext.stages.stega.payload import write_code
from nerfstudio_ext.stages.stega.picture_marks import logits_after, mark_pictures
from nerfstudio_ext.stages.stega.procedural import photo_crops, procedural_pictures, read_photos
from nerfstudio_ext.stages.stega.train_extractor import ExtractorTraining, train_extractor, training_notes
from nerfstudio_ext.training.checkpoints import list_checkpoints
from tests.stega.pictures import as_batch, psnr, sample_picture

TINY = ExtractorTraining(steps=6, size=48, batch=4, batches=2, bits=8, steps_per_save=3, bfloat16=False)


class Recorder(SilentProgress):
    def __init__(self) -> None:
        super().__init__()
        self.notes: list[tuple[int, str]] = []

    def advance(self, done: int, note: str = "") -> None:
        self.notes.append((done, note))


def weights(extractor: Extractor) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in extractor.parameters()])


def test_the_schedule() -> None:
    config = ExtractorTraining(steps=1000)
    assert (config.psnr_at(0), config.psnr_at(300), config.psnr_at(600), config.psnr_at(999)) == (32, 35.5, 39, 39)
    assert [config.strength_at(step) for step in (100, 300, 500)] == pytest.approx([0, 0.5, 1])
    assert config.learning_rate_at(400) == 1e-3 and config.learning_rate_at(750) == pytest.approx(5e-4)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Extractor:
    """Six steps of training; do not change it."""
    return train_extractor(TINY, tmp_path_factory.mktemp("trained"))


def test_training_reports_and_repeats_itself(trained: Extractor, tmp_path: Path) -> None:
    progress = Recorder()
    again = train_extractor(TINY, tmp_path, progress=progress)
    assert torch.equal(weights(trained), weights(again)) and torch.equal(trained.mean, again.mean)
    assert [done for done, _ in progress.notes] == [1, 2, 3, 4, 5, 6]
    assert progress.notes[-1][1].endswith("0.0 min left")


def test_training_continues_from_its_checkpoint(tmp_path: Path) -> None:
    half = train_extractor(replace(TINY, steps=3), tmp_path)
    progress = Recorder()
    whole = train_extractor(TINY, tmp_path, progress=progress)
    assert [done for done, _ in progress.notes] == [4, 5, 6]
    assert [step for step, _ in list_checkpoints(tmp_path)] == [6, 3]
    assert not torch.equal(weights(half), weights(whole))
    with pytest.raises(UserError, match="has seed 0, not 5"):
        train_extractor(replace(TINY, seed=5), tmp_path)


def test_a_folder_that_cannot_be_written_ends_training(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(TrainingFailed):
        train_extractor(TINY, blocked / "checkpoints")


def test_the_mean_feature_of_unmarked_pictures_becomes_zero(trained: Extractor) -> None:
    with torch.no_grad():
        features = trained(procedural_pictures(128, 48, torch.Generator().manual_seed(9)))
    assert features.mean(0).norm() < 0.25 * (features + trained.mean).mean(0).norm()


def test_notes_are_the_settings() -> None:
    assert training_notes(TINY)["steps"] == "6" and training_notes(TINY)["last_psnr"] == "39.0"


@pytest.mark.slow
def test_pictures_carry_bits_that_an_untrained_body_reads(tmp_path: Path) -> None:
    """Residuals alone, 33 dB, no attacks: eight bits per picture after forty steps."""
    torch.manual_seed(0)
    extractor, key = Extractor().eval(), Key("k")
    pictures = np.stack([sample_picture(64, 64, seed) for seed in range(3)])
    with torch.no_grad():
        extractor.mean += extractor(as_batch(pictures)).mean(0)
    bits = [key.bits(f"message {i}", 8) for i in range(3)]
    marked = mark_pictures(extractor, as_batch(pictures), key, bits, psnr=33, steps=40, strength=0)
    assert all(psnr(a, b) > 32.5 for a, b in zip(marked, pictures, strict=True))
    wanted = np.stack(bits) > 0
    right = logits_after(extractor, marked, key, 8, {"clean": ("noise", 0)})["clean"] > 0
    assert right.shape == (3, 8) and np.count_nonzero(right != wanted) <= 3


def test_carriers_keep_to_their_budget_and_to_the_range_of_pictures() -> None:
    pictures = as_batch(np.stack([sample_picture(40, 40, seed) for seed in range(2)]))
    pictures[1] = pictures[1].round()
    carriers = Carriers(pictures)
    generator = torch.Generator().manual_seed(0)
    for _ in range(12):
        carriers.update(torch.randn(pictures.shape, generator=generator), 38)
        assert (carriers.psnr() >= 38 - 1e-3).all()
        marked = carriers.marked()
        assert marked.min() >= 0 and marked.max() <= 1
    assert carriers.visits == 12 and carriers.psnr()[0] < 39


def test_carriers_go_downhill() -> None:
    target = torch.full((1, 3, 8, 8), 0.6)
    carriers = Carriers(torch.full((1, 3, 8, 8), 0.5))
    before = (carriers.marked() - target).square().mean()
    for _ in range(5):
        marked = carriers.marked()
        (gradient,) = torch.autograd.grad((marked - target).square().mean(), marked)
        carriers.update(gradient, 25)
    assert (carriers.marked() - target).square().mean() < 0.3 * before


def test_procedural_pictures_differ_and_repeat_with_their_seed() -> None:
    a, b, c = (procedural_pictures(16, 64, torch.Generator().manual_seed(s)) for s in (0, 0, 1))
    assert torch.equal(a, b) and not torch.equal(a, c)
    assert a.shape == (16, 3, 64, 64) and a.min() >= 0 and a.max() <= 1
    spread = procedural_pictures(64, 64, torch.Generator().manual_seed(2))
    assert spread.mean((1, 2, 3)).std() > 0.1 and spread.std((2, 3)).mean(1).std() > 0.05
    distance = (spread[:, None, :, ::8, ::8] - spread[None, :, :, ::8, ::8]).abs().mean((2, 3, 4))
    assert distance[~torch.eye(64, dtype=torch.bool)].min() > 0.01


def test_photo_crops_are_parts_of_photos(tmp_path: Path) -> None:
    from PIL import Image

    Image.fromarray(sample_picture(900, 600)).save(tmp_path / "b.png")
    Image.fromarray(sample_picture(300, 500)).save(tmp_path / "a.JPG")
    (tmp_path / "notes.txt").write_text("not a photo")
    photos = read_photos(tmp_path)
    assert [tuple(photo.shape) for photo in photos] == [(3, 400, 667), (3, 600, 400)]
    crops = photo_crops(photos, 6, 48, torch.Generator().manual_seed(0))
    assert crops.shape == (6, 3, 48, 48) and crops.min() >= 0 and crops.max() <= 1
    assert crops.std((1, 2, 3)).min() > 0.01


def test_a_code_fits_the_public_feature() -> None:
    assert len(write_code(Message.from_id("0" * 12), Key("k"))) <= 128
