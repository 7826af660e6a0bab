"""Telling players that a picture or a film is a 360-degree panorama.

Films carry both versions of Google's Spherical Video description: version 1 is XML in a `uuid` box of the track,
version 2 is an `sv3d` box in the description of its samples. Pictures carry Photo Sphere XMP.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from ..errors import UserError

MAX_INDEX_BYTES = 2**28
SPHERICAL_V1 = bytes.fromhex("ffcc8263f8554a938814587a02521fdd")
"""The identifier that the first version of the description fixes for its box."""
SOFTWARE = "nerfstudio-ext"
VISUAL_ENTRY_BYTES = 86
"""Length of the fixed part of a visual sample entry, its box header included (ISO/IEC 14496-12)."""
CONTAINERS = frozenset({b"moov", b"trak", b"mdia", b"minf", b"stbl"})
XMP_KEY = "XML:com.adobe.xmp"


def mark_spherical(film: Path, target: Path) -> None:
    """Copy an mp4 with a description that its first video track is equirectangular.

    Args:
        film: An mp4 file as ffmpeg writes it.
        target: The copy.
    Raises:
        UserError: if the film has no video track or is damaged.
    """
    with film.open("rb") as source, target.open("wb") as out:
        boxes = list(_top_boxes(source, film.stat().st_size))
        index = next((box for box in boxes if box[0] == b"moov"), None)
        if index is None or index[2] > MAX_INDEX_BYTES:
            raise UserError("not a film that can be described as spherical", where=film, fix="Render it again")
        source.seek(index[1])
        moov = source.read(index[2])
        grown = _described(moov)
        if len(grown) == len(moov):
            raise UserError("the film has no video track", where=film, fix="Render it again")
        shift = len(grown) - len(moov)
        if any(kind == b"mdat" and start > index[1] for kind, start, _ in boxes):
            grown = _with_moved_chunks(grown, shift)
        for kind, start, length in boxes:
            if kind == b"moov":
                out.write(grown)
            else:
                source.seek(start)
                _copy(source, out, length)


def panorama_xmp(width: int, height: int) -> str:
    """XMP that tells picture viewers to show an equirectangular picture as a sphere."""
    fields = {
        "ProjectionType": "equirectangular", "UsePanoramaViewer": "True",
        "FullPanoWidthPixels": width, "FullPanoHeightPixels": height,
        "CroppedAreaImageWidthPixels": width, "CroppedAreaImageHeightPixels": height,
        "CroppedAreaLeftPixels": 0, "CroppedAreaTopPixels": 0,
    }  # fmt: skip
    entries = "".join(f' GPano:{name}="{value}"' for name, value in fields.items())
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about=""'
        f' xmlns:GPano="http://ns.google.com/photos/1.0/panorama/"{entries}/></rdf:RDF></x:xmpmeta><?xpacket end="r"?>'
    )


def _box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", 8 + len(content)) + kind + content


def _version_1() -> bytes:
    names = {
        "Spherical": "true", "Stitched": "true", "StitchingSoftware": SOFTWARE, "ProjectionType": "equirectangular",
    }  # fmt: skip
    entries = "".join(f"<GSpherical:{name}>{value}</GSpherical:{name}>" for name, value in names.items())
    xml = (
        '<?xml version="1.0"?><rdf:SphericalVideo xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"'
        f' xmlns:GSpherical="http://ns.google.com/videos/1.0/spherical/">{entries}</rdf:SphericalVideo>'
    )
    return _box(b"uuid", SPHERICAL_V1 + xml.encode())


def _version_2() -> bytes:
    full = bytes(4)  # version 0, no flags
    source = _box(b"svhd", full + SOFTWARE.encode() + b"\0")
    pose = _box(b"prhd", full + bytes(12))  # yaw, pitch, roll: none
    bounds = _box(b"equi", full + bytes(16))  # nothing cut off on any side
    return _box(b"sv3d", source + _box(b"proj", pose + bounds))


def _described(box: bytes) -> bytes:
    """A box of the film's index with both descriptions put into its first video track."""
    kind, content = box[4:8], box[8:]
    if kind == b"stsd":
        entry_length = struct.unpack(">I", box[16:20])[0]
        entry = box[16 : 16 + entry_length]
        if entry_length < VISUAL_ENTRY_BYTES:
            return box
        return _box(kind, box[8:16] + _box(entry[4:8], entry[8:] + _version_2()) + box[16 + entry_length :])
    if kind == b"trak" and not _is_video(box):
        return box
    if kind not in CONTAINERS:
        return box
    parts, is_done = [], False
    for part in _parts(content):
        grown = part if is_done else _described(part)
        is_done = is_done or len(grown) != len(part)
        parts.append(grown)
    return _box(kind, b"".join(parts) + (_version_1() if kind == b"trak" and is_done else b""))


def _with_moved_chunks(box: bytes, shift: int) -> bytes:
    """The index after its chunks of pictures moved back by `shift` bytes."""
    kind, content = box[4:8], box[8:]
    if kind in (b"stco", b"co64"):
        code, size = ("I", 4) if kind == b"stco" else ("Q", 8)
        count = struct.unpack(">I", content[4:8])[0]
        places = struct.unpack(f">{count}{code}", content[8 : 8 + size * count])
        return _box(kind, content[:8] + struct.pack(f">{count}{code}", *(place + shift for place in places)))
    if kind not in CONTAINERS:
        return box
    return _box(kind, b"".join(_with_moved_chunks(part, shift) for part in _parts(content)))


def _is_video(track: bytes) -> bool:
    # The handler box follows its name with 8 bytes of version, flags and zeros, then the type of track.
    place = track.find(b"hdlr")
    return place >= 0 and track[place + 12 : place + 16] == b"vide"


def _parts(content: bytes) -> Iterator[bytes]:
    place = 0
    while place + 8 <= len(content):
        length = struct.unpack(">I", content[place : place + 4])[0]
        if length < 8 or place + length > len(content):
            raise UserError("a damaged film: a box is longer than what holds it", fix="Render it again")
        yield content[place : place + length]
        place += length


def _top_boxes(source: BinaryIO, size: int) -> Iterator[tuple[bytes, int, int]]:
    """(kind, start, length) of the boxes of a file."""
    place = 0
    while place + 8 <= size:
        source.seek(place)
        length, kind = struct.unpack(">I4s", source.read(8))
        if length == 1:
            length = struct.unpack(">Q", source.read(8))[0]
        length = length or size - place
        if length < 8 or place + length > size:
            raise UserError("a damaged film: a box is longer than the file", fix="Render it again")
        yield kind, place, length
        place += length


def _copy(source: BinaryIO, out: BinaryIO, length: int) -> None:
    while length > 0:
        data = source.read(min(length, 1 << 20))
        if not data:
            raise UserError("a damaged film: it ends early", fix="Render it again")
        out.write(data)
        length -= len(data)
