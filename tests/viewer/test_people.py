"""Several people, each with their own picture and controls; what a reload keeps; paths, renders and downloads."""

from __future__ import annotations

import io
import json
import math
import time
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from nerfstudio_ext.camera_paths import CropBox, camera_path_from_bytes, orbit
from nerfstudio_ext.cameras import Camera
from nerfstudio_ext.exporters import FrameOptions, write_frames
from nerfstudio_ext.renderer import CancelToken, Frame
from nerfstudio_ext.viewer import ViewerServer
from nerfstudio_ext.viewer.looks import Side
from nerfstudio_ext.viewer.pictures import to_rgb8
from nerfstudio_ext.viewer.render_queue import ExportKind, ExportRequest, RenderQueue
from nerfstudio_ext.viewer.server import Site
from tests.viewer.fakes import AzimuthRenderer, FakeBrowser, SphereRenderer, photos_of, ring_of_cameras
from tests.viewer.test_server import status, wait_until


@pytest.fixture
def viewer(tmp_path):
    cameras = ring_of_cameras(6)
    site = Site(folder=tmp_path, photo_names=[f"{i}.png" for i in range(6)], exports={"points": points_kind()})
    made = ViewerServer(cameras, photos_of(cameras), port=0, site=site)
    made.set_renderer(SphereRenderer())
    yield made
    made.close()


def points_kind() -> ExportKind:
    def run(request: ExportRequest, progress, cancel):
        file = request.folder / f"{request.name}.ply"
        request.folder.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{request.options} {request.crop is not None}")
        return [file]

    return ExportKind("Points", "A cloud.", run, {"n": ("Number", 1, 1000, 10)}, {"axis": ("Up axis", ("z", "y"))})


def visit(viewer: ViewerServer, role: str = "owner", session: str | None = None) -> FakeBrowser:
    browser = FakeBrowser(viewer.port, role, session)  # type: ignore[arg-type]
    browser.look()
    browser.wait(1)
    return browser


def look_of(viewer: ViewerServer, browser: FakeBrowser) -> Any:
    return next(desk.look for desk in viewer._visitors.desks.values() if desk.visitor.session == browser.session)


def downloads(browser: FakeBrowser, timeout: float = 30.0) -> tuple[str, bytes]:
    """The file a browser was offered last, put together."""
    start = browser.wait_message(lambda m: m["type"] == "FileTransferStartDownload", timeout)
    parts: dict[int, bytes] = {}

    def is_whole(message: dict[str, Any]) -> bool:
        for each in list(browser.messages):
            if each["type"] == "FileTransferPart" and each["transfer_uuid"] == start["transfer_uuid"]:
                parts[each["part_index"]] = each["content"]
        return len(parts) == start["part_count"]

    browser.wait_message(is_whole, timeout)
    return start["filename"], b"".join(parts[i] for i in range(start["part_count"]))


def test_everyone_has_their_own_output_size_and_crop(viewer) -> None:
    one, two = visit(viewer), visit(viewer, "watcher")
    one.set("Dropdown", "Output", "alpha")
    one.set("Slider", "Max size", 384)
    one.set("Checkbox", "Crop to a box", True)
    assert wait_until(lambda: look_of(viewer, one).crop is not None)
    assert look_of(viewer, one).side == Side(output="alpha") and look_of(viewer, one).max_side == 384
    assert look_of(viewer, two).side == Side() and look_of(viewer, two).crop is None
    one.quiet(0.4)
    two.quiet(0.4)
    mine, theirs = one.pictures[-1].rgb, two.pictures[-1].rgb
    assert mine.shape == (240, 384, 3) and np.ptp(mine, 2).max() < 8, "grey"
    assert theirs.shape == (400, 640, 3) and np.ptp(theirs, 2).max() > 60, "in colour"
    one.close()
    two.close()


def test_a_reload_keeps_picture_place_and_path(viewer) -> None:
    browser = visit(viewer)
    browser.set("Dropdown", "Output", "depth")
    browser.look((0.5, 2.5, 1.2))
    browser.click("Add this view")
    desk = lambda: next(iter(viewer._visitors.desks.values()))  # noqa: E731
    assert wait_until(lambda: len(desk().editor.draft.keys) == 1 and desk().look.side.output == "depth")
    viewer.refresh_panels()
    session = browser.session
    browser.close()
    assert wait_until(lambda: not viewer._visitors.desks)
    again = FakeBrowser(viewer.port, "owner", session)
    again.look()
    again.wait(1)
    placed = again.wait_message(lambda m: m["type"] == "SetCameraPositionMessage" and not m.get("initial", False))
    assert np.allclose(placed["position"], (0.5, 2.5, 1.2))
    again.control("Button", "Add this view")
    assert desk().look.side.output == "depth" and len(desk().editor.draft.keys) == 1
    stranger = visit(viewer)
    assert look_of(viewer, stranger).side.output == "rgb", "another session is another state"
    again.close()
    stranger.close()


def test_the_renderer_is_shared_fairly(viewer) -> None:
    viewer.set_renderer(AzimuthRenderer(seconds=0.01))
    crowd = [FakeBrowser(viewer.port) for _ in range(4)]
    for step in range(40):
        for i, browser in enumerate(crowd):
            browser.look((0.1 * i + 0.001 * step, 2.0, 1.0), size=(200, 120))
        time.sleep(0.04)
    counts = [len(browser.pictures) for browser in crowd]
    assert min(counts) >= 0.5 * np.mean(counts), counts
    for browser in crowd:
        browser.close()


def test_a_second_run_beside_the_first(viewer) -> None:
    viewer.set_renderer(SphereRenderer(tint=0.5), "dim")
    browser = visit(viewer)
    browser.set("Dropdown", "Other run", "dim")
    browser.set("Dropdown", "Mode", "wipe")
    assert wait_until(lambda: look_of(viewer, browser).compare.mode == "wipe")
    browser.pictures.clear()
    picture = browser.wait_for(lambda p: p.rgb.shape == (400, 640, 3)).rgb.astype(float)
    whole = to_rgb8(SphereRenderer().render(next(iter(viewer._visitors.desks.values())).view.camera(640)))
    left = np.abs(picture[:, :310] - whole[:, :310]).mean()
    right = np.abs(picture[:, 330:] - whole[:, 330:]).mean()
    assert left < 4 and right > 15
    browser.close()


def test_the_crop_box_follows_its_gizmo(viewer) -> None:
    browser = visit(viewer)
    browser.set("Checkbox", "Crop to a box", True)
    gizmo = browser.wait_message(lambda m: m["type"] == "TransformControlsMessage" and m["name"] == "/crop/gizmo")
    browser.send("TransformControlsUpdateMessage", name=gizmo["name"], wxyz=(1.0, 0.0, 0.0, 0.0),
                 position=(0.25, -0.5, 0.125), owner=gizmo["owner"])  # fmt: skip
    assert wait_until(lambda: look_of(viewer, browser).crop.center == (0.25, -0.5, 0.125))
    browser.close()


def add_keys(viewer: ViewerServer, browser: FakeBrowser, n: int = 3) -> Any:
    """Walk around and set keys."""
    desk = next(iter(viewer._visitors.desks.values()))
    browser.control("Button", "Add this view")
    for i in range(n):
        browser.look((2.6 * math.cos(0.6 * i), 2.6 * math.sin(0.6 * i), 1.1))
        assert wait_until(lambda i=i: abs(desk.view.position[1] - 2.6 * math.sin(0.6 * i)) < 1e-6)
        browser.click("Add this view")
        assert wait_until(lambda i=i: len(desk.editor.draft.keys) == i + 1)
    return desk


def test_a_path_is_edited_played_and_downloaded(viewer) -> None:
    browser = visit(viewer, "watcher")
    desk = add_keys(viewer, browser)
    gizmo = browser.wait_message(lambda m: m["type"] == "TransformControlsMessage" and m["name"] == "/path/gizmo")
    browser.send("TransformControlsUpdateMessage", name=gizmo["name"], wxyz=(1.0, 0.0, 0.0, 0.0),
                 position=(1.0, 2.0, 3.0), owner=gizmo["owner"])  # fmt: skip
    assert wait_until(lambda: desk.editor.draft.keys[2].c2w[:, 3].tolist() == [1.0, 2.0, 3.0])
    browser.set("ButtonGroup", "Order", "Earlier")
    assert wait_until(lambda: desk.editor.draft.keys[1].c2w[:, 3].tolist() == [1.0, 2.0, 3.0])
    browser.set("ButtonGroup", "Edit", "Copy")
    assert wait_until(lambda: len(desk.editor.draft.keys) == 4)
    browser.set("ButtonGroup", "Edit", "Delete")
    assert wait_until(lambda: len(desk.editor.draft.keys) == 3)
    browser.set("Checkbox", "Own FOV", True)
    assert wait_until(lambda: desk.editor.draft.keys[desk.editor.chosen].fov_y_deg is not None)
    browser.set("Checkbox", "Loop", True)
    assert wait_until(lambda: desk.editor.draft.is_loop)
    browser.set("Slider", "Frame", 2)
    assert wait_until(lambda: desk.look.pose is not None), "shows the path's camera"
    browser.click("Play")
    assert wait_until(lambda: desk.editor.player.frame > 2)
    browser.look((0.0, 2.6, 1.1))
    assert wait_until(lambda: desk.look.pose is None and not desk.editor.player.is_playing), "moving ends it"
    browser.click("Download")
    name, content = downloads(browser)
    path = camera_path_from_bytes(content)
    assert name == "path.json" and path.is_loop and len(path.keys) == 3
    assert torch.allclose(path.cameras.c2w, desk.editor.path().cameras.c2w, atol=1e-9)
    browser.close()


def test_the_gizmo_of_a_key_is_out_of_the_way_while_the_camera_stands_in_it(viewer) -> None:
    browser = visit(viewer, "watcher")
    desk = add_keys(viewer, browser, 2)
    assert wait_until(lambda: desk.editor._gizmo is not None and not desk.editor._gizmo.visible)
    browser.look((-2.6, 0.0, 1.1))
    assert wait_until(lambda: desk.editor._gizmo.visible), "from elsewhere the key can be dragged"
    browser.look(tuple(desk.editor.draft.keys[1].c2w[:, 3].tolist()))
    assert wait_until(lambda: not desk.editor._gizmo.visible)
    browser.close()


def test_paths_are_saved_opened_and_uploaded(viewer, tmp_path) -> None:
    browser = visit(viewer)
    desk = add_keys(viewer, browser)
    browser.set("Text", "Name", "../../my path")
    browser.click("Save with the run")
    saved = tmp_path / "camera_paths"
    assert wait_until(lambda: saved.is_dir() and bool(list(saved.glob("*.json"))))
    (file,) = saved.glob("*.json")
    assert file.parent == saved and json.loads(file.read_text())["camera_type"] == "perspective"
    ngp = {"path": [{"R": [0, 0, 0, 1], "T": [0.5, 0.5, 0.1 * i], "fov": 50, "scale": 1, "slice": 0} for i in range(4)]}
    viewer.room.frame = orbit_frame()
    content = json.dumps(ngp).encode()
    button = browser.control("UploadButton", "Open a file")
    browser.send("FileTransferStartUpload", source_component_uuid=button, transfer_uuid="u", filename="x.json",
                 mime_type="application/json", part_count=1, size_bytes=len(content))  # fmt: skip
    browser.send("FileTransferPart", source_component_uuid=button, transfer_uuid="u", part_index=0, content=content)
    assert wait_until(lambda: len(desk.editor.draft.keys) == 4), "instant-ngp's path"
    browser.set("ButtonGroup", "Begin with", "Orbit")
    assert wait_until(lambda: len(desk.editor.draft.keys) > 8 and desk.editor.draft.is_loop)
    browser.close()


def orbit_frame() -> Any:
    from nerfstudio_ext.scenes.model import SceneFrame

    return SceneFrame.identity()


def test_a_path_is_rendered_here_and_offered_for_download(viewer, tmp_path) -> None:
    browser = visit(viewer)
    for label, value in (("Width", 64), ("Height", 48)):
        browser.set("Number", label, value)
    browser.set("Dropdown", "Format", "Pictures (png)")
    browser.set("Dropdown", "Path", "Training views")
    browser.set("Text", "Name", "views")  # the first text of the page is the path's; both take it
    time.sleep(0.3)
    browser.click("Render")
    name, content = downloads(browser)
    assert name.endswith(".zip") and content[:2] == b"PK"
    (job,) = viewer.room.queue.jobs()
    assert job.state == "done" and job.preview is not None and len(job.files) == 6
    camera = viewer.room.training_views.cameras[0]
    expected = to_rgb8(SphereRenderer().render(camera))
    assert np.array_equal(np.asarray(Image.open(job.files[0])), expected), "the batch renderer's own pixels"
    browser.close()


def test_a_capture_is_lossless_at_any_size_and_equals_the_batch(viewer, tmp_path) -> None:
    browser = visit(viewer)
    browser.quiet(0.4)
    widths = [m for m in browser.messages if m["type"] == "GuiNumberMessage" and m["props"]["label"] == "Width"]
    browser.send("GuiUpdateMessage", uuid=widths[-1]["uuid"], updates={"value": 320})
    browser.click("Capture PNG")
    name, content = downloads(browser)
    picture = np.asarray(Image.open(io.BytesIO(content)))
    view = next(iter(viewer._visitors.desks.values())).view
    assert name.endswith("320x200.png") and picture.shape == (200, 320, 3)
    import dataclasses

    from nerfstudio_ext.camera_paths import from_views
    from nerfstudio_ext.cameras import Cameras

    camera = dataclasses.replace(view, width=320, height=200).camera(320)
    (file,) = write_frames(SphereRenderer(), from_views(Cameras([camera])), tmp_path / "batch.png", FrameOptions())
    assert np.array_equal(np.asarray(Image.open(file)), picture)
    browser.close()


def test_other_exports_get_their_options_and_are_offered(viewer) -> None:
    browser = visit(viewer)
    browser.set("Number", "Number", 7)
    browser.set("Dropdown", "Up axis", "y")
    browser.click("Export points")
    name, content = downloads(browser)
    assert name == "points.ply" and content == b"{'n': 7, 'axis': 'y'} False"
    browser.close()


class SlowRenderer:
    """A frame takes a while, and can be interrupted."""

    background = (0.0, 0.0, 0.0)

    def render(self, camera: Camera, *, cancel: CancelToken | None = None) -> Frame:
        for _ in range(20):
            time.sleep(0.005)
            if cancel is not None:
                cancel.check()
        return Frame(torch.zeros(camera.height, camera.width, 3), torch.ones(camera.height, camera.width), None)

    def cropped(self, box: CropBox) -> SlowRenderer:
        return self


def test_jobs_are_done_in_turn_cancelled_and_told_apart(tmp_path) -> None:
    queue = RenderQueue(tmp_path)
    path = orbit(ring_of_cameras(4), seconds=2.0, fps=10.0, size=(32, 24))

    def film(progress):
        renderer = progress.polite(SlowRenderer())
        return write_frames(renderer, path, tmp_path / "a", progress=progress, cancel=progress.cancel)

    def fail(progress):
        raise ValueError("no")

    queue.start()
    first, second, third = queue.submit("a", film), queue.submit("b", fail), queue.submit("c", film)
    queue.cancel(third.number)
    assert wait_until(lambda: first.done >= 2), "progress"
    assert first.total == 20 and first.seconds_left is not None and first.preview is not None
    queue.cancel(first.number)
    assert wait_until(lambda: first.state == "cancelled" and second.state == "failed")
    assert third.state == "cancelled" and "ValueError: no" in second.text
    assert 0 < len(list((tmp_path / "a").glob("*.png"))) < 20
    again = queue.submit("again", film)
    assert wait_until(lambda: again.state == "done", 20.0), "goes on where it stopped"
    assert len(again.files) == 20
    queue.close()


def test_points_are_picked_and_make_the_scene_metric(viewer) -> None:
    browser = visit(viewer)
    desk = next(iter(viewer._visitors.desks.values()))
    browser.click("Click two points")
    browser.wait_message(lambda m: m["type"] == "ScenePointerEnableMessage")
    for u in (0.45, 0.55):
        browser.send("ScenePointerMessage", event_type="click", ray_origin=(0.0, 0.0, 0.0), modifier=None,
                     ray_direction=(1.0, 0.0, 0.0), screen_pos=((u, 0.5),))  # fmt: skip
        time.sleep(0.3)
    browser.set("Number", "Metres", 2.0)
    time.sleep(0.2)
    browser.click("Make the scene metric")
    world = viewer.room.world
    assert wait_until(lambda: world.chosen is not None and world.chosen.is_metric)
    camera = desk.view.camera(1024)
    rays = camera.rays_through(torch.tensor([[0.45, 0.5], [0.55, 0.5]]) * torch.tensor([camera.width, camera.height]))
    from tests.viewer.fakes import shade_spheres

    depth = shade_spheres(rays).depth
    points = rays.rays_o + depth[:, None] * rays.rays_d
    assert world.units_per_training == pytest.approx(2.0 / float((points[1] - points[0]).norm()), rel=0.02)
    assert (viewer.room.folder / "world_frame.json").is_file()
    browser.close()


def test_training_is_steered_by_the_owner_only(viewer) -> None:
    viewer.room.has_trainer = True
    viewer.publish(SphereRenderer(), status())
    owner, watcher = visit(viewer), visit(viewer, "watcher")
    slider = owner.control("Slider", "Learning rate")
    watcher.control("Dropdown", "Output")
    owner.send("GuiUpdateMessage", uuid=slider, updates={"value": -1.0})
    assert wait_until(lambda: viewer.lr_factor() == pytest.approx(0.1))
    owner.click("Save snapshot")
    assert wait_until(viewer.has_request)
    request = viewer.next_request()
    assert request is not None and request.kind == "save" and not viewer.has_request()
    viewer.answered("Saved", (100,))
    viewer.refresh_panels()
    owner.set("Dropdown", "Snapshot", "step 100")
    owner.click("Go on from snapshot")
    assert wait_until(viewer.has_request)
    assert viewer.next_request().step == 100
    assert not any(m["type"] == "GuiSliderMessage" and m["props"]["label"] == "Learning rate" for m in watcher.messages)
    owner.close()
    watcher.close()


def test_a_restarted_viewer_takes_its_old_visitors_back(tmp_path) -> None:
    first = ViewerServer(ring_of_cameras(4), port=0)
    cookie_browser = FakeBrowser(first.port)
    port, session = first.port, cookie_browser.session
    cookie_browser.close()
    first.close()
    second = ViewerServer(ring_of_cameras(4), port=port)
    second.set_renderer(AzimuthRenderer())
    again = FakeBrowser(second.port, "owner", session)
    again.look((0.5, 2.0, 1.0))
    again.wait(1)
    again.close()
    second.close()
