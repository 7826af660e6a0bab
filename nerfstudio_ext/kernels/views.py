"""The operations by which points on a ray look at source views (GNT), and the types they take.

Both read the views at the point and compute with what they read at once: what V views show at every sample never lies
in memory. `h(p, v) = relu(bilinear(maps[v], p) + bilinear(pixels[v], p) @ color + bias)` is the hidden layer that both
begin with; the maps come with the first linear layer applied, which commutes with the bilinear mean.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .checks import check_shape
from .dispatch import call

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True)
class SourceViews:
    """V source views as the operations read them.

    Pixel positions are array positions: the centre of the first pixel is (0, 0). A view may be smaller than the arrays,
    though not below 2 pixels a side; what lies beyond its extent must then be zero. The corner pixels of a picture and
    of its map are the same points.

    Attributes:
        pixels: Colours.
        maps: Features.
        projections: World to homogeneous pixel position.
        centres: Camera centres, world.
        extents: (width, height) of the picture, (width, height) of the map.
    """

    pixels: Float[Tensor, "V H W 3"]
    maps: Float[Tensor, "V h w C"]
    projections: Float[Tensor, "V 3 4"]
    centres: Float[Tensor, "V 3"]
    extents: Float[Tensor, "V 4"]

    def __len__(self) -> int:
        return self.maps.shape[0]

    def tensors(self) -> dict[str, Tensor]:
        """The tensors by name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


@dataclass(frozen=True)
class FirstLayer:
    """The hidden layer h: what is not in the maps.

    Attributes:
        color: Of the three colours.
        bias: Before the ReLU.
    """

    color: Float[Tensor, "3 C"]
    bias: Float[Tensor, " C"]


@dataclass(frozen=True)
class AttentionWeights:
    """Subtraction attention with its matrices multiplied out; see `view_attention`.

    Attributes:
        key: Hidden to bottleneck.
        key_bias: Of the bottleneck.
        value: Hidden to value.
        value_bias: Of the value.
        place: Direction difference to its own bottleneck.
        place_bias: Of that.
        place_key: Direction bottleneck to bottleneck.
        place_value: Direction bottleneck to value.
        logit: Bottleneck to logits. A bias would cancel in the softmax.
    """

    key: Float[Tensor, "C A"]
    key_bias: Float[Tensor, " A"]
    value: Float[Tensor, "C D"]
    value_bias: Float[Tensor, " D"]
    place: Float[Tensor, "4 B"]
    place_bias: Float[Tensor, " B"]
    place_key: Float[Tensor, "B A"]
    place_value: Float[Tensor, "B D"]
    logit: Float[Tensor, "A D"]

    def tensors(self) -> dict[str, Tensor]:
        """The tensors by name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


def view_maximum(
    x: Float[Tensor, "R S 3"],
    views: SourceViews,
    first: FirstLayer,
    weight: Float[Tensor, "C D"],
    *,
    backend: str = "auto",
) -> Float[Tensor, "R S D"]:
    """The largest of `h(p, v) @ weight` over the views, channel by channel, unseen points included.

    Args:
        x: Sample positions, world.
        views: Source views, at least one.
        first: The hidden layer.
        weight: What follows it.
    Raises:
        ValueError: if a shape does not fit.
    Differentiable in `views.maps`, `first` and `weight`; where views are equally large one of them gets the gradient.
    """
    _check(x, views, first)
    check_shape("weight", weight, (views.maps.shape[3], None))
    inputs = {"x": x, **views.tensors(), "color": first.color, "bias": first.bias, "weight": weight}
    return call("view_maximum", backend, (x, views, first, weight), **inputs)  # type: ignore[no-any-return]


def view_attention(
    x: Float[Tensor, "R S 3"],
    target: Float[Tensor, "R 3"],
    query: Float[Tensor, "R S A"],
    views: SourceViews,
    first: FirstLayer,
    weights: AttentionWeights,
    dropout: float = 0.0,
    seed: int = 0,
    *,
    backend: str = "auto",
) -> Float[Tensor, "R S D"]:
    """Let points look at their source views: attention with one softmax over the views per channel.

    With e the `ray_differences` between the directions from the point to the target and to the view,
    `b = relu(e @ place + place_bias)`, `a = relu(h @ key + b @ place_key + key_bias - query)`, the logits are
    `a @ logit`, or -1e9 where the point lies behind the view or outside its picture, and the result is the sum over the
    views of `softmax(logits) * (h @ value + b @ place_value + value_bias)`.

    Args:
        x: Sample positions, world.
        target: Where each ray starts.
        query: What each point asks for, in the bottleneck.
        views: Source views, at least one.
        first: The hidden layer.
        weights: The matrices.
        dropout: Share of the probabilities set to zero, the others scaled up; 0 drops none.
        seed: Decides which; equal on all back ends.
    Raises:
        ValueError: if a shape does not fit or `dropout` is not in [0, 1).
    Differentiable in `query`, `views.maps`, `first` and `weights`.
    Source: arXiv 2207.13298, section 3.2, in the form of its official code; -1e9 makes the mean over all views where
    none sees the point.
    """
    _check(x, views, first)
    n_hidden, n_key, n_value = views.maps.shape[3], weights.logit.shape[0], weights.logit.shape[1]
    n_place = weights.place.shape[1]
    check_shape("target", target, (x.shape[0], 3))
    check_shape("query", query, (*x.shape[:2], n_key))
    shapes = {
        "key": (n_hidden, n_key), "key_bias": (n_key,), "value": (n_hidden, n_value), "value_bias": (n_value,),
        "place": (4, n_place), "place_bias": (n_place,), "place_key": (n_place, n_key),
        "place_value": (n_place, n_value), "logit": (n_key, n_value),
    }  # fmt: skip
    for name, tensor in weights.tensors().items():
        check_shape(name, tensor, shapes[name])
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must lie in [0, 1), got {dropout}")
    inputs = {"x": x, "target": target, "query": query, **views.tensors(), "color": first.color, "bias": first.bias}
    arguments = (x, target, query, views, first, weights, dropout, seed)
    return call("view_attention", backend, arguments, **inputs, **weights.tensors())  # type: ignore[no-any-return]


def _check(x: Tensor, views: SourceViews, first: FirstLayer) -> None:
    check_shape("x", x, (None, None, 3))
    n_views, n_hidden = views.maps.shape[0], views.maps.shape[3]
    if n_views < 1:
        raise ValueError("there must be at least one source view")
    check_shape("pixels", views.pixels, (n_views, None, None, 3))
    check_shape("projections", views.projections, (n_views, 3, 4))
    check_shape("centres", views.centres, (n_views, 3))
    check_shape("extents", views.extents, (n_views, 4))
    arrays = views.extents.new_tensor([*views.pixels.shape[2:0:-1], *views.maps.shape[2:0:-1]])
    if bool((views.extents > arrays).any() | (views.extents < 2).any()):
        raise ValueError("extents must lie between 2 and the sizes of the arrays")
    check_shape("color", first.color, (3, n_hidden))
    check_shape("bias", first.bias, (n_hidden,))


def ray_differences(
    x: Float[Tensor, "R S 3"], target: Float[Tensor, "R 3"], centres: Float[Tensor, "V 3"]
) -> Float[Tensor, "R S V 4"]:
    """Unit difference of the directions from points to the target and to each view, and the cosine between them."""

    def direction(v: Tensor) -> Tensor:
        return v / (v.norm(dim=-1, keepdim=True) + 1e-6)

    to_target = direction(target[:, None, None] - x[:, :, None])
    to_source = direction(centres[None, None] - x[:, :, None])
    difference = to_target - to_source
    length = difference.norm(dim=-1, keepdim=True)
    return torch.cat([difference / length.clamp_min(1e-6), (to_target * to_source).sum(-1, keepdim=True)], -1)
