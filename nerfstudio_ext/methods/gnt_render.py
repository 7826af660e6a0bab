"""From rays to colours with GNT: sources by where the rays start, their feature maps kept, samples, two passes."""

from __future__ import annotations

import logging
import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from ..fields.depth_samples import jitter, refine, spread
from ..fields.epipolar import SourceCameras
from ..fields.feature_net import map_size
from ..fields.gnt_fast import Options, look_and_transform, make_views
from ..fields.gnt_weights import GntModel
from ..kernels import SourceViews
from ..kernels.reference_views import project
from ..rays import RayOutputs, Rays
from ..scenes.model import SceneMeta
from .gnt_photos import Photos, source_cameras
from .gnt_views import Nearness, nearest_views

logger = logging.getLogger(__name__)
RAYS_AT_A_TIME = 256
"""Rays per call: tokens of 64 samples then fit the caches, and a viewer can interrupt."""
DRAFT_SAMPLES, DRAFT_VIEWS = 32, 5
"""Samples and sources of a picture for a moving camera: a quarter of the time."""
KEPT_MAPS = 64
"""Feature maps of so many pictures are kept; a frame needs about ten."""
ENOUGH_VIEWS, ENOUGH_SHARE_AROUND = 2, 0.5
"""A point that fewer sources see is drawn less opaque; around a thing that is cut out of its photos, fewer than this
share, and not at all with half of that: all sources look at the thing, so that what few of them see is air in front of
it. In open scenes it costs 1.5 dB, and where the background is in the photos it tears holes into it."""
NEAREST_SHARE, BOX_RADIUS = 0.25, 0.75
"""Of the distance to the scene's centre: where rays begin in an open scene. Of the box: what a bounded scene fills."""
FAR_AWAY = 2.0
"""A target farther from all sources than this times their spread gets a warning."""


@dataclass(frozen=True)
class Sampling:
    """How rays are sampled.

    Attributes:
        n_samples: Samples of the first pass.
        n_more: Samples added where the first pass looked; 0: one pass.
        inverse: Even in 1/distance.
        n_views: Sources per picture.
        nearness: Which sources are near.
    """

    n_samples: int
    n_more: int
    inverse: bool
    n_views: int
    nearness: Nearness


@dataclass(frozen=True)
class Passes:
    """Results of the passes over some rays: colours, and distance and weight of the samples of the last pass."""

    colors: tuple[Float[Tensor, "R 3"], ...]
    z: Float[Tensor, "R S"]
    weights: Float[Tensor, "R S"]


class DepthRange:
    """Where on a ray the scene can be, from where the ray starts, and whether there is nothing else in the photos.

    With sparse points it is their distances; a bounded scene lies in a ball; an open one begins at a quarter of the
    distance to its centre.

    Args:
        meta: The capture.
    """

    def __init__(self, meta: SceneMeta) -> None:
        frame = meta.frame
        self.aabb_scale = frame.aabb_scale
        self.has_cut_out = self.is_bounded and meta.has_alpha
        self.points: Tensor | None = None
        if meta.points is not None and len(meta.points) >= 100:
            points = torch.from_numpy(meta.points).double()
            points = points[:: max(1, len(points) // 5000)]
            self.points = (frame.scale * points @ frame.rotation.T + frame.translation).float()

    @property
    def is_bounded(self) -> bool:
        """Whether it is a thing before a background, all within the box."""
        return self.aabb_scale == 1

    def of(self, origin: Float[Tensor, "3"]) -> tuple[float, float]:
        """(near, far) for rays from a place."""
        distance = float(origin.norm())
        if self.points is not None:
            lengths = (self.points - origin).norm(dim=-1)
            near, far = (float(torch.quantile(lengths, q)) for q in (0.01, 0.99))
            return max(0.8 * near, 1e-3), max(1.5 * far, 2e-3)
        if self.is_bounded:
            return max(distance - BOX_RADIUS, 0.05), distance + BOX_RADIUS
        return max(NEAREST_SHARE * distance, 0.05), distance + 0.5 * math.sqrt(3) * self.aabb_scale


def pass_over(
    model: GntModel,
    views: SourceViews,
    rays: Rays,
    near_far: tuple[float, float],
    sampling: Sampling,
    options: Options,
    *,
    code_scale: float = 1.0,
    generator: torch.Generator | None = None,
) -> Passes:
    """Sample rays and evaluate them, once or twice.

    Args:
        model: The networks.
        views: Sources of all these rays.
        rays: The rays.
        near_far: Range of distances; a ray's own limits cut it further.
        sampling: How many samples, and how.
        options: How the networks compute.
        code_scale: See `look_and_transform`.
        generator: Draws the jitter of training; None takes no jitter.
    """
    near = rays.t_min.clamp_min(near_far[0])
    far = rays.t_max.clamp_max(near_far[1])
    far = torch.maximum(far, near * 1.001)
    z = spread(near, far, sampling.n_samples, inverse=sampling.inverse)
    if generator is not None:
        z = jitter(z, torch.rand(z.shape, generator=generator).to(z.device))

    def evaluate(z: Tensor) -> tuple[Tensor, Tensor]:
        x = rays.rays_o[:, None] + z[..., None] * rays.rays_d[:, None]
        return look_and_transform(model.net_coarse, views, x, rays.rays_o, rays.rays_d, options, code_scale=code_scale)

    color, weights = evaluate(z)
    colors = [color]
    if sampling.n_more:
        shape = (len(z), sampling.n_more)
        uniform = None if generator is None else torch.rand(shape, generator=generator).to(z.device)
        z = refine(z, weights, sampling.n_more, inverse=sampling.inverse, uniform=uniform)
        color, weights = evaluate(z)
        colors.append(color)
    return Passes(tuple(colors), z, weights)


def views_of(model: GntModel, pictures: Sequence[Tensor], cameras: SourceCameras) -> SourceViews:
    """Sources with fresh feature maps; pictures of different sizes go through the network size by size.

    Args:
        model: The networks.
        pictures: [3,h,w] each, 0..1.
        cameras: Theirs.
    """
    return _assembled(model, pictures, feature_maps(model, pictures), cameras)


def feature_maps(model: GntModel, pictures: Sequence[Tensor]) -> list[Tensor]:
    """Feature maps [F,h,w] of pictures."""
    found: dict[int, Tensor] = {}
    for shape in sorted({tuple(picture.shape) for picture in pictures}):
        alike = [i for i, picture in enumerate(pictures) if tuple(picture.shape) == shape]
        maps = model.feature_net(torch.stack([pictures[i] for i in alike]))
        found |= {i: maps[k] for k, i in enumerate(alike)}
    return [found[i] for i in range(len(pictures))]


def _assembled(
    model: GntModel, pictures: Sequence[Tensor], maps: Sequence[Tensor], cameras: SourceCameras
) -> SourceViews:
    sizes = torch.tensor([map_size(picture.shape[2], picture.shape[1]) for picture in pictures]).to(cameras.sizes)
    return make_views(model.net_coarse, _stacked(pictures), _stacked(maps), cameras, sizes)


def _stacked(arrays: Sequence[Tensor]) -> Tensor:
    """One array of the largest size, zero beyond each one's own."""
    height, width = (max(array.shape[i] for array in arrays) for i in (1, 2))
    if all(array.shape[1:] == (height, width) for array in arrays):
        return torch.stack(list(arrays))
    pad = torch.nn.functional.pad
    return torch.stack([pad(array, (0, width - array.shape[2], 0, height - array.shape[1])) for array in arrays])


class GntRenderer:
    """Evaluates rays with fixed weights; keeps the feature maps of the sources it has used.

    Args:
        model: The networks; must not change while this object lives.
        photos: Sources.
        depth_range: Where rays are sampled.
        sampling: How.
        code_scale: See `look_and_transform`.
        dtype: Type of the products; bfloat16 where the processor computes it fast.
        backend: Of the fused operations.
    """

    rays_at_a_time = RAYS_AT_A_TIME

    def __init__(
        self,
        model: GntModel,
        photos: Photos,
        depth_range: DepthRange,
        sampling: Sampling,
        *,
        code_scale: float = 1.0,
        dtype: torch.dtype = torch.float32,
        backend: str = "auto",
    ) -> None:
        self.model, self.photos, self.depth_range, self.sampling = model, photos, depth_range, sampling
        self.code_scale = code_scale
        self.options = Options(dtype=dtype, backend=backend)
        self._maps: OrderedDict[int, Tensor] = OrderedDict()
        self._views: dict[tuple[int, ...], SourceViews] = {}
        self._centres = photos.centres.float()
        self._spread = float((self._centres - self._centres.mean(0)).norm(dim=-1).mean())
        self._has_warned = False
        self._draft: GntRenderer | None = None

    @torch.no_grad()
    def __call__(self, rays: Rays) -> RayOutputs:
        """Colour, distance and confidence of rays; those that start at one place share their sources."""
        outputs = RayOutputs(torch.zeros(len(rays), 3), torch.zeros(len(rays)), torch.zeros(len(rays)))
        origins, group = torch.unique(rays.rays_o, dim=0, return_inverse=True)
        for at, origin in enumerate(origins):
            members = (group == at).nonzero()[:, 0]
            views = self.sources_for(origin)
            for part in members.split(RAYS_AT_A_TIME):
                found = self._evaluate(rays[part], views, self.depth_range.of(origin))
                assert outputs.alpha is not None and found.alpha is not None
                outputs.rgb[part], outputs.depth[part], outputs.alpha[part] = found.rgb, found.depth, found.alpha
        return outputs

    def draft(self, rays: Rays) -> RayOutputs:
        """The same with fewer samples and sources."""
        if self._draft is None:
            few = self.sampling
            few = replace(
                few, n_samples=min(few.n_samples, DRAFT_SAMPLES), n_more=0, n_views=min(few.n_views, DRAFT_VIEWS)
            )
            self._draft = GntRenderer(
                self.model, self.photos, self.depth_range, few,
                code_scale=self.code_scale, dtype=self.options.dtype, backend=self.options.backend,
            )  # fmt: skip
            self._draft._maps = self._maps
        return self._draft(rays)

    def _evaluate(self, rays: Rays, views: SourceViews, near_far: tuple[float, float]) -> RayOutputs:
        passes = pass_over(self.model, views, rays, near_far, self.sampling, self.options, code_scale=self.code_scale)
        depth = (passes.weights * passes.z).sum(-1)
        share, least = (ENOUGH_SHARE_AROUND, 0.5) if self.depth_range.has_cut_out else (0.0, 0.0)
        enough = max(ENOUGH_VIEWS, round(share * len(views)))
        alpha = confidence(views, rays.rays_o + depth[:, None] * rays.rays_d, enough, least)
        return RayOutputs(passes.colors[-1].clamp(0, 1) * alpha[:, None], depth * alpha, alpha)

    def sources_for(self, origin: Float[Tensor, "3"]) -> SourceViews:
        """The nearest sources of a camera that stands there, with their feature maps."""
        pose = torch.eye(3, 4)
        pose[:, 3] = origin
        n = min(self.sampling.n_views, len(self.photos))
        near = nearest_views(pose, self.photos.poses, n, self.sampling.nearness, leaves_one=False)
        chosen = tuple(near.tolist())
        self._warn_when_far(origin)
        if chosen not in self._views:
            self._views.clear()  # a picture uses one set; walking on needs another
            pictures = [self.photos.pictures[i].float() / 255 for i in chosen]
            maps = [self._map(i, picture) for i, picture in zip(chosen, pictures, strict=True)]
            cameras = source_cameras([self.photos.cameras[i] for i in chosen])
            self._views[chosen] = _assembled(self.model, pictures, maps, cameras)
        return self._views[chosen]

    def _map(self, i: int, picture: Tensor) -> Tensor:
        if i not in self._maps:
            with torch.autocast("cpu", torch.bfloat16, enabled=self.options.dtype == torch.bfloat16):
                self._maps[i] = self.model.feature_net(picture[None])[0].float()
            if len(self._maps) > KEPT_MAPS:
                self._maps.popitem(last=False)
        self._maps.move_to_end(i)
        return self._maps[i]

    def _warn_when_far(self, origin: Tensor) -> None:
        nearest = float((self._centres - origin).norm(dim=-1).min())
        if nearest > FAR_AWAY * max(self._spread, 1e-6) and not self._has_warned:
            self._has_warned = True
            logger.warning(
                "the camera is %.2g units from the nearest source, whose spread is %.2g: little of it is known",
                nearest,
                self._spread,
            )


def confidence(views: SourceViews, x: Float[Tensor, "R 3"], enough: int, least: float = 0.0) -> Float[Tensor, " R"]:
    """1 for points that enough sources see, less for others, 0 where it is only `least` times as many."""
    _, is_seen = project(views.projections, views.extents[:, :2], x[:, None])
    n_seen, enough = is_seen[..., 0].sum(0).float(), min(enough, len(views))
    return ((n_seen - least * enough) / ((1 - least) * enough)).clamp(0, 1)
