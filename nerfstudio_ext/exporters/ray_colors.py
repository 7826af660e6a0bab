"""Colours of surfaces: a short ray onto each point, as a camera in front of it would see it."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..progress import Progress
from ..rays import Rays
from ..renderer import RenderRays

STAND_OFF = 0.25
"""Distance of the ray's origin from the surface, training units: methods see nothing right before a camera."""
REACHES = (2.0, 6.0, 24.0)
"""Voxels before and behind the surface that a ray looks at; longer ones where shorter meet nothing."""
LEAST_ALPHA = 0.2
CHUNK = 1 << 15


def colors_of(
    render_rays: RenderRays,
    x: Float[Tensor, "N 3"],
    normals: Float[Tensor, "N 3"],
    voxel: float,
    progress: Progress,
) -> tuple[Float[Tensor, "N 3"], Bool[Tensor, " N"]]:
    """Colour of each surface point seen along its normal, and whether the method has one there.

    Args:
        render_rays: The method's evaluation function.
        x: Points on the surface, training frame.
        normals: Unit normals, outwards.
        voxel: Unit of the reach.
        progress: Told about the rays.
    """
    rgb, known = torch.zeros(len(x), 3), torch.zeros(len(x), dtype=torch.bool)
    progress.stage("looking at the surface", len(x))
    with torch.no_grad():
        for start in range(0, len(x), CHUNK):
            part = slice(start, min(start + CHUNK, len(x)))
            for reach in REACHES:
                left = (~known[part]).nonzero()[:, 0] + start
                if len(left) == 0:
                    break
                found, alpha = _looked_at(render_rays, x[left], normals[left], min(reach * voxel, 0.9 * STAND_OFF))
                rgb[left], known[left] = found, alpha > LEAST_ALPHA
            progress.advance(part.stop)
    return rgb.clamp(0, 1), known


def filled(rgb: Float[Tensor, "N 3"], known: Bool[Tensor, " N"], x: Float[Tensor, "N 3"]) -> Float[np.ndarray, "N 3"]:
    """Colours with the unknown ones taken from the nearest known point."""
    from scipy.spatial import cKDTree

    result = rgb.numpy().copy()
    if bool(known.any()) and not bool(known.all()):
        _, nearest = cKDTree(x[known].numpy()).query(x[~known].numpy())
        result[(~known).numpy()] = result[known.numpy()][nearest]
    return np.asarray(result)


def _looked_at(render_rays: RenderRays, x: Tensor, normals: Tensor, reach: float) -> tuple[Tensor, Tensor]:
    limits = torch.full((len(x),), STAND_OFF)
    outputs = render_rays(Rays(x + STAND_OFF * normals, -normals, limits - reach, limits + reach))
    if outputs.alpha is None:
        return outputs.rgb.cpu(), torch.ones(len(x))
    alpha = outputs.alpha.cpu()
    return outputs.rgb.cpu() / alpha.clamp_min(1e-4)[:, None], alpha
