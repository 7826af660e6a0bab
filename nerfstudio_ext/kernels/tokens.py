"""The feed-forward part of a transformer block as one operation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from .checks import check_shape
from .dispatch import call

if TYPE_CHECKING:
    from jaxtyping import Float


def feed_forward(
    x: Float[Tensor, "P D"],
    gain: Float[Tensor, " D"],
    offset: Float[Tensor, " D"],
    first: Float[Tensor, "D H"],
    first_bias: Float[Tensor, " H"],
    second: Float[Tensor, "H D"],
    second_bias: Float[Tensor, " D"],
    eps: float,
    *,
    backend: str = "auto",
) -> Float[Tensor, "P D"]:
    """Add to each token what two layers make of it: `x + relu(norm(x) @ first + first_bias) @ second + second_bias`.

    Args:
        x: Tokens.
        gain: Of the layer norm.
        offset: Of the layer norm.
        first: Linear layer.
        first_bias: Its bias.
        second: Linear layer.
        second_bias: Its bias.
        eps: Added to the variance in the norm.
    Returns:
        New tokens.
    Raises:
        ValueError: if a shape does not fit.
    Differentiable in all tensors (not on "cpu", where it is for inference).
    """
    width, hidden = first.shape
    shapes = {
        "x": (x, (None, width)), "gain": (gain, (width,)), "offset": (offset, (width,)),
        "first_bias": (first_bias, (hidden,)), "second": (second, (hidden, width)),
        "second_bias": (second_bias, (width,)),
    }  # fmt: skip
    for name, (tensor, shape) in shapes.items():
        check_shape(name, tensor, shape)
    inputs = {name: tensor for name, (tensor, _) in shapes.items()}
    arguments = (x, gain, offset, first, first_bias, second, second_bias, eps)
    return call("feed_forward", backend, arguments, first=first, **inputs)  # type: ignore[no-any-return]
