"""Stability: nothing disturbed loses nothing, more disturbance loses more, and an adversary more than chance."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
from PIL import Image

from nerfstudio_ext.cli import main
from nerfstudio_ext.progress import SilentProgress
from nerfstudio_ext.rays import RayOutputs, Rays
from nerfstudio_ext.training.runs import open_run
from nerfstudio_ext.training.stability import StabilityCurve, measure_stability
from tests.cli.tiny_capture import TINY_METHOD
from tests.methods.ball_scene import look, make_meta, make_scene

MLP = "--width 16 --coarse-samples 12 --fine-samples 8 --rays-per-batch 96 --mlp-lr 5e-3".split()
METHODS = {
    "aug-hash": ["aug", "--field", "hash", *TINY_METHOD],
    "aug-mlp": ["aug", *MLP],
}


@pytest.fixture(scope="module")
def runs(tiny_capture: Path, tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    for name, words in METHODS.items():
        common = ["--no-viewer", "--max-steps", "20", "--max-images", "0", "--output-dir", str(folder / name)]
        assert main(["train", str(tiny_capture), *words, *common]) == 0
    return {"ngp": tiny_run, **{name: folder / name for name in METHODS}}


class SeesTheBall:
    """A perfect method: it renders what is there."""

    def render_rays(self, rays: Rays) -> RayOutputs:
        rgb, alpha = look(rays)
        return RayOutputs(rgb * alpha[:, None], alpha, alpha)


def curves_of(run: Path) -> dict[str, StabilityCurve]:
    from nerfstudio_ext.cli.evaluate import scene_of_run

    opened = open_run(run)
    scene = scene_of_run(opened.config.source, opened.meta, SilentProgress())
    return {curve.name: curve for curve in measure_stability(opened.method, scene, max_images=2)}


def test_wrong_poses_and_jitter_cost_more_the_worse_they_are():
    curves = measure_stability(SeesTheBall(), make_scene(make_meta(n_cameras=18)), max_images=2)
    assert [curve.name for curve in curves] == ["pose", "jitter"]
    for curve in curves:
        assert curve.psnr[0] > 40  # 8-bit photos
        assert all(a < b for a, b in itertools.pairwise(curve.drops))


@pytest.mark.parametrize("name", ["ngp", *METHODS])
def test_curves(runs: dict[str, Path], name: str):
    curves = curves_of(runs[name])
    assert list(curves) == ["pose", "jitter", "features", "attack"]
    for curve in curves.values():
        assert curve.drops[0] == 0
        assert curve.psnr[0] == pytest.approx(curves["pose"].psnr[0], abs=0.3)  # marching starts elsewhere
        assert all(value > 0 for value in curve.psnr)
    assert curves["attack"].drops[-1] > curves["features"].drops[-1]
    assert curves["attack"].drops[-1] > curves["attack"].drops[1] > 0


def test_it_is_repeatable(runs: dict[str, Path]):
    assert curves_of(runs["aug-mlp"]) == curves_of(runs["aug-mlp"])


def test_the_command_writes_json_and_a_plot(runs: dict[str, Path], tmp_path: Path):
    result = tmp_path / "result.json"
    words = ["eval", str(runs["aug-hash"]), "--stability", "--max-images", "1", "--output-dir", str(tmp_path / "out")]
    assert main([*words, "--json", str(result)]) == 0
    document = json.loads(result.read_text())
    assert set(document["stability"]) == {"pose", "jitter", "features", "attack"}
    pose = document["stability"]["pose"]
    assert len(pose["levels"]) == len(pose["psnr"]) == len(pose["drop"]) == 5
    assert pose["psnr"][0] == pytest.approx(document["psnr"], abs=1e-3)
    with Image.open(document["stability_plot"]) as picture:
        assert picture.size[0] == 4 * 360


@pytest.mark.parametrize("name", ["aug-hash", "aug-mlp"])
def test_augmented_runs_resume_and_render(runs: dict[str, Path], name: str, tmp_path: Path):
    words = ["render", str(runs[name]), "--path", "test", "--output-path", str(tmp_path / "frames"), "--size", "16x12"]
    assert main(words) == 0
    assert len(list((tmp_path / "frames").rglob("*.png"))) >= 2
    words = ["train", "--resume", str(runs[name]), "--max-steps", "22", "--no-viewer", "--max-images", "0"]
    assert main(words) == 0
    assert open_run(runs[name]).step == 22
