"""The numbers of a run over time."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest

from nerfstudio_ext.training import metrics_log
from nerfstudio_ext.training.metrics_log import LossWindow, MetricsLog, psnr_of, read_metrics


def test_a_window_averages_and_restores() -> None:
    window = LossWindow()
    window.add({"a": 1.0, "b": 0.1}, 10)
    window.add({"a": 4.0}, 20)
    again = LossWindow()
    again.load_state(window.state())
    for w in (window, again):
        w.add({"a": 1.0, "b": 0.2}, 5)
        assert w.means() == {"a": 2.0, "b": pytest.approx(0.1)}
        assert (w.n_steps, w.n_rays) == (3, 35)
    assert window.sums == again.sums
    window.clear()
    assert window.means() == {}


@pytest.mark.parametrize(("mse", "psnr"), [(1.0, 0.0), (0.01, 20.0), (0.0, 100.0)])
def test_psnr(mse: float, psnr: float) -> None:
    assert psnr_of(mse) == pytest.approx(psnr)
    assert math.isnan(psnr_of(None))
    assert math.isnan(psnr_of(math.nan))


def test_lines_are_json_and_a_cut_line_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path)
    log.write({"step": 1, "loss": 0.1 + 0.2, "psnr": math.nan})
    log.write({"step": 2, "loss": math.inf})
    log.close()
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"step": 1, "loss": 0.1 + 0.2, "psnr": None},
        {"step": 2, "loss": None},
    ]
    with path.open("a") as file:
        file.write('[1]\n{"step": "x"}\n{"step": 3, "lo')
    assert [line["step"] for line in read_metrics(path)] == [1, 2]
    assert read_metrics(tmp_path / "none.jsonl") == []


def test_tensorboard_is_written_when_it_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[tuple[str, float, int]] = []

    class Writer:
        def __init__(self, folder: str, purge_step: int) -> None:
            written.append(("purge", purge_step, 0))

        def add_scalar(self, name: str, value: float, step: int) -> None:
            written.append((name, value, step))

        def close(self) -> None:
            written.append(("close", 0, 0))

    monkeypatch.setattr(metrics_log.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(metrics_log.importlib, "import_module", lambda name: SimpleNamespace(SummaryWriter=Writer))
    log = MetricsLog(tmp_path / "m.jsonl", 40, tmp_path / "tensorboard")
    log.write({"step": 60, "loss": 0.5, "psnr": math.nan})
    log.close()
    assert written == [("purge", 41, 0), ("train/loss", 0.5, 60), ("close", 0, 0)]


def test_without_tensorboard_nothing_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_log.importlib.util, "find_spec", lambda name: None)
    MetricsLog(tmp_path / "m.jsonl", 0, tmp_path / "tensorboard").close()
    assert not (tmp_path / "tensorboard").exists()
