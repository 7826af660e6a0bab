"""Adversarially augmented training (Aug-NeRF) as a method, over the paper's networks or over the fast field.

Every step finds the small disturbance that hurts the present scene most and trains on the mean of the clean and the
disturbed loss. What can be disturbed, and how far, is in `aug_settings`; how the worst disturbance is found in
`aug_balls`; where it enters in `aug_levels` and `aug_hash`.

Source: Chen et al. 2022, "Aug-NeRF: Training Stronger Neural Radiance Fields with Triple-Level Physically-Grounded
Augmentations".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..rays import RayOutputs, Rays
from ..renderer import RayLayer
from ..scenes.model import SceneMeta
from ..scenes.pixel_sampler import PixelBatch
from .aug_balls import Ball, Deltas, ascend, random_start, weight_disturbance
from .aug_cameras import CameraCorrections
from .aug_hash import HashScene
from .aug_mlp import MlpScene
from .aug_settings import AugConfig, correction_radius, disturbs, key_names, plans
from .protocol import ParamGroup

ADVERSARY_SEED = 0x5EED
"""Keeps the adversary's random stream apart from that of the clean passes, which then do not depend on it."""


class AugBatch(Protocol):
    """One training batch of a scene, in all the passes it goes through."""

    def shapes(self, keys: Sequence[str]) -> dict[str, tuple[int, ...]]:
        """Name and shape of every delta that the keys of the settings stand for."""

    def unit(self, name: str) -> float | Tensor:
        """What a radius of 1 means for a delta."""

    def objective(self, deltas: Deltas, mix: float) -> tuple[Tensor, float, Tensor]:
        """(1 - mix) clean + mix disturbed loss, differentiable in the weights; the latter alone; the squared error."""

    def disturbed(self, deltas: Deltas, *, for_weights: bool) -> Tensor:
        """The loss under disturbance, differentiable in the weights or in the deltas."""

    def squared_error(self, deltas: Deltas) -> float:
        """Mean squared colour error under disturbance."""


class Aug(nn.Module):
    """A `Method`: augmented training of a scene; see `methods.protocol`.

    Args:
        config: Settings.
        meta: The capture.
        seed: Seed of the weights and of all random choices.
    """

    def __init__(self, config: AugConfig, meta: SceneMeta, *, seed: int) -> None:
        super().__init__()
        self.config = config
        self.adversary_generator = torch.Generator().manual_seed(seed ^ ADVERSARY_SEED)
        self.scene: HashScene | MlpScene = (
            HashScene(config, meta, seed=seed) if config.field == "hash" else MlpScene(config, meta, seed=seed)
        )
        radius = correction_radius(config)
        self.cameras = CameraCorrections(len(meta.cameras), meta.split.train, radius) if radius > 0 else None
        self._disturbs_weights = "weights" in key_names(config) and config.weight_strength > 0
        self._pending: list[tuple[nn.Parameter, Tensor]] = []

    @property
    def n_rays(self) -> int:
        """Rays of the next batch."""
        return self.scene.n_rays

    @n_rays.setter
    def n_rays(self, n: int) -> None:
        self.scene.n_rays = n

    def param_groups(self) -> list[ParamGroup]:
        """The parameters of the scene, and the corrections of its cameras."""
        return [*self.scene.param_groups(), *(self.cameras.param_groups() if self.cameras is not None else [])]

    def lr_factor(self, progress: float) -> float:
        """The schedule of the scene."""
        return self.scene.lr_factor(progress)

    def train_step(self, rays: Rays, batch: PixelBatch, step: int) -> dict[str, Tensor]:
        """Clean and disturbed loss of one batch, each with its share; see `Method.train_step`."""
        self._restore_weights()
        cameras = self.cameras if self.cameras is not None and self.cameras.are_of_use else None
        if cameras is not None:
            rays = cameras.corrected(rays, batch.cam_ids)
        if not disturbs(self.config, step) or (cameras is None and not key_names(self.config)):
            return self.scene.plain_losses(rays, batch, step)
        begun = self.scene.begin(rays, batch, step)
        deltas, slopes = self._search(begun, self.config, self.adversary_generator, cameras)
        if self._disturbs_weights:
            self._disturb_weights(begun, deltas)
        mix = self.config.mix if deltas or self._disturbs_weights else 0.0
        total, disturbed, mse = begun.objective(deltas, mix)
        if cameras is not None:
            total = total + cameras.pull(slopes)
        share = mix * disturbed
        # One graph holds both losses; what is shown as the second carries no gradient of its own.
        return {"color": total - share, "disturbed": torch.tensor(share), "mse": mse}

    def after_step(self, step: int) -> None:
        """Take the disturbance of the weights back, then the scene's own upkeep."""
        self._restore_weights()
        self.scene.after_step(step)
        if self.cameras is not None and self.cameras.are_of_use and disturbs(self.config, step):
            self.cameras.project()

    def render_rays(self, rays: Rays) -> RayOutputs:
        """Evaluate rays with the present weights, undisturbed."""
        return self.scene.render_rays(rays)

    def snapshot(self) -> Callable[[Rays], RayOutputs]:
        """`render_rays` over a copy of the weights."""
        return self.scene.snapshot()

    def layers(self) -> Mapping[str, RayLayer]:
        """Those of the scene beneath; a coordinate network has none."""
        return self.scene.layers() if isinstance(self.scene, HashScene) else {}

    def density(self, x: Float[Tensor, "N 3"]) -> Float[Tensor, " N"]:
        """Density per scene unit at world positions."""
        return self.scene.density(x)

    def warm_up(self) -> None:
        """Compile the kernels of the scene; changes no state."""
        self.scene.warm_up()

    def stats(self) -> Mapping[str, float]:
        """Numbers of the scene."""
        return self.scene.stats()

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:  # type: ignore[override]
        """All tensors and both random states."""
        state = {f"scene.{name}": value for name, value in self.scene.state_dict().items()}
        if self.cameras is not None:
            state |= {f"cameras.{name}": value for name, value in self.cameras.state_dict().items()}
        return {**state, "adversary_generator": self.adversary_generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Tensor], strict: bool = True, assign: bool = False) -> Any:
        """Restore `state_dict()`; a disturbance of the weights that was still on is forgotten."""
        self._pending = []
        own = dict(state)
        self.adversary_generator.set_state(own.pop("adversary_generator"))
        cameras = {name.removeprefix("cameras."): own.pop(name) for name in list(own) if name.startswith("cameras.")}
        if self.cameras is not None:
            self.cameras.load_state_dict(cameras)
        scene = {name.removeprefix("scene."): value for name, value in own.items()}
        return self.scene.load_state_dict(scene, strict, assign)

    def worst(
        self, begun: AugBatch, config: AugConfig | None = None, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """The disturbance that the adversary of a config (default: its own) finds for a batch."""
        return self._search(begun, config or self.config, generator or self.adversary_generator, None)[0]

    def _search(
        self, begun: AugBatch, config: AugConfig, generator: torch.Generator, cameras: CameraCorrections | None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The worst disturbance, and the slopes of the loss in corrections of the cameras, where these are wanted."""
        balls, shapes = {}, {}
        for key, plan in plans(config).items():
            for name, shape in begun.shapes([key]).items():
                unit = begun.unit(name)
                if plan.norm == "l2" and isinstance(unit, Tensor):
                    unit = unit.expand(shape).flatten(1).mean(1) if len(shape) > 1 else unit
                length = plan.step if config.mode == "official" else plan.step * unit
                balls[name], shapes[name] = (
                    Ball(plan.radius * unit, length, plan.iterations, plan.norm, plan.is_friendly),
                    shape,
                )
        start = random_start(balls, shapes, generator)
        still = cameras.still() if cameras is not None else None
        return ascend(lambda deltas: begun.disturbed(deltas, for_weights=False), start, balls, still)

    def _disturb_weights(self, begun: AugBatch, deltas: Deltas) -> None:
        """Change the weights until the optimiser has stepped; `_restore_weights` takes it back."""
        weights = self.scene.disturbed_weights()
        directions = weight_disturbance(begun.disturbed(deltas, for_weights=True), weights)
        pending = []
        with torch.no_grad():
            for weight, direction in zip(weights, directions, strict=True):
                change = self.config.weight_strength * direction
                weight.add_(change)
                pending.append((weight, change))
        self._pending = pending

    def _restore_weights(self) -> None:
        with torch.no_grad():
            for weight, change in self._pending:
                weight.sub_(change)
        self._pending = []
