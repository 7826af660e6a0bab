"""A visitor at a real browser: looks, drags, edits a path, renders it, downloads the film, compares two runs."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nerfstudio_ext.viewer import Site, ViewerServer
from tests.viewer.fakes import SphereRenderer, photos_of, ring_of_cameras

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = [pytest.mark.browser, pytest.mark.slow]

SIZE = (1280, 900)
SCENE = (slice(200, 850), slice(60, 840))
"""Rows and columns of the page where the scene is seen beside the panel."""
FLAGS = ["--no-sandbox", "--disable-gpu", "--enable-unsafe-swiftshader", "--disable-background-networking"]


@pytest.fixture
def viewer(tmp_path) -> Iterator[ViewerServer]:
    cameras = ring_of_cameras(6)
    site = Site(folder=tmp_path / "run", photo_names=[f"photo {i}" for i in range(6)])
    made = ViewerServer(cameras, photos_of(cameras), port=0, site=site, label="spheres")
    made.set_renderer(SphereRenderer())
    made.set_renderer(SphereRenderer(tint=0.4), "dim run")
    yield made
    made.close()


@pytest.fixture
def page(viewer, chromium) -> Iterator[Any]:
    errors: list[str] = []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=FLAGS)
        opened = browser.new_page(viewport={"width": SIZE[0], "height": SIZE[1]}, accept_downloads=True)
        opened.on("pageerror", lambda error: errors.append(str(error)))
        opened.set_default_timeout(30_000)
        opened.goto(viewer.link())
        yield opened
        browser.close()
    assert errors == [], "the page must not fail anywhere"


def scene(page: Any) -> np.ndarray:
    """The part of the page that shows the scene."""
    whole = np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("RGB")).astype(float)
    return whole[SCENE]


def wait(page: Any, condition: Callable[[], bool], timeout: float = 40.0) -> bool:
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        if condition():
            return True
        page.wait_for_timeout(250)
    return False


def shown(page: Any, label: str) -> Any:
    """A control of the tab that is open; other tabs have some of the same names."""
    return page.get_by_label(label, exact=True).locator("visible=true").first


def choose(page: Any, label: str, option: str) -> None:
    """Pick from a drop-down list."""
    shown(page, label).click()
    page.get_by_role("option", name=option, exact=True).locator("visible=true").click()


def drag(page: Any, dx: int, dy: int) -> None:
    page.mouse.move(450, 600)
    page.mouse.down()
    page.mouse.move(450 + dx, 600 + dy, steps=8)
    page.mouse.up()


def fill(page: Any, viewer: ViewerServer, label: str, value: str) -> None:
    """Type a number and wait until the server has it: the page holds changes back for a moment, and on a busy machine
    the next one could take the place of this one."""
    shown(page, label).fill(value)
    page.keyboard.press("Enter")
    (client,) = viewer._server.get_clients().values()
    controls = client.gui._gui_input_handle_from_uuid
    named = lambda: [c for c in list(controls.values()) if getattr(c, "label", None) == label]  # noqa: E731
    assert wait(page, lambda: any(c.value == float(value) for c in named())), (
        f"{label} = {value} has reached the server"
    )


def test_a_visit(page, viewer, tmp_path) -> None:
    assert wait(page, lambda: scene(page).std() > 25), "the scene is there"
    before = scene(page)
    assert (before[:, :, 0] - before[:, :, 2]).max() > 60, "with the orange sphere"

    drag(page, 160, -20)
    assert wait(page, lambda: np.abs(scene(page) - before).mean() > 5), "it turns with the mouse"

    choose(page, "Output", "alpha")
    assert wait(page, lambda: np.ptp(scene(page), 2).mean() < 12), "opacity is grey"
    choose(page, "Output", "rgb")
    assert wait(page, lambda: np.ptp(scene(page), 2).mean() > 12)

    page.get_by_role("tab", name="Path").click()
    desk = next(iter(viewer._visitors.desks.values()))
    for i in range(3):
        page.get_by_role("button", name="Add this view").click()
        assert wait(page, lambda i=i: len(desk.editor.draft.keys) == i + 1)
        stood = desk.view.position
        drag(page, 120, 10)
        assert wait(page, lambda stood=stood: desk.view.position != stood), "two equal keys make no path"
    page.get_by_text("Path settings").click()
    fill(page, viewer, "Per key, s", "0.5")
    fill(page, viewer, "Rate, 1/s", "8")
    assert wait(page, lambda: desk.editor.draft.seconds == 1.0 and desk.editor.draft.fps == 8.0)
    page.get_by_role("button", name="Play").click()
    assert wait(page, lambda: desk.editor.player.frame == 7), "it was flown to the end"
    page.get_by_role("button", name="Back to my camera").click()

    page.get_by_role("tab", name="Export").click()
    choose(page, "Path", "My path")
    fill(page, viewer, "Width", "96")
    fill(page, viewer, "Height", "64")
    page.get_by_role("button", name="Render", exact=True).click()
    assert wait(page, lambda: any(job.state == "done" for job in viewer.room.queue.jobs()), 60)
    button = page.get_by_role("button", name="Download", exact=True)
    assert wait(page, button.is_enabled)
    with page.expect_download() as waiting:
        button.click()
    film = tmp_path / "film.mp4"
    waiting.value.save_as(film)
    assert waiting.value.suggested_filename == "film.mp4" and film.read_bytes()[4:8] == b"ftyp"
    import imageio.v3 as iio

    frames = iio.imread(film, plugin="FFMPEG")
    assert frames.shape == (8, 64, 96, 3) and frames.std() > 20

    page.get_by_role("tab", name="View").click()
    page.get_by_text("Compare", exact=True).click()
    choose(page, "Other run", "dim run")
    choose(page, "Mode", "wipe")
    assert wait(page, lambda: desk.look.compare.mode == "wipe" and desk.look.compare.other.source == "dim run")

    def halves() -> bool:
        rows = np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("RGB")).astype(float)[700:890]
        return bool(rows[:, 300:600].mean() > 1.3 * rows[:, 660:880].mean())

    assert wait(page, halves), "bright left, dim right"


def test_a_reload_changes_nothing_and_both_pages_are_readable(page, viewer) -> None:
    assert wait(page, lambda: scene(page).std() > 25)
    choose(page, "Output", "depth")
    drag(page, 200, -30)
    page.wait_for_timeout(2500)
    desk = next(iter(viewer._visitors.desks.values()))
    position = np.array(desk.view.position)
    page.reload()
    assert wait(page, lambda: page.get_by_label("Output", exact=True).input_value() == "depth")
    again = lambda: next(iter(viewer._visitors.desks.values()), None)  # noqa: E731
    assert wait(page, lambda: again() is not None and again().view is not None
                and np.allclose(again().view.position, position, atol=0.02))  # fmt: skip
    ground = lambda: np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("L"))[60:70, 950:1250].mean()  # noqa: E731
    dark = ground()
    page.get_by_label("Light page", exact=True).click()
    assert wait(page, lambda: ground() > dark + 100)
    clipped = page.evaluate(
        "[...document.querySelectorAll('label, button, p')]"
        ".filter(e => e.offsetParent && e.scrollWidth > e.clientWidth + 2).map(e => e.innerText)"
    )
    assert clipped == [], "no label is cut off"
