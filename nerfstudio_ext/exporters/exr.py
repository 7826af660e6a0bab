"""One float32 picture as an OpenEXR file: a single channel, lossless.

The scan-line layout of the OpenEXR file format, version 2, with ZIP compression in blocks of 16 lines.
"""

from __future__ import annotations

import struct
import zlib

import numpy as np
from jaxtyping import Float32, UInt8

MAGIC, VERSION = 20000630, 2
FLOAT, ZIP_16_LINES = 2, 3
LINES = 16
CHANNEL = "Y"
"""Readers of grey pictures know this name; the side file says that it is depth."""


def exr_bytes(values: Float32[np.ndarray, "H W"]) -> bytes:
    """The file content; `inf` and NaN are kept as they are.

    Args:
        values: Float32 pixels, first line at the top.
    """
    height, width = values.shape
    blocks = [_compressed(values[top : top + LINES]) for top in range(0, height, LINES)]
    header = _header(width, height)
    offset = len(header) + 8 * len(blocks)
    table, body = [], []
    for i, data in enumerate(blocks):
        table.append(struct.pack("<Q", offset))
        body.append(struct.pack("<ii", i * LINES, len(data)) + data)
        offset += len(body[-1])
    return b"".join([header, *table, *body])


def _header(width: int, height: int) -> bytes:
    box = struct.pack("<4i", 0, 0, width - 1, height - 1)
    channels = CHANNEL.encode() + b"\0" + struct.pack("<iB3xii", FLOAT, 0, 1, 1) + b"\0"
    attributes = (
        ("channels", "chlist", channels),
        ("compression", "compression", bytes([ZIP_16_LINES])),
        ("dataWindow", "box2i", box),
        ("displayWindow", "box2i", box),
        ("lineOrder", "lineOrder", b"\0"),
        ("pixelAspectRatio", "float", struct.pack("<f", 1.0)),
        ("screenWindowCenter", "v2f", struct.pack("<2f", 0.0, 0.0)),
        ("screenWindowWidth", "float", struct.pack("<f", 1.0)),
    )
    parts = [struct.pack("<ii", MAGIC, VERSION)]
    for name, kind, value in attributes:
        parts.append(name.encode() + b"\0" + kind.encode() + b"\0" + struct.pack("<i", len(value)) + value)
    return b"".join([*parts, b"\0"])


def _compressed(lines: Float32[np.ndarray, "h W"]) -> bytes:
    """Bytes of even and odd place apart, each byte as its difference to the one before, deflated; raw if larger."""
    raw = np.frombuffer(np.ascontiguousarray(lines, "<f4").tobytes(), np.uint8)
    apart = np.concatenate([raw[0::2], raw[1::2]])
    packed = zlib.compress(_differences(apart).tobytes(), 6)
    return packed if len(packed) < len(raw) else raw.tobytes()


def _differences(values: UInt8[np.ndarray, " N"]) -> UInt8[np.ndarray, " N"]:
    result = values.copy()
    result[1:] = values[1:] - values[:-1] + np.uint8(128)
    return result
