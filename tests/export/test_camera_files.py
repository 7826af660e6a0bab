"""Cameras written for other programs come back the same through the readers of those formats."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nerfstudio_ext.cameras import Cameras
from nerfstudio_ext.errors import UserError
from nerfstudio_ext.exporters.camera_files import write_colmap_text, write_transforms_json
from nerfstudio_ext.exporters.placement import Placement
from nerfstudio_ext.lenses import Lens
from nerfstudio_ext.scenes.colmap import read_colmap, read_model_views
from nerfstudio_ext.scenes.posed_formats import read_transforms

from .analytic import FRAME, around

LENSES = [
    Lens(), Lens("opencv", (0.1, -0.02, 0.001, 0.002)), Lens("opencv", (0.1, -0.02, 0.001, 0.002, 0.003)),
    Lens("fisheye", (0.01, 0.002, 0.0, 0.0)), Lens("equirectangular"),
]  # fmt: skip
NAMES = [f"images/{i}.png" for i in range(4)]
PLACEMENT = Placement.of(FRAME)


def cameras(lens: Lens) -> Cameras:
    return Cameras([replace(c, lens=lens) for c in around(4, 40)])


def capture(folder: Path) -> Path:
    (folder / "images").mkdir(parents=True)
    for name in NAMES:
        Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(folder / name)
    return folder


@pytest.mark.parametrize("lens", LENSES, ids=lambda lens: f"{lens.kind}{len(lens.params)}")
def test_a_colmap_model_comes_back(tmp_path: Path, lens: Lens) -> None:
    given = cameras(lens)
    folder = write_colmap_text(given, NAMES, capture(tmp_path) / "sparse" / "0", PLACEMENT)
    found, names = read_model_views(tmp_path)
    assert list(names) == NAMES
    expected = FRAME.to_source(given)
    torch.testing.assert_close(found.c2w, expected.c2w, atol=1e-12, rtol=0)
    assert [c.lens.kind for c in found] == [lens.kind] * 4
    torch.testing.assert_close(found.lens_params, expected.lens_params)
    if lens.kind != "equirectangular":
        torch.testing.assert_close(found.intrinsics, expected.intrinsics)
    assert len(read_colmap(tmp_path).frames) == 4
    assert json.loads((folder / "images.txt.json").read_text())["placement"]["frame"] == "frame of the capture (source)"
    with pytest.raises(UserError, match="the file exists"):
        write_colmap_text(given, NAMES, folder, PLACEMENT)


@pytest.mark.parametrize("lens", LENSES, ids=lambda lens: f"{lens.kind}{len(lens.params)}")
@pytest.mark.parametrize("is_mixed", [False, True])
def test_transforms_json_comes_back(tmp_path: Path, lens: Lens, is_mixed: bool) -> None:
    given = cameras(lens)
    if is_mixed:  # one camera differs: then nothing is shared
        given = Cameras([*given[:3], given[3].resize(40, 40) if lens.kind == "equirectangular" else _moved(given)])
    file = write_transforms_json(given, NAMES, capture(tmp_path) / "transforms.json", PLACEMENT)
    read = read_transforms(file)
    expected = FRAME.to_source(given)
    for frame, camera in zip(read.frames, expected, strict=True):
        torch.testing.assert_close(torch.as_tensor(frame.c2w), camera.c2w, atol=1e-12, rtol=0)
        assert frame.intrinsics.lens.kind == lens.kind
        if lens.kind != "equirectangular":
            torch.testing.assert_close(frame.intrinsics.matrix(40, 40), camera.K)
            torch.testing.assert_close(frame.intrinsics.lens.tensor(), camera.lens.tensor())


def _moved(given: Cameras):  # type: ignore[no-untyped-def]
    K = given[3].K.clone()
    K[0, 2] += 1.5
    return replace(given[3], K=K)


def test_lenses_that_a_format_lacks_are_refused(tmp_path: Path) -> None:
    four = cameras(Lens("opencv", (0.1, 0.0, 0.0, 0.0, 0.0, 0.01)))
    with pytest.raises(UserError, match="COLMAP has no lens"):
        write_colmap_text(four, NAMES, tmp_path / "m", PLACEMENT)
    mixed = Cameras([*cameras(Lens())[:2], *cameras(Lens("equirectangular"))[:2]])
    with pytest.raises(UserError, match="cameras of 2 kinds"):
        write_transforms_json(mixed, NAMES, tmp_path / "t.json", PLACEMENT)
