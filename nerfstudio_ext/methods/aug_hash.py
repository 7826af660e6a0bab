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
from ..kernels import Disturbance, DisturbedLoss, FieldTensors, Pass, SeenSamples, View
from ..rays import RayOutputs, Rays
from ..renderer import RayLayer
from ..scenes.model import SceneMeta
from ..scenes.pixel_sampler import PixelBatch
from .aug_balls import Deltas
from .aug_levels import moved_rays
from .aug_settings import AugConfig, adversary_steps, disturbs
from .ngp import Ngp, StepInputs
from .protocol import ParamGroup

LEVEL_EVERY = 16
"""Steps between two looks at how large features are: they grow over hundreds of steps."""
MOST_SAMPLES = 1024
"""Room per ray for the samples of an evaluation, which may leave none out."""
LOOK_RAYS = 512
"""Rays that are rendered, as often, to see how bad the photos are: 2 % of the time of the steps in between."""
LOOK_FROM = 200
"""Training step of the first look: before, a fog is far off everywhere."""
OFF = 0.3
"""Photos with noise are off by more than this in 13 % (reduced photos) to 30 % of the rays, good ones in 0.2 % (an
object) to 5 % (a room after 200 steps)."""
OFF_SHARE = 0.08
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
    off_share: Tensor

    def __init__(self, config: AugConfig, meta: SceneMeta, *, seed: int) -> None:
        super().__init__()
        self.config = config
        self.ngp = Ngp(config.hash, meta, seed=seed)
        self.n_cameras = len(meta.cameras)
        layout = self.ngp.field.layout
        self.finest_cell = self.ngp.field.aabb_scale / layout.resolutions[-1]
        self.register_buffer("feature_size", torch.full((layout.n_outputs,), SMALLEST_FEATURE))
        self.register_buffer("off_share", torch.zeros(()))
        self.space: object | None = None

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

    def plain_losses(self, rays: Rays, batch: PixelBatch, step: int) -> dict[str, Tensor]:
        """The losses of a step without adversary: those of the fast field."""
        return self.ngp.losses_of(self._inputs(rays, batch, step))

    def begin(self, rays: Rays, batch: PixelBatch, step: int) -> HashBatch:
        """Draw what is random about a training batch and find its samples."""
        if self.space is None:
            self.space = kernels.make_space(self.ngp.field.table.device)
        inputs = self._inputs(rays, batch, step)
        seen = kernels.seen_samples(
            self.ngp.field.tensors(), inputs.rays, inputs.jitter, self.ngp.occupancy.occupancy(), inputs.options,
            2 * self.config.hash.samples_per_batch, self.space, backend=self.config.hash.backend,
        )  # fmt: skip
        self.ngp.plan_next(seen.n_marched, len(seen.samples), seen.n_dropped, len(rays))
        return HashBatch(self, inputs, batch.cam_ids, seen)

    def _inputs(self, rays: Rays, batch: PixelBatch, step: int) -> StepInputs:
        """What is random about a batch, and the colour loss that suits the photos."""
        given = self.ngp.inputs(rays, batch, step)
        if self.config.patient_huber == 0 or self.config.mix == 0:
            return given
        if step >= LOOK_FROM and step % LEVEL_EVERY == 0:
            self._look_at_photos(given)
        if float(self.off_share) < OFF_SHARE:
            return given
        # A flatter loss pulls less: what stands beside it has to give way by as much.
        patient, options = self.config.patient_huber, given.options
        distortion = options.distortion * min(1.0, patient / (options.huber or 1.0))
        options = dataclasses.replace(options, huber=patient, distortion=distortion)
        return dataclasses.replace(given, options=options)

    def _look_at_photos(self, given: StepInputs) -> None:
        part = slice(0, LOOK_RAYS)
        seen = self.render_rays(given.rays[part])
        assert seen.alpha is not None
        shown = seen.rgb + (1 - seen.alpha[:, None]) * given.background[part]
        is_off = (shown - given.target[part]).abs().amax(-1) > OFF
        self.off_share.lerp_(is_off.float().mean(), 0.5)

    def fixed_batch(self, rays: Rays, cam_ids: Tensor, target: Tensor, background: Tensor) -> HashBatch:
        """A batch without anything random, for evaluation."""
        rays, options = self.ngp.clipped(rays), self.ngp.options
        inputs = StepInputs(rays, torch.full((len(rays),), 0.5), target, background, options)
        seen = kernels.seen_samples(
            self.ngp.field.tensors(), rays, inputs.jitter, self.ngp.occupancy.occupancy(), options,
            MOST_SAMPLES * len(rays), backend=self.config.hash.backend,
        )  # fmt: skip
        return HashBatch(self, inputs, cam_ids, seen)

    def adopt(self, ngp: Ngp) -> None:
        """Take the weights of a fast field that was trained plainly."""
        self.ngp.load_state_dict({name: value.clone() for name, value in ngp.state_dict().items()})
        self._measure_features()

    def after_step(self, step: int) -> None:
        """Upkeep of the fast field, and a look at how large its features are."""
        self.ngp.after_step(step)
        if step % LEVEL_EVERY == 0:
            self._measure_features()

    def _measure_features(self) -> None:
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

    def layers(self) -> Mapping[str, RayLayer]:
        """What marching does; see `Ngp.layers`."""
        return self.ngp.layers()

    def density(self, x: Float[Tensor, "N 3"]) -> Float[Tensor, " N"]:
        """Density per scene unit at world positions."""
        return self.ngp.density(x)

    def warm_up(self) -> None:
        """Compile or load the kernels that training will use; changes no state."""
        is_always_disturbed = disturbs(self.config, 0) and disturbs(self.config, 1)
        if not is_always_disturbed:
            self.ngp.warm_up()  # the plain step, which else never runs, takes as long to compile as all others
        rays = Rays(torch.zeros(1, 3), torch.tensor([[0.0, 0.0, 1.0]]), torch.zeros(1), torch.full((1,), torch.inf))
        self.render_rays(rays)
        self.density(torch.zeros(1, 3))
        self.ngp.occupancy.warm_up()
        if is_always_disturbed or disturbs(self.config, adversary_steps(self.config)[0]):
            batch = self.fixed_batch(rays, torch.zeros(1, dtype=torch.int64), torch.zeros(1, 3), torch.zeros(1, 3))
            batch.objective({}, 0.5)
            batch.squared_error({})

    def stats(self) -> Mapping[str, float]:
        """Numbers of the fast field."""
        return self.ngp.stats()

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:  # type: ignore[override]
        """All tensors and the random state."""
        state = {f"ngp.{name}": value for name, value in self.ngp.state_dict().items()}
        return {**state, "feature_size": self.feature_size.clone(), "off_share": self.off_share.clone()}

    def load_state_dict(self, state: Mapping[str, Tensor], strict: bool = True, assign: bool = False) -> Any:
        """Restore `state_dict()`."""
        own = dict(state)
        self.feature_size.copy_(own.pop("feature_size"))
        self.off_share.copy_(own.pop("off_share"))
        return self.ngp.load_state_dict({k.removeprefix("ngp."): v for k, v in own.items()}, strict, assign)


@dataclass(frozen=True)
class HashBatch:
    """One training batch on the samples that its rays see; see `aug.AugBatch`."""

    scene: HashScene
    inputs: StepInputs
    cam_ids: Tensor
    seen: SeenSamples

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

    def objective(self, deltas: Deltas, mix: float) -> tuple[Tensor, float, Tensor]:
        """See `aug.AugBatch`: both passes in one evaluation; one alone where the other has no share."""
        clean = Pass(self._view({}), Disturbance(), self.inputs.options, 1 - mix)
        passes = [one for one in (clean, self._disturbed_pass(deltas, mix)) if one.share > 0]
        # The first loss may count only in part, but the distortion in it as a whole.
        distortion = self.inputs.options.distortion / max(passes[0].share, 0.1)
        options = dataclasses.replace(passes[0].options, distortion=distortion)
        passes[0] = dataclasses.replace(passes[0], options=options)
        found = self._evaluate(self.scene.ngp.field.tensors(), tuple(passes))
        return found.total, found.losses[-1], torch.tensor(found.mse[0])

    def disturbed(self, deltas: Deltas, *, for_weights: bool) -> Tensor:
        """The loss under disturbance; with `for_weights` its gradients are those of the field."""
        field = self.scene.ngp.field.tensors()
        if not for_weights:
            names = ("table", "d1", "d2", "c1", "c2", "c3")
            field = dataclasses.replace(field, **{name: getattr(field, name).detach() for name in names})
        return self._evaluate(field, (self._disturbed_pass(deltas, 1.0),)).total

    def squared_error(self, deltas: Deltas) -> float:
        """Mean squared colour error under disturbance."""
        with torch.no_grad():
            return self._evaluate(self.scene.ngp.field.tensors(), (self._disturbed_pass(deltas, 1.0),)).mse[0]

    def _disturbed_pass(self, deltas: Deltas, share: float) -> Pass:
        shift = Disturbance(**{name: deltas[name] for name in NAMES.values() if name in deltas})
        return Pass(self._view(deltas), shift, dataclasses.replace(self.inputs.options, distortion=0.0), share)

    def _view(self, deltas: Deltas) -> View:
        rays = self.inputs.rays
        rays_o, rays_d = moved_rays(rays.rays_o, rays.rays_d, self.cam_ids, deltas)
        return View(rays_o, rays_d, kernels.sh_encode(rays_d))

    def _evaluate(self, field: FieldTensors, passes: tuple[Pass, ...]) -> DisturbedLoss:
        return kernels.disturbed_loss(
            field, self.seen.samples, passes, self.inputs.target, self.inputs.background, self.scene.space,
            backend=self.scene.config.hash.backend,
        )  # fmt: skip
