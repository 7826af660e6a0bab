"""Photos of many megapixels, quickly: a few are drawn and encoded, the others are copies that differ in a comment.

python -m tests.reliability.make_photos FOLDER --count 300 [--megapixels 12] [--posed] [--faults]
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from tests.scenes.builders import ring

N_DRAWN = 6
FAULTS = ("empty.jpg", "cut.jpg", "text.jpg", "double.jpg", "small.jpg")


def make_photos(folder: Path, count: int, megapixels: float = 12.0) -> list[str]:
    """Write `count` JPEG files of 4:3 and return their names."""
    folder.mkdir(parents=True, exist_ok=True)
    width = 16 * round(math.sqrt(megapixels * 1e6 * 4 / 3) / 16)
    height = round(width * 3 / 4)
    contents = [_drawn(i, width, height) for i in range(min(count, N_DRAWN))]
    names = [f"photo_{i:05d}.jpg" for i in range(count)]
    for i, name in enumerate(names):
        (folder / name).write_bytes(_with_comment(contents[i % len(contents)], f"photo {i}"))
    return names


def make_capture(folder: Path, count: int, megapixels: float = 12.0) -> Path:
    """The same with poses on a ring: `images/` and `transforms.json`; returns the folder."""
    names = make_photos(folder / "images", count, megapixels)
    with Image.open(folder / "images" / names[0]) as first:
        width, height = first.size
    frames = [
        {"file_path": f"images/{name}", "transform_matrix": pose.tolist()}
        for name, pose in zip(names, ring(count), strict=True)
    ]
    document = {"fl_x": 0.8 * width, "w": width, "h": height, "aabb_scale": 4, "frames": frames}
    (folder / "transforms.json").write_text(json.dumps(document))
    return folder


def add_faults(folder: Path, names: Sequence[str]) -> None:
    """Add one photo of each kind of `FAULTS`."""
    whole = (folder / names[0]).read_bytes()
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "text.jpg").write_text("<html>not found</html>")
    (folder / "double.jpg").write_bytes(whole)
    Image.new("RGB", (8, 8)).save(folder / "small.jpg")


def _drawn(seed: int, width: int, height: int) -> bytes:
    """A JPEG with edges, gradients and grain, of about the size that a phone writes."""
    import io

    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (height // 64, width // 64, 3), dtype=np.uint8))
    pixels = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(np.int16)
    pixels += rng.integers(-6, 7, (height, width, 1), dtype=np.int16)
    pixels[:: height // 12] = 0
    buffer = io.BytesIO()
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def _with_comment(jpeg: bytes, text: str) -> bytes:
    """The same picture in a file of other bytes: a comment segment behind the start of the image."""
    raw = text.encode()
    return jpeg[:2] + b"\xff\xfe" + (len(raw) + 2).to_bytes(2, "big") + raw + jpeg[2:]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--megapixels", type=float, default=12.0)
    parser.add_argument("--posed", action="store_true", help="write poses too")
    parser.add_argument("--faults", action="store_true", help="add one photo of each kind of fault")
    options = parser.parse_args(argv)
    if options.posed:
        make_capture(options.folder, options.count, options.megapixels)
    else:
        names = make_photos(options.folder, options.count, options.megapixels)
        if options.faults:
            add_faults(options.folder, names)
    return 0


if __name__ == "__main__":
    sys.exit(main())
