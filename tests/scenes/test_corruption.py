"""Corrupted copies: exactly what was asked for, in the training photos only, the same for the same seed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nerfstudio_ext.cli import main
from nerfstudio_ext.errors import UserError
from nerfstudio_ext.scenes import load_scene
from nerfstudio_ext.scenes.corruption import KINDS, Corruption, corrupt_capture, corrupt_photo

LEVELS = {"impulse": 0.3, "gaussian": 0.1, "blur": 1.5, "exposure": 1.0, "pose": 2.0}


def photo(channels: int = 3, size: tuple[int, int] = (40, 50)) -> np.ndarray:
    return np.random.default_rng(1).integers(1, 255, size=(*size, channels), dtype=np.uint8)


def corrupted(kind: str, level: float, image: np.ndarray, seed: int = 0) -> np.ndarray:
    corruption = Corruption(kind, level, seed)
    return corrupt_photo(image, corruption, corruption.generator(0))


@pytest.mark.parametrize("channels", [3, 4])
def test_impulse_noise_hits_the_share_it_should(channels: int):
    image = photo(channels)
    noisy = corrupted("impulse", 0.3, image)
    changed = (noisy != image).any(-1)
    assert changed.sum() == round(0.3 * changed.size)
    values = noisy[changed][:, :3]
    assert ((values == 0).all(-1) | (values == 255).all(-1)).all()
    assert 0.4 < (values[:, 0] == 255).mean() < 0.6
    assert (noisy[changed][:, 3:] == 255).all()
    assert (noisy[~changed] == image[~changed]).all()


def test_gaussian_noise_has_the_deviation_it_should():
    image = np.full((100, 100, 3), 128, np.uint8)
    error = corrupted("gaussian", 0.1, image).astype(float) - 128
    assert error.std() == pytest.approx(25.5, rel=0.02)
    assert abs(error.mean()) < 1


def test_exposure_is_a_factor_within_its_stops():
    image = np.full((4, 4, 3), 100, np.uint8)
    factors = [corrupted("exposure", 1.0, image, seed)[0, 0, 0] / 100 for seed in range(40)]
    assert min(factors) >= 0.5
    assert max(factors) <= 2.0
    assert max(factors) / min(factors) > 2


def test_blur_spreads_a_point_and_keeps_its_sum():
    image = np.zeros((41, 41, 3), np.uint8)
    image[15:26, 15:26] = 200
    blurred = corrupted("blur", 2.0, image).astype(float)
    assert blurred.sum() == pytest.approx(image.sum(), rel=0.02)
    assert blurred[13, 20, 0] > 0


@pytest.mark.parametrize("kind", ["gaussian", "blur", "exposure"])
def test_opacity_is_left_alone(kind: str):
    image = photo(4)
    noisy = corrupted(kind, LEVELS[kind], image)
    assert (noisy[..., 3] == image[..., 3]).all()
    assert (noisy[..., :3] != image[..., :3]).any()


@pytest.mark.parametrize("kind", KINDS)
def test_training_photos_change_and_test_photos_do_not(kind: str, tiny_capture: Path, tmp_path: Path):
    made = corrupt_capture(tiny_capture, tmp_path / "bad", Corruption(kind, LEVELS[kind], 5))
    before, after = load_scene(tiny_capture), load_scene(tmp_path / "bad")
    assert before.meta.split == after.meta.split
    assert before.meta.image_names == after.meta.image_names
    assert len(made.changed) == len(before.meta.split.train)
    assert made.kept == len(before.meta.split.test)
    for i, name in enumerate(before.meta.image_names):
        is_training = i in before.meta.split.train
        same_photo = (tiny_capture / name).read_bytes() == (tmp_path / "bad" / name).read_bytes()
        same_pose = bool((before.meta.cameras[i].c2w == after.meta.cameras[i].c2w).all())
        assert same_photo == (kind == "pose" or not is_training)
        assert same_pose == (kind != "pose" or not is_training)
    note = json.loads((tmp_path / "bad" / "corruption.json").read_text())
    assert (note["kind"], note["level"], note["seed"]) == (kind, LEVELS[kind], 5)


def test_poses_are_off_by_what_was_asked_for(tiny_capture: Path, tmp_path: Path):
    corrupt_capture(tiny_capture, tmp_path / "bad", Corruption("pose", 2.0))
    before, after = load_scene(tiny_capture), load_scene(tmp_path / "bad")
    for i in before.meta.split.train:
        one, two = before.meta.cameras[i].c2w, after.meta.cameras[i].c2w
        turn = np.rad2deg(np.arccos((float((one[:, :3] * two[:, :3]).sum()) - 1) / 2))
        assert turn == pytest.approx(2.0, rel=1e-3)
        assert float((one[:, 3] - two[:, 3]).norm()) == pytest.approx(0.02 / before.meta.frame.scale, rel=1e-3)


def test_the_same_seed_gives_the_same_copy_and_another_does_not(tiny_capture: Path, tmp_path: Path):
    for name, seed in (("one", 1), ("two", 1), ("three", 2)):
        corrupt_capture(tiny_capture, tmp_path / name, Corruption("impulse", 0.3, seed))
    train = load_scene(tiny_capture).meta.split.train[0]
    file = load_scene(tiny_capture).meta.image_names[train]
    one, two, three = ((tmp_path / name / file).read_bytes() for name in ("one", "two", "three"))
    assert one == two
    assert one != three


def test_a_blender_set_keeps_its_test_files(tmp_path: Path):
    folder = tmp_path / "set"
    (folder / "train").mkdir(parents=True)
    (folder / "test").mkdir()
    for split in ("train", "test"):
        frames = []
        for i in range(4):
            Image.fromarray(photo(4, (16, 16))).save(folder / split / f"r_{i}.png")
            c2w = np.eye(4)
            c2w[:3, 3] = [0.1 * i, 0, 4]
            frames.append({"file_path": f"./{split}/r_{i}", "transform_matrix": c2w.tolist()})
        (folder / f"transforms_{split}.json").write_text(json.dumps({"camera_angle_x": 0.7, "frames": frames}))
    corrupt_capture(folder, tmp_path / "pose", Corruption("pose", 1.0))
    corrupt_capture(folder, tmp_path / "noise", Corruption("impulse", 0.5))
    for name in ("pose", "noise"):
        assert (tmp_path / name / "transforms_test.json").read_text() == (folder / "transforms_test.json").read_text()
        assert (tmp_path / name / "test/r_1.png").read_bytes() == (folder / "test/r_1.png").read_bytes()
    assert (tmp_path / "pose/transforms_train.json").read_text() != (folder / "transforms_train.json").read_text()
    assert (tmp_path / "noise/train/r_1.png").read_bytes() != (folder / "train/r_1.png").read_bytes()


@pytest.mark.parametrize(("kind", "level"), [("impulse", 1.5), ("impulse", 0.0), ("blur", -1), ("pose", float("nan"))])
def test_levels_out_of_range_are_refused(kind: str, level: float):
    with pytest.raises(UserError, match="out of range"):
        Corruption(kind, level)


def test_the_command(tiny_capture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    words = ["corrupt", str(tiny_capture), "--level", "0.3", "--output-dir", str(tmp_path / "bad"), "--json", "-"]
    assert main(words) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["kind"], result["n_changed"], result["n_kept"]) == ("impulse", 14, 2)
    assert main(words) == 2
    assert "exists" in capsys.readouterr().err
    assert main(["corrupt", str(tiny_capture), "--output-dir", str(tiny_capture / "in")]) == 2
    assert "lies inside the capture" in capsys.readouterr().err
