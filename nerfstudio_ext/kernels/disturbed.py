"""The fast field under disturbance: which samples of a batch are seen, and the loss there with all its gradients."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from jaxtyping import Float
from torch import Tensor

from ..rays import Rays, Samples
from .checks import check_shape
from .dispatch import call
from .fused import FieldTensors, Occupancy, StepOptions

CONTIGUOUS = 0.01
"""Two samples are neighbours when the gap between them is below this share of the first one's length."""


@dataclass(frozen=True)
class Disturbance:
    """What is added on the way from samples to colours; None adds nothing.

    Attributes:
        t: To the distance of each sample, scene units. The position moves along the ray; the interval begins that much
            later and the one in front, where it is a neighbour, ends that much later. No interval gets shorter than 0.
        x: To the position of each sample, scene units.
        features: To its encoded features.
        raw: To its three colour logits and its density logit.
        rgb: To the rendered colour of each ray.
    """

    t: Float[Tensor, " S"] | None = None
    x: Float[Tensor, "S 3"] | None = None
    features: Float[Tensor, "S F"] | None = None
    raw: Float[Tensor, "S 4"] | None = None
    rgb: Float[Tensor, "R 3"] | None = None

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Those that are there."""
        found = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: tensor for name, tensor in found.items() if tensor is not None}


@dataclass(frozen=True)
class SeenSamples:
    """The samples of a batch that take part in its gradient.

    Attributes:
        samples: Packed by ray.
        n_marched: Samples whose density was evaluated to find them.
        n_dropped: Rays left without samples because the room was full.
    """

    samples: Samples
    n_marched: int
    n_dropped: int


@dataclass(frozen=True)
class View:
    """Rays as a differentiable function of cameras sees them.

    Attributes:
        rays_o: Origins.
        rays_d: Directions.
        harmonics: `sh_encode(rays_d)`: what the colour network sees of the direction.
    """

    rays_o: Float[Tensor, "R 3"]
    rays_d: Float[Tensor, "R 3"]
    harmonics: Float[Tensor, "R 16"]


def seen_samples(
    field: FieldTensors,
    rays: Rays,
    jitter: Float[Tensor, " R"],
    occupancy: Occupancy,
    options: StepOptions,
    max_seen: int,
    space: object | None = None,
    *,
    backend: str = "auto",
) -> SeenSamples:
    """March and keep the samples in front of which more light than `options.stop_transmittance` passes.

    Arguments as in `field_step`, which does the same inside.
    Not differentiable. Deterministic for any number of threads.
    """
    with torch.no_grad():
        arguments = (field, rays, jitter, occupancy, options, max_seen, space)
        return call("seen_samples", backend, arguments, table=field.table, rays_o=rays.rays_o)


def disturbed_loss(
    field: FieldTensors,
    view: View,
    samples: Samples,
    disturbance: Disturbance,
    target: Float[Tensor, "R 3"],
    background: Float[Tensor, "R 3"],
    options: StepOptions,
    space: object | None = None,
    *,
    backend: str = "auto",
) -> tuple[Float[Tensor, ""], float]:
    """Evaluate the loss of `field_step` on given samples under disturbance.

    The positions are `rays_o + (t_middle + t) rays_d + x`, cut to the field's cube. Distortion, where wanted, is that
    of the undisturbed intervals; the near fade scales the gradients of the field alone.

    Args:
        field: The field; without gradients in it the evaluation is cheaper.
        view: The rays.
        samples: Where to look, from `seen_samples`.
        disturbance: What to add.
        target: Colours the rays should have, on `background`.
        background: Colour behind each ray.
        options: Losses; its lattice is not used.
        space: Memory kept between calls, made by `make_space`; the gradients of the field live in it until the next
            call with the same memory. None allocates.
    Returns:
        The loss and the mean squared colour error.
    Differentiable in the field, the view and the disturbance. Deterministic for any number of threads.
    Source: Chen et al. 2022 (Aug-NeRF), section 3.2, carried over to packed samples and hash grids.
    """
    n_rays, n_samples = len(target), len(samples)
    check_shape("view.rays_o", view.rays_o, (n_rays, 3))
    check_shape("samples.packed_info", samples.packed_info, (n_rays, 2))
    sizes = {"t": (), "x": (3,), "features": (field.layout.n_outputs,), "raw": (4,)}
    for name, tensor in disturbance.tensors.items():
        check_shape(f"disturbance.{name}", tensor, (n_rays, 3) if name == "rgb" else (n_samples, *sizes[name]))
    arguments = (field, view, samples, disturbance, target, background, options, space)
    inputs = {"table": field.table, "rays_o": view.rays_o, **disturbance.tensors}
    return call("disturbed_loss", backend, arguments, **inputs)
