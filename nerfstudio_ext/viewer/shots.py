"""From a view to rendered parts: which renderers are asked, through which cameras, in front of what."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..camera_paths import CropBox
from ..cameras import Camera
from ..normals import normals_from_depth
from ..renderer import CancelToken, CanCrop, Frame, HasBackdrop, RayRenderer, Renderer
from .looks import MAIN, OUTPUTS, Crop, Look, Side
from .views import View, rotation_of

ENDLESS = 1e3
"""Half the edge of a slab across its thickness, scene units; every scene box is far smaller."""


@dataclass(frozen=True)
class Part:
    """What one side of a picture shows.

    Attributes:
        frame: The rendered frame; empty where a layer is shown in its place.
        camera: The camera of the frame.
        output: What is shown of it.
        values: Numbers of a layer [H,W] or normals [H,W,3], else None.
    """

    frame: Frame
    camera: Camera
    output: str = "rgb"
    values: Tensor | None = None


@dataclass(frozen=True)
class Shot:
    """Everything that was rendered for one picture.

    Attributes:
        left: The first side; the whole picture where nothing is compared.
        right: The second side.
        column: First column of the right side where both parts are whole; None where each part is its own half.
        canvas: (width, height) of the picture; more than the parts where a fixed camera has another shape.
    """

    left: Part
    right: Part | None
    column: int | None
    canvas: tuple[int, int]


def take(
    sources: Mapping[str, Renderer], view: View, long_side: int, cancel: CancelToken | None = None, *,
    is_moving: bool = False,
) -> Shot:  # fmt: skip
    """Render what a view shows.

    A wipe between two renderers costs as much as one picture: each renders its own half. Two outputs of one renderer
    share its frame.

    Args:
        sources: Renderers by name; a name that has gone counts as the main one.
        view: What to show.
        long_side: Longer side of the picture, pixels.
        cancel: Stops the work.
        is_moving: The camera moves: renderers that can take less care take less time.
    Raises:
        Cancelled: when `cancel` was set.
    """
    if is_moving:
        sources = {name: s.drafted() if isinstance(s, RayRenderer) else s for name, s in sources.items()}
    look, canvas = view.look, view.size(long_side)
    camera = view.camera(long_side) if look.pose is None else fitted(look.pose.camera, *canvas)
    compare = look.compare
    if compare.mode == "off":
        return Shot(_part(sources, look, look.side, camera, cancel), None, None, canvas)
    column = round(compare.wipe * camera.width) if compare.mode == "wipe" else camera.width
    if _same_source(sources, look.side, compare.other):
        left = _part(sources, look, look.side, camera, cancel)
        shares = compare.other.output in OUTPUTS and look.side.output in OUTPUTS
        right = _other_output(left, compare.other) if shares else _part(sources, look, compare.other, camera, cancel)
        return Shot(left, right, column, canvas)
    if compare.mode == "wipe" and camera.lens.kind != "equirectangular":
        return _wipe(sources, look, camera, column, canvas, cancel)
    left = _part(sources, look, look.side, camera, cancel)
    return Shot(left, _part(sources, look, compare.other, camera, cancel), column, canvas)


def dressed(renderer: Renderer, look: Look, camera: Camera) -> Renderer:
    """A renderer with the chosen background and cuts; one that cannot do either is used as it is."""
    backdrop = background_of(look)
    if backdrop is not None and isinstance(renderer, HasBackdrop):
        renderer = renderer.on_background(backdrop)
    for box in boxes_of(look, camera, renderer.background):
        if isinstance(renderer, CanCrop):
            renderer = renderer.cropped(box)
    return renderer


def background_of(look: Look) -> tuple[float, float, float] | None:
    """The colour to render before; None for the scene's own. Chequers are added to a black ground."""
    colours = {"white": (1.0, 1.0, 1.0), "black": (0.0, 0.0, 0.0), "chequered": (0.0, 0.0, 0.0)}
    return look.backdrop_colour if look.backdrop == "colour" else colours.get(look.backdrop)


def boxes_of(look: Look, camera: Camera, background: tuple[float, float, float]) -> list[CropBox]:
    """The boxes that a look cuts the scene to: the crop, and the slab of the slice."""
    boxes = [] if look.crop is None else [crop_box(look.crop, background)]
    cut = look.slice
    if cut.axis == "off":
        return boxes
    if cut.axis == "view":
        axes = camera.c2w[:, :3]
        center = camera.c2w[:, 3] + cut.position * axes[:, 2]
        size = [2 * ENDLESS, 2 * ENDLESS, cut.thickness]
    else:
        index = "xyz".index(cut.axis)
        axes, center = torch.eye(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
        center[index] = cut.position
        size = [2 * ENDLESS] * 3
        size[index] = cut.thickness
    return [*boxes, CropBox(center, torch.tensor(size, dtype=torch.float64), axes, background)]


def crop_box(crop: Crop, background: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> CropBox:
    """A browser's crop as renderers and path files take it."""
    center, size = (torch.tensor(values, dtype=torch.float64) for values in (crop.center, crop.size))
    return CropBox(center, size, rotation_of(crop.wxyz), background)


def fitted(camera: Camera, width: int, height: int) -> Camera:
    """A camera of the same view, as large as fits into a canvas."""
    scale = min(width / camera.width, height / camera.height)
    return camera.resize(max(1, round(camera.width * scale)), max(1, round(camera.height * scale)))


def _same_source(sources: Mapping[str, Renderer], a: Side, b: Side) -> bool:
    return _source(sources, a) is _source(sources, b)


def _source(sources: Mapping[str, Renderer], side: Side) -> Renderer:
    return sources[side.source if side.source in sources else MAIN]


def _wipe(
    sources: Mapping[str, Renderer],
    look: Look,
    camera: Camera,
    column: int,
    canvas: tuple[int, int],
    cancel: CancelToken | None,
) -> Shot:
    other = look.compare.other
    if column <= 0 or column >= camera.width:
        only = _part(sources, look, look.side if column else other, camera, cancel)
        return Shot(only, None, None, canvas)
    left = _part(sources, look, look.side, camera.crop(0, 0, column, camera.height), cancel)
    right = _part(sources, look, other, camera.crop(column, 0, camera.width - column, camera.height), cancel)
    return Shot(left, right, None, canvas)


def _part(sources: Mapping[str, Renderer], look: Look, side: Side, camera: Camera, cancel: CancelToken | None) -> Part:
    renderer = dressed(_source(sources, side), look, camera)
    if side.output not in OUTPUTS:
        if isinstance(renderer, RayRenderer) and side.output in renderer.layers():
            values = renderer.render_layer(side.output, camera, cancel=cancel)
            return Part(_empty_frame(camera), camera, side.output, values)
        side = dataclasses.replace(side, output="rgb")
    part = Part(renderer.render(camera, cancel=cancel), camera, side.output)
    return _other_output(part, side)


def _other_output(part: Part, side: Side) -> Part:
    values = normals_from_depth(part.frame.depth, part.camera) if side.output == "normals" else None
    return Part(part.frame, part.camera, side.output, values)


def _empty_frame(camera: Camera) -> Frame:
    shape = (camera.height, camera.width)
    return Frame(torch.zeros(*shape, 3), torch.full(shape, torch.inf), None)


def depth_along_axis(frame: Frame, camera: Camera) -> Float[Tensor, "H W"]:
    """Depth along the view axis of a frame (its own depth is ray length); perspective cameras."""
    # numpy on purpose: torch would start a team of threads for this, which stalls where all cores are busy.
    u = (np.arange(camera.width, dtype=np.float32) + 0.5 - float(camera.K[0, 2])) / float(camera.K[0, 0])
    v = (np.arange(camera.height, dtype=np.float32) + 0.5 - float(camera.K[1, 2])) / float(camera.K[1, 1])
    return torch.from_numpy(frame.depth.numpy() / np.sqrt(1 + u[None, :] ** 2 + v[:, None] ** 2).astype(np.float32))
