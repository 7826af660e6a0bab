"""`nsx view` on a run of every method, on a scene file, and with a second run beside it: no photos, no GPU."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from nerfstudio_ext.cli import main
from nerfstudio_ext.cli.session import Session
from nerfstudio_ext.cli.view_exports import exports_of
from nerfstudio_ext.errors import UserError
from nerfstudio_ext.progress import SilentProgress
from nerfstudio_ext.renderer import CancelToken
from nerfstudio_ext.scenes.model import SceneFrame
from nerfstudio_ext.training.checkpoints import save_checkpoint
from nerfstudio_ext.training.config import RunConfig
from nerfstudio_ext.training.photos import give_photos
from nerfstudio_ext.training.runs import Run, open_run
from nerfstudio_ext.training.scene_file import write_scene_file
from nerfstudio_ext.viewer.render_queue import ExportRequest
from nerfstudio_ext.viewer_bench.browser import FakeBrowser, Received, cookie_from
from tests.methods.ball_scene import make_meta, make_scene
from tests.methods.test_all_methods import TRAINABLE, build, small_config


def write_run(folder: Path, name: str, frame: SceneFrame | None = None) -> Path:
    """An untrained run of a method, as training would leave it."""
    meta = make_meta()
    if frame is not None:
        cameras = meta.frame.to_source(meta.frame.to_training(meta.cameras))
        meta = dataclasses.replace(meta, cameras=cameras, frame=frame)
    method = build(name, meta, 3)
    with Run.create(folder, RunConfig(small_config(name)), meta) as run:
        give_photos(method, make_scene(meta), run.path)
        save_checkpoint(run.checkpoints, 2, method.state_dict(), {})
        return run.path


@pytest.fixture
def visit(monkeypatch, tmp_path):
    """Runs `nsx view` with these words and visits it; returns what was seen and what the command said."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))

    def look(*words: object, output: str = "rgb") -> tuple[Received, dict]:
        report = tmp_path / "view.json"
        seen: list[Received] = []

        def instead_of_waiting() -> None:
            link = json.loads(report.read_text())["url"]
            browser = FakeBrowser(int(link.split(":")[2].split("/")[0]), cookie_from(link))
            browser.look((1.3, 0.0, 0.5), size=(64, 40))
            browser.wait_for(lambda p: p.rgb.shape == (40, 64, 3), timeout=120)
            if output != "rgb":
                before = len(browser.pictures)
                browser.set("Dropdown", "Output", output)
                browser.wait(before + 1, timeout=120)  # its kernels are compiled at first use
            browser.quiet(0.3)
            seen.append(browser.pictures[-1])
            browser.close()
            raise KeyboardInterrupt

        monkeypatch.setattr("nerfstudio_ext.cli.view.wait_for_interrupt", instead_of_waiting)
        assert main(["view", *map(str, words), "--port", "0", "--json", str(report)]) == 130
        return seen[0], json.loads(report.read_text())

    return look


@pytest.mark.parametrize("name", TRAINABLE)
def test_a_run_of_every_method_is_shown(name: str, visit, tmp_path) -> None:
    run = write_run(tmp_path / "outputs", name)
    picture, said = visit(run)
    assert picture.rgb.shape == (40, 64, 3)
    assert said["step"] == 2 and "token=" in said["url"] and said["watcher_url"] != said["url"]


@pytest.mark.parametrize("name", ["ngp", "gnt"])
def test_a_scene_file_needs_nothing_else(name: str, visit, tmp_path) -> None:
    run = write_run(tmp_path / "outputs", name)
    direct, _ = visit(run)
    file = write_scene_file(open_run(run), tmp_path / "alone.nsx")
    shutil.rmtree(tmp_path / "outputs")
    packed, said = visit(file)
    assert np.array_equal(packed.rgb, direct.rgb) and said["run"] == str(file)


def test_two_runs_stand_beside_each_other_in_one_frame(visit, tmp_path) -> None:
    """The second run was trained in another frame of the same capture: it is compared at the same places."""
    frame = SceneFrame(torch.eye(3, dtype=torch.float64), torch.tensor([0.1, 0.0, 0.0], dtype=torch.float64), 1.0)
    one, two = write_run(tmp_path / "a", "ngp"), write_run(tmp_path / "b", "ngp", frame)
    _, said = visit(one, "--compare", two)
    assert len(said["compared"]) == 1


def test_layers_of_the_fast_field_are_offered(visit, tmp_path) -> None:
    picture, _ = visit(write_run(tmp_path / "outputs", "ngp"), output="sample cost")
    assert picture.rgb.shape == (40, 64, 3)


def test_a_run_that_still_trains_is_exported_as_it_was_saved_last(tmp_path) -> None:
    path = write_run(tmp_path / "outputs", "ngp")
    with Run.open(path) as run:
        session = Session(None, None, None, run, None, None)  # type: ignore[arg-type]
        kinds = exports_of(session._saved)
        options = {"n_points": 1000, "axis": "z"}
        request = ExportRequest("cloud", tmp_path, None, None, options)
        files = kinds["points"].run(request, SilentProgress(), CancelToken())  # type: ignore[arg-type]
        assert files[0].read_bytes().startswith(b"ply") and files[0].stat().st_size > 1000
        shutil.rmtree(run.checkpoints)
        with pytest.raises(UserError, match="nothing was saved yet"):
            kinds["scene"].run(request, SilentProgress(), CancelToken())  # type: ignore[arg-type]
