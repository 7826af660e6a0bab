"""nerfacc 0.5.3 behind our operations: occupancy sampling and packed compositing, for users who have it.

Its CUDA extension is built on the user's machine by nvcc, which takes minutes and can hang on a stale lock. Nothing
here starts that build: `absence` says in one line what is missing; the operations are used only when it returns "".
"""

from __future__ import annotations

import functools
import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ..errors import BackendUnavailable
from ..rays import RayOutputs, Rays, Samples
from .layouts import Marching, unpack_bits

_EXTENSION = "nerfacc_cuda"
_FAULTS = (ImportError, OSError, AttributeError, RuntimeError, TypeError)
"""What its import and first call raise on machines without the toolkit, depending on what is missing."""
_FAR = 1e10


@functools.cache
def absence() -> str:
    """Why nerfacc cannot be used; empty when a tiny call on the device works. Looks once, builds nothing."""
    try:
        nerfacc = importlib.import_module("nerfacc")
    except ImportError as error:
        return f"nerfacc does not import: {_line(error)}. pip install 'nerfstudio-ext[cuda]'"
    except _FAULTS as error:
        return f"nerfacc does not import: {_line(error)}"
    reason = _extension_absence()
    if reason:
        return reason
    try:
        origin, direction = torch.zeros(1, 3, device="cuda"), torch.ones(1, 3, device="cuda")
        box = torch.tensor([[-1.0, -1, -1, 1, 1, 1]], device="cuda")
        found = nerfacc.ray_aabb_intersect(origin, direction, box)[1]
        return "" if abs(float(found) - 1) < 1e-5 else "nerfacc gives wrong answers on this device"
    except _FAULTS as error:
        return f"nerfacc's CUDA extension does not work: {_line(error)}"


def _extension_absence() -> str:
    """Why the compiled part is not there; empty when it was shipped prebuilt or built before."""
    try:
        importlib.import_module("nerfacc.csrc")
    except _FAULTS:
        folder = _build_folder()
    else:
        return ""
    if folder is None or not any(folder.glob(f"{_EXTENSION}.*")):
        return (
            "nerfacc's CUDA extension is not built; its first call builds it with nvcc and a C++ compiler in some five "
            "minutes (nerfacc 0.5.3 does not compile with torch 2.13)"
        )
    if (folder / "lock").exists():
        return f"a build of nerfacc's CUDA extension was cut short: delete {folder}"
    return ""


def _build_folder() -> Path | None:
    """Where torch keeps the extension once it was built."""
    try:
        extension = importlib.import_module("torch.utils.cpp_extension")
        return Path(extension._get_build_directory(_EXTENSION, verbose=False))
    except (*_FAULTS, PermissionError):
        return None


def _nerfacc() -> ModuleType:
    return importlib.import_module("nerfacc")


def ray_aabb(rays_o: Tensor, rays_d: Tensor, aabb: Tensor) -> tuple[Tensor, Tensor]:
    """See `kernels.ray_aabb`."""
    near, far, hits = _nerfacc().ray_aabb_intersect(
        rays_o.detach().contiguous(), rays_d.detach().contiguous(), aabb.detach()[None].contiguous(), 0.0, _FAR
    )
    near, far = near[:, 0], far[:, 0]
    is_hit = hits[:, 0] & (near <= far)
    return torch.where(is_hit, near, torch.inf), torch.where(is_hit, far, -torch.inf)


def march(
    rays: Rays, occupied_bits: Tensor, grid_size: int, options: Marching, jitter: Tensor, max_samples: int | None
) -> Samples:
    """See `kernels.march`.

    nerfacc keeps our lattice when it is given its first point. It has no longest step: intervals are compared with it
    afterwards. It tests an interval's midpoint against the end of the ray where we test its start.

    Raises:
        BackendUnavailable: if the longest step would be reached.
    """
    device, n_cascades = rays.rays_o.device, occupied_bits.shape[0]
    boxes = torch.tensor([[-(2.0**c) / 2] * 3 + [2.0**c / 2] * 3 for c in range(n_cascades)], device=device)
    entry, leave = ray_aabb(rays.rays_o, rays.rays_d, boxes[-1])
    t_end = torch.minimum(rays.t_max, leave)
    t = torch.maximum(rays.t_min, entry).clamp_min(options.near)
    t = t + jitter * _interval(t, options)
    stands_still = ~(t + _interval(t, options) > t)  # far away a step vanishes in rounding: nerfacc would not end
    is_blind = stands_still | ~(t < t_end) | ~t_end.isfinite()
    if options.cone_angle > 0 and bool((options.cone_angle * t_end[~is_blind] > options.max_step).any()):
        reason = f"it has no longest marching step, and some would be longer than {options.max_step:g}"
        raise BackendUnavailable("march", "nerfacc", reason, "Use back end 'auto' or 'reference'")
    near, far = torch.where(is_blind, 1.0, t), torch.where(is_blind, 0.0, t_end + _interval(t_end, options))
    occupied = unpack_bits(occupied_bits, grid_size).permute(0, 3, 2, 1).contiguous()  # nerfacc indexes x, y, z
    intervals, found, _ = _nerfacc().traverse_grids(
        rays.rays_o.detach().contiguous(), rays.rays_d.detach().contiguous(), occupied, boxes,
        near_planes=near.contiguous(), far_planes=far.contiguous(), step_size=options.step,
        cone_angle=options.cone_angle,
    )  # fmt: skip
    t_starts, t_ends = intervals.vals[intervals.is_left], intervals.vals[intervals.is_right]
    indices = found.ray_indices.long()
    is_kept = (t_starts < t_end[indices]) & ~is_blind[indices]
    return _packed(indices[is_kept], t_starts[is_kept], t_ends[is_kept], len(rays), max_samples)


def _interval(t: Tensor, options: Marching) -> Tensor:
    return (options.cone_angle * t).clamp(options.step, options.max_step)


def _packed(indices: Tensor, t_starts: Tensor, t_ends: Tensor, n_rays: int, max_samples: int | None) -> Samples:
    """Samples in the order of rays, at most so many each."""
    counts = torch.bincount(indices, minlength=n_rays)
    firsts = counts.cumsum(0) - counts
    if max_samples is not None:
        place = torch.arange(len(indices), device=indices.device) - firsts[indices]
        is_kept = place < max_samples
        indices, t_starts, t_ends = indices[is_kept], t_starts[is_kept], t_ends[is_kept]
        counts = counts.clamp_max(max_samples)
        firsts = counts.cumsum(0) - counts
    return Samples(indices, t_starts, t_ends, torch.stack([firsts, counts], 1))


def weights_of(sigmas: Tensor, samples: Samples) -> Tensor:
    """See `kernels.weights_of`."""
    if not len(samples):
        return sigmas * 0
    weights, _, _ = _weights(sigmas, samples)
    return weights


def composite(sigmas: Tensor, rgbs: Tensor, samples: Samples, n_rays: int) -> RayOutputs:
    """See `kernels.composite`."""
    if not len(samples):
        zero = sigmas.sum() + rgbs.sum()  # keeps the graph
        return RayOutputs(*(zero + sigmas.new_zeros(shape) for shape in ((n_rays, 3), (n_rays,), (n_rays,))))
    weights, _, _ = _weights(sigmas, samples)
    middles = 0.5 * (samples.t_starts + samples.t_ends)
    values = torch.cat([rgbs, middles[:, None], torch.ones_like(middles)[:, None]], 1)
    sums = _nerfacc().accumulate_along_rays(weights, values, samples.ray_indices, n_rays)
    return RayOutputs(sums[:, :3], sums[:, 3], sums[:, 4])


def _weights(sigmas: Tensor, samples: Samples) -> Any:
    return _nerfacc().render_weight_from_density(
        samples.t_starts.contiguous(),
        samples.t_ends.contiguous(),
        sigmas.contiguous(),
        packed_info=samples.packed_info.contiguous(),
    )


def _line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
