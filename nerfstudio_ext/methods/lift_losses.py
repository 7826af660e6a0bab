"""What lifting asks of a scene beside the prior: agreement with the photo and its depth, and well-behaved surfaces.

All losses are means, so that their weights do not depend on the number of pixels. Source: Xu et al. 2022
(NeuralLift-360) and its official settings; where ours differ it is said.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional

from .. import kernels
from ..rays import Samples

DensityFn = Callable[[Float[Tensor, "N 3"]], Float[Tensor, " N"]]
LEAK_LIMIT, LEAK_FACTOR = 0.05, 10.0
"""Above this mean opacity outside the mask the leak counts ten times, as in the paper."""
FULL_SHARE, FULL_FACTOR = 0.5, 10.0
"""From this mean squared opacity on the picture counts as full, and that ten times."""


def photo_loss(
    rgb: Float[Tensor, "R 3"], alpha: Float[Tensor, " R"], photo: Float[Tensor, "R 3"], mask: Float[Tensor, " R"]
) -> Float[Tensor, ""]:
    """Mean squared difference of premultiplied colours: on every background the picture is then that of the photo.

    Args:
        rgb: Rendered, premultiplied.
        alpha: Rendered; unused here but for its part in `rgb`.
        photo: Straight colours.
        mask: Foreground 0..1.
    """
    return (rgb - photo * mask[:, None]).square().mean()


def photo_loss_in_mask(
    rgb: Float[Tensor, "R 3"], alpha: Float[Tensor, " R"], photo: Float[Tensor, "R 3"], mask: Float[Tensor, " R"]
) -> Float[Tensor, ""]:
    """Mean absolute difference inside the mask, over black, as in the paper."""
    difference = (rgb - photo).abs().mean(1)
    return (difference * mask).sum() / mask.sum().clamp_min(1e-6)


def leak_loss(alpha: Float[Tensor, " R"], mask: Float[Tensor, " R"]) -> Float[Tensor, ""]:
    """Mean opacity outside the mask, ten times where it is large."""
    outside = 1 - mask
    leak = (alpha * outside).sum() / outside.sum().clamp_min(1e-6)
    return leak * (LEAK_FACTOR if float(leak.detach()) > LEAK_LIMIT else 1.0)


def mask_loss(alpha: Float[Tensor, " R"], mask: Float[Tensor, " R"]) -> Float[Tensor, ""]:
    """Mean squared difference of opacity and mask; the paper punishes only what leaks."""
    return (alpha - mask).square().mean()


def ranking_loss(
    depth: Float[Tensor, " R"],
    reference: Float[Tensor, " R"],
    pairs: Int64[Tensor, "P 2"],
    margin: float = 0.0,
) -> Float[Tensor, ""]:
    """Mean hinge over pairs of pixels whose order in depth is wrong.

    `max(0, margin - s (d_i - d_j))` with the sign s of the reference's difference. The paper takes all pairs, which
    needs memory with the fourth power of the side; a sample has the same mean.

    Args:
        depth: Rendered ray lengths.
        reference: Larger is farther, of any scale and offset.
        pairs: Which pixels to compare.
    """
    if len(pairs) == 0:
        return depth.sum() * 0
    i, j = pairs.unbind(1)
    sign = (reference[i] - reference[j]).sign()
    return (margin - sign * (depth[i] - depth[j])).clamp_min(0).mul(sign.abs()).mean()


def pearson_loss(depth: Float[Tensor, " R"], reference: Float[Tensor, " R"]) -> Float[Tensor, ""]:
    """1 minus the correlation of two depths, 0..2: blind to scale and offset of the reference."""
    if len(depth) < 2:
        return depth.sum() * 0
    a, b = depth - depth.mean(), reference - reference.mean()
    return 1 - (a * b).sum() / (a.square().sum() * b.square().sum()).clamp_min(1e-12).sqrt()


def draw_pairs(is_known: Tensor, n: int, generator: torch.Generator) -> Int64[Tensor, "P 2"]:
    """At most n random pairs of the pixels that may be compared."""
    places = is_known.nonzero()[:, 0]
    if len(places) < 2:
        return torch.zeros(0, 2, dtype=torch.int64)
    return places[torch.randint(len(places), (n, 2), generator=generator)]


def opacity_loss(alpha: Float[Tensor, " R"]) -> Float[Tensor, ""]:
    """Mean squared opacity, ten times where half of the picture is full: against fog."""
    mean = alpha.square().mean()
    return mean * (FULL_FACTOR if float(mean.detach()) >= FULL_SHARE else 1.0)


def entropy_loss(alpha: Float[Tensor, " R"]) -> Float[Tensor, ""]:
    """Mean binary entropy of opacities in bits: pixels shall be empty or full."""
    a = alpha.clamp(1e-5, 1 - 1e-5)
    return -(a * a.log2() + (1 - a) * (1 - a).log2()).mean()


def orientation_loss(
    normals: Float[Tensor, "N 3"], rays_d: Float[Tensor, "N 3"], weights: Float[Tensor, " N"]
) -> Float[Tensor, ""]:
    """Weighted mean of `max(0, n . d)^2`: what is seen may not look away (Verbin et al. 2022)."""
    away = (normals * rays_d).sum(1).clamp_min(0).square()
    return (weights * away).sum() / weights.sum().clamp_min(1e-6)


def normals_of(density: DensityFn, x: Float[Tensor, "N 3"], step: float) -> Float[Tensor, "N 3"]:
    """Unit normals from central differences of the density; differentiable in the density's parameters."""
    shifts = step * torch.cat([torch.eye(3), -torch.eye(3)]).to(x)
    values = density((x[:, None] + shifts).flatten(0, 1)).unflatten(0, (-1, 6))
    return functional.normalize(values[:, 3:] - values[:, :3], dim=1, eps=1e-6)


def distortion_loss(weights: Float[Tensor, " S"], samples: Samples) -> Float[Tensor, ""]:
    """Mean distortion per ray (Barron et al. 2022): weights of a ray shall lie together."""
    return kernels.distortion(weights, samples).mean()


def smoothness_loss(depth: Float[Tensor, "V H W"], rgb: Float[Tensor, "V 3 H W"]) -> Float[Tensor, ""]:
    """Mean absolute slope of the depth where the picture has no edge: `|grad depth| exp(-mean |grad rgb|)`."""
    total = depth.sum() * 0
    for dim in (-1, -2):
        slope = depth.diff(dim=dim).abs()
        edge = rgb.detach().diff(dim=dim).abs().mean(1)
        total = total + (slope * (-edge).exp()).mean()
    return total


def clip_distance(a: Float[Tensor, "V E"], b: Float[Tensor, "V E"]) -> Float[Tensor, " V"]:
    """Squared angle-like distance of unit embeddings, `2 asin(|a - b| / 2)^2`."""
    # Just below 1: the slope of asin is infinite there.
    half = ((a - b).norm(dim=1) / 2).clamp(max=1 - 1e-6)
    return 2 * half.asin().square()
