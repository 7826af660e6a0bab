"""The wall with a mark on it, made once for all tests that read it."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch

from nerfstudio_ext.progress import SilentProgress
from nerfstudio_ext.stages.stega.embed import EmbedSettings
from nerfstudio_ext.stages.stega.mark_scene import Fidelity, Marking, SceneMarking, mark_scene
from nerfstudio_ext.stages.stega.messages import LAYOUTS
from nerfstudio_ext.stages.stega.objective import CodeBits
from nerfstudio_ext.stages.stega.payload import write_code
from nerfstudio_ext.stages.stega.reading_back import Reader
from tests.stega.marks import KEY, OWNER, public_extractor
from tests.stega.wall_scene import CONFIG, Wall, wall_meta

SIZE, PSNR = 112, 28.5
SETTINGS = SceneMarking(
    EmbedSettings(steps=36, strength=0.3, mask_power=0.0), Fidelity(PSNR, PSNR - 3), size=SIZE, photo_views=6,
    other_views=2, sectors=12,
)  # fmt: skip
READER = Reader(public_extractor(), KEY, OWNER, LAYOUTS[0])


@cache
def marked_wall() -> Marking:
    """The owner's identity on the wall; do not change it."""
    layout = READER.layout
    signs = 2 * torch.from_numpy(write_code(OWNER, KEY, layout).astype(np.float32)) - 1
    objective = CodeBits(READER.extractor, torch.from_numpy(KEY.projection(layout.n)), lambda _: signs)
    return mark_scene(Wall(), CONFIG, wall_meta(SIZE), None, lambda _: objective, SETTINGS, SilentProgress())  # type: ignore[arg-type]
