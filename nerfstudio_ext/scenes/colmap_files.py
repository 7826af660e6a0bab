"""The three tables of a COLMAP model as they lie on disk, binary or text, read without trusting any count."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import UserError
from .ply_points import MAX_POINTS

CAMERA_MODELS: dict[int, tuple[str, int]] = {
    0: ("SIMPLE_PINHOLE", 3), 1: ("PINHOLE", 4), 2: ("SIMPLE_RADIAL", 4), 3: ("RADIAL", 5), 4: ("OPENCV", 8),
    5: ("OPENCV_FISHEYE", 8), 6: ("FULL_OPENCV", 12), 7: ("FOV", 5), 8: ("SIMPLE_RADIAL_FISHEYE", 4),
    9: ("RADIAL_FISHEYE", 5), 10: ("THIN_PRISM_FISHEYE", 12), 11: ("RAD_TAN_THIN_PRISM_FISHEYE", 16),
    12: ("SIMPLE_DIVISION", 4), 13: ("DIVISION", 5), 14: ("SIMPLE_FISHEYE", 3), 15: ("FISHEYE", 4), 16: ("EUCM", 6),
    17: ("EQUIRECTANGULAR", 2),
}  # fmt: skip
"""Model number -> name and number of parameters, as in COLMAP's sensor/models.h."""
MAX_NAME_BYTES = 4096
_FIX = "Export the model again, or remove it"


@dataclass(frozen=True)
class RawCamera:
    """A camera as stored: model name, size and parameters in COLMAP's order."""

    model: str
    width: int
    height: int
    params: tuple[float, ...]


@dataclass(frozen=True)
class RawImage:
    """A registered picture as stored: world-to-camera quaternion (w, x, y, z) and translation."""

    name: str
    quaternion: tuple[float, float, float, float]
    translation: tuple[float, float, float]
    camera_id: int


def table_path(model: Path, table: str) -> Path | None:
    """The file of a table ("cameras", "images", "points3D"); binary wins over text, as in COLMAP itself."""
    return next((p for p in (model / f"{table}.bin", model / f"{table}.txt") if p.is_file()), None)


def count_images(path: Path) -> int:
    """Number of registered pictures; of a binary file only what the header claims."""
    if path.suffix == ".bin":
        with path.open("rb") as file:
            head = file.read(8)
        return int(struct.unpack("<Q", head)[0]) if len(head) == 8 else 0
    return sum(1 for _ in _text_lines(path)) // 2


def read_cameras(path: Path) -> dict[int, RawCamera]:
    """Cameras by id."""
    if path.suffix == ".txt":
        return dict(_text_camera(path, line, words) for line, words in _text_lines(path) if words)
    cameras = {}
    with _BinaryTable(path) as table:
        for _ in range(table.count("cameras", 24)):
            camera_id, model_id, width, height = table.take("<iiQQ")
            if model_id not in CAMERA_MODELS:
                raise table.error(f"unknown camera model number {model_id}")
            name, n_params = CAMERA_MODELS[model_id]
            cameras[camera_id] = RawCamera(name, width, height, table.take(f"<{n_params}d"))
    return cameras


def read_images(path: Path) -> list[RawImage]:
    """Registered pictures, in file order."""
    if path.suffix == ".txt":
        # Two lines a picture: the pose, then its points, a line that may be empty.
        return [_text_image(path, line, words) for line, words in list(_text_lines(path))[::2]]
    images = []
    with _BinaryTable(path) as table:
        for _ in range(table.count("pictures", 73)):
            _, *pose, camera_id = table.take("<i7di")
            name = table.take_name()
            table.skip(table.count("points", 24) * 24)
            images.append(RawImage(name, tuple(pose[:4]), tuple(pose[4:]), camera_id))
    return images


def read_points(path: Path, max_points: int = MAX_POINTS) -> np.ndarray:
    """Positions of the points [P,3] float32, thinned out evenly to at most `max_points`."""
    if path.suffix == ".txt":
        rows = [_numbers(path, line, words[1:4], 3) for line, words in _text_lines(path) if words]
        step = max(1, -(-len(rows) // max_points))
        return _single(rows[::step])
    positions = []
    with _BinaryTable(path) as table:
        n_points = table.count("points", 51)
        step = max(1, -(-n_points // max_points))
        for i in range(n_points):
            record = table.take("<Q3d3Bd")
            table.skip(table.count("track entries", 8) * 8)
            if i % step == 0:
                positions.append(record[1:4])
    return _single(positions)


def _single(positions: list[tuple[float, ...]]) -> np.ndarray:
    with np.errstate(over="ignore", invalid="ignore"):  # beyond float32: infinite, and dropped as such by whoever asked
        return np.array(positions, dtype=np.float64).reshape(-1, 3).astype(np.float32)


class _BinaryTable:
    """A mapped file read front to back; every read and every count is checked against what is left."""

    def __init__(self, path: Path) -> None:
        self._path, self._at = path, 0
        self._size = path.stat().st_size
        with path.open("rb") as file:
            # An empty file cannot be mapped; it fails at the first read like any other that is cut short.
            self._data: mmap.mmap | bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if self._size else b""

    def __enter__(self) -> _BinaryTable:
        return self

    def __exit__(self, *_: object) -> None:
        if isinstance(self._data, mmap.mmap):
            self._data.close()

    def error(self, what: str) -> UserError:
        return UserError(f"{what} at byte {self._at}", where=self._path, fix=_FIX)

    def take(self, layout: str) -> tuple:  # type: ignore[type-arg]
        n_bytes = struct.calcsize(layout)
        if n_bytes > self._size - self._at:
            raise self.error(f"cut short: {n_bytes} bytes expected, {self._size - self._at} left")
        values = struct.unpack_from(layout, self._data, self._at)
        self._at += n_bytes
        return values

    def count(self, what: str, record_bytes: int) -> int:
        """The next 64-bit count, refused when so many records of at least `record_bytes` cannot follow."""
        (n,) = self.take("<Q")
        left = self._size - self._at
        if n * record_bytes > left:
            raise self.error(f"cut short or damaged: {n} {what} announced, {left} bytes left")
        return int(n)

    def skip(self, n_bytes: int) -> None:
        self._at += n_bytes

    def take_name(self) -> str:
        end = self._data.find(b"\0", self._at, self._at + MAX_NAME_BYTES)
        if end < 0:
            raise self.error("a picture's name has no end")
        raw = bytes(self._data[self._at : end])
        self._at = end + 1
        return raw.decode("utf-8", errors="surrogateescape")


def _text_lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(line number, words) of every line that is no comment, empty ones included."""
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            line = raw.decode("utf-8", errors="surrogateescape").rstrip("\r\n")
            if not line.startswith("#"):
                yield number, line.split()


def _text_error(path: Path, line: int, what: str) -> UserError:
    return UserError(f"line {line}: {what}", where=path, fix=_FIX)


def _numbers(path: Path, line: int, words: list[str], count: int) -> tuple[float, ...]:
    try:
        values = tuple(float(word) for word in words)
    except ValueError:
        values = ()
    if len(values) != count:
        raise _text_error(path, line, f"{count} numbers expected")
    return values


def _is_count(word: str) -> bool:
    """A whole number of at most 64 bits; Python refuses to read those of thousands of digits."""
    return word.isascii() and word.isdigit() and len(word) < 20


def _text_camera(path: Path, line: int, words: list[str]) -> tuple[int, RawCamera]:
    n_params = dict(CAMERA_MODELS.values()).get(words[1] if len(words) > 1 else "")
    if n_params is None:
        raise _text_error(path, line, f"unknown camera model '{' '.join(words[1:2])[:40]}'")
    if len(words) < 4 or not all(map(_is_count, (words[0], words[2], words[3]))):
        raise _text_error(path, line, "camera id, model, width and height expected")
    params = _numbers(path, line, words[4:], n_params)
    return int(words[0]), RawCamera(words[1], int(words[2]), int(words[3]), params)


def _text_image(path: Path, line: int, words: list[str]) -> RawImage:
    if len(words) < 10 or not _is_count(words[8]):
        raise _text_error(path, line, "id, quaternion, translation, camera id and name expected")
    w, x, y, z, tx, ty, tz = _numbers(path, line, words[1:8], 7)
    return RawImage(" ".join(words[9:]), (w, x, y, z), (tx, ty, tz), int(words[8]))
