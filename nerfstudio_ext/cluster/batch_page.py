"""The report of a batch: one page that needs no other file, with links to what the captures have."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Sequence
from html import escape
from pathlib import Path
from urllib.parse import quote

from PIL import Image, UnidentifiedImageError

from ..training.report_charts import clock
from ..training.report_style import STYLE
from .batch_work import LOG, CaptureRow

_THUMBNAIL_PX = 320
_MAX_PIXELS = 1 << 24
_OWN_STYLE = """
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(300px,1fr));gap:14px}
.card{background:var(--card);border:1px solid var(--line);border-radius:12px;overflow:hidden}
.card.failed,.card.interrupted,.card.skipped{border-color:var(--warm)}
.pair{display:grid;grid-template-columns:1fr 1fr;gap:2px;background:var(--line)}
.pair figure{background:var(--card);position:relative}.pair img{display:block;width:100%;height:auto}
.pair figcaption{position:absolute;left:8px;bottom:8px;background:#000a;color:#fff;border-radius:6px;padding:1px 8px}
.about{padding:12px 15px}.about h3{margin:0 0 4px;font-size:1.05rem}.about p{margin:.3em 0;font-size:.9rem}
.about a{color:var(--accent)}
.bad{color:var(--warm);overflow-wrap:anywhere}
"""


def batch_page(title: str, rows: Sequence[CaptureRow], page: Path) -> str:
    """The page.

    Args:
        title: Its heading.
        rows: The captures.
        page: Where it will lie; links are relative to that.
    """
    n_done = sum(row.state == "done" for row in rows)
    scores = [score for row in rows if isinstance(score := row.result("eval").get("psnr"), (int, float))]
    seconds = sum(step.seconds for row in rows for step in row.steps)
    tiles = [(f"{n_done} of {len(rows)}", "captures done"), (clock(seconds), "work in all")]
    if scores:
        tiles.append((f"{sum(scores) / len(scores):.2f}<i>dB</i>", "mean PSNR"))
    tiled = "".join(f"<div class=tile><b>{value}</b><span>{about}</span></div>" for value, about in tiles)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}{_OWN_STYLE}</style></head><body><main>"
        f"<h1>{escape(title)}</h1><div class=tiles>{tiled}</div>"
        f"<section class=cards>{''.join(_card(row, page) for row in rows)}</section>"
        f"<section>{_table(rows)}</section></main></body></html>\n"
    )


def _card(row: CaptureRow, page: Path) -> str:
    figures = []
    score = row.result("eval")
    if isinstance(score.get("psnr"), (int, float)):
        figures.append(f"<b>{score['psnr']:.2f} dB</b>, SSIM {score.get('ssim', 0):.3f}")
    if isinstance(row.result("train").get("steps"), int):
        figures.append(f"{row.result('train')['steps']:,} steps")
    if isinstance(row.result("process").get("registered"), int):
        figures.append(f"{row.result('process')['registered']} of {row.result('process')['photos']} photos placed")
    faults = "".join(
        f"<p class=bad>{escape(step.name)} {escape(step.state)}: {escape(step.error)}</p>"
        for step in row.steps
        if step.state != "done"
    )
    links = "  ".join(f'<a href="{_link(file, page)}">{escape(name)}</a>' for name, file in _files(row))
    return (
        f'<div class="card {row.state}">{_pictures(row)}<div class=about><h3>{escape(row.name)}</h3>'
        f"<p>{' &middot; '.join(figures)}</p>{faults}<p>{links}</p></div></div>"
    )


def _table(rows: Sequence[CaptureRow]) -> str:
    names = list(dict.fromkeys(step.name for row in rows for step in row.steps))
    head = "".join(f"<th>{name}</th>" for name in names)
    lines = []
    for row in rows:
        steps = {step.name: step for step in row.steps}
        cells = ""
        for name in names:
            step = steps.get(name)
            told = "" if step is None else clock(step.seconds) if step.state == "done" else step.state
            cells += f"<td>{escape(told)}</td>"
        lines.append(f"<tr><td>{escape(row.name)}</td>{cells}</tr>")
    return f"<h2>Times</h2><table><tr><th>capture</th>{head}</tr>{''.join(lines)}</table>"


def _files(row: CaptureRow) -> list[tuple[str, Path]]:
    """What a reader may want to open, where it is there."""
    wanted = [("poses", row.result("process").get("report"))]
    run = row.result("train").get("run")
    wanted += [("report", None if run is None else Path(run) / "report.html")]
    wanted += [("pictures", row.result("eval").get("pictures")), ("film", row.result("render").get("output"))]
    wanted += [("marked run", row.result("embed").get("run")), ("log", Path(row.folder) / LOG)]
    return [(name, Path(file)) for name, file in wanted if file is not None and Path(file).exists()]


def _link(file: Path, page: Path) -> str:
    return escape(quote(os.path.relpath(file.resolve(), page.resolve().parent).replace(os.sep, "/")))


def _pictures(row: CaptureRow) -> str:
    """A photo and a render of a held-out view, as far as there are any."""
    run, seen = row.result("train").get("run"), row.result("eval").get("pictures")
    found = []
    for name, folder, ending in (("photo", run and Path(run) / "thumbnails", "*.jpg"),
                                 ("render", seen and Path(seen) / "renders", "*.png")):  # fmt: skip
        files = sorted(Path(folder).glob(ending)) if folder else []
        encoded = _thumbnail(files[0]) if files else ""
        if encoded:
            picture = f'<img alt="{name}" src="data:image/jpeg;base64,{encoded}">'
            found.append(f"<figure>{picture}<figcaption>{name}</figcaption></figure>")
    return f"<div class=pair>{''.join(found)}</div>" if found else ""


def _thumbnail(file: Path) -> str:
    try:
        with Image.open(file, formats=["JPEG", "PNG"]) as picture:
            if picture.width * picture.height > _MAX_PIXELS:
                return ""
            small = picture.convert("RGB")
    except (OSError, UnidentifiedImageError, ValueError):
        return ""
    small.thumbnail((_THUMBNAIL_PX, _THUMBNAIL_PX))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=85)
    return base64.b64encode(buffer.getvalue()).decode()
