"""report.html: one page that needs nothing else, says the truth and shows no text as markup."""

from __future__ import annotations

import html.parser
import math
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nerfstudio_ext.errors import UserError
from nerfstudio_ext.renderer import RayRenderer
from nerfstudio_ext.training.config import TrainConfig
from nerfstudio_ext.training.evaluate import EvalResult, ImageScore, evaluate
from nerfstudio_ext.training.machine import describe_machine
from nerfstudio_ext.training.metrics_log import read_metrics
from nerfstudio_ext.training.report import ReportContent, report_views, training_notes, write_report
from nerfstudio_ext.training.report_cameras import camera_layout
from nerfstudio_ext.training.report_charts import Level, clock, line_chart, short
from nerfstudio_ext.training.trainer import Trainer, TrainResult
from tests.training.tiny import tiny_meta, tiny_trainer


class Reader(html.parser.HTMLParser):
    """Checks nesting and keeps what matters."""

    VOID = {"meta", "img", "input", "circle", "path"}

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.sources += [value or "" for name, value in attrs if name in ("src", "href", "srcset")]
        if tag not in self.VOID or tag == "path":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        return None

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Trainer, TrainResult]:
    trainer, _ = tiny_trainer(tmp_path_factory.mktemp("run"), TrainConfig(max_steps=80, steps_per_log=4))
    result = trainer.train()
    trainer.run.close()
    return trainer, result


def content_of(trainer: Trainer, result: TrainResult, tmp_path: Path) -> ReportContent:
    renderer = RayRenderer(trainer.method.render_rays, trainer.scene.meta.background)
    scores = evaluate(renderer, trainer.scene, "test", output_dir=tmp_path)
    return ReportContent(
        run=trainer.run.path,
        config=trainer.run.config,
        meta=trainer.scene.meta,
        steps=result.steps,
        metrics=read_metrics(trainer.run.metrics),
        timings={"loading": 1.0, "compiling": 0.2, "training": 65.0},
        evaluation=scores,
        views=report_views(trainer.scene, scores, renders=tmp_path),
        machine=describe_machine(),
        notes=training_notes(result),
    )


def test_the_page_is_whole_and_needs_nothing_else(trained: tuple[Trainer, TrainResult], tmp_path: Path) -> None:
    content = content_of(*trained, tmp_path)
    path = write_report(tmp_path / "report.html", content)
    page = path.read_text()
    reader = Reader()
    reader.feed(page)
    assert reader.open == []
    assert reader.sources
    assert all(source.startswith("data:image/jpeg;base64,") for source in reader.sources)
    assert not re.search(r"https?://|@import|url\(", page)
    assert content.evaluation is not None
    for text in ("tiny scene", f"{content.evaluation.psnr:.2f}", "80", "1:05", "nsx view", "Held-out".lower()):
        assert text in reader.text or text in reader.text.lower(), text
    assert page.count('class="curve"') == 4
    assert len(content.views) == 1
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".tmp")] == []


def test_the_pictures_are_the_ones_that_were_compared(trained: tuple[Trainer, TrainResult], tmp_path: Path) -> None:
    trainer, _ = trained
    content = content_of(*trained, tmp_path)
    view = content.views[0]
    renderer = RayRenderer(trainer.method.render_rays, trainer.scene.meta.background)
    assert content.evaluation is not None
    (again,) = report_views(trainer.scene, content.evaluation, renderer=renderer)
    assert (view.render, view.truth, view.error) == (again.render, again.truth, again.error)
    (tmp_path / "truth.jpg").write_bytes(view.truth)
    truth = np.asarray(Image.open(tmp_path / "truth.jpg")).astype(float)
    assert np.abs(truth - trainer.scene.images.pixels(0)).mean() < 4
    assert report_views(trainer.scene, content.evaluation) == []


def test_best_and_worst_are_among_the_views(tmp_path: Path) -> None:
    trainer, _ = tiny_trainer(tmp_path, TrainConfig(max_steps=1))
    meta = replace(trainer.scene.meta, split=replace(trainer.scene.meta.split, test=tuple(range(6))))
    scene = replace(trainer.scene, meta=meta)
    scores = EvalResult("tiny", "test", tuple(ImageScore(i, f"{i}", [7, 3, 9, 1, 5, 4][i], 0.5) for i in range(6)))
    views = report_views(scene, scores, renderer=RayRenderer(trainer.method.render_rays))
    assert [view.psnr for view in views] == [9, 7, 5, 4, 3, 1]


def test_texts_from_outside_are_shown_as_text(trained: tuple[Trainer, TrainResult], tmp_path: Path) -> None:
    evil = '<script>alert("x")</script>&'
    content = content_of(*trained, tmp_path)
    meta = replace(content.meta, name=evil, kind=evil, image_names=tuple(f"{evil}{i}" for i in range(6)))
    views = [replace(view, name=evil) for view in content.views]
    config = replace(content.config, source=replace(content.config.source, path=evil), changes=(evil,))
    other = replace(content, meta=meta, views=views, config=config, notes=[evil], machine={evil: evil}, run=Path(evil))
    page = write_report(tmp_path / "evil.html", other).read_text()
    assert page.count("<script>") == 1
    assert "&lt;script&gt;" in page


def test_an_empty_run_still_has_a_page(trained: tuple[Trainer, TrainResult], tmp_path: Path) -> None:
    trainer, _ = trained
    bare = ReportContent(trainer.run.path, trainer.run.config, trainer.scene.meta, 0, [], {})
    page = write_report(tmp_path / "bare.html", bare).read_text()
    assert "Too short for curves" in page
    assert "nan" not in re.sub(r"<style>.*</style>", "", page)
    with pytest.raises(UserError, match="report cannot be written"):
        write_report(tmp_path / "nowhere" / "report.html", bare)


@pytest.mark.parametrize(
    "values", [[1.0, 2.0], [5.0] * 40, [0.0, 1e-9], [-1e9, 1e9], [1e-8, 1.0], [None, 1.0, math.nan, 2.0]]
)
@pytest.mark.parametrize("is_log", [False, True])
def test_curves_stay_in_their_frame(values: list[float | None], is_log: bool) -> None:
    x = [float(i) for i in range(len(values))]
    svg = line_chart(x, values, is_log=is_log, level=Level(1.5, "goal"))
    if "<svg" not in svg:
        assert is_log, "only a logarithm may leave too few values"
        return
    numbers = re.findall(r"-?\d+\.\d+", re.search(r'class="curve" d="([^"]+)"', svg)[1])  # type: ignore[index]
    xs, ys = [float(v) for v in numbers[::2]], [float(v) for v in numbers[1::2]]
    assert all(50 <= v <= 480 for v in xs)
    assert all(-1 <= v <= 250 for v in ys)
    assert "nan" not in svg


def test_a_rising_curve_rises() -> None:
    svg = line_chart([0.0, 1.0, 2.0], [10.0, 20.0, 30.0], is_smoothed=False)
    d = re.search(r'class="curve" d="M([^"]+)"', svg)
    assert d is not None
    heights = [float(pair.split()[1]) for pair in d[1].split("L")]
    assert heights == sorted(heights, reverse=True)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (31.4159, "31.4"),
        (0.00213, "0.00213"),
        (3e-6, "3e-6"),
        (151_000, "151 k"),
        (1.234e6, "1.23 M"),
        (0, "0"),
        (950, "950"),
    ],
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert short(value) == text


def test_durations_are_readable() -> None:
    assert [clock(s) for s in (0.4, 45, 185, 7380)] == ["0 s", "45 s", "3:05", "2:03:00"]


def test_cameras_are_where_they_are() -> None:
    """Six cameras on a unit circle around the origin, looking inwards, seen from above."""
    (above, svg), (side, flat) = camera_layout(tiny_meta())
    assert (above, side) == ("From above", "From the side")
    corners = [
        np.array([[float(v) for v in pair.split()] for pair in d.split("L")])
        for d in re.findall(r'class="camera \w+" d="M([^Z]+)Z', svg)
    ]
    assert len(corners) == 6
    centres, ahead = np.stack([c[0] for c in corners]), np.stack([c[1:].mean(0) for c in corners])
    middle = centres.mean(0)
    radii = np.linalg.norm(centres - middle, axis=1)
    assert radii == pytest.approx(np.full(6, radii[0]), rel=0.02)
    assert (np.linalg.norm(ahead - middle, axis=1) < radii).all(), "they look inwards"
    heights = [float(d.split()[1]) for d in re.findall(r'class="camera \w+" d="M([^L]+)L', flat)]
    assert max(heights) - min(heights) < 0.2
    assert svg.count("camera test") == 1


def test_a_far_stray_does_not_shrink_the_others() -> None:
    meta = tiny_meta()
    cameras = list(meta.cameras)
    far = cameras[0].c2w.clone()
    far[:, 3] = 1e6
    cameras[0] = replace(cameras[0], c2w=far)
    strayed = replace(meta, cameras=type(meta.cameras)(cameras), points=np.full((5, 3), np.nan, np.float32))
    svg = camera_layout(strayed)[0][1]
    xs = [float(x) for x in re.findall(r'class="camera train" d="M(-?[\d.]+) ', svg)]
    assert max(xs) - min(xs) > 100


def test_what_went_wrong_is_said(trained: tuple[Trainer, TrainResult]) -> None:
    result = trained[1]
    assert training_notes(result) == []
    notes = training_notes(replace(result, n_skipped=1, n_rollbacks=2, exit_code=130, stopped_by="SIGINT"))
    assert len(notes) == 3
    assert notes[0].startswith("1 step was skipped")
    assert "2 times" in notes[1]
    assert "SIGINT" in notes[2]


@pytest.mark.browser
def test_it_fits_a_phone(trained: tuple[Trainer, TrainResult], tmp_path: Path, chromium: str) -> None:
    """No sideways scrolling at 360 pixels, measured by the page itself in a frame of that width."""
    write_report(tmp_path / "report.html", content_of(*trained, tmp_path))
    probe = tmp_path / "probe.html"
    probe.write_text(
        '<iframe id="f" src="report.html" style="width:360px;height:800px;border:0"></iframe><pre id="o"></pre><script>'
        "const f=document.getElementById('f');f.onload=()=>{const d=f.contentDocument.documentElement;"
        "document.getElementById('o').textContent='width '+d.scrollWidth+' images '+"
        "[...f.contentDocument.images].filter(i=>i.complete&&i.naturalWidth>0).length}</script>"
    )
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--virtual-time-budget=4000",
    ]
    command = [chromium, *flags, "--allow-file-access-from-files", "--dump-dom", probe.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)
    found = re.search(r"width (\d+) images (\d+)", done.stdout)
    assert found is not None, done.stdout[-2000:]
    assert int(found[1]) <= 360
    assert int(found[2]) == 4, "photo, render, the photo wiped over it, error"


def test_images_are_not_needed_for_a_reading(trained: tuple[Trainer, TrainResult], tmp_path: Path) -> None:
    """Every picture has a text for those who do not see it."""
    page = write_report(tmp_path / "report.html", content_of(*trained, tmp_path)).read_text()
    assert all("alt=" in tag for tag in re.findall(r"<img[^>]*>", page))
    assert all("aria-label=" in tag for tag in re.findall(r"<svg[^>]*>", page))
    assert torch.is_grad_enabled()
