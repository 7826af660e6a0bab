"""Training batches from one picture at a time: GNT computes the features of its sources once for all rays of a step."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..errors import UserError
from ..rays import Rays
from ..scenes.model import Scene
from ..scenes.pixel_sampler import PixelBatch


class OneViewBatches:
    """Draws a training picture, then pixels of it without replacement.

    Args:
        scene: The capture.
        seed: Seed of the random choices.
    """

    def __init__(self, scene: Scene, seed: int) -> None:
        self._images, self._meta = scene.images, scene.meta
        self._cameras = scene.meta.training_cameras()
        self._generator = torch.Generator().manual_seed(seed)
        self._views = [i for i in scene.meta.split.train if self._n_pixels(i) > 0]
        if not self._views:
            raise UserError("no usable pixels: the masks leave nothing", where=scene.meta.name, fix="Check the masks")

    def next(self, n_rays: int) -> PixelBatch:
        """At most `n_rays` pixels of one picture."""
        i = self._views[int(torch.randint(len(self._views), (1,), generator=self._generator))]
        chosen = torch.randperm(self._n_pixels(i), generator=self._generator)[:n_rays]
        valid = self._images.valid_pixels(i)
        flat = chosen if valid is None else torch.from_numpy(valid).long()[chosen]
        cam_ids = torch.full_like(flat, i)
        values = self._images.gather_flat(cam_ids, flat).float() / 255
        width = int(self._images.sizes[i, 0])
        uv = torch.stack([flat % width, flat // width], -1).float() + 0.5
        alpha = values[:, 3].contiguous() if self._meta.has_alpha else None
        return PixelBatch(cam_ids, uv, values[:, :3].contiguous(), alpha)

    def rays(self, batch: PixelBatch) -> Rays:
        """The rays of a batch, in the training frame."""
        return self._cameras.rays_through(batch.cam_ids, batch.uv)

    def state_dict(self) -> dict[str, Tensor]:
        """The random state."""
        return {"generator": self._generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore `state_dict()`."""
        self._generator.set_state(state["generator"])

    def _n_pixels(self, i: int) -> int:
        valid = self._images.valid_pixels(i)
        return int(self._images.sizes[i].prod()) if valid is None else len(valid)
