"""Pictures through a real video encoder and back, as a player would show them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

Picture = UInt8[np.ndarray, "H W 3"]
FPS = 24.0


def write_film(frames: Sequence[Picture], target: Path) -> None:
    """Encode frames as `nsx render` does by default.

    Args:
        frames: Of one size with even sides.
        target: The mp4 file.
    Raises:
        UserError: if there is no encoder, or it fails.
    """
    from ..exporters.options import FrameOptions
    from ..exporters.video import encode_film

    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"frame_{number:05d}.png" for number in range(1, len(frames) + 1)]
        for file, frame in zip(files, frames, strict=True):
            Image.fromarray(frame).save(file, compress_level=1)
        shutil.move(encode_film(files, target, "mp4", FPS, FrameOptions()), target)


def reencode(frames: Sequence[Picture]) -> list[Picture]:
    """What is left of frames after H.264 at the default quality.

    Raises:
        UserError: if the film cannot be made or read.
    """
    from ..scenes.video import even_frames

    with tempfile.TemporaryDirectory() as folder:
        film = Path(folder) / "film.mp4"
        write_film(frames, film)
        longest = max(frames[0].shape[:2])
        return [frame for _, frame in even_frames(film, len(frames), longest)]
