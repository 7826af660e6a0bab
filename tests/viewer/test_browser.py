"""A real browser opens the page and shows the scene."""

from __future__ import annotations

import io
import time
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from nerfstudio_ext.cameras import Camera, Cameras
from nerfstudio_ext.viewer import ViewerServer
from tests.viewer.chromium import Page, open_page
from tests.viewer.fakes import SphereRenderer, look_from, photos_of, ring_of_cameras

pytestmark = pytest.mark.browser


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(float)


def test_the_page_shows_the_scene_and_follows_a_drag(tmp_path):
    cameras = ring_of_cameras(6)
    viewer = ViewerServer(cameras, photos_of(cameras), port=0)
    viewer.set_renderer(SphereRenderer())
    try:
        with open_page(viewer.link(), tmp_path / "profile", 960, 600) as page:
            end = time.monotonic() + 40
            before = np.zeros((600, 960, 3))
            while before[200:560, 100:560].std() < 20 and time.monotonic() < end:
                page.listen(0.5)
                before = pixels(page.screenshot())
            scene = before[200:560, 100:560]
            assert scene.std() > 20, "the picture is not blank"
            assert (scene[:, :, 0] - scene[:, :, 2]).max() > 60, "the orange sphere is there"
            page.drag((300, 400), (420, 390))
            end = time.monotonic() + 20
            moved = 0.0
            while moved < 5 and time.monotonic() < end:
                page.listen(0.5)
                moved = float(np.abs(pixels(page.screenshot()) - before)[200:560, 100:560].mean())
            assert moved > 5, "the view turns with the mouse"
            assert page.errors == []
            assert page.outside == [], "the page needs no other host"
    finally:
        viewer.close()


def test_the_scene_hides_cameras_behind_it_when_asked(tmp_path):
    """From a low camera the frustum opposite is behind the sphere: drawn over it, unless depth is sent."""
    poses = [look_from((2.6, 0.0, 0.1)), look_from((-2.6, 0.0, 0.1))]
    cameras = Cameras([Camera.perspective(160, 120, 50.0, pose) for pose in poses])
    viewer = ViewerServer(cameras, [np.full((75, 100, 3), (0, 255, 0), np.uint8)] * 2, port=0)
    viewer.set_renderer(SphereRenderer())
    try:
        with open_page(viewer.link(), tmp_path / "profile", 960, 600) as page:
            assert settles(page, lambda shot: n_green(shot) > 300), "the photo of the camera opposite is seen"
            viewer.change_looks(composites_depth=True)
            assert settles(page, lambda shot: n_green(shot) < 30), "the sphere hides it"
            viewer.change_looks(composites_depth=False)
            assert settles(page, lambda shot: n_green(shot) > 300)
    finally:
        viewer.close()


def n_green(shot: np.ndarray) -> int:
    """Pixels of the pure green thumbnail in the middle of the page."""
    middle = shot[150:450, 300:660]
    return int(((middle[:, :, 1] > 200) & (middle[:, :, 0] < 80) & (middle[:, :, 2] < 80)).sum())


def settles(page: Page, condition: Callable[[np.ndarray], bool], timeout: float = 40.0) -> bool:
    """Wait until a screenshot fulfils a condition."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        page.listen(0.5)
        if condition(pixels(page.screenshot())):
            return True
    return False
