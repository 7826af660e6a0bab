"""How one browser wants the scene shown: output, colours, clipping, comparison, size. Plain values that compare."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from ..cameras import Camera
from ..colormaps import COLORMAPS, ColormapName

OUTPUTS = ("rgb", "depth", "normals", "alpha")
"""What every renderer can show; renderers with layers add theirs."""
MAIN = "this run"
"""Name of the source that is shown first."""
CompareMode = Literal["off", "wipe", "difference"]
COMPARE_MODES: tuple[CompareMode, ...] = get_args(CompareMode)
Backdrop = Literal["scene", "white", "black", "colour", "chequered"]
BACKDROPS: tuple[Backdrop, ...] = get_args(Backdrop)
SliceAxis = Literal["off", "view", "x", "y", "z"]
SLICE_AXES: tuple[SliceAxis, ...] = get_args(SliceAxis)
PhotoMode = Literal["render", "photo", "error"]
PHOTO_MODES: tuple[PhotoMode, ...] = get_args(PhotoMode)
Vector = tuple[float, float, float]


@dataclass(frozen=True)
class Scale:
    """How numbers become colours.

    Attributes:
        colormap: Name in `colormaps.COLORMAPS`.
        is_inverted: Swap the ends.
        low: Number at the lower end; None fits it to the picture.
        high: Number at the upper end; None fits it to the picture.
    """

    colormap: ColormapName = "rainbow"
    is_inverted: bool = False
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Crop:
    """An oriented box outside of which nothing is drawn, in the training frame.

    Attributes:
        center: Its centre.
        size: Full edge lengths.
        wxyz: Unit quaternion of its axes.
    """

    center: Vector = (0.0, 0.0, 0.0)
    size: Vector = (1.0, 1.0, 1.0)
    wxyz: tuple[float, float, float, float] = (1.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Slice:
    """A slab outside of which nothing is drawn.

    Attributes:
        axis: Direction across it: of the view, or an axis of the training frame.
        position: Its middle: distance from the eye for the view's direction, else the coordinate.
        thickness: Its thickness, scene units.
    """

    axis: SliceAxis = "off"
    position: float = 0.0
    thickness: float = 0.1


@dataclass(frozen=True)
class Side:
    """What one half of a comparison shows.

    Attributes:
        source: Name of a renderer.
        output: One of `OUTPUTS` or a layer of that renderer.
    """

    source: str = MAIN
    output: str = "rgb"


@dataclass(frozen=True)
class Compare:
    """A second picture with the same camera.

    Attributes:
        mode: `wipe` shows the first left and the second right; `difference` their amplified difference.
        other: The second picture.
        wipe: Where they meet, as a share of the width.
        gain: Amplification of the difference.
    """

    mode: CompareMode = "off"
    other: Side = Side()
    wipe: float = 0.5
    gain: float = 4.0


@dataclass(frozen=True)
class Photo:
    """A training photo to compare with.

    Attributes:
        index: Its place among the training photos.
        mode: The render alone, the photo over it, or their differences.
        opacity: Of what lies over the render.
    """

    index: int
    mode: PhotoMode = "photo"
    opacity: float = 1.0


@dataclass(frozen=True, eq=False)
class Pose:
    """A camera that takes the place of the browser's own. Compared by identity: two poses are two events."""

    camera: Camera


@dataclass(frozen=True)
class Look:
    """Everything a browser chose about its picture.

    Attributes:
        side: What is shown.
        scale: Colours of numbers.
        exposure: Stops; 0 shows the colours as they are.
        backdrop: What is behind the scene.
        backdrop_colour: For the backdrop `colour`, 0..1.
        crop: Box, or None.
        slice: Slab.
        compare: Second picture.
        photo: Training photo over the render, or None.
        pose: Shown in place of the browser's camera, or None.
        max_side: Longer side of a still picture, pixels.
        target_fps: Frames per second that a moving camera should get; smaller pictures pay for them.
        is_dynamic: Whether moving pictures are made smaller at all.
        composites_depth: Let the scene hide drawn things behind it.
    """

    side: Side = Side()
    scale: Scale = Scale()
    exposure: float = 0.0
    backdrop: Backdrop = "scene"
    backdrop_colour: Vector = (0.5, 0.5, 0.5)
    crop: Crop | None = None
    slice: Slice = Slice()
    compare: Compare = Compare()
    photo: Photo | None = None
    pose: Pose | None = None
    max_side: int = 1024
    target_fps: float = 10.0
    is_dynamic: bool = True
    composites_depth: bool = False

    @property
    def budget_s(self) -> float:
        """Time for one frame of a moving camera."""
        return 1 / self.target_fps


__all__ = [
    "BACKDROPS",
    "COLORMAPS",
    "COMPARE_MODES",
    "MAIN",
    "OUTPUTS",
    "PHOTO_MODES",
    "SLICE_AXES",
    "Backdrop",
    "Compare",
    "Crop",
    "Look",
    "Photo",
    "Pose",
    "Scale",
    "Side",
    "Slice",
]
