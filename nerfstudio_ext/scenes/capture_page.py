"""`capture_report.html`: the capture report as one page without scripts or outside files."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .write_transforms import camera_to_world

if TYPE_CHECKING:
    from .capture_report import CaptureFacts

PLOT_SIZE = 460
MAX_POINTS = 4000
_STYLE = """
:root { color-scheme: light dark; --ink: #1c2126; --soft: #66717c; --line: #d9dee3; --card: #fff; --page: #f5f6f8;
  --good: #1f8a5b; --bad: #c0392b; --warn: #b7791f; --accent: #2f6fb0; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8ebee; --soft: #98a3ad; --line: #343b43; --card: #1d2228;
  --page: #14181c; --good: #4cc38a; --bad: #f07167; --warn: #e0b050; --accent: #6aa9e9; } }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1060px; margin: 0 auto; padding: 24px 20px 60px; }
h1 { font-size: 24px; margin: 0 0 2px; }
h2 { font-size: 17px; margin: 34px 0 10px; }
p.sub { color: var(--soft); margin: 0 0 20px; overflow-wrap: anywhere; }
.card, ul.advice, figure, .photo { background: var(--card); border: 1px solid var(--line); border-radius: 8px; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 10px; }
.card { padding: 10px 14px; }
.card b { display: block; font-size: 21px; font-variant-numeric: tabular-nums; }
.card span, figcaption { color: var(--soft); font-size: 13px; }
.good { color: var(--good); } .bad { color: var(--bad); } .warn { color: var(--warn); }
ul.advice { margin: 0; padding: 12px 14px 12px 32px; }
.plots { display: flex; flex-wrap: wrap; gap: 14px; }
figure { margin: 0; padding: 8px; max-width: 100%; } figure svg { max-width: 100%; height: auto; }
.photos { display: grid; grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); gap: 10px; }
.photo { overflow: hidden; font-size: 12px; }
.photo img { display: block; width: 100%; height: 120px; object-fit: cover; }
.photo > div { padding: 6px 8px 8px; }
.photo.out { border-color: var(--bad); } .photo b { overflow-wrap: anywhere; }
.bar { height: 5px; border-radius: 3px; background: var(--line); margin: 4px 0; }
.bar i { display: block; height: 5px; border-radius: 3px; background: var(--accent); }
.bar.low i { background: var(--bad); }
.table { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
td, th { text-align: left; padding: 3px 18px 3px 0; border-bottom: 1px solid var(--line); font-weight: normal; }
th { color: var(--soft); white-space: nowrap; vertical-align: top; }
"""


def render_page(report: Mapping[str, Any], facts: CaptureFacts) -> str:
    """The page as one string; all texts from the capture are escaped."""
    body = [
        f"<h1>Capture report</h1><p class=sub>{_text(report['source'])}</p>",
        _cards(report["summary"]),
        _advice(report),
        _plots(facts),
        _photos(report["photos"], facts),
        _skipped(report["skipped"]),
        _details(report),
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Capture report</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style></head><body><main>{''.join(body)}</main></body></html>\n"
    )


def _text(value: object) -> str:
    return html.escape(str(value), quote=True)


def _cards(summary: Mapping[str, Any]) -> str:
    share = summary["registered_share"]
    tone = "good" if share >= 0.9 else "warn" if share >= 0.5 else "bad"
    items = [(f"{summary['n_registered']} of {summary['n_photos']}", "photos placed", tone)]
    if summary["n_skipped"]:
        items.append((str(summary["n_skipped"]), "files left out", "warn"))
    if "mean_error_px" in summary:
        items.append((f"{summary['mean_error_px']:.2f} px", "mean reprojection error", ""))
        items.append((f"{summary['n_points']:,}", "scene points", ""))
        items.append((f"{summary['mean_track_length']:.1f}", "photos per point", ""))
        items.append((f"{summary['turn_covered_deg']:.0f}&deg;", "of directions covered", ""))
    items.append((str(summary["n_blurred"]), "blurred photos", "warn" if summary["n_blurred"] else ""))
    if summary["exposure_spread_stops"] is not None:
        items.append((f"{summary['exposure_spread_stops']:.1f}", "stops of exposure spread", ""))
    cards = "".join(
        f'<div class=card><b class="{tone}">{value}</b><span>{label}</span></div>' for value, label, tone in items
    )
    problem = f'<p class="bad">{_text(summary["problem"])}</p>' if summary["problem"] else ""
    return f"{problem}<div class=cards>{cards}</div>"


def _advice(report: Mapping[str, Any]) -> str:
    lines = report["advice"] or ["Nothing to do better: sharp, well overlapping photos."]
    return (
        "<h2>What to photograph better</h2><ul class=advice>" + "".join(f"<li>{_text(x)}</li>" for x in lines) + "</ul>"
    )


def _plots(facts: CaptureFacts) -> str:
    solution, up = facts.solution, facts.up
    if solution is None or up is None:
        return ""
    c2w = np.stack([up @ camera_to_world(photo.cam_from_world) for photo in solution.photos])
    points = solution.points[solution.points[:, 7] >= 3] if len(solution.points) else np.zeros((0, 8))
    xyz, colours = points[:, :3] @ up.T, points[:, 3:6]
    order = {name: i for i, name in enumerate(facts.names)}
    labels = [f"{facts.photos[order[p.name]].name}: {p.n_points} points" for p in solution.photos]
    views = (("From above", (0, 1)), ("From the side", (0, 2)))
    plots = "".join(
        f"<figure>{_plot(c2w, xyz, colours, axes, labels)}<figcaption>{title}</figcaption></figure>"
        for title, axes in views
    )
    return f"<h2>Cameras</h2><div class=plots>{plots}</div>"


def _plot(c2w: np.ndarray, xyz: np.ndarray, colours: np.ndarray, axes: tuple[int, int], labels: Sequence[str]) -> str:
    """One view along an axis as SVG: points in their colours, cameras as wedges; the file's name on hover."""
    centres = c2w[:, :, 3][:, axes]
    near, far = _bounds(centres, xyz[:, axes])
    scale = PLOT_SIZE / float((far - near).max())

    def place(p: np.ndarray) -> np.ndarray:
        flat = (p - (near + far) / 2) * scale
        return np.stack([PLOT_SIZE / 2 + flat[..., 0], PLOT_SIZE / 2 - flat[..., 1]], -1)

    parts = [f'<svg viewBox="0 0 {PLOT_SIZE} {PLOT_SIZE}" width="{PLOT_SIZE}" height="{PLOT_SIZE}" role="img">']
    chosen: np.ndarray = np.linspace(0, max(len(xyz) - 1, 0), min(len(xyz), MAX_POINTS)).astype(int)
    for (x, y), (r, g, b) in zip(place(xyz[chosen][:, axes]), colours[chosen].astype(int), strict=True):
        if 0 <= x <= PLOT_SIZE and 0 <= y <= PLOT_SIZE:
            parts.append(f'<rect x="{x:.0f}" y="{y:.0f}" width="1.6" height="1.6" fill="#{r:02x}{g:02x}{b:02x}"/>')
    size = 13 / scale
    for pose, label in zip(c2w, labels, strict=True):
        corners = [pose[:, 3] + size * (pose[:, 2] + side * 0.45 * pose[:, 0]) for side in (-1, 1)]
        wedge = place(np.stack([pose[:, 3], *corners])[:, axes])
        text = " ".join(f"{x:.1f},{y:.1f}" for x, y in wedge)
        parts.append(
            f'<polygon points="{text}" fill="var(--accent)" fill-opacity=".35" stroke="var(--accent)">'
            f"<title>{_text(label)}</title></polygon>"
        )
    return "".join(parts) + "</svg>"


def _bounds(centres: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A square-ish frame around all cameras and the bulk of the points."""
    near, far = centres.min(0), centres.max(0)
    if len(points):
        near = np.minimum(near, np.percentile(points, 5, axis=0))
        far = np.maximum(far, np.percentile(points, 95, axis=0))
    margin = 0.08 * max(float((far - near).max()), 1e-9)
    return near - margin, far + margin


def _photos(rows: Sequence[Mapping[str, Any]], facts: CaptureFacts) -> str:
    sharpest = max((row["sharpness"] for row in rows), default=1.0) or 1.0
    cells = []
    for row, photo in zip(rows, facts.photos, strict=True):
        is_out = facts.solution is not None and not row["registered"]
        marks = [
            *(["<span class=bad>not placed</span>"] if is_out else []),
            *(["<span class=warn>blurred</span>"] if row["is_blurred"] else []),
            *(["<span class=warn>brightness jumps</span>"] if row["is_exposure_jump"] else []),
        ]
        figures = [f"sharpness {row['sharpness']:.0f}"]
        if row.get("error_px") is not None:
            figures.append(f"{row['error_px']:.2f} px, {row['n_points']} points")
        if "n_overlapping" in row:
            figures.append(f"{row['n_features']} features, overlaps {row['n_overlapping']}")
        low = " low" if row["is_blurred"] else ""
        cells.append(
            f'<div class="photo{" out" if is_out else ""}"><img loading="lazy" alt="" '
            f'src="data:image/jpeg;base64,{photo.thumbnail}"><div><b>{_text(row["file"])}</b>'
            f'<div class="bar{low}"><i style="width:{100 * row["sharpness"] / sharpest:.0f}%"></i></div>'
            f"{'<br>'.join([*figures, *marks])}</div></div>"
        )
    return f"<h2>Photos</h2><div class=photos>{''.join(cells)}</div>" if cells else ""


def _skipped(rows: Sequence[Mapping[str, str]]) -> str:
    if not rows:
        return ""
    lines = "".join(f"<tr><td>{_text(row['file'])}</td><td>{_text(row['reason'])}</td></tr>" for row in rows)
    return f"<h2>Files left out</h2><div class=table><table>{lines}</table></div>"


def _details(report: Mapping[str, Any]) -> str:
    rows = [(f"time: {name}", f"{value:.1f} s") for name, value in report["seconds"].items()]
    rows += [(f"attempt: {a['name']}", f"{a['outcome']} ({a['seconds']:.0f} s)") for a in report.get("attempts", ())]
    for key, camera in report.get("cameras", {}).items():
        values = ", ".join(f"{v:.5g}" for v in camera["params"])
        rows.append((f"camera {key}", f"{camera['model']} {camera['width']}x{camera['height']}: {values}"))
    rows += [(f"setting: {name}", str(value)) for name, value in report["settings"].items()]
    lines = "".join(f"<tr><th>{_text(name)}</th><td>{_text(value)}</td></tr>" for name, value in rows)
    return f"<h2>Details</h2><div class=table><table>{lines}</table></div>"
