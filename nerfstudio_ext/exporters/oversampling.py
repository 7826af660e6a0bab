"""Several rays per pixel: edges without steps, for any renderer."""

from __future__ import annotations

import dataclasses

import torch

from ..cameras import Camera
from ..renderer import CancelToken, Frame, Renderer


class OversamplingRenderer:
    """A `Renderer` that takes n x n evenly spaced rays per pixel of another one.

    Colour and opacity are means over the pixel. Depth is the middle one of the depths found, which is a depth that
    exists: a mean would lie between the surfaces at an edge.

    Args:
        renderer: Renders one ray per pixel.
        samples: Rays per pixel and axis, n.
    """

    def __init__(self, renderer: Renderer, samples: int) -> None:
        self._renderer, self._samples = renderer, samples
        self.background = renderer.background

    def render(self, camera: Camera, *, cancel: CancelToken | None = None) -> Frame:
        """Render one picture; see `Renderer.render`."""
        if camera.lens.kind == "equirectangular":
            return self._from_a_larger_one(camera, cancel)
        n = self._samples
        frames = []
        for i in range(n * n):
            # The grid of rays moves by a part of a pixel; that is the principal point moving the other way.
            offset = torch.tensor([(i % n + 0.5) / n - 0.5, (i // n + 0.5) / n - 0.5], dtype=torch.float64)
            K = camera.K.clone()
            K[:2, 2] -= offset
            frames.append(self._renderer.render(dataclasses.replace(camera, K=K), cancel=cancel))
        alphas = [frame.alpha for frame in frames if frame.alpha is not None]
        return Frame(
            rgb=torch.stack([frame.rgb for frame in frames]).mean(0),
            depth=torch.stack([frame.depth for frame in frames]).median(0).values,
            alpha=torch.stack(alphas).mean(0) if alphas else None,
            version=frames[0].version,
        )

    def _from_a_larger_one(self, camera: Camera, cancel: CancelToken | None) -> Frame:
        n, (height, width) = self._samples, (camera.height, camera.width)
        large = self._renderer.render(camera.resize(n * width, n * height), cancel=cancel)
        depth = large.depth.reshape(height, n, width, n).permute(0, 2, 1, 3).reshape(height, width, n * n)
        alpha = None if large.alpha is None else large.alpha.reshape(height, n, width, n).mean((1, 3))
        rgb = large.rgb.reshape(height, n, width, n, 3).mean((1, 3))
        return Frame(rgb, depth.median(-1).values, alpha, large.version)
