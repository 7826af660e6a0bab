"""Folders of photos with every fault that photos have, made by code, each photo a few kilobytes."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from tests.poses.builders import noise_picture, write_photos
from tests.reliability.cases import Row, register
from tests.reliability.corpus_captures import Make, edited
from tests.reliability.holding import BAIT

GOOD = tuple(f"good_{i:02d}.jpg" for i in range(9))
Spoil = Callable[[Path], object]


def process(folder: Path) -> list[str]:
    """Words that look for the poses of a folder of photos."""
    return ["process", str(folder), "--output-dir", "out", "--threads", "1", "--time-limit", "60"]


def album(spoil: Spoil, good: int = len(GOOD)) -> Make:
    """Some good photos, and what `spoil` adds to their folder; looked for poses."""

    def make(folder: Path, rng: np.random.Generator) -> list[str]:
        write_photos(folder, GOOD[:good])
        spoil(folder)
        return process(folder)

    return make


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims any size and holds a few bytes of it."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
    packed = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def png_bomb(side: int) -> bytes:
    """A whole PNG of `side` x `side` black pixels in a few kilobytes."""
    buffer = io.BytesIO()
    Image.new("1", (side, side)).save(buffer, "PNG", compress_level=9)
    return buffer.getvalue()


def half(path: Path) -> None:
    """Cut a file in half."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def write(folder: Path, files: dict[str, bytes]) -> None:
    """Write files by name."""
    for name, data in files.items():
        (folder / name).write_bytes(data)


def animation(path: Path) -> None:
    """A picture that moves."""
    frames = [noise_picture(160, 120, seed) for seed in (1, 2, 3)]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=100)


def with_exif(path: Path, exif: bytes) -> None:
    """A photo with these bytes where EXIF belongs."""
    noise_picture(160, 120, len(exif)).save(path, quality=92, exif=exif)


def focal_exif(numerator: int, denominator: int) -> bytes:
    """EXIF with a focal length given as a fraction, little endian, whatever it means."""
    entry = struct.pack("<HHII", 0x920A, 5, 1, 44)
    sub = struct.pack("<H", 1) + entry + struct.pack("<I", 0) + struct.pack("<II", numerator, denominator)
    main = struct.pack("<H", 1) + struct.pack("<HHII", 0x8769, 4, 1, 26) + struct.pack("<I", 0)
    return b"Exif\0\0II*\0" + struct.pack("<I", 8) + main + sub


def heic(folder: Path) -> None:
    """Two files that begin as HEIC does."""
    write(folder, dict.fromkeys(("IMG_1.heic", "IMG_2.HEIC"), b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200)))


def links_out(folder: Path) -> None:
    """Nothing but links to photos of somebody else."""
    for name in write_photos(folder.parent / BAIT, GOOD):
        (folder / name).symlink_to(folder.parent / BAIT / name)


def equal(folder: Path) -> None:
    """Nine copies of one photo."""
    (name,) = write_photos(folder, ["a.jpg"])
    write(folder, {f"copy_{i}.jpg": (folder / name).read_bytes() for i in range(8)})


def raws(folder: Path) -> None:
    """Formats that are told from their names."""
    write(folder, dict.fromkeys(("a.cr2", "b.NEF", "c.dng", "d.svg", "e.pdf"), b"MM\0*" + bytes(400)))


def devices(folder: Path) -> None:
    """Things that are no files: a loop, a pipe, a device, a link to nothing."""
    (folder / "loop.jpg").symlink_to(folder / "loop.jpg")
    (folder / "zero.jpg").symlink_to("/dev/zero")
    (folder / "gone.jpg").symlink_to(folder / "nothing.jpg")
    os.mkfifo(folder / "pipe.jpg")


def posed(spoil: Callable[[Path], object]) -> Make:
    """A posed capture whose folder of pictures is spoilt; trained on."""

    def make(folder: Path, rng: np.random.Generator) -> list[str]:
        words = edited(lambda document: None)(folder, rng)
        spoil(folder / "images")
        return words

    return make


def pipes(folder: Path) -> None:
    """Pipes, which nobody writes into, in the place of most pictures."""
    for path in sorted(folder.iterdir())[2:]:
        path.unlink()
        os.mkfifo(path)


def nothing(folder: Path) -> None:
    """Leave the folder as it is."""


REFUSED: Sequence[Row] = register(
    [
        Row(
            "A14",
            "a bomb in a posed capture",
            posed(lambda f: (f / "0003.png").write_bytes(png_bomb(12_000))),
            "0003.png",
            "144 MP is over the limit of 100 MP",
        ),
        Row("A20", "pipes in a posed capture", posed(pipes), "in", "2 usable pictures; at least 3 are needed"),
        Row("A1", "no such folder", lambda f, r: process(f / "none"), "none", "no such (file or )?folder"),
        Row(
            "A1", "a file", lambda f, r: (write(f, {"a.txt": b"x"}), process(f / "a.txt"))[1], "a.txt", "not a capture"
        ),
        Row("A1", "a name of 5,000 characters", lambda f, r: process(f / ("a" * 5000)), "aaa", "no such"),
        Row("A2", "empty", album(nothing, 0), "in", r"the folder is empty.*\.jpg, \.jpeg"),
        Row(
            "A2",
            "no picture",
            album(lambda f: write(f, {"a.txt": b"x", "b.doc": b"y"}), 0),
            "in",
            "none of its 2 files is a photo.*png",
        ),
        Row("A3", "1 photo", album(nothing, 1), "in", "1 usable photo; at least 8 are needed.*60-80 %"),
        Row("A3", "2 photos", album(nothing, 2), "in", "2 usable photos; at least 8 are needed"),
        Row(
            "A5",
            "all cut short",
            album(lambda f: [half(f / name) for name in GOOD]),
            ("in", "good_00.jpg"),
            "0 usable photos.*cut short",
        ),
        Row("A12", "HEIC", album(heic), ("IMG_1.heic", "IMG_2.HEIC"), "decoder that is not installed.*heic.*JPEG"),
        Row(
            "A13",
            "raw files and drawings",
            album(raws, 0),
            ("a.cr2", "b.NEF", "e.pdf"),
            "0 usable photos.*export as JPEG",
        ),
        Row(
            "A14",
            "10,000 x 10,000 in 12 kB",
            album(lambda f: write(f, {f"{i}.png": png_bomb(10_001 + i) for i in range(2)}), 0),
            "in",
            "100 MP is over the limit of 100 MP",
        ),
        Row(
            "A14",
            "30,000 x 30,000",
            album(lambda f: write(f, {"a.png": png_header(30_000, 30_000)}), 0),
            ("in", "a.png"),
            "more than 100 MP.*--max-pixels",
        ),
        Row(
            "A14",
            "2^31 x 2^31",
            album(lambda f: write(f, {"a.png": png_header(2**31 - 1, 2**31 - 1)}), 0),
            ("in", "a.png"),
        ),
        Row(
            "A15",
            "icons",
            album(lambda f: [noise_picture(8, 8, i).save(f / f"{i}.png") for i in range(9)], 0),
            "in",
            "only 8x8 pixels",
        ),
        Row("A16", "all equal", album(equal, 0), "in", "1 usable photo; .*8 left out as duplicates"),
        Row(
            "A20",
            "links out of the folder",
            album(links_out, 0),
            "good_00.jpg",
            "0 usable photos.*a link that leaves the folder",
        ),
        Row("A20", "devices and loops only", album(devices, 0), "in", "empty|none of its"),
    ]
)
