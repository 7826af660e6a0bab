"""Rendering of the fast field with gradients in colour, opacity and depth: lifting has losses in all three.

Colours do not depend on the direction: of the harmonics only the constant is used, and the rows of the others stay
zero, so that the fused renderer shows the very same field.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from .. import kernels
from ..fields.hash_field import GEO, HashField
from ..kernels import Marching, Occupancy
from ..rays import Rays, Samples

CONSTANT_HARMONIC = 0.28209479177387814
"""Spherical harmonic of band 0."""
_DENSITY_LOGIT_MAX, _COLOR_LOGIT_MAX = 15.0, 20.0
"""As in the fused kernels (`kernels.FieldTensors`)."""


@dataclass(frozen=True)
class RenderedRays:
    """R rays with everything that losses look at.

    Attributes:
        rgb: Colour, premultiplied.
        alpha: Opacity.
        depth: Ray length, premultiplied.
        weights: Share of each sample in its ray.
        samples: The samples.
        positions: Where they are.
    """

    rgb: Float[Tensor, "R 3"]
    alpha: Float[Tensor, " R"]
    depth: Float[Tensor, " R"]
    weights: Float[Tensor, " S"]
    samples: Samples
    positions: Float[Tensor, "S 3"]

    def mean_depth(self, far: float) -> Float[Tensor, " R"]:
        """Ray lengths, with what is transparent at `far`."""
        return self.depth + (1 - self.alpha) * far


def forget_directions(field: HashField) -> None:
    """Make the colours of a new field the same from all directions; training with `render` keeps them so."""
    with torch.no_grad():
        field.c1[GEO + 1 :] = 0


def render(
    field: HashField, rays: Rays, occupancy: Occupancy, marching: Marching, jitter: Float[Tensor, " R"], backend: str
) -> RenderedRays:
    """Render rays, differentiable in the field's parameters.

    Args:
        field: The field.
        rays: Cut to its box.
        occupancy: Where to look.
        marching: The lattice.
        jitter: Shift of each ray's lattice, [0, 1).
        backend: Kernel back end.
    """
    samples = kernels.march(rays, occupancy.bits, occupancy.grid_size, marching, jitter, backend=backend)
    positions = samples.positions(rays)
    geometry = _geometry(field, positions, backend)
    sigmas = _density(geometry)
    constant = torch.full((len(samples), 1), CONSTANT_HARMONIC, device=geometry.device)
    first = field.c1[: GEO + 1]
    logits = kernels.mlp(torch.cat([geometry, constant], 1), (first, field.c2, field.c3), backend=backend)
    rgbs = logits.clamp(-_COLOR_LOGIT_MAX, _COLOR_LOGIT_MAX).sigmoid()
    outputs = kernels.composite(sigmas, rgbs, samples, len(rays), backend=backend)
    assert outputs.alpha is not None
    weights = kernels.weights_of(sigmas, samples, backend=backend)
    return RenderedRays(outputs.rgb, outputs.alpha, outputs.depth, weights, samples, positions)


def density(field: HashField, x: Float[Tensor, "N 3"], backend: str) -> Float[Tensor, " N"]:
    """Densities at positions, differentiable in the field's parameters."""
    return _density(_geometry(field, x, backend))


def _geometry(field: HashField, x: Tensor, backend: str) -> Tensor:
    x_unit = (x / field.aabb_scale + 0.5).clamp(0, 1)
    features = kernels.hash_encode(x_unit, field.table, field.layout, backend=backend)
    return kernels.mlp(features, (field.d1, field.d2), backend=backend)


def _density(geometry: Tensor) -> Tensor:
    return geometry[:, 0].clamp(-_DENSITY_LOGIT_MAX, _DENSITY_LOGIT_MAX).exp()
