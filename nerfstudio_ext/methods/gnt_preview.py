"""Pictures of a capture before anything was trained on it, and how good they are."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..metrics import psnr
from ..renderer import RayRenderer
from ..scenes.model import Scene
from .gnt import Gnt
from .gnt_config import GntConfig
from .gnt_photos import Photos

_JUDGED_RAYS = 1024
"""Rays of one photo, drawn evenly: their PSNR is within about half a decibel of the photo's."""
PREVIEW = GntConfig(n_views=8, n_samples_render=48, source_side=256)
"""Fewer and smaller sources than usual: a preview is for the first seconds."""


@dataclass(frozen=True)
class Preview:
    """A renderer, and its PSNR on a photo that it was not given, dB."""

    renderer: RayRenderer
    psnr: float


def make_preview(scene: Scene, config: GntConfig = PREVIEW) -> Preview:
    """Give the shipped weights the photos of a capture.

    Args:
        scene: The capture; its poses must be there.
        config: Settings.
    Raises:
        UserError: if GNT cannot use the photos.
    """
    gnt = Gnt(config, scene.meta, seed=0)
    gnt.take_photos(scene)
    return Preview(RayRenderer(gnt.render_rays, scene.meta.background, draft=gnt.draft), _judge(gnt))


def _judge(gnt: Gnt) -> float:
    """PSNR on some pixels of the photo in the middle of the list, seen from the others."""
    photos = gnt.photos
    if len(photos) < 3:
        return 0.0
    at = len(photos) // 2
    others = [i for i in range(len(photos)) if i != at]
    rest = Photos(
        tuple(photos.pictures[i] for i in others), tuple(photos.cameras[i] for i in others),
        tuple(photos.positions[i] for i in others),
    )  # fmt: skip
    renderer = gnt.renderer(rest)
    camera, picture = photos.cameras[at], photos.pictures[at].flatten(1).T.float() / 255
    chosen = torch.linspace(0, len(picture) - 1, min(_JUDGED_RAYS, len(picture))).long()
    found = renderer(camera.rays()[chosen])
    assert found.alpha is not None
    shown = found.rgb + (1 - found.alpha[:, None]) * torch.tensor(gnt.meta.background)
    return psnr(shown[None], picture[chosen][None])
