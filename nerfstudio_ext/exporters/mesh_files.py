"""Meshes as files: PLY with coloured vertices; GLB and OBJ with coloured vertices or a texture."""

from __future__ import annotations

import io
import json
import re
import struct
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image

from .pictures import write_whole
from .ply import ply_bytes
from .texture import TexturedMesh

MESH_SUFFIXES = (".ply", ".glb", ".obj")
_FLOAT, _UINT8, _UINT32 = 5126, 5121, 5125
_VERTICES, _INDICES = 34962, 34963


def write_colored(
    target: Path,
    vertices: Float[np.ndarray, "V 3"],
    normals: Float[np.ndarray, "V 3"],
    colors: UInt8[np.ndarray, "V 3"],
    faces: Int[np.ndarray, "F 3"],
) -> list[Path]:
    """Write a mesh with coloured vertices in the format that the suffix names; returns the files."""
    suffix = target.suffix.lower()
    if suffix == ".ply":
        write_whole(target, ply_bytes(vertices, normals, colors, faces))
    elif suffix == ".glb":
        # glTF colours of vertices are linear light; pictures are not.
        linear = np.where(colors <= 10, colors / 255 / 12.92, ((colors / 255 + 0.055) / 1.055) ** 2.4)
        rgba = np.concatenate([linear, np.ones((len(colors), 1))], 1)
        write_whole(target, _glb(vertices, normals, faces, {"COLOR_0": rgba.astype(np.float32)}, None))
    else:
        rows = np.concatenate([vertices, colors / 255], 1)
        text = [_lines("v", rows), _lines("vn", normals), _faces(faces, "{0}//{0}")]
        write_whole(target, "".join(text).encode())
    return [target]


def write_textured(target: Path, mesh: TexturedMesh) -> list[Path]:
    """Write a textured mesh as .glb, or as .obj with material and picture beside it; returns the files."""
    buffer = io.BytesIO()
    Image.fromarray(mesh.picture).save(buffer, "PNG", compress_level=6)
    picture = buffer.getvalue()
    if target.suffix.lower() == ".glb":
        # glTF counts v from the top.
        uv = np.stack([mesh.uv[:, 0], 1 - mesh.uv[:, 1]], 1).astype(np.float32)
        write_whole(target, _glb(mesh.vertices, mesh.normals, mesh.faces, {"TEXCOORD_0": uv}, picture))
        return [target]
    # Names stand without quotes in these files: only plain characters are safe.
    stem = re.sub(r"[^\w.+-]", "_", target.stem) or "mesh"
    image, material = target.with_name(f"{stem}_texture.png"), target.with_name(f"{stem}.mtl")
    text = [f"mtllib {material.name}\n", _lines("v", mesh.vertices), _lines("vt", mesh.uv), _lines("vn", mesh.normals)]
    text += ["usemtl scene\n", _faces(mesh.faces, "{0}/{0}/{0}")]
    write_whole(image, picture)
    write_whole(material, f"newmtl scene\nKa 1 1 1\nKd 1 1 1\nKs 0 0 0\nillum 0\nmap_Kd {image.name}\n".encode())
    write_whole(target, "".join(text).encode())
    return [target, material, image]


def _lines(word: str, rows: np.ndarray) -> str:
    buffer = io.StringIO()
    np.savetxt(buffer, rows, fmt=word + " %.7g" * rows.shape[1])
    return buffer.getvalue()


def _faces(faces: np.ndarray, corner: str) -> str:
    pattern = "f " + " ".join(corner.replace("{0}", f"{{{k}}}") for k in range(3))
    return "".join(pattern.format(*face) + "\n" for face in (faces + 1).tolist())


def _glb(
    vertices: np.ndarray,
    normals: np.ndarray,
    faces: np.ndarray,
    attributes: dict[str, np.ndarray],
    picture: bytes | None,
) -> bytes:
    """A glTF 2.0 binary with one mesh, shown without lights: its colours are what the cameras saw."""
    views: list[dict[str, object]] = []
    accessors: list[dict[str, object]] = []
    body = bytearray()

    def view(data: bytes, target: int | None) -> int:
        body.extend(b"\0" * (-len(body) % 4))
        entry: dict[str, object] = {"buffer": 0, "byteOffset": len(body), "byteLength": len(data)}
        views.append(entry | ({} if target is None else {"target": target}))
        body.extend(data)
        return len(views) - 1

    def accessor(values: np.ndarray, kind: str, target: int) -> int:
        component = _UINT32 if values.dtype == np.uint32 else _FLOAT
        entry: dict[str, object] = {
            "bufferView": view(values.tobytes(), target), "componentType": component,
            "count": len(values) if kind != "SCALAR" else values.size, "type": kind,
        }  # fmt: skip
        if target == _VERTICES and kind == "VEC3":
            entry |= {"min": values.min(0).tolist(), "max": values.max(0).tolist()}
        accessors.append(entry)
        return len(accessors) - 1

    named = {"POSITION": vertices.astype(np.float32), "NORMAL": normals.astype(np.float32), **attributes}
    places = {name: accessor(values, f"VEC{values.shape[1]}", _VERTICES) for name, values in named.items()}
    indices = accessor(faces.astype(np.uint32), "SCALAR", _INDICES)
    look: dict[str, object] = {"metallicFactor": 0.0, "roughnessFactor": 1.0}
    document: dict[str, object] = {
        "asset": {"version": "2.0", "generator": "nerfstudio-ext"},
        "extensionsUsed": ["KHR_materials_unlit"],
        "scene": 0, "scenes": [{"nodes": [0]}], "nodes": [{"mesh": 0, "name": "scene"}],
        "meshes": [{"primitives": [{"attributes": places, "indices": indices, "material": 0}]}],
    }  # fmt: skip
    if picture is not None:
        look["baseColorTexture"] = {"index": 0}
        document |= {
            "images": [{"bufferView": view(picture, None), "mimeType": "image/png"}],
            "samplers": [{"magFilter": 9729, "minFilter": 9987, "wrapS": 33071, "wrapT": 33071}],
            "textures": [{"source": 0, "sampler": 0}],
        }
    material = {"pbrMetallicRoughness": look, "extensions": {"KHR_materials_unlit": {}}, "doubleSided": True}
    body.extend(b"\0" * (-len(body) % 4))
    document |= {
        "materials": [material], "accessors": accessors, "bufferViews": views, "buffers": [{"byteLength": len(body)}],
    }  # fmt: skip
    head = json.dumps(document, separators=(",", ":"), allow_nan=False).encode()
    head += b" " * (-len(head) % 4)
    chunks = struct.pack("<II", len(head), 0x4E4F534A) + head + struct.pack("<II", len(body), 0x004E4942) + bytes(body)
    return struct.pack("<III", 0x46546C67, 2, 12 + len(chunks)) + chunks
