"""Lifting as a method: one photo becomes an object, its unseen sides pulled by a prior that knows pictures.

Source: Xu et al. 2022, "NeuralLift-360: Lifting an In-the-wild 2D Photo to a 3D Object with 360 degree Views".
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..rays import RayOutputs, Rays
from ..renderer import RayLayer
from ..scenes.model import Scene, SceneMeta
from ..scenes.pixel_sampler import PixelBatch
from .lift_batches import LiftBatch, LiftBatches, Photo, read_photo
from .lift_config import LiftConfig
from .lift_distillation import ImageEncoder
from .lift_objective import Guides, Objective
from .lift_render import forget_directions, render
from .ngp import Ngp
from .priors import Prior, make_prior
from .priors.null import warning
from .protocol import ParamGroup

logger = logging.getLogger(__name__)
RAYS = 4096
"""Rays of a batch from an ordinary sampler."""


class Lift(nn.Module):
    """A `Method`; see `methods.protocol`. The prior is loaded for training only: a finished run is a fast field.

    Args:
        config: Settings.
        meta: The capture: usually one prepared photo.
        seed: Seed of the weights and of all random choices.
        prior: Used in place of the one that the settings name.
        encoder: Used in place of the CLIP model that the settings name.
    """

    def __init__(
        self,
        config: LiftConfig,
        meta: SceneMeta,
        *,
        seed: int,
        prior: Prior | None = None,
        encoder: ImageEncoder | None = None,
    ) -> None:
        super().__init__()
        self.config = config.settled()
        self.ngp = Ngp(config.hash, meta, seed=seed)
        # What one photo does not see is what this is about.
        self.ngp.occupancy.allow_everywhere()
        forget_directions(self.ngp.field)
        self.n_rays = RAYS
        self._prior, self._encoder = prior, encoder
        self._objective = Objective(self.config, self.ngp)
        self._device = "cuda" if torch.cuda.is_available() else "cpu"

    def batches(self, scene: Scene, seed: int) -> LiftBatches:
        """See `HasBatches`; loads the prior and shows it the photo.

        Raises:
            UserError: if the prior, or the CLIP model, cannot be had.
        """
        return self.batches_of(read_photo(scene, self.config.side), seed)

    def batches_of(self, photo: Photo, seed: int) -> LiftBatches:
        """`batches` of a photo in memory."""
        config = self.config
        prior = self._prior or make_prior(config.prior_settings(self._device))
        if not prior.facts.defines_back:
            logger.warning(warning(prior.facts.name))
        subject = photo.subject(config)
        prior.take_subject(subject)
        weights = config.loss_weights
        encoder = self._encoder
        if encoder is None and config.clip_model and (weights.clip or weights.clip_image):
            from .lift_clip import ClipImages

            encoder = ClipImages.load(config.clip_model, offline=config.offline, device=self._device)
        self._objective.guides = Guides.of(prior, encoder, subject, config.guidance)
        return LiftBatches(photo, config, prior.facts, seed)

    def param_groups(self) -> list[ParamGroup]:
        """One group for the grid, one for the networks."""
        field = self.ngp.field
        return [
            ParamGroup("grid", (field.table,), self.config.lr, eps=1e-10),
            ParamGroup("networks", field.networks, self.config.lr / 2, eps=1e-10),
        ]

    def lr_factor(self, progress: float) -> float:
        """Flat, then a fall to a tenth."""
        return float(10 ** (-max(0.0, (progress - 0.6) / 0.4)))

    def train_step(self, rays: Rays, batch: PixelBatch, step: int) -> dict[str, Tensor]:
        """Losses of whole pictures; of single pixels of given photos where the batch is an ordinary one."""
        ngp = self.ngp
        jitter = torch.rand(len(rays), generator=ngp.generator)
        clipped = ngp.clipped(rays)
        seen = render(
            ngp.field, clipped, ngp.occupancy.occupancy(), ngp.marching, jitter.to(clipped.t_min), ngp.config.backend
        )
        if isinstance(batch, LiftBatch):
            return self._objective.of_pictures(seen, clipped, batch, step)
        return self._objective.of_pixels(seen, batch)

    def after_step(self, step: int) -> None:
        """Refresh the occupancy where its schedule says so."""
        self.ngp.after_step(step)

    def render_rays(self, rays: Rays) -> RayOutputs:
        """Evaluate rays with the present weights."""
        return self.ngp.render_rays(rays)

    def snapshot(self) -> Callable[[Rays], RayOutputs]:
        """`render_rays` over a copy of the weights."""
        return self.ngp.snapshot()

    def layers(self) -> Mapping[str, RayLayer]:
        """What marching does; see `Ngp.layers`."""
        return self.ngp.layers()

    def density(self, x: Tensor) -> Tensor:
        """Density per scene unit at world positions."""
        return self.ngp.density(x)

    def stats(self) -> Mapping[str, float]:
        """Occupied share of the box."""
        return {"occupancy": self.ngp.occupancy.share}

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:  # type: ignore[override]
        """Those of the field, with its random state."""
        return dict(self.ngp.state_dict())

    def load_state_dict(self, state: Mapping[str, Tensor], strict: bool = True, assign: bool = False) -> Any:
        """Restore `state_dict()`."""
        return self.ngp.load_state_dict(state, strict, assign)
