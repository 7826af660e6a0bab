"""Readers of `transforms.json` (nerfstudio, instant-ngp) and of Blender's three files."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import UserError
from ..strict_json import JsonObject, as_number, as_numbers, as_text, as_texts, read_json
from .ply_points import read_ply_points
from .posed_capture import (
    FrameHints,
    PosedCapture,
    PosedFrame,
    check_pose,
    clean_name,
    find_picture,
    from_opengl,
    missing_pictures,
    resolve_inside,
)
from .transforms_lens import read_intrinsics

MAX_FRAMES = 100_000
AABB_SCALES = tuple(2**i for i in range(8))
SHARPNESS_REACH = 3
"""Neighbours on each side that a frame's sharpness is compared with."""
SPLIT_NAMES = ("train", "val", "test")
IGNORED_FLAGS = ("white_transparent", "black_transparent", "fix_premult", "from_mitsuba", "envmap", "sharpen")
"""Keys of instant-ngp that change pictures or light; said when set, as the result differs from what the file asks."""


def read_transforms(path: Path) -> PosedCapture:
    """Read a capture described by one `transforms.json`.

    Raises:
        UserError: naming file and place, if the file is damaged, a picture is missing or a value is impossible.
    """
    root = path.parent
    top = read_json(path)
    warnings: list[str] = []
    frames = _read_frames(top, root, path.name, warnings)
    frames = sorted(frames, key=lambda frame: frame.name)
    frames = _drop_blurred(top, frames, path.name, warnings)
    splits = {s: _cleaned(top, f"{s}_filenames", path.name) for s in SPLIT_NAMES if f"{s}_filenames" in top}
    tool = "instant-ngp" if "aabb_scale" in top else "nerfstudio"
    return PosedCapture(
        kind=f"{tool} {path.name}",
        root=root,
        frames=tuple(frames),
        splits=splits or None,
        points=_read_points(top, root, path.name, warnings),
        applied_transform=_read_applied(top, path.name),
        hints=_read_hints(top, path.name),
        warnings=tuple(warnings),
        file=path,
    )


def read_blender(folder: Path) -> PosedCapture:
    """Read a Blender set: `transforms_train.json` and, where they exist, `_val` and `_test`.

    Raises:
        UserError: as `read_transforms`.
    """
    frames: list[PosedFrame] = []
    splits: dict[str, tuple[str, ...]] = {}
    warnings: list[str] = []
    hints = FrameHints()
    is_synthetic = True
    for split in SPLIT_NAMES:
        path = folder / f"transforms_{split}.json"
        if not path.exists():
            if split == "train":
                raise UserError("no such file", where=path, fix="A Blender set needs its training file")
            continue
        top = read_json(path)
        found = _read_frames(top, folder, path.name, warnings)
        frames += found
        splits[split] = tuple(frame.name for frame in found)
        is_synthetic = is_synthetic and not {"fl_x", "aabb_scale", "scale", "offset"} & top.keys()
        if split == "train":
            hints = _read_hints(top, path.name)
    return PosedCapture(
        kind="Blender set" if is_synthetic else "transforms_train.json set",
        root=folder,
        frames=tuple(frames),
        splits=splits if len(splits) > 1 else None,
        hints=dataclasses.replace(hints, is_synthetic=is_synthetic),
        warnings=tuple(dict.fromkeys(warnings)),
    )


def read_matrix(value: object, where: str) -> np.ndarray:
    """Nested rows of numbers as float64 [rows, columns]; names the entry that is not a number."""
    if not isinstance(value, list) or not value:
        raise UserError("expected rows of numbers", where=where, fix="Write three or four rows of four")
    rows = [as_numbers(row, f"{where}[{i}]") for i, row in enumerate(value)]
    if len({len(row) for row in rows}) != 1:
        raise UserError("the rows differ in length", where=where, fix="Write three or four rows of four")
    return np.array(rows, dtype=np.float64)


def _read_frames(top: JsonObject, root: Path, file: str, warnings: list[str]) -> list[PosedFrame]:
    entries = top.get("frames")
    if not isinstance(entries, list) or not entries:
        found = "is missing" if entries is None else "is empty" if entries == [] else "is not a list"
        raise UserError(f"'frames' {found}", where=file, fix="Write one entry per picture")
    if len(entries) > MAX_FRAMES:
        raise UserError(f"{len(entries)} frames; at most {MAX_FRAMES} are read", where=file, fix="Split the capture")
    if any("rolling_shutter" in part for part in (top, *(e for e in entries if isinstance(e, dict)))):
        warnings.append(f"{file}: rolling shutter is not modelled; every picture counts as taken at once")
    for key in IGNORED_FLAGS:
        if top.get(key):
            warnings.append(f"{file}: '{key}' is ignored")
    if top.get("equirectangular") and "camera_model" not in top:
        warnings.append(f"{file}: 'equirectangular' is read as ordinary 360 x 180 degree pictures, as 'latlong'")
    frames, missing = [], []
    for i, entry in enumerate(entries):
        frame = _read_frame(top, entry, root, file, f"frames[{i}]")
        if frame is None:
            missing.append(str(entry["file_path"]))
        else:
            frames.append(frame)
    if missing:
        raise missing_pictures(missing, file, root)
    n_masked = sum(frame.mask is not None for frame in frames)
    if 0 < n_masked < len(frames):
        warnings.append(f"{file}: {n_masked} of {len(frames)} pictures have a mask; the others are used whole")
    if any(entry.get("depth_file_path") is not None for entry in entries):
        warnings.append(f"{file}: the depth files are not used")
    return frames


def _read_frame(top: JsonObject, entry: object, root: Path, file: str, place: str) -> PosedFrame | None:
    """One frame, or None when its picture is not there."""
    where = f"{file}: {place}"
    if not isinstance(entry, dict):
        raise UserError("expected an object", where=where, fix="Write the frame again, or delete it")
    name = as_text(entry.get("file_path"), f"{where}.file_path")
    picture = find_picture(root, name, f"{where}.file_path")
    key = "transform_matrix" if "transform_matrix" in entry else "transform_matrix_start"
    if key not in entry:
        raise UserError("no transform_matrix", where=where, fix="Give the camera-to-world matrix, or delete the frame")
    matrix = read_matrix(entry[key], f"{where}.{key}")
    c2w = from_opengl(check_pose(matrix, f"{where}.{key}"))
    intrinsics = read_intrinsics(top, entry, file, place)
    if picture is None:
        return None
    mask = None
    if entry.get("mask_path") is not None:
        mask_name = as_text(entry["mask_path"], f"{where}.mask_path")
        mask = find_picture(root, mask_name, f"{where}.mask_path")
        if mask is None:
            raise UserError(f"the mask '{mask_name}' is missing", where=f"{where}.mask_path", fix="Restore it")
    return PosedFrame(
        name=clean_name(name), path=picture, c2w=c2w, intrinsics=intrinsics, mask=mask,
        ignore_mask=_sibling_mask(picture), where=where,
    )  # fmt: skip


def _drop_blurred(top: JsonObject, frames: list[PosedFrame], file: str, warnings: list[str]) -> list[PosedFrame]:
    """Leave out frames less sharp than the file's threshold times the mean of their neighbours, as instant-ngp does.

    Explicit lists of names win: whoever lists a picture wants it.
    """
    threshold = as_number(top.get("sharpness_discard_threshold", 0.0), f"{file}: sharpness_discard_threshold")
    measured = {clean_name(str(e["file_path"])): e["sharpness"] for e in top["frames"] if "sharpness" in e}
    is_pinned = any(f"{split}_filenames" in top for split in SPLIT_NAMES)
    if threshold <= 0 or len(measured) < len(frames) or is_pinned:
        return frames
    sharpness = np.array([as_number(measured[frame.name], f"{frame.where}.sharpness") for frame in frames])
    kept = [
        frame
        for i, frame in enumerate(frames)
        if sharpness[i] > threshold * sharpness[max(0, i - SHARPNESS_REACH) : i + SHARPNESS_REACH + 1].mean()
    ]
    if len(kept) < len(frames):
        n = len(frames) - len(kept)
        warnings.append(f"{file}: {n} of {len(frames)} pictures are left out as blurred (sharpness_discard_threshold)")
    return kept


def _sibling_mask(picture: Path) -> Path | None:
    """instant-ngp's mask beside the picture; non-zero means ignore."""
    mask = picture.with_name(f"dynamic_mask_{picture.stem}.png")
    return mask if mask.is_file() and not mask.is_symlink() else None


def _cleaned(top: Mapping[str, Any], key: str, file: str) -> tuple[str, ...]:
    return tuple(clean_name(name) for name in as_texts(top[key], f"{file}: {key}"))


def _read_points(top: JsonObject, root: Path, file: str, warnings: list[str]) -> np.ndarray | None:
    if top.get("ply_file_path") is None:
        return None
    where = f"{file}: ply_file_path"
    path = resolve_inside(root, as_text(top["ply_file_path"], where), where)
    if not path.is_file():
        warnings.append(f"{where}: '{path.name}' is missing; going on without sparse points")
        return None
    points, n_dropped = read_ply_points(path)
    if n_dropped:
        warnings.append(f"{path.name}: {n_dropped} points that are not finite were dropped")
    return points if len(points) else None


def _read_applied(top: JsonObject, file: str) -> Float[Tensor, "3 4"] | None:
    scale = as_number(top.get("applied_scale", 1.0), f"{file}: applied_scale")
    if scale <= 0:
        raise UserError(f"the scale is {scale:g}", where=f"{file}: applied_scale", fix="Give a number above 0")
    if "applied_transform" not in top and "applied_scale" not in top:
        return None
    matrix = np.eye(4)[:3]
    if top.get("applied_transform") is not None:
        matrix = read_matrix(top["applied_transform"], f"{file}: applied_transform")
        if matrix.shape not in ((3, 4), (4, 4)):
            raise UserError(
                "expected 3x4 or 4x4 numbers", where=f"{file}: applied_transform", fix="Write it again, or remove it"
            )
        if abs(np.linalg.det(matrix[:3, :3])) < 1e-12:
            raise UserError(
                "the transform cannot be undone (det = 0)",
                where=f"{file}: applied_transform",
                fix="Write it again, or remove it",
            )
    return torch.from_numpy(scale * matrix[:3])


def _read_hints(top: JsonObject, file: str) -> FrameHints:
    aabb_scale = None
    if top.get("aabb_scale") is not None:
        value = as_number(top["aabb_scale"], f"{file}: aabb_scale")
        if value not in AABB_SCALES:
            allowed = ", ".join(map(str, AABB_SCALES))
            raise UserError(f"{value:g} is no box size", where=f"{file}: aabb_scale", fix=f"Use one of {allowed}")
        aabb_scale = int(value)
    scale, offset = None, None
    if top.get("scale") is not None:
        scale = as_number(top["scale"], f"{file}: scale")
        if scale <= 0:
            raise UserError(f"the scale is {scale:g}", where=f"{file}: scale", fix="Give a number above 0")
    if top.get("offset") is not None:
        raw = top["offset"]
        values = (
            as_numbers(raw, f"{file}: offset", 3) if isinstance(raw, list) else [as_number(raw, f"{file}: offset")] * 3
        )
        offset = (values[0], values[1], values[2])
    if top.get("aabb") is not None:
        scale, offset = _frame_of_aabb(top["aabb"], f"{file}: aabb")
    return FrameHints(aabb_scale=aabb_scale, scale=scale, offset=offset)


def _frame_of_aabb(value: object, where: str) -> tuple[float, tuple[float, float, float]]:
    """Scale and offset that fit a box [[min], [max]] into the unit cube, as instant-ngp does."""
    box = read_matrix(value, where)
    if box.shape != (2, 3) or np.abs(box[1] - box[0]).max() < 1e-6:
        raise UserError(
            "expected [[min x, y, z], [max x, y, z]] of a box with volume",
            where=where,
            fix="Write it again, or remove it",
        )
    scale = 1 / float(np.abs(box[1] - box[0]).max())
    x, y, z = (0.5 - scale * box.mean(0)).tolist()
    return scale, (x, y, z)
