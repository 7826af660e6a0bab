"""What we compare with: the same field in plain torch, in half precision, with nerfacc's sampling where that runs.

Written to be fast, not to be beaten: no loop over samples or levels, half-precision matrix products under autocast,
and `torch.compile` tried on the field.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ...rays import Rays
from .. import FieldTensors, GridLayout, Occupancy, adapter_nerfacc, reference, unpack_bits
from ..layouts import HASH_PRIMES
from .scene import GRID_SIZE, MARCHING, STEP

Sampler = Callable[[Rays, Occupancy, Tensor], tuple[Tensor, Tensor, Tensor]]


class TorchField(nn.Module):
    """The fast field with all levels and corners of the grid in one gather.

    Args:
        field: Its parameters; copied.
    """

    scales: Tensor
    offsets: Tensor
    is_dense: Tensor
    corners: Tensor
    dense: Tensor
    primes: Tensor

    def __init__(self, field: FieldTensors) -> None:
        super().__init__()
        layout: GridLayout = field.layout
        device = field.table.device
        names = ("table", "d1", "d2", "c1", "c2", "c3")
        self.weights = nn.ParameterDict({name: nn.Parameter(getattr(field, name).detach().clone()) for name in names})
        # Whole numbers of 32 bits, half the traffic: products wrap around as the hash wants them to.

        def whole(values: Any) -> Tensor:
            return torch.tensor(values, device=device, dtype=torch.int32)

        strides = whole([resolution + 1 for resolution in layout.resolutions])
        self.register_buffer("scales", torch.tensor(layout.scales, device=device))
        self.register_buffer("offsets", whole(layout.offsets[:-1])[:, None])
        self.register_buffer("is_dense", torch.tensor(layout.is_dense, device=device)[:, None])
        self.register_buffer("corners", whole([[c & 1, c >> 1 & 1, c >> 2] for c in range(8)]))
        dense = torch.stack([torch.ones_like(strides), strides, strides**2], -1)
        self.register_buffer("dense", dense[:, None, :])
        signed = [prime - (1 << 32) if prime >= 1 << 31 else prime for prime in HASH_PRIMES]
        self.register_buffer("primes", whole(signed))
        self.mask, self.n_outputs = 2**layout.log2_table - 1, layout.n_outputs

    def geometry(self, x: Tensor) -> Tensor:
        """Outputs of the density network at positions of the cube of edge 1 around 0."""
        position = (x + 0.5).clamp(0, 1)[:, None, :] * self.scales[:, None] + 0.5  # [S,L,3]
        lower = position.floor()
        fraction = (position - lower)[:, :, None, :]
        corner = lower.int()[:, :, None, :] + self.corners  # [S,L,8,3]
        x_part, y_part, z_part = (corner * self.primes).unbind(-1)
        rows = torch.where(
            self.is_dense, (corner * self.dense).sum(-1, dtype=torch.int32), (x_part ^ y_part ^ z_part) & self.mask
        )
        weight = torch.where(self.corners == 1, fraction, 1 - fraction).prod(-1)
        features = torch.nn.functional.embedding(rows + self.offsets, self.weights["table"])
        encoded = (weight[..., None] * features).sum(2).reshape(len(x), self.n_outputs)
        return (encoded @ self.weights["d1"]).relu() @ self.weights["d2"]

    def density(self, x: Tensor) -> Tensor:
        """Densities."""
        return self.geometry(x)[:, 0].float().clamp(-15, 15).exp()

    def forward(self, x: Tensor, harmonics: Tensor) -> tuple[Tensor, Tensor]:
        """Densities and colours."""
        geo = self.geometry(x)
        hidden = (torch.cat([geo, harmonics.to(geo.dtype)], 1) @ self.weights["c1"]).relu()
        logits = (hidden @ self.weights["c2"]).relu() @ self.weights["c3"]
        return geo[:, 0].float().clamp(-15, 15).exp(), logits.float().clamp(-20, 20).sigmoid()


def plain_samples(rays: Rays, occupancy: Occupancy, jitter: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(ray, start, end) of the samples in occupied cells: all places of the lattice at once, then the occupied ones."""
    n_steps = int(3**0.5 / STEP) + 2
    starts = rays.t_min.clamp_min(MARCHING.near) + jitter * STEP
    t = starts[:, None] + STEP * torch.arange(n_steps, device=starts.device)
    x = rays.rays_o[:, None] + (t + STEP / 2)[..., None] * rays.rays_d[:, None]
    cell = ((x + 0.5) * GRID_SIZE).long().clamp_(0, GRID_SIZE - 1)
    occupied = unpack_bits(occupancy.bits, GRID_SIZE)[0]
    keep = occupied[cell[..., 2], cell[..., 1], cell[..., 0]] & (t < rays.t_max[:, None])
    indices, place = keep.nonzero(as_tuple=True)
    t_starts = t[indices, place]
    return indices, t_starts, t_starts + STEP


def nerfacc_samples(rays: Rays, occupancy: Occupancy, jitter: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The same by nerfacc."""
    samples = adapter_nerfacc.march(rays, occupancy.bits, GRID_SIZE, MARCHING, jitter, None)
    return samples.ray_indices, samples.t_starts, samples.t_ends


def sampler() -> tuple[str, Sampler]:
    """nerfacc's sampling where it runs, else the plain one, and its name."""
    reason = adapter_nerfacc.absence()
    return ("nerfacc + torch", nerfacc_samples) if not reason else (f"torch (nerfacc: {reason})", plain_samples)


def composite(sigmas: Tensor, rgbs: Tensor, indices: Tensor, lengths: Tensor, n_rays: int) -> tuple[Tensor, Tensor]:
    """Premultiplied colours and opacities of packed samples."""
    weights = transmittances(sigmas, indices, lengths, n_rays) * -torch.expm1(-sigmas * lengths)
    rgb = rgbs.new_zeros(n_rays, 3).index_add(0, indices, weights[:, None] * rgbs)
    return rgb, weights.new_zeros(n_rays).index_add(0, indices, weights)


def transmittances(sigmas: Tensor, indices: Tensor, lengths: Tensor, n_rays: int) -> Tensor:
    """Share of the light that reaches each sample."""
    depth = sigmas * lengths
    total = torch.cumsum(depth.double(), 0)  # over all rays: double keeps the digits of one ray
    counts = torch.bincount(indices, minlength=n_rays)
    first = counts.cumsum(0) - counts
    before_ray = torch.cat([total.new_zeros(1), total])[first][indices]
    return torch.exp(-(total - depth - before_ray)).float()


class Renderer:
    """Renders and trains with a `TorchField`.

    Args:
        field: The field.
        sample: Where to look.
        stop: Samples behind a lower transmittance are not given a colour.
    """

    def __init__(self, field: TorchField, sample: Sampler, stop: float = 1e-3) -> None:
        self.field, self.sample, self.stop = field, sample, stop

    def __call__(self, rays: Rays, occupancy: Occupancy, jitter: Tensor) -> tuple[Tensor, Tensor, int]:
        """Premultiplied colours, opacities, and the number of samples that were given a colour."""
        with torch.autocast("cuda", torch.float16):
            indices, t_starts, t_ends = self.sample(rays, occupancy, jitter)
            with torch.no_grad():
                sigmas = self.field.density(self._positions(rays, indices, t_starts, t_ends))
                is_seen = transmittances(sigmas, indices, t_ends - t_starts, len(rays)) >= self.stop
            indices, t_starts, t_ends = indices[is_seen], t_starts[is_seen], t_ends[is_seen]
            harmonics = reference.sh_encode(rays.rays_d)[indices]
            sigmas, rgbs = self.field(self._positions(rays, indices, t_starts, t_ends), harmonics)
        rgb, alpha = composite(sigmas, rgbs, indices, t_ends - t_starts, len(rays))
        return rgb, alpha, len(indices)

    @staticmethod
    def _positions(rays: Rays, indices: Tensor, t_starts: Tensor, t_ends: Tensor) -> Tensor:
        return rays.rays_o[indices] + (0.5 * (t_starts + t_ends))[:, None] * rays.rays_d[indices]
