"""The operations on source views and tokens in plain torch; contracts in `views` and `tokens`."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from .views import AttentionWeights, FirstLayer, SourceViews, ray_differences

DEPTH_FLOOR = 1e-8
FARTHEST_PIXEL = 1e6
"""Bounds of the official projection: they keep points near the camera plane finite."""
MASKED = -1e9


def project(
    projections: Tensor,  # [V,3,4]
    sizes: Tensor,  # [V,2] width, height
    x: Tensor,  # [R,S,3]
) -> tuple[Tensor, Tensor]:
    """Pixel positions [V,R,S,2] and whether a point lies in front of the camera and within its picture [V,R,S]."""
    p = torch.einsum("vij,rsj->vrsi", projections, torch.cat([x, torch.ones_like(x[..., :1])], -1))
    uv = (p[..., :2] / p[..., 2:].clamp_min(DEPTH_FLOOR)).clamp(-FARTHEST_PIXEL, FARTHEST_PIXEL)
    is_inside = ((uv >= 0) & (uv <= (sizes - 1)[:, None, None])).all(-1)
    return uv, is_inside & (p[..., 2] > 0)


def view_maximum(x: Tensor, views: SourceViews, first: FirstLayer, weight: Tensor) -> Tensor:
    """See `kernels.view_maximum`."""
    hidden = torch.relu(first_layer(x, views, first)[0])
    return (hidden @ weight).max(2).values


def view_attention(
    x: Tensor, target: Tensor, query: Tensor, views: SourceViews, first: FirstLayer, weights: AttentionWeights,
    dropout: float, seed: int,
) -> Tensor:  # fmt: skip
    """See `kernels.view_attention`."""
    w = weights
    before, is_seen = first_layer(x, views, first)
    hidden = torch.relu(before)
    place = torch.relu(ray_differences(x, target, views.centres) @ w.place + w.place_bias)
    bottleneck = torch.relu(hidden @ w.key + place @ w.place_key + w.key_bias - query[:, :, None])
    logits = (bottleneck @ w.logit).masked_fill(~is_seen[..., None], MASKED)
    probability = torch.softmax(logits, 2)
    if dropout > 0:
        probability = probability * kept(probability, dropout, seed)
    return ((hidden @ w.value + place @ w.place_value + w.value_bias) * probability).sum(2)


def feed_forward(
    x: Tensor, gain: Tensor, offset: Tensor, first: Tensor, first_bias: Tensor, second: Tensor, second_bias: Tensor,
    eps: float,
) -> Tensor:  # fmt: skip
    """See `kernels.feed_forward`."""
    hidden = torch.relu(functional.layer_norm(x, x.shape[1:], gain, offset, eps) @ first + first_bias)
    return x + hidden @ second + second_bias


def kept(like: Tensor, dropout: float, seed: int) -> Tensor:
    """`1 / (1 - dropout)` where a value is kept and 0 where it is dropped, by a hash of its position and the seed.

    Source of the hash: "lowbias32", C. Wellons, Prospecting for Hash Functions (2018).
    """
    low = 0xFFFFFFFF
    z = (torch.arange(like.numel(), device=like.device) * 0x9E3779B1 + seed) & low
    z = ((z ^ (z >> 16)) * 0x7FEB352D) & low
    z = ((z ^ (z >> 15)) * 0x846CA68B) & low
    z = z ^ (z >> 16)
    return (z >= int(dropout * 2**32)).to(like.dtype).reshape(like.shape) / (1 - dropout)


def first_layer(x: Tensor, views: SourceViews, first: FirstLayer) -> tuple[Tensor, Tensor]:
    """The hidden layer before its ReLU [R,S,V,C], and which views see the points [R,S,V]."""
    size, map_size = views.extents[:, :2], views.extents[:, 2:]
    uv, is_seen = project(views.projections, size, x)
    on_map = uv * ((map_size - 1) / (size - 1))[:, None, None]
    colors, features = _bilinear(views.pixels, uv), _bilinear(views.maps, on_map)
    before = features + colors @ first.color + first.bias
    return before.permute(1, 2, 0, 3), is_seen.permute(1, 2, 0)


def _bilinear(arrays: Tensor, at: Tensor) -> Tensor:
    """Values [V,R,S,C] of arrays [V,h,w,C] at positions [V,R,S,2]; zero outside, fading over one pixel."""
    last = at.new_tensor([arrays.shape[2] - 1, arrays.shape[1] - 1])
    found = functional.grid_sample(arrays.permute(0, 3, 1, 2), 2 * at / last - 1, align_corners=True)
    return found.permute(0, 2, 3, 1)
