"""From a trained method to a marked one: look at the scene, touch it up, write the mark, all within the fidelity asked.

Three amounts of error add up: what the field gets wrong, less what the touch-up mends, plus the mark. The mark gets
what the limits on the first two sums leave.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from ...cameras import Cameras
from ...errors import UserError
from ...fields.color_residual import ColorResidual
from ...methods import config_to_json
from ...methods.marked import Marked, MarkedConfig
from ...methods.protocol import Method
from ...progress import Progress
from ...scenes.model import Scene, SceneMeta
from ...training.evaluate import truth_image
from .embed import Embedder, EmbedSettings, EmbedStatus, update_mask
from .objective import Objective
from .scene_views import SceneView, cameras_between, fit_size, pixel_size, render_views
from .touch_up import touch_up

_CELL_PIXELS = 2.0
"""Width of the finest cells, in pixels of the views."""
_LEVEL_RATIO = 4
_RESOLUTIONS = (16, 4096)
_MIN_SEEN = 0.01
_HELD_OUT_EVERY = 8
"""One photo in so many says how much the touch-up is worth on views it has not seen."""
_LEAST_BUDGET = 10**-4.8
"""Mean squared error that a mark gets in any case: 48 dB, next to what rounding to 8 bits does."""


@dataclass(frozen=True)
class Fidelity:
    """How much renders may change; all three limits hold at once."""

    psnr: float = 38.5
    """Marked against unmarked renders, mean over views, dB."""
    worst_psnr: float = 36.5
    """The same for each single view, dB."""
    max_loss: float = 0.08
    """How much further from the photos renders may come to lie, dB of PSNR; where the photos are at hand."""


@dataclass(frozen=True)
class SceneMarking:
    """Settings of the stage."""

    embed: EmbedSettings = field(default_factory=EmbedSettings)
    """The embedding itself."""
    fidelity: Fidelity = field(default_factory=Fidelity)
    """Limits on the change."""
    size: int = 400
    """Longer side of the pictures that are looked at, pixels; the mark reads best at about this size."""
    photo_views: int = 100
    """At most so many views from where photos were taken, ..."""
    other_views: int = 60
    """... and so many from between."""
    bands: int = 3
    """Bands of spherical harmonics of the residual, 1 to 4: more let the mark follow the direction of view."""
    log2_table: int = 17
    """Logarithm of the residual's rows per level."""
    seed: int = 0
    """Of everything random."""


@dataclass(frozen=True)
class Marking:
    """A finished mark.

    Attributes:
        method: The marked method.
        status: How well the mark stands in attacked pictures of the views it was made with, and its fidelity.
        touch_up_gain: PSNR against photos the touch-up gained on photos it had not seen, dB; None without photos.
    """

    method: Marked
    status: EmbedStatus
    touch_up_gain: float | None


def mark_scene(
    method: Method, config: object, meta: SceneMeta, scene: Scene | None,
    objective_of: Callable[[Sequence[SceneView]], Objective], settings: SceneMarking, progress: Progress,
) -> Marking:  # fmt: skip
    """Mark a trained method.

    Args:
        method: The method beneath; not changed.
        config: Its config.
        meta: Its capture.
        scene: The same with photos; None where they are gone: no touch-up then, and `max_loss` cannot be kept.
        objective_of: What pictures of these views are to show.
        settings: How.
        progress: Told about every stage.
    Raises:
        UserError: if the cameras see next to nothing.
    """
    generator = torch.Generator().manual_seed(settings.seed)
    background = torch.tensor(meta.background)
    positions = _spread(meta.split.train, settings.photo_views)
    photos = Cameras([fit_size(camera, settings.size) for camera in meta.training_cameras().select(positions)])
    views = render_views(method, photos, cameras_between(photos, settings.other_views, generator), progress)
    if sum(len(view.seen) for view in views) < _MIN_SEEN * sum(view.n_pixels for view in views):
        raise UserError("the cameras of the capture see next to nothing of the scene", fix="Train it for longer")
    marked = Marked(_residual_config(config, views, meta, settings), method, meta.frame.aabb_scale)
    fidelity, gain = settings.fidelity, None
    budget = 10 ** (-fidelity.psnr / 10)
    if scene is not None:
        errors = [_error(scene, i, view, background) for i, view in zip(positions, views, strict=False)]
        before, after = _touch_up(marked.residual, views[: len(positions)], errors, generator, progress)
        gain = 10 * math.log10(before / after)
        changes = [float(view.difference(marked.residual).square().mean()) for view in views]
        budget -= sum(changes) / len(changes)
        budget = min(budget, before * 10 ** (fidelity.max_loss / 10) - after)
        views = [_with_residual(view, marked.residual) for view in views]
    if budget < _LEAST_BUDGET:
        progress.warn("the limits on fidelity leave no room for a mark; it gets 48 dB. Raise --max-loss")
    touched = marked.residual.table.detach().clone()
    with torch.no_grad():
        marked.residual.table.zero_()
    embedder = Embedder(
        marked.residual, views, objective_of(views),
        budget=max(budget, _LEAST_BUDGET), worst_budget=10 ** (-fidelity.worst_psnr / 10), settings=settings.embed,
        background=background, generator=generator,
        mask=update_mask(marked.residual, views, background, settings.embed.mask_power),
    )  # fmt: skip
    status = embedder.run(progress)
    with torch.no_grad():
        marked.residual.table.add_(touched)
    return Marking(marked, status, gain)


def _residual_config(
    config: object, views: Sequence[SceneView], meta: SceneMeta, settings: SceneMarking
) -> MarkedConfig:
    low, high = _RESOLUTIONS
    finest = round(meta.frame.aabb_scale / (_CELL_PIXELS * pixel_size(views)))
    finest = min(max(finest, low), high)
    return MarkedConfig(
        config_to_json(config), settings.bands, 2, settings.log2_table, max(finest // _LEVEL_RATIO, low // 2), finest
    )


def _touch_up(
    residual: ColorResidual, views: Sequence[SceneView], errors: Sequence[Tensor], generator: torch.Generator,
    progress: Progress,
) -> tuple[float, float]:  # fmt: skip
    """Fit the residual; mean squared errors of photos it was not fitted to, before and after."""
    held = [i for i in range(len(views)) if i % _HELD_OUT_EVERY == _HELD_OUT_EVERY // 2]
    used = [i for i in range(len(views)) if i not in held]
    touch_up(residual, [views[i] for i in used], [errors[i] for i in used], generator, progress)
    judged = held or used
    before = sum(float(errors[i].square().mean()) for i in judged) / len(judged)
    after = sum(float((errors[i] - views[i].difference(residual)).square().mean()) for i in judged) / len(judged)
    if after >= before:
        with torch.no_grad():
            residual.table.zero_()
        return before, before
    return before, after


def _error(scene: Scene, i: int, view: SceneView, background: Tensor) -> Float[Tensor, "H W 3"]:
    """Photo minus render at the view's size; zero where the photo is masked."""
    photo = truth_image(scene, i).permute(2, 0, 1)[None]
    size = (view.camera.height, view.camera.width)
    photo = functional.interpolate(photo, size, mode="bilinear", antialias=True, align_corners=False)
    error = photo[0].permute(1, 2, 0) - view.unmarked(background).clamp(0, 1)
    valid = scene.images.valid_pixels(i)
    if valid is None:
        return error
    height, width = scene.images.pixels(i).shape[:2]
    mask = torch.zeros(height * width)
    mask[torch.as_tensor(valid, dtype=torch.int64)] = 1
    mask = functional.interpolate(mask.view(1, 1, height, width), size, mode="area")[0, 0]
    return error * (mask > 0.99)[..., None]


def _with_residual(view: SceneView, residual: ColorResidual) -> SceneView:
    """The view with the residual as part of what is unmarked."""
    rgb = view.rgb.float() + view.difference(residual).reshape(-1, 3)
    return dataclasses.replace(view, rgb=rgb.half())


def _spread(positions: Sequence[int], at_most: int) -> tuple[int, ...]:
    """Some of the positions, evenly spread."""
    if len(positions) <= at_most:
        return tuple(positions)
    return tuple(positions[i * len(positions) // at_most] for i in range(at_most))
