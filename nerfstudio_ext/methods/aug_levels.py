"""Rays through two perceptrons, coarse and fine, with a place for every disturbance of Aug-NeRF.

Keys of the disturbances and their shapes (N rays, n samples of the level, W hidden width; `c` is coarse, `f` fine):
`cam_r`, `cam_t` [cameras, 3]; `zval_c`, `zval_f` [N, n]; `pts_c`, `pts_f` [N, n, 3]; `feat_c`, `feat_f` [N, n, W];
`raw_c`, `raw_f` [N, n, 4]; `rgb` [N, 3].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from .aug_balls import Deltas

BEHIND = 1e10
"""Length of the last interval: whatever density is left there fills the rest of the ray."""

Network = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""(positions, directions, disturbance of the hidden vector) -> raw colour and density, such as `MlpField`."""


@dataclass(frozen=True)
class Stretch:
    """Where rays are looked at.

    Attributes:
        near, far: Begin and end on each ray, scene units.
        is_squeezed: Samples lie evenly in t / (1 + t) instead of in t, which reaches far without leaving the near.
    """

    near: Float[Tensor, " N"]
    far: Float[Tensor, " N"]
    is_squeezed: bool = False

    def at(self, share: Float[Tensor, "N n"]) -> Float[Tensor, "N n"]:
        """Distances at shares 0..1 of the stretch."""
        if not self.is_squeezed:
            return self.near[:, None] * (1 - share) + self.far[:, None] * share
        near, far = self.near / (1 + self.near), self.far / (1 + self.far)
        squeezed = near[:, None] * (1 - share) + far[:, None] * share
        return squeezed / (1 - squeezed)

    def half_spacing(self, n: int) -> Float[Tensor, "N n"]:
        """Half the distance between neighbours when `n` samples lie evenly on the stretch."""
        z = self.at(torch.linspace(0, 1, n).expand(len(self.near), n))
        gaps = z.diff(dim=-1)
        return 0.5 * torch.cat([gaps, gaps[:, -1:]], -1)


@dataclass(frozen=True)
class SamplingNoise:
    """The random part of where samples lie, drawn once so that all passes of a training step see the same places.

    Attributes:
        coarse: Place within each of the S strata, 0..1; None puts samples at regular shares, both ends included.
        fine: The M values 0..1 whose quantiles are sampled; None takes regular ones, both ends included.
    """

    coarse: Float[Tensor, "N S"] | None = None
    fine: Float[Tensor, "N M"] | None = None


REGULAR = SamplingNoise()


@dataclass(frozen=True)
class Level:
    """What one level sees.

    Attributes:
        rgb: Colour, premultiplied, without background; the disturbance `rgb` included.
        depth: Distance, premultiplied.
        alpha: Opacity.
        weights: Contribution of each sample.
        z: Distances of the samples, disturbance included.
        points: Positions at which the network was asked.
        raw: What the network answered, before any disturbance of it.
    """

    rgb: Float[Tensor, "N 3"]
    depth: Float[Tensor, " N"]
    alpha: Float[Tensor, " N"]
    weights: Float[Tensor, "N n"]
    z: Float[Tensor, "N n"]
    points: Float[Tensor, "N n 3"]
    raw: Float[Tensor, "N n 4"]


@dataclass(frozen=True)
class LevelOptions:
    """How rays are sampled and composited.

    Attributes:
        n_coarse: Samples S of the coarse level.
        n_fine: Samples M that the fine level adds; 0 leaves the coarse level alone.
        keeps_released_faults: The raw disturbance reaches the density only, and disturbed distances may change places
            with negative intervals between them, as in the released code.
    """

    n_coarse: int
    n_fine: int
    keeps_released_faults: bool = False

    @property
    def n_total(self) -> int:
        """Samples of the fine level: the coarse ones and those it adds."""
        return self.n_coarse + self.n_fine


def moved_rays(
    rays_o: Float[Tensor, "N 3"], rays_d: Float[Tensor, "N 3"], cam_ids: Int64[Tensor, " N"], deltas: Deltas
) -> tuple[Float[Tensor, "N 3"], Float[Tensor, "N 3"]]:
    """Rays of cameras shifted by `cam_t` (scene units) and turned by `cam_r` (radians about z, then y, then x).

    Both keys are needed, or nothing moves. Lengths of directions are kept.
    """
    if "cam_r" not in deltas or "cam_t" not in deltas:
        return rays_o, rays_d
    x, y, z = rays_d.unbind(-1)
    turn = deltas["cam_r"].index_select(0, cam_ids)
    cos, sin = turn.cos(), turn.sin()
    x, y = cos[:, 2] * x - sin[:, 2] * y, sin[:, 2] * x + cos[:, 2] * y
    x, z = cos[:, 1] * x + sin[:, 1] * z, cos[:, 1] * z - sin[:, 1] * x
    y, z = cos[:, 0] * y - sin[:, 0] * z, sin[:, 0] * y + cos[:, 0] * z
    return rays_o + deltas["cam_t"].index_select(0, cam_ids), torch.stack([x, y, z], -1)


def render_levels(
    networks: tuple[Network, Network],
    rays_o: Float[Tensor, "N 3"],
    rays_d: Float[Tensor, "N 3"],
    stretch: Stretch,
    options: LevelOptions,
    deltas: Deltas | None = None,
    noise: SamplingNoise = REGULAR,
    *,
    z_fine: Float[Tensor, "N F"] | None = None,
) -> tuple[Level, Level]:
    """Render rays twice: coarsely, and finely where the coarse level saw something.

    Args:
        networks: Coarse and fine.
        rays_o: Origins.
        rays_d: Directions of any length; `moved_rays` applies disturbances of the camera.
        stretch: Where to look.
        options: Numbers of samples and faults to keep.
        deltas: Disturbances of both levels; a missing key disturbs nothing.
        noise: Random places of the samples.
        z_fine: Distances of the fine level before their disturbance, instead of sampling them.
    Returns:
        Coarse and fine level; twice the coarse one when there are no fine samples.
    No gradient flows from the fine level through where its samples lie, except through the coarse samples among them.
    Source: Mildenhall et al. 2020, section 5; Chen et al. 2022 for the disturbances.
    """
    deltas = deltas or {}
    z = stretch.at(_coarse_shares(len(rays_o), options.n_coarse, noise.coarse)) + deltas.get("zval_c", 0.0)
    coarse = _level(networks[0], rays_o, rays_d, z, _of_level(deltas, "c"), options)
    if options.n_fine == 0:
        return coarse, coarse
    if z_fine is None:
        middles = 0.5 * (z[:, 1:] + z[:, :-1])
        u = torch.linspace(0, 1, options.n_fine).expand(len(z), -1) if noise.fine is None else noise.fine
        new = _quantiles(middles, coarse.weights[:, 1:-1], u)
        z_fine = torch.sort(torch.cat([z, new], -1), -1).values
    z = z_fine + deltas.get("zval_f", 0.0)
    return coarse, _level(networks[1], rays_o, rays_d, z, _of_level(deltas, "f"), options)


def _of_level(deltas: Deltas, letter: str) -> dict[str, Tensor]:
    found = {name: deltas[f"{name}_{letter}"] for name in ("pts", "feat", "raw") if f"{name}_{letter}" in deltas}
    return found | ({"rgb": deltas["rgb"]} if "rgb" in deltas else {})


def _coarse_shares(n_rays: int, n: int, places: Tensor | None) -> Tensor:
    shares = torch.linspace(0, 1, n).expand(n_rays, n)
    if places is None:
        return shares
    middles = 0.5 * (shares[:, 1:] + shares[:, :-1])
    lower, upper = torch.cat([shares[:, :1], middles], -1), torch.cat([middles, shares[:, -1:]], -1)
    return lower + (upper - lower) * places


def _level(
    network: Network,
    rays_o: Tensor,
    rays_d: Tensor,
    z: Float[Tensor, "N n"],
    deltas: Mapping[str, Tensor],
    options: LevelOptions,
) -> Level:
    points = rays_o[:, None] + z[..., None] * rays_d[:, None]
    if "pts" in deltas:
        points = points + deltas["pts"]
    length = rays_d.norm(dim=-1, keepdim=True)
    directions = (rays_d / length)[:, None].expand_as(points)
    raw = network(points, directions, deltas.get("feat"))
    color, density = raw[..., :3], raw[..., 3]
    if "raw" in deltas:
        density = density + deltas["raw"][..., 3]
        if not options.keeps_released_faults:
            color = color + deltas["raw"][..., :3]
    gaps = torch.cat([z.diff(dim=-1), torch.full_like(z[:, :1], BEHIND)], -1)
    if not options.keeps_released_faults:
        gaps = gaps.clamp_min(0)
    alphas = 1 - torch.exp(-density.relu() * (gaps * length))
    passed = torch.cumprod(torch.cat([torch.ones_like(alphas[:, :1]), 1 - alphas + 1e-10], -1), -1)[:, :-1]
    weights = alphas * passed
    rgb = (weights[..., None] * color.sigmoid()).sum(-2)
    if "rgb" in deltas:
        rgb = rgb + deltas["rgb"]
    return Level(rgb, (weights * z).sum(-1), weights.sum(-1), weights, z, points, raw)


@torch.no_grad()
def _quantiles(
    edges: Float[Tensor, "N B"], weights: Float[Tensor, "N b"], u: Float[Tensor, "N M"]
) -> Float[Tensor, "N M"]:
    """Where a piecewise constant density over the bins between `edges` (b = B - 1) has its quantiles `u`.

    The small constant keeps empty bins in reach; bins too thin to divide by are not entered.
    """
    weights = weights + 1e-5
    density = weights / weights.sum(-1, keepdim=True)
    total = torch.cat([torch.zeros_like(density[:, :1]), density.cumsum(-1)], -1)
    above = torch.searchsorted(total, u.contiguous(), right=True)
    lower, upper = (above - 1).clamp_min(0), above.clamp_max(total.shape[-1] - 1)
    total_low, total_high = total.gather(-1, lower), total.gather(-1, upper)
    edge_low, edge_high = edges.gather(-1, lower), edges.gather(-1, upper)
    width = total_high - total_low
    share = (u - total_low) / torch.where(width < 1e-5, torch.ones_like(width), width)
    return edge_low + share * (edge_high - edge_low)
