"""Another run of a capture seen through the cameras of this one: their training frames may differ."""

from __future__ import annotations

import torch

from ..camera_paths import CropBox, Similarity
from ..cameras import Camera, Cameras
from ..renderer import CancelToken, CanCrop, Frame, HasBackdrop, Renderer


def moved(renderer: Renderer, frame: Similarity, own: Similarity) -> Renderer:
    """A renderer of one training frame that takes cameras of another.

    Args:
        renderer: Renders cameras of its own training frame.
        frame: From the source frame to the training frame in which cameras will be given.
        own: From the same source frame to the renderer's own training frame.
    """
    # x_own = s * R @ x + t for x in the frame of the cameras.
    rotation = own.rotation @ frame.rotation.T
    scale = own.scale / frame.scale
    translation = own.translation - scale * (rotation @ frame.translation)
    same = torch.allclose(rotation, torch.eye(3, dtype=torch.float64), atol=1e-9)
    if same and abs(scale - 1) < 1e-9 and float(translation.abs().max()) < 1e-9:
        return renderer
    return _Moved(renderer, rotation, translation, scale)


class _Moved:
    """Moves cameras and boxes to the renderer's frame, and distances back."""

    def __init__(self, renderer: Renderer, rotation: torch.Tensor, translation: torch.Tensor, scale: float) -> None:
        self._renderer, self._move = renderer, (rotation, translation, scale)
        self.background = renderer.background

    def render(self, camera: Camera, *, cancel: CancelToken | None = None) -> Frame:
        """Render one picture."""
        frame = self._renderer.render(Cameras([camera]).transformed(*self._move)[0], cancel=cancel)
        return Frame(frame.rgb, frame.depth / self._move[2], frame.alpha, frame.version)

    def cropped(self, box: CropBox) -> Renderer:
        """The same inside a box, where the renderer can do that."""
        if not isinstance(self._renderer, CanCrop):
            return self
        return _Moved(self._renderer.cropped(box.transformed(*self._move)), *self._move)

    def on_background(self, background: tuple[float, float, float]) -> Renderer:
        """The same before another colour, where the renderer can do that."""
        if not isinstance(self._renderer, HasBackdrop):
            return self
        return _Moved(self._renderer.on_background(background), *self._move)
