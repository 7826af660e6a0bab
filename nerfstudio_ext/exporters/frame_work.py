"""The work on one frame, so described that it can be done here or on another machine, with the same bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from ..camera_paths.path import CropBox
from ..cameras import Camera
from ..errors import UserError
from ..renderer import CancelToken, CanCrop, Renderer
from .options import Container, FrameOptions, OutputName
from .oversampling import OversamplingRenderer
from .pictures import DepthScale, Shot, encode


@dataclass(frozen=True)
class FrameTask:
    """A frame that is still to be made.

    Attributes:
        index: Its position in what is written.
        camera: Where it is seen from.
        outputs: What is missing of it.
    """

    index: int
    camera: Camera
    outputs: tuple[OutputName, ...]


@dataclass(frozen=True)
class MadeFile:
    """The content of one file of a frame.

    Attributes:
        output: What it shows.
        content: All of it.
        n_beyond: Depths beyond what the format can hold.
    """

    output: OutputName
    content: bytes
    n_beyond: int


@dataclass(frozen=True)
class FrameWork:
    """What all frames of an export share: with a renderer of the scene, enough to make any of them.

    Attributes:
        options: The request.
        container: What is written.
        depth: Depth scale of the whole export.
        to_source: Rotation from the training frame to the source frame.
        crop: Box outside which nothing is shown.
    """

    options: FrameOptions
    container: Container
    depth: DepthScale
    to_source: Float[Tensor, "3 3"]
    crop: CropBox | None

    def make(self, renderer: Renderer, task: FrameTask, cancel: CancelToken | None = None) -> list[MadeFile]:
        """Render a frame and encode what is missing of it.

        Args:
            renderer: What `prepared` returned.
            task: The frame.
            cancel: Stops the work.
        """
        shot = Shot(renderer.render(task.camera, cancel=cancel), task.camera, renderer.background, self.to_source)
        made = ((name, encode(shot, name, self.options, self.depth, self.container)) for name in task.outputs)
        return [MadeFile(name, content, n_beyond) for name, (content, n_beyond) in made]


def prepared(renderer: Renderer, crop: CropBox | None, samples: int) -> Renderer:
    """The renderer of a scene with a crop box and several rays per pixel.

    Raises:
        UserError: if the renderer cannot be cropped.
    """
    if crop is not None:
        if not isinstance(renderer, CanCrop):
            raise UserError("this renderer cannot apply the crop box of the path", fix="Remove the crop box")
        renderer = renderer.cropped(crop)
    return OversamplingRenderer(renderer, samples) if samples > 1 else renderer


MakeFrames = Callable[[FrameWork, Sequence[FrameTask]], Iterator[tuple[int, list[MadeFile]]]]
"""Makes frames and gives them back with their index, in any order."""


def frames_made_here(renderer: Renderer, cancel: CancelToken | None) -> MakeFrames:
    """One frame after the other in this process, with a renderer that is prepared already."""

    def make(work: FrameWork, tasks: Sequence[FrameTask]) -> Iterator[tuple[int, list[MadeFile]]]:
        for task in tasks:
            if cancel is not None:
                cancel.check()
            yield task.index, work.make(renderer, task, cancel)

    return make
