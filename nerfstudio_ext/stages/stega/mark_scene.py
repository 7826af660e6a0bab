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
from ...methods.marked import Marked, MarkedConfig, SurfaceColors, marked_over
from ...methods.protocol import Method
from ...progress import Progress
from ...scenes.model import Scene, SceneMeta
from ...training.evaluate import truth_image
from .embed import Embedder, EmbedSettings, EmbedStatus
from .objective import Objective
from .row_weights import row_weights
from .scene_views import SceneView, fit_size, pixel_size, render_view, render_views
from .touch_up import touch_up

_TOUCH_UP_PIXELS, _MARK_PIXELS = 2.0, 2.7
"""Width of the finest cells, in pixels of the views; what the extractor reads is twice to four times as wide."""
_LEVEL_RATIO = 4
_RESOLUTIONS = (16, 4096)
_MIN_SEEN = 0.01
_JUDGES = 24
"""Held-out photos that say at most how much the touch-up is worth and the mark may cost."""
_HELD_OUT_EVERY = 8
"""Where none was held out, one training photo in so many does."""
_LEAST_BUDGET = 10**-4.8
"""Mean squared error that a mark gets in any case: 48 dB, next to what rounding to 8 bits does."""


@dataclass(frozen=True)
class Fidelity:
    """How much renders may change; all three limits hold at once."""

    psnr: float = 38.2
    """Marked against unmarked renders, mean over views, dB."""
    worst_psnr: float = 36.2
    """The same for each single view, dB."""
    max_loss: float = 0.09
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
    other_views: int = 300
    """... and so many from between: what is not looked at is not marked."""
    sectors: int = 40
    """Directions from which the mark has colours of their own."""
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
    views = render_views(method, photos, settings.other_views, generator, progress)
    if sum(len(view.seen) for view in views) < _MIN_SEEN * sum(view.n_pixels for view in views):
        raise UserError("the cameras of the capture see next to nothing of the scene", fix="Train it for longer")
    marked = marked_over(_sizes(config, views, meta, settings), method, meta.frame.aabb_scale)
    touched, mark = marked.correction.touch_up, marked.correction.mark
    fidelity, gain = settings.fidelity, None
    budget = 10 ** (-fidelity.psnr / 10)
    if scene is not None:
        errors = [_error(scene, i, view, background) for i, view in zip(positions, views, strict=False)]
        before, after = _touch_up(
            touched, views[: len(positions)], errors, _judges(method, meta, scene, settings), generator, progress
        )
        gain = 10 * math.log10(before / after)
        changes = [float(view.difference(touched).square().mean()) for view in views]
        budget -= sum(changes) / len(changes)
        budget = min(budget, before * 10 ** (fidelity.max_loss / 10) - after)
        views = [_touched_up(view, touched) for view in views]
    if budget < _LEAST_BUDGET:
        progress.warn("the limits on fidelity leave no room for a mark; it gets 48 dB. Raise --max-loss")
    embedder = Embedder(
        mark, views, objective_of(views),
        budget=max(budget, _LEAST_BUDGET), worst_budget=10 ** (-fidelity.worst_psnr / 10), settings=settings.embed,
        background=background, generator=generator,
        weights=row_weights(
            mark, views, background, mask_power=settings.embed.mask_power, even_out=settings.embed.even_out
        ),
    )  # fmt: skip
    status = embedder.run(progress)
    return Marking(marked, status, gain)


def _sizes(config: object, views: Sequence[SceneView], meta: SceneMeta, settings: SceneMarking) -> MarkedConfig:
    """Cells as wide as a few pixels, and the settings' sizes."""
    low, high = _RESOLUTIONS
    touch_up, mark = (
        min(max(round(meta.frame.aabb_scale / (width * pixel_size(views))), low), high)
        for width in (_TOUCH_UP_PIXELS, _MARK_PIXELS)
    )
    return MarkedConfig(
        config_to_json(config), base_resolution=max(touch_up // _LEVEL_RATIO, low // 2), finest_resolution=touch_up,
        sectors=settings.sectors, mark_resolution=mark,
    )  # fmt: skip


def _touch_up(
    colors: ColorResidual, views: Sequence[SceneView], errors: Sequence[Tensor], judges: Sequence[_Judge],
    generator: torch.Generator, progress: Progress,
) -> tuple[float, float]:  # fmt: skip
    """Fit the colours; mean squared errors of photos they were not fitted to, before and after."""
    if not judges:
        held = range(_HELD_OUT_EVERY // 2, len(views), _HELD_OUT_EVERY)
        judges = [_Judge(views[i], errors[i]) for i in held]
        used = [i for i in range(len(views)) if i not in held]
        views, errors = [views[i] for i in used], [errors[i] for i in used]
    touch_up(colors, views, errors, generator, progress)
    judges = judges or [_Judge(view, error) for view, error in zip(views, errors, strict=True)]
    before = sum(float(judge.error.square().mean()) for judge in judges) / len(judges)
    after = sum(float((judge.error - judge.view.difference(colors)).square().mean()) for judge in judges) / len(judges)
    if after >= before:
        with torch.no_grad():
            colors.table.zero_()
        return before, before
    return before, after


@dataclass(frozen=True)
class _Judge:
    """A view of a photo, and the photo less the view."""

    view: SceneView
    error: Float[Tensor, "H W 3"]


def _judges(method: Method, meta: SceneMeta, scene: Scene, settings: SceneMarking) -> list[_Judge]:
    """Photos that were held out of training, if there are: what the method has learned by heart says little."""
    background, cameras, judges = torch.tensor(meta.background), meta.training_cameras(), []
    for position in _spread(meta.split.test, _JUDGES):
        view = render_view(method, fit_size(cameras[position], settings.size))
        judges.append(_Judge(view, _error(scene, position, view, background)))
    return judges


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


def _touched_up(view: SceneView, colors: SurfaceColors) -> SceneView:
    """The view with the colours as part of what is unmarked."""
    rgb = view.rgb.float() + view.difference(colors).reshape(-1, 3)
    return dataclasses.replace(view, rgb=rgb.half())


def _spread(positions: Sequence[int], at_most: int) -> tuple[int, ...]:
    """Some of the positions, evenly spread."""
    if len(positions) <= at_most:
        return tuple(positions)
    return tuple(positions[i * len(positions) // at_most] for i in range(at_most))
