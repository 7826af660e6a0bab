"""What a frame export is asked to write, checked before anything is rendered."""

from __future__ import annotations

import math
import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from ..camera_paths import CameraPath
from ..errors import UserError

OutputName = Literal["rgb", "depth", "normal", "alpha", "rgba"]
DepthFormat = Literal["color", "png16", "npy", "exr"]
Container = Literal["folder", "picture", "mp4", "gif", "webp"]
CONTAINERS: dict[str, Container] = {
    ".mp4": "mp4", ".gif": "gif", ".webp": "webp", ".png": "picture", ".jpg": "picture", ".jpeg": "picture",
}  # fmt: skip
LARGEST_SIDE: dict[Container, int] = {"mp4": 8192, "webp": 16_383}
MAX_GIF_FPS = 50.0
"""Players slow a GIF of more down to 10 frames per second."""
RAW_FORMATS = frozenset({"png16", "npy", "exr"})
MAX_SAMPLES = 16
BYTES_PER_PIXEL = {"png": 1.0, "jpeg": 0.3, "png16": 1.0, "npy": 4.0, "exr": 1.0}
"""Low guesses: a full disk found only half way is better than a wrong refusal."""


@dataclass(frozen=True)
class FrameOptions:
    """Settings of `write_frames`.

    Attributes:
        outputs: What to write: rgb (over the background), depth, normal (of surfaces, source frame), alpha, rgba
            (straight colour with opacity). Of several, the first takes the given name and the others
            `name_depth.mp4`; in a folder each gets a subfolder.
        image_format: File format of pictures in a folder.
        jpeg_quality: 1..100.
        video_crf: H.264 quality, 0 (lossless) to 51; 18 is hard to tell from the frames.
        webp_quality: 1..100.
        depth_format: `color`, `png16` (16-bit whole numbers, unit in the side file), `npy` or `exr` (float32).
        depth_along: Depth as length along the `ray` or along the camera's `z` axis; colours always show the former.
        depth_range: (near, far) of the colour scale in source units; None fits it to the whole path.
        samples: Rays per pixel along each axis; n gives n x n of them and edges without steps.
        frames: (first, last) frame of the path to render, counted from 1; None takes all.
        shard: (i, n): render every n-th frame from the i-th, i from 1. Processes that take one shard each fill the
            same folder; a film is encoded by a last call without a shard.
        overwrite: Replace what an earlier export left under the same name.
    """

    outputs: tuple[OutputName, ...] = ("rgb",)
    image_format: Literal["png", "jpeg"] = "png"
    jpeg_quality: int = 95
    video_crf: int = 18
    webp_quality: int = 85
    depth_format: DepthFormat = "color"
    depth_along: Literal["ray", "z"] = "ray"
    depth_range: tuple[float, float] | None = None
    samples: int = 1
    frames: tuple[int, int] | None = None
    shard: tuple[int, int] | None = None
    overwrite: bool = False

    def file_format(self, output: OutputName, container: Container) -> str:
        """Format of one frame of an output: `png`, `jpeg`, `png16`, `npy` or `exr`; films are made of PNG frames."""
        if output == "depth" and self.depth_format != "color":
            return self.depth_format
        return self.image_format if container in ("folder", "picture") else "png"


def container_of(output: Path) -> Container:
    """What to write, from the name: a film by its suffix, else a folder.

    Raises:
        UserError: for the suffix of a file that cannot be written.
    """
    if output.is_dir():
        return "folder"
    suffix = output.suffix.lower()
    if suffix in CONTAINERS:
        return CONTAINERS[suffix]
    if re.fullmatch(r"\.[a-z][a-z0-9]{1,4}", suffix):
        fix = "Use .mp4, .gif, .webp, or a folder for single images"
        raise UserError(f"cannot write '{suffix}' files", where=output, fix=fix)
    return "folder"


def check_request(path: CameraPath, output: Path, options: FrameOptions, container: Container) -> None:
    """Refuse what cannot end well, before any work.

    Raises:
        UserError: naming the option.
    """
    unknown = [name for name in options.outputs if name not in get_args(OutputName)]
    if unknown or not options.outputs or len(set(options.outputs)) != len(options.outputs):
        found = ", ".join(options.outputs) or "nothing"
        raise UserError(f"outputs are '{found}'", fix="Choose from rgb, depth, normal, alpha, rgba, each once")
    for name, value, low, high in (
        ("jpeg_quality", options.jpeg_quality, 1, 100),
        ("video_crf", options.video_crf, 0, 51),
        ("webp_quality", options.webp_quality, 1, 100),
        ("samples", options.samples, 1, MAX_SAMPLES),
    ):
        if not low <= value <= high:
            raise UserError(f"{name} is {value}", fix=f"Choose {low} to {high}")
    if options.depth_range is not None:
        near, far = options.depth_range
        if not (math.isfinite(far) and 0 < near < far):
            raise UserError(f"a depth range from {near:g} to {far:g}", fix="Give two distances, 0 < near < far")
    formats = {name: options.file_format(name, container) for name in options.outputs}
    if formats.get("rgba") == "jpeg" or (container == "mp4" and "rgba" in formats):
        kind = "mp4" if container == "mp4" else "JPEG"
        raise UserError(f"{kind} holds no opacity", where="rgba", fix="Use .webp or a folder of PNG images")
    raw = RAW_FORMATS & set(formats.values())
    if raw and container != "folder" and not (raw == {"png16"} and output.suffix.lower() == ".png"):
        raise UserError(f"raw depth does not fit into {output.suffix}", where="depth", fix="Write to a folder")
    _check_selection(path, options, container)
    n_frames = len(path) if options.frames is None else options.frames[1] - options.frames[0] + 1
    if container == "picture" and (n_frames > 1 or len(options.outputs) > 1):
        raise UserError("one picture file for several pictures", where=output, fix="Write to a folder")
    _check_film(path, output, container)


def check_room(path: CameraPath, output: Path, options: FrameOptions, container: Container) -> None:
    """Refuse a target that cannot be written and an export that cannot fit.

    Raises:
        UserError: with the estimate.
    """
    parent = output if container == "folder" else output.parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=parent, prefix=".nsx_"):
            free = shutil.disk_usage(parent).free
    except OSError as error:
        raise UserError(
            f"cannot write there: {error.strerror}", where=parent, fix="Choose a folder you may write to"
        ) from error
    pixels = int(path.cameras.sizes.prod(1).sum())
    per_pixel = sum(BYTES_PER_PIXEL[options.file_format(name, container)] for name in options.outputs)
    needed = pixels * per_pixel
    if needed > free:
        n = len(path)
        raise UserError(
            f"{n} frames need about {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free",
            where=parent,
            fix="Free space, or choose fewer or smaller frames",
        )


def film_names(output: Path, outputs: Sequence[OutputName]) -> dict[OutputName, Path]:
    """The file of each output: the first takes the given name, the others add theirs."""
    others = {name: output.with_name(f"{output.stem}_{name}{output.suffix}") for name in outputs[1:]}
    return {outputs[0]: output, **others}


def _check_selection(path: CameraPath, options: FrameOptions, container: Container) -> None:
    n = len(path)
    if options.frames is not None:
        first, last = options.frames
        if not 1 <= first <= last <= n:
            raise UserError(f"frames {first} to {last} of {n}", fix=f"Choose first and last from 1 to {n}")
    if options.shard is not None:
        i, count = options.shard
        if not 1 <= i <= count:
            raise UserError(f"shard {i} of {count}", fix="Write it as i/n with i from 1 to n, such as 2/4")
        if container == "picture":
            raise UserError("one picture has no shards", fix="Leave the shard out")


def _check_film(path: CameraPath, output: Path, container: Container) -> None:
    if container in ("folder", "picture"):
        return
    if path.size is None:
        raise UserError(
            "the views have different sizes, a film has one", where=output, fix="Choose a size, or write to a folder"
        )
    largest = LARGEST_SIDE.get(container, 65_535)
    if max(path.size) > largest:
        raise UserError(
            f"{path.size[0]}x{path.size[1]} is too large for {container}", where=output, fix=f"Use at most {largest}"
        )
    if container == "gif" and path.fps > MAX_GIF_FPS:
        raise UserError(
            f"{path.fps:g} frames per second in a GIF", where=output, fix=f"Use at most {MAX_GIF_FPS:g}, or .mp4"
        )
