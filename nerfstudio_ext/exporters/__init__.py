"""A renderer and a camera path become files. Sees cameras, paths and the renderer, nothing of scenes or methods."""

from __future__ import annotations

from .frames import write_frames
from .options import FrameOptions

__all__ = ["FrameOptions", "write_frames"]
