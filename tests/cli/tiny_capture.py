"""A capture of a coloured ball, small enough to train on in a test: 16 photos of 24x18 pixels with their poses."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
from PIL import Image

WIDTH, HEIGHT, FOCAL, N = 24, 18, 22.0, 16
TINY_METHOD = (
    "--n-levels 4 --log2-table 10 --base-resolution 4 --finest-resolution 32 --hidden 16 --color-hidden 16 "
    "--grid-size 16 --steps-per-unit 32 --samples-per-batch 2048 --backend reference"
).split()
"""Options of `nsx train ngp` that make a step take milliseconds without compiling anything."""


def write_capture(folder: Path) -> Path:
    """Write images/ and transforms.json (nerfstudio's format) and return the folder."""
    (folder / "images").mkdir(parents=True)
    frames = []
    for i in range(N):
        c2w = look_at_origin(2 * math.pi * i / N)
        Image.fromarray(ball(c2w)).save(folder / "images" / f"{i:02d}.png")
        gl = np.vstack([c2w * np.array([1, -1, -1, 1]), [0, 0, 0, 1]])
        frames.append({"file_path": f"images/{i:02d}.png", "transform_matrix": gl.tolist()})
    lens = {"fl_x": FOCAL, "fl_y": FOCAL, "cx": WIDTH / 2, "cy": HEIGHT / 2, "w": WIDTH, "h": HEIGHT}
    document = {"camera_model": "OPENCV", **lens, "aabb_scale": 1, "frames": frames}
    (folder / "transforms.json").write_text(json.dumps(document))
    return folder


def look_at_origin(azimuth: float) -> np.ndarray:
    """Camera-to-world [3,4], OpenCV axes, on a ring above the ball."""
    eye = np.array([2.5 * math.cos(azimuth), 2.5 * math.sin(azimuth), 1.0])
    forward = -eye / np.linalg.norm(eye)
    right = np.cross(forward, [0, 0, 1])
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(forward, right), forward, eye], 1)


def ball(c2w: np.ndarray) -> np.ndarray:
    """A unit-diameter ball coloured by its normal, on white."""
    v, u = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    d = np.stack([(u - WIDTH / 2) / FOCAL, (v - HEIGHT / 2) / FOCAL, np.ones_like(u)], -1) @ c2w[:, :3].T
    d /= np.linalg.norm(d, axis=-1, keepdims=True)
    o = c2w[:, 3]
    b = d @ o
    disc = b**2 - (o @ o - 0.5**2)
    hit = o + (-b - np.sqrt(np.maximum(disc, 0)))[..., None] * d
    return np.where(disc[..., None] > 0, 255 * (0.5 + hit), 255).astype(np.uint8)
