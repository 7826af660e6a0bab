"""Points and meshes as binary PLY files."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32, Int, UInt8


def ply_bytes(
    positions: Float32[np.ndarray, "N 3"],
    normals: Float32[np.ndarray, "N 3"] | None = None,
    colors: UInt8[np.ndarray, "N 3"] | None = None,
    faces: Int[np.ndarray, "F 3"] | None = None,
) -> bytes:
    """The content of a little-endian binary PLY file.

    Args:
        positions: Points or vertices.
        normals: Their unit normals.
        colors: Their colours.
        faces: Triangles, as indices of vertices.
    """
    fields = [(name, "<f4") for name in ("x", "y", "z")]
    columns: list[np.ndarray] = [positions]
    if normals is not None:
        fields += [(name, "<f4") for name in ("nx", "ny", "nz")]
        columns.append(normals)
    if colors is not None:
        fields += [(name, "u1") for name in ("red", "green", "blue")]
        columns.append(colors)
    table = np.empty(len(positions), np.dtype(fields))
    names = iter(name for name, _ in fields)
    for column in columns:
        for k in range(3):
            table[next(names)] = column[:, k]
    kinds = {"<f4": "float", "u1": "uchar"}
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(positions)}"]
    header += [f"property {kinds[kind]} {name}" for name, kind in fields]
    body = table.tobytes()
    if faces is not None:
        header += [f"element face {len(faces)}", "property list uchar int vertex_indices"]
        triangles = np.empty(len(faces), np.dtype([("n", "u1"), ("v", "<i4", (3,))]))
        triangles["n"], triangles["v"] = 3, faces
        body += triangles.tobytes()
    return ("\n".join([*header, "end_header"]) + "\n").encode() + body
