"""The HTML of report.html: parts of a page as strings, every text from outside escaped."""

from __future__ import annotations

import base64
import math
import time
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from .. import methods
from .config import TrainConfig
from .report_cameras import camera_layout
from .report_charts import Level, clock, line_chart, short
from .report_style import SCRIPT, STYLE

if TYPE_CHECKING:
    from .report import ReportContent, ReportView

_SHORTEST_S = 0.05
_TRAIN_DEFAULTS = {name: field.default for name, field in TrainConfig.__dataclass_fields__.items()}


def page(content: ReportContent) -> str:
    """The whole page."""
    method = methods.method_name(content.config.method)
    sections = [
        _notes(content.notes),
        _views(content.views),
        _curves(content),
        _layout(content),
        _time(content.timings),
        _per_image(content),
        _settings(content),
        _machine(content),
    ]
    title = escape(f"{content.meta.name} - {method}")
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{STYLE}</style></head><body><main>"
        f"{_head(content, method)}{''.join(sections)}{_foot(content)}</main><script>{SCRIPT}</script></body></html>\n"
    )


def _head(content: ReportContent, method: str) -> str:
    split, timings = content.meta.split, content.timings
    tiles: list[tuple[str, str, str]] = []
    if content.evaluation is not None:
        n = len(content.evaluation.per_image)
        tiles.append((f"{content.evaluation.psnr:.2f}", "dB", f"PSNR, {n} held-out photo{'s' * (n != 1)}"))
        tiles.append((f"{content.evaluation.ssim:.3f}", "", "SSIM"))
    elif content.metrics:
        tiles.append((f"{_last(content.metrics, 'psnr'):.2f}", "dB", "PSNR, training rays"))
    if "training" in timings:
        tiles.append((clock(timings["training"]), "", "training"))
    tiles.append((f"{content.steps:,}", "", "steps"))
    if content.metrics:
        tiles.append((short(_last(content.metrics, "rays_per_s")), "", "rays per second"))
    tiles.append((str(len(split.train)), "", "training photos"))
    shown = "".join(
        f'<div class="tile"><b>{escape(value)}<i>{escape(unit)}</i></b><span>{escape(name)}</span></div>'
        for value, unit, name in tiles
    )
    sub = f"{method} &middot; {escape(content.meta.kind)} &middot; {time.strftime('%Y-%m-%d %H:%M')}"
    return (
        f'<header><h1>{escape(content.meta.name)}</h1><p class="sub">{sub}</p></header><div class="tiles">{shown}</div>'
    )


def _notes(notes: Sequence[str]) -> str:
    return "".join(f'<p class="note">{escape(line)}</p>' for line in notes)


def _views(views: Sequence[ReportView]) -> str:
    if not views:
        return ""
    cards = []
    for view in views:
        truth, render, error = (_uri(jpeg) for jpeg in (view.truth, view.render, view.error))
        name = escape(view.name)
        cards.append(
            f'<article class="view{" tall" * view.is_tall}"><div class="pictures">'
            f'<figure><img src="{truth}" alt="photo {name}"><figcaption>photo</figcaption></figure>'
            f'<figure class="wipe"><img src="{render}" alt="render of {name}">'
            '<input type="range" min="0" max="100" value="0" aria-label="wipe the photo over the render">'
            "<figcaption>render</figcaption></figure>"
            f'<figure><img src="{error}" alt="error of {name}"><figcaption>error</figcaption></figure></div>'
            f'<p class="score"><span>{name}</span><span><b>{view.psnr:.2f}</b> dB &ensp; <b>{view.ssim:.3f}</b> SSIM'
            "</span></p></article>"
        )
    legend = (
        '<p class="legend">From the best to the worst. Drag across a render to wipe the photo over it. '
        'Error: <span class="scale"></span> 0 to 25 % of full brightness and more.</p>'
    )
    return _section("Photos that were held out", f'{legend}<div class="views">{"".join(cards)}</div>')


def _curves(content: ReportContent) -> str:
    metrics = content.metrics
    if len(metrics) < 2:
        return _section("Training", '<p class="empty">Too short for curves.</p>')
    x = [float(line.get("train_seconds", 0.0)) for line in metrics]
    level = None
    if content.evaluation is not None:
        level = Level(content.evaluation.psnr, f"held-out photos {content.evaluation.psnr:.2f} dB")
    charts = [
        ("PSNR of training rays, dB", line_chart(x, _column(metrics, "psnr"), unit="dB", level=level)),
        ("Loss", line_chart(x, _column(metrics, "loss"), is_log=True)),
        ("Rays per second", line_chart(x, _column(metrics, "rays_per_s"))),
    ]
    if any(line.get("occupancy") is not None for line in metrics):
        percent = [None if v is None else 100 * v for v in _column(metrics, "occupancy")]
        charts.append(("Occupied space, %", line_chart(x, percent, unit="%", is_smoothed=False)))
    else:
        charts.append(("Learning rate", line_chart(x, _column(metrics, "lr_factor"), is_smoothed=False)))
    figures = "".join(f"<figure><figcaption>{name}</figcaption>{svg}</figure>" for name, svg in charts)
    return _section("Training", f'<div class="charts">{figures}</div><p class="legend">Over training time.</p>')


def _layout(content: ReportContent) -> str:
    if len(content.meta.cameras) == 0:
        return ""
    figures = "".join(
        f"<figure>{svg}<figcaption>{caption}</figcaption></figure>" for caption, svg in camera_layout(content.meta)
    )
    keys = '<span class="key train"></span> training &ensp; <span class="key test"></span> held out &ensp; '
    keys += '<span class="key cube"></span> inner cube, where detail is finest'
    if content.meta.points is not None and len(content.meta.points):
        keys += f" &ensp; {len(content.meta.points):,} points from the pose solver"
    return _section("Cameras", f'<div class="layouts">{figures}</div><p class="legend">{keys}</p>')


def _time(timings: Mapping[str, float]) -> str:
    total = sum(timings.values())
    if total <= 0:
        return ""
    spans = sorted(((k, v) for k, v in timings.items() if v >= _SHORTEST_S), key=lambda span: "eval" in span[0])
    bars, rows = [], []
    for n, (name, seconds) in enumerate(spans):
        bars.append(f'<span class="t{n % 6}" style="flex-grow:{max(seconds / total, 0.004):.4f}"></span>')
        spent = f"{seconds:.1f} s" if seconds < 60 else clock(seconds)
        rows.append(f'<li><span class="key t{n % 6}"></span>{escape(name)} <b>{spent}</b></li>')
    return _section("Time", f'<div class="bar">{"".join(bars)}</div><ul class="times">{"".join(rows)}</ul>')


def _per_image(content: ReportContent) -> str:
    if content.evaluation is None or len(content.evaluation.per_image) < 2:
        return ""
    scores = content.evaluation.per_image
    low, high = min(s.psnr for s in scores), max(s.psnr for s in scores)
    rows = "".join(
        f'<tr><td>{escape(s.file)}</td><td class="meter"><span style="width:'
        f'{15 + 85 * (s.psnr - low) / max(high - low, 1e-9):.0f}%"></span></td>'
        f"<td>{s.psnr:.2f}</td><td>{s.ssim:.3f}</td></tr>"
        for s in scores
    )
    head = "<tr><th>photo</th><th></th><th>PSNR, dB</th><th>SSIM</th></tr>"
    return _section("Every held-out photo", _folded(f"{len(scores)} photos", f"<table>{head}{rows}</table>"))


def _settings(content: ReportContent) -> str:
    data = content.config.to_json()
    defaults: dict[str, Mapping[str, Any]] = {
        "method": methods.config_to_json(type(content.config.method)()),
        "train": _TRAIN_DEFAULTS,
        "source": {},
    }
    tables = []
    for part, name in (("method", "Method"), ("train", "Training"), ("source", "Capture")):
        usual = defaults[part]
        rows = "".join(
            _setting(key, value, bool(usual) and usual.get(key) != value) for key, value in data[part].items()
        )
        tables.append(f"<table><caption>{name}</caption>{rows}</table>")
    changes = "".join(f"<li>{escape(line)}</li>" for line in content.config.changes)
    later = f"<p>Changed later:</p><ul>{changes}</ul>" if changes else ""
    body = f'<div class="settings">{"".join(tables)}</div>{later}<p class="legend">Bold: not the default.</p>'
    return _section("Settings", _folded("all settings", body))


def _setting(name: str, value: object, is_changed: bool) -> str:
    shown = "-" if value is None else escape(str(value))
    return f"<tr{' class=changed' * is_changed}><td>{escape(name)}</td><td>{shown}</td></tr>"


def _machine(content: ReportContent) -> str:
    rows = "".join(f"<tr><td>{escape(k)}</td><td>{escape(v)}</td></tr>" for k, v in content.machine.items())
    return _section("Machine", f'<div class="machine"><table>{rows}</table></div>') if rows else ""


def _foot(content: ReportContent) -> str:
    run = escape(str(content.run))
    return (
        f"<footer><p>Walk through it: <code>nsx view {run}</code></p>"
        f"<p>Make a video: <code>nsx render {run} --path orbit --output-path orbit.mp4</code></p>"
        f"<p>Go on training: <code>nsx train --resume {run}</code></p></footer>"
    )


def _section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{body}</section>"


def _folded(summary: str, body: str) -> str:
    return f"<details><summary>{escape(summary)}</summary>{body}</details>"


def _column(metrics: Sequence[Mapping[str, Any]], name: str) -> list[float | None]:
    return [line.get(name) for line in metrics]


def _last(metrics: Sequence[Mapping[str, Any]], name: str) -> float:
    """Mean of the last few values: single lines are noisy."""
    values = [v for v in _column(metrics[-10:], name) if v is not None]
    return sum(values) / len(values) if values else math.nan


def _uri(jpeg: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()
