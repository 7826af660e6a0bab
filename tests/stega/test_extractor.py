"""The extractor is local, reads any size, survives its file, and refuses damaged ones."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save as pack_safetensors

from nerfstudio_ext.errors import UserError
from nerfstudio_ext.stages.stega.extractor import (
    FORMAT,
    Extractor,
    about_extractor,
    load_extractor,
    save_extractor,
    texture_weights,
)
from nerfstudio_ext.stages.stega.keys import FEATURES, Key
from tests.stega.pictures import as_batch, sample_picture


@pytest.fixture
def extractor() -> Extractor:
    torch.manual_seed(0)
    return Extractor().eval()


def test_it_is_small(extractor: Extractor, tmp_path: Path) -> None:
    assert sum(p.numel() for p in extractor.parameters()) == 216_784
    save_extractor(extractor, tmp_path / "e.safetensors")
    assert (tmp_path / "e.safetensors").stat().st_size < 1e6


@pytest.mark.parametrize("size", [(64, 64), (65, 130), (400, 301)])
def test_any_size_gives_a_normalised_feature(extractor: Extractor, size: tuple[int, int]) -> None:
    with torch.no_grad():
        feature = extractor(as_batch(sample_picture(*size)))
    assert feature.shape == (1, FEATURES)
    assert feature.mean() == pytest.approx(0, abs=1e-4) and feature.square().mean() == pytest.approx(1, rel=1e-2)


def test_a_shift_of_a_repeating_picture_changes_nothing(extractor: Extractor) -> None:
    """By three pixels, not a multiple of the reduction by four: what strided convolutions failed at.

    Away from the borders the feature map of a periodic picture just moves; what remains is aliasing.
    """
    x = torch.arange(240) / 24 * 2 * torch.pi
    picture = (0.5 + 0.4 * torch.sin(x)[:, None] * torch.cos(x)[None]).expand(1, 3, 240, 240)
    with torch.no_grad():
        still, moved, other = (extractor(p) for p in (picture, picture.roll((3, 3), (2, 3)), 1 - 0.5 * picture))
    assert (still - moved).norm() < 0.05 * (still - other).norm()


def test_the_order_of_pictures_in_a_batch_does_not_matter(extractor: Extractor) -> None:
    batch = as_batch(np.stack([sample_picture(96, 96, seed) for seed in range(3)]))
    with torch.no_grad():
        together, alone = extractor(batch), torch.cat([extractor(p[None]) for p in batch])
    assert torch.allclose(together, alone, atol=1e-4)


def test_more_white_around_an_object_changes_little(extractor: Extractor) -> None:
    """Plain surroundings have no say, whatever their colour and even under grain; another object has."""
    inner = as_batch(sample_picture(96, 96))

    def placed(size: int, colour: float, grain: float = 0.0) -> torch.Tensor:
        canvas = torch.full((1, 3, size, size), colour)
        canvas[..., 16:112, 16:112] = inner
        drawn = torch.randn(canvas.shape, generator=torch.Generator().manual_seed(0))
        return (canvas + grain * drawn).clamp(0, 1)

    with torch.no_grad():
        small, large, noisy = (extractor(placed(*how)) for how in ((128, 1.0), (256, 1.0), (256, 1.0, 0.02)))
        other = extractor(as_batch(sample_picture(128, 128, 9)))
    far = float((small - other).norm())
    assert float((small - large).norm()) < 0.1 * far
    assert float((small - noisy).norm()) < 0.4 * far


def test_plain_pictures_have_finite_features(extractor: Extractor) -> None:
    with torch.no_grad():
        assert extractor(torch.ones(2, 3, 80, 80)).isfinite().all()
    assert texture_weights(torch.zeros(1, 3, 64, 64)).min() > 0


def test_logits_are_the_projected_feature(extractor: Extractor) -> None:
    rows = torch.from_numpy(Key("k").projection(48))
    batch = as_batch(sample_picture(80, 80))
    with torch.no_grad():
        assert torch.allclose(extractor.logits(batch, rows), extractor(batch) @ rows.T)


def test_the_file_returns_what_went_in(extractor: Extractor, tmp_path: Path) -> None:
    path = tmp_path / "e.safetensors"
    extractor.mean += torch.linspace(-1, 1, FEATURES)
    save_extractor(extractor, path, {"steps": "12"})
    loaded = load_extractor(path)
    batch = as_batch(sample_picture(64, 64))
    with torch.no_grad():
        assert torch.equal(loaded(batch), extractor(batch))
    assert not loaded.training and about_extractor(path)["steps"] == "12"


def saved(extractor: Extractor, path: Path) -> bytearray:
    save_extractor(extractor, path)
    return bytearray(path.read_bytes())


def test_every_kind_of_damage_is_a_user_error(extractor: Extractor, tmp_path: Path) -> None:
    path = tmp_path / "e.safetensors"
    whole = saved(extractor, path)
    header = 8 + int.from_bytes(whole[:8], "little")
    for position in (0, 9, header // 2, header + 5, len(whole) - 1):
        damaged = whole.copy()
        damaged[position] ^= 0x41
        path.write_bytes(damaged)
        with pytest.raises(UserError):
            load_extractor(path)
    for size in (0, 7, header, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(UserError, match="not a tensor file"):
            load_extractor(path)


def test_a_flipped_weight_is_told_by_its_checksum(extractor: Extractor, tmp_path: Path) -> None:
    path = tmp_path / "e.safetensors"
    damaged = saved(extractor, path)
    damaged[-1000] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(UserError, match="do not match their checksum. Get the file again"):
        load_extractor(path)


def test_other_tensor_files_are_refused(extractor: Extractor, tmp_path: Path) -> None:
    path = tmp_path / "e.safetensors"
    path.write_bytes(pack_safetensors({"x": torch.zeros(2)}))
    with pytest.raises(UserError, match="a tensor file, but not an extractor"):
        load_extractor(path)
    path.write_bytes(pack_safetensors({"x": torch.zeros(2)}, {"format": FORMAT, "format_version": "1"}))
    with pytest.raises(UserError, match="another shape"):
        load_extractor(path)
    path.write_bytes(pack_safetensors({"x": torch.zeros(2)}, {"format": FORMAT, "format_version": "9"}))
    with pytest.raises(UserError, match="extractor format 9; this version reads 1. Upgrade"):
        load_extractor(path)
    with pytest.raises(UserError, match="no such extractor"):
        load_extractor(tmp_path / "missing")
    with pytest.raises(UserError, match="cannot be read"):
        load_extractor(tmp_path)


def test_a_weight_that_is_not_finite_is_refused(extractor: Extractor, tmp_path: Path) -> None:
    path = tmp_path / "e.safetensors"
    extractor.mean[3] = torch.nan
    save_extractor(extractor, path)
    with pytest.raises(UserError, match="not finite"):
        load_extractor(path)


def test_metadata_is_text(extractor: Extractor, tmp_path: Path) -> None:
    path = tmp_path / "e.safetensors"
    data = saved(extractor, path)
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert header["__metadata__"]["format"] == FORMAT and len(header["__metadata__"]["sha256"]) == 64
