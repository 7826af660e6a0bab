"""What the pose solver answers: cameras, points, and what the matches say about the capture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float64


@dataclass(frozen=True)
class SolvedCamera:
    """Intrinsics as COLMAP names them: `params` = fx, fy, cx, cy and four distortion coefficients."""

    model: str
    width: int
    height: int
    params: tuple[float, ...]


@dataclass(frozen=True)
class SolvedPhoto:
    """A photo whose camera was found.

    Attributes:
        name: File name in the folder of photos.
        image_id: Its id in the COLMAP model.
        camera_id: Key into `PoseSolution.cameras`.
        cam_from_world: [3,4], OpenCV axes.
        n_points: Scene points it sees.
        error_px: Mean reprojection error in its own pixels, None when it sees none.
    """

    name: str
    image_id: int
    camera_id: int
    cam_from_world: Float64[np.ndarray, "3 4"]
    n_points: int
    error_px: float | None


@dataclass(frozen=True)
class MatchSummary:
    """What features and matches say, whether or not cameras were found.

    Attributes:
        n_keypoints: Features per photo, in capture order.
        links: (photo, photo, verified matches) of every overlapping pair, by position.
        turned_share: Share of those pairs that a turn on the spot or a flat scene would explain as well.
    """

    n_keypoints: tuple[int, ...]
    links: tuple[tuple[int, int, int], ...]
    turned_share: float

    def groups(self) -> list[list[int]]:
        """Photos connected by overlap, the largest group first."""
        parent = list(range(len(self.n_keypoints)))

        def root(i: int) -> int:
            while parent[i] != i:
                parent[i] = parent[parent[i]]
                i = parent[i]
            return i

        for a, b, _ in self.links:
            parent[root(a)] = root(b)
        found: dict[int, list[int]] = {}
        for i in range(len(parent)):
            found.setdefault(root(i), []).append(i)
        return sorted(found.values(), key=len, reverse=True)


@dataclass(frozen=True)
class PoseSolution:
    """Cameras of a capture, in COLMAP's frame.

    Attributes:
        cameras: Intrinsics by id.
        photos: Photos whose camera was found, in capture order.
        points: [P,8]: position, colour 0..255, mean reprojection error, number of photos that see it.
        error_px: Mean reprojection error over all observations.
        n_observations: How often points are seen in photos.
        baseline_share: Extent of the camera centres over the median distance of what they see.
        n_models: How many unconnected models the solver made.
        principal_point_refined: Whether the last adjustment moved it.
        matches: What the matches say.
        attempts: One record per attempt, for the report.
        seconds, cpu_seconds: Per stage, of all attempts together.
        model_dir: Folder with the COLMAP model.
        version: Version of pycolmap.
    """

    cameras: Mapping[int, SolvedCamera]
    photos: tuple[SolvedPhoto, ...]
    points: Float[np.ndarray, "P 8"]
    error_px: float
    n_observations: int
    baseline_share: float
    n_models: int
    principal_point_refined: bool
    matches: MatchSummary
    attempts: tuple[dict[str, Any], ...]
    seconds: Mapping[str, float]
    cpu_seconds: Mapping[str, float]
    model_dir: Path
    version: str


def read_solution(
    result: Mapping[str, Any],
    output: Path,
    attempts: Sequence[dict[str, Any]],
    seconds: Mapping[str, float],
    cpu_seconds: Mapping[str, float],
) -> PoseSolution:
    """Build the solution from the child's result, which must hold a model.

    Args:
        result: Content of `result.json`.
        output: Folder of the attempt that counts.
        attempts: Records of all attempts.
        seconds, cpu_seconds: Sums over all attempts.
    """
    model = result["model"]
    photos = tuple(
        SolvedPhoto(
            image["name"], image["id"], image["camera"], np.array(image["cam_from_world"], np.float64).reshape(3, 4),
            image["n_points"], image["error_px"],
        )
        for image in model["images"]
    )  # fmt: skip
    cameras = {
        int(camera_id): SolvedCamera(c["model"], c["width"], c["height"], tuple(c["params"]))
        for camera_id, c in model["cameras"].items()
    }
    used = {photo.camera_id for photo in photos}
    return PoseSolution(
        cameras={camera_id: camera for camera_id, camera in cameras.items() if camera_id in used},
        photos=photos, points=np.load(output / "points.npy", allow_pickle=False), error_px=model["error_px"],
        n_observations=model["n_observations"], baseline_share=model["baseline_share"], n_models=result["n_models"],
        principal_point_refined=result["principal_point_refined"], matches=read_matches(result),
        attempts=tuple(attempts), seconds=dict(seconds), cpu_seconds=dict(cpu_seconds), model_dir=output / "sparse",
        version=result["version"],
    )  # fmt: skip


def read_matches(result: Mapping[str, Any]) -> MatchSummary:
    """The match summary of a child's result."""
    return MatchSummary(
        tuple(result["n_keypoints"]), tuple((a, b, n) for a, b, n in result["links"]), result["turned_share"]
    )
