"""An extractor that learns with its scene: reads it better, and still says nothing of pictures without the mark."""

from __future__ import annotations

import numpy as np
import torch

from nerfstudio_ext.fields.sector_colors import SectorColors
from nerfstudio_ext.kernels import SectorLayout
from nerfstudio_ext.progress import SilentProgress
from nerfstudio_ext.stages.stega.embed import Embedder, EmbedSettings
from nerfstudio_ext.stages.stega.extractor import Extractor, load_extractor
from nerfstudio_ext.stages.stega.objective import CodeBits
from nerfstudio_ext.stages.stega.picture_marks import read_features
from nerfstudio_ext.stages.stega.private_bits import PrivateBits
from nerfstudio_ext.stages.stega.procedural import procedural_pictures
from nerfstudio_ext.stages.stega.row_weights import row_weights
from nerfstudio_ext.stages.stega.scene_views import SceneView, render_view
from tests.stega.test_embed import KEY, PSNR, WHITE, WORST, Ball, cameras

BITS, STEPS = 48, 30
PROJECTION = torch.from_numpy(KEY.projection(BITS))
SIGNS = 2.0 * torch.from_numpy(KEY.bits("another message", BITS).astype(np.float32)) - 1


def embed(objective: CodeBits, views: list[SceneView]) -> SectorColors:
    colors, settings = SectorColors(SectorLayout(8, 48), 1.0), EmbedSettings(steps=STEPS, strength=0.2)
    weights = row_weights(colors, views, WHITE, mask_power=settings.mask_power, even_out=settings.even_out)
    Embedder(
        colors, views, objective, budget=10 ** (-PSNR / 10), worst_budget=10 ** (-WORST / 10), settings=settings,
        background=WHITE, weights=weights, generator=torch.Generator().manual_seed(0),
    ).run(SilentProgress())  # fmt: skip
    return colors


def files(views: list[SceneView], colors: SectorColors | None = None) -> list[np.ndarray]:
    shown = [view.unmarked(WHITE) + (view.difference(colors) if colors is not None else 0) for view in views]
    return [(picture.clamp(0, 1) * 255).round().byte().numpy() for picture in shown]


def share_right(extractor: Extractor, pictures: list[np.ndarray]) -> float:
    logits = read_features(extractor, pictures) @ KEY.projection(BITS).astype(np.float64).T
    return float(((logits > 0) == (SIGNS.numpy() > 0)).mean())


def test_it_reads_its_scene_better_and_unmarked_pictures_as_before() -> None:
    views = [render_view(Ball(), cameras()[i]) for i in range(0, 16, 3)]  # type: ignore[arg-type]
    unseen = [render_view(Ball(), cameras()[i]) for i in (3, 7, 11)]  # type: ignore[arg-type]
    public = load_extractor()
    before = {name: tensor.clone() for name, tensor in public.state_dict().items()}
    shared = embed(CodeBits(public, PROJECTION, lambda _: SIGNS), views)
    objective = PrivateBits(public, PROJECTION, lambda _: SIGNS, generator=torch.Generator().manual_seed(1))
    colors = embed(objective, views)
    private = objective.extractor.eval()

    assert all(torch.equal(tensor, before[name]) for name, tensor in public.state_dict().items())
    assert share_right(private, files(unseen, colors)) > share_right(public, files(unseen, shared)) + 0.03
    assert share_right(private, files(unseen)) < 0.7, "the message is in the mark and not in the extractor"
    others = procedural_pictures(24, 96, torch.Generator().manual_seed(9))
    with torch.no_grad():
        now, then = private(others), public(others)
    # Features have unit variance: random pictures lie 1.4 apart.
    assert float((now - then).square().mean().sqrt()) < 0.5
    assert abs(float(((now @ PROJECTION.T) * SIGNS > 0).float().mean()) - 0.5) < 0.1
