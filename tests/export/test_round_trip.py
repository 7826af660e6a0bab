"""A camera path written as nerfstudio writes it and read again gives the same frames, in either frame."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nerfstudio_ext.camera_paths import orbit, read_camera_path, spiral, write_camera_path
from nerfstudio_ext.camera_paths.similarity import FrameChange
from nerfstudio_ext.exporters import write_frames
from nerfstudio_ext.renderer import RayRenderer

from .ball import ball, views

C, S = np.cos(0.3), np.sin(0.3)
FRAME = FrameChange(
    torch.tensor([[C, -S, 0], [S, C, 0], [0, 0, 1]], dtype=torch.float64),
    torch.tensor([0.2, -0.1, 0.4], dtype=torch.float64),
    0.37,
)


@pytest.mark.parametrize("reference", ["normalized", "source"])
@pytest.mark.parametrize("make", [orbit, spiral])
def test_the_frames_are_the_same(tmp_path: Path, make, reference: str) -> None:
    path = make(views(6, 96, 64), seconds=0.5, fps=12)
    file = write_camera_path(path, tmp_path / "camera_path.json", FRAME, frame_of_reference=reference)
    back = read_camera_path(file, FRAME)
    assert back.fps == path.fps and len(back) == len(path) == 6
    torch.testing.assert_close(back.cameras.c2w, path.cameras.c2w, atol=1e-12, rtol=0)
    torch.testing.assert_close(back.cameras.intrinsics, path.cameras.intrinsics, atol=1e-9, rtol=0)
    first = write_frames(RayRenderer(ball), path, tmp_path / "a", frame=FRAME)
    second = write_frames(RayRenderer(ball), back, tmp_path / "b", frame=FRAME)
    for a, b in zip(first, second, strict=True):
        one, two = np.asarray(Image.open(a)), np.asarray(Image.open(b))
        assert np.ptp(one) > 100
        # Rounding in the 16th digit may put a ray on the other side of a square's border.
        assert (one != two).any(-1).mean() < 1e-3
    # Twice through the file, and the text no longer changes.
    again = write_camera_path(back, tmp_path / "again.json", FRAME, frame_of_reference=reference)
    third = read_camera_path(again, FRAME)
    torch.testing.assert_close(third.cameras.c2w, path.cameras.c2w, atol=1e-12, rtol=0)
