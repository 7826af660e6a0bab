"""Colour scales for numbers: one for depth, one for errors. Own tables, interpolated from a few control colours."""

from __future__ import annotations

from functools import cache
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

_RAINBOW = (
    (48, 18, 59), (65, 69, 171), (70, 117, 237), (57, 162, 252), (27, 207, 212), (36, 236, 166), (97, 252, 108),
    (164, 252, 60), (209, 232, 52), (243, 198, 58), (254, 155, 45), (243, 99, 21), (217, 56, 6), (177, 25, 1),
    (122, 4, 2),
)  # fmt: skip
"""Dark blue over green to dark red, brightness rising then falling: neighbouring depths differ in hue."""
_HEAT = (
    (0, 0, 0),
    (40, 11, 84),
    (101, 21, 110),
    (159, 42, 99),
    (212, 72, 66),
    (245, 125, 21),
    (250, 193, 39),
    (252, 255, 164),
)
"""Black over purple and orange to pale yellow, brightness rising throughout: more is brighter."""
_GREY = ((0, 0, 0), (255, 255, 255))
_TEAL = ((13, 8, 58), (26, 62, 112), (24, 118, 128), (68, 170, 110), (172, 209, 78), (253, 240, 150))
"""Dark blue over teal to pale yellow, brightness rising throughout; safe for people who do not tell red from green."""
ColormapName = Literal["rainbow", "heat", "teal", "grey"]
COLORMAPS: tuple[ColormapName, ...] = get_args(ColormapName)
_BY_NAME = {"rainbow": _RAINBOW, "heat": _HEAT, "teal": _TEAL, "grey": _GREY}
MAX_ERROR_SHOWN = 0.25
"""Error at which the error scale ends, as a share of the full colour range; fixed so that maps can be compared."""


def color_depth(
    depth: Float[Tensor, "H W"], near: float, far: float, alpha: Float[Tensor, "H W"] | None = None
) -> Float[Tensor, "H W 3"]:
    """Depth as colour: red is near, blue far, black empty.

    The scale is linear in 1 / depth, which gives the foreground of an unbounded scene most of the colours.

    Args:
        depth: Ray length, `inf` where empty.
        near: Depth shown as the red end.
        far: Depth shown as the blue end.
        alpha: Opacity; half-empty pixels fade to black.
    """
    share = (1 / depth.clamp_min(1e-9) - 1 / far) / max(1 / near - 1 / far, 1e-12)
    rgb = _lookup(_RAINBOW, share)
    visible = depth.isfinite().to(rgb.dtype)
    return rgb * (visible if alpha is None else visible * alpha)[..., None]


def color_values(share: Float[Tensor, "H W"], colormap: ColormapName = "rainbow") -> Float[Tensor, "H W 3"]:
    """Shares 0..1 of a range as colours; what lies outside takes the colour of the nearer end.

    Args:
        share: 0 is the lower end, 1 the upper.
        colormap: One of `COLORMAPS`.
    """
    return _lookup(_BY_NAME[colormap], share)


def color_error(error: Float[Tensor, "H W"], largest: float = MAX_ERROR_SHOWN) -> Float[Tensor, "H W 3"]:
    """Absolute errors as colour: black is none, pale yellow is `largest` or more."""
    return _lookup(_HEAT, error / largest)


def depth_range(depths: list[Tensor], low: float = 0.02, high: float = 0.98) -> tuple[float, float]:
    """Near and far for `color_depth` that suit all given depth images: quantiles, so that strays do not count."""
    values = torch.cat([d[d.isfinite() & (d > 0)] for d in depths]) if depths else torch.zeros(0)
    if len(values) == 0:
        return 0.5, 2.0
    # torch.quantile takes at most 2^24 values.
    near, far = np.quantile(values.numpy(), [low, high]).tolist()
    if far < 1.05 * near:
        near, far = near / 1.1, far * 1.1
    return float(near), float(far)


def _lookup(colors: tuple[tuple[int, int, int], ...], share: Tensor) -> Tensor:
    table = _table(colors)
    index = (share.nan_to_num(0.0).clamp(0, 1) * (len(table) - 1)).round().long()
    return table[index]


@cache
def _table(colors: tuple[tuple[int, int, int], ...], n: int = 1024) -> Tensor:
    control = np.array(colors, dtype=np.float64) / 255
    at = np.linspace(0, len(control) - 1, n)
    columns = [np.interp(at, np.arange(len(control)), control[:, c]) for c in range(3)]
    return torch.from_numpy(np.stack(columns, 1)).float()
