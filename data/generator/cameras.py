"""The walk with the phone: lens, poses and the true_poses.json that goes with the photos."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

SENSOR_WIDTH_MM, SENSOR_HEIGHT_MM = 5.76, 4.32
DIAGONAL_35MM = 43.2666
FOCAL_35MM = 25.87
"""True focal length in 35 mm terms (CIPA: same diagonal angle). EXIF can only say 26: phones round too."""
RINGS = (
    # photos, distance from the axis, eye height above the table, height looked at
    (19, 0.92, 0.29, 0.09),
    (17, 0.84, 0.52, 0.06),
    (12, 0.66, 0.80, 0.03),
)
TABLE_HEIGHT = 0.76


@dataclass(frozen=True)
class Lens:
    """Intrinsics in pixels for one photo size; OPENCV radial distortion k1, k2."""

    width: int
    height: int
    focal: float
    cx: float
    cy: float
    k1: float = 0.034
    k2: float = -0.046


def phone_lens(width: int, height: int) -> Lens:
    """The same phone at any photo size: focal length and principal point scale with it."""
    focal = FOCAL_35MM / DIAGONAL_35MM * math.hypot(width, height)
    return Lens(width, height, focal, width * (0.5 + 0.0061), height * (0.5 - 0.0083))


def walk(rng: np.random.Generator) -> list[np.ndarray]:
    """Camera-to-world matrices [4,4] in OpenGL axes (x right, y up, looking along -z), in walking order."""
    poses = []
    start = -100.0
    for count, radius, height, look in RINGS:
        step = 360.0 / count
        for i in range(count):
            angle = math.radians(start + step * (i + rng.uniform(-0.12, 0.12)))
            distance = radius * (1 + rng.uniform(-0.05, 0.05))
            eye = np.array([distance * math.cos(angle), distance * math.sin(angle), TABLE_HEIGHT + height])
            eye[2] += rng.uniform(-0.03, 0.03)
            target = np.array([*rng.uniform(-0.035, 0.035, 2), TABLE_HEIGHT + look + rng.uniform(-0.02, 0.02)])
            poses.append(look_at(eye, target, rng.normal(0, 1.3)))
        start += 360.0 + 7.0
    return poses


def look_at(eye: np.ndarray, target: np.ndarray, roll_deg: float) -> np.ndarray:
    """OpenGL camera-to-world matrix [4,4] of an eye that looks at a target, z up, turned by `roll_deg`."""
    back = (eye - target) / np.linalg.norm(eye - target)
    right = np.cross([0, 0, 1.0], back)
    right /= np.linalg.norm(right)
    up = np.cross(back, right)
    c, s = math.cos(math.radians(roll_deg)), math.sin(math.radians(roll_deg))
    pose = np.eye(4)
    pose[:3, 0], pose[:3, 1], pose[:3, 2], pose[:3, 3] = c * right + s * up, c * up - s * right, back, eye
    return pose


def photo_name(number: int) -> str:
    """File name of the photo at position `number` (from 0)."""
    return f"IMG_{number + 1:04d}.jpg"


def write_true_poses(path: Path, lens: Lens, poses: list[np.ndarray]) -> None:
    """Write poses in the layout of a transforms.json; the name keeps readers from finding them by accident."""
    document = {
        "camera_model": "OPENCV",
        "w": lens.width,
        "h": lens.height,
        "fl_x": lens.focal,
        "fl_y": lens.focal,
        "cx": lens.cx,
        "cy": lens.cy,
        "k1": lens.k1,
        "k2": lens.k2,
        "p1": 0.0,
        "p2": 0.0,
        "frames": [
            {"file_path": f"images/{photo_name(i)}", "transform_matrix": np.round(pose, 9).tolist()}
            for i, pose in enumerate(poses)
        ],
    }
    text = json.dumps(document, indent=1)
    path.write_text(text + "\n")
