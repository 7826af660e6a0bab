"""Two versions of one scene in one picture: either, both side by side, or what differs."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from ..cameras import Camera
from ..renderer import CancelToken, Frame, Renderer

Side = Literal["marked", "unmarked", "wipe", "difference x20"]
SIDES: tuple[Side, ...] = get_args(Side)
AMPLIFIED = 20.0
"""Marks change colours by one or two hundredths: twenty times that is seen well and seldom clipped."""


@dataclass(frozen=True)
class Choice:
    """What is shown.

    Attributes:
        side: Which version; `wipe` shows the marked one on the left and the unmarked one on the right.
        wipe: Where they meet, as a share of the width.
    """

    side: Side = "marked"
    wipe: float = 0.5


class ComparisonRenderer:
    """A `Renderer` of two others that show the same scene. Both must have one background.

    Attributes:
        choice: What the next frame shows; replaced as a whole, so that a thread that renders sees one or the other.

    Args:
        marked: One version.
        unmarked: The other.
    """

    def __init__(self, marked: Renderer, unmarked: Renderer) -> None:
        assert marked.background == unmarked.background
        self.marked, self.unmarked = marked, unmarked
        self.background = marked.background
        self.choice = Choice()

    def render(self, camera: Camera, *, cancel: CancelToken | None = None) -> Frame:
        """Render what is chosen. A wipe costs as much as one version: each half is rendered once."""
        choice = self.choice
        if choice.side == "wipe":
            return self._wipe(camera, round(choice.wipe * camera.width), cancel)
        if choice.side == "unmarked":
            return self.unmarked.render(camera, cancel=cancel)
        frame = self.marked.render(camera, cancel=cancel)
        if choice.side == "marked":
            return frame
        other = self.unmarked.render(camera, cancel=cancel)
        difference = 0.5 + AMPLIFIED * (frame.rgb - other.rgb)
        return dataclasses.replace(frame, rgb=difference.clamp(0, 1))

    def _wipe(self, camera: Camera, column: int, cancel: CancelToken | None) -> Frame:
        if column <= 0:
            return self.unmarked.render(camera, cancel=cancel)
        if column >= camera.width:
            return self.marked.render(camera, cancel=cancel)
        left = self.marked.render(camera.crop(0, 0, column, camera.height), cancel=cancel)
        right = self.unmarked.render(camera.crop(column, 0, camera.width - column, camera.height), cancel=cancel)
        has_alpha = left.alpha is not None and right.alpha is not None
        return Frame(
            torch.cat([left.rgb, right.rgb], 1),
            torch.cat([left.depth, right.depth], 1),
            torch.cat([left.alpha, right.alpha], 1) if has_alpha else None,  # type: ignore[list-item]  # checked above
            left.version,
        )
