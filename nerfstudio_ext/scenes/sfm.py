"""Solving camera poses: a ladder of attempts, each in a child process with a time limit and a kept log."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..progress import Progress
from .photo_check import Photo
from .sfm_plan import RELAXED_MAPPING, Attempt, SolverOptions, make_job, plan_attempts
from .sfm_process import ChildFailure, run_child
from .sfm_solution import MatchSummary, PoseSolution, read_matches, read_solution

log = logging.getLogger(__name__)

GOOD_SHARE = 0.9
"""Registered share at which no further attempt is made: what is left is usually blurred or of something else."""
POOR_SHARE = 0.5
"""Below it even the relaxed start is tried; above it relaxed thresholds would trade right cameras for wrong ones."""
MIN_KEYPOINTS = 100
"""Features below which a photo counts as textureless."""
MAX_LISTED = 5
"""Photos listed with the fewest features."""


class PosesNotFound(UserError):
    """No cameras, or too few.

    Args:
        what, where, fix: As in `UserError`.
        matches: What the matches say, when it came to matching.
        solution: The few cameras there are.
    """

    def __init__(
        self,
        what: str,
        *,
        where: object = "",
        fix: str = "",
        matches: MatchSummary | None = None,
        solution: PoseSolution | None = None,
    ) -> None:
        super().__init__(what, where=where, fix=fix)
        self.matches, self.solution = matches, solution


def solve_poses(
    photos: Sequence[Photo],
    names: Sequence[str],
    image_dir: Path,
    work_dir: Path,
    log_path: Path,
    options: SolverOptions,
    progress: Progress,
) -> PoseSolution:
    """Find the cameras of a set of photos.

    Attempts are made until `GOOD_SHARE` of the photos have a camera, or time or attempts end; the attempt with most
    cameras counts.

    Args:
        photos: At least 2, in capture order, with their working pictures in one folder.
        names: File name of each in `image_dir`.
        image_dir: The upright photos, for point colours.
        work_dir: Existing folder for the database and models.
        log_path: What the solver prints is appended here.
        options: See `SolverOptions`.
        progress: Receives the child's stages.
    Raises:
        PosesNotFound: if no attempt placed any camera, with the reason the matches suggest, or the way the solver ended
            and the path of its log.
    """
    ladder = _Ladder(
        [photo.name for photo in photos], log_path, time.monotonic() + options.time_limit_s, options, progress
    )
    for number, attempt in enumerate(plan_attempts(len(photos), options), 1):
        if ladder.is_done(attempt):
            break
        if number > 1:
            progress.warn(f"{ladder.n_placed} of {len(photos)} photos placed; trying again: {attempt.name}")
        output = work_dir / f"attempt-{number}"
        output.mkdir(parents=True, exist_ok=True)
        job = make_job(photos, names, image_dir, work_dir, output, attempt, options)
        (output / "job.json").write_text(json.dumps(job), encoding="utf-8")
        ladder.climb(attempt, output)
    return ladder.solution()


class _Ladder:
    """The attempts made so far and the best of them."""

    def __init__(
        self, photo_names: Sequence[str], log_path: Path, deadline: float, options: SolverOptions, progress: Progress
    ) -> None:
        self._photo_names, self._log_path, self._deadline = photo_names, log_path, deadline
        self._n_photos = len(photo_names)
        self._options, self._progress = options, progress
        self._best: tuple[dict[str, Any], Path] | None = None
        self._matches: MatchSummary | None = None
        self._failure: ChildFailure | None = None
        self._records: list[dict[str, Any]] = []
        self._seconds: dict[str, float] = {}
        self._cpu_seconds: dict[str, float] = {}

    @property
    def n_placed(self) -> int:
        """Cameras of the best attempt."""
        return _count_placed(self._best[0]) if self._best else 0

    def is_done(self, attempt: Attempt) -> bool:
        """Whether `attempt` is not worth making any more."""
        share = self.n_placed / self._n_photos
        is_out_of_time = self._failure is not None and self._failure.is_timeout
        return is_out_of_time or share >= GOOD_SHARE or (attempt.mapper is RELAXED_MAPPING and share >= POOR_SHARE)

    def climb(self, attempt: Attempt, output: Path) -> None:
        """Make one attempt, whose job lies in `output`, and remember how it went."""
        started = time.monotonic()
        record: dict[str, Any] = {"name": attempt.name}
        self._records.append(record)
        try:
            command = [*self._options.command, str(output / "job.json")]
            run_child(command, self._log_path, self._deadline, self._options.threads, self._progress)
            result = _read_result(output)
        except ChildFailure as failure:
            self._failure = failure
            record["outcome"] = failure.what
        else:
            n_placed = _count_placed(result)
            record |= {"outcome": f"{n_placed} of {self._n_photos} photos placed", "n_pairs": result["n_pairs"]}
            for total, part in ((self._seconds, result["seconds"]), (self._cpu_seconds, result["cpu_seconds"])):
                for stage, value in part.items():
                    total[stage] = total.get(stage, 0.0) + value
            self._matches = read_matches(result)
            if n_placed > self.n_placed:
                self._best = result, output
        record["seconds"] = time.monotonic() - started
        log.info("attempt '%s': %s", attempt.name, record["outcome"])

    def solution(self) -> PoseSolution:
        """The best attempt; raises when there is none."""
        if self._best is None:
            raise _nothing_placed(self._photo_names, self._matches, self._failure, self._log_path)
        if self._failure is not None:
            self._progress.warn(f"one attempt at poses failed: {self._failure.what} (log: {self._log_path})")
        return read_solution(*self._best, self._records, self._seconds, self._cpu_seconds)


def _count_placed(result: dict[str, Any]) -> int:
    return len(result["model"]["images"]) if "model" in result else 0


def _read_result(output: Path) -> dict[str, Any]:
    try:
        result = json.loads((output / "result.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise ChildFailure("the pose solver ended without an answer") from None
    if not isinstance(result, dict) or not {"n_keypoints", "links", "seconds"} <= result.keys():
        raise ChildFailure("the pose solver's answer is not complete")
    return result


def _nothing_placed(
    names: Sequence[str], summary: MatchSummary | None, failure: ChildFailure | None, log_path: Path
) -> PosesNotFound:
    """The error for a capture without any camera, with the most likely reason."""
    if summary is None:
        what = failure.what if failure else "the pose solver gave no answer"
        fix = "Use fewer photos or raise --time-limit" if failure and failure.is_timeout else "Try fewer photos"
        fix += ", or bring the poses of another tool (a COLMAP model or transforms.json)"
        return PosesNotFound(what, where="poses", fix=f"{fix}; its log is {log_path}")
    n = len(summary.n_keypoints)
    n_textured = sum(k >= MIN_KEYPOINTS for k in summary.n_keypoints)
    largest = summary.groups()[0]
    if n_textured < max(3, n / 2):
        worst = sorted(range(n), key=lambda i: summary.n_keypoints[i])[:MAX_LISTED]
        listed = ", ".join(f"{names[i]} ({summary.n_keypoints[i]})" for i in worst)
        what = f"only {n_textured} of {n} photos have over {MIN_KEYPOINTS} features to hold on to; fewest: {listed}"
        fix = "Photograph something with texture, or lay patterned paper around it, and use more light"
    elif len(largest) < max(3, n / 2):
        what = f"the photos do not overlap enough: the largest connected group is {len(largest)} of {n}"
        fix = "Take photos in small steps, each showing 60-80 % of the one before"
    elif summary.turned_share > 0.9:
        what = "the photos seem taken from one spot (or of a flat wall): depth cannot be told from them"
        fix = "Walk around the subject instead of turning the camera"
    else:
        what = "no camera could be placed, though the photos overlap"
        fix = "Move sideways between photos and keep the subject still"
    if failure is not None:
        what += f"; one attempt failed: {failure.what}"
    return PosesNotFound(what, where="poses", fix=f"{fix}. The solver's log is {log_path}", matches=summary)
