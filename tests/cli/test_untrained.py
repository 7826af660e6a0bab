"""A capture without any training: judged, shown, and as a preview of a training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from nerfstudio_ext.cli import main
from nerfstudio_ext.fields.gnt_weights import Architecture, GntModel, save_gnt
from nerfstudio_ext.methods import gnt_config
from nerfstudio_ext.training.runs import find_run, open_run
from tests.cli.tiny_capture import TINY_METHOD, write_capture

SIZES = Architecture(depth=1, width=16, n_features=8, feature_width=8, feature_blocks=(1, 1, 1))


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A network of random weights; it takes the place of the shipped one."""
    path = tmp_path / "weights.safetensors"
    save_gnt(GntModel(SIZES, torch.Generator().manual_seed(0)), path)
    monkeypatch.setattr(gnt_config, "SHIPPED", path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return path


def judge(tmp_path: Path, *words: object) -> dict:
    report = tmp_path / "report.json"
    assert main(["eval", *map(str, words), "--max-images", "1", "--json", str(report)]) == 0
    return json.loads(report.read_text())


def test_a_capture_is_judged_beside_its_baselines(tmp_path: Path, weights: Path):
    capture = write_capture(tmp_path / "ball")
    runs = tmp_path / "runs"
    found = judge(tmp_path, capture, "--method", "gnt", "--runs-dir", runs)
    assert found["step"] == 0 and found["method"] == "gnt"
    assert set(found["baselines"]) == {"nearest source", "depth-free blend"}
    for scores in found["baselines"].values():
        assert scores["gain"] == pytest.approx(found["psnr"] - scores["psnr"])
    assert found["paper_protocol"]["n"] == 1 and "second pixel" in found["paper_protocol"]["about"]
    run = find_run(runs)
    assert open_run(run).config.method.depth == 1, "the sizes are those of the weights"
    again = judge(tmp_path, run)
    assert again["psnr"] == found["psnr"] and "baselines" not in again
    assert judge(tmp_path, run, "--baselines")["baselines"] == found["baselines"]


def test_baselines_belong_to_gnt(tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture[str]):
    capture = write_capture(tmp_path / "ball")
    words = ["--output-dir", str(tmp_path), "--max-steps", "1", "--no-viewer", "--max-images", "0", *TINY_METHOD]
    assert main(["train", "ngp", str(capture), *words]) == 0
    assert main(["eval", str(find_run(tmp_path)), "--baselines"]) == 2
    assert "GNT's sources" in capsys.readouterr().err


def test_a_capture_is_shown(tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch):
    report = tmp_path / "view.json"

    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("nerfstudio_ext.cli.view.wait_for_interrupt", interrupt)
    capture = write_capture(tmp_path / "ball")
    words = ["--method", "gnt", "--runs-dir", str(tmp_path / "runs"), "--port", "0", "--json", str(report)]
    assert main(["view", str(capture), *words]) == 130
    assert json.loads(report.read_text())["step"] == 0


def test_a_preview_is_shown_while_a_field_trains(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    shown: dict[str, float] = {}
    monkeypatch.setattr(
        "nerfstudio_ext.viewer.server.ViewerServer.set_preview",
        lambda self, renderer, name, psnr: shown.update({name: psnr}),
    )
    capture = write_capture(tmp_path / "ball")
    words = ["--output-dir", str(tmp_path), "--max-steps", "2", "--port", "0", "--max-images", "0", *TINY_METHOD]
    assert main(["train", "ngp", str(capture), "--preview", "gnt", *words]) == 0
    assert list(shown) == ["GNT preview"] and 0 < shown["GNT preview"] < 60
    assert f"{shown['GNT preview']:.1f} dB until training is better" in capsys.readouterr().out
