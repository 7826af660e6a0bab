"""Pictures of one trained field by every path: fused, our kernels one after another, nerfacc, plain torch."""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
from torch import Tensor

from ...rays import RayOutputs, Rays
from .. import FieldTensors, Occupancy, cuda_params, render_field
from ..cuda_arguments import bits_of, lattice_of, ray_list
from ..cuda_launch import floats, launcher, words
from ..cuda_prepared import prepared
from ..hints import picture
from .baselines import Renderer, TorchField, plain_samples, sampler
from .scene import MARCHING, Pictures, rays_of
from .timing import few, milliseconds

CHUNKS = (1 << 16, 1 << 18, 1 << 20)
"""Rays per call that the baselines may choose from."""
UNFUSED_RAYS, UNFUSED_SAMPLES = 1 << 18, 1 << 23
STOP = 1e-3
SIZES = {"800x800": (800, 800), "1920x1080": (1920, 1080)}
N_POSES = 8
REFERENCE_EDGE = 200
"""The reference walks through empty space step by step: a small picture is enough for it."""


def render_fused_picture(field: FieldTensors, occupancy: Occupancy, pictures: Pictures, index: int) -> Tensor:
    """A photo's view of a field on white, [H,W,3]."""
    width, height = pictures.size
    rays = rays_of(pictures.poses[index], width, height, pictures.focal)
    out = fused(field, rays, occupancy, (width, height))
    assert out.alpha is not None
    return (out.rgb + (1 - out.alpha[:, None])).view(height, width, 3)


def fused(field: FieldTensors, rays: Rays, occupancy: Occupancy, size: tuple[int, int]) -> RayOutputs:
    """One launch for the whole picture."""
    with picture(*size):
        return render_field(field, rays, occupancy, MARCHING, STOP, backend="cuda")


class Unfused:
    """March, evaluate and composite as separate kernels over chunks of rays: our own parts without the fusion.

    Args:
        field: The field.
    """

    def __init__(self, field: FieldTensors) -> None:
        self.field, self.launch = field, launcher(field.table.device)
        rays, samples = UNFUSED_RAYS, UNFUSED_SAMPLES

        def real(*shape: int) -> Tensor:
            return torch.empty(shape, device="cuda")

        def word(*shape: int) -> Tensor:
            return torch.empty(shape, dtype=torch.int32, device="cuda")

        self.counts, self.seen, self.packed, self.totals = word(rays), word(rays), word(rays, 2), word(3)
        self.starts, self.ends, self.indices = real(samples), real(samples), word(samples)
        self.values, self.gradients = real(samples, 4), real(samples, 4)
        self.losses, self.outputs = real(rays, 3), real(rays, 5)
        self.zeros, self.half_jitter = torch.zeros(rays, 3, device="cuda"), torch.full((rays,), 0.5, device="cuda")

    def __call__(self, rays: Rays, occupancy: Occupancy) -> Tensor:
        """(r, g, b, depth, alpha) of rays."""
        parts = []
        for start in range(0, len(rays), UNFUSED_RAYS):
            parts.append(self._chunk(rays[start : start + UNFUSED_RAYS], occupancy))
        return torch.cat(parts)

    def _chunk(self, rays: Rays, occupancy: Occupancy) -> Tensor:
        n, half, launch = len(rays), prepared(self.field), self.launch
        listed, common = ray_list(rays), (bits_of(occupancy), lattice_of(MARCHING), floats(self.half_jitter))
        launch("march_count", cuda_params.MarchCount(listed, *common, 0xFFFFFFFF, words(self.counts)), n)
        scan = cuda_params.ScanCounts(words(self.counts), n, UNFUSED_SAMPLES, words(self.packed), words(self.totals))
        launch("scan_counts", scan)
        outputs = (words(self.packed), floats(self.starts), floats(self.ends), words(self.indices))
        launch("march_write", cuda_params.MarchWrite(listed, *common, *outputs), n)
        samples = cuda_params.SampleList(
            floats(self.starts), floats(self.ends), words(self.indices), words(self.totals)
        )
        launch("field_forward", cuda_params.FieldForward(half.view(), listed, samples, floats(self.values), None), None,
               half.shape)  # fmt: skip
        launch("step_loss", self._compositing(n), n)
        return self.outputs[:n].clone()

    def _compositing(self, n: int) -> Any:
        return cuda_params.StepLoss(
            packed_info=words(self.packed), t_starts=floats(self.starts), t_ends=floats(self.ends),
            colors_sigmas=floats(self.values), target=floats(self.zeros), background=floats(self.zeros), n_rays=n,
            stop_transmittance=STOP, huber=0.1, distortion=0.0, near_fade=0.0, loss_scale=1.0,
            logit_gradients=floats(self.gradients), ray_losses=floats(self.losses), seen_counts=words(self.seen),
            outputs=floats(self.outputs),
        )  # fmt: skip


def compare_renderers(field: FieldTensors, occupancy: Occupancy, pictures: Pictures) -> dict[str, Any]:
    """Times and differences of all paths at both picture sizes."""
    found: dict[str, Any] = {}
    unfused = Unfused(field)
    name, sample = sampler()
    baselines = {"baseline": Renderer(TorchField(field), sample), "plain": Renderer(TorchField(field), plain_samples)}
    found["baseline"] = name
    rays = rays_of(
        pictures.poses[0], REFERENCE_EDGE, REFERENCE_EDGE, pictures.focal * REFERENCE_EDGE / pictures.size[1]
    )
    truth = render_field(field, rays, occupancy, MARCHING, STOP, backend="reference")
    image = fused(field, rays, occupancy, (REFERENCE_EDGE, REFERENCE_EDGE))
    found["reference_difference"] = _difference(image.rgb, truth.rgb)
    for label, (width, height) in SIZES.items():
        scaled = pictures.focal * height / pictures.size[1]
        views = [rays_of(pose, width, height, scaled) for pose in pictures.poses[:: max(1, len(pictures) // N_POSES)]]
        views, size = views[:N_POSES], (width, height)
        times = [milliseconds(functools.partial(fused, field, view, occupancy, size), repeats=10) for view in views]
        row: dict[str, Any] = {"fused_ms": sum(t for t, _ in times) / len(times), "fused_least_ms": min(times)[1]}
        row["unfused_ms"] = few(functools.partial(unfused, views[0], occupancy))
        first, _ = times[0]
        row["fused_over_unfused"] = row["unfused_ms"] / first
        if label == "800x800":
            image = fused(field, views[0], occupancy, (width, height))
            row["unfused_difference"] = _difference(image.rgb, unfused(views[0], occupancy)[:, :3])
            for kind, render in baselines.items():
                row[kind] = _baseline(render, views[0], occupancy, image.rgb)
                row[kind]["fused_faster"] = row[kind]["ms"] / first
        found[label] = row
    return found


def _baseline(render: Renderer, rays: Rays, occupancy: Occupancy, image: Tensor) -> dict[str, Any]:
    """A baseline at its best chunk size, and how far its picture is from ours."""
    half = torch.full((len(rays),), 0.5, device="cuda")
    best: dict[str, Any] = {}

    def run(chunk: int) -> Tensor:
        with torch.no_grad():
            parts = [
                render(rays[start : start + chunk], occupancy, half[start : start + chunk])[0]
                for start in range(0, len(rays), chunk)
            ]
        return torch.cat(parts)

    for chunk in CHUNKS:
        try:
            spent = few(functools.partial(run, chunk), seconds=2.0)
        except torch.cuda.OutOfMemoryError:
            torch.cuda.empty_cache()
            continue
        if not best or spent < best["ms"]:
            best = {"ms": spent, "chunk": chunk}
    return {**best, "difference": _difference(image, run(best["chunk"]))}


def _difference(image: Tensor, other: Tensor) -> dict[str, float]:
    error = (image.clamp(0, 1) - other.float().clamp(0, 1)).abs()
    mse = max(float(error.square().mean()), 1e-12)
    return {"largest": float(error.max()), "psnr_db": -10 * math.log10(mse)}
