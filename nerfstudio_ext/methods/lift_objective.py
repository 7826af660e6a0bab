"""All losses of a step of lifting, each with its weight."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ..rays import Rays
from ..scenes.pixel_sampler import PixelBatch
from . import lift_losses as losses
from .lift_batches import LiftBatch
from .lift_config import NOISE, WEIGHTINGS, LiftConfig
from .lift_distillation import ImageEncoder, clip_guidance, distil
from .lift_render import RenderedRays, density
from .ngp import Ngp
from .priors import Prior, Subject
from .priors.protocol import SECTOR_DEG

NORMAL_STEP = 1e-2
"""Distance of the density's differences, scene units; that of the paper, whose box is twice as large."""
LEAST_WEIGHT = 1e-3
"""Samples below this share of their ray have no surface to speak of."""
FRONT_DISTORTION, FRONT_SMOOTHNESS = 10.0, 5.0
"""Factors of the paper for the picture of the photo."""
PLAIN_BACKGROUNDS = 0.25
"""Share of the pictures that the prior sees on white; the others are on a flat random colour of middle brightness."""
MASK_BORDER = 0.05
"""Pixels whose opacity is nearer than this to 0 or 1 are no border."""


@dataclass(frozen=True)
class Guides:
    """What pulls at unseen views.

    Attributes:
        prior: Knows pictures.
        guidance: Strength of classifier-free guidance.
        encoder: Embeds pictures, or None.
        wanted: Embedding of the photo, or None.
    """

    prior: Prior
    guidance: float
    encoder: ImageEncoder | None = None
    wanted: Float[Tensor, "1 E"] | None = None

    @classmethod
    def of(cls, prior: Prior, encoder: ImageEncoder | None, subject: Subject, guidance: float | None) -> Guides:
        """The guides for a subject, which the prior has been shown."""
        strength = prior.facts.guidance if guidance is None else guidance
        if encoder is None:
            return cls(prior, strength)
        with torch.no_grad():
            on_white = subject.rgb * subject.alpha + 1 - subject.alpha
            return cls(prior, strength, encoder, encoder(on_white[None]))


class Objective:
    """Sums up what a step of lifting minimises.

    Args:
        config: Settings.
        ngp: The field.

    Attributes:
        guides: What pulls at unseen views; None until the photo is known.
    """

    def __init__(self, config: LiftConfig, ngp: Ngp) -> None:
        self.config, self._ngp = config, ngp
        self.guides: Guides | None = None

    def of_pixels(self, seen: RenderedRays, batch: PixelBatch) -> dict[str, Tensor]:
        """Colour and mask of pixels of given photos."""
        alpha = batch.alpha if batch.alpha is not None else torch.ones(len(batch))
        found = losses.photo_loss(seen.rgb, seen.alpha, batch.rgb, alpha)
        weights = self.config.loss_weights
        share = weights.mask * losses.mask_loss(seen.alpha, alpha) + weights.leak * losses.leak_loss(seen.alpha, alpha)
        return {"photo": weights.photo * found, "mask": share, "mse": found.detach()}

    def of_pictures(self, seen: RenderedRays, rays: Rays, batch: LiftBatch, step: int) -> dict[str, Tensor]:
        """All losses of a batch of whole pictures; those without weight are left out."""
        weights = self.config.loss_weights
        found: dict[str, Tensor] = {}
        progress = step / self.config.schedule_steps
        n = batch.n_photo
        if n:
            found |= self._of_photo(seen, batch)
        if len(batch.views) and self.guides is not None and self.guides.prior.facts.defines_back:
            found |= self._of_views(seen, batch, progress)
        rest = {
            "opacity": lambda: losses.opacity_loss(seen.alpha),
            "entropy": lambda: losses.entropy_loss(seen.alpha),
            "orientation": lambda: self._orientation(seen, rays),
            "distortion": lambda: self._distortion(seen, n),
            "smoothness": lambda: self._smoothness(seen, batch),
        }
        for name, loss in rest.items():
            weight = getattr(weights, name)
            if weight > 0:
                found[name] = weight * loss()
        mse = losses.photo_loss(seen.rgb[:n], seen.alpha[:n], batch.rgb[:n], _mask(batch)) if n else torch.tensor(0.0)
        return {**found, "mse": mse.detach()}

    def _of_photo(self, seen: RenderedRays, batch: LiftBatch) -> dict[str, Tensor]:
        weights, n, mask = self.config.loss_weights, batch.n_photo, _mask(batch)
        rgb, alpha, photo = seen.rgb[:n], seen.alpha[:n], batch.rgb[:n]
        of_colors = losses.photo_loss_in_mask if self.config.preset == "paper" else losses.photo_loss
        found = {"photo": weights.photo * of_colors(rgb, alpha, photo, mask)}
        if weights.mask > 0:
            found["mask"] = weights.mask * losses.mask_loss(alpha, mask)
        if weights.leak > 0:
            found["leak"] = weights.leak * losses.leak_loss(alpha, mask)
        is_known = batch.depth.isfinite() & (mask > 1 - MASK_BORDER)
        if (weights.ranking > 0 or weights.pearson > 0) and int(is_known.sum()) > 1:
            depth = seen.depth[:n] / alpha.clamp_min(1e-3)
            if weights.ranking > 0:
                pairs = losses.draw_pairs(is_known, self.config.pairs, self._ngp.generator)
                reference = torch.where(is_known, batch.depth, 0.0)
                found["ranking"] = weights.ranking * losses.ranking_loss(depth, reference, pairs)
            if weights.pearson > 0:
                found["pearson"] = weights.pearson * losses.pearson_loss(depth[is_known], batch.depth[is_known])
        return found

    def _of_views(self, seen: RenderedRays, batch: LiftBatch, progress: float) -> dict[str, Tensor]:
        guides, config, generator = self.guides, self.config, self._ngp.generator
        assert guides is not None
        weights, views, side = config.loss_weights, batch.views, batch.side
        shape = (len(views), side, side)
        rgb = seen.rgb[batch.n_photo :].view(*shape, 3).permute(0, 3, 1, 2)
        alpha = seen.alpha[batch.n_photo :].view(shape)[:, None]
        background = self._backgrounds(len(views)).to(rgb)
        prior = guides.prior
        latents = prior.encode(rgb, alpha, background)
        steps = NOISE[config.preset].draw(progress, len(views), len(prior.alphas_cumprod), generator)
        distilled = distil(
            prior, latents, steps, views, guides.guidance, WEIGHTINGS[config.preset], generator
        )  # fmt: skip
        found = {"distillation": weights.distillation * distilled.loss}
        if guides.encoder is not None and guides.wanted is not None:
            if weights.clip > 0:
                found["clip"] = weights.clip * clip_guidance(prior, distilled, guides.encoder, guides.wanted)
            is_front = views.azimuth_deg.abs() <= SECTOR_DEG
            if weights.clip_image > 0 and bool(is_front.any()):
                shown = (rgb + (1 - alpha) * background[:, :, None, None])[is_front]
                found["clip_image"] = weights.clip_image * self._clip_image(shown, guides)
        return found

    def _clip_image(self, shown: Tensor, guides: Guides) -> Tensor:
        assert guides.encoder is not None and guides.wanted is not None
        embeddings = guides.encoder(shown)
        return losses.clip_distance(embeddings, guides.wanted.expand_as(embeddings)).mean()

    def _backgrounds(self, n: int) -> Tensor:
        draws = torch.rand(n, 4, generator=self._ngp.generator)
        return torch.where(draws[:, 3:] < PLAIN_BACKGROUNDS, 1.0, 0.2 + 0.6 * draws[:, :3])

    def _orientation(self, seen: RenderedRays, rays: Rays) -> Tensor:
        ngp, n = self._ngp, self.config.normals
        weights = seen.weights.detach()
        places = (weights > LEAST_WEIGHT).nonzero()[:, 0]
        if len(places) == 0:
            return seen.alpha.sum() * 0
        chosen = places[torch.randint(len(places), (n,), generator=ngp.generator)]
        normals = losses.normals_of(
            lambda x: density(ngp.field, x, ngp.config.backend), seen.positions[chosen], NORMAL_STEP
        )
        return losses.orientation_loss(normals, rays.rays_d[seen.samples.ray_indices[chosen]], weights[chosen])

    def _distortion(self, seen: RenderedRays, n_photo: int) -> Tensor:
        if self.config.preset != "paper" or n_photo == 0:
            return losses.distortion_loss(seen.weights, seen.samples)
        return FRONT_DISTORTION * losses.distortion_loss(seen.weights, seen.samples)

    def _smoothness(self, seen: RenderedRays, batch: LiftBatch) -> Tensor:
        side = batch.side
        depth = seen.mean_depth(2.0).view(-1, side, side)
        rgb = seen.rgb.view(-1, side, side, 3).permute(0, 3, 1, 2)
        loss = losses.smoothness_loss(depth, rgb)
        return loss * (FRONT_SMOOTHNESS if self.config.preset == "paper" and batch.n_photo else 1.0)


def _mask(batch: LiftBatch) -> Tensor:
    assert batch.alpha is not None
    return batch.alpha[: batch.n_photo]
