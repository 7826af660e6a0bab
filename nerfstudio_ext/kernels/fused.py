"""Types of the fused operations: the fast field as plain tensors, the options of a step, what a step returns."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..rays import RayOutputs, Rays
from .dispatch import call, resolve
from .layouts import GridLayout, Marching

if TYPE_CHECKING:
    from jaxtyping import Float, Int64


_LEAST_RAYS_STEP = 256


@dataclass(frozen=True)
class FieldTensors:
    """A fast field: hash grid, density network and colour network, in the cube of edge `aabb_scale` around 0.

    density(x): geo = relu(encode(x) @ d1) @ d2, sigma = exp(clamp(geo[0], -15, 15)).
    color(x, d): sigmoid(clamp(relu(relu([geo, sh(d)] @ c1) @ c2) @ c3, -20, 20)).

    Attributes:
        layout: Layout of the hash grid.
        table: Its rows [E, F].
        d1, d2: Density network, [L F, H] and [H, 16].
        c1, c2, c3: Colour network, [32, C], [C, C] and [C, 3].
        aabb_scale: Edge of the cube, scene units.
    """

    layout: GridLayout
    table: Float[Tensor, "E F"]
    d1: Float[Tensor, "I H"]
    d2: Float[Tensor, "H 16"]
    c1: Float[Tensor, "32 C"]
    c2: Float[Tensor, "C C"]
    c3: Float[Tensor, "C 3"]
    aabb_scale: float

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All parameters, in the order (table, d1, d2, c1, c2, c3)."""
        return self.table, self.d1, self.d2, self.c1, self.c2, self.c3


@dataclass(frozen=True)
class Occupancy:
    """Which cells of the scene may hold something.

    Attributes:
        bits: Words as `pack_bits` makes them, [C, (G/4)^3]; cascade c covers the cube of edge 2^c around 0.
        grid_size: Cells per axis G.
    """

    bits: Int64[Tensor, "C B"]
    grid_size: int


@dataclass(frozen=True)
class StepOptions:
    """How a training step marches and what it minimises.

    Attributes:
        marching: The lattice of samples.
        stop_transmittance: Samples behind a lower transmittance are not seen.
        huber: Where the Huber loss turns linear; 0 means squared error.
        distortion: Weight of the distortion loss; 0 switches it off.
        near_fade: Gradients of samples nearer than this ray length are scaled by its squared share (against
            floaters in front of cameras, Philip and Deschaintre 2023); 0 switches it off.
        deterministic: Bit-equal results on CUDA devices too, at some cost; the others always give them.
    """

    marching: Marching
    stop_transmittance: float = 1e-4
    huber: float = 0.1
    distortion: float = 0.0
    near_fade: float = 0.0
    deterministic: bool = False


@dataclass(frozen=True)
class StepResult:
    """What a training step returns.

    Attributes:
        loss: Differentiable sum of the colour loss and the weighted distortion.
        color_loss: Mean colour loss per channel, no gradient.
        mse: Mean squared colour error, no gradient.
        distortion: Mean distortion per ray, unweighted, no gradient; 0 when its weight is 0.
        n_marched: Samples whose density was evaluated.
        n_seen: Samples that took part in the gradient.
        n_dropped: Rays left out because the room for samples was full; they carry no gradient.
    """

    loss: Float[Tensor, ""]
    color_loss: float
    mse: float
    distortion: float
    n_marched: int
    n_seen: int
    n_dropped: int


def field_step(
    field: FieldTensors,
    rays: Rays,
    jitter: Float[Tensor, " R"],
    target: Float[Tensor, "R 3"],
    background: Float[Tensor, "R 3"],
    occupancy: Occupancy,
    options: StepOptions,
    max_seen: int,
    space: object | None = None,
    *,
    backend: str = "auto",
) -> StepResult:
    """Evaluate the loss of a batch of rays and all gradients of the field.

    March, drop samples behind `options.stop_transmittance`, evaluate, composite onto `background`, compare with
    `target`. Distortion is measured on t / (1 + t), which weighs near and far alike.

    Args:
        field: The field; its tensors receive the gradients when `loss.backward()` is called.
        rays: R rays, cut to the scene box.
        jitter: Shift of each ray's lattice, [0, 1).
        target: Colours the rays should have, on `background`.
        background: Colour behind each ray.
        occupancy: Where to look.
        options: Lattice and losses.
        max_seen: Room for seen samples; rays beyond it are left out and counted.
        space: Memory kept between calls, made by `make_space` of the same back end; None allocates.
    Returns:
        Loss and counts.
    Deterministic for any number of threads; on CUDA devices with `options.deterministic`.
    Source: Mueller et al. 2022; gradient scaling by Philip and Deschaintre 2023; distortion of Barron et al. 2022.
    """
    arguments = (field, rays, jitter, target, background, occupancy, options, max_seen, space)
    return call("field_step", backend, arguments, table=field.table, d1=field.d1, c1=field.c1, rays_o=rays.rays_o)


def render_field(
    field: FieldTensors,
    rays: Rays,
    occupancy: Occupancy,
    marching: Marching,
    stop_transmittance: float = 1e-3,
    *,
    backend: str = "auto",
) -> RayOutputs:
    """Render rays with a field, without gradients.

    Args:
        field: The field.
        rays: R rays, cut to the scene box.
        occupancy: Where to look.
        marching: The lattice; it starts in the middle of its first interval.
        stop_transmittance: A ray ends where less light than this passes.
    Returns:
        Premultiplied colour and depth, and opacity.
    Not differentiable. Deterministic. A picture cancelled through `hints.picture` may stay unfinished.
    """
    with torch.no_grad():
        arguments = (field, rays, occupancy, marching, stop_transmittance)
        return call("render_field", backend, arguments, table=field.table, rays_o=rays.rays_o)


def field_density(field: FieldTensors, x: Float[Tensor, "N 3"], *, backend: str = "auto") -> Float[Tensor, " N"]:
    """Densities of a field at positions of its cube, without gradients; outside, those of the nearest point inside."""
    with torch.no_grad():
        return call("field_density", backend, (field, x), table=field.table, x=x)


def round_batch(n_rays: int) -> int:
    """A batch size near below `n_rays`, out of eight per octave: a device captures its step once for each size."""
    step = max(_LEAST_RAYS_STEP, 1 << max(n_rays.bit_length() - 4, 0))
    return max(n_rays // step * step, _LEAST_RAYS_STEP)


def make_space(device: torch.device | str) -> object | None:
    """Memory for `field_step` to keep between calls from one thread, for the back end `auto` picks on a device.

    The gradients of a step live in it: use them before the next step with the same memory.
    """
    chosen = resolve("field_step", device)
    maker = getattr(importlib.import_module(chosen.function.__module__), "FieldSpace", None)
    return maker() if maker else None
