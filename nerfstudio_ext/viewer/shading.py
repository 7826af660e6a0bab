"""From rendered parts to pixels: outputs, colour scales, exposure, comparison, photos over the render."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from ..colormaps import color_error, color_values
from ..normals import color_normals
from .looks import Look, Scale
from .pictures import GROUND_COLOUR, frame_range, to_8bit
from .shots import Part, Shot

RANGE_INERTIA = 0.8
"""The colours of a moving picture follow its range slowly, or they would flicker from frame to frame."""
CHEQUER_PX, CHEQUERS = 16, (0.42, 0.58)
DEFAULT_SCALE = Scale()


@dataclass
class Ranges:
    """What is kept of one browser from picture to picture.

    Attributes:
        ends: Of its colour scales, by output.
        photo_psnr: Of the render against the photo that was laid over it last, at the size shown, dB.
    """

    ends: dict[str, tuple[float, float]]
    photo_psnr: float | None = None

    @classmethod
    def empty(cls) -> Ranges:
        return cls({})

    def follow(self, name: str, low: float, high: float, is_moving: bool) -> tuple[float, float]:
        """The ends to use for a picture whose own are given."""
        before = self.ends.get(name)
        if before is not None and is_moving:
            low = RANGE_INERTIA * before[0] + (1 - RANGE_INERTIA) * low
            high = RANGE_INERTIA * before[1] + (1 - RANGE_INERTIA) * high
        self.ends[name] = (low, high)
        return low, high


def shade(
    shot: Shot, look: Look, ranges: Ranges, is_moving: bool = False, photos: Sequence[UInt8[np.ndarray, "h w C"]] = ()
) -> UInt8[np.ndarray, "H W 3"]:
    """The pixels of a picture.

    Args:
        shot: What was rendered.
        look: How it is to be shown.
        ranges: Ends of the browser's colour scales.
        is_moving: Whether the camera moves.
        photos: Training photos, for the one that the look asks for.
    """
    left = shot.left
    if shot.right is None and left.output == "rgb" and not _is_retouched(look):
        return _on_canvas(to_8bit(left.frame.rgb), shot.canvas)
    rgb = _coloured(left, look, ranges, is_moving)
    if shot.right is not None:
        rgb = _compared(rgb, shot, look, ranges, is_moving)
    if look.photo is not None and look.photo.index < len(photos):
        rgb = _with_photo(rgb, look, photos[look.photo.index], ranges)
        if left.output != "rgb" or shot.right is not None:
            ranges.photo_psnr = None  # other numbers than colours
    return _on_canvas(to_8bit(rgb), shot.canvas)


def scale_ends(part: Part, look: Look, ranges: Ranges, is_moving: bool) -> tuple[float, float]:
    """Numbers at both ends of the colour scale of a part: those chosen, else what suits the picture."""
    if part.output == "depth":
        low, high = frame_range(part.frame)
    else:
        low, high = value_range(part.values if part.values is not None else torch.zeros(1))
    low, high = ranges.follow(part.output, low, high, is_moving)
    low = low if look.scale.low is None else look.scale.low
    high = high if look.scale.high is None else look.scale.high
    return low, high


def value_range(values: Tensor) -> tuple[float, float]:
    """Zero and nearly the largest of the numbers of a layer, from at most some 10,000 of them."""
    flat = values.flatten()
    flat = flat[:: max(1, len(flat) // 10_000)]
    flat = flat[flat.isfinite()]
    high = float(np.quantile(flat.numpy(), 0.99)) if len(flat) else 1.0
    return 0.0, high if high > 0 else 1.0


def exposed(rgb: Float[Tensor, "H W 3"], stops: float) -> Float[Tensor, "H W 3"]:
    """Colours as a longer or shorter exposure shows them: light is doubled per stop, then encoded as sRGB again."""
    light = torch.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4) * 2.0**stops
    light = light.clamp(0, 1)
    return torch.where(light <= 0.0031308, 12.92 * light, 1.055 * light.clamp_min(1e-9) ** (1 / 2.4) - 0.055)


def _is_retouched(look: Look) -> bool:
    return look.exposure != 0 or look.backdrop == "chequered" or look.photo is not None


def _coloured(part: Part, look: Look, ranges: Ranges, is_moving: bool) -> Float[Tensor, "H W 3"]:
    frame = part.frame
    if part.output == "rgb":
        rgb = frame.rgb if look.exposure == 0 else exposed(frame.rgb, look.exposure)
        if look.backdrop == "chequered" and frame.alpha is not None:
            rgb = rgb + (1 - frame.alpha[..., None]) * _chequers(*frame.alpha.shape)
        return rgb
    if part.output == "normals" and part.values is not None:
        return color_normals(part.values, frame.alpha)
    if part.output == "alpha":
        share = torch.ones_like(frame.depth) if frame.alpha is None else frame.alpha
        plain = look.scale == DEFAULT_SCALE
        if plain:
            return share[..., None].expand(-1, -1, 3)
        low, high = look.scale.low or 0.0, 1.0 if look.scale.high is None else look.scale.high
        return _scaled((share - low) / max(high - low, 1e-9), look.scale)
    low, high = scale_ends(part, look, ranges, is_moving)
    if part.output == "depth":
        return _depth_colours(frame.depth, frame.alpha, low, high, look.scale)
    values = part.values if part.values is not None else torch.zeros_like(frame.depth)
    return _scaled((values - low) / max(high - low, 1e-9), look.scale)


def _depth_colours(
    depth: Tensor, alpha: Tensor | None, near: float, far: float, scale: Scale
) -> Float[Tensor, "H W 3"]:
    """Linear in 1 / depth, near at the upper end; empty pixels are black."""
    near, far = max(near, 1e-9), max(far, 1e-9)
    slope = 1 / near - 1 / far
    share = (1 / depth.clamp_min(1e-9) - 1 / far) / (slope if abs(slope) > 1e-12 else 1e-12)
    visible = depth.isfinite().to(depth.dtype)
    return _scaled(share, scale) * (visible if alpha is None else visible * alpha)[..., None]


def _scaled(share: Tensor, scale: Scale) -> Float[Tensor, "H W 3"]:
    share = share.clamp(0, 1)
    return color_values(1 - share if scale.is_inverted else share, scale.colormap)


def _compared(
    rgb: Float[Tensor, "H W 3"], shot: Shot, look: Look, ranges: Ranges, is_moving: bool
) -> Float[Tensor, "H W 3"]:
    assert shot.right is not None
    other = _coloured(shot.right, look, ranges, is_moving)
    if look.compare.mode == "difference":
        return (0.5 + look.compare.gain * (rgb - other)).clamp(0, 1)
    if shot.column is None:
        return torch.cat([rgb, other], 1)
    return torch.cat([rgb[:, : shot.column], other[:, shot.column :]], 1)


def _with_photo(
    rgb: Float[Tensor, "H W 3"], look: Look, photo: UInt8[np.ndarray, "h w C"], ranges: Ranges
) -> Float[Tensor, "H W 3"]:
    """A photo, or the difference to it, over a render of the same camera."""
    assert look.photo is not None
    if look.photo.mode == "render":
        return rgb
    height, width = rgb.shape[:2]
    picture = Image.fromarray(photo)
    if picture.mode == "RGBA":
        ground = Image.new("RGBA", picture.size, (255, 255, 255, 255))
        picture = Image.alpha_composite(ground, picture)
    picture = picture.convert("RGB").resize((width, height), Image.Resampling.BOX)
    truth = torch.from_numpy(np.asarray(picture, np.float32) / 255)
    ranges.photo_psnr = -10 * math.log10(max(float((rgb - truth).square().mean()), 1e-10))
    over = truth if look.photo.mode == "photo" else color_error((rgb - truth).abs().mean(-1))
    return rgb + look.photo.opacity * (over - rgb)


def _chequers(height: int, width: int) -> Float[Tensor, "H W 1"]:
    rows, columns = torch.arange(height) // CHEQUER_PX, torch.arange(width) // CHEQUER_PX
    odd = (rows[:, None] + columns[None, :]) % 2
    return (CHEQUERS[0] + (CHEQUERS[1] - CHEQUERS[0]) * odd)[..., None]


def _on_canvas(pixels: UInt8[np.ndarray, "h w 3"], canvas: tuple[int, int]) -> UInt8[np.ndarray, "H W 3"]:
    """Pixels in the middle of the canvas, which browsers stretch over their whole window."""
    width, height = canvas
    if pixels.shape[:2] == (height, width):
        return pixels
    whole = np.empty((height, width, 3), np.uint8)
    whole[:] = GROUND_COLOUR
    top, left = max(0, (height - pixels.shape[0]) // 2), max(0, (width - pixels.shape[1]) // 2)
    part = pixels[:height, :width]
    whole[top : top + part.shape[0], left : left + part.shape[1]] = part
    return whole
