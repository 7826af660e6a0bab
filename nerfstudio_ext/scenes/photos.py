"""From a folder of photos or a video to a posed capture: check, choose, solve, write, report."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..errors import UserError
from ..progress import Progress
from ..strict_json import read_json
from .capture_report import CaptureFacts, blur_limit, doubts_about_cameras, write_report
from .images import MAX_PIXELS, probe_image
from .photo_check import Photo, PhotoCheck, SkippedPhoto, check_photos, list_photos
from .photo_copies import copy_photos, output_names
from .picture_memory import MAX_THREADS, duration, free_disk
from .sfm import PosesNotFound, solve_poses
from .sfm_plan import SolverOptions
from .sfm_process import default_command
from .sfm_solution import PoseSolution
from .video import extract_frames
from .write_transforms import write_transforms

log = logging.getLogger(__name__)

MIN_REGISTERED = 6
MIN_SHARE = 0.2
"""Fewer cameras, or a smaller share of the photos, is not a capture of a scene but a coincidence."""
WARN_SHARE = 0.9
LARGE_PIXELS = 2e9
"""Captures below, 160 photos of 12 MP, are looked at in less than half a minute: nobody waits for an estimate."""
CHECK_PIXELS_PER_S = 200e6
"""Pixels of JPEG files that one thread looks at in a second (12 MP photos, decoded at a quarter of their size)."""
FEATURE_BYTES = 1_500_000
"""Features and matches of a photo in the pose solver's database; measured on captures of 50 to 300 photos."""
_SAMPLED = 8
_LOG = "poses.log"
_REPORT_BYTES = 64 * 2**20


@dataclass(frozen=True)
class ProcessOptions:
    """How photos become a posed capture."""

    matching: Literal["auto", "sequential", "exhaustive"] = "auto"
    """Photos to compare: auto = those that seem to overlap, sequential = neighbours in time, exhaustive = all."""
    lens: Literal["perspective", "fisheye"] = "perspective"
    """Lens of the camera; fisheye for action cameras and lenses wider than about 110 degrees."""
    num_frames_target: int = 120
    """Frames taken from a video; more show more and take longer."""
    feature_megapixels: float = 0.5
    """Size, in megapixels, at which photos are searched for features; the photos themselves keep their size."""
    max_pixels: int = MAX_PIXELS
    """Photos with more pixels are left out."""
    threads: int = 0
    """Threads of the pose solver; 0 = all cores."""
    time_limit: float = 3600.0
    """Seconds after which pose solving is given up."""
    seed: int = 0
    """Seed of every random choice: the same seed and number of threads give the same poses."""
    overwrite: bool = False
    """Replace a capture that is already in the output folder."""
    solver_command: tuple[str, ...] | None = None
    """Program to run instead of the built-in pose solver (for tests)."""


@dataclass(frozen=True)
class ProcessResult:
    """A posed capture on disk.

    Attributes:
        transforms: Path of `transforms.json`.
        n_photos: Usable photos or frames.
        n_registered: Of these, how many have a pose.
        seconds: Wall time of each stage; their sum is the whole time.
        report: Path of `capture_report.html`.
    """

    transforms: Path
    n_photos: int
    n_registered: int
    seconds: dict[str, float]
    report: Path


def process_capture(source: Path, output_dir: Path, options: ProcessOptions, progress: Progress) -> ProcessResult:
    """Find the cameras of a folder of photos or a video, and write a posed capture.

    Written into `output_dir`: `transforms.json`, `sparse_pc.ply`, `images/`, `capture_report.json`,
    `capture_report.html`, `colmap/sparse/0` and `poses.log`. The input is only read; photos that can stay as they are
    become hard links.

    Args:
        source: Folder of photos, or a video file.
        output_dir: Made when missing.
        options: See `ProcessOptions`.
        progress: Receives the stages with time left, and warnings.
    Raises:
        UserError: if the input cannot be used, too few photos are usable or get a pose, or the output folder already
            holds a capture. When poses were tried, the report is written nevertheless.
    """
    made = _check_output(source, output_dir, options)
    clock = _Clock()
    with _work_folder(output_dir, made) as work:
        check, frames = _gather(source, work, options, progress, clock)
        _warn_about_plain(check.photos, progress)
        names = output_names(check.photos)
        copies = work / "images"
        with clock("copy photos"):
            n_converted = copy_photos(check.photos, names, copies, progress)
        if n_converted:
            progress.warn(f"{n_converted} photos were turned upright or converted; the copies are in images/")
        solver = _solver_options(source, options)
        log_path = output_dir / _LOG
        log_path.unlink(missing_ok=True)
        started = time.monotonic()
        facts = CaptureFacts(
            source=str(source), photos=check.photos, names=names, skipped=check.skipped, matches=None, solution=None,
            up=None, problem="", seconds=clock.seconds, settings=_settings(options), frames=frames,
        )  # fmt: skip
        try:
            solution = solve_poses(check.photos, names, copies, work, log_path, solver, progress)
            _check_registered(solution, check.photos)
        except PosesNotFound as error:
            facts = dataclasses.replace(facts, matches=error.matches, solution=error.solution, problem=error.line)
            write_report(facts, output_dir)
            raise
        clock.add_parts(solution.seconds, time.monotonic() - started)
        with clock("write"):
            transforms, report = _write(facts, solution, output_dir, copies, progress)
    _warn_about_missing(facts, solution, progress)
    for doubt in doubts_about_cameras(dataclasses.replace(facts, solution=solution)):
        progress.warn(doubt)
    return ProcessResult(transforms, len(check.photos), len(solution.photos), dict(clock.seconds), report)


class _Clock:
    """Wall seconds per stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - started

    def add_parts(self, parts: dict[str, float] | object, whole: float) -> None:
        """Add stages that another process timed; what they leave of `whole` is its start and end."""
        measured = dict(parts) if isinstance(parts, dict) else {}
        self.seconds |= measured
        self.seconds["start solver"] = max(0.0, whole - sum(measured.values()))


def _gather(
    source: Path, work: Path, options: ProcessOptions, progress: Progress, clock: _Clock
) -> tuple[PhotoCheck, dict[str, int] | None]:
    """The checked photos, and for a video how many frames were compared and taken."""
    grey = work / "grey"
    grey.mkdir()
    pixels = options.feature_megapixels * 1e6
    skipped: list[SkippedPhoto] = []
    frames: dict[str, int] | None = None
    root = source
    if source.is_file():
        root = work / "frames"
        root.mkdir()
        with clock("choose frames"):
            choice = extract_frames(source, root, options.num_frames_target, progress)
        frames = {"compared": choice.n_seen, "taken": len(choice.frames), "left_out": choice.n_left_out}
        paths = sorted(root.glob("frame_*.jpg"))
    else:
        paths, skipped = list_photos(source)
        _say_estimate(paths, work, pixels)
    with clock("check photos"):
        check = check_photos(paths, root, grey, pixels, progress, skipped=skipped, max_pixels=options.max_pixels)
    return check, frames


def _say_estimate(paths: Sequence[Path], work: Path, work_pixels: float) -> None:
    """Say what many or large photos will take before anything is done with them.

    The first photos that can be opened stand for all: opening thousands of headers twice would be work itself.

    Raises:
        UserError: if the disk has no room for the working copies.
    """
    sizes = []
    for path in paths[:_SAMPLED]:
        with contextlib.suppress(UserError, OSError):
            info = probe_image(path)
            sizes.append(info.width * info.height)
    pixels = len(paths) * sum(sizes) / max(1, len(sizes))
    if pixels < LARGE_PIXELS:
        return
    n_threads = min(MAX_THREADS, os.cpu_count() or 1)
    on_disk = sum(path.stat().st_size for path in paths if path.exists())
    needed, free = len(paths) * (work_pixels + FEATURE_BYTES), free_disk(work)
    line = (
        f"{len(paths)} photos of {pixels / len(paths) / 1e6:.0f} MP ({on_disk / 1e9:.1f} GB): looking at them takes "
        f"{duration(pixels / CHECK_PIXELS_PER_S / n_threads)} and {needed / 1e9:.1f} GB of disk for a while "
        f"({free / 1e9:.0f} GB free), finding their poses longer (at most --time-limit)"
    )
    log.warning(line, extra={"is_note": True})
    if free < needed:
        raise UserError(
            f"{len(paths)} photos need {needed / 1e9:.1f} GB while they are looked at, {free / 1e9:.1f} GB are free",
            where=work.parent, fix="Free some space, or choose another --output-dir",
        )  # fmt: skip


def _write(
    facts: CaptureFacts, solution: PoseSolution, output_dir: Path, copies: Path, progress: Progress
) -> tuple[Path, Path]:
    """Move everything to its final place; `transforms.json` last, so that its presence means a whole capture."""
    progress.stage("write capture")
    folder = output_dir / "images"
    if facts.photos and facts.photos[0].path.resolve().parent == folder.resolve():
        folder = output_dir / "images_posed"  # the originals lie in `images`
    _remove_old(output_dir, set(facts.names))
    folder.mkdir(exist_ok=True)
    for name in facts.names:
        os.replace(copies / name, folder / name)
    model = output_dir / "colmap" / "sparse" / "0"
    model.mkdir(parents=True, exist_ok=True)
    for file in sorted(solution.model_dir.iterdir()):
        os.replace(file, model / file.name)
    sharpness = {name: photo.sharpness for name, photo in zip(facts.names, facts.photos, strict=True)}
    transforms, up = write_transforms(solution, output_dir, folder.name, sharpness)
    report = write_report(
        dataclasses.replace(facts, matches=solution.matches, solution=solution, up=up, image_folder=folder.name),
        output_dir,
    )
    return transforms, report


def _check_output(source: Path, output_dir: Path, options: ProcessOptions) -> list[Path]:
    """Refuse what cannot be written before any work; returns the folders that had to be made, the innermost first."""
    if not source.exists():
        raise UserError("no such file or folder", where=source, fix="Pass the folder that holds your photos")
    for name, low, high in (("num_frames_target", 8, 5000), ("feature_megapixels", 0.05, 50.0), ("time_limit", 1, 1e6)):
        value = getattr(options, name)
        if not low <= value <= high:
            flag = "--" + name.replace("_", "-")
            raise UserError(f"{value} is out of range", where=flag, fix=f"Give a number from {low} to {high:g}")
    if (output_dir / "transforms.json").exists() and not options.overwrite:
        raise UserError(
            "a capture is already there", where=output_dir / "transforms.json",
            fix="Choose another --output-dir, or pass --overwrite to replace it",
        )  # fmt: skip
    try:
        made = [folder for folder in (output_dir, *output_dir.parents) if not folder.exists()]
        output_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output_dir):
            pass
    except OSError as error:
        raise UserError(
            f"cannot be written: {error.strerror}", where=output_dir, fix="Choose another --output-dir"
        ) from None
    return made


@contextlib.contextmanager
def _work_folder(output_dir: Path, made: Sequence[Path]) -> Iterator[Path]:
    """A folder of our own on the same disk as the result, so that finished files are moved rather than copied.

    Of the folders in `made` those that are still empty go with it.
    """
    work = Path(tempfile.mkdtemp(prefix=".process-", dir=output_dir))
    try:
        yield work
    except OSError as error:
        raise UserError(
            f"cannot be written: {error.strerror or error}", where=output_dir, fix="Free space, or choose another disk"
        ) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
        with contextlib.suppress(OSError):  # not empty
            for folder in made:
                folder.rmdir()


def _remove_old(output_dir: Path, new_names: set[str]) -> None:
    """Remove the photos that a replaced capture of ours lists and the new one does not."""
    try:
        old = read_json(output_dir / "capture_report.json", _REPORT_BYTES)
    except (UserError, OSError):
        return
    if old.get("kind") != "capture_report" or not (output_dir / "transforms.json").exists():
        return
    for row in old.get("photos", []):
        name = row.get("image") if isinstance(row, dict) else None
        if isinstance(name, str) and name == Path(name).name and name not in new_names:
            (output_dir / str(old.get("image_folder", "images")) / name).unlink(missing_ok=True)


def _solver_options(source: Path, options: ProcessOptions) -> SolverOptions:
    return SolverOptions(
        matching=options.matching, lens=options.lens, is_ordered=source.is_file(),
        threads=options.threads or os.cpu_count() or 1, time_limit_s=options.time_limit, seed=options.seed,
        command=options.solver_command or default_command(),
    )  # fmt: skip


def _settings(options: ProcessOptions) -> dict[str, object]:
    return {k: v for k, v in dataclasses.asdict(options).items() if k not in ("solver_command", "overwrite")}


def _check_registered(solution: PoseSolution, photos: Sequence[Photo]) -> None:
    n, n_all = len(solution.photos), len(photos)
    if n < MIN_REGISTERED or n < MIN_SHARE * n_all:
        raise PosesNotFound(
            f"only {n} of {n_all} photos could be placed; at least {max(MIN_REGISTERED, round(MIN_SHARE * n_all))} "
            "are needed", where="poses", matches=solution.matches, solution=solution,
            fix="Photograph again in small steps with 60-80 % overlap; capture_report.html shows which photos connect",
        )  # fmt: skip


def _warn_about_plain(photos: Sequence[Photo], progress: Progress) -> None:
    """Name the photos that are blurred or all one colour; they stay unless they cannot be placed."""
    sharpness = [photo.sharpness for photo in photos]
    plain = [i for i in range(len(photos)) if sharpness[i] < blur_limit(sharpness, i)]
    shown = [f"{photos[i].name} (sharpness {sharpness[i]:.3g}, needs {blur_limit(sharpness, i):.3g})" for i in plain]
    if plain:
        listed = ", ".join(shown[:10]) + (f" and {len(shown) - 10} more" if len(shown) > 10 else "")
        progress.warn(f"{len(plain)} photos are blurred or empty beside their neighbours: {listed}")


def _warn_about_missing(facts: CaptureFacts, solution: PoseSolution, progress: Progress) -> None:
    placed = {photo.name for photo in solution.photos}
    missing = [p.name for p, name in zip(facts.photos, facts.names, strict=True) if name not in placed]
    if missing:
        listed = ", ".join(missing[:20]) + (f" and {len(missing) - 20} more" if len(missing) > 20 else "")
        progress.warn(f"{len(missing)} of {len(facts.photos)} photos could not be placed: {listed}")
