"""Frames into pixels and pixels into bytes: output choice, JPEG, depth packing, the waiting picture."""

from __future__ import annotations

import io
from typing import Literal

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..colormaps import color_depth, depth_range
from ..renderer import Frame

Output = Literal["rgb", "depth", "alpha"]
OUTPUTS: tuple[Output, ...] = ("rgb", "depth", "alpha")
GROUND_COLOUR = (18, 18, 22)
"""Ground of the waiting picture; close to the page's own dark background."""
BEST_QUALITY = 90
DEPTH_UNITS = 100_000
"""The browser reads depth as 24-bit integers of 1e-5 scene units."""
DEPTH_STEPS = 1024
"""Depth is rounded to this many steps of its range: noisy depth compresses far better and nobody sees it."""


def to_rgb8(
    frame: Frame, output: Output = "rgb", near_far: tuple[float, float] | None = None
) -> UInt8[np.ndarray, "H W 3"]:
    """The chosen output of a frame as 8-bit pixels.

    Args:
        frame: A rendered frame.
        output: `rgb` is the frame's colour rounded to 8 bit and nothing else; `depth` is coloured
            (near red, far blue, empty black); `alpha` is grey, white where the method has none.
        near_far: Depth range of the colours; None takes that of the frame.
    """
    if output == "rgb":
        return to_8bit(frame.rgb)
    if output == "depth":
        near, far = near_far or frame_range(frame)
        return to_8bit(color_depth(frame.depth, near, far, frame.alpha))
    if frame.alpha is None:
        return np.full((*frame.depth.shape, 3), 255, np.uint8)
    return to_8bit(frame.alpha[:, :, None].expand(-1, -1, 3))


def to_8bit(values: Float[Tensor, "H W C"]) -> UInt8[np.ndarray, "H W C"]:
    """0..1 as whole numbers 0..255, rounded to the nearest; the same as exported files hold."""
    # numpy on purpose: torch would start a team of threads for this, which stalls while training has all cores.
    scaled = np.multiply(values.numpy(), np.float32(255))
    return np.clip(np.rint(scaled, out=scaled), 0, 255, out=scaled).astype(np.uint8)


def frame_range(frame: Frame) -> tuple[float, float]:
    """Near and far of a frame's depth for its colours, from at most some 10,000 pixels."""
    stride = max(1, round((frame.depth.numel() / 10_000) ** 0.5))
    return depth_range([frame.depth[::stride, ::stride]])


def encode_jpeg(rgb8: UInt8[np.ndarray, "H W 3"], quality: int) -> bytes:
    """JPEG bytes; full colour resolution from `BEST_QUALITY` on."""
    buffer = io.BytesIO()
    subsampling = 0 if quality >= BEST_QUALITY else 2
    Image.fromarray(rgb8).save(buffer, "JPEG", quality=quality, subsampling=subsampling)
    return buffer.getvalue()


def encode_depth(depth_z: Float[Tensor, "H W"], long_side: int) -> bytes:
    """Depth along the view axis as the browser reads it: a PNG holding 24-bit fixed point numbers.

    Args:
        depth_z: Depth along the camera's z axis, scene units, inf where empty.
        long_side: Depth is thinned to about this many pixels on its longer side.
    """
    stride = max(1, -(-max(depth_z.shape) // long_side))
    values = np.ascontiguousarray(depth_z.numpy()[stride // 2 :: stride, stride // 2 :: stride])
    is_seen = np.isfinite(values)
    largest = float(values[is_seen].max()) if is_seen.any() else 1.0
    step = max(largest / DEPTH_STEPS, 1.0 / DEPTH_UNITS)
    rounded = np.round(np.where(is_seen, values, 0.0) / step) * step
    fixed = np.where(is_seen, np.clip(rounded * DEPTH_UNITS, 0, 2**24 - 1), 2**24 - 1).astype(np.uint32)
    # Red is the highest of the three bytes, as in viser's own packing.
    packed = np.stack([fixed >> 16 & 255, fixed >> 8 & 255, fixed & 255], -1).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(packed).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def waiting_picture(
    thumbnail: UInt8[np.ndarray, "h w 3"] | None, aspect: float, text: str = "The first picture is on its way"
) -> UInt8[np.ndarray, "H W 3"]:
    """What a browser shows before there is a scene: a training photo, dimmed, with one line of text.

    Args:
        thumbnail: Any small photo, or None for a plain ground.
        aspect: Width over height of the canvas, which stretches whatever it is sent.
        text: The line of text.
    """
    height = 480
    width = max(64, min(1920, round(height * aspect)))
    ground = Image.new("RGB", (width, height), GROUND_COLOUR)
    if thumbnail is not None:
        photo = Image.fromarray(thumbnail)
        scale = max(width / photo.width, height / photo.height)
        photo = photo.resize((round(photo.width * scale), round(photo.height * scale)), Image.Resampling.BICUBIC)
        ground.paste(photo, ((width - photo.width) // 2, (height - photo.height) // 2))
        ground = Image.blend(ground, Image.new("RGB", ground.size, GROUND_COLOUR), 0.55)
    font = ImageFont.load_default(size=max(12, min(22, width // 24)))
    ImageDraw.Draw(ground).text((width / 2, height / 2), text, fill=(235, 235, 240), font=font, anchor="mm")
    return np.asarray(ground)
