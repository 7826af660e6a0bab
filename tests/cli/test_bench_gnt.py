"""`nsx bench gnt` at a small size: both forms give one picture, and every figure is there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nerfstudio_ext import bench_gnt
from nerfstudio_ext.cli import main


@pytest.mark.slow
def test_both_forms_agree_and_all_figures_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    sizes = {"SIDE": 32, "N_VIEWS": 3, "N_SAMPLES": 8, "N_RAYS": 32, "PAIRS": 1}
    for name, value in sizes.items():
        monkeypatch.setattr(bench_gnt, name, value)
    monkeypatch.setattr(bench_gnt, "first_picture_seconds", lambda: 1.5)
    report = tmp_path / "bench.json"
    assert main(["bench", "gnt", "--json", str(report)]) == 0
    found = json.loads(report.read_text())
    assert set(found["ratios"]) == {"render", "render_exact", "train"} and found["first_picture_s"] == 1.5
    assert all(ratio > 0 for ratio in found["ratios"].values())
    assert found["difference_exact"] < 1e-3, "the fused form gives the picture of the plain one"
    assert found["difference"] < 5e-2, "16-bit products keep it"
    assert found["peak_mb"] is None or 0 <= found["peak_mb"] < 400
