"""Which pixels of a picture may be used: masks of both senses, the fisheye circle, the reach of the lens model."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from ..cameras import Camera, intrinsics_of
from ..errors import UserError
from ..lenses import Lens, are_invertible
from .images import probe_image, read_mask
from .posed_capture import PosedFrame

ASPECT_TOLERANCE = 0.01
"""Relative difference in shape that the rounding of a reduced mask can explain."""


def usable_pixels(frame: PosedFrame, camera: Camera, scale: float) -> Bool[np.ndarray, "H W"] | None:
    """Combine everything that excludes pixels of one picture; None when nothing does.

    Args:
        frame: Names the mask files.
        camera: At the size the picture is loaded in.
        scale: Loaded pixels per stated pixel, for the fisheye circle.
    Raises:
        UserError: if no pixel is left, or a mask cannot be decoded.
    """
    size = camera.width, camera.height
    masks = []
    if frame.mask is not None:
        masks.append(read_mask(frame.mask, size))
    if frame.ignore_mask is not None:
        masks.append(read_mask(frame.ignore_mask, size, is_ignore=True))
    if frame.intrinsics.circle_radius is not None:
        offset = camera.pixel_centres() - camera.K[:2, 2].to(torch.float32)
        radius = scale * frame.intrinsics.circle_radius
        masks.append((offset.norm(dim=-1) <= radius).reshape(size[1], size[0]).numpy())
    reach = _lens_reach(*_lens_key(camera))
    if reach is not None:
        masks.append(reach.numpy())
    if not masks:
        return None
    usable: np.ndarray = np.logical_and.reduce(masks)
    if not usable.any():
        where = frame.mask or frame.ignore_mask or frame.where
        raise UserError(
            "the mask leaves no pixel of the picture", where=where, fix="Repair the mask, or delete the frame"
        )
    return usable


def blind_share(camera: Camera) -> float:
    """Share of the pixels that the lens model has no direction for."""
    reach = _lens_reach(*_lens_key(camera))
    return 0.0 if reach is None else 1 - float(reach.to(torch.float64).mean())


def check_mask_size(mask: Path, camera: Camera) -> None:
    """Refuse a mask whose shape is not its picture's; another resolution is fine."""
    info = probe_image(mask)
    ratio = (info.width / camera.width) / (info.height / camera.height)
    if abs(ratio - 1) > max(ASPECT_TOLERANCE, 1 / min(info.width, info.height)):
        raise UserError(
            f"the mask has {info.width}x{info.height} pixels, its picture {camera.width}x{camera.height}", where=mask,
            fix="Make the mask from the picture",
        )  # fmt: skip


def _lens_key(camera: Camera) -> tuple[int, int, tuple[float, ...], Lens]:
    return camera.width, camera.height, tuple(intrinsics_of(camera).tolist()), camera.lens


@functools.lru_cache(maxsize=8)
def _lens_reach(width: int, height: int, intrinsics: tuple[float, ...], lens: Lens) -> Tensor | None:
    """Pixels [H,W] that the lens model has a direction for, or None for all."""
    if not any(lens.params):
        return None

    def have_direction(u: Tensor, v: Tensor) -> Tensor:
        uv = torch.stack([u, v], -1).reshape(-1, 2) + 0.5
        per_pixel = [torch.tensor(x, dtype=torch.float64).expand(len(uv), -1) for x in (intrinsics, (width, height))]
        return are_invertible(lens.kind, uv, per_pixel[0], lens.tensor().expand(len(uv), -1), per_pixel[1])

    u, v = torch.arange(width, dtype=torch.float64), torch.arange(height, dtype=torch.float64)
    # The reach is a disc around the axis, give or take: a border within it means the whole picture is.
    border = [have_direction(u, torch.full_like(u, row)) for row in (0, height - 1)]
    border += [have_direction(torch.full_like(v, column), v) for column in (0, width - 1)]
    if all(bool(part.all()) for part in border):
        return None
    rows = [have_direction(u.expand(len(part), -1), part[:, None].expand(-1, width)) for part in v.split(256)]
    return torch.cat(rows).reshape(height, width)
