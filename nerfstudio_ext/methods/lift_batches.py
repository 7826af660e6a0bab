"""Training batches of lifting: the whole photo, and whole pictures from cameras that nobody ever stood at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from ..cameras import Cameras
from ..rays import Rays
from ..scenes.model import Scene
from ..scenes.pixel_sampler import PixelBatch
from ..scenes.prepared import PreparedNotes, camera_around, is_prepared, read_prepared
from .lift_config import LiftConfig
from .priors import PriorFacts, Subject, Views

FRONT_PROBABILITY, FRONT_FLOOR = 0.1, 0.02
"""How often the paper's steps show the photo: a tenth, falling to a fiftieth over the training."""
WARM_UP = 0.01
"""Share of the paper's training that shows the photo only."""


@dataclass(frozen=True)
class LiftBatch(PixelBatch):
    """Whole pictures: the rays of the photo first (when it takes part), then those of the views, row by row.

    Attributes:
        n_photo: Rays of the photo; 0 where it takes no part. Their colours and opacities are in `rgb` and `alpha`.
        depth: Their relative depths, larger is farther, NaN where unknown.
        views: The other cameras; none in a warm-up.
        side: Of all pictures, pixels.
    """

    n_photo: int
    depth: Float[Tensor, " P"]
    views: Views
    side: int


@dataclass(frozen=True)
class Photo:
    """The photo at the size it is trained at.

    Attributes:
        rgba: Straight alpha.
        depth: Relative, larger is farther; NaN where unknown.
        notes: Camera and words.
        original: The photo at its own size, for priors that see more than is trained at; None: the same.
    """

    rgba: Float[Tensor, "4 S S"]
    depth: Float[Tensor, "S S"]
    notes: PreparedNotes
    original: Float[Tensor, "4 H W"] | None = None

    def subject(self, config: LiftConfig) -> Subject:
        """What the prior is told."""
        n = self.notes
        one = torch.ones(1)
        view = Views(0 * one, n.elevation_deg * one, n.distance * one, n.fov_y_deg * one)
        rgba = self.rgba if self.original is None else self.original
        return Subject(
            rgba[:3],
            rgba[3:],
            view,
            config.text or n.text,
            n.negative_text,
            config.class_name or n.class_name,
        )


def read_photo(scene: Scene, side: int) -> Photo:
    """The photo of a prepared folder; of an ordinary capture the first training picture, taken to be level."""
    if is_prepared(scene.root):
        prepared = read_prepared(scene.root)
        rgba, depth, notes = torch.from_numpy(prepared.rgba.copy()), prepared.depth, prepared.notes
    else:
        pixels = torch.from_numpy(scene.images.pixels(scene.meta.split.train[0]).copy())
        full = torch.full_like(pixels[..., :1], 255)
        rgba, depth, notes = torch.cat([pixels, full], 2)[..., :4], None, PreparedNotes()
    original = rgba.permute(2, 0, 1).float() / 255
    small = reduced(original, side)
    if depth is None:
        return Photo(small, torch.full((side, side), torch.nan), notes, original)
    nearest = functional.interpolate(torch.from_numpy(depth)[None, None], (side, side), mode="nearest-exact")[0, 0]
    # Depths at the border of the mask are a mixture with the background's.
    inner = -functional.max_pool2d(-small[None, 3:], 3, 1, 1)[0, 0] > 0.95
    return Photo(small, torch.where(inner, nearest, torch.nan), notes, original)


def reduced(rgba: Float[Tensor, "4 H W"], side: int) -> Float[Tensor, "4 side side"]:
    """A straight-alpha picture at another size; colours are averaged by their opacity."""
    premultiplied = torch.cat([rgba[:3] * rgba[3:], rgba[3:]])[None]
    is_smaller = side < rgba.shape[-1]
    small = functional.interpolate(
        premultiplied, (side, side), mode="bilinear", antialias=is_smaller, align_corners=False
    )[0].clamp(0, 1)
    return torch.cat([small[:3] / small[3:].clamp_min(1e-4), small[3:]]).clamp(0, 1)


class LiftBatches:
    """The stream of batches.

    Args:
        photo: The photo at the training size.
        config: Settings.
        facts: Which views the prior knows.
        seed: Of the random choices.
    """

    def __init__(self, photo: Photo, config: LiftConfig, facts: PriorFacts, seed: int) -> None:
        self._photo, self._config, self._facts = photo, config, facts
        self._generator = torch.Generator().manual_seed(seed)
        self._step = 0
        n = photo.notes
        self._front = camera_around(0.0, n.elevation_deg, n.distance, n.fov_y_deg, config.side)

    def next(self, n_rays: int) -> LiftBatch:
        """The next pictures; their number is set, `n_rays` is not."""
        shows_photo, shows_views = self._plan(self._step / self._config.schedule_steps)
        self._step += 1
        side = self._config.side
        views = self._draw_views(self._config.views if shows_views else 0)
        n_photo = side * side if shows_photo else 0
        n_rest = len(views) * side * side
        rgba = self._photo.rgba.flatten(1).T[:n_photo]
        nothing = torch.zeros(n_rest, 3)
        uv = self._front.pixel_centres()
        return LiftBatch(
            cam_ids=torch.cat([torch.zeros(n_photo, dtype=torch.int64), torch.full((n_rest,), -1)]),
            uv=uv.repeat(len(views) + int(shows_photo), 1),
            rgb=torch.cat([rgba[:, :3], nothing]),
            alpha=torch.cat([rgba[:, 3], nothing[:, 0]]),
            n_photo=n_photo,
            depth=self._photo.depth.flatten()[:n_photo],
            views=views,
            side=side,
        )

    def rays(self, batch: PixelBatch) -> Rays:
        """The rays of a batch."""
        assert isinstance(batch, LiftBatch)
        v = batch.views
        cameras = [self._front] if batch.n_photo else []
        for numbers in zip(v.azimuth_deg, v.elevation_deg, v.distance, v.fov_y_deg, strict=True):
            azimuth, elevation, distance, fov = (float(number) for number in numbers)
            cameras.append(camera_around(azimuth, elevation, distance, fov, batch.side))
        which = torch.arange(len(cameras)).repeat_interleave(batch.side**2)
        return Cameras(cameras).rays_through(which, batch.uv)

    def state_dict(self) -> dict[str, Tensor]:
        """Random state and position in the schedule."""
        return {"generator": self._generator.get_state(), "step": torch.tensor(self._step)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore `state_dict()`."""
        self._generator.set_state(state["generator"])
        self._step = int(state["step"])

    def _plan(self, progress: float) -> tuple[bool, bool]:
        """Whether the photo and whether other views take part."""
        if not self._facts.defines_back:
            return True, True  # other views are smoothed only
        if self._config.preset != "paper":
            return True, True
        if progress < WARM_UP:
            return True, False
        chance = max(FRONT_FLOOR, FRONT_PROBABILITY - progress)
        is_front = float(torch.rand((), generator=self._generator)) < chance
        return is_front, not is_front

    def _draw_views(self, n: int) -> Views:
        config, facts = self._config, self._facts
        draws = torch.rand(5, max(n, 1), generator=self._generator)[:, :n]
        if facts.views is not None:
            known = torch.tensor(facts.views)
            # As far apart as the number allows: the same sectors for all, a known view in each.
            order = known[:, 0].argsort(stable=True)
            sectors = (torch.arange(n) + draws[0]) / max(n, 1) + draws[4, :1]
            places = order[((sectors % 1) * len(order)).long()]
            azimuth, elevation = known[places].unbind(1)
        else:
            sectors = (torch.arange(n) + draws[0]) / max(n, 1) + draws[4, :1]
            azimuth, elevation = 360 * sectors % 360 - 180, _within(config.elevations, draws[1])
        distance, fov = _within(config.distances, draws[2]), _within(config.fovs, draws[3])
        if facts.distance is not None:
            distance = torch.full_like(distance, facts.distance)
        if facts.fov_y_deg is not None:
            fov = torch.full_like(fov, facts.fov_y_deg)
        return Views(azimuth, elevation, distance, fov)


def _within(limits: tuple[float, float], shares: Tensor) -> Tensor:
    return limits[0] + (limits[1] - limits[0]) * shares
