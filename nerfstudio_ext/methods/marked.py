"""A trained method with corrected colours on its surfaces: what a watermarked run consists of.

The correction is looked up once per ray, at the surface the ray sees, so that it works on every method, costs next to
nothing, and cannot touch the geometry: depth and opacity are the ones of the method beneath.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..errors import UserError
from ..fields.color_residual import ColorResidual
from ..fields.sector_colors import SectorColors
from ..kernels import SectorLayout
from ..rays import RayOutputs, Rays
from ..renderer import EMPTY_ALPHA, HasDensity, HasLayers, RayLayer
from ..scenes.model import Scene
from ..scenes.pixel_sampler import PixelBatch
from .protocol import Method, NeedsPhotos, ParamGroup

SurfaceColors = Callable[[Float[Tensor, "P 3"], Float[Tensor, "P 3"]], Float[Tensor, "P 3"]]
"""Colour differences at world positions, seen along unit directions."""

_BASE, _TOUCH_UP, _MARK = "base.", "touch_up.table", "mark.table"


@dataclass(frozen=True)
class MarkedConfig:
    """Settings of a marked run."""

    base: dict[str, Any] = field(default_factory=dict)
    """Settings of the method beneath, with its name, as JSON data."""
    bands: int = 3
    """Bands of spherical harmonics of the touch-up."""
    n_levels: int = 2
    """Levels of its hash grid."""
    log2_table: int = 18
    """Logarithm of its rows per level."""
    base_resolution: int = 64
    """Its cells along the edge of the scene box, coarsest level, ..."""
    finest_resolution: int = 192
    """... and finest."""
    sectors: int = 40
    """Directions from which the mark has colours of their own."""
    mark_resolution: int = 160
    """Cells of each of their pictures along the edge of the scene box."""


class Correction(nn.Module):
    """What is added to the colours of surfaces.

    Attributes:
        touch_up: What the trained field got wrong.
        mark: What carries the message.
    """

    def __init__(self, config: MarkedConfig, aabb_scale: float) -> None:
        super().__init__()
        self.touch_up = ColorResidual.over(
            aabb_scale, bands=config.bands, n_levels=config.n_levels, log2_table=config.log2_table,
            base_resolution=config.base_resolution, finest_resolution=config.finest_resolution,
        )  # fmt: skip
        layout = SectorLayout(config.sectors, config.mark_resolution)
        self.mark = SectorColors(layout, aabb_scale)

    def forward(self, x: Float[Tensor, "P 3"], d: Float[Tensor, "P 3"]) -> Float[Tensor, "P 3"]:
        """Colour differences at surface points, seen along unit directions."""
        return self.touch_up(x, d) + self.mark(x, d)


class Marked(nn.Module):
    """A `Method` that renders another one and adds a `Correction`; it is not trained by the trainer.

    Args:
        config: The correction's size.
        base: The method beneath; it is not changed.
        aabb_scale: Edge of the scene box, scene units.
    """

    def __init__(self, config: MarkedConfig, base: Method, aabb_scale: float) -> None:
        super().__init__()
        self.config = config
        self.base = base
        self.correction = Correction(config, aabb_scale)
        self.n_rays = base.n_rays

    def param_groups(self) -> list[ParamGroup]:
        """None: the mark was made by its own stage."""
        return []

    def lr_factor(self, progress: float) -> float:
        """Unused."""
        return 0.0

    def train_step(self, rays: Rays, batch: PixelBatch, step: int) -> dict[str, Tensor]:
        """Refuse: training would undo the mark."""
        raise UserError("a marked run is not trained further", fix="Train its parent run and embed the mark again")

    def after_step(self, step: int) -> None:
        """Nothing to keep house of."""

    def render_rays(self, rays: Rays) -> RayOutputs:
        """Evaluate rays: the method beneath, then the correction where they end."""
        return add_colors(self.correction, rays, self.base.render_rays(rays))

    def snapshot(self) -> Callable[[Rays], RayOutputs]:
        """`render_rays` over a frozen copy."""
        beneath, correction = self.base.snapshot(), copy.deepcopy(self.correction)
        return lambda rays: add_colors(correction, rays, beneath(rays))

    def layers(self) -> Mapping[str, RayLayer]:
        """Those of the method beneath."""
        return self.base.layers() if isinstance(self.base, HasLayers) else {}

    def density(self, x: Tensor) -> Tensor:
        """Density of the method beneath, per scene unit, at world positions."""
        return cast(HasDensity, self.base).density(x)

    def stats(self) -> Mapping[str, float]:
        """Those of the method beneath."""
        return self.base.stats()

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:  # type: ignore[override]
        """The method's own state under `base.`, and the tables of the correction."""
        state = {f"{_BASE}{name}": tensor for name, tensor in self.base.state_dict().items()}
        return {
            **state,
            _TOUCH_UP: self.correction.touch_up.table.detach(),
            _MARK: self.correction.mark.table.detach(),
        }

    def load_state_dict(self, state: Mapping[str, Tensor], strict: bool = True, assign: bool = False) -> Any:
        """Restore `state_dict()`."""
        base = {name.removeprefix(_BASE): tensor for name, tensor in state.items() if name.startswith(_BASE)}
        with torch.no_grad():
            self.correction.touch_up.table.copy_(state[_TOUCH_UP])
            self.correction.mark.table.copy_(state[_MARK])
        return self.base.load_state_dict(base)

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """All parameters."""
        yield from self.base.parameters()
        yield from self.correction.parameters()


class MarkedPhotos(Marked):
    """A `Marked` over a method that looks at photos when it renders: it looks at them still."""

    def take_photos(self, scene: Scene) -> None:
        """See `NeedsPhotos`."""
        cast(NeedsPhotos, self.base).take_photos(scene)

    def photo_tensors(self) -> Mapping[str, Tensor]:
        """Those of the method beneath."""
        return cast(NeedsPhotos, self.base).photo_tensors()

    def load_photo_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """See `NeedsPhotos`."""
        cast(NeedsPhotos, self.base).load_photo_tensors(tensors)


def marked_over(config: MarkedConfig, base: Method, aabb_scale: float) -> Marked:
    """A `Marked` over any method, with zero correction; arguments as those of `Marked`."""
    kind = MarkedPhotos if isinstance(base, NeedsPhotos) else Marked
    return kind(config, base, aabb_scale)


@torch.no_grad()
def add_colors(colors: SurfaceColors, rays: Rays, outputs: RayOutputs) -> RayOutputs:
    """Outputs with colour differences added to every ray that meets something."""
    alpha = outputs.alpha if outputs.alpha is not None else torch.ones_like(outputs.depth)
    seen = (alpha > EMPTY_ALPHA).nonzero()[:, 0]
    if len(seen) == 0:
        return outputs
    opacity, d = alpha[seen], rays.rays_d[seen]
    x = surface_points(rays.rays_o[seen], d, outputs.depth[seen], opacity)
    rgb = outputs.rgb.index_add(0, seen, colors(x, d) * opacity[:, None])
    return RayOutputs(rgb, outputs.depth, outputs.alpha)


def surface_points(rays_o: Tensor, rays_d: Tensor, depth: Tensor, alpha: Tensor) -> Tensor:
    """[P,3] where rays end, from depths premultiplied with the opacity."""
    return rays_o + rays_d * (depth / alpha)[:, None]
