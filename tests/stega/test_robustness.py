"""What a mark survives: the table tells marked from unmarked, its attacks do what they say, alarms are counted."""

from __future__ import annotations

import copy
import dataclasses
import json
import xml.etree.ElementTree as Xml
from pathlib import Path

import numpy as np
import pytest
import torch

from nerfstudio_ext.cli import main
from nerfstudio_ext.cli.stega_films import reencode
from nerfstudio_ext.methods.marked import Marked
from nerfstudio_ext.progress import SilentProgress
from nerfstudio_ext.renderer import RayRenderer
from nerfstudio_ext.stages.stega import false_alarms
from nerfstudio_ext.stages.stega.base_views import base_views
from nerfstudio_ext.stages.stega.marked_run import MARK_FILE, render_8bit
from nerfstudio_ext.stages.stega.ordeals import disturbed, picture_ordeals, pruned, quantised, screenshot, suffer
from nerfstudio_ext.stages.stega.robustness import Robustness, RobustnessSettings, film_cameras, measure_robustness
from nerfstudio_ext.training.config import RunConfig
from nerfstudio_ext.training.runs import OpenedRun
from tests.stega.marks import KEY, OWNER, SECRET, public_extractor
from tests.stega.pictures import psnr, sample_picture
from tests.stega.wall_marks import PSNR, READER, SIZE, marked_wall
from tests.stega.wall_scene import wall_meta, wall_photos, wall_run

SETTINGS = RobustnessSettings(
    views=2, size=SIZE, groups=("clean", "screenshot"), film_frames=4, with_base=True, alarm_pairs=600
)


def measure(marked: Marked, settings: RobustnessSettings = SETTINGS, *, photos: bool = True) -> Robustness:
    meta = wall_meta(SIZE)
    scene = wall_photos(meta) if photos else None
    return measure_robustness(marked, meta, scene, READER, settings, reencode, SilentProgress())


@pytest.mark.slow
def test_a_mark_survives_and_its_price_is_told() -> None:
    found = measure(marked_wall().method)
    rows = {(row.group, row.amount): row.read for row in found.rows}
    assert rows["clean", "8 bit"].exact_one == rows["clean", "8 bit"].exact_four == 1
    assert rows["clean", "8 bit"].bit_accuracy > rows["screenshot", "87 %, crop 80 %, q80"].bit_accuracy > 0.6
    assert rows["colours", "8-bit parameters"].exact_four == rows["colours", "1 % noise"].exact_four == 1
    assert rows["whole model", "8-bit parameters"].exact_four == 1
    assert rows["H.264 film", "4 frames"].pictures == 4 and found.film_exact
    near = found.likeness
    assert near["marked against unmarked"].psnr == pytest.approx(PSNR, abs=1.0)
    assert near["marked against unmarked"].worst_psnr <= near["marked against unmarked"].psnr
    assert near["unmarked against photos"].psnr > near["marked against photos"].psnr
    assert found.unmarked_alarms == (0, 4)
    assert found.alarms is not None and found.alarms.pairs >= 600
    assert found.alarms.read == found.alarms.recognised == 0 and found.alarms.closest > 1e-6
    assert found.alarms.bit_agreement == pytest.approx(0.5, abs=0.02)
    assert OWNER.text not in json.dumps(found.to_json())


def test_where_there_is_no_mark_nothing_is_read() -> None:
    unmarked = copy.deepcopy(marked_wall().method)
    with torch.no_grad():
        for table in unmarked.correction.parameters():
            table.zero_()
    settings = dataclasses.replace(SETTINGS, views=1, groups=("clean",), film_frames=0, with_base=False, alarm_pairs=0)
    found = measure(unmarked, settings, photos=False)
    assert all(row.read.exact_one == row.read.exact_four == 0 for row in found.rows)
    assert all(0.35 < row.read.bit_accuracy < 0.65 for row in found.rows)
    assert found.film_exact is None and found.alarms is None and list(found.likeness) == ["marked against unmarked"]
    assert found.likeness["marked against unmarked"].psnr == 100


def test_a_picture_from_kept_views_is_the_rendered_one() -> None:
    meta, method = wall_meta(SIZE), marked_wall().method
    view = base_views(method.base, [meta.cameras[3]])[0]
    assert np.array_equal(
        view.picture(method.correction, meta.background),
        render_8bit(RayRenderer(method.render_rays, meta.background), meta.cameras[3]),
    )
    assert np.array_equal(
        view.picture(None, meta.background),
        render_8bit(RayRenderer(method.base.render_rays, meta.background), meta.cameras[3]),
    )


def test_alarms_are_seen_when_there_are_some(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same count on a marked picture, with the true key smuggled in among the wrong ones."""
    view = base_views(marked_wall().method.base, [wall_meta(SIZE).cameras[3]])[0]
    marked = view.picture(marked_wall().method.correction, (1.0, 1.0, 1.0))
    others = false_alarms.random_keys(19)
    monkeypatch.setattr(false_alarms, "random_keys", lambda count, seed, first: [KEY, *others])
    found = false_alarms.count_false_alarms(
        [marked], KEY, OWNER, READER.layout, public_extractor(), 20, SilentProgress()
    )
    assert (found.pairs, found.read, found.recognised) == (20, 1, 1)


def test_what_happens_to_parameters_is_what_is_said() -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(5000, generator=generator)
    step = float(values.max() - values.min()) / 255
    eight = quantised(values)
    assert len(eight.unique()) <= 256 and float((eight - values).abs().max()) <= step / 2 + 1e-6
    assert torch.equal(quantised(torch.full((9,), 0.3)), torch.full((9,), 0.3))
    sparse = torch.cat([values, torch.zeros(5000)])
    assert int((pruned(sparse) != 0).sum()) == 4000 and float(pruned(values).abs().max()) == float(values.abs().max())
    noisy = disturbed(sparse, generator)
    assert float((noisy - sparse).std() / sparse[:5000].std()) == pytest.approx(0.005, rel=0.1)
    assert not noisy[5000:].any() and torch.equal(pruned(torch.zeros(4)), torch.zeros(4))
    layer = torch.nn.Linear(4, 4)
    before = layer.weight.detach().clone()
    suffer([layer.weight, torch.zeros(1)], lambda tensor, generator: tensor + 1, generator)
    assert torch.equal(layer.weight.detach(), before + 1) and layer.weight.requires_grad


def test_ordeals_are_named_and_do_something() -> None:
    picture = sample_picture(128, 160)
    seen = set()
    for ordeal in picture_ordeals():
        changed = ordeal.change(picture, 1)
        assert changed.dtype == np.uint8 and changed.shape[2] == 3
        assert np.array_equal(changed, picture) == (ordeal.group == "clean")
        seen.add((ordeal.group, ordeal.amount))
    assert len(seen) == len(picture_ordeals()) and ("jpeg", "q75") in seen and ("crop", "keeps 50%") in seen
    shown = screenshot(picture, 1)
    assert shown.shape[0] == pytest.approx(128 * 0.87 * 0.8**0.5, abs=1)


def test_a_film_goes_through_the_encoder_and_back() -> None:
    frames = [np.roll(sample_picture(96, 128), 2 * i, axis=1) for i in range(3)]
    played = reencode(frames)
    assert len(played) == 3 and played[0].shape == (96, 128, 3)
    for shown, frame in zip(played, frames, strict=True):
        assert 28 < psnr(shown, frame) < 60, "in order, and compressed"
    cameras = film_cameras(wall_meta(129), 97, 5)
    assert len(cameras) == 5 and cameras[0].width % 2 == cameras[0].height % 2 == 0


def opened(tmp_path: Path, method: object) -> OpenedRun:
    (tmp_path / MARK_FILE).write_text(json.dumps({"code": "id-127", "settings": {"size": SIZE}}))
    return OpenedRun(tmp_path, RunConfig(marked_wall().method.config), wall_meta(SIZE), method, 1)  # type: ignore[arg-type]


def test_the_command_writes_table_and_chart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import nerfstudio_ext.training.runs as runs

    monkeypatch.setattr(runs, "open_run", lambda path: opened(tmp_path, marked_wall().method))
    words = ["stega", "robustness", str(tmp_path), "--payload-id", OWNER.text, "--key", SECRET, "--views", "2"]
    few = ["--only", "clean", "--film-frames", "0", "--alarm-pairs", "0", "--skip-base"]
    assert main([*words, *few, "--output-dir", str(tmp_path / "out"), "--json", "-"]) == 0
    said = capsys.readouterr()
    result = json.loads(said.out)
    assert result == json.loads((tmp_path / "out" / "robustness.json").read_text())
    assert result["rows"][0]["exact_one"] == 1 and result["code"] == "id-127"
    chart = Xml.fromstring((tmp_path / "out" / "robustness.svg").read_text())
    assert sum(e.tag.endswith("circle") for e in chart) == len(result["rows"]) + 1, "one mark a line, one in the legend"
    assert "not compared with photos" in said.err and OWNER.text not in said.out
    for wrong, why in ((["--only", "x"], "no kind is called"), (["--views", "0"], "is not from")):
        assert main([*words, *wrong]) == 2 and why in capsys.readouterr().err
    assert main([*words[:3], "--text", "hello", "--key", "k"]) == 2
    assert "does not hold 'hello'" in capsys.readouterr().err
    monkeypatch.setattr(runs, "open_run", lambda path: wall_run(wall_meta(SIZE), tmp_path))
    assert main(words) == 2 and "this run is not marked" in capsys.readouterr().err
