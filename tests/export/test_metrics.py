"""Metrics against closed forms, laws and published definitions."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nerfstudio_ext import metrics
from nerfstudio_ext.colormaps import color_depth, color_error, depth_range
from nerfstudio_ext.errors import UserError
from nerfstudio_ext.metrics import MAX_PSNR, lpips, psnr, ssim


def noise(seed: int = 0, height: int = 24, width: int = 32) -> torch.Tensor:
    return torch.rand(height, width, 3, generator=torch.Generator().manual_seed(seed))


@given(st.floats(0.001, 1.0))
@settings(deadline=None)
def test_psnr_of_a_constant_error_is_minus_20_log10(error: float) -> None:
    black = torch.zeros(4, 5, 3)
    assert psnr(black + error, black) == pytest.approx(-20 * math.log10(error), abs=1e-4)


def test_psnr_of_equal_images_is_a_number() -> None:
    assert psnr(noise(), noise()) == MAX_PSNR


def test_psnr_clamps_but_does_not_round() -> None:
    white = torch.ones(4, 4, 3)
    assert psnr(white * 1.7, white) == MAX_PSNR
    assert psnr(white - 0.001, white) == pytest.approx(60, abs=1e-3)


def test_masked_pixels_do_not_count() -> None:
    mask = torch.zeros(24, 32, dtype=torch.bool)
    mask[:, :16] = True
    image = noise()
    worse = torch.where(mask[..., None], image, 1 - image)
    assert psnr(worse, image, mask) == MAX_PSNR and psnr(worse, image) < 20
    far_left = torch.zeros_like(mask)
    far_left[:, :8] = True  # its windows do not reach the changed half
    assert ssim(worse, image, far_left) == pytest.approx(1, abs=1e-6)
    with pytest.raises(UserError, match="hides every pixel"):
        psnr(image, image, torch.zeros_like(mask))


def test_ssim_of_equal_images_is_one_and_falls_with_noise() -> None:
    image = noise()
    values = [ssim((image + s * (noise(1) - 0.5)), image) for s in (0.0, 0.1, 0.4, 1.0)]
    assert values[0] == pytest.approx(1, abs=1e-6) and values == sorted(values, reverse=True)
    assert ssim(image, 1 - image) < 0


def test_ssim_of_flat_images_has_a_closed_form() -> None:
    a, b = torch.full((32, 32, 3), 0.4), torch.full((32, 32, 3), 0.6)
    c1 = 0.01**2
    # Single precision loses digits where a flat window's variance, near 0, is a difference of two numbers near 0.4.
    assert ssim(a, b) == pytest.approx((2 * 0.24 + c1) / (0.16 + 0.36 + c1), abs=1e-3)


def test_ssim_agrees_with_the_definition_at_one_pixel() -> None:
    """Wang et al. 2004, written out for the window around the centre of an 11x11 image."""
    a, b = noise(2, 31, 31).double().numpy()[..., 0], noise(3, 31, 31).double().numpy()[..., 0]
    g = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    w = np.outer(g, g) / np.outer(g, g).sum()
    pa, pb = a[10:21, 10:21], b[10:21, 10:21]
    ma, mb = (w * pa).sum(), (w * pb).sum()
    va, vb, cov = (w * pa**2).sum() - ma**2, (w * pb**2).sum() - mb**2, (w * pa * pb).sum() - ma * mb
    expected = (2 * ma * mb + 1e-4) * (2 * cov + 9e-4) / ((ma**2 + mb**2 + 1e-4) * (va + vb + 9e-4))
    mask = torch.zeros(31, 31, dtype=torch.bool)
    mask[15, 15] = True
    grey = [torch.from_numpy(x)[..., None].expand(-1, -1, 3) for x in (a, b)]
    assert ssim(*grey, mask) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("side", [1, 2, 7, 10])
def test_ssim_of_tiny_images_is_defined(side: int) -> None:
    image = noise(0, side, side)
    assert ssim(image, image) == pytest.approx(1, abs=1e-5) and ssim(image, 1 - image) < 1


def test_images_of_different_sizes_are_refused() -> None:
    for metric in (psnr, ssim):
        with pytest.raises(UserError, match="cannot compare"):
            metric(noise(), noise(0, 10, 10))


def test_lpips_is_none_without_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(metrics.importlib.util, "find_spec", lambda name: object())
    assert not metrics.has_lpips() and lpips(noise(0, 64, 64), noise(0, 64, 64)) is None
    weights = tmp_path / "checkpoints" / metrics.LPIPS_BACKBONE
    weights.parent.mkdir()
    weights.write_bytes(b"not what the digest in the name says")
    assert not metrics.has_lpips()


def test_depth_colours_run_from_red_to_blue_and_black() -> None:
    depth = torch.tensor([[1.0, 2.0, 10.0, torch.inf, 0.1, 99.0]])
    rgb = color_depth(depth, 1.0, 10.0)[0]
    assert rgb[0, 0] > rgb[0, 2] and rgb[2, 2] > rgb[2, 0] and rgb[3].tolist() == [0, 0, 0]
    assert rgb[4].tolist() == rgb[0].tolist() and rgb[5].tolist() == rgb[2].tolist()
    half = color_depth(depth, 1.0, 10.0, torch.full((1, 6), 0.5))[0]
    assert torch.allclose(half, rgb / 2)


def test_error_colours_grow_brighter() -> None:
    rgb = color_error(torch.linspace(0, 0.25, 50)[None])[0]
    assert rgb[0].tolist() == [0, 0, 0] and bool((rgb.sum(1).diff() >= -1e-6).all())
    assert color_error(torch.tensor([[9.0]])).tolist() == color_error(torch.tensor([[0.25]])).tolist()


def test_depth_range_ignores_strays_and_emptiness() -> None:
    depth = torch.cat([torch.linspace(1, 2, 1000), torch.tensor([torch.inf, 0.0, 1e9, 1e-6])])[None]
    near, far = depth_range([depth])
    assert 0.99 < near < 1.1 and 1.9 < far < 2.1
    assert depth_range([torch.full((2, 2), torch.inf)]) == (0.5, 2.0)
    near, far = depth_range([torch.full((2, 2), 3.0)])
    assert near < 3 < far
