"""Tiny captures on disk, one per format, all of the same three or more cameras; tests damage copies of them."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 24, 16
FOCAL = 20.0


def look_at(centre: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Camera-to-world [4,4], OpenGL axes, +Z up."""
    backward = (centre - target) / np.linalg.norm(centre - target)
    right = np.cross([0.0, 0.0, 1.0], backward)
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3] = np.stack([right, np.cross(backward, right), backward, centre], -1)
    return pose


def ring(
    n: int, radius: float = 3.0, height: float = 1.0, target: tuple[float, float, float] = (0, 0, 0)
) -> np.ndarray:
    """`n` poses [n,4,4] (OpenGL axes) on a circle, all looking at one point."""
    angles = 2 * np.pi * np.arange(n) / n
    centres = np.stack([radius * np.cos(angles), radius * np.sin(angles), np.full(n, height)], -1) + np.array(target)
    return np.stack([look_at(centre, np.array(target, dtype=float)) for centre in centres])


def picture(i: int, width: int = WIDTH, height: int = HEIGHT, channels: int = 3) -> np.ndarray:
    """A picture whose every pixel is different, and different from other `i`."""
    rng = np.random.default_rng(i)
    return rng.integers(0, 256, (height, width, channels), dtype=np.uint8)


def save_pictures(folder: Path, n: int, *, suffix: str = ".png", channels: int = 3) -> list[str]:
    """Write pictures 0000, 0001, ... and return their names."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{i:04d}{suffix}" for i in range(n)]
    for i, name in enumerate(names):
        Image.fromarray(picture(i, channels=channels)).save(folder / name)
    return names


def transforms(n: int = 10, **top: Any) -> dict[str, Any]:
    """The document of a capture of `n` pictures images/0000.png, ..."""
    frames = [{"file_path": f"images/{i:04d}.png", "transform_matrix": pose.tolist()} for i, pose in enumerate(ring(n))]
    return {"fl_x": FOCAL, "w": WIDTH, "h": HEIGHT, **top, "frames": frames}


def write_transforms(folder: Path, document: dict[str, Any] | None = None, *, channels: int = 3, **top: Any) -> Path:
    """A whole capture in `folder`; returns the folder."""
    document = document if document is not None else transforms(**top)
    save_pictures(folder / "images", len(document["frames"]), channels=channels)
    (folder / "transforms.json").write_text(json.dumps(document))
    return folder


def write_blender(folder: Path, *, channels: int = 4) -> Path:
    """A Blender set of 4 + 1 + 2 pictures without endings in the file; returns the folder."""
    poses = ring(7, radius=4.0)
    start = 0
    for split, n in (("train", 4), ("val", 1), ("test", 2)):
        names = save_pictures(folder / split, n, channels=channels)
        frames = [
            {"file_path": f"./{split}/{name[:-4]}", "rotation": 0.01, "transform_matrix": poses[start + i].tolist()}
            for i, name in enumerate(names)
        ]
        document = {"camera_angle_x": 0.6911112070083618, "frames": frames}
        (folder / f"transforms_{split}.json").write_text(json.dumps(document))
        start += n
    return folder


def write_llff(folder: Path, n: int = 9) -> Path:
    """An LLFF capture whose array states twice the size of the pictures; returns the folder."""
    save_pictures(folder / "images", n)
    np.save(folder / "poses_bounds.npy", llff_table(n))
    return folder


def llff_table(n: int) -> np.ndarray:
    """Rows of 17: axes down, right, backward; height, width, focal; near, far."""
    rows = []
    for pose in ring(n):
        right, up, backward, centre = pose[:3].T
        matrix = np.stack([-up, right, backward, centre, [2 * HEIGHT, 2 * WIDTH, 2 * FOCAL]], -1)
        rows.append([*matrix.ravel(), 1.5, 6.0])
    return np.array(rows)


def world_to_camera(pose_gl: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Quaternion (w, x, y, z) and translation of COLMAP, by way of the axis and angle of the rotation."""
    c2w = pose_gl[:3].copy()
    c2w[:, 1:3] *= -1
    rotation = c2w[:, :3].T
    values, vectors = np.linalg.eig(rotation)
    axis = np.real(vectors[:, np.argmin(np.abs(values - 1))])
    helper = np.cross(axis, [0.3, -0.5, 0.8])
    sine = np.dot(axis, np.cross(helper, rotation @ helper)) / np.dot(helper, helper)
    angle = np.arctan2(sine, (np.trace(rotation) - 1) / 2)
    return np.array([np.cos(angle / 2), *(np.sin(angle / 2) * axis)]), -rotation @ c2w[:, 3]


POINTS = np.random.default_rng(7).normal(0, 0.5, (60, 3))


def write_colmap_binary(model: Path, names: list[str], params: tuple[float, ...] = (), model_id: int = 1) -> None:
    """A binary model with one camera for all pictures."""
    model.mkdir(parents=True, exist_ok=True)
    params = params or (FOCAL, FOCAL, WIDTH / 2, HEIGHT / 2)
    camera = struct.pack("<QiiQQ", 1, 1, model_id, WIDTH, HEIGHT) + struct.pack(f"<{len(params)}d", *params)
    (model / "cameras.bin").write_bytes(camera)
    data = struct.pack("<Q", len(names))
    for i, (name, pose) in enumerate(zip(names, ring(len(names)), strict=True)):
        quaternion, translation = world_to_camera(pose)
        data += struct.pack("<i7di", i + 1, *quaternion, *translation, 1) + name.encode() + b"\0"
        data += struct.pack("<Q", 2) + struct.pack("<ddq", 1.0, 2.0, -1) * 2
    (model / "images.bin").write_bytes(data)
    data = struct.pack("<Q", len(POINTS))
    for i, xyz in enumerate(POINTS):
        data += struct.pack("<Q3d3BdQ", i + 1, *xyz, 10, 20, 30, 0.5, 2) + struct.pack("<iiii", 1, 0, 2, 1)
    (model / "points3D.bin").write_bytes(data)


def write_colmap_text(model: Path, names: list[str]) -> None:
    """The same model as text, with comments and empty lines of points."""
    model.mkdir(parents=True, exist_ok=True)
    (model / "cameras.txt").write_text(
        f"# cameras\n1 PINHOLE {WIDTH} {HEIGHT} {FOCAL} {FOCAL} {WIDTH / 2} {HEIGHT / 2}\n"
    )
    lines = ["# images"]
    for i, (name, pose) in enumerate(zip(names, ring(len(names)), strict=True)):
        numbers = " ".join(repr(float(v)) for v in np.concatenate(world_to_camera(pose)))
        lines += [f"{i + 1} {numbers} 1 {name}", "" if i % 2 else "1.0 2.0 -1"]
    (model / "images.txt").write_text("\n".join(lines) + "\n")
    rows = [f"{i + 1} {x!r} {y!r} {z!r} 1 2 3 0.5 1 0" for i, (x, y, z) in enumerate(POINTS.tolist())]
    (model / "points3D.txt").write_text("\n".join(rows) + "\n")
