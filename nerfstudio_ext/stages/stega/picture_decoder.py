"""The paper's way of reading a mark: a U-Net that sees a hidden picture in any render of a scene, and a classifier.

Both are trained together with the scene they belong to, from random initialisation. What the U-Net learns is, for the
most part, the picture itself: the scene decides whether it shows. Who has the file has the picture; a render that opens
it is proof that the scene was made for this file.

Source: Li et al. 2023 (StegaNeRF), section 3.2. Other than there, pictures are low-pass filtered before they are made
smaller, so that no lattice of pixels carries the mark; the classifier shares the U-Net's encoder; and since a hidden
picture has nothing to do with where the camera stood, learned maps tell the levels of the decoder where in the hidden
picture they are, and averages over the whole render, of all levels of the encoder, whether there is something to show.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from .extractor import PixelNorm, about_extractor
from .weight_files import WeightFormat

FORMAT = "nerfstudio-ext picture decoder"
WORKING_SIDE = 128
"""Side to which pictures of any size are brought, pixels."""
_FILE = WeightFormat("a", "picture decoder", FORMAT, 1)
_WIDTHS = (16, 48, 96, 128, 128)
"""Channels of the encoder at 128, 64, 32, 16 and 8 pixels."""
_UP_WIDTHS = {16: 96, 32: 64, 64: 32, 128: 16}
_SKIP = 16
"""Channels of what the decoder sees of each level of the encoder."""
_BINOMIAL = (0.0625, 0.25, 0.375, 0.25, 0.0625)
_DETAIL_GAIN = 24.0
"""Of the bands of a picture before they are limited to -1..1: a mark of 38 dB is a hundredth of the picture's range,
and edges, which are a hundred times as strong, are to have no more to say."""
_BANDS = 2
N_NULL = 255
"""Unmarked pictures whose logits are kept: the chance of a false alarm is told down to one in 256."""


@dataclass(frozen=True)
class HiddenForm:
    """What is hidden: 64 x 64 colours, or 128 x 128 values of a sound's spectrogram.

    Attributes:
        kind: "image" or "audio".
    """

    kind: str

    def __post_init__(self) -> None:
        if self.kind not in ("image", "audio"):
            raise ValueError(self.kind)

    @property
    def channels(self) -> int:
        return 3 if self.kind == "image" else 1

    @property
    def side(self) -> int:
        """Pixels."""
        return 64 if self.kind == "image" else 128


class _Block(nn.Sequential):
    """3x3 convolution, activation, norm over the channels of each pixel."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__(nn.Conv2d(n_in, n_out, 3, padding=1), nn.SiLU(), PixelNorm(n_out))


class _Places(nn.Module):
    """Tells a level of the decoder where in the hidden picture it is, as loudly as a summary of the render says."""

    def __init__(self, n_summary: int, channels: int, side: int) -> None:
        super().__init__()
        self.maps = nn.Parameter(torch.randn(1, channels, side, side))
        self.gate = nn.Linear(n_summary, channels)

    def forward(self, x: Float[Tensor, "B C S S"], summary: Float[Tensor, "B F"]) -> Float[Tensor, "B C S S"]:
        return x + self.maps * self.gate(summary)[:, :, None, None]


class PictureDecoder(nn.Module):
    """Renders to hidden pictures and logits of being marked; 0.9 million parameters, 3.7 MB (sounds: 1.2, 4.7).

    Attributes:
        form: What is hidden.
        null_logits: [N_NULL] ascending; of unmarked pictures after random attacks, infinite until `set_null`.

    Args:
        form: What is hidden.
    """

    null_logits: Tensor
    lowpass: Tensor

    def __init__(self, form: HiddenForm) -> None:
        super().__init__()
        self.form = form
        self.stem = nn.Sequential(nn.Conv2d(3 * (1 + _BANDS), _WIDTHS[0], 3, padding=1), nn.SiLU())
        self.down = nn.ModuleList(_Block(a, b) for a, b in zip(_WIDTHS, _WIDTHS[1:], strict=False))
        deepest, lowest = _WIDTHS[-1], WORKING_SIDE >> len(self.down)
        self.summary = nn.Sequential(nn.Linear(2 * sum(_WIDTHS[1:]), deepest), nn.LayerNorm(deepest), nn.SiLU())
        self.classify = nn.Linear(deepest, 1)
        self.bottom = nn.Conv2d(deepest, deepest, 1)
        sides = [side for side in _UP_WIDTHS if side <= form.side]
        widths = [deepest, *(_UP_WIDTHS[side] for side in sides)]
        self.places = nn.ModuleList(_Places(deepest, n, side) for n, side in zip(widths, [lowest, *sides], strict=True))
        self.skips = nn.ModuleList(nn.Conv2d(self._width_at(side), _SKIP, 1) for side in sides)
        self.up = nn.ModuleList(_Block(a + _SKIP, b) for a, b in zip(widths, widths[1:], strict=False))
        self.out = nn.Conv2d(widths[-1], form.channels, 3, padding=1)
        taps = torch.tensor(_BINOMIAL)
        self.register_buffer("lowpass", torch.outer(taps, taps)[None, None], persistent=False)
        self.register_buffer("null_logits", torch.full((N_NULL,), torch.finfo(torch.float32).max))

    def forward(self, pictures: Float[Tensor, "B 3 H W"]) -> tuple[Float[Tensor, "B C S S"], Float[Tensor, " B"]]:
        """Hidden pictures and logits.

        Args:
            pictures: sRGB values 0 to 1, of any size from 64 pixels.
        Returns:
            Hidden pictures, about 0 to 1 (black: nothing there), and logits of being marked.
        """
        x = self.stem(self._bands(to_working_size(pictures)))
        levels = {WORKING_SIDE: x}
        for block in self.down:
            x = block(functional.avg_pool2d(x, 3, stride=2, padding=1, count_include_pad=False))
            levels[x.shape[-1]] = x
        pooled = [pool for side, level in levels.items() if side < WORKING_SIDE for pool in _pooled(level.float())]
        summary = self.summary(torch.cat(pooled, 1))
        logits = self.classify(summary)[:, 0]
        x = self.places[0](self.bottom(x), summary)
        for skip, block, places in zip(self.skips, self.up, self.places[1:], strict=True):
            side = 2 * x.shape[-1]
            x = functional.interpolate(x, (side, side))
            x = places(block(torch.cat([x, skip(levels[side])], 1)), summary)
        return self.out(x).float(), logits.float()

    def p_value(self, logit: float) -> float:
        """Chance that an unmarked picture looks as marked, from the logits that are kept; at least one in 256."""
        return (1 + int((self.null_logits >= logit).sum())) / (N_NULL + 1)

    @torch.no_grad()
    def set_null(self, logits: Float[Tensor, " N"]) -> None:
        """Keep the logits of `N_NULL` unmarked pictures."""
        self.null_logits.copy_(logits.sort().values)

    def _bands(self, pictures: Tensor) -> Tensor:
        """[B,9,H,W] the pictures' finest bands, amplified and limited, and what is left of them."""
        bands, rest = [], pictures
        for octave in range(_BANDS):
            smooth = self._smooth(rest, 1 << octave)
            bands.append(torch.tanh(_DETAIL_GAIN * (rest - smooth)))
            rest = smooth
        return torch.cat([*bands, 2 * rest - 1], 1)

    def _smooth(self, x: Tensor, spacing: int) -> Tensor:
        """Binomial low-pass filter with its taps so many pixels apart."""
        padded = functional.pad(x, (2 * spacing,) * 4, mode="replicate")
        return functional.conv2d(padded, self.lowpass.expand(3, 1, -1, -1), groups=3, dilation=spacing)

    @staticmethod
    def _width_at(side: int) -> int:
        return _WIDTHS[int(math.log2(WORKING_SIDE // side))]


def _pooled(x: Tensor) -> tuple[Tensor, Tensor]:
    """[B,C] mean and root mean square over the pixels."""
    return x.mean((2, 3)), (x.square().mean((2, 3)) + 1e-6).sqrt()


def to_working_size(pictures: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 S S"]:
    """Pictures of the size the decoder works at, low-pass filtered where they shrink; the shape is not kept."""
    if pictures.shape[-2:] == (WORKING_SIDE, WORKING_SIDE):
        return pictures
    return functional.interpolate(
        pictures, (WORKING_SIDE, WORKING_SIDE), mode="bilinear", antialias=True, align_corners=False
    )


def save_decoder(decoder: PictureDecoder, path: Path, notes: dict[str, str]) -> None:
    """Write weights, checksum, what is hidden and other notes into one safetensors file; replaced when it exists."""
    _FILE.save(decoder, path, {**notes, "kind": decoder.form.kind})


def load_decoder(path: Path) -> tuple[PictureDecoder, dict[str, str]]:
    """Read a decoder, ready for use, and its notes.

    Raises:
        UserError: if the file is missing, not a picture decoder, of a later version, or damaged.
    """
    return _FILE.load(path, lambda notes: PictureDecoder(HiddenForm(notes["kind"])))


def is_decoder(path: Path) -> bool:
    """Whether a file holds a picture decoder; raises as `load_decoder` where it holds no network at all."""
    return about_extractor(path).get("format") == FORMAT
