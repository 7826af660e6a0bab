"""One rendered frame as arrays and files: colour, opacity, both, normals, depth as colour or as numbers."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, PngImagePlugin
from torch import Tensor

from ..cameras import Camera
from ..colormaps import color_depth
from ..errors import UserError
from ..normals import color_normals, normals_from_depth
from ..renderer import Frame
from .exr import exr_bytes
from .options import RAW_FORMATS, Container, FrameOptions, OutputName
from .spherical import XMP_KEY, panorama_xmp

PNG16_MAX = 65_535
SUFFIXES = {"png": ".png", "jpeg": ".jpg", "png16": ".png", "npy": ".npy", "exr": ".exr"}


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


@dataclass(frozen=True)
class Shot:
    """A rendered frame with what is needed to write it.

    Attributes:
        frame: What the renderer returned.
        camera: The camera it was rendered through.
        background: The renderer's background colour.
        to_source: Rotation from the training frame to the source frame.
    """

    frame: Frame
    camera: Camera
    background: tuple[float, float, float]
    to_source: Float[Tensor, "3 3"]

    def pixels(self, output: OutputName, depth: DepthScale) -> UInt8[np.ndarray, "H W C"]:
        """The 8-bit picture of one output: 3 channels, or 4 for `rgba`.

        Raises:
            UserError: for opacity of a method that has none.
        """
        frame = self.frame
        if output == "rgb":
            return to_8bit(frame.rgb)
        if output == "depth":
            return to_8bit(color_depth(frame.depth, depth.near, depth.far, frame.alpha))
        if output == "normal":
            normals = normals_from_depth(frame.depth, self.camera) @ self.to_source.T.float()
            return to_8bit(color_normals(normals, frame.alpha))
        if frame.alpha is None:
            raise UserError("this method has no opacity", where=output, fix="Choose rgb, depth or normal")
        if output == "alpha":
            return to_8bit(frame.alpha[..., None].expand(-1, -1, 3))
        behind = torch.tensor(self.background, dtype=frame.rgb.dtype)
        premultiplied = frame.rgb - (1 - frame.alpha[..., None]) * behind
        straight = premultiplied / frame.alpha[..., None].clamp_min(1e-4)
        return to_8bit(torch.cat([straight, frame.alpha[..., None]], -1))

    def depth_numbers(self, options: FrameOptions, depth: DepthScale) -> Float[np.ndarray, "H W"]:
        """Depth in units of the output, `inf` where empty, along the ray or the camera's z axis."""
        values = self.frame.depth
        if options.depth_along == "z":
            cosine = self.camera.rays().rays_d @ self.camera.c2w[:, 2].float()
            values = values * cosine.reshape(values.shape)
        return np.asarray((values * depth.units_per_training).numpy(), np.float32)


def encode(
    shot: Shot, output: OutputName, options: FrameOptions, depth: DepthScale, container: Container
) -> tuple[bytes, int]:
    """File content of one output of one frame, and the number of depths beyond what it can hold.

    Args:
        shot: The frame.
        output: What to store.
        options: Quality and depth settings.
        depth: Depth scale of the whole export.
        container: What the frame is for: frames of a film are packed fast, for H.264 their sides are made even.
    """
    file_format = options.file_format(output, container)
    if file_format in RAW_FORMATS:
        return _encode_numbers(shot.depth_numbers(options, depth), file_format, depth)
    pixels = shot.pixels(output, depth)
    if container == "mp4":
        height, width = pixels.shape[:2]
        pixels = np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    image, buffer = Image.fromarray(pixels), io.BytesIO()
    is_panorama = shot.camera.lens.kind == "equirectangular" and container in ("folder", "picture")
    xmp = panorama_xmp(*image.size) if is_panorama else ""
    if file_format == "jpeg":
        extra = {"xmp": xmp.encode()} if xmp else {}
        image.save(buffer, "JPEG", quality=options.jpeg_quality, subsampling=0, **extra)
        return buffer.getvalue(), 0
    notes = PngImagePlugin.PngInfo()
    if xmp:
        notes.add_itxt(XMP_KEY, xmp)
    image.save(buffer, "PNG", compress_level=6 if container in ("folder", "picture") else 1, pnginfo=notes)
    return buffer.getvalue(), 0


def _encode_numbers(values: Float[np.ndarray, "H W"], file_format: str, depth: DepthScale) -> tuple[bytes, int]:
    buffer = io.BytesIO()
    if file_format == "exr":
        return exr_bytes(values), 0
    if file_format == "npy":
        np.save(buffer, values)
        return buffer.getvalue(), 0
    steps = np.round(np.where(np.isfinite(values), values, 0) / depth.png16_unit)
    Image.fromarray(np.clip(steps, 0, PNG16_MAX).astype(np.uint16)).save(buffer, "PNG")
    return buffer.getvalue(), int((steps > PNG16_MAX).sum())


def write_whole(target: Path, content: bytes, *, is_shared: bool = False) -> None:
    """Write a file that is either complete or not there under its name.

    Args:
        target: The file.
        content: All of it.
        is_shared: Several processes may write this file at once, each the same.
    """
    partial = target.with_name(f".{target.name}.{os.getpid()}.part" if is_shared else f".{target.name}.part")
    try:
        with partial.open("wb") as file:
            file.write(content)
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)
