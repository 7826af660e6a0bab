"""The capture doctor: what was photographed, what the solver made of it, and what to photograph better."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from .photo_check import Photo, SkippedPhoto
from .sfm_solution import MatchSummary, PoseSolution
from .write_transforms import camera_to_world, write_whole

BLUR_RATIO = 0.35
"""Sharpness below this share of its neighbours' median marks a photo as blurred: scenes vary by 2, shake by 5."""
EXPOSURE_STEPS = 1.5
"""Spread of exposure, in stops, that shows as seams in a scene."""
BRIGHTNESS_JUMP = 1.6
"""Ratio of mean brightness against the neighbours' median."""
WEAK_LINKS = 3
"""Overlapping partners below which one blurred photo can break a scene in two."""
POOR_ERROR_PX = 2.0
"""Mean reprojection error, in pixels per 1000 pixels of image width, above which poses look blurred in renders."""
TURNED_SHARE = 0.9
"""Share of overlapping pairs, above which a turn on the spot or a flat wall explains the whole capture."""
NEIGHBOURS = 5


@dataclass(frozen=True)
class CaptureFacts:
    """Everything a report is made of.

    Attributes:
        source: What the user passed.
        photos: Usable photos in capture order.
        names: Their file names in the output folder.
        skipped: Files left out.
        matches: From the solver, or None when it gave none.
        solution: The cameras, or None when there are none.
        up: Rotation that makes +z up, [3,3]; None without a solution.
        problem: The error that ended the work, "" when there was none.
        seconds: Wall time per stage.
        settings: The options, for people.
        frames: For a video: how many frames were compared and taken.
        image_folder: Folder of the photos in the output folder.
    """

    source: str
    photos: Sequence[Photo]
    names: Sequence[str]
    skipped: Sequence[SkippedPhoto]
    matches: MatchSummary | None
    solution: PoseSolution | None
    up: np.ndarray | None
    problem: str
    seconds: Mapping[str, float]
    settings: Mapping[str, object]
    frames: Mapping[str, int] | None = None
    image_folder: str = "images"


def build_report(facts: CaptureFacts) -> dict[str, Any]:
    """The report as plain data: `summary`, `advice`, `photos`, `skipped`, `cameras`, `attempts`, `seconds`."""
    photos = _photo_rows(facts)
    report: dict[str, Any] = {
        "schema": 1,
        "kind": "capture_report",
        "version": __version__,
        "source": facts.source,
        "summary": _summary(facts, photos),
        "advice": [],
        "image_folder": facts.image_folder,
        "photos": photos,
        "skipped": [{"file": item.name, "reason": item.reason} for item in facts.skipped],
        "seconds": {name: round(value, 2) for name, value in facts.seconds.items()},
        "settings": dict(facts.settings),
    }
    if facts.solution is not None:
        solution = facts.solution
        report["cameras"] = {
            str(key): {"model": c.model, "width": c.width, "height": c.height, "params": list(c.params)}
            for key, c in solution.cameras.items()
        }
        report["attempts"] = list(solution.attempts)
        report["cpu_seconds"] = {name: round(value, 2) for name, value in solution.cpu_seconds.items()}
        report["solver"] = {"name": "pycolmap", "version": solution.version}
    report["advice"] = _advice(report, facts)
    return report


def write_report(facts: CaptureFacts, root: Path) -> Path:
    """Write `capture_report.json` and `capture_report.html` into `root`; returns the path of the page."""
    from .capture_page import render_page

    report = build_report(facts)
    text = json.dumps(report, indent=1, allow_nan=False, ensure_ascii=True)
    write_whole(root / "capture_report.json", text.encode())
    page = root / "capture_report.html"
    write_whole(page, render_page(report, facts).encode("utf-8", "backslashreplace"))
    return page


def _photo_rows(facts: CaptureFacts) -> list[dict[str, Any]]:
    solved = {photo.name: photo for photo in facts.solution.photos} if facts.solution else {}
    partners = [0] * len(facts.photos)
    for a, b, _ in facts.matches.links if facts.matches else ():
        partners[a] += 1
        partners[b] += 1
    sharpness = [photo.sharpness for photo in facts.photos]
    brightness = [photo.brightness for photo in facts.photos]
    rows = []
    for i, (photo, name) in enumerate(zip(facts.photos, facts.names, strict=True)):
        row: dict[str, Any] = {
            "file": photo.name,
            "image": name,
            "width": photo.info.width,
            "height": photo.info.height,
            "sharpness": round(photo.sharpness, 2),
            "brightness": round(photo.brightness, 1),
            "focal_px_exif": photo.focal_px and round(photo.focal_px, 1),
            "is_blurred": photo.sharpness < blur_limit(sharpness, i),
            "is_exposure_jump": not 1 / BRIGHTNESS_JUMP
            < (photo.brightness + 1) / (_around(brightness, i) + 1)
            < BRIGHTNESS_JUMP,
            "registered": name in solved,
        }
        if facts.matches:
            row |= {"n_features": facts.matches.n_keypoints[i], "n_overlapping": partners[i]}
        if name in solved:
            error = solved[name].error_px
            row |= {"n_points": solved[name].n_points, "error_px": error if error is None else round(error, 3)}
        rows.append(row)
    return rows


def blur_limit(sharpness: Sequence[float], i: int) -> float:
    """Sharpness below which photo `i` counts as blurred or empty beside its neighbours."""
    return BLUR_RATIO * _around(sharpness, i)


def doubts_about_cameras(facts: CaptureFacts) -> list[str]:
    """Why the cameras that were found may be wrong, one sentence or two for each reason; empty without cameras."""
    solution, photos = facts.solution, facts.photos
    if solution is None:
        return []
    doubts = []
    if solution.baseline_share < 0.05:
        doubts.append("The cameras stood almost on one spot: depth is uncertain. Walk around the subject.")
    elif solution.matches.turned_share > TURNED_SHARE:
        doubts.append(
            "Nearly all photos could also show a flat wall, or be taken from one spot: depth is uncertain. Photograph "
            "something with depth, from several sides."
        )
    if solution.n_models > 1:
        doubts.append(f"The solver found {solution.n_models} unconnected pieces and kept the largest.")
    width = max((photo.info.width for photo in photos), default=1000)
    if solution.error_px > POOR_ERROR_PX * width / 1000:
        doubts.append(
            f"Points miss their place by {solution.error_px:.1f} px on average. Something moved, the lens focused or "
            "zoomed between photos, or the focal length in EXIF is wrong."
        )
    known = [photo.focal_px / max(photo.info.width, photo.info.height) for photo in photos if photo.focal_px]
    if known:
        found = statistics.median([c.params[0] / max(c.width, c.height) for c in solution.cameras.values()])
        ratio = found / statistics.median(known)
        if not 1 / 1.3 < ratio < 1.3:
            doubts.append(
                f"EXIF states {1 / ratio:.2g} times the focal length that the photos show; the photos were believed."
            )
    return doubts


def _around(values: Sequence[float], i: int) -> float:
    """Median of the values just before and after position `i`."""
    near = [*values[max(0, i - NEIGHBOURS) : i], *values[i + 1 : i + 1 + NEIGHBOURS]]
    return statistics.median(near) if near else values[i]


def _summary(facts: CaptureFacts, photos: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    exposures = [photo.exif.exposure_ev for photo in facts.photos if photo.exif.exposure_ev is not None]
    n_registered = sum(row["registered"] for row in photos)
    summary: dict[str, Any] = {
        "n_files": len(photos) + len(facts.skipped),
        "n_photos": len(photos),
        "n_skipped": len(facts.skipped),
        "n_registered": n_registered,
        "registered_share": round(n_registered / max(len(photos), 1), 4),
        "sharpness_median": round(statistics.median([p.sharpness for p in facts.photos]), 2) if photos else None,
        "n_blurred": sum(row["is_blurred"] for row in photos),
        "n_exposure_jumps": sum(row["is_exposure_jump"] for row in photos),
        "exposure_spread_stops": round(max(exposures) - min(exposures), 2) if exposures else None,
        "problem": facts.problem,
    }
    if facts.frames:
        summary["video_frames"] = dict(facts.frames)
    if facts.matches:
        groups = facts.matches.groups()
        summary["largest_group"] = len(groups[0]) if groups else 0
        summary["n_groups"] = len(groups)
    if facts.solution:
        solution = facts.solution
        tracks = solution.points[:, 7] if len(solution.points) else np.zeros(1)
        summary |= {
            "n_models": solution.n_models,
            "n_points": len(solution.points),
            "n_observations": solution.n_observations,
            "mean_track_length": round(float(tracks.mean()), 2),
            "mean_error_px": round(solution.error_px, 3),
            "baseline_share": round(solution.baseline_share, 4),
            "principal_point_refined": solution.principal_point_refined,
            "turn_covered_deg": round(_turn_covered(facts), 0),
        }
    return summary


def _turn_covered(facts: CaptureFacts) -> float:
    """Degrees of the full turn around the cameras' common target that are not in the largest gap."""
    solution, up = facts.solution, facts.up
    if solution is None or up is None or len(solution.photos) < 3:
        return 0.0
    c2w = np.stack([up @ camera_to_world(photo.cam_from_world) for photo in solution.photos])
    heading = np.sort(np.degrees(np.arctan2(c2w[:, 1, 2], c2w[:, 0, 2])))
    gaps = np.diff(np.append(heading, heading[0] + 360))
    return float(360 - gaps.max())


def _advice(report: Mapping[str, Any], facts: CaptureFacts) -> list[str]:
    """What to photograph better, the most important first."""
    summary, photos = report["summary"], report["photos"]
    advice = []
    missing = [row["file"] for row in photos if not row["registered"]]
    if facts.solution and missing:
        advice.append(
            f"{len(missing)} photos could not be placed ({_few(missing)}). Take more photos between these and the "
            "rest, in small steps with 60-80 % overlap."
        )
    if summary.get("n_groups", 1) > 1 and summary["largest_group"] < 0.9 * len(photos):
        advice.append(
            f"The photos fall into groups that do not overlap; the largest has {summary['largest_group']} of "
            f"{len(photos)}. Connect them by photos that show parts of both."
        )
    blurred = [row["file"] for row in photos if row["is_blurred"]]
    if blurred:
        advice.append(f"{len(blurred)} photos are blurred ({_few(blurred)}). Stand still, use more light.")
    spread = summary["exposure_spread_stops"]
    if spread is not None and spread > EXPOSURE_STEPS:
        advice.append(f"Exposure differs by {spread:.1f} stops between photos. Lock exposure and white balance.")
    elif summary["n_exposure_jumps"]:
        jumps = [row["file"] for row in photos if row["is_exposure_jump"]]
        advice.append(f"Brightness jumps at {_few(jumps)}. Lock exposure, and do not shoot against windows or lamps.")
    weak = [row["file"] for row in photos if row.get("n_overlapping", WEAK_LINKS) < WEAK_LINKS]
    if weak:
        advice.append(
            f"{len(weak)} photos overlap with fewer than {WEAK_LINKS} others ({_few(weak)}). Take more around them."
        )
    if facts.matches and statistics.median(facts.matches.n_keypoints) < 300:
        advice.append("The photos show little texture. Lay patterned cloth or newspaper around the subject.")
    doubts = doubts_about_cameras(facts)
    if facts.solution and not doubts and summary["registered_share"] == 1 and len(photos) < 30:
        doubts = ["All photos could be placed. More of them (30 to 100) would show more of the scene sharply."]
    return advice + doubts


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
