"""A small ray-traced room with known cameras: pictures on which the pose solver can be checked against the truth."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

BOXES = np.array([
    # centre, half extent, of boxes standing on the floor of a room 6 x 5 x 3
    [0.0, 0.0, 0.45, 0.7, 0.5, 0.45],
    [0.5, -0.1, 1.05, 0.25, 0.25, 0.15],
    [-1.5, 1.0, 0.6, 0.4, 0.4, 0.6],
    [1.7, 1.1, 0.4, 0.3, 0.6, 0.4],
    [1.2, -1.2, 0.3, 0.35, 0.3, 0.3],
])  # fmt: skip
ROOM = np.array([0.0, 0.0, 1.5, 3.0, 2.5, 1.5])


def _hash(ix: np.ndarray, iy: np.ndarray, seed: np.ndarray) -> np.ndarray:
    n = ix.astype(np.uint32) * np.uint32(374761393) + iy.astype(np.uint32) * np.uint32(668265263)
    n = (n + seed.astype(np.uint32) * np.uint32(2246822519)) * np.uint32(3266489917)
    n ^= n >> np.uint32(15)
    n *= np.uint32(2246822519)
    n ^= n >> np.uint32(13)
    return n.astype(np.float64) / 2**32


def _noise(u: np.ndarray, v: np.ndarray, seed: np.ndarray) -> np.ndarray:
    """Smooth value noise over octaves; no two places of the room look alike."""
    total = np.zeros_like(u)
    for octave, weight in ((2, 0.3), (5, 0.25), (12, 0.25), (30, 0.2)):
        x, y = u * octave + 1000, v * octave + 1000
        ix, iy = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
        fx, fy = x - ix, y - iy
        fx, fy = fx * fx * (3 - 2 * fx), fy * fy * (3 - 2 * fy)
        key = seed * 7 + octave
        low = _hash(ix, iy, key) * (1 - fx) + _hash(ix + 1, iy, key) * fx
        high = _hash(ix, iy + 1, key) * (1 - fx) + _hash(ix + 1, iy + 1, key) * fx
        total += weight * (low * (1 - fy) + high * fy)
    return np.clip((total - 0.5) * 1.8 + 0.5, 0, 1)


def _trace(origin: np.ndarray, rays_d: np.ndarray) -> np.ndarray:
    """Colours [R,3] 0..1 of rays from one point inside the room."""
    best = np.full(len(rays_d), np.inf)
    face = np.zeros(len(rays_d), np.int64)
    with np.errstate(divide="ignore", invalid="ignore"):
        for number, box in enumerate([ROOM, *BOXES]):
            a = (box[:3] - box[3:] - origin) / rays_d
            b = (box[:3] + box[3:] - origin) / rays_d
            near, far = np.minimum(a, b), np.maximum(a, b)
            t_in, t_out = near.max(1), far.min(1)
            t = t_out if number == 0 else t_in
            axis = far.argmin(1) if number == 0 else near.argmax(1)
            is_hit = (t > 1e-6) & (t < best) & ((number == 0) | (t_in < t_out))
            best = np.where(is_hit, t, best)
            face = np.where(
                is_hit, number * 8 + axis * 2 + (np.take_along_axis(rays_d, axis[:, None], 1)[:, 0] > 0), face
            )
    x = origin + best[:, None] * rays_d
    axis = (face % 8) // 2
    u = np.where(axis == 0, x[:, 1], x[:, 0])
    v = np.where(axis == 2, x[:, 1], x[:, 2])
    value = _noise(u, v, face * 3)
    tint = 0.5 + 0.5 * np.stack([np.sin(face * 2.1 + c * 2.0 + 5 * value) for c in range(3)], -1)
    return value[:, None] * (0.5 + 0.5 * tint)


def look_at(centre: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Camera-to-world [3,4] with OpenCV axes, world z up."""
    forward = (target - centre) / np.linalg.norm(target - centre)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    return np.column_stack([right, np.cross(forward, right), forward, centre])


def view(
    c2w: np.ndarray, width: int, height: int, focal: float, *, centre_shift: float = 0.0, supersample: int = 1
) -> np.ndarray:
    """The room as a camera [3,4] (OpenCV axes) sees it, [height,width,3], 0 to 1."""
    s = supersample
    v, u = np.meshgrid((np.arange(height * s) + 0.5) / s, (np.arange(width * s) + 0.5) / s, indexing="ij")
    local = np.stack([(u - width / 2 - centre_shift) / focal, (v - height / 2) / focal, np.ones_like(u)], -1)
    rgb = _trace(c2w[:, 3], local.reshape(-1, 3) @ c2w[:, :3].T)
    return rgb.reshape(height, s, width, s, 3).mean((1, 3))


def write_room(
    folder: Path,
    n: int = 12,
    width: int = 320,
    height: int = 240,
    *,
    exif_focal: bool = False,
    arc_deg: float = 200.0,
    centre_shift: float = 0.0,
    noise: float = 0.01,
    supersample: int = 2,
) -> Path:
    """Write `images/view_XX.jpg` and the true `transforms.json` (OpenGL axes); returns the folder of the pictures.

    Args:
        arc_deg: Angle walked around the room's centre.
        centre_shift: How far the true principal point lies right of the centre, pixels.
        exif_focal: Write the true focal length as EXIF 35 mm equivalent.
    """
    images = folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    focal = 0.85 * width
    rng = np.random.default_rng(0)
    frames = []
    for i in range(n):
        angle = np.radians(arc_deg) * (i / (n - 1) - 0.5)
        distance = 2.0 + 0.15 * np.sin(3 * angle)
        centre = np.array([distance * np.sin(angle) * 1.2, -distance * np.cos(angle), 1.4 + 0.25 * np.sin(5 * angle)])
        c2w = look_at(centre, np.array([0.1 * np.cos(7 * i), 0.1 * np.sin(7 * i), 0.6]))
        rgb = view(c2w, width, height, focal, centre_shift=centre_shift, supersample=supersample)
        rgb = np.clip(rgb + rng.normal(0, noise, rgb.shape), 0, 1)
        name = f"view_{i:02d}.jpg"
        exif = Image.Exif()
        if exif_focal:
            diagonal = np.hypot(width, height)
            exif.get_ifd(0x8769)[0xA405] = round(focal / diagonal * 43.2666)
            exif[0x0110] = "ray tracer"
        Image.fromarray((rgb * 255 + 0.5).astype(np.uint8)).save(images / name, quality=95, exif=exif)
        pose = np.vstack([c2w @ np.diag([1, -1, -1, 1]), [0, 0, 0, 1]])
        frames.append({"file_path": f"images/{name}", "transform_matrix": pose.tolist()})
    truth = {"w": width, "h": height, "fl_x": focal, "fl_y": focal, "cx": width / 2 + centre_shift, "cy": height / 2}
    (folder / "transforms.json").write_text(json.dumps({**truth, "frames": frames}))
    return images
