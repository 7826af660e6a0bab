"""A scene without its pixels as plain JSON, so that a finished run opens without its photos."""

from __future__ import annotations

import dataclasses
import io
import json
import os
from pathlib import Path

import numpy as np
import torch

from ..array_files import parse_array
from ..cameras import MAX_SIDE, Camera, Cameras
from ..errors import UserError
from ..lenses import LENS_KINDS, N_LENS_PARAMS, Lens
from ..strict_json import JsonObject, as_number, as_numbers, as_text, read_json
from .model import SceneFrame, SceneMeta, Split
from .posed_capture import check_pose
from .posed_formats import read_matrix

SCHEMA = 1
MAX_POINT_BYTES = 2**28


def write_scene_json(meta: SceneMeta, path: Path) -> None:
    """Write a scene to `path`, and its points to `<name>_points.npy` beside it; each appears complete or not at all."""
    document, points = scene_to_json(meta, _points_path(path).name)
    if points is not None:
        _write_whole(_points_path(path), points)
    _write_whole(path, document)


def scene_to_json(meta: SceneMeta, points_name: str = "scene_points.npy") -> tuple[bytes, bytes | None]:
    """A scene as the contents of its two files: the description, and the points or None.

    Args:
        meta: The scene.
        points_name: What the description calls the file of the points.
    """
    points = None
    if meta.points is not None:
        buffer = io.BytesIO()
        np.save(buffer, meta.points.astype(np.float32), allow_pickle=False)
        points = buffer.getvalue()
    document = {
        "schema": SCHEMA,
        "name": meta.name,
        "kind": meta.kind,
        "source": meta.source,
        "background": list(meta.background),
        "has_alpha": meta.has_alpha,
        "frame": {
            "rotation": meta.frame.rotation.tolist(),
            "translation": meta.frame.translation.tolist(),
            "scale": meta.frame.scale,
            "aabb_scale": meta.frame.aabb_scale,
        },
        "applied_transform": None if meta.applied_transform is None else meta.applied_transform.tolist(),
        "points": None if meta.points is None else points_name,
        "split": dataclasses.asdict(meta.split),
        "images": [
            {
                "name": name, "width": camera.width, "height": camera.height, "K": camera.K.tolist(),
                "c2w": camera.c2w.tolist(), "lens": camera.lens.kind, "lens_params": list(camera.lens.params),
            }
            for name, camera in zip(meta.image_names, meta.cameras, strict=True)
        ],
    }  # fmt: skip
    return json.dumps(document, allow_nan=False).encode(), points


def read_scene_json(path: Path) -> SceneMeta:
    """Read what `write_scene_json` wrote.

    Raises:
        UserError: naming file and place, if anything is damaged or comes from a newer version.
    """
    document = read_json(path)
    points = None if document.get("points") is None else _read_points(path)
    return scene_from_json(document, points, where=path)


def scene_from_json(document: JsonObject, points: np.ndarray | None, *, where: Path) -> SceneMeta:
    """The scene that a parsed description and its points make.

    Args:
        document: What `scene_to_json` made, parsed.
        points: [P,3] float32 or None.
        where: The file, for messages.
    Raises:
        UserError: as `read_scene_json`.
    """
    path, file = where, where.name
    if document.get("schema") != SCHEMA:
        raise UserError(
            f"scene description of version {document.get('schema')!r}, this program reads version {SCHEMA}", where=path,
            fix="Use the version of nerfstudio-ext that wrote the run",
        )  # fmt: skip
    images = document.get("images")
    if not isinstance(images, list) or not all(isinstance(image, dict) for image in images):
        raise UserError("'images' is not a list of objects", where=path, fix="Restore the run's files, or train again")
    cameras = [_read_camera(image, f"{file}: images[{i}]") for i, image in enumerate(images)]
    background = as_numbers(document.get("background"), f"{file}: background", 3)
    applied = document.get("applied_transform")
    return SceneMeta(
        name=as_text(document.get("name"), f"{file}: name"),
        kind=as_text(document.get("kind"), f"{file}: kind"),
        cameras=Cameras(cameras),
        image_names=tuple(as_text(image.get("name"), f"{file}: images[{i}].name") for i, image in enumerate(images)),
        split=_read_split(document.get("split"), len(images), f"{file}: split"),
        frame=_read_frame(document.get("frame"), f"{file}: frame"),
        background=(background[0], background[1], background[2]),
        has_alpha=document.get("has_alpha") is True,
        points=points,
        applied_transform=None if applied is None else _read_array(applied, (3, 4), f"{file}: applied_transform"),
        source=as_text(document.get("source"), f"{file}: source"),
    )


def _points_path(path: Path) -> Path:
    return path.with_name(f"{path.stem}_points.npy")


def _write_whole(path: Path, data: bytes) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(data)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _read_points(path: Path) -> np.ndarray:
    # The name is ours, whatever the document says: no path from a file is followed.
    points_path = _points_path(path)
    try:
        if points_path.stat().st_size > MAX_POINT_BYTES:
            raise UserError("too large", where=points_path, fix="Restore the run's files, or train again")
        data = points_path.read_bytes()
    except OSError as error:
        raise UserError(f"the scene's points cannot be read ({error})", where=points_path, fix="Restore it") from None
    return points_from_bytes(data, where=points_path)


def points_from_bytes(data: bytes, *, where: Path) -> np.ndarray:
    """Sparse points [P,3] float32 from the content of their file.

    Raises:
        UserError: if they are damaged.
    """
    points = parse_array(data, where=where, fix="Restore it")
    if points.dtype != np.float32 or points.ndim != 2 or points.shape[1] != 3:
        raise UserError("expected points [P,3] float32", where=where, fix="Restore it")
    return points


def _read_array(value: object, shape: tuple[int, int], where: str) -> torch.Tensor:
    matrix = read_matrix(value, where)
    if matrix.shape != shape:
        raise UserError(
            f"expected {shape[0]}x{shape[1]} numbers", where=where, fix="Restore the run's files, or train again"
        )
    return torch.from_numpy(matrix)


def _read_camera(image: JsonObject, where: str) -> Camera:
    width, height = (_read_count(image.get(key), f"{where}.{key}") for key in ("width", "height"))
    kind = next((k for k in LENS_KINDS if k == image.get("lens")), None)
    params = as_numbers(image.get("lens_params"), f"{where}.lens_params")
    if kind is None or len(params) > N_LENS_PARAMS:
        raise UserError(
            f"unknown lens {image.get('lens')!r} with {len(params)} parameters",
            where=where,
            fix="Restore the run's files, or train again",
        )
    c2w = _read_array(image.get("c2w"), (3, 4), f"{where}.c2w")
    check_pose(c2w.numpy(), f"{where}.c2w")
    return Camera(width, height, _read_array(image.get("K"), (3, 3), f"{where}.K"), c2w, Lens(kind, tuple(params)))


def _read_count(value: object, where: str) -> int:
    number = as_number(value, where)
    if not 1 <= number <= MAX_SIDE or number != round(number):
        raise UserError(
            f"expected a whole number from 1 to {MAX_SIDE}, found {number:g}",
            where=where,
            fix="Restore the run's files, or train again",
        )
    return int(number)


def _read_split(value: object, n_images: int, where: str) -> Split:
    if not isinstance(value, dict):
        raise UserError("expected an object", where=where, fix="Restore the run's files, or train again")
    parts = []
    for purpose in ("train", "val", "test"):
        numbers = as_numbers(value.get(purpose), f"{where}.{purpose}")
        if any(n != round(n) or not 0 <= n < n_images for n in numbers):
            raise UserError(
                f"expected positions of images, 0 to {n_images - 1}",
                where=f"{where}.{purpose}",
                fix="Restore the run's files, or train again",
            )
        parts.append(tuple(int(n) for n in numbers))
    return Split(*parts)


def _read_frame(value: object, where: str) -> SceneFrame:
    if not isinstance(value, dict):
        raise UserError("expected an object", where=where, fix="Restore the run's files, or train again")
    rotation = _read_array(value.get("rotation"), (3, 3), f"{where}.rotation")
    translation = as_numbers(value.get("translation"), f"{where}.translation", 3)
    check_pose(np.concatenate([rotation.numpy(), np.array(translation)[:, None]], 1), f"{where}.rotation")
    scale = as_number(value.get("scale"), f"{where}.scale")
    aabb_scale = _read_count(value.get("aabb_scale"), f"{where}.aabb_scale")
    if scale <= 0 or aabb_scale > 128 or aabb_scale & (aabb_scale - 1):
        raise UserError(
            f"impossible scale {scale:g} or aabb_scale {aabb_scale}",
            where=where,
            fix="Restore the run's files, or train again",
        )
    return SceneFrame(rotation, torch.tensor(translation, dtype=torch.float64), scale, aabb_scale)
