"""Inputs for the contract test: one function per operation, and the ways to vary them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nerfstudio_ext import kernels
from nerfstudio_ext.kernels import dispatch
from nerfstudio_ext.rays import Samples

from . import view_cases

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Case:
    """One call of an operation.

    Attributes:
        op: The operation.
        tensors: Inputs by name, floating-point ones in float32.
        run: Calls the operation with such tensors on a back end and names its outputs.
        differentiable: Names of the inputs the contract has gradients for.
    """

    op: str
    tensors: Tensors
    run: Callable[[Mapping[str, Tensor], str], Tensors]
    differentiable: tuple[str, ...] = ()


@dataclass(frozen=True)
class Result:
    """Outputs, and gradients of their sum weighted by cotangents, by name."""

    outputs: Tensors
    gradients: Tensors


def evaluate(
    case: Case,
    backend: str,
    dtype: torch.dtype,
    device: str = "cpu",
    *,
    without: tuple[str, ...] = (),
    strided: bool = False,
) -> Result:
    """Run a case on a back end, forward and backward.

    Args:
        case: What to run.
        backend: Where.
        dtype: Type of the floating-point inputs.
        device: Device of the inputs.
        without: Differentiable inputs for which no gradient is asked.
        strided: Give every tensor with gaps between its elements.
    """
    leaves = {name: _to(tensor, dtype, device) for name, tensor in case.tensors.items()}
    wanted = [name for name in case.differentiable if name not in without]
    for name in wanted:
        leaves[name].requires_grad_()
    inputs = {name: _with_gaps(tensor) for name, tensor in leaves.items()} if strided else leaves
    outputs = case.run(inputs, backend)
    gradients: Tensors = {}
    if wanted:
        generator = torch.Generator().manual_seed(11)
        cotangents = [torch.randn(out.shape, generator=generator) for out in outputs.values()]
        total = sum((out * _to(c, dtype, device)).sum() for out, c in zip(outputs.values(), cotangents, strict=True))
        found = torch.autograd.grad(total, [leaves[name] for name in wanted])
        gradients = {f"grad {name}": gradient.cpu() for name, gradient in zip(wanted, found, strict=True)}
    return Result({name: out.detach().cpu() for name, out in outputs.items()}, gradients)


def relative_error(value: Tensor, truth: Tensor) -> float:
    """Largest difference over the largest finite value; infinities must agree exactly."""
    assert value.shape == truth.shape
    finite = truth.isfinite()
    assert torch.equal(value[~finite].double(), truth[~finite].double())
    if not finite.any():
        return 0.0
    difference = (value.double() - truth.double())[finite].abs().max()
    scale = truth[finite].abs().max().double()
    return float(difference / scale) if scale > 0 else float(difference)


def make_samples(counts: list[int], generator: torch.Generator) -> Samples:
    """Samples with gaps between the intervals; `counts` says how many each ray has."""
    n_samples = sum(counts)
    numbers = torch.tensor(counts, dtype=torch.int64)
    ray_indices = torch.repeat_interleave(torch.arange(len(counts)), numbers)
    firsts = numbers.cumsum(0) - numbers
    lengths = 0.01 + 0.05 * torch.rand(n_samples, generator=generator)
    gaps = 0.05 * torch.rand(n_samples, generator=generator)
    ends = torch.cumsum(lengths + gaps, 0)
    starts = ends - lengths
    for first, count in zip(firsts.tolist(), counts, strict=True):
        if count:  # every ray starts at its own distance
            offset = starts[first].item() - 0.5
            starts[first : first + count] -= offset
            ends[first : first + count] -= offset
    return Samples(ray_indices, starts, ends, torch.stack([firsts, numbers], dim=1))


def grid_layout() -> kernels.GridLayout:
    """Dense and hashed levels, and a table small enough for many collisions."""
    return kernels.GridLayout(n_levels=6, n_features=2, log2_table=12, base_resolution=8, finest_resolution=512)


def _hash_encode(n: int, generator: torch.Generator) -> Case:
    layout = grid_layout()
    x_unit = torch.rand(2 * n + 64, 3, generator=generator, dtype=torch.float64)
    scales = torch.tensor(layout.scales, dtype=torch.float64)
    fraction = (x_unit[:, None, :] * scales[:, None] + 0.5).frac()
    # Values meet at cell borders but slopes do not: rounding must not push a position across one.
    inside = ((fraction > 2e-3) & (fraction < 1 - 2e-3)).all(-1).all(-1)
    table = torch.randn(layout.n_rows, layout.n_features, generator=generator)

    def run(t: Mapping[str, Tensor], backend: str) -> Tensors:
        return {"features": kernels.hash_encode(t["x_unit"], t["table"], layout, backend=backend)}

    return Case("hash_encode", {"x_unit": x_unit[inside][:n].float(), "table": table}, run, ("x_unit", "table"))


def _sh_encode(n: int, generator: torch.Generator) -> Case:
    d = torch.nn.functional.normalize(torch.randn(n, 3, generator=generator), dim=-1)

    def run(t: Mapping[str, Tensor], backend: str) -> Tensors:
        return {"harmonics": kernels.sh_encode(t["d"], backend=backend)}

    return Case("sh_encode", {"d": d}, run, ("d",))


def _hash_color(n: int, generator: torch.Generator) -> Case:
    layout = kernels.GridLayout(2, 27, 9, 6, 20)
    x_unit = torch.rand(n, 3, generator=generator)
    d = torch.nn.functional.normalize(torch.randn(n, 3, generator=generator), dim=-1)
    table = torch.randn(layout.n_rows, layout.n_features, generator=generator)

    def run(t: Mapping[str, Tensor], backend: str) -> Tensors:
        return {"colours": kernels.hash_color(t["x_unit"], t["d"], t["table"], layout, backend=backend)}

    return Case("hash_color", {"x_unit": x_unit, "d": d, "table": table}, run, ("table",))


def _sector_color(n: int, generator: torch.Generator) -> Case:
    layout = kernels.SectorLayout(20, 12)
    x_unit = 3 * torch.rand(n, 3, generator=generator) - 1
    d = torch.nn.functional.normalize(torch.randn(n, 3, generator=generator), dim=-1)
    table = torch.randn(layout.n_rows, 3, generator=generator)

    def run(t: Mapping[str, Tensor], backend: str) -> Tensors:
        return {"colours": kernels.sector_color(t["x_unit"], t["d"], t["table"], layout, backend=backend)}

    return Case("sector_color", {"x_unit": x_unit, "d": d, "table": table}, run, ("table",))


def _mlp(n: int, generator: torch.Generator) -> Case:
    shapes = [(12, 32), (32, 20), (20, 3)]
    weights = [torch.randn(shape, generator=generator) / shape[0] ** 0.5 for shape in shapes]
    x = torch.randn(2 * n + 64, shapes[0][0], generator=generator)
    hidden = x.double() @ weights[0].double()
    second = hidden.relu() @ weights[1].double()
    # A hidden value within rounding of 0 may be on or off; both are right, so such inputs prove nothing.
    is_clear = torch.minimum(hidden.abs().amin(-1), second.abs().amin(-1)) > 1e-4
    tensors = {"x": x[is_clear][:n], **{f"weights[{i}]": weight for i, weight in enumerate(weights)}}

    def run(t: Mapping[str, Tensor], backend: str) -> Tensors:
        matrices = tuple(t[f"weights[{i}]"] for i in range(len(shapes)))
        return {"outputs": kernels.mlp(t["x"], matrices, backend=backend)}

    return Case("mlp", tensors, run, tuple(tensors))


def _ray_aabb(n: int, generator: torch.Generator) -> Case:
    tensors = {
        "rays_o": 3 * torch.randn(n, 3, generator=generator),
        "rays_d": torch.nn.functional.normalize(torch.randn(n, 3, generator=generator), dim=-1),
        "aabb": torch.tensor([-1.0, -2.0, -0.5, 1.5, 1.0, 2.0]),
    }

    def run(t: Mapping[str, Tensor], backend: str) -> Tensors:
        t_min, t_max = kernels.ray_aabb(t["rays_o"], t["rays_d"], t["aabb"], backend=backend)
        return {"t_min": t_min, "t_max": t_max}

    return Case("ray_aabb", tensors, run)


def _ray_counts(n: int, generator: torch.Generator) -> list[int]:
    """Samples per ray for n rays: some without, one long."""
    counts = torch.randint(0, 12, (n,), generator=generator)
    counts[torch.rand(n, generator=generator) < 0.3] = 0
    if n > 20:
        counts[7] = 300
        counts[0] = counts[-1] = 0
    return [int(count) for count in counts]


def _sample_tensors(samples: Samples) -> Tensors:
    return {
        "ray_indices": samples.ray_indices,
        "t_starts": samples.t_starts,
        "t_ends": samples.t_ends,
        "packed_info": samples.packed_info,
    }


def _samples_of(t: Mapping[str, Tensor]) -> Samples:
    return Samples(t["ray_indices"], t["t_starts"], t["t_ends"], t["packed_info"])


def _densities(samples: Samples, generator: torch.Generator) -> Tensor:
    """From almost empty to opaque, exact zeros among them."""
    sigmas = torch.exp(3 * torch.randn(len(samples), generator=generator))
    return torch.where(torch.rand(len(samples), generator=generator) < 0.1, 0.0, sigmas)


def _weights_of(n: int, generator: torch.Generator) -> Case:
    return weights_case(make_samples(_ray_counts(n, generator), generator), generator)


def weights_case(samples: Samples, generator: torch.Generator) -> Case:
    """A `weights_of` case on given samples."""

    def run(t: Mapping[str, Tensor], backend: str) -> Tensors:
        return {"weights": kernels.weights_of(t["sigmas"], _samples_of(t), backend=backend)}

    tensors = {"sigmas": _densities(samples, generator), **_sample_tensors(samples)}
    return Case("weights_of", tensors, run, ("sigmas", "t_starts", "t_ends"))


def _composite(n: int, generator: torch.Generator) -> Case:
    return composite_case(make_samples(_ray_counts(n, generator), generator), generator)


def composite_case(samples: Samples, generator: torch.Generator) -> Case:
    """A `composite` case on given samples."""

    def run(t: Mapping[str, Tensor], backend: str) -> Tensors:
        out = kernels.composite(t["sigmas"], t["rgbs"], _samples_of(t), samples.n_rays, backend=backend)
        assert out.alpha is not None
        return {"rgb": out.rgb, "depth": out.depth, "alpha": out.alpha}

    rgbs = torch.rand(len(samples), 3, generator=generator)
    tensors = {"sigmas": _densities(samples, generator), "rgbs": rgbs, **_sample_tensors(samples)}
    return Case("composite", tensors, run, ("sigmas", "rgbs", "t_starts", "t_ends"))


def _distortion(n: int, generator: torch.Generator) -> Case:
    return distortion_case(make_samples(_ray_counts(n, generator), generator), generator)


def distortion_case(samples: Samples, generator: torch.Generator) -> Case:
    """A `distortion` case on given samples."""

    def run(t: Mapping[str, Tensor], backend: str) -> Tensors:
        return {"distortion": kernels.distortion(t["weights"], _samples_of(t), backend=backend)}

    weights = torch.rand(len(samples), generator=generator) / 10
    return Case("distortion", {"weights": weights, **_sample_tensors(samples)}, run, ("weights", "t_starts", "t_ends"))


def _occ_refresh(n: int, generator: torch.Generator) -> Case:
    n_cells = 2 * 4**3
    tensors = {
        "density_grid": torch.rand(n_cells, generator=generator),
        "cells": torch.randint(0, n_cells, (n,), generator=generator),  # repeats from a few dozen on
        "sigmas": 2 * torch.rand(n, generator=generator),
    }

    def run(t: Mapping[str, Tensor], backend: str) -> Tensors:
        return {"density_grid": kernels.occ_refresh(t["density_grid"], t["cells"], t["sigmas"], 0.95, backend=backend)}

    return Case("occ_refresh", tensors, run)


def _occ_pack(n: int, generator: torch.Generator) -> Case:
    n_cascades = min(n, 3)
    tensors = {
        "density_grid": torch.rand(n_cascades * 8**3, generator=generator),
        "reachable": kernels.pack_bits(torch.rand(n_cascades, 8, 8, 8, generator=generator) < 0.7),
    }

    def run(t: Mapping[str, Tensor], backend: str) -> Tensors:
        words = kernels.occ_pack(t["density_grid"], t["reachable"], 8, 0.5, backend=backend)
        return {"occupied": kernels.unpack_bits(words, 8).to(t["density_grid"].dtype)}

    return Case("occ_pack", tensors, run)


def _occ_select(n: int, generator: torch.Generator) -> Case:
    words = kernels.pack_bits(torch.rand(2, 8, 8, 8, generator=generator) < 0.2)
    ranks = torch.randint(kernels.count_bits(words), (n,), generator=generator).sort().values

    def run(t: Mapping[str, Tensor], backend: str) -> Tensors:
        return {"cells": kernels.occ_select(t["words"], 8, t["ranks"], backend=backend).float()}

    return Case("occ_select", {"words": words, "ranks": ranks}, run)


def _view_attention(n: int, generator: torch.Generator) -> Case:
    tensors = view_cases.view_tensors(n, generator)
    del tensors["weight"]
    differentiable = ("query", "maps", *view_cases.FIRST, *view_cases.WEIGHTS)
    return Case("view_attention", tensors, view_cases.attention, differentiable)


def _view_maximum(n: int, generator: torch.Generator) -> Case:
    tensors = view_cases.view_tensors(n, generator)
    names = ("x", "pixels", "maps", "projections", "centres", "extents", *view_cases.FIRST, "weight")
    kept = {name: tensors[name] for name in names}
    return Case("view_maximum", kept, view_cases.maximum, ("maps", *view_cases.FIRST, "weight"))


def _feed_forward(n: int, generator: torch.Generator) -> Case:
    shapes = {
        "x": (2 * n + 16, 32), "gain": (32,), "offset": (32,), "first": (32, 48), "first_bias": (48,),
        "second": (48, 32), "second_bias": (32,),
    }  # fmt: skip
    tensors = {name: torch.randn(shape, generator=generator) / shape[0] ** 0.25 for name, shape in shapes.items()}
    t = {name: tensor.double() for name, tensor in tensors.items()}
    normed = torch.nn.functional.layer_norm(t["x"], (32,), t["gain"], t["offset"], 1e-6)
    # As for `mlp`: a hidden value within rounding of 0 proves nothing.
    is_clear = (normed @ t["first"] + t["first_bias"]).abs().amin(-1) > 1e-4
    tensors["x"] = tensors["x"][is_clear][: -(-n // 16)]  # sums of random gradients over more cancel to rounding

    def run(t: Mapping[str, Tensor], backend: str) -> Tensors:
        return {"tokens": kernels.feed_forward(*(t[name] for name in shapes), 1e-6, backend=backend)}

    return Case("feed_forward", tensors, run, tuple(shapes))


CASES: dict[str, Callable[[int, torch.Generator], Case]] = {
    "hash_encode": _hash_encode,
    "sh_encode": _sh_encode,
    "hash_color": _hash_color,
    "sector_color": _sector_color,
    "mlp": _mlp,
    "ray_aabb": _ray_aabb,
    "weights_of": _weights_of,
    "composite": _composite,
    "distortion": _distortion,
    "occ_refresh": _occ_refresh,
    "occ_pack": _occ_pack,
    "occ_select": _occ_select,
    "feed_forward": _feed_forward,
    "view_attention": _view_attention,
    "view_maximum": _view_maximum,
}
"""Makes a case with n positions, directions, rays or cells."""
SAMPLE_CASES = {"weights_of": weights_case, "composite": composite_case, "distortion": distortion_case}
OWN_FILES = {
    "march": "test_march.py",
    "field_step": "test_fused.py",
    "render_field": "test_fused.py",
    "field_density": "test_fused.py",
    "seen_samples": "test_disturbed.py",
    "disturbed_loss": "test_disturbed.py",
}
"""Operations whose contract is tested in a file of their own: their outputs vary in size, or they are fused."""


def runnable(op: str) -> list[str]:
    """Back ends that can run an operation here; `test_what_cannot_run_here` lists the others."""
    return [row.backend for row in _table() if row.op == op and row.is_available]


def unavailable() -> list[dispatch.TableRow]:
    """Every operation on every back end that cannot run here."""
    return [row for row in _table() if not row.is_available]


def device_of(op: str, backend: str) -> str:
    """Where the tensors of a back end live."""
    return (dispatch.OPS[op][backend].devices or ("cpu",))[0]


_rows: list[Any] = []


def _table() -> list[dispatch.TableRow]:
    if not _rows:
        _rows.extend(dispatch.table())
    return _rows


def _to(tensor: Tensor, dtype: torch.dtype, device: str) -> Tensor:
    return tensor.to(device, dtype if tensor.is_floating_point() else tensor.dtype, copy=True)


def _with_gaps(tensor: Tensor) -> Tensor:
    """The same values as every second element along the last axis, with the first axes in reversed memory order."""
    spread = torch.stack([tensor, torch.full_like(tensor, 77)], dim=-1)[..., 0]
    return spread.mT.contiguous().mT if spread.dim() == 2 else spread
