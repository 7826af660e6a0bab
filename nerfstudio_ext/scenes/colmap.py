"""Reader of COLMAP models; of several models the one with most pictures counts."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from ..cameras import MAX_SIDE, Camera, Cameras
from ..errors import UserError
from ..lenses import Lens
from .colmap_files import RawCamera, RawImage, count_images, read_cameras, read_images, read_points, table_path
from .posed_capture import (
    FrameHints,
    Intrinsics,
    PosedCapture,
    PosedFrame,
    check_pose,
    clean_name,
    missing_pictures,
    resolve_inside,
)

MODEL_FOLDERS = ("sparse", "colmap/sparse", ".")
IMAGE_FOLDERS = ("images", "input", ".")
SUPPORTED_MODELS = (
    "SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "FULL_OPENCV without k4 to k6", "OPENCV_FISHEYE",
    "SIMPLE_FISHEYE", "FISHEYE", "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE", "EQUIRECTANGULAR",
)  # fmt: skip


@dataclass(frozen=True)
class ColmapModel:
    """A model that was found.

    Attributes:
        folder: Where its tables lie.
        n_images: Registered pictures it claims to have.
    """

    folder: Path
    n_images: int


def find_models(folder: Path) -> list[ColmapModel]:
    """All COLMAP models of a capture folder (`sparse/N`, `colmap/sparse/N`, or the folder itself), largest first."""
    models = []
    for name in MODEL_FOLDERS:
        base = folder / name
        numbered = sorted(p for p in base.iterdir() if p.is_dir()) if name != "." and base.is_dir() else []
        for candidate in (base, *numbered):
            images = table_path(candidate, "images")
            if images is not None and table_path(candidate, "cameras") is not None:
                models.append(ColmapModel(candidate, count_images(images)))
    # A damaged header may claim anything; no capture has that many, and reading it says what is wrong.
    return sorted(models, key=lambda model: -model.n_images)


def read_colmap(folder: Path) -> PosedCapture:
    """Read the largest COLMAP model of a capture folder, or the model in the folder itself.

    Where both exist, binary tables win over text. Masks are taken from `masks/<picture>.png`, COLMAP's own layout.

    Raises:
        UserError: if no model is there, a table is cut short or damaged (with the byte or line), a lens is not
            supported, or pictures are missing.
    """
    models = find_models(folder)
    if not models:
        raise UserError("no COLMAP model (cameras and images)", where=folder, fix="Pass the folder that holds 'sparse'")
    model = models[0].folder
    cameras_path, images_path = table_path(model, "cameras"), table_path(model, "images")
    assert cameras_path is not None and images_path is not None
    cameras, images = read_cameras(cameras_path), read_images(images_path)
    if not images:
        raise UserError("the model has no pictures", where=images_path, fix="Solve the poses again")
    root, image_folder = _find_images(folder, model, images[0].name)
    lenses = {number: camera_intrinsics(raw, f"{cameras_path}: camera {number}") for number, raw in cameras.items()}
    frames = list(_frames(images, lenses, root, image_folder, images_path))
    points, warnings = _read_points(model)
    if len(models) > 1:
        others = ", ".join(str(m.n_images) for m in models[1:6])
        warnings.append(f"{len(models)} COLMAP models: the one with {len(images)} pictures is used (others: {others})")
    return PosedCapture(
        kind=f"COLMAP model {model.relative_to(root).as_posix()}" if model != root else "COLMAP model",
        root=root,
        frames=tuple(sorted(frames, key=lambda frame: frame.name)),
        points=points,
        hints=FrameHints(has_up=False),
        warnings=tuple(warnings),
    )


def read_model_views(folder: Path) -> tuple[Cameras, tuple[str, ...]]:
    """The cameras of the largest COLMAP model in a folder, by picture name; no picture needs to be there.

    Returns:
        Cameras in the model's own frame, and the name of each picture.
    Raises:
        UserError: if no model is there, it is damaged, or a lens is not supported.
    """
    models = find_models(folder)
    if not models:
        raise UserError("no COLMAP model (cameras and images)", where=folder, fix="Pass the folder that holds 'sparse'")
    cameras_path, images_path = (table_path(models[0].folder, name) for name in ("cameras", "images"))
    assert cameras_path is not None and images_path is not None
    raw = read_cameras(cameras_path)
    found = []
    for image in sorted(read_images(images_path), key=lambda image: image.name):
        place = f"{images_path.name}: '{image.name}'"
        if image.camera_id not in raw:
            raise UserError(f"camera {image.camera_id} does not exist", where=place, fix="Export the model again")
        lens = camera_intrinsics(raw[image.camera_id], f"{cameras_path}: camera {image.camera_id}")
        assert lens.width is not None and lens.height is not None  # a model always states them
        c2w = check_pose(_camera_to_world(image, place), place)
        K = lens.matrix(lens.width, lens.height)
        found.append((Camera(lens.width, lens.height, K, c2w, lens.lens), clean_name(image.name)))
    if not found:
        raise UserError("the model has no pictures", where=images_path, fix="Solve the poses again")
    return Cameras([camera for camera, _ in found]), tuple(name for _, name in found)


def _find_images(folder: Path, model: Path, first_name: str) -> tuple[Path, Path]:
    """Capture folder and picture folder; from a bare model folder both are looked for up to three levels above."""
    for root in (folder, *list(folder.resolve().parents)[:3]):
        for name in IMAGE_FOLDERS:
            candidate = root / name
            if candidate.is_dir() and resolve_inside(candidate, first_name, f"{model}: images").is_file():
                return root, candidate
    return folder, folder / IMAGE_FOLDERS[0]


def _frames(
    images: list[RawImage], lenses: dict[int, Intrinsics], root: Path, image_folder: Path, where: Path
) -> Iterator[PosedFrame]:
    missing, has_masks = [], (root / "masks").is_dir()
    for image in images:
        place = f"{where.name}: '{image.name}'"
        if image.camera_id not in lenses:
            raise UserError(f"camera {image.camera_id} does not exist", where=place, fix="Export the model again")
        path = resolve_inside(image_folder, image.name, place)
        if not path.is_file():
            missing.append(image.name)
            continue
        mask = resolve_inside(root, f"masks/{clean_name(image.name)}.png", place) if has_masks else None
        yield PosedFrame(
            name=clean_name(image.name), path=path, c2w=check_pose(_camera_to_world(image, place), place),
            intrinsics=lenses[image.camera_id], mask=mask if mask and mask.is_file() else None, where=place,
        )  # fmt: skip
    if missing:
        raise missing_pictures(missing, str(where), image_folder)


def _camera_to_world(image: RawImage, where: str) -> Float[np.ndarray, "3 4"]:
    quaternion = np.array(image.quaternion)
    length = math.hypot(*image.quaternion)
    if not 0.5 < length < 2:
        raise UserError(f"the quaternion has length {length:g}, expected 1", where=where, fix="Export the model again")
    if not np.isfinite(image.translation).all():
        raise UserError("the pose is not finite", where=where, fix="Export the model again")
    w, x, y, z = quaternion / length
    rotation = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
    return np.concatenate([rotation.T, -rotation.T @ np.array(image.translation)[:, None]], 1)


def camera_intrinsics(camera: RawCamera, where: str) -> Intrinsics:
    """Our intrinsics and lens for a camera as COLMAP stores it.

    Raises:
        UserError: if its numbers are impossible or none of our lenses fits its model.
    """
    p = camera.params
    is_sized = 1 <= camera.width <= MAX_SIDE and 1 <= camera.height <= MAX_SIDE
    if not np.isfinite(p).all() or not is_sized:
        raise UserError("impossible size or parameters", where=where, fix="Export the model again")
    if camera.model == "EQUIRECTANGULAR":
        return Intrinsics(camera.width, camera.height, None, None, (None, None), Lens("equirectangular"))
    has_one_focal = camera.model.startswith(("SIMPLE_", "RADIAL"))
    focal, rest = ((p[0], p[0]), p[1:]) if has_one_focal else ((p[0], p[1]), p[2:])
    centre, coefficients = (rest[0], rest[1]), rest[2:]
    if min(focal) <= 0:
        raise UserError(f"the focal length is {min(focal):g}", where=where, fix="Solve the poses again")
    lens = _lens(camera.model, coefficients)
    if lens is None:
        raise UserError(
            f"the lens model '{camera.model}' is not supported", where=where,
            fix=f"Supported: {', '.join(SUPPORTED_MODELS)}. Undistort the pictures (colmap image_undistorter)",
        )  # fmt: skip
    return Intrinsics(camera.width, camera.height, focal, None, centre, lens)


def _lens(model: str, coefficients: tuple[float, ...]) -> Lens | None:
    """Our lens for a COLMAP model and its parameters after focal length and centre; None where none fits."""
    if model in ("SIMPLE_PINHOLE", "PINHOLE"):
        return Lens()
    if model in ("SIMPLE_RADIAL", "RADIAL"):
        k1, k2 = (*coefficients, 0.0)[:2]
        return Lens("opencv", (k1, k2))
    if not any(coefficients) and model in ("OPENCV", "FULL_OPENCV"):
        return Lens()
    if model == "OPENCV":
        return Lens("opencv", coefficients)
    if model == "FULL_OPENCV" and not any(coefficients[5:]):
        # k4 to k6 are the denominator of its rational polynomial, which our lens does not have.
        return Lens("opencv", coefficients[:5])
    if model in ("OPENCV_FISHEYE", "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE", "SIMPLE_FISHEYE", "FISHEYE"):
        return Lens("fisheye", coefficients)
    return None


def _read_points(model: Path) -> tuple[np.ndarray | None, list[str]]:
    path = table_path(model, "points3D")
    if path is None:
        return None, []
    points = read_points(path)
    is_finite = np.isfinite(points).all(-1)
    n_bad = int((~is_finite).sum())
    warnings = [f"{path.name}: {n_bad} points that are not finite were dropped"] if n_bad else []
    return (points[is_finite] if is_finite.any() else None), warnings
