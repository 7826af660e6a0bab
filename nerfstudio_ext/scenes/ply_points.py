"""Positions of a point cloud in a PLY file, binary or text, with a cap on what a header can make us do."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..errors import UserError

MAX_POINTS = 500_000
"""Sparse points serve to choose boxes and to look at; more are thinned out evenly."""
MAX_HEADER_BYTES = 64 * 1024
_TYPES = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "i2", "int16": "i2", "ushort": "u2",
    "uint16": "u2", "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4", "float": "f4", "float32": "f4",
    "double": "f8", "float64": "f8",
}  # fmt: skip
_FIX = "Write the point cloud again, or remove ply_file_path"


def read_ply_points(path: Path, max_points: int = MAX_POINTS) -> tuple[np.ndarray, int]:
    """Read the positions of the vertices of a PLY file.

    Args:
        path: The file; `vertex` must be its first element.
        max_points: A larger cloud is thinned out evenly to at most this many.
    Returns:
        Positions [P,3] float32, and how many were dropped because they are not finite.
    Raises:
        UserError: if the header is damaged or promises more than the file holds.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        encoding, n_vertices, dtype, start = _read_header(file.read(MAX_HEADER_BYTES), path)
        if encoding == "ascii":
            points = _read_ascii(path, start, n_vertices, dtype, max_points)
        else:
            held = (size - start) // dtype.itemsize
            if n_vertices > held:
                raise UserError(
                    f"cut short: the header promises {n_vertices} points, the file holds {held}", where=path, fix=_FIX
                )
            table = np.memmap(path, dtype=dtype, mode="r", offset=start, shape=(n_vertices,)) if n_vertices else None
            step = max(1, -(-n_vertices // max_points))
            rows = table[::step] if table is not None else np.zeros(0, dtype)
            with np.errstate(over="ignore", invalid="ignore"):  # doubles beyond float32 become infinite and are dropped
                points = np.stack([rows[axis].astype(np.float32) for axis in "xyz"], -1)
    is_finite = np.isfinite(points).all(-1)
    return np.ascontiguousarray(points[is_finite]), int((~is_finite).sum())


def _read_header(head: bytes, path: Path) -> tuple[str, int, np.dtype, int]:
    """(encoding, number of vertices, record of one vertex, offset of the first one)."""
    end = head.find(b"end_header")
    newline = head.find(b"\n", end)
    if not head.startswith(b"ply") or end < 0 or newline < 0:
        raise UserError("not a PLY point cloud", where=path, fix=_FIX)
    encoding, n_vertices, fields, element = "", -1, [], ""
    for line in head[:end].decode("latin-1").splitlines():
        words = line.split()
        if words[:1] == ["format"] and len(words) > 1:
            encoding = words[1]
        elif words[:1] == ["element"] and len(words) == 3:
            if words[1] == "vertex" and element:
                raise UserError("the points are not the first element", where=path, fix=_FIX)
            element = words[1]
            if element == "vertex":
                n_vertices = int(words[2]) if words[2].isascii() and words[2].isdigit() and len(words[2]) < 20 else -1
        elif words[:1] == ["property"] and element == "vertex":
            if len(words) != 3 or words[1] not in _TYPES:
                raise UserError(f"unknown property '{line.strip()[:60]}'", where=path, fix=_FIX)
            fields.append((words[2], _TYPES[words[1]]))
    names = [name for name, _ in fields]
    if n_vertices < 0 or not {"x", "y", "z"} <= set(names) or len(set(names)) < len(names):
        raise UserError("the header names no points with x, y and z", where=path, fix=_FIX)
    if encoding not in ("ascii", "binary_little_endian", "binary_big_endian"):
        raise UserError(f"unknown encoding '{encoding[:40]}'", where=path, fix=_FIX)
    order = ">" if encoding == "binary_big_endian" else "<"
    return encoding, n_vertices, np.dtype([(name, order + code) for name, code in fields]), newline + 1


def _read_ascii(path: Path, start: int, n_vertices: int, dtype: np.dtype, max_points: int) -> np.ndarray:
    columns = [(dtype.names or ()).index(axis) for axis in "xyz"]
    step = max(1, -(-n_vertices // max_points))
    points: list[list[float]] = []
    with path.open("rb") as file:
        file.seek(start)
        for i in range(n_vertices):
            words = file.readline(4096).split()
            if len(words) <= max(columns):
                raise UserError(
                    f"cut short: the header promises {n_vertices} points, the file holds {i}", where=path, fix=_FIX
                )
            if i % step == 0:
                try:
                    points.append([float(words[c]) for c in columns])
                except ValueError:
                    raise UserError(f"point {i} is not three numbers", where=path, fix=_FIX) from None
    with np.errstate(over="ignore", invalid="ignore"):
        return np.array(points, dtype=np.float64).reshape(-1, 3).astype(np.float32)
