"""The fast field under augmented training: a batch is marched once and seen clean and disturbed on the same samples."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .. import kernels
from ..kernels import Disturbance, SeenSamples, StepOptions, View
from ..rays import RayOutputs, Rays
from ..scenes.model import SceneMeta
from ..scenes.pixel_sampler import PixelBatch
from .aug_balls import Deltas
from .aug_levels import moved_rays
from .aug_settings import AugConfig, disturbs
from .ngp import Ngp, StepInputs
from .protocol import ParamGroup

LEVEL_EVERY = 16
"""Steps between two looks at how large features are: they grow over hundreds of steps."""
SMALLEST_FEATURE = 1e-3
"""Below this a level counts as unused; it sets the radius of features in the first steps."""
NAMES = {"depth": "t", "points": "x", "features": "features", "raw": "raw", "rgb": "rgb"}
"""Keys of the settings and the names of their disturbances in `kernels.Disturbance`."""


class HashScene(nn.Module):
    """The fast field, which trains as ever where nothing disturbs it.

    Args:
        config: Settings; those of the field itself are `config.hash`.
        meta: The capture.
        seed: Seed of the weights and of all random choices of the clean passes.
    """

    feature_size: Tensor

    def __init__(self, config: AugConfig, meta: SceneMeta, *, seed: int) -> None:
        super().__init__()
        self.config = config
        self.ngp = Ngp(config.hash, meta, seed=seed)
        self.n_cameras = len(meta.cameras)
        layout = self.ngp.field.layout
        self.finest_cell = self.ngp.field.aabb_scale / layout.resolutions[-1]
        self.register_buffer("feature_size", torch.full((layout.n_outputs,), SMALLEST_FEATURE))
        self._spaces: tuple[object | None, object | None] | None = None

    @property
    def n_rays(self) -> int:
        """Rays of the next batch."""
        return self.ngp.n_rays

    @n_rays.setter
    def n_rays(self, n: int) -> None:
        self.ngp.n_rays = n

    def param_groups(self) -> list[ParamGroup]:
        """Those of the fast field."""
        return self.ngp.param_groups()

    def lr_factor(self, progress: float) -> float:
        """The schedule of the fast field."""
        return self.ngp.lr_factor(progress)

    def disturbed_weights(self) -> list[nn.Parameter]:
        """The networks; rows of the table are features, which have their own key."""
        return list(self.ngp.field.networks)

    def begin(self, rays: Rays, batch: PixelBatch, step: int) -> HashBatch | PlainBatch:
        """Draw what is random about a training batch and find its samples."""
        if not disturbs(self.config, step):
            return PlainBatch(self.ngp, rays, batch, step)
        if self._spaces is None:
            device = self.ngp.field.table.device
            self._spaces = (kernels.make_space(device), kernels.make_space(device))
        inputs = self.ngp.inputs(rays, batch, step)
        seen = kernels.seen_samples(
            self.ngp.field.tensors(), inputs.rays, inputs.jitter, self.ngp.occupancy.occupancy(), inputs.options,
            2 * self.config.hash.samples_per_batch, self._spaces[0], backend=self.config.hash.backend,
        )  # fmt: skip
        self.ngp.plan_next(seen.n_marched, len(seen.samples), seen.n_dropped, len(rays))
        return HashBatch(self, inputs, batch.cam_ids, seen, self._spaces)

    def after_step(self, step: int) -> None:
        """Upkeep of the fast field, and a look at how large its features are."""
        self.ngp.after_step(step)
        if step % LEVEL_EVERY == 0:
            layout, table = self.ngp.field.layout, self.ngp.field.table.detach()
            levels = [table[a:b] for a, b in zip(layout.offsets, layout.offsets[1:], strict=False)]
            sizes = torch.cat([level.square().mean(0).sqrt() for level in levels])
            self.feature_size.copy_(sizes.clamp_min(SMALLEST_FEATURE))

    def render_rays(self, rays: Rays) -> RayOutputs:
        """Evaluate rays with the present weights."""
        return self.ngp.render_rays(rays)

    def snapshot(self) -> Callable[[Rays], RayOutputs]:
        """`render_rays` over a copy of the weights."""
        return self.ngp.snapshot()

    def density(self, x: Float[Tensor, "N 3"]) -> Float[Tensor, " N"]:
        """Density per scene unit at world positions."""
        return self.ngp.density(x)

    def warm_up(self) -> None:
        """Compile or load the kernels; changes no state."""
        self.ngp.warm_up()

    def stats(self) -> Mapping[str, float]:
        """Numbers of the fast field."""
        return self.ngp.stats()

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:  # type: ignore[override]
        """All tensors and the random state."""
        state = {f"ngp.{name}": value for name, value in self.ngp.state_dict().items()}
        return {**state, "feature_size": self.feature_size.clone()}

    def load_state_dict(self, state: Mapping[str, Tensor], strict: bool = True, assign: bool = False) -> Any:
        """Restore `state_dict()`."""
        own = dict(state)
        self.feature_size.copy_(own.pop("feature_size"))
        return self.ngp.load_state_dict({k.removeprefix("ngp."): v for k, v in own.items()}, strict, assign)


@dataclass(frozen=True)
class PlainBatch:
    """A batch of a step without adversary: the plain fused step."""

    ngp: Ngp
    rays: Rays
    batch: PixelBatch
    step: int

    def clean(self) -> tuple[Tensor, Tensor]:
        """The loss and the squared colour error."""
        losses = self.ngp.train_step(self.rays, self.batch, self.step)
        return losses["color"], losses["mse"]

    def shapes(self, keys: Sequence[str]) -> dict[str, tuple[int, ...]]:
        """Nothing is disturbed."""
        return {}

    def unit(self, name: str) -> float | Tensor:
        """Nothing is disturbed."""
        raise KeyError(name)

    def disturbed(self, deltas: Deltas, *, for_weights: bool) -> Tensor:
        """Nothing is disturbed."""
        raise RuntimeError("a plain batch has no adversary")


@dataclass(frozen=True)
class HashBatch:
    """One training batch on the samples that its rays see; see `aug.AugBatch`."""

    scene: HashScene
    inputs: StepInputs
    cam_ids: Tensor
    seen: SeenSamples
    spaces: tuple[object | None, object | None]

    def shapes(self, keys: Sequence[str]) -> dict[str, tuple[int, ...]]:
        """Shapes of the deltas that the keys of the settings stand for."""
        n, n_features = len(self.seen.samples), self.scene.ngp.field.layout.n_outputs
        sizes: dict[str, tuple[int, ...]] = {"t": (n,), "x": (n, 3), "features": (n, n_features), "raw": (n, 4)}
        sizes["rgb"] = (len(self.inputs.rays), 3)
        found: dict[str, tuple[int, ...]] = {}
        for key in keys:
            if key == "pose":
                found |= {"cam_r": (self.scene.n_cameras, 3), "cam_t": (self.scene.n_cameras, 3)}
            else:
                found[NAMES[key]] = sizes[NAMES[key]]
        return found

    def unit(self, name: str) -> float | Tensor:
        """What a radius of 1 means for a delta."""
        samples = self.seen.samples
        half = 0.5 * (samples.t_ends - samples.t_starts)
        if name == "x":
            return half.clamp_max(self.scene.finest_cell)[:, None]
        units: dict[str, float | Tensor] = {"cam_r": torch.pi / 180, "cam_t": 0.01, "t": half}
        units["features"] = self.scene.feature_size
        return units.get(name, 1.0)

    def clean(self) -> tuple[Tensor, Tensor]:
        """The loss without disturbance, and the squared colour error."""
        mix = self.scene.config.mix
        # The objective takes only a share of this loss, but the whole of the distortion in it.
        options = dataclasses.replace(
            self.inputs.options, distortion=self.inputs.options.distortion / max(1 - mix, 0.1)
        )
        loss, mse = self._evaluate(self._view({}), Disturbance(), options, self.spaces[0], for_weights=True)
        return loss, torch.tensor(mse)

    def disturbed(self, deltas: Deltas, *, for_weights: bool) -> Tensor:
        """The loss under disturbance; with `for_weights` its gradients are those of the field."""
        shift = Disturbance(**{name: deltas[name] for name in NAMES.values() if name in deltas})
        options = dataclasses.replace(self.inputs.options, distortion=0.0)
        return self._evaluate(self._view(deltas), shift, options, self.spaces[1], for_weights=for_weights)[0]

    def _view(self, deltas: Deltas) -> View:
        rays = self.inputs.rays
        rays_o, rays_d = moved_rays(rays.rays_o, rays.rays_d, self.cam_ids, deltas)
        return View(rays_o, rays_d, kernels.sh_encode(rays_d))

    def _evaluate(
        self, view: View, shift: Disturbance, options: StepOptions, space: object | None, *, for_weights: bool
    ) -> tuple[Tensor, float]:
        field = self.scene.ngp.field.tensors()
        if not for_weights:
            names = ("table", "d1", "d2", "c1", "c2", "c3")
            field = dataclasses.replace(field, **{name: getattr(field, name).detach() for name in names})
        return kernels.disturbed_loss(
            field, view, self.seen.samples, shift, self.inputs.target, self.inputs.background, options, space,
            backend=self.scene.config.hash.backend,
        )  # fmt: skip
