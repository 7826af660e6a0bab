"""Writing a solved capture: transforms.json in nerfstudio's conventions, sparse points as PLY, world z up."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float64

from ..errors import UserError
from .sfm_solution import PoseSolution, SolvedCamera

MIN_TRACK = 3
"""Photos that must see a point before it is written: points seen twice are wrong ten times as often."""
POSE_DECIMALS = 8
"""Sums over several threads differ in the 10th digit from run to run; what is written should not."""
_LENS_KEYS = {"OPENCV": ("k1", "k2", "p1", "p2"), "OPENCV_FISHEYE": ("k1", "k2", "k3", "k4")}


def write_transforms(
    solution: PoseSolution, root: Path, image_folder: str, sharpness: Mapping[str, float]
) -> tuple[Path, Float64[np.ndarray, "3 3"]]:
    """Write `transforms.json` and `sparse_pc.ply` into `root`.

    Poses are camera-to-world with OpenGL axes (x right, y up, z backward). The world is turned so that +z is up;
    `applied_transform` says how, so that the COLMAP model's frame can be found again.

    Args:
        solution: The solved cameras.
        root: Folder of the capture; files appear there complete or not at all.
        image_folder: Folder of the photos below `root`.
        sharpness: By photo name.
    Returns:
        The path of `transforms.json`, and the rotation that was applied.
    Raises:
        UserError: if the folder cannot be written.
    """
    c2w = {photo.name: camera_to_world(photo.cam_from_world) for photo in solution.photos}
    rotation = upright_rotation(np.stack(list(c2w.values())))
    document: dict[str, Any] = {"camera_model": next(iter(solution.cameras.values())).model}
    is_single = len(solution.cameras) == 1
    if is_single:
        document |= _intrinsics(next(iter(solution.cameras.values())))
    frames = []
    for photo in solution.photos:
        matrix = np.eye(4)
        matrix[:3] = rotation @ c2w[photo.name]
        matrix[:3, 1:3] *= -1  # OpenCV axes to OpenGL axes
        frame: dict[str, Any] = {"file_path": f"{image_folder}/{photo.name}"}
        if not is_single:
            frame |= _intrinsics(solution.cameras[photo.camera_id])
        frame |= {"transform_matrix": matrix.round(POSE_DECIMALS).tolist(), "colmap_im_id": photo.image_id}
        if photo.name in sharpness:
            frame["sharpness"] = round(sharpness[photo.name], 3)
        frames.append(frame)
    document["applied_transform"] = np.column_stack([rotation, np.zeros(3)]).tolist()
    document["ply_file_path"] = "sparse_pc.ply"
    document["frames"] = frames
    solid = solution.points[solution.points[:, 7] >= MIN_TRACK]
    path = root / "transforms.json"
    try:
        write_ply(solid[:, :3] @ rotation.T, solid[:, 3:6], root / "sparse_pc.ply")
        write_whole(path, json.dumps(document, indent=1, allow_nan=False).encode())
    except OSError as error:
        what = f"cannot be written: {error.strerror or error}"
        raise UserError(what, where=path, fix="Free space, or choose another --output-dir") from None
    return path, rotation


def camera_to_world(cam_from_world: Float64[np.ndarray, "3 4"]) -> Float64[np.ndarray, "3 4"]:
    """Inverse of a rigid transform [3,4]; axes stay OpenCV's."""
    rotation = cam_from_world[:, :3].T
    return np.column_stack([rotation, -rotation @ cam_from_world[:, 3]])


def upright_rotation(c2w: Float64[np.ndarray, "V 3 4"]) -> Float64[np.ndarray, "3 3"]:
    """The rotation of the world after which +z is up, from how people hold cameras.

    Cameras are held level: their x axes lie in the ground plane, so up is the direction that all x axes are normal to.
    Where they all point the same way (a wall photographed from the front) that leaves a choice, and the mean up
    vector of the cameras makes it.

    Args:
        c2w: Camera-to-world with OpenCV axes.
    """
    right, mean_up = c2w[:, :, 0], -c2w[:, :, 1].mean(0)
    # The small second term decides only where the first leaves a choice: hands tilt a camera by about 3 degrees
    # (variance 0.0025), the mean up vector is off by as much as people look down.
    _, vectors = np.linalg.eigh(right.T @ right / len(right) - 0.005 * np.outer(mean_up, mean_up))
    up = vectors[:, 0] * (1.0 if vectors[:, 0] @ mean_up >= 0 else -1.0)
    axis = np.cross(up, [0.0, 0.0, 1.0])
    cosine = up[2]
    if cosine < -1 + 1e-12:
        return np.diag([1.0, -1.0, -1.0])
    x, y, z = axis
    skew = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + skew + skew @ skew / (1 + cosine)


def write_ply(points: Float[np.ndarray, "P 3"], colours: Float[np.ndarray, "P 3"], path: Path) -> None:
    """Write a coloured point cloud as binary PLY.

    Args:
        points: Positions.
        colours: 0..255.
        path: Target; replaced as a whole.
    """
    fields = [("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("red", "u1"), ("green", "u1"), ("blue", "u1")]
    table = np.zeros(len(points), dtype=fields)
    for i, axis in enumerate("xyz"):
        table[axis] = points[:, i]
    for i, channel in enumerate(("red", "green", "blue")):
        table[channel] = np.clip(np.rint(colours[:, i]), 0, 255)
    kinds = {"<f4": "float", "u1": "uchar"}
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(points)}"]
    header += [f"property {kinds[kind]} {name}" for name, kind in fields]
    write_whole(path, ("\n".join([*header, "end_header"]) + "\n").encode() + table.tobytes())


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that its name never stands for half of it."""
    temporary = path.with_name(f".{path.name}.new")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _intrinsics(camera: SolvedCamera) -> dict[str, float | int]:
    fx, fy, cx, cy, *lens = (round(value, POSE_DECIMALS) for value in camera.params)
    values = {"w": camera.width, "h": camera.height, "fl_x": fx, "fl_y": fy, "cx": cx, "cy": cy}
    return {**values, **dict(zip(_LENS_KEYS[camera.model], lens, strict=True))}
