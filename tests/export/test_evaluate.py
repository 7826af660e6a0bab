"""Evaluation on a renderer whose error is known."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nerfstudio_ext.cameras import Camera
from nerfstudio_ext.errors import UserError
from nerfstudio_ext.metrics import MAX_PSNR
from nerfstudio_ext.progress import SilentProgress
from nerfstudio_ext.renderer import Cancelled, CancelToken, Frame, RayRenderer
from nerfstudio_ext.scenes.model import Scene, SceneFrame, SceneMeta, Split
from nerfstudio_ext.training.evaluate import evaluate, picked_images, truth_image

from .ball import ball, views

WIDTH, HEIGHT = 48, 32


class Photos:
    """What `evaluate` uses of an ImageStore."""

    def __init__(self, pictures: list[np.ndarray], valid: list[np.ndarray | None] | None = None) -> None:
        self.pictures, self.valid = pictures, valid or [None] * len(pictures)
        self.n_channels = pictures[0].shape[2]

    def pixels(self, i: int) -> np.ndarray:
        return self.pictures[i]

    def valid_pixels(self, i: int) -> np.ndarray | None:
        return self.valid[i]


def random_photos(n: int = 6, channels: int = 3) -> list[np.ndarray]:
    return [np.random.default_rng(i).integers(30, 220, (HEIGHT, WIDTH, channels), np.uint8) for i in range(n)]


def scene_of(photos: Photos, background=(1.0, 1.0, 1.0)) -> Scene:
    n = len(photos.pictures)
    frame = SceneFrame(torch.eye(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64), 0.5)
    meta = SceneMeta(
        name="test",
        kind="made up",
        cameras=views(n, WIDTH, HEIGHT),
        image_names=tuple(f"images/{i:02d}.png" for i in range(n)),
        split=Split(train=(1, 2), val=(), test=tuple(i for i in range(n) if i not in (1, 2))),
        frame=frame,
        background=background,
        has_alpha=photos.n_channels == 4,
    )
    return Scene(meta, photos)  # type: ignore[arg-type]


class Off:
    """Returns the photo of whatever training-frame camera it is asked for, off by a constant."""

    def __init__(self, scene: Scene, error: float) -> None:
        self.background, self.scene, self.error = scene.meta.background, scene, error

    def render(self, camera: Camera, *, cancel: CancelToken | None = None) -> Frame:
        if cancel is not None:
            cancel.check()
        centers = self.scene.meta.training_cameras().c2w[:, :, 3]
        i = int((centers - camera.c2w[:, 3]).norm(dim=1).argmin())
        assert torch.allclose(centers[i], camera.c2w[:, 3]), "not a camera of the training frame"
        rgb = truth_image(self.scene, i) + self.error
        return Frame(rgb, torch.ones(rgb.shape[:2]), None)


def test_a_constant_error_gives_its_psnr_for_every_image() -> None:
    scene = scene_of(Photos(random_photos()))
    result = evaluate(Off(scene, 0.05), scene, method="ngp")
    assert [s.file for s in result.per_image] == ["images/00.png", "images/03.png", "images/04.png", "images/05.png"]
    for score in result.per_image:
        assert score.psnr == pytest.approx(-20 * math.log10(0.05), abs=1e-3)
    assert result.psnr == pytest.approx(26.0206, abs=1e-3) and 0.9 < result.ssim < 1


def test_the_photo_itself_scores_best() -> None:
    scene = scene_of(Photos(random_photos()))
    result = evaluate(Off(scene, 0.0), scene, "train")
    assert result.psnr == MAX_PSNR and result.ssim == pytest.approx(1, abs=1e-6) and len(result.per_image) == 2


def test_the_result_is_the_json_that_scripts_rely_on() -> None:
    scene = scene_of(Photos(random_photos()))
    document = json.loads(
        json.dumps(evaluate(Off(scene, 0.1), scene, max_images=2, method="ngp").to_json(), allow_nan=False)
    )
    assert list(document) == ["schema", "method", "split", "n", "psnr", "ssim", "per_image"]
    assert (
        document["schema"] == 1 and document["method"] == "ngp" and document["split"] == "test" and document["n"] == 2
    )
    assert [list(row) for row in document["per_image"]] == [["file", "psnr", "ssim"]] * 2
    assert document["psnr"] == pytest.approx(np.mean([row["psnr"] for row in document["per_image"]]))


def test_photos_with_opacity_are_laid_over_the_background() -> None:
    photos = random_photos(channels=4)
    scene = scene_of(Photos(photos), background=(0.2, 0.5, 1.0))
    straight = photos[0].astype(float) / 255
    expected = straight[..., :3] * straight[..., 3:] + (1 - straight[..., 3:]) * np.array([0.2, 0.5, 1.0])
    np.testing.assert_allclose(truth_image(scene, 0).numpy(), expected, atol=1e-6)
    assert evaluate(Off(scene, 0.0), scene).psnr == MAX_PSNR
    white = RayRenderer(ball)
    with pytest.raises(ValueError, match="background"):
        evaluate(white, scene)


def test_masked_pixels_do_not_count() -> None:
    photos = random_photos(3)
    left = np.array([v * WIDTH + u for v in range(HEIGHT) for u in range(WIDTH // 2)], np.int32)
    scene = scene_of(Photos(photos, [left] * 3))

    class HalfRight(Off):
        def render(self, camera: Camera, *, cancel: CancelToken | None = None) -> Frame:
            frame = super().render(camera, cancel=cancel)
            rgb = frame.rgb.clone()
            rgb[:, WIDTH // 2 :] = 0
            return replace(frame, rgb=rgb)

    result = evaluate(HalfRight(scene, 0.1), scene)
    assert result.psnr == pytest.approx(20, abs=1e-3) and result.ssim > 0.9


def test_renders_and_error_maps_lie_on_disk_under_the_image_s_name(tmp_path: Path) -> None:
    scene = scene_of(Photos(random_photos()))
    evaluate(Off(scene, 0.1), scene, max_images=2, output_dir=tmp_path / "eval")
    found = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.png"))
    assert found == [f"eval/{kind}/{name}.png" for kind in ("errors", "renders") for name in ("00", "04")]
    render = np.asarray(Image.open(tmp_path / "eval/renders/00.png"), int)
    assert np.abs(render - scene.images.pixels(0) - 25.5).max() < 1.01
    errors = np.asarray(Image.open(tmp_path / "eval/errors/00.png"))
    assert errors.shape == (HEIGHT, WIDTH, 3) and np.ptp(errors.reshape(-1, 3), axis=0).max() <= 2


def test_picked_images_are_spread_and_start_with_the_first() -> None:
    split = tuple(range(100, 125))
    assert picked_images(split, None, "test") == split and picked_images(split, 99, "test") == split
    assert picked_images(split, 5, "test") == (100, 105, 110, 115, 120)
    assert picked_images(split, 1, "test") == (100,)
    with pytest.raises(UserError, match="val split has no images"):
        picked_images((), 3, "val")
    with pytest.raises(UserError, match="0 images"):
        picked_images(split, 0, "test")


def test_a_photo_of_another_size_is_named() -> None:
    photos = random_photos()
    photos[3] = photos[3][:-1]

    class Sized(Off):
        def render(self, camera: Camera, *, cancel: CancelToken | None = None) -> Frame:
            return Frame(torch.zeros(camera.height, camera.width, 3), torch.ones(camera.height, camera.width), None)

    scene = scene_of(Photos(photos))
    with pytest.raises(UserError, match=r"images/03.png: the photo has 48x31 pixels, its camera 48x32"):
        evaluate(Sized(scene, 0.0), scene)


def test_progress_and_cancel() -> None:
    class Recorder(SilentProgress):
        def __init__(self) -> None:
            super().__init__()
            self.seen: list[tuple[int, str]] = []

        def advance(self, done: int, note: str = "") -> None:
            self.seen.append((done, note))

    scene, progress, token = scene_of(Photos(random_photos())), Recorder(), CancelToken()
    evaluate(Off(scene, 0.1), scene, progress=progress)
    assert [done for done, _ in progress.seen] == [1, 2, 3, 4] and progress.seen[0][1] == "00.png 20.00 dB"
    token.cancel()
    with pytest.raises(Cancelled):
        evaluate(Off(scene, 0.1), scene, cancel=token)
