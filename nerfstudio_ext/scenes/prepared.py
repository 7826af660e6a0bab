"""One photo of an object, cut out and with a camera: what lifting starts from, as files and as a scene.

The folder holds `front.png` (RGBA), optionally `depth.npy`, and `prepared.json`. The scene has one camera. Its frame:
the object's centre is the origin, z is up, the object lies in the cube of edge 1, and the camera stands at azimuth 0,
over the positive x axis.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from ..array_files import read_array
from ..cameras import Camera, Cameras
from ..errors import UserError
from ..strict_json import read_json
from .images import ImageStore, read_image
from .model import Scene, SceneFrame, SceneMeta, Split

FILE, FRONT, DEPTH, SCHEMA = "prepared.json", "front.png", "depth.npy", 1
DISTANCE, FOV_Y_DEG = 1.8, 40.0
"""Where the photo is taken to be from: an object that fills 3/4 of the picture then just fits into the cube."""
_MAX_DEPTH_BYTES = 2**29
_RANGES = {"fov_y_deg": (1.0, 120.0), "elevation_deg": (-89.0, 89.0), "distance": (0.3, 50.0)}


@dataclass(frozen=True)
class PreparedNotes:
    """What `prepared.json` says beside the file names.

    Attributes:
        fov_y_deg: Vertical field of view of the square picture.
        elevation_deg: Height of the camera above the horizon, as seen from the object.
        distance: From the camera to the object's centre, scene units.
        text: What the photo shows; may be empty.
        negative_text: What the object shall not look like; may be empty.
        class_name: Kind of thing, for priors that know classes; may be empty.
        source: File the picture was made from, for people.
        made_by: One line for each thing that was estimated: mask, depth, camera.
    """

    fov_y_deg: float = FOV_Y_DEG
    elevation_deg: float = 15.0
    distance: float = DISTANCE
    text: str = ""
    negative_text: str = ""
    class_name: str = ""
    source: str = ""
    made_by: tuple[str, ...] = ()


@dataclass(frozen=True)
class PreparedPhoto:
    """A photo ready to be lifted.

    Attributes:
        rgba: Square picture, straight alpha.
        depth: Relative distance, larger is farther, of any scale and offset; NaN where unknown. None without.
        notes: The rest.
    """

    rgba: UInt8[np.ndarray, "S S 4"]
    depth: Float[np.ndarray, "S S"] | None
    notes: PreparedNotes

    def camera(self) -> Camera:
        """Where it was taken from."""
        side = self.rgba.shape[0]
        n = self.notes
        return camera_around(0.0, n.elevation_deg, n.distance, n.fov_y_deg, side)

    def scene(self, name: str, root: Path) -> Scene:
        """The scene with this one picture."""
        meta = SceneMeta(
            name=name,
            kind="one prepared photo" + (" with depth" if self.depth is not None else ""),
            cameras=Cameras([self.camera()]),
            image_names=(FRONT,),
            split=Split((0,), (), ()),
            frame=SceneFrame.identity(),
            has_alpha=True,
            source=str(root.resolve()),
        )
        return Scene(meta, ImageStore.from_arrays([self.rgba]), root)


def camera_around(azimuth_deg: float, elevation_deg: float, distance: float, fov_y_deg: float, side: int) -> Camera:
    """A square camera that looks at the origin, level, z up; azimuth 0 is over the positive x axis."""
    return Camera.perspective(side, side, fov_y_deg, pose_around(azimuth_deg, elevation_deg, distance))


def pose_around(azimuth_deg: float, elevation_deg: float, distance: float) -> Float[Tensor, "3 4"]:
    """Camera to world of `camera_around`, OpenCV axes, float64."""
    a, e = math.radians(azimuth_deg), math.radians(elevation_deg)
    forward = [-math.cos(e) * math.cos(a), -math.cos(e) * math.sin(a), -math.sin(e)]
    right = [-math.sin(a), math.cos(a), 0.0]
    up = [-math.sin(e) * math.cos(a), -math.sin(e) * math.sin(a), math.cos(e)]
    columns = [right, [-value for value in up], forward, [-distance * value for value in forward]]
    return torch.tensor(columns, dtype=torch.float64).T.contiguous()


def write_prepared(photo: PreparedPhoto, folder: Path) -> None:
    """Write the folder; `prepared.json` comes last, so that an interrupted writing leaves none."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / FILE).unlink(missing_ok=True)
        Image.fromarray(photo.rgba, "RGBA").save(folder / FRONT)
        (folder / DEPTH).unlink(missing_ok=True)
        if photo.depth is not None:
            np.save(folder / DEPTH, photo.depth.astype(np.float32), allow_pickle=False)
        data = {"schema": SCHEMA, "has_depth": photo.depth is not None, **asdict(photo.notes)}
        temporary = folder / f".{FILE}.tmp"
        temporary.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
        temporary.replace(folder / FILE)
    except OSError as error:
        raise UserError(f"cannot be written: {error.strerror}", where=folder, fix="Free some space") from None


def is_prepared(path: Path) -> bool:
    """Whether a folder holds a prepared photo."""
    return (path / FILE).is_file()


def read_prepared(folder: Path) -> PreparedPhoto:
    """Read what `write_prepared` wrote.

    Raises:
        UserError: if a file is missing or damaged, or a number out of range.
    """
    data = read_json(folder / FILE)
    fix = "Prepare the photo again"
    if data.pop("schema", None) != SCHEMA:
        raise UserError("not of the version that this program reads", where=folder / FILE, fix=fix)
    has_depth = data.pop("has_depth", False)
    rgba = read_image(folder / FRONT)
    if rgba.shape[2] != 4 or rgba.shape[0] != rgba.shape[1]:
        raise UserError(f"expected a square picture with alpha, found {rgba.shape}", where=folder / FRONT, fix=fix)
    depth = _read_depth(folder / DEPTH, rgba.shape[0]) if has_depth else None
    return PreparedPhoto(rgba, depth, _notes(data, folder / FILE, fix))


def load_prepared(folder: Path) -> Scene:
    """The scene of a prepared photo."""
    return read_prepared(folder).scene(folder.resolve().name, folder)


def _notes(data: dict[str, object], where: Path, fix: str) -> PreparedNotes:
    defaults = asdict(PreparedNotes())
    found: dict[str, object] = {}
    for key, value in data.items():
        if key not in defaults:
            raise UserError(f"unknown key '{key}'", where=where, fix=fix)
        if key in _RANGES:
            low, high = _RANGES[key]
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
                raise UserError(f"{key} is {value!r}; expected {low:g} to {high:g}", where=where, fix=fix)
            found[key] = float(value)
        elif key == "made_by":
            lines = value if isinstance(value, list) else []
            found[key] = tuple(str(line) for line in lines)
        else:
            found[key] = str(value)
    return PreparedNotes(**found)  # type: ignore[arg-type]  # every key was checked above


def _read_depth(path: Path, side: int) -> np.ndarray:
    fix = "Prepare the photo again"
    depth = read_array(path, max_bytes=_MAX_DEPTH_BYTES, noun="array of depths", fix=fix)
    if depth.shape != (side, side) or depth.dtype.kind != "f":
        raise UserError(f"expected {side}x{side} floating-point numbers", where=path, fix=fix)
    return depth.astype(np.float32)
