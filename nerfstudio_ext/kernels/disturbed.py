"""The fast field under disturbance: which samples of a batch are seen, and the loss there with all its gradients."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..rays import Rays, Samples
from .checks import check_shape
from .dispatch import call
from .fused import FieldTensors, Occupancy, StepOptions

if TYPE_CHECKING:
    from jaxtyping import Float

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
class DisturbedLoss:
    """What `disturbed_loss` returns.

    Attributes:
        total: Differentiable sum over the passes.
        losses: Loss of each pass without its share, no gradient.
        mse: Mean squared colour error of each pass, no gradient.
    """

    total: Float[Tensor, ""]
    losses: tuple[float, ...]
    mse: tuple[float, ...]


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


@dataclass(frozen=True)
class Pass:
    """One look at a batch: how the rays and the samples are disturbed, and how much its loss counts.

    Attributes:
        view: The rays.
        disturbance: What is added.
        options: Losses; the lattice is not used.
        share: Factor of its loss.
    """

    view: View
    disturbance: Disturbance
    options: StepOptions
    share: float = 1.0


def disturbed_loss(
    field: FieldTensors,
    samples: Samples,
    passes: tuple[Pass, ...],
    target: Float[Tensor, "R 3"],
    background: Float[Tensor, "R 3"],
    space: object | None = None,
    *,
    backend: str = "auto",
) -> DisturbedLoss:
    """Evaluate the loss of `field_step` on given samples under disturbance, in one or several passes.

    The positions are `rays_o + (t_middle + t) rays_d + x`, cut to the field's cube. Distortion, where wanted, is that
    of the undisturbed intervals. It and the near fade concern the gradients of the field alone: with a field that
    wants no gradient both are left out.

    Args:
        field: The field; without gradients in it the evaluation is cheaper.
        samples: Where to look, from `seen_samples`.
        passes: What to evaluate, at least one.
        target: Colours the rays should have, on `background`.
        background: Colour behind each ray.
        space: Memory kept between calls, made by `make_space`; the gradients of the field live in it until the next
            call with the same memory. None allocates.
    Returns:
        The sum of the losses, each with its share, and numbers of each pass.
    Differentiable in the field, the views and the disturbances. Deterministic for any number of threads.
    Source: Chen et al. 2022 (Aug-NeRF), section 3.2, carried over to packed samples and hash grids.
    """
    n_rays, n_samples = len(target), len(samples)
    check_shape("samples.packed_info", samples.packed_info, (n_rays, 2))
    sizes = {"t": (), "x": (3,), "features": (field.layout.n_outputs,), "raw": (4,)}
    inputs = {"table": field.table}
    for number, one in enumerate(passes):
        check_shape(f"passes[{number}].view.rays_o", one.view.rays_o, (n_rays, 3))
        for name, tensor in one.disturbance.tensors.items():
            shape = (n_rays, 3) if name == "rgb" else (n_samples, *sizes[name])
            check_shape(f"passes[{number}].disturbance.{name}", tensor, shape)
            inputs[f"passes[{number}].{name}"] = tensor
    return call("disturbed_loss", backend, (field, samples, passes, target, background, space), **inputs)
