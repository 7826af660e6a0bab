"""Verify what a browser shows, without stopping the pictures; compare a scene with and without its mark."""

from __future__ import annotations

import dataclasses
import io
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from nerfstudio_ext.cli.view_marks import answer_text, unmarked_of, verifier_of
from nerfstudio_ext.errors import UserError
from nerfstudio_ext.renderer import RayRenderer
from nerfstudio_ext.stages.stega.extraction import extract
from nerfstudio_ext.stages.stega.messages import LAYOUTS, Message
from nerfstudio_ext.stages.stega.scale_search import View
from nerfstudio_ext.training.config import RunConfig
from nerfstudio_ext.training.runs import OpenedRun
from nerfstudio_ext.viewer import ViewerServer
from nerfstudio_ext.viewer.pictures import encode_jpeg, to_rgb8
from nerfstudio_ext.viewer.provenance import Verification, provenance_panel
from tests.stega.marks import KEY, OWNER, SECRET
from tests.stega.wall_marks import SIZE, marked_wall
from tests.stega.wall_scene import wall_meta, wall_run
from tests.viewer.chromium import Page, open_page
from tests.viewer.fakes import FakeBrowser, SphereRenderer, photos_of, ring_of_cameras
from tests.viewer.test_server import wait_until


def updates(browser: FakeBrowser, uuid: str, name: str) -> list[Any]:
    """What a property was set to since the page was opened."""
    found = [m for m in list(browser.messages) if m["type"] == "GuiUpdateMessage" and m["uuid"] == uuid]
    return [m["updates"][name] for m in found if name in m["updates"]]


def test_the_frame_of_the_browser_is_read_in_the_background() -> None:
    seen: list[tuple[bytes, str, str]] = []
    may_end = threading.Event()

    def verify(jpeg: bytes, key: str) -> str:
        seen.append((jpeg, key, threading.current_thread().name))
        assert may_end.wait(10)
        return "**Mark found**"

    viewer = ViewerServer(ring_of_cameras(4), photos_of(ring_of_cameras(4)), port=0)
    viewer.add_panel(provenance_panel(verify))
    viewer.set_renderer(SphereRenderer())
    browser = FakeBrowser(viewer.port)
    try:
        browser.look()
        sharp = browser.wait_for(lambda p: p.rgb.shape == (400, 640, 3))
        key, button = browser.control("Text", "Key"), browser.control("Button", "Verify this frame")
        browser.send("GuiUpdateMessage", uuid=key, updates={"value": "open sesame"})
        browser.send("GuiUpdateMessage", uuid=button, updates={"value": True})
        assert wait_until(lambda: len(seen) == 1)
        jpeg, secret, thread = seen[0]
        assert secret == "open sesame" and thread == "nsx-verify"
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(jpeg))), sharp.rgb), "to the byte what was shown"
        assert wait_until(lambda: updates(browser, key, "value")[-1:] == [""]), "the key left its field"
        n = len(browser.pictures)
        browser.send("GuiUpdateMessage", uuid=button, updates={"value": True})
        browser.look((0.0, 2.6, 1.1))
        browser.wait(n + 1)
        assert len(seen) == 1, "pictures go on while it is read, and it is read once"
        may_end.set()
        texts = lambda: [m["updates"].get("_markdown", "") for m in list(browser.messages)  # noqa: E731
                         if m["type"] == "GuiUpdateMessage"]  # fmt: skip
        assert wait_until(lambda: any("Mark found" in str(text) for text in texts()), 5.0)
        browser.send("GuiUpdateMessage", uuid=button, updates={"value": True})
        assert wait_until(lambda: len(seen) == 2) and seen[1][1] == "open sesame", "the key is kept"
    finally:
        may_end.set()
        browser.close()
        viewer.close()


def test_whatever_goes_wrong_is_said_and_harms_nothing() -> None:
    def refuse(jpeg: bytes, key: str) -> str:
        raise UserError("no key", fix="Type it")

    def fail(jpeg: bytes, key: str) -> str:
        raise KeyError("x")

    for verify, jpeg, expected in ((refuse, b"x", "no key"), (fail, b"x", "the log says why"), (fail, None, "no pic")):
        reading = Verification(verify)
        assert reading.start(jpeg, "")
        reading.wait(5)
        assert expected in reading.text and not reading.is_running


def test_a_marked_run_is_read_as_shown_and_compared(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    meta, method = wall_meta(SIZE), marked_wall().method
    opened = OpenedRun(tmp_path, RunConfig(method.config), meta, method, 1)
    unmarked = unmarked_of(opened)
    assert unmarked is not None and unmarked_of(wall_run(meta, tmp_path)) is None
    verify = verifier_of(opened)
    frames = {}
    for side, renderer in (("marked", opened.renderer()), ("unmarked", unmarked)):
        frames[side] = encode_jpeg(to_rgb8(renderer.render(meta.cameras[3])), 90)
    answer = verify(frames["marked"], SECRET)
    assert f"`{OWNER.text}`" in answer and "confidence" in answer and f"{SIZE} × {SIZE} px" in answer
    assert "No mark found" in verify(frames["unmarked"], SECRET) and "No mark" in verify(frames["marked"], "another")
    with pytest.raises(UserError, match="no key"):
        verify(frames["marked"], "")
    monkeypatch.setenv("NSX_STEGA_KEY", SECRET)
    assert OWNER.text in verify(frames["marked"], "")
    direct = RayRenderer(method.base.render_rays, meta.background).render(meta.cameras[3])
    assert torch.equal(unmarked.render(meta.cameras[3]).rgb, direct.rgb)


def test_texts_of_strangers_stay_texts() -> None:
    nothing = extract([View("", np.zeros((64, 64, 3), np.uint8))], KEY, n_random_keys=1)
    assert "No mark found" in answer_text(nothing, 64, 64)
    hostile = Message.from_text("`<b>x`")
    found = dataclasses.replace(nothing, present=True, message=hostile, layout=LAYOUTS[1], p_value=1e-9)
    answer = answer_text(found, 64, 48)
    assert "`'<b>x'`" in answer and answer.count("`") == 2, "it cannot leave its code span"
    assert "64 × 48 px" in answer and "1 in more than 10^9" in answer


@pytest.mark.browser
def test_the_panel_in_a_real_browser(tmp_path) -> None:
    viewer = ViewerServer(ring_of_cameras(4), photos_of(ring_of_cameras(4)), port=0)
    viewer.add_panel(provenance_panel(lambda jpeg, key: f"**Mark found:** {len(jpeg)} bytes under {key}", is_open=True))
    viewer.set_renderer(SphereRenderer())
    try:
        with open_page(viewer.link(), tmp_path / "profile", 1100, 1000) as page:
            assert settles(page, lambda text: "Verify this frame" in text and "px" in text), "the panel and a picture"
            page.evaluate("[...document.querySelectorAll('button')].find(b=>b.innerText.includes('Verify')).click()")
            assert settles(page, lambda text: "Mark found" in text)
            page.screenshot(tmp_path / "page.png")
            assert settles(page, lambda text: "Provenance" in text) and page.errors == []
    finally:
        viewer.close()


def settles(page: Page, condition: Callable[[str], bool], timeout: float = 60.0) -> bool:
    """Wait until the words on the page fulfil a condition."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        page.listen(0.5)
        if condition(str(page.evaluate("document.body.innerText"))):
            return True
    return False
