"""Inputs for the contract test of the operations on source views."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from nerfstudio_ext import kernels
from nerfstudio_ext.kernels import reference_views

HIDDEN, VALUE, KEY, PLACE = 16, 32, 5, 6
"""Widths; the bottlenecks do not fill vectors."""
SAMPLES = 3
ViewTensors = dict[str, Tensor]
FIRST = ("color", "bias")
WEIGHTS = ("key", "key_bias", "value", "value_bias", "place", "place_bias", "place_key", "place_value", "logit")
DROPOUT, SEED = 0.3, 12345


def look_at_origin(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Projections [n,3,4] and centres [n,3] of cameras of 24x18 pixels around the origin; the last stands within."""
    toward = torch.nn.functional.normalize(torch.randn(n, 3, generator=generator, dtype=torch.float64), dim=-1)
    centres = -2.0 * toward
    centres[-1] *= 0.2
    up = torch.nn.functional.normalize(torch.randn(n, 3, generator=generator, dtype=torch.float64), dim=-1)
    right = torch.nn.functional.normalize(torch.linalg.cross(up, toward), dim=-1)
    rotation = torch.stack([right, torch.linalg.cross(toward, right), toward], 1)
    K = torch.tensor([[30.0, 0, 11.5], [0, 30.0, 8.5], [0, 0, 1]], dtype=torch.float64)
    return K @ torch.cat([rotation, -rotation @ centres[:, :, None]], -1), centres


def view_tensors(n: int, generator: torch.Generator) -> ViewTensors:
    """Tensors for about n points, none where rounding decides: at the edge of a picture or at the bend of a ReLU."""
    projections, centres = look_at_origin(4, generator)
    extents = torch.tensor([[24.0, 18.0, 8.0, 8.0]] * 3 + [[20.0, 15.0, 6.0, 5.0]], dtype=torch.float64)
    inside = torch.zeros(4, 18, 24, 1)
    inside[:3], inside[3, :15, :20] = 1, 1
    on_map = torch.zeros(4, 8, 8, 1)
    on_map[:3], on_map[3, :5, :6] = 1, 1

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    shapes = {
        "color": (3, HIDDEN), "bias": (HIDDEN,), "key": (HIDDEN, KEY), "key_bias": (KEY,), "value": (HIDDEN, VALUE),
        "value_bias": (VALUE,), "place": (4, PLACE), "place_bias": (PLACE,), "place_key": (PLACE, KEY),
        "place_value": (PLACE, VALUE), "logit": (KEY, VALUE), "weight": (HIDDEN, VALUE),
    }  # fmt: skip
    tensors = {
        "pixels": torch.rand(4, 18, 24, 3, generator=generator, dtype=torch.float64) * inside,
        "maps": normal(4, 8, 8, HIDDEN) * on_map,
        "projections": projections, "centres": centres, "extents": extents,
        **{name: 0.5 * normal(*shape) for name, shape in shapes.items()},
    }  # fmt: skip
    # Both sides compute from the same float32 numbers.
    tensors = {name: value.float().double() for name, value in tensors.items()}
    rays = 2 * n + 16
    tensors |= {
        "x": 0.7 * normal(rays, SAMPLES, 3).float().double(),
        "target": normal(rays, 3).float().double(),
        "query": 0.5 * normal(rays, SAMPLES, KEY).float().double(),
    }
    chosen = _clear(tensors).nonzero()[: -(-n // SAMPLES), 0]
    for name in ("x", "target", "query"):
        tensors[name] = tensors[name][chosen]
    return {name: value.float() for name, value in tensors.items()}


def views_of(t: Mapping[str, Tensor]) -> kernels.SourceViews:
    return kernels.SourceViews(t["pixels"], t["maps"], t["projections"], t["centres"], t["extents"])


def attention(t: Mapping[str, Tensor], backend: str) -> ViewTensors:
    first = kernels.FirstLayer(t["color"], t["bias"])
    weights = kernels.AttentionWeights(*(t[name] for name in WEIGHTS))
    inputs = (t["x"], t["target"], t["query"], views_of(t), first, weights)
    return {
        "attended": kernels.view_attention(*inputs, backend=backend),
        "dropped": kernels.view_attention(*inputs, DROPOUT, SEED, backend=backend),
    }


def maximum(t: Mapping[str, Tensor], backend: str) -> ViewTensors:
    first = kernels.FirstLayer(t["color"], t["bias"])
    return {"largest": kernels.view_maximum(t["x"], views_of(t), first, t["weight"], backend=backend)}


def _clear(t: Mapping[str, Tensor]) -> Tensor:
    """Rays [R] on which no decision hangs on rounding."""
    margin = 1e-4
    views, first = views_of(t), kernels.FirstLayer(t["color"], t["bias"])
    uv, _ = reference_views.project(t["projections"], t["extents"][:, :2], t["x"])
    edges = torch.minimum(uv.abs(), (uv - (t["extents"][:, None, None, :2] - 1)).abs())
    before, _ = reference_views.first_layer(t["x"], views, first)
    place = kernels.ray_differences(t["x"], t["target"], t["centres"]) @ t["place"] + t["place_bias"]
    hidden = torch.relu(before)
    query = t["query"][:, :, None]
    bottleneck = hidden @ t["key"] + torch.relu(place) @ t["place_key"] + t["key_bias"] - query
    top = (hidden @ t["weight"]).sort(2, descending=True).values
    gap = top[:, :, 0] - top[:, :, 1]
    gap = torch.where(gap == 0, torch.ones_like(gap), gap)  # views that do not see the point agree to the last bit
    depth = torch.einsum("vi,rsi->vrs", t["projections"][:, 2, :3], t["x"]) + t["projections"][:, 2, 3, None, None]
    is_clear = (edges > margin).all(-1).all(0).all(-1) & (depth.abs() > 0.05).all(0).all(-1)
    for values in (before, place, bottleneck, gap):
        is_clear &= (values.abs() > margin).flatten(1).all(1)
    return is_clear
