"""Pictures that need no network, and the paper's way of judging pictures."""

from __future__ import annotations

import math

import pytest
import torch

from nerfstudio_ext import methods
from nerfstudio_ext.methods.gnt import Gnt
from nerfstudio_ext.methods.gnt_baselines import baselines_of
from nerfstudio_ext.methods.gnt_preview import make_preview
from nerfstudio_ext.training.paper_protocol import PaperProtocol

from .ball_scene import make_meta, make_scene
from .test_gnt import TINY, make_gnt


def test_at_a_source_the_nearest_source_is_that_photo():
    gnt, scene = make_gnt()
    nearest = baselines_of(gnt)["nearest source"]
    for i in (0, 5):
        frame = nearest.render(scene.meta.training_cameras()[i])
        assert torch.equal(frame.rgb, gnt.photos.pictures[i].permute(1, 2, 0).float() / 255)
    assert nearest.render(scene.meta.training_cameras()[0].resize(20, 12)).rgb.shape == (12, 20, 3)


def test_a_blend_of_one_colour_is_that_colour():
    meta = make_meta(12, 32)
    gnt = methods.build(TINY, meta, seed=1)
    assert isinstance(gnt, Gnt)
    tint = torch.tensor([10, 120, 250], dtype=torch.uint8)[:, None, None]
    gnt.load_photo_tensors({str(i): tint.expand(3, 32, 32).contiguous() for i in range(12)})
    blend = baselines_of(gnt)["depth-free blend"].render(meta.training_cameras()[3]).rgb
    assert torch.allclose(blend, (tint[:, 0, 0].float() / 255).expand_as(blend), atol=1e-5)


def test_a_blend_lies_between_what_the_sources_show():
    gnt, scene = make_gnt()
    blend = baselines_of(gnt)["depth-free blend"].render(scene.meta.training_cameras()[3]).rgb
    shown = torch.stack([p.float() / 255 for p in gnt.photos.pictures])
    assert float(blend.std()) < float(shown.std()), "it is blurred"
    assert float(shown.min()) <= float(blend.min()) and float(blend.max()) <= float(shown.max())


def test_the_paper_looks_at_every_second_pixel():
    truth = torch.full((16, 16, 3), 0.5)
    image = truth.clone()
    image[::2, ::2] += 0.1
    image[1::2] = 0.0  # never looked at
    protocol = PaperProtocol()
    protocol(image, truth)
    protocol(truth, truth)
    assert protocol.psnr == pytest.approx((-10 * math.log10(0.01 + 1e-6) + 60) / 2, abs=1e-4)
    assert protocol.ssim < 1 and protocol.to_json()["n"] == 2


def test_a_preview_is_judged_on_a_photo_it_was_not_given():
    scene = make_scene(make_meta(12, 32))
    preview = make_preview(scene, TINY)
    gnt, _ = make_gnt()
    assert 0 < preview.psnr < 40
    assert preview.renderer.render(scene.meta.training_cameras()[0]).rgb.shape == (32, 32, 3)
    assert len(gnt.photos) == 12
