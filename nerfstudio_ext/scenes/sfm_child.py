"""The pose solver's own process: features, pairs, matches, mapping, refinement with pycolmap.

Run by `sfm.solve_poses` as a plain script with the path of a job file, so that a crash or a hang of the solver ends
this process and nothing else. It imports numpy and pycolmap only (no torch: that would cost seconds), speaks JSON
lines on standard output, leaves COLMAP's log on standard error, and ends by itself when its parent is gone.
Everything here is in the pixels of the working pictures; `_to_full_size` goes back to the photos at the end.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

OLDEST = [3, 12]
"""Oldest release of pycolmap that has what is called here."""
MIN_INLIERS = 15
"""Verified matches that make two pictures overlap; COLMAP's own floor."""
MAX_CENTRE_SHIFT = 0.1
"""A refined principal point farther from the centre than this share of the image side is a fit to noise."""
MIN_CENTRE_GAIN = 25.0
"""F statistic that a moved principal point must reach: noise alone gave 5 where it was centred, real shifts 160 up."""
MIN_IMAGES_PER_CENTRE = 8
"""Fewer pictures of one camera do not tell its principal point from its rotation."""

Job = dict[str, Any]


def say(event: str, **fields: object) -> None:
    """Send one event to the parent."""
    sys.stdout.write(json.dumps({"event": event, **fields}) + "\n")
    sys.stdout.flush()


class Stopwatch:
    """Wall and CPU seconds of the stages of this process."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.cpu_seconds: dict[str, float] = {}
        self._name, self._wall, self._cpu = "", 0.0, 0.0

    def stage(self, name: str, total: int | None = None) -> None:
        """End the present stage, begin the next and announce it; an empty name only ends."""
        wall, cpu = time.perf_counter(), time.process_time()
        if self._name:
            self.seconds[self._name] = self.seconds.get(self._name, 0.0) + wall - self._wall
            self.cpu_seconds[self._name] = self.cpu_seconds.get(self._name, 0.0) + cpu - self._cpu
        self._name, self._wall, self._cpu = name, wall, cpu
        if name:
            say("stage", name=name, total=total)


def find_features(colmap: Any, job: Job, watch: Stopwatch) -> None:
    """Fill the database with cameras, pictures and SIFT features; those of an earlier attempt are kept."""
    names = [photo["work"] for photo in job["photos"]]
    watch.stage("find features", len(names))
    database, folder = job["database"], job["work_dir"]
    if _has_all_features(database, len(names)):
        return
    Path(database).unlink(missing_ok=True)  # what an attempt that crashed left behind
    colmap.Database.open(database).close()
    for camera in job["cameras"]:
        _import_camera(colmap, database, folder, camera, [names[i] for i in camera["photos"]])
    wanted = job["features"]
    options = colmap.FeatureExtractionOptions()
    options.use_gpu = False
    options.num_threads = job["threads"]
    options.sift.max_num_features = wanted["max_features"]

    def extract(chosen: Sequence[str], first_octave: int, peak_threshold: float) -> None:
        options.sift.first_octave = first_octave
        options.sift.peak_threshold = peak_threshold
        colmap.extract_features(
            database, folder, image_names=list(chosen), extraction_options=options, device=colmap.Device.cpu
        )

    for start, chosen in _batches(names, 4 * job["threads"]):
        extract(chosen, wanted["first_octave"], wanted["peak_threshold"])
        say("advance", done=start + len(chosen))
    poor = _forget_poor_pictures(database, wanted["min_keypoints"])
    for start, chosen in _batches(poor, 4 * job["threads"]):
        say("advance", done=len(names), note=f"{start + len(chosen)} of {len(poor)} plain pictures again")
        extract(chosen, wanted["first_octave"] - 1, wanted["peak_threshold"] / 2)


def _has_all_features(database: str, n_photos: int) -> bool:
    if not Path(database).exists():
        return False
    with contextlib.closing(sqlite3.connect(database)) as db:
        try:
            return bool(db.execute("SELECT COUNT(*) FROM descriptors").fetchone()[0] == n_photos)
        except sqlite3.DatabaseError:
            return False


def _import_camera(colmap: Any, database: str, folder: str, camera: dict[str, Any], names: list[str]) -> None:
    """Add one camera and its pictures, with the focal length known beforehand (from EXIF) or assumed."""
    options = colmap.ImageReaderOptions()
    options.camera_model = camera["model"]
    focal, centre = camera["focal"], [camera["width"] / 2, camera["height"] / 2]
    focals = [focal] if camera["model"] in ("RADIAL", "RADIAL_FISHEYE") else [focal, focal]
    n_lens = 2 if len(focals) == 1 else 4
    options.camera_params = ",".join(str(x) for x in [*focals, *centre, *[0.0] * n_lens])
    colmap.import_images(database, folder, colmap.CameraMode.SINGLE, names, options)
    with colmap.Database.open(database) as db:
        added = db.read_camera(db.read_image_with_name(names[0]).camera_id)
        added.has_prior_focal_length = camera["has_prior"]
        db.update_camera(added)


def _forget_poor_pictures(database: str, min_keypoints: int) -> list[str]:
    """Remove the features of pictures that have few, so that they are looked at again in finer detail."""
    with contextlib.closing(sqlite3.connect(database)) as db, db:
        rows = db.execute(
            "SELECT i.image_id, i.name FROM images i JOIN keypoints k ON k.image_id = i.image_id WHERE k.rows < ?",
            (min_keypoints,),
        ).fetchall()
        for image_id, _ in rows:
            db.execute("DELETE FROM keypoints WHERE image_id = ?", (image_id,))
            db.execute("DELETE FROM descriptors WHERE image_id = ?", (image_id,))
    return [name for _, name in rows]


def pick_pairs(colmap: Any, job: Job, watch: Stopwatch) -> list[tuple[int, int]]:
    """The pairs of this attempt, as positions in the list of photos."""
    wanted, n = job["pairs"], len(job["photos"])
    if wanted["n_neighbours"] >= n - 1:
        return [(i, j) for i in range(n) for j in range(i + 1, n)]
    watch.stage("choose pairs", n)
    descriptors, sizes = [], []
    with colmap.Database.open(job["database"]) as db:
        for photo in job["photos"]:
            image_id = db.read_image_with_name(photo["work"]).image_id
            keypoints = db.read_keypoints(image_id)
            descriptors.append(db.read_descriptors(image_id).data)
            sizes.append(np.linalg.norm(keypoints[:, 2:4], axis=1))
    # A sibling: this file runs as a script, see `main`.
    from overlap_pairs import choose_pairs, overlap_scores  # type: ignore[import-not-found]

    scores = overlap_scores(descriptors, sizes, advance=lambda done: say("advance", done=done))
    return choose_pairs(scores, wanted["n_neighbours"], wanted["window"])


def match(colmap: Any, job: Job, pairs: list[tuple[int, int]], watch: Stopwatch) -> None:
    """Match and verify the pairs; those already in the database are skipped by COLMAP."""
    watch.stage("match", len(pairs))
    matching = colmap.FeatureMatchingOptions()
    matching.use_gpu = False
    matching.num_threads = job["threads"]
    verification = colmap.TwoViewGeometryOptions()
    verification.ransac.random_seed = job["seed"]
    verification.detect_watermark = False
    listed = colmap.ImportedPairingOptions()
    listed.match_list_path = str(Path(job["output"]) / "pairs.txt")
    names = [photo["work"] for photo in job["photos"]]
    # About 25 progress steps, but batches that keep all threads busy.
    for start, chosen in _batches(pairs, max(len(pairs) // 25, 16 * job["threads"])):
        Path(listed.match_list_path).write_text("".join(f"{names[i]} {names[j]}\n" for i, j in chosen))
        colmap.match_image_pairs(
            job["database"], matching_options=matching, pairing_options=listed, verification_options=verification,
            device=colmap.Device.cpu,
        )  # fmt: skip
        say("advance", done=start + len(chosen))


def map_cameras(colmap: Any, job: Job, watch: Stopwatch) -> tuple[Any, int]:
    """Place the cameras one after another.

    Returns:
        The largest model (None when nothing could be placed) and how many models there were.
    """
    n = len(job["photos"])
    options = colmap.IncrementalPipelineOptions()
    options.num_threads = job["threads"]
    options.random_seed = job["seed"]
    options.extract_colors = False
    options.min_model_size = 3
    for name, value in job["mapper"].items():
        owner, _, field = name.rpartition(".")
        setattr(getattr(options, owner) if owner else options, field, value)
    best, n_models = None, 0
    # One model first: it nearly always holds everything, and looking for others costs as much again.
    for has_many in (False, True):
        options.multiple_models = has_many
        watch.stage("place cameras", n)
        placed = [2]

        def count(placed: list[int] = placed) -> None:
            placed[0] = placed[0] + 1 if placed[0] < n else 3
            say("advance", done=placed[0])

        folder = Path(job["output"]) / f"models-{int(has_many)}"
        folder.mkdir(exist_ok=True)
        found = colmap.incremental_mapping(
            job["database"], job["work_dir"], str(folder), options, next_image_callback=count
        )
        n_models = max(n_models, len(found))
        for model in found.values():
            if best is None or model.num_reg_images() > best.num_reg_images():
                best = model
        if best is not None and best.num_reg_images() > n / 2:
            break
    return best, n_models


def refine(colmap: Any, job: Job, model: Any, watch: Stopwatch) -> bool:
    """Adjust everything once more, then with the principal point free where the photos tell where it is.

    A principal point held at the centre shows up as a rotation of every camera: 7 pixels were 0.6 degrees. But where
    all cameras look level, a shift is nearly the same as a tilt, and noise decides: only a significant gain counts.

    Returns:
        Whether the principal point was moved.
    """
    watch.stage("refine", 3)
    options = colmap.BundleAdjustmentOptions()
    options.print_summary = False
    options.ceres.solver_options.num_threads = job["threads"]
    colmap.bundle_adjustment(model, options)
    say("advance", done=1)
    colmap.ObservationManager(model).filter_all_points3D(job["max_error_px"], 1.5)
    colmap.bundle_adjustment(model, options)
    say("advance", done=2)
    images = [model.image(image_id) for image_id in model.reg_image_ids()]
    n_images = Counter(image.camera_id for image in images)
    if min(n_images.values()) < MIN_IMAGES_PER_CENTRE:
        return False
    before = Path(job["output"]) / "before-refinement"
    before.mkdir(exist_ok=True)
    model.write(str(before))
    n_free = 2 * model.compute_num_observations() - 6 * len(images) - 3 * model.num_points3D()
    error_before = sum(float((reprojection_errors(model, image) ** 2).sum()) for image in images)
    options.refine_principal_point = True
    colmap.bundle_adjustment(model, options)
    error = sum(float((reprojection_errors(model, image) ** 2).sum()) for image in images)
    gain = (error_before - error) / (2 * len(n_images)) / (error / max(n_free, 1)) if error > 0 else 0.0
    if gain > MIN_CENTRE_GAIN and not any(_has_run_away(model.camera(camera_id)) for camera_id in n_images):
        return True
    model.read(str(before))
    model.update_point_3d_errors()
    return False


def reprojection_errors(model: Any, image: Any) -> np.ndarray:
    """Distance in pixels between each observed point of a picture and where its camera sees it."""
    seen = [p for p in image.points2D if p.has_point3D()]
    xyz = np.array([model.point3D(p.point3D_id).xyz for p in seen]).reshape(-1, 3)
    uv = np.array([p.xy for p in seen]).reshape(-1, 2)
    local = np.column_stack([xyz, np.ones(len(xyz))]) @ image.cam_from_world().matrix().T
    return np.linalg.norm(model.camera(image.camera_id).img_from_cam(local, False) - uv, axis=1)


def _has_run_away(camera: Any) -> bool:
    shift = abs(camera.principal_point_x / camera.width - 0.5), abs(camera.principal_point_y / camera.height - 0.5)
    return max(shift) > MAX_CENTRE_SHIFT or camera.has_bogus_params(0.1, 10.0, 1.0)


def summarise_matches(colmap: Any, job: Job) -> dict[str, Any]:
    """What features and matches say about the capture, whether or not cameras could be placed."""
    with colmap.Database.open(job["database"]) as db:
        ids = [db.read_image_with_name(photo["work"]).image_id for photo in job["photos"]]
        position = {image_id: i for i, image_id in enumerate(ids)}
        n_keypoints = [db.num_keypoints_for_image(i) for i in ids]
        pair_ids, geometries = db.read_two_view_geometries()
        links = []
        n_turned = 0
        turned = {
            colmap.TwoViewGeometryConfiguration.PANORAMIC,
            colmap.TwoViewGeometryConfiguration.PLANAR_OR_PANORAMIC,
        }
        for pair_id, geometry in zip(pair_ids, geometries, strict=True):
            if len(geometry.inlier_matches) >= MIN_INLIERS:
                a, b = colmap.pair_id_to_image_pair(pair_id)
                links.append((position[a], position[b], len(geometry.inlier_matches)))
                n_turned += geometry.config in turned
    return {"n_keypoints": n_keypoints, "links": links, "turned_share": n_turned / max(len(links), 1)}


def describe_model(model: Any, job: Job) -> dict[str, Any]:
    """Cameras, poses and per-photo figures of the model, as plain data; points go to `points.npy`."""
    order = {photo["name"]: i for i, photo in enumerate(job["photos"])}
    ids = sorted(model.point3D_ids())
    row = {point_id: i for i, point_id in enumerate(ids)}
    points = [model.point3D(i) for i in ids]
    xyz = np.array([p.xyz for p in points], np.float64).reshape(-1, 3)
    table = np.column_stack([xyz, *np.array([[*p.color, p.error, p.track.length()] for p in points]).reshape(-1, 5).T])
    np.save(Path(job["output"]) / "points.npy", table)
    images, distances = [], []
    for image_id in sorted(model.reg_image_ids(), key=lambda i: order[model.image(i).name]):
        image = model.image(image_id)
        errors = reprojection_errors(model, image)
        rows = [row[p.point3D_id] for p in image.points2D if p.has_point3D()]
        distances += [np.median(np.linalg.norm(xyz[rows] - image.projection_center(), axis=1))] if rows else []
        images.append({
            "name": image.name, "id": image_id, "camera": image.camera_id, "n_points": len(rows),
            "cam_from_world": image.cam_from_world().matrix().tolist(),
            "error_px": float(errors.mean()) if rows else None,
        })  # fmt: skip
    cameras = {
        str(camera_id): {"model": c.model_name, "width": c.width, "height": c.height, "params": c.params.tolist()}
        for camera_id, c in model.cameras.items()
    }
    centres = np.array([model.image(image["id"]).projection_center() for image in images])
    extent = float(np.linalg.norm(np.ptp(centres, axis=0)))
    return {
        "images": images, "cameras": cameras, "error_px": float(model.compute_mean_reprojection_error()),
        "n_points": len(ids), "n_observations": int(model.compute_num_observations()),
        "baseline_share": extent / float(np.median(distances)),
    }  # fmt: skip


def _to_full_size(colmap: Any, model: Any, job: Job) -> None:
    """Bring cameras, features and names from the working pictures to the photos, lenses to the OpenCV models."""
    for camera in model.cameras.values():
        if len(camera.params) == 5:
            focal, cx, cy, k1, k2 = camera.params
            is_fisheye = "FISHEYE" in camera.model_name
            camera.model = colmap.CameraModelId.OPENCV_FISHEYE if is_fisheye else colmap.CameraModelId.OPENCV
            camera.params = [focal, focal, cx, cy, k1, k2, 0.0, 0.0]
    photo_of = {photo["work"]: photo for photo in job["photos"]}
    sizes: dict[int, tuple[int, int]] = {}
    for image in model.images.values():
        photo = photo_of[image.name]
        camera = model.camera(image.camera_id)
        sizes[image.camera_id] = photo["width"], photo["height"]
        factor = np.array([photo["width"] / camera.width, photo["height"] / camera.height])
        for point in image.points2D:
            point.xy = point.xy * factor
        image.name = photo["name"]
    for camera_id, (width, height) in sizes.items():
        model.camera(camera_id).rescale(width, height)
    model.update_point_3d_errors()


def _batches(items: Sequence[Any], size: int) -> Iterable[tuple[int, Sequence[Any]]]:
    return ((start, items[start : start + size]) for start in range(0, len(items), size))


def solve(job: Job) -> dict[str, Any]:
    """Run one attempt from features to refined cameras and leave the model under `job["output"]`."""
    import pycolmap as colmap

    version = [int(part) for part in colmap.__version__.split(".")[:2]]
    if version < OLDEST:
        raise RuntimeError(f"pycolmap {colmap.__version__} is too old; run pip install --upgrade pycolmap")
    watch = Stopwatch()
    colmap.set_random_seed(job["seed"])
    find_features(colmap, job, watch)
    pairs = pick_pairs(colmap, job, watch)
    match(colmap, job, pairs, watch)
    model, n_models = map_cameras(colmap, job, watch)
    result: dict[str, Any] = {"n_pairs": len(pairs), "n_models": n_models, "version": colmap.__version__}
    if model is not None:
        result["principal_point_refined"] = refine(colmap, job, model, watch)
    # After a turn on the spot no point has a place: cameras that hold on to nothing are no cameras.
    if model is not None and model.num_points3D() >= MIN_INLIERS:
        _to_full_size(colmap, model, job)
        model.extract_colors_for_all_images(job["color_dir"], job["threads"])
        folder = Path(job["output"]) / "sparse"
        folder.mkdir(exist_ok=True)
        model.write(str(folder))
        result["model"] = describe_model(model, job)
    watch.stage("")
    return {**result, **summarise_matches(colmap, job), "seconds": watch.seconds, "cpu_seconds": watch.cpu_seconds}


def _end_with_parent() -> None:
    """Leave when standard input closes: the parent holds its other end for as long as it lives."""
    while os.read(0, 4096):  # the descriptor, not sys.stdin: a thread inside its buffer aborts Python at exit
        pass
    os._exit(3)


def main(job_path: str) -> None:
    """Entry point: read the job, solve it, write `result.json` beside the model."""
    here = str(Path(__file__).parent)
    # Run as a script, the folder of our own modules comes first and would hide packages of the same name.
    sys.path[:] = [p for p in sys.path if p != here] + [here]
    threading.Thread(target=_end_with_parent, daemon=True).start()
    job = json.loads(Path(job_path).read_text(encoding="utf-8"))
    result = solve(job)
    Path(job["output"], "result.json").write_text(json.dumps(result), encoding="utf-8")
    say("done")


if __name__ == "__main__":
    main(sys.argv[1])
