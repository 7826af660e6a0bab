"""The network of the small prior: a transformer that removes noise from a picture of a thing seen from a given view.

A picture is cut into patches; those of the noisy picture, those of the photo and one token for everything else look at
each other. Noise level, view and class also scale and shift every layer (Peebles and Xie 2023; Chen et al. 2023).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional

CHANNELS = 4
"""Premultiplied colour and opacity."""
HARMONICS = 3
NOISE_FREQUENCIES = 8


@dataclass(frozen=True)
class DenoiserSize:
    """Sizes of the network.

    Attributes:
        side: Of the pictures, pixels.
        patch: Side of a patch of either picture.
        width: Channels of a token.
        depth: Layers.
        n_heads: Heads of attention.
        n_classes: Kinds of things.
    """

    side: int = 16
    patch: int = 4
    width: int = 192
    depth: int = 6
    n_heads: int = 6
    n_classes: int = 8


@dataclass(frozen=True)
class Conditions:
    """What the network is told about V pictures.

    Attributes:
        photo: The photo as latents; zeros where it is not shown.
        has_photo: Whether it is shown.
        class_ids: Kind of thing; `n_classes` says unknown.
        view_deg: Azimuth and elevation of the picture and elevation of the photo.
    """

    photo: Float[Tensor, "V 4 S S"]
    has_photo: Bool[Tensor, " V"]
    class_ids: Int64[Tensor, " V"]
    view_deg: Float[Tensor, "V 3"]


class PoseDenoiser(nn.Module):
    """Predicts `v = sqrt(a) noise - sqrt(1 - a) picture` (Salimans and Ho 2022).

    Args:
        size: Sizes.
        generator: Draws the weights.
    """

    def __init__(self, size: DenoiserSize, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.size = size
        n, width = (size.side // size.patch) ** 2, size.width
        self.patches = nn.Linear(CHANNELS * size.patch**2, width)
        self.photo_patches = nn.Linear(CHANNELS * size.patch**2, width)
        self.places = nn.Parameter(torch.zeros(n, width))
        self.photo_places = nn.Parameter(torch.zeros(n, width))
        self.no_photo = nn.Parameter(torch.zeros(width))
        self.classes = nn.Embedding(size.n_classes + 1, width)
        self.told = nn.Sequential(
            nn.Linear(2 * NOISE_FREQUENCIES + 2 * HARMONICS + 4, width), nn.SiLU(), nn.Linear(width, width)
        )
        self.modulation = nn.Linear(width, 6 * width)
        self.layers = nn.ModuleList(DenoiserLayer(width, size.n_heads) for _ in range(size.depth))
        self.last_norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, CHANNELS * size.patch**2)
        self._draw(generator)

    def forward(
        self, noisy: Float[Tensor, "V 4 S S"], alphas: Float[Tensor, " V"], given: Conditions
    ) -> Float[Tensor, "V 4 S S"]:
        """The network's v for noisy latents whose share of signal variance is `alphas`."""
        told = self.told(torch.cat([_noise_code(alphas), _view_code(given.view_deg)], 1))
        told = told + self.classes(given.class_ids)
        photo = self.photo_patches(_cut(given.photo, self.size.patch)) + self.photo_places
        photo = torch.where(given.has_photo[:, None, None], photo, self.no_photo)
        image = self.patches(_cut(noisy, self.size.patch)) + self.places
        tokens = torch.cat([image, photo, told[:, None]], 1)
        modulation = self.modulation(functional.silu(told)).unflatten(1, (6, -1))
        for layer in self.layers:
            tokens = layer(tokens, modulation)
        return _joined(self.out(self.last_norm(tokens[:, : image.shape[1]])), self.size.side, self.size.patch)

    def _draw(self, generator: torch.Generator | None) -> None:
        for name, parameter in self.named_parameters():
            if parameter.dim() == 1:
                continue  # offsets and gains begin as torch has them
            std = 0.02 if "places" in name or "classes" in name else parameter.shape[1] ** -0.5
            # Each layer begins as the identity, and the result as zero: deep stacks then train at a high rate.
            if name == "out.weight" or name.startswith("modulation") or name.endswith("last.weight"):
                std = 0.0
            nn.init.normal_(parameter, std=std, generator=generator)
        for name, parameter in self.named_parameters():
            if name.endswith(".bias"):
                nn.init.zeros_(parameter)
        # Gates stand at one: what is gated begins at zero already.
        with torch.no_grad():
            self.modulation.bias.unflatten(0, (6, -1))[[2, 5]] = 1.0


class DenoiserLayer(nn.Module):
    """Attention among all tokens, then a network on each; both scaled and shifted by what the denoiser is told."""

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.queries = nn.Linear(width, 3 * width)
        self.attention_last = nn.Linear(width, width)
        self.hidden = nn.Linear(width, 3 * width)
        self.last = nn.Linear(3 * width, width)
        self.own = nn.Parameter(torch.zeros(6, width))

    def forward(self, tokens: Float[Tensor, "V N W"], modulation: Float[Tensor, "V 6 W"]) -> Float[Tensor, "V N W"]:
        """The tokens after this layer."""
        shift_a, scale_a, gate_a, shift_b, scale_b, gate_b = (modulation + self.own)[:, :, None].unbind(1)
        x = self.norm(tokens) * (1 + scale_a) + shift_a
        q, k, v = self.queries(x).unflatten(2, (3, self.n_heads, -1)).permute(2, 0, 3, 1, 4)
        # Written out: the fused attention takes five times as long for so few tokens on a CPU.
        likeness = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)
        seen = (likeness.to(v.dtype) @ v).transpose(1, 2).flatten(2)
        tokens = tokens + gate_a * self.attention_last(seen)
        x = self.norm(tokens) * (1 + scale_b) + shift_b
        return tokens + gate_b * self.last(self.hidden(x).relu())


def cosine_alphas(n: int = 1000) -> Float[Tensor, " T"]:
    """The squared-cosine schedule of Nichol and Dhariwal 2021, cut where nothing of the signal is left."""
    t = (torch.arange(n, dtype=torch.float64) + 1) / n
    level = torch.cos((t + 0.008) / 1.008 * math.pi / 2).square()
    return (level / math.cos(0.008 / 1.008 * math.pi / 2) ** 2).clamp(1e-4, 0.9999).float()


def _noise_code(alphas: Float[Tensor, " V"]) -> Float[Tensor, "V C"]:
    """Waves of the logarithm of signal over noise, scaled to about -1..1."""
    level = torch.log(alphas / (1 - alphas)) / 10
    waves = level[:, None] * math.pi * 2.0 ** torch.arange(NOISE_FREQUENCIES, device=alphas.device) / 4
    return torch.cat([waves.sin(), waves.cos()], 1)


def _view_code(view_deg: Float[Tensor, "V 3"]) -> Float[Tensor, "V C"]:
    azimuth, elevation, photo_elevation = torch.deg2rad(view_deg).unbind(1)
    waves = azimuth[:, None] * torch.arange(1, HARMONICS + 1, device=azimuth.device)
    rest = torch.stack([elevation.sin(), elevation.cos(), photo_elevation.sin(), photo_elevation.cos()], 1)
    return torch.cat([waves.sin(), waves.cos(), rest], 1)


def _cut(picture: Float[Tensor, "V 4 S S"], patch: int) -> Float[Tensor, "V N P"]:
    n = picture.shape[-1] // patch
    return picture.unflatten(3, (n, patch)).unflatten(2, (n, patch)).permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def _joined(patches: Float[Tensor, "V N P"], side: int, patch: int) -> Float[Tensor, "V 4 S S"]:
    n = side // patch
    cells = patches.unflatten(2, (CHANNELS, patch, patch)).unflatten(1, (n, n))
    return cells.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)
