"""The transformer of GNT through the fused operations: the same numbers as `ViewTransformer.forward`, to rounding.

What is linear is multiplied out beforehand. The first layer of `rgbfeat_fc` goes onto the feature maps (a bilinear mean
commutes with it), its second one into the key and value matrices of every block, and the value projection into the key
projection. What a view shows at a point then never leaves the operation that reads it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from .. import kernels
from ..kernels import AttentionWeights, FirstLayer, SourceViews
from .epipolar import SourceCameras
from .gnt_blocks import HEADS, Dropout, FeedForward, RayBlock, Tokens, ViewBlock, keep_all
from .view_transformer import ViewTransformer, positional_code


@dataclass(frozen=True)
class Options:
    """How `look_and_transform` computes.

    Attributes:
        drop: Dropout of tokens in training.
        attention_dropout: The same of the probabilities over views.
        seed: Decides which probabilities drop.
        dtype: Of the products within tokens; bfloat16 is for inference on processors that have it.
        backend: Of the fused operations.
        asked: Position of the sample whose attention is returned as weights; the official one is the nearest, 0.
    """

    drop: Dropout = keep_all
    attention_dropout: float = 0.0
    seed: int = 0
    dtype: torch.dtype = torch.float32
    backend: str = "auto"
    asked: int = 0


def make_views(
    model: ViewTransformer,
    pictures: Float[Tensor, "V 3 H W"],
    maps: Float[Tensor, "V F h w"],
    cameras: SourceCameras,
    map_sizes: Float[Tensor, "V 2"] | None = None,
) -> SourceViews:
    """Source views with the first linear layer of the model on their maps.

    Args:
        model: The transformer.
        pictures: Colours; zero beyond a view's own size.
        maps: Features; zero beyond a view's own map.
        cameras: Of the views, with their sizes.
        map_sizes: (width, height) of each map; None: all fill the array.
    """
    weight = _linear(model.rgbfeat_fc, 0).weight
    projected = functional.linear(maps.permute(0, 2, 3, 1), weight[:, 3:])
    if map_sizes is None:
        map_sizes = cameras.sizes.new_tensor([maps.shape[3], maps.shape[2]]).expand_as(cameras.sizes)
    extents = torch.cat([cameras.sizes, map_sizes], 1)
    pixels = pictures.permute(0, 2, 3, 1).contiguous()
    return SourceViews(pixels, projected, cameras.projections, cameras.centres.contiguous(), extents)


def look_and_transform(
    model: ViewTransformer,
    views: SourceViews,
    x: Float[Tensor, "R S 3"],
    rays_o: Float[Tensor, "R 3"],
    rays_d: Float[Tensor, "R 3"],
    options: Options | None = None,
    *,
    code_scale: float = 1.0,
) -> tuple[Float[Tensor, "R 3"], Float[Tensor, "R S"]]:
    """Colours of rays and the weights of their samples; see `ViewTransformer.forward`.

    Args:
        model: The transformer.
        views: From `make_views` with the same model.
        x: Samples, world.
        rays_o: Where each ray starts.
        rays_d: Directions of any length.
        options: How to compute.
        code_scale: Factor on positions before they are coded: the unit of length the model was trained in.
    """
    options = options or Options()
    first_layer, second = _linear(model.rgbfeat_fc, 0), _linear(model.rgbfeat_fc, 2)
    first = FirstLayer(first_layer.weight[:, :3].T, first_layer.bias)
    q = kernels.view_maximum(x, views, first, second.weight.T, backend=options.backend) + second.bias
    point_code = positional_code(code_scale * x)
    direction_code = positional_code(functional.normalize(rays_d, dim=-1))
    weights = x.new_zeros(x.shape[:2])
    for i in range(model.depth):
        view_block, ray_block = model.view_crosstrans[i], model.view_selftrans[i]
        assert isinstance(view_block, ViewBlock) and isinstance(ray_block, RayBlock)
        q = _view_block(view_block, second, q, views, first, x, rays_o, replace(options, seed=options.seed + i))
        if i % 2 == 0:
            q = _inject(model.q_fcs[i], q, point_code, direction_code, options)
        q, weights = _ray_block(ray_block, q, options, wants_weights=i == model.depth - 1)
    return model.colors(q), weights


def folded(block: ViewBlock, second: torch.nn.Linear) -> AttentionWeights:
    """The attention of a view block, with everything linear before and after the bottlenecks multiplied out."""
    attention = block.attn
    place_in, place_out = _linear(attention.pos_fc, 0), _linear(attention.pos_fc, 2)
    logit_in, logit_out = _linear(attention.attn_fc, 0), _linear(attention.attn_fc, 2)
    key = attention.k_fc.weight
    value = attention.v_fc.weight @ key
    bottleneck = logit_in.weight @ key
    return AttentionWeights(
        key=(bottleneck @ second.weight).T,
        key_bias=bottleneck @ second.bias + logit_in.weight @ place_out.bias + logit_in.bias,
        value=(value @ second.weight).T,
        value_bias=value @ second.bias + place_out.bias,
        place=place_in.weight.T,
        place_bias=place_in.bias,
        place_key=(logit_in.weight @ place_out.weight).T,
        place_value=place_out.weight.T,
        logit=logit_out.weight.T,
    )


def _view_block(
    block: ViewBlock,
    second: torch.nn.Linear,
    q: Tokens,
    views: SourceViews,
    first: FirstLayer,
    x: Tensor,
    rays_o: Tensor,
    options: Options,
) -> Tokens:
    attention = block.attn
    query = functional.linear(block.attn_norm(q), _linear(attention.attn_fc, 0).weight @ attention.q_fc.weight)
    taken = kernels.view_attention(
        x, rays_o, query, views, first, folded(block, second), options.attention_dropout, options.seed,
        backend=options.backend,
    )  # fmt: skip
    q = _added(q, options.drop(_product(taken, attention.out_fc, options)))
    return _feed_forward(block.ff, block.ff_norm, q, options)


def _ray_block(block: RayBlock, q: Tokens, options: Options, *, wants_weights: bool) -> tuple[Tokens, Tensor]:
    attention = block.attn
    joined = torch.cat([attention.q_fc.weight, attention.k_fc.weight, attention.v_fc.weight])
    projected = functional.linear(block.attn_norm(q).to(options.dtype), joined.to(options.dtype))
    query, key, value = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in projected.chunk(3, -1))
    weights = q.new_zeros(q.shape[:2])
    if options.drop is keep_all:
        out = functional.scaled_dot_product_attention(query, key, value)
        if wants_weights:
            asked = query[:, :, options.asked, None] @ key.mT / key.shape[-1] ** 0.5
            weights = torch.softmax(asked.to(q.dtype), -1)[:, :, 0].mean(1)
    else:
        probability = torch.softmax(query @ key.mT / key.shape[-1] ** 0.5, -1)
        out, weights = options.drop(probability) @ value, probability[:, :, options.asked].mean(1)
    update = _product(out.transpose(1, 2).flatten(2), attention.out_fc, options)
    q = _added(q, options.drop(update))
    return _feed_forward(block.ff, block.ff_norm, q, options), weights


def _inject(
    layers: torch.nn.Module, q: Tokens, point_code: Tensor, direction_code: Float[Tensor, "R C"], options: Options
) -> Tokens:
    """The position layers; the part of the direction is the same along a ray."""
    before, after = _linear(layers, 0), _linear(layers, 2)
    width, code = q.shape[-1], point_code.shape[-1]
    of_tokens, of_points, of_directions = before.weight.split([width, code, code], 1)
    along = functional.linear(direction_code, of_directions, before.bias)[:, None]
    dtype = options.dtype
    hidden = functional.linear(q.to(dtype), of_tokens.to(dtype)) + functional.linear(
        point_code.to(dtype), of_points.to(dtype)
    )
    return _product(_opened(hidden.to(q.dtype) + along), after, options)


def _feed_forward(layers: FeedForward, norm: torch.nn.LayerNorm, q: Tokens, options: Options) -> Tokens:
    """The tokens after the feed-forward part."""
    dtype, fc1, fc2 = options.dtype, layers.fc1, layers.fc2
    if not torch.is_grad_enabled() and dtype == torch.float32:
        weights = (norm.weight, norm.bias, fc1.weight.T, fc1.bias, fc2.weight.T, fc2.bias)
        return kernels.feed_forward(q.flatten(0, 1), *weights, norm.eps, backend=options.backend).view(q.shape)
    x = norm(q)
    hidden = _opened(functional.linear(x.to(dtype), fc1.weight.to(dtype), fc1.bias.to(dtype)))
    return _added(q, options.drop(_product(options.drop(hidden), fc2, options)))


def _opened(x: Tensor) -> Tensor:
    """ReLU of a tensor made for it: in place where no gradient needs what was there."""
    return torch.relu(x) if torch.is_grad_enabled() else torch.relu_(x)


def _added(tokens: Tokens, update: Tensor) -> Tokens:
    """Tokens, which are this module's own, plus their update; in place as `_opened`."""
    return tokens + update if torch.is_grad_enabled() else tokens.add_(update)


def _product(x: Tensor, layer: torch.nn.Linear, options: Options) -> Tensor:
    dtype = options.dtype
    if dtype == torch.float32:
        return layer(x)
    return functional.linear(x.to(dtype), layer.weight.to(dtype), layer.bias.to(dtype)).float()


def _linear(layers: torch.nn.Module, i: int) -> torch.nn.Linear:
    layer = layers[i]  # type: ignore[index]
    assert isinstance(layer, torch.nn.Linear)
    return layer
