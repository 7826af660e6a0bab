"""The two kinds of transformer block in GNT, in plain torch with the official tensor names.

A view block lets each point look at what its source views show; a ray block lets the points of a ray look at each
other. Source: arXiv 2207.13298, section 3; constants from its official code.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

Tokens = Float[Tensor, "R S D"]
Dropout = Callable[[Tensor], Tensor]
"""What training drops at random; inference passes `keep_all`."""

HEADS = 4
NORM_EPS = 1e-6
"""Of the norms inside blocks; the last norm of the network has torch's 1e-5."""
MASKED = -1e9
"""Logit of a view that does not see the point: a point that no view sees averages over all of them."""


def keep_all(x: Tensor) -> Tensor:
    """No dropout."""
    return x


class FeedForward(nn.Module):
    """Linear to four times the width, ReLU, linear back."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tokens, drop: Dropout = keep_all) -> Tokens:
        """Transform each token on its own."""
        return drop(self.fc2(drop(torch.relu(self.fc1(x)))))


class SubtractionAttention(nn.Module):
    """Attention over views with one softmax per channel, from the difference of key and query.

    The value is projected from the key that is projected already: a trait of the official weights.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.q_fc, self.k_fc, self.v_fc = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.pos_fc = _bottleneck(4, width // 8, width)
        self.attn_fc = _bottleneck(width, width // 8, width)
        self.out_fc = nn.Linear(width, width)

    def forward(
        self,
        q: Tokens,
        f: Float[Tensor, "R S V D"],
        ray_diff: Float[Tensor, "R S V 4"],
        mask: Float[Tensor, "R S V 1"],
        drop: Dropout = keep_all,
    ) -> Tokens:
        """What each token takes from its views.

        Args:
            q: Normed tokens.
            f: What the views show at each point.
            ray_diff: How the view directions differ; see `epipolar.ray_differences`.
            mask: 1 where the view sees the point.
            drop: Dropout of probabilities and result.
        """
        key = self.k_fc(f)
        position = self.pos_fc(ray_diff)
        logits = self.attn_fc(key - self.q_fc(q)[:, :, None] + position)
        probability = drop(torch.softmax(logits.masked_fill(mask == 0, MASKED), dim=-2))
        return drop(self.out_fc(((self.v_fc(key) + position) * probability).sum(-2)))


class RayAttention(nn.Module):
    """Ordinary attention along the ray, four heads, no positions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.q_fc, self.k_fc, self.v_fc = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.out_fc = nn.Linear(width, width)

    def forward(self, x: Tokens, drop: Dropout = keep_all) -> tuple[Tokens, Float[Tensor, "R S"]]:
        """The update of each token, and the head-mean attention of the nearest sample: the learned depth weights."""
        q, k, v = (_in_heads(project(x)) for project in (self.q_fc, self.k_fc, self.v_fc))
        probability = torch.softmax(q @ k.mT / q.shape[-1] ** 0.5, dim=-1)
        out = (drop(probability) @ v).transpose(1, 2).flatten(2)
        return drop(self.out_fc(out)), probability[:, :, 0].mean(1)


class ViewBlock(nn.Module):
    """Subtraction attention over the views, then the feed-forward part, each added to the tokens."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attn_norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.ff_norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.ff = FeedForward(width)
        self.attn = SubtractionAttention(width)

    def forward(self, q: Tokens, f: Tensor, ray_diff: Tensor, mask: Tensor, drop: Dropout = keep_all) -> Tokens:
        """The tokens after the block."""
        x = q + self.attn(self.attn_norm(q), f, ray_diff, mask, drop)
        return x + self.ff(self.ff_norm(x), drop)


class RayBlock(nn.Module):
    """Attention along the ray, then the feed-forward part, each added to the tokens."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attn_norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.ff_norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.ff = FeedForward(width)
        self.attn = RayAttention(width)

    def forward(self, q: Tokens, drop: Dropout = keep_all) -> tuple[Tokens, Float[Tensor, "R S"]]:
        """The tokens after the block, and the depth weights of its attention."""
        update, weights = self.attn(self.attn_norm(q), drop)
        x = q + update
        return x + self.ff(self.ff_norm(x), drop), weights


def _bottleneck(n_in: int, hidden: int, n_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(n_in, hidden), nn.ReLU(), nn.Linear(hidden, n_out))


def _in_heads(x: Tokens) -> Float[Tensor, "R heads S d"]:
    return x.unflatten(-1, (HEADS, -1)).transpose(1, 2)
