"""Captures larger than memory: the same training from a file, bounded memory, an estimate before any work."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nerfstudio_ext.errors import UserError
from nerfstudio_ext.scenes import picture_memory
from nerfstudio_ext.scenes.loading import load_scene
from nerfstudio_ext.scenes.picture_memory import fetch_rows, free_memory, let_go, mapped_array, plan_load
from nerfstudio_ext.scenes.pixel_sampler import PixelSampler
from tests.cli.tiny_capture import TINY_METHOD
from tests.reliability.cases import holds
from tests.reliability.make_photos import make_capture, make_photos
from tests.reliability.measure_large_captures import PeakMemory, own_mb
from tests.reliability.nsx_process import assert_done, assert_one_line, run_nsx
from tests.scenes import builders

TRAIN = ["--no-viewer", "--max-steps", "12", "--steps-per-save", "12", "--max-images", "0", *TINY_METHOD]


def masked_capture(folder: Path) -> Path:
    """Six pictures, the second and the fifth with a mask."""
    document = builders.transforms(6)
    (folder / "masks").mkdir(parents=True)
    for i in range(6):
        mask = np.full((builders.HEIGHT, builders.WIDTH), 255, np.uint8)
        if i in (1, 4):
            mask[3 : 9 + i, 5:17] = 0
        Image.fromarray(mask).save(folder / "masks" / f"{i:04d}.png")
    for i, frame in enumerate(document["frames"]):
        frame["mask_path"] = f"masks/{i:04d}.png"
    return builders.write_transforms(folder, document)


@pytest.mark.parametrize("make", [builders.write_transforms, masked_capture], ids=["whole", "masked"])
def test_pixels_from_a_file_are_those_from_memory(tmp_path: Path, make) -> None:
    capture = make(tmp_path / "capture")
    kept = load_scene(capture)
    mapped = load_scene(capture, memory_budget=0, scratch=tmp_path)
    assert mapped.images.is_mapped and not kept.images.is_mapped
    assert [p for p in tmp_path.iterdir() if p.name != "capture"] == [], "the file has no name that could stay behind"
    samplers = [PixelSampler(scene, scene.meta.split.train, 7) for scene in (kept, mapped)]
    assert samplers[0].n_pixels == samplers[1].n_pixels
    for _ in range(5):
        a, b = (sampler.next(300) for sampler in samplers)
        assert torch.equal(a.cam_ids, b.cam_ids) and torch.equal(a.uv, b.uv) and torch.equal(a.rgb, b.rgb)
    for i in range(len(kept.images)):
        assert np.array_equal(kept.images.pixels(i), mapped.images.pixels(i))
        valid = kept.images.valid_pixels(i), mapped.images.valid_pixels(i)
        assert (valid[0] is None and valid[1] is None) or np.array_equal(*valid)


def test_what_is_let_go_is_still_there(tmp_path: Path) -> None:
    """Pages are given back to the system, not lost; advice about rows touches no other row."""
    rows = mapped_array((5000, 3), np.uint8, tmp_path)
    rows[:] = np.random.default_rng(0).integers(0, 256, rows.shape)
    before = rows.copy()
    let_go(rows, 0, 5000)
    let_go(rows, 1700, 1701)
    fetch_rows(rows, np.array([0, 17, 4999]))
    assert np.array_equal(rows, before)


@holds("A25")
def test_training_from_a_file_gives_the_same_weights(tmp_path: Path, tiny_capture: Path) -> None:
    digests = {}
    for memory in ("1", "0"):
        argv = ["train", "ngp", str(tiny_capture), "--output-dir", memory, "--image-memory", memory, *TRAIN]
        ended = run_nsx(argv, folder=tmp_path, seconds=120)
        assert_done(ended)
        (weights,) = (tmp_path / memory).glob("*/ngp/*/checkpoints/step-*/weights.safetensors")
        digests[memory] = weights.read_bytes()
        assert ("they go to a file" in ended.out + ended.err) == (memory == "0")
    assert digests["0"] == digests["1"]


@holds("A25")
def test_an_estimate_comes_before_the_work(tmp_path: Path, tiny_capture: Path) -> None:
    argv = ["train", "ngp", str(tiny_capture), "--output-dir", "runs", "--image-memory", "0", *TRAIN]
    ended = run_nsx(argv, folder=tmp_path, seconds=120)
    assert_done(ended)
    said = ended.out + ended.err
    estimate = re.search(
        r"16 pictures of .* GB as they are used, more than the 0 GB .*--image-memory.*about \d+ s", said
    )
    assert estimate is not None, said
    assert said.index("16 pictures") < said.index("Loading pictures")


@holds("A25")
def test_a_capture_that_fits_nowhere_is_refused_with_numbers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(picture_memory, "free_disk", lambda folder: 3_000_000_000)
    with pytest.raises(UserError, match=r"11\.5 GB of pixels fit neither into the 0\.8 GB .* \(3\.0 GB free\)"):
        plan_load([12_000_000] * 2000, [1600 * 1200] * 2000, 3, 800_000_000, tmp_path)
    load = plan_load([12_000_000] * 2000, [1600 * 1200] * 2000, 3, 12_000_000_000, tmp_path)
    assert not load.is_mapped
    assert all(
        part in load.line for part in ("2000 pictures of 24000 million pixels", "11.5 GB", "reading takes about")
    )


@holds("A25")
def test_memory_stays_within_the_budget(tmp_path: Path) -> None:
    """24 photos of 2 MP make 144 MB of pixels; from a file they take only what is being decoded."""
    capture = make_capture(tmp_path / "capture", 24, 2.0)
    in_memory = grown_mb(lambda: load_scene(capture), tmp_path)
    in_file = grown_mb(lambda: load_scene(capture, memory_budget=0, scratch=tmp_path), tmp_path)
    assert in_memory > 140 and in_file < 75, (in_memory, in_file)


def grown_mb(act: Callable[[], object], folder: Path) -> float:
    """Most memory of its own that a child of this process takes for `act`."""
    note = folder / "grown"
    child = os.fork()
    if child == 0:
        try:
            before = own_mb()
            with PeakMemory() as peak:
                act()
                time.sleep(0.1)  # the watcher looks every 50 ms
            note.write_text(str(peak.anonymous_mb - before))
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    return float(note.read_text())


def test_an_impossible_budget_is_refused(tmp_path: Path, tiny_capture: Path) -> None:
    for value in ("-1", "nan", "1e30"):
        ended = run_nsx(["train", "ngp", str(tiny_capture), "--image-memory", value], folder=tmp_path, seconds=120)
        assert_one_line(ended, 2, names="--image-memory")


def test_free_memory_is_what_the_system_says() -> None:
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < free_memory() < total


def test_many_photos_get_an_estimate_before_they_are_looked_at(tmp_path: Path, monkeypatch, caplog) -> None:
    from nerfstudio_ext.scenes import photos

    make_photos(tmp_path / "photos", 3, 0.5)
    paths = sorted((tmp_path / "photos").iterdir())
    with caplog.at_level("WARNING"):
        photos._say_estimate(paths, tmp_path, 0.5e6)
        assert not caplog.records, "small captures need none"
        photos._say_estimate(paths * 3000, tmp_path, 0.5e6)
    (record,) = caplog.records
    assert re.search(
        r"9000 photos of \d+ MP \(\d.*GB\): looking at them takes about .* 18\.0 GB of disk", record.message
    )
    monkeypatch.setattr(photos, "free_disk", lambda folder: 10**9)
    with pytest.raises(UserError, match=r"9000 photos need 18\.0 GB while they are looked at, 1\.0 GB are free"):
        photos._say_estimate(paths * 3000, tmp_path, 0.5e6)
