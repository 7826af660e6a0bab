"""What the pose solver is asked to do: the ladder of attempts, the cameras assumed, the job of one attempt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from .photo_check import Photo
from .sfm_process import default_command

EXHAUSTIVE_LIMIT = 60
"""Photos up to which the second attempt matches all pairs: 1770 pairs of fine features take about 3 minutes."""
DEFAULT_FOCAL = 0.85
"""Focal length without EXIF, in long image sides: between a phone's 0.72 and COLMAP's 1.2."""
MIN_PHOTOS_PER_LENS = 8
"""Photos of one camera that its eight intrinsics are fitted to; fewer get a model with five."""
MAX_FEATURES = 8192
MAX_ERROR_PX = 4.0
"""Observations farther off, in pixels of the working picture, are dropped before the last adjustment."""

QUICK_MAPPING = {
    "ba_global_frames_ratio": 1.3,
    "ba_global_points_ratio": 1.3,
    "ba_global_max_refinements": 2,
    "ba_local_max_refinements": 1,
}
"""Fewer adjustments on the way (17 -> 13 CPU s on 50 photos); the last adjustment makes the result the same."""
RELAXED_MAPPING = {
    "min_num_matches": 10,
    "mapper.init_min_num_inliers": 40,
    "mapper.init_min_tri_angle": 6.0,
    "mapper.abs_pose_min_num_inliers": 15,
    "mapper.abs_pose_min_inlier_ratio": 0.15,
}


@dataclass(frozen=True)
class Attempt:
    """One rung of the ladder.

    Attributes:
        name: For people.
        n_neighbours: Best partners matched per photo.
        window: Photos before and after each that are matched in any case.
        first_octave: 0: features from the working picture's own size on; -1: from its double, four times the work.
        peak_threshold: Contrast a feature needs; COLMAP's own is 0.0067.
        uses_exif: Take the focal length from EXIF as known.
        database: Attempts of the same database share features and matches.
        mapper: Options of COLMAP's mapper that differ from its defaults.
    """

    name: str
    n_neighbours: int
    window: int
    first_octave: int = 0
    peak_threshold: float = 0.02 / 3
    uses_exif: bool = True
    database: str = "features"
    mapper: Mapping[str, float] = field(default_factory=lambda: QUICK_MAPPING)


@dataclass(frozen=True)
class SolverOptions:
    """How poses are solved.

    Attributes:
        matching: See `ProcessOptions`.
        lens: "perspective" (COLMAP's OPENCV) or "fisheye" (OPENCV_FISHEYE).
        is_ordered: The photos are frames of a video.
        threads: Threads of the solver.
        time_limit_s: Wall seconds for all attempts together.
        seed: Seed of every random choice.
        command: Program and first arguments of the child; the job file's path is added.
    """

    matching: Literal["auto", "sequential", "exhaustive"] = "auto"
    lens: Literal["perspective", "fisheye"] = "perspective"
    is_ordered: bool = False
    threads: int = 2
    time_limit_s: float = 3600.0
    seed: int = 0
    command: tuple[str, ...] = field(default_factory=default_command)


def plan_attempts(n_photos: int, options: SolverOptions) -> list[Attempt]:
    """The ladder: pairs that promise overlap, then all pairs of finer features, then a relaxed start."""
    if options.matching == "sequential":
        first = Attempt("neighbours in time", 0, 10)
    elif options.matching == "exhaustive":
        first = Attempt("all pairs", n_photos - 1, 0)
    elif options.is_ordered:
        first = Attempt("neighbours in time and overlapping frames", 8, 6)
    else:
        first = Attempt("overlapping photos", 15, 2)
    is_small = n_photos <= EXHAUSTIVE_LIMIT or options.matching == "exhaustive"
    second = Attempt(
        "all pairs, finer features" if is_small else "more pairs, finer features",
        n_photos - 1 if is_small else 30, 10, first_octave=-1, peak_threshold=0.004, uses_exif=False,
        database="fine-features", mapper={},
    )  # fmt: skip
    relaxed = Attempt(**{**vars(second), "name": "relaxed start", "mapper": RELAXED_MAPPING})
    return [first, second, relaxed]


def group_cameras(photos: Sequence[Photo]) -> list[list[int]]:
    """Positions of the photos that share one camera, which then has one set of intrinsics.

    They share it when size, maker, model and focal length agree; without a model, also the folder must.
    """
    groups: dict[tuple[object, ...], list[int]] = {}
    for i, photo in enumerate(photos):
        focal = photo.exif.focal_diagonals
        folder = "" if photo.exif.model else photo.name.rpartition("/")[0]
        key = (photo.info.width, photo.info.height, photo.exif.model, focal and round(focal, 3), folder)
        groups.setdefault(key, []).append(i)
    return list(groups.values())


def _lens_model(options: SolverOptions, n_photos: int) -> str:
    """COLMAP's lens model; with one focal length and no tangential terms where few photos cannot tell them."""
    if options.lens == "fisheye":
        return "OPENCV_FISHEYE" if n_photos >= MIN_PHOTOS_PER_LENS else "RADIAL_FISHEYE"
    return "OPENCV" if n_photos >= MIN_PHOTOS_PER_LENS else "RADIAL"


def make_job(
    photos: Sequence[Photo],
    names: Sequence[str],
    image_dir: Path,
    work_dir: Path,
    output: Path,
    attempt: Attempt,
    options: SolverOptions,
) -> dict[str, Any]:
    """Everything the child needs, as JSON."""
    cameras = []
    for group in group_cameras(photos):
        first = photos[group[0]]
        width, height = first.work_size
        known = first.focal_px if attempt.uses_exif else None
        focal = known * width / first.info.width if known else DEFAULT_FOCAL * max(width, height)
        cameras.append({
            "model": _lens_model(options, len(group)), "width": width, "height": height,
            "focal": focal, "has_prior": known is not None, "photos": group,
        })  # fmt: skip
    return {
        "database": str(work_dir / f"{attempt.database}.db"), "work_dir": str(photos[0].work.parent),
        "color_dir": str(image_dir), "output": str(output), "threads": options.threads, "seed": options.seed,
        "cameras": cameras,
        "photos": [
            {"work": photo.work.name, "name": name, "width": photo.info.width, "height": photo.info.height}
            for photo, name in zip(photos, names, strict=True)
        ],
        "features": {
            "first_octave": attempt.first_octave, "peak_threshold": attempt.peak_threshold,
            "max_features": MAX_FEATURES, "min_keypoints": 500,
        },
        "pairs": {"n_neighbours": attempt.n_neighbours, "window": attempt.window},
        "mapper": dict(attempt.mapper), "max_error_px": MAX_ERROR_PX,
    }  # fmt: skip
