"""Camera paths: orbit, spiral, interpolation, the views of a capture, and the files that hold them.

In memory every path is in the training frame of a scene; files say which frame they are in.
"""

from __future__ import annotations

from .draft import LENSES, DraftKey, PathDraft, draft_from_path
from .generate import from_views, interpolate, orbit, spiral
from .json_file import camera_path_from_bytes, camera_path_from_json, read_camera_path
from .json_write import camera_path_to_json, write_camera_path
from .naming import file_stems, numbered_stems
from .ngp_file import NgpFrame
from .path import CameraPath, CropBox, KeyView, Similarity
from .world_frame import (
    WorldFrame,
    read_world_frame,
    stamp_world_frame,
    world_frame_from_json,
    world_frame_of,
    write_world_frame,
)

__all__ = [
    "LENSES",
    "CameraPath",
    "CropBox",
    "DraftKey",
    "KeyView",
    "NgpFrame",
    "PathDraft",
    "Similarity",
    "WorldFrame",
    "camera_path_from_bytes",
    "camera_path_from_json",
    "camera_path_to_json",
    "draft_from_path",
    "file_stems",
    "from_views",
    "interpolate",
    "numbered_stems",
    "orbit",
    "read_camera_path",
    "read_world_frame",
    "spiral",
    "stamp_world_frame",
    "world_frame_from_json",
    "world_frame_of",
    "write_camera_path",
    "write_world_frame",
]
