"""The numerical operations of the project: their contracts, and the choice of the implementation that runs.

Every operation takes `backend="auto" | "reference" | "cpu" | "cuda" | "nerfacc" | "tcnn"`. "auto" takes the fastest one
that can do the work; any other name runs there or raises `BackendUnavailable` with the reason (`dispatch`). All
implementations keep the contracts below: same arguments, same types out, no argument modified, any strides accepted.
Floating-point inputs of one call share one type: float32 everywhere, float64 in the reference. Gradients are of first
order: only the reference can be differentiated twice, the others raise `RuntimeError`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import UserError
from ..rays import RayOutputs, Rays, Samples
from .checks import check_samples, check_shape
from .dispatch import call, resolve, table
from .disturbed import Disturbance, DisturbedLoss, Pass, SeenSamples, View, disturbed_loss, seen_samples
from .fused import (
    FieldTensors,
    Occupancy,
    StepOptions,
    StepResult,
    field_density,
    field_step,
    make_space,
    render_field,
    round_batch,
)
from .hash_color import MAX_BANDS, hash_color
from .layouts import BLOCK, GridLayout, Marching, count_bits, pack_bits, unpack_bits
from .sectors import SectorLayout, sector_color
from .tokens import feed_forward
from .views import AttentionWeights, FirstLayer, SourceViews, ray_differences, view_attention, view_maximum

if TYPE_CHECKING:
    from jaxtyping import Float, Int64

__all__ = [
    "Disturbance",
    "DisturbedLoss",
    "Pass",
    "SeenSamples",
    "View",
    "disturbed_loss",
    "seen_samples",
    "AttentionWeights",
    "FirstLayer",
    "SourceViews",
    "feed_forward",
    "ray_differences",
    "view_attention",
    "view_maximum",
    "FieldTensors",
    "Occupancy",
    "StepOptions",
    "StepResult",
    "field_density",
    "field_step",
    "MAX_BANDS",
    "hash_color",
    "SectorLayout",
    "sector_color",
    "make_space",
    "render_field",
    "round_batch",
    "GridLayout",
    "Marching",
    "composite",
    "distortion",
    "hash_encode",
    "march",
    "mlp",
    "count_bits",
    "occ_pack",
    "occ_refresh",
    "occ_select",
    "pack_bits",
    "ray_aabb",
    "resolve",
    "set_threads",
    "sh_encode",
    "table",
    "unpack_bits",
    "weights_of",
]


def hash_encode(
    x_unit: Float[Tensor, "S 3"], table: Float[Tensor, "E F"], layout: GridLayout, *, backend: str = "auto"
) -> Float[Tensor, "S LF"]:
    """Interpolate the features of a multiresolution hash grid at positions.

    Level l contributes the trilinear mean of its 8 corner rows; `GridLayout` says where they are.

    Args:
        x_unit: Finite positions in [0, 1]^3. Those outside count as the nearest point inside.
        table: Features, `layout.n_rows` rows of `layout.n_features`.
        layout: The grid.
    Returns:
        Features of level l in columns `l * F` to `(l + 1) * F - 1`.
    Raises:
        ValueError: if a shape does not fit.
    Differentiable in `table` and `x_unit`; the latter gradient jumps at cell borders, where it is one-sided.
    Source: Mueller et al. 2022, section 3.
    """
    check_shape("x_unit", x_unit, (None, 3))
    check_shape("table", table, (layout.n_rows, layout.n_features))
    return call("hash_encode", backend, (x_unit, table, layout), x_unit=x_unit, table=table)


def sh_encode(d: Float[Tensor, "S 3"], *, backend: str = "auto") -> Float[Tensor, "S 16"]:
    """Evaluate the real spherical harmonics of bands 0 to 3 at directions.

    Args:
        d: Unit directions. For other lengths the result is that of the polynomials as written in the reference.
    Returns:
        The 16 values, band after band, in the order and with the signs of instant-ngp.
    Raises:
        ValueError: if the shape does not fit.
    Differentiable in `d`.
    """
    check_shape("d", d, (None, 3))
    return call("sh_encode", backend, (d,), d=d)


def mlp(
    x: Float[Tensor, "S I"], weights: tuple[Float[Tensor, "In Out"], ...], *, backend: str = "auto"
) -> Float[Tensor, "S O"]:
    """Apply a multilayer perceptron without biases: ReLU between the layers, nothing after the last.

    Args:
        x: Inputs.
        weights: One matrix [in, out] per layer, at least one. `x @ weights[0]` is the first layer.
    Returns:
        Outputs of the last layer.
    Raises:
        ValueError: if the widths do not follow each other.
    Differentiable in `x` and all weights; the gradient of ReLU at 0 is 0.
    """
    if not weights:
        raise ValueError("mlp: weights must hold at least one matrix")
    width: int | None = None
    check_shape("x", x, (None, weights[0].shape[0]))
    for index, weight in enumerate(weights):
        check_shape(f"weights[{index}]", weight, (width, None))
        width = weight.shape[1]
    named = {f"weights[{index}]": weight for index, weight in enumerate(weights)}
    return call("mlp", backend, (x, weights), x=x, **named)


def ray_aabb(
    rays_o: Float[Tensor, "R 3"], rays_d: Float[Tensor, "R 3"], aabb: Float[Tensor, "6"], *, backend: str = "auto"
) -> tuple[Float[Tensor, " R"], Float[Tensor, " R"]]:
    """Intersect rays with an axis-aligned box.

    Args:
        rays_o: Origins.
        rays_d: Directions, any length above 0; components may be 0. A ray in the plane of a face counts as inside.
        aabb: Smallest, then largest corner.
    Returns:
        `t_min`, the entry (0 when the origin is inside), and `t_max`, the exit, in units of the direction's length.
        A ray that misses the box or has it behind: `t_min = inf`, `t_max = -inf`; one that only touches it: equal.
    Raises:
        ValueError: if a shape does not fit.
    Not differentiable.
    """
    check_shape("rays_o", rays_o, (None, 3))
    check_shape("rays_d", rays_d, (rays_o.shape[0], 3))
    check_shape("aabb", aabb, (6,))
    return call("ray_aabb", backend, (rays_o, rays_d, aabb), rays_o=rays_o, rays_d=rays_d, aabb=aabb)


def march(
    rays: Rays,
    occupied_bits: Int64[Tensor, "C B"],
    grid_size: int,
    options: Marching,
    jitter: Float[Tensor, " R"],
    max_samples: int | None = None,
    *,
    backend: str = "auto",
) -> Samples:
    """Cut rays into intervals and keep those whose midpoint lies in an occupied cell.

    The lattice of a ray starts at `t = t_0 + jitter * dt(t_0)`, where t_0 is the largest of `rays.t_min`,
    `options.near` and the entry into the outermost cascade, and goes on by `t += dt(t)`,
    `dt(t) = clamp(cone_angle * t, step, max_step)`. The interval [t, t + dt] has its midpoint at `t + 0.5 * dt`.
    The ray ends where t is not below `rays.t_max` and the exit of the outermost cascade (as `ray_aabb` gives it), and
    where `t + dt` rounds to t. Empty space does not shift the lattice. All of this is done in the type of the rays,
    in the order of operations written here and without fused multiply-add in t, so that back ends agree bit for bit
    but for midpoints that fall on a cell border.

    Cascade c is the cube of edge 2^c around the origin with grid_size^3 cells. A point p belongs to the smallest
    cascade with `max|p| <= 2^c / 2` and there to cell `floor((p / 2^c + 0.5) * grid_size)`, cut to the grid; points in
    no cascade are empty.

    Args:
        rays: R rays. Those with `t_min >= t_max` or a NaN yield no samples; `t_max` may be `inf`.
        occupied_bits: Occupancy of C cascades as made by `pack_bits`.
        grid_size: Cells per axis, a multiple of 16: no block of cells then crosses the border of an inner cascade, so
            that an empty block can be left in one go.
        options: The lattice; its numbers are rounded to the type of the rays.
        jitter: Shift of each ray's lattice in its first interval, [0, 1).
        max_samples: Keep at most the first this many samples of a ray; None keeps all.
    Returns:
        Packed samples, sorted by ray and then by distance; empty when nothing is hit. Intervals are not cut at `t_max`.
    Raises:
        UserError: if `grid_size` is not a positive multiple of 16.
        ValueError: if a shape does not fit.
    Not differentiable. Deterministic.
    """
    if grid_size < 16 or grid_size % 16:
        raise UserError(f"marching through {grid_size} cells per axis", fix="Use a positive multiple of 16.")
    check_shape("occupied_bits", occupied_bits, (None, (grid_size // BLOCK) ** 3))
    check_shape("jitter", jitter, (len(rays),))
    arguments = (rays, occupied_bits, grid_size, options, jitter, max_samples)
    tensors = {"rays_o": rays.rays_o, "rays_d": rays.rays_d, "t_min": rays.t_min, "t_max": rays.t_max}
    return call("march", backend, arguments, occupied_bits=occupied_bits, jitter=jitter, **tensors)


def weights_of(sigmas: Float[Tensor, " S"], samples: Samples, *, backend: str = "auto") -> Float[Tensor, " S"]:
    """Compute how much each sample contributes to its ray.

    `w_i = (1 - exp(-sigma_i dt_i)) * exp(-sum of sigma_j dt_j over the earlier samples j of the ray)`, with
    `dt = t_end - t_start`.
    Every sample counts: there is no early stop behind opaque ones.

    Args:
        sigmas: Densities >= 0 per scene unit; finite values and gradients up to the overflow of float.
        samples: The intervals.
    Returns:
        Weights in [0, 1]; on a ray they sum to its opacity.
    Raises:
        ValueError: if a shape does not fit.
    Differentiable in `sigmas`, `samples.t_starts` and `samples.t_ends` (the last two not on "cpu").
    Source: Max 1995, equation of absorption and emission with constant density in an interval.
    """
    check_samples(samples, sigmas=sigmas)
    tensors = {"t_starts": samples.t_starts, "t_ends": samples.t_ends}
    return call("weights_of", backend, (sigmas, samples), sigmas=sigmas, **tensors)


def composite(
    sigmas: Float[Tensor, " S"], rgbs: Float[Tensor, "S 3"], samples: Samples, n_rays: int, *, backend: str = "auto"
) -> RayOutputs:
    """Sum colours and distances along rays, weighted as `weights_of` says.

    Args:
        sigmas: Densities >= 0 per scene unit.
        rgbs: Colours.
        samples: The intervals.
        n_rays: Rays R, equal to `samples.n_rays`.
    Returns:
        `rgb = sum w_i rgb_i`, `depth = sum w_i (t_start + t_end) / 2`, both premultiplied, and
        `alpha = 1 - exp(-sum sigma_i dt_i)`. All zero for a ray without samples.
    Raises:
        ValueError: if a shape does not fit.
    Differentiable in `sigmas` and `rgbs`, and in `samples.t_starts` and `samples.t_ends` (these not on "cpu").
    """
    check_samples(samples, sigmas=sigmas)
    check_shape("rgbs", rgbs, (len(samples), 3))
    check_shape("samples.packed_info", samples.packed_info, (n_rays, 2))
    tensors = {"sigmas": sigmas, "rgbs": rgbs, "t_starts": samples.t_starts, "t_ends": samples.t_ends}
    return call("composite", backend, (sigmas, rgbs, samples, n_rays), **tensors)


def distortion(weights: Float[Tensor, " S"], samples: Samples, *, backend: str = "auto") -> Float[Tensor, " R"]:
    """Compute per ray how far its weights are spread: small for one compact surface.

    `sum_ij w_i w_j |m_i - m_j| + sum_i w_i^2 dt_i / 3` with midpoints m, in O(S). Distances are used as they are: for a
    measure without unit, divide by the length of the scene.

    Args:
        weights: From `weights_of`.
        samples: The intervals.
    Returns:
        One value per ray in scene units; 0 for a ray without samples.
    Raises:
        ValueError: if a shape does not fit.
    Differentiable in `weights`, `samples.t_starts` and `samples.t_ends` (the last two not on "cpu").
    Source: Barron et al. 2022 (mip-NeRF 360), equation 15.
    """
    check_samples(samples, weights=weights)
    tensors = {"t_starts": samples.t_starts, "t_ends": samples.t_ends}
    return call("distortion", backend, (weights, samples), weights=weights, **tensors)


def occ_refresh(
    density_grid: Float[Tensor, " N"],
    cells: Int64[Tensor, " K"],
    sigmas: Float[Tensor, " K"],
    decay: float,
    out: Float[Tensor, " N"] | None = None,
    *,
    backend: str = "auto",
) -> Float[Tensor, " N"]:
    """Decay a density grid and raise the cells where more was seen: `max(old * decay, every new value of the cell)`.

    Args:
        density_grid: Densities of all cells of all cascades; cell `((c * G + z) * G + y) * G + x`.
        cells: Cells that were looked at, each in [0, N); may repeat.
        sigmas: Density found in each; NaN counts as 0.
        decay: Factor 0..1 for the old densities.
        out: Contiguous memory for the new grid; may be `density_grid` itself. None makes a new tensor.
    Returns:
        The new grid.
    Raises:
        ValueError: if a shape does not fit.
    Not differentiable.
    """
    check_shape("density_grid", density_grid, (None,))
    check_shape("cells", cells, (sigmas.shape[0],))
    check_shape("sigmas", sigmas, (None,))
    if out is None:
        out = torch.empty_like(density_grid, memory_format=torch.contiguous_format)
    elif not out.is_contiguous() or out.shape != density_grid.shape or out.dtype != density_grid.dtype:
        raise ValueError("out must be contiguous and have the shape and type of density_grid")
    tensors = {"density_grid": density_grid, "cells": cells, "sigmas": sigmas}
    return call("occ_refresh", backend, (density_grid, cells, sigmas, decay, out), **tensors)


def occ_pack(
    density_grid: Float[Tensor, " N"],
    reachable: Int64[Tensor, "C B"],
    grid_size: int,
    threshold: float,
    *,
    backend: str = "auto",
) -> Int64[Tensor, "C B"]:
    """Occupancy bits of a density grid: the reachable cells denser than a threshold; NaN is not.

    Args:
        density_grid: Densities of N = C * G^3 cells, ordered as in `occ_refresh`.
        reachable: Bits of the cells that may be occupied at all.
        grid_size: Cells per axis G, a multiple of 4.
        threshold: Density above which a cell is occupied; rounded to the type of the grid.
    Returns:
        Words as `pack_bits` makes them.
    Raises:
        ValueError: if a shape does not fit.
    """
    check_shape("density_grid", density_grid, (None,))
    check_shape("reachable", reachable, (len(density_grid) // grid_size**3, (grid_size // BLOCK) ** 3))
    if len(density_grid) % grid_size**3:
        raise ValueError(f"{len(density_grid)} cells are no whole number of cubes of {grid_size}^3")
    arguments = (density_grid, reachable, grid_size, threshold)
    return call("occ_pack", backend, arguments, density_grid=density_grid, reachable=reachable)


def occ_select(
    words: Int64[Tensor, "C B"], grid_size: int, ranks: Int64[Tensor, " K"], *, backend: str = "auto"
) -> Int64[Tensor, " K"]:
    """Find the cells of the k-th set bits of occupancy words, counting through words and through the bits of each.

    Args:
        words: Occupancy as `pack_bits` makes it; `count_bits` tells how many bits are set.
        grid_size: Cells per axis G.
        ranks: Ascending numbers k, each in [0, set bits); may repeat.
    Returns:
        Cell numbers as in `occ_refresh`. Neighbouring ranks give neighbouring cells.
    Raises:
        ValueError: if a shape does not fit.
    """
    check_shape("words", words, (None, (grid_size // BLOCK) ** 3))
    check_shape("ranks", ranks, (None,))
    return call("occ_select", backend, (words, grid_size, ranks), words=words, ranks=ranks)


def set_threads(n: int) -> None:
    """Set how many threads torch and numba use for work started by the calling thread.

    Args:
        n: Threads, >= 1; numba gets at most as many as it was started with.
    Raises:
        UserError: if `n` is below 1.
    """
    if n < 1:
        raise UserError(f"{n} threads", fix="Use at least 1.")
    torch.set_num_threads(n)
    try:
        numba = importlib.import_module("numba")
    except ImportError:
        return  # without numba there are no threads of it to set
    numba.set_num_threads(min(n, numba.config.NUMBA_NUM_THREADS))
