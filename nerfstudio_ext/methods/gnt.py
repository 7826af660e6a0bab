"""GNT as a method: a transformer that reads the colour of a ray from nearby photos (arXiv 2207.13298)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UserError
from ..fields.gnt_fast import Options
from ..rays import RayOutputs, Rays
from ..renderer import rays_at_a_time
from ..scenes.model import Scene, SceneMeta
from ..scenes.pixel_sampler import PixelBatch
from .gnt_batches import OneViewBatches
from .gnt_config import GntConfig
from .gnt_photos import Photos, photos_from_tensors, photos_of_scene
from .gnt_render import RAYS_AT_A_TIME, DepthRange, GntRenderer, Sampling, pass_over, views_of
from .gnt_views import choose_sources
from .protocol import ParamGroup

SEEDS = 1 << 31
RISING_STEPS, LAST_RATE = 30, 0.05


class Gnt(nn.Module):
    """A `Method` that needs photos: see `methods.protocol`.

    Args:
        config: Settings.
        meta: The capture: its cameras and its box.
        seed: Seed of the weights and of all random choices.
    """

    def __init__(self, config: GntConfig, meta: SceneMeta, *, seed: int) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)
        self.model = config.model(self.generator)
        self.config = config.settled()
        self.plan = config.plan(meta)
        self.depth_range = DepthRange(meta)
        self.code_scale = self.config.code_scale(meta)
        self.n_rays = self._rays_for(self.plan.n_views)
        self.meta = meta
        self._photos: Photos | None = None
        self._renderer: GntRenderer | None = None
        self._step = 0
        self._stats: dict[str, float] = {}

    @property
    def photos(self) -> Photos:
        """The source pictures.

        Raises:
            UserError: if there are none: they were not given, or the run has lost them.
        """
        if self._photos is None:
            raise UserError(
                "GNT has no source pictures to look at", where=self.meta.name,
                fix="Give it the capture: `nsx train --resume RUN` writes them into the run again",
            )  # fmt: skip
        return self._photos

    def take_photos(self, scene: Scene) -> None:
        """See `NeedsPhotos`."""
        self._set_photos(photos_of_scene(scene, self.config.source_side))

    def photo_tensors(self) -> dict[str, Tensor]:
        """See `NeedsPhotos`."""
        return self.photos.tensors()

    def load_photo_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """See `NeedsPhotos`."""
        self._set_photos(photos_from_tensors(self.meta, tensors, self.config.source_side))

    def batches(self, scene: Scene, seed: int) -> OneViewBatches:
        """See `HasBatches`."""
        return OneViewBatches(scene, seed)

    def param_groups(self) -> list[ParamGroup]:
        """One group for the transformer, one for the feature network; Adam as the official code has it."""
        model, config = self.model, self.config
        nets = (("transformer", model.net_coarse, config.lr), ("features", model.feature_net, config.lr_features))
        return [
            ParamGroup(name, tuple(net.parameters()), float(lr or 0), eps=1e-8, betas=(0.9, 0.999))
            for name, net, lr in nets
        ]

    def lr_factor(self, progress: float) -> float:
        """Halved every so many steps, whatever the share of the training that is done; or see `GntConfig.falls`."""
        if self.config.falls:
            fallen = max(0.0, 2 * progress - 1)
            return min(1.0, (self._step + 1) / RISING_STEPS) * LAST_RATE**fallen
        return float(0.5 ** (self._step // (self.config.halved_every or SEEDS)))

    def train_step(self, rays: Rays, batch: PixelBatch, step: int) -> dict[str, Tensor]:
        """Loss of one batch; rays of different pictures have sources of their own."""
        self._step = step
        target = batch.rgb
        if batch.alpha is not None:
            background = torch.tensor(self.meta.background)
            target = background + batch.alpha[:, None] * (target - background)
        losses, errors = [], []
        for view in torch.unique(batch.cam_ids).tolist():
            members = (batch.cam_ids == view).nonzero()[:, 0]
            colors = self._train_colors(int(view), rays[members])
            wanted = target[members]
            losses += [(color - wanted).square().sum() for color in colors]
            errors.append((colors[-1].detach() - wanted).square().sum())
        count = 3 * len(rays)
        total = torch.stack(losses).sum() / count
        return {"color": total, "mse": torch.stack(errors).sum() / count}

    def after_step(self, step: int) -> None:
        """Forget what the old weights saw."""
        self._renderer = None

    def render_rays(self, rays: Rays) -> RayOutputs:
        """Evaluate rays with the present weights."""
        return self._present_renderer()(rays)

    rays_at_a_time(RAYS_AT_A_TIME)(render_rays)

    def draft(self, rays: Rays) -> RayOutputs:
        """See `HasDraft`."""
        return self._present_renderer().draft(rays)

    def snapshot(self) -> Callable[[Rays], RayOutputs]:
        """`render_rays` over a copy of the weights."""
        return self._make_renderer(copy.deepcopy(self.model))

    def stats(self) -> Mapping[str, float]:
        """Sources per picture in the last step."""
        return self._stats

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:  # type: ignore[override]
        """Weights and random state; the photos are not part of it."""
        state: dict[str, Tensor] = super().state_dict(*args, **kwargs)
        return {**state, "generator": self.generator.get_state(), "n_rays": torch.tensor(self.n_rays)}

    def load_state_dict(self, state: Mapping[str, Tensor], strict: bool = True, assign: bool = False) -> Any:
        """Restore `state_dict()`."""
        own = dict(state)
        self.generator.set_state(own.pop("generator"))
        self.n_rays = int(own.pop("n_rays"))
        self._renderer = None
        return super().load_state_dict(own, strict, assign)

    def _train_colors(self, view: int, rays: Rays) -> tuple[Tensor, ...]:
        photos, config, generator = self.photos, self.config, self.generator
        at = photos.positions.index(view)
        chosen = choose_sources(at, list(range(len(photos))), photos.poses, self.plan, generator)
        self._stats = {"sources": float(len(chosen))}
        self.n_rays = self._rays_for(len(chosen))
        pictures = [photos.pictures[i].float() / 255 for i in chosen]
        views = views_of(self.model, pictures, photos.source_cameras(chosen))
        seed = int(torch.randint(SEEDS, (1,), generator=generator))
        options = Options(backend=config.backend)
        if config.dropout:
            options = Options(self._drop, config.dropout, seed, backend=config.backend)
        near_far = self.depth_range.of(rays.rays_o[0])
        passes = pass_over(
            self.model, views, rays, near_far, self._sampling(config.n_samples), options, code_scale=self.code_scale,
            generator=generator,
        )  # fmt: skip
        return passes.colors

    def _drop(self, x: Tensor) -> Tensor:
        """Zero a share of numbers, in steps of 1/256: one drawn integer decides about eight."""
        border = round((self.config.dropout or 0.0) * 256)
        draws = torch.randint(-(1 << 63), (1 << 63) - 1, (-(-x.numel() // 8),), generator=self.generator)
        is_kept = draws.view(torch.uint8)[: x.numel()].view(x.shape) >= border
        return x * is_kept * (256 / (256 - border))

    def _sampling(self, n_samples: int) -> Sampling:
        config = self.config
        return Sampling(n_samples, config.n_more, config.inverse, self.plan.n_views, self.plan.nearness)

    def _rays_for(self, n_views: int) -> int:
        """The official trade: with more sources, fewer rays."""
        return max(1, self.config.n_rays * 10 // n_views)

    def renderer(self, photos: Photos | None = None) -> GntRenderer:
        """What `render_rays` evaluates with, over the weights as they are now; other photos may be its sources."""
        return self._make_renderer(self.model, photos)

    def _present_renderer(self) -> GntRenderer:
        # Weights may also change from outside between calls; the versions of the tensors tell.
        if self._renderer is None or self._versions() != self._rendered_versions:
            self._renderer, self._rendered_versions = self._make_renderer(self.model), self._versions()
        return self._renderer

    def _make_renderer(self, model: nn.Module, photos: Photos | None = None) -> GntRenderer:
        config = self.config
        dtype = torch.bfloat16 if config.half_precision and has_fast_half() else torch.float32
        assert isinstance(model, type(self.model))
        return GntRenderer(
            model, photos or self.photos, self.depth_range, self._sampling(config.n_samples_render),
            code_scale=self.code_scale, dtype=dtype, backend=config.backend,
        )  # fmt: skip

    def _set_photos(self, photos: Photos) -> None:
        self._photos, self._renderer = photos, None

    def _versions(self) -> tuple[int, ...]:
        return tuple(parameter._version for parameter in self.model.parameters())

    _rendered_versions: tuple[int, ...] = ()


def has_fast_half() -> bool:
    """Whether this processor multiplies bfloat16 matrices in hardware."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
