"""One rendered frame as arrays and files: colour, opacity, both, depth as colour or as numbers."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from ..cameras import Camera
from ..colormaps import color_depth
from ..errors import UserError
from ..renderer import Frame
from .options import FrameOptions, OutputName

PNG16_MAX = 65_535
SUFFIXES = {"png": ".png", "jpeg": ".jpg", "png16": ".png", "npy": ".npy"}


@dataclass(frozen=True)
class DepthScale:
    """How depth becomes colours and numbers.

    Attributes:
        near: Depth at the red end of the colours, training units.
        far: Depth at the blue end, training units.
        units_per_training: Units of the output per training unit.
        png16_unit: Units of the output per step of a 16-bit image.
    """

    near: float
    far: float
    units_per_training: float = 1.0
    png16_unit: float = 1e-3


def to_8bit(image: Float[Tensor, "H W C"]) -> UInt8[np.ndarray, "H W C"]:
    """0..1 as whole numbers 0..255, rounded to the nearest."""
    return np.asarray((image.clamp(0, 1) * 255).round().to(torch.uint8).numpy())


def picture(
    frame: Frame, output: OutputName, background: tuple[float, float, float], depth: DepthScale
) -> UInt8[np.ndarray, "H W C"]:
    """The 8-bit picture of one output: 3 channels, or 4 for `rgba`.

    Raises:
        UserError: for opacity of a method that has none.
    """
    if output == "rgb":
        return to_8bit(frame.rgb)
    if output == "depth":
        return to_8bit(color_depth(frame.depth, depth.near, depth.far, frame.alpha))
    if frame.alpha is None:
        raise UserError("this method has no opacity", where=output, fix="Choose rgb or depth")
    if output == "alpha":
        return to_8bit(frame.alpha[..., None].expand(-1, -1, 3))
    behind = torch.tensor(background, dtype=frame.rgb.dtype)
    premultiplied = frame.rgb - (1 - frame.alpha[..., None]) * behind
    straight = premultiplied / frame.alpha[..., None].clamp_min(1e-4)
    return to_8bit(torch.cat([straight, frame.alpha[..., None]], -1))


def depth_numbers(frame: Frame, camera: Camera, options: FrameOptions, depth: DepthScale) -> Float[np.ndarray, "H W"]:
    """Depth in units of the output, `inf` where empty, along the ray or the camera's z axis."""
    values = frame.depth
    if options.depth_along == "z":
        cosine = camera.rays().rays_d @ camera.c2w[:, 2].float()
        values = values * cosine.reshape(values.shape)
    return np.asarray((values * depth.units_per_training).numpy(), np.float32)


def encode(
    frame: Frame,
    camera: Camera,
    output: OutputName,
    file_format: str,
    background: tuple[float, float, float],
    options: FrameOptions,
    depth: DepthScale,
    *,
    pad_even: bool = False,
    fast: bool = False,
) -> tuple[bytes, int]:
    """File content of one output of one frame, and the number of depths beyond what it can hold.

    Args:
        frame: The rendered frame.
        camera: The camera it was rendered through.
        output: What to store.
        file_format: `png`, `jpeg`, `png16` or `npy`.
        background: The renderer's background colour.
        options: Quality and depth settings.
        depth: Depth scale of the whole export.
        pad_even: Repeat the last row or column of odd sizes, as H.264 needs.
        fast: Prefer speed over size (frames of a film, deleted afterwards).
    """
    buffer = io.BytesIO()
    if file_format in ("npy", "png16"):
        values = depth_numbers(frame, camera, options, depth)
        if file_format == "npy":
            np.save(buffer, values)
            return buffer.getvalue(), 0
        steps = np.round(np.where(np.isfinite(values), values, 0) / depth.png16_unit)
        Image.fromarray(np.clip(steps, 0, PNG16_MAX).astype(np.uint16)).save(buffer, "PNG")
        return buffer.getvalue(), int((steps > PNG16_MAX).sum())
    pixels = picture(frame, output, background, depth)
    if pad_even:
        height, width = pixels.shape[:2]
        pixels = np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    image = Image.fromarray(pixels)
    if file_format == "jpeg":
        image.save(buffer, "JPEG", quality=options.jpeg_quality, subsampling=0)
    else:
        image.save(buffer, "PNG", compress_level=1 if fast else 6)
    return buffer.getvalue(), 0


def write_whole(target: Path, content: bytes) -> None:
    """Write a file that is either complete or not there under its name."""
    partial = target.with_name(f".{target.name}.part")
    try:
        with partial.open("wb") as file:
            file.write(content)
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


def is_whole(file: Path, size: tuple[int, int]) -> bool:
    """Whether a frame written earlier is readable and has the expected (width, height)."""
    try:
        if file.suffix == ".npy":
            return tuple(np.load(file, mmap_mode="r").shape) == (size[1], size[0])
        with Image.open(file, formats=("PNG", "JPEG")) as image:
            return bool(image.size == size)
    except Image.DecompressionBombError:
        # Larger than Pillow likes to open, but this program wrote it, and only whole.
        return file.stat().st_size > 0
    except (OSError, ValueError, SyntaxError):  # the last one is what Pillow raises for a broken PNG header
        return False
