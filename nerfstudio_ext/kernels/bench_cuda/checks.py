"""Correctness before timing: the fused operations against the plain reference, at odd sizes, in poisoned memory."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ...rays import Rays
from .. import (
    FieldTensors,
    GridLayout,
    Marching,
    Occupancy,
    StepOptions,
    field_density,
    field_step,
    march,
    pack_bits,
    ray_aabb,
    reference,
    reference_fused,
    render_field,
)
from ..cuda_step import FieldSpace

NAMES = ("table", "d1", "d2", "c1", "c2", "c3")
SIZES = (1, 31, 127, 4097)
MARCHING = Marching(step=0.02, cone_angle=1 / 128, max_step=0.1, near=0.0)
BOUNDS = {"march": 1e-4, "density": 2e-2, "render": 8e-3, "loss": 3e-3, "gradient": 3e-2}
"""Shares of samples at cell borders; relative errors of densities (half-precision logits), colours, losses; relative L2
errors of gradients. The reference has the same parameters, rounded to half precision, in float64."""


def check_all(seeds: tuple[int, ...] = (0, 1, 2)) -> dict[str, Any]:
    """Largest error of each kind over all cases; `failed` names those beyond their bounds."""
    worst: dict[str, float] = dict.fromkeys(BOUNDS, 0.0)
    cases = 0
    for seed in seeds:
        for n_rays in SIZES:
            for layout, n_cascades, share in _variants(seed):
                scene = _Scene(seed, n_rays, layout, n_cascades, share)
                for name, error in scene.errors().items():
                    worst[name] = max(worst[name], error) if error == error else float("inf")
                cases += 1
    failed = {name: error for name, error in worst.items() if not error <= BOUNDS[name]}
    return {"cases": cases, "largest_errors": worst, "bounds": BOUNDS, "failed": failed}


def small_case() -> None:
    """One small scene through every kernel of a step: for the memory checker."""
    _Scene(0, 64, GridLayout(6, 2, 12, 8, 64), 2, 0.3).errors()
    torch.cuda.synchronize()


def _variants(seed: int) -> list[tuple[GridLayout, int, float]]:
    two, four = GridLayout(6, 2, 12, 8, 64), GridLayout(4, 4, 12, 8, 64)
    if seed:
        return [(two, 2, 0.3)]
    return [(two, 2, 0.3), (four, 2, 0.3), (two, 1, 1.0), (two, 3, 0.0)]


class _Scene:
    """A random field and rays from around it, some of which miss it."""

    def __init__(self, seed: int, n_rays: int, layout: GridLayout, n_cascades: int, share: float) -> None:
        g = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=g)

        widths = ((layout.n_outputs, 64), (64, 16), (32, 64), (64, 64), (64, 3))
        parts = [normal(layout.n_rows, layout.n_features), *(normal(*s) / s[0] ** 0.5 for s in widths)]
        table, d1, d2, c1, c2, c3 = (part.half().float().cuda() for part in parts)
        self.field = FieldTensors(layout, table, d1, d2, c1, c2, c3, float(2 ** (n_cascades - 1)))
        origins = 1.5 * normal(n_rays, 3)
        aim = 0.3 * normal(n_rays, 3) - origins
        aim[3::7] *= -1
        directions = torch.nn.functional.normalize(aim, dim=-1)
        edge = self.field.aabb_scale / 2
        box = torch.tensor([-edge] * 3 + [edge] * 3)
        t_min, t_max = ray_aabb(origins, directions, box, backend="reference")
        self.rays = Rays(origins, directions, t_min, t_max).to("cuda")
        self.jitter, self.target, self.background = (
            torch.rand(shape, generator=g).cuda() for shape in ((n_rays,), (n_rays, 3), (n_rays, 3))
        )
        cells = torch.rand(n_cascades, 16, 16, 16, generator=g) < share
        self.occupancy = Occupancy(pack_bits(cells).cuda(), 16)
        self.x = (1.2 * normal(n_rays, 3)).cuda()

    def errors(self) -> dict[str, float]:
        """Errors of all operations."""
        poison()
        return {**self._march(), **self._values(), **self._step()}

    def _march(self) -> dict[str, float]:
        arguments = (self.rays, self.occupancy.bits, 16, MARCHING, self.jitter, None)
        own, truth = march(*arguments, backend="cuda"), reference.march(*arguments)
        difference = (own.packed_info[:, 1] - truth.packed_info[:, 1]).abs().sum()
        if len(own) == len(truth) and not difference:
            difference = (own.t_starts != truth.t_starts).sum() + (own.t_ends != truth.t_ends).sum()
        return {"march": float(difference) / max(len(truth), 1000)}

    def _values(self) -> dict[str, float]:
        field, rays = _double(self.field), _double_rays(self.rays)
        sigmas = field_density(self.field, self.x, backend="cuda")
        truth = reference_fused.field_density(field, self.x.double())
        image = render_field(self.field, self.rays, self.occupancy, MARCHING, backend="cuda")
        expected = reference_fused.render_field(field, rays, self.occupancy, MARCHING)
        # A ray whose sample lies on the border of a cell may differ more: one in a hundred is let off.
        error = (image.rgb - expected.rgb).abs().amax(1) if len(self.x) else torch.zeros(1)
        kept = error.sort().values[: max(1, int(0.99 * len(error)))]
        return {"density": float(((sigmas - truth).abs() / truth).max()), "render": float(kept.max())}

    def _step(self) -> dict[str, float]:
        options = StepOptions(MARCHING, stop_transmittance=1e-3, distortion=0.01, near_fade=0.5)
        own, truth = _gradients(self, options, "cuda"), _gradients(self, options, "reference")
        scale = max(abs(truth[0]), 1e-6)
        gradients = [_relative(a, b) for a, b in zip(own[1], truth[1], strict=True)]
        return {"loss": abs(own[0] - truth[0]) / scale, "gradient": max(gradients)}


def _gradients(scene: _Scene, options: StepOptions, backend: str) -> tuple[float, list[Tensor]]:
    tensors = {name: getattr(scene.field, name).clone().requires_grad_() for name in NAMES}
    field = replace(scene.field, **tensors)
    space = FieldSpace() if backend == "cuda" else None
    arguments = (field, scene.rays, scene.jitter, scene.target, scene.background, scene.occupancy, options, 1 << 20)
    found = field_step(*arguments, space, backend=backend)
    if found.loss.requires_grad:
        found.loss.backward()
    zero = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
    return float(found.loss.detach()), [
        zero[name] if tensor.grad is None else tensor.grad.clone() for name, tensor in tensors.items()
    ]


def poison() -> None:
    """Fill freed memory with NaN: what a kernel fails to write then shows."""
    junk = [torch.full((1 << 24,), torch.nan, device="cuda") for _ in range(4)]
    del junk


def _relative(value: Tensor, truth: Tensor) -> float:
    size = float(truth.norm())
    error = float((value - truth).norm())
    return error / size if size > 1e-12 else error


def _double(field: FieldTensors) -> FieldTensors:
    return replace(field, **{name: getattr(field, name).double() for name in NAMES})


def _double_rays(rays: Rays) -> Rays:
    return Rays(rays.rays_o.double(), rays.rays_d.double(), rays.t_min.double(), rays.t_max.double())
