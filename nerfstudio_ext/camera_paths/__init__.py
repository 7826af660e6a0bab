"""Camera paths: orbit, spiral, interpolation, the views of a capture, and the files that hold them.

In memory every path is in the training frame of a scene; files say which frame they are in.
"""

from __future__ import annotations

from .generate import from_views, interpolate, orbit, spiral
from .json_file import camera_path_from_json, read_camera_path
from .json_write import camera_path_to_json, write_camera_path
from .naming import file_stems, numbered_stems
from .ngp_file import NgpFrame
from .path import CameraPath, CropBox, KeyView, Similarity

__all__ = [
    "CameraPath",
    "CropBox",
    "KeyView",
    "NgpFrame",
    "Similarity",
    "camera_path_from_json",
    "camera_path_to_json",
    "file_stems",
    "from_views",
    "interpolate",
    "numbered_stems",
    "orbit",
    "read_camera_path",
    "spiral",
    "write_camera_path",
]
