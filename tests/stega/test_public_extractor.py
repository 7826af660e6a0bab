"""The weights that come with the package read marks, also from attacked files, and nothing under other keys."""

from __future__ import annotations

import numpy as np
import pytest

from nerfstudio_ext.stages.stega.extractor import Extractor, about_extractor, load_extractor
from nerfstudio_ext.stages.stega.keys import Key, project, random_keys
from nerfstudio_ext.stages.stega.messages import UNCODED, Message
from nerfstudio_ext.stages.stega.payload import recognise, write_code
from nerfstudio_ext.stages.stega.picture_marks import logits_after, mark_pictures, read_features
from nerfstudio_ext.stages.stega.statistics import random_key_matches
from tests.stega.pictures import as_batch, psnr, sample_picture

KEY, OWNER = Key("owner"), Message.from_id("00c0ffee0001")


@pytest.fixture(scope="module")
def extractor() -> Extractor:
    return load_extractor()


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    return np.stack([sample_picture(160, 160, seed) for seed in (11, 12)])


@pytest.fixture(scope="module")
def marked(extractor: Extractor, pictures: np.ndarray) -> np.ndarray:
    bits = write_code(OWNER, KEY, UNCODED)
    return mark_pictures(extractor, as_batch(pictures), KEY, [bits, bits], psnr=36, steps=40)


def test_its_notes_say_how_it_was_trained() -> None:
    assert int(about_extractor()["steps"]) > 1000


def test_marks_are_faithful_and_recognised_also_after_attacks(
    extractor: Extractor, pictures: np.ndarray, marked: np.ndarray
) -> None:
    assert all(psnr(a, b) > 35.8 for a, b in zip(marked, pictures, strict=True))
    attacks = {"clean": ("noise", 0.0), "jpeg": ("jpeg", 75.0), "shift": ("shift", 3.0), "blur": ("blur", 1.0)}
    for name, logits in logits_after(extractor, marked, KEY, 48, attacks).items():
        found = recognise(logits.mean(0), KEY, [OWNER])
        assert found is not None and found.bit_accuracy > 0.85, name


def test_unmarked_pictures_and_wrong_keys_are_not_recognised(
    extractor: Extractor, pictures: np.ndarray, marked: np.ndarray
) -> None:
    for logits in logits_after(extractor, pictures, KEY, 48, {"": ("noise", 0.0)})[""]:
        assert recognise(logits, KEY, [OWNER]) is None
    feature = read_features(extractor, list(marked))[0]
    for stranger in random_keys(100):
        assert recognise(project([stranger], feature, 48)[0], stranger, [OWNER]) is None


def test_what_wrong_keys_read_follows_the_binomial_law(extractor: Extractor, marked: np.ndarray) -> None:
    feature = read_features(extractor, list(marked))[0]
    matches = random_key_matches(feature, write_code(OWNER, KEY, UNCODED), n_keys=5000)
    assert matches.mean() / 48 == pytest.approx(0.5, abs=4 * 0.5 / np.sqrt(48 * 5000))
    assert matches.std() == pytest.approx(np.sqrt(48) / 2, rel=0.05)
