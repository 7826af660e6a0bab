"""The shipped sample capture and its generator: readable, honest about its lens, true to its poses."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

DATA = Path(__file__).resolve().parents[2] / "data"
SAMPLE = DATA / "sample"
EXIF_IFD, FOCAL_MM, FOCAL_35MM, ORIENTATION = 0x8769, 0x920A, 0xA405, 0x0112
TINY = (32, 24)


@pytest.fixture(scope="module")
def truth() -> dict:
    return json.loads((SAMPLE / "true_poses.json").read_text())


@pytest.fixture(scope="module")
def generator() -> Iterator[SimpleNamespace]:
    """The generator's modules: it is a script beside its package, so its folder goes on the path."""
    sys.path.insert(0, str(DATA))
    try:
        import generate_sample
        from generator import cameras, model, tracing

        yield SimpleNamespace(script=generate_sample, cameras=cameras, model=model, tracing=tracing)
    finally:
        sys.path.remove(str(DATA))


@pytest.fixture(scope="module")
def scene(generator: SimpleNamespace) -> Any:
    """The modelled room, shapes only."""
    return generator.model.build(light_scale=10.0, with_pictures=False)


def project(document: dict, frame: dict, points: np.ndarray) -> np.ndarray:
    """Pixel positions [N,2] by the written file alone (OPENCV model), apart from the generator's own code."""
    pose = np.asarray(frame["transform_matrix"])
    local = (points - pose[:3, 3]) @ pose[:3, :3]
    x, y = local[:, 0] / -local[:, 2], local[:, 1] / local[:, 2]
    r2 = x * x + y * y
    bend = 1 + document["k1"] * r2 + document["k2"] * r2 * r2
    return np.stack([document["fl_x"] * x * bend + document["cx"], document["fl_y"] * y * bend + document["cy"]], 1)


def test_photos_are_readable_and_small(truth: dict) -> None:
    files = sorted((SAMPLE / "images").iterdir())
    assert 40 <= len(files) <= 60
    assert [f"images/{f.name}" for f in files] == [frame["file_path"] for frame in truth["frames"]]
    for file in files:
        with Image.open(file) as image:
            image.load()
            assert image.format == "JPEG" and image.mode == "RGB"
            assert image.size == (truth["w"], truth["h"])
    assert sum(f.stat().st_size for f in SAMPLE.rglob("*") if f.is_file()) < 8e6


def test_photo_folder_holds_no_poses() -> None:
    # A transforms.json there would turn the photos into a posed capture and hide the pose solver.
    assert not list(SAMPLE.rglob("transforms*.json"))


def test_exif_agrees_with_true_lens_and_says_generated(truth: dict) -> None:
    for frame in truth["frames"]:
        with Image.open(SAMPLE / frame["file_path"]) as image:
            exif = image.getexif()
            details = exif.get_ifd(EXIF_IFD)
        assert exif[ORIENTATION] == 1
        assert "generate" in str(exif[0x0110])
        diagonal_px = math.hypot(truth["w"], truth["h"])
        from_35mm = details[FOCAL_35MM] / math.hypot(36, 24) * diagonal_px
        # The field is a whole number of millimetres: half of one in 26 is 1.9 %.
        assert from_35mm == pytest.approx(truth["fl_x"], rel=0.02)
        from_mm = float(details[FOCAL_MM]) / math.hypot(5.76, 4.32) * diagonal_px
        assert from_mm == pytest.approx(truth["fl_x"], rel=0.001)


def test_poses_are_rotations_that_look_at_the_table(truth: dict) -> None:
    assert truth["camera_model"] == "OPENCV" and truth["k1"] != 0
    for frame in truth["frames"]:
        pose = np.asarray(frame["transform_matrix"])
        rotation = pose[:3, :3]
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-8)
        assert np.linalg.det(rotation) == pytest.approx(1, abs=1e-8)
        pixel = project(truth, frame, np.array([[0.0, 0.0, 0.85]]))[0]
        assert 0.2 * truth["w"] < pixel[0] < 0.8 * truth["w"]
        assert 0.2 * truth["h"] < pixel[1] < 0.8 * truth["h"]


def test_traced_points_project_back(truth: dict, generator: SimpleNamespace, scene: Any) -> None:
    lens = generator.cameras.phone_lens(truth["w"], truth["h"])
    rng = np.random.default_rng(0)
    pixels = rng.uniform((0, 0), (truth["w"], truth["h"]), (200, 2))
    for frame in truth["frames"][::9]:
        points = generator.tracing.trace_pixels(scene, lens, np.asarray(frame["transform_matrix"]), pixels)
        assert np.isfinite(points).all()
        np.testing.assert_allclose(project(truth, frame, points), pixels, atol=1e-4)


def test_photos_agree_with_poses(truth: dict, generator: SimpleNamespace, scene: Any) -> None:
    """A point of the table has the same colour in every photo that sees it; shifted poses lose that."""
    shift = np.array([0.012, 0.0, 0.0])
    straight, shifted = (_colour_agreement(truth, generator, scene, d) for d in (0 * shift, shift))
    assert straight > 0.9
    assert shifted < straight - 0.1


def _colour_agreement(truth: dict, generator: SimpleNamespace, scene: Any, shift: np.ndarray) -> float:
    """Correlation of grey values at points of the cloth between neighbouring photos; `shift` moves the points."""
    lens = generator.cameras.phone_lens(truth["w"], truth["h"])
    firsts, seconds = [], []
    for i in range(20, 32, 3):
        one, two = truth["frames"][i], truth["frames"][i + 1]
        pixels = np.random.default_rng(i).uniform((60, 60), (truth["w"] - 60, truth["h"] - 60), (3000, 2))
        points = generator.tracing.trace_pixels(scene, lens, np.asarray(one["transform_matrix"]), pixels)
        flat = (np.abs(points[:, 2] - 0.763) < 0.002) & (np.hypot(points[:, 0], points[:, 1]) < 0.53)
        target = project(truth, two, points)
        inside = flat & np.all((target > 2) & (target < (truth["w"] - 2, truth["h"] - 2)), axis=1)
        seen = generator.tracing.trace_pixels(scene, lens, np.asarray(two["transform_matrix"]), target)
        keep = inside & (np.linalg.norm(seen - points, axis=1) < 1e-3)
        moved = project(truth, two, points[keep] + shift)
        firsts.append(_grey(one, pixels[keep]))
        seconds.append(_grey(two, moved))
    a, b = np.concatenate(firsts), np.concatenate(seconds)
    assert len(a) > 500
    return float(np.corrcoef(a, b)[0, 1])


def _grey(frame: dict, pixels: np.ndarray) -> np.ndarray:
    with Image.open(SAMPLE / frame["file_path"]) as image:
        values = np.asarray(image.convert("L"), float)
    column = np.clip(pixels[:, 0].astype(int), 0, values.shape[1] - 1)
    return values[np.clip(pixels[:, 1].astype(int), 0, values.shape[0] - 1), column]


def test_generator_repeats_itself(generator: SimpleNamespace, tmp_path: Path) -> None:
    for name in ("one", "two"):
        generator.script.generate(tmp_path / name, TINY, 1, only=[30])
    files = sorted(p.relative_to(tmp_path / "one") for p in (tmp_path / "one").rglob("*") if p.is_file())
    assert [str(f) for f in files] == ["images/IMG_0031.jpg", "true_poses.json"]
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    with Image.open(tmp_path / "one" / files[0]) as image:
        assert image.size == TINY
        assert np.asarray(image).std() > 10


def test_generator_writes_the_shipped_poses(truth: dict, generator: SimpleNamespace, tmp_path: Path) -> None:
    poses = generator.cameras.walk(np.random.default_rng(generator.script.SEED))
    lens = generator.cameras.phone_lens(truth["w"], truth["h"])
    generator.cameras.write_true_poses(tmp_path / "true_poses.json", lens, poses)
    written = json.loads((tmp_path / "true_poses.json").read_text())
    for ours, shipped in zip(written["frames"], truth["frames"], strict=True):
        np.testing.assert_allclose(ours["transform_matrix"], shipped["transform_matrix"], atol=1e-7)
